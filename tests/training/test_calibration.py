"""Temperatures that are recovered, and errors of confidence that can be counted by hand."""

from __future__ import annotations

import math

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.data.batches import TensorBatches
from lace_lightning.errors import LaceError
from lace_lightning.schema import Attribute, Schema
from lace_lightning.training.calibration import LIMIT, fit_calibration, fit_temperature
from lace_lightning.training.latent_classifier import LatentClassifier

SCHEMA = Schema("s", (Attribute("a"), Attribute("v", "continuous"), Attribute("b", "discrete", 3)))
TRAINER = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def figures_of(module: LatentClassifier, u: torch.Tensor, target: torch.Tensor, batch_size: int) -> dict[str, float]:
    return pl.Trainer(**TRAINER).test(module, TensorBatches((u, target), batch_size), verbose=False)[0]


def linear(schema: Schema, space: str = "z", mode: str = "single") -> LatentClassifier:
    """A module whose logits are its input."""
    module = LatentClassifier(schema, space, arguments={"input_dim": schema.num_logits, "hidden": [], "mode": mode})
    network = module.classifier.network
    network.weight0.data.zero_()
    network.bias0.data.zero_()
    for row in range(schema.num_logits):
        column = int(network.columns[row])
        network.weight0.data[column // network.weight0.shape[2], row, column % network.weight0.shape[2]] = 1
    return module


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    torch.manual_seed(0)
    calibrated = 2 * torch.randn(40000, 5)
    labels = torch.multinomial(calibrated.softmax(1), 1)[:, 0].float()
    fitted = fit_temperature(temperature * calibrated, labels)
    assert fitted == pytest.approx(temperature, rel=0.03)
    # No other temperature makes them likelier.
    losses = [
        float(F.cross_entropy(temperature * calibrated.double() / (fitted * factor), labels.long()))
        for factor in (0.98, 1, 1.02)
    ]
    assert losses[1] == min(losses)


def test_temperatures_have_limits() -> None:
    logits, right = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
    assert fit_temperature(logits, right) == pytest.approx(1 / LIMIT)
    assert fit_temperature(logits, 1 - right) == pytest.approx(LIMIT)


def test_the_error_of_a_continuous_attribute_is_a_root_mean_square() -> None:
    schema = Schema("s", (Attribute("v", "continuous"),))
    assert fit_calibration(schema, torch.tensor([[0.5], [0.1]]), torch.tensor([[0.2], [0.5]])) == {
        "temperature": {},
        "sigma": {"v": pytest.approx(math.sqrt((0.09 + 0.16) / 2))},
    }


@pytest.mark.parametrize("batch_size", [1, 7, 10])
def test_figures_by_hand(batch_size: int) -> None:
    """Confidence 0.8 and six of ten right: an error of 0.2, in batches of any size."""
    module = linear(Schema("s", (Attribute("a"), Attribute("v", "continuous"))))
    u = torch.tensor([[math.log(0.8), math.log(0.2), 0.5]] * 10)
    labels = torch.tensor([[0.0, 0.6]] * 6 + [[1.0, 0.1]] * 4)
    figures = figures_of(module, u, labels, batch_size)
    assert figures["classifier/ece/a"] == pytest.approx(0.2, abs=1e-6)
    assert figures["classifier/nll/a"] == pytest.approx(-0.6 * math.log(0.8) - 0.4 * math.log(0.2), rel=1e-5)
    assert figures["classifier/sigma/v"] == pytest.approx(math.sqrt(0.6 * 0.01 + 0.4 * 0.16), rel=1e-5)
    assert not any(name.startswith("calibration/") for name in figures)


def test_soft_labels_are_measured_by_what_they_decide() -> None:
    module, u = linear(SCHEMA), torch.randn(50, SCHEMA.num_logits)
    soft = torch.randn(50, SCHEMA.num_logits)
    names = ("ece/a", "nll/a", "sigma/v", "ece/b", "nll/b")
    a, b = (figures_of(module, u, target, 20) for target in (soft, SCHEMA.decode(soft).values))
    assert all(a[f"classifier/{name}"] == pytest.approx(b[f"classifier/{name}"]) for name in names)


@pytest.mark.parametrize("mode", ["single", "separate"])
def test_calibration_goes_into_the_weights(mode: str, tmp_path) -> None:
    """Half of the logits three times too large: log-odds change by the temperature alone, decisions and values not at
    all.
    """
    torch.manual_seed(0)
    u = torch.randn(20000, SCHEMA.num_logits)
    labels = torch.stack(
        [torch.multinomial(u[:, :2].softmax(1), 1)[:, 0], u[:, 2], torch.multinomial(u[:, 3:].softmax(1), 1)[:, 0]], 1
    )
    module = linear(SCHEMA, mode=mode)
    module.classifier.scale_logits({"b": 3.0})
    before = module(u).detach()
    torch.testing.assert_close(before, u * torch.tensor([1, 1, 1, 3, 3, 3]))
    uncalibrated = figures_of(module, u, labels, 4096)
    module.calibrate(TensorBatches((u, labels), 4096))
    fitted = module.classifier.metadata["calibration"]
    assert fitted["temperature"] == {"a": pytest.approx(1, abs=0.05), "b": pytest.approx(3, abs=0.15)}
    after = module(u).detach()
    torch.testing.assert_close(after[:, 3:], before[:, 3:] / fitted["temperature"]["b"])
    torch.testing.assert_close(after[:, 2], before[:, 2])
    assert torch.equal(SCHEMA.decode(after).values, SCHEMA.decode(before).values)
    odds = [-module.classifier.energy("b == 1")(u[:9]) + module.classifier.energy("b == 2")(u[:9])]
    torch.testing.assert_close(
        odds[0].detach(), (before[:9, 4] - before[:9, 5]) / fitted["temperature"]["b"], atol=1e-5, rtol=1e-4
    )
    module.classifier.save(tmp_path / "c.safetensors", pairs="p")
    module.classifier = AttributeClassifier.load(tmp_path / "c.safetensors")
    assert module.classifier.metadata == {"calibration": fitted, "pairs": "p"}
    figures = figures_of(module, u, labels, 4096)
    assert figures["calibration/temperature/b"] == pytest.approx(fitted["temperature"]["b"])
    assert figures["classifier/accuracy/b"] == uncalibrated["classifier/accuracy/b"]
    assert figures["classifier/nll/b"] < uncalibrated["classifier/nll/b"]
    assert figures["classifier/ece/b"] < 0.02 < 0.2 < uncalibrated["classifier/ece/b"]


def test_calibration_needs_pairs() -> None:
    with pytest.raises(LaceError, match="received none"):
        linear(SCHEMA).calibrate([])


@pytest.mark.parametrize(("network", "arguments"), [("resnet9", {"width": 4}), ("whitened_vgg", {"widths": [4, 4, 8]})])
def test_image_networks_with_a_linear_head_can_be_scaled(network: str, arguments: dict) -> None:
    classifier, images = AttributeClassifier(SCHEMA, "x", network, arguments).eval(), torch.rand(3, 3, 32, 32)
    before = classifier(images).detach()
    classifier.scale_logits({"b": 0.5, "v": 2.0})
    torch.testing.assert_close(classifier(images).detach(), before * torch.tensor([1, 1, 2, 0.5, 0.5, 0.5]))
    classifier.network.head = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Tanh())
    with pytest.raises(LaceError, match=r"that of \w+ is Sequential: set classifier.calibrate=false"):
        classifier.scale_logits({"b": 0.5})
