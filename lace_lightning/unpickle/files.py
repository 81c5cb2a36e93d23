"""File formats: pickles, archives of torch.save, and the format of torch.save before 1.6."""

from __future__ import annotations

import io
import os
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from ..errors import LaceError
from . import arrays, containers, tensors
from .machine import Machine, Stream
from .tensors import Storage, identified_storage
from .values import AGAIN, Budget, Name, Names, Refused

_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# Files that are often saved in place of the wanted one, by their first bytes.
_INSTEAD = (
    (re.compile(rb"(?:\xef\xbb\xbf)?\s*(<[!?]?\w{1,20})"), "a web page was saved instead of the file", AGAIN),
    (
        re.compile(rb"(version https://git-lfs)"),
        "a Git LFS pointer was saved instead of the file",
        "run git lfs pull, or " + AGAIN,
    ),
)


def is_safetensors(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is to be read as safetensors.

    Args:
        path: the file. It is one where it begins with a length and a JSON table, or where it has the ending
            .safetensors and does not begin as a pickle or an archive does.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError:
        head = b""
    # The first bytes of protocols from 2 are an opcode and its version; the first length of a table is far smaller.
    is_other = head[:2] in (b"PK", *(bytes([0x80, protocol]) for protocol in range(2, 6)))
    has_table = len(head) == 9 and head[8:] == b"{" and head[5:8] == b"\0\0\0"
    return has_table or (str(path).endswith(".safetensors") and not is_other)


@contextmanager
def opened(path: str | os.PathLike[str], kind: str) -> Iterator[tuple[IO[bytes], int]]:
    """Open a file, and turn every error until it is closed into a LaceError of one sentence.

    Args:
        path: the file.
        kind: the required kind of file in words, for the sentence.

    Returns:
        A context manager that yields the open file and its size in bytes.

    Raises:
        LaceError: when the file does not exist, is empty, a web page or a Git LFS pointer, and for every error that
            occurs inside of the context.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = open(f"{folder}/a.pkl", "wb").write(b"N.")
        ...     with opened(f"{folder}/a.pkl", "a pickle") as (file, size):
        ...         size
        2
    """
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        reason = f"cannot be opened ({error.strerror})"
        if isinstance(error, FileNotFoundError):
            reason = "does not exist"
            if not os.path.isabs(path):
                reason += f" (looked for in {os.getcwd()})"
        raise LaceError(f"The file '{path}' was required and {reason}: check the path.") from error
    with file:
        try:
            head = file.read(512)
            file.seek(0)
            if not head:
                raise Refused("it is empty", AGAIN)
            if head[257:262] == b"ustar":
                raise Refused("it is a tar archive", "unpack it and give the file inside")
            if head[:2] == b"\x1f\x8b":
                raise Refused("it is compressed by gzip", "unpack it and give the file inside")
            for beginning, instead, fix in _INSTEAD:
                if (match := beginning.match(head)) is not None:
                    raise Refused(f"the file begins with {match[1].decode()}: {instead}", fix)
            yield file, os.fstat(file.fileno()).st_size
        except Refused as refused:
            raise LaceError(f"The file '{path}' must be {kind}, and {refused.reason}: {refused.fix}.") from None
        except Exception as error:
            # Damage causes errors of many types (an empty stack, half a number, no UTF-8), which have one meaning.
            raise LaceError(
                f"The file '{path}' must be {kind}, and it is damaged or something else ({type(error).__name__}): "
                "get it again."
            ) from None


def read(file: IO[bytes], size: int, budget: Budget, advance: Callable[[int], object]) -> Any:
    """Return the content of a pickle or a PyTorch checkpoint as data.

    Args:
        file: the open file, at its start.
        size: its size in bytes.
        budget: limits of instructions and memory.
        advance: is called with the number of bytes after each read.

    Returns:
        Plain containers, arrays, tensors and records.

    Raises:
        Refused: for content that is not allowed, or needs more than the budget. A damaged file may raise any exception.

    Example:
        >>> import pickle
        >>> data = pickle.dumps([1, 2.5])
        >>> read(io.BytesIO(data), len(data), Budget(opcodes=100, memory=1000), lambda count: None)
        [1, 2.5]
    """
    if zipfile.is_zipfile(file):
        return _read_zip(file, budget, advance)
    file.seek(0)
    head = file.read(len(_LEGACY_MAGIC))
    file.seek(0)
    if head.startswith(b"PK\x03\x04"):  # an archive's table is at its end
        raise Refused("it ends in the middle", AGAIN)
    stream = Stream(file, size, advance)
    return _read_legacy(stream, budget) if head == _LEGACY_MAGIC else Machine(_NAMES, budget).run(stream)


def _read_legacy(stream: Stream, budget: Budget) -> Any:
    """Return the content of a file of torch.save before 1.6.

    The file consists of a magic number, version, machine, the object, the keys of its storages and their numbers. The
    numbers come after the object, which is read once to find its storages and once more with their numbers.
    """
    found: dict[str, Storage] = {}

    def learn(identifier: Any) -> Storage:
        key, dtype, count = identified_storage(identifier)
        if len(identifier) > 5 and identifier[5] is not None:
            raise Refused("it has a view of a storage, which PyTorch 0.3 wrote")
        return found.setdefault(key, Storage(dtype, count))

    def run(budget: Budget, persistent: Callable[[Any], Storage] | None = None) -> Any:
        return Machine(_INNER, budget, persistent).run(stream)

    if run(budget) != 0x1950A86A20F9469CFC6C:
        raise Refused("one of its storages does not begin with the magic number of PyTorch")
    for _ in range(2):
        run(budget)
    start = stream.position
    run(Budget(budget.opcodes, budget.memory), learn)
    keys = run(budget)
    if not isinstance(keys, list):
        raise Refused("the list of its storages is missing")
    for key in keys:
        storage = found.get(str(key) if isinstance(key, (str, int)) else "")
        if storage is None:
            raise Refused("it has a storage that nothing refers to")
        (count,) = struct.unpack("<q", stream.read(8))
        size = count * storage.dtype.itemsize
        if storage.data is not None or count != storage.count:
            raise Refused("a storage is shorter than it says")
        # A copy: in the file, numbers lie at odd addresses.
        storage.data = stream.read(size)
        budget.spend(size)
    if any(storage.data is None for storage in found.values()):
        raise Refused("the numbers of a storage are missing")
    stream.seek(start)
    return run(budget, lambda identifier: found[identified_storage(identifier)[0]])


def _read_zip(file: IO[bytes], budget: Budget, advance: Callable[[int], object]) -> Any:
    """Return the content of a file of torch.save since 1.6: a ZIP archive of `data.pkl` and `data/<key>`."""
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        roots = [name for name in members if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(roots) != 1:
            raise Refused("it is a ZIP archive that PyTorch did not write", "unpack it and give the file inside")
        root, known = roots[0].removesuffix("data.pkl"), {}

        def member(name: str) -> bytes:
            info = members.get(name)
            if info is None:
                raise Refused("the numbers of a storage are missing")
            if info.compress_type != zipfile.ZIP_STORED:
                raise Refused("it is a compressed archive, which PyTorch does not write")
            budget.spend(info.file_size)
            raw = archive.read(info)
            advance(len(raw))
            return raw

        if f"{root}byteorder" in members and member(f"{root}byteorder") != b"little":
            raise Refused("its numbers are big-endian")

        def load(identifier: Any) -> Storage:
            key, dtype, count = identified_storage(identifier)
            if key not in known:
                raw = member(f"{root}data/{key}")
                if len(raw) < count * dtype.itemsize:
                    raise Refused("a storage is shorter than it says")
                known[key] = Storage(dtype, count, raw)
            return known[key]

        raw = member(roots[0])
        return Machine(_NAMES, budget, load).run(Stream(io.BytesIO(raw), len(raw)))


def _storage_from_bytes(machine: Machine, raw: Any) -> Any:
    """Return a storage that was saved into bytes inside of a pickle."""
    if not isinstance(raw, bytes):
        raise Refused("it has a storage without bytes")
    return _read_legacy(Stream(io.BytesIO(raw), len(raw)), machine.budget)


# Names in storages inside of a pickle and in files before 1.6, which contain no further pickles.
_INNER = containers.NAMES | arrays.NAMES | tensors.NAMES
_NAMES = _INNER | Names({Name("torch.storage", "_load_from_bytes"): _storage_from_bytes})
