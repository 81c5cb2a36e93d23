"""The renderer: areas, symmetry, what each attribute touches, and the population."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from lace_lightning.errors import LaceError
from lace_lightning.portraits import IDENTITY, PORTRAITS_SCHEMA, render, sample_attributes, sample_identity
from lace_lightning.portraits.canvas import Canvas, Shape, box, crescent, egg, ellipse, stroke
from lace_lightning.schema import Labels

SEEDS = torch.arange(40)


def changed(**columns: float) -> tuple[Labels, torch.Tensor]:
    """Labels of the first people with some attributes replaced."""
    labels = sample_attributes(SEEDS)
    for name, value in columns.items():
        labels.values[:, PORTRAITS_SCHEMA.index(name)] = value
    return labels, sample_identity(SEEDS)


def area(shape: Shape, resolution: int = 64) -> torch.Tensor:
    canvas = Canvas(1, resolution, "cpu")
    canvas.paint(shape, torch.ones(1, 3))
    return canvas.image[:, 0].sum((1, 2)) * canvas.pixel**2


def one(*values: float) -> list[torch.Tensor]:
    return [torch.tensor([value]) for value in values]


def test_painted_areas_are_those_of_the_shapes():
    assert area(ellipse(*one(0.1, -0.2, 0.5, 0.4))).item() == pytest.approx(math.pi * 0.2, rel=5e-3)
    assert area(egg(*one(0.1, -0.2, 0.5, 0.4, 0.0))).item() == pytest.approx(math.pi * 0.2, rel=5e-3)
    assert area(box(*one(0.03, 0.01, 0.5, 0.3, 0.1))).item() == pytest.approx(0.6 - (4 - math.pi) * 0.01, rel=5e-3)
    assert area(stroke(*one(0.0, 0.1, 0.6, 0.1, 0.2, 0.1))).item() == pytest.approx(0.24, rel=2e-2)
    # A parabolic segment has two thirds of the rectangle about it.
    assert area(crescent(*one(0.0, 0.0, 0.6, 0.1, 0.5)), 128).item() == pytest.approx(2 / 3 * 1.2 * 0.4, rel=2e-2)
    disc = ellipse(*one(0, 0, 0.5, 0.5))
    assert area(disc.outline(torch.tensor([0.05]))).item() == pytest.approx(2 * math.pi * 0.5 * 0.1, rel=1e-2)
    other = ellipse(*one(0.3, 0, 0.5, 0.5))
    assert (area(disc & other) + area(disc - other)).item() == pytest.approx(area(disc).item(), rel=1e-2)
    assert (area(disc & other) + area(disc | other)).item() == pytest.approx(2 * area(disc).item(), rel=1e-2)


def test_the_window_that_is_painted_leaves_nothing_out(monkeypatch):
    labels, identity = changed()
    quick = render(labels, identity, 48)
    monkeypatch.setattr(Canvas, "_window", lambda self, bounds: (slice(None), slice(None)))
    assert torch.allclose(quick, render(labels, identity, 48), atol=1e-5)


def test_a_portrait_does_not_depend_on_its_batch():
    labels, identity = changed()
    alone = torch.cat([render(labels[i : i + 1], identity[i : i + 1], 32) for i in range(len(SEEDS))])
    assert torch.allclose(render(labels, identity, 32), alone, atol=1e-6)


def test_mirrored_attributes_make_the_mirror_image():
    labels, identity = changed()
    identity[:, IDENTITY.index("background_hue")] = 0.3
    mirrored = Labels(PORTRAITS_SCHEMA, labels.values.clone())
    for name in ("yaw", "light3"):
        column = PORTRAITS_SCHEMA.index(name)
        mirrored.values[:, column] = 1 - mirrored.values[:, column]
    assert torch.allclose(render(labels, identity, 64).flip(-1), render(mirrored, identity, 64), atol=2e-5)


def test_a_finer_picture_shows_the_same():
    labels, identity = changed()
    error = (F.avg_pool2d(render(labels, identity, 256), 4) - render(labels, identity, 64)).abs()
    assert error.mean() < 0.02


def test_every_attribute_is_seen_and_touches_its_part_alone():
    frontal = {"yaw": 0.5, "pitch": 0.5, "age": 0.5, "glasses": 0, "smile": 0, "beard": 0, "gender": 1}
    rows = torch.linspace(-0.83, 0.89, 64)

    def difference(name: str, low: float, high: float) -> torch.Tensor:
        pictures = [render(*changed(**{**frontal, name: value}), 64) for value in (low, high)]
        return (pictures[1] - pictures[0]).abs().amax(1)

    glasses, smile, beard = (difference(name, 0, 1) for name in ("glasses", "smile", "beard"))
    assert glasses[:, rows > 0.25].max() < 1e-6
    assert (glasses.amax((1, 2)) > 0.3).all()
    assert smile[:, rows < 0.15].max() < 1e-6
    assert (smile.amax((1, 2)) > 0.3).all()
    assert beard[:, rows < -0.1].max() < 1e-6
    for attribute in PORTRAITS_SCHEMA:
        high = attribute.num_classes - 1 if attribute.kind == "discrete" else 1
        touched = (difference(attribute.name, 0, high) > 0.1).float().mean((1, 2))
        assert (touched > 0.02).all(), attribute.name


def test_light_and_age_work_in_one_direction():
    def mean(name: str, value: float, region: slice) -> torch.Tensor:
        return render(*changed(**{name: value}), 32)[..., region].mean((1, 2, 3))

    values = [mean("light0", v, slice(None)) for v in (0, 0.25, 0.5, 0.75, 1)]
    assert all((b > a).all() for a, b in pairwise(values))
    sides = [mean("light3", v, slice(16, None)) - mean("light3", v, slice(0, 16)) for v in (0, 0.5, 1)]
    assert (sides[0] < sides[1]).all()
    assert (sides[1] < sides[2]).all()


def test_the_population_is_like_people():
    people = sample_attributes(torch.arange(100_000))
    smile, glasses, male, beard, age = (people.column(name) for name in ("smile", "glasses", "gender", "beard", "age"))
    assert ((people.values >= 0) & (people.values <= 4)).all()
    assert smile.mean() > 0.52
    assert 0.15 < glasses.mean() < 0.35
    assert beard[male == 0].sum() == 0
    assert beard[(male == 1) & (age < 0.15)].mean() < 0.05
    assert glasses[age > 0.7].mean() > 1.5 * glasses[age < 0.3].mean()
    # The combinations of the zero-shot experiment.
    assert not ((beard == 1) & (smile == 0) & (glasses == 1) & (age < 0.4)).any()
    assert not ((male == 0) & (smile == 0) & (glasses == 1) & (age < 0.4)).any()
    # And what each is made of does occur.
    for part in (
        (beard == 1) & (age < 0.2),
        (glasses == 1) & (age < 0.2),
        (glasses == 1) & (male == 0),
        (smile == 0) & (age < 0.2),
    ):
        assert part.sum() > 50


def test_person_i_depends_on_seed_i_alone():
    assert torch.equal(sample_attributes(SEEDS).values[7:9], sample_attributes(SEEDS[7:9]).values)
    assert torch.equal(sample_identity(SEEDS)[7:9], sample_identity(SEEDS[7:9]))


def test_what_cannot_be_drawn_is_refused():
    labels, identity = changed()
    with pytest.raises(LaceError, match="identity factors of shape"):
        render(labels, identity[:, :3])
    with pytest.raises(LaceError, match="yaw"):
        render(changed(yaw=1.5)[0], identity)
    with pytest.raises(LaceError, match="haircolor"):
        render(changed(haircolor=5)[0], identity)
