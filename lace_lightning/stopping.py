"""Signals that stop a run in every phase: one sentence, and the exit status that shells expect."""

from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

SENTENCE = "stopped: the same command goes on from here"
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
# Seconds for closing files and loggers; after them the process is ended.
GRACE = 10.0
# Seconds in which further signals are taken for copies of the first: `timeout` and terminals send several.
REPEATED = 1.0


class _State:
    """The signal that came first, when it came, and the process that handles signals."""

    signal: int | None = None
    since = 0.0
    owner: int | None = None


def is_handled() -> bool:
    """Return whether this process handles signals here; workers of launchers and of data loaders do not."""
    return _State.owner == os.getpid()


def stop_status(error: BaseException | None = None) -> int | None:
    """Return the exit status of a run that was stopped, 128 and the number of the signal.

    Args:
        error: what ended the run. After a signal, any error is taken for a consequence of it.

    Returns:
        The status, None where nothing stopped the run.

    Example:
        >>> stop_status(KeyboardInterrupt()), stop_status(SystemExit(143)), stop_status(SystemExit(1))
        (130, 143, None)
    """
    if is_handled() and _State.signal is not None:
        return 128 + _State.signal
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    code = error.code if isinstance(error, SystemExit) else None
    return code if isinstance(code, int) and code in [128 + number for number in SIGNALS] else None


@contextmanager
def stopping_signals() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP end the block with SystemExit, and print one sentence.

    Signals that are ignored, as in the background of a shell or under nohup, stay ignored. Handlers are those of the
    main thread alone; inside another block of this kind nothing is changed.

    Returns:
        A context manager.

    Raises:
        SystemExit: with the status of `stop_status`, when the block was stopped.
    """
    if is_handled():
        yield
        return
    before = {}
    if threading.current_thread() is threading.main_thread():
        free = (signal.SIG_DFL, signal.default_int_handler)
        before = {number: handler for number in SIGNALS if (handler := signal.getsignal(number)) in free}
        _State.signal, _State.owner = None, os.getpid()
        for number in before:
            signal.signal(number, _stop)
    hook = sys.unraisablehook
    sys.unraisablehook = lambda dropped: None if _sent_again(dropped) else hook(dropped)
    try:
        yield
    except BaseException as error:
        status = stop_status(error)
        if status is None:
            raise
        if _is_first_process():
            print(SENTENCE, file=sys.stderr, flush=True)
        raise SystemExit(status) from None
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
        _State.signal = _State.owner = None


def run_command(arguments: Sequence[str]) -> None:
    """Run a command, hand signals to it, and wait for its end.

    Args:
        arguments: the program and its arguments.

    Raises:
        SystemExit: with the exit status of the command, when it is not 0.
    """
    process = subprocess.Popen(arguments)
    before = {number: signal.signal(number, lambda n, _: process.send_signal(n)) for number in SIGNALS}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if status:
        raise SystemExit(128 - status if status < 0 else status)


def _stop(number: int, frame: FrameType | None) -> None:
    """Raise SystemExit at the first signal; at one that comes later, end the process."""
    if not is_handled():
        # A forked worker (of a data loader) has inherited the handler.
        signal.signal(number, signal.SIG_DFL)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        os.kill(os.getpid(), number)
        return
    if number == signal.SIGTERM and _requeues():
        return
    if _State.signal is not None:
        if time.monotonic() - _State.since > REPEATED:
            _end()
        return
    _State.signal, _State.since = number, time.monotonic()
    # A thread without locks, because the main thread may hold any. Loggers may wait for a network.
    _thread.start_new_thread(_end_later, (os.getpid(), _State.since))
    raise SystemExit(128 + number)


def _sent_again(dropped: Any) -> bool:
    """Send a signal again whose SystemExit Python dropped inside of a destructor; return whether it was one."""
    number = _State.signal
    if not is_handled() or number is None or not isinstance(dropped.exc_value, SystemExit):
        return False
    _State.signal = None

    def later(process: int) -> None:
        time.sleep(0.05)
        if is_handled() and os.getpid() == process:
            os.kill(process, number)

    _thread.start_new_thread(later, (os.getpid(),))
    return True


def _requeues() -> bool:
    """Return whether Lightning requeues the job on Slurm: it takes SIGUSR1 and means SIGTERM to be passed over."""
    number = getattr(signal, "SIGUSR1", None)
    return number is not None and signal.getsignal(number) not in (None, signal.SIG_DFL, signal.SIG_IGN)


def _end_later(process: int, since: float) -> None:
    time.sleep(GRACE)
    if is_handled() and os.getpid() == process and _State.signal is not None and _State.since == since:
        _end()


def _end() -> None:
    if _is_first_process():
        os.write(2, f"{SENTENCE}\n".encode())
    os._exit(128 + (_State.signal or signal.SIGTERM))


def _is_first_process() -> bool:
    """Return whether this is the first of the processes of a training.

    Before Lightning has been imported, the variables of launchers are all that is known.
    """
    lightning = sys.modules.get("lightning_utilities.core.rank_zero")
    rank = getattr(getattr(lightning, "rank_zero_only", None), "rank", None)
    if rank is not None:
        return bool(rank == 0)
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
