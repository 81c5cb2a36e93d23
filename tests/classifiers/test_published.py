"""Networks of published weights: their sizes, their names, and a way in for their files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.classifiers.published import CIFAR10_MEAN, CIFAR10_STD, DenseNetBC, WideResNetCIFAR, load_published
from lace_lightning.data.cifar10 import SCHEMA
from lace_lightning.errors import LaceError


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (lambda: DenseNetBC(depth=100, growth=12), 769_162),
        (lambda: DenseNetBC(depth=190, growth=40), 25_624_430),
        (lambda: WideResNetCIFAR(depth=28, widen=10), 36_479_194),
    ],
)
def test_published_sizes(build, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build().parameters()) == parameters


@pytest.mark.parametrize(
    ("network", "names"),
    [
        (
            DenseNetBC(depth=16, growth=4),
            {
                "conv1.weight",
                "dense1.0.bn1.weight",
                "dense3.1.conv2.weight",
                "trans2.conv1.weight",
                "bn.running_mean",
                "fc.bias",
            },
        ),
        (
            WideResNetCIFAR(depth=16, widen=1),
            {
                "conv1.weight",
                "block1.layer.0.bn1.weight",
                "block2.layer.0.convShortcut.weight",
                "block3.layer.1.conv2.weight",
                "bn1.running_var",
                "fc.weight",
            },
        ),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_their_files_load(tmp_path: Path, network: torch.nn.Module, names: set[str], legacy: bool) -> None:
    assert names <= set(network.state_dict())
    other = {
        "module." + name: torch.rand_like(value, dtype=torch.float32).to(value.dtype)
        for name, value in network.state_dict().items()
    }
    torch.save(
        {"epoch": 3, "state_dict": other, "best_acc": 95.0},
        tmp_path / "n.pth",
        _use_new_zipfile_serialization=not legacy,
    )
    load_published(network, tmp_path / "n.pth")
    assert all(torch.equal(value, other["module." + name]) for name, value in network.state_dict().items())
    torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "n.pth")
    with pytest.raises(LaceError, match="must be those of a"):
        load_published(network, tmp_path / "n.pth")


def test_pictures_are_normalised_inside(tmp_path: Path) -> None:
    """The mean colour is zero to the first convolution, which has no bias."""
    classifier = (
        AttributeClassifier(SCHEMA, "x", "wide_resnet_cifar", {"depth": 10, "widen": 1}).eval().requires_grad_(False)
    )
    images = (torch.tensor(CIFAR10_MEAN) * 2 - 1)[:, None, None].expand(2, 3, 32, 32)
    assert classifier.network.conv1(classifier.network.normalize(images)).abs().max() < 1e-6
    one = classifier.network.normalize(images + 2 * torch.tensor(CIFAR10_STD)[:, None, None])
    torch.testing.assert_close(one, torch.ones(2, 3, 32, 32))
    classifier.save(tmp_path / "c.safetensors")
    x = torch.rand(3, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(AttributeClassifier.load(tmp_path / "c.safetensors")(x), classifier(x))
