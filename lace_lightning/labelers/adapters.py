"""Labelers from classifiers of other programs: torchvision, timm, TorchScript, Python functions."""

from __future__ import annotations

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
from ..errors import LaceError, in_one_line, suggest
from ..generators.found import as_module
from ..schema import Schema
from ..source import imported, source_of, user_line
from ..unpickle.state import load_state, under
from ..unpickle.torchscript import load_program
from .labeler import Labeler

LIBRARIES = ("torchvision", "timm")
# Logit of the class that a labelling function decides for, beside 0 of the others: p = 1 - 2e-9 of two classes.
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
    image_shape: Sequence[int] | None = None,
    **options: Any,
) -> Labeler:
    """Return a labeler from an image classifier of torchvision or timm (an extra).

    The penultimate features are the inputs of the last linear layer; where the logits are not the outputs of such a
    layer, the features are the logits.

    Args:
        library: torchvision or timm.
        model: the library's name of the network, such as resnet50.
        schema: attributes of the outputs, in plain containers as `Schema.from_config` reads: one output for each class
            of a discrete attribute, one for a continuous one.
        weights: file of a state dict (.safetensors, .pt, .pth, .bin), or the library's name of weights, which it
            downloads (torchvision: DEFAULT and others; timm: pretrained or a tag). It is required.
        outputs: numbers, from 0, of the network's outputs that are the schema's logits, in their order; None for all.
        resolution: side in pixels that pictures are resized to (bicubic, antialiased); None for pictures as they are.
        mean: mean of each channel of pictures in [0, 1] that the network was trained with.
        std: standard deviation of each channel of pictures in [0, 1] that the network was trained with, above 0.
        arguments: further arguments of the network; with a file and no `outputs`, `num_classes` is that of the schema.
        checkpoint_key: name of the state dict in the file; None takes the one whose names and shapes fit, averages
            before others.
        image_shape: (C, H, W) of the pictures that are labelled, which a run gives; None where it is not known.
        options: further arguments of `Labeler`: views, precision, max_batch, name, confidence.

    Returns:
        A labeler of pictures (B, 3, R, R) in [-1, 1].

    Raises:
        LaceError: when the library, the network or the weights are unknown, the file is missing or of another network,
            timm is not installed, or the outputs are not as many as the schema's logits.
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
    return _labeler(
        _split(network, parsed, outputs, resolution, mean, std, image_shape, model),
        parsed,
        {"model": f"{library} {model}", "resolution": resolution, "mean": list(mean), "std": list(std)},
        f"{model}-{Path(weights).stem}",
        options,
    )


def _split(
    network: nn.Module,
    schema: Schema,
    outputs: Sequence[int] | None,
    resolution: int | None,
    mean: Sequence[float],
    std: Sequence[float],
    image_shape: Sequence[int] | None,
    name: str,
) -> WrappedImageNetwork:
    """Return a network whose features are the inputs of its last linear layer, with the outputs of a schema."""
    channels = channels_of(network, resolution, image_shape)
    body, head = split_head(network, example_of(channels, resolution, image_shape))
    head = select_outputs(head, outputs, schema.num_logits, name)
    return WrappedImageNetwork(body, head, head.in_features, resolution, mean, std, channels)


def module_labeler(
    module: nn.Module,
    schema: Mapping[str, Any],
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_key: str | None = None,
    checkpoint_prefix: str | None = None,
    strict: bool = True,
    outputs: Sequence[int] | None = None,
    resolution: int | None = None,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
    image_shape: Sequence[int] | None = None,
    **options: Any,
) -> Labeler:
    """Return a labeler from any module: pictures (B, C, R, R) -> logits (B, L).

    The penultimate features are the inputs of the last linear layer; where the logits are not the outputs of such a
    layer, the features are the logits. Pictures are computed in float32 unless `precision` is given.

    Args:
        module: the network. It is used itself, not a copy.
        schema: attributes of the outputs, also in plain containers as `Schema.from_config` reads: one output for each
            class of a discrete attribute, one for a continuous one.
        checkpoint: file of a state dict that is loaded into the module (safetensors, or of torch, of which no code is
            run); None keeps the weights of the module.
        checkpoint_key: name of the state dict in the file; None chooses by content.
        checkpoint_prefix: beginning of the names of the module's tensors, such as "net"; None chooses by content.
        strict: whether the state dict must have exactly the names of the module.
        outputs: numbers, from 0, of the module's outputs that are the schema's logits, in their order; None for all.
        resolution: side in pixels that pictures are resized to (bicubic, antialiased); None for pictures as they are.
        mean: mean of each channel of pictures in [0, 1] that the module was trained with; with a mean and a deviation
            of 0.5 it receives pictures in [-1, 1], with a mean of 0 and a deviation of 1 pictures in [0, 1].
        std: standard deviation of each channel of pictures in [0, 1] that the module was trained with, above 0.
        image_shape: (C, H, W) of the pictures that are labelled, which a run gives; None where it is not known.
        options: further arguments of `Labeler`: views, precision, max_batch, name, confidence.

    Returns:
        A labeler of pictures (B, C, R, R) in [-1, 1], with the channels that the module takes.

    Raises:
        LaceError: for an unsuitable checkpoint, when the module does not turn such pictures into finite logits, or the
            outputs are not as many as the schema's logits.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        >>> schema = {"name": "s", "attributes": [{"name": "bright", "num_classes": 2}]}
        >>> labeler = module_labeler(network, schema, mean=[0], std=[1], image_shape=(1, 8, 8))
        >>> labeler.channels, tuple(labeler(torch.zeros(3, 1, 8, 8)).shape)
        (1, (3, 2))
    """
    parsed, name = Schema.of(schema), type(module).__name__
    if checkpoint is not None:
        key = under(checkpoint_key, checkpoint_prefix)
        load_state(module, checkpoint, strict, "check labeler.module and the number of its outputs", key)
    return _labeler(
        _split(module, parsed, outputs, resolution, mean, std, image_shape, name),
        parsed,
        {"module": name, "resolution": resolution, "mean": list(mean), "std": list(std)},
        name if checkpoint is None else f"{name}-{Path(checkpoint).stem}",
        {"precision": "float32", **options},
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

            network: nn.Module = get_model(model, weights=weights, **arguments)
            return network
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
            f"timm could not give the network '{name}' ({in_one_line(error)}): check its name, or give a file of "
            "weights."
        ) from None


def script_labeler(
    script: str | os.PathLike[str],
    schema: Mapping[str, Any],
    outputs: Sequence[int] | None = None,
    resolution: int | None = None,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
    image_shape: Sequence[int] | None = None,
    **options: Any,
) -> Labeler:
    """Return a labeler from a TorchScript file: pictures (B, C, R, R) -> logits (B, L).

    A TorchScript file is a program, and it is run: give only one that you trust. The penultimate features are the
    script's outputs. Pictures are computed in float32 unless `precision` is given.

    Args:
        script: the TorchScript file.
        schema: attributes of the outputs, in plain containers as `Schema.from_config` reads: one output for each class
            of a discrete attribute, one for a continuous one.
        outputs: numbers, from 0, of the script's outputs that are the schema's logits, in their order; None for all.
        resolution: side in pixels that pictures are resized to (bicubic, antialiased); None for pictures as they are.
        mean: mean of each channel of pictures in [0, 1] that the script was trained with; with a mean and a deviation
            of 0.5 it receives pictures in [-1, 1].
        std: standard deviation of each channel of pictures in [0, 1] that the script was trained with, above 0.
        image_shape: (C, H, W) of the pictures that are labelled, which a run gives; None where it is not known.
        options: further arguments of `Labeler`: views, precision, max_batch, name, confidence.

    Returns:
        A labeler of pictures (B, C, R, R) in [-1, 1], with the channels that the script takes: 3, 1, 4 or 2.

    Raises:
        LaceError: when the file is missing or no TorchScript, the script does not turn pictures of these sizes (64
            pixels where none is known) into finite logits, or the outputs are not as many as the schema's logits.
    """
    parsed, path = Schema.from_config(schema), Path(script)
    module = load_program(path)
    # A script stays whole: its features are its logits.
    channels = channels_of(module, resolution, image_shape)
    whole = linear_of(torch.eye(logits_of(module, example_of(channels, resolution, image_shape)).shape[1]))
    head = select_outputs(whole, outputs, parsed.num_logits, path.name)
    wrapped = WrappedImageNetwork(module, head, head.in_features, resolution, mean, std, channels)
    return _labeler(
        wrapped,
        parsed,
        {"resolution": resolution, "mean": list(mean), "std": list(std), "sha256": file_sha256(path)},
        path.stem,
        {"precision": "float32", **options},
    )


def label_values(function: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    """Return what a labelling function returns for pictures, in float32 on their device.

    Args:
        function: the function; it may return a tensor, an array or a list, of numbers or truth values.
        images: pictures (B, C, H, W) in [-1, 1].

    Raises:
        LaceError: where the function fails, with its line, and where it returns no numbers.

    Example:
        >>> label_values(lambda images: [picture.mean() > 0 for picture in images], torch.ones(2, 3, 8, 8))
        tensor([1., 1.])
    """
    try:
        with torch.autocast(images.device.type, enabled=False), torch.no_grad():
            received = function(images.contiguous())
    except (LaceError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise LaceError(
            f"A labelling function must take pictures {tuple(images.shape)} in [-1, 1], and it does not "
            f"({in_one_line(error, 140)}{user_line(error)}): correct the function."
        ) from error
    try:
        values = torch.as_tensor(received)
        if values.is_complex():
            raise TypeError("complex numbers")
        if values.ndim and len(values) != len(images):
            raise LaceError(
                f"A labelling function must return a row for each of {len(images)} pictures, received "
                f"{tuple(values.shape)}: correct the function."
            )
        return values.to(images.device, torch.float32)
    except LaceError:
        raise
    except Exception as error:
        raise LaceError(
            f"A labelling function must return a tensor or an array of numbers, received {type(received).__name__} "
            f"({in_one_line(error, 100)}): correct the function."
        ) from error


class FunctionNetwork(ImageNetwork):
    """Image network that calls a function of pictures; its features are its logits.

    Args:
        function: function of pictures (B, C, H, W) in [-1, 1] that returns labels (B, K), NaN where they are not
            known, or logits (B, L). It is called in float32. Networks that it uses become parts of this one.
        schema: the K attributes of the labels.

    Raises:
        LaceError: when pictures are given and the function returns another shape or a class that does not exist.

    Example:
        >>> from lace_lightning import Attribute
        >>> network = FunctionNetwork(lambda x: (x.mean((1, 2, 3)) > 0)[:, None], Schema("s", (Attribute("bright"),)))
        >>> network(torch.full((1, 3, 8, 8), 0.5)).tolist()
        [[0.0, 20.0]]
    """

    channels = None

    def __init__(self, function: Callable[[Tensor], Any], schema: Schema) -> None:
        super().__init__()
        self.function, self.schema = as_module(function), schema
        self.num_features, self.head = schema.num_logits, nn.Identity()

    def features(self, images: Tensor) -> Tensor:
        values = label_values(self.function, images)
        if len(self.schema) == 1 and values.ndim == 1:
            values = values[:, None]
        if values.shape == (len(images), self.num_features):
            return values
        if values.shape != (len(images), len(self.schema)):
            raise LaceError(
                f"A labelling function must return labels ({len(images)}, {len(self.schema)}) or logits "
                f"({len(images)}, {self.num_features}) for {len(images)} pictures, received {tuple(values.shape)}: "
                "correct the function."
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
                    f"'{attribute.name}', NaN for a label that is not known, received "
                    f"{float(value[known & ~chosen.any(1)][0]):g}: correct the function, or give the number of "
                    "classes in the schema."
                )
            columns.append((chosen * CERTAIN).masked_fill(~known[:, None], torch.nan))
        return torch.cat(columns, dim=1)


def function_labeler(
    function: str | Callable[[Tensor], Any], schema: Schema | Mapping[str, Any], **options: Any
) -> Labeler:
    """Return a labeler from a Python function.

    The digest of the labeler depends on the name and the source of the function. The cache also compares its module,
    the user's modules that it imports, and the values that it uses: pairs are labelled again when one of these changes.
    Pictures are given in float32 unless `precision` is given.

    Args:
        function: function of pictures (B, C, H, W) in [-1, 1], or its name as package.module.name. It returns labels
            (B, K), a column for each attribute, NaN where a label is not known; or logits (B, L). Labels of one
            attribute may have the shape (B,), and labels may be tensors, NumPy arrays or lists.
        schema: attributes of the labels, also in plain containers as `Schema.from_config` reads.
        options: further arguments of `Labeler`: views, precision, max_batch, name, confidence.

    Returns:
        A labeler of pictures (B, C, H, W) in [-1, 1].

    Raises:
        LaceError: when there is no function of that name; when pictures are labelled and the function returns another
            shape or a class that does not exist.

    Example:
        >>> schema = {"name": "s", "attributes": [{"name": "brightness", "kind": "continuous"}]}
        >>> labeler = function_labeler(lambda images: images.mean((1, 2, 3))[:, None] / 2 + 0.5, schema)
        >>> labeler.labels(torch.full((1, 3, 8, 8), 0.5)).values.tolist()
        [[0.75]]
    """
    parsed, called = (
        Schema.of(schema),
        imported(function, "labeler.function") if isinstance(function, str) else function,
    )
    source = source_of(called)
    return _labeler(
        FunctionNetwork(called, parsed),
        parsed,
        source,
        source["function"],
        {"precision": "float32", **options},
    )


def _labeler(
    network: ImageNetwork, schema: Schema, arguments: dict[str, Any], name: str, options: Mapping[str, Any]
) -> Labeler:
    return Labeler(AttributeClassifier(schema, "x", network, arguments), **{"name": name, **options})
