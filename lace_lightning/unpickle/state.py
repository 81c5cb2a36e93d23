"""State dicts: names and tensors out of whatever file they were saved in."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import LaceError, in_one_line, listed, quoted
from . import safe_unpickle
from .files import is_safetensors, opened

# What a state dict is commonly kept under.
WRAPPERS = ("state_dict", "model", "net")
# Parts of names that DistributedDataParallel, DataParallel and torch.compile add.
ADDED = ("module", "_orig_mod")
# Tables that are looked into, and how deep they may lie in each other.
MAX_TABLES, MAX_DEPTH, MAX_NAME = 2000, 4, 1000
_AVERAGE = re.compile(r"(^|_)(ema|swa|avg|averaged?|shadow|([a-z]+)ema)(_|$)")
_NO_NETWORK = re.compile(r"optim|sched|callback|scaler|loops", re.IGNORECASE)


@dataclass(frozen=True)
class FoundState:
    """A table of tensors in a file.

    Args:
        path: keys that lead to it, from the outside.
        tensors: tensors by name.

    Example:
        >>> FoundState(("model_ema",), {}).is_average
        True
    """

    path: tuple[str, ...]
    tensors: dict[str, Tensor]

    @property
    def is_average(self) -> bool:
        """Whether a name on the path says that these are averaged weights."""
        return any(is_average(name) for name in self.path)

    @property
    def rank(self) -> int:
        """The place in the order of preference: alone, then the usual names, then others."""
        if not self.path:
            return 0
        return WRAPPERS.index(self.path[0]) + 1 if self.path[0] in WRAPPERS else len(WRAPPERS) + 1


def is_average(name: str) -> bool:
    """Return whether a name in a file says that it holds a moving average of weights.

    Args:
        name: the name, such as `model_ema` or `G_ema`.

    Example:
        >>> [is_average(name) for name in ("model_ema", "state_dict_ema", "modelEma", "schema", "model")]
        [True, True, True, False, False]
    """
    if name == "schema" or len(name) > MAX_NAME:
        return False
    return bool(_AVERAGE.search(re.sub(r"(?<=[a-z])(?=[A-Z])|[.\-/ ]", "_", name).lower()))


def read_data(path: str | os.PathLike[str]) -> Any:
    """Return the content of a safetensors file, a pickle or a PyTorch checkpoint, as data.

    Args:
        path: the file; its content decides the format.

    Returns:
        Tensors by name of a safetensors file, else the value of `safe_unpickle`.

    Raises:
        LaceError: for a file that is missing, damaged, or needs classes that are not data.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"epoch": 3}, f"{folder}/a.pt")
        ...     read_data(f"{folder}/a.pt")
        {'epoch': 3}
    """
    if not is_safetensors(path):
        return safe_unpickle(path)
    from safetensors.torch import load_file

    with opened(path, "a safetensors file"):
        return load_file(str(path))


def states_in(data: Any) -> list[FoundState]:
    """Return the tables of tensors in the content of a file, without those of optimisers.

    Args:
        data: the content, as `read_data` returns it.

    Raises:
        LaceError: for more than `MAX_TABLES` tables.
    """
    found: list[FoundState] = []
    budget = [MAX_TABLES]

    def look(value: Any, path: tuple[str, ...]) -> None:
        budget[0] -= 1
        if budget[0] < 0:
            raise LaceError(f"The file must hold at most {MAX_TABLES} tables and holds more: give another file.")
        tensors = {str(name): tensor for name, tensor in value.items() if isinstance(tensor, Tensor)}
        if tensors:
            found.append(FoundState(path, tensors))
        for name, inner in value.items():
            # An optimiser has a table of tensors for each parameter, under any name.
            if (
                isinstance(inner, Mapping)
                and "param_groups" not in inner
                and len(path) < MAX_DEPTH
                and not _NO_NETWORK.search(str(name)[:MAX_NAME])
            ):
                look(inner, (*path, str(name)))

    if isinstance(data, Mapping):
        look(data, ())
    return found


def under_key(data: Any, key: str, path: str | os.PathLike[str]) -> Any:
    """Return the part of a file's content that a key names.

    Args:
        data: the content, as `read_data` returns it.
        key: a key, keys of tables in tables joined by dots, or a prefix of names.
        path: the file, for the message.

    Raises:
        LaceError: when nothing lies there.
    """
    if isinstance(data, Mapping) and key in data:
        return data[key]
    current, names = data, key.split(".")
    while names and isinstance(current, Mapping) and names[0] in current:
        current = current[names.pop(0)]
    if names and isinstance(current, Mapping):
        prefix = ".".join(names) + "."
        current = {str(name)[len(prefix) :]: value for name, value in current.items() if str(name).startswith(prefix)}
    elif names:
        current = None
    if not isinstance(current, Mapping) or not current:
        held = listed(data) if isinstance(data, Mapping) else f"a {type(data).__name__}"
        raise LaceError(
            f"The file '{path}' must hold {quoted(key)} and holds {held or 'nothing'}: name one of its keys."
        )
    return current


def under(key: str | None, prefix: str | None) -> str | None:
    """Return the key of tensors that lie under a key and behind a prefix of names, None for neither.

    Args:
        key: name of a state dict in a file.
        prefix: beginning of the names of its tensors.

    Example:
        >>> under("state_dict", "decoder."), under(None, None)
        ('state_dict.decoder', None)
    """
    return ".".join(name.strip(".") for name in (key, prefix) if name) or None


def without_added(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors without the prefixes `module.` and `_orig_mod.` that all names have.

    Args:
        state: tensors by name.
    """
    result = {name: tensor for name, tensor in state.items() if name != "n_averaged"}
    while result and (first := next(iter(result)).partition(".")[0]) in ADDED:
        if not all(name.startswith(f"{first}.") for name in result):
            break
        result = {name.removeprefix(f"{first}."): tensor for name, tensor in result.items()}
    return result


def plain_name(name: str) -> str:
    """Return a name without the parts that wrappers add at any place.

    Args:
        name: name of a tensor.

    Example:
        >>> plain_name("_orig_mod.features.module.0.weight")
        'features.0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in ADDED)


def state_of(data: Any) -> dict[str, Tensor]:
    """Return the state dict in the content of a file, averaged weights before others.

    Args:
        data: a state dict, or a table that has one under keys of `WRAPPERS` or of averages; any other value has no
            tensors.

    Returns:
        Tensors by name, without the prefixes that wrappers add to all names.

    Example:
        >>> import torch
        >>> state_of({"epoch": 3, "model": {"module.bias": torch.zeros(1)}})
        {'bias': tensor([0.])}
    """
    found = states_in(data)
    known = [state for state in found if state.is_average or all(name in WRAPPERS for name in state.path)]
    best = min(known, key=lambda state: (not state.is_average, -len(state.path), state.rank), default=None)
    return {} if best is None else without_added(best.tensors)


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the state dict in a file, without running any code of the file.

    Args:
        path: a safetensors file, a pickle or a PyTorch checkpoint.

    Returns:
        Tensors by name, as `state_of` returns them.

    Raises:
        LaceError: for a file that is missing or damaged, and for one without tensors.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"bias": torch.zeros(1)}, f"{folder}/a.pt")
        ...     read_state(f"{folder}/a.pt")
        {'bias': tensor([0.])}
    """
    return _required(state_of(data := read_data(path)), data, path)


def _required(state: dict[str, Tensor], data: Any, path: str | os.PathLike[str]) -> dict[str, Tensor]:
    if not state:
        held = listed(data) if isinstance(data, Mapping) else f"a {type(data).__name__}"
        raise LaceError(
            f"The file '{path}' must hold a state dict, alone or under {', '.join(WRAPPERS)}, and holds "
            f"{held or 'nothing'}: "
            "save module.state_dict()."
        )
    return state


def load_state(
    module: nn.Module,
    path: str | os.PathLike[str],
    strict: bool = True,
    fix: str = "save module.state_dict() again",
    key: str | None = None,
) -> None:
    """Load the state dict in a file into a module.

    Of all tables in the file, those are taken whose names and shapes are the module's, behind any prefix that all of
    them have; averaged weights before others, which a warning tells. Nothing in the file is run.

    Args:
        module: the module.
        path: the file.
        strict: whether all names must be those of the module.
        fix: what to do where there are none, the end of the message.
        key: name of the table in the file; None chooses by content.

    Raises:
        LaceError: where no table fits, or several do between which nothing decides.
    """
    data = read_data(path)
    if key is not None:
        data = under_key(data, key, path)
    own = {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
    fits = _fits(own, states_in(data), strict)
    if fits:
        _say(chosen := _chosen(fits, path), fits, path)
        state = chosen.tensors
    else:
        state = _required(
            {plain_name(name): tensor for name, tensor in state_of(data).items()} if own else state_of(data), data, path
        )
        plain = {plain_name(name): name for name in own}
        state = {plain.get(name, name): tensor for name, tensor in state.items()}
    try:
        module.load_state_dict(state, strict=strict)
    except Exception as error:
        raise LaceError(
            f"The weights '{path}' must be those of a {type(module).__name__} and are not ({in_one_line(error)}): "
            f"{fix}."
        ) from None


def _fits(own: Mapping[str, Tensor], found: list[FoundState], strict: bool) -> list[FoundState]:
    """Return the tables that have all names of a module with their shapes, renamed to them, with prefixes as paths."""
    plain = {plain_name(name): name for name in own}
    if not own or len(plain) < len(own):
        plain = {name: name for name in own}
    result = []
    for state in found:
        for prefix in _prefixes(plain, state.tensors, strict):
            tensors = {
                inner: tensor
                for name, tensor in state.tensors.items()
                if (inner := plain_name(name)).startswith(prefix) and name != "n_averaged"
            }
            renamed = {plain.get(name[len(prefix) :], name[len(prefix) :]): tensor for name, tensor in tensors.items()}
            same = all(own[name].shape == tensor.shape for name, tensor in renamed.items() if name in own)
            # Without a prefix the file is the module's alone: what is left over is another network's.
            if same and (not strict or prefix or renamed.keys() <= own.keys()):
                result.append(FoundState((*state.path, *filter(None, [prefix[:-1]])), renamed))
    return result


def _prefixes(plain: Mapping[str, str], tensors: Mapping[str, Tensor], strict: bool) -> list[str]:
    """Return the prefixes behind which names of the module stand: behind which all of them do, where it is strict."""
    counts: Counter[str] = Counter()
    for name in tensors:
        counts.update(prefix for prefix, inner in _cuts(plain_name(name)) if inner in plain)
    if not counts or not plain:
        return []
    needed = len(plain) if strict else max(counts.values())
    return [prefix for prefix, count in counts.items() if count >= needed]


def _cuts(name: str) -> Iterator[tuple[str, str]]:
    """Yield every way to divide a name after a dot, and the whole name."""
    if len(name) <= MAX_NAME:
        yield "", name
        for match in re.finditer(r"\.", name):
            yield name[: match.end()], name[match.end() :]


def _chosen(fits: list[FoundState], path: str | os.PathLike[str]) -> FoundState:
    order = [(not state.is_average, state.rank) for state in fits]
    best = [state for state, place in zip(fits, order, strict=True) if place == min(order)]
    if len(best) > 1 and not all(_equal(best[0].tensors, state.tensors) for state in best[1:]):
        raise LaceError(
            f"The file '{path}' must hold one network of these names and shapes and holds {len(best)} "
            f"({listed('.'.join(state.path) or 'the file itself' for state in best)}): name one as checkpoint_key, or "
            "save it alone."
        )
    return best[0]


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


def _say(chosen: FoundState, fits: list[FoundState], path: str | os.PathLike[str]) -> None:
    if len(fits) > 1:
        others = [".".join(state.path) for state in fits if state is not chosen]
        what = "the average of the weights" if chosen.is_average else "the weights"
        warnings.warn(
            f"Of '{path}', {what} under {quoted('.'.join(chosen.path))} "
            f"{'is' if chosen.is_average else 'are'} taken, and not {listed(others)}.",
            stacklevel=4,
        )
