"""Fit, draw, evaluate and edit from Python, on a decoder and labelling functions whose answers are known."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import lace_lightning as lace
from lace_lightning import LaceError
from lace_lightning.api import edit, evaluate, fit
from lace_lightning.callbacks import ConditionalSampling
from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.labelers import as_labeler
from lace_lightning.labelers.adapters import label_values
from lace_lightning.query import parse
from lace_lightning.samplers import EllipticalSlice, Filtered, Heun
from lace_lightning.systems.lace import LACE, EnergyOptions

# A training of two seconds.
QUICK: dict[str, Any] = {"hidden": (32,), "epochs": 30, "learning_rate": 1e-2}


class Decoder(nn.Module):
    """z (B, 4) -> pictures (B, 3, 8, 8): the first number is the brightness, the second the part of red."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        nn.init.eye_(self.first.weight)

    def forward(self, z: Tensor) -> Tensor:
        h = self.first(z)
        pixels = torch.stack([h[:, 0] + h[:, 1], h[:, 0], h[:, 0] - h[:, 1]], dim=1)
        return pixels[:, :, None, None].expand(-1, -1, 8, 8).mul(0.5).tanh()


def bright(images: Tensor) -> Tensor:
    return images[:, 1].mean((1, 2)) > 0


def bright_and_red(images: Tensor) -> np.ndarray:
    """Labels as an array: a class, and a value."""
    seen = images.numpy()
    return np.stack([seen[:, 1].mean((1, 2)) > 0, (seen[:, 0] - seen[:, 2]).mean((1, 2)) / 4 + 0.5], axis=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def generator() -> lace.ModuleGenerator:
    return lace.as_generator(Decoder())


@pytest.fixture(scope="module")
def classifier(generator, folder: Path) -> AttributeClassifier:
    names = ["bright", "red"]
    return fit(generator, bright_and_red, names, 600, **QUICK, progress=False, cache=folder)


def draw(generator: Any, classifier: Any, query: str, **options: Any) -> lace.Samples:
    return lace.draw(generator, classifier, query, **{"progress": False, **options})


def test_five_lines_from_a_module_and_a_function_to_controlled_pictures(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))
    classifier = lace.fit(Decoder(), bright, "bright", num_pairs=400, **QUICK)
    drawn = lace.draw(Decoder(), classifier, "bright == 0", seeds=range(50), judge=bright)
    assert drawn.images.shape == (50, 3, 8, 8)
    assert drawn.images.abs().max() <= 1
    assert sum(row["holds"] for row in drawn.table) >= 49
    assert classifier.metadata["accuracy"]["bright"] > 0.8


def test_what_a_function_returns_is_found(classifier: AttributeClassifier) -> None:
    kinds = [(attribute.name, attribute.kind, attribute.num_logits) for attribute in classifier.schema]
    assert kinds == [("bright", "discrete", 2), ("red", "continuous", 1)]
    assert classifier.metadata["accuracy"]["red"] > 0.9


def test_pairs_and_classifier_are_found_again(generator, classifier, folder: Path, capsys) -> None:
    again = fit(generator, bright_and_red, ["bright", "red"], 600, **QUICK, cache=folder)
    text = capsys.readouterr().err
    assert re.search(r"found 600 pairs \w+, LatentClassifier \w+\nclassifier of z: accuracy bright ", text)
    assert again.digest == classifier.digest


def test_half_precision_silence_and_the_random_state(folder: Path, capsys) -> None:
    decoder = Decoder().bfloat16()
    before = torch.get_rng_state()
    classifier = fit(decoder, bright, "bright", 200, epochs=1, progress=False, cache=folder)
    draw(decoder, classifier, "bright == 1", seeds=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert capsys.readouterr() == ("", "")
    assert next(classifier.parameters()).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*The samples are not exact")
@pytest.mark.parametrize("sampler", [Heun(), EllipticalSlice(num_steps=3)], ids=["flow", "chain with a pilot"])
@pytest.mark.parametrize("query", ["bright == 1 and red == 0.7", "bright == *"])
def test_a_sample_depends_on_its_seed_alone(generator, classifier, sampler, query: str) -> None:
    many = draw(generator, classifier, query, seeds=range(10), sampler=sampler)
    few = draw(generator, classifier, query, seeds=[9, 5], sampler=sampler, batch_size=1)
    assert few.seeds == [9, 5]
    # Sums of matrix products are rounded in another order for another number of rows.
    assert torch.allclose(few.z, many.z[[9, 5]], atol=1e-4)
    assert [row["asked"] for row in few.table] == [many.table[seed]["asked"] for seed in (9, 5)]


def test_seeds_are_those_of_a_run(generator, classifier) -> None:
    numbers = np.array([3, 4, 70])
    z = [draw(generator, classifier, "bright == 1", seeds=seeds, weight=0.0).z for seeds in (numbers, "3-4,70")]
    assert torch.equal(z[0], torch.cat([generator.prior(2, first=3), generator.prior(1, first=70)]))
    assert torch.equal(*z)


def test_samples_are_those_of_a_measurement(generator, classifier) -> None:
    drawn = draw(generator, classifier, "bright == *", seeds=range(6), run_seed=1)
    query = parse("bright == *", classifier.schema)
    system = LACE.of(classifier, options=EnergyOptions(target="controlled")).bind(generator)
    sampling = ConditionalSampling(as_labeler(bright, {"bright": 2}), query, seed=1)
    measured = sampling.draw(system, 0, 6, torch.device("cpu"))[0]
    assert torch.equal(drawn.z, measured.sample.z)
    assert torch.equal(((drawn.images + 1) * 127.5).round().byte(), measured.images)


def test_the_target_is_what_was_asked_for(generator, classifier) -> None:
    for options, gamma in (({}, 6), ({"weight": 2.0}, 2), ({"target": "calibrated"}, 1)):
        energy = draw(generator, classifier, "bright == 1", seeds=2, **options).report["energy"]
        assert energy["gamma"] == gamma
    assert (
        draw(generator, classifier, "bright == 1 or red == 0.9", seeds=2, logic="paper").report["energy"]["logic"]
        == "paper"
    )


def test_samples_are_saved(generator, classifier, tmp_path: Path) -> None:
    drawn = draw(generator, classifier, "bright == 1", seeds=[7, 2], judge=bright_and_red)
    drawn.save(tmp_path / "out")
    written = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    assert written == {"0000.png", "0001.png", "contact.png", "latents.npz", "report.json", "samples.csv"}
    pixels = torch.from_numpy(np.array(Image.open(tmp_path / "out" / "0001.png"))).permute(2, 0, 1)
    assert torch.equal(((drawn.images[1] + 1) * 127.5).round().byte(), pixels)
    assert np.array_equal(np.load(tmp_path / "out" / "latents.npz")["z"], drawn.z.numpy())
    rows = (tmp_path / "out" / "samples.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "file,seed,asked,judge_bright,judge_red,holds,p,evaluations"
    assert rows[1].startswith("0000.png,7,bright == 1,1,")


def test_the_probability_in_the_table_is_the_classifier_s(generator, classifier) -> None:
    drawn = draw(generator, classifier, "bright == 1", seeds=5)
    wanted = classifier(drawn.z)[:, :2].softmax(1)[:, 1]
    assert torch.allclose(torch.tensor([row["p"] for row in drawn.table]), wanted, atol=1e-5)


def test_a_judge_that_made_the_labels_is_said(folder: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    options: dict[str, Any] = {"progress": False, "cache": folder}
    classifier = fit(Decoder(), network, {"side": ["left", "right"]}, 100, epochs=1, **options)
    with pytest.warns(UserWarning, match="The judge is the network that made the labels"):
        drawn = draw(Decoder(), classifier, "side == left", seeds=1, judge=network)
    assert drawn.table[0]["judge_side"] in ("left", "right")


def test_an_energy_of_ones_own_is_added(generator, classifier) -> None:
    class Far(lace.Energy):
        is_probability = False

        def forward(self, z: Tensor) -> Tensor:
            return 5 * (z[:, 2] - 3).square()

    plain = draw(generator, classifier, "bright == 1", seeds=20)
    moved = draw(generator, classifier, "bright == 1", seeds=20, energy=Far())
    assert moved.z[:, 2].mean() > plain.z[:, 2].mean() + 1


def test_figures_are_those_of_a_run(generator, classifier) -> None:
    figures = evaluate(
        generator, classifier, "bright == 1", bright_and_red, num_samples=40, batch_size=20, progress=False
    )
    assert figures["acc"] > 0.95
    assert {"acc", "holds", "acc/bright", "evaluations", "prior/holds", "seconds/sampling_per_64"} <= set(figures)


def test_edits_go_on_from_each_other(generator, classifier) -> None:
    z = np.random.default_rng(0).normal(size=(30, 4))
    before, light, red = edit(generator, classifier, ["bright == 1", "red == 0.8"], z=z, judge=bright_and_red)
    assert torch.allclose(before.z, torch.tensor(z, dtype=torch.float32))
    assert sum(row["holds"] for row in light.table) >= 29
    both = [row["judge_bright"] == "1" and abs(row["judge_red"] - 0.8) < 0.2 for row in red.table]
    assert sum(both) >= 23
    assert red.report["edits"] == ["bright == 1", "red == 0.8"]
    # What was not asked for stays near; of other latents it would be 1.13 away.
    assert float((red.z[:, 2:] - before.z[:, 2:]).abs().mean()) < 0.6


def test_edits_of_w_and_of_layers() -> None:
    generator = lace.load_generator("cifar10")
    w = generator.mapping(generator.prior(2)).numpy()
    for start in (w, np.repeat(w[:, None], generator.num_ws, axis=1)):
        before, truck = edit(generator, "cifar10", "label == truck", w=start, judge="cifar10_judge")
        assert (before.z, truck.ws.shape) == (None, (2, generator.num_ws, generator.w_dim))
        assert torch.allclose(before.ws[:, 0], torch.from_numpy(w))
        assert [row["judge_label"] for row in truck.table] == ["truck", "truck"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_any_type_of_weights(dtype: torch.dtype, classifier) -> None:
    decoder = Decoder().to(dtype)
    free = AttributeClassifier(classifier.schema, "z", "mlp", {"input_dim": 4, "hidden": [8]})
    drawn = draw(decoder, free, "bright == 1", seeds=3)
    assert (drawn.images.dtype, drawn.z.dtype) == (torch.float32, torch.float32)
    assert draw(decoder, free.double(), "bright == 1", seeds=3).z.dtype == torch.float64
    with pytest.raises(LaceError, match=r"must have weights in float32 or float64, received torch.float16"):
        draw(decoder, free.half(), "bright == 1")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda images: images.mean((1, 2, 3)) * 9, "those of 'bright' go from"),
        (lambda images: torch.zeros(len(images)), "all 200 are 0"),
        (lambda images: torch.full((len(images),), torch.nan), "returns NaN (not known) for all of 500 pictures"),
        (
            lambda images: torch.zeros(len(images), 2, 2),
            "one column for each of bright, received the shape (500, 2, 2)",
        ),
        (lambda images: "red", "must return a tensor or an array of numbers, received str"),
        (lambda images: images.nothing, "has no attribute 'nothing', in test_api.py"),
        (lambda images: (bright(images) * torch.inf)[:, None].float(), "go from"),
    ],
)
def test_a_labelling_function_that_is_wrong_is_one_sentence(generator, folder: Path, function: Any, words: str) -> None:
    with pytest.raises(LaceError, match=re.escape(words)):
        fit(generator, function, "bright", 200, progress=False, cache=folder)


def test_a_class_beyond_the_found_ones_is_one_sentence(generator, folder: Path) -> None:
    def rare(images: Tensor) -> Tensor:
        return bright(images).long() + (len(images) < 500)

    with pytest.raises(LaceError, match=r"received 2: correct the function, or give the number of classes"):
        fit(generator, rare, "bright", 200, progress=False, cache=folder)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda g, c: draw(g, c, "bright == 1", seeds=[1.5]), "Seeds must be whole numbers, received [1.5]"),
        (lambda g, c: draw(g, c, "bright == 1", seeds=[3, 3]), "Seeds must be named once"),
        (lambda g, c: draw(g, c, "brigth == 1"), "Did you mean 'bright'?"),
        (lambda g, c: draw(g, c, "bright == 1", sampler=Filtered(Heun())), "needs a labeler"),
        (lambda g, c: draw(g, "none.safetensors", "bright == 1"), "none.safetensors"),
        (lambda g, c: draw(g, 5, "bright == 1"), "train one by lace.fit"),
        (lambda g, c: draw("cifar10", c, "bright == 1"), "was trained on the latents of generator"),
        (lambda g, c: draw(g, c, "bright == 1", batch_size=0), "batch_size must be a whole number of at least 1"),
        (lambda g, c: edit(g, c, "bright == 1", z=np.zeros((2, 5))), "must have the shape (B, 4), received (2, 5)"),
        (lambda g, c: edit(g, c, "bright == *"), "leaves bright free"),
        (lambda g, c: fit(g, bright, "bright", 10), "num_pairs must be a whole number of at least 100"),
        (lambda g, c: fit(g, bright), "needs the names of what it returns"),
        (lambda g, c: fit(g, 5, "bright"), "A labeler must be a Labeler"),
        (lambda g, c: fit(g, bright, "bright", space="x"), "must be z, w or features, received 'x'"),
        (lambda g, c: fit(5, bright, "bright"), "A generator must be a Generator"),
        (lambda g, c: evaluate(g, c, "bright == 1", lambda x: x[:, 0, 0, 0] > 0), "must return labels"),
    ],
)
def test_what_does_not_fit_is_one_sentence(generator, classifier, call: Any, words: str) -> None:
    with pytest.raises(LaceError, match=re.escape(words)):
        call(generator, classifier)


def test_neither_hydra_nor_a_configuration_is_needed(tmp_path: Path) -> None:
    code = (
        "import sys, torch, lace_lightning as lace\n"
        "decoder = torch.nn.Sequential(torch.nn.Linear(2, 48), torch.nn.Tanh(), torch.nn.Unflatten(1, (3, 4, 4)))\n"
        "classifier = lace.fit(decoder, lambda x: x.mean((1, 2, 3)) > 0, 'bright', 200, epochs=1, progress=False)\n"
        "lace.draw(decoder, classifier, 'bright == 1', seeds=2, progress=False).save('out')\n"
        "print([name for name in ('hydra', 'wandb') if name in sys.modules])\n"
    )
    environment = {**os.environ, "LACE_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lace.edit("cifar10", "cifar10", "label == ship", z=np.zeros((1, 128), complex)), "must be floating"),
        (lambda: lace.edit("cifar10", "cifar10", "label == ship", z=np.zeros((0, 128))), "Latents z must have one row"),
        (lambda: lace.edit("cifar10", "cifar10", "label == ship", w=np.zeros((0, 128))), "Latents w must have one row"),
        (lambda: lace.edit("cifar10", "cifar10", []), "Editing needs edits and received none: write for example 'gla"),
        (lambda: lace.edit("cifar10", "cifar10", [3]), "An edit must be text or a Query, received int"),
        (lambda: lace.edit("cifar10", "cifar10", 3), "An edit must be text or a Query, received int"),
        (lambda: lace.edit("cifar10", "cifar10", "label == ship", z=np.full((2, 128), np.nan)), "first in row 0"),
        (lambda: lace.draw("cifar10", "cifar10", "label == ship", seeds=True), "must be whole numbers, received True"),
        (lambda: lace.draw("cifar10", "cifar10", "label == ship", seeds=[True, False]), "must be whole numbers"),
        (lambda: lace.draw("cifar10", "cifar10", "label == ship", seeds=np.array([0.0, 1.5])), "must be whole numbers"),
        (lambda: lace.draw("cifar10", "cifar10", None, seeds=2), "must be text or a Query, received NoneType"),
        (lambda: lace.draw("cifar10", "cifar10", "label == ship", seeds=2, energy=1), "An energy must be"),
        (
            lambda: label_values(lambda x: x[:3, 0, 0, 0], torch.zeros(5, 3, 8, 8)),
            r"each of 5 pictures, received \(3,\)",
        ),
        (lambda: label_values(lambda x: x.mean((1, 2, 3)) * 1j, torch.zeros(5, 3, 8, 8)), "complex numbers"),
    ],
)
def test_what_is_no_seed_latent_query_or_label_is_refused(call, message: str) -> None:
    with pytest.raises(LaceError, match=message):
        call()
