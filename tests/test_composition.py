"""A command, and the jobs of a sweep that differ in plain values, are composed once, and equal what Hydra composes."""

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


def test_jobs_that_differ_in_plain_values_are_composed_once(tmp_path, monkeypatch, compositions) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "job", _no_job)
    cli.main(["-m", *WORDS, "seed=1,2,3", "logger=csv"])
    GlobalHydra.instance().clear()
    assert len(compositions) == 2


def _no_job(cfg) -> None:
    """The job of a sweep whose compositions are counted."""


def test_several_values_in_one_run_are_refused(path) -> None:
    loader = OnceComposedLoader(path)
    words = ["+experiment=cifar10_heun", "seed=1,2"]
    loader.load_configuration("config", words, RunMode.MULTIRUN)
    with pytest.raises(ConfigCompositionException, match="Ambiguous value"):
        loader.load_configuration("config", [*words, "hydra.mode=RUN"], RunMode.RUN)


JOBS = [
    ["sampler.atol=0.1", "seed=1"],
    ["sampler.atol=0.2", "seed=1"],
    ["sampler.atol=null", "seed=2"],
    ["sampler.atol=1e-5", "seed=7"],
    ["query.text='label == 3 or label == 8'", "seed=7"],
    ['query.text="label == ship"', "seed=8"],
    ["query.text='${name}'", "seed=8"],
    ["sampler=langevin", "seed=1"],
    ["sampler=heun", "seed=1"],
    ["+method=annealed", "seed=3"],
    ["task.attributes=[label]", "seed=3"],
    ["task.attributes=null", "seed=3"],
    ["task.attributes=[label,hat]", "seed=4"],
    ["sampler={_target_: a.B, atol: 3}", "sampler.atol=4"],
    ["sampler={_target_: a.C, rtol: 3}", "sampler.rtol=5"],
    ["+sampler.new=1", "~seed"],
    ["hydra.sweep.dir=elsewhere", "seed=5"],
]


def test_jobs_equal_what_hydra_composes(path, compositions) -> None:
    loader, hydra = OnceComposedLoader(path), ConfigLoaderImpl(path)
    words = [["hydra.mode=MULTIRUN", "+experiment=cifar10_heun", *job] for job in [*JOBS, *JOBS[::-1]]]
    for job in words:
        checked, expected = (one.load_configuration("config", job, RunMode.RUN) for one in (loader, hydra))
        assert OmegaConf.to_yaml(checked) == OmegaConf.to_yaml(expected)
    # The second request of each is for its run: these configurations stay as they are.
    kept = [loader.load_configuration("config", job, RunMode.RUN) for job in words]
    for cfg, job in zip(kept, words, strict=True):
        expected = hydra.load_configuration("config", job, RunMode.RUN)
        assert OmegaConf.to_yaml(cfg) == OmegaConf.to_yaml(expected)
        assert OmegaConf.is_struct(cfg)
    assert len(compositions) < 2 * len(words) + 2 * len(JOBS)


def test_a_group_of_the_user_is_no_plain_value(tmp_path, path) -> None:
    for folder in ("colour", "experiment"):
        (tmp_path / folder).mkdir()
    for name in ("red", "blue"):
        (tmp_path / "colour" / f"{name}.yaml").write_text(f"hue: {name}\n")
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ndefaults: [/colour: red]\n")
    loader, hydra = OnceComposedLoader(path), ConfigLoaderImpl(path)
    for name in ("red", "blue", "red", "blue"):
        job = [f"hydra.searchpath=['file://{tmp_path}']", "+experiment=mine", f"colour={name}", "seed=1"]
        cfg, expected = (one.load_configuration("config", job, RunMode.RUN) for one in (loader, hydra))
        assert cfg.colour.hue == name
        assert OmegaConf.to_yaml(cfg) == OmegaConf.to_yaml(expected)


def test_a_worker_receives_no_compositions(path) -> None:
    loader = OnceComposedLoader(path)
    loader.load_configuration("config", WORDS, RunMode.RUN)
    worker = pickle.loads(pickle.dumps(loader))
    assert not worker._templates
    assert worker.load_configuration("config", WORDS, RunMode.RUN).sampler.atol == 0.1
