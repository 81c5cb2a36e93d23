"""Progress of a sweep: one line on all of its jobs, whichever processes they run in."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artifacts import read_json
from ..progress import PAUSE, bar, is_terminal, print_beside
from .files import config_of

# Seconds between two looks at the folders of jobs, and the longest time without a plain line.
LOOK, SILENCE = 1.0, 60.0


@dataclass
class SweepState:
    """How far a sweep is, from the files of its jobs.

    Args:
        total: number of all jobs; None where it is not known.
        done: number of jobs with figures.
        failed: number of jobs that have failed.
        running: number of jobs that were started and have not ended.
        fresh: number of jobs that were ended by this start of the sweep, and not by one before.
        best: highest ACC; None where no job has one.
        settings: settings of the job with the highest ACC, in words.

    Example:
        >>> print(SweepState(81, done=12, failed=1, running=1, fresh=13, best=0.972, settings="atol 0.1").text(60))
        12 of 81 jobs done, 1 running, 1 failed; best ACC 0.972 (atol 0.1); 5 min left
    """

    total: int | None
    done: int = 0
    failed: int = 0
    running: int = 0
    fresh: int = 0
    best: float | None = None
    settings: str = ""

    def text(self, seconds: float) -> str:
        """Return the state in one line.

        Args:
            seconds: time since the sweep was started.
        """
        of = "" if self.total is None else f" of {self.total}"
        parts = [f"{self.done}{of} jobs done, {self.running} running, {self.failed} failed", *self._best()]
        left = 0 if self.total is None else self.total - self.done - self.failed
        if self.fresh and left > 0:
            parts.append(f"{_duration(seconds / self.fresh * left)} left")
        return "; ".join(parts)

    def _best(self) -> list[str]:
        if self.best is None:
            return []
        return [f"best ACC {self.best:.3f}" + (f" ({self.settings})" if self.settings else "")]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class SweepProgress:
    """Line of progress of a sweep, kept up to date by a thread that looks at the files of the jobs.

    So it is the same for jobs in this process, in others, and on a cluster.

    Args:
        folder: the folder of the sweep.
        title: name of the sweep.
        total: number of all jobs; None where it is not known.
        keys: settings that take several values.
        start: seconds since the epoch; jobs that were started before are not counted.

    Example:
        >>> import tempfile
        >>> progress = SweepProgress(Path(tempfile.gettempdir()) / "no_such_sweep", "grid", 4, [], 0.0)
        >>> progress.look().text(0)
        '0 of 4 jobs done, 0 running, 0 failed'
    """

    def __init__(self, folder: Path, title: str, total: int | None, keys: Sequence[str], start: float) -> None:
        self.folder, self.title, self.total, self.keys, self.start = folder, title, total, list(keys), start
        self._began = time.monotonic()
        self._ended, self._thread = threading.Event(), threading.Thread(target=self._watch, daemon=True)
        # Figures of jobs that were read, by their folder and the time of their file.
        self._known: dict[tuple[str, int], float | None] = {}
        self._stream = sys.stderr
        self._line: Any = None

    def begin(self) -> None:
        """Say what is run and where, and show the line from now on."""
        jobs = "jobs" if self.total is None else "1 job" if self.total == 1 else f"{self.total} jobs"
        said = f"{self.title}: {jobs} in {self.folder}; what each prints is in output.txt of its folder"
        print_beside(said, self._stream)
        if is_terminal(self._stream):
            self._line = bar(self.title, self.total, "job")
            self._line.bar_format = "{desc} |{bar}|"
        self._thread.start()

    def end(self) -> None:
        """Take the line away."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._line is not None:
            self._line.close()
            self._line = None

    def look(self) -> SweepState:
        """Return the state of the jobs from their files."""
        from .sweeps import FAILED, SEEN, is_done

        state = SweepState(self.total)
        best: Path | None = None
        with suppress(OSError):
            for seen in self.folder.glob(f"*/{SEEN}"):
                # A second of grace for file systems with coarse clocks.
                if seen.stat().st_mtime < self.start - 1:
                    continue
                job = seen.parent
                if (job / FAILED).is_file():
                    state.failed, state.fresh = state.failed + 1, state.fresh + 1
                elif is_done(job):
                    state.done += 1
                    state.fresh += (job / "metrics.json").stat().st_mtime >= self.start - 1
                    acc = self._acc(job)
                    if acc is not None and (state.best is None or acc > state.best):
                        state.best, best = acc, job
                else:
                    state.running += 1
        if best is not None:
            state.settings = self._settings(best)
        return state

    def _acc(self, job: Path) -> float | None:
        key = job.name, (job / "metrics.json").stat().st_mtime_ns
        if key not in self._known:
            try:
                self._known[key] = read_json(job / "metrics.json")["metrics"].get("acc")
            except (OSError, ValueError, KeyError):
                return None
        return self._known[key]

    def _settings(self, job: Path) -> str:
        from .sweeps import setting_of

        config = config_of(job)
        return ", ".join(f"{key.split('.')[-1]} {setting_of(config, key)}" for key in self.keys)

    def _watch(self) -> None:
        shown, last = SweepState(self.total), time.monotonic()
        while not self._ended.wait(LOOK):
            state, now = self.look(), time.monotonic()
            text = state.text(now - self._began)
            if self._line is not None:
                self._line.n = state.done + state.failed
                self._line.set_description_str(f"{self.title}: {text}")
            elif (state != shown and now - last >= PAUSE) or now - last >= SILENCE:
                print_beside(f"{self.title}: {text}", self._stream)
                shown, last = state, now
