"""Faults on purpose: processes that are killed at a file-system event, started together, or given damaged files."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lace_lightning.artifacts import file_sha256, load_tensors, read_json

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.chmod")
# Files that say when and by which process something was made.
OF_THE_PROCESS = ("identity.json", ".owner", ".lock")


def _is_event(event: str, arguments: tuple[Any, ...], folder: str) -> bool:
    if event == "open":
        path, _, flags = arguments
        return isinstance(path, str | os.PathLike) and str(path).startswith(folder) and bool(flags & WRITES)
    return event in EVENTS and str(arguments[0]).startswith(folder)


def in_process(work: Callable[[], Any], folder: Path, kill_at: int | None = None) -> tuple[int, int]:
    """Run `work` in a process of its own; return its exit status (-9 where it was killed) and the events that it saw.

    The process kills itself before its `kill_at`-th event: opening a file below `folder` for writing, renaming,
    removing and so on.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        seen = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if _is_event(event, arguments, str(folder)):
                seen += 1
                if seen == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        status = 0
        try:
            sys.addaudithook(hook)
            with contextlib.redirect_stdout(None), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                work()
        except BaseException:
            traceback.print_exc()
            status = 1
        os.write(writing, str(seen).encode())
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        text = stream.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), int(text or 0)


def leftovers(folder: Path) -> list[str]:
    """Return temporary files below a folder."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*.tmp")]


def content(folder: Path) -> dict[str, Any]:
    """Return what the files below a folder say by their relative path, without processes, times and the folder's name.

    A checksum stands for itself where it is that of its file, whose time it depends on.
    """
    return {
        str(path.relative_to(folder)): _said(path, str(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in OF_THE_PROCESS
    }


def _said(path: Path, folder: str) -> Any:
    if path.suffix == ".sha256" and path.with_suffix("").suffix == ".safetensors":
        return path.read_text(encoding="utf-8").split()[0] == file_sha256(path.with_suffix(""))
    if path.suffix == ".safetensors":
        tensors, metadata = load_tensors(path)
        return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, _timeless(metadata)
    if path.name == "metrics.json":
        return json.dumps(_timeless(read_json(path))).replace(folder, "")
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as lines:
            rows = [_timeless(row) for row in csv.DictReader(lines)]
        # A job that the first start finished is skipped by the second.
        return [{**row, "state": "done"} if row.get("state") == "skipped" else row for row in rows]
    return path.read_bytes().replace(folder.encode(), b"")


def _timeless(said: Any) -> Any:
    if isinstance(said, Mapping):
        return {
            name: _timeless(value)
            for name, value in said.items()
            if not re.search("seconds|minutes", str(name)) and name not in ("command", "date")
        }
    return said


@dataclass
class Tally:
    """What came of a number of faults."""

    name: str
    tried: int = 0
    lost: int = 0
    false: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def survived(self) -> int:
        """Number of faults after which everything was as without them."""
        return self.tried - self.lost - self.false

    def row(self) -> list[Any]:
        """Return the row of the table of `make faults`."""
        return [self.name, self.tried, self.survived, self.lost, self.false]


def killed_everywhere(name: str, work: Callable[[Path], Any], folder: Path, most: int, seed: int = 0) -> Tally:
    """Kill `work(folder)` at up to `most` of its events, run it again each time, and compare with a whole run."""
    tally = Tally(name)
    whole = folder / "whole"
    whole.mkdir(parents=True)
    status, events = in_process(lambda: work(whole), whole)
    assert status == 0, f"{name} fails without a kill"
    expected = content(whole)
    points = list(range(1, events + 1))
    if events > most:
        points = sorted(random.Random(seed).sample(points, most))
    for point in points:
        place = folder / f"killed{point}"
        place.mkdir()
        killed, _ = in_process(lambda place=place: work(place), place, point)
        again, _ = in_process(lambda place=place: work(place), place)
        tally.tried += 1
        if killed != -signal.SIGKILL:
            tally.notes.append(f"event {point}: not killed ({killed})")
        if again != 0:
            tally.lost += 1
            tally.notes.append(f"event {point}: the next run fails")
        elif (received := content(place)) != expected:
            tally.false += 1
            changed = [key for key in expected.keys() | received.keys() if expected.get(key) != received.get(key)]
            tally.notes.append(f"event {point}: differs in {changed[:5]}")
        elif leftovers(place):
            tally.false += 1
            tally.notes.append(f"event {point}: left {leftovers(place)}")
        _remove(place)
    return tally


def together(name: str, work: Callable[[Path], Any], folder: Path, rounds: int) -> Tally:
    """Start `work` in two processes at once on one empty folder, and compare each time with a single process."""
    tally = Tally(name)
    whole = folder / "whole"
    whole.mkdir(parents=True)
    assert in_process(lambda: work(whole), whole)[0] == 0
    expected = content(whole)
    for number in range(rounds):
        place = folder / f"round{number}"
        place.mkdir()
        reading, writing = os.pipe()
        children = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                os.close(writing)
                os.read(reading, 1)  # both begin when the pipe closes
                status = 0
                try:
                    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
                        work(place)
                except BaseException:
                    status = 1
                os._exit(status)
            children.append(child)
        os.close(reading)
        os.close(writing)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        tally.tried += 1
        if any(statuses):
            tally.lost += 1
            tally.notes.append(f"round {number}: exit statuses {statuses}")
        elif content(place) != expected or leftovers(place):
            tally.false += 1
            tally.notes.append(f"round {number}: differs")
        _remove(place)
    return tally


def flipped(
    name: str, files: list[Path], read: Callable[[], Any], flips: int, remake: bool = True, seed: int = 0
) -> Tally:
    """Flip a byte of one of `files`, `flips` times, and compare what `read` returns with what it was.

    A flip is lost where reading fails, and false where something else is returned. The files are put back each time.
    """
    tally = Tally(name)
    kept = {path: path.read_bytes() for path in files}
    expected = read()
    lot = random.Random(seed)
    for number in range(flips):
        path = lot.choice(files)
        data = bytearray(kept[path])
        if not data:
            continue
        place = lot.randrange(len(data))
        data[place] ^= 1 << lot.randrange(8)
        path.write_bytes(data)
        _forget()
        tally.tried += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                received = read()
            if not same(received, expected):
                tally.false += 1
                tally.notes.append(f"flip {number}: byte {place} of {path.name}")
        except Exception as error:
            tally.lost += 1
            tally.notes.append(f"flip {number}: byte {place} of {path.name}: {type(error).__name__}: {error}")
        for file, whole in kept.items():
            if not file.is_file() or file.read_bytes() != whole:
                file.write_bytes(whole)
        _forget()
    return tally


def same(a: Any, b: Any) -> bool:
    """Return whether two results are equal to the last bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and same(a.numpy(), b.numpy())
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    return bool(a == b)


def _forget() -> None:
    """Let this process check every file again, as a new process would."""
    from lace_lightning import artifacts
    from lace_lightning.data import resumable_arrays

    artifacts._SUMS.clear()
    resumable_arrays._CHECKED.clear()


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Yield a folder on a file system of so many bytes (`3m`); raise OSError where that is not allowed."""
    import subprocess

    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        raise OSError(done.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def meta_of(folder: Path) -> dict[str, Any]:
    """Return what a folder of arrays says of itself."""
    return json.loads((folder / "meta.json").read_text())
