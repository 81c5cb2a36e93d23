"""The documentation site: generated pages, navigation, and every internal link and anchor of the built site."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import lace_lightning
from lace_lightning.commands import CLICK
from lace_lightning.metrics.names import FIGURES

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs_site"))

import hook  # noqa: E402
import pages  # noqa: E402


class Page(HTMLParser):
    """The links, sources and anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.anchors.update(value for name in ("id", "name") if (value := given.get(name)))
        if tag in ("a", "link") and given.get("href"):
            self.targets.append(given["href"] or "")
        if given.get("src"):
            self.targets.append(given["src"] or "")
            self.loaded.append(given["src"] or "")
        if tag == "link" and given.get("rel") in ("stylesheet", "preload", "preconnect"):
            self.loaded.append(given["href"] or "")


def test_the_navigation_leaves_out_absent_pages_and_adds_others(tmp_path: Path) -> None:
    for name in ("docs/start.md", "docs/here.md", "docs/new.md", "api/index.md", "api/one.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")
    nav = [
        {"Start": ["docs/start.md"]},
        {"How-to": ["docs/here.md", "docs/absent.md"]},
        {"Gone": ["docs/gone.md"]},
        {"API": "api/"},
    ]
    assert hook.navigation(nav, tmp_path) == [
        {"Start": ["docs/start.md"]},
        {"How-to": ["docs/here.md", "docs/new.md"]},
        {"API": ["api/index.md", {"api/one.md": "api/one.md"}]},
    ]


def test_every_command_figure_and_public_name_has_its_place() -> None:
    commands, metrics, api = pages.commands_page(), pages.metrics_page(), "".join(pages.api_pages().values())
    assert all(f"\n## {name}\n" in commands for name in CLICK)
    assert all(f"`{figure.name}`" in metrics for figure in FIGURES)
    for name in lace_lightning._NAMES:
        thing = getattr(lace_lightning, name)
        path = f"{thing.__module__}.{thing.__qualname__}"
        assert f"[`lace.{name}`][{path}]" in api
        assert f"::: {path}\n" in api


def test_an_error_is_found_by_its_words(tmp_path: Path) -> None:
    (tmp_path / "part.py").write_text(
        '"""A part."""\n\n\ndef f(x):\n    raise LaceError(f"A list_of {x!r} is too long for {len(x)} "\n'
        '                    "places: leave one out." + suggest(x, []))\n'
    )
    text = pages.errors_page(tmp_path)
    assert "## part\n\nA part.\n\n- A list\\_of ‹x› is too long for ‹…› places: leave one out.\n" in text


def test_samplers_are_shown_by_what_differs() -> None:
    samplers = ["Heun(atol=0.1, rtol=0.5)", "Heun(atol=0.2, rtol=0.5, corrector=Slice(num_steps=3))", "Rejection()", ""]
    assert pages._shortened(samplers) == ["Heun(atol=0.1)", "Heun(atol=0.2, corrector=Slice)", "Rejection", ""]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="needs mkdocs: pip install '.[docs]'")
def test_every_internal_link_of_the_site_resolves_and_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    environment = {**os.environ, "DOCS_EXECUTE": "false", "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    found = {path.resolve(): Page(path) for path in (tmp_path / "site").rglob("*.html")}
    assert len(found) > 60
    missing = []
    for path, page in found.items():
        assert not [source for source in page.loaded if urlsplit(source).scheme not in ("", "data")]
        # The page of a server's missing pages has links from the root of the server.
        for target in page.targets if path.name != "404.html" else ():
            link = urlsplit(target)
            if link.scheme or link.netloc:
                continue
            file = (path.parent / unquote(link.path)).resolve() if link.path else path
            anchors = found[file].anchors if file in found else {link.fragment}
            if not file.exists() or (link.fragment and unquote(link.fragment) not in anchors):
                missing.append((path.name, target))
    assert missing == []
