"""The examples of the docstrings of reports and metrics run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import lace_lightning.metrics
import lace_lightning.report

MODULES = [
    f"{package.__name__}.{module.name}"
    for package in (lace_lightning.metrics, lace_lightning.report)
    for module in pkgutil.iter_modules(package.__path__)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
