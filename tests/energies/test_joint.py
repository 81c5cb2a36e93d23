"""The joint energy beside the two formulas that it is the union of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lace_lightning.energies import Energy, Joint
from lace_lightning.errors import LaceError
from lace_lightning.schema import Attribute, Labels, Schema

SCHEMA = Schema(
    "s", (Attribute("a", "discrete", 3), Attribute("v", "continuous"), Attribute("b"), Attribute("w", "continuous"))
)
COUNT, SIGMA = 12, 0.3


def codes() -> Labels:
    random = torch.Generator().manual_seed(0)
    number = torch.arange(COUNT)
    values = torch.stack([number % 3, torch.rand(COUNT, generator=random), number % 2, torch.linspace(0, 1, COUNT)], 1)
    known = torch.rand(COUNT, 4, generator=random) < 0.6
    # What is not known may be anything.
    return Labels(SCHEMA, torch.where(known, values, -7.0), known)


def logits(extra: int = 0) -> Tensor:
    return 3 * torch.randn(COUNT, SCHEMA.num_logits + extra, generator=torch.Generator().manual_seed(1)).double()


def sum_over_attributes(u: Tensor, codes: Labels) -> Tensor:
    """-Σ f_i[c_i] of known classes, -logsumexp f_i of the others, (c_i - f_i)²/(2σ²) of known values."""
    energy = u.new_zeros(len(u))
    for index, attribute in enumerate(SCHEMA):
        f, known = u[:, SCHEMA.slices[attribute.name]], codes.known[:, index]
        value = torch.where(known, codes.values[:, index], 0.0)
        if attribute.kind == "continuous":
            energy = energy + torch.where(known, (value - f[:, 0]).square() / (2 * SIGMA**2), 0.0)
        else:
            energy = energy - torch.where(known, f.gather(1, value.long()[:, None])[:, 0], f.logsumexp(1))
    return energy


def density_and_classifier(u: Tensor, codes: Labels | None, energy_head: bool = False) -> Tensor:
    """E(x) + Σ over known attributes of -log p(c_i|x), E(x) = -Σ logsumexp f_i or minus the last column."""
    energy = -u[:, SCHEMA.num_logits] if energy_head else u.new_zeros(len(u))
    for index, attribute in enumerate(SCHEMA):
        f = u[:, SCHEMA.slices[attribute.name]]
        if not energy_head and attribute.kind == "discrete":
            energy = energy - f.logsumexp(1)
        if codes is None:
            continue
        known = codes.known[:, index]
        value = torch.where(known, codes.values[:, index], 0.0)
        if attribute.kind == "continuous":
            term = (value - f[:, 0]).square() / (2 * SIGMA**2)
        else:
            term = -f.log_softmax(1).gather(1, value.long()[:, None])[:, 0]
        energy = energy + torch.where(known, term, 0.0)
    return energy


NOTHING = Labels.constant(SCHEMA, 1)
CASES: dict[str, tuple[Energy, Callable[[Tensor], Tensor], int]] = {
    "sum": (Joint(codes(), SIGMA), lambda u: sum_over_attributes(u, codes()), 0),
    "marginal": (Joint(NOTHING, SIGMA), lambda u: density_and_classifier(u, None), 0),
    "density": (Joint(codes(), SIGMA), lambda u: density_and_classifier(u, codes()), 0),
    "head": (Joint(codes(), SIGMA, energy_head=True), lambda u: density_and_classifier(u, codes(), True), 1),
    "head alone": (Joint(NOTHING, SIGMA, energy_head=True), lambda u: density_and_classifier(u, None, True), 1),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_formula(name: str) -> None:
    energy, formula, extra = CASES[name]
    u = logits(extra).requires_grad_(True)
    want = formula(u)
    (gradient,) = torch.autograd.grad(want.sum(), u)
    torch.testing.assert_close(energy(u), want)
    value, closed = energy.value_and_grad(u)
    torch.testing.assert_close(value, want.detach())
    torch.testing.assert_close(closed, gradient)
    torch.testing.assert_close(torch.autograd.grad(energy(u).sum(), u)[0], gradient)


def test_the_rows_of_a_head_keep_it() -> None:
    energy, u, chosen = Joint(codes(), SIGMA, energy_head=True), logits(1), torch.tensor([7, 2])
    torch.testing.assert_close(energy.rows(chosen)(u[chosen]), energy(u)[chosen])
    assert "energy_head" in repr(energy)


def test_a_class_that_is_none_is_refused() -> None:
    with pytest.raises(LaceError, match="classes from 0 to 2"):
        Joint(Labels.constant(SCHEMA, 2, a=3))
