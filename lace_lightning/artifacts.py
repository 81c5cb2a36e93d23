"""Files that outlive a run: content digests, atomic writes, and the cache that is keyed by digests."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import LaceError
from .progress import byte_bar

# Name of this machine in temporary names: processes of others cannot be asked whether they live.
_HOST = socket.gethostname().replace(".", "-")
# Errors of a file system that cannot take what is written.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)

# torch and NumPy are imported where they are used: `lace-lightning models` and `download` start without them.
if TYPE_CHECKING:
    import torch
    from torch import Tensor


def _feed(hasher: Any, obj: Any) -> None:
    """Feed `obj` into `hasher` in a canonical, type-tagged form."""
    import numpy as np
    import torch
    from torch import Tensor, nn

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


# Checksums by what the file system says of a file, which a rename leaves as it is.
_SUMS: dict[tuple[int, int, int, int], str] = {}


def known_sha256(path: str | os.PathLike[str]) -> str:
    """Return the full sha256 of a file, computed once in a process while the file stays the same.

    Args:
        path: the file.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> with tempfile.NamedTemporaryFile() as stream:
        ...     known_sha256(stream.name) == file_sha256(stream.name)
        True
    """
    known = os.stat(path)
    stamp = (known.st_dev, known.st_ino, known.st_size, known.st_mtime_ns)
    if stamp not in _SUMS:
        _SUMS[stamp] = file_sha256(path)
    return _SUMS[stamp]


def remove_path(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, where there is one.

    Args:
        path: the file or folder.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     remove_path(Path(folder, "missing"))
    """
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _remove_ownerless(target: Path) -> None:
    """Remove temporary names of a path that processes of this machine left when they were killed."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.{glob.escape(_HOST)}.*.tmp"):
        pid = left.name.split(".")[-3]
        if pid.isdigit() and not _is_alive(int(pid)):
            remove_path(left)


def _is_alive(pid: int) -> bool:
    if os.name == "nt":
        # Signal 0 ends a process there. What is left is removed by the owner of the folder's lock.
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _fault_of_disk(error: Exception, temporary: Path) -> str | None:
    """Return what a file system refused, None for an error of the work in between, which may use files of its own."""
    if isinstance(error, LaceError):
        return None
    if isinstance(error, OSError):
        is_ours = error.errno in FULL or str(error.filename or "").startswith(str(temporary))
        return (error.strerror or str(error)) if is_ours else None
    # torch and safetensors report a full disk as an error of their own.
    full = os.strerror(errno.ENOSPC)
    is_full = full in str(error) or ("unexpected pos" in str(error) and _free(temporary.parent) < 2**20)
    return full if is_full else None


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


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
    temporary = target.with_name(f".{target.name}.{_HOST}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_ownerless(target)
        yield temporary
        if temporary.is_dir() and target.is_dir():
            shutil.rmtree(target)
        os.replace(temporary, target)
    except Exception as error:
        reason = _fault_of_disk(error, temporary)
        if reason is None:
            raise
        raise LaceError(
            f"'{target}' could not be written ({reason}): free space or choose another folder, then run the same "
            "command again."
        ) from error
    finally:
        remove_path(temporary)


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
        >>> import torch
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
    import torch

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
