"""Progress: nothing where it is quick, one line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import hashlib
import io
import re
import sys
import threading
import time
from pathlib import Path

import pytest

from lace_lightning import progress
from lace_lightning.artifacts import file_sha256
from lace_lightning.progress import bar, byte_bar, print_beside, progress_on, steps, waiting
from lace_lightning.streams import job_streams


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def use_bars(pause: float = 0.0) -> None:
    with byte_bar("reading file.pkl", 4096) as bar:
        bar.update(1024)
        time.sleep(pause)
        bar.update(1024)
    with waiting("writing file.safetensors"):
        time.sleep(pause)


def shown(monkeypatch, stream: io.StringIO, pause: float = 0.0) -> str:
    monkeypatch.setattr("sys.stderr", stream)
    use_bars(pause)
    return stream.getvalue()


def test_what_is_quick_is_silent(monkeypatch) -> None:
    assert not shown(monkeypatch, Terminal())
    assert not shown(monkeypatch, io.StringIO())


def test_what_takes_longer_is_shown_and_leaves_an_empty_line(monkeypatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.2)
    text = shown(monkeypatch, Terminal(), 0.8)
    assert "reading file.pkl:  50%" in text
    assert "2.00k/4.00k" in text
    assert "writing file.safetensors: 00:0" in text
    assert not text.rstrip("\r").split("\r")[-1].strip()


def test_elsewhere_there_are_plain_lines_with_rate_and_time_left(monkeypatch) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.1)
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    for _ in steps(range(10), "labelling", "batch"):
        time.sleep(0.04)
    lines = stream.getvalue().splitlines()
    assert 2 <= len(lines) <= 6
    line = r"labelling: +\d+%, \d+/10 batch, +[\d.]+ batch/s, 00:00 left"
    assert all(re.fullmatch(line, text) for text in lines), lines
    assert "\r" not in stream.getvalue()


def test_lines_have_a_form_without_an_end_and_go_on_where_work_was_left(monkeypatch) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    stream = io.StringIO()
    with progress_on(stream):
        with bar("drawing", unit="picture") as line:
            line.update(3)
        with bar("training", 10, initial=8) as line:
            line.update(1)
        with bar("hidden", 10, shown=False) as line:
            line.update(5)
    drawn, *_, trained = stream.getvalue().splitlines()
    assert drawn.startswith("drawing: ")
    assert "3 picture" in stream.getvalue()
    assert "90%, 9/10" in trained
    assert "hidden" not in stream.getvalue()


def test_an_error_ends_what_waits(monkeypatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    byte_bar("the first bar starts a thread of tqdm's", 1).close()
    before = threading.active_count()
    with pytest.raises(OSError, match="full"), waiting("writing"):
        raise OSError("full")
    assert threading.active_count() == before


def test_the_output_of_a_job_goes_to_its_file_and_notes_are_passed_on_once(tmp_path: Path, monkeypatch) -> None:
    outside = io.StringIO()
    monkeypatch.setattr("sys.stderr", outside)
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    monkeypatch.setattr("lace_lightning.streams.PASSED_ON", set())
    for number in range(2):
        with job_streams(tmp_path / f"{number}.txt"):
            print("a table")
            print("note: biased", file=sys.stderr)
            print(f"error: of job {number}", file=sys.stderr)
            list(steps(range(2), "sampling"))
        assert "a table\nnote: biased\n" in (tmp_path / f"{number}.txt").read_text()
        assert "sampling: 100%" in (tmp_path / f"{number}.txt").read_text()
    assert outside.getvalue() == "note: biased\nerror: of job 0\nerror: of job 1\n"
    with job_streams(tmp_path / "silent.txt"):
        pass
    assert not (tmp_path / "silent.txt").exists()


def test_lines_of_progress_stay_on_a_terminal(tmp_path: Path, monkeypatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(progress, "DELAY", 0.0)
    with job_streams(tmp_path / "output.txt"), bar("sampling", 2) as line:
        line.update(1)
        line.refresh()
        print_beside("beside", terminal)
        print("inside")
    assert "sampling" in terminal.getvalue()
    assert "beside\n" in terminal.getvalue()
    assert (tmp_path / "output.txt").read_text() == "inside\n"


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1])
def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "f").write_bytes(data)
    assert file_sha256(tmp_path / "f") == hashlib.sha256(data).hexdigest()
