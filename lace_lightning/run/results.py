"""What a run leaves: trainer, loggers, pictures, metrics.json."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn

from .. import __version__
from ..artifacts import atomic_path, digest, write_json
from ..report.text import results_table
from .building import is_rank_zero, to_builtin


def config_digest(cfg: DictConfig) -> str:
    """Return the digest of everything in the configuration that decides a result (not where it goes or who is told)."""
    settings = to_builtin(cfg)
    return digest(
        {key: value for key, value in settings.items() if key not in ("paths", "logger", "paper", "name", "sweep")}
    )


def command_line() -> str:
    """Return the command that was typed, as it can be typed again."""
    program = "python -m lace_lightning" if sys.argv[0].endswith("__main__.py") else Path(sys.argv[0]).name
    return " ".join([program, *(shlex.quote(argument) for argument in sys.argv[1:])])


def paper_row(cfg: DictConfig) -> dict[str, float]:
    """Return the paper's figures for this setting: the entry of `paper` whose `when` agrees with the configuration."""
    for entry in to_builtin(cfg.get("paper")) or []:
        conditions = entry.get("when", {})
        if all(OmegaConf.select(cfg, key) == value for key, value in conditions.items()):
            return {key: value for key, value in entry.items() if key != "when"}
    return {}


def training_minutes(seconds: float | None) -> dict[str, float]:
    """Return the figure of how long a training took; none where nobody knows."""
    return {} if seconds is None else {"minutes/training": seconds / 60}


@rank_zero_only
def write_inputs(cfg: DictConfig) -> None:
    """Write the resolved configuration and the command that was typed."""
    out = Path(cfg.paths.output)
    for name, text in (("config.yaml", OmegaConf.to_yaml(cfg, resolve=True)), ("command.txt", command_line() + "\n")):
        with atomic_path(out / name) as temporary:
            temporary.write_text(text)


@rank_zero_only
def write_results(
    cfg: DictConfig,
    metrics: Mapping[str, float],
    protocol: Mapping[str, Any],
    grid: Any,
    frames: Sequence[Any] = (),
    summary: str | None = None,
) -> None:
    """Write pictures first and metrics.json last: where it exists, the run is complete; print `summary`, or the
    metrics.
    """
    out = Path(cfg.paths.output)
    if grid is not None:
        with atomic_path(out / "samples.png") as temporary:
            grid.save(temporary, format="png")
    if frames:
        with atomic_path(out / "samples.gif") as temporary:
            frames[0].save(temporary, format="gif", save_all=True, append_images=frames[1:], duration=80, loop=0)
    paper = paper_row(cfg)
    write_json(
        out / "metrics.json",
        {
            "name": cfg.name,
            "metrics": dict(metrics),
            "paper": paper,
            "protocol": dict(protocol),
            "config_digest": config_digest(cfg),
            "command": command_line(),
            "date": time.strftime("%Y-%m-%d"),
            "versions": {
                "lace_lightning": __version__,
                "torch": torch.__version__,
                "lightning": pl.__version__,
                "python": platform.python_version(),
            },
        },
    )
    if "acc" in metrics or "holds" in metrics:
        print(f"\n{cfg.name}: {protocol['query']}, {protocol['num_samples']} samples, {protocol['sampler']}")
        if protocol.get("reason"):
            print(f"chosen: {protocol['reason']}")
        print(results_table(metrics, paper))
        if protocol.get("frechet"):
            print("; ".join(f"{key}: {value}" for key, value in protocol["frechet"].items()))
    else:
        print("\n" + (summary or ", ".join(f"{key} {value:.4g}" for key, value in metrics.items())))
    print(f"results in {out}")


def trainer_for(cfg: DictConfig, loggers: list[Logger], **options: Any) -> pl.Trainer:
    """Return a Trainer of the configuration, with these options on top."""
    return pl.Trainer(**{**to_builtin(cfg.trainer), **options}, logger=loggers, default_root_dir=cfg.paths.output)


def start_loggers(cfg: DictConfig, only_csv: bool = False) -> list[Logger]:
    """Return the configured loggers; one that cannot start (W&B) is reported and left out."""
    result: list[Logger] = []
    for name, node in (cfg.logger or {}).items():
        if node is None or (only_csv and name != "csv"):
            continue
        try:
            logger = instantiate(node)
            if is_rank_zero():
                _ = logger.experiment
            result.append(logger)
        except Exception as error:
            if name == "csv":
                raise
            rank_zero_warn(f"The logger '{name}' could not start and is left out ({type(error).__name__}: {error}).")
    return result


def log_config(cfg: DictConfig, loggers: list[Logger]) -> None:
    """Hand the whole configuration to every logger."""
    for logger in loggers:
        logger.log_hyperparams(to_builtin(cfg))


def finish_loggers(loggers: list[Logger]) -> None:
    """Close every W&B run: the next job of a sweep must not write into this one's."""
    for logger in loggers:
        try:
            logger.finalize("success")
            finish = getattr(getattr(logger, "experiment", None), "finish", None)
            if callable(finish):
                finish()
        except Exception as error:
            rank_zero_warn(f"The logger {type(logger).__name__} did not close ({error}).")
