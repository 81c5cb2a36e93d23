"""Sequential editing at test time: ACC, DES, ID and Fréchet distance after every edit, strips of pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchmetrics import MeanMetric

from ..artifacts import Cache
from ..generators import Generator, sample_seeds
from ..labelers import Labeler
from ..metrics import ConditionalAccuracy, EditStrength, FeatureStatistics, frechet_distance
from ..metrics.feature_space import FeatureSpace
from ..pictures.convert import downscale, from_bytes
from ..pictures.grids import labelled_grid
from ..query import Query
from ..schema import Labels, Schema
from ..systems.editing import Editor, EditState, StepEditor
from ..targets import wanted_labels
from .evaluation import Evaluation, LatentEvaluation

Distance = Callable[[Tensor, Tensor], Tensor]


class StepwiseEditing(LatentEvaluation):
    """Apply `edits` one after the other to latents of the prior and measure after each. Subclasses give the `editor`.

    `edit<k>/acc`: ACC of all edits in force after the k-th, `edit<k>/holds`: how often all of them hold; `edit<k>/des`,
    `edit<k>/id` (distance of `identity` to the picture before any edit), `edit<k>/<distance>`, `edit<k>/evaluations`.
    Without `edit<k>/`: after the last one, `des` and `evaluations` the mean over the edits. `strips` people go into the
    picture, one row each, one column an edit, and into `frames`, where they change from one edit to the next along
    straight lines between their styles.
    """

    frames_per_edit = 8

    def __init__(
        self,
        generator: Generator,
        judge: Labeler,
        sampler: Any,
        edits: Sequence[Query],
        options: Any,
        feature_space: FeatureSpace | None = None,
        cache: Cache | None = None,
        identity: Distance | None = None,
        num_samples: int = 1000,
        batch_size: int = 250,
        seed: int = 1,
        strips: int = 8,
        progress: bool = True,
        identity_protocol: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(generator, judge, sampler, feature_space, cache, num_samples, batch_size, seed, progress)
        self.edits, self.options, self.identity, self.strips = list(edits), options, identity, strips
        self.identity_protocol = dict(identity_protocol or {})

    def editor(self, source: Any, device: torch.device) -> StepEditor:
        """Return what edits, of what the test was given."""
        raise NotImplementedError

    def measure(self, source: Any, device: torch.device, rank: int, world_size: int) -> Evaluation:
        editor = self.editor(source, device)
        steps = [_Step(self.judge.schema, self.statistics(device), device) for _ in self.edits]
        rows: list[Tensor] = []
        path: list[Tensor] = []
        for first, count in self._batches(rank, world_size, "editing"):
            seeds = sample_seeds(count, self.seed, first).to(device)
            state = editor.begin(self.generator.prior(count, self.seed, first, device))
            original = self._pictures(state)
            before = self._labels(original)[1]
            shown, styles = [downscale(original[: self.strips])], [state.ws]
            for query, step in zip(self.edits, steps, strict=True):
                state = editor.apply(state, query, seeds)
                images = self._pictures(state)
                features, judged = self._labels(images)
                held = torch.stack([edit.holds(judged) for edit in state.edits]).all(0)
                step.accuracy.update(judged, self._wanted(state, count), held)
                step.strength.update(before, judged, wanted_labels(query, count, None))
                if self.identity is not None:
                    for pair in zip(original.split(64), images.split(64), strict=True):
                        step.distance.update(self.identity(*map(from_bytes, pair)))
                if step.quality is not None:
                    step.quality.update(features)
                step.evaluations += state.evaluations * count
                step.seconds += state.seconds
                before = judged
                shown.append(downscale(images[: self.strips]))
                styles.append(state.ws)
            if first == 0:
                path = [ws[: self.strips] for ws in styles]
            if first < self.strips:
                rows.extend(
                    torch.stack([images[row].cpu() for images in shown])
                    for row in range(min(count, self.strips - first))
                )
        return Evaluation(
            self._metrics(steps, rank, world_size, device),
            self.protocol(source, device),
            self._strips(rows),
            self._frames(path),
        )

    def _pictures(self, state: EditState) -> Tensor:
        return self.generator.pictures(state.ws)

    def _labels(self, images: Tensor) -> tuple[Tensor, Labels]:
        features, logits = self._judge(images)
        return features, self.judge.schema.decode(logits)

    def _wanted(self, state: EditState, count: int) -> Labels:
        """Return what all edits in force want."""
        parts = [wanted_labels(query, count, None) for query in state.edits]
        values, known = parts[0].values.clone(), parts[0].known.clone()
        for part in parts[1:]:
            values[part.known] = part.values[part.known]
            known |= part.known
        return Labels(parts[0].schema, values, known)

    def _metrics(self, steps: list[_Step], rank: int, world_size: int, device: torch.device) -> dict[str, float]:
        share, space = max(self._share(rank, world_size), 1), self.feature_space
        result: dict[str, float] = {}
        for number, step in enumerate(steps, 1):
            accuracy = step.accuracy.compute()
            figures = {
                "acc": accuracy["acc"],
                "holds": accuracy["holds"],
                "des": step.strength.compute()["des"],
                "evaluations": step.evaluations / share,
            }
            if self.identity is not None:
                figures["id"] = float(step.distance.compute())
            if space is not None and step.quality is not None:
                figures[space.name(self.num_samples)] = frechet_distance(step.quality.compute(), space.reference)
            result |= {f"edit{number}/{name}": value for name, value in figures.items()}
        last = f"edit{len(steps)}/"
        final = {name.removeprefix(last): value for name, value in result.items() if name.startswith(last)}
        final |= {
            name: sum(result[f"edit{k}/{name}"] for k in range(1, len(steps) + 1)) / len(steps)
            for name in ("des", "evaluations")
        }
        if space is not None:
            final[f"{space.name(self.num_samples)}/unconditional"] = self._unconditional(rank, world_size, device)
        final["seconds/sampling_per_64"] = sum(step.seconds for step in steps) / len(steps) * 64 / share
        return {**final, **steps[-1].accuracy.compute(), **result}

    def protocol(self, source: Any, device: torch.device) -> dict[str, Any]:
        """Return what the figures were measured on and with."""
        return {
            "query": ", ".join(map(str, self.edits)),
            "editing": vars(self.options),
            **({"identity": self.identity_protocol} if self.identity_protocol else {}),
            "des": "Σ(gain)/Σ(room) - mean(largest change of another attribute)",
            **self._common_protocol(source, device),
        }

    @property
    def _titles(self) -> list[str]:
        return ["before", *(str(query) for query in self.edits)]

    def _frames(self, path: list[Tensor]) -> list[Image.Image]:
        """Draw the way from state to state; every state stays for a while."""
        frames = []
        for number, (title, ws) in enumerate(zip(self._titles, path, strict=False)):
            before = path[max(number - 1, 0)]
            for step in range(1, self.frames_per_edit + 1) if number else (1,):
                images = downscale(
                    self.generator.pictures(torch.lerp(before, ws, step / self.frames_per_edit if number else 1.0))
                )
                frames.append(
                    labelled_grid(
                        list(images.cpu().split(4)),
                        [""] * -(-len(images) // 4),
                        title,
                        scale=max(1, 96 // images.shape[-1]),
                    )
                )
            frames.extend([frames[-1]] * (self.frames_per_edit - 1))
        # A long title makes its frames larger; the pictures stay where they are.
        width, height = (max((getattr(frame, side) for frame in frames), default=0) for side in ("width", "height"))
        return [ImageOps.expand(frame, (0, height - frame.height, width - frame.width, 0), "white") for frame in frames]

    def _strips(self, rows: list[Tensor]) -> Image.Image | None:
        if not rows:
            return None
        return labelled_grid(rows, [""] * len(rows), columns=self._titles, scale=max(1, 96 // rows[0].shape[-1]))


class SequentialEditing(StepwiseEditing):
    """Edit by a latent classifier and a sampler, by the `EditOptions` that are its `options`, and measure
    (`StepwiseEditing`).
    """

    def editor(self, source: Any, device: torch.device) -> StepEditor:
        return Editor(self.generator, source, self.sampler, self.options)


class _Step:
    """What is summed up for one edit."""

    def __init__(self, schema: Schema, quality: FeatureStatistics | None, device: torch.device) -> None:
        self.accuracy = ConditionalAccuracy(schema).to(device)
        self.strength = EditStrength(schema).to(device)
        self.distance, self.quality = MeanMetric().to(device), quality
        self.evaluations = self.seconds = 0.0
