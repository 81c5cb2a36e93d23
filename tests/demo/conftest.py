"""Visitors of pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture
def visit_at(browser: Any) -> Iterator[Callable[[str], Any]]:
    """Return a function that opens an address for a new visitor; errors of scripts and requests elsewhere fail."""
    contexts, wrong = [], []

    def open_page(address: str) -> Any:
        contexts.append(browser.new_context(viewport={"width": 1200, "height": 900}))
        page = contexts[-1].new_page()
        # Other work on the machine may make a request long.
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        allowed = ("data:", "blob:", address.removesuffix("index.html"))
        page.on("request", lambda one: None if one.url.startswith(allowed) else wrong.append(one.url))
        page.goto(address)
        page.wait_for_selector("#grid img")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []
