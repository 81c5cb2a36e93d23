"""Identity by networks of others: what a TorchScript file sees, and how its vectors become a distance."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lace_lightning.classifiers import ScriptedEmbedding, load_embedding
from lace_lightning.classifiers.embedding import CROPS
from lace_lightning.errors import LaceError


class Channels(nn.Module):
    """Mean of each channel: a picture of one colour is its own embedding."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Weighted(nn.Module):
    """Pixels times fixed weights: knows left from right."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * size * size, 4)
        self.register_buffer("steps", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1)) * self.steps


class Odd(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        if self.what == "rank":
            return x
        if self.what == "nan":
            return x.mean((2, 3)) * float("nan")
        if self.what == "integers":
            return x.mean((2, 3)).long()
        return x[:1].mean((2, 3))


def scripted(module: nn.Module, path: Path) -> Path:
    torch.jit.script(module).save(str(path))
    return path


def colour(*rgb: float, size: int = 8) -> Tensor:
    return torch.tensor(rgb, dtype=torch.float32)[None, :, None, None].expand(1, 3, size, size)


def test_distance_of_a_linear_embedding_is_that_of_the_cosine(tmp_path: Path) -> None:
    embedding = ScriptedEmbedding(scripted(Channels(), tmp_path / "e.pt"), resolution=4)
    distance = embedding.distance(colour(1, 0, 0), colour(0.5, 0.5, 0))
    cosine = 0.5**0.5
    assert float(distance) == pytest.approx((2 - 2 * cosine) ** 0.5, rel=1e-6)
    assert float(embedding.distance(colour(1, 0, 0), colour(-0.3, 0, 0))) == pytest.approx(2)
    assert float(embedding(colour(0.2, 0.1, 0.1)).norm()) == pytest.approx(1)


def test_range_and_channels(tmp_path: Path) -> None:
    file = scripted(Channels(), tmp_path / "e.pt")
    pixels = ScriptedEmbedding(file, resolution=8, range=(0, 255), channels="bgr").prepare(colour(-1, 0, 1))
    assert pixels[0, :, 0, 0].tolist() == [255, 127.5, 0]
    # One channel black, one grey, one white, as bytes: (0, 127.5, 255) and its reverse.
    embedding = ScriptedEmbedding(file, resolution=8, range=(0, 1))
    assert float(embedding.distance(colour(-1, 0, 1), colour(1, 0, -1))) == pytest.approx(
        (2 - 2 * 0.25 / 1.25) ** 0.5, rel=1e-6
    )


def test_a_crop_picks_its_pixels(tmp_path: Path) -> None:
    file = scripted(Channels(), tmp_path / "e.pt")
    images = torch.rand(2, 3, 20, 20) * 2 - 1
    part = ScriptedEmbedding(file, resolution=4, crop=[0.25, 0.5, 0.45, 0.7]).prepare(images)
    assert torch.equal(part, -1 + (images[:, :, 10:14, 5:9] + 1))
    # LACE's rows and columns of 256.
    images = torch.rand(1, 3, 256, 256)
    part = ScriptedEmbedding(file, resolution=188, crop="ffhq_lace").prepare(images)
    torch.testing.assert_close(part, images[:, :, 35:223, 32:220])


def test_shrinking_is_antialiased(tmp_path: Path) -> None:
    board = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2).float() * 2 - 1
    small = ScriptedEmbedding(scripted(Channels(), tmp_path / "e.pt"), resolution=4).prepare(board.expand(1, 3, 64, 64))
    assert small.abs().max() < 0.05


def test_mirror_images_have_one_embedding_where_both_are_averaged(tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = scripted(Weighted(6), tmp_path / "e.pt")
    images = torch.rand(3, 3, 6, 6) * 2 - 1
    one, both = (ScriptedEmbedding(file, resolution=6, flip=flip) for flip in (False, True))
    assert one.distance(images, images.flip(-1)).min() > 0.05
    assert both.distance(images, images.flip(-1)).max() < 1e-3
    torch.testing.assert_close(both(images), torch.nn.functional.normalize(one(images) + one(images.flip(-1)), dim=1))


def test_the_crop_of_arcface_puts_a_face_where_its_template_has_it() -> None:
    """Align the template's points as FFHQ aligns faces, cut, and find them at their places in 112 pixels."""
    points = torch.tensor(
        [[38.2946, 51.6963], [73.5318, 51.5014], [41.5493, 92.3655], [70.7299, 92.2041]], dtype=torch.float64
    )
    face = points * 3.7 + torch.tensor([100.0, 50.0])
    eyes, mouth = (face[0] + face[1]) / 2, (face[2] + face[3]) / 2
    half = max(2.0 * (face[1] - face[0]).norm(), 1.8 * (mouth - eyes).norm())
    aligned = (face - (eyes + 0.1 * (mouth - eyes)) + half) / (2 * half)
    left, top, right, bottom = CROPS["ffhq_arcface"]
    corner, side = (torch.tensor(pair, dtype=torch.float64) for pair in ([left, top], [right - left, bottom - top]))
    seen = (aligned - corner) / side * 112 - 0.5
    torch.testing.assert_close(seen, points, atol=1e-6, rtol=0)
    assert max(abs(a - b) for a, b in zip(CROPS["ffhq_arcface"], CROPS["ffhq_lace"], strict=True)) < 0.03


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"crop": [0.5, 0, 0.5, 1]}, "left, top, right, bottom"),
        ({"crop": [0, 0, 1]}, "left, top, right, bottom"),
        ({"crop": "ffhq_arcfase"}, "Did you mean 'ffhq_arcface'"),
        ({"channels": "rbg"}, "rgb or bgr"),
        ({"range": [1, 0]}, "two numbers"),
        ({"resolution": 0}, "at least 1"),
        ({"size": 3}, "settings that a TorchScript file does not take"),
    ],
)
def test_settings_that_mean_nothing(settings: dict, words: str, tmp_path: Path) -> None:
    file = scripted(Channels(), tmp_path / "e.pt")
    with pytest.raises(LaceError, match=words):
        load_embedding({"script": str(file), **settings})


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("rank", r"shape \(2, D\), received torch.float32 \(2, 3, 112, 112\)"),
        ("nan", "finite numbers"),
        ("integers", "received torch.int64"),
        ("one", r"received .*\(1, 3\)"),
    ],
)
def test_networks_that_are_no_embedding(what: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(LaceError, match=words):
        ScriptedEmbedding(scripted(Odd(what), tmp_path / "e.pt"))


def test_files_that_are_no_network(tmp_path: Path) -> None:
    with pytest.raises(LaceError, match="does not exist"):
        ScriptedEmbedding(tmp_path / "e.pt")
    torch.save(Channels().state_dict(), tmp_path / "state.pt")
    (tmp_path / "text.pt").write_text("nothing")
    (tmp_path / "page.pt").write_text("<html>sign in</html>")
    for name in ("state.pt", "text.pt", "page.pt"):
        with pytest.raises(LaceError, match="must be a TorchScript file"):
            ScriptedEmbedding(tmp_path / name)
    with pytest.raises(LaceError, match=re.escape("must take pictures of shape (2, 3, 112, 112)")):
        ScriptedEmbedding(scripted(Weighted(6), tmp_path / "e.pt"))


def test_a_program_runs_only_where_it_is_spelled_out(tmp_path: Path) -> None:
    file = scripted(Channels(), tmp_path / "e.pt")
    for settings in (str(file), {"weights": str(file)}):
        with pytest.raises(LaceError, match=re.escape(f"task.identity.script={file}")):
            load_embedding(settings)
    file.rename(tmp_path / "e.safetensors")
    with pytest.raises(LaceError, match="safetensors file"):
        load_embedding(str(tmp_path / "e.safetensors"))
    assert load_embedding(None) is None
    assert load_embedding({"weights": None, "script": None, "resolution": 112}) is None


def test_frozen_programs_are_read(tmp_path: Path) -> None:
    frozen = torch.jit.freeze(torch.jit.script(Weighted(6).eval()))
    frozen.save(str(tmp_path / "e.pt"))
    assert ScriptedEmbedding(tmp_path / "e.pt", resolution=6)(torch.zeros(2, 3, 6, 6)).shape == (2, 4)
