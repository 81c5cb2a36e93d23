"""Docstrings of this project in the sections that mkdocstrings knows."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Read `Example:` as `Examples:`, whose lines of doctest become highlighted code."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section of one object."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
