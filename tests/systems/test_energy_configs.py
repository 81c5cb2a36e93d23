"""The configurations of energy-based models of pictures: each is a model, the large ones the published networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import lace_lightning
from lace_lightning.data.cifar10 import SCHEMA
from lace_lightning.systems.pixel_ebm.cond_ebm_network import build_energy
from lace_lightning.systems.pixel_ebm.jem_network import JEMNetwork
from lace_lightning.systems.pixel_ebm.langevin import LangevinChain


def _config(name: str) -> DictConfig:
    folder = Path(lace_lightning.__file__).parent.parent / "conf"
    with initialize_config_dir(str(folder), version_base=None):
        return compose("config", overrides=[f"model={name}"]).model


@pytest.mark.parametrize(
    ("name", "channels"),
    [("jem", 3), ("cond_ebm", 3), ("cond_ebm_spectral", 3), ("jem_digits", 1), ("cond_ebm_digits", 1)],
)
def test_each_configuration_is_a_model(name: str, channels: int) -> None:
    model = instantiate(_config(name), schema=SCHEMA.to_config(), buffer={"size": 20})
    assert model.hparams["shape"] == [channels, 32, 32]
    assert torch.isfinite(model.energy("label == airplane")(torch.rand(2, channels, 32, 32))).all()
    assert all(isinstance(value, (dict, list, str, int, float, type(None))) for value in model.hparams.values())


def test_large_networks_are_the_published_ones() -> None:
    with torch.device("meta"):
        wide = JEMNetwork(10, **_config("jem_full").network)
        residual = build_energy(10, **_config("cond_ebm_full").network)
    assert [sum(p.numel() for p in network.parameters()) for network in (wide, residual)] == [36_478_389, 6_643_044]


@pytest.mark.parametrize(
    ("name", "chain"),
    [
        ("jem_full", (20, 1.0, 0.01, False, None, None)),
        ("cond_ebm_full", (40, 100.0, 0.001, True, (0.0, 1.0), None)),
        ("cond_ebm_spectral", (60, 10.0, 0.005, True, (0.0, 1.0), 0.01)),
    ],
)
def test_chains_are_the_published_ones(name: str, chain: tuple) -> None:
    found = LangevinChain(**OmegaConf.to_container(_config(name).chain))
    assert (
        found.num_steps,
        found.step_size,
        found.noise_std,
        found.noise_first,
        found.clamp,
        found.gradient_clip,
    ) == chain
