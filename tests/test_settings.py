"""Settings: their reference page, their bounds, and refusals before anything is loaded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, open_dict

from lace_lightning import cli
from lace_lightning.configuration import config_folder
from lace_lightning.errors import LaceError
from lace_lightning.report.paper import paper_row
from lace_lightning.report.sweeps import register_resolvers
from lace_lightning.run import check
from lace_lightning.run.nodes import Node
from lace_lightning.run.settings import TASKS, Classifier, Metrics, Pairs, QuerySettings, Settings
from lace_lightning.run.settings_reference import page

ROOT = Path(__file__).resolve().parents[1]
ODE = "+experiment=cifar10_ode"


def composed(*overrides: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose("config", overrides=[*cli.normalize(overrides), "paths.output=out", "paths.cache=cache"])


@pytest.fixture(autouse=True)
def nothing_is_built(monkeypatch) -> None:
    def refuse(node: Node, *_: object, **__: object) -> None:
        raise AssertionError(f"{node.key} was built")

    monkeypatch.setattr(Node, "build", refuse)


def test_the_page_of_settings_is_up_to_date() -> None:
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == page(), "run make settings"


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("pairs/default", Pairs),
        ("classifier/latent", Classifier),
        ("query/label", QuerySettings),
        ("metrics/default", Metrics),
    ],
)
def test_defaults_are_those_of_the_configuration(file: str, kind: type) -> None:
    content = yaml.safe_load((config_folder() / f"{file}.yaml").read_text())
    defaults = kind().model_dump()
    differ = {name for name, value in content.items() if name != "arguments" and list_of(defaults[name]) != value}
    assert not differ
    assert set(content) == set(defaults)


def list_of(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def test_every_setting_has_a_meaning() -> None:
    for kind in (Settings, *TASKS.values(), Pairs, Classifier, QuerySettings, Metrics):
        for name, field in kind.model_fields.items():
            assert field.description, name


WRONG = [
    ("seed=-1", "'seed' must be at least 0, received -1"),
    ("seed=5000000000", "'seed' must be at most"),
    ("threads=-1", "'threads' must be at least 1"),
    ("metrics.num_samples=0", "'metrics.num_samples' must be at least 1"),
    ("metrics.num_samples=ten", "'metrics.num_samples' must be a whole number, received 'ten'"),
    ("metrics.batch_size=0", "'metrics.batch_size' must be at least 1"),
    ("metrics.fid=incepton", "'metrics.fid' must be"),
    ("pairs.count=-3", "'pairs.count' must be at least 1"),
    ("pairs.holdout=0.1", "'pairs.holdout' must be"),
    ("pairs.holdout=[0.5,0.6]", "must leave pairs for training"),
    ("classifier.learning_rate=fast", "'classifier.learning_rate' must be a number"),
    ("classifier.batch_size=-3", "'classifier.batch_size' must be at least 1"),
    ("classifier.space=v", "'classifier.space' must be"),
    ("query.sigma=0", "'query.sigma' must be above 0"),
    ("query.target=contrlled", "query.target"),
    ("sampler.atol=small", "'sampler.atol' must be a number, received 'small'"),
    ("+sampler.atoll=1", "no setting 'sampler.atoll'.*mean 'atol'"),
    ("+metrics.num_sample=3", "no setting 'metrics.num_sample'.*mean 'num_samples'"),
    ("+pairs.cout=3", "no setting 'pairs.cout'.*mean 'pairs.count'"),
    ("+task.exprt=x", "no setting 'task.exprt'.*mean 'task.export'"),
    ("sampler._target_=lace_lightning.samplers.Heum", "sampler._target_ must name a class"),
    ("labeler=none", "Pairs need a labeler"),
    ("task.name=controll", "mean 'control'"),
    ("classifier.calibrate=true pairs.holdout=[0,0.1]", "needs validation pairs"),
    ("task=temperature model=latent_jem", "model is LatentJEM"),
    ("task=edit", "Editing needs edits"),
    ('task=edit edits="label == ship" model=latent_jem', "only draws"),
    ('task=edit edits="label == ship" +editing.proximty=1', "proximty"),
    ("task=model", "needs a model"),
    ("model=latent_jem +model.step_siz=1", "no setting 'model.step_siz'.*mean 'step_size'"),
    ("model=latent_jem model.num_steps=many", "'model.num_steps' must be a whole number"),
    ("trainer.accelerator=gpu", "Trainer refuses"),
    ("trainer.devices=0", "Trainer refuses"),
    ("+trainer.gpus=1", "no setting 'trainer.gpus'"),
    ("trainer.max_epochs=null", "'trainer.max_epochs' must be a whole number"),
    ("trainer.precision=17", "must be 32, 16-mixed or bf16-mixed, received 17"),
    ("trainer.precision=16-true", "must be 32, 16-mixed or bf16-mixed, received 16-true"),
    ("trainer.precision=64", "must be 32, 16-mixed or bf16-mixed, received 64"),
    ("classifier.max_epochs=0", "'classifier.max_epochs' must be at least 1"),
    ("labeler=clip judge=clip", "'labeler.prompts' needs a value"),
    ("+callbacks.mine.text=x", "no class"),
]


@pytest.mark.parametrize(("overrides", "sentence"), WRONG, ids=[overrides for overrides, _ in WRONG])
def test_a_wrong_setting_is_one_sentence(overrides: str, sentence: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    import torch

    if "gpu" in overrides and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    words = re.findall(r'(?:[^\s"]|"[^"]*")+', overrides)
    with pytest.raises(LaceError) as refusal:
        check(composed(ODE, *(word.replace('"', "") if word.startswith("edits=") else word for word in words)))
    message = str(refusal.value)
    assert re.search(sentence, message), message
    assert "\n" not in message
    assert not list(tmp_path.iterdir())


def test_a_word_is_a_list_of_one() -> None:
    settings = check(composed("+experiment=pictures_to_label", "task.attributes=hat"))
    assert settings.task.attributes == ["hat"]


def test_numbers_of_either_form_are_taken() -> None:
    settings = check(composed(ODE, "metrics.num_samples=1e2", "sampler.atol=1"))
    assert settings.metrics.num_samples == 100


@pytest.mark.parametrize(
    ("former", "group", "name", "value"),
    [
        ("task.num_pairs=70", "pairs", "count", 70),
        ("task.more_pairs=7", "pairs", "more", 7),
        ("task.holdout=[0.1,0.2]", "pairs", "holdout", (0.1, 0.2)),
        ("callbacks.progress=false", "metrics", "progress", False),
    ],
)
def test_former_names_are_taken_with_a_note(former: str, group: str, name: str, value: object, capsys) -> None:
    settings = check(composed(ODE, former))
    assert getattr(getattr(settings, group), name) == value
    assert f"is called {group}.{name} now" in capsys.readouterr().err


def test_former_names_in_a_file_are_taken(capsys) -> None:
    cfg = composed(ODE)
    with open_dict(cfg):
        cfg.task.num_pairs = 70
    assert check(cfg).pairs.count == 70
    assert "pairs.count" in capsys.readouterr().err


def test_the_paper_stands_beside_its_own_sampler_alone() -> None:
    assert paper_row(check(composed(ODE)).plain)["acc"] == 0.972
    assert paper_row(check(composed(ODE, "sampler=rejection")).plain) == {}
    assert paper_row(check(composed("+experiment=cifar10_heun", "sampler=rejection")).plain) == {}
    assert paper_row(check(composed("+experiment=cifar10_jem")).plain)["acc"] == 0.645


def test_names_and_folders_do_not_decide_a_result() -> None:
    digests = {check(composed(ODE, *more)).digest for more in ([], ["name=x"], ["logger=csv"], ["paths.cache=c"])}
    assert len(digests) == 1
    assert check(composed(ODE, "metrics.seed=5")).digest not in digests


def test_the_reading_list_is_short_and_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = re.findall(r"^\d+\. `(lace_lightning/[^`]+)`", text, re.MULTILINE)
    assert 20 <= len(files) <= 25
    assert all((ROOT / file).is_file() for file in files)


COMPATIBLE = [
    line
    for line in (Path(__file__).parent / "commands_0_1.txt").read_text(encoding="utf-8").splitlines()
    if line.startswith("python -m lace_lightning ") and "--" not in line
]


@pytest.mark.parametrize("line", COMPATIBLE, ids=range(len(COMPATIBLE)))
def test_commands_of_version_0_1_are_taken(line: str, monkeypatch, tmp_path: Path) -> None:
    import shlex

    monkeypatch.chdir(tmp_path)
    words = [word for word in shlex.split(line)[3:] if word != "-m"]
    if not words or not any("=" in word for word in words):
        return
    # Values of a sweep are taken one by one.
    words = [re.sub(r"^([\w.+]+=[^\[{\s,]+),[^\s\]]*$", r"\1", word) for word in words]
    register_resolvers()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        assert compose("config", overrides=[*cli.normalize(words), "paths.output=out", "paths.cache=cache"])
