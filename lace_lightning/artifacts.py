"""Files that outlive a run: content digests, atomic writes, and the cache that is keyed by digests."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .errors import LaceError
from .progress import byte_bar


def _feed(hasher: Any, obj: Any) -> None:
    """Feed `obj` into `hasher` in a canonical, type-tagged form."""
    if isinstance(obj, nn.Module):
        obj = {"module": type(obj).__name__, "state": dict(obj.state_dict())}
    if isinstance(obj, Mapping):
        hasher.update(b"{")
        for key in sorted(obj, key=str):
            hasher.update(f"{key}:".encode())
            _feed(hasher, obj[key])
        hasher.update(b"}")
    elif isinstance(obj, (list, tuple, set, frozenset)):
        items = sorted(obj, key=str) if isinstance(obj, (set, frozenset)) else obj
        hasher.update(b"[")
        for item in items:
            _feed(hasher, item)
            hasher.update(b",")
        hasher.update(b"]")
    elif isinstance(obj, Tensor):
        array = obj.detach().cpu()
        # NumPy has no bfloat16; its float32 image is exact.
        _feed(hasher, (array.float() if array.dtype == torch.bfloat16 else array).numpy())
    elif isinstance(obj, np.ndarray):
        hasher.update(f"{obj.dtype.str}{obj.shape}".encode())
        hasher.update(np.ascontiguousarray(obj).tobytes())
    elif obj is None or isinstance(obj, (bool, int, float, str, bytes, Path, np.generic)):
        # 1 and 1.0 are the same setting, whichever way a YAML file spells it.
        text = repr(float(obj)) if isinstance(obj, (int, float)) and not isinstance(obj, bool) else str(obj)
        hasher.update(text.encode())
    else:
        raise TypeError(f"A digest is defined for plain values, arrays, tensors and modules, not for {type(obj)}.")


def digest(obj: Any) -> str:
    """Return a digest of the content of nested containers, arrays, tensors and modules.

    Args:
        obj: mappings, sequences, sets, plain values, paths, arrays, tensors or modules. 1 and 1.0 are equal; the order
            of a mapping's keys does not matter.

    Returns:
        16 hexadecimal digits of the sha256.

    Raises:
        TypeError: when an object of another type is inside.

    Example:
        >>> digest({"a": 1, "b": [2.0]}) == digest({"b": [2], "a": 1.0})
        True
    """
    hasher = hashlib.sha256()
    _feed(hasher, obj)
    return hasher.hexdigest()[:16]


def to_builtin(node: Any) -> Any:
    """Return a copy in which mappings are dictionaries and sequences are lists, as a checkpoint needs to load safely.

    Args:
        node: nested mappings, lists and tuples.

    Returns:
        Dictionaries with text as keys, and lists; other values are the same objects.

    Example:
        >>> to_builtin({1: (2, 3)})
        {'1': [2, 3]}
    """
    if isinstance(node, Mapping):
        return {str(key): to_builtin(value) for key, value in node.items()}
    return [to_builtin(value) for value in node] if isinstance(node, (list, tuple)) else node


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the full sha256 of a file.

    Args:
        path: the file.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> with tempfile.NamedTemporaryFile() as stream:
        ...     file_sha256(stream.name)[:8]
        'e3b0c442'
    """
    hasher = hashlib.sha256()
    with open(path, "rb") as stream, byte_bar(f"hashing {Path(path).name}", os.path.getsize(path)) as bar:
        while part := stream.read(2**20):
            hasher.update(part)
            bar.update(len(part))
    return hasher.hexdigest()


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name beside a path, which is renamed to it on success and removed on failure.

    Args:
        path: the file or folder that is to be written; the temporary name may become either.

    Returns:
        A context manager that yields the temporary name.

    Raises:
        LaceError: when the disk is full or not writable.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_path(f"{folder}/a.txt") as temporary:
        ...         _ = temporary.write_text("whole")
        ...     Path(folder, "a.txt").read_text()
        'whole'
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_dir() and target.is_dir():
            shutil.rmtree(target)
        os.replace(temporary, target)
    except OSError as error:
        raise LaceError(
            f"'{target}' could not be written ({error.strerror or error}): free space or choose another "
            "folder, then run the same command again."
        ) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write an object as indented JSON, atomically.

    Args:
        path: the file.
        obj: nested dictionaries, lists and plain values.

    Raises:
        LaceError: when the file cannot be written.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_json(f"{folder}/a.json", {"seed": 1})
        ...     read_json(f"{folder}/a.json")
        {'seed': 1}
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(obj, indent=2, sort_keys=False) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file.

    Returns:
        Nested dictionaries, lists and plain values.

    Raises:
        LaceError: when the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LaceError(f"'{path}' was required and does not exist.") from error
    except json.JSONDecodeError as error:
        raise LaceError(f"'{path}' must hold JSON and does not ({error}): delete it and run again.") from error


def check_writable(folder: str | os.PathLike[str]) -> Path:
    """Create a folder if needed, and check that a file can be written there.

    Args:
        folder: the folder.

    Returns:
        Its path.

    Raises:
        LaceError: when nothing can be written there.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     check_writable(f"{folder}/new").is_dir()
        True
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"\0" * 4096)
    except OSError as error:
        raise LaceError(
            f"The folder '{path}' must be writable and is not ({error.strerror or error}): choose another "
            "one or change its permissions."
        ) from error
    return path


class Cache:
    """Cache of folders by the digest of what their content depends on: `root/kind/key`.

    Args:
        root: folder of the cache; `~` is the user's.

    Example:
        >>> with tempfile.TemporaryDirectory() as root:
        ...     folder = Cache(root).folder("pairs", digest({"seed": 1}))
        ...     folder.is_dir(), folder.parent.name
        (True, 'pairs')
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).expanduser()

    def folder(self, kind: str, key: str) -> Path:
        """Return the folder of an artifact, and create it if needed.

        Args:
            kind: what is kept, such as `pairs`.
            key: digest of what it depends on.

        Returns:
            Its path.

        Raises:
            LaceError: when nothing can be written there.
        """
        return check_writable(self.root / kind / key)

    def __repr__(self) -> str:
        return f"Cache({str(self.root)!r})"


def save_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> None:
    """Write tensors and a plain configuration as safetensors, atomically.

    Args:
        path: the file.
        tensors: tensors of any shape by name.
        config: nested plain values that JSON can hold.
        dtype: type in which floating tensors are stored; None keeps each one's own.

    Raises:
        LaceError: when the file cannot be written.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_tensors(f"{folder}/a.safetensors", {"w": torch.ones(2)}, {"width": 2}, torch.float16)
        ...     tensors, config = load_tensors(f"{folder}/a.safetensors")
        >>> tensors["w"], config
        (tensor([1., 1.]), {'width': 2})
    """
    from safetensors.torch import save_file

    def stored(tensor: Tensor) -> Tensor:
        tensor = tensor.detach().cpu()
        return (tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor).contiguous().clone()

    with atomic_path(path) as temporary:
        save_file(
            {name: stored(tensor) for name, tensor in tensors.items()},
            str(temporary),
            metadata={"lace": json.dumps(dict(config), sort_keys=True)},
        )
        # The library writes for the owner alone; other users of an installed package read it too.
        temporary.chmod(0o644)


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and configuration that `save_tensors` wrote.

    Args:
        path: the file.

    Returns:
        Tensors by name, those in half precision as float32, and the configuration.

    Raises:
        LaceError: when the file is missing, damaged or of another program.
    """
    with _opened(path) as (stream, config):
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    half = (torch.float16, torch.bfloat16)
    return {name: tensor.float() if tensor.dtype in half else tensor for name, tensor in tensors.items()}, config


def load_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read only the configuration that `save_tensors` wrote.

    Args:
        path: the file.

    Returns:
        The configuration.

    Raises:
        LaceError: when the file is missing, damaged or of another program.
    """
    with _opened(path) as (_, config):
        return config


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Open a file of `save_tensors`; yield the stream and the configuration."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise LaceError(f"The weights '{path}' were required and do not exist: check the path.")
    try:
        with safe_open(str(path), framework="pt") as stream:
            yield stream, json.loads((stream.metadata() or {})["lace"])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise LaceError(
            f"The weights '{path}' must be a safetensors file written by this program and could not be read "
            f"({error}): get the file again."
        ) from error
