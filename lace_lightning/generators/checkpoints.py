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

from ..artifacts import file_sha256, write_json
from ..errors import LaceError, listed, quoted
from ..progress import waiting
from ..unpickle import MAX_MODULES, Record, tensors_of
from ..unpickle.files import is_safetensors
from ..unpickle.state import ADDED, WRAPPERS, is_average, plain_name, read_data, states_in
from .layouts import (
    Settings,
    assumptions,
    fill_in,
    from_rosinality,
    from_tensorflow,
    known_settings,
    missing_parts,
    require_stored,
    stylegan2_config,
    tensorflow_settings,
)
from .stylegan2 import StyleGAN2Generator, save_network
from .stylegan2_networks import IGNORED_OF_MAPPING, MAPPING_NAMES, StyleGAN2Network, StyleNetwork, network_from
from .stylegan3 import StyleGAN3Generator
from .stylegan3_networks import IGNORED, SYNTHESIS_NAMES, StyleGAN3Network, stylegan3_config

# Names of generators in files, the preferred first; averages come before them.
USUAL = ("G_ema", "g_ema", "Gs", *WRAPPERS, "generator", "g", "G")
OTHER = "give a file of StyleGAN2, StyleGAN2-ADA or StyleGAN3's repository"


@dataclass(frozen=True)
class Checkpoint:
    """A network that was read from a file.

    Args:
        layout: name of the layout of the file, such as "stylegan2-ada-pytorch" or "rosinality".
        config: constructor arguments of `StyleGAN2Network` or `StyleGAN3Network`.
        state: tensors by the names of that network.
        assumed: settings that the file does not tell and that were assumed, one phrase each.
        kind: "stylegan2" or "stylegan3".
        taken: name of the network in the file, and of the networks that were not taken; "" where it is the only one.

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
    taken: str = ""

    def network(self) -> StyleNetwork:
        """Return the network, frozen, in float32.

        Raises LaceError where the settings do not make a network, and where tensors are missing, left over, of another
        shape or not real.
        """
        kind = StyleGAN3Network if self.kind == "stylegan3" else StyleGAN2Network
        return network_from(kind, self.config, self.state, OTHER)

    def generator(self, **options: Any) -> StyleGAN2Generator:
        """Return the frozen generator; `options` are arguments of `StyleGAN2Generator` or `StyleGAN3Generator`."""
        network = self.network()
        return (
            StyleGAN3Generator(network, **options)
            if isinstance(network, StyleGAN3Network)
            else StyleGAN2Generator(network, **options)
        )


def read_generator(
    path: str | os.PathLike[str], which: str | None = None, lr_multiplier: float | None = None
) -> Checkpoint:
    """Read a generator from a file of another program, without running code of the file.

    The content decides how a file is read.

    Args:
        path: the file.
        which: name of the network in a file with several, such as G_ema, G, g_ema or g; None takes the moving average
            of the weights where there is one.
        lr_multiplier: learning rate multiplier of the mapping (rosinality's lr_mlp), above 0, for files that do not
            tell it; None takes 0.01, where the size of the weights agrees.

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
    if path.is_file() and not is_foreign(path):
        raise LaceError(
            f"The file '{path}' must be of another program and is one of this program already: use it as it is."
        )
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
    if not records:
        return _from_state(data, which, path, lr_multiplier)
    name = _record_name(records, which, path)
    record = records[name]
    if record.name == "tensorflow.Network":
        return _from_tensorflow_record(record, name, lr_multiplier)
    return _from_record(record, path, name, lr_multiplier)


def _record_name(records: Mapping[str, Record], which: str | None, path: Path) -> str:
    averages = [name for name in records if is_average(name) and not name.upper().startswith("D")]
    for name in (which,) if which is not None else (*USUAL[:3], *averages, *USUAL[3:]):
        if name in records:
            return name
    fix = "name one of these" if records.keys() & set(USUAL) else "give the file of a generator"
    raise LaceError(
        f"The file '{path}' must hold {quoted(which)[1:-1] if which else 'a generator (G_ema)'} and holds "
        f"{listed(records)}: {fix}."
    )


def _with_arguments(arguments: Any, lr_multiplier: float | None) -> tuple[dict[str, Any], list[str]]:
    """Return the constructor arguments in a file, with a multiplier of the user where they tell none, and phrases."""
    known, assumed = known_settings(arguments if isinstance(arguments, dict) else {})
    if lr_multiplier is not None:
        table = known.get("mapping_kwargs")
        known["mapping_kwargs"] = {"lr_multiplier": lr_multiplier, **(table if isinstance(table, dict) else {})}
    return known, assumed


def _from_record(record: Record, path: Path, name: str, lr_multiplier: float | None) -> Checkpoint:
    """Read a network of StyleGAN2-ADA's or StyleGAN3's repository."""
    state: dict[str, Tensor] = {}
    for tensor_name, tensor in tensors_of(record):
        state[plain_name(tensor_name)] = tensor
    require_stored(state.values())
    if any(name.startswith("synthesis.input.") for name in state):
        return _stylegan3(record, state, path, name)
    if "synthesis.b4.const" not in state:
        raise LaceError(
            f"The file '{path}' must hold a StyleGAN2 generator and holds a network of class {quoted(record.name)}: "
            "give its generator (G_ema)."
        )
    given = record.attributes.get("_init_kwargs")
    arguments, assumed = _with_arguments(given, lr_multiplier)
    attribute = _attribute(record)
    assumed += assumptions(state, Settings(arguments, attribute, isinstance(given, dict)), lr_multiplier)
    return Checkpoint(
        "stylegan2-ada-pytorch", stylegan2_config(state, arguments, attribute), state, assumed, taken=name
    )


def _attribute(record: Record) -> Callable[[str, str], Any]:
    """Return the function (path of a submodule, attribute) -> value in the file, None where it has none."""

    def attribute(path: str, name: str) -> Any:
        current: Any = record
        for part in filter(None, path.split(".")):
            current = _submodule(current, part)
        value = current.attributes.get(name) if isinstance(current, Record) else None
        return value if isinstance(value, (int, float, str)) else None

    return attribute


def _submodule(current: Any, part: str) -> Any:
    """Return a module of a module, behind modules that wrappers add."""
    for _ in range(4):
        modules = current.attributes.get("_modules") if isinstance(current, Record) else None
        if not isinstance(modules, dict):
            return None
        if part in modules:
            return modules[part]
        current = next((modules[name] for name in ADDED if name in modules), None)
    return None


def _stylegan3(record: Record, state: dict[str, Tensor], path: Path, name: str) -> Checkpoint:
    given = record.attributes.get("_init_kwargs")
    if not isinstance(given, dict):
        raise LaceError(
            f"The file '{path}' must hold the constructor arguments of its StyleGAN3 generator (_init_kwargs) and does "
            "not: get it again."
        )
    arguments, assumed = known_settings(
        given, synthesis=(*SYNTHESIS_NAMES, *IGNORED), mapping=(*MAPPING_NAMES, *IGNORED_OF_MAPPING)
    )
    return Checkpoint("stylegan3", stylegan3_config(arguments), state, assumed, "stylegan3", name)


def _from_tensorflow_record(record: Record, name: str, lr_multiplier: float | None) -> Checkpoint:
    variables: dict[str, Tensor] = {}
    static: dict[str, Any] = {}
    left, converted = [MAX_MODULES], {}

    def collect(network: Any, prefix: str, depth: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise LaceError(
                f"The network in the file must have at most {MAX_MODULES} parts and has more: get the file again."
            )
        own = network.attributes if isinstance(network, Record) else {}
        pairs, parts, arguments = own.get("variables"), own.get("components"), own.get("static_kwargs")
        for pair in pairs if isinstance(pairs, (list, tuple)) else ():
            left[0] -= 1
            variable, value = pair if isinstance(pair, (list, tuple)) and len(pair) == 2 else (None, None)
            if isinstance(variable, str) and isinstance(value, np.ndarray) and value.dtype.kind == "f":
                # One array can stand under many names.
                if id(value) not in converted:
                    converted[id(value)] = torch.from_numpy(np.asarray(value, np.float32))
                variables[prefix + variable] = converted[id(value)]
        static.update((str(key), value) for key, value in arguments.items()) if isinstance(arguments, dict) else None
        for key, part in parts.items() if isinstance(parts, dict) and depth < 4 else ():
            collect(part, f"{prefix}{str(key)[:100]}/", depth + 1)

    collect(record, "", 0)
    require_stored(variables.values())
    state = from_tensorflow(variables)
    arguments, assumed = _with_arguments(tensorflow_settings(static), lr_multiplier)
    assumed += assumptions(state, Settings(arguments), lr_multiplier)
    return Checkpoint("stylegan2-tensorflow", stylegan2_config(state, arguments), state, assumed, taken=name)


@dataclass(frozen=True)
class _FoundGenerator:
    """Tensors of a generator in a file, under a name, by names of a layout."""

    path: tuple[str, ...]
    tensors: dict[str, Tensor]
    layout: str

    @property
    def name(self) -> str:
        return ".".join(self.path) or "the file itself"

    @property
    def order(self) -> tuple[bool, int]:
        """Averages first, then the usual names in their order, then others."""
        usual = [USUAL.index(name) for name in self.path if name in USUAL]
        return not any(map(is_average, self.path)), min(usual, default=len(USUAL) if self.path else -1)


# A tensor by which a layout is known.
MARKS = {"synthesis.b4.const": "state dict", "input.input": "rosinality", "synthesis.input.freqs": "stylegan3"}


def _generators_in(data: Mapping[Any, Any]) -> list[_FoundGenerator]:
    found = []
    for state in states_in(data):
        tensors = {plain_name(name): tensor for name, tensor in state.tensors.items()}
        for mark, layout in MARKS.items():
            for prefix in [name.removesuffix(mark) for name in tensors if name == mark or name.endswith(f".{mark}")]:
                own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
                own.pop("n_averaged", None)
                if layout != "rosinality" or "conv1.conv.weight" in own:
                    found.append(_FoundGenerator((*state.path, *filter(None, prefix.split("."))), own, layout))
    return found


def _from_state(data: Mapping[Any, Any], which: str | None, path: Path, lr_multiplier: float | None) -> Checkpoint:
    """Read rosinality's checkpoint, or a plain state dict of either layout, alone or under a name."""
    average = data.get("latent_avg")
    found = _generators_in({name: value for name, value in data.items() if name != "latent_avg"})
    matching = [one for one in found if which is None or which in (*one.path, one.name)]
    if not matching:
        raise _no_generator(data, [one.name for one in found], which, path)
    first = min(matching, key=lambda one: one.order)
    if which is None and sum(one.order == first.order for one in matching) > 1:
        raise LaceError(
            f"The file '{path}' must hold one generator and holds {listed(one.name for one in matching)}: name one of "
            "these (checkpoint_key)."
        )
    others = listed(one.name for one in found if one is not first)
    what = ", the average of the weights" if not first.order[0] else ""
    taken = f"{listed([first.name])}{what}, and not {others}" if others else ""
    if first.layout == "stylegan3":
        raise LaceError(
            f"The file '{path}' must tell the settings of its StyleGAN3 generator, and a state dict does not: give the "
            "pickle (.pkl) that its training wrote."
        )
    require_stored(first.tensors.values())
    namespace = data.get("args")
    settings = namespace.attributes if isinstance(namespace, Record) else {}
    if lr_multiplier is None and isinstance(settings.get("lr_mlp"), float):
        lr_multiplier = settings["lr_mlp"]
    arguments, _ = _with_arguments({}, lr_multiplier)
    if first.layout == "state dict":
        state, assumed = first.tensors, assumptions(first.tensors, Settings(arguments), lr_multiplier)
        return Checkpoint("state dict", stylegan2_config(state, arguments), state, assumed, taken=taken)
    state, assumed = from_rosinality(first.tensors, average if isinstance(average, Tensor) else None)
    assumed = assumptions(state, Settings(arguments), lr_multiplier) + assumed
    config = stylegan2_config(state, arguments)
    # A file without any stored noise is filled up, in place of a network without noise.
    config["synthesis_kwargs"].pop("use_noise", None)
    missing = missing_parts(state, map(int, config["synthesis_kwargs"]["channels"]), config["w_dim"])
    checkpoint = Checkpoint("rosinality", config, state | missing, assumed, taken=taken)
    if missing:
        checkpoint.state.update(fill_in(checkpoint.network().mapping, missing))
    return checkpoint


def _no_generator(data: Mapping[Any, Any], found: list[str], which: str | None, path: Path) -> LaceError:
    if found:
        return LaceError(
            f"The file '{path}' must hold the generator {quoted(which)} and holds {listed(found)}: name one of these."
        )
    states = states_in(data)
    held = f"has tensors like {listed(states[0].tensors, 3)}" if states else f"holds {listed(data) or 'nothing'}"
    return LaceError(
        f"The file '{path}' must hold a StyleGAN2 generator (synthesis.b4.const, or input.input of rosinality's "
        f"layout) and {held}: wrap another network with generator=module."
    )


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    which: str | None = None,
    lr_multiplier: float | None = None,
) -> dict[str, Any]:
    """Convert a generator of another program to a safetensors file of this program, in float32, with a card beside it.

    Steps that take longer than a second show progress on a terminal.

    Args:
        source: file of the other program (see `read_generator`).
        target: file to write, which ends in .safetensors; the card has the same name with the ending .json.
        which: name of the network in a file with several (see `read_generator`).
        lr_multiplier: learning rate multiplier of the mapping, for files that do not tell it (see `read_generator`).

    Returns:
        The card: source, layout, the network that was taken, both checksums, number of bytes and of parameters, and
        assumed settings.

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
    checkpoint = read_generator(source, which, lr_multiplier)
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
        "taken": checkpoint.taken,
        "assumed": checkpoint.assumed,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "licence": "that of the source",
        "bytes": target.stat().st_size,
        "sha256": file_sha256(target),
    }
    write_json(target.with_suffix(".json"), card)
    return card


def is_foreign(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is of another program: its content is not safetensors with a configuration of this program.

    Args:
        path: the file.

    Returns:
        False for a file that does not exist.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix=".tar") as stream:
        ...     is_foreign(stream.name), is_foreign("g.safetensors")
        (True, False)
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        return False
    if not is_safetensors(path):
        return True
    try:
        with safe_open(str(path), framework="pt") as stream:
            return "lace" not in (stream.metadata() or {})
    except (SafetensorError, OSError):
        return True
