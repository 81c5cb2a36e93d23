"""Import of generators from files of other programs.

Read are NVIDIA's pickles (PyTorch and TensorFlow), rosinality's checkpoints, and plain state dicts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..artifacts import file_sha256, load_config, write_json
from ..errors import LaceError
from ..progress import waiting
from ..unpickle import Record, tensors_of
from ..unpickle.state import WRAPPERS, read_data, state_of
from .layouts import from_rosinality, from_tensorflow, stylegan2_config
from .stylegan2 import StyleGAN2Generator, save_network
from .stylegan2_networks import StyleGAN2Network, StyleNetwork
from .stylegan3 import StyleGAN3Generator
from .stylegan3_networks import StyleGAN3Network, stylegan3_config


@dataclass(frozen=True)
class Checkpoint:
    """A network that was read from a file.

    Args:
        layout: name of the layout of the file, such as "stylegan2-ada-pytorch" or "rosinality".
        config: constructor arguments of `StyleGAN2Network` or `StyleGAN3Network`.
        state: tensors by the names of that network.
        assumed: settings that the file does not tell and that were assumed, one phrase each.
        kind: "stylegan2" or "stylegan3".

    Example:
        >>> config = {"z_dim": 4, "w_dim": 4, "img_resolution": 8, "synthesis_kwargs": {"channel_base": 32}}
        >>> state = StyleGAN2Network(**config).state_dict()
        >>> generator = Checkpoint("state dict", config, state).generator(truncation=0.7)
        >>> generator(generator.prior(1)).shape
        torch.Size([1, 3, 8, 8])
    """

    layout: str
    config: dict[str, Any]
    state: dict[str, Tensor]
    assumed: list[str] = field(default_factory=list)
    kind: str = "stylegan2"

    def network(self) -> StyleNetwork:
        """Return the network, frozen, in float32.

        Raises LaceError where the settings do not make a network, and where tensors are missing, left over, of another
        shape or not real.
        """
        network: StyleNetwork
        if self.kind == "stylegan3":
            try:
                network = StyleGAN3Network(**self.config)  # not on "meta": it computes its filters
            except (ArithmeticError, ValueError, TypeError, RuntimeError) as error:
                raise LaceError(
                    "The settings of the StyleGAN3 generator in the file do not make a network "
                    f"({' '.join(str(error).split())[:80]}): get the file again."
                ) from None
        else:
            with torch.device("meta"):
                network = StyleGAN2Network(**self.config)
        wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        received = {name: tuple(tensor.shape) for name, tensor in self.state.items()}
        if wanted != received:
            name = next(name for name in (*wanted, *received) if wanted.get(name) != received.get(name))
            raise LaceError(
                f"The network in the file must be a {self.kind} generator, and its tensor '{name}' is "
                f"{received.get(name, 'missing')} where {wanted.get(name, 'none')} was expected: give a file of "
                "StyleGAN2, StyleGAN2-ADA or StyleGAN3's repository."
            )
        for name, tensor in self.state.items():
            if not tensor.is_floating_point():
                raise LaceError(
                    f"The tensors of a {self.kind} generator must be real numbers, and '{name}' in the file is of "
                    f"{str(tensor.dtype).removeprefix('torch.')}: get the file again."
                )
        network.load_state_dict({name: tensor.float() for name, tensor in self.state.items()}, assign=True)
        return network.requires_grad_(False).eval()

    def generator(self, **options: Any) -> StyleGAN2Generator:
        """Return the frozen generator; `options` are arguments of `StyleGAN2Generator` or `StyleGAN3Generator`."""
        network = self.network()
        return (
            StyleGAN3Generator(network, **options)
            if isinstance(network, StyleGAN3Network)
            else StyleGAN2Generator(network, **options)
        )


def read_generator(path: str | os.PathLike[str], which: str | None = None) -> Checkpoint:
    """Read a generator from a file of another program, without running code of the file.

    The content decides how a file is read, except that only files ending in .safetensors are read as such.

    Args:
        path: the file.
        which: name of the network in a file with several, such as G_ema, G, g_ema or g; None takes the moving average
            of the weights where there is one.

    Returns:
        The network and how its file was understood.

    Raises:
        LaceError: for a missing or damaged file, a file without the required network, and tensors or settings that are
            not those of a StyleGAN2 or StyleGAN3 generator.

    Example:
        >>> import tempfile
        >>> network = StyleGAN2Network(4, 4, img_resolution=8, synthesis_kwargs={"channel_base": 32})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"g_ema": network.state_dict()}, f"{folder}/g.pt")
        ...     checkpoint = read_generator(f"{folder}/g.pt")
        >>> checkpoint.layout, checkpoint.config["img_resolution"]
        ('state dict', 8)
    """
    path = Path(path)
    data = read_data(path)
    if isinstance(data, (list, tuple)) and len(data) == 3 and all(isinstance(part, Record) for part in data):
        data = dict(zip(("G", "D", "G_ema"), data, strict=True))
    if isinstance(data, Record):
        data = {"G_ema": data}
    if not isinstance(data, Mapping):
        raise LaceError(
            f"The file '{path}' must hold a generator and holds a {type(data).__name__}: give the file of a trained "
            "network."
        )
    records = {
        str(name): value for name, value in data.items() if isinstance(value, Record) and value.name != "Namespace"
    }
    if records:
        chosen = _choose(records, which, ("G_ema", "Gs", "G"), path)
        return _from_tensorflow_record(chosen) if chosen.name == "tensorflow.Network" else _from_record(chosen, path)
    return _from_state(data, which, path)


def _choose(found: Mapping[str, Any], which: str | None, usual: tuple[str, ...], path: Path) -> Any:
    for name in (which,) if which is not None else usual:
        if name in found:
            return found[name]
    held, fix = (
        ", ".join(list(found)[:8]),
        "name one of these" if found.keys() & set(usual) else "give the file of a generator",
    )
    raise LaceError(
        f"The file '{path}' must hold {which or f'a generator ({usual[0]})'} and holds {held or 'no network'}: {fix}."
    )


def _from_record(record: Record, path: Path) -> Checkpoint:
    """Read a network of StyleGAN2-ADA's or StyleGAN3's repository."""
    state = dict(tensors_of(record))
    if any(name.startswith("synthesis.input.") for name in state):
        return _stylegan3(record, state, path)
    if "synthesis.b4.const" not in state:
        raise LaceError(
            f"The file '{path}' must hold a StyleGAN2 generator and holds a network of class '{record.name[:60]}': "
            "give its generator (G_ema)."
        )
    arguments = record.attributes.get("_init_kwargs")
    arguments = arguments if isinstance(arguments, dict) else {}
    return Checkpoint("stylegan2-ada-pytorch", stylegan2_config(state, arguments, _attribute(record)), state)


def _attribute(record: Record) -> Callable[[str, str], Any]:
    """Return the function (path of a submodule, attribute) -> value in the file, None where it has none."""

    def attribute(path: str, name: str) -> Any:
        current: Any = record
        for part in filter(None, path.split(".")):
            modules = current.attributes.get("_modules") if isinstance(current, Record) else None
            current = modules.get(part) if isinstance(modules, dict) else None
        value = current.attributes.get(name) if isinstance(current, Record) else None
        return value if isinstance(value, (int, float, str)) else None

    return attribute


def _stylegan3(record: Record, state: dict[str, Tensor], path: Path) -> Checkpoint:
    given = record.attributes.get("_init_kwargs")
    if not isinstance(given, dict):
        raise LaceError(
            f"The file '{path}' must hold the constructor arguments of its StyleGAN3 generator (_init_kwargs) and does "
            "not: get it again."
        )
    try:
        config = stylegan3_config(given)
        _check_sizes(config, state)
        return Checkpoint("stylegan3", config, state, kind="stylegan3")
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, LaceError):
            raise
        raise LaceError(
            f"The settings of the StyleGAN3 generator in '{path}' cannot be understood "
            f"({' '.join(str(error).split())[:80]}): get the file again."
        ) from None


def _check_sizes(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Raise ValueError for settings of a network that is larger than the tensors in the file."""
    largest = max(max(tensor.shape, default=1) for tensor in state.values())
    synthesis, mapping = config["synthesis_kwargs"], config["mapping_kwargs"]
    limits = {
        "img_resolution": 4096,
        "img_channels": 64,
        "z_dim": largest,
        "w_dim": largest,
        "c_dim": largest,
        "channel_max": max(largest, 512),
        "num_layers": len(state),
        "filter_size": 32,
        "lrelu_upsampling": 8,
        "conv_kernel": 7,
        "margin_size": 64,
        "num_critical": len(state),
        "layer_features": largest,
        "embed_features": largest,
    }
    for name, value in (*config.items(), *synthesis.items(), *mapping.items()):
        if name in limits and value is not None and not 0 <= value <= limits[name]:
            raise ValueError(f"{name} is {value}")


def _from_tensorflow_record(record: Record) -> Checkpoint:
    variables: dict[str, Tensor] = {}

    def collect(network: Any, prefix: str, depth: int) -> None:
        own = network.attributes if isinstance(network, Record) else {}
        pairs, parts = own.get("variables"), own.get("components")
        for pair in pairs if isinstance(pairs, (list, tuple)) else ():
            name, value = pair if isinstance(pair, (list, tuple)) and len(pair) == 2 else (None, None)
            if isinstance(name, str) and isinstance(value, np.ndarray) and value.dtype.kind == "f":
                variables[prefix + name] = torch.from_numpy(value.astype(np.float32))
        for name, part in parts.items() if isinstance(parts, dict) and depth < 4 else ():
            collect(part, f"{prefix}{name}/", depth + 1)

    collect(record, "", 0)
    state = from_tensorflow(variables)
    return Checkpoint("stylegan2-tensorflow", stylegan2_config(state, {}), state)


def _from_state(data: Mapping[Any, Any], which: str | None, path: Path) -> Checkpoint:
    """Read rosinality's checkpoint, or a plain state dict of either layout, alone or under a name."""
    average = data.get("latent_avg")
    others = {str(name): value for name, value in data.items() if name != "latent_avg"}
    if not any(isinstance(value, Tensor) for value in others.values()):
        parts = {name: value for name, value in others.items() if isinstance(value, Mapping)}
        others = _choose(parts, which, ("g_ema", "G_ema", *WRAPPERS, "generator", "g", "G"), path)
    state = state_of(others)
    for prefix in ("generator.", "G_ema."):
        if any(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if "synthesis.b4.const" in state:
        assumed = [
            "leaky-ReLU mapping with learning rate multiplier 0.01",
            "no clamping of features",
            "architecture by its tensors",
        ]
        return Checkpoint("state dict", stylegan2_config(state, {}), state, assumed)
    if "input.input" in state and "conv1.conv.weight" in state:
        ours, assumed = from_rosinality(state, average if isinstance(average, Tensor) else None)
        return Checkpoint("rosinality", stylegan2_config(ours, {}), ours, assumed)
    raise LaceError(
        f"The file '{path}' must hold a StyleGAN2 generator (synthesis.b4.const, or input.input of rosinality's "
        f"layout) and has tensors like {', '.join(list(state)[:3]) or 'none'}: wrap another network with "
        "generator=module."
    )


def convert(source: str | os.PathLike[str], target: str | os.PathLike[str], which: str | None = None) -> dict[str, Any]:
    """Convert a generator of another program to a safetensors file of this program, in float32, with a card beside it.

    Steps that take longer than a second show progress on a terminal.

    Args:
        source: file of the other program (see `read_generator`).
        target: file to write, which ends in .safetensors; the card has the same name with the ending .json.
        which: name of the network in a file with several (see `read_generator`).

    Returns:
        The card: source, layout, both checksums, number of bytes and of parameters, and assumed settings.

    Raises:
        LaceError: where `target` has another ending or cannot be written, and in the cases of `read_generator`.

    Example:
        >>> import tempfile
        >>> network = StyleGAN2Network(4, 4, img_resolution=8, synthesis_kwargs={"channel_base": 32})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(network.state_dict(), f"{folder}/g.pt")
        ...     convert(f"{folder}/g.pt", f"{folder}/g.safetensors")["what"]
        'stylegan2 generator, 8x8, z 4, w 4, 4 style layers'
    """
    source, target = Path(source), Path(target)
    if target.suffix != ".safetensors":
        raise LaceError(f"The converted file must end in .safetensors, received '{target}': rename it.")
    checkpoint = read_generator(source, which)
    network = checkpoint.network()
    with waiting(f"writing {target.name}"):
        save_network(network, checkpoint.config, target)
    size = network.synthesis.img_resolution
    card = {
        "what": f"{checkpoint.kind} generator, {size}x{size}, z {network.z_dim}, "
        f"w {network.w_dim}, {network.num_ws} style layers"
        + (f", {network.c_dim} conditions" if network.c_dim else ""),
        "source": source.name,
        "source_sha256": file_sha256(source),
        "layout": checkpoint.layout,
        "assumed": checkpoint.assumed,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "licence": "that of the source",
        "bytes": target.stat().st_size,
        "sha256": file_sha256(target),
    }
    write_json(target.with_suffix(".json"), card)
    return card


def is_foreign(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is of another program: not safetensors, or without a configuration of this program.

    Args:
        path: the file.

    Returns:
        False for a file that does not exist, and for one whose name has an ending that no generator is stored under.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix=".pkl") as stream:
        ...     is_foreign(stream.name), is_foreign("g.safetensors")
        (True, False)
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        return path.is_file() and path.suffix in (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin")
    if not path.is_file():
        return False
    try:
        load_config(path)
    except LaceError:
        return True
    return False
