"""Signals stop every phase of a run with one sentence and the status that shells expect."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lace_lightning import cli
from lace_lightning.report import sweeps
from lace_lightning.report.record import run_command
from lace_lightning.stopping import SENTENCE, stop_status

TINY = ["+experiment=cifar10_heun", "debug=fast", "logger=csv", "metrics.fid=none"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch, cache) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(cache))
    monkeypatch.delenv("LACE_TRACEBACK", raising=False)
    sweeps.OUTCOMES.clear()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before
    sweeps.OUTCOMES.clear()


def _signalled(number: int) -> Callable[..., Any]:
    """Return work that sends a signal to its own process and goes on for ten seconds where that does not end it."""

    def work(*_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), number)
        time.sleep(10)
        raise AssertionError("the signal was ignored")

    return work


PHASES = {
    "pairs": "lace_lightning.run.pairs_of",
    "training": "lace_lightning.training.latent_classifier.LatentClassifier.training_step",
    "sampling": "lace_lightning.systems.lace.LACE.draw",
}


@pytest.mark.parametrize("mode", [[], ["-m", "metrics.seed=1,2"]])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_every_phase(
    number: int, status: int, phase: str, mode: list[str], tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(PHASES[phase], _signalled(number))
    monkeypatch.setattr("lace_lightning.run.nodes.BUILT", {})
    # A training of its own, which no other test has finished.
    seed = "seed=3" if phase == "training" else "seed=0"
    with pytest.raises(SystemExit) as stop:
        cli.main([*mode, *TINY, seed])
    assert stop.value.code == status
    message = capsys.readouterr().err
    assert message.splitlines().count(SENTENCE) == 1
    assert "Traceback" not in message
    assert not list(tmp_path.rglob("metrics.json"))
    assert not list(tmp_path.rglob("failed.json"))


def test_a_stopped_training_goes_on_at_its_last_checkpoint(tmp_path: Path, monkeypatch) -> None:
    from lace_lightning.training.latent_classifier import LatentClassifier

    original, epochs = LatentClassifier.training_step, []

    def step(self: Any, batch: Any, index: int) -> Any:
        if self.current_epoch == 3 and 3 not in epochs:
            epochs.append(3)
            os.kill(os.getpid(), signal.SIGTERM)
        epochs.append(self.current_epoch)
        return original(self, batch, index)

    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lace_lightning.run.nodes.BUILT", {})
    monkeypatch.setattr(LatentClassifier, "training_step", step)
    with pytest.raises(SystemExit) as stop:
        cli.main([*TINY, "trainer.max_epochs=5"])
    assert stop.value.code == 143
    assert set(epochs) == {0, 1, 2, 3}
    del epochs[:-1]
    cli.main([*TINY, "trainer.max_epochs=5"])
    assert set(epochs) == {3, 4}
    assert len(list(tmp_path.rglob("metrics.json"))) == 1


@pytest.mark.parametrize("seconds", [0.3, 1.5])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_first_seconds_is_one_sentence(seconds: float, number: int, status: int) -> None:
    # Signals come from the parent as soon as the package is there, whatever it imports then.
    code = (
        "import os, runpy, signal, sys, threading\n"
        "from lace_lightning import stopping\n"
        "def send():\n"
        f"    threading.Event().wait({seconds})\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "threading.Thread(target=send, daemon=True).start()\n"
        f"sys.argv = ['lace-lightning', *{TINY!r}, 'pairs.count=100000']\n"
        "runpy.run_module('lace_lightning', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    said = done.stderr.splitlines()
    assert (done.returncode, done.stdout, said[-1]) == (status, "", SENTENCE)
    # A fast processor may already have said what it makes.
    assert [line for line in said[:-1] if not line.startswith("making ")] == []


def test_an_import_that_fails_after_a_signal_is_no_error_of_the_job(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    def failed(_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(8)
        except SystemExit:
            # As an extension does whose import a signal interrupts.
            raise ImportError("initialization failed") from None

    monkeypatch.setattr(cli, "_job", failed)
    with pytest.raises(SystemExit) as stop:
        cli.main(TINY)
    assert stop.value.code == 143
    assert "Error executing job" not in capfd.readouterr().err


def _python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    before = "import os, signal, sys, time\nfrom lace_lightning import stopping\n"
    return subprocess.run(
        [sys.executable, "-c", before + code], capture_output=True, text=True, timeout=30, check=False, **options
    )


def test_a_signal_inside_of_a_destructor_is_sent_again() -> None:
    # Python drops the exception of the handler there.
    code = (
        "class Last:\n    def __del__(self):\n        os.kill(os.getpid(), signal.SIGINT)\n        time.sleep(0.01)\n"
        "with stopping.stopping_signals():\n    last = Last()\n    del last\n    time.sleep(8)\n"
    )
    done = _python(code)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{SENTENCE}\n")


def test_ignored_signals_stay_ignored() -> None:
    done = _python(
        "for number in stopping.SIGNALS:\n    signal.signal(number, signal.SIG_IGN)\n"
        "with stopping.stopping_signals():\n    for number in stopping.SIGNALS:\n"
        "        os.kill(os.getpid(), number)\nprint('whole')"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "whole\n", "")


def test_a_stop_that_python_drops_ends_the_process_later() -> None:
    """Exceptions of a handler that runs inside of a destructor are printed and dropped."""
    done = _python(
        "class Dropped:\n    def __del__(self):\n        os.kill(os.getpid(), signal.SIGTERM)\n        time.sleep(.1)\n"
        "stopping.GRACE = 0.3\nwith stopping.stopping_signals():\n    Dropped()\n    time.sleep(20)"
    )
    assert done.returncode == 143
    assert done.stderr.splitlines()[-1] == SENTENCE


def test_copies_of_a_signal_do_no_harm_and_a_later_one_ends_the_process() -> None:
    code = (
        "with stopping.stopping_signals():\n    try:\n        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(20)\n    finally:\n        os.kill(os.getpid(), signal.SIGTERM)\n        time.sleep({})\n"
        "        print('closed', flush=True)\n        os.kill(os.getpid(), signal.SIGTERM)\n        time.sleep(0.1)\n"
        "        print('not ended')"
    )
    done = _python(code.format(0.1))
    assert (done.returncode, done.stdout, done.stderr) == (130, "closed\nnot ended\n", SENTENCE + "\n")
    done = _python(code.format(1.2))
    assert (done.returncode, done.stdout, done.stderr) == (130, "closed\n", SENTENCE + "\n")


def test_forked_workers_are_stopped_as_python_does_it() -> None:
    code = (
        "with stopping.stopping_signals():\n    child = os.fork()\n    if not child:\n        try:\n"
        "            os.kill(os.getpid(), signal.{})\n            time.sleep(20)\n"
        "        except KeyboardInterrupt:\n            os._exit(7)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert _python(code.format("SIGINT")).stdout == "7\n"
    assert _python(code.format("SIGTERM")).stdout == f"{-signal.SIGTERM}\n"


def test_lightning_keeps_sigterm_where_it_requeues_on_slurm() -> None:
    """There it takes SIGUSR1 as well, saves a checkpoint and passes over SIGTERM, which comes with it."""
    done = _python(
        "with stopping.stopping_signals():\n    signal.signal(signal.SIGUSR1, lambda *_: None)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(0.1)\n    print('saved')\n"
    )
    assert (done.returncode, done.stdout) == (0, "saved\n")


def test_one_process_of_several_says_it() -> None:
    code = "with stopping.stopping_signals():\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(9)"
    done = _python(code, env={**os.environ, "LOCAL_RANK": "1"})
    assert (done.returncode, done.stderr) == (143, "")


def test_a_process_of_its_own_says_it_beside_variables_of_launchers() -> None:
    """Lightning's rank counts where it is known."""
    code = (
        "from lightning_utilities.core import rank_zero\nrank_zero.rank_zero_only.rank = {}\n"
        "with stopping.stopping_signals():\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(9)"
    )
    done = _python(code.format(0), env={**os.environ, "RANK": "1", "SLURM_PROCID": "1"})
    assert (done.returncode, done.stderr) == (143, SENTENCE + "\n")
    done = _python(code.format(1))
    assert (done.returncode, done.stderr) == (143, "")


def test_workers_of_launchers_have_no_handlers(tmp_path: Path, monkeypatch, capsys) -> None:
    """A worker that is stopped is a job that failed; the sweep goes on. `job` is all that a worker calls."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    config = OmegaConf.create({"mode": RunMode.MULTIRUN, "overrides": {"task": ["seed=1"]}})
    monkeypatch.setattr(HydraConfig, "get", lambda: config)
    monkeypatch.setattr("lace_lightning.run.check", _signalled(signal.SIGINT))
    assert cli.job(OmegaConf.create({"paths": {"output": str(tmp_path / "job")}})) is None
    reason = "The job was stopped (status 130): the same command runs it again."
    assert sweeps.collect(tmp_path)[0]["reason"] == reason
    assert sweeps.collect(tmp_path)[0]["config"] == {"seed": 1}
    assert capsys.readouterr().err == ""


def test_statuses_are_those_of_shells() -> None:
    assert stop_status() is None
    assert stop_status(ValueError()) is None
    assert stop_status(SystemExit("text")) is None
    assert stop_status(SystemExit(130)) == 130
    with pytest.raises(SystemExit) as stop:
        run_command([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"])
    assert stop.value.code == 143
    run_command([sys.executable, "-c", "pass"])
