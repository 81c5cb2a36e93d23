"""Projection: own pictures are found again, weights hold what they should, results are those of the seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import lace_lightning as lace
from lace_lightning.classifiers.embedding import Embedding
from lace_lightning.errors import LaceError
from lace_lightning.generators import Generator, ModuleGenerator
from lace_lightning.systems.projection import Projected, ProjectionOptions, Projector, pixel_distance, project


class Layers(Generator):
    """Three style layers; layer l is the colour l of a picture of 8x8."""

    def __init__(self) -> None:
        super().__init__(4, 4, (3, 8, 8), 3)
        layer = nn.Linear(4, 4)
        layer.weight.data, layer.bias.data = torch.diag(torch.tensor([0.4, 0.3, 0.2, 0.1])), torch.full((4,), 0.1)
        self.mapping = layer
        self.frozen()

    def render(self, ws: Tensor) -> Tensor:
        return torch.tanh(F.interpolate(ws.reshape(-1, 3, 2, 2), (8, 8)))


LAYERS = Layers()
QUICK = ProjectionOptions(steps=60, candidates=50, prior=0.0, spread=0.0)


class Mean(Embedding):
    """The direction of the mean colour and 1."""

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(F.pad(images.mean((2, 3)), (0, 1), value=1.0), dim=1)


def options(**changes) -> ProjectionOptions:
    return ProjectionOptions(**{**vars(QUICK), **changes})


def pictures(count: int, seed: int = 0) -> Tensor:
    """Return pictures of styles whose layers differ, which no w and no z has."""
    noise = torch.randn(count, 3, 4, generator=torch.Generator().manual_seed(seed))
    return LAYERS.synthesis(0.1 + noise * torch.tensor([0.4, 0.3, 0.2, 0.1]))


@pytest.mark.parametrize("space", ["z", "w", "w+"])
def test_pictures_of_a_space_are_found_again(space: str) -> None:
    images = pictures(3) if space == "w+" else LAYERS(LAYERS.prior(3, seed=5))
    found = project(LAYERS, images, space, options=options(steps=200))
    assert found.space == space
    assert float(found.rmse.max()) < 0.02
    torch.testing.assert_close(found.images, LAYERS.synthesis(found.ws))
    torch.testing.assert_close(found.rmse, (found.images - images).square().mean((1, 2, 3)).sqrt())
    assert (found.z is None, found.w is None) == (space != "z", space == "w+")
    if space == "z":
        torch.testing.assert_close(found.images, LAYERS(found.z))
    if space != "w+":
        torch.testing.assert_close(found.ws, found.w[:, None].expand(-1, 3, -1))


def test_faces_that_the_generator_drew_are_found_in_z() -> None:
    faces = lace.load_generator("faces")
    # Samples of the prior that are nearest lie further off.
    found = project(faces, faces(faces.prior(1, seed=777)), options=ProjectionOptions(candidates=100))
    assert float(found.rmse.max()) < 0.1
    assert float(found.z.std()) == pytest.approx(1, abs=0.35)


def test_the_last_space_of_a_generator_is_taken() -> None:
    assert project(LAYERS, pictures(1), options=QUICK).space == "w+"
    decoder = nn.Sequential(nn.Linear(2, 192), nn.Tanh(), nn.Unflatten(1, (3, 8, 8)))
    generator = ModuleGenerator(decoder, 2, (3, 8, 8))
    images = generator(generator.prior(2, seed=3))
    found = project(generator, images, options=options(steps=100))
    assert found.space == "z"
    assert float(found.rmse.max()) < 0.05
    with pytest.raises(
        LaceError, match=r"to w\+ needs a generator that has it, and ModuleGenerator has z: set the space"
    ):
        project(generator, images, "w+", options=QUICK)


def test_the_weights_hold_the_latents() -> None:
    images, whitening = pictures(4), lace.generators.whitening.Whitening.of(LAYERS)

    def sizes(**weights: float) -> tuple[float, float]:
        u = whitening.u(project(LAYERS, images, options=options(**weights)).ws)
        mean = u.mean(1, keepdim=True)
        return float(mean.square().mean()), float((u - mean).square().mean())

    mean, spread = sizes()
    held, _ = sizes(prior=1.0)
    assert held < 0.3 * mean
    _, together = sizes(spread=1.0)
    assert together < 0.1 * spread
    _, never = sizes(spread=1e4)
    assert never < 1e-3


def test_a_result_depends_on_picture_and_seed_alone() -> None:
    images = pictures(5)
    whole, alone = project(LAYERS, images, options=QUICK), project(LAYERS, images[3:4], options=QUICK)
    torch.testing.assert_close(whole.ws[3:4], alone.ws, atol=1e-3, rtol=0)
    parts = project(LAYERS, images, options=QUICK, batch_size=2)
    torch.testing.assert_close(whole.ws, parts.ws, atol=1e-3, rtol=0)
    assert torch.equal(whole.ws, project(LAYERS, images, options=QUICK).ws)
    few = options(steps=2)
    other = options(steps=2, seed=1)
    assert not torch.equal(project(LAYERS, images, options=few).ws, project(LAYERS, images, options=other).ws)
    # Bytes and arrays are pictures too.
    given = ((images + 1) * 127.5).round().byte()
    found = project(LAYERS, given.numpy(), options=QUICK)
    torch.testing.assert_close(found.ws, project(LAYERS, given, options=QUICK).ws)


def test_features_are_compared_and_identity_is_measured() -> None:
    images, embedding = pictures(3), Mean()
    found = project(LAYERS, images, "w", embedding, embedding, options(steps=20))
    torch.testing.assert_close(found.identity, embedding.distance(found.images, images))
    candidates = LAYERS(LAYERS.prior(50, lace.seeds.RunSeeds.REFERENCE))
    expected = torch.cdist(embedding(images), embedding(candidates)).amin(1)
    torch.testing.assert_close(found.closest, expected, atol=1e-5, rtol=1e-4)
    variance = embedding(candidates).var(0, correction=0).sum()
    torch.testing.assert_close(found.distance, found.identity / variance.sqrt(), atol=1e-4, rtol=1e-3)
    # Features that are the same for all pictures of the prior are left out.
    constant = project(LAYERS, images, "w", lambda x: x.mean((2, 3)).diff(dim=1) * 0 + 1, options=options(steps=2))
    assert constant.distance.tolist() == [0.0, 0.0, 0.0]
    without = project(LAYERS, images, "w", options=options(steps=20))
    assert (without.distance, without.identity, without.closest) == (None, None, None)
    # Where the prior is held, a weight of the features makes them agree.
    held = [
        project(LAYERS, images, None, embedding, embedding, options(prior=1.0, features=weight))
        for weight in (0.0, 10.0)
    ]
    assert held[0].distance is None
    assert float(held[1].identity.mean()) < 0.5 * float(held[0].identity.mean())


class Broken(Layers):
    """Pictures are NaN where the first style is large."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def render(self, ws: Tensor) -> Tensor:
        far = (ws[:, 0, 0] > self.limit)[:, None, None, None]
        return torch.where(far, torch.nan, super().render(ws))


def test_a_start_that_is_lost_does_not_spoil_the_others() -> None:
    images = pictures(3)
    found = project(Broken(0.3), images, options=QUICK)
    assert bool(found.ws.isfinite().all())
    assert bool(found.images.isfinite().all())
    with pytest.raises(
        LaceError, match="needs finite pictures, features and starts, and picture 0 of the batch has none"
    ):
        project(Broken(-100), images, options=QUICK)


def test_photographs_are_read_by_path(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (20, 30), (200, 100, 60)).save(tmp_path / f"{name}.png")
    found = project(LAYERS, tmp_path, options=QUICK)
    assert len(found.ws) == 2
    torch.testing.assert_close(found.ws[:1], project(LAYERS, [tmp_path / "a.png"], options=QUICK).ws, atol=1e-3, rtol=0)


def test_the_distance_of_pixels_by_hand() -> None:
    first, second = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
    second[..., ::2] = 1.0  # stripes: half of the pixels, every edge of a row, and 1/2 everywhere in the half
    expected = 0.5 + 0.0 + 1.0 + 0.25
    assert float(pixel_distance(first, second)) == pytest.approx(expected)


def test_parts_can_be_joined() -> None:
    whole = project(LAYERS, pictures(3), "w", options=options(steps=2))
    again = Projected.joined([whole.rows(slice(0, 1)), whole.rows(slice(1, 3))])
    assert torch.equal(again.ws, whole.ws)
    assert torch.equal(again.latents, whole.w)
    assert again.identity is None


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 4, 4), r"of shape \(B, 3, 8, 8\), received float32 of shape \(2, 3, 4, 4\)"),
        (torch.zeros(0, 3, 8, 8), r"received float32 of shape \(0, 3, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.long), "received int64 of shape"),
        (torch.full((1, 3, 8, 8), 2.0), r"must lie in \[-1, 1\], received values from 2 to 2"),
        (torch.full((1, 3, 8, 8), torch.nan), "received values from nan to nan"),
        (np.array(["a"]), "must be a tensor or an array .*, or paths of photographs, and these are none"),
        ("nowhere.jpg", "'nowhere.jpg' does not exist"),
    ],
)
def test_what_is_no_picture_is_refused(images, message: str) -> None:
    with pytest.raises(LaceError, match=message):
        project(LAYERS, images, options=QUICK)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": "w++"}, r"must be one of z, w, w\+, received 'w\+\+'"),
        ({"steps": 0}, "steps of a projection must be at least 1, received 0"),
        ({"candidates": 0}, "candidates of a projection must be at least 1, received 0"),
        ({"prior": -1.0}, "prior of a projection must be a finite number of at least 0"),
        ({"learning_rate": float("nan")}, "learning_rate of a projection must be above 0, received nan"),
    ],
)
def test_options_out_of_range_are_refused(changes, message: str) -> None:
    with pytest.raises(LaceError, match=message):
        ProjectionOptions(**changes)
    with pytest.raises(LaceError, match="batch_size of a projection must be at least 1"):
        project(LAYERS, pictures(1), batch_size=0)


def test_a_stylegan_is_projected_to_z(tiny_generator) -> None:
    z = tiny_generator.prior(2, seed=5)
    projector = Projector(tiny_generator, ProjectionOptions("z", steps=10, candidates=20))
    with torch.inference_mode():
        found = projector(tiny_generator(z))
    assert found.z.shape == (2, 8)
    torch.testing.assert_close(found.images, tiny_generator(found.z))
