"""LACE: a latent classifier, a sampler, and the energy of a query."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import and_
from typing import Any, Self

import torch
from torch import Tensor

from ..classifiers import AttributeClassifier
from ..energies import Energy, Reward, build
from ..errors import LaceError, suggest
from ..generators import Generator
from ..labelers import Labeler
from ..query import Query
from ..samplers import Filtered, Heun, Sample, Sampler
from ..samplers.base import PILOT_SIZE
from ..schema import Labels, Schema
from ..seeds import SampleSeeds, Streams, normal
from ..targets import wanted_labels
from ..training.latent_classifier import LatentClassifier
from ..weights import weight_path
from .base import Drawn, Observer, SamplingPlan, System
from .diagnostics import LaceObserver, PictureCheck
from .editing import EditOptions, Editor, StepEditor
from .outlook import PILOT, Outlook, expected_scores

TARGETS = ("calibrated", "controlled", "hard")
# γ of the controlled target, and of the guide into a hard region, where no weight is given.
CONTROLLED_WEIGHT = 6.0


@dataclass(frozen=True)
class EnergyOptions:
    """Settings that turn a query into an energy.

    Args:
        logic: exact (algebra of probabilities) or paper (the paper's OR and NOT).
        sigma: error of continuous attributes, above 0.
        temperature: divisor of the logits of discrete attributes, above 0.
        paper_temperature: whether to divide the chosen logit alone, as the paper's code does.
        target: calibrated, N(z)·p(c|w); controlled, N(z)·p(c|w)^γ; hard, N(z)·1[all decisions right]; None for
            controlled where a weight is given, the sampler's own where it has one (`Auto`: controlled), and calibrated
            elsewhere.
        weight: γ, at least 0; None for 6 in the controlled and the hard target, and 1 elsewhere.

    Raises:
        LaceError: for another target, for a weight beside calibrated, for a hard target with the paper's logic.

    References:
        Eq. 4 of LACE (arXiv 2110.10873), and its section on logical operators.

    Example:
        >>> EnergyOptions(target="controlled").gamma, EnergyOptions(weight=4.0).gamma
        (6.0, 4.0)
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
        """γ of p(c|w)^γ."""
        if self.weight is not None:
            return self.weight
        return CONTROLLED_WEIGHT if self.target in ("controlled", "hard") else 1.0

    @property
    def hard(self) -> bool:
        """Whether the target is the region in which every decision is right."""
        return self.target == "hard"

    def of(self, sampler: Sampler) -> EnergyOptions:
        """Return the options with the target and the weight of a sampler, where none are given.

        Args:
            sampler: the sampler.
        """
        if self.weight is not None:
            return self
        target = self.target or sampler.default_target
        return replace(self, target=target, weight=sampler.default_weight if target == "controlled" else None)

    @property
    def description(self) -> str:
        """The target in words and as a density."""
        if self.hard:
            return "hard, N(z) where every decision is right"
        return "calibrated, N(z)·p(c|w)" if self.gamma == 1 else f"controlled, N(z)·p(c|w)^{self.gamma:g}"

    def check(self, query: Query) -> None:
        """Refuse a query that these options cannot turn into an energy, which is evaluated once on zeros.

        Raises:
            LaceError: for such a query.
        """
        free = Labels.constant(query.schema, 1, **dict.fromkeys(query.free, 0.0)) if query.free else None
        energy = build(
            query, free, self.logic, self.sigma, self.temperature, self.paper_temperature, self.gamma, self.hard
        )
        energy.value_and_grad(torch.zeros(1, query.schema.num_logits))


class LACE(LatentClassifier, System):
    """LACE: samples of N(z)·p(c|g(z))^γ, or its flow, by a classifier of latents and a sampler.

    The classifier is trained as a `LatentClassifier`, which takes the arguments `training`.

    Args:
        schema: the attributes that the classifier learns.
        sampler: the sampler on z; None for Heun.
        options: how a query becomes an energy; None for the defaults.
        extra: an energy that is added to that of every query, or several by name; None for none. Each is one of z
            (B, Dz), or of what its `space` says: w, or x for pictures.
        training: further arguments of `LatentClassifier`, by name.

    References:
        Nie, Vahdat and Anandkumar, NeurIPS 2021, Eq. 4 to 7.

    Example:
        >>> import torch
        >>> from lace_lightning.generators import ModuleGenerator
        >>> from lace_lightning.query import parse
        >>> from lace_lightning.schema import Attribute, Schema
        >>> from lace_lightning.systems.lace import LACE
        >>> schema = Schema("dice", (Attribute("side"),))
        >>> decoder = torch.nn.Sequential(torch.nn.Linear(3, 48), torch.nn.Tanh(), torch.nn.Unflatten(1, (3, 4, 4)))
        >>> generator = ModuleGenerator(decoder, 3, (3, 4, 4))
        >>> lace = LACE(schema, space="z", arguments={"input_dim": 3}).bind(generator)
        >>> z = generator.prior(2, seed=0)
        >>> lace.draw(parse("side == 1", schema), z, torch.arange(2)).images.shape
        torch.Size([2, 3, 4, 4])
    """

    kind = "lace"
    edit_options = EditOptions
    edit_advice = "editing=sequential, or model=styleflow"

    def __init__(
        self,
        schema: Schema | Mapping[str, Any],
        sampler: Sampler | None = None,
        options: EnergyOptions | None = None,
        extra: Energy | Mapping[str, Energy] | None = None,
        **training: Any,
    ) -> None:
        super().__init__(schema, **training)
        self.sampler = sampler or Heun()
        self.options = (options or EnergyOptions()).of(self.sampler)
        named = {"energy": extra} if isinstance(extra, Energy) else dict(extra or {})
        # In a tuple, so that they are no part of the state that is trained and saved.
        self._extra = (named,)
        # The sampler with the settings that a pilot measured, and the classifier of the query's attributes alone.
        self.frozen: Sampler | None = None
        self.outlook: Outlook | None = None
        self._part: tuple[Query, AttributeClassifier] | None = None

    @classmethod
    def of(
        cls,
        classifier: AttributeClassifier,
        sampler: Sampler | None = None,
        options: EnergyOptions | None = None,
        extra: Energy | Mapping[str, Energy] | None = None,
    ) -> LACE:
        """Return LACE with a trained classifier.

        Args:
            classifier: the classifier, of space z, w or x.
            sampler: the sampler on z; None for Heun.
            options: how a query becomes an energy; None for the defaults.
            extra: an energy that is added to that of every query, or several by name; None for none. Each is one of z
            (B, Dz), or of what its `space` says: w, or x for pictures.
        """
        result = cls(
            classifier.schema,
            sampler,
            options,
            extra,
            space=classifier.space,
            network=classifier.network_name,
            arguments=classifier.arguments,
            generator_digest=classifier.generator,
        )
        result.classifier = classifier
        result.given = True
        return result

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        sampler: Sampler | None = None,
        options: EnergyOptions | None = None,
        extra: Energy | Mapping[str, Energy] | None = None,
    ) -> LACE:
        """Return LACE with a trained classifier from a file.

        Args:
            path: the classifier's file, or the name of shipped weights.
            sampler: the sampler on z; None for Heun.
            options: how a query becomes an energy; None for the defaults.
            extra: an energy that is added to that of every query, or several by name; None for none. Each is one of z
            (B, Dz), or of what its `space` says: w, or x for pictures.

        Raises:
            LaceError: for missing, damaged or other weights.
        """
        return cls.of(AttributeClassifier.load(weight_path(path)), sampler, options, extra)

    @property
    def space(self) -> str:  # type: ignore[override]
        """The space of the classifier: z, w or x."""
        return self.classifier.space

    @property
    def digest(self) -> str:
        """The digest of the classifier."""
        return self.classifier.digest

    @property
    def compared(self) -> bool:
        """True, because LACE always samples the generator."""
        return True

    def bind(self, generator: Generator, labeler: Labeler | None = None) -> Self:
        """Give generator and labeler; return self.

        Raises:
            LaceError: for a generator other than the classifier's, for a sampler that checks pictures without a
                labeler, and for one that needs gradients that the generator does not have.
        """
        self.classifier.check_generator(generator.digest_for(self.space))
        if isinstance(self.sampler, Filtered) and labeler is None:
            raise LaceError(
                "A sampler that checks its pictures needs a labeler, received none: choose a labeler, or another "
                "sampler."
            )
        if self.space in ("x", "features") and not generator.has_gradients and self.sampler.uses_gradient:
            raise LaceError(
                f"{type(self.sampler).__name__} needs gradients through the generator for a classifier of space "
                f"{self.space}, and this generator has none: set sampler=pcn, sampler=slice or sampler=rejection, "
                "which need none, or classifier.space=z."
            )
        return super().bind(generator, labeler)

    def check_query(self, query: Query) -> None:
        """Refuse a query that has no energy under the options.

        Raises:
            LaceError: for such a query.
        """
        if not query.asks and not self.extra:
            raise LaceError(
                "The query 'anything' asks for nothing and no energy stands in its place: write a query, or set "
                "energy=brightness or another energy."
            )
        self.options.check(query.on(self.schema))

    def part(self, query: Query) -> AttributeClassifier:
        """Return the classifier of the query's attributes alone, made once for each query."""
        if self._part is None or self._part[0] != query:
            self._part = (query, self.classifier.part(query.attributes or self.classifier.schema.names))
        return self._part[1]

    @property
    def extra(self) -> dict[str, Energy]:
        """The energies that are added to that of every query, by name."""
        return self._extra[0]

    @property
    def rewards(self) -> dict[str, Reward]:
        """Those of the added energies that are rewards."""
        return {name: energy for name, energy in self.extra.items() if isinstance(energy, Reward)}

    def rewards_of(self, z: Tensor) -> dict[str, Tensor]:
        """Return each reward (B,) of latents z (B, Dz) by name, without its weight."""
        points: dict[str, Tensor] = {}
        result = {}
        with torch.no_grad():
            for name, energy in self.rewards.items():
                if energy.space not in points:
                    to = self.generator.map_to(energy.space)
                    points[energy.space] = z if to is None else to(z)
                result[name] = energy.reward(points[energy.space])
        return result

    def _extra_on_z(self) -> list[Energy]:
        """Return the added energies on z, those of one space together, so that its map is evaluated once."""
        spaces: dict[str, Energy] = {}
        for energy in self.extra.values():
            moved = energy.to(self.device)
            spaces[energy.space] = spaces[energy.space] & moved if energy.space in spaces else moved
        return [energy.pullback(self.generator.map_to(space)) for space, energy in spaces.items()]

    def energy(self, query: Query, free: Labels | None, event: bool = False) -> Energy:
        """Return the energy of a query on z (B, Dz).

        Args:
            query: the condition.
            free: values of its free attributes, B rows; None where nothing is free.
            event: whether to return the energy of the event itself, -log p(c|w), in place of the target's.
        """
        o = self.options
        gamma, hard = (1.0, False) if event else (o.gamma, o.hard)
        energy = self.part(query).energy(query, free, o.logic, o.sigma, o.temperature, o.paper_temperature, gamma, hard)
        on_z = energy.pullback(self.generator.map_to(self.space))
        if event or not self.extra:
            return on_z
        extra = self._extra_on_z()
        return reduce(and_, [on_z, *extra] if query.asks else extra)

    def prepare(self, query: Query, z: Tensor, free: Labels | None) -> None:
        """Let a pilot measure the settings of the sampler, once for all batches and the same in every process.

        `outlook` afterwards says what is sampled and the ACC to expect.
        """
        energy = self.energy(query, _on(free, z))
        self.frozen = self.sampler.calibrated(energy, z)
        self.outlook = self._outlook(self.frozen, energy, query, z, free)

    @torch.no_grad()
    def _outlook(self, sampler: Sampler, energy: Energy, query: Query, z: Tensor, free: Labels | None) -> Outlook:
        """Return what the sampler samples, and the ACC that the classifier expects, by a pilot of the sampler."""
        target = self._target_in_words(query)
        if not query.asks:
            return Outlook(target)
        is_checked = isinstance(sampler, Filtered)
        if isinstance(sampler, Filtered):
            sampler = sampler.sampler
        index = torch.arange(min(PILOT, len(z)), device=z.device)
        seeds = SampleSeeds.PILOT + PILOT_SIZE + torch.arange(len(index))
        start = normal(seeds, z.shape[1:], Streams.PRIOR, z.device, z.dtype)
        sample = sampler(energy.rows(index), start, seeds=seeds.to(z.device)).z
        codes = None if free is None else free[: len(index)]
        part = self.part(query)
        wanted = wanted_labels(query.on(part.schema), len(index), None if codes is None else codes.part(part.schema))
        if bool(wanted.known.any()):
            map_to = self.generator.map_to(self.space) or (lambda u: u)
            figure, scores = "ACC", expected_scores(part.schema, part(map_to(sample)), wanted, self.options.sigma)
        else:
            event = self.energy(query, _on(codes, z), event=True)
            figure, scores = "share of samples for which the query holds", (-event(sample)).exp()
        error = float(scores.std()) / len(scores) ** 0.5 if len(scores) > 1 else float("nan")
        return Outlook(target, figure, float(scores.mean()), error, len(scores), is_checked)

    def _target_in_words(self, query: Query) -> str:
        sampler = self.frozen or self.sampler
        words = self.options.description if query.asks else "N(z)"
        words += "".join(f"·exp({reward.weight:g}·{name})" for name, reward in self.rewards.items())
        words += "".join(f"·exp(-{name})" for name in self.extra if name not in self.rewards)
        if sampler.is_flow and sampler.corrector is None:
            words = f"none, the flow along the gradient of {words.rpartition(', ')[2]}"
        elif self.sampler.default_target is not None and query.asks:
            words += (
                f" ({'query.target=calibrated' if self.options.gamma != 1 else 'query.target=controlled'} changes it)"
            )
        elif self.options.gamma == 1 and query.asks:
            words += " (query.target=controlled asks for more control)"
        return words

    def draw(self, query: Query, z: Tensor, seeds: Tensor, free: Labels | None = None) -> Drawn:
        """Return latents and pictures that satisfy a query; see `System.draw`."""
        sampler, check = self.frozen or self.sampler, None
        if isinstance(sampler, Filtered):
            assert self.labeler is not None
            labeler = self.labeler.to(z.device)
            check = PictureCheck(self.generator, labeler, query, free, len(z), sampler.tolerance)
            sampler = copy.copy(sampler)
            sampler.check = check
        sample = sampler(self.energy(query, _on(free, z)), z, seeds=seeds)
        images, seconds = self.timed_pictures(lambda: self.pictures_of(sample) if check is None else check.images)
        return Drawn(sample, images, seconds)

    def pictures_of(self, sample: Sample) -> Tensor:
        """Return the pictures of latents z as bytes, uint8 (B, C, H, W)."""
        return self.generator.pictures(self.generator.mapping(sample.z))

    def latents_of(self, sample: Sample) -> dict[str, Tensor]:
        """Return z, w and ws of latents z; see `System.latents_of`."""
        return self._from_z(sample.z)

    @torch.no_grad()
    def probability(self, query: Query, sample: Sample, free: Labels | None = None) -> Tensor:
        """Return p(c|w) (B,), for a continuous attribute relative to that at the value itself; see `System`."""
        energy: Tensor = self.energy(query, _on(free, sample.z), event=True)(sample.z)
        return (-energy).exp()

    def observer(self, query: Query, plan: SamplingPlan) -> Observer:
        """Return diagnostics of the sampler: weights, spread, confidence, distance to exact samples."""
        return LaceObserver(self, query, plan)

    def step_editor(self, options: Any) -> StepEditor:
        """Return the editor by the classifier and the sampler.

        Raises:
            LaceError: for a classifier of pictures, and for style layers that the generator does not have.
        """
        return Editor(self.generator, self.classifier, self.sampler, options)

    def with_temperature(self, temperature: float) -> LACE:
        """Return LACE with the logits divided by a temperature; the classifier is shared."""
        options = replace(self.options, temperature=temperature)
        return LACE.of(self.classifier, self.sampler, options, self.extra).bind(self.generator, self.labeler)

    def summary(self) -> str:
        """Return the sampler and its settings in one line."""
        return repr(self.sampler)

    @property
    def title(self) -> str:
        """The name of the sampler."""
        return type(self.sampler).__name__

    def protocol(self, query: Query | None = None) -> dict[str, Any]:
        """Return the options of the energy and the measurements of the pilot."""
        if query is None:
            return {}
        protocol: dict[str, Any] = {"energy": {**vars(self.options), "gamma": self.options.gamma}}
        if self.extra:
            protocol["extra_energy"] = "; ".join(
                f"{name}: {' '.join(str(energy).split())}" for name, energy in self.extra.items()
            )
        if self.frozen is not None and self.frozen is not self.sampler:
            protocol |= {"frozen": repr(self.frozen), "pilot_seconds": round(self.frozen.pilot_seconds, 3)}
            if self.frozen.reason:
                protocol["reason"] = self.frozen.reason
        if self.outlook is not None:
            protocol["outlook"] = self.outlook.sentence
        return protocol

    def training_data(self) -> str:
        """Return `pairs`, because LACE learns from pairs in every space."""
        return "pairs"

    def save(self, path: str | os.PathLike[str], **metadata: Any) -> None:
        """Write the classifier in half precision, with metadata."""
        self.classifier.save(path, torch.float16, **metadata)


def _on(free: Labels | None, z: Tensor) -> Labels | None:
    return None if free is None else free.to(z.device)
