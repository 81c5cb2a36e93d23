"""A page of the shipped faces that is served in this process, and wrong input into a page."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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


def refused(page: Any, place: str, text: str, sentence: str) -> None:
    """Write a wrong text into a field, wait for the sentence that refuses it and see that no picture changes."""
    good, before = page.input_value(place), page.inner_html("#grid")
    page.fill(place, text)
    page.press(place, "Enter")
    page.locator("#error", has_text=sentence).wait_for()
    assert page.inner_html("#grid") == before
    page.fill(place, good)
    page.press(place, "Enter")
    page.wait_for_selector("#error", state="hidden")
