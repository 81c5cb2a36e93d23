"""The identity of results: everything that was resolved, except settings that are declared to change no figure."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import get_object

from .. import __version__
from ..artifacts import digest, known_sha256
from ..source import code_of

if TYPE_CHECKING:
    from .settings import Settings

# Settings that change no figure of a run: where files go, what is shown, and how results are reported.
INDIFFERENT = (
    "paths",
    "logger",
    "name",
    "paper",
    "sweep",
    "metrics.keep",
    "metrics.progress",
    "metrics.table",
    "dataset.module.cache",
    "dataset.module.pairs.cache",
    "dataset.module.progress",
    "trainer.default_root_dir",
    "trainer.enable_autolog_hparams",
    "trainer.enable_checkpointing",
    "trainer.enable_model_summary",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "trainer.logger",
    "trainer.profiler",
)
# Settings of the trainer that do not change what is trained: of other phases than training, or the length, which a
# training is identified by in epochs and steps, or the device. A training that `max_time` stops is not kept.
NOT_TRAINING = (
    "accelerator",
    "limit_predict_batches",
    "limit_test_batches",
    "max_epochs",
    "max_steps",
    "max_time",
)
# Settings of the trainer that make a training one of a part of the data, with the value that takes all of it.
PARTS = {"fast_dev_run": (None, False, 0), "limit_train_batches": (None, 1.0), "overfit_batches": (None, 0.0, 0)}

# Settings whose value may be a folder: any other word without a separator is a name.
FOLDERS = ("root", "source", "folder", "path", "weights", "checkpoint", "reference", "latents", "photographs")


def is_indifferent(key: str) -> bool:
    """Return whether a setting is declared to change no figure.

    Args:
        key: its dotted name.

    Example:
        >>> is_indifferent("logger.csv.name"), is_indifferent("sampler.atol")
        (True, False)
    """
    return any(key == name or key.startswith(f"{name}.") for name in INDIFFERENT)


def result_identity(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that the figures of a run depend on.

    Args:
        content: the resolved configuration in plain containers.

    Returns:
        The settings that may change a figure, the identity of files and of a user's own classes and functions that they
        name, and the version of this package.
    """
    counts = _without_indifferent(content)
    if "trainer" in counts:
        # Lightning tells 1 (a batch) from 1.0 (all batches), and a digest does not.
        counts["trainer"] = {name: repr(value) for name, value in counts["trainer"].items()}
    return {"settings": counts, **_named(counts), "version": __version__}


def sample_recipe(settings: Settings) -> dict[str, Any]:
    """Return everything that drawn samples depend on, by the names of the settings.

    Args:
        settings: the settings of the run.
    """
    identity = result_identity(settings.plain)
    return {**identity.pop("settings", {}), **identity}


def training_identity(settings: Settings) -> dict[str, Any]:
    """Return everything that a training depends on besides its network, its data and its length.

    Args:
        settings: the settings of the run.

    Returns:
        Settings of the trainer and of further callbacks, and the code of these.
    """
    trainer = {
        name: repr(value)
        for name, value in settings.trainer.items()
        if value is not None and name not in NOT_TRAINING and not is_indifferent(f"trainer.{name}")
    }
    callbacks = {name: node for name, node in settings.callbacks.items() if node is not None}
    return {"trainer": trainer, "callbacks": callbacks, **_named(callbacks)}


def node_identity(content: Any, key: str = "") -> dict[str, Any]:
    """Return everything that an object of the configuration depends on: its node, named files, and a user's own code.

    Args:
        content: the node in plain containers.
        key: its dotted name; parts of it may be declared to change no figure.
    """
    counts = _without_indifferent(content, f"{key}." if key else "")
    return {"node": counts, **_named(counts)}


def part_of_data(settings: Settings) -> str | None:
    """Return the setting that limits the trainings of a run to a part of the data, None where there is none.

    Args:
        settings: the settings of the run.
    """
    for name, whole in PARTS.items():
        value = settings.trainer.get(name)
        # 1 is one batch, and 1.0 is all of them.
        if not any(type(value) is type(one) and value == one for one in whole):
            return f"trainer.{name}={value}"
    return None


def _named(node: Any) -> dict[str, Any]:
    """Return the identity of the files, and of a user's own classes and functions, that settings name."""
    return {"files": dict(_files(node)), "code": dict(_codes(node))}


def _without_indifferent(node: Any, prefix: str = "") -> Any:
    if not isinstance(node, Mapping):
        return node
    return {
        name: _without_indifferent(value, f"{prefix}{name}.")
        for name, value in node.items()
        if not is_indifferent(f"{prefix}{name}")
    }


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (last part of the key, value) of everything in nested containers."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _leaves(value, str(name))
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _leaves(value, key)
    else:
        yield key, node


def _files(node: Any) -> Iterator[tuple[str, str]]:
    """Yield the files and folders that settings name, with an identity of their content.

    The identity of a file is its checksum, that of a folder the names, sizes and times of its files.
    """
    for key, value in _leaves(node):
        if not isinstance(value, str) or not value or len(value) > 1000 or "\0" in value:
            continue
        path = Path(os.path.expanduser(value))
        try:
            if path.is_file():
                yield value, known_sha256(path)
            elif (os.sep in value or key in FOLDERS) and path.is_dir():
                yield value, digest([_stamp(file, path) for file in sorted(path.rglob("*"))])
        except OSError:
            continue


def _stamp(file: Path, folder: Path) -> list[Any]:
    known = file.stat()
    return [str(file.relative_to(folder)), known.st_size if file.is_file() else 0, known.st_mtime_ns]


def _codes(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield the classes and functions that settings name and that are not of this package, with their code."""
    for key, value in _leaves(node):
        if key not in ("_target_", "function") or not isinstance(value, str) or "." not in value:
            continue
        try:
            found = get_object(value) if key == "_target_" else _function(value)
        # It is refused, in a sentence, where it is built.
        except Exception:
            continue
        code = code_of(found)
        if code:
            yield value, code


def _function(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)
