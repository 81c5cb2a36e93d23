"""lace-lightning project: files of photographs become latents, and are edited as any latents."""

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
from lace_lightning.errors import LaceError
from lace_lightning.generators import load_generator
from lace_lightning.pictures.grids import read_image, to_picture
from lace_lightning.run import project as project_module
from lace_lightning.systems.projection import Projector

QUICK = ["--steps", "3", "--starts", "2"]


@pytest.fixture
def photographs(tmp_path, monkeypatch) -> Path:
    """Three photographs: one of the generator's own pictures, one that is wide, and one of CMYK in a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))
    # Fewer samples of the prior, which are drawn in every test.
    monkeypatch.setattr("lace_lightning.systems.projection.COMPARED_SIDE", 8)
    monkeypatch.setattr("lace_lightning.generators.whitening.SAMPLES", 500)
    monkeypatch.setattr("lace_lightning.generators.whitening.SAMPLES_PER_DIMENSION", 1)
    generator = load_generator("cifar10")
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    to_picture(generator.pictures(generator.mapping(generator.prior(1, seed=8)))[0]).save(folder / "own.png")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 12, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    Image.fromarray(pixels).save(folder / "wide.jpg")
    Image.fromarray(pixels).convert("CMYK").save(folder / "more" / "print.jpg")
    return folder


def test_photographs_become_latents(photographs, capsys) -> None:
    cli.main(["project", "photographs", "--generator", "cifar10", "--out", "out", *QUICK])
    out = Path("out")
    names = ["more/print", "own", "wide"]
    with open(out / "projection.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == names
    assert [row["cut"] for row in rows] == [
        "120x60, the 60x60 in the middle, to 32x32",
        "32x32, to 32x32",
        rows[0]["cut"],
    ]
    generator = load_generator("cifar10")
    for name, row in zip(names, rows, strict=True):
        with np.load(out / "latents" / f"{name}.npz") as table:
            ws = torch.from_numpy(table["w"])
        assert ws.shape == (1, 8, 128)
        shown = generator.pictures(ws)[0].int()
        assert (read_image(out / "projected" / f"{name}.png").int() - shown).abs().max() <= 1
        cut = read_image(out / "photographs" / f"{name}.png")
        assert cut.shape == (3, 32, 32)
        rmse = (shown - cut.int()).float().div(127.5).square().mean().sqrt()
        assert float(row["rmse"]) == pytest.approx(float(rmse), abs=0.01)
    report = read_json(out / "report.json")
    assert report["photographs"] == 3
    assert report["recipe"]["space"] == "w+"
    assert list(report["recipe"]["features"]) == ["judge"]
    text = capsys.readouterr().out
    assert "Projected to w+: weights 0.0003 of the prior, 0.0003 of the spread of layers, " in text
    assert "results in out" in text
    assert (out / "samples.png").is_file()


def test_the_same_command_goes_on_after_a_full_disk(photographs, monkeypatch, capsys) -> None:
    words = ["project", "photographs", "--generator", "cifar10", "--out", "out", "--features", "none", *QUICK]
    write = project_module.write_latents

    def full(path, *rest) -> None:
        if path.name == "wide.npz":
            with project_module.atomic_path(path) as temporary:
                raise OSError(errno.ENOSPC, "No space left on device", str(temporary))
        write(path, *rest)

    monkeypatch.setattr(project_module, "write_latents", full)
    with pytest.raises(SystemExit):
        cli.main(words)
    assert "wide.npz' could not be written (No space left on device): free space" in capsys.readouterr().err
    monkeypatch.setattr(project_module, "write_latents", write)
    kept = Path("out/latents/own.npz").stat().st_mtime_ns
    counts: list[int] = []
    call = Projector.__call__
    monkeypatch.setattr(Projector, "__call__", lambda self, images: counts.append(len(images)) or call(self, images))
    cli.main(words)
    assert counts == [1]
    assert Path("out/latents/own.npz").stat().st_mtime_ns == kept
    cli.main(words)
    assert counts == [1]
    # Another weight, or a photograph that has changed, is another projection.
    cli.main([*words, "--prior", "0.01"])
    assert counts == [1, 3]
    Image.new("RGB", (40, 40), "red").save(photographs / "own.png")
    cli.main([*words, "--prior", "0.01"])
    assert counts == [1, 3, 1]


def test_projected_latents_are_edited(photographs, capsys) -> None:
    arguments = ["project", "photographs/own.png", "--experiment", "cifar10_edit", "--out", "out", *QUICK]
    edits = ["--edit", "label == ship", "classifier.weights=cifar10_classifier", "logger=csv", "metrics.fid=none"]
    cli.main([*arguments, *edits])
    out = Path("out")
    with np.load(out / "edited" / "own.npz") as table:
        assert table["w"].shape == (1, 8, 128)
    assert Image.open(out / "pictures" / "own.png").size == (64, 32)
    # Photograph, projected, edited: three columns.
    assert Image.open(out / "samples.png").width > 3 * 96
    assert read_json(out / "metrics.json")["protocol"]["query"] == "label == ship"
    with pytest.raises(SystemExit):
        cli.main(["project", "photographs", "--generator", "cifar10", "--edit", "label == ship"])
    assert "--edit needs a classifier: give --experiment NAME" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["empty", "--generator", "cifar10"], "'empty' holds no picture"),
        (["text.jpg", "--generator", "cifar10"], "'text.jpg' must be a picture and could not be read"),
        (["photographs", "--generator", "cifr10"], "Did you mean 'cifar10'"),
        (["photographs", "--generator", "cifar10", "--out", "photographs/out"], "must not be inside of the folder of"),
        (["photographs"], "needs a generator: give --generator NAME"),
        (["photographs", "--generator", "cifar10", "--crop", "0,0,9"], "must be 4 whole numbers with commas, received"),
        (["photographs", "--generator", "cifar10", "--crop", "0,0,99,99"], "must lie inside of its 120x60 pixels"),
        (["photographs", "--generator", "cifar10", "--features", "identity"], "there is none for this generator"),
        (["photographs", "--generator", "cifar10", "--features", "jugde"], "Did you mean 'judge'"),
        (["photographs", "--generator", "cifar10", "--steps", "0"], "steps of a projection must be at least 1"),
        (["photographs", "--generator", "cifar10", "--space", "x"], "is not one of 'z', 'w', 'w+'"),
    ],
)
def test_wrong_input_is_one_sentence(arguments, message, photographs, capsys) -> None:
    Path("empty").mkdir()
    Path("text.jpg").write_text("no picture", encoding="utf-8")
    with pytest.raises(SystemExit):
        cli.main(["project", *arguments])
    error = capsys.readouterr().err
    assert message in error
    assert error.count("error:") == 1
    assert not Path("projected/latents").exists()


def test_the_networks_of_a_name_are_taken() -> None:
    networks = project_module.Networks.of("portraits", settings=["generator.truncation=0.9"])
    assert networks.generator.truncation == 0.9
    assert list(networks.features(None)) == ["identity", "judge"]
    assert networks.features("none") == {}
    assert list(networks.features("judge")) == ["judge"]
    shipped = project_module.Networks.of("portraits_generator")
    assert (shipped.judge, shipped.identity) == (None, None)
    # Judges of faces are no features of a projection.
    assert list(project_module.Networks.of("faces").features(None)) == ["identity"]
    edit = project_module.Networks.of(None, "portraits_edit")
    assert edit.generator.truncation == 0.5
    assert edit.identity is not None
    with pytest.raises(LaceError, match="cannot be composed"):
        project_module.Networks.of("portraits", settings=["generator.nothing=1"])
