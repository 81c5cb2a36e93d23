"""Files of latents of other programs: StyleGAN's projectors, e4e, pSp, PTI, StyleFlow; read, and written as they came.

No code of a file is run.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..artifacts import atomic_path
from ..errors import LaceError, in_one_line, listed, no_rows, quoted
from ..generators import Generator
from ..unpickle import plain_pickle, safe_unpickle

SPACES = ("z", "w", "w+")
PICKLES, TORCH = (".pkl", ".pickle"), (".pt", ".pth")
SUFFIXES = (".npy", ".npz", *TORCH, *PICKLES)
# Names of latents in a file, in lower case, with what they say; a name that comes first is taken where several are.
STYLE_NAMES = (
    "ws",
    "w_plus",
    "wplus",
    "w+",
    "wp",
    "w",
    "latent",
    "latents",
    "dlatent",
    "dlatents",
    "latent_code",
    "latent_codes",
)
Z_NAMES = ("z", "zs")


@dataclass(frozen=True)
class Layout:
    """How latents lie in a file, so that others can be written in the same way.

    Args:
        suffix: ending of the file: one of `SUFFIXES`.
        key: name of the array in the file; None for a file that is one array.
        shape: shape of the array.
        dtype: type of its numbers, such as float32.
        is_tensor: whether it is a tensor of torch, in place of an array of NumPy.
        entries: names of the tables that have the array, one for each sample; None for one array of all samples.

    Example:
        >>> Layout(".npz", "w", (1, 18, 512), "float32").key
        'w'
    """

    suffix: str
    key: str | None
    shape: tuple[int, ...]
    dtype: str
    is_tensor: bool = False
    entries: tuple[str, ...] | None = None


@dataclass(frozen=True)
class LatentFile:
    """Latents of a file.

    Args:
        values: z (N, Dz), w (N, Dw) or w+ (N, L, Dw), float32.
        space: z, w or w+.
        layout: how they lie in the file.
        reason: how the space was found, in words.

    Example:
        >>> LatentFile(torch.zeros(2, 4), "w", Layout(".npy", None, (2, 4), "float64"), "it is the only one").space
        'w'
    """

    values: Tensor
    space: str
    layout: Layout
    reason: str


def read_latents(path: str | os.PathLike[str], generator: Generator, space: str | None = None) -> LatentFile:
    """Read the latents of a generator from a file of another program.

    A file is an array (.npy), a table of arrays (.npz, or .npy that NumPy pickled), or a tensor, an array or a table of
    them (.pt, .pth, .pkl, .pickle), or a table of such tables by picture (the projector of rosinality). Shapes are z
    (N, Dz), w (N, Dw) and w+ (N, L, Dw), with a further axis of length 1 (StyleFlow), and without N for one sample. The
    space follows from the shape; where several fit, from the name of the array, or from that of the file
    (`projected_w.npz`).

    Args:
        path: the file.
        generator: the generator whose latents they are.
        space: z, w or w+, where neither shape nor names decide; None to find it.

    Raises:
        LaceError: for a file that cannot be read, and for latents that are no finite floating numbers, are of another
            width or number of layers, or fit several spaces.

    Example:
        >>> import tempfile
        >>> from lace_lightning import load_generator
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/projected_w.npz", w=np.zeros((1, 8, 128), np.float32))
        ...     latents = read_latents(f"{folder}/projected_w.npz", load_generator("cifar10"))
        >>> latents.space, latents.layout.key, latents.values.shape
        ('w+', 'w', torch.Size([1, 8, 128]))
    """
    path = Path(path)
    if space is not None and space not in SPACES:
        raise LaceError(
            f"The space of latents must be one of {', '.join(SPACES)}, received '{space}': set one of them."
        )
    content = _content(path)
    nested = _nested(content, path)
    if nested is None:
        key, array = _chosen(content, generator, space, path)
    else:
        key, array = nested.key, nested.values
    is_tensor = isinstance(array, Tensor)
    values = array if isinstance(array, Tensor) else _tensor(array, path, key)
    shape, dtype = tuple(values.shape), str(values.dtype).removeprefix("torch.")
    if not values.is_floating_point():
        raise LaceError(
            f"Latents must be floating numbers, and {_place(path, key)} has {dtype} of shape {shape}: give latents z, "
            "w or w+."
        )
    if shape and not values.numel():
        raise LaceError(no_rows(f"The latents of {_place(path, key)}", shape))
    entries = None if nested is None else nested.entries
    # Samples of their own, (1, ...), lie behind each other.
    flat = shape if entries is None or len(shape) < 3 or shape[1] != 1 else (shape[0], *shape[2:])
    found, count, reason = _space(flat, key, path, generator, space)
    # For float64 beyond float32, the result is infinite and refused below.
    values = values.float().reshape(count, *((-1,) if found == "w+" else ()), shape[-1]).clone()
    wrong = (~values.flatten(1).isfinite()).any(1).nonzero()[:, 0].tolist()
    if wrong:
        raise LaceError(
            f"Latents must be finite numbers, and {_place(path, key)} has NaN or infinite ones in row {wrong[0]}"
            f"{f' and {len(wrong) - 1} others' if len(wrong) > 1 else ''} of {count}: make the file again."
        )
    return LatentFile(values, found, Layout(path.suffix.lower(), key, shape, dtype, is_tensor, entries), reason)


def write_latents(path: str | os.PathLike[str], values: Tensor, layout: Layout) -> None:
    """Write latents in the layout of another file, atomically.

    Args:
        path: the file.
        values: as many numbers as the layout's shape has, or styles (N, L, Dw) in the place of N latents w.
        layout: the layout, as `read_latents` found it.

    Raises:
        LaceError: when the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_latents(f"{folder}/a.npy", torch.ones(2, 3), Layout(".npy", None, (2, 1, 3), "float16"))
        ...     array = np.load(f"{folder}/a.npy")
        >>> array.shape, array.dtype
        ((2, 1, 3), dtype('float16'))
    """
    values = values.detach().cpu()
    shape = layout.shape if values.numel() == np.prod(layout.shape) else tuple(values.shape)
    tensor = values.reshape(shape).to(getattr(torch, layout.dtype)).clone()
    content: Any = tensor if layout.is_tensor else tensor.numpy()
    if layout.entries is not None:
        # A copy for each: torch would write the numbers of all samples with every one.
        parts = (part.clone() if layout.is_tensor else part for part in content)
        content = {name: {layout.key: part} for name, part in zip(layout.entries, parts, strict=True)}
    elif layout.key is not None:
        content = {layout.key: content}
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        if layout.suffix == ".npy":
            np.save(stream, content)
        elif layout.suffix == ".npz":
            np.savez(stream, **content)
        elif layout.suffix in TORCH:
            torch.save(content, stream)
        else:
            pickle.dump(content, stream, protocol=4)


class LatentFolder:
    """All latents of a folder, or of one file, in a stable order: that of the names of the files.

    Every file is read and checked when the object is made, and read again when its latents are needed.

    Args:
        root: a file, or a folder whose files (`SUFFIXES`) and folders hold latents; hidden ones are left out.
        generator: the generator whose latents they are.
        space: z, w or w+, where neither shapes nor names decide; None to find it.

    Attributes:
        names: paths of the files in the folder, with / between folders.
        counts: number of latents in each file.
        spaces: space of each file: z, w or w+.

    Raises:
        LaceError: when there are no files, and in the cases of `read_latents`.

    Example:
        >>> import tempfile
        >>> from lace_lightning import load_generator
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b", "a"):
        ...         np.save(f"{folder}/{name}.npy", np.zeros((3, 8, 128)))
        ...     latents = LatentFolder(folder, load_generator("cifar10"))
        >>> latents.names, latents.counts, len(latents)
        (['a.npy', 'b.npy'], [3, 3], 6)
    """

    def __init__(self, root: str | os.PathLike[str], generator: Generator, space: str | None = None) -> None:
        root = Path(root).expanduser()
        self.root, self.generator, self.space = root, generator, space
        if root.is_dir():
            found = (path.relative_to(root) for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
            names = sorted(p.as_posix() for p in found if not any(part.startswith(".") for part in p.parts))
            if not names:
                raise LaceError(
                    f"The folder '{root}' must hold latents ({', '.join(SUFFIXES)}) and holds none: check it."
                )
        elif root.is_file() and root.suffix.lower() in SUFFIXES:
            names = [root.name]
        else:
            raise LaceError(
                f"Latents must be a file ({', '.join(SUFFIXES)}) or a folder of them, and '{root}' "
                f"{'is neither' if root.exists() else 'does not exist'}: check the path."
            )
        self.names, self.counts, self.spaces = names, [], []
        self.reasons: list[str] = []
        for number in range(len(names)):
            latents = self.read(number)
            self.counts.append(len(latents.values))
            self.spaces.append(latents.space)
            self.reasons.append(latents.reason)

    def path(self, number: int) -> Path:
        """Return the path of a file by its number."""
        return self.root / self.names[number] if self.root.is_dir() else self.root

    def read(self, number: int) -> LatentFile:
        """Return the latents of a file by its number."""
        return read_latents(self.path(number), self.generator, self.space)

    def __len__(self) -> int:
        return sum(self.counts)

    def summary(self) -> str:
        """Return in one line how many latents there are, of which space, and how that was found."""
        kinds: dict[str, list[int]] = {}
        for space, reason, count in zip(self.spaces, self.reasons, self.counts, strict=True):
            kinds.setdefault(f"{space} ({reason})", []).append(count)
        parts = [
            f"{sum(counts)} in {len(counts)} file{'s' * (len(counts) > 1)}: {kind}" for kind, counts in kinds.items()
        ]
        return f"latents in '{self.root}': {'; '.join(parts)}"


def _content(path: Path) -> Any:
    """Return an array, a tensor, or a table or list of them."""
    suffix = path.suffix.lower()
    if suffix in (*PICKLES, *TORCH):
        return safe_unpickle(path)
    if suffix not in (".npy", ".npz"):
        raise LaceError(f"Latents must be in a file that ends in {', '.join(SUFFIXES)}, received '{path}': rename it.")
    try:
        if suffix == ".npy" and (pickled := _pickled(path)) is not None:
            return pickled
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError:
        raise LaceError(f"The latents '{path}' were required and do not exist: check the path.") from None
    except LaceError:
        raise
    except Exception as error:
        # Damage causes errors of many types, of zip and of NumPy. NumPy takes other files for pickles and tells how to
        # run them.
        reason = "it holds something else" if "pickle" in str(error) else in_one_line(error)
        raise LaceError(
            f"The latents '{path}' must be arrays of numbers and could not be read ({reason}): get the "
            "file again, or save the numbers alone."
        ) from None


def _pickled(path: Path) -> Any:
    """Return the objects of an array that NumPy pickled, as data: a table, or an array. None for an array of numbers.

    Raises:
        LaceError: for objects that are not plain, and that would need code of the file.
    """
    with open(path, "rb") as file:
        major = np.lib.format.read_magic(file)[0]
        header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        if not header(file)[2].hasobject:
            return None
        pickled = file.read()
    try:
        array = plain_pickle(pickled)
    except LaceError as error:
        raise LaceError(
            f"The latents '{path}' must be arrays of numbers, and NumPy pickled objects there that are more than plain "
            f"data ({in_one_line(error)}): save the numbers alone where the file was made, as np.save(path, "
            "array.astype('float32')) or np.savez(path, w=array)."
        ) from None
    content = array.item() if isinstance(array, np.ndarray) and array.ndim == 0 else array
    return list(content) if isinstance(content, np.ndarray) and content.dtype == object else content


@dataclass(frozen=True)
class _Nested:
    key: str
    entries: tuple[str, ...]
    values: Any


def _nested(content: Any, path: Path) -> _Nested | None:
    """Return the latents of a table of tables, one for each picture; None for another content.

    Raises:
        LaceError: where the tables have latents of different shapes.
    """
    if not isinstance(content, Mapping):
        return None
    tables = {str(name): value for name, value in content.items() if isinstance(value, Mapping)}
    known = [*STYLE_NAMES, *Z_NAMES]
    key = next((name for name in known if tables and all(name in table for table in tables.values())), None)
    if key is None or any(str(name).lower() in known for name in content):
        return None
    parts = [table[key] for table in tables.values()]
    shapes = {tuple(np.shape(part)) for part in parts}
    if len(shapes) > 1:
        raise LaceError(
            f"The latents '{path}' must have one shape for all of {len(parts)} pictures, and {quoted(key)} has "
            f"{', '.join(map(str, sorted(shapes)))}: save those of one generator."
        )
    is_tensor = all(isinstance(part, Tensor) for part in parts)
    return _Nested(key, tuple(tables), torch.stack(parts) if is_tensor else parts)


def _chosen(content: Any, generator: Generator, space: str | None, path: Path) -> tuple[str | None, Any]:
    """Return the key and the array of the latents of a file."""
    if not isinstance(content, Mapping):
        return None, content
    arrays = {
        str(name): value for name, value in content.items() if isinstance(value, (np.ndarray, Tensor, list, tuple))
    }
    names = {name.lower(): name for name in arrays}
    known = [*Z_NAMES, *STYLE_NAMES] if space == "z" else [*STYLE_NAMES, *Z_NAMES]
    chosen = next((names[name] for name in known if name in names), None)
    if chosen is None:
        widths = (generator.z_dim, generator.w_dim)
        fitting = [name for name, value in arrays.items() if np.ndim(value) and np.shape(value)[-1] in widths]
        if len(fitting) != 1:
            raise LaceError(
                f"The file '{path}' must hold latents by a known name ({', '.join((*Z_NAMES, *STYLE_NAMES))}) or one "
                f"array of their width, and holds {listed(content) or 'nothing'}: save the latents alone."
            )
        chosen = fitting[0]
    return chosen, arrays[chosen]


def _tensor(array: Any, path: Path, key: str | None) -> Tensor:
    try:
        if isinstance(array, (list, tuple)):
            array = np.stack([np.asarray(part) for part in array])
        if not isinstance(array, np.ndarray):
            raise TypeError(f"it is a {type(array).__name__}")
        # A copy in the order of this machine, which torch needs.
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    except (TypeError, ValueError) as error:
        raise LaceError(
            f"Latents must be an array of numbers, and {_place(path, key)} is none ({in_one_line(error)}): save the "
            "numbers alone."
        ) from None


def _place(path: Path, key: str | None) -> str:
    return f"'{path}'" if key is None else f"{quoted(key)} in '{path}'"


def _fitting(shape: Sequence[int], generator: Generator) -> dict[str, int]:
    """Return the number of samples by space, for the spaces that a shape fits."""
    result: dict[str, int] = {}
    if not 1 <= len(shape) <= 4 or not all(shape):
        return result
    *outer, width = shape
    if len(outer) == 3 and outer[1] == 1:
        outer = [outer[0], outer[2]]
    layers = generator.num_ws
    if generator.has_layers and width == generator.w_dim and len(outer) in (1, 2) and outer[-1] == layers:
        result["w+"] = outer[0] if len(outer) == 2 else 1
    if len(outer) < 2 or (len(outer) == 2 and outer[1] == 1):
        count = outer[0] if outer else 1
        if generator.has_w and width == generator.w_dim:
            result["w"] = count
        if width == generator.z_dim:
            result["z"] = count
    return result


def _space(
    shape: tuple[int, ...], key: str | None, path: Path, generator: Generator, wanted: str | None
) -> tuple[str, int, str]:
    """Return space, number of samples, and how the space was found."""
    fitting = _fitting(shape, generator)
    takes = [f"z (N, {generator.z_dim})"]
    if generator.has_w:
        takes.append(f"w (N, {generator.w_dim})")
    if generator.has_layers:
        takes.append(f"w+ (N, {generator.num_ws}, {generator.w_dim})")
    if not fitting or (wanted is not None and wanted not in fitting):
        asked = "" if wanted is None else f" as {wanted}"
        raise LaceError(
            f"The latents must be {' or '.join(takes)} of the generator{asked}, and {_place(path, key)} has the shape "
            f"{shape}: give latents of this generator, or the generator of these latents."
        )
    if wanted is not None:
        return wanted, fitting[wanted], "as asked for"
    if len(fitting) == 1:
        (space,) = fitting
        return space, fitting[space], f"by the shape {_open(shape)}"
    by_key = key is not None and key.lower() in (*Z_NAMES, *STYLE_NAMES)
    words = [str(key).lower()] if by_key else re.split(r"[^a-z+]+", path.stem.lower())
    said = ["z" for word in words if word in Z_NAMES] + ["w" for word in words if word in STYLE_NAMES]
    # w+ of one sample (L, Dw) comes before L samples of w.
    spaces = [space for space in ("w+", "w", "z") if space in fitting and said and space.startswith(said[0])]
    if not spaces:
        raise LaceError(
            f"The latents {_place(path, key)} of shape {shape} fit {' and '.join(fitting)} of the generator: say "
            "which, by --space or task.space."
        )
    name = f"the name {key}" if by_key else "the file's name"
    return spaces[0], fitting[spaces[0]], f"by the shape {_open(shape)} and {name}"


def _open(shape: Sequence[int]) -> str:
    """Return a shape without the number of samples, as text."""
    return f"({', '.join(['N', *map(str, shape[1:])] if len(shape) > 1 else map(str, shape))})"
