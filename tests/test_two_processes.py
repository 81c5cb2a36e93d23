"""Results do not depend on the number of processes, nor on what launchers left in the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from lace_lightning import cli
from lace_lightning.run.check import launcher_plugins

# What torchrun and srun set for the second of two processes.
TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "GROUP_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
            "TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}  # fmt: skip
SLURM = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0", "SLURM_JOB_ID": "7",
         "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_NUM_TASKS": "2"}  # fmt: skip
LEFT = {
    "torchrun": TORCHRUN,
    "srun": SLURM,
    "parts of both": {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
}

COMMAND = ["+experiment=cifar10_heun", "debug=fast", "logger=csv", "trainer.accelerator=cpu"]


def _run(
    folder: Path, prefix: list[str], *extra: str, environment: Mapping[str, str] | None = None
) -> dict[str, float]:
    command = [sys.executable, *prefix, "-m", "lace_lightning", *COMMAND, f"hydra.run.dir={folder}", *extra]
    everything = {
        **os.environ,
        **(environment or {}),
        "LACE_CACHE": str(folder.parent / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=everything, cwd=folder.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "metrics.json").read_text())["metrics"]


def test_two_processes_give_the_figures_of_one(tmp_path: Path, monkeypatch) -> None:
    """Of one classifier: a training on two devices is another training."""
    trained = f"classifier.weights={tmp_path / 'trained' / 'classifier.safetensors'}"
    _run_here(tmp_path / "trained", monkeypatch, "task.export=classifier")
    one = _run_here(tmp_path / "one", monkeypatch, trained)
    two = _run(
        tmp_path / "two",
        ["-m", "torch.distributed.run", "--nproc_per_node=2"],
        "trainer.devices=2",
        "trainer.strategy=ddp",
        trained,
    )
    for name, value in one.items():
        if "seconds" not in name and not name.startswith("classifier/"):
            assert two[name] == pytest.approx(value, rel=1e-6), name


def _run_here(folder: Path, monkeypatch: pytest.MonkeyPatch, *extra: str) -> dict[str, float]:
    """Return the figures of the same run in this process, which has imported everything."""
    threads = torch.get_num_threads()
    with monkeypatch.context() as patch:
        patch.chdir(folder.parent)
        patch.setenv("LACE_CACHE", str(folder.parent / "cache"))
        cli.main([*COMMAND, "threads=1", f"hydra.run.dir={folder}", *extra])
    torch.set_num_threads(threads)
    return json.loads((folder / "metrics.json").read_text())["metrics"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("launchers")
    return folder, _run_here(folder / "undisturbed", pytest.MonkeyPatch(), "metrics.num_samples=8")


# Lightning reads the rank when it is imported, and the launcher when a Trainer is made.
@pytest.mark.parametrize(
    ("launcher", "imports"),
    [
        ("torchrun", True),
        ("srun", False),
        ("parts of both", False),
        pytest.param("srun", True, marks=pytest.mark.slow),
        pytest.param("parts of both", True, marks=pytest.mark.slow),
    ],
)
def test_variables_that_a_launcher_left_change_nothing(
    launcher: str, imports: bool, undisturbed: tuple[Path, dict[str, float]], monkeypatch
) -> None:
    folder, expected = undisturbed
    own = folder / f"{launcher.replace(' ', '_')}_{imports}"
    if imports:
        found = _run(own, [], "metrics.num_samples=8", environment=LEFT[launcher])
    else:
        for name, value in LEFT[launcher].items():
            monkeypatch.setenv(name, value)
        found = _run_here(own, monkeypatch, "metrics.num_samples=8")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if "seconds" not in name:
            assert found[name] == pytest.approx(value, rel=1e-6), name


def test_a_run_on_one_device_is_no_task_of_a_larger_one(monkeypatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "2")
    for devices in (1, "1", [0]):
        (plugin,) = launcher_plugins({"devices": devices, "num_nodes": 1})
        assert isinstance(plugin, LightningEnvironment), devices
    for trainer in ({"devices": 2}, {"devices": "auto"}, {"devices": [0, 1]}, {"devices": 1, "num_nodes": 2}, {}):
        assert launcher_plugins(trainer) == [], trainer


@pytest.mark.parametrize("tasks", [None, "1"])
def test_lightning_finds_the_launcher_of_one_task(tasks: str | None, monkeypatch) -> None:
    """There it requeues jobs on Slurm."""
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    if tasks is not None:
        monkeypatch.setenv("SLURM_NTASKS", tasks)
    assert launcher_plugins({"devices": 1}) == []
