"""Folders of runs and sweeps as runs leave them, made by hand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from lace_lightning.report import sweeps

METRICS = {
    "acc": 0.8,
    "holds": 0.8,
    "acc/hat": 0.8,
    "fid_500": 31.5,
    "own/acc": 0.99,
    "confidence": 0.7,
    "predicted": 0.705,
    "evaluations": 12.0,
    "seconds/sampling_per_64": 0.25,
    "minutes/training": 1.5,
}
CURVES = "step,epoch,train/loss,val/loss,sampling/acc\n0,0,2.0,,\n50,0,1.0,1.5,\n100,1,0.5,1.2,\n150,1,,,0.8\n"


def make_run(folder: Path, name: str = "mine", query: str = "hat == 1", **settings: Any) -> Path:
    """Write the files of a finished run; `settings` are those of the sampler, and `metrics` those that differ."""
    metrics = METRICS | settings.pop("metrics", {})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / sweeps.SEEN).touch()
    config = {
        "name": name,
        "task": {"name": "control"},
        "query": {"text": query, "weight": 2.0},
        "generator": {"_target_": "a.Generator", "name": name},
        "sampler": {"_target_": "lace_lightning.samplers.ODE", **settings},
        "pairs": {"count": 100},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "csv").mkdir(exist_ok=True)
    (folder / "csv" / "metrics.csv").write_text(CURVES, encoding="utf-8")
    Image.new("RGB", (60, 40), (20, 90, 200)).save(folder / "samples.png")
    content = {
        "name": name,
        "metrics": metrics,
        "paper": {"acc": 0.97, "fid": 6.63},
        "protocol": {"query": query, "num_samples": 100, "sampler": "ODE(atol=0.1)", "judge": name},
        "command": f"python -m lace_lightning +experiment={name}",
        "date": "2026-01-02",
        "versions": {"torch": "2.9"},
    }
    (folder / "metrics.json").write_text(json.dumps(content), encoding="utf-8")
    os.utime(folder / "config.yaml", (0, 0))
    return folder


def make_sweep(folder: Path, name: str = "grid") -> Path:
    """Write the files of a sweep of nine tolerances, of which one job has failed."""
    values = [0.1, 0.01, 0.001]
    folder.mkdir(parents=True, exist_ok=True)
    words = ["+experiment=grid", "sampler.atol=0.1,0.01,0.001", "sampler.rtol=0.1,0.01,0.001"]
    multirun = {"name": name, "hydra": {"overrides": {"task": words}, "sweeper": {"params": None}}}
    (folder / "multirun.yaml").write_text(yaml.safe_dump(multirun), encoding="utf-8")
    for atol in values:
        for rtol in values:
            job = folder / f"atol={atol},rtol={rtol}"
            figures = {
                "acc": 0.95 - atol - rtol / 2,
                "fid_500": 30 + 100 * atol,
                "evaluations": 5 / (atol * rtol) ** 0.25,
            }
            make_run(job, name, metrics=figures, atol=atol, rtol=rtol)
    failed = folder / "atol=0.001,rtol=0.001"
    (failed / "failed.json").write_text(json.dumps({"error": f"{name} did not arrive", "kind": "LaceError"}))
    return folder
