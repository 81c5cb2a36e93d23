"""The server of the page: what it gives, whom it refuses, and that visitors wait for each other and do not mix."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lace_lightning import cli
from lace_lightning.demo.server import PageServer
from lace_lightning.demo.turns import Turns
from lace_lightning.errors import LaceError

from .serving import serving

SETTINGS = {"query": "smile == yes", "seeds": "0-3", "strength": 6, "method": "lace_heun"}


@pytest.fixture(scope="module")
def server() -> Iterator[PageServer]:
    with serving() as one:
        yield one


def ask(server: PageServer, method: str, path: str, content: Any = None, **headers: str) -> tuple[int, dict, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    body = content if isinstance(content, bytes) else None if content is None else json.dumps(content)
    mark = {"X-Lace-Lightning": "page"} if method == "POST" else {}
    connection.request(method, path, body, {**mark, **headers})
    answer = connection.getresponse()
    result = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return result


def test_the_page_names_nothing_of_elsewhere(server: PageServer) -> None:
    for path in ("/", "/page.css", "/page.js"):
        status, headers, body = ask(server, "GET", path)
        assert status == 200
        assert b"http://" not in body
        assert b"https://" not in body
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_the_page_is_made_from_the_schema(server: PageServer) -> None:
    page = json.loads(ask(server, "GET", "/api/page")[2])
    assert [one["name"] for one in page["attributes"]] == list(server.page.session.schema.names)
    assert page["methods"][0]["name"] == page["method"] == "lace_heun"


@pytest.mark.parametrize("path", ["/server.py", "/../server.py", "/page/../../server.py", "/%2e%2e/server.py", "/x"])
def test_other_files_are_not_given(server: PageServer, path: str) -> None:
    status, _, body = ask(server, "GET", path)
    assert status == 404
    assert "There is no" in json.loads(body)["error"]


def test_pages_of_others_are_refused(server: PageServer) -> None:
    assert ask(server, "GET", "/", Host="elsewhere.example")[0] == 403
    assert ask(server, "GET", "/", Host=f"localhost:{server.server_port}")[0] == 200
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request("POST", "/api/pictures", json.dumps(SETTINGS))
    assert connection.getresponse().status == 403


@pytest.mark.parametrize(
    ("path", "content", "status", "sentence"),
    [
        ("/api/pictures", {**SETTINGS, "query": "smil == yes"}, 400, "Did you mean 'smile'?"),
        ("/api/pictures", b"[1", 400, "must be an object of JSON"),
        ("/api/zip", {**SETTINGS, "seeds": "5-3"}, 400, "must go upwards"),
        ("/api/nothing", {}, 404, "There is no"),
        ("/api/pictures", b"x" * 1_000_001, 413, "may have 1,000,000 bytes"),
    ],
)
def test_what_is_wrong_is_answered_in_a_sentence(
    server: PageServer, path: str, content: Any, status: int, sentence: str
) -> None:
    received, _, body = ask(server, "POST", path, content)
    assert received == status
    assert sentence in json.loads(body)["error"]


def test_a_file_that_is_no_picture_is_refused(server: PageServer) -> None:
    lines = ask(server, "POST", "/api/photograph", b"no picture", **{"X-Name": "notes.txt"})[2].splitlines()
    assert "'notes.txt' must be a picture" in json.loads(lines[-1])["error"]


def test_visitors_at_once_have_what_each_asked_for(server: PageServer) -> None:
    wanted = [{**SETTINGS, "query": f"smile == {word}", "seeds": seeds} for word in ("yes", "no") for seeds in "05"]

    def pictures(content: dict) -> list[str]:
        return [one["png"] for one in json.loads(ask(server, "POST", "/api/pictures", content)[2])["pictures"]]

    alone = list(map(pictures, wanted))
    with ThreadPoolExecutor(8) as visitors:
        assert list(visitors.map(pictures, wanted * 4)) == alone * 4


def test_requests_wait_until_the_page_is_loaded() -> None:
    with PageServer("127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        assert ask(server, "GET", "/")[0] == 200
        with ThreadPoolExecutor(1) as visitor:
            answer = visitor.submit(ask, server, "GET", "/api/page")
            time.sleep(0.2)
            assert not answer.done()
            with serving() as other:
                server.page = other.page
            assert answer.result()[0] == 200
        server.shutdown()


def test_a_port_that_is_taken_is_refused(server: PageServer, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["demo", "--port", str(server.server_port)])
    assert "choose another port with --port" in capsys.readouterr().err
    with pytest.raises(LaceError, match="from 0 to 65535"):
        PageServer("127.0.0.1", 65536)


def test_wrong_words_end_the_program_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["demo", "generator=portrait", "--port", "0"])
    assert "Did you mean 'portraits'?" in capsys.readouterr().err


def test_turns_are_given_in_order() -> None:
    turns, order, threads = Turns(), [], []

    def visit(number: int) -> None:
        with turns:
            order.append(number)

    with turns:
        for number in range(5):
            threads.append(threading.Thread(target=visit, args=(number,)))
            threads[-1].start()
            time.sleep(0.02)
        assert order == []
        # Long work lets all who wait go first.
        turns.let_others()
        order.append("long")
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4, "long"]
