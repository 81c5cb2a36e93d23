"""Pairs of other programs: StyleFlow's latents with attributes, and labels in a CSV file."""

from __future__ import annotations

import csv
import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..artifacts import digest, known_sha256
from ..cache import Cache
from ..errors import LaceError
from ..generators import Generator
from ..schema import Attribute, Labels, Schema
from ..source import identity_of
from ..unpickle import safe_unpickle
from .faces import FACES_SCHEMA
from .pairs import PairSet
from .resumable_arrays import fill, is_filled

# Columns of `att_light.pickle`, and of `attributes.npy`.
PICKLE_COLUMNS = (
    "width",
    "height",
    "smile",
    "pitch",
    "roll",
    "yaw",
    "gender",
    "age",
    "beard",
    "glasses",
    "bald",
    "haircolor",
    *(f"light{i}" for i in range(9)),
)
NPY_COLUMNS = ("gender", "glasses", "yaw", "pitch", "bald", "beard", "age", "smile")
# Nine columns of spherical harmonics: the name in StyleFlow's archive, and the one that its training script reads.
LIGHT_FILES = ("light.npy", "lighting.npy")
# Cells of a CSV file, in lower case, that say that a label is missing; so do those that are no finite number.
MISSING = ("", "na", "n/a")


@dataclass
class GivenPairs:
    """Latents of other programs with their labels, and how they were read.

    Args:
        labels: labels of N samples, with a mask of those that are known.
        layout: name of the files' layout, for records.
        w: latents (N, Dw); None where `samples` are given.
        samples: numbers (N,) int64 of samples of the prior; None where `w` is given.
        ranges: smallest and largest value before scaling, of attributes that were scaled to [0, 1].

    Example:
        >>> from lace_lightning.schema import Attribute
        >>> schema = Schema("given", (Attribute("hat"),))
        >>> len(GivenPairs(Labels(schema, torch.zeros(3, 1)), "CSV", samples=torch.arange(3)).labels)
        3
    """

    labels: Labels
    layout: str
    w: Tensor | None = None
    samples: Tensor | None = None
    ranges: dict[str, list[float]] = field(default_factory=dict)


def read_given(path: str | os.PathLike[str]) -> GivenPairs:
    """Read labelled latents of other programs; no code in the files is run.

    Three layouts are known: a folder with StyleFlow's `all_latents.pickle` and `att_light.pickle`; a folder with its
    `sg2latents.pickle` (or `latents.pickle`, `latents.npy`), `attributes.npy` and, for light0 and light3, `light.npy`
    or `lighting.npy`; a CSV file with a column `sample` (the number of a sample of the prior, or the name of its
    picture) and one for every attribute. A cell of a CSV file that is empty, NA or no finite number (nan, inf) is a
    missing label. Continuous values of StyleFlow's that leave [0, 1] are scaled by their own range.

    Args:
        path: the folder or the CSV file.

    Returns:
        Latents, or numbers of samples, with labels. A warning names what a folder lacks.

    Raises:
        LaceError: when the layout is another, and when latents and labels are not equally many.
    """
    path = Path(path).expanduser()
    if path.is_file() and path.suffix == ".csv":
        return _from_csv(path)
    if (path / "att_light.pickle").is_file():
        table = _first(_entry(path / "att_light.pickle", "att_light"))
        w, layout = _latents(path, "all_latents.pickle"), "StyleFlow, pickles"
        columns = dict(
            zip(PICKLE_COLUMNS, _columns(table, len(PICKLE_COLUMNS), path / "att_light.pickle"), strict=True)
        )
        # Here 1 is a woman.
        columns["gender"] = torch.where(columns["gender"] == -1, torch.nan, 1 - columns["gender"])
    elif (path / "attributes.npy").is_file():
        table = _npy(path / "attributes.npy")
        w, layout = _latents(path, "sg2latents.pickle", "latents.pickle", "latents.npy"), "StyleFlow, npy"
        columns = dict(zip(NPY_COLUMNS, _columns(table, len(NPY_COLUMNS), path / "attributes.npy"), strict=True))
        columns |= _raw_classes(columns)
        light = _light_file(path)
        if light is None:
            warnings.warn(
                f"'{path}' has neither {' nor '.join(LIGHT_FILES)}: the attributes light0 and light3 are left out.",
                stacklevel=2,
            )
        else:
            columns |= {f"light{i}": column for i, column in enumerate(_columns(_npy(light), 9, light))}
    else:
        raise LaceError(
            f"Given pairs must be a CSV file or a folder with att_light.pickle or attributes.npy, and '{path}' is "
            "neither: set pairs.source to one."
        )
    schema = FACES_SCHEMA.part([name for name in FACES_SCHEMA.names if name in columns])
    values, ranges = _scaled(schema, columns, path)
    if len(w) != len(values):
        raise LaceError(
            f"Latents and labels in '{path}' must be equally many, and there are {len(w)} and {len(values)}: get both "
            "files of one archive."
        )
    return GivenPairs(Labels(schema, values.nan_to_num(0.0), ~values.isnan()), layout, w=w, ranges=ranges)


def _light_file(folder: Path) -> Path | None:
    """Return the file with the light's columns, if there is one."""
    return next((folder / name for name in LIGHT_FILES if (folder / name).is_file()), None)


def _entry(path: Path, name: str) -> Any:
    data = safe_unpickle(path)
    if not isinstance(data, Mapping) or name not in data:
        raise LaceError(
            f"The file '{path}' must hold a table with the entry '{name}' and holds "
            f"{', '.join(map(str, data)) if isinstance(data, Mapping) else type(data).__name__}: give StyleFlow's file."
        )
    return data[name]


def _first(value: Any) -> Any:
    """Return the entry of a list of one entry, any other value as it is."""
    return value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value


def _npy(path: Path) -> np.ndarray[Any, Any]:
    try:
        array: np.ndarray[Any, Any] = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise LaceError(
            f"The file '{path}' must be an array of numbers and could not be read ({error}): get it again."
        ) from None
    return array


def _columns(table: Any, count: int, path: Path) -> list[Tensor]:
    """Return the columns (N,) of a table (N, count, 1, ...), with NaN in place of None."""
    array = np.asarray(table, dtype=object) if isinstance(table, (list, tuple)) else table
    if not isinstance(array, np.ndarray) or array.ndim < 2 or array.size != len(array) * count:
        raise LaceError(
            f"The file '{path}' must hold {count} attributes a sample, and its table has the shape "
            f"{tuple(array.shape) if isinstance(array, np.ndarray) else type(table).__name__}: give StyleFlow's file."
        )
    try:
        values = np.array(
            [np.nan if value is None else value for value in array.reshape(-1).tolist()], dtype=np.float64
        )
    except (TypeError, ValueError):
        raise LaceError(
            f"The file '{path}' must hold numbers, or None for a missing label, and holds other values: give "
            "StyleFlow's file."
        ) from None
    return list(torch.from_numpy(values).reshape(-1, count).unbind(1))


def _latents(folder: Path, *names: str) -> Tensor:
    """Return w (N, Dw) of latents (N, 1, L, Dw) that are the same for every layer."""
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise LaceError(
            f"The folder '{folder}' must hold the latents {' or '.join(names)} and does not: put them beside the "
            "attributes."
        )
    data = _npy(path) if path.suffix == ".npy" else _entry(path, "Latent")
    try:
        array = np.asarray(data, dtype=np.float32)
    except (TypeError, ValueError):
        array = np.empty(0, dtype=np.float32)
    if array.ndim < 2 or not array.size or not np.isfinite(array).all():
        raise LaceError(
            f"The latents '{path}' must be finite numbers of shape (N, L, Dw) and have the shape {array.shape}: get "
            "the file again."
        )
    layers = torch.from_numpy(array).reshape(len(array), -1, array.shape[-1])
    if not torch.allclose(layers, layers[:, :1].expand_as(layers), atol=1e-4):
        raise LaceError(
            f"The latents '{path}' must be the same for every style layer, since p(c|w) is learned from one w for each "
            "picture, and they are not: give latents w, not w+."
        )
    return layers[:, 0].clone()


def _raw_classes(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the classes of measured confidences; smiles from 0.1 to 0.9 are not known."""
    smile, beard = columns["smile"], columns["beard"]
    unsure = (smile >= 0.1) & (smile <= 0.9)
    return {
        "smile": (smile > 0.9).double().masked_fill(unsure | smile.isnan(), torch.nan),
        "beard": (beard > 0.25).double().masked_fill(beard.isnan(), torch.nan),
    }


def _scaled(schema: Schema, columns: Mapping[str, Tensor], path: Path) -> tuple[Tensor, dict[str, list[float]]]:
    """Return values (N, K) as labels are, NaN where unknown, and the ranges of those that were scaled."""
    result, ranges = [], {}
    for attribute in schema:
        column = columns[attribute.name].clone()
        known = column[~column.isnan()]
        if attribute.kind == "continuous" and len(known):
            low, high = float(known.min()), float(known.max())
            if low < 0 or high > 1:
                ranges[attribute.name] = [low, high]
                column = (column - low) / max(high - low, 1e-12)
        elif attribute.kind == "discrete":
            # The reference writes -1 for a missing label.
            column[column == -1] = torch.nan
            known = column[~column.isnan()]
            if bool(((known != known.round()) | (known < 0) | (known >= attribute.num_classes)).any()):
                raise LaceError(
                    f"Labels of '{attribute.name}' in '{path}' must be class numbers from 0 to "
                    f"{attribute.num_classes - 1}, received {float(known.min()):g} to {float(known.max()):g}: give "
                    "StyleFlow's file."
                )
        result.append(column)
    return torch.stack(result, dim=1).float(), ranges


def _from_csv(path: Path) -> GivenPairs:
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            header, *rows = [
                [cell.strip() for cell in row] for row in csv.reader(stream) if any(cell.strip() for cell in row)
            ]
    except (ValueError, UnicodeDecodeError, csv.Error) as error:
        raise LaceError(
            f"The labels '{path}' must be a CSV file with a header and could not be read ({error}): write "
            "'sample,<attribute>,...' into its first line."
        ) from None
    if header[0] != "sample" or len(header) < 2 or not rows:
        raise LaceError(
            f"The labels '{path}' must begin with the columns sample,<attribute>,... and have rows, received "
            f"{','.join(header)} and {len(rows)} rows: correct the file."
        )
    wrong = next((number for number, row in enumerate(rows, 2) if len(row) != len(header)), None)
    if wrong is not None:
        raise LaceError(
            f"Row {wrong} of '{path}' must have {len(header)} cells and has {len(rows[wrong - 2])}: correct the file."
        )
    samples = [_sample_number(row[0], path, number) for number, row in enumerate(rows, 2)]
    if len(set(samples)) != len(samples):
        twice = next(sample for sample in samples if samples.count(sample) > 1)
        raise LaceError(
            f"Every sample of '{path}' must have one row, and sample {twice} has several: correct the file."
        )
    cells = [[_label(cell) for cell in column] for column in list(zip(*rows, strict=True))[1:]]
    schema = Schema(
        "given", tuple(_attribute(name, column, path) for name, column in zip(header[1:], cells, strict=True))
    )
    values = torch.tensor(
        [[_value(attribute, cell) for cell in column] for attribute, column in zip(schema, cells, strict=True)]
    ).T
    return GivenPairs(Labels(schema, values.nan_to_num(0.0), ~values.isnan()), "CSV", samples=torch.tensor(samples))


def _sample_number(cell: str, path: Path, row: int) -> int:
    match = re.fullmatch(r"(?:.*[/\\])?0*(\d{1,12}?)(?:\.0+|\.[A-Za-z]\w*)?", cell)
    if match is None:
        raise LaceError(
            f"The sample in row {row} of '{path}' must be a number or the name of a picture such as 000012.png, "
            f"received '{cell}': correct the file."
        )
    return int(match[1])


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _label(cell: str) -> str:
    """Return the text of a label, empty where it is missing."""
    number = _number(cell)
    return "" if cell.lower() in MISSING or (number is not None and not math.isfinite(number)) else cell


def _attribute(name: str, column: Sequence[str], path: Path) -> Attribute:
    """Return the attribute of a column of labels.

    It is continuous for numbers in [0, 1] that are not all 0 and 1, and discrete for class numbers from 0 and for
    names, whose classes are in alphabetical order.
    """
    known = sorted({cell for cell in column if cell})
    numbers = [_number(cell) for cell in known]
    if len(known) < 2:
        raise LaceError(
            f"Attribute '{name}' of '{path}' must have at least two different labels, received "
            f"{', '.join(known) or 'none'}: label pictures without it too."
        )
    if all(number is not None for number in numbers):
        if all(number == int(number) >= 0 for number in numbers if number is not None):
            return Attribute(name, num_classes=int(max(number for number in numbers if number is not None)) + 1)
        if all(0 <= number <= 1 for number in numbers if number is not None):
            return Attribute(name, "continuous")
        raise LaceError(
            f"Numbers of attribute '{name}' in '{path}' must lie in [0, 1] or be class numbers from 0, received "
            f"{known[0]} to {known[-1]}: scale them."
        )
    return Attribute(name, num_classes=len(known), class_names=tuple(known))


def _value(attribute: Attribute, cell: str) -> float:
    if not cell:
        return torch.nan
    return (
        float(cell)
        if attribute.kind == "continuous" or not attribute.class_names
        else float(attribute.class_index(cell))
    )


def _sources(path: Path) -> dict[str, str]:
    """Return the sha256 of the files by name."""
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in (".pickle", ".npy"))
    return {file.name: known_sha256(file) for file in files}


@torch.no_grad()
def given_pairs(
    generator: Generator, path: str | os.PathLike[str] | None, cache: Cache | str, seed: int = 0
) -> PairSet:
    """Return labelled latents of other programs as pairs of this one, kept in the cache by the files' content.

    Args:
        generator: the generator that the latents belong to.
        path: a folder or a CSV file, as `read_given` reads them; None for none.
        cache: the cache, or its folder.
        seed: seed of the prior, of which the rows of a CSV file are samples.

    Returns:
        Pairs with w and labels, and with z where samples of the prior were labelled.

    Raises:
        LaceError: when the files are missing or of another layout, or the latents have another width than the
            generator's w.
    """
    source = Path(path or "").expanduser()
    if path is None or not source.exists():
        where = "and no path is set" if path is None else f"at '{source}' and are not there"
        raise LaceError(
            f"Given pairs were required {where}: set pairs.source or LACE_STYLEFLOW to StyleFlow's folder, or to a CSV."
        )
    cache = Cache(cache) if isinstance(cache, str) else cache
    facts = {"files": _sources(source), "generator": identity_of(generator), "seed": seed, "recipe": 2}
    light = None if (source / "att_light.pickle").is_file() else _light_file(source)
    identity = facts | ({} if light is None else {"light": light.name})
    entry = cache.entry("pairs", identity)
    folder = entry.folder
    if is_filled(folder):
        return PairSet(folder)
    given = read_given(source)
    arrays: dict[str, Tensor] = {}
    if given.samples is not None:
        z = torch.cat([generator.prior(1, seed, first, generator.device) for first in given.samples.tolist()])
        arrays = {"z": z, "w": torch.cat([generator.mapping(part) for part in torch.split(z, 1000)])}
    elif given.w is not None:
        if given.w.shape[1] != generator.w_dim:
            raise LaceError(
                f"Given latents must have the generator's width of w, {generator.w_dim}, and '{source}' has "
                f"{given.w.shape[1]}: give the generator that they come from."
            )
        arrays = {"w": given.w}
    arrays["labels"] = given.labels.values.masked_fill(~given.labels.known, torch.nan)
    meta = {
        "key": entry.key,
        "count": len(given.labels),
        "seed": seed,
        "generator": generator.digest_for("w"),
        "labeler": f"{given.layout} {digest(_sources(source))}",
        "schema": given.labels.schema.to_config(),
        "arrays": list(arrays),
        "ranges": given.ranges,
    }
    rows = {name: array.float() for name, array in arrays.items()}
    entry.describe()
    fill(
        folder,
        meta,
        {name: tuple(array.shape[1:]) for name, array in rows.items()},
        lambda count, first: {name: array[first : first + count] for name, array in rows.items()},
        10_000,
        "given pairs",
        progress=False,
    )
    return PairSet(folder)
