"""Conditional sampling at test time: ACC, Fréchet distance, cost, pictures."""

from __future__ import annotations

import copy
import statistics as stats
from dataclasses import dataclass
from itertools import islice, product
from math import prod
from time import perf_counter
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..artifacts import Cache, digest, load_tensors, save_tensors
from ..classifiers import AttributeClassifier
from ..data.conditions import free_labels, wanted_labels
from ..energies import Energy
from ..errors import LaceError, suggest
from ..generators import Generator, sample_seeds
from ..labelers import Labeler
from ..metrics import BranchShares, ConditionalAccuracy, frechet_distance
from ..pictures import numbers, shrunk
from ..query import Query
from ..samplers import Checked, Sample, Sampler
from ..schema import KINDS, Labels
from .diagnosis import Diagnosis, PictureCheck, PosteriorDistance
from .evaluation import Evaluation, LatentEvaluation
from .grids import labelled_grid
from .quality import FeatureSpace

TARGETS = ("calibrated", "controlled", "hard")
CONTROLLED = 6.0


@dataclass(frozen=True)
class EnergyOptions:
    """How a query becomes an energy: logic, σ of continuous attributes, temperature of discrete ones, and the target.

    `target` is `calibrated`, N(z)·p(c|w); `controlled`, N(z)·p(c|w)^γ; `hard`, N(z)·1[all decisions right]; or None for what `weight`,
    the γ, says: calibrated without one. Controlled, and the way into the hard region, have γ = 6 where no weight is given.
    Raises LaceError for another target, and for a weight beside `calibrated`.
    """

    logic: str = "exact"
    sigma: float = 0.1
    temperature: float = 1.0
    paper_temperature: bool = False
    target: str | None = None
    weight: float | None = None

    def __post_init__(self) -> None:
        if self.target not in (None, *TARGETS):
            raise LaceError(f"query.target must be one of {', '.join(TARGETS)}, received '{self.target}'."
                            f"{suggest(str(self.target), TARGETS)}")
        if self.target == "calibrated" and self.weight not in (None, 1):
            raise LaceError(f"The calibrated target has weight 1, and query.weight is {self.weight}: set query.weight=null, or "
                            "query.target=controlled.")
        if self.target == "hard" and self.logic != "exact":
            raise LaceError(f"The hard target needs exact logic, received query.logic={self.logic}: set query.logic=exact.")

    @property
    def gamma(self) -> float:
        """Return γ of p(c|w)^γ."""
        return self.weight if self.weight is not None else CONTROLLED if self.target in ("controlled", "hard") else 1.0

    @property
    def hard(self) -> bool:
        """Return whether the target has walls."""
        return self.target == "hard"


class ConditionalSampling(LatentEvaluation):
    """Sample latents that satisfy a query, turn them into pictures, and measure them; runs at the end of a test epoch.

    `pictures_per_class` columns go into the grid. The unconditional generator is measured on the same starting points. Free
    attributes are balanced or uniform for ACC; the Fréchet distance is measured on the same samples, or, with
    `distance_codes="pairs"`, on as many others whose attributes come from the labels of the pairs, which are in `pairs`.
    `prior/holds` is how often the query holds for the same starting points alone; for a disjunction, both have the shares of its
    sides. Diagnostics of the sampler come with every run (`SamplerDiagnosis`); with `posterior_sets` above 1 the latents are also
    measured against so many exact sets. A sampler that checks (`hybrid`) asks the `labeler`.
    """

    pairs: Labels | None = None
    rows_of_grid = 20

    def __init__(self, generator: Generator, judge: Labeler, sampler: Sampler, query: Query, options: EnergyOptions,
                 feature_space: FeatureSpace | None = None, cache: Cache | None = None, num_samples: int = 10_000,
                 batch_size: int = 500, seed: int = 1, pictures_per_class: int = 10, timing_repeats: int = 3, timing_batch: int = 64,
                 distance_codes: str = "same", progress: bool = True, labeler: Labeler | None = None, posterior_sets: int = 0) -> None:
        super().__init__(generator, judge, sampler, feature_space, cache, num_samples, batch_size, seed, progress)
        self.query, self.options, self.distance_codes = query, options, distance_codes
        self.pictures_per_class, self.timing_repeats, self.timing_batch = pictures_per_class, timing_repeats, timing_batch
        self.labeler, self.posterior_sets = labeler, posterior_sets
        self.frozen: Sampler | None = None
        if isinstance(sampler, Checked) and labeler is None:
            raise LaceError("A sampler that checks its pictures needs a labeler: give ConditionalSampling(labeler=...).")

    def measure(self, classifier: AttributeClassifier, device: torch.device, rank: int, world_size: int) -> Evaluation:
        part = classifier.part(self.query.attributes)
        accuracy = ConditionalAccuracy(self.query.schema).to(device)
        branches, quality = BranchShares(self.query).to(device), self.statistics(device)
        own_codes = self.pairs if self.distance_codes == "pairs" and self.query.free else None
        cost = {"evaluations": 0.0, "sampling": 0.0, "synthesis": 0.0}
        kept: list[tuple[Tensor, Labels | None]] = []
        self.freeze(part, device)
        diagnosis = Diagnosis(self.query, part, self.generator, device)
        distance = self._posterior(part, device) if self.posterior_sets > 1 else None
        for first, count in self._batches(rank, world_size, "sampling"):
            sample, images, free = self.draw(part, first, count, device)
            codes = None if free is None else free.to(device)
            diagnosis.update(self.generator.prior(count, self.seed, first, device), sample, codes,
                             self.energy(part, codes, event=True), self.energy(part, codes))
            if distance is not None:
                distance.update(sample.z, codes)
            features, logits = self._judge(images)
            judged = self.query.schema.decode(logits)
            accuracy.update(judged, wanted_labels(self.query, count, free), self.query.holds(judged, free))
            branches.update(judged, free)
            if quality is not None and own_codes is None:
                quality.update(features)
            cost["evaluations"] += sample.evaluations * count
            cost["sampling"] += sample.seconds
            cost["synthesis"] += self.synthesis_seconds
            if first < self._shown():
                kept.append((shrunk(images).cpu(), free))
        if quality is not None and own_codes is not None:
            for first, count in self._batches(rank, world_size, "sampling for the distance"):
                images = self.draw(part, first, count, device, own_codes)[1]
                quality.update(self._judge(images)[0])
        share = self._share(rank, world_size)
        metrics = {**accuracy.compute(), **branches.compute(), **self._prior(device)}
        metrics["evaluations"] = cost["evaluations"] / max(share, 1)
        if self.feature_space and quality is not None:
            name = self.feature_space.name(self.num_samples)
            metrics[name] = frechet_distance(quality.compute(), self.feature_space.reference)
            metrics[f"{name}/unconditional"] = self._unconditional(rank, world_size, device)
        metrics |= diagnosis.compute()
        protocol = self._protocol(classifier, device)
        if distance is not None:
            figures, protocol["posterior"] = self._distances(distance, part, device)
            metrics |= figures
        metrics |= self._timing(part, device, cost, share)
        return Evaluation(metrics, protocol, self._grid(kept) if kept else None)

    def freeze(self, part: AttributeClassifier, device: torch.device) -> None:
        """Let a pilot measure what the sampler needs, once for all batches and the same in every process."""
        count = min(self.batch_size, self.num_samples)
        free = free_labels(self.query, count, self.seed)
        energy = self.energy(part, None if free is None else free.to(device))
        self.frozen = self.sampler.calibrated(energy, self.generator.prior(count, self.seed, 0, device))

    def _posterior(self, part: AttributeClassifier, device: torch.device) -> PosteriorDistance:
        space = part.space if part.space != "x" else "z"
        return PosteriorDistance(self.query, self.generator.map_to(space) or (lambda z: z),
                                 self.generator.w_dim if space == "w" else self.generator.z_dim, self.posterior_sets, device)

    def _distances(self, distance: PosteriorDistance, part: AttributeClassifier, device: torch.device) -> tuple[dict[str, float], str]:
        starts = range(0, self.num_samples, self.batch_size)
        batches = [(first, min(self.batch_size, self.num_samples - first)) for first in starts]

        def free_of(first: int, count: int) -> Labels | None:
            free = free_labels(self.query, count, self.seed, first)
            return None if free is None else free.to(device)

        key = {"classifier": part.digest, "generator": self.generator.digest, "query": self.query.text, "options": vars(self.options),
               "batches": batches, "seed": self.seed, "sets": self.posterior_sets, "format": 1}
        return distance.compute(batches, self.seed, self.generator, lambda free: self.energy(part, free), free_of, self.cache, key)

    def _prior(self, device: torch.device) -> dict[str, float]:
        """Return how often the query holds for the pictures of the starting points, as the judge sees them."""
        if self.query.free:
            return {}
        labels, branches = self._judged_prior(device), BranchShares(self.query)
        branches.update(labels)
        shares = {f"prior/{name}": share for name, share in branches.compute().items()}
        return {"prior/holds": float(self.query.holds(labels).double().mean()), **shares}

    def _judged_prior(self, device: torch.device) -> Labels:
        """Return what the judge sees without any query; looked at once for all queries."""
        key = digest({"generator": self.generator.digest, "judge": self.judge.digest, "count": self.num_samples, "seed": self.seed})
        path = None if self.cache is None else self.cache.folder("prior", key) / "labels.safetensors"
        if path is not None and path.is_file():
            return Labels(self.judge.schema, load_tensors(path)[0]["values"])
        with torch.no_grad():
            labels = Labels.cat(self.judge.labels(part).to("cpu") for images in self._unconditional_pictures(0, 1, device)
                                for part in numbers(images))
        if path is not None:
            save_tensors(path, {"values": labels.values}, {})
        return labels

    def draw(self, classifier: AttributeClassifier, first: int, count: int, device: torch.device,
             codes: Labels | None = None) -> tuple[Sample, Tensor, Labels | None]:
        """Return latents, pictures (uint8) and free conditions (from `codes`, if given) of samples first .. first + count - 1."""
        free = free_labels(self.query, count, self.seed, first, codes)
        energy = self.energy(classifier, None if free is None else free.to(device))
        z = self.generator.prior(count, self.seed, first, device)
        sampler, check = self.frozen or self.sampler, None
        if isinstance(sampler, Checked):
            assert self.labeler is not None
            check = PictureCheck(self.generator, self.labeler.to(device), self.query, free, count, sampler.tolerance)
            sampler = copy.copy(sampler)
            sampler.check = check
        sample = sampler(energy, z, seeds=sample_seeds(count, self.seed, first).to(device))
        start = perf_counter()
        with torch.no_grad():
            images = check.images if check is not None else self.generator.pictures(self.generator.mapping(sample.z))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.synthesis_seconds = perf_counter() - start
        return sample, images, free

    def energy(self, classifier: AttributeClassifier, free: Labels | None, event: bool = False) -> Energy:
        """Return the energy of the target on z, or that of the event itself, -log p(c|w)."""
        o = self.options
        energy = classifier.energy(self.query, free, o.logic, o.sigma, o.temperature, o.paper_temperature,
                                   1.0 if event else o.gamma, o.hard and not event)
        return energy.pullback(self.generator.map_to(classifier.space))

    def _shown(self) -> int:
        """Return how many of the first samples the picture needs."""
        classes = [self.query.schema[name].num_classes for name in self.query.free if self.query.schema[name].kind == "discrete"]
        return self.pictures_per_class * (min(prod(classes), 200) if classes else 8)

    def _timing(self, classifier: AttributeClassifier, device: torch.device, cost: dict[str, float], share: int) -> dict[str, float]:
        """Seconds per 64 samples: over the whole run, and the median of a few repeats with batches of 64."""
        scale = 64 / max(share, 1)
        result = {"seconds/sampling_per_64": cost["sampling"] * scale, "seconds/synthesis_per_64": cost["synthesis"] * scale}
        if self.timing_repeats > 0:
            runs = []
            for repeat in range(self.timing_repeats + 1):
                sample, _, _ = self.draw(classifier, 0, self.timing_batch, device)
                runs.append((sample.seconds, self.synthesis_seconds))
                if repeat == 0:
                    runs.clear()  # the first one warms up
            result["seconds/sampling_batch_64"] = stats.median(r[0] for r in runs) * 64 / self.timing_batch
            result["seconds/synthesis_batch_64"] = stats.median(r[1] for r in runs) * 64 / self.timing_batch
        return result

    def _protocol(self, classifier: AttributeClassifier, device: torch.device) -> dict[str, Any]:
        protocol = {"query": self.query.text, "energy": {**vars(self.options), "gamma": self.options.gamma},
                    "distance_codes": self.distance_codes, **self._common_protocol(classifier, device)}
        if self.frozen is not None and self.frozen is not self.sampler:
            protocol |= {"frozen": repr(self.frozen), "pilot_seconds": round(self.frozen.pilot_seconds, 3)}
            if self.frozen.reason:
                protocol["reason"] = self.frozen.reason
        return protocol

    def _grid(self, kept: list[tuple[Tensor, Labels | None]]) -> Image.Image:
        """Draw a row for every combination of free classes, in it pictures in the order of the first free continuous value."""
        images = torch.cat([part for part, _ in kept])
        title = f"{self.query.text}   {type(self.sampler).__name__}"
        free = Labels.cat(Labels.constant(self.query.schema, len(part)) if codes is None else codes for part, codes in kept)
        attributes = [self.query.schema[name] for name in self.query.free]
        discrete, values = ([a for a in attributes if a.kind == kind] for kind in KINDS)
        rows, labels, captions = [], [], []
        for combination in islice(product(*(range(a.num_classes) for a in discrete)), self.rows_of_grid):
            chosen = torch.ones(len(images), dtype=torch.bool)
            for attribute, number in zip(discrete, combination, strict=True):
                chosen &= free.column(attribute.name) == number
            index = chosen.nonzero()[: self.pictures_per_class, 0] if discrete else torch.arange(len(images))[: 8 * self.pictures_per_class]
            if values:
                index = index[free.column(values[0].name)[index].argsort()]
            for part in index.split(self.pictures_per_class):
                rows.append(images[part])
                labels.append(", ".join(a.describe(number) for a, number in zip(discrete, combination, strict=True)))
                captions.append([" ".join(a.describe(float(free.column(a.name)[i])) for a in values) for i in part.tolist()])
        return labelled_grid(rows, labels, title, captions=captions if values else ())
