"""Docstrings of every module: their form, and their examples."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType

import pytest

import lace_lightning

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(lace_lightning.__path__, "lace_lightning.")
    if not module.name.endswith("__main__")
)


def public(module: ModuleType) -> Iterator[tuple[str, type]]:
    """Yield the public classes and functions that a module defines."""
    for name, value in vars(module).items():
        is_own = getattr(value, "__module__", None) == module.__name__
        if not name.startswith("_") and is_own and (inspect.isclass(value) or inspect.isfunction(value)):
            yield name, value


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_described(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    for owner, value in public(module):
        text = inspect.getdoc(value) or ""
        first = text.split("\n", 1)[0]
        assert first.endswith("."), f"{owner}: the first line must be one sentence"
        assert not inspect.isclass(value) or "Example:" in text, f"{owner}: an example is missing"
        # The constructor of a protocol is written by typing and takes any arguments.
        has_constructor = "__init__" in vars(value) and not getattr(value, "_is_protocol", False)
        function = value.__init__ if inspect.isclass(value) and has_constructor else value
        if inspect.isclass(function):
            continue
        for argument in list(inspect.signature(function).parameters)[inspect.isclass(value) :]:
            assert re.search(rf"^\s+{argument}: ", text, re.MULTILINE), f"{owner}: Args lacks '{argument}'"


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), verbose=False)
    assert result.failed == 0
