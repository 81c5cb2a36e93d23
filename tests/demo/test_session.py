"""What the page shows, without a browser: controls, pictures, edits, commands that make the same, bad input."""

from __future__ import annotations

import io
import json
import shlex
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lace_lightning import cli
from lace_lightning.demo import server as pages
from lace_lightning.demo.commands import START, draw_command, edit_command, zip_of_edits, zip_of_pictures
from lace_lightning.demo.controls import controls_of_query, query_of_controls
from lace_lightning.demo.loading import Page, load_page, method_names
from lace_lightning.demo.session import BLOCK, EditSettings, PictureSettings, Start, answer_of_pictures
from lace_lightning.errors import LaceError
from lace_lightning.query import parse


@pytest.fixture(scope="module")
def faces() -> Page:
    return load_page([])


@pytest.fixture(scope="module")
def portraits() -> Page:
    return load_page(["generator=portraits"])


def pictures_in(content: bytes) -> list[np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png") and name != "contact.png")
        return [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names]


def run(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command of the page in a folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LACE_CACHE", str(folder / "cache"))
    assert words[0] == "lace-lightning"
    cli.main(words[1:])


@pytest.mark.parametrize(
    "text",
    [
        "anything",
        "smile == yes",
        "smile == yes and gender == * and 0.25 <= age <= 0.5",
        "mouth == open and yaw == 0.3 and brightness == *",
    ],
)
def test_controls_and_queries_say_the_same(faces: Page, text: str) -> None:
    schema = faces.session.schema
    controls = controls_of_query(parse(text, schema))
    assert controls is not None
    assert query_of_controls(controls, schema).text == text


@pytest.mark.parametrize("text", ["smile == yes or mouth == open", "not smile == yes", "age < 0.5", "smile != yes"])
def test_what_controls_cannot_show_is_said(faces: Page, text: str) -> None:
    assert controls_of_query(parse(text, faces.session.schema)) is None


def test_a_seed_is_one_picture_whatever_is_drawn_beside_it(faces: Page) -> None:
    session = faces.session
    many = session.pictures(PictureSettings("smile == yes", "0-20"))
    few = session.pictures(PictureSettings("smile == yes", "20, 3"))
    assert few.seeds == (20, 3)
    assert torch.equal(few.images, many.images[[20, 3]])
    assert torch.equal(few.sample.z, many.sample.z[[20, 3]])


def test_strength_makes_a_query_more_certain(faces: Page) -> None:
    means = [
        float(faces.session.pictures(PictureSettings("smile == yes", strength=strength)).probabilities.mean())
        for strength in (0.0, 1.0, 8.0)
    ]
    assert means == sorted(means)
    assert means[0] < 0.6 < 0.97 < means[2]


def test_free_values_come_in_turn(faces: Page) -> None:
    answer = answer_of_pictures(faces.session.pictures(PictureSettings("smile == *")))
    assert answer["controls"] == {"smile": {"mode": "each"}}
    assert answer["figures"]["share"] is None
    assert all(one["p"] > 0.5 for one in answer["pictures"])


def test_the_share_of_the_prior_is_a_probability(faces: Page) -> None:
    schema = faces.session.schema
    share = {text: faces.session.share(parse(text, schema)) for text in ("smile == yes", "smile == no")}
    assert sum(share.values()) == pytest.approx(1, abs=1e-5)
    assert faces.session.share(parse("smile == yes and yaw > 0.9", schema)) < share["smile == yes"]
    assert faces.session.share(parse("anything", schema)) is None


def test_without_a_query_the_generators_own_pictures_are_shown(faces: Page) -> None:
    made, generator = faces.session.pictures(PictureSettings("anything", "0-3")), faces.session.generator
    assert torch.equal(made.sample.z, generator.prior(BLOCK, 1)[:4])
    assert pages.make_pictures(faces, {"query": "anything", "seeds": "0", "method": "lace_heun"})["command"] == ""


def test_undo_take_back_and_order_lead_to_equal_pictures(faces: Page) -> None:
    session = faces.session
    smile, mouth = "smile == yes", "mouth == open"
    both = session.edited(EditSettings(Start(5), (smile, mouth)))
    assert torch.equal(session.edited(EditSettings(Start(5), (smile,))).images, both.images[:2])
    other = session.edited(EditSettings(Start(5), (mouth,)))
    assert torch.equal(other.images[0], both.images[0])
    assert not torch.equal(other.images[1], both.images[1])
    replaced = session.edited(EditSettings(Start(5), (smile, "smile == no")))
    assert [str(edit) for edit in replaced.states[-1].edits] == ["smile == no"]


def test_the_rest_of_the_picture_is_held_where_it_is_asked_for(faces: Page) -> None:
    edits = ("smile == no", "mouth == open")
    starts = [Start(seed) for seed in range(8)]
    moved = {
        keeps: sum(
            float((edited.states[-1].z - edited.states[0].z).norm())
            for edited in (faces.session.edited(EditSettings(start, edits, 4.0, keeps)) for start in starts)
        )
        for keeps in (True, False)
    }
    assert moved[True] < moved[False]


def test_a_picture_of_the_grid_can_be_edited(faces: Page) -> None:
    answer = answer_of_pictures(faces.session.pictures(PictureSettings("smile == yes", "7")))["pictures"][0]
    start = Start.from_plain(json.loads(json.dumps(answer["start"])))
    shown = np.asarray(Image.open(io.BytesIO(pages_bytes(answer["png"]))))
    edited = faces.session.edited(EditSettings(start, ("mouth == closed",)))
    # A picture that is drawn alone may differ in the last bit of a byte.
    assert np.abs(edited.images[0].permute(1, 2, 0).numpy().astype(int) - shown).max() <= 1


def pages_bytes(text: str) -> bytes:
    import base64

    return base64.b64decode(text)


def test_two_visitors_in_turn_do_not_disturb_each_other(faces: Page) -> None:
    one = {"start": {"seed": 1}, "edits": ["smile == yes"], "strength": 4, "method": "lace_heun"}
    two = {"start": {"seed": 2}, "edits": ["smile == no", "age == 0.8"], "strength": 8, "method": "lace_heun"}
    alone = [load_answer(load_page([]), content) for content in (one, two)]
    mixed = [load_answer(faces, content) for content in (one, two, one, two)]
    assert mixed[:2] == mixed[2:] == alone


def load_answer(page: Page, content: dict) -> list[str]:
    return pages.make_edits(page, content)["pictures"]


def test_a_slider_that_is_moved_again_is_one_step(faces: Page) -> None:
    common = {"start": {"seed": 1}, "strength": 4, "method": "lace_heun"}
    first = pages.make_edits(faces, {**common, "edits": ["smile == yes"], "add": {"age": {"mode": "is", "value": 0.3}}})
    assert first["steps"] == ["smile == yes", "age == 0.3"]
    again = pages.make_edits(faces, {**common, "edits": first["steps"], "add": {"age": {"mode": "is", "value": 0.8}}})
    assert again["steps"] == ["smile == yes", "age == 0.8"]
    assert again["controls"]["age"] == {"mode": "is", "value": 0.8}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"query": "smil == yes"}, "Did you mean 'smile'?"),
        ({"query": "0.5 < age < 0.3"}, "age"),
        ({"query": ""}, "it is empty"),
        ({"query": "smile == yes", "seeds": "-3"}, "Seeds must be from 0"),
        ({"query": "smile == yes", "seeds": "0-64"}, "at most 64 pictures"),
        ({"query": "smile == yes", "strength": -1}, "strength must be a number from 0 to 100"),
        ({"query": "smile == yes", "strength": "much"}, "strength must be a number from 0 to 100"),
        ({"query": "smile == yes", "method": "lace_huen"}, "Did you mean 'lace_heun'?"),
        ({"query": "smile == yes", "method": "hybrid"}, "checks its pictures by a labeler"),
        ({"controls": {"hat": {"mode": "free"}}}, "'hat' was asked for"),
        ({"controls": {"smile": {"mode": "between"}}}, "must be one of free, is, each"),
        ({"controls": {"age": {"mode": "is", "value": 3}}}, "values from 0 to 1"),
    ],
)
def test_wrong_pictures_are_refused_in_a_sentence(faces: Page, content: dict, sentence: str) -> None:
    with pytest.raises(LaceError, match=sentence.replace("?", r"\?")):
        pages.make_pictures(faces, {"seeds": "0", "strength": 6, "method": "lace_heun", **content})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"start": {"seed": -1}}, "Seeds must be from 0"),
        ({"start": {"seed": None}}, "number of a seed or latents"),
        ({"start": {"space": "z", "values": "AAAA"}}, "100 finite numbers"),
        ({"start": {"space": "w+", "values": "AAAA"}}, "finite numbers"),
        ({"edits": ["smile == *"]}, "leaves smile free"),
        ({"edits": ["smile == yes"] * 21}, "at most 20 edits"),
        ({"method": "rejection"}, "is none"),
        ({"add": "hat == 1"}, "'hat' was asked for"),
    ],
)
def test_wrong_edits_are_refused_in_a_sentence(faces: Page, content: dict, sentence: str) -> None:
    with pytest.raises(LaceError, match=sentence):
        pages.make_edits(faces, {"start": {"seed": 0}, "strength": 4, "method": "lace_heun", **content})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["portraits"], "key=value"),
        (["generator=portrait"], "Did you mean 'portraits'"),
        (["experiment=faces_smiles"], "Did you mean 'faces_smile'"),
        (["query.sigma=0.2"], "has 'query.sigma' of its own"),
        (["experiment=faces_smile", "no_such=1"], "cannot be composed"),
    ],
)
def test_wrong_settings_of_the_page_are_refused(settings: list[str], sentence: str) -> None:
    with pytest.raises(LaceError, match=sentence):
        load_page(settings)


@pytest.mark.parametrize("method", [name for name, _ in method_names() if name in ("lace_cubic", "lace_ode")])
def test_methods_come_from_their_files(faces: Page, method: str) -> None:
    made = faces.session.pictures(PictureSettings("smile == yes", "0-3", method=method))
    assert float(made.probabilities.min()) > 0.5


@pytest.mark.parametrize(
    ("generator", "settings"),
    [
        ("faces", PictureSettings("smile == yes and 0.6 <= yaw <= 0.9", "0-3,40", 6.0)),
        ("portraits", PictureSettings("glasses == * and age == 0.7", "5-8", 8.0)),
    ],
)
def test_the_command_draws_equal_pictures(
    generator: str, settings: PictureSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = load_page([f"generator={generator}"])
    words = draw_command(settings, page.words)
    shown = pictures_in(zip_of_pictures(page.session, settings, page.words))
    run([*words, "--out", "drawn", "task.judged=false"], tmp_path, monkeypatch)
    drawn = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "drawn").glob("0*.png"))]
    assert len(drawn) == len(shown)
    for one, other in zip(drawn, shown, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("generator", "edits", "keeps"),
    [("faces", ("smile == yes", "age == 0.8"), True), ("portraits", ("glasses == yes", "smile == no"), False)],
)
def test_the_command_makes_equal_edits(
    generator: str, edits: tuple[str, ...], keeps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = load_page([f"generator={generator}"])
    settings = EditSettings(Start(3), edits, 4.0, keeps)
    content = zip_of_edits(page.session, settings, page.words)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (tmp_path / START).write_bytes(archive.read(START))
        words = shlex.split(archive.read("command.txt").decode())
    assert words == edit_command(settings, page.words)
    run([*words, "--out", "edited", "logger=csv"], tmp_path, monkeypatch)
    strip = np.asarray(Image.open(tmp_path / "edited" / "pictures" / "start.png"))
    assert np.array_equal(strip, np.concatenate(pictures_in(content), axis=1))


@pytest.mark.parametrize("more", [[], ["classifier=cifar10_classifier"]])
def test_an_experiment_that_is_named_draws_what_its_command_draws(more: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))
    page, settings = load_page(["experiment=cifar10_heun", *more]), PictureSettings("label in (ship, cat)", "0-2")
    assert page.session.schema.names == ("label",)
    shown = pictures_in(zip_of_pictures(page.session, settings, page.words))
    run([*draw_command(settings, page.words), "--out", "drawn", "task.judged=false"], tmp_path, monkeypatch)
    drawn = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "drawn").glob("0*.png"))]
    assert all(np.array_equal(one, other) for one, other in zip(drawn, shown, strict=True))


def test_the_zip_has_pictures_latents_and_the_command(portraits: Page) -> None:
    settings = PictureSettings("smile == yes", "2,9")
    with zipfile.ZipFile(io.BytesIO(zip_of_pictures(portraits.session, settings, portraits.words))) as archive:
        assert sorted(archive.namelist()) == [
            "0000.png",
            "0001.png",
            "command.txt",
            "contact.png",
            "latents.npz",
            "report.json",
            "samples.csv",
        ]
        with np.load(io.BytesIO(archive.read("latents.npz"))) as latents:
            assert latents["z"].shape == (2, portraits.session.generator.z_dim)
            assert latents["ws"].shape[0] == 2
        assert archive.read("samples.csv").decode().splitlines()[1].startswith("0000.png,2,smile == yes")


@pytest.mark.parametrize("name", ["faces", "portraits"])
def test_a_photograph_becomes_a_start(name: str, request: pytest.FixtureRequest, monkeypatch) -> None:
    from lace_lightning.demo import photograph
    from lace_lightning.systems.projection import ProjectionOptions

    monkeypatch.setattr(photograph, "STEPS", 10)
    monkeypatch.setattr(
        photograph, "ProjectionOptions", lambda **given: ProjectionOptions(**given, candidates=20, starts=1)
    )
    page: Page = request.getfixturevalue(name)
    content = io.BytesIO()
    Image.new("RGB", (90, 60), (200, 120, 90)).save(content, format="jpeg")
    told: list[int] = []
    result = photograph.project_photograph(
        page.session, content.getvalue(), "me.jpg", lambda step, _: told.append(step)
    )
    assert told == [0, 5, 10]
    assert result["cut"].startswith("90x60, the 60x60 in the middle")
    edited = page.session.edited(EditSettings(Start.from_plain(result["start"]), ("smile == yes",)))
    assert len(edited.images) == 2
    zip_of_edits(page.session, EditSettings(Start.from_plain(result["start"]), ("smile == yes",)), page.words)
    with pytest.raises(LaceError, match=r"'me\.jpg' must be a picture"):
        photograph.project_photograph(page.session, b"no picture", "me.jpg", lambda *_: None)
