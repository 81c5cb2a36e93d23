"""What runs are built of: nodes of the configuration, once a process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn

from ..artifacts import digest
from ..errors import LaceError
from ..generators import Generator, check_generator
from ..labelers import Labeler
from ..schema import Schema
from ..seeds import RunSeeds

T = TypeVar("T")
LOADED: dict[str, Any] = {}
# Added to the seed of what must not begin at the same latents as something else.
OTHER_SEEDS = RunSeeds.OTHER


def to_builtin(node: Any) -> Any:
    """Return a configuration node as plain containers."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def cached(kind: str, key: Any, make: Callable[[], T]) -> T:
    """Return what was made for this key in this process, else make it: the jobs of a sweep load nothing twice."""
    name = f"{kind}-{digest(key)}"
    if name not in LOADED:
        LOADED[name] = make()
    return LOADED[name]


def build_node(node: Any) -> Any:
    """Instantiate a configuration node.

    An error inside comes out as what it says, not as what Hydra wraps around it.
    """
    try:
        return instantiate(node)
    except HydraException as error:
        if isinstance(error.__cause__, LaceError):
            raise error.__cause__ from None
        raise LaceError(" ".join(str(error).split())) from error


def device_of(cfg: DictConfig) -> torch.device:
    """Return the GPU where the trainer wants one and there is one, else the processor."""
    wanted = cfg.trainer.get("accelerator", "auto")
    return (
        torch.device("cuda") if wanted in ("auto", "gpu", "cuda") and torch.cuda.is_available() else torch.device("cpu")
    )


def is_rank_zero() -> bool:
    """Return whether this is the first of several processes."""
    return getattr(rank_zero_only, "rank", 0) == 0


def generator_of(node: DictConfig) -> Generator:
    """Return the generator of a node, loaded once and checked: frozen, with the shapes and values that it declares."""
    return cached("generator", to_builtin(node), lambda: _checked_generator(node))


def _checked_generator(node: DictConfig) -> Generator:
    generator = build_node(node)
    if not isinstance(generator, Generator):
        raise LaceError(
            f"A generator must be a lace_lightning Generator, received {type(generator).__name__}: wrap a module of "
            f"your "
            "own with generator._target_=lace_lightning.generators.ModuleGenerator."
        )
    check_generator(generator)
    return generator


def name_of(node: DictConfig) -> str:
    """Return what to call a generator: its name, or its class where the configuration gives none."""
    return node.get("name") or node._target_.rsplit(".", 1)[-1]


def labeler_of(node: DictConfig) -> Labeler:
    """Return the labeler of a node, loaded once."""
    return cached("labeler", to_builtin(node), lambda: build_node(node))


def common_schema(labeler: Labeler | None, judge: Labeler) -> Schema:
    """Return the schema that labeler and judge share; warn where they are one network. Raises LaceError where they
    differ.
    """
    if labeler is None:
        return judge.schema
    if not labeler.schema.agrees_with(judge.schema):
        raise LaceError(
            f"Labeler and judge must know the same attributes, and '{labeler.name}' has "
            f"{', '.join(labeler.schema.names)}, "
            f"'{judge.name}' {', '.join(judge.schema.names)}: choose two of one schema."
        )
    if labeler.digest.split("-")[0] == judge.digest.split("-")[0]:
        rank_zero_warn("The judge is the network that made the labels: ACC will flatter. Choose another judge.")
    return labeler.schema
