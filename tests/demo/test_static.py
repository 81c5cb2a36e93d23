"""The page without a program behind it: its graphs, its folder, and what a browser computes beside Python."""

from __future__ import annotations

import base64
import io
import shutil
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lace_lightning import cli
from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.demo import static
from lace_lightning.demo.graphs import Step, graphs_of
from lace_lightning.demo.loading import Page, Preset, load_page
from lace_lightning.demo.session import EditSettings, PictureSettings, Session, Start
from lace_lightning.demo.static import write_static
from lace_lightning.errors import LaceError
from lace_lightning.exports import record_graph, write_onnx
from lace_lightning.generators import ModuleGenerator, StyleGAN2Generator
from lace_lightning.schema import Attribute, Schema

from .serving import refused

for package in ("onnx", "onnxscript"):
    pytest.importorskip(package)

SCHEMA = Schema("t", (Attribute("hat", "discrete", 3, ("none", "red", "straw hat")), Attribute("age", "continuous")))


def tiny_session(generator: Any, space: str, size: int) -> Session:
    torch.manual_seed(1)
    classifier = AttributeClassifier(SCHEMA, space, "mlp", {"input_dim": size, "hidden": [16]})
    with torch.no_grad():
        # Logits of trained networks are larger than those of random weights.
        for parameter in classifier.parameters():
            parameter.mul_(2.0)
    return Session(generator, classifier, "tiny")


@pytest.fixture(scope="module")
def of_z() -> Page:
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(6, 192), nn.Tanh(), nn.Unflatten(1, (3, 8, 8)))
    session = tiny_session(ModuleGenerator(decoder, 6, (3, 8, 8)), "z", 6)
    return Page(session, ("--experiment", "tiny"), Preset("tiny", "hat == red and age == 0.3", 4.0, 3.0))


@pytest.fixture(scope="module")
def folder(of_z: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_static(of_z, tmp_path_factory.mktemp("static") / "page", 40).parent


def test_a_step_is_a_step_of_the_sampler(of_z: Page, tiny_generator: StyleGAN2Generator) -> None:
    of_w = tiny_session(tiny_generator, "w", tiny_generator.w_dim)
    for session in (of_z.session, of_w):
        step = graphs_of(session)["step"].module
        assert isinstance(step, Step)
        z = session.generator.prior(5)
        wanted, weights, none = torch.tensor([2.0, 0.4]), torch.tensor([3.0, 3.0]), torch.zeros(2)
        energy = session._energy(session_query(session, "hat == 2 and age == 0.4"), None, 3.0)
        slope = -energy.value_and_grad(z)[1]
        still = step(z, slope, torch.zeros(5, 1), z, wanted, weights, none, torch.zeros(1))
        assert torch.equal(still[0], z)
        torch.testing.assert_close(still[2], slope, rtol=1e-4, atol=1e-5)
        lengths = torch.linspace(0.01, 0.1, 5)[:, None]
        after, _, arrived = step(z, slope, lengths, z, wanted, weights, none, torch.zeros(1))
        euler = z + lengths * slope
        expected = z + lengths / 2 * (slope - energy.value_and_grad(euler)[1])
        torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(arrived, -energy.value_and_grad(after)[1], rtol=1e-4, atol=1e-4)


def session_query(session: Session, text: str) -> Any:
    from lace_lightning.query import parse

    return parse(text, session.schema)


def test_the_energy_of_edits_is_that_of_the_editor(of_z: Page, tiny_generator: StyleGAN2Generator) -> None:
    of_w = tiny_session(tiny_generator, "w", tiny_generator.w_dim)
    for session in (of_z.session, of_w):
        settings = EditSettings(Start(3), ("hat == 2",), 3.0)
        editor, state = session._editor(settings), session.start_state(settings.start)
        problem = editor._of_latents(state, [session_query(session, "hat == 2")])
        step, z = graphs_of(session)["step"].module, problem.start + 0.3
        o = settings.options()
        slope = step(
            z,
            torch.zeros_like(z),
            torch.zeros(1, 1),
            problem.start,
            torch.tensor([2.0, 0.0]),
            torch.tensor([3.0, 0.0]),
            torch.tensor([0.0, o.keep]),
            torch.tensor([o.proximity]),
        )[2]
        torch.testing.assert_close(slope, -problem.energy.value_and_grad(z)[1], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("space", ["z", "w"])
def test_graphs_compute_what_their_modules_compute(
    of_z: Page, tiny_generator: StyleGAN2Generator, space: str, tmp_path: Path
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    session = of_z.session if space == "z" else tiny_session(tiny_generator, "w", tiny_generator.w_dim)
    for name, graph in graphs_of(session).items():
        path = tmp_path / f"{name}.onnx"
        program = record_graph(graph.module, graph.inputs, graph.shared, graph.has_gradients)
        write_onnx(program, path, list(graph.inputs), graph.outputs, {})
        # Another number of rows, and other values, than those of the recording.
        inputs = {
            key: value if key in graph.shared else torch.cat([value, value * 0.7])
            for key, value in graph.inputs.items()
        }
        with torch.no_grad():
            expected = graph.module(*inputs.values())
        one = runtime.InferenceSession(path)
        got = one.run(None, {node.name: inputs[node.name].numpy() for node in one.get_inputs()})
        for a, b in zip(got, expected if isinstance(expected, tuple) else (expected,), strict=True):
            np.testing.assert_allclose(
                a.astype(float), b.numpy().astype(float), rtol=1e-4, atol=1.0 if b.dtype == torch.uint8 else 1e-4
            )


def test_the_folder(of_z: Page, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "index.html",
        "page.css",
        "page.js",
        "static.js",
        "data.js",
        "networks.js",
        "onnxruntime_web.js",
        "ort.wasm.min.js",
        "onnxruntime_web_LICENCE.txt",
    }
    assert str(tmp_path.parent) not in (folder / "data.js").read_text()
    networks = (folder / "networks.js").read_text()
    monkeypatch.setattr(static, "_networks", lambda page: {})
    write_static(of_z, tmp_path / "again", 40)
    write_static(of_z, tmp_path / "again", 40)
    assert networks.startswith('window.laceNetworks = {"pictures": "')
    shutil.rmtree(tmp_path / "again")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(LaceError, match="has other files: choose another"):
        write_static(of_z, tmp_path, 40)
    with pytest.raises(LaceError, match="--seeds must be from 16 to 100000, received 3"):
        write_static(of_z, tmp_path / "new", 3)
    with pytest.raises(LaceError, match="must be writable and is not"):
        write_static(of_z, tmp_path / "notes.txt" / "page", 40)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def shown(page: Any, place: str) -> list[np.ndarray]:
    sources = page.eval_on_selector_all(place, "images => images.map((image) => image.src)")
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one.split(",")[1]))).convert("RGB")) for one in sources]


def asked(page: Any, path: str, content: dict[str, Any]) -> Any:
    return page.evaluate("([path, content]) => window.laceStatic.answer(path, content)", [path, content])


def alike(images: torch.Tensor, others: list[np.ndarray]) -> None:
    assert len(images) == len(others)
    for image, other in zip(images, others, strict=True):
        # Rounding to 256 levels may differ by one.
        assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - other.astype(int)).max() <= 1


def test_the_browser_has_the_figures_of_python(of_z: Page, folder: Path, visit_at: Callable[[str], Any]) -> None:
    page, session = visit_at((folder / "index.html").as_uri()), of_z.session
    for text, strength in (("hat == red and age == 0.3", 4.0), ("hat == 'straw hat'", 9.0), ("age == 0.9", 1.0)):
        made = session.pictures(PictureSettings(text, "0-15, 20", strength))
        answer = asked(page, "/api/pictures", {"query": text, "seeds": "0-15, 20", "strength": strength})
        assert session_query(session, answer["query"]) == session_query(session, text)
        assert made.probabilities is not None
        np.testing.assert_allclose([one["p"] for one in answer["pictures"]], made.probabilities, atol=1e-3)
        figures = answer["figures"]
        assert figures["share"] == pytest.approx(made.figures.share, abs=1e-3)
        assert figures["expected"] == pytest.approx(made.figures.expected, abs=1e-3)
        assert figures["evaluations"] == pytest.approx(made.figures.evaluations, rel=0.05)
    for steps, keeps in ((["hat == red", "age == 0.8", "hat == none"], True), (["age == 0.1"], False)):
        edits = session.edited(EditSettings(Start(5), tuple(steps), 3.0, keeps))
        content = {"start": {"seed": 5}, "edits": steps, "strength": 3.0, "keeps_identity": keeps}
        answer = asked(page, "/api/edits", content)
        assert answer["figures"]["expected"] == pytest.approx(edits.figures.expected, abs=1e-3)
        pictures = [
            np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB")) for one in answer["pictures"]
        ]
        alike(edits.images, pictures)
    assert answer["steps"] == ["age == 0.1"]


def test_the_page_without_a_server(of_z: Page, folder: Path, visit_at: Callable[[str], Any]) -> None:
    page, session = visit_at((folder / "index.html").as_uri()), of_z.session
    alike(session.pictures(PictureSettings("hat == red and age == 0.3", "0-15", 4.0)).images, shown(page, "#grid img"))
    assert not page.locator("#method").is_visible()
    assert not page.locator("#photograph").is_visible()
    assert page.locator("#ask-hat option").all_inner_texts() == ["leave free", "none", "red", "straw hat"]
    page.select_option("#ask-hat", "is straw hat")
    page.wait_for_function("() => document.getElementById('query').value.startsWith('hat == \"straw hat\"')")
    assert "lace-lightning draw 'hat == \"straw hat\" and age == 0.3'" in page.inner_text("#picture-command")
    for place, text, sentence in (
        ("#query", "hat == red or age == 0.2", "lace-lightning demo takes every query"),
        ("#query", "age < 0.2", "takes comparisons with =="),
        ("#query", "smile == yes", "the attributes are hat, age"),
        ("#query", "age == 2", "values from 0 to 1, received '2'"),
        ("#query", "hat == blue", "has the classes none, red, straw hat"),
        ("#seeds", "0-40", "This page has the seeds 0 to 39, received 40"),
        ("#seeds", "-4", "Seeds are numbers and ranges"),
    ):
        refused(page, place, text, sentence)
    page.click("#tab-edits")
    page.wait_for_selector("#pair img")
    page.get_by_role("button", name="hat: red").click()
    page.wait_for_selector("#steps li")
    page.locator("#edit-age").fill("0.8")
    page.locator("#edit-age").dispatch_event("change")
    page.wait_for_function("() => document.querySelectorAll('#steps li').length === 2")
    both = shown(page, "#pair img")
    page.click("#undo")
    page.wait_for_function("() => document.querySelectorAll('#steps li').length === 1")
    page.click("#redo")
    page.wait_for_function("() => document.querySelectorAll('#steps li').length === 2")
    assert all(np.array_equal(a, b) for a, b in zip(shown(page, "#pair img"), both, strict=True))
    page.reload()
    page.wait_for_selector("#steps img")
    assert all(np.array_equal(a, b) for a, b in zip(shown(page, "#pair img"), both, strict=True))


def test_a_web_server_shows_the_same(folder: Path, visit_at: Callable[[str], Any]) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        served = shown(visit_at(f"http://127.0.0.1:{server.server_port}/index.html"), "#grid img")
        server.shutdown()
    here = shown(visit_at((folder / "index.html").as_uri()), "#grid img")
    assert all(np.array_equal(a, b) for a, b in zip(served, here, strict=True))


@pytest.mark.slow
def test_the_shipped_faces(tmp_path: Path, visit_at: Callable[[str], Any], capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["demo", "--static", str(tmp_path / "faces")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "faces" / "index.html")
    page, session = visit_at((tmp_path / "faces" / "index.html").as_uri()), load_page([]).session
    text = "smile == yes and mouth == open"
    made = session.pictures(PictureSettings(text, "0-15", 6.0))
    answer = asked(page, "/api/pictures", {"query": text, "seeds": "0-15", "strength": 6.0})
    assert made.probabilities is not None
    np.testing.assert_allclose([one["p"] for one in answer["pictures"]], made.probabilities, atol=1e-3)
    assert answer["figures"]["expected"] == pytest.approx(made.figures.expected, abs=1e-3)
