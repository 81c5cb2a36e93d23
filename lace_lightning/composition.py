"""The configuration of a command is composed once, although Hydra asks for it twice."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

__all__ = ["OnceComposedLoader", "composed_once"]

# Hydra composes a command to find its mode, and again with the mode that it found as one more override.
MODES = (("hydra.mode=RUN",), ("hydra.mode=MULTIRUN",))
# Compositions that wait for their second request. A configuration takes a quarter of a megabyte.
MOST_KEPT = 200


class OnceComposedLoader(ConfigLoaderImpl):
    """A loader of Hydra that composes equal overrides once.

    Hydra composes a command to find out whether it is a sweep, then to run it. A sweep composes each of its jobs to
    check all of them before the first starts, then to run them. Here the second request receives a copy of what was
    composed for the first.

    Args:
        config_search_path: folders of configuration files.

    Example:
        >>> from hydra._internal.utils import create_config_search_path
        >>> from lace_lightning.configuration import config_folder
        >>> loader = OnceComposedLoader(create_config_search_path(str(config_folder())))
        >>> cfg = loader.load_configuration("config", ["+experiment=cifar10_heun"], RunMode.RUN)
        >>> cfg.sampler._target_
        'lace_lightning.samplers.Heun'
    """

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self._composed: dict[tuple[str | None, tuple[str, ...]], DictConfig] = {}

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Return the configuration that Hydra composes, or its copy at the second request.

        Args:
            config_name: name of the primary file.
            overrides: words of the command line or of a job.
            run_mode: whether a sweep or one run is composed.
            from_shell: whether the overrides were written in a shell; errors show them so.
            validate_sweep_overrides: whether overrides with several values are refused in a run.

        Returns:
            A configuration of its own.

        Raises:
            HydraException: when overrides are wrong.
        """
        if validate_sweep_overrides:
            parsed = OverridesParser.create().parse_overrides(overrides)
            self.validate_sweep_overrides_legal(parsed, run_mode=run_mode, from_shell=from_shell)
        try:
            return self._once(config_name, overrides, from_shell)
        except HydraException:
            if run_mode == RunMode.RUN:
                raise
            # A sweep may leave open a file that its jobs choose.
            return super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)

    def _once(self, config_name: str | None, overrides: list[str], from_shell: bool) -> DictConfig:
        words = tuple(overrides)
        if (known := self._composed.pop((config_name, words), None)) is not None:
            return known
        if words[-1:] in MODES and (known := self._composed.pop((config_name, words[:-1]), None)) is not None:
            OmegaConf.update(known, *words[-1].split("="))
            known.hydra.overrides.hydra.append(words[-1])
            return known
        cfg: DictConfig = super().load_configuration(config_name, overrides, RunMode.RUN, from_shell, False)
        if len(self._composed) < MOST_KEPT:
            self._composed[config_name, words] = copy.deepcopy(cfg)
        return cfg

    def __getstate__(self) -> dict[str, object]:
        """Return the state for the workers of launchers, without the compositions of other jobs."""
        return self.__dict__ | {"_composed": {}}


@contextmanager
def composed_once() -> Iterator[None]:
    """Let Hydra's entry compose a command, and each job of a sweep, once."""
    entry = import_module("hydra._internal.hydra")
    known = vars(entry)["ConfigLoaderImpl"]
    vars(entry)["ConfigLoaderImpl"] = OnceComposedLoader
    try:
        yield
    finally:
        vars(entry)["ConfigLoaderImpl"] = known
