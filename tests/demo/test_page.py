"""The page in Chromium: every control, wrong input, two visitors at once, reload, nothing from elsewhere."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lace_lightning.demo.server import PageServer
from lace_lightning.schema import Attribute

from .serving import refused, serving


@pytest.fixture(scope="module")
def server() -> Iterator[PageServer]:
    with serving() as one:
        yield one


@pytest.fixture
def visit(server: PageServer, visit_at: Callable[[str], Any]) -> Callable[[], Any]:
    """Return a function that opens the page as a new visitor."""
    return lambda: visit_at(server.address)


def changed(page: Any, change: Callable[[], Any], place: str) -> None:
    """Do something, and wait until a part of the page is another."""
    before = page.inner_html(place)
    change()
    page.wait_for_function(
        "([place, before]) => document.querySelector(place).innerHTML !== before", arg=[place, before]
    )


def pictures(page: Any, place: str = "#grid img") -> list[str]:
    return page.eval_on_selector_all(place, "images => images.map((image) => image.src)")


def open_edits(page: Any) -> None:
    page.click("#tab-edits")
    page.wait_for_selector("#pair img")


def steps(page: Any) -> list[str]:
    return [re.sub(r"^\d+\. ", "", text) for text in page.locator("#steps figcaption").all_inner_texts()]


def try_control(page: Any, attribute: Attribute) -> None:
    """Try every choice of the control of an attribute, and leave it free again."""
    select = f"#ask-{attribute.name}"
    if attribute.kind == "discrete":
        changed(page, lambda: page.select_option(select, index=2), "#grid")
        assert page.input_value("#query") == f"{attribute.name} == {attribute.class_names[1]}"
        changed(page, lambda: page.select_option(select, "each"), "#grid")
        assert page.input_value("#query") == f"{attribute.name} == *"
    else:
        changed(page, lambda: page.select_option(select, "is"), "#grid")
        assert page.locator(f"{select}-value").is_visible()
        assert not page.locator(f"{select}-low").is_visible()
        changed(page, lambda: page.locator(f"{select}-value").fill("0.7"), "#grid")
        assert page.input_value("#query") == f"{attribute.name} == 0.7"
        changed(page, lambda: page.select_option(select, "between"), "#grid")
        assert page.input_value("#query") == f"0.25 <= {attribute.name} <= 0.75"
    page.select_option(select, "free")
    page.wait_for_function("() => document.getElementById('query').value === 'anything'")


def slide(page: Any, attribute: Attribute, value: str) -> None:
    """Move the slider of an edit, and let it go."""
    slider = page.locator(f"#edit-{attribute.name}")
    changed(page, lambda: (slider.fill(value), slider.dispatch_event("change")), "#steps")


@pytest.mark.slow
def test_every_control_of_new_pictures(visit: Callable[[], Any], server: PageServer) -> None:
    page = visit()
    assert page.locator("#grid img").count() == 16
    page.locator("#picture-controls select").first.select_option("free")
    page.wait_for_function("() => document.getElementById('query').value === 'anything'")
    for attribute in server.page.session.schema:
        try_control(page, attribute)
    assert "Nothing is asked for" in page.inner_text("#picture-command")
    changed(page, lambda: (page.fill("#query", "mouth == open"), page.press("#query", "Enter")), "#grid")
    assert page.input_value("#ask-mouth") == "is open"
    changed(page, lambda: page.locator("#strength").fill("1"), "#grid")
    assert "query.weight=1 " in page.inner_text("#picture-command")
    changed(page, lambda: page.select_option("#method", "lace_cubic"), "#grid")
    assert "+method=lace_cubic" in page.inner_text("#picture-command")
    changed(page, lambda: (page.fill("#seeds", "3, 250"), page.press("#seeds", "Enter")), "#grid")
    assert page.locator("#grid img").count() == 2
    changed(page, lambda: page.click("#next-seeds"), "#grid")
    assert page.input_value("#seeds") == "251-266"
    assert "log P(query)" in page.inner_text("#picture-figures")


def test_wrong_input_is_said_and_the_pictures_stay(visit: Callable[[], Any]) -> None:
    page = visit()
    for place, text, sentence in (
        ("#query", "smil == yes", "Did you mean 'smile'?"),
        ("#seeds", "-4", "Seeds must be from 0"),
        ("#seeds", "0-99", "at most 64 pictures"),
    ):
        refused(page, place, text, sentence)
    page.fill("#query", "smile == yes or mouth == open")
    page.press("#query", "Enter")
    page.wait_for_selector("#beyond:not([hidden])")


@pytest.mark.slow
def test_every_control_of_edits(visit: Callable[[], Any], server: PageServer) -> None:
    page = visit()
    page.locator("#grid button").nth(3).click()
    page.wait_for_selector("#pair img")
    assert steps(page) == []
    before = pictures(page, "#pair img")[0]
    for attribute in server.page.session.schema:
        if attribute.kind == "discrete":
            button = page.get_by_role("button", name=f"{attribute.name}: {attribute.class_names[1]}")
            changed(page, button.click, "#steps")
            assert button.get_attribute("aria-pressed") == "true"
        else:
            slide(page, attribute, "0.6")
            slide(page, attribute, "0.7")
    assert len(steps(page)) == len(server.page.session.schema)
    changed(page, lambda: page.click("#clear"), "#steps")
    assert pictures(page, "#pair img") == [before, before]
    changed(page, lambda: page.get_by_role("button", name="smile: no").click(), "#steps")
    one = pictures(page, "#pair img")
    changed(page, lambda: (page.fill("#edit-query", "0.7 < yaw < 0.9"), page.press("#edit-query", "Enter")), "#steps")
    two = pictures(page, "#pair img")
    assert two[0] == one[0] == before != two[1] != one[1]
    changed(page, lambda: page.click("#undo"), "#steps")
    assert pictures(page, "#pair img") == one
    changed(page, lambda: page.click("#redo"), "#steps")
    assert pictures(page, "#pair img") == two
    changed(page, lambda: page.get_by_role("button", name="Take back smile == no").click(), "#steps")
    assert steps(page) == ["0.7 < yaw < 0.9"]
    changed(page, lambda: page.uncheck("#keep"), "#pair")
    assert "editing.proximity=0" in page.inner_text("#edit-command")
    changed(page, lambda: page.locator("#edit-strength").fill("9"), "#pair")
    assert "editing.weight=9" in page.inner_text("#edit-command")
    changed(page, lambda: page.select_option("#edit-method", "lace_cubic"), "#pair")
    changed(page, lambda: (page.fill("#seed", "77"), page.click("#begin")), "#pair")
    assert "seed 77" in page.inner_text("#pair")
    page.fill("#edit-query", "smile == *")
    page.click("#apply")
    page.locator("#error", has_text="leaves smile free").wait_for()


def test_two_visitors_at_once_and_a_reload(visit: Callable[[], Any]) -> None:
    one, two = visit(), visit()
    changed(one, lambda: one.select_option("#ask-smile", "is no"), "#grid")
    changed(two, lambda: two.select_option("#ask-mouth", "is open"), "#grid")
    assert one.input_value("#query") == "smile == no"
    assert two.input_value("#query") == "smile == yes and mouth == open"
    open_edits(one)
    open_edits(two)
    changed(one, lambda: one.get_by_role("button", name="smile: yes").click(), "#steps")
    changed(two, lambda: two.get_by_role("button", name="gender: male", exact=True).click(), "#steps")
    assert steps(one) == ["smile == yes"]
    assert steps(two) == ["gender == male"]
    shown = pictures(one, "#pair img")
    one.reload()
    one.wait_for_selector("#steps img")
    assert steps(one) == ["smile == yes"]
    assert pictures(one, "#pair img") == shown
    one.click("#tab-pictures")
    one.wait_for_selector("#grid img")
    assert one.input_value("#query") == "smile == no"


def test_tabs_by_the_keyboard(visit: Callable[[], Any]) -> None:
    page = visit()
    page.focus("#tab-pictures")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#pair img")
    assert page.evaluate("() => document.activeElement.id") == "tab-edits"


@pytest.mark.slow
def test_an_own_photograph(visit: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lace_lightning.demo import photograph
    from lace_lightning.systems.projection import ProjectionOptions

    monkeypatch.setattr(photograph, "STEPS", 10)
    monkeypatch.setattr(photograph, "ProjectionOptions", lambda **given: ProjectionOptions(**given, candidates=20))
    page = visit()
    open_edits(page)
    (tmp_path / "notes.png").write_text("no picture")
    page.set_input_files("#photograph", tmp_path / "notes.png")
    page.locator("#error", has_text="'notes.png' must be a picture").wait_for()
    Image.fromarray(np.full((80, 80, 3), 120, np.uint8)).save(tmp_path / "me.png")
    page.set_input_files("#photograph", tmp_path / "me.png")
    page.wait_for_function("() => document.querySelectorAll('#pair img').length === 3")
    assert "Root mean squared difference" in page.inner_text("#photograph-note")
    changed(page, lambda: page.get_by_role("button", name="smile: yes").click(), "#steps")
    shown = pictures(page, "#pair img")
    page.reload()
    page.wait_for_selector("#steps img")
    assert pictures(page, "#pair img") == shown


@pytest.mark.slow
def test_downloads(visit: Callable[[], Any]) -> None:
    page = visit()
    for tab, button, files in (("pictures", "#picture-zip", 21), ("edits", "#edit-zip", 8)):
        page.click(f"#tab-{tab}")
        if tab == "edits":
            page.wait_for_selector("#pair img")
            changed(page, lambda: page.get_by_role("button", name="smile: yes").click(), "#steps")
        with page.expect_download(timeout=60_000) as download:
            page.click(button)
        with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as archive:
            names = archive.namelist()
            assert "command.txt" in names
            assert len(names) == files, names
            json.loads(archive.read("report.json"))
