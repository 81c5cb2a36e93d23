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
from lace_lightning import samplers
from lace_lightning.samplers import Chain, TunedChain

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


@pytest.mark.parametrize("name", [name for name in samplers.__all__ if inspect.isclass(getattr(samplers, name))])
def test_help_of_a_sampler_is_complete(name: str) -> None:
    """It says the target, when to use the sampler, and every argument, also one that a base class stores."""
    kind = getattr(samplers, name)
    if not issubclass(kind, samplers.Sampler) or kind in (samplers.Sampler, samplers.Flow, Chain, TunedChain):
        return
    text = inspect.getdoc(kind) or ""
    # Not taken over from a base class.
    assert kind.__doc__
    assert " ".join(text.split()).count("Target: ") == 1
    assert "Use: " in " ".join(text.split())
    for argument in inspect.signature(kind).parameters:
        assert re.search(rf"^    {argument}: ", text, re.MULTILINE), argument
