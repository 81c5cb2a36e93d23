"""A command and each job of a sweep are composed once, and equal what Hydra composes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import OmegaConf

from lace_lightning import cli
from lace_lightning.composition import OnceComposedLoader
from lace_lightning.configuration import config_folder
from lace_lightning.report import sweeps

WORDS = ["+experiment=cifar10_heun", "logger=csv", "sampler.atol=0.1"]


@pytest.fixture(autouse=True)
def _resolvers() -> None:
    sweeps.register_resolvers()


@pytest.fixture
def path() -> ConfigSearchPath:
    return create_automatic_config_search_path(None, "lace_lightning.cli", str(config_folder()))


@pytest.fixture
def compositions(monkeypatch) -> Iterator[list[list[str]]]:
    """The overrides of every composition that Hydra makes."""
    compose, made = ConfigLoaderImpl._load_configuration_impl, []

    def counted(self, config_name, overrides, *others, **named):
        made.append(list(overrides))
        return compose(self, config_name, overrides, *others, **named)

    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", counted)
    return made


@pytest.mark.parametrize("mode", [RunMode.RUN, RunMode.MULTIRUN])
def test_the_second_request_equals_what_hydra_composes(mode, path, compositions) -> None:
    loader = OnceComposedLoader(path)
    first = loader.load_configuration("config", WORDS, RunMode.MULTIRUN, validate_sweep_overrides=False)
    first.sampler.atol = 7
    words = [*WORDS, f"hydra.mode={mode.name}"]
    second = loader.load_configuration("config", words, mode)
    assert len(compositions) == 1
    expected = ConfigLoaderImpl(path).load_configuration("config", words, mode)
    assert OmegaConf.to_container(second) == OmegaConf.to_container(expected)
    assert OmegaConf.to_yaml(second) == OmegaConf.to_yaml(expected)
    assert second.hydra.mode is mode
    assert OmegaConf.is_struct(second)


def test_each_job_of_a_sweep_is_composed_once(tmp_path, monkeypatch, compositions) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "job", _no_job)
    cli.main(["-m", *WORDS, "seed=1,2,3", "logger=csv"])
    GlobalHydra.instance().clear()
    assert len(compositions) == 1 + 3


def _no_job(cfg) -> None:
    """The job of a sweep whose compositions are counted."""


def test_several_values_in_one_run_are_refused(path) -> None:
    loader = OnceComposedLoader(path)
    words = ["+experiment=cifar10_heun", "seed=1,2"]
    loader.load_configuration("config", words, RunMode.MULTIRUN)
    with pytest.raises(ConfigCompositionException, match="Ambiguous value"):
        loader.load_configuration("config", [*words, "hydra.mode=RUN"], RunMode.RUN)


def test_a_worker_receives_no_compositions(path) -> None:
    loader = OnceComposedLoader(path)
    loader.load_configuration("config", WORDS, RunMode.RUN)
    assert not pickle.loads(pickle.dumps(loader))._composed
