"""Files from elsewhere: resumed where they stopped, checked before they get their name."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from tqdm import tqdm

from .artifacts import check_writable, file_sha256, read_json, write_json
from .errors import LaceError

# What a file of unknown size may have, and what is read at a time.
LARGEST = 2 << 30
CHUNK = 1 << 18
TIMEOUT = 30.0
# How often one address is asked to go on after it stopped in the middle.
ATTEMPTS = 20


class _Refused(Exception):
    """Why one address did not give the file; the next one may."""


class _Redirects(request.HTTPRedirectHandler):
    def redirect_request(
        self, req: request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> request.Request | None:
        """Follow to https, and to http only from http."""
        if urlsplit(newurl).scheme not in ("https", req.type):
            raise URLError(f"it leads to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> request.OpenerDirector:
    """Return what opens https, http and file addresses, and no others."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.FileHandler,
        request.UnknownHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPErrorProcessor,
        _Redirects,
    ):
        opener.add_handler(handler())
    return opener


class _Part:
    """What has come so far, `<name>.part`, and beside it (`<name>.part.json`) what its source said of the file."""

    def __init__(self, target: Path) -> None:
        self.path, self.note = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json")
        self.said: dict[str, Any] = read_json(self.note) if self.note.is_file() else {}

    @property
    def count(self) -> int:
        """The number of bytes that are there and whose source is known."""
        return self.path.stat().st_size if self.said and self.path.is_file() else 0

    def begin(self, said: dict[str, Any]) -> None:
        """Start anew with what the source says now."""
        self.remove()
        write_json(self.note, said)
        self.said = said

    def remove(self) -> None:
        for path in (self.path, self.note):
            path.unlink(missing_ok=True)
        self.said = {}


def download(
    urls: Sequence[str],
    target: str | os.PathLike[str],
    sha256: str | None,
    size: int | None = None,
    largest: int = LARGEST,
) -> str:
    """Fetch `target`, where it is not there yet, from the first of `urls` (https, http, file) that gives it, and return
    its sha256.

    What a killed call left is gone on with. `size` is the exact number of bytes, `largest` the bound where that is not
    known; without `sha256` the file is taken as it is, and the caller has to keep what is returned. Raises LaceError
    for a file that cannot be had, that is not the required one or that does not fit on the disk, and for a missing one
    where LACE_OFFLINE is set.
    """
    target = Path(target)
    for url in urls:
        if urlsplit(url).scheme not in ("https", "http", "file"):
            raise LaceError(f"The address of a file must begin with https, http or file, received '{url}'.")
    if not target.is_file():
        if os.environ.get("LACE_OFFLINE", "0") not in ("", "0"):
            raise LaceError(
                f"The file '{target.name}' is needed and LACE_OFFLINE forbids to download it: get {urls[0]} elsewhere "
                f"and put "
                f"it at '{target}', or unset LACE_OFFLINE."
            )
        check_writable(target.parent)
        try:
            with _one_at_a_time(target):
                if not target.is_file():  # otherwise another process has been faster
                    return _fetch(urls, target, sha256, size, largest)
        except OSError as error:
            raise LaceError(
                f"'{target}' could not be written ({error.strerror or error}): free space or choose another folder "
                "(LACE_CACHE), then run the same command again."
            ) from error
    received = file_sha256(target)
    if sha256 is not None and received != sha256:
        raise LaceError(
            f"The file '{target}' must have the sha256 {sha256} and has {received}: delete it and run the same command "
            f"again."
        )
    return received


@contextmanager
def _one_at_a_time(target: Path) -> Iterator[None]:
    """Let one process at a time fetch `target`; the system ends the lock with the process, however that ends."""
    with open(target.with_name(f".{target.name}.lock"), "a", encoding="utf-8") as stream:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(stream.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"waiting for another process that downloads {target.name}", file=sys.stderr)
                fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _fetch(urls: Sequence[str], target: Path, sha256: str | None, size: int | None, largest: int) -> str:
    part, reasons = _Part(target), []
    # The address that the part is from goes first.
    for url in sorted(urls, key=lambda url: url != part.said.get("url")):
        try:
            for _ in range(ATTEMPTS):
                if _receive(url, part, sha256 is not None, size, largest):
                    break
            else:
                raise _Refused(f"{url} ended too often, after {part.count:,} bytes at last")
            received = file_sha256(part.path)
            if sha256 is not None and received != sha256:
                part.remove()
                raise _Refused(f"{url} gave a file with the sha256 {received} where {sha256} is required")
            os.replace(part.path, target)
            part.remove()
            return received
        except _Refused as reason:
            reasons.append(str(reason))
    raise LaceError(
        f"The file '{target.name}' could not be downloaded, because {', and '.join(reasons)}: run the same command "
        f"again, "
        f"which goes on where it stopped, or put the file at '{target}' by hand."
    )


def _receive(url: str, part: _Part, checked: bool, size: int | None, largest: int) -> bool:
    """Ask once for what is missing and append it; return whether the file is whole. Raises _Refused where asking again
    is of no use.
    """
    count = part.count if part.said.get("url") == url else 0
    if count and count == part.said["size"]:
        return True
    asked = request.Request(url, headers={"User-Agent": "lace_lightning"})
    if count:
        asked.add_header("Range", f"bytes={count}-")
    try:
        response = _opener().open(asked, timeout=TIMEOUT)
    except HTTPError as error:
        if count and error.code == 416:  # the file has become shorter than what is here
            part.remove()
            return False
        raise _Refused(f"{url} answered {error.code} {error.reason}") from None
    except (OSError, HTTPException) as error:
        raise _Refused(f"{url} could not be reached ({getattr(error, 'reason', error)})") from None
    with response:
        headers = response.headers
        start, total = _range(headers) if response.status == 206 else (0, headers.get("Content-Length"))
        said = {
            "url": url,
            "etag": headers.get("ETag"),
            "modified": headers.get("Last-Modified"),
            "size": int(total) if total and total.isdigit() else None,
        }
        if start and (start != count or said != part.said):  # the rest of another file
            part.remove()
            return False
        _check(url, said["size"], headers, checked, size, largest)
        if not start:
            part.begin(said)
        return _append(url, response, part, start, size or largest)


def _range(headers: HTTPMessage) -> tuple[int, str | None]:
    """Return (first byte, size of the whole file) of an answer in part."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
    return (int(match[1]), None if match[2] == "*" else match[2]) if match else (-1, None)


def _check(url: str, total: int | None, headers: HTTPMessage, checked: bool, size: int | None, largest: int) -> None:
    """Refuse, before anything is written, what cannot be the file."""
    if headers.get_content_type() == "text/html":
        raise _Refused(f"{url} answered with a web page")
    if total is None and not checked:
        raise _Refused(
            f"{url} does not say how large the file is, and without a checksum nobody would see that the end is missing"
        )
    if total is not None and size is not None and total != size:
        raise _Refused(f"{url} announces {total:,} bytes where {size:,} are required")
    if total is not None and total > (size or largest):
        raise _Refused(f"{url} announces {total:,} bytes where at most {largest:,} are expected")


def _append(url: str, response: Any, part: _Part, start: int, most: int) -> bool:
    """Write what comes behind the first `start` bytes; return whether the file is whole."""
    total: int | None = part.said["size"]
    free = shutil.disk_usage(part.path.parent).free
    if total is not None and total - start > free:
        raise LaceError(
            f"'{part.path}' needs {total - start:,} more bytes and the disk has {free:,}: free space or choose another "
            f"folder "
            "(LACE_CACHE), then run the same command again."
        )
    count, cut = start, False
    with (
        open(part.path, "ab" if start else "wb") as stream,
        tqdm(
            total=total, initial=start, unit="B", unit_scale=True, desc=part.path.stem, leave=False, mininterval=1
        ) as bar,
    ):
        while True:
            try:
                piece = response.read(CHUNK)
            except (OSError, HTTPException):
                cut = True
                break
            if not piece:
                break
            count += len(piece)
            if count > most:
                part.remove()
                raise _Refused(f"{url} sends more than the {most:,} bytes that are expected")
            stream.write(piece)
            bar.update(len(piece))
    if not cut and total in (None, count):
        return True
    if count == start:
        raise _Refused(
            f"{url} ended after {count:,} of {'an unknown number of' if total is None else f'{total:,}'} bytes"
        )
    return False
