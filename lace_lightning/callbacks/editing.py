"""Sequential editing at test time: ACC, DES, ID and Fréchet distance after every edit, strips of pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchmetrics import MeanMetric

from ..cache import Cache
from ..generators import sample_seeds
from ..labelers import Labeler
from ..loggers.series import EDITING
from ..metrics import ConditionalAccuracy, EditStrength, FeatureStatistics, frechet_distance, judged_labels
from ..metrics.base import MeasuredBatch, collect_figures
from ..metrics.feature_space import FeatureSpace
from ..pictures.animation import walk_frames
from ..pictures.convert import downscale, from_bytes
from ..pictures.grids import labelled_grid, to_picture
from ..query import Query
from ..samplers import Sample
from ..schema import Labels, Schema
from ..systems.base import ConditionalModel, System
from ..systems.editing import EditState
from ..systems.handover import Row, Step, sample_table, write_steps
from ..targets import wanted_labels
from .evaluation import Evaluation, ResultTable, SystemEvaluation

Distance = Callable[[Tensor, Tensor], Tensor]


class SequentialEditing(SystemEvaluation):
    """Apply edits one after the other to latents of the prior with a system, and measure after each.

    Figures of the k-th edit: `edit<k>/acc`, the ACC of all edits in force; `edit<k>/holds`, the share of samples for
    which all of them hold; `edit<k>/des`; `edit<k>/id`, the distance of the identity to the picture before any edit;
    `edit<k>/<distance>`, the Fréchet distance; `edit<k>/evaluations`. The same names without `edit<k>/` are those of
    the last edit, but `des` and `evaluations` are means over the edits.

    Args:
        judge: the network that measures.
        edits: queries, in their order.
        options: options of the system's editor, of its class `edit_options`.
        feature_space: features and reference of the Fréchet distance; None leaves it out.
        cache: cache of the measurement of the generator alone; None for none.
        identity: distance (B,) of two batches of pictures (B, C, H, W) in [-1, 1]; None leaves ID out.
        identity_protocol: plain values that describe the distance, for the record.
        strips: number of samples in the picture and the animation, at least 1; the picture has a row for each.
        settings: `num_samples`, `batch_size`, `seed`, `progress` and `metrics`, see `SystemEvaluation`.

    References:
        Sequential editing, DES and ID of LACE (arXiv 2110.10873).

    Example:
        >>> from lace_lightning.examples import tiny_labeler, tiny_lace, tiny_schema
        >>> from lace_lightning.query import parse
        >>> schema = tiny_schema()
        >>> lace = tiny_lace()
        >>> judge = tiny_labeler()
        >>> from lace_lightning.systems.editing import EditOptions
        >>> edits = [parse("hat == 1", schema)]
        >>> editing = SequentialEditing(judge, edits, EditOptions(), num_samples=2, batch_size=2, progress=False)
        >>> result = editing.evaluate(lace)
        >>> {"acc", "des", "edit1/acc", "edit1/evaluations"} <= set(result.metrics)
        True
    """

    frames_per_edit = 8

    def __init__(
        self,
        judge: Labeler,
        edits: Sequence[Query],
        options: Any,
        feature_space: FeatureSpace | None = None,
        cache: Cache | None = None,
        identity: Distance | None = None,
        identity_protocol: Mapping[str, Any] | None = None,
        strips: int = 8,
        **settings: Any,
    ) -> None:
        super().__init__(judge, feature_space, cache, **settings)
        self.edits, self.options, self.identity, self.strips = list(edits), options, identity, strips
        self.identity_protocol = dict(identity_protocol or {})

    def check(self, system: System) -> None:
        """Refuse edits and options that the system cannot take.

        Raises:
            LaceError: for such edits and options.
        """
        for query in self.edits:
            query.on(system.schema)
            system.check_query(query)
        system.step_editor(self.options)

    def measure(self, system: System, device: torch.device, rank: int, world_size: int) -> Evaluation:
        editor, generator = system.step_editor(self.options), system.generator
        if system.labeler is not None:
            system.labeler.to(device)
        steps = [EditStep(self.judge.schema, self.statistics(device), device) for _ in self.edits]
        rows: list[Tensor] = []
        path: list[Tensor] = []
        people: list[Row] = []
        for first, count in self._batches(rank, world_size, f"editing ({system.title})"):
            seeds = sample_seeds(count, self.seed, first).to(device)
            state = editor.begin(generator.prior(count, self.seed, first, device))
            original = before_images = generator.pictures(state.ws)
            before_features, before = self._labels(original)
            kept, styles = [downscale(original[: self.strips])], [state.ws]
            is_kept = self.kept is not None and first < self.kept.count
            is_told = first < min(self.table, self.strips)
            made = [self._step(0, first, original, state, before)] if is_kept or is_told else []
            for number, (query, step) in enumerate(zip(self.edits, steps, strict=True), 1):
                state = editor.apply(state, query, seeds)
                images = generator.pictures(state.ws)
                features, judged = self._labels(images)
                holds = torch.stack([edit.holds(judged) for edit in state.edits]).all(0)
                wanted = self._wanted(state.edits, count)
                step.accuracy.update(judged, wanted, holds)
                step.strength.update(before, judged, wanted_labels(query, count, None))
                if self.identity is not None:
                    for pair in zip(original.split(64), images.split(64), strict=True):
                        step.distance.update(self.identity(*map(from_bytes, pair)))
                if step.quality is not None:
                    step.quality.update(features)
                if number == len(self.edits):
                    earlier = MeasuredBatch(
                        images=before_images,
                        judged=before,
                        query=query,
                        wanted=wanted,
                        holds=holds,
                        features=before_features,
                    )
                    for metric in self.metrics:
                        metric.update(
                            MeasuredBatch(
                                images=images,
                                judged=judged,
                                query=query,
                                wanted=wanted,
                                holds=holds,
                                features=features,
                                before=earlier,
                                conditions=tuple(state.edits),
                            )
                        )
                if is_kept or is_told:
                    made.append(self._step(number, first, images, state, judged))
                step.evaluations += state.evaluations * count
                step.seconds += state.seconds
                before, before_images, before_features = judged, images, features
                kept.append(downscale(images[: self.strips]))
                styles.append(state.ws)
            if self.kept is not None and is_kept:
                write_steps(self.kept, first, made)
            if is_told:
                people += self._people(first, made)
            if first == 0:
                path = [ws[: self.strips] for ws in styles]
            if first < self.strips:
                rows.extend(
                    torch.stack([images[row].cpu() for images in kept])
                    for row in range(min(count, self.strips - first))
                )
        metrics = self._metrics(system, steps, rank, world_size, device)
        metrics |= collect_figures(self.metrics, metrics)
        return Evaluation(
            metrics,
            self.protocol(system, device),
            self._strips(rows, self._titles),
            walk_frames(path, self._titles, generator.pictures, self.frames_per_edit),
            tables={"strips": ResultTable.of(people)} if people else {},
            series={EDITING: self._series(metrics)},
        )

    def _people(self, first: int, made: Sequence[Step]) -> list[Row]:
        """Return a row of the loggers' table for each of the first people: strip, and what holds after each edit."""
        rows: list[Row] = []
        for place in range(min(len(made[0].images), min(self.table, self.strips) - first)):
            strip = torch.cat([downscale(step.images[place : place + 1])[0].cpu() for step in made], dim=2)
            row: Row = {"strip": to_picture(strip), "seed": made[0].table[place]["seed"]}
            for number, step in enumerate(made[1:], 1):
                row |= {f"edit {number}": step.table[place]["asked"], f"holds {number}": step.table[place]["holds"]}
            rows.append(row)
        return rows

    def _series(self, metrics: Mapping[str, float]) -> list[dict[str, float]]:
        """Return the figures after each edit, with the number of the edit as the step."""
        rows: list[dict[str, float]] = []
        for number in range(1, len(self.edits) + 1):
            start = f"edit{number}/"
            own = {name.removeprefix(start): value for name, value in metrics.items() if name.startswith(start)}
            rows.append({"step": number, **own})
        return rows

    def kept_as(self) -> dict[str, Any]:
        return {"title": ", ".join(map(str, self.edits)), "steps": self._titles}

    def _step(self, number: int, first: int, images: Tensor, state: EditState, judged: Labels) -> Step:
        """Return what is kept of a batch after an edit, or before all edits (0)."""
        # Not every editor knows z.
        found = {name: getattr(state, name, None) for name in ("z", "ws")}
        latents = {name: value for name, value in found.items() if value is not None}
        # The first state has cost nothing; evaluations are those of each sample.
        sample = Sample(images, state.evaluations, state.seconds)
        table = sample_table(None, range(first, first + len(images)), sample, judged, role=self.role)
        holds = torch.stack([edit.holds(judged) for edit in state.edits]).all(0).tolist() if number else []
        asked = str(self.edits[number - 1]) if number else None
        return Step(
            images,
            latents,
            [
                {"seed": row["seed"], "asked": asked, **row, "holds": true}
                for row, true in zip(table, holds or [None] * len(table), strict=True)
            ],
        )

    def _labels(self, images: Tensor) -> tuple[Tensor, Labels]:
        features, logits = self._judge(images)
        return features, judged_labels(self.judge.schema, logits)

    def _wanted(self, edits: Sequence[Query], count: int) -> Labels:
        """Return the labels that edits in force ask for."""
        parts = [wanted_labels(query, count, None) for query in edits]
        values, known = parts[0].values.clone(), parts[0].known.clone()
        for part in parts[1:]:
            values[part.known] = part.values[part.known]
            known |= part.known
        return Labels(parts[0].schema, values, known)

    def _metrics(
        self, system: System, steps: list[EditStep], rank: int, world_size: int, device: torch.device
    ) -> dict[str, float]:
        share, space = max(self._share(rank, world_size), 1), self.feature_space
        result: dict[str, float] = {}
        for number, (query, step) in enumerate(zip(self.edits, steps, strict=True), 1):
            accuracy = step.accuracy.compute()
            # An edit with `not` or `or` names no label: whether it holds is measured, its strength is not defined.
            names_labels = bool(wanted_labels(query, 1, None).known.any())
            figures = {
                **({"acc": accuracy["acc"]} if "acc" in accuracy else {}),
                **({"holds": accuracy["holds"]} if "holds" in accuracy else {}),
                **({"des": step.strength.compute()["des"]} if names_labels else {}),
                "evaluations": step.evaluations / share,
            }
            if self.identity is not None:
                figures["id"] = float(step.distance.compute())
            if space is not None and step.quality is not None:
                figures[space.name(self.num_samples)] = frechet_distance(step.quality.compute(), space.reference)
            result |= {f"edit{number}/{name}": value for name, value in figures.items()}
        last = f"edit{len(steps)}/"
        final = {name.removeprefix(last): value for name, value in result.items() if name.startswith(last)}
        for name in ("des", "evaluations"):
            values = [result[key] for k in range(1, len(steps) + 1) if (key := f"edit{k}/{name}") in result]
            if values:
                final[name] = sum(values) / len(values)
        if space is not None:
            final[f"{space.name(self.num_samples)}/unconditional"] = self._unconditional(
                system.generator, rank, world_size, device
            )
        final["seconds/sampling_per_64"] = sum(step.seconds for step in steps) / len(steps) * 64 / share
        return {**final, **steps[-1].accuracy.compute(), **result}

    def protocol(self, system: System, device: torch.device) -> dict[str, Any]:
        """Return the settings behind the figures, for the record."""
        protocol = {
            "query": ", ".join(map(str, self.edits)),
            "editing": vars(self.options),
            **({"identity": self.identity_protocol} if self.identity_protocol else {}),
            "des": "Σ(gain)/Σ(room) - mean(largest change of another attribute)",
            **self._common_protocol(system, device),
            **system.protocol(),
        }
        if isinstance(system, ConditionalModel) and system.labeler is not None:
            # Such a model needs the attributes before an edit, which are labels of the picture.
            role = "judge" if system.labeler is self.judge else "labeler"
            protocol["attributes_before"] = f"{role}: {system.labeler.name} {system.labeler.digest}"
        return protocol

    @property
    def _titles(self) -> list[str]:
        return ["before", *(str(query) for query in self.edits)]

    def _strips(self, rows: list[Tensor], titles: Sequence[str]) -> Image.Image | None:
        if not rows:
            return None
        return labelled_grid(rows, [""] * len(rows), columns=titles, scale=max(1, 96 // rows[0].shape[-1]))


class EditStep:
    """Sums over the samples of one edit.

    Args:
        schema: the judge's attributes.
        quality: statistics of the Fréchet distance, None where it is not measured.
        device: device of the sums.

    Example:
        >>> from lace_lightning.examples import tiny_schema
        >>> EditStep(tiny_schema(), None, torch.device("cpu")).evaluations
        0.0
    """

    def __init__(self, schema: Schema, quality: FeatureStatistics | None, device: torch.device) -> None:
        self.accuracy = ConditionalAccuracy(schema).to(device)
        self.strength = EditStrength(schema).to(device)
        self.distance, self.quality = MeanMetric().to(device), quality
        self.evaluations = self.seconds = 0.0
