"""Labelers out of other people's classifiers: torchvision, timm, TorchScript, a Python function."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..artifacts import file_sha256
from ..classifiers import AttributeClassifier
from ..classifiers.adapter import (
    WrappedImageNetwork,
    channels_of,
    example_of,
    linear_of,
    logits_of,
    select_outputs,
    split_head,
)
from ..classifiers.mobilenet import IMAGENET_MEAN, IMAGENET_STD
from ..classifiers.resnets import ImageNetwork
from ..classifiers.torchscript import load_program
from ..errors import LaceError, in_one_line, suggest
from ..schema import Schema
from ..unpickle.state import load_state
from .labeler import Labeler

LIBRARIES = ("torchvision", "timm")
# Logits of a label that a function decides: p = 1 - 2e-9.
CERTAIN = 20.0


def library_labeler(
    library: str,
    model: str,
    schema: Mapping[str, Any],
    weights: str | os.PathLike[str] | None = None,
    outputs: Sequence[int] | None = None,
    resolution: int | None = 224,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    arguments: Mapping[str, Any] | None = None,
    checkpoint_key: str | None = None,
    **options: Any,
) -> Labeler:
    """Return a labeler from an image classifier of torchvision or timm (an extra).

    `weights` is a state dict in a file (.safetensors, .pt, .pth), of a network with one output a class of `schema`; or
    the library's own name of weights (torchvision: `DEFAULT` and others; timm: `pretrained` or a tag), which it
    downloads. `outputs` are the numbers of the outputs that the schema's classes are, where the network has others too.
    Pictures are resized to `resolution`. `arguments` go to the network, `options` to `Labeler`. `checkpoint_key` names
    the state dict in the file; None takes the one whose names and shapes fit, averages first. Raises LaceError for an
    unknown library, model or file, and for outputs that are not the schema's.
    """
    if library not in LIBRARIES:
        raise LaceError(
            f"labeler.library must be one of {', '.join(LIBRARIES)}, received '{library}'.{suggest(library, LIBRARIES)}"
        )
    if weights is None:
        raise LaceError(
            f"The classifier '{model}' needs weights and received none: set labeler.weights to a file, or to "
            f"{'DEFAULT' if library == 'torchvision' else 'pretrained'} for the library's."
        )
    parsed, keywords = Schema.from_config(schema), dict(arguments or {})
    own = _is_path(weights)
    if own and outputs is None:
        keywords.setdefault("num_classes", parsed.num_logits)
    network = _library_network(library, model, None if own else str(weights), keywords)
    if own:
        load_state(network, weights, fix="check labeler.model and the number of its outputs", key=checkpoint_key)
    channels = channels_of(network, resolution)
    body, head = split_head(network, example_of(channels, resolution))
    head = select_outputs(head, outputs, parsed.num_logits, model)
    wrapped = WrappedImageNetwork(body, head, head.in_features, resolution, mean, std, channels)
    return _labeler(
        wrapped,
        parsed,
        {"model": f"{library} {model}", "resolution": resolution, "mean": list(mean), "std": list(std)},
        f"{model}-{Path(weights).stem}",
        options,
    )


def _is_path(weights: str | os.PathLike[str]) -> bool:
    """Return whether these are weights in a file: one that exists, or a name with a folder or an ending of files."""
    path = Path(weights)
    endings = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".pkl", ".pickle", ".th")
    return path.is_file() or len(path.parts) > 1 or path.suffix in endings


def _library_network(library: str, model: str, weights: str | None, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        if library == "torchvision":
            from torchvision.models import get_model

            return get_model(model, weights=weights, **arguments)
        import timm
    except ImportError:
        raise LaceError(
            'Classifiers of timm need the package timm, which is not installed: pip install "lace_lightning[timm]".'
        ) from None
    except Exception as error:
        raise LaceError(
            f"torchvision could not give the network '{model}' with weights {weights} "
            f"({in_one_line(error)}): check both names, or give a file."
        ) from None
    name = model if weights in (None, "pretrained") else f"{model}.{weights}"
    try:
        return timm.create_model(name, pretrained=weights is not None, **arguments)
    except Exception as error:
        raise LaceError(
            f"timm could not give the network '{name}' ({in_one_line(error)}): check its name, or give "
            f"a "
            "file of weights."
        ) from None


def script_labeler(
    script: str | os.PathLike[str],
    schema: Mapping[str, Any],
    outputs: Sequence[int] | None = None,
    resolution: int | None = None,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
    **options: Any,
) -> Labeler:
    """Return a labeler from a TorchScript file: pictures (B, C, R, R) -> logits (B, L).

    A TorchScript file is a program, and it is run: give only one that you trust. The mean and deviation of 0.5 leave
    pictures in [-1, 1]. C is what the program takes: 3, 1, 4 or 2. Raises LaceError for a file that is none, and for
    outputs that are not the schema's.
    """
    parsed, path = Schema.from_config(schema), Path(script)
    module = load_program(path)
    # A script stays whole: its features are its logits.
    channels = channels_of(module, resolution)
    whole = linear_of(torch.eye(logits_of(module, example_of(channels, resolution)).shape[1]))
    head = select_outputs(whole, outputs, parsed.num_logits, path.name)
    wrapped = WrappedImageNetwork(module, head, head.in_features, resolution, mean, std, channels)
    return _labeler(
        wrapped,
        parsed,
        {"resolution": resolution, "mean": list(mean), "std": list(std), "sha256": file_sha256(path)},
        path.stem,
        {"precision": "float32", **options},
    )


class FunctionNetwork(ImageNetwork):
    """A function of pictures as an image network; its features are its logits."""

    channels = None

    def __init__(self, function: Callable[[Tensor], Tensor], schema: Schema) -> None:
        super().__init__()
        self.function, self.schema, self.num_features, self.head = function, schema, schema.num_logits, nn.Identity()

    def features(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            values = torch.as_tensor(self.function(images.contiguous())).to(images.device, torch.float32)
        if values.shape == (len(images), self.num_features):
            return values
        if values.shape != (len(images), len(self.schema)):
            raise LaceError(
                f"A labelling function must return labels ({len(images)}, {len(self.schema)}) or logits "
                f"({len(images)}, "
                f"{self.num_features}) for {len(images)} pictures, received {tuple(values.shape)}: correct the "
                f"function."
            )
        columns = []
        for value, attribute in zip(values.unbind(1), self.schema, strict=True):
            if attribute.kind == "continuous":
                columns.append(value[:, None])
                continue
            classes = torch.arange(attribute.num_classes, device=value.device)
            chosen = value[:, None] == classes
            known = ~value.isnan()
            if not chosen.any(1)[known].all():
                raise LaceError(
                    f"A labelling function must return classes from 0 to {attribute.num_classes - 1} for "
                    f"'{attribute.name}', "
                    f"NaN where it does not know, received {float(value[known & ~chosen.any(1)][0]):g}: correct the "
                    f"function."
                )
            columns.append((chosen * CERTAIN).masked_fill(~known[:, None], torch.nan))
        return torch.cat(columns, dim=1)


def function_labeler(function: str | Callable[[Tensor], Tensor], schema: Mapping[str, Any], **options: Any) -> Labeler:
    """Return a labeler from a Python function, itself or as `package.module.name`.

    The function turns pictures (B, C, H, W) in [-1, 1] into labels (B, K), one column an attribute, NaN where it does
    not know, or into logits (B, L). What is kept of its answers depends on its source: a changed function labels anew.
    Raises LaceError for a name that is no function, and for answers of another shape or class.
    """
    parsed, called = Schema.from_config(schema), _imported(function) if isinstance(function, str) else function
    try:
        source = inspect.getsource(called)
    except (OSError, TypeError):
        source = ""
    name = f"{getattr(called, '__module__', '')}.{getattr(called, '__qualname__', type(called).__name__)}"
    return _labeler(
        FunctionNetwork(called, parsed),
        parsed,
        {"function": name, "source": source},
        name,
        {"precision": "float32", **options},
    )


def _imported(name: str) -> Callable[[Tensor], Tensor]:
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise LaceError(
            f"labeler.function must be the name of a Python function such as my_package.labels.hats, and '{name}' "
            f"could not be "
            f"imported ({error}): check it and the PYTHONPATH."
        ) from None
    if not callable(found):
        raise LaceError(
            f"labeler.function must be the name of a Python function, and '{name}' is {type(found).__name__}."
        )
    return found


def _labeler(
    network: ImageNetwork, schema: Schema, arguments: dict[str, Any], name: str, options: Mapping[str, Any]
) -> Labeler:
    return Labeler(AttributeClassifier(schema, "x", network, arguments), **{"name": name, **options})
