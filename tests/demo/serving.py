"""A page of the shipped faces that is served in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lace_lightning.demo.loading import load_page
from lace_lightning.demo.server import PageServer


@contextmanager
def serving(*settings: str) -> Iterator[PageServer]:
    """Serve the page of settings on a free port."""
    with PageServer("127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            server.page = load_page(list(settings))
            yield server
        finally:
            server.shutdown()
            thread.join()
