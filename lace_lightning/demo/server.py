"""The server of the page: files of the page, and answers to its requests in JSON. It keeps nothing of a visitor."""

from __future__ import annotations

import json
import shlex
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from ..errors import LaceError, in_one_line
from .turns import Turns

if TYPE_CHECKING:
    from .loading import Page

FOLDER = Path(__file__).parent / "page"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
# The page loads nothing from elsewhere, and no other page may show it or send to it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# A header that pages of other addresses cannot send without asking, which is refused.
MARK = "X-Lace-Lightning"
LOCAL = ("127.0.0.1", "localhost", "::1")
# Most bytes of a request: settings, and a photograph.
MOST_SETTINGS, MOST_PHOTOGRAPH = 1_000_000, 30_000_000
# Most bytes that are read of a request that is too large, and bytes at a time.
MOST_READ, PIECE = 300_000_000, 1 << 14
# Seconds after which a connection that sends nothing is closed.
PATIENCE = 60


class PageServer(ThreadingHTTPServer):
    """A server of the page of one session.

    The address is taken at once, and requests wait until `page` is set. Work is done for one request at a time, in
    the order in which they come.

    Args:
        host: the address to listen on.
        port: the port; 0 for any that is free.

    Raises:
        LaceError: for a port that is taken, and an address that this machine does not have.

    Example:
        >>> with PageServer("127.0.0.1", 0) as server:
        ...     server.address.startswith("http://127.0.0.1:")
        True
    """

    daemon_threads = True
    # Without it a second server could share the port on some systems.
    allow_reuse_port = False

    def __init__(self, host: str, port: int) -> None:
        if not 0 <= port < 65536:
            raise LaceError(f"A port must be from 0 to 65535, received {port}: choose another with --port.")
        self.host = host
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise LaceError(
                f"The page could not listen on {host}, port {port} ({error.strerror or error}): choose another port "
                "with --port, or --port 0 for any that is free."
            ) from None
        self.turns = Turns()
        self._ready = threading.Event()
        self._page: Page | None = None

    def server_bind(self) -> None:
        """Take the address, without a look-up of the name of this machine, which can take seconds."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.host, self.server_address[1]

    @property
    def address(self) -> str:
        """The address of the page."""
        return f"http://{'[' + self.host + ']' if ':' in self.host else self.host}:{self.server_port}"

    @property
    def is_local(self) -> bool:
        """Whether this machine alone reaches the page."""
        return self.host in LOCAL

    @property
    def page(self) -> Page:
        """The page; waits until it is loaded."""
        self._ready.wait()
        assert self._page is not None
        return self._page

    @page.setter
    def page(self, page: Page) -> None:
        self._page = page
        self._ready.set()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of visitors who close the connection; print other errors."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE

    def log_message(self, format: str, *args: Any) -> None:
        """Print no line for each request."""

    def do_GET(self) -> None:
        """Answer with a file of the page, or with what the page is made of."""
        if not self._is_welcome():
            return
        path = self.path.partition("?")[0]
        if path == "/api/page":
            self._answer(lambda: describe_page(self.server.page))
            return
        file = FOLDER / ("index.html" if path == "/" else path.removeprefix("/"))
        if file.name not in {one.name for one in FOLDER.iterdir()} or file.parent != FOLDER:
            self._send_json(404, {"error": f"There is no '{path}' here: the page is at /."})
            return
        self._send(200, file.read_bytes(), KINDS[file.suffix])

    def do_POST(self) -> None:
        """Answer a request of the page."""
        if not self._is_welcome():
            return
        is_photograph = self.path == "/api/photograph"
        length, most = int(self.headers.get("Content-Length") or 0), MOST_PHOTOGRAPH if is_photograph else MOST_SETTINGS
        if length > most:
            # A browser shows the answer only when it has sent everything.
            self.close_connection = True
            for first in range(0, min(length, MOST_READ), PIECE):
                self.rfile.read(min(PIECE, length - first))
            self._send_json(
                413, {"error": f"A request may have {most:,} bytes, received {length:,}: give a smaller picture."}
            )
            return
        body = self.rfile.read(length)
        if self.headers.get(MARK) is None:
            self._send_json(403, {"error": f"A request needs the header {MARK}, which the page sends."})
        elif is_photograph:
            self._project(body, unquote(self.headers.get("X-Name") or "photograph"))
        elif self.path == "/api/zip":
            self._answer(lambda: zip_of(self.server.page, _plain(body)))
        elif self.path in ANSWERS:
            self._answer(lambda: ANSWERS[self.path](self.server.page, _plain(body)))
        else:
            self._send_json(404, {"error": f"There is no '{self.path}' here: the page is at /."})

    def _is_welcome(self) -> bool:
        """Refuse requests that another page makes under a name of its own for this machine."""
        host = (self.headers.get("Host") or "").rpartition(":")[0].strip("[]") or self.headers.get("Host")
        if self.server.is_local and host not in LOCAL:
            self._send_json(403, {"error": f"The page is at {self.server.address}, received the host '{host}'."})
            return False
        return True

    def _answer(self, make: Callable[[], dict[str, Any] | bytes]) -> None:
        """Send what a function makes in its turn, or its error as one sentence."""
        status, answer = 200, None
        page = self.server.page
        try:
            with self.server.turns:
                answer = make()
        except LaceError as error:
            status, answer = 400, {"error": str(error)}
        except Exception as error:
            traceback.print_exc()
            status, answer = 500, {"error": f"The page could not make this ({in_one_line(error)}): change a setting."}
        if isinstance(answer, bytes):
            self._send(status, answer, "application/zip", f"{page.session.name}.zip")
        else:
            self._send_json(status, answer)

    def _project(self, content: bytes, name: str) -> None:
        """Project a photograph, with a line of JSON for its progress now and then, and one for the result."""
        self.send_response(200)
        self._headers("application/x-ndjson; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

        def say(line: Mapping[str, Any]) -> None:
            self.wfile.write(json.dumps(line).encode() + b"\n")
            self.wfile.flush()

        try:
            from .photograph import project_photograph

            page = self.server.page
            with self.server.turns as turns:

                def report(step: int, steps: int) -> None:
                    say({"step": step, "steps": steps})
                    # A projection takes long, and other visitors go on in the meantime.
                    turns.let_others()

                say({"result": project_photograph(page.session, content, name, report)})
        except LaceError as error:
            say({"error": str(error)})

    def _headers(self, kind: str) -> None:
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")

    def _send(self, status: int, content: bytes, kind: str, name: str | None = None) -> None:
        self.send_response(status)
        self._headers(kind)
        self.send_header("Content-Length", str(len(content)))
        if name is not None:
            self.send_header("Content-Disposition", f'attachment; filename="{name}"')
        self.end_headers()
        self.wfile.write(content)

    def _send_json(self, status: int, content: Any) -> None:
        self._send(status, json.dumps(content, ensure_ascii=False).encode(), "application/json; charset=utf-8")


def _plain(body: bytes) -> dict[str, Any]:
    """Return the content of a request. Raises LaceError where it is no object of JSON."""
    try:
        content = json.loads(body)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise LaceError("A request must be an object of JSON: load the page again.")
    return content


def describe_page(page: Page) -> dict[str, Any]:
    """Return everything that the page is made of, in plain containers.

    Args:
        page: the session with its words and preset.
    """
    from .controls import describe_controls
    from .loading import accuracy_of, method_names
    from .session import BLOCK, LARGEST_STRENGTH, STANDARD_METHOD

    session, preset = page.session, page.preset
    return {
        "name": session.name,
        "attributes": describe_controls(session.schema),
        "methods": [{"name": name, "text": text} for name, text in method_names()],
        "method": STANDARD_METHOD,
        "largest_strength": LARGEST_STRENGTH,
        "pictures": {"query": preset.query, "seeds": f"0-{BLOCK - 1}", "strength": preset.strength},
        "edits": {"strength": preset.edit_strength, "has_identity": preset.identity is not None},
        "accuracy": accuracy_of(session.card, session.classifier.metadata),
        "classifier": {key: session.card[key] for key in ("what", "known_weaknesses") if key in session.card},
        "shape": list(session.generator.image_shape),
    }


def picture_settings(page: Page, content: Mapping[str, Any]) -> Any:
    """Return the settings of new pictures of a request, which has a `query` or `controls`.

    Args:
        page: the page.
        content: the request.

    Raises:
        LaceError: for wrong settings.
    """
    from .controls import query_of_controls
    from .session import PictureSettings

    text = str(content.get("query", ""))
    if isinstance(content.get("controls"), Mapping):
        text = query_of_controls(content["controls"], page.session.schema).text
    return PictureSettings(text, str(content.get("seeds", "")), content.get("strength", 0), str(content.get("method")))


def edit_settings(page: Page, content: Mapping[str, Any]) -> Any:
    """Return the settings of edits of a request; `add`, a query or the control of an attribute, is one edit more.

    Args:
        page: the page.
        content: the request.

    Raises:
        LaceError: for wrong settings.
    """
    from ..systems.editing import parse_edit
    from .controls import query_of_controls
    from .session import EditSettings, Start

    schema = page.session.schema
    edits = [parse_edit(str(edit), schema) for edit in content.get("edits", [])]
    added = content.get("add")
    if added is not None:
        new = parse_edit(query_of_controls(added, schema) if isinstance(added, Mapping) else str(added), schema)
        # A slider that is moved again is no further step.
        edits = [*(edits[:-1] if edits and edits[-1].attributes == new.attributes else edits), new]
    return EditSettings(
        Start.from_plain(content.get("start")),
        tuple(str(edit) for edit in edits),
        content.get("strength", 0),
        bool(content.get("keeps_identity", True)),
        str(content.get("method")),
    )


def make_pictures(page: Page, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to a request for new pictures, with the command that makes them.

    Args:
        page: the page.
        content: the request.

    Raises:
        LaceError: for wrong settings.
    """
    from .commands import draw_command
    from .session import answer_of_pictures

    settings = picture_settings(page, content)
    made = page.session.pictures(settings)
    command = "" if made.query is None else shlex.join(draw_command(settings, page.words))
    return {**answer_of_pictures(made), "command": command}


def make_edits(page: Page, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to a request for an edited picture, with the command that makes it.

    Args:
        page: the page.
        content: the request.

    Raises:
        LaceError: for wrong settings.
    """
    from ..systems.editing import parse_edit
    from .commands import edit_command
    from .controls import controls_of_query
    from .session import answer_of_edits

    settings = edit_settings(page, content)
    answer = answer_of_edits(page.session.edited(settings))
    command = shlex.join(edit_command(settings, page.words)) if settings.edits else ""
    parts = [controls_of_query(parse_edit(edit, page.session.schema)) for edit in answer["edits"]]
    controls = {name: control for part in parts for name, control in (part or {}).items()}
    return {**answer, "steps": list(settings.edits), "controls": controls, "command": command}


def zip_of(page: Page, content: Mapping[str, Any]) -> bytes:
    """Return the zip file that a request asks for.

    Args:
        page: the page.
        content: the request, with `kind` pictures or edits.

    Raises:
        LaceError: for wrong settings.
    """
    from .commands import zip_of_edits, zip_of_pictures

    if content.get("kind") == "edits":
        return zip_of_edits(page.session, edit_settings(page, content), page.words)
    return zip_of_pictures(page.session, picture_settings(page, content), page.words)


ANSWERS: dict[str, Callable[[Any, Mapping[str, Any]], dict[str, Any]]] = {
    "/api/pictures": make_pictures,
    "/api/edits": make_edits,
}


def serve(settings: Sequence[str], host: str, port: int, opens: bool) -> None:
    """Serve the page until it is stopped.

    Args:
        settings: words key=value that name generator, experiment and classifier.
        host: the address to listen on.
        port: the port; 0 for any that is free.
        opens: whether to open the page in the browser of this machine.

    Raises:
        LaceError: for a port that is taken, and settings that make no page.
    """
    with PageServer(host, port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            from .loading import load_page

            page = load_page(settings)
            server.page = page
            who = (
                "for this machine alone; --host 0.0.0.0 shows it to others"
                if server.is_local
                else "for everyone who reaches this machine, without a password"
            )
            print(f"The page of '{page.session.name}' is at {server.address} ({who}; Ctrl-C ends it).", flush=True)
            if opens:
                import webbrowser

                webbrowser.open(server.address)
            with server.turns:
                page.session.warm_up()
            thread.join()
        finally:
            server.shutdown()
            # Work of others ends before the process does, because threads of torch cannot be cut off.
            server.turns.__enter__()
