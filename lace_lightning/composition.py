"""A command is composed once, and so are the jobs of a sweep that differ in plain values."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write

__all__ = ["OnceComposedLoader", "composed_once"]

# Hydra composes a command to find its mode, and again with the mode that it found as one more override.
MODES = (("hydra.mode=RUN",), ("hydra.mode=MULTIRUN",))
Words = tuple[str, ...]


class OnceComposedLoader(ConfigLoaderImpl):
    """A loader of Hydra that composes a command once, and the jobs of a sweep that differ in plain values once.

    Hydra composes a command to find out whether it is a sweep, then to run it. A sweep composes each of its jobs to
    check all of them before the first starts, then to run them. Here the first job is composed. Jobs with other plain
    values of the same settings are copies of it with these values; for the check they are set in one copy for all.

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
        self._parsed: dict[str, Override] = {}
        # Groups of configuration files, which choose a file where a plain value would be set.
        self._groups: set[str] = set()
        # Words without their plain values -> a composition of them, and its copy for checks.
        self._templates: dict[tuple[str | None, Words], tuple[DictConfig, DictConfig]] = {}
        # Commands and jobs that were asked for once.
        self._checked: set[tuple[str | None, Words]] = set()

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Return the configuration that Hydra composes.

        The configuration of the first request for these overrides is valid until the next request, that of others
        belongs to the caller.

        Args:
            config_name: name of the primary file.
            overrides: words of the command line or of a job.
            run_mode: whether a sweep or one run is composed.
            from_shell: whether the overrides were written in a shell; errors show them so.
            validate_sweep_overrides: whether overrides with several values are refused in a run.

        Returns:
            The configuration.

        Raises:
            HydraException: when overrides are wrong.
        """
        parsed = self._parse(overrides)
        if validate_sweep_overrides:
            self.validate_sweep_overrides_legal(parsed, run_mode=run_mode, from_shell=from_shell)
        try:
            return self._derived(config_name, parsed, from_shell)
        except HydraException:
            if run_mode == RunMode.RUN:
                raise
            # A sweep may leave open a file that its jobs choose.
            return super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)

    def _parse(self, words: Sequence[str]) -> list[Override]:
        new = [word for word in words if word not in self._parsed]
        self._parsed |= zip(new, OverridesParser.create().parse_overrides(new), strict=True)
        return [self._parsed[word] for word in words]

    def _derived(self, config_name: str | None, overrides: list[Override], from_shell: bool) -> DictConfig:
        # The mode does not change what is composed.
        words = tuple(str(override.input_line) for override in overrides)
        mode = words[-1] if words[-1:] in MODES else None
        composed = overrides[:-1] if mode else overrides
        name = (config_name, words[:-1] if mode else words)
        template, for_checks = self._template(config_name, composed, from_shell)
        cfg = copy.deepcopy(template) if name in self._checked else for_checks
        self._checked.add(name)
        tasks = [override for override in composed if not override.is_hydra_override()]
        with read_write(cfg.hydra):
            self._apply_overrides_to_config([override for override in composed if self._is_plain(override)], cfg)
            cfg.hydra.overrides.task = [override.input_line for override in tasks]
            style = cfg.hydra.job.config.override_dirname
            cfg.hydra.job.override_dirname = get_overrides_dirname(
                tasks, kv_sep=style.kv_sep, item_sep=style.item_sep, exclude_keys=style.exclude_keys
            )
            if mode is not None:
                OmegaConf.update(cfg, *mode.split("="))
                cfg.hydra.overrides.hydra = [word.input_line for word in overrides if word.is_hydra_override()]
        return cfg

    def _template(
        self, config_name: str | None, overrides: list[Override], from_shell: bool
    ) -> tuple[DictConfig, DictConfig]:
        """Return a composition of the overrides but for their plain values, and its copy for checks."""

        def shared() -> tuple[str | None, Words]:
            words = (f"{one.key_or_group}=" if self._is_plain(one) else str(one.input_line) for one in overrides)
            return config_name, tuple(words)

        if (found := self._templates.get(shared())) is not None:
            return found
        lines = [str(override.input_line) for override in overrides]
        cfg: DictConfig = super().load_configuration(config_name, lines, RunMode.RUN, from_shell, False)
        # Folders of the user have groups of their own.
        self._groups |= set(cfg.hydra.runtime.choices)
        return self._templates.setdefault(shared(), (cfg, copy.deepcopy(cfg)))

    def _is_plain(self, override: Override) -> bool:
        """Return whether an override gives one number or text to a setting that exists."""
        return (
            override.type == OverrideType.CHANGE
            and override.package is None
            and override.key_or_group not in self._groups
            and not override.is_hydra_override()
            and not override.is_sweep_override()
            and not isinstance(override.value(), dict | list)
            and not self.repository.group_exists(override.key_or_group)
        )

    def __getstate__(self) -> dict[str, object]:
        """Return the state for the workers of launchers, whose first request is for a run."""
        return self.__dict__ | {"_parsed": {}, "_templates": {}, "_checked": set()}


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
