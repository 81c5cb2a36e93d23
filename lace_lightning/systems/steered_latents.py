"""Latents that a classifier was steered to: pairs with attributes that are rare under the prior."""

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
    """Latents z (count, Dz) that follow the flow of a classifier's energy to random targets of their own.

    Each sample has a target for each attribute with probability `share`, and at least one. Target values are uniform
    and independent. The sample follows the flow of `weight`·E from the prior. A classifier that was trained without
    such latents labels many of them incorrectly; added to the pairs of its training (`make_pairs(..., latents=this)`),
    they correct it. Sample i depends on the seed and i alone.

    Args:
        generator: the generator of the latents.
        classifier: a classifier of z or w of this generator.
        seed: seed of latents and targets.
        sampler: sampler that follows the energy; `Heun(0.1, 0.1)` by default.
        weight: factor of the energy, above 0.
        share: probability of a target for an attribute, from 0 to 1.

    Raises:
        LaceError: for a classifier of pictures, and for a classifier of another generator.

    References:
        Eq. 7 of LACE (arXiv 2110.10873), the flow that is followed.

    Example:
        >>> import torch
        >>> from lace_lightning.schema import Attribute, Schema
        >>> class Toy(Generator):
        ...     def __init__(self):
        ...         super().__init__(4, 4, (1, 1, 4))
        ...         self.mapping = torch.nn.Identity()
        >>> schema = Schema("s", (Attribute("hat"), Attribute("age", "continuous")))
        >>> classifier = AttributeClassifier(schema, "w", arguments={"input_dim": 4, "hidden": [8]})
        >>> latents = ControlledLatents(Toy(), classifier.eval().requires_grad_(False))
        >>> latents(3, first=0).shape, bool(latents.wishes(3, 0).known.any(1).all())
        (torch.Size([3, 4]), True)
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
                "Steering latents requires a classifier of latents, received one of pictures (space x): use a "
                "classifier of space w or z."
            )
        classifier.check_generator(generator.digest_for(classifier.space))
        self.generator, self.classifier, self.seed = generator, classifier, seed
        self.sampler, self.weight, self.share = sampler or Heun(0.1, 0.1), weight, share

    @property
    def digest(self) -> str:
        """The digest of everything that the latents depend on besides generator and seed."""
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
        """Return the targets of samples first .. first + count - 1; attributes without a target are not known."""
        schema = self.classifier.schema
        u = uniform(sample_seeds(count, self.seed, first), (2, len(schema)), Streams.WISH)
        values = u[:, 1].clone()
        for index, attribute in enumerate(schema):
            if attribute.kind == "discrete":
                values[:, index] = (values[:, index] * attribute.num_classes).floor()
        return Labels(schema, values, (u[:, 0] < self.share) | (u[:, 0] == u[:, 0].amin(1, keepdim=True)))

    def energy(self, wishes: Labels) -> Energy:
        """Return the energy of z: the sum of the weighted energies of each sample's targets."""
        schema, values = wishes.schema, Labels(wishes.schema, wishes.values)
        terms = [
            self.weight * wishes.known[:, index].float() * build(parse(f"{attribute.name} == *", schema), values)
            for index, attribute in enumerate(schema)
        ]
        return And(*terms).pullback(self.classifier).pullback(self.generator.map_to(self.classifier.space))

    def __call__(self, count: int, first: int) -> Tensor:
        """Return the latents z (count, Dz) of samples first .. first + count - 1."""
        device = self.generator.device
        self.classifier.to(device)
        z = self.generator.prior(count, self.seed, first, device)
        energy = self.energy(self.wishes(count, first)).to(device)
        return self.sampler(energy, z, seeds=sample_seeds(count, self.seed, first).to(device)).z
