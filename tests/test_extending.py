"""docs/extending.md: its files, written into an empty folder, and its commands."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from lace_lightning import cli
from lace_lightning.report import sweeps

from .test_cli import results

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
TEXT = PAGE.read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```(?:python|yaml)\n# (my_\S+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))
COMMANDS = [
    line for block in re.findall(r"^```bash\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]


def forget() -> None:
    """Leave no module of this name behind, of this page or of another."""
    for name in [name for name in sys.modules if name.split(".")[0] == "my_package"]:
        del sys.modules[name]


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch) -> Path:
    """The page's files, in a folder that is the current one."""
    forget()
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "my_package" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))
    sweeps.OUTCOMES.clear()
    yield tmp_path
    forget()


@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_a_command_of_the_page_runs(command: str, own_folder: Path, capsys) -> None:
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "lace_lightning"]
    quick = ["logger=csv"] if "task=fit_classifier" in words else ["debug=fast", "logger=csv"]
    cli.main([*words[3:], *quick])
    found = results(own_folder / "outputs")
    assert len(found) == 1
    output = capsys.readouterr().out
    if "brightness" in command:
        assert 0 < found[0]["metrics"]["brightness"] < 1
        assert "brightness" in output
    if "bell" in command:
        assert "done" in output.splitlines()
    if "energy=shell" in command:
        assert "Shell" in found[0]["protocol"]["extra_energy"]
    if "class_means" in command:
        assert found[0]["protocol"]["sampler"].startswith("ClassMeans")
    if "sampler=descent" in command:
        assert found[0]["protocol"]["sampler"] == "Descent(num_steps=3, step_size=0.05)"


def test_own_files_are_listed(own_folder: Path, capsys) -> None:
    cli.main(["--config-dir", "my_conf"])
    assert "descent" in capsys.readouterr().out


def test_a_wrong_argument_of_an_own_file_is_refused(own_folder: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--config-dir", "my_conf", "+experiment=cifar10_heun", "sampler=descent", "sampler.num_steps=many"])
    error = capsys.readouterr().err
    assert "'sampler.num_steps' must be a whole number, received 'many'" in error
    assert not (own_folder / "cache").exists()
