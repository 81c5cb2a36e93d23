"""Files arrive whole and checked, or not at all, whatever servers, disks and signals do."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import random
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from lace_lightning import download as module
from lace_lightning.artifacts import read_json
from lace_lightning.download import CHUNK, download
from lace_lightning.errors import LaceError

from .servers import FileServer, serving

DATA = random.Random(0).randbytes(4 * CHUNK + 1234)
OTHER = random.Random(1).randbytes(len(DATA) - 1000)
SHA256 = hashlib.sha256(DATA).hexdigest()
# Processes that need not import anything.
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(DATA) as made:
        yield made


@pytest.fixture(autouse=True)
def direct(monkeypatch) -> None:
    monkeypatch.delenv("LACE_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def refused(*arguments, **options) -> str:
    with pytest.raises(LaceError) as caught:
        download(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_comes_once(server: FileServer, tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.pkl"
    assert download([server.url()], target, SHA256, len(DATA)) == SHA256
    assert target.read_bytes() == DATA
    assert names(target.parent) == {"file.pkl"}
    assert download([server.url()], target, SHA256) == SHA256
    assert (server.sent, server.requests) == ([len(DATA)], [None])


def test_a_file_on_this_disk_and_one_of_nothing(tmp_path: Path) -> None:
    for data in (DATA, b""):
        (tmp_path / "source").write_bytes(data)
        download([(tmp_path / "source").as_uri()], tmp_path / "copy", hashlib.sha256(data).hexdigest(), len(data))
        assert (tmp_path / "copy").read_bytes() == data
        (tmp_path / "copy").unlink()


def test_a_broken_line_is_taken_up_where_it_broke(server: FileServer, tmp_path: Path) -> None:
    server.cut_after = [CHUNK + 7, CHUNK]
    download([server.url()], tmp_path / "f", SHA256)
    assert (tmp_path / "f").read_bytes() == DATA
    assert server.requests == [None, f"bytes={CHUNK + 7}-", f"bytes={2 * CHUNK + 7}-"]
    assert sum(server.sent) == len(DATA)


def test_a_server_without_ranges_begins_again(server: FileServer, tmp_path: Path) -> None:
    server.cut_after, server.ranges = [CHUNK + 7], False
    download([server.url()], tmp_path / "f", SHA256)
    assert (tmp_path / "f").read_bytes() == DATA
    assert server.sent == [CHUNK + 7, len(DATA)]


@pytest.mark.parametrize("shorter", [False, True])
def test_a_file_that_changed_in_between_begins_again(server: FileServer, tmp_path: Path, shorter: bool) -> None:
    server.cut_after = [3 * CHUNK, 0]
    assert "ended after" in refused([server.url()], tmp_path / "f", None)
    assert (tmp_path / "f.part").stat().st_size == 3 * CHUNK
    server.data, server.etag = (OTHER[:CHUNK], '"1"') if shorter else (OTHER, '"2"')
    assert download([server.url()], tmp_path / "f", None) == hashlib.sha256(server.data).hexdigest()
    assert (tmp_path / "f").read_bytes() == server.data


def test_a_killed_download_goes_on_and_fetches_only_the_rest(server: FileServer, tmp_path: Path) -> None:
    server.data = random.Random(2).randbytes(24 * CHUNK)
    server.pause, sha256, target = 0.005, hashlib.sha256(server.data).hexdigest(), tmp_path / "f"
    process = FORK.Process(target=download, args=([server.url()], target, sha256))
    process.start()
    part = tmp_path / "f.part"
    while not (part.is_file() and part.stat().st_size > 4 * CHUNK):
        assert process.is_alive()
        time.sleep(0.002)
    process.kill()
    process.join()
    there = part.stat().st_size
    assert not target.exists()
    assert 4 * CHUNK < there < len(server.data)
    server.pause = 0.0
    assert download([server.url()], target, sha256) == sha256
    assert target.read_bytes() == server.data
    assert server.sent[-1] == len(server.data) - there
    assert names(tmp_path) == {"f"}


def test_a_whole_part_needs_no_server(server: FileServer, tmp_path: Path, monkeypatch) -> None:
    """Killed between the last byte and the name."""

    def killed(path: Path) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "file_sha256", killed)
        with pytest.raises(KeyboardInterrupt):
            download([server.url()], tmp_path / "f", SHA256)
    assert names(tmp_path) == {"f.part", "f.part.json"}
    server.status = 500
    assert download([server.url()], tmp_path / "f", SHA256) == SHA256


def test_two_processes_fetch_one_file_once(server: FileServer, tmp_path: Path) -> None:
    server.pause = 0.02
    processes = [FORK.Process(target=download, args=([server.url()], tmp_path / "f", SHA256)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "f").read_bytes() == DATA
    assert sum(server.sent) == len(DATA)


def test_a_wrong_checksum_leaves_nothing(server: FileServer, tmp_path: Path) -> None:
    server.data = OTHER
    message = refused([server.url()], tmp_path / "f", SHA256)
    assert SHA256 in message
    assert hashlib.sha256(OTHER).hexdigest() in message
    assert names(tmp_path) == set()
    server.data = DATA
    download([server.url()], tmp_path / "f", SHA256)
    assert server.requests == [None, None]
    (tmp_path / "f").write_bytes(OTHER)
    assert "delete it" in refused([server.url()], tmp_path / "f", SHA256)


def test_the_next_address_is_asked(server: FileServer, tmp_path: Path) -> None:
    with serving(OTHER) as wrong:
        wrong.cut_after = [CHUNK]
        urls = ["http://127.0.0.1:1/f", wrong.url(), server.url()]
        download(urls, tmp_path / "f", SHA256)
        assert (tmp_path / "f").read_bytes() == DATA
        (tmp_path / "f").unlink()
        message = refused(urls[:2], tmp_path / "f", SHA256)
    assert "could not be reached" in message
    assert hashlib.sha256(OTHER).hexdigest() in message
    assert str(tmp_path / "f") in message


def test_the_address_of_the_part_goes_first(server: FileServer, tmp_path: Path) -> None:
    with serving(DATA) as mirror:
        server.status, mirror.cut_after = 503, [2 * CHUNK, 0]
        assert "503" in refused([server.url(), mirror.url()], tmp_path / "f", SHA256)
        server.status = 200
        download([server.url(), mirror.url()], tmp_path / "f", SHA256)
        assert (sum(server.sent), sum(mirror.sent)) == (0, len(DATA))


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"status": 404}, {}, "404"),
        ({"cut_after": [CHUNK, 0]}, {}, "ended after 262,144 of"),
        ({"length": False}, {"sha256": None}, "how large"),
        ({"kind": "text/html; charset=utf-8"}, {}, "web page"),
        ({}, {"size": 17}, "where 17 are required"),
        ({}, {"largest": 1000}, "at most 1,000"),
        ({"length": False}, {"largest": CHUNK}, "more than the 262,144 bytes"),
        ({"location": "file:///etc/hostname"}, {}, "is not allowed"),
        ({"location": "ftp://127.0.0.1/f"}, {}, "is not https"),
    ],
)
def test_bad_servers_are_refused_in_a_sentence(
    server: FileServer, tmp_path: Path, changes: dict, options: dict, words: str
) -> None:
    vars(server).update(changes)
    sha256 = options.pop("sha256", SHA256)
    message = refused([server.url()], tmp_path / "f", sha256, **options)
    assert words in message
    assert "by hand" in message
    assert not (tmp_path / "f").exists()
    if words != "ended after 262,144 of":
        assert names(tmp_path) == set()


def test_a_redirection_and_an_unknown_size_are_followed(server: FileServer, tmp_path: Path) -> None:
    with serving(b"") as first:
        first.location, server.cut_after = server.url(), [CHUNK]
        download([first.url()], tmp_path / "f", SHA256)
        assert server.requests == first.requests == [None, f"bytes={CHUNK}-"]
        server.length = False
        download([first.url()], tmp_path / "g", SHA256)
    assert (tmp_path / "f").read_bytes() == (tmp_path / "g").read_bytes() == DATA


def test_a_server_that_breaks_off_for_ever_is_given_up(server: FileServer, tmp_path: Path) -> None:
    server.ranges, server.cut_after = False, [10] * 100
    assert "too often" in refused([server.url()], tmp_path / "f", SHA256)
    assert len(server.requests) == module.ATTEMPTS


def test_offline_says_where_to_put_the_file(server: FileServer, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LACE_OFFLINE", "1")
    message = refused([server.url()], tmp_path / "f", SHA256)
    assert str(tmp_path / "f") in message
    assert server.url() in message
    assert server.requests == []
    (tmp_path / "f").write_bytes(DATA)
    assert download([server.url()], tmp_path / "f", SHA256) == SHA256


def test_a_full_disk_is_seen_before_and_while_writing(server: FileServer, tmp_path: Path, monkeypatch) -> None:
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "disk_usage", lambda _: usage(100, 0, len(DATA) - 1))
        assert "the disk has" in refused([server.url()], tmp_path / "f", SHA256)

    class Full:
        def __init__(self, path: Path, mode: str) -> None:
            self.stream = open(path, mode)  # noqa: SIM115

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_) -> None:
            self.stream.close()

        def write(self, piece: bytes) -> None:
            if self.stream.tell() > CHUNK:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.stream.write(piece)

    with monkeypatch.context() as patch:
        patch.setattr(
            module, "open", lambda path, mode: (Full if path.suffix == ".part" else open)(path, mode), raising=False
        )
        assert "No space left" in refused([server.url()], tmp_path / "f", SHA256)
    assert read_json(tmp_path / "f.part.json")["size"] == len(DATA)
    there = (tmp_path / "f.part").stat().st_size
    assert there == 2 * CHUNK
    download([server.url()], tmp_path / "f", SHA256)
    assert server.sent[-1] == len(DATA) - there


def test_other_kinds_of_addresses_are_refused(tmp_path: Path) -> None:
    for url in ("ftp://example.org/f", "f.pkl", "data:,x"):
        assert "https, http or file" in refused([url], tmp_path / "f", SHA256)
    (tmp_path / "file").write_text("")
    assert "must be writable" in refused(["http://127.0.0.1:1/f"], tmp_path / "file" / "f", SHA256)
