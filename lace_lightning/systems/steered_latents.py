"""Latents where a classifier will be asked to go: pairs from there teach it what the prior hardly shows."""

from __future__ import annotations

from torch import Tensor

from ..artifacts import digest
from ..classifiers import AttributeClassifier
from ..energies import And, Energy, build
from ..errors import LaceError
from ..generators import Generator
from ..query import parse
from ..samplers import Heun, Sampler
from ..schema import Labels
from ..seeds import Streams, sample_seeds, uniform


class ControlledLatents:
    """(count, first) -> latents z (count, Dz) that a classifier was steered to, each by wishes of its own.

    Each sample wants each attribute with probability `share`, at least one, with values drawn uniformly and
    independently, and follows the flow of `weight`·E from the prior. A classifier that never saw such latents is wrong
    about many of them; labelled and added to the pairs (`make_pairs(..., latents=this)`) they correct it where it is
    used. Sample i depends on seed i alone. Raises LaceError for a classifier of pictures and for one of another
    generator.
    """

    def __init__(
        self,
        generator: Generator,
        classifier: AttributeClassifier,
        seed: int = 0,
        sampler: Sampler | None = None,
        weight: float = 4.0,
        share: float = 0.3,
    ) -> None:
        if classifier.space == "x":
            raise LaceError(
                "Steering latents needs a classifier of latents (space w or z), received one of pictures (space x)."
            )
        classifier.check_generator(generator.digest_for(classifier.space))
        self.generator, self.classifier, self.seed = generator, classifier, seed
        self.sampler, self.weight, self.share = sampler or Heun(0.1, 0.1), weight, share

    @property
    def digest(self) -> str:
        """Return the digest of what the latents depend on beside generator and seed."""
        return digest(
            {
                "classifier": self.classifier.digest,
                "sampler": repr(self.sampler),
                "weight": self.weight,
                "share": self.share,
                "format": 1,
            }
        )

    def wishes(self, count: int, first: int) -> Labels:
        """Return what samples first .. first + count - 1 want; what they do not care about is not known."""
        schema = self.classifier.schema
        u = uniform(sample_seeds(count, self.seed, first), (2, len(schema)), Streams.WISH)
        values = u[:, 1].clone()
        for index, attribute in enumerate(schema):
            if attribute.kind == "discrete":
                values[:, index] = (values[:, index] * attribute.num_classes).floor()
        return Labels(schema, values, (u[:, 0] < self.share) | (u[:, 0] == u[:, 0].amin(1, keepdim=True)))

    def energy(self, wishes: Labels) -> Energy:
        """Return the energy of z: the sum of what each sample wants."""
        schema, values = wishes.schema, Labels(wishes.schema, wishes.values)
        terms = [
            self.weight * wishes.known[:, index].float() * build(parse(f"{attribute.name} == *", schema), values)
            for index, attribute in enumerate(schema)
        ]
        return And(*terms).pullback(self.classifier).pullback(self.generator.map_to(self.classifier.space))

    def __call__(self, count: int, first: int) -> Tensor:
        device = self.generator.device
        self.classifier.to(device)
        z = self.generator.prior(count, self.seed, first, device)
        energy = self.energy(self.wishes(count, first)).to(device)
        return self.sampler(energy, z, seeds=sample_seeds(count, self.seed, first).to(device)).z
