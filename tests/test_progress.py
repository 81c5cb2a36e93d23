"""Bars: nothing where nobody watches or where it is quick, bytes and seconds elsewhere."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from pathlib import Path

import pytest

from lace_lightning import progress
from lace_lightning.artifacts import file_sha256
from lace_lightning.progress import byte_bar, waiting


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


def test_what_takes_longer_is_shown_and_leaves_an_empty_line(monkeypatch) -> None:
    monkeypatch.setitem(progress._OPTIONS, "delay", 0.2)
    text = shown(monkeypatch, Terminal(), 0.8)
    assert "reading file.pkl:  50%" in text
    assert "2.00k/4.00k" in text
    assert "writing file.safetensors: 00:0" in text
    assert not text.rstrip("\r").split("\r")[-1].strip()


def test_nobody_watches(monkeypatch) -> None:
    monkeypatch.setitem(progress._OPTIONS, "delay", 0)
    assert not shown(monkeypatch, io.StringIO(), 0.6)


def test_an_error_ends_what_waits(monkeypatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    byte_bar("the first bar starts a thread of tqdm's", 1).close()
    before = threading.active_count()
    with pytest.raises(OSError, match="full"), waiting("writing"):
        raise OSError("full")
    assert threading.active_count() == before


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1])
def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "f").write_bytes(data)
    assert file_sha256(tmp_path / "f") == hashlib.sha256(data).hexdigest()
