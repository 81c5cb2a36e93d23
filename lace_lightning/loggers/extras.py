"""Packages that loggers need and that are not installed with this one."""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import LaceError

# Name of a logger's class -> the package that it imports; the extra has the same name.
PACKAGES = {"TensorBoardLogger": "tensorboard", "MLFlowLogger": "mlflow"}


def check_extra(key: str, target: str) -> None:
    """Refuse a logger whose package is not installed.

    Args:
        key: dotted key of the logger in the configuration.
        target: dotted name of its class.

    Raises:
        LaceError: with the command that installs the package.

    Example:
        >>> check_extra("logger.csv", "pytorch_lightning.loggers.CSVLogger")
    """
    package = PACKAGES.get(target.rpartition(".")[2])
    if package is not None and find_spec(package) is None:
        raise LaceError(
            f'{key} needs the package {package}, which is not installed: pip install "lace_lightning[{package}]", or '
            "choose logger=csv."
        )
