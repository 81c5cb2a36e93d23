"""Editing of given latents at test time: edited latents, strips of pictures and figures of every file."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import progress
from ..artifacts import atomic_path, digest, known_sha256, load_tensors, save_tensors
from ..data import LatentFile, LatentFolder, write_latents
from ..errors import LaceError
from ..generators import Generator, sample_seeds
from ..labelers import Labeler
from ..loggers.series import EDITING
from ..pictures.convert import downscale, from_bytes
from ..pictures.grids import read_image, to_picture
from ..query import Query
from ..schema import Labels
from ..systems.base import System
from ..systems.editing import EditOptions, Editor, in_force
from ..targets import wanted_labels
from .editing import EditStep, SequentialEditing
from .evaluation import Evaluation


@dataclass
class _Record:
    """What was measured for the N latents of one file.

    Args:
        judged: the judge's labels (K + 1, N, A), before and after every edit.
        known: which of them are known, bool.
        holds: whether all edits in force hold (K, N), bool.
        distance: distance of the identity to the picture before (K, N); NaN where it is not measured.
        cost: evaluations and seconds for one sample (K, 2).
    """

    judged: Tensor
    known: Tensor
    holds: Tensor
    distance: Tensor
    cost: Tensor

    @classmethod
    def joined(cls, parts: Sequence[_Record]) -> _Record:
        """Return the record of all latents of parts."""
        counts = torch.tensor([part.judged.shape[1] for part in parts], dtype=torch.float64)
        cost = torch.stack([part.cost for part in parts])
        mean = (cost * (counts / counts.sum())[:, None, None]).sum(0)
        judged, known, holds, distance = (
            torch.cat([getattr(part, name) for part in parts], 1) for name in ("judged", "known", "holds", "distance")
        )
        return cls(judged, known, holds, distance, mean)

    def rows(self, part: slice) -> _Record:
        """Return the record of some of the latents."""
        return _Record(
            self.judged[:, part], self.known[:, part], self.holds[:, part], self.distance[:, part], self.cost
        )


class LatentEditing(SequentialEditing):
    """Apply edits one after the other to given latents, and write them in the layout that they came in.

    For each file, `edited/<name>` has the latents after the last edit, `pictures/<name>_<row>.png` a strip of pictures
    (before, and after every edit) for each latent, and `records/<name>.safetensors` the figures. A file is finished
    when its record is written; the same measurement leaves it as it is. `edits.csv` has the judge's labels of all
    pictures. Figures are those of `SequentialEditing`, without the Fréchet distance. w and w+ are edited in w (see
    `Editor`). Latents w become w+ where an edit changes some style layers alone.

    Args:
        judge: the network that measures.
        edits: queries, in their order.
        options: options of LACE's editor.
        latents: the latents.
        output: folder of the results.
        photographs: folder with a picture <name>.png for files of latents, shown before them; None for none.
        settings: further arguments of `SequentialEditing`.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from lace_lightning.examples import tiny_labeler, tiny_lace, tiny_schema
        >>> from lace_lightning.query import parse
        >>> from lace_lightning.systems.editing import EditOptions
        >>> lace, edits = tiny_lace(), [parse("hat == 1", tiny_schema())]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/z.npy", np.ones((3, 4)))
        ...     latents = LatentFolder(f"{folder}/z.npy", lace.generator)
        ...     editing = LatentEditing(tiny_labeler(), edits, EditOptions(), latents, folder, progress=False)
        ...     result = editing.evaluate(lace)
        ...     np.load(f"{folder}/edited/z.npy").shape, len(list(Path(folder, "pictures").iterdir()))
        ((3, 4), 3)
    """

    needs_data = False

    def __init__(
        self,
        judge: Labeler,
        edits: Sequence[Query],
        options: EditOptions,
        latents: LatentFolder,
        output: str | Path,
        photographs: str | Path | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(judge, edits, options, **{**settings, "num_samples": len(latents)})
        self.latents, self.output = latents, Path(output)
        self.photographs = None if photographs is None else Path(photographs)
        # Names of the files without their endings, but with them where two names differ in their endings alone.
        stems = [str(Path(name).with_suffix("")) for name in latents.names]
        counts = Counter(stems)
        self._stems = [stem if counts[stem] == 1 else name for stem, name in zip(stems, latents.names, strict=True)]
        # Number of the first latent of each file.
        self._firsts = list(accumulate(latents.counts, initial=0))

    def check(self, system: System) -> None:
        super().check(system)
        if self.metrics:
            raise LaceError(
                f"Given latents are measured by the figures of editing alone, received metrics.{self.metrics[0].name}: "
                "set it to null."
            )
        if self.output.resolve().is_relative_to(self.latents.root.resolve()):
            raise LaceError(
                f"The results must not be inside of the folder of latents '{self.latents.root}', where they would be "
                f"taken for latents, and are to be in '{self.output}': choose another folder."
            )
        editor, spaces = self._editor(system), set(self.latents.spaces)
        if spaces != {"z"}:
            editor.begin_styles(torch.zeros(1, system.generator.w_dim, device=system.generator.device))
        if "z" in spaces and self.options.layers:
            raise LaceError(
                "Edited z cannot hold a change of some style layers alone, and editing.layers names some: set "
                "editing.layers=null, or give the latents as w+."
            )

    def _editor(self, system: System) -> Editor:
        editor = system.step_editor(self.options)
        if not isinstance(editor, Editor):
            raise LaceError(
                f"Given latents are edited by LACE, and the system is {type(system).__name__}: set model=none."
            )
        return editor

    def measure(self, system: System, device: torch.device, rank: int, world_size: int) -> Evaluation:
        if world_size > 1:
            raise LaceError(
                f"Given latents are edited by one process, and the run has {world_size}: set trainer.devices=1."
            )
        editor, names = self._editor(system), self.latents.names
        identities = self._identities(system, device)
        undone = [number for number in range(len(names)) if not self._is_done(number, identities[number])]
        total = sum(self.latents.counts[number] for number in undone)
        with progress.bar(f"editing ({system.title})", total, "latent", self.progress) as bar:
            for numbers in self._groups(undone):
                self._edit(editor, system.generator, numbers, [identities[number] for number in numbers], device)
                bar.update(sum(self.latents.counts[number] for number in numbers))
        steps = [EditStep(self.judge.schema, None, device) for _ in self.edits]
        with (
            atomic_path(self.output / "edits.csv") as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as stream,
        ):
            table = csv.writer(stream)
            table.writerow(["file", "row", "state", "holds", "identity", *self.judge.schema.names])
            for number, name in enumerate(names):
                record = self._read(number)
                self._add(steps, record, device)
                table.writerows(self._rows(name, record))
        metrics = self._metrics(system, steps, 0, 1, device)
        titles = self._titles if self.photographs is None else ["photograph", "projected", *self._titles[1:]]
        grid = self._strips(self._shown(), titles)
        return Evaluation(metrics, self.protocol(system, device), grid, series={EDITING: self._series(metrics)})

    def protocol(self, system: System, device: torch.device) -> dict[str, Any]:
        return {**super().protocol(system, device), "latents": self.latents.summary()}

    def _identities(self, system: System, device: torch.device) -> list[str]:
        """Return a digest of everything that the results of each file depend on."""
        common = {
            name: value
            for name, value in super().protocol(system, device).items()
            if name not in ("num_samples", "batch_size", "device")
        }
        result = []
        for number, space in enumerate(self.latents.spaces):
            source = {"file": known_sha256(self.latents.path(number)), "space": space, "first": self._firsts[number]}
            result.append(digest({**common, **source, "recipe": 1}))
        return result

    def _place(self, kind: str, number: int) -> Path:
        name = self.latents.names[number] if kind == "edited" else f"{self._stems[number]}.safetensors"
        return self.output / kind / name

    def _picture(self, number: int, row: int) -> Path:
        count = self.latents.counts[number]
        return self.output / "pictures" / f"{self._stems[number]}{'' if count == 1 else f'_{row:04d}'}.png"

    def _is_done(self, number: int, identity: str) -> bool:
        record = self._place("records", number)
        if not (record.is_file() and self._place("edited", number).is_file()):
            return False
        try:
            return bool(load_tensors(record)[1].get("identity") == identity)
        except LaceError:
            return False

    def _groups(self, numbers: Sequence[int]) -> Iterator[list[int]]:
        """Yield files of one space, together of about a batch."""
        group: list[int] = []
        for number in numbers:
            if group and self.latents.spaces[number] != self.latents.spaces[group[0]]:
                yield group
                group = []
            group.append(number)
            if sum(self.latents.counts[other] for other in group) >= self.batch_size:
                yield group
                group = []
        if group:
            yield group

    def _edit(
        self,
        editor: Editor,
        generator: Generator,
        numbers: Sequence[int],
        identities: Sequence[str],
        device: torch.device,
    ) -> None:
        """Edit the latents of some files together, and write each file."""
        files = [self.latents.read(number) for number in numbers]
        values = torch.cat([file.values for file in files])
        seeds = torch.cat([self._seeds(number) for number in numbers])
        places = [(number, row) for number in numbers for row in range(self.latents.counts[number])]
        records, edited = [], []
        for first in range(0, len(values), self.batch_size):
            part = slice(first, first + self.batch_size)
            record, after = self._edit_batch(
                editor, generator, files[0].space, values[part].to(device), seeds[part].to(device), places[part]
            )
            records.append(record)
            edited.append(after)
        record, after, first = _Record.joined(records), torch.cat(edited), 0
        for number, file, identity in zip(numbers, files, identities, strict=True):
            part = slice(first, first + len(file.values))
            self._write(number, file, after[part], record.rows(part), identity)
            first = part.stop

    def _seeds(self, number: int) -> Tensor:
        return sample_seeds(self.latents.counts[number], self.seed, self._firsts[number])

    def _edit_batch(
        self,
        editor: Editor,
        generator: Generator,
        space: str,
        values: Tensor,
        seeds: Tensor,
        places: Sequence[tuple[int, int]],
    ) -> tuple[_Record, Tensor]:
        """Return the record and the edited latents (N, ...) of a batch, of which the strips are written."""
        state = editor.begin(values) if space == "z" else editor.begin_styles(values)
        images = before = generator.pictures(state.ws)
        labels, strips, holds, distances, costs = [self._labels(images)[1]], [images.cpu()], [], [], []
        for query in self.edits:
            state = editor.apply(state, query, seeds)
            images = generator.pictures(state.ws)
            strips.append(images.cpu())
            labels.append(self._labels(images)[1])
            holds.append(torch.stack([edit.holds(labels[-1]) for edit in state.edits]).all(0))
            distances.append(self._distance(before, images))
            costs.append([state.evaluations, state.seconds / len(values)])
        for column, (number, row) in enumerate(places):
            path = self._picture(number, row)
            with atomic_path(path) as temporary:
                strip = torch.cat([images[column] for images in strips], dim=2)
                to_picture(strip).save(temporary, format="png")
        record = _Record(
            torch.stack([part.values for part in labels]).cpu(),
            torch.stack([part.known for part in labels]).cpu(),
            torch.stack(holds).cpu(),
            torch.stack(distances).cpu(),
            torch.tensor(costs, dtype=torch.float64),
        )
        return record, (state.ws if state.z is None else state.z).cpu()

    def _distance(self, before: Tensor, after: Tensor) -> Tensor:
        if self.identity is None:
            return torch.full((len(before),), torch.nan)
        parts = zip(before.split(64), after.split(64), strict=True)
        return torch.cat([self.identity(*map(from_bytes, pair)) for pair in parts])

    def _write(self, number: int, file: LatentFile, after: Tensor, record: _Record, identity: str) -> None:
        if file.space == "w" and not self.options.layers:
            after = after[:, 0]
        write_latents(self._place("edited", number), after, file.layout)
        # Last: the file is finished where the record exists.
        save_tensors(self._place("records", number), vars(record), {"identity": identity})

    def _read(self, number: int) -> _Record:
        return _Record(**load_tensors(self._place("records", number))[0])

    def _add(self, steps: Sequence[EditStep], record: _Record, device: torch.device) -> None:
        """Add the figures of a file to those of all."""
        count, schema, edits = record.judged.shape[1], self.judge.schema, self.edits
        judged = [
            Labels(schema, values.to(device), known.to(device))
            for values, known in zip(record.judged, record.known, strict=True)
        ]
        force: tuple[Query, ...] = ()
        for number, (query, step) in enumerate(zip(edits, steps, strict=True)):
            force = in_force(force, query)
            step.accuracy.update(judged[number + 1], self._wanted(force, count), record.holds[number].to(device))
            step.strength.update(judged[number], judged[number + 1], wanted_labels(query, count, None))
            if self.identity is not None:
                step.distance.update(record.distance[number].to(device))
            step.evaluations += float(record.cost[number, 0]) * count
            step.seconds += float(record.cost[number, 1]) * count

    def _rows(self, name: str, record: _Record) -> Iterator[list[Any]]:
        """Yield the rows of the table: every latent of a file, before and after every edit."""
        for row in range(record.judged.shape[1]):
            for state, title in enumerate(self._titles):
                values = [
                    f"{float(value):g}" if known else ""
                    for value, known in zip(record.judged[state, row], record.known[state, row], strict=True)
                ]
                holds = "" if state == 0 else str(int(record.holds[state - 1, row]))
                distance = torch.nan if state == 0 else float(record.distance[state - 1, row])
                yield [name, row, title, holds, "" if distance != distance else f"{distance:.4f}", *values]

    def _shown(self) -> list[Tensor]:
        """Return the first strips as rows of pictures (1 + K, C, H, W), small enough for a grid."""
        rows: list[Tensor] = []
        for number, count in enumerate(self.latents.counts):
            for row in range(count):
                if len(rows) == self.strips:
                    return rows
                strip = read_image(self._picture(number, row))
                rows.append(
                    downscale(torch.stack([*self._photograph(number), *strip.chunk(1 + len(self.edits), dim=2)]))
                )
        return rows

    def _photograph(self, number: int) -> list[Tensor]:
        """Return the photograph behind the latents of a file, where there are photographs."""
        return [] if self.photographs is None else [read_image(self.photographs / f"{self._stems[number]}.png")]
