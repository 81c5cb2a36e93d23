"""Arrays on disk that are filled row by row; a killed call continues where it stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from ..artifacts import check_writable, read_json, write_json
from ..errors import LaceError

# Name of the array of uint8; every other array is float32.
IMAGES = "images"


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

    Args:
        folder: where `<name>.npy` of every array and `meta.json` are written; its `done` counts rows on disk.
        meta: plain values with the number of rows `count` and a `key`, the digest of everything that rows depend on.
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
    path, count = check_writable(folder), int(meta["count"])
    if (path / "meta.json").is_file():
        known = read_json(path / "meta.json")
        if known["key"] != meta["key"]:
            raise LaceError(
                f"The folder '{path}' holds {title} of other weights, another count or another seed than the required "
                "ones: use another folder."
            )
        meta = known
    else:
        for name, shape in shapes.items():
            dtype = np.uint8 if name == IMAGES else np.float32
            np.lib.format.open_memmap(path / f"{name}.npy", mode="w+", dtype=dtype, shape=(count, *shape)).flush()
        meta = {**meta, "done": 0}
        write_json(path / "meta.json", meta)
    if meta["done"] == count:
        return path
    maps = {name: np.load(path / f"{name}.npy", mmap_mode="r+") for name in shapes}
    with tqdm(total=count, initial=meta["done"], desc=title, unit="", disable=not progress, mininterval=0.5) as bar:
        for first in range(meta["done"], count, batch_size):
            rows = min(batch_size, count - first)
            for name, value in make(rows, first).items():
                maps[name][first : first + rows] = value.cpu().numpy()
                maps[name].flush()
            write_json(path / "meta.json", {**meta, "done": first + rows})
            bar.update(rows)
    return path
