"""Arrays on disk that are filled row by row: a killed call continues, and damaged rows are made again."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from ..artifacts import atomic_path, digest, read_json
from ..cache import is_whole, locked, remove_sealed, sealed_path
from ..errors import LaceError
from ..progress import bar, byte_bar

# The one table of bytes; every other one is float32.
IMAGES = "images"
META, LEDGER = "meta.json", "rows.jsonl"
# Blocks whose checksum was found right in this process.
_CHECKED: set[tuple[str, int, int, str]] = set()


@dataclass(frozen=True)
class Block:
    """Rows that were written together, with the checksum of each array's part.

    Args:
        first: number of the first row, at least 0.
        rows: number of rows, at least 1.
        sums: 16 hexadecimal digits of the sha256 by name of the array.
        content: plain values that are kept with the rows; None for none.

    Example:
        >>> block = Block(0, 2, {"z": "0123456789abcdef"})
        >>> Block.read(block.line()) == block, Block.read(block.line().replace("2", "3")) is None
        (True, True)
    """

    first: int
    rows: int
    sums: Mapping[str, str]
    content: Any = None

    def line(self) -> str:
        """Return the block as one line of the ledger, which ends in its own checksum."""
        content = [] if self.content is None else [self.content]
        text = json.dumps([self.first, self.rows, dict(self.sums), *content])
        return f"{text}\t{digest(text)}\n"

    @classmethod
    def read(cls, line: str) -> Block | None:
        """Return the block of a line, None where the line is cut or damaged."""
        text, _, check = line.rstrip("\n").partition("\t")
        if digest(text) != check:
            return None
        return cls(*json.loads(text))

    def is_in(self, folder: Path, arrays: Mapping[str, NDArray[Any]]) -> bool:
        """Return whether the rows in arrays are those that were written; each block is read once in a process."""
        for name, required in self.sums.items():
            if name not in arrays:
                continue
            key = (str(folder / name), self.first, self.rows, required)
            if key not in _CHECKED:
                if sum_of_rows(arrays[name][self.first : self.first + self.rows]) != required:
                    return False
                _CHECKED.add(key)
        return True


def sum_of_rows(rows: NDArray[Any]) -> str:
    """Return the checksum of rows that a block keeps.

    Args:
        rows: rows of an array of any type.

    Example:
        >>> len(sum_of_rows(np.zeros((2, 3))))
        16
    """
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()[:16]


def blocks_of(folder: Path) -> list[Block]:
    """Return the blocks that the ledger of a folder lists, without those whose line is cut or damaged.

    Args:
        folder: a folder that `fill` wrote.
    """
    try:
        lines = (folder / LEDGER).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return [block for block in map(Block.read, lines) if block is not None]


def rows_done(blocks: Iterable[Block]) -> int:
    """Return how many rows from the first on are on disk.

    Args:
        blocks: the blocks of a folder, in any order.

    Example:
        >>> rows_done([Block(2, 2, {}), Block(0, 2, {}), Block(6, 2, {})])
        4
    """
    done = 0
    for block in sorted(blocks, key=lambda block: block.first):
        if block.first <= done:
            done = max(done, block.first + block.rows)
    return done


def open_rows(folder: Path, name: str) -> NDArray[Any]:
    """Return an array of a folder, memory-mapped, after its rows were compared with their checksums.

    Args:
        folder: a folder that `fill` wrote.
        name: name of the array.

    Returns:
        The rows from the first on that are on disk.

    Raises:
        LaceError: when rows are damaged.
    """
    file = folder / f"{name}.npy"
    if _shape_of(file)[:1] != (int(read_json(folder / META)["count"]),):
        raise LaceError(f"The array '{file}' is missing or damaged: run the command that made it once more.")
    array = np.load(file, mmap_mode="c")
    blocks = blocks_of(folder)
    bad = _damaged(folder, blocks, {name: array})
    if bad:
        raise LaceError(
            f"The array '{file}' is damaged in {sum(block.rows for block in bad)} rows: run the command that made it "
            "once more, which makes them again."
        )
    result: NDArray[Any] = array[: rows_done(blocks)]
    return result


def _damaged(folder: Path, blocks: Iterable[Block], arrays: Mapping[str, NDArray[Any]]) -> list[Block]:
    blocks = list(blocks)
    total = sum(block.rows * sum(array[:1].nbytes for array in arrays.values()) for block in blocks)
    bad = []
    with byte_bar(f"checking {folder.name}", total) as bar:
        for block in blocks:
            if not block.is_in(folder, arrays):
                bad.append(block)
            bar.update(block.rows * sum(array[:1].nbytes for array in arrays.values()))
    return bad


def fill(
    folder: str | os.PathLike[str],
    meta: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    make: Callable[[int, int], Mapping[str, Tensor]],
    batch_size: int,
    title: str,
    progress: bool = True,
) -> Path:
    """Write arrays row by row, and continue where an earlier call was killed.

    One process writes, others wait for it. Rows that do not have their checksum are made again.

    Args:
        folder: where `<name>.npy` of every array, `meta.json` and the ledger of the rows that are on disk are written.
        meta: plain values with the number of rows `count` and a `key`, the digest of what the rows depend on.
        shapes: shape of a row by name of the array; `images` is uint8 and others float32.
        make: `make(count, first)` returns rows first .. first + count - 1 of every array.
        batch_size: rows that are made together, at least 1.
        title: text beside the progress bar.
        progress: whether the bar is shown.

    Returns:
        The folder.

    Raises:
        LaceError: when the folder holds rows with another `key`, or cannot be written.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = fill(folder, {"key": "a", "count": 3}, {"z": (2,)},
        ...                 lambda count, first: {"z": torch.full((count, 2), float(first))}, 2, "z", progress=False)
        ...     np.load(path / "z.npy")[:, 0].tolist()
        [0.0, 0.0, 2.0]
    """
    path, count = Path(folder), int(meta["count"])
    try:
        with locked(path, title):
            _prepare(path, meta, shapes, title)
            todo = _missing(path, count, shapes, batch_size, title)
            _write(path, count, shapes, make, todo, title, progress)
    except OSError as error:
        raise LaceError(
            f"'{path}' could not be written ({error.strerror or error}): free space or choose another folder, then run "
            "the same command again."
        ) from error
    return path


def _prepare(path: Path, meta: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], title: str) -> None:
    """Create the arrays with all their space, unless they are there."""
    count = int(meta["count"])
    if is_whole(path / META):
        known = read_json(path / META)
        if known["key"] != meta["key"]:
            raise LaceError(
                f"The folder '{path}' holds {title} that depend on something else (weights, count or seed) than those "
                "that are asked for: use another folder."
            )
        if all(_shape_of(path / f"{name}.npy") == (count, *shape) for name, shape in shapes.items()):
            return
        warnings.warn(f"Arrays of {title} in '{path}' are missing or damaged: all rows are made again.", stacklevel=3)
    # A folder without this file holds nothing.
    remove_sealed(path / META)
    (path / LEDGER).unlink(missing_ok=True)
    try:
        for name, shape in shapes.items():
            dtype = np.uint8 if name == IMAGES else np.float32
            create_array(path / f"{name}.npy", (count, *shape), dtype)
    except LaceError:
        # Arrays without rows would keep the space that others lack.
        for name in shapes:
            (path / f"{name}.npy").unlink(missing_ok=True)
        raise
    with sealed_path(path / META) as temporary:
        temporary.write_text(json.dumps(dict(meta), indent=2) + "\n", encoding="utf-8")


def _shape_of(file: Path) -> tuple[int, ...]:
    """Return the shape of an array on disk, () where the file is missing or damaged."""
    try:
        return tuple(np.load(file, mmap_mode="r").shape)
    # A damaged header can be anything.
    except Exception:
        return ()


def create_array(file: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
    """Write an array of zeros with all its space, atomically, without holding it in memory.

    Args:
        file: the file, `<name>.npy`.
        shape: shape of the array.
        dtype: type of its values.

    Raises:
        LaceError: when the disk is full or not writable.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     create_array(Path(folder, "z.npy"), (2, 3), np.float32)
        ...     np.load(Path(folder, "z.npy")).shape
        (2, 3)
    """
    with atomic_path(file) as temporary:
        np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape).flush()
        take_space(temporary)


def take_space(file: Path) -> None:
    """Take the space of a file from the disk: writing to mapped memory without space would end the process.

    Args:
        file: the file, which has its length.

    Raises:
        OSError: when the disk is full.
    """
    size = file.stat().st_size
    with open(file, "r+b") as stream:
        if hasattr(os, "posix_fallocate"):
            if size:
                os.posix_fallocate(stream.fileno(), 0, size)
            return
        # Pages that are written take their space; what is there stays as it is.
        for first in range(0, size, 2**22):
            stream.seek(first)
            part = stream.read(2**22)
            stream.seek(first)
            stream.write(part)


def _missing(
    path: Path, count: int, shapes: Mapping[str, tuple[int, ...]], batch_size: int, title: str
) -> list[tuple[int, int]]:
    """Return (first row, number of rows) of what is not on disk, cut where an uninterrupted call would cut."""
    blocks = blocks_of(path)
    arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in shapes}
    bad = _damaged(path, blocks, arrays)
    if bad:
        rows = sum(block.rows for block in bad)
        warnings.warn(f"{rows} rows of {title} in '{path}' are damaged: they are made again.", stacklevel=4)
    good = [block for block in blocks if block not in bad]
    text = "".join(block.line() for block in good)
    # Lines that are cut or damaged go, so that what is appended begins a line.
    if (path / LEDGER).exists() and (path / LEDGER).read_bytes() != text.encode():
        with atomic_path(path / LEDGER) as temporary:
            temporary.write_text(text, encoding="utf-8")
    done = np.zeros(count + 1, bool)
    for block in good:
        done[block.first : block.first + block.rows] = True
    done[count] = True
    todo = []
    for first in range(0, count, batch_size):
        last = min(first + batch_size, count)
        while first < last:
            if done[first]:
                first += 1
                continue
            end = first + int(np.argmax(done[first:]))
            todo.append((first, min(end, last) - first))
            first = min(end, last)
    return todo


def is_filled(folder: Path) -> bool:
    """Return whether a folder holds all its rows, with their checksums.

    Args:
        folder: a folder that `fill` may have written.
    """
    if not is_whole(folder / META):
        return False
    known = read_json(folder / META)
    blocks = blocks_of(folder)
    names = {name for block in blocks for name in block.sums}
    if rows_done(blocks) != known["count"]:
        return False
    if not all(_shape_of(folder / f"{name}.npy")[:1] == (known["count"],) for name in names):
        return False
    return not _damaged(folder, blocks, {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names})


def _write(
    path: Path,
    count: int,
    shapes: Mapping[str, tuple[int, ...]],
    make: Callable[[int, int], Mapping[str, Tensor]],
    todo: list[tuple[int, int]],
    title: str,
    progress: bool,
) -> None:
    if not todo:
        return
    maps = {name: np.load(path / f"{name}.npy", mmap_mode="r+") for name in shapes}
    left = sum(rows for _, rows in todo)
    with (
        bar(title, count, shown=progress, initial=count - left) as line,
        open(path / LEDGER, "a", encoding="utf-8") as ledger,
    ):
        for first, rows in todo:
            sums = {}
            for name, value in make(rows, first).items():
                array = value.cpu().numpy().astype(maps[name].dtype, copy=False)
                maps[name][first : first + rows] = array
                maps[name].flush()
                # Of what was meant, so that a fault on the way to the disk is seen.
                sums[name] = sum_of_rows(array)
            block = Block(first, rows, sums)
            # One write each, behind the rows: a line that is there stands for rows that are there.
            ledger.write(block.line())
            ledger.flush()
            _CHECKED.update((str(path / name), first, rows, value) for name, value in sums.items())
            line.update(rows)
