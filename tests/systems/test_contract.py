"""The contract of every System: samples follow seeds, trained states come back, refusals are sentences."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import lace_lightning.systems
from lace_lightning.errors import LaceError
from lace_lightning.generators import ModuleGenerator
from lace_lightning.query import parse
from lace_lightning.schema import Labels
from lace_lightning.systems.base import ConditionalModel, Drawn, System
from lace_lightning.systems.lace import LACE
from lace_lightning.systems.pixel_ebm.base import EnergyModel

from .test_base import SCHEMA, models

# Classes without a training of their own.
ABSTRACT = (System, ConditionalModel, EnergyModel)
QUERY = parse("hue == green and age == 0.4", SCHEMA)


def generator() -> ModuleGenerator:
    torch.manual_seed(1)
    layers = torch.nn.Linear(4, 192), torch.nn.Tanh(), torch.nn.Unflatten(1, (3, 8, 8))
    return ModuleGenerator(torch.nn.Sequential(*layers), 4, (3, 8, 8))


def systems() -> dict[str, System]:
    made: dict[str, System] = {type(model).__name__: model for model in models().values()}
    made["LACE"] = LACE(SCHEMA, space="w", arguments={"input_dim": 4, "hidden": [8]})
    flow = made["StyleFlow"]
    flow.conditions.remember(torch.tensor([[1.0, 0.5]]), torch.ones(1, 2, dtype=torch.bool))
    for system in made.values():
        system.eval().requires_grad_(False)
    return {name: system.bind(generator()) for name, system in made.items()}


NAMES = sorted(systems())


def subclasses(kind: type) -> Iterator[type]:
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)


def test_every_system_of_the_package_is_here() -> None:
    for module in pkgutil.walk_packages(lace_lightning.systems.__path__, "lace_lightning.systems."):
        importlib.import_module(module.name)
    found = {one.__name__ for one in subclasses(System) if one.__module__.startswith("lace_lightning.")}
    assert found - {kind.__name__ for kind in ABSTRACT} == set(NAMES)


def draw(system: System, rows: slice) -> Drawn:
    z, seeds = system.generator.prior(6, seed=3), torch.arange(6)
    return system.draw(QUERY, z[rows], seeds[rows], None)


@pytest.mark.parametrize("name", NAMES)
def test_it_draws_pictures_that_depend_on_their_seeds_alone(name: str) -> None:
    system = systems()[name]
    system.check_query(QUERY)
    whole = draw(system, slice(0, 6))
    assert whole.images.shape == (6, 3, 8, 8)
    assert whole.images.dtype == torch.uint8
    assert whole.sample.evaluations >= 0
    assert whole.synthesis_seconds >= 0
    if name == "ScoreModel":
        # Its published sampler couples the samples of a batch.
        return
    parts = [draw(system, slice(0, 2)), draw(system, slice(2, 6))]
    # Neighbouring bytes may round to either side where a product is blocked otherwise.
    difference = torch.cat([part.images for part in parts]).int() - whole.images.int()
    assert int(difference.abs().max()) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_it_draws_in_inference_mode(name: str) -> None:
    system = systems()[name]
    with torch.inference_mode():
        assert draw(system, slice(0, 2)).images.shape == (2, 3, 8, 8)


@pytest.mark.parametrize("name", NAMES)
def test_its_trained_state_comes_back(name: str, tmp_path: Path) -> None:
    first, second = systems()[name], systems()[name]
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.01)
    assert first.digest != second.digest
    first.save_trained(tmp_path / "state.safetensors", seconds=2.0)
    assert second.load_trained(tmp_path / "state.safetensors")["seconds"] == 2.0
    assert first.digest == second.digest


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is(name: str) -> None:
    system = systems()[name]
    assert system.summary()
    assert system.title
    assert system.space in ("z", "w", "x")
    assert system.training_data() == ("pictures" if system.space == "x" else "pairs")
    assert isinstance(system.protocol(QUERY), dict)


@pytest.mark.parametrize("name", NAMES)
def test_it_refuses_what_it_cannot_do(name: str) -> None:
    system = systems()[name]
    with pytest.raises(LaceError):
        system.parsed("hair == long")
    if system.edit_options is None:
        with pytest.raises(LaceError, match="only draws"):
            system.step_editor(None)
    if name != "LACE":
        with pytest.raises(LaceError, match="temperature"):
            system.with_temperature(2.0)
    system._bound = None
    with pytest.raises(LaceError, match="bind"):
        _ = system.generator


def test_free_attributes_are_given_for_every_sample() -> None:
    query, free = parse("hue == *", SCHEMA), Labels.constant(SCHEMA, 6, hue=torch.arange(6) % 3)
    for system in systems().values():
        drawn = system.draw(query, system.generator.prior(6, seed=3), torch.arange(6), free)
        assert len(drawn.images) == 6
