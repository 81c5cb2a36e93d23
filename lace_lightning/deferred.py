"""Import of torchmetrics in parts: its whole takes seconds, and a run needs a few of its classes."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from types import ModuleType
from typing import Any

__all__ = ["defer_torchmetrics"]

# Roots that import every metric, with scipy.signal, torchvision and torch-fidelity where they are installed.
ROOTS = ("torchmetrics", "torchmetrics.functional")
# What Lightning and this program take from the first root, and the modules that define it.
PARTS = {
    "Metric": "torchmetrics.metric",
    "MetricCollection": "torchmetrics.collections",
    "MeanMetric": "torchmetrics.aggregation",
    "MeanSquaredError": "torchmetrics.regression.mse",
    "__version__": "torchmetrics.__about__",
}


def defer_torchmetrics() -> None:
    """Let the roots of torchmetrics be executed only when something is taken from them that is not in `PARTS`.

    A torchmetrics that was imported before, or that is not installed, stays as it is.

    Example:
        >>> defer_torchmetrics()
        >>> import torchmetrics
        >>> issubclass(torchmetrics.MeanSquaredError, torchmetrics.Metric)
        True
        >>> torchmetrics.functional.mean_squared_error.__name__
        'mean_squared_error'
    """
    if ROOTS[0] in sys.modules or importlib.util.find_spec(ROOTS[0]) is None:
        return
    for name in ROOTS:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        module.__getattr__ = _Taken(module)  # type: ignore[method-assign]
        sys.modules[name] = module
    root = sys.modules[ROOTS[0]]
    root.functional = sys.modules[ROOTS[1]]  # type: ignore[attr-defined]
    # Modules of torchmetrics take their logger from the root.
    root._logger = logging.getLogger(ROOTS[0])  # type: ignore[attr-defined]


class _Taken:
    """Function from a name to the attribute of a deferred root.

    Args:
        module: the root.
    """

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def __call__(self, name: str) -> Any:
        root = self.module.__name__
        if root == ROOTS[0] and name in PARTS:
            return _part(name)
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module '{root}' has no attribute '{name}'")
        vars(self.module).pop("__getattr__", None)
        assert self.module.__spec__ is not None
        assert self.module.__spec__.loader is not None
        self.module.__spec__.loader.exec_module(self.module)
        return getattr(self.module, name)


def _part(name: str) -> Any:
    """Return an attribute of the first root from the module that defines it."""
    try:
        # Its utilities and its metrics import each other; in this order both can be imported.
        importlib.import_module("torchmetrics.utilities")
        return getattr(importlib.import_module(PARTS[name]), name)
    except (ImportError, AttributeError):
        # Another version has other modules: it is imported as usual.
        for imported in [key for key in sys.modules if key.partition(".")[0] == ROOTS[0]]:
            del sys.modules[imported]
        return getattr(importlib.import_module(ROOTS[0]), name)
