"""What is typed first: help, lists, completion, misspelt settings, paths, and how fast they start."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lace_lightning import cli, configuration
from lace_lightning.completion import complete
from lace_lightning.errors import LaceError
from lace_lightning.stopping import SENTENCE

HEAVY = ("torch", "hydra", "omegaconf", "pytorch_lightning", "numpy")


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lace_lightning", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    "arguments", [[], ["help"], ["--help"], ["--version"], ["convert", "--help"], ["list", "sampler"], ["models"]]
)
def test_what_only_prints_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys\nfrom lace_lightning import cli\ntry:\n    cli.main({arguments!r})\nfinally:\n"
        f"    print('loaded', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip().endswith("loaded []")
    assert len(done.stdout.splitlines()) > 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lace-lightning +experiment=cifar10_od", ["+experiment=cifar10_ode", "+experiment=cifar10_ode_grid"]),
        ("lace-lightning +experiment=cifar10_ode sampler=he", ["sampler=heun"]),
        ("lace-lightning -m +experiment=cifar10_ode sampler=heun,lang", ["sampler=heun,langevin"]),
        ("lace-lightning +experiment=cifar10_ode metrics.num_sam", ["metrics.num_samples="]),
        ("lace-lightning mod", ["model=", "models"]),
    ],
)
def test_completion_answers_without_hydra(line: str, words: list[str], monkeypatch, capsys) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    cli.main(["--shell-completion", "query=bash"])
    assert [word for word in capsys.readouterr().out.split() if "." not in word or "." in line] == words
    code = (
        "import sys\nfrom lace_lightning import cli\ncli.main(['-sc', 'query=bash'])\n"
        f"assert not [name for name in {HEAVY!r} if name in sys.modules]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_bash_completes_by_the_installed_script(tmp_path: Path) -> None:
    program = tmp_path / "lace-lightning"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m lace_lightning "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(lace-lightning --shell-completion install=bash)"\nCOMP_LINE="lace-lightning +experiment=cifar10_he"\n'
        'COMP_POINT=${#COMP_LINE}\nCOMP_WORDBREAKS="= "\n_lace_lightning\necho "${COMPREPLY[@]}"'
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env={**os.environ, "PATH": path}, timeout=60
    )
    assert done.stdout.split() == ["cifar10_heun"]


@pytest.mark.parametrize(
    "line",
    [
        'lace-lightning query="label == s',
        "lace-lightning query='label == ship and s",
        'lace-lightning +experiment=cifar10_ode query="',
        'lace-lightning draw "label == s',
        "lace-lightning draw s",
        'lace-lightning query="label == ship"',
    ],
)
def test_the_words_of_a_condition_are_no_settings(line: str) -> None:
    assert complete(line, ["draw"]) == []


def test_what_follows_on_a_condition_is_completed() -> None:
    assert complete('lace-lightning query="label == ship" samp', ["draw"]) == ["sampler="]
    assert complete("lace-lightning query=la", ["draw"]) == ["query=label"]


def test_own_files_are_completed_and_listed(tmp_path: Path, capsys) -> None:
    (tmp_path / "labeler").mkdir()
    (tmp_path / "labeler" / "cats.yaml").write_text("# Cats of mine.\n_target_: x\n")
    assert complete(f"lace-lightning --config-dir {tmp_path} labeler=ca", []) == ["labeler=cats"]
    cli.main(["--config-dir", str(tmp_path)])
    text = capsys.readouterr().out
    assert "labeler=cats  Cats of mine." in text
    assert f"Yours, in {tmp_path}" in text
    with pytest.raises(SystemExit):
        cli.main(["--config-dir", str(tmp_path / "none")])


def test_every_experiment_says_what_it_needs() -> None:
    for name, text in configuration.describe("experiment"):
        assert text
        assert not text.startswith("needs:")
        assert configuration.needs(name), name
        assert set(configuration.needs(name)) <= set(configuration.NEEDS), name


def test_the_list_fits_two_screens() -> None:
    lines = configuration.overview().splitlines()
    # Two screens of 55 lines.
    assert len(lines) <= 110
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize(
    "typed",
    [["--experiment", "cifar10_ode"], ["--experiment=cifar10_ode"], ["experiment", "cifar10_ode"], ["cifar10_ode"]],
)
def test_an_experiment_may_be_named_in_any_way(typed: list[str], capsys) -> None:
    assert cli.normalize([*typed, "--cfg", "job"]) == ["+experiment=cifar10_ode", "--cfg", "job"]
    assert "+experiment=cifar10_ode" in capsys.readouterr().err


def test_a_word_that_is_nothing_is_one_sentence() -> None:
    with pytest.raises(LaceError, match="Did you mean 'cifar10_ode'"):
        cli.normalize(["cifar10_od"])
    with pytest.raises(LaceError, match="no option"):
        cli.normalize(["--mutlirun", "+experiment=cifar10_ode"])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("samplr=heun", "There is no setting 'samplr'. Did you mean 'sampler'?"),
        ("sampler.atoll=1", "Did you mean 'sampler.atol'?"),
        ("pairs.num_pairs=3", "Did you mean 'pairs.count'?"),
        ("+pairs.num_pairs=3", "Did you mean 'pairs.count'?"),
        ("pairs.from=labels.csv", "Did you mean 'pairs.source'?"),
        ("task.source=labels.csv", "Did you mean 'pairs.source'?"),
        ("num_samples=3", "Did you mean 'metrics.num_samples'?"),
        ("batch_size=3", "'pairs.batch_size', "),
        ("classifier.lr=1", "Did you mean 'classifier.learning_rate'?"),
        ("classifier.epochs=1", "Did you mean 'classifier.max_epochs'?"),
        ("pairs.foo=1", "Known in pairs: count, seed"),
        ("metrics.num_sample=3", "Did you mean 'metrics.num_samples'?"),
    ],
)
def test_a_misspelt_setting_is_corrected(setting: str, words: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["+experiment=cifar10_ode", setting, "debug=fast"])
    message = capsys.readouterr().err
    assert stop.value.code == 1
    assert words in message
    assert "use +" not in message


@pytest.mark.parametrize(
    "value", ["a=b.pkl", "net (1).safetensors", "/x/猫/net.pkl", "a,b/c.pkl", "a'b\"c\\", "x~y#1.pkl"]
)
def test_paths_are_taken_as_they_are(value: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    override = OverridesParser.create().parse_override(cli.normalize([f"generator.name={value}"])[0])
    assert override.value() == value


def test_what_is_no_path_stays_as_it_is() -> None:
    for argument in (
        "a=1,2", "a=1e-3", "a=[1,2]", "a={b: 1}", "a=${seed}", "a='x=y'", "a=range(1,5)", "a=null", "a=", "~a=b",
        "sampler=heun,ode",
    ):  # fmt: skip
        assert cli.normalize([argument]) == [argument]
    assert "-m" in (swept := cli.normalize(["-m", "labeler.weights=a=1.pkl,b.pkl"]))
    assert swept[0] == 'labeler.weights="a=1.pkl",b.pkl'
    assert cli.normalize(["generator.name=~/net.pkl"]) == [f'generator.name="{Path.home()}/net.pkl"']


def test_hydra_starts_where_argparse_checks_help(monkeypatch, capsys) -> None:
    """Python 3.14 formats the help of every argument when it is added."""

    def check(self, action: argparse.Action) -> None:
        if action.help and "%" in action.help:
            self._get_formatter()._expand_help(action)

    add = argparse._ActionsContainer._add_action

    def checked(self, action: argparse.Action) -> argparse.Action:
        if hasattr(self, "_check_help"):
            self._check_help(action)
        return add(self, action)

    monkeypatch.setattr(argparse._ActionsContainer, "_check_help", check, raising=False)
    monkeypatch.setattr(argparse._ActionsContainer, "_add_action", checked)
    cli.main(["+experiment=cifar10_ode", "--cfg", "job"])
    assert "sampler:" in capsys.readouterr().out
    assert argparse._ActionsContainer._check_help is check


def test_an_interrupt_is_one_sentence(monkeypatch, capsys) -> None:
    def interrupted(arguments: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_start", interrupted)
    with pytest.raises(SystemExit) as stop:
        cli.main(["+experiment=cifar10_ode"])
    assert stop.value.code == 130
    assert capsys.readouterr().err.strip() == SENTENCE


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_any_encoding_can_list(encoding: str) -> None:
    done = _run("list", "model", PYTHONIOENCODING=encoding)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_is_quiet() -> None:
    line = f"{sys.executable} -m lace_lightning | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.strip() == "0"


def test_a_missing_launcher_names_its_extra() -> None:
    error = cli._explained(Exception("Could not find 'hydra/launcher/joblib'"), ["hydra/launcher=joblib"])
    assert 'pip install "lace_lightning[joblib]"' in str(error)


@pytest.mark.parametrize(
    ("defaults", "sentence"),
    [
        (
            "\n  - /setting: portraits\n  - override /network: none",
            "The group 'setting' is called 'domain' and the group 'network' is called 'training' now: in '{path}' "
            "write '- /domain: portraits' in line 3 and '- override /training: none' in line 4.",
        ),
        (
            "\n  - /experiment/cifar10_ode\n  - override /network: none  # as before",
            "The group 'network' is called 'training' now: in '{path}' write '- override /training: none' in line 4.",
        ),
        (
            " [/setting/portraits, override /network: none]",
            "The group 'setting' is called 'domain' and the group 'network' is called 'training' now: in '{path}' "
            "write 'defaults: [/domain/portraits, override /training: none]' in line 2.",
        ),
        ("\n  - /setting@_global_: portraits", "write '- /domain@_global_: portraits' in line 3."),
    ],
)
def test_a_former_group_in_a_file_of_ones_own_is_named_with_its_line(
    defaults: str, sentence: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "own" / "experiment" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"# @package _global_\ndefaults:{defaults}\nname: mine\n")
    command = ["--config-dir", "own", "+experiment=mine", "--cfg", "job"]
    with pytest.raises(SystemExit):
        cli.main(command)
    message = capsys.readouterr().err
    assert sentence.format(path=path.relative_to(tmp_path)) in message
    assert message.count("\n") == 1
    # Following the advice is enough.
    lines = path.read_text().splitlines()
    for text, number in re.findall(r"'((?:- |defaults).*?)' in line (\d+)", message):
        lines[int(number) - 1] = f"{'  ' * text.startswith('-')}{text}"
    path.write_text("\n".join(lines))
    cli.main(command)
    assert "name: mine" in capsys.readouterr().out


def test_another_mistake_beside_a_former_group_keeps_its_sentence(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "own" / "experiment" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("# @package _global_\ndefaults:\n  - override /sampler: hen\nname: mine\n")
    path.with_name("other.yaml").write_text("# @package _global_\ndefaults:\n  - /setting: portraits\n")
    with pytest.raises(SystemExit):
        cli.main(["--config-dir", "own", "+experiment=mine", "--cfg", "job"])
    assert "'sampler/hen'" in (message := capsys.readouterr().err)
    assert "domain" not in message


def test_a_folder_of_ones_own_with_the_former_name_of_a_group_is_named(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / "setting").mkdir(parents=True)
    (tmp_path / "own" / "setting" / "cats.yaml").write_text("# @package _global_\nname: cats\n")
    with pytest.raises(SystemExit):
        cli.main(["--config-dir", "own", "+experiment=cifar10_ode", "+setting=cats", "--cfg", "job"])
    assert f"rename the folder '{Path('own/setting')}' to '{Path('own/domain')}'" in capsys.readouterr().err


def test_a_process_of_a_launcher_has_the_resolvers() -> None:
    code = (
        "import hydra.core.utils\nfrom lace_lightning.cli import job\nfrom omegaconf import OmegaConf\n"
        "assert OmegaConf.has_resolver('lace.job')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_jobs_in_processes_of_joblib_have_folders_and_a_report(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    command = ["-m", "+experiment=cifar10_ode", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=-1,-2"]
    done = subprocess.run(
        [sys.executable, "-m", "lace_lightning", *command],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))},
    )
    # Neither seed is valid, so that both jobs end at once.
    assert done.returncode == 1
    assert "cifar10_ode: 2 failed" in done.stdout
    assert "'seed' must be at least 0, received -2" in done.stderr
    folders = sorted((tmp_path / "outputs" / "sweeps" / "cifar10_ode").glob("seed=*"))
    assert [folder.name.rpartition("-")[0] for folder in folders] == ["seed=-1", "seed=-2"]
    assert all((folder / "failed.json").is_file() for folder in folders)


# Python itself puts the current folder first for -m.
@pytest.mark.parametrize("entry", [pytest.param("python -m", marks=pytest.mark.slow), "console script"])
def test_modules_of_the_current_folder_are_found(entry: str, tmp_path: Path) -> None:
    """A console script has its own folder first in sys.path, and not the current one."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine.py").write_text("print('mine is imported')\nDecoder = 1\n")
    script = tmp_path / "lace-lightning"
    script.write_text("from lace_lightning.__main__ import main\nmain()\n")
    start = ["-m", "lace_lightning"] if entry == "python -m" else [str(script)]
    done = subprocess.run(
        [sys.executable, *start, "+experiment=yours", "generator.module._target_=mine.Decoder"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path / "here",
        env={**os.environ, "PYTHONPATH": str(configuration.config_folder().parent)},
    )
    assert "mine is imported" in done.stdout
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["draw", "label"], "write `label == truck`, or `label == *` for all in turn"),
        (["draw", "ship"], "'ship' is a class of 'label' and no attribute: write `label == ship`"),
        (["query=ship"], 'A condition is a comparison, such as query="label == ship"'),
    ],
)
def test_a_word_is_no_condition(command: list[str], words: str, tmp_path: Path, monkeypatch, capsys) -> None:
    """`query=label` is a file of the group `query`, and `draw label` is none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SystemExit):
        cli.main(command)
    assert words in capsys.readouterr().err


REFUSED = [
    ["draw", "label == shp"],
    ["draw", "label == ship", "--seeds", "5-1"],
    ["draw", "label == ship", "--out", "new/er", "sampler.atol=-1"],
    ["draw", "label == ship", "generator.name=nofile.safetensors"],
    ["+experiment=cifar10_ode", "seed=-1"],
    ["+experiment=cifar10_ode", "query=lab == 3"],
    ["edit", "nofile.npz", "label == ship", "--experiment", "cifar10_edit"],
]


@pytest.mark.parametrize("command", REFUSED, ids=" ".join)
def test_a_command_that_is_refused_leaves_nothing(command: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(tmp_path.parent / "cache"))
    with pytest.raises(SystemExit):
        cli.main(command)
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_is_refused_leaves_what_was_there(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(tmp_path.parent / "cache"))
    (tmp_path / "results").mkdir()
    before = {name: f"{name} of an earlier run" for name in ("metrics.json", "config.yaml", "command.txt")}
    for name, text in before.items():
        (tmp_path / "results" / name).write_text(text)
    (tmp_path / "empty").mkdir()
    for folder in ("results", "empty"):
        with pytest.raises(SystemExit):
            cli.main(["+experiment=cifar10_ode", "query=lab == 3", f"hydra.run.dir={folder}"])
    assert {name: (tmp_path / "results" / name).read_text() for name in before} == before
    assert list((tmp_path / "empty").iterdir()) == []
