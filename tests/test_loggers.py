"""No logger ends a run, results come before loggers are closed, and W&B waits for no network."""

from __future__ import annotations

import http.server
import os
import platform
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import CSVLogger, Logger

from lace_lightning import cli, wandb_service
from lace_lightning.artifacts import read_json
from lace_lightning.loggers import LastingLogger
from lace_lightning.report import sweeps

from .test_cli import _wandb_records

TINY = ["+experiment=cifar10_heun", "debug=fast", "metrics.fid=none"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch, cache) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(cache))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    for name in ("WANDB_MODE", "WANDB_BASE_URL", "WANDB_DIR", "LACE_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    # Set first, so that what a test leaves there is taken away.
    monkeypatch.setenv(wandb_service.OUTCOME, "")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "30")
    sweeps.OUTCOMES.clear()
    yield
    sweeps.OUTCOMES.clear()


class FailingLogger(CSVLogger):
    """Logger that fails in one of its methods."""

    def __init__(self, save_dir: str, fails: str) -> None:
        super().__init__(save_dir, name=fails, version="")
        self.fails = fails

    def __getattribute__(self, name: str) -> Any:
        get = super().__getattribute__
        if name == get("__dict__").get("fails"):
            raise OSError(28, f"no space for {name}")
        return get(name)

    def log_image(self, key: str, images: list[Any]) -> None:
        """Take pictures."""


FAILING = ("experiment", "log_hyperparams", "log_metrics", "log_image", "finalize", "save", "name", "save_dir")


def test_a_logger_that_fails_is_left_out_with_one_note(tmp_path: Path, capsys) -> None:
    node = "{{_target_: tests.test_loggers.FailingLogger, save_dir: {}, fails: {}}}"
    nodes = [f"+logger.{name}={node.format(tmp_path / 'out', name)}" for name in FAILING]
    cli.main([*TINY, "logger=csv", "hydra.run.dir=out", *nodes])
    notes = [line for line in capsys.readouterr().err.splitlines() if "is left out" in line]
    named = [name for name in FAILING for note in notes if f"the logger '{name}' failed" in note]
    assert sorted(named) == sorted(FAILING)
    assert len(notes) == len(FAILING)
    assert read_json(tmp_path / "out" / "metrics.json")["metrics"]["evaluations"] > 0
    assert "sampling/acc" in (tmp_path / "out" / "csv" / "metrics.csv").read_text()


class Watching(CSVLogger):
    """Logger that remembers how it was closed and whether the results were there."""

    closed: list[tuple[str, bool]] = []

    def finalize(self, status: str) -> None:
        """Remember."""
        Watching.closed.append((status, (Path(self.save_dir) / "metrics.json").is_file()))


@pytest.mark.parametrize(
    ("more", "last"), [([], ("success", True)), (["sampler.max_evaluations=5"], ("failed", False))]
)
def test_results_come_before_loggers_are_closed(more: list[str], last: tuple[str, bool], tmp_path, capsys) -> None:
    Watching.closed.clear()
    node = f"{{_target_: tests.test_loggers.Watching, save_dir: {tmp_path / 'out'}, name: a, version: ''}}"
    command = [*TINY, "sampler=ode", f"+logger.watching={node}", "logger=csv", "hydra.run.dir=out"]
    if more:
        with pytest.raises(SystemExit):
            cli.main([*command, *more])
    else:
        cli.main(command)
    assert Watching.closed[-1] == last


def test_a_wrapped_logger_is_still_of_its_class() -> None:
    class Own(Logger):
        name, version = "own", 1

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            raise ValueError("no")

        def log_hyperparams(self, params: Any) -> None:
            self.seen = params

    logger = LastingLogger("own", Own())
    assert isinstance(logger, (Own, Logger))
    assert not hasattr(logger, "log_image")
    logger.log_hyperparams({"a": 1})
    assert (logger.name, logger.version, logger.seen) == ("own", 1, {"a": 1})
    logger.log_metrics({})
    assert (logger.name, logger.version) == (None, None)
    # What a callback does with the experiment of a logger that was left out does nothing.
    logger.experiment.log({"a": 1})


def test_a_sweep_asks_for_wandb_once_and_failed_jobs_are_failed_there(tmp_path: Path, monkeypatch, capsys) -> None:
    from wandb.proto import wandb_internal_pb2

    asked: list[str] = []
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.invalid/")
    monkeypatch.setattr(wandb_service, "answers", asked.append)
    with pytest.raises(SystemExit):
        cli.main(["-m", *TINY, "sampler=ode", "logger.wandb.offline=false", "sampler.max_evaluations=5,100000"])
    assert asked == ["http://wandb.invalid"]
    notes = [line for line in capsys.readouterr().err.splitlines() if "W&B server" in line]
    assert len(notes) == 1
    assert "http://wandb.invalid does not answer" in notes[0]
    assert notes[0].endswith("wandb sync outputs/sweeps/cifar10_heun/*/wandb/offline-run-*")
    statuses = {}
    for path in tmp_path.glob("outputs/sweeps/cifar10_heun/*/wandb/offline-run-*/run-*.wandb"):
        for data in _wandb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "exit":
                statuses["max_evaluations=5_" in str(path)] = record.exit.exit_code
    assert statuses == {True: 1, False: 0}


@pytest.fixture
def server() -> Iterator[str]:
    """A web server that knows no page."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_server_answers_with_whatever_it_says(server: str, monkeypatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert wandb_service.answers(server)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert not wandb_service.answers(address)
        silent.listen()
        begin = time.monotonic()
        assert not wandb_service.answers(address, 0.3)
        assert time.monotonic() - begin < 2


def test_the_search_for_a_name_is_part_of_the_wait(monkeypatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(5))
    begin = time.monotonic()
    assert not wandb_service.answers("http://wandb.invalid", 0.3)
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize(
    ("environment", "file", "logger", "there", "mode"),
    [
        ({}, "", {"offline": True}, None, "offline"),
        ({"WANDB_MODE": "disabled"}, "", {"offline": True}, None, "disabled"),
        ({"WANDB_MODE": "dryrun"}, "", {"offline": False}, None, "offline"),
        ({"WANDB_MODE": "online"}, "", {"offline": True}, True, "online"),
        ({"WANDB_MODE": "online"}, "", {"offline": True}, False, "offline"),
        ({}, "", {"offline": False}, True, None),
        ({}, "", {"offline": False}, False, "offline"),
        ({}, "", {"mode": "shared"}, True, "shared"),
        ({}, "mode = offline", {"offline": False}, None, None),
        ({}, "disabled = true", {"offline": False}, None, None),
        ({}, "broken", {"offline": False}, True, None),
    ],
)
def test_the_user_s_mode_is_respected(
    environment: dict[str, str], file: str, logger: dict[str, Any], there: bool | None, mode: str | None,
    tmp_path: Path, monkeypatch,
) -> None:  # fmt: skip
    """Where `there` is None nothing may be asked."""
    asked: list[str] = []
    monkeypatch.setattr(wandb_service, "answers", lambda server: asked.append(server) or there)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text(f"[default]\n{file}\n")
    assert wandb_service.wandb_mode(logger, "runs") == mode
    assert wandb_service.wandb_mode(logger, "runs") == mode
    assert len(asked) == (there is not None)


def test_the_user_s_server_is_asked_and_outcomes_are_of_one_computer(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "settings").write_text("[default]\nbase_url = http://file/\n")
    assert wandb_service.server_of({}) == "http://file"
    monkeypatch.setenv("WANDB_BASE_URL", "http://environment")
    assert wandb_service.server_of({}) == "http://environment"
    assert wandb_service.server_of({"settings": {"base_url": "http://logger"}}) == "http://logger"
    wandb_service.remember("http://environment", False)
    assert os.environ[wandb_service.OUTCOME] == f"{platform.node()} http://environment no"
    asked: list[str] = []
    monkeypatch.setattr(wandb_service, "answers", lambda server: asked.append(server) or True)
    assert wandb_service.wandb_mode({}, "runs") == "offline"
    assert wandb_service.wandb_mode({"settings": {"base_url": "http://logger"}}, "runs") is None
    monkeypatch.setenv(wandb_service.OUTCOME, "elsewhere http://environment no")
    assert wandb_service.wandb_mode({}, "runs") is None
    assert asked == ["http://logger", "http://environment"]


def test_a_dead_service_of_wandb_is_left_behind(tmp_path: Path, monkeypatch, capsys) -> None:
    """The service process dies in the middle of the first job; the second job has a new one."""
    import signal

    import wandb

    from lace_lightning.systems.lace import LACE

    original, jobs = LACE.draw, []

    def draw(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not jobs:
            service = wandb.setup()._connection._proc._process
            os.kill(service.pid, signal.SIGKILL)
            service.wait()
        jobs.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(LACE, "draw", draw)
    cli.main(["-m", *TINY, "metrics.seed=1,2"])
    printed = capsys.readouterr()
    assert "2 done" in printed.out
    assert printed.err.count("the logger 'wandb' failed and is left out") == 1
    assert "already in progress" not in printed.err
    assert len(list(tmp_path.glob("outputs/sweeps/*/*seed=*/wandb/offline-run-*/run-*.wandb"))) == 2
