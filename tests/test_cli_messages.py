"""What people type: sentences for wrong input, quotes, completion and the overview."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lace_lightning import cli
from lace_lightning.errors import LaceError
from lace_lightning.report import sweeps

from .test_cli import EXPERIMENTS

pytestmark = pytest.mark.usefixtures("cli_folder")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["+experiment=cifar10_od"], "Did you mean 'cifar10_ode'"),
        (["+experiment=cifar10_ode", "sampler=langevine"], "Did you mean 'langevin'"),
        (["+experiment=cifar10_ode", "query.text=labl == ship"], "Did you mean 'label'"),
        (["+experiment=cifar10_ode", "query.text=label == shop"], "Did you mean 'ship'"),
        (["+experiment=cifar10_ode", "query.text=label =="], "could not be understood"),
        (["+experiment=cifar10_ode", "sampler.method=dopri6"], "The ODE methods are"),
        (["+experiment=cifar10_ode", "sampler.atool=1"], "atool"),
        (["+experiment=cifar10_ode", "generator.name=cifar11"], "shipped weights are"),
        (["+experiment=cifar10_ode", "judge.classifier=/nowhere/x.safetensors"], "do not exist"),
        (["+experiment=cifar10_ode", "judge.classifier=cifar10_reference"], "must be a classifier"),
        (["+experiment=cifar10_ode", "query.logic=exakt"], "exact, paper"),
        (["+experiment=cifar10_ode", "metrics.fid=inceptoin"], "Did you mean 'inception'"),
        (
            ["+experiment=cifar10_ode", "generator.truncation=0.5", "classifier.weights=cifar10_labeler"],
            "is for space x",
        ),
        (["+experiment=cifar10_ode", "metrics.distance_codes=pair"], "one of same, pairs"),
        (["+experiment=cifar10_edit", "task.edits=[]"], "needs edits"),
        (["+experiment=cifar10_edit", "task.edits=[label == shop]"], "Did you mean 'ship'"),
        (["+experiment=cifar10_edit", "task.edits=[label == ship and label == truck]"], "can never be true"),
        (["+experiment=cifar10_edit", "editing.layers={label: [99]}"], "style layers of 'label' must lie in 0 to"),
        (["+experiment=cifar10_edit", "editing.layers={lable: [1]}"], "Did you mean 'label'"),
        (["+experiment=cifar10_edit", "classifier.space=x"], "a classifier of latents"),
        (["+experiment=cifar10_ode", "pairs.truncation=0.5", "classifier=latent_z"], "a classifier of w"),
        (
            ["+experiment=portraits_glasses", "hydra.mode=RUN", "query=glasses == 1 and glasses == 0"],
            "can never be true",
        ),
        (["+experiment=portraits_glasses", "hydra.mode=RUN", "query=age == 0.1 and age == 0.9"], "can never be true"),
        (["+experiment=portraits_glasses", "hydra.mode=RUN", "query=age == 1.5"], "values from 0 to 1, received '1.5'"),
        (["+experiment=portraits_glasses", "hydra.mode=RUN", "query=glases == 1"], "Did you mean 'glasses'"),
        (
            [
                "+experiment=portraits_glasses",
                "hydra.mode=RUN",
                "generator=cifar10",
                "classifier.weights=cifar10_classifier",
            ],
            "knows label",
        ),
        (
            ["+experiment=portraits_glasses", "hydra.mode=RUN", "classifier.attributes=[smile]"],
            "the classifier knows smile alone",
        ),
        (["+experiment=portraits_glasses", "hydra.mode=RUN", "classifier.attributes=[smle]"], "Did you mean 'smile'"),
        (
            ["+experiment=portraits_edit", "hydra.mode=RUN", "editing=sequential", "edits=age == 2"],
            "values from 0 to 1, received '2'",
        ),
        (
            ["+experiment=portraits_edit", "hydra.mode=RUN", "editing=sequential", "edits=age == 0.1 and age == 0.9"],
            "can never be true",
        ),
        (
            ["+experiment=portraits_edit", "hydra.mode=RUN", "editing=sequential", "edits=label == ship"],
            "has the attributes smile",
        ),
        (["+experiment=portraits_temperature", "hydra.mode=RUN", "query=beard == *"], "leaves beard free"),
        (
            ["+experiment=portraits_temperature", "hydra.mode=RUN", "query=beard == 1", "task.temperatures=[1,0]"],
            "above 0",
        ),
        (
            ["+experiment=cifar10_ode", "classifier=pixel", "classifier.fresh_pairs=10"],
            "must be 0 for a classifier of pictures",
        ),
        (
            ["+experiment=cifar10_ode", "classifier.fresh_pairs=10", "classifier.fresh_share=0"],
            "'classifier.fresh_share' must be above 0",
        ),
        (
            ["+experiment=cifar10_ode", "classifier.calibrate=true", "pairs.holdout=[0,0.02]"],
            "pairs.holdout leaves none",
        ),
        (["+experiment=cifar10_ode", "hydra.run.dir=/proc/nowhere"], "/proc"),
        (["+experiment=cifar10_labeler", "dataset.module.root=/nowhere"], "do not exist"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], words: str, capsys, monkeypatch) -> None:
    monkeypatch.delenv("LACE_CIFAR10", raising=False)
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, "debug=fast", "logger=csv"] if "labeler" not in arguments[0] else arguments)
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message
    assert sum(line.startswith("error:") for line in message.splitlines()) == 1


def test_debug_goes_last() -> None:
    assert cli.normalize(["debug=fast", "experiment=a", "x=1"]) == ["+experiment=a", "x=1", "+debug=fast"]
    assert cli.normalize(["--config-dir", "c", "-m", "a=1", "--cfg", "job", "~b"]) == [
        "a=1",
        "~b",
        "--config-dir",
        "c",
        "-m",
        "--cfg",
        "job",
    ]
    assert cli.normalize(["query=label == ship", "query=label", "query.text=label == *"]) == [
        'query.text="label == ship"',
        "query=label",
        'query.text="label == *"',
    ]
    assert cli.normalize(["edits=a == 1, b == 0.5", "task.edits=[a == 1]", 'edits=["a == 1"]', "task.edits=[]"]) == [
        'task.edits=["a == 1","b == 0.5"]',
        'task.edits=["a == 1"]',
        'task.edits=["a == 1"]',
        "task.edits=[]",
    ]
    with pytest.raises(LaceError):
        cli.check_choices(["+experiment=none_such"])


def test_overview_names_everything(capsys) -> None:
    cli.main([])
    text = capsys.readouterr().out
    for name in (*EXPERIMENTS, "heun", "langevin", "annealed_checked", "hmc", "ModuleGenerator"[:6]):
        assert name.lower() in text.lower()
    groups = ("experiment", "sampler", "corrector", "method", "generator")
    assert all(description for group in groups for _, description in cli.describe(group))


def test_shell_completion_is_there() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lace_lightning", "--shell-completion", "install=bash"],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ,
    )
    assert "complete" in done.stdout


def test_folders_of_jobs_are_stable() -> None:
    a = sweeps.job_folder(["+experiment=x", "sampler.atol=0.1", "sampler.rtol=0.2"])
    assert a == sweeps.job_folder(["sampler.rtol=0.2", "+experiment=x", "sampler.atol=0.1"])
    assert a.startswith("atol=0.1_rtol=0.2-")
    assert a != sweeps.job_folder(["+experiment=x", "sampler.atol=0.1", "sampler.rtol=0.3"])


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("""query=breed == "cat's eye\"""", """breed == "cat's eye\""""),
        ("query=breed == 'british shorthair'", "breed == 'british shorthair'"),
        ('query="breed == cat"', "breed == cat"),
        ("query.text='breed == cat'", "breed == cat"),
        ('edits=breed == "british shorthair", age == 0.5', ['breed == "british shorthair"', "age == 0.5"]),
        ("edits=breed == 'a, b', age == 0.5", ["breed == 'a, b'", "age == 0.5"]),
        ('edits="label == cat or label == dog"', ["label == cat or label == dog"]),
        ('edits=[breed == "a b"]', ['breed == "a b"']),
        ("edits=['a == 1', 'b == 1']", ["a == 1", "b == 1"]),
        ("task.edits=[]", []),
        ("query=haircolor in (red, blond)", "haircolor in (red, blond)"),
        ("query='facial hair' == 'long beard'", "'facial hair' == 'long beard'"),
        ("""query="facial hair" in ('a, b', "c")""", """"facial hair" in ('a, b', "c")"""),
        ("query=0.3<=возраст<0.5", "0.3<=возраст<0.5"),
        ("query.text=null", None),
        (
            "edits=at least 2 of (a == 1, b in (x, y)), 0.3 < c < 0.5",
            ["at least 2 of (a == 1, b in (x, y))", "0.3 < c < 0.5"],
        ),
        ("edits='x y' == 'a', 'x y' == 'b'", ["'x y' == 'a'", "'x y' == 'b'"]),
    ],
)
def test_classes_and_conditions_may_be_quoted(argument: str, value: object) -> None:
    (text,) = cli.normalize([argument])
    assert OverridesParser.create().parse_override(text).value() == value
