"""The evaluation, with networks whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lace_lightning.cache import Cache
from lace_lightning.callbacks import ConditionalSampling, SequentialEditing
from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.energies import HalfLine
from lace_lightning.errors import LaceError
from lace_lightning.generators import ModuleGenerator
from lace_lightning.labelers import Labeler
from lace_lightning.metrics import FeatureStatistics, frechet_distance
from lace_lightning.metrics.feature_space import FeatureSpace
from lace_lightning.pictures.convert import from_bytes, to_bytes
from lace_lightning.pictures.grids import labelled_grid
from lace_lightning.query import parse
from lace_lightning.samplers import Annealed, Auto, Checked, EllipticalSlice, HamiltonianMC, Heun, Langevin, Rejection
from lace_lightning.schema import Attribute, Labels, Schema
from lace_lightning.systems.editing import EditOptions
from lace_lightning.systems.lace import LACE, EnergyOptions
from lace_lightning.targets import free_labels, wanted_labels

SCHEMA = Schema("s", (Attribute("side", "discrete", 2, ("dark", "light")), Attribute("age", "continuous")))


class Shade(nn.Module):
    """The picture's grey is tanh(z_0)."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(z[:, :1, None, None]).expand(-1, 3, 8, 8)


class Reader(Labeler):
    """Reads the grey off the picture: light when above zero; age is its half-range value."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.name, self.num_seen, self.confidence = "reader", 0, 0.0

    schema = SCHEMA
    digest = "reader"
    num_features = 2

    def features_and_logits(self, images):
        self.num_seen += len(images)
        grey = images.mean((1, 2, 3))
        logits = torch.stack([-grey, grey, grey / 2 + 0.5], dim=1)
        return torch.stack([grey, images[:, 0, 0, 0] ** 2], dim=1), logits

    def features(self, images):
        return self.features_and_logits(images)[0]


def build(query: str, **options) -> tuple[ConditionalSampling, LACE]:
    generator = ModuleGenerator(Shade(), 3, (3, 8, 8))
    classifier = AttributeClassifier(SCHEMA, "z", "mlp", {"input_dim": 3, "hidden": []})
    with torch.no_grad():
        classifier.network.weight0.zero_()
        classifier.network.bias0.zero_()
        classifier.network.weight0[0, 0] = torch.tensor([-4.0, 4.0, 0.0])
    labeler = options.pop("labeler", None)
    extra = options.pop("extra", None)
    system = LACE.of(classifier.requires_grad_(False), options.pop("sampler", Heun()), extra=extra)
    callback = ConditionalSampling(
        Reader(),
        parse(query, SCHEMA),
        progress=False,
        timing_repeats=0,
        **{"num_samples": 60, "batch_size": 20, "seed": 3, **options},
    )
    return callback, system.bind(generator, labeler)


def test_what_is_asked_for_comes_out() -> None:
    callback, classifier = build("side == *")
    result = callback.evaluate(classifier)
    assert (
        result.metrics["acc"]
        == result.metrics["acc/side/dark"]
        == result.metrics["acc/side/light"]
        == result.metrics["holds"]
        == 1.0
    )
    assert 1 < result.metrics["evaluations"] < 100
    assert result.grid is not None
    pixels = np.asarray(result.grid)
    assert pixels.shape[0] > 2 * 64
    backwards, classifier = build("side == dark")
    classifier.classifier.network.weight0.neg_()
    assert backwards.evaluate(classifier).metrics["acc"] == 0.0


@pytest.mark.parametrize("sampler", [Heun(), Langevin(20)])
def test_figures_do_not_depend_on_batches_or_processes(sampler) -> None:
    callback, classifier = build("side == *", sampler=sampler)
    whole = callback.evaluate(classifier).metrics
    small, _ = build("side == *", sampler=sampler, batch_size=7)
    for name, value in small.evaluate(classifier).metrics.items():
        if "seconds" not in name:
            assert value == pytest.approx(whole[name], rel=1e-6)
    z = [callback.draw(classifier, first, count, torch.device("cpu"))[0].sample.z for first, count in ((0, 20), (5, 4))]
    torch.testing.assert_close(z[0][5:9], z[1])


def edits(*texts: str, **options) -> tuple[SequentialEditing, LACE]:
    sampling, classifier = build("side == *")
    classifier.classifier.network.weight0[0, 1, 2] = 1.0  # age reads the second latent, which the picture does not show
    settings = {
        "num_samples": 60,
        "batch_size": 20,
        "seed": 3,
        "identity": lambda a, b: (a - b).abs().mean((1, 2, 3)),
        **options,
    }
    return SequentialEditing(
        sampling.judge,
        [parse(text, SCHEMA) for text in texts],
        EditOptions(proximity=0.0, keep=0.0),
        progress=False,
        **settings,
    ), classifier


def test_edits_are_measured_one_by_one() -> None:
    long = "side == light and not age == 0.123456 and not age == 0.234567 and not age == 0.345678"
    callback, classifier = edits(long, "age == 0.5", "side == dark")
    result = callback.evaluate(classifier)
    m = result.metrics
    assert m["edit1/acc"] == 1.0
    # The new side takes the old one's place.
    assert m["acc/side"] == m["acc/side/dark"] == 1.0
    assert m["acc"] == m["edit3/acc"] == pytest.approx((1 + m["acc/age"]) / 2)
    assert m["des"] == pytest.approx((m["edit1/des"] + m["edit2/des"] + m["edit3/des"]) / 3)
    assert m["edit1/id"] < m["edit3/id"]
    assert m["edit1/des"] == pytest.approx(1.0, abs=0.5)
    assert np.asarray(result.grid).shape[0] > 8 * 96
    # Every state stays for eight frames, and eight lead from one to the next.
    assert len(result.frames) == 8 + 3 * 15
    assert len({frame.size for frame in result.frames}) == 1
    small, _ = edits(long, "age == 0.5", "side == dark", batch_size=7)
    for name, value in small.evaluate(classifier).metrics.items():
        if "seconds" not in name:
            assert value == pytest.approx(m[name], rel=1e-6), name


def test_distance_and_unconditional_generator(tmp_path) -> None:
    reference = FeatureStatistics(2)
    reference.update(torch.randn(500, 2))
    features = lambda x: Reader().features_and_logits(x.float() / 127.5 - 1)[0]  # noqa: E731
    space = FeatureSpace("fd_reader", features, 2, reference.compute(), {"network": "r"})
    callback, classifier = build("side == light", feature_space=space, cache=Cache(tmp_path))
    metrics = callback.evaluate(classifier).metrics
    images = ((classifier.generator(classifier.generator.prior(60, 3)) + 1) * 127.5).round().byte()
    alone = FeatureStatistics(2)
    alone.update(space.features(images))
    assert metrics["fd_reader/unconditional"] == pytest.approx(
        frechet_distance(alone.compute(), reference.compute()), rel=1e-6
    )
    assert metrics["fd_reader"] != metrics["fd_reader/unconditional"]
    again = callback.evaluate(classifier).metrics
    assert again["fd_reader/unconditional"] == pytest.approx(metrics["fd_reader/unconditional"])


def test_conditions() -> None:
    query = parse("side == * and age == *", SCHEMA)
    free = free_labels(query, 6, seed=2, first=3)
    assert free.column("side").tolist() == [1, 0, 1, 0, 1, 0]
    assert torch.equal(free.column("age")[2:], free_labels(query, 4, seed=2, first=5).column("age"))
    assert wanted_labels(query, 6, free).known.all()
    mixed = parse("side == light and not age == 0.5", SCHEMA)
    assert wanted_labels(mixed, 2, None).known.tolist() == [[True, False]] * 2
    assert free_labels(mixed, 2) is None
    table = Labels(SCHEMA, torch.tensor([[1, 0.2], [0, 0.7], [1, 0.9]]))
    taken = free_labels(parse("age == * and side == light", SCHEMA), 4, first=1, table=table)
    assert taken.column("age").tolist() == pytest.approx([0.7, 0.9, 0.2, 0.7])
    assert taken.known.tolist() == [[False, True]] * 4


def test_the_distance_may_have_codes_of_its_own(tmp_path) -> None:
    reference = FeatureStatistics(2)
    reference.update(torch.randn(500, 2))
    space = FeatureSpace(
        "fd_reader", lambda x: Reader().features(x.float() / 127.5 - 1), 2, reference.compute(), {"network": "r"}
    )
    callback, classifier = build("side == *", feature_space=space, cache=Cache(tmp_path))
    only_light, _ = build("side == light", feature_space=space, cache=Cache(tmp_path))
    balanced = callback.evaluate(classifier).metrics
    callback.distance_codes, callback.pairs = "pairs", Labels(SCHEMA, torch.tensor([[1.0, 0.5]]))
    own = callback.evaluate(classifier).metrics
    assert own["fd_reader"] == pytest.approx(only_light.evaluate(classifier).metrics["fd_reader"])
    assert own["fd_reader"] != balanced["fd_reader"]
    assert {name: own[name] for name in own if name.startswith("acc")} == {
        n: balanced[n] for n in balanced if n.startswith("acc")
    }


def test_a_disjunction_is_shared_out() -> None:
    callback, classifier = build("side == dark or age > 0.7")
    metrics = callback.evaluate(classifier).metrics
    generator, judge = classifier.generator, callback.judge
    seen = judge.labels(from_bytes(to_bytes(generator(generator.prior(callback.num_samples, callback.seed)))))
    dark, old = seen.column("side") == 0, seen.column("age") > 0.7
    assert metrics["prior/holds"] == pytest.approx(float((dark | old).float().mean()))
    assert metrics["prior/branch/side == dark"] == pytest.approx(float(dark.sum() / (dark | old).sum()))
    assert metrics["prior/branch/several"] == pytest.approx(float((dark & old).sum() / (dark | old).sum()))
    assert metrics["branch/side == dark"] + metrics["branch/age > 0.7"] == pytest.approx(1 + metrics["branch/several"])
    assert 0.9 < metrics["holds"] <= 1
    assert parse("side == dark and age > 0.7", SCHEMA).branches == ()
    nested = parse("(side == dark and age > 0.7) or not (side == light or age < 0.5) or side == light", SCHEMA)
    assert [str(branch) for branch in nested.branches] == [
        "side == dark and age > 0.7",
        "not (side == light or age < 0.5)",
        "side == light",
    ]


def test_grid_is_laid_out_in_rows() -> None:
    rows = [torch.full((2, 3, 32, 32), 255, dtype=torch.uint8), torch.zeros(3, 1, 32, 32, dtype=torch.uint8)]
    grid = labelled_grid(rows, ["light", "dark"], "title")
    pixels = np.asarray(grid)
    assert (pixels[-40, -40] == 0).all()
    assert pixels.shape[1] > 3 * 64
    headed = np.asarray(labelled_grid(rows[:1], [""], columns=["before", "a head that is too long for one line"]))
    plain = np.asarray(labelled_grid(rows[:1], [""]))
    assert headed.shape[0] > plain.shape[0] + 40
    assert (headed[-60:] == plain[-60:]).all()


def test_the_hybrid_asks_the_labeler_and_diagnoses_come_along(tmp_path) -> None:
    """p = σ(8 z_0) beside a labeler that decides z_0 > 0: what passes the check is a half normal, at about 1 / P(pass)
    checks.
    """
    callback, classifier = build(
        "side == *",
        sampler=Checked(Rejection(floor=0.2)),
        num_samples=400,
        batch_size=130,
        cache=Cache(tmp_path),
        labeler=Reader(),
        posterior_sets=2,
    )
    figures = callback.evaluate(classifier).metrics
    assert figures["acc"] == 1
    p = torch.sigmoid(8 * torch.linspace(-5, 5, 20001, dtype=torch.float64))
    density = (-torch.linspace(-5, 5, 20001, dtype=torch.float64).square() / 2).exp()
    sieve = (p / 0.2).clamp(max=1)
    want = float((density * sieve).sum() / (density * sieve)[10001:].sum())
    assert figures["checks"] == pytest.approx(want, abs=0.05)
    assert figures["own/acc"] == 1
    assert figures["log_p"] == pytest.approx(np.log(0.5), abs=0.1)
    # In three dimensions, 200 samples a class: as near to the posterior as exact samples are to each other, within
    # noise.
    assert abs(figures["posterior_distance"] - figures["posterior_distance/floor"]) < 0.1
    # The flow is further away, and overconfident.
    flow, other_system = build("side == *", num_samples=400, batch_size=130, cache=Cache(tmp_path), posterior_sets=2)
    other = flow.evaluate(other_system).metrics
    assert other["posterior_distance"] > figures["posterior_distance"] + 0.05
    assert other["confidence"] > other["predicted"] + 0.02
    assert other["spread"] < other["spread/reference"] - 0.1
    with pytest.raises(LaceError, match="needs a labeler"):
        build("side == *", sampler=Checked())


def test_exact_samples_are_of_the_added_energy_too(tmp_path) -> None:
    energies = [None, HalfLine(slice(1, 2), 0.0), HalfLine(slice(1, 2), 0.5)]
    for count, extra in enumerate([*energies, energies[-1]], 1):
        callback, system = build("side == *", extra=extra, cache=Cache(tmp_path), posterior_sets=2)
        callback.evaluate(system)
        assert len(list((tmp_path / "posterior").glob("*"))) == 2 * min(count, 3)


@pytest.mark.parametrize(
    "sampler", [Annealed(6), Auto(), HamiltonianMC(4), Heun(corrector=EllipticalSlice(2))], ids=repr
)
def test_pilots_do_not_depend_on_batches(sampler) -> None:
    results = []
    for batch_size in (64, 16):
        callback, classifier = build("side == light", sampler=sampler, num_samples=64, batch_size=batch_size)
        callback.prepare(classifier, torch.device("cpu"))
        results.append(
            torch.cat(
                [
                    callback.draw(classifier, first, batch_size, torch.device("cpu"))[0].sample.z
                    for first in range(0, 64, batch_size)
                ]
            )
        )
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-4, rtol=1e-4)


def test_targets() -> None:
    assert (EnergyOptions().gamma, EnergyOptions(weight=4.0).gamma, EnergyOptions(target="controlled").gamma) == (
        1,
        4,
        6,
    )
    assert EnergyOptions(target="hard", weight=8.0).gamma == 8
    assert EnergyOptions(target="hard").hard
    for options, words in (
        ({"target": "soft"}, "must be one of"),
        ({"target": "calibrated", "weight": 2.0}, "weight 1"),
        ({"target": "hard", "logic": "paper"}, "exact logic"),
    ):
        with pytest.raises(LaceError, match=words):
            EnergyOptions(**options)
    callback, classifier = build("side == light", sampler=EllipticalSlice(30), num_samples=100)
    classifier.options = EnergyOptions(target="hard")
    callback.prepare(classifier, torch.device("cpu"))
    drawn, _, _ = callback.draw(classifier, 0, 100, torch.device("cpu"))
    assert bool((drawn.sample.z[:, 0] > 0).all())
