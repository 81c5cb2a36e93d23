"""Weights that come with the package: `<name>.safetensors` in half precision beside its card `<name>.json`."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

from ..artifacts import file_sha256, read_json, write_json
from ..errors import LaceError, suggest

FOLDER = Path(__file__).parent


def weight_names() -> tuple[str, ...]:
    """Return the names of the weights that are shipped."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def card(name: str) -> dict[str, Any]:
    """Return the card of shipped weights: what, trained how, on what, licence, sha256, figures."""
    if name not in weight_names():
        raise LaceError(
            f"The shipped weights are {', '.join(weight_names()) or 'none'}, and '{name}' was asked for."
            f"{suggest(name, weight_names())}"
        )
    return read_json(FOLDER / f"{name}.json")


def weight_path(name: str | os.PathLike[str]) -> Path:
    """Return the file of shipped weights by name (checksum verified), or the path itself when it is one.

    Raises LaceError for an unknown name and for a file that differs from its card.
    """
    path = Path(name)
    if path.suffix == ".safetensors" or len(path.parts) > 1:
        if not path.is_file():
            raise LaceError(f"The weights '{path}' were required and do not exist: check the path.")
        return path
    return _verified(str(name))


@cache
def _verified(name: str) -> Path:
    path, expected = FOLDER / f"{name}.safetensors", card(name)["sha256"]
    received = file_sha256(path) if path.is_file() else "no file"
    if received != expected:
        raise LaceError(
            f"The weights '{name}' must have the sha256 {expected[:16]}… of their card and have {received[:16]}…: "
            "install the package again."
        )
    return path


def write_card(name: str, fields: dict[str, Any]) -> None:
    """Write the card of `<name>.safetensors` in this folder: `fields`, its size and its checksum."""
    path = FOLDER / f"{name}.safetensors"
    write_json(FOLDER / f"{name}.json", {**fields, "bytes": path.stat().st_size, "sha256": file_sha256(path)})
