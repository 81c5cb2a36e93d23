"""Conditional sampling at test time: ACC, Fréchet distance, cost, pictures."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..artifacts import Cache
from ..classifiers import AttributeClassifier
from ..energies import Energy
from ..errors import LaceError, suggest
from ..generators import Generator, sample_seeds
from ..labelers import Labeler
from ..metrics.feature_space import FeatureSpace
from ..query import Query
from ..samplers import Checked, Sample, Sampler
from ..schema import Labels
from ..systems.diagnostics import Diagnosis, PictureCheck, PosteriorDistance
from ..targets import free_labels
from .query_sampling import QuerySampling

TARGETS = ("calibrated", "controlled", "hard")
CONTROLLED = 6.0


@dataclass(frozen=True)
class EnergyOptions:
    """How a query becomes an energy: logic, σ of continuous attributes, temperature of discrete ones, and the target.

    `target` is `calibrated`, N(z)·p(c|w); `controlled`, N(z)·p(c|w)^γ; `hard`, N(z)·1[all decisions right]; or None for
    what `weight`, the γ, says: calibrated without one. Controlled, and the way into the hard region, have γ = 6 where
    no weight is given. Raises LaceError for another target, and for a weight beside `calibrated`.
    """

    logic: str = "exact"
    sigma: float = 0.1
    temperature: float = 1.0
    paper_temperature: bool = False
    target: str | None = None
    weight: float | None = None

    def __post_init__(self) -> None:
        if self.target not in (None, *TARGETS):
            raise LaceError(
                f"query.target must be one of {', '.join(TARGETS)}, received '{self.target}'."
                f"{suggest(str(self.target), TARGETS)}"
            )
        if self.target == "calibrated" and self.weight not in (None, 1):
            raise LaceError(
                f"The calibrated target has weight 1, and query.weight is {self.weight}: set query.weight=null, or "
                "query.target=controlled."
            )
        if self.target == "hard" and self.logic != "exact":
            raise LaceError(
                f"The hard target needs exact logic, received query.logic={self.logic}: set query.logic=exact."
            )

    @property
    def gamma(self) -> float:
        """Return γ of p(c|w)^γ."""
        return self.weight if self.weight is not None else CONTROLLED if self.target in ("controlled", "hard") else 1.0

    @property
    def hard(self) -> bool:
        """Return whether the target has walls."""
        return self.target == "hard"


class ConditionalSampling(QuerySampling):
    """Sample latents that satisfy a query by a latent classifier's energy, turn them into pictures, and measure them
    (`QuerySampling`).

    Diagnostics of the sampler come with every run (`SamplerDiagnosis`); with `posterior_sets` above 1 the latents are
    also measured against so many exact sets. A sampler that checks (`hybrid`) asks the `labeler`.
    """

    def __init__(
        self,
        generator: Generator,
        judge: Labeler,
        sampler: Sampler,
        query: Query,
        options: EnergyOptions,
        feature_space: FeatureSpace | None = None,
        cache: Cache | None = None,
        labeler: Labeler | None = None,
        posterior_sets: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(generator, judge, sampler, query, feature_space, cache, **settings)
        self.options, self.labeler, self.posterior_sets = options, labeler, posterior_sets
        self.frozen: Sampler | None = None
        if isinstance(sampler, Checked) and labeler is None:
            raise LaceError(
                "A sampler that checks its pictures needs a labeler: give ConditionalSampling(labeler=...)."
            )

    def prepare(self, source: AttributeClassifier, device: torch.device) -> AttributeClassifier:
        part = source.part(self.query.attributes)
        self.freeze(part, device)
        self._diagnosis = Diagnosis(self.query, part, self.generator, device)
        self._distance = self._posterior(part, device) if self.posterior_sets > 1 else None
        return part

    def observe(
        self,
        source: AttributeClassifier,
        first: int,
        count: int,
        sample: Sample,
        free: Labels | None,
        device: torch.device,
    ) -> None:
        codes = None if free is None else free.to(device)
        self._diagnosis.update(
            self.generator.prior(count, self.seed, first, device),
            sample,
            codes,
            self.energy(source, codes, event=True),
            self.energy(source, codes),
        )
        if self._distance is not None:
            self._distance.update(sample.z, codes)

    def observed(self, source: AttributeClassifier, device: torch.device) -> tuple[dict[str, float], dict[str, Any]]:
        figures = self._diagnosis.compute()
        if self._distance is None:
            return figures, {}
        distances, posterior = self._distances(self._distance, source, device)
        return figures | distances, {"posterior": posterior}

    def freeze(self, part: AttributeClassifier, device: torch.device) -> None:
        """Let a pilot measure what the sampler needs, once for all batches and the same in every process."""
        count = min(self.batch_size, self.num_samples)
        free = free_labels(self.query, count, self.seed)
        energy = self.energy(part, None if free is None else free.to(device))
        self.frozen = self.sampler.calibrated(energy, self.generator.prior(count, self.seed, 0, device))

    def _posterior(self, part: AttributeClassifier, device: torch.device) -> PosteriorDistance:
        space = part.space if part.space != "x" else "z"
        return PosteriorDistance(
            self.query,
            self.generator.map_to(space) or (lambda z: z),
            self.generator.w_dim if space == "w" else self.generator.z_dim,
            self.posterior_sets,
            device,
        )

    def _distances(
        self, distance: PosteriorDistance, part: AttributeClassifier, device: torch.device
    ) -> tuple[dict[str, float], str]:
        starts = range(0, self.num_samples, self.batch_size)
        batches = [(first, min(self.batch_size, self.num_samples - first)) for first in starts]

        def free_of(first: int, count: int) -> Labels | None:
            free = free_labels(self.query, count, self.seed, first)
            return None if free is None else free.to(device)

        key = {
            "classifier": part.digest,
            "generator": self.generator.digest,
            "query": self.query.text,
            "options": vars(self.options),
            "batches": batches,
            "seed": self.seed,
            "sets": self.posterior_sets,
            "format": 1,
        }
        return distance.compute(
            batches, self.seed, self.generator, lambda free: self.energy(part, free), free_of, self.cache, key
        )

    def draw(
        self, classifier: AttributeClassifier, first: int, count: int, device: torch.device, codes: Labels | None = None
    ) -> tuple[Sample, Tensor, Labels | None]:
        """Return latents, pictures (uint8) and free conditions (from `codes`, if given) of samples first .. first +
        count - 1.
        """
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
        images = self._made(
            lambda: self.generator.pictures(self.generator.mapping(sample.z)) if check is None else check.images, device
        )
        return sample, images, free

    def energy(self, classifier: AttributeClassifier, free: Labels | None, event: bool = False) -> Energy:
        """Return the energy of the target on z, or that of the event itself, -log p(c|w)."""
        o = self.options
        energy = classifier.energy(
            self.query,
            free,
            o.logic,
            o.sigma,
            o.temperature,
            o.paper_temperature,
            1.0 if event else o.gamma,
            o.hard and not event,
        )
        return energy.pullback(self.generator.map_to(classifier.space))

    def protocol(self, source: AttributeClassifier, device: torch.device) -> dict[str, Any]:
        protocol = {**super().protocol(source, device), "energy": {**vars(self.options), "gamma": self.options.gamma}}
        if self.frozen is not None and self.frozen is not self.sampler:
            protocol |= {"frozen": repr(self.frozen), "pilot_seconds": round(self.frozen.pilot_seconds, 3)}
            if self.frozen.reason:
                protocol["reason"] = self.frozen.reason
        return protocol
