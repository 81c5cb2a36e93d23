"""Editing of given latents: results in the layout of the files, figures that are those of the run, files left alone."""

from __future__ import annotations

import csv
import errno
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lace_lightning import cli
from lace_lightning.artifacts import read_json
from lace_lightning.callbacks import LatentEditing, latent_editing
from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.data import LatentFolder
from lace_lightning.errors import LaceError
from lace_lightning.generators import load_generator
from lace_lightning.labelers import Labeler
from lace_lightning.query import parse
from lace_lightning.samplers import Heun
from lace_lightning.systems.base import System
from lace_lightning.systems.editing import EditOptions, Editor
from lace_lightning.systems.lace import LACE
from lace_lightning.weights import weight_path

# Latents of other batches are rounded in another way, which moves the steps of Heun, of tolerance 0.05.
NEAR = 0.005
EDITS = ("label == ship", "label == cat")


@pytest.fixture(scope="module")
def system() -> LACE:
    classifier = AttributeClassifier.load(weight_path("cifar10_classifier"))
    return LACE.of(classifier, Heun()).bind(load_generator("cifar10"))


@pytest.fixture(scope="module")
def judge() -> Labeler:
    return Labeler("cifar10_judge", precision="float32")


@pytest.fixture
def styles(system, tmp_path) -> np.ndarray:
    """Five w+ in three files, whose layers differ."""
    ws = system.generator.broadcast(system.generator.mapping(system.generator.prior(5, seed=4))).clone()
    ws += 0.02 * torch.randn(ws.shape, generator=torch.Generator().manual_seed(0))
    (tmp_path / "in" / "b").mkdir(parents=True)
    np.savez(tmp_path / "in" / "a.npz", w=ws[:1].numpy())
    torch.save(ws[1:2].double(), tmp_path / "in" / "b" / "0.pt")
    np.save(tmp_path / "in" / "c.npy", ws[2:, None].numpy())
    return ws.numpy()


def editing(system: LACE, judge: Labeler, root: Path, out: Path, options=None, **settings) -> LatentEditing:
    queries = [parse(edit, system.schema) for edit in EDITS]
    latents = LatentFolder(root, system.generator)
    result = LatentEditing(
        judge, queries, options or EditOptions(), latents, out, **{"progress": False, "batch_size": 2, **settings}
    )
    result.check(system)
    return result


def test_files_come_out_as_they_came_in(system, judge, styles, tmp_path) -> None:
    result = editing(system, judge, tmp_path / "in", tmp_path / "out").evaluate(system)
    editor = Editor(system.generator, system.classifier, Heun())
    state = editor.begin_styles(torch.from_numpy(styles))
    for edit in EDITS:
        state = editor.apply(state, edit)
    expected, edited = state.ws.numpy(), tmp_path / "out" / "edited"
    with np.load(edited / "a.npz") as table:
        np.testing.assert_allclose(table["w"], expected[:1], atol=NEAR)
    second = torch.load(edited / "b" / "0.pt", weights_only=True)
    assert second.dtype == torch.float64
    np.testing.assert_allclose(second, expected[1:2], atol=NEAR)
    assert np.load(edited / "c.npy").shape == (3, 1, 8, 128)
    np.testing.assert_allclose(np.load(edited / "c.npy")[:, 0], expected[2:], atol=NEAR)
    # A strip for each latent: before and after every edit.
    pictures = sorted(
        path.relative_to(tmp_path / "out/pictures").as_posix() for path in (tmp_path / "out").rglob("*.png")
    )
    assert pictures == ["a.png", "b/0.png", "c_0000.png", "c_0001.png", "c_0002.png"]
    strip = np.asarray(Image.open(tmp_path / "out/pictures/c_0001.png"))
    images = system.generator.pictures(torch.from_numpy(np.stack([styles[3], expected[3]]))).permute(0, 2, 3, 1).numpy()
    assert strip.shape == (32, 96, 3)
    np.testing.assert_allclose(strip[:, :32].astype(int), images[0], atol=2)
    np.testing.assert_allclose(strip[:, 64:].astype(int), images[1], atol=4)
    with open(tmp_path / "out" / "edits.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["file"], row["row"], row["state"]) for row in rows[:4]] == [
        ("a.npz", "0", "before"),
        ("a.npz", "0", "label == ship"),
        ("a.npz", "0", "label == cat"),
        ("b/0.pt", "0", "before"),
    ]
    holds = [int(row["holds"]) for row in rows if row["state"] == "label == cat"]
    assert result.metrics["holds"] == np.mean(holds) == result.metrics["acc"]
    assert [row["label"] == "3" for row in rows if row["state"] == "label == cat"] == [bool(h) for h in holds]
    assert result.protocol["num_samples"] == 5
    assert "2 in 2 files: w+ (by the shape (N, 8, 128)); 3 in 1 file" in result.protocol["latents"]
    assert result.grid is not None


def test_what_was_made_stays_and_the_same_command_goes_on(system, judge, styles, tmp_path, monkeypatch) -> None:
    whole = editing(system, judge, tmp_path / "in", tmp_path / "whole").evaluate(system).metrics
    write = latent_editing.write_latents

    def full(path, values, layout) -> None:
        if path.name == "c.npy":
            with latent_editing.atomic_path(path) as temporary:
                raise OSError(errno.ENOSPC, "No space left on device", str(temporary))
        write(path, values, layout)

    monkeypatch.setattr(latent_editing, "write_latents", full)
    with pytest.raises(LaceError, match=r"c\.npy' could not be written \(No space left on device\): free space"):
        editing(system, judge, tmp_path / "in", tmp_path / "out").evaluate(system)
    monkeypatch.setattr(latent_editing, "write_latents", write)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert tmp_path / "out/edited/b/0.pt" in before
    counts: list[int] = []
    apply = Editor.apply
    monkeypatch.setattr(
        Editor, "apply", lambda self, state, *rest: counts.append(len(state.ws)) or apply(self, state, *rest)
    )
    again = editing(system, judge, tmp_path / "in", tmp_path / "out").evaluate(system).metrics
    # The three latents of the last file alone, in two batches, each edited twice.
    assert counts == [2, 2, 1, 1]
    assert (tmp_path / "out/edited/b/0.pt").stat().st_mtime_ns == before[tmp_path / "out/edited/b/0.pt"]
    for name, value in whole.items():
        assert "seconds" in name or again[name] == pytest.approx(value, rel=1e-5), name
    # Other edits, other options and another file are other results.
    counts.clear()
    editing(system, judge, tmp_path / "in", tmp_path / "out", EditOptions(keep=0.0)).evaluate(system)
    assert sum(counts) == 10
    counts.clear()
    np.savez(tmp_path / "in" / "a.npz", w=styles[1:2])
    editing(system, judge, tmp_path / "in", tmp_path / "out", EditOptions(keep=0.0)).evaluate(system)
    assert counts == [1, 1]


def test_z_stays_z_and_w_becomes_styles_where_layers_differ(system, judge, tmp_path) -> None:
    z = system.generator.prior(2, seed=4)
    np.savez(tmp_path / "z.npz", z=z.numpy())
    np.savez(tmp_path / "w.npz", w=system.generator.mapping(z).numpy())
    for name, options, shape in (
        ("z", EditOptions(), (2, 128)),
        ("w", EditOptions(), (2, 128)),
        ("w", EditOptions(layers={"label": [0, 1]}), (2, 8, 128)),
    ):
        editing(system, judge, tmp_path / f"{name}.npz", tmp_path / "out", options).evaluate(system)
        with np.load(tmp_path / "out" / "edited" / f"{name}.npz") as table:
            assert table[name].shape == shape
    with pytest.raises(LaceError, match=r"Edited z cannot hold a change of some style layers alone"):
        editing(system, judge, tmp_path / "z.npz", tmp_path, EditOptions(layers={"label": [0]}))
    callback = LatentEditing(judge, [], EditOptions(), LatentFolder(tmp_path / "z.npz", system.generator), tmp_path)
    with pytest.raises(LaceError, match="Given latents are edited by LACE, and the system is Other: set model=none"):
        callback.check(Other())


class Other(System):
    """A system whose editor is not that of LACE."""

    def step_editor(self, options):
        return None


def test_the_command_edits_a_folder(styles, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))
    words = ["--experiment", "cifar10_edit", "classifier.weights=cifar10_classifier", "logger=csv", "metrics.fid=none"]
    cli.main(["edit", "in", "label == ship", "--out", "result", *words])
    assert np.load(tmp_path / "result/edited/c.npy").shape == (3, 1, 8, 128)
    assert read_json(tmp_path / "result/metrics.json")["metrics"]["holds"] > 0.5
    captured = capsys.readouterr()
    assert "latents in 'in': 2 in 2 files: w+ (by the shape (N, 8, 128)" in captured.err
    assert "results in" in captured.out
    for arguments, message in (
        (["edit", "in", *words], "Editing needs edits and received none"),
        (["edit", "none", "label == ship", *words], "'none' does not exist: check the path"),
        (
            ["edit", "in", "label == ship", "--out", "in/out", *words],
            "must not be inside of the folder of latents 'in'",
        ),
        (["edit", "in", "label == ship"], "Missing option '--experiment'"),
        (["edit", "in", "label == ship", "--space", "s", *words], "is not one of 'z', 'w', 'w+'"),
        (["edit", "in", "label == ship", *words, "generator=portraits"], "was trained on the latents of generator"),
    ):
        with pytest.raises(SystemExit):
            cli.main(arguments)
        assert message in capsys.readouterr().err
