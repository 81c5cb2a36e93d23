"""What every energy promises, for each class of energies: a new class needs a case in CASES."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import lace_lightning.energies as energies
from lace_lightning.energies import (
    Affine,
    Anchor,
    And,
    Cases,
    Cells,
    Certain,
    Continuous,
    Count,
    Discrete,
    Energy,
    HalfLine,
    Interval,
    Joint,
    Near,
    Not,
    OneOf,
    Or,
    PaperNot,
    PaperOr,
    Prior,
    Pullback,
    Region,
    Reward,
    Weighted,
)
from lace_lightning.energies.terms import Term
from lace_lightning.errors import LaceError
from lace_lightning.query import parse
from lace_lightning.schema import Attribute, Labels, Schema

SCHEMA = Schema("s", (Attribute("a"), Attribute("b", "discrete", 3), Attribute("v", "continuous")))
COUNT, WIDTH = 6, SCHEMA.num_logits
A, B, V = (SCHEMA.slices[name] for name in "abv")
ABSTRACT = {Energy, Term}


class Map(nn.Module):
    """A smooth map of u (B, 6), differentiated by hand where `by_hand`."""

    def __init__(self, by_hand: bool = False) -> None:
        super().__init__()
        self.matrix = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        if by_hand:
            self.linearize = self._linearized

    def forward(self, u: Tensor) -> Tensor:
        return torch.tanh(u) @ self.matrix.to(u)

    def _linearized(self, u: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        return self(u), lambda g: (1 - torch.tanh(u).square()) * (g @ self.matrix.to(u).T)


@dataclass
class Case:
    """An energy of u (6, 6), and which promises apply to it.

    `tempered_like` is the energy at the logits divided by the temperature, where tempering is only that.
    """

    energy: Energy
    gradient_is_of_value: bool = True
    tempered_like: bool = False
    temperature_matters: bool = True


def free() -> Labels:
    number = torch.arange(COUNT)
    return Labels(SCHEMA, torch.stack([number % 2, number % 3, torch.linspace(0.1, 0.9, COUNT)], 1).float())


def discrete(each: bool = True, **options: float | bool) -> Energy:
    return Discrete(B, free().column("b") if each else 1, **options)


def partly_known() -> Labels:
    labels = free()
    return Labels(SCHEMA, labels.values, torch.arange(COUNT)[:, None] % torch.tensor([2, 3, 4]) > 0)


def cases() -> Energy:
    return Cases(A, [False, Discrete(B, free().column("b"), 2.0) & Continuous(V, 0.3)], temperature=1.5)


CASES: dict[str, Case] = {
    "Discrete": Case(discrete(), tempered_like=True),
    "Discrete of one class": Case(discrete(each=False, temperature=0.7), tempered_like=True),
    "Discrete of two classes": Case(Discrete(A, 1), tempered_like=True),
    "Discrete with the paper's temperature": Case(discrete(temperature=0.7, paper_temperature=True)),
    "Continuous": Case(Continuous(V, free().column("v"), 0.3), temperature_matters=False),
    "HalfLine": Case(HalfLine(V, free().column("v"), sigma=0.4), temperature_matters=False),
    "HalfLine above": Case(HalfLine(V, 0.2, True, 0.4), temperature_matters=False),
    "Interval": Case(Interval(V, 0.2, 0.5, 0.4), temperature_matters=False),
    "OneOf": Case(OneOf(B, [0, 2], 0.7), tempered_like=True),
    "Certain": Case(Certain(), temperature_matters=False),
    "Prior": Case(Prior(), temperature_matters=False),
    "Anchor": Case(Anchor(torch.randn(COUNT, WIDTH), 0.5), temperature_matters=False),
    "Anchor of columns": Case(Anchor(torch.randn(COUNT, WIDTH), 0.5, [0, 4]), temperature_matters=False),
    "Affine": Case(Affine(discrete(), torch.randn(COUNT, WIDTH), torch.randn(WIDTH, WIDTH))),
    "Near": Case(Near(discrete(), torch.randn(COUNT, WIDTH), 0.6)),
    "And": Case(discrete() & Discrete(A, 0), tempered_like=True),
    "And of different kinds": Case(discrete() & Continuous(V, free().column("v")) & Prior()),
    "Or": Case(discrete() | Discrete(A, 1), tempered_like=True),
    "Not": Case(~(discrete() & Discrete(A, 1)), tempered_like=True),
    "Weighted": Case(3.0 * discrete(), tempered_like=True),
    "Weighted for each sample": Case(torch.linspace(0.5, 2, COUNT) * discrete(each=False), tempered_like=True),
    "Pullback": Case(discrete().pullback(Map()) & Continuous(V, 0.3).pullback(Map())),
    "Pullback of a map with its own derivative": Case((discrete() & Discrete(A, 0)).pullback(Map(by_hand=True))),
    "Cases": Case(cases()),
    "Cells": Case(Cells(V, [0.1, 0.4, 0.8], [True, discrete(), False, Discrete(A, 1)], 0.3)),
    "Count": Case(Count([1, 3], [discrete(), Discrete(A, 1), Interval(V, 0.2, 0.5, 0.4)])),
    "Count of classes alone": Case(Count([1], [discrete(), Discrete(A, 1)]), tempered_like=True),
    "PaperOr": Case(PaperOr(discrete(), Continuous(V, 0.2))),
    "PaperNot": Case(PaperNot(discrete())),
    "Region": Case(Region(2.0 * discrete(), parse("b == * and v < 0.5", SCHEMA), free()), gradient_is_of_value=False),
    "Region without free attributes": Case(
        Region(Discrete(A, 1), parse("a == 1", SCHEMA)).pullback(Map()), gradient_is_of_value=False
    ),
    "Reward": Case(Reward(lambda u: u.square().sum(1).sin(), 2.0, space="z"), temperature_matters=False),
    "Reward with a bound": Case(
        Reward(lambda u: u.square().sum(1).sin(), 2.0, space="z", best=1.0), temperature_matters=False
    ),
    "Joint": Case(Joint(partly_known(), 0.3), temperature_matters=False),
    "Joint for all samples": Case(Joint(Labels.constant(SCHEMA, 1, b=2), 0.3), temperature_matters=False),
    "Joint with an energy head": Case(
        Joint(Labels(SCHEMA.part("ab"), partly_known().values[:, :2]), energy_head=True), temperature_matters=False
    ),
}
# Energies without the probability of an event.
NO_EVENTS = {
    "Discrete with the paper's temperature",
    "Prior",
    "Anchor",
    "Anchor of columns",
    "And of different kinds",
    "Weighted",
    "Weighted for each sample",
    "PaperOr",
    "PaperNot",
    "Region",
    "Region without free attributes",
    "Reward",
    "Reward with a bound",
    "Joint",
    "Joint for all samples",
    "Joint with an energy head",
}


def subclasses(kind: type) -> Iterator[type]:
    """Yield the classes of the package that derive from a class, and the class; those of examples are not of it."""
    if getattr(sys.modules[kind.__module__], kind.__name__, None) is kind and kind.__module__.startswith(
        "lace_lightning.energies"
    ):
        yield kind
    for child in kind.__subclasses__():
        yield from subclasses(child)


def parts(energy: Energy) -> Iterator[Energy]:
    return (part for part in energy.modules() if isinstance(part, Energy))


def points(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(COUNT, WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(dtype)


def wrapped(energy: Energy) -> Energy:
    """Return a different object of the same value."""
    return Pullback(energy, nn.Identity())


each = pytest.mark.parametrize("name", CASES)


def test_every_class_has_a_case() -> None:
    covered = {type(part) for case in CASES.values() for part in parts(case.energy)}
    assert {kind.__name__ for kind in subclasses(Energy)} - {kind.__name__ for kind in covered | ABSTRACT} == set()
    exported = {value for value in vars(energies).values() if inspect.isclass(value) and issubclass(value, Energy)}
    assert {kind for kind in subclasses(Energy) if kind not in ABSTRACT} <= exported
    assert And in covered
    assert Weighted in covered


@each
def test_value_and_gradient(name: str) -> None:
    case, u = CASES[name], points()
    value, gradient = case.energy.value_and_grad(u)
    assert value.shape == (COUNT,)
    assert gradient.shape == u.shape
    assert value.dtype == gradient.dtype == u.dtype
    assert not value.requires_grad
    assert not gradient.requires_grad
    torch.testing.assert_close(value, case.energy(u))
    differentiated = case.energy if case.gradient_is_of_value else case.energy.guide
    torch.testing.assert_close(gradient, Energy.value_and_grad(differentiated, u)[1])
    with torch.inference_mode():
        torch.testing.assert_close(case.energy.value_and_grad(points())[1], gradient)


@each
def test_float32_is_kept(name: str) -> None:
    value, gradient = CASES[name].energy.value_and_grad(points(torch.float32))
    assert value.dtype == gradient.dtype == torch.float32


@each
@pytest.mark.parametrize("index", [torch.tensor([4, 0, 4]), slice(1, 4), torch.arange(COUNT) % 2 == 0], ids=str)
def test_rows_are_those_of_the_batch(name: str, index: Tensor | slice) -> None:
    energy, u = CASES[name].energy, points()
    value, gradient = energy.value_and_grad(u)
    chosen = energy.rows(index)
    torch.testing.assert_close(chosen(u[index]), value[index])
    torch.testing.assert_close(chosen.value_and_grad(u[index])[1], gradient[index])
    assert type(chosen) is type(energy)


@each
def test_a_temperature_divides_the_logits_of_discrete_attributes(name: str) -> None:
    case, u = CASES[name], points()
    energy = case.energy
    torch.testing.assert_close(energy.tempered(1.0)(u), energy(u))
    torch.testing.assert_close(energy.tempered(0.5).tempered(4.0)(u), energy.tempered(2.0)(u))
    hot = energy.tempered(2.0)
    assert bool(torch.isfinite(hot(u)).all())
    if case.tempered_like:
        torch.testing.assert_close(hot(u), energy(u / 2))
    if not case.temperature_matters:
        assert hot is energy
    torch.testing.assert_close(hot.rows(slice(1, 4))(u[1:4]), hot(u)[1:4])


@each
def test_rebuilding_with_the_same_parts_gives_the_same_energy(name: str) -> None:
    energy, u = CASES[name].energy, points()
    assert energy.rebuilt(lambda part: part) is energy
    assert energy.rows(slice(None))(u).tolist() == energy(u).tolist()
    changed: list[Energy] = []

    def change(part: Energy) -> Energy:
        changed.append(part)
        return wrapped(part)

    other = energy.rebuilt(change)
    assert type(other) is type(energy)
    torch.testing.assert_close(other(u), energy(u))
    torch.testing.assert_close(other.value_and_grad(u)[1], energy.value_and_grad(u)[1])
    # A combinator passes each of its parts once; a leaf has none.
    children = [part for part in parts(energy) if part is not energy]
    assert bool(changed) == bool(children)
    assert len({id(part) for part in changed}) == len(changed)


@each
def test_curvature_has_rows_of_the_shape_of_u(name: str) -> None:
    energy, u = CASES[name].energy, points()
    value, gradient, rows = energy.curvature(u)
    assert rows.ndim == 3
    assert (len(rows), rows.shape[2]) == u.shape
    assert rows.dtype == u.dtype
    torch.testing.assert_close(value, energy(u))
    torch.testing.assert_close(gradient, energy.value_and_grad(u)[1])
    chosen = energy.rows(slice(1, 4)).curvature(u[1:4])[2]
    torch.testing.assert_close(chosen, rows[1:4])


@each
def test_a_probability_is_at_most_one(name: str) -> None:
    energy = CASES[name].energy
    if energy.is_probability:
        assert bool((energy(3 * points()) >= 0).all())


@each
def test_an_event_has_a_complement(name: str) -> None:
    energy, u = CASES[name].energy, points()
    if name in NO_EVENTS:
        with pytest.raises(LaceError, match="Logic needs"):
            energy.pair(u)
        return
    log_p, log_not = energy.pair(u)
    torch.testing.assert_close(-log_p, energy(u))
    torch.testing.assert_close(log_p.exp() + log_not.exp(), torch.ones_like(log_p))


@each
def test_the_guide_differs_for_hard_regions_alone(name: str) -> None:
    energy = CASES[name].energy
    hard = any(isinstance(part, Region) for part in parts(energy))
    assert (energy.guide is energy) == (not hard)
    assert not any(isinstance(part, Region) for part in parts(energy.guide))


@each
def test_an_energy_is_written_and_has_no_state(name: str) -> None:
    energy = CASES[name].energy
    assert repr(energy).startswith(type(energy).__name__)
    assert energy.state_dict() == {}


def test_classes_are_what_they_are_called() -> None:
    assert isinstance(CASES["Not"].energy, Not)
    assert isinstance(CASES["Or"].energy, Or)
    assert isinstance(CASES["Cases"].energy, Cases)
