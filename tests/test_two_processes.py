"""Results do not depend on the number of processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def _run(folder: Path, prefix: list[str], *extra: str) -> dict[str, float]:
    command = [
        sys.executable,
        *prefix,
        "-m",
        "lace_lightning",
        "+experiment=cifar10_heun",
        "debug=fast",
        "logger=csv",
        "trainer.accelerator=cpu",
        f"hydra.run.dir={folder}",
        *extra,
    ]
    environment = {**os.environ, "LACE_CACHE": str(folder.parent / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, cwd=folder.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "metrics.json").read_text())["metrics"]


def test_two_processes_give_the_figures_of_one(tmp_path: Path) -> None:
    one = _run(tmp_path / "one", [])
    two = _run(
        tmp_path / "two",
        ["-m", "torch.distributed.run", "--nproc_per_node=2"],
        "trainer.devices=2",
        "trainer.strategy=ddp",
        # A training by two processes is another one, in the fifth digit, and is kept apart.
        f"classifier.weights={next((tmp_path / 'cache' / 'systems').glob('*/system.safetensors'))}",
    )
    for name, value in one.items():
        if "seconds" not in name and not name.startswith(("classifier/", "minutes/")):
            assert two[name] == pytest.approx(value, rel=1e-6), name
