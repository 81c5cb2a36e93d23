"""Samples as files: numbered pictures, latents, a table, a contact sheet and a report, written batch by batch."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import warnings
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from ..artifacts import atomic_path, digest, known_sha256, read_json, write_json
from ..cache import locked
from ..data.resumable_arrays import Block, create_array, sum_of_rows
from ..errors import LaceError
from ..pictures.convert import downscale, to_bytes
from ..pictures.grids import labelled_grid, read_image, to_picture
from ..pictures.png import check_channels, png_files
from ..query import Query
from ..samplers import Sample
from ..schema import Attribute, Labels
from .base import Drawn, System

# What is needed to go on, inside of the folder: recipe, ledgers, and the arrays until they are in latents.npz.
WORK = ".samples"
RECIPE, REPORT, TABLE, LATENTS, CONTACT = "recipe.json", "report.json", "samples.csv", "latents.npz", "contact.png"
LATENT_NAMES = ("z", "w", "ws")
# Pictures of a task of the writing threads, and batches that may wait for them.
PICTURES, WAITING = 32, 3
Row = dict[str, Any]


@dataclass(repr=False)
class Samples:
    """Samples in memory: pictures, latents, seeds and a table with one row for each.

    Args:
        images: pictures (B, C, H, W) in [-1, 1].
        z: latents (B, Dz); None where the pictures have none, as those of a model of pictures.
        w: latents (B, Dw); None where there is none.
        ws: one w for each style layer (B, L, Dw); None for a generator without layers.
        seeds: number of each sample under the run's seed, B whole numbers.
        table: one dictionary of plain values for each sample, all with the same keys in the same order: the columns of
            samples.csv after `file`, of which `seed` and `holds` are also shown and counted. Without rows, the table
            that is saved has the seeds.
        report: plain values for report.json, such as the query and the sampler.
        title: text above the contact sheet.

    Example:
        >>> import tempfile
        >>> table = [{"seed": 5, "holds": True}, {"seed": 6, "holds": False}]
        >>> samples = Samples(torch.zeros(2, 3, 8, 8), z=torch.zeros(2, 4), seeds=[5, 6], table=table)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sorted(path.name for path in samples.save(folder).glob("*.*"))  # doctest: +NORMALIZE_WHITESPACE
        ['.lock', '.samples', '0000.png', '0001.png', 'contact.png', 'latents.npz', 'report.json', 'samples.csv']
    """

    images: Tensor
    z: Tensor | None = None
    w: Tensor | None = None
    ws: Tensor | None = None
    seeds: Sequence[int] = ()
    table: list[Row] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    title: str = ""

    def __repr__(self) -> str:
        title = f"'{self.title}', " if self.title else ""
        return f"Samples({title}images {tuple(self.images.shape)}, latents {', '.join(self.latents) or 'none'})"

    @property
    def latents(self) -> dict[str, Tensor]:
        """The latents that there are, by name: z, w, ws."""
        return {name: value for name in LATENT_NAMES if (value := getattr(self, name)) is not None}

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the samples as the files of `SampleFolder`; what is there already is not written again.

        Args:
            folder: an empty or new folder, or one that these samples were saved to.

        Returns:
            The folder.

        Raises:
            LaceError: for a folder with other samples, and one that cannot be written.
        """
        images = to_bytes(self.images) if self.images.is_floating_point() else self.images
        table = list(map(_plain, self.table or ({"seed": seed} for seed in self.seeds or range(len(images)))))
        texts = {"table": json.dumps(table), "report": json.dumps(self.report)}
        path, recipe = Path(folder), {"content": digest({"images": images, **self.latents, **texts})}
        with (
            locked(path, "samples", waits=False),
            SampleFolder(path, len(images), recipe, title=self.title) as out,
        ):
            if not out.has(0, len(images)):
                out.write(0, images, self.latents, table)
            out.finish(self.report)
        return path


def sample_table(
    query: Query | None,
    seeds: Sequence[int],
    sample: Sample,
    judged: Labels | None = None,
    free: Labels | None = None,
    probability: Tensor | None = None,
    role: str = "judge",
) -> list[Row]:
    """Return the rows of samples.csv of a batch.

    Args:
        query: the condition, of the judge's schema; None where none was asked.
        seeds: numbers of the samples, B whole numbers.
        sample: the samples, with their diagnostics.
        judged: labels (B rows) that the judge sees; None without a judge.
        free: values of the query's free attributes, B rows; None where nothing is free.
        probability: p(c|w) (B,) of the query by the system itself; None where it has none.
        role: what the network of `judged` is in this run: judge, or labeler where no other network was asked.

    Returns:
        For each sample: `seed`, `asked` (the query with the sample's own values), `<role>_<attribute>` (a class name or
        a value), `holds` (whether the judge sees the query), `p`, `log_weight` (where the sampler gives one) and
        `evaluations`. None is what is not known; without a judge, a query or a probability their columns are left out.

    Example:
        >>> from lace_lightning.examples import tiny_schema
        >>> from lace_lightning.query import parse
        >>> schema = tiny_schema()
        >>> query, labels = parse("hat == *", schema), Labels.constant(schema, 1, hat=1)
        >>> sample_table(query, [7], Sample(torch.zeros(1, 4), 12.0, 0.1), labels, free=labels)
        [{'seed': 7, 'asked': 'hat == 1', 'judge_hat': '1', 'holds': True, 'evaluations': 12.0}]
    """
    count, diagnostics = len(seeds), sample.diagnostics
    columns: dict[str, list[Any]] = {"seed": list(map(int, seeds))}
    if query is not None:
        columns["asked"] = [query.text] * count if free is None else _asked(query, free)
    if judged is not None:
        judged = judged.to("cpu")
        known = judged.known & ~judged.values.isnan()
        for index, attribute in enumerate(judged.schema):
            columns[f"{role}_{attribute.name}"] = [
                _seen(attribute, value) if there else None
                for value, there in zip(judged.values[:, index].tolist(), known[:, index].tolist(), strict=True)
            ]
        if query is not None:
            needed = known[:, [judged.schema.index(name) for name in query.attributes]].all(1).tolist()
            holds = query.holds(judged, free).tolist()
            columns["holds"] = [value if there else None for value, there in zip(holds, needed, strict=True)]
    if probability is not None:
        columns["p"] = _per_sample(probability, count)
    if "log_weights" in diagnostics:
        columns["log_weight"] = _per_sample(diagnostics["log_weights"], count)
    columns["evaluations"] = _per_sample(diagnostics.get("per_sample", sample.evaluations), count)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _asked(query: Query, free: Labels) -> list[str]:
    """Return a query with the values of each row in the place of free ones."""
    texts: dict[tuple[float, ...], str] = {}
    rows = list(zip(*(free.column(name).tolist() for name in query.free), strict=True))
    for row in rows:
        if row not in texts:
            values = {
                name: query.schema[name].class_name(int(value)) if query.schema[name].kind == "discrete" else value
                for name, value in zip(query.free, row, strict=True)
            }
            texts[row] = query.bind(**values).text
    return [texts[row] for row in rows]


def _seen(attribute: Attribute, value: float) -> str | float:
    return attribute.class_name(int(value)) if attribute.kind == "discrete" else value


def _per_sample(values: Any, count: int) -> list[Any]:
    """Return one plain number for each sample, from a tensor (B,) or one number for all."""
    return values.tolist() if isinstance(values, Tensor) and values.ndim else [values] * count


class SampleFolder:
    """A folder of samples that is written batch by batch, goes on where it was stopped, and takes any number.

    It holds `0000.png` and so on, named by position, `latents.npz` (z, w and ws where there are any), `samples.csv`
    (a row for each picture), `contact.png` (the first pictures) and `report.json`. Pictures are written by threads
    while the next batch is made. A hidden folder `.samples` keeps what is needed to go on: after a kill or on a full
    disk, whole batches stay, and `has` tells which rows these are. With `steps` every sample has one picture for each
    step, `0000_0.png`, `0000_1.png` and so on, and one row of the table for each.

    The caller keeps other processes out of the folder, as a run and `Samples.save` do. Processes of one run write
    different rows of one folder; the first of them calls `finish` after all are closed.

    Args:
        folder: the folder, which is created.
        count: number of samples, at least 1.
        recipe: nested plain values that everything depends on; a folder of another recipe is refused.
        steps: names of the steps of each sample; empty for samples of one picture.
        title: text above the contact sheet.
        caption: text below a picture of the contact sheet, from its row of the table; None for `caption_of()`.
        contact: number of samples in the contact sheet, at least 1; with steps a tenth of it.
        threads: threads that write pictures, at least 1.
        rank: number of this process, from 0.

    Raises:
        LaceError: when the folder holds something else, or cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with SampleFolder(folder, 4, {"query": "hat == 1"}) as out:
        ...         for first in (0, 2):
        ...             rows = [{"seed": first + row, "holds": True} for row in range(2)]
        ...             out.write(first, torch.zeros(2, 3, 8, 8), {"z": torch.zeros(2, 4)}, rows)
        ...         report = out.finish({"query": "hat == 1"})
        ...     (Path(folder) / "samples.csv").read_text().splitlines()[:2], report["holds"]
        (['file,seed,holds', '0000.png,0,true'], 1.0)
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        count: int,
        recipe: Mapping[str, Any],
        steps: Sequence[str] = (),
        title: str = "",
        caption: Callable[[Row], str] | None = None,
        contact: int = 100,
        threads: int = 1,
        rank: int = 0,
    ) -> None:
        if count < 1:
            raise LaceError(f"A folder of samples needs at least 1 sample, received {count}: raise it to 1.")
        self.folder, self.count, self.steps, self.title = Path(folder), count, list(steps), title
        self.recipe = json.loads(json.dumps(dict(recipe)))
        self._caption, self._contact, self._threads, self._rank = caption or caption_of(), contact, threads, rank
        self._width = max(4, len(str(count - 1)))
        self._work = self.folder / WORK
        self._arrays: dict[str, NDArray[Any]] = {}
        self._waiting: deque[Future[None]] = deque()
        self._pools: tuple[ThreadPoolExecutor, ThreadPoolExecutor] | None = None
        self._done = np.zeros(0, bool)

    def names(self, position: int) -> list[str]:
        """Return the names of the pictures of a sample.

        Args:
            position: its position, from 0.
        """
        number = f"{position:0{self._width}}"
        return [f"{number}_{step}.png" for step in range(len(self.steps))] if self.steps else [f"{number}.png"]

    def check(self, ignoring: Sequence[str] = ()) -> None:
        """Refuse a folder that holds something else, and change nothing.

        Args:
            ignoring: first keys of the recipe that are not known yet.

        Raises:
            LaceError: for samples of another recipe, with the difference, and for pictures of others.
        """
        if (self._work / RECIPE).is_file():
            there, here = (
                {name: value for name, value in recipe.items() if name not in ignoring}
                for recipe in (read_json(self._work / RECIPE), self.recipe)
            )
            difference = _difference(there, here)
            if difference:
                raise LaceError(
                    f"The folder '{self.folder}' holds samples of another command ({'; '.join(difference)}): choose "
                    "another folder, or remove this one."
                )
            return
        others = [name for name in (*self.names(0), TABLE, LATENTS, CONTACT, REPORT) if (self.folder / name).exists()]
        if others:
            raise LaceError(
                f"The folder '{self.folder}' has '{others[0]}', which this command would write over: choose another "
                "folder."
            )

    def __enter__(self) -> SampleFolder:
        with _disk(self.folder):
            self.check()
            self._work.mkdir(parents=True, exist_ok=True)
            with FileLock(str(self._work / ".prepare.lock")):
                if not (self._work / RECIPE).is_file():
                    write_json(self._work / RECIPE, self.recipe)
            self._done = self._found()
        self._pools = ThreadPoolExecutor(self._threads), ThreadPoolExecutor(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with _disk(self.folder):
                self._settle(0, quiet=error is not None)
        finally:
            assert self._pools is not None
            for pool in self._pools:
                pool.shutdown(cancel_futures=True)
            self._pools = None

    def has(self, first: int, rows: int) -> bool:
        """Return whether samples are on disk, with the checksums of their pictures and latents.

        Args:
            first: position of the first.
            rows: their number.
        """
        return bool(self._done[first : first + rows].all())

    def write(self, first: int, images: Tensor, latents: Mapping[str, Tensor], table: Sequence[Row]) -> None:
        """Give a batch to the writing threads, and wait only where several batches are not written yet.

        Args:
            first: position of the first sample.
            images: pictures (B, C, H, W), or (B, S, C, H, W) for S steps, uint8 or in [-1, 1].
            latents: arrays (B, ...) by name, the same names in every batch.
            table: a row for each picture, the steps of a sample one after the other, with the same keys in all batches.

        Raises:
            LaceError: for another number of rows than pictures, and when an earlier batch could not be written.
        """
        assert self._pools is not None, "a SampleFolder is written inside of a with statement"
        pictures = (to_bytes(images) if images.is_floating_point() else images).flatten(0, images.ndim - 4).cpu()
        if len(table) != len(pictures) or len(pictures) != len(images) * max(1, len(self.steps)):
            raise LaceError(
                f"A batch needs {len(images) * max(1, len(self.steps))} pictures and as many rows of the table, "
                f"received {len(pictures)} and {len(table)}: give one row for each picture."
            )
        check_channels(pictures.shape[1])
        names = [name for row in range(len(images)) for name in self.names(first + row)]
        values = {name: value.detach().float().cpu().numpy() for name, value in latents.items()}
        array = pictures.permute(0, 2, 3, 1).contiguous().numpy()
        with _disk(self.folder):
            # Threads hold no more than a few batches in memory.
            self._settle(WAITING - 1)
            parts = [
                self._pools[0].submit(self._write_pictures, names[i : i + PICTURES], array[i : i + PICTURES])
                for i in range(0, len(names), PICTURES)
            ]
            self._waiting.append(
                self._pools[1].submit(self._commit, first, len(images), parts, values, list(map(_plain, table)))
            )

    def _settle(self, left: int, quiet: bool = False) -> None:
        """Wait until at most so many batches are not written."""
        while len(self._waiting) > left:
            future = self._waiting.popleft()
            if not quiet:
                future.result()
            else:
                future.exception()

    def _write_pictures(self, names: Sequence[str], pictures: NDArray[Any]) -> list[str]:
        """Write pictures (N, H, W, C), each atomically; return their checksums."""
        folder, sums = os.fspath(self.folder), []
        for name, content in zip(names, png_files(pictures), strict=True):
            # Plain strings: half of the time of paths.
            temporary, path = os.path.join(folder, f".{name}.tmp"), os.path.join(folder, name)
            with open(temporary, "wb") as file:
                file.write(content)
            os.replace(temporary, path)
            sums.append(hashlib.sha256(content).hexdigest())
        return sums

    def _commit(
        self,
        first: int,
        rows: int,
        pictures: Sequence[Future[list[str]]],
        latents: Mapping[str, NDArray[Any]],
        table: list[Row],
    ) -> None:
        """Write latents, then the line of the ledger, behind the pictures: a line stands for samples that are there."""
        sums = {"pictures": digest([text for part in pictures for text in part.result()])}
        for name, value in latents.items():
            array = self._array(name, value.shape[1:])
            array[first : first + rows] = value
            array.flush()  # type: ignore[attr-defined]
            sums[name] = sum_of_rows(value)
        line = Block(first, rows, sums, table).line()
        with open(self._work / f"rows-{self._rank}.jsonl", "a", encoding="utf-8") as ledger:
            ledger.write(line)
        self._done[first : first + rows] = True

    def _array(self, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        if name not in self._arrays:
            file = self._work / f"{name}.npy"
            with FileLock(str(self._work / ".prepare.lock")):
                if _opened(file, "r") is None or np.load(file, mmap_mode="r").shape != (self.count, *shape):
                    create_array(file, (self.count, *shape), np.float32)
            self._arrays[name] = np.load(file, mmap_mode="r+")
        return self._arrays[name]

    def _ledgers(self) -> list[Path]:
        return sorted(self._work.glob("rows-*.jsonl"))

    def _blocks(self) -> Iterator[tuple[Block, Path, int]]:
        """Yield every whole line of the ledgers with its file and offset."""
        for path in self._ledgers():
            with open(path, "rb") as stream:
                offset = 0
                for line in stream:
                    block = Block.read(line.decode("utf-8", errors="replace"))
                    if block is not None:
                        yield block, path, offset
                    offset += len(line)

    def _found(self) -> NDArray[Any]:
        """Return which samples (count,) are on disk, and bring latents of a finished folder back where some are not."""
        done, damaged = np.zeros(self.count, bool), np.zeros(self.count, bool)
        finished = self.is_finished()
        arrays: dict[str, NDArray[Any] | None] = {}
        for block, _, _ in self._blocks():
            positions = range(block.first, block.first + block.rows)
            whole = self._pictures_sum(positions) == block.sums["pictures"]
            for name in () if finished or not whole else block.sums:
                if name != "pictures":
                    if name not in arrays:
                        arrays[name] = _opened(self._work / f"{name}.npy", "r")
                    rows = arrays[name]
                    whole &= rows is not None and sum_of_rows(rows[block.first : positions.stop]) == block.sums[name]
            # A later line of the same rows replaces an earlier one.
            done[block.first : positions.stop] = whole
            damaged[block.first : positions.stop] = not whole
        if damaged.any():
            warnings.warn(
                f"{int(damaged.sum())} samples in '{self.folder}' are missing or damaged: they are made again.",
                stacklevel=3,
            )
        if not finished or done.all():
            return done
        with zipfile.ZipFile(self.folder / LATENTS) as stored:
            for name in stored.namelist():
                with (
                    atomic_path(self._work / name) as temporary,
                    stored.open(name) as source,
                    open(temporary, "wb") as target,
                ):
                    shutil.copyfileobj(source, target, 2**22)
        (self.folder / REPORT).unlink()
        return done

    def _pictures_sum(self, positions: range) -> str:
        """Return the checksum of the pictures of samples, empty where one is missing."""
        sums = []
        for position in positions:
            for name in self.names(position):
                try:
                    sums.append(hashlib.sha256((self.folder / name).read_bytes()).hexdigest())
                except OSError:
                    return ""
        return digest(sums)

    def is_finished(self) -> bool:
        """Return whether the report is there, and the files that it lists have the checksums that it gives."""
        if not (self.folder / REPORT).is_file():
            return False
        files = read_json(self.folder / REPORT).get("files", {})
        return bool(files) and all(
            (self.folder / name).is_file() and known_sha256(self.folder / name) == known
            for name, known in files.items()
        )

    def finish(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """Write latents.npz, samples.csv, contact.png and, last, report.json, after all samples were written.

        Args:
            report: plain values for report.json; the number of samples, the share that holds, and the checksums of the
                files are added.

        Returns:
            The content of report.json; that of the first time, where the folder was finished before.

        Raises:
            LaceError: when samples are missing, or a file cannot be written.
        """
        with _disk(self.folder):
            self._settle(0)
            if self.is_finished():
                kept: dict[str, Any] = read_json(self.folder / REPORT)
                return kept
            blocks = self._last_blocks()
            self._arrays.clear()
            names = [name for name in LATENT_NAMES if (self._work / f"{name}.npy").is_file()]
            if names:
                self._pack(names)
            holds = self._write_table(blocks)
            self._write_contact(blocks)
            files = [name for name in (LATENTS, TABLE, CONTACT) if (self.folder / name).is_file()]
            result = {
                **report,
                "count": self.count,
                **({} if holds is None else {"holds": holds}),
                "files": {name: known_sha256(self.folder / name) for name in files},
            }
            write_json(self.folder / REPORT, result)
            for name in names:
                (self._work / f"{name}.npy").unlink()
        return result

    def _last_blocks(self) -> list[tuple[int, int, Path, int]]:
        """Return (first, rows, ledger, offset) of the last line of all samples, in their order."""
        last: dict[int, tuple[int, int, Path, int]] = {}
        for block, path, offset in self._blocks():
            last[block.first] = (block.first, block.rows, path, offset)
        found, result = 0, []
        for entry in sorted(last.values(), key=lambda entry: entry[0]):
            if entry[0] == found:
                result.append(entry)
                found += entry[1]
        if found != self.count:
            raise LaceError(
                f"The folder '{self.folder}' must hold {self.count} samples and holds {found} from the first on: run "
                "the same command again."
            )
        return result

    def _rows(self, blocks: Sequence[tuple[int, int, Path, int]]) -> Iterator[Row]:
        """Yield the rows of the table, with the name of the picture first."""
        for first, rows, path, offset in blocks:
            with open(path, "rb") as stream:
                stream.seek(offset)
                block = Block.read(stream.readline().decode("utf-8"))
            assert block is not None
            names = [name for row in range(rows) for name in self.names(first + row)]
            for name, row in zip(names, block.content, strict=True):
                yield {"file": name, **row}

    def first_rows(self, count: int) -> list[Row]:
        """Return the first rows of the table of a finished folder, with the picture of each as `picture`.

        Args:
            count: the largest number of rows, 0 or more.
        """
        rows = list(islice(self._rows(self._last_blocks()), count)) if count else []
        if not rows:
            return []
        return [{"picture": to_picture(picture), **row} for picture, row in zip(self._shown(rows), rows, strict=True)]

    def _shown(self, rows: Sequence[Row]) -> Tensor:
        """Return the pictures of one or more rows as a grid shows them (N, C, H, W), with C from 1 to 4."""
        # One large picture at a time.
        shown = torch.cat([downscale(read_image(self.folder / row["file"])[None]) for row in rows])
        return shown if shown.shape[1] <= 4 else shown[:, :1]

    def _write_table(self, blocks: Sequence[tuple[int, int, Path, int]]) -> float | None:
        """Write samples.csv; return the share of samples that hold, at their last step, None where it does not say."""
        held = known = 0
        with atomic_path(self.folder / TABLE) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            for number, row in enumerate(self._rows(blocks)):
                if number == 0:
                    writer.writerow(row)
                writer.writerow([_cell(value) for value in row.values()])
                is_last = not self.steps or (number + 1) % len(self.steps) == 0
                if is_last and isinstance(row.get("holds"), bool):
                    held, known = held + row["holds"], known + 1
        return held / known if known else None

    def _write_contact(self, blocks: Sequence[tuple[int, int, Path, int]]) -> None:
        steps = max(1, len(self.steps))
        wanted = min(self.count, self._contact if not self.steps else -(-self._contact // 10)) * steps
        table = list(islice(self._rows(blocks), wanted))
        pictures = self._shown(table)
        width = steps if self.steps else 10
        rows = list(pictures.split(width))
        captions = [[self._caption(row) for row in table[i : i + width]] for i in range(0, len(table), width)]
        # Wide enough for a caption.
        scale = max(1, 96 // pictures.shape[-1])
        grid = labelled_grid(rows, [""] * len(rows), self.title, scale, self.steps, captions)
        with atomic_path(self.folder / CONTACT) as temporary:
            grid.save(temporary, format="png")

    def _pack(self, names: Sequence[str]) -> None:
        """Write latents.npz from the arrays, without holding them in memory."""
        with (
            atomic_path(self.folder / LATENTS) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as stored,
        ):
            for name in names:
                # An entry without the date of the file, so that equal latents are equal archives.
                with (
                    stored.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as target,
                    open(self._work / f"{name}.npy", "rb") as source,
                ):
                    shutil.copyfileobj(source, target, 2**22)


def _plain(row: Row) -> Row:
    """Return a row with numbers of NumPy and torch as those of Python."""
    return {name: value.item() if hasattr(value, "item") else value for name, value in row.items()}


def caption_of(query: Query | None = None) -> Callable[[Row], str]:
    """Return the text below a picture of the contact sheet: its seed, the value asked for, and "no" if it is not seen.

    Args:
        query: the condition, whose value is shown where one attribute is free; None for none.

    Example:
        >>> caption_of()({"seed": 3, "holds": False})
        '3 no'
    """
    shows_value = query is not None and len(query.free) == 1

    def caption(row: Row) -> str:
        value = str(row["asked"]).rpartition("== ")[2] if shows_value else ""
        return " ".join(filter(None, [str(row.get("seed", "")), value, "no" if row.get("holds") is False else ""]))

    return caption


def _cell(value: Any) -> str:
    """Return a value as a table shows it: true and false, numbers with 6 digits, nothing for what is not known."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _opened(file: Path, mode: Any) -> NDArray[Any] | None:
    """Return an array on disk, None where the file is missing or damaged."""
    try:
        result: NDArray[Any] = np.load(file, mmap_mode=mode)
        return result
    # A damaged header can be anything.
    except Exception:
        return None


def _difference(there: Any, here: Any, key: str = "") -> list[str]:
    """Return in words the first three values that differ between two recipes."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        names = [*here, *(name for name in there if name not in here)]
        parts = (_difference(there.get(name), here.get(name), f"{key}.{name}" if key else str(name)) for name in names)
        return [text for part in parts for text in part][:3]
    if there == here:
        return []
    return [f"{key} is {_short(there)} there and {_short(here)} here"]


def _short(value: Any) -> str:
    text = "not set" if value is None else f"'{value}'" if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Say a full or unwritable disk in one sentence."""
    try:
        yield
    except OSError as error:
        raise LaceError(
            f"'{folder}' could not be written ({error.strerror or error}): free space or choose another folder, then "
            "run the same command again."
        ) from error


@dataclass(frozen=True)
class Piece:
    """Samples with numbers in a row, which are in one block and at positions in a row.

    Args:
        position: position of the first in the folder.
        number: number of the first.
        count: how many there are.

    Example:
        >>> Piece(0, 250, 10).count
        10
    """

    position: int
    number: int
    count: int


def blocks_of(seeds: Sequence[range], size: int) -> Iterator[tuple[int, list[Piece]]]:
    """Yield the blocks of samples that are computed together, with the pieces of them that are asked for.

    Block k has the numbers k·size .. (k + 1)·size - 1. A sample is always computed with all others of its block, so
    that its bits do not depend on which of them are asked for.

    Args:
        seeds: numbers of samples, ranges without a number in common, in the order of their positions.
        size: samples a block, at least 1.

    Returns:
        An iterator over the first number of a block, and its pieces, in the order of the numbers.

    Example:
        >>> list(blocks_of([range(3, 6), range(0, 1)], 4))  # doctest: +NORMALIZE_WHITESPACE
        [(0, [Piece(position=3, number=0, count=1), Piece(position=0, number=3, count=1)]),
         (4, [Piece(position=1, number=4, count=2)])]
    """
    pieces, position = [], 0
    for part in seeds:
        number = part.start
        while number < part.stop:
            count = min((number // size + 1) * size, part.stop) - number
            pieces.append(Piece(position, number, count))
            position, number = position + count, number + count
    pieces.sort(key=lambda piece: piece.number)
    for block, members in groupby(pieces, key=lambda piece: piece.number // size):
        yield block * size, list(members)


def write_pieces(
    out: SampleFolder,
    system: System,
    query: Query,
    drawn: Drawn,
    block: int,
    pieces: Sequence[Piece],
    judged: Callable[[slice], Labels | None],
    free: Labels | None = None,
    role: str = "judge",
) -> None:
    """Write some samples of a block into a folder, with the table of `sample_table`.

    Args:
        out: the folder.
        system: the system that drew the block.
        query: the condition, of the judge's schema.
        drawn: the samples of the block.
        block: number of its first sample.
        pieces: the samples that are written.
        judged: `judged(rows)` returns the labels that a judge sees in the pictures of these rows of the block, None
            without a judge.
        free: values of the query's free attributes, a row for each sample of the block; None where nothing is free.
        role: what the network of `judged` is in this run, see `sample_table`.
    """
    # Of the whole block: rounding depends on the samples that are computed together.
    latents, probability = system.latents_of(drawn.sample), system.probability(query, drawn.sample, free)
    for piece in pieces:
        rows = slice(piece.number - block, piece.number - block + piece.count)
        table = sample_table(
            query,
            range(piece.number, piece.number + piece.count),
            drawn.sample.rows(rows),
            judged(rows),
            None if free is None else free[rows],
            None if probability is None else probability[rows],
            role,
        )
        out.write(piece.position, drawn.images[rows], {name: value[rows] for name, value in latents.items()}, table)


@dataclass
class Step:
    """One step of a batch: an edit, or another setting of the same samples.

    Args:
        images: pictures (B, C, H, W) uint8.
        latents: latents (B, ...) by name.
        table: a row for each sample, of which the first key is `seed`.

    Example:
        >>> Step(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), {"z": torch.zeros(1, 4)}, [{"seed": 3}]).table
        [{'seed': 3}]
    """

    images: Tensor
    latents: Mapping[str, Tensor]
    table: Sequence[Row]


def write_steps(out: SampleFolder, first: int, steps: Sequence[Step]) -> None:
    """Write those samples of a batch that belong into a folder with steps; latents that a step lacks are left out.

    Args:
        out: the folder, with as many steps.
        first: position of the first sample of the batch.
        steps: the batch after each step.
    """
    count = min(len(steps[0].images), out.count - first)
    names = [name for name in steps[0].latents if all(name in step.latents for step in steps)]
    table = [
        {"seed": step.table[row]["seed"], "step": number, **step.table[row]}
        for row in range(count)
        for number, step in enumerate(steps)
    ]
    out.write(
        first,
        torch.stack([step.images[:count] for step in steps], 1),
        {name: torch.stack([step.latents[name][:count] for step in steps], 1) for name in names},
        table,
    )
