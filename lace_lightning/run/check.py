"""Typed settings from the configuration, with one sentence for the first error, before a network is loaded."""

from __future__ import annotations

import inspect
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pytorch_lightning.utilities import rank_zero_only

from ..artifacts import digest
from ..errors import LaceError, no_edits, suggest
from ..loggers import check_extra
from ..renamed import rename_settings, suggest_setting
from ..systems.base import System
from ..systems.editing import EditOptions
from ..systems.lace import EnergyOptions
from .identity import result_identity
from .nodes import MISSING, Node, check_arguments, check_type
from .settings import TASKS, Dataset, DrawTask, Settings, SystemTask

# Tasks that train an image network, with the LightningModule that takes the settings of `training`.
TRAININGS = {
    "fit_classifier": "lace_lightning.training.image_classifier.ImageClassifierTraining",
    "fit_identity": "lace_lightning.training.identity.IdentityTraining",
    "fit_generator": "lace_lightning.training.generator.GANTraining",
}
# Tasks that train or take a system and measure it.
SYSTEM_TASKS = tuple(name for name, kind in TASKS.items() if issubclass(kind, SystemTask))
# Networks that other tasks need.
NEEDED = {
    "check_labelers": ("generator", "labeler", "judge"),
    "style_layers": ("generator", "labeler"),
    "pictures": ("generator",),
    "reference": ("judge",),
}
# Others convert the weights for good, and latents are float32.
PRECISIONS = ("32", "32-true", "16", "bf16", "16-mixed", "bf16-mixed")


def check(cfg: DictConfig) -> Settings:
    """Return the settings of a configuration.

    Args:
        cfg: the composed configuration.

    Returns:
        Typed settings, which replace the configuration in all later steps.

    Raises:
        LaceError: for an unknown name (with the nearest one), a value of another type or out of its bounds, settings
            that do not fit together, and arguments that Lightning's Trainer refuses.
    """
    try:
        plain = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        missing = re.search(r"Missing mandatory value: ([\w.]+)", str(error))
        if missing is None:
            raise LaceError(" ".join(str(error).split())) from error
        key = missing[1]
        raise LaceError(f"The setting '{key}' needs a value and has none: give {key}=...") from error
    assert isinstance(plain, dict)
    content = rename_settings({str(name): value for name, value in plain.items() if name != "hydra"})
    task = content.get("task") or {}
    name = str(task.get("name"))
    if name not in TASKS:
        raise LaceError(f"The tasks are {', '.join(TASKS)}, received '{name}'.{suggest(name, TASKS)}")
    typed: dict[str, Any] = {**content, "task": TASKS[name](**_values(TASKS[name], "task", task))}
    for group, kind in (("dataset", Dataset),):
        node = dict(content[group] or {})
        module = node.get("module")
        typed[group] = kind(
            name=str(node.get("name")), module=None if module is None else Node(f"{group}.module", module)
        )
    for group in ("generator", "labeler", "judge", "sampler", "energy", "model"):
        node = content.get(group) or {}
        typed[group] = Node(group, node) if node.get("_target_") is not None else None
    for group in ("training", "editing", "trainer", "logger", "callbacks"):
        typed[group] = dict(content.get(group) or {})
    typed["plain"] = content
    settings = Settings(**_values(Settings, "", typed))
    _check_nodes(settings)
    _check_trainer(settings)
    # Files that are named are read only now, when the settings are known to be right.
    return settings.model_copy(update={"digest": digest(result_identity(content))})


def _values(kind: type[BaseModel], key: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a group of settings. Raises LaceError for the first value that the group refuses."""
    prefix = f"{key}." if key else ""
    known = list(kind.model_fields)
    if kind.model_config.get("extra") != "allow":
        for name in values:
            if name not in known:
                raise LaceError(
                    f"There is no setting '{prefix}{name}'."
                    f"{suggest_setting(prefix + name, [prefix + other for other in known])}"
                )
    result = {}
    for name, value in values.items():
        field = kind.model_fields.get(name)
        inner = field.annotation if field is not None else None
        if inspect.isclass(inner) and issubclass(inner, BaseModel) and isinstance(value, Mapping):
            value = inner(**_values(inner, f"{prefix}{name}", value))
        result[name] = value
    missing = [name for name, value in result.items() if value == MISSING]
    if missing:
        raise LaceError(f"The setting '{prefix}{missing[0]}' needs a value and has none: give {prefix}{missing[0]}=...")
    try:
        kind(**result)
    except ValidationError as error:
        raise LaceError(_sentence(prefix, error)) from None
    return result


def _sentence(prefix: str, error: ValidationError) -> str:
    """Return the first error of a validation in one sentence."""
    first = error.errors()[0]
    if first["type"] == "literal_error":
        options = re.findall(r"'([^']*)'", str(first.get("ctx", {}).get("expected", "")))
        key, value = prefix + str(first["loc"][0]), first["input"]
        return (
            f"The setting '{key}' must be one of {', '.join(options)}, received '{value}'."
            f"{suggest(str(value), options)}"
        )
    key = prefix + str(first["loc"][0])
    message = str(first["msg"])
    message = message[0].lower() + message[1:]
    for theirs, ours in (
        ("input should be ", "must be "),
        ("a valid integer, unable to parse string as an integer", "a whole number"),
        ("a valid integer, got a number with a fractional part", "a whole number"),
        ("a valid integer", "a whole number"),
        ("a valid number, unable to parse string as a number", "a number"),
        ("a valid number", "a number"),
        ("a valid boolean, unable to interpret input", "true or false"),
        ("a valid boolean", "true or false"),
        ("a valid string", "text"),
        ("greater than or equal to", "at least"),
        ("less than or equal to", "at most"),
        ("greater than", "above"),
        ("less than", "below"),
    ):
        message = message.replace(theirs, ours)
    if not message.startswith("must"):
        message = f"must be valid ({message})"
    return f"The setting '{key}' {message}, received {first['input']!r}."


def _check_nodes(settings: Settings) -> None:
    """Refuse (LaceError) wrong arguments of everything that the task builds."""
    task = settings.task.name
    for key in NEEDED.get(task, ()):
        is_given = getattr(settings, key) is not None
        if not is_given and not (task == "reference" and settings.metrics.fid == "inception"):
            raise LaceError(f"The task {task} needs a {key}, and {key}=none: choose one of conf/{key}.")
    for node in (settings.generator, settings.labeler, settings.judge, settings.sampler):
        if node is not None and _is_used(node.key, task):
            node.check()
    if task in SYSTEM_TASKS:
        for node in settings.extra_energies.values():
            _node(node.key, node.content).check()
    if settings.dataset.module is not None and task not in ("style_layers", "draw_portraits", "pictures"):
        settings.dataset.module.check()
    for group in ("logger", "callbacks"):
        for name, content in getattr(settings, group).items():
            if content is not None and (group == "callbacks" or name == "csv"):
                # A logger that cannot start is left out of a run, which csv never is.
                _node(f"{group}.{name}", content).check()
            if content is not None and group == "logger":
                check_extra(f"logger.{name}", _node(f"{group}.{name}", content).target)
    for name, content in settings.metrics.nodes.items():
        _node(f"metrics.{name}", content, list(type(settings.metrics).model_fields)).check()
    if task in TRAININGS:
        target = Node("training", {"_target_": TRAININGS[task]}).object()
        if not settings.training:
            raise LaceError(
                f"The task {task} trains a network and training=none: set training=resnet9 or another of conf/training."
            )
        check_arguments("training", target, settings.training, given_later=("schema",))
    if task in SYSTEM_TASKS:
        _check_system(settings)


def _is_used(key: str, task: str) -> bool:
    if task in SYSTEM_TASKS:
        return True
    return key in NEEDED.get(task, ())


def _node(key: str, content: Any, known: list[str] | None = None) -> Node:
    """Return a node. Raises LaceError for content without `_target_`."""
    if not isinstance(content, Mapping) or "_target_" not in content:
        name = key.rpartition(".")[2]
        hint = suggest(name, known or []) or " Known: " + ", ".join(known) + "." if known else ""
        raise LaceError(f"There is no setting '{key}', and it is no class either (it has no _target_).{hint}")
    return Node(key, content)


def system_kind(settings: Settings) -> type[System] | None:
    """Return the class of the system of a run.

    Args:
        settings: settings of the run.

    Returns:
        The class that `model` names; None for LACE.

    Raises:
        LaceError: for a class that is no System.

    Example:
        >>> system_kind(Settings(model=None)) is None
        True
    """
    if settings.model is None:
        return None
    kind = settings.model.object()
    if not (inspect.isclass(kind) and issubclass(kind, System)):
        raise LaceError(f"A model must be a System, and {settings.model.target} is none: correct model._target_.")
    return kind


def _check_system(settings: Settings) -> None:
    """Refuse (LaceError) settings of system, query and editing that do not fit together."""
    kind, pairs, classifier = system_kind(settings), settings.pairs, settings.classifier
    EnergyOptions(**settings.query.model_dump(exclude={"text"}))
    if settings.model is not None:
        settings.model.check(given_later=("schema", "w_dim"), also=("batch_size",))
        batch_size = settings.model.get("batch_size")
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise LaceError(f"The setting 'model.batch_size' must be at least 1, received {batch_size!r}.")
        if settings.extra_energies:
            raise LaceError(
                f"An energy is added to that of LACE's query, and model is {settings.model.name}: set energy=none "
                "and no energies."
            )
    elif settings.task.name == "model":
        raise LaceError("The task 'model' needs a model and model=none: set model=latent_jem or another of conf/model.")
    if settings.task.name == "temperature" and kind is not None:
        raise LaceError(
            f"Temperatures divide the logits of LACE's classifier, and model is {kind.__name__}: set model=none, or "
            "another task."
        )
    if classifier.space == "x" and kind is None:
        for key, value in (("pairs.more", pairs.more), ("classifier.fresh_pairs", classifier.fresh_pairs)):
            if value:
                raise LaceError(
                    f"{key} must be 0 for a classifier of pictures (classifier.space=x), received {value}: set {key}=0."
                )
    if classifier.calibrate and not pairs.holdout[0]:
        raise LaceError(
            "classifier.calibrate needs validation pairs, and pairs.holdout leaves none: set pairs.holdout=[0.02,0.02]."
        )
    if sum(pairs.holdout) >= 1:
        raise LaceError(
            f"The shares of pairs.holdout must leave pairs for training, received {list(pairs.holdout)}: set "
            "pairs.holdout=[0.02,0.02]."
        )
    if pairs.source is not None:
        for key, value in (
            ("pairs.more", pairs.more),
            ("classifier.fresh_pairs", classifier.fresh_pairs),
            ("classifier.soft_labels", classifier.soft_labels),
        ):
            if value and kind is None:
                raise LaceError(
                    f"Given pairs come without pictures and without a labeler that could make more, and {key} is "
                    f"{value}: set {key}={'false' if value is True else 0}, or pairs.source=null."
                )
    if settings.labeler is None and settings.judge is None:
        is_measured = settings.task.name not in ("control", "draw") or settings.metrics.fid not in ("auto", "none")
        if pairs.source is None or kind is not None or is_measured:
            raise LaceError(
                "Pictures are measured by a judge, or by the labeler where judge=none, and both are none: choose a "
                "judge of the attributes, for example judge=clip or judge=module. Without either, LACE learns from "
                "given pairs (pairs.source), and task=control and task=draw measure no ACC."
            )
    if pairs.source is None and settings.labeler is None and (kind is None or kind.space != "x"):
        raise LaceError(
            "Pairs need a labeler, and labeler=none: choose a labeler, or set pairs.source to pairs that have labels."
        )
    if settings.task.name == "edit":
        edit_options(settings)
    if isinstance(settings.task, DrawTask):
        # Read once, for its errors.
        _ = settings.task.ranges


def edit_options(settings: Settings) -> Any:
    """Return the options of the system's editor.

    Args:
        settings: settings of the task `edit`.

    Returns:
        `EditOptions` for LACE, else the `edit_options` of the class of the system.

    Raises:
        LaceError: for a system that does not edit, for no edits, and for unknown or wrong options.
    """
    kind = system_kind(settings)
    options = EditOptions if kind is None else kind.edit_options
    if options is None:
        assert kind is not None
        raise LaceError(
            f"Editing needs a model that edits, and {kind.__name__} only draws: set model=styleflow, or model=none for "
            "LACE."
        )
    if not settings.task.edits:  # type: ignore[attr-defined]
        raise no_edits()
    if kind is None and settings.classifier.space == "x":
        raise LaceError("Editing needs a classifier of latents, and classifier.space is x: set classifier.space=w.")
    values = dict(settings.editing)
    name = values.pop("name", None)
    names = [field.name for field in fields(options)]
    others = sorted(set(values) - set(names))
    if others:
        advice = "editing=sequential, or model=styleflow" if kind is None else kind.edit_advice
        hint = suggest(others[0], names)
        raise LaceError(
            f"This editing takes {', '.join(names)}, and editing={name} has {', '.join(others)}: set {advice}.{hint}"
        )
    if "sigma" in names:
        values = {"sigma": settings.query.sigma, **values}
    check_arguments("editing", options, values)
    return options(**values)


def launcher_plugins(trainer: Mapping[str, Any]) -> list[LightningEnvironment]:
    """Return the plugins of the Trainer that keep a run on one device apart from the other tasks of Slurm.

    Args:
        trainer: settings of the Trainer.

    Returns:
        Lightning's environment of a process of its own where the run has one device and SLURM_NTASKS says several
        tasks; no plugin elsewhere, so that Lightning finds the launcher itself.

    Example:
        >>> launcher_plugins({"devices": 2})
        []
    """
    tasks, devices = os.environ.get("SLURM_NTASKS", "1"), trainer.get("devices")
    has_one = (len(devices) if isinstance(devices, (list, tuple)) else devices) in (1, "1")
    if tasks == "1" or not has_one or trainer.get("num_nodes", 1) != 1:
        return []
    # The variable may be left over from a shell or a batch script, and Lightning would refuse it.
    return [LightningEnvironment()]


def _check_trainer(settings: Settings) -> None:
    """Refuse (LaceError) arguments that Lightning's Trainer refuses, or accepts but cannot train with."""
    known = inspect.signature(pl.Trainer.__init__).parameters
    for name, value in settings.trainer.items():
        if name not in known:
            raise LaceError(
                f"There is no setting 'trainer.{name}': Lightning's Trainer has none of that name."
                f"{suggest(name, known)}"
            )
        if name in ("max_epochs", "max_steps", "num_nodes", "log_every_n_steps", "check_val_every_n_epoch"):
            check_type(f"trainer.{name}", int, value)
    for name in ("max_epochs", "max_steps"):
        if int(settings.trainer.get(name, -1)) < -1:
            raise LaceError(
                f"The setting 'trainer.{name}' must be at least -1 (-1: without end), received "
                f"{settings.trainer[name]}."
            )
    if plugins := launcher_plugins(settings.trainer):
        warnings.warn(
            f"SLURM_NTASKS is {os.environ['SLURM_NTASKS']} and trainer.devices is 1: each process is a run of its own. "
            "For one run on several devices set trainer.devices and trainer.strategy=ddp, and start it with srun "
            "--ntasks-per-node.",
            stacklevel=2,
        )
    precision = str(settings.trainer.get("precision") or "32")
    if settings.task.name in SYSTEM_TASKS and precision not in PRECISIONS:
        raise LaceError(
            "Systems are trained in float32 or in mixed precision: trainer.precision must be 32, 16-mixed or "
            f"bf16-mixed, received {precision}."
        )
    try:
        trainer = pl.Trainer(
            **{
                **settings.trainer,
                "plugins": [*(settings.trainer.get("plugins") or []), *plugins],
                "logger": False,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "barebones": False,
            }
        )
    except Exception as error:
        raise LaceError(
            f"Lightning's Trainer refuses these settings of trainer: {' '.join(str(error).split())}"
        ) from None
    # A variable RANK that another program left behind counts for nothing: the rank is that of Lightning's strategy.
    setattr(rank_zero_only, "rank", trainer.global_rank)  # noqa: B010
