"""The parts of a page as graphs that a browser computes: pictures, logits, probabilities, and a step of the flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..classifiers import AttributeClassifier
from ..energies import Energy
from ..energies.terms import Continuous, Discrete
from ..generators import Generator
from ..pictures.convert import to_bytes
from ..samplers.runge_kutta import METHODS, RungeKutta
from ..schema import Attribute, Schema
from ..systems.outlook import expected_score
from .session import SIGMA, Session

# Rows of the examples with which graphs are recorded.
ROWS = 3


@dataclass(frozen=True)
class Graph:
    """A module that becomes a file of the page.

    Args:
        module: the module.
        inputs: examples of its inputs by name, in the order of its arguments.
        outputs: names of its outputs.
        shared: names of the inputs that all samples share.
        has_gradients: whether the module computes gradients.

    Example:
        >>> Graph(nn.Identity(), {"z": torch.zeros(3, 2)}, ("z_out",)).shared
        ()
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    shared: tuple[str, ...] = ()
    has_gradients: bool = False


def graphs_of(session: Session) -> dict[str, Graph]:
    """Return the graphs of a page by name.

    Args:
        session: the networks.

    Example:
        >>> from lace_lightning.examples import tiny_lace
        >>> lace = tiny_lace()
        >>> list(graphs_of(Session(lace.generator, lace.classifier, "tiny")))
        ['pictures', 'logits', 'terms', 'step']
    """
    schema, z = session.schema, session.generator.prior(ROWS)
    # Not constants: a graph that is recorded with 0 or 1 could be simplified to that value.
    each, wanted = torch.full((len(schema),), 0.5), torch.zeros(len(schema))
    number = torch.tensor([0.5])
    step = Step(session.generator, session.classifier, session.standard_sampler)
    lengths = torch.full((ROWS, 1), 0.25)
    inputs = {"z": z, "slope": z * 0.5, "lengths": lengths, "origin": z * 0.9, "wanted": wanted, "weights": each}
    return {
        "pictures": Graph(Pictures(session.generator), {"z": z}, ("images",)),
        "logits": Graph(Logits(session.generator, session.classifier), {"z": z}, ("logits",)),
        "terms": Graph(
            Terms(schema),
            {"logits": torch.zeros(ROWS, schema.num_logits), "wanted": wanted},
            ("log_p", "expected"),
            ("wanted",),
        ),
        "step": Graph(
            step,
            {**inputs, "kept": each * 0.5, "proximity": number},
            ("z_out", "error", "slope_out"),
            ("wanted", "weights", "kept", "proximity"),
            has_gradients=True,
        ),
    }


class Pictures(nn.Module):
    """Pictures (B, C, H, W) uint8 of latents z (B, Dz).

    Args:
        generator: the generator.

    Example:
        >>> from lace_lightning.examples import tiny_lace
        >>> Pictures(tiny_lace().generator)(torch.zeros(1, 4)).dtype
        torch.uint8
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor) -> Tensor:
        return to_bytes(self.generator.synthesis(self.generator.mapping(z)))


class Logits(nn.Module):
    """Logits (B, L) of latents z (B, Dz).

    Args:
        generator: the generator.
        classifier: a classifier of its latents.

    Example:
        >>> from lace_lightning.examples import tiny_lace
        >>> lace = tiny_lace()
        >>> Logits(lace.generator, lace.classifier)(torch.zeros(1, 4)).shape[0]
        1
    """

    def __init__(self, generator: Generator, classifier: AttributeClassifier) -> None:
        super().__init__()
        self.generator, self.classifier = generator, classifier

    def forward(self, z: Tensor) -> Tensor:
        to_space = self.generator.map_to(self.classifier.space)
        result: Tensor = self.classifier(z if to_space is None else to_space(z))
        return result


class Terms(nn.Module):
    """log p of a wanted value of every attribute (B, A), and the score in ACC to expect (B, A), from logits (B, L).

    Args:
        schema: the A attributes.

    Example:
        >>> from lace_lightning.schema import Attribute
        >>> log_p, expected = Terms(Schema("s", (Attribute("hat"),)))(torch.zeros(1, 2), torch.tensor([1.0]))
        >>> log_p.exp().tolist(), expected.tolist()
        ([[0.5]], [[0.5]])
    """

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.schema = schema

    def forward(self, logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        log_p, expected = [], []
        for index, attribute in enumerate(self.schema):
            log_p.append(-_term(self.schema, attribute, wanted[index])(logits))
            f = logits[:, self.schema.slices[attribute.name]]
            expected.append(expected_score(attribute, f, wanted[index].expand(logits.shape[0]), SIGMA))
        return torch.stack(log_p, 1), torch.stack(expected, 1)


class Step(nn.Module):
    """One step of the flow of the page's standard method, with its error and the slope where it ends.

    The energy is Σ_a weights_a·E_a(wanted_a) + proximity·(‖z - origin‖² + ‖w - w(origin)‖²) + Σ_a kept_a·‖f_a -
    f_a(origin)‖², which new pictures (proximity and kept 0) and edits share. Whether a step is accepted and how long
    the next one is, the caller decides, as `RungeKutta` does.

    Args:
        generator: the generator.
        classifier: a classifier of its latents.
        sampler: the Heun-Euler pair.

    References:
        Eq. 7 and the energy of sequential editing of LACE (arXiv 2110.10873).

    Example:
        >>> from lace_lightning.examples import tiny_lace
        >>> from lace_lightning.samplers import Heun
        >>> lace = tiny_lace()
        >>> step, z, each = Step(lace.generator, lace.classifier, Heun()), torch.ones(2, 4), torch.ones(1)
        >>> still = (torch.zeros(2, 1), z, each, each, each, torch.zeros(1))
        >>> after, error, slope = step(z, torch.zeros(2, 4), *still)
        >>> bool((after == z).all()), error.tolist(), slope.shape
        (True, [[0.0], [0.0]], torch.Size([2, 4]))
    """

    def __init__(self, generator: Generator, classifier: AttributeClassifier, sampler: RungeKutta) -> None:
        super().__init__()
        self.generator, self.classifier = generator, classifier
        self.tableau = METHODS[sampler.method]
        self.atol, self.rtol = float(sampler.atol), float(sampler.rtol)

    def forward(
        self,
        z: Tensor,
        slope: Tensor,
        lengths: Tensor,
        origin: Tensor,
        wanted: Tensor,
        weights: Tensor,
        kept: Tensor,
        proximity: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return z (B, Dz) after a step, the ratio of its error to the tolerance (B, 1), and -∇E there (B, Dz).

        Args:
            z: latents (B, Dz).
            slope: -∇E at z (B, Dz).
            lengths: length of the step of each sample (B, 1), 0 or more.
            origin: latents that edits hold the sample near (B, Dz).
            wanted: the wanted value of every attribute (A,), a class number or a number in [0, 1].
            weights: weight of every attribute (A,), 0 where it is free.
            kept: weight of the squared change of every attribute's logits (A,).
            proximity: weight of the squared distances (1,).
        """
        energy = _Wished(self.generator, self.classifier, origin, wanted, weights, kept, proximity)

        def slope_at(_: float, point: Tensor) -> Tensor:
            return -energy.value_and_grad(point)[1]

        after, k = self.tableau.attempt(z, lengths, slope, slope_at, fused=False)
        ratio = self.tableau.error_ratio(z, after, lengths, k, self.atol, self.rtol)
        return after, ratio, slope_at(1.0, after)


class _Wished(Energy):
    """The energy of `Step` on z (B, Dz); its gradient is recorded as operations."""

    def __init__(
        self,
        generator: Generator,
        classifier: AttributeClassifier,
        origin: Tensor,
        wanted: Tensor,
        weights: Tensor,
        kept: Tensor,
        proximity: Tensor,
    ) -> None:
        super().__init__()
        # Not as modules, which would make their weights inputs of every step.
        self._to_space: Callable[[Tensor], Tensor] | None = generator.map_to(classifier.space)
        self._parts = (generator, classifier, origin, wanted, weights, kept, proximity)

    def forward(self, u: Tensor) -> Tensor:
        generator, classifier, origin, wanted, weights, kept, proximity = self._parts
        schema, to_space = classifier.schema, self._to_space
        f, before = (classifier(z if to_space is None else to_space(z)) for z in (u, origin.detach()))
        total = (u - origin).square().sum(1)
        if generator.has_w:
            total = total + (generator.mapping(u) - generator.mapping(origin)).square().sum(1)
        total = proximity * total
        for index, attribute in enumerate(schema):
            columns = schema.slices[attribute.name]
            total = total + weights[index] * _term(schema, attribute, wanted[index])(f)
            total = total + kept[index] * (f[:, columns] - before[:, columns]).square().sum(1)
        return total


def _term(schema: Schema, attribute: Attribute, wanted: Tensor) -> Energy:
    """Return the energy of a wanted value () on the logits of a schema."""
    columns = schema.slices[attribute.name]
    return Discrete(columns, wanted) if attribute.kind == "discrete" else Continuous(columns, wanted, SIGMA)
