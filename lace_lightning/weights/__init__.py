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
    """Return the names of the weights that are shipped, in alphabetical order.

    Example:
        >>> "cifar10_generator" in weight_names()
        True
    """
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def card(name: str) -> dict[str, Any]:
    """Return the card of shipped weights.

    Args:
        name: a name of `weight_names`.

    Returns:
        Description (`what`), training command, data, measured figures, licence, number of bytes and sha256.

    Raises:
        LaceError: for an unknown name.

    Example:
        >>> card("cifar10_generator")["data"][:8]
        'CIFAR-10'
    """
    if name not in weight_names():
        raise LaceError(
            f"The shipped weights are {', '.join(weight_names()) or 'none'}, received '{name}'."
            f"{suggest(name, weight_names())}"
        )
    result: dict[str, Any] = read_json(FOLDER / f"{name}.json")
    return result


def weight_path(name: str | os.PathLike[str]) -> Path:
    """Return the file of shipped weights, or a given path as it is.

    The checksum of shipped weights is compared with that of their card once in a process.

    Args:
        name: a name of `weight_names`, or a path, which has an ending or a folder, or exists.

    Returns:
        The path of a file that exists.

    Raises:
        LaceError: for an unknown name, a missing file, and shipped weights whose checksum is not that of their card.

    Example:
        >>> weight_path("cifar10_generator").name
        'cifar10_generator.safetensors'
    """
    path = Path(name)
    if str(name) not in weight_names() and (path.suffix or len(path.parts) > 1 or path.exists()):
        if not path.is_file():
            reason = "are a folder" if path.is_dir() else "do not exist"
            where = "" if path.is_absolute() else f" (looked for in {Path.cwd()})"
            raise LaceError(f"The weights '{path}' were required and {reason}{where}: correct the path.")
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
    """Write the card `<name>.json` of weights that lie in the folder of this package.

    Args:
        name: name of the weights, without the ending .safetensors.
        fields: content of the card, plain values; the number of bytes and the sha256 are added.

    Raises:
        LaceError: when the card cannot be written.

    Example:
        >>> import tempfile
        >>> from unittest import mock
        >>> with tempfile.TemporaryDirectory() as folder, mock.patch(f"{__name__}.FOLDER", Path(folder)):
        ...     _ = Path(folder, "tiny.safetensors").write_bytes(b"1234")
        ...     write_card("tiny", {"licence": "MIT"})
        ...     card("tiny")["bytes"]
        4
    """
    path = FOLDER / f"{name}.safetensors"
    write_json(FOLDER / f"{name}.json", {**fields, "bytes": path.stat().st_size, "sha256": file_sha256(path)})
