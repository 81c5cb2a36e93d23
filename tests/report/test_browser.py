"""Reports in Chromium: they open from disk, sort, show the settings of a job, and pass an accessibility check."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lace_lightning.report.index import rebuild

from .folders import make_run, make_sweep


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("browser") / "outputs"
    make_run(root / "mine" / "today", name="<script>document.title = 'taken'</script>")
    make_sweep(root / "sweeps" / "grid")
    rebuild(root)
    return root


@pytest.fixture
def page(browser) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.said = []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda request: page.said.append(request.url) if request.url.startswith("http") else None)
    yield page
    assert not page.said
    page.close()


PAGES = ("index.html", "mine/today/report.html", "sweeps/grid/report.html")
SHOWN = [*((name, "light") for name in PAGES), *((name, "dark") for name in PAGES[1:])]


@pytest.mark.parametrize(
    ("name", "scheme"), [*((name, "light") for name in PAGES), *((name, "dark") for name in PAGES[1:])]
)
def test_pages_pass_an_accessibility_check(page, outputs: Path, name: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_core_python.sync_playwright", reason="axe-core-python is not installed")
    page.emulate_media(color_scheme=scheme)
    page.goto((outputs / name).as_uri())
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 22, 27)")
    found = axe.Axe().run(page)
    assert [v["id"] for v in found["violations"] if v["impact"] in ("serious", "critical")] == []


def test_names_are_text(page, outputs: Path) -> None:
    page.goto((outputs / PAGES[1]).as_uri())
    assert page.title() != "taken"
    assert page.locator("h1").inner_text() == "<script>document.title = 'taken'</script>"
    sizes = page.evaluate("Array.from(document.images, image => image.naturalWidth)")
    assert sizes == [60]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def _column(page, number: int) -> list[str]:
    return page.locator(f"section[aria-labelledby=table] tbody tr > :nth-child({number})").all_inner_texts()


def test_tables_sort(page, outputs: Path) -> None:
    page.goto((outputs / PAGES[2]).as_uri())
    titles = page.locator("section[aria-labelledby=table] thead th").all_inner_texts()
    number = titles.index("ACC") + 1
    button = page.locator(f"section[aria-labelledby=table] thead th:nth-child({number}) button")
    button.click()
    values = _column(page, number)
    # The failed job has no figure and comes last, in both orders.
    assert values[-1] == "-"
    assert [float(value) for value in values[:-1]] == sorted(float(value) for value in values[:-1])
    button.press("Enter")
    assert [float(value) for value in _column(page, number)[:-1]] == sorted(map(float, values[:-1]), reverse=True)
    assert _column(page, number)[-1] == "-"


def test_a_point_shows_its_job_everywhere_and_opens_its_report(page, outputs: Path) -> None:
    page.goto((outputs / PAGES[2]).as_uri())
    point = page.locator("svg.jobs g[data-job='8'] circle.dot")
    point.hover()
    assert "sampler.atol = 0.1" in page.locator("#tip").inner_text()
    assert page.locator("tr.near").get_attribute("data-job") == "8"
    assert page.locator("svg.jobs g.near").count() == 2
    point.click()
    page.wait_for_url("**/atol=0.1,rtol=0.1/report.html")


def test_pages_need_no_script(browser, outputs: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((outputs / PAGES[2]).as_uri())
    assert page.locator("section[aria-labelledby=table] tbody tr").count() == 9
    assert page.locator("svg.jobs g[data-job]").count() == 16
    assert page.locator("svg.jobs g[data-job] title").count() == 16
    context.close()
