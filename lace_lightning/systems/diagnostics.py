"""Diagnostics of LACE: probability of the query, weights, spread, confidence, distance to exact samples."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ..artifacts import load_tensors, save_tensors
from ..cache import Cache
from ..classifiers import AttributeClassifier
from ..energies import Energy
from ..errors import LaceError
from ..generators import Generator
from ..labelers import Labeler
from ..metrics import ConditionalAccuracy, FeatureStatistics, SamplerDiagnosis, frechet_distance
from ..metrics.sampler_diagnostics import LOWEST
from ..pictures.convert import float_batches
from ..query import Query
from ..samplers import Annealed, Filtered, Rejection, Sample, Sampler
from ..samplers.arrival import STUCK
from ..schema import Labels
from ..seeds import RunSeeds, sample_seeds
from ..source import description_of, identity_of
from ..targets import free_labels, wanted_labels

if TYPE_CHECKING:
    from .base import SamplingPlan

# With more combinations of free classes than this, all samples are one group.
MOST_GROUPS = 20
# The most attempts per sample of rejection; exact samples of rarer targets are annealed slowly.
ATTEMPTS = 400

# Diagnostics of samplers that are one number a batch; they are averaged over the samples.
AVERAGED = ("acceptance", "acceptance_end", "corrector_acceptance", "attempts", "checks")

# Samples of a chain are no exact ones where their mean p(c|w) is so many standard errors from that of exact samples.
ERRORS = 4.0

MakeEnergy = Callable[[Labels | None], Energy]


def groups_of(query: Query, free: Labels | None, count: int, device: torch.device) -> tuple[Tensor, int]:
    """Return the combination of free classes of each sample, and the number of combinations.

    Args:
        query: the condition.
        free: values of its free attributes, `count` rows; None where nothing is free.
        count: number of samples.
        device: device of the result.

    Returns:
        Numbers (count,) int64 of the combinations, from 0, and how many there are; 0 and 1 where nothing discrete is
        free, or there are more than `MOST_GROUPS`.

    Example:
        >>> from lace_lightning.query import parse
        >>> from lace_lightning.schema import Attribute, Labels, Schema
        >>> schema = Schema("s", (Attribute("hat"),))
        >>> free = Labels.constant(schema, 3, hat=torch.tensor([0.0, 1.0, 1.0]))
        >>> groups_of(parse("hat == *", schema), free, 3, torch.device("cpu"))
        (tensor([0, 1, 1]), 2)
    """
    names = [name for name in query.free if query.schema[name].kind == "discrete"]
    combinations = list(product(*(range(query.schema[name].num_classes) for name in names)))
    group = torch.zeros(count, dtype=torch.long, device=device)
    if free is None or not names or len(combinations) > MOST_GROUPS:
        return group, 1
    for name in names:
        group = group * query.schema[name].num_classes + free.column(name).long().to(device)
    return group, len(combinations)


class PictureCheck:
    """Check of a sampler: whether a labeler sees the query in the pictures of latents; the pictures are kept.

    `check(z, rows)` returns bool (A,) for latents z (A, Dz) of the samples `rows` (A,). `images` holds the last picture
    that was made for each sample.

    Args:
        generator: the generator.
        labeler: the network that labels the pictures.
        query: the condition.
        free: values of its free attributes, `count` rows; None where nothing is free.
        count: number B of samples.
        tolerance: the largest difference, 0 or more, at which a continuous attribute equals its value.

    Example:
        >>> from lace_lightning.examples import tiny_generator, tiny_labeler, tiny_schema
        >>> import torch
        >>> from lace_lightning.query import parse
        >>> schema = tiny_schema()
        >>> generator = tiny_generator()
        >>> labeler = tiny_labeler()
        >>> check = PictureCheck(generator, labeler, parse("hat == 1", schema), None, count=5, tolerance=0.1)
        >>> check(torch.zeros(2, 4), torch.tensor([0, 3])).shape, check.images.shape
        (torch.Size([2]), torch.Size([5, 3, 16, 16]))
    """

    def __init__(
        self, generator: Generator, labeler: Labeler, query: Query, free: Labels | None, count: int, tolerance: float
    ) -> None:
        self.generator, self.labeler, self.query, self.free, self.tolerance = generator, labeler, query, free, tolerance
        self.images = torch.zeros(count, *generator.image_shape, dtype=torch.uint8, device=generator.device)

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        images = self.generator.pictures(self.generator.mapping(z))
        self.images[rows] = images
        free = None if self.free is None else self.free.to(rows.device)[rows]
        return self.query.holds(Labels.cat(map(self.labeler.labels, float_batches(images))), free, self.tolerance)


class Diagnosis:
    """Diagnostics of a sampler on latents: `update` adds a batch, `compute` returns the figures.

    Args:
        query: the condition.
        classifier: the latent classifier of its attributes.
        generator: the generator whose latents are sampled.
        device: device of the sums.

    Example:
        >>> from lace_lightning.examples import tiny_generator, tiny_schema
        >>> import torch
        >>> from lace_lightning.query import parse
        >>> schema = tiny_schema()
        >>> generator = tiny_generator()
        >>> classifier = AttributeClassifier(schema, "z", "mlp", {"input_dim": 4, "hidden": []})
        >>> diagnosis = Diagnosis(parse("hat == 1", schema), classifier, generator, torch.device("cpu"))
        >>> z, energy = generator.prior(8), classifier.energy("hat == 1")
        >>> diagnosis.update(z, Sample(z, 0.0, 0.0), None, event=energy, target=energy)
        >>> {"own/holds", "confidence", "spread"} <= set(diagnosis.compute())
        True
    """

    def __init__(
        self, query: Query, classifier: AttributeClassifier, generator: Generator, device: torch.device
    ) -> None:
        self.query, self.classifier, self.generator = query.on(classifier.schema), classifier, generator
        space = classifier.space if classifier.space != "x" else "z"
        self.map = generator.map_to(space) or (lambda z: z)
        groups = _num_groups(query)
        self.metric = SamplerDiagnosis(generator.size_of(space), groups).to(device)
        self.accuracy = ConditionalAccuracy(classifier.schema).to(device)
        self.figures: dict[str, float] = {}
        self.count = 0

    @torch.no_grad()
    def update(self, start: Tensor, sample: Sample, free: Labels | None, event: Energy, target: Energy) -> None:
        """Add a batch.

        Args:
            start: starting points z (B, Dz).
            sample: the samples drawn from them.
            free: values of free attributes, B rows; None where nothing is free.
            event: the energy of the event on z, -log p(c|w).
            target: the energy of the target on z.
        """
        count = len(start)
        group, _ = groups_of(self.query, free, count, start.device)
        u = self.map(sample.z)
        diagnostics = sample.diagnostics
        self.metric.update(
            u,
            -event(sample.z),
            group,
            diagnostics.get("log_weights"),
            diagnostics.get("event_log_weights"),
            diagnostics.get("counts"),
        )
        self.metric.update_start(self.map(start), -event(start), -target(start), group)
        if self.classifier.space != "x":
            judged = self.classifier.schema.decode(self.classifier(u))
            wanted = wanted_labels(self.query, count, None if free is None else free.to("cpu"))
            self.accuracy.update(judged, wanted, self.query.holds(judged, free))
        figures = {"forward": sample.forward} | {
            name: float(diagnostics[name]) for name in AVERAGED if name in diagnostics
        }
        for name, value in figures.items():
            self.figures[name] = self.figures.get(name, 0.0) + value * count
        self.count += count

    def faults(self, filtered: bool) -> list[str]:
        """Return what contradicts that the samples of a Markov chain are exact, one sentence each.

        Args:
            filtered: whether another check chose among the samples, which changes their distribution.
        """
        figures, apart, faults = self.compute(), self.metric.disagreement(), []
        acceptance = figures.get("corrector_acceptance", figures.get("acceptance", 1.0))
        if acceptance < STUCK:
            faults.append(f"The chains are stuck: {acceptance:.2%} of the moves are accepted.")
        if self.count and float(self.metric.highest) < LOWEST:
            faults.append(
                f"No sample has a p(c|w) above {LOWEST:g}: the query has next to no probability under this generator."
            )
        if apart is not None and apart > ERRORS and not filtered:
            faults.append(
                f"The mean p(c|w) is {figures['confidence']:.3f}, and that of exact samples {figures['predicted']:.3f} "
                f"({apart:.1f} standard errors apart): the samples are not exact."
            )
        return faults

    def compute(self) -> dict[str, float]:
        """Return the figures by name."""
        result = self.metric.compute()
        own = self.accuracy.compute() if self.classifier.space != "x" else {}
        result |= {f"own/{name}": own[name] for name in ("acc", "holds") if name in own}
        return result | {name: value / max(self.count, 1) for name, value in self.figures.items()}


def _num_groups(query: Query) -> int:
    return groups_of(query, Labels.constant(query.schema, 1, **dict.fromkeys(query.free, 0.0)), 1, torch.device("cpu"))[
        1
    ]


class PosteriorDistance:
    """Fréchet distance of latents to exact samples of the same target, and between sets of exact samples (the floor).

    Statistics are those of the classifier's space (z for a classifier of pictures), for each combination of free
    classes, of equally many samples. The exact sets are drawn by rejection, or by slow annealing where the target is
    rarer than 1 in `ATTEMPTS`.

    Args:
        query: the condition.
        map: the map from z (B, Dz) to the latents (B, D) that are compared.
        dim: size D of these latents.
        sets: number of independent exact sets, at least 1, at least 2 for a floor.
        device: device of the statistics.

    Example:
        >>> from lace_lightning.query import parse
        >>> from lace_lightning.schema import Attribute, Schema
        >>> query = parse("hat == *", Schema("s", (Attribute("hat"),)))
        >>> distance = PosteriorDistance(query, lambda z: z, dim=2, sets=2, device=torch.device("cpu"))
        >>> distance.groups
        2
    """

    def __init__(
        self, query: Query, map: Callable[[Tensor], Tensor], dim: int, sets: int, device: torch.device
    ) -> None:
        self.query, self.map, self.sets, self.device = query, map, sets, device
        self.groups = _num_groups(query)
        self.own = self._empty(dim)
        self.dim = dim

    def _empty(self, dim: int) -> list[FeatureStatistics]:
        return [FeatureStatistics(dim).to(self.device) for _ in range(self.groups)]

    def _add(self, statistics: list[FeatureStatistics], z: Tensor, free: Labels | None) -> None:
        group, _ = groups_of(self.query, free, len(z), z.device)
        u = self.map(z)
        for number, part in enumerate(statistics):
            rows = group == number
            if bool(rows.any()):
                part.update(u[rows])

    def update(self, z: Tensor, free: Labels | None) -> None:
        """Add the latents z (B, Dz) of a batch, with the values of its free attributes."""
        with torch.no_grad():
            self._add(self.own, z, free)

    def compute(
        self,
        batches: list[tuple[int, int]],
        seed: int,
        generator: Generator,
        energy: MakeEnergy,
        free_of: Callable[[int, int], Labels | None],
        cache: Cache | None,
        key: Mapping[str, Any],
    ) -> tuple[dict[str, float], str]:
        """Return the distances, and the name of the sampler of the exact sets.

        Args:
            batches: number of the first sample and number of samples of every batch.
            seed: the run's seed.
            generator: the generator whose prior the exact samples begin at.
            energy: function of the values of free attributes that returns the energy of the target on z.
            free_of: function of a batch's first sample and number of samples that returns the values of its free
                attributes.
            cache: cache of the exact sets, None for none.
            key: plain values that name target and samples in the cache.

        Returns:
            `posterior_distance` and, for at least two sets, `posterior_distance/floor`; and the name of the sampler.
        """
        sampler: Sampler | None = None
        measured, how = [], ""
        for number in range(self.sets):
            run = RunSeeds.POSTERIOR + self.sets * seed + number
            statistics = self._empty(self.dim)

            def draw(path: Path | None, run: int = run) -> tuple[Tensor, str]:
                nonlocal sampler
                drawn, sampler = draw_exactly(
                    [
                        (
                            energy(free_of(first, count)),
                            generator.prior(count, run, first, self.device),
                            sample_seeds(count, run, first).to(self.device),
                        )
                        for first, count in batches
                    ],
                    sampler,
                )
                if path is not None:
                    save_tensors(path, {"z": drawn.cpu()}, {"sampler": type(sampler).__name__})
                return drawn, type(sampler).__name__

            if cache is None:
                drawn, how = draw(None)
            else:
                entry = cache.entry("posterior", {**key, "set": number})
                tensors, config = load_tensors(entry.file("latents.safetensors", draw, "exact samples"))
                drawn, how = tensors["z"].to(self.device), config["sampler"]
            for (first, count), z in zip(batches, drawn.split([count for _, count in batches]), strict=True):
                self._add(statistics, z, free_of(first, count))
            measured.append([part.compute() for part in statistics])
        own = [part.compute() for part in self.own]
        between = [self._distance(a, b) for i, a in enumerate(measured) for b in measured[:i]]
        to_sets = [self._distance(own, other) for other in measured]
        result = {"posterior_distance": sum(to_sets) / len(to_sets)}
        if between:
            result["posterior_distance/floor"] = sum(between) / len(between)
        return result, how

    def _distance(self, a: list[dict[str, Tensor]], b: list[dict[str, Tensor]]) -> float:
        used = [(x, y) for x, y in zip(a, b, strict=True) if x["count"] > 1 and y["count"] > 1]
        return sum(frechet_distance(x, y) for x, y in used) / max(len(used), 1)


def draw_exactly(
    batches: list[tuple[Energy, Tensor, Tensor]], sampler: Sampler | None = None
) -> tuple[Tensor, Sampler]:
    """Return exact samples of every batch, by rejection, or by slow annealing where a target is too rare.

    Args:
        batches: energy of the target, starting points z (B, Dz) and seeds (B,) int64 of every batch.
        sampler: the sampler that an earlier call returned; None for rejection.

    Returns:
        Latents of all batches (N, Dz), and the sampler that drew them.

    Example:
        >>> from lace_lightning.energies import HalfLine
        >>> target = HalfLine(slice(0, 1), 0.0, sigma=0.01)
        >>> z, sampler = draw_exactly([(target, torch.randn(4, 2), torch.arange(4))])
        >>> z.shape, type(sampler).__name__
        (torch.Size([4, 2]), 'Rejection')
    """

    def by(sampler: Sampler) -> tuple[Tensor, Sampler]:
        frozen = sampler.calibrated(*batches[0][:2])
        return torch.cat([frozen(energy, z, seeds=seeds).z for energy, z, seeds in batches]), frozen

    try:
        return by(sampler or Rejection(ATTEMPTS))
    except LaceError:
        return by(Annealed(120, num_slice_moves=30))


class MeanRewards:
    """Means of rewards over all samples, and over the starting points, which are samples of the prior.

    Example:
        >>> means = MeanRewards()
        >>> means.update({"bright": torch.zeros(2)}, {"bright": torch.tensor([1.0, 2.0])})
        >>> means.compute()
        {'reward/bright': 1.5, 'prior/reward/bright': 0.0}
    """

    def __init__(self) -> None:
        self.sums: dict[str, list[Tensor]] = {}

    def update(self, start: Mapping[str, Tensor], samples: Mapping[str, Tensor]) -> None:
        """Add the rewards (B,) of the starting points and of the samples of a batch, by name."""
        for name, rewards in samples.items():
            part = torch.stack([rewards.double().sum(), start[name].double().sum()]).cpu()
            total, count = self.sums.get(name, [torch.zeros(2, dtype=torch.float64), torch.zeros(1)])
            self.sums[name] = [total + part, count + len(rewards)]

    def compute(self) -> dict[str, float]:
        """Return the means over the batches of all processes, by name."""
        result = {}
        for name, (total, count) in self.sums.items():
            table = torch.cat([total, count.double()])
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(table)
            result[f"reward/{name}"] = float(table[0] / table[2])
            result[f"prior/reward/{name}"] = float(table[1] / table[2])
        return result


class EnergySystem(Protocol):
    """Protocol of a system that samples energies of z by a latent classifier, such as `LACE`.

    Example:
        >>> from lace_lightning.schema import Attribute, Schema
        >>> from lace_lightning.systems.lace import LACE
        >>> system: EnergySystem = LACE(Schema("s", (Attribute("hat"),)), space="z", arguments={"input_dim": 4})
        >>> system.options.gamma
        1.0
    """

    options: Any
    # The sampler with what a pilot measured.
    frozen: Any

    @property
    def extra(self) -> Mapping[str, Energy]:
        """The energies that are added to that of every query, by name."""

    def rewards_of(self, z: Tensor) -> dict[str, Tensor]:
        """Return each reward (B,) of latents z (B, Dz) by name."""

    @property
    def generator(self) -> Generator:
        """The generator whose latents are sampled."""

    @property
    def device(self) -> torch.device:
        """The device of the weights."""

    def part(self, query: Query) -> AttributeClassifier:
        """Return the classifier of the query's attributes."""

    def energy(self, query: Query, free: Labels | None, event: bool = False) -> Energy:
        """Return the energy of the target on z (B, Dz), or that of the event, -log p(c|w)."""


class LaceObserver:
    """Diagnostics of LACE over the batches of one query.

    Args:
        system: LACE, bound to a generator.
        query: the condition.
        plan: the samples of the measurement; with 2 or more `posterior_sets` latents are measured against that many
            sets of exact samples.

    Example:
        >>> from lace_lightning.examples import tiny_lace, tiny_schema
        >>> from lace_lightning.query import parse
        >>> schema = tiny_schema()
        >>> from lace_lightning.systems.base import SamplingPlan
        >>> lace = tiny_lace()
        >>> generator = lace.generator
        >>> observer = LaceObserver(lace, parse("hat == 1", schema), SamplingPlan([(0, 8)], seed=0))
        >>> z = generator.prior(8)
        >>> observer.update(z, Sample(z, 0.0, 0.0), None)
        >>> observer.diagnosis.count
        8
    """

    def __init__(self, system: EnergySystem, query: Query, plan: SamplingPlan) -> None:
        self.system, self.query, self.plan = system, query, plan
        self.part, self.generator, self.device = system.part(query), system.generator, system.device
        self.diagnosis = Diagnosis(query, self.part, self.generator, self.device)
        self.rewards = MeanRewards()
        self.distance: PosteriorDistance | None = None
        if plan.posterior_sets > 1:
            space = self.part.space if self.part.space != "x" else "z"
            self.distance = PosteriorDistance(
                query,
                self.generator.map_to(space) or (lambda z: z),
                self.generator.size_of(space),
                plan.posterior_sets,
                self.device,
            )

    def update(self, start: Tensor, sample: Sample, free: Labels | None) -> None:
        """Add a batch: starting points z (B, Dz), the samples drawn from them, and values of free attributes."""
        codes = None if free is None else free.to(self.device)
        event, target = self.system.energy(self.query, codes, event=True), self.system.energy(self.query, codes)
        self.diagnosis.update(start, sample, codes, event, target)
        self.rewards.update(self.system.rewards_of(start), self.system.rewards_of(sample.z))
        if self.distance is not None:
            self.distance.update(sample.z, codes)

    def compute(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Return the figures by name, and the name of the sampler of the exact sets for the record."""
        figures, observed = self._chains()
        figures = figures | self.rewards.compute()
        if self.distance is None:
            return figures, observed
        plan = self.plan
        key = {
            "classifier": self.part.digest,
            "generator": identity_of(self.generator),
            "query": self.query.text,
            "options": vars(self.system.options),
            **({"extra": description_of(dict(self.system.extra))} if self.system.extra else {}),
            "batches": list(plan.batches),
            "seed": plan.seed,
            "sets": plan.posterior_sets,
            "recipe": 2,
        }
        distances, drawn_by = self.distance.compute(
            list(plan.batches),
            plan.seed,
            self.generator,
            lambda free: self.system.energy(self.query, free),
            self._free_labels,
            plan.cache,
            key,
        )
        return figures | distances, {**observed, "posterior": drawn_by}

    def _chains(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Return the figures, and for Markov chains a sentence on whether they have arrived; warns of faults."""
        figures, arrival = self.diagnosis.compute(), getattr(self.system.frozen, "diagnosis", None)
        if arrival is None:
            return figures, {}
        faults = self.diagnosis.faults(isinstance(self.system.frozen, Filtered))
        for fault in faults:
            warnings.warn(fault, stacklevel=3)
        return {**figures, "rhat": arrival.rhat}, {"chains": " ".join([*arrival.sentences(), *faults])}

    def _free_labels(self, first: int, count: int) -> Labels | None:
        free = free_labels(self.query, count, self.plan.seed, first)
        return None if free is None else free.to(self.device)
