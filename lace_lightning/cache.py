"""The cache: folders by the digest of everything that their content depends on, with locks and checksums."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .artifacts import atomic_path, check_writable, digest, known_sha256, remove_path, write_json
from .errors import LaceError

# Seconds between two messages of a process that waits for another.
REMIND = 60.0
IDENTITY = "identity.json"
LOCK, OWNER = ".lock", ".owner"
SUM = ".sha256"


def cache_folder() -> Path:
    """Return the folder of the cache: LACE_CACHE, by default ~/.cache/lace_lightning."""
    return Path(os.environ.get("LACE_CACHE") or "~/.cache/lace_lightning").expanduser()


def sum_file(path: Path) -> Path:
    """Return the file that holds the checksum of a file, in the format of `sha256sum`.

    Args:
        path: the file.

    Example:
        >>> sum_file(Path("pairs/z.npy")).name
        'z.npy.sha256'
    """
    return path.with_name(path.name + SUM)


@contextmanager
def sealed_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name, which becomes a file with its checksum beside it on success and is removed on failure.

    Args:
        path: the file that is to be written.

    Returns:
        A context manager that yields the temporary name.

    Raises:
        LaceError: when the disk is full or not writable.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with sealed_path(f"{folder}/a.txt") as temporary:
        ...         _ = temporary.write_text("whole")
        ...     is_whole(f"{folder}/a.txt")
        True
    """
    target = Path(path)
    with atomic_path(target) as temporary:
        yield temporary
        text = f"{known_sha256(temporary)}  {target.name}\n"
        # A process that is killed here leaves no file, or a file with its checksum.
        target.unlink(missing_ok=True)
        with atomic_path(sum_file(target)) as beside:
            beside.write_text(text, encoding="utf-8")


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Return whether a file has the checksum that `sealed_path` kept; each file is read once in a process.

    Args:
        path: the file.

    Returns:
        False where the file or its checksum is missing, and, with a warning, where the two differ.

    Example:
        >>> is_whole("missing.txt")
        False
    """
    path = Path(path)
    if not path.is_file():
        return False
    try:
        required = sum_file(path).read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False
    try:
        received = known_sha256(path)
    except OSError as error:
        received = f"unreadable ({error.strerror})"
    if required != [received, path.name]:
        warnings.warn(
            f"'{path}' is damaged: its checksum must be {required[0][:16] if required else 'there'} and is "
            f"{received[:16]}. It is not used.",
            stacklevel=2,
        )
        return False
    return True


def remove_sealed(path: Path) -> None:
    """Remove a file and its checksum, where they are there.

    Args:
        path: the file.
    """
    sum_file(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


@contextmanager
def locked(folder: str | os.PathLike[str], title: str, waits: bool = True) -> Iterator[None]:
    """Let one process at a time work in a folder; others wait, say for which one, and go on when it ends or dies.

    The lock is one of the operating system where the folder's file system has these, and ends with the process. On
    other file systems it is a file with the process in it, which processes of the same machine remove after its death.

    Args:
        folder: the folder, which is created if needed.
        title: name of what is made there, for messages.
        waits: whether a process waits for another; False refuses.

    Returns:
        A context manager around the work.

    Raises:
        LaceError: when the folder cannot be written, and when another process has it and `waits` is False.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, locked(folder, "pairs"):
        ...     json.loads((Path(folder) / OWNER).read_text())["pid"] == os.getpid()
        True
    """
    from filelock import FileLock, SoftFileLock, Timeout

    path = check_writable(folder)
    lock: Any = FileLock(str(path / LOCK))
    started = time.monotonic()
    wait = 0.0
    while True:
        try:
            lock.acquire(timeout=wait)
            break
        except NotImplementedError:
            lock = SoftFileLock(str(path / LOCK))
        except Timeout:
            if not waits:
                raise LaceError(
                    f"The folder '{path}' is used by {_owner(path)}: choose another folder, or wait for its end."
                ) from None
            _say_waiting(path, title, time.monotonic() - started)
            wait = REMIND
    try:
        for left in path.rglob(".*.tmp"):
            # Only the owner of the lock writes here: these are of processes that were killed.
            remove_path(left)
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%H:%M:%S"), "title": title}
        with suppress(OSError):
            (path / OWNER).write_text(json.dumps(owner), encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            (path / OWNER).unlink(missing_ok=True)
        lock.release()


def _owner(path: Path) -> str:
    """Return, in words, which process has a folder."""
    try:
        owner = json.loads((path / OWNER).read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}, which began at {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _say_waiting(path: Path, title: str, seconds: float) -> None:
    waited = f" ({seconds:.0f} s so far)" if seconds > 1 else ""
    print(f"waiting for {title}, made by {_owner(path)}{waited}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Entry:
    """One folder of the cache.

    Args:
        folder: the folder.
        kind: kind of what is kept, such as `pairs`.
        identity: nested plain values that the content depends on.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     entry = Cache(root).entry("text", {"seed": 1})
        ...     file = entry.file("a.txt", lambda path: path.write_text("made once"))
        ...     entry.file("a.txt", lambda path: 1 / 0).read_text()
        'made once'
    """

    folder: Path
    kind: str
    identity: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The digest of the identity."""
        return self.folder.name

    def has(self, name: str) -> bool:
        """Return whether a file is there and has its checksum."""
        return is_whole(self.folder / name)

    @contextmanager
    def making(self, title: str = "") -> Iterator[None]:
        """Hold the folder alone, and keep beside the content what it depends on."""
        with locked(self.folder, title or self.kind):
            self.describe()
            yield

    def describe(self) -> None:
        """Keep beside the content what it depends on, when it was made and by which command, for people to read."""
        if not (self.folder / IDENTITY).is_file():
            write_json(self.folder / IDENTITY, _described(self))

    def file(self, name: str, make: Callable[[Path], object], title: str = "") -> Path:
        """Return a file, and make it where it is missing or damaged.

        Args:
            name: name of the file.
            make: writes the file at the path that it is given.
            title: name of it for messages.

        Returns:
            The path of the file, which has the right checksum.

        Raises:
            LaceError: when it cannot be written.
        """
        path = self.folder / name
        if is_whole(path):
            return path
        with self.making(title):
            if not is_whole(path):
                with sealed_path(path) as temporary:
                    make(temporary)
        return path

    def why(self) -> str:
        """Return, in words, how the most similar entry of the same kind differs; empty where there is no other."""
        best: tuple[int, str, list[str]] | None = None
        mine = flat(_plain(self.identity))
        for other, known in _identities(self.folder.parent):
            if other == self.folder:
                continue
            theirs = flat(known["identity"])
            changed = [
                f"{key} ({_short(theirs.get(key, 'none'))} there, {_short(mine.get(key, 'none'))} here)"
                for key in sorted(mine.keys() | theirs.keys())
                if mine.get(key) != theirs.get(key)
            ]
            if best is None or len(changed) < best[0]:
                best = len(changed), other.name, changed
        if best is None:
            return ""
        count, name, changed = best
        more = f" and {count - 3} more" if count > 3 else ""
        return f"the most similar one, {name}, differs in {', '.join(changed[:3])}{more}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _plain(node: Any) -> Any:
    """Return the values as JSON holds them."""
    return json.loads(json.dumps(node, default=str, sort_keys=True))


def _described(entry: Entry) -> dict[str, Any]:
    from . import __version__

    return {
        "kind": entry.kind,
        "identity": _plain(entry.identity),
        "made": time.strftime("%Y-%m-%d %H:%M:%S"),
        "version": __version__,
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:2000],
    }


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings and lists as one mapping with dotted keys.

    Args:
        node: nested plain values.
        prefix: text before every key.

    Example:
        >>> flat({"a": {"b": 1}, "c": [2]})
        {'a.b': 1, 'c.0': 2}
    """
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else None
    if items is None:
        return {prefix.removesuffix("."): node}
    found: dict[str, Any] = {}
    for key, value in items:
        found.update(flat(value, f"{prefix}{key}."))
    return found


def _identities(folder: Path, most: int = 200) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the entries of a kind with their identities, the newest first."""
    files = list(folder.glob(f"*/{IDENTITY}"))
    for file in sorted(files, key=lambda path: -path.stat().st_mtime)[:most]:
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(known, dict) and "identity" in known:
            yield file.parent, known


@dataclass(frozen=True)
class Stored:
    """What the cache says of one of its folders.

    Args:
        folder: the folder.
        kind: kind of what is kept.
        size: bytes of its files.
        changed: time of the last change, in seconds since the epoch.
        command: the command that made it; empty where it is not known.

    Example:
        >>> Stored(Path("pairs/0123"), "pairs", 100, 0.0, "").key
        '0123'
    """

    folder: Path
    kind: str
    size: int
    changed: float
    command: str

    @property
    def key(self) -> str:
        """The digest that the folder is named by."""
        return self.folder.name


class Cache:
    """Cache of folders by the digest of everything that their content depends on: `root/kind/key`.

    Args:
        root: folder of the cache; `~` is the user's.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     entry = Cache(root).entry("pairs", {"seed": 1})
        ...     entry.key == Cache(root).entry("pairs", {"seed": 1.0}).key, entry.folder.parent.name
        (True, 'pairs')
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).expanduser()

    def entry(self, kind: str, identity: Mapping[str, Any]) -> Entry:
        """Return the entry of an identity; its folder is created when something is made there.

        Args:
            kind: kind of what is kept, such as `pairs`.
            identity: nested plain values, arrays, tensors or modules that the content depends on.
        """
        return Entry(self.root / kind / digest(identity), kind, identity)

    def stored(self) -> list[Stored]:
        """Return what there is, sorted by kind and age."""
        found = []
        for folder in sorted(self.root.glob("*/*/")) if self.root.is_dir() else []:
            files = [path for path in folder.rglob("*") if path.is_file()]
            if not files:
                continue
            described: dict[str, Any] = {}
            with suppress(OSError, ValueError):
                described = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
            changed = max(path.stat().st_mtime for path in files)
            size = sum(path.stat().st_size for path in files)
            found.append(Stored(folder, folder.parent.name, size, changed, str(described.get("command", ""))))
        return sorted(found, key=lambda entry: (entry.kind, -entry.changed))

    def remove(self, entry: Stored) -> None:
        """Remove an entry, unless another process makes it.

        Args:
            entry: one of `stored`.

        Raises:
            LaceError: when another process makes it.
        """
        with locked(entry.folder, entry.kind, waits=False):
            for path in entry.folder.iterdir():
                if path.name != LOCK:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        remove_path(entry.folder)

    def __repr__(self) -> str:
        return f"Cache({str(self.root)!r})"
