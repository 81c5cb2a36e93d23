"""Output of any encoding, closed pipes, closed streams and full disks end no run."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lace_lightning
from lace_lightning.streams import LastingStream, lasting_streams

PRINT = "from lace_lightning.streams import lasting_streams\nwith lasting_streams():\n    {}\n"
LINES = "import os, sys\n    for i in range(20000): print('ä 猫', i)\n    print('猫', file=sys.stderr)\n    "


def _bash(code: str, redirection: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a redirection of bash; what it says itself goes to file descriptor 3."""
    line = f'{sys.executable} -c "$CODE" 3>&1 {redirection}; exit ${{PIPESTATUS[0]}}'
    env = {**os.environ, "CODE": code, **environment}
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, env=env, check=False)


@pytest.mark.parametrize("redirection", ["| true", "| head -1 >/dev/null", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full"])
def test_what_cannot_be_printed_is_dropped(redirection: str) -> None:
    redirection = redirection.replace("/dev/null", "/dev/null 3>&-")
    if "|" in redirection:
        # The pipe is stdout of the program and not of what is checked.
        code = PRINT.format(LINES + "open('done', 'w').close()")
        done = subprocess.run(
            ["bash", "-c", f"cd $(mktemp -d) && {sys.executable} -c \"$CODE\" {redirection}; "
             "echo ${PIPESTATUS[0]} $(ls)"],
            capture_output=True, text=True, timeout=60, env={**os.environ, "CODE": code}, check=False,
        )  # fmt: skip
        assert done.stdout == "0 done\n"
        assert done.stderr.strip() in ("", "猫", "?")
        return
    done = _bash(PRINT.format(LINES + "os.write(3, b'whole')"), redirection)
    assert done.returncode == 0
    assert done.stdout.endswith("whole")
    assert "Error" not in done.stderr


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "cp1252"}])
def test_letters_of_any_encoding_are_printed(environment: dict[str, str]) -> None:
    done = _bash(PRINT.format("print('猫', '-', 'a')"), "", **environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "? - a\n", "")


def test_numbers_of_closed_streams_are_taken() -> None:
    """Otherwise a file that is opened next is standard output for everything that is written by number."""
    code = PRINT.format("file = open('/dev/null'); import os; os.write(3, str(file.fileno() > 3).encode())")
    assert _bash(code, "<&- >&- 2>&-").stdout == "True"


def test_streams_are_those_of_before_afterwards() -> None:
    before = sys.stdout, sys.stderr
    with lasting_streams():
        assert isinstance(sys.stdout, LastingStream)
        assert sys.stdout.encoding == before[0].encoding
        inside = sys.stdout
        with lasting_streams():
            assert sys.stdout is inside
    assert (sys.stdout, sys.stderr) == before


def test_a_whole_run_needs_no_streams(tmp_path: Path) -> None:
    command = "+experiment=cifar10_heun debug=fast logger=csv metrics.fid=none hydra.run.dir=out"
    line = f"LC_ALL=C PYTHONIOENCODING=ascii {sys.executable} -m lace_lightning {command} <&- >&- 2>&-"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0
    assert (tmp_path / "out" / "metrics.json").is_file()


def test_every_text_file_is_opened_as_utf_8() -> None:
    """Ruff's PLW1514 sees only what is a path for certain."""
    for path in Path(lace_lightning.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("read_text", "write_text"):
                assert any(k.arg == "encoding" for k in node.keywords), f"{path}:{node.lineno}"
