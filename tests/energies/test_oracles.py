"""Energies and gradients beside those that were recorded from the reference implementation (which stores -E)."""

from __future__ import annotations

import pytest
import torch

from lace_lightning.energies import Continuous, Discrete, PaperNot, PaperOr, Prior
from lace_lightning.energies.base import Energy
from lace_lightning.schedules import VP

from ..oracles import CLASSES, PORTRAITS, OneByOne, Oracle, on_z


@pytest.fixture(scope="module")
def classes(shared_dir):
    return Oracle(shared_dir / "oracles" / "lace_classes.npz")


@pytest.fixture(scope="module")
def attributes(shared_dir):
    return Oracle(shared_dir / "oracles" / "lace_attributes.npz")


def assert_equal(energy: Energy, z: torch.Tensor, negative: torch.Tensor, gradient: torch.Tensor) -> None:
    for value, grad in (energy.value_and_grad(z), Energy.value_and_grad(energy, z)):
        assert torch.allclose(-value, negative, atol=1e-4, rtol=1e-5)
        assert (grad + gradient).abs().max() <= 1e-3 * gradient.abs().max()
    assert torch.allclose(energy(z), value, atol=1e-5)


def test_class_energies(classes: Oracle) -> None:
    mapping, classifier = classes.mapping(2), classes.classifier("clf", "linear", CLASSES)
    z, y = classes["z"], classes["y"]
    assert torch.allclose(mapping(z), classes["w"], atol=1e-5)
    assert torch.allclose(classifier(classes["w"]), classes["logits"], atol=1e-4)
    energy = classifier.energy("label == *", free=_labels(y)).pullback(mapping)
    assert_equal(energy, z, classes["cond_energy_neg"], classes["grad_cond_energy_neg"])
    assert_equal(energy + Prior(), z, classes["energy_neg"], classes["grad_energy_neg"])
    for t, recorded in zip(classes["vpode_t"], classes["vpode_dzdt"], strict=True):
        assert torch.allclose(VP().half_beta(float(t)) * energy.value_and_grad(z)[1], recorded, rtol=1e-3, atol=1e-4)


def _labels(y: torch.Tensor):
    from lace_lightning.schema import Labels

    return Labels(CLASSES, y[:, None].float())


def _terms(attributes: Oracle, temperature: float = 1.0) -> list[Energy]:
    ys = attributes["ys"]
    result = []
    for index, a in enumerate(PORTRAITS):
        columns = PORTRAITS.slices[a.name]
        if a.kind == "discrete":
            result.append(Discrete(columns, ys[:, index], temperature, paper_temperature=True))
        else:
            result.append(Continuous(columns, ys[:, index]))
    return result


@pytest.mark.parametrize("truncation", ["1", "0.7"])
@pytest.mark.parametrize("temperature", ["1", "0.7"])
def test_attribute_energies(attributes: Oracle, truncation: str, temperature: str) -> None:
    mapping, classifier, z = attributes.mapping(8, float(truncation)), OneByOne(attributes), attributes["z"]
    assert torch.allclose(mapping(z), attributes[f"w_trunc{truncation}"], atol=1e-4)
    terms = _terms(attributes, float(temperature))
    suffix = f"_trunc{truncation}_T{temperature}"
    total: Energy | None = None
    for a, term in zip(PORTRAITS, terms, strict=True):
        energy = on_z(term, classifier, mapping)
        assert_equal(energy, z, attributes[f"single_{a.name}{suffix}"], attributes[f"grad_single_{a.name}{suffix}"])
        total = energy if total is None else total & energy
    assert total is not None
    assert_equal(total, z, attributes[f"cond{suffix}"], attributes[f"grad_cond{suffix}"])
    assert_equal(total + Prior(), z, attributes[f"full{suffix}"], attributes[f"grad_full{suffix}"])


EXPRESSIONS = {
    "0+1": lambda e: e[0] & e[1],
    "0*1": lambda e: PaperOr(e[0], e[1]),
    "0+(-1)": lambda e: e[0] & PaperNot(e[1]),
    "(0+1)*(2+(-3))": lambda e: PaperOr(e[0] & e[1], e[2] & PaperNot(e[3])),
    "0*1*2": lambda e: PaperOr(PaperOr(e[0], e[1]), e[2]),
    "(-0)": lambda e: PaperNot(e[0]),
    "0*(-1)": lambda e: PaperOr(e[0], PaperNot(e[1])),
    "(0*1)+(2*3)": lambda e: PaperOr(e[0], e[1]) & PaperOr(e[2], e[3]),
}


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_logic_as_the_paper_states_it(attributes: Oracle, text: str) -> None:
    z = attributes["z"]
    classifier, mapping = OneByOne(attributes), attributes.mapping(8, 0.7)
    energy = on_z(EXPRESSIONS[text](_terms(attributes)), classifier, mapping)
    assert_equal(energy, z, attributes[f"expr[{text}]"], attributes[f"grad_expr[{text}]"])
