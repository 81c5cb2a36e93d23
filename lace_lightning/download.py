"""Downloads that are resumed after an interruption and verified before they get their name."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from .artifacts import check_writable, file_sha256, read_json, write_json
from .cache import locked
from .errors import LaceError
from .progress import byte_bar

# The most bytes of a file of unknown size, and the bytes that are read at a time.
LARGEST = 2 << 30
CHUNK = 1 << 18
TIMEOUT = 30.0
# The most requests to one address, each of which resumes the one before.
ATTEMPTS = 20


class _RefusedError(Exception):
    """The reason for which one address did not give the file; the next address is tried."""


class _Redirects(request.HTTPRedirectHandler):
    def redirect_request(
        self, req: request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> request.Request | None:
        """Follow to https, and to http only from http."""
        if urlsplit(newurl).scheme not in ("https", req.type):
            raise URLError(f"it leads to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> request.OpenerDirector:
    """Return an opener of https, http and file addresses, which refuses others."""
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
    """The bytes received so far, `<name>.part`, beside `<name>.part.json` with the headers of their source."""

    def __init__(self, target: Path) -> None:
        self.path, self.note = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json")
        self.said: dict[str, Any] = read_json(self.note) if self.note.is_file() else {}

    @property
    def count(self) -> int:
        """The number of bytes received from a known source."""
        return self.path.stat().st_size if self.said and self.path.is_file() else 0

    def begin(self, said: dict[str, Any]) -> None:
        """Discard the bytes and record the headers of a new answer."""
        self.remove()
        write_json(self.note, said)
        self.said = said

    def remove(self) -> None:
        """Delete both files."""
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
    """Download a file from the first address that gives it, unless the file exists, and return its sha256.

    A download that was interrupted is resumed where it stopped. One process at a time downloads a file; others wait.

    Args:
        urls: addresses of the same file (https, http or file), tried in this order. The address of an interrupted
            download goes first.
        target: path of the file. It appears under this name when it is complete and has the required checksum.
        sha256: required checksum, 64 lowercase hexadecimal digits. None accepts any content; the caller then has to
            keep the returned checksum.
        size: exact size in bytes; None where it is unknown.
        largest: the most bytes that are accepted where `size` is None.

    Returns:
        The sha256 of the file, 64 hexadecimal digits.

    Raises:
        LaceError: for an address of another kind, a file that no address gives, a file with another checksum or size,
            a disk without room for it, a folder that is not writable, and a missing file where LACE_OFFLINE is set.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     source = Path(folder, "source")
        ...     _ = source.write_bytes(b"data")
        ...     received = download([source.as_uri()], Path(folder, "copy"), None, size=4)
        ...     received == file_sha256(Path(folder, "copy"))
        True
    """
    target = Path(target)
    for url in urls:
        if urlsplit(url).scheme not in ("https", "http", "file"):
            raise LaceError(
                f"The address of a file must begin with https, http or file, received '{url}': correct the address."
            )
    if not target.is_file():
        if os.environ.get("LACE_OFFLINE", "0") not in ("", "0"):
            raise LaceError(
                f"The file '{target.name}' is needed and LACE_OFFLINE forbids to download it: get {urls[0]} elsewhere "
                f"and put it at '{target}', or unset LACE_OFFLINE."
            )
        check_writable(target.parent)
        try:
            with locked(target.parent, f"the download of {target.name}"):
                if not target.is_file():  # otherwise another process downloaded it while this one waited
                    return _fetch(urls, target, sha256, size, largest)
        except OSError as error:
            raise LaceError(
                f"'{target}' could not be written ({error.strerror or error}): free space or choose another folder "
                "(LACE_CACHE), then run the same command again."
            ) from error
    # A process that was killed after the last byte leaves its notes.
    _Part(target).remove()
    received = file_sha256(target)
    if sha256 is not None and received != sha256:
        raise LaceError(
            f"The file '{target}' must have the sha256 {sha256} and has {received}: delete it and run the same "
            "command again."
        )
    return received


def _fetch(urls: Sequence[str], target: Path, sha256: str | None, size: int | None, largest: int) -> str:
    part, reasons = _Part(target), []
    # The address that the part is from goes first.
    for url in sorted(urls, key=lambda url: url != part.said.get("url")):
        try:
            for _ in range(ATTEMPTS):
                if _receive(url, part, sha256 is not None, size, largest):
                    break
            else:
                raise _RefusedError(f"{url} ended too often, after {part.count:,} bytes at last")
            received = file_sha256(part.path)
            if sha256 is not None and received != sha256:
                part.remove()
                raise _RefusedError(f"{url} gave a file with the sha256 {received} where {sha256} is required")
            os.replace(part.path, target)
            part.remove()
            return received
        except _RefusedError as reason:
            reasons.append(str(reason))
    raise LaceError(
        f"The file '{target.name}' could not be downloaded, because {', and '.join(reasons)}: run the same command "
        f"again, which resumes the download, or put the file at '{target}' by hand."
    )


def _receive(url: str, part: _Part, checked: bool, size: int | None, largest: int) -> bool:
    """Request the missing bytes once and append them; return whether the file is whole.

    Raises _RefusedError where another request to this address would fail as well.
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
        if count and error.code == 416:  # the file at the address is now shorter than the received bytes
            part.remove()
            return False
        raise _RefusedError(f"{url} answered {error.code} {error.reason}") from None
    except (OSError, HTTPException) as error:
        raise _RefusedError(f"{url} could not be reached ({getattr(error, 'reason', error)})") from None
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
    """Refuse an answer that cannot be the file, before anything is written."""
    if headers.get_content_type() == "text/html":
        raise _RefusedError(f"{url} answered with a web page")
    if total is None and not checked:
        raise _RefusedError(
            f"{url} does not say how large the file is, and without a checksum a missing end would not be noticed"
        )
    if total is not None and size is not None and total != size:
        raise _RefusedError(f"{url} announces {total:,} bytes where {size:,} are required")
    if total is not None and total > (size or largest):
        raise _RefusedError(f"{url} announces {total:,} bytes where at most {largest:,} are expected")


def _append(url: str, response: Any, part: _Part, start: int, most: int) -> bool:
    """Append the bytes of the answer behind the first `start` bytes; return whether the file is whole."""
    total: int | None = part.said["size"]
    free = shutil.disk_usage(part.path.parent).free
    if total is not None and total - start > free:
        raise LaceError(
            f"'{part.path}' needs {total - start:,} more bytes and the disk has {free:,}: free space or choose another "
            "folder (LACE_CACHE), then run the same command again."
        )
    count, cut = start, False
    with (
        open(part.path, "ab" if start else "wb") as stream,
        byte_bar(f"downloading {part.path.stem}", total, start) as bar,
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
                raise _RefusedError(f"{url} sends more than the {most:,} bytes that are expected")
            stream.write(piece)
            bar.update(len(piece))
    if not cut and total in (None, count):
        return True
    if count == start:
        raise _RefusedError(
            f"{url} ended after {count:,} of {'an unknown number of' if total is None else f'{total:,}'} bytes"
        )
    return False
