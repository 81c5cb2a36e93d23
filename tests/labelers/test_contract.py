"""What every labeler promises, for each kind of labelers: a new kind needs a case in CASES."""

from __future__ import annotations

import copy
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

import lace_lightning
from lace_lightning import labelers
from lace_lightning.classifiers import AttributeClassifier, MobileNet, ResNet9, WideResNet
from lace_lightning.classifiers.adapter import WrappedImageNetwork
from lace_lightning.classifiers.networks import build_network
from lace_lightning.classifiers.published import DenseNetBC, Normalized, WideResNetCIFAR
from lace_lightning.classifiers.resnets import ImageNetwork, WhitenedVGG
from lace_lightning.configuration import config_folder
from lace_lightning.errors import LaceError
from lace_lightning.labelers import (
    Labeler,
    as_labeler,
    clip_labeler,
    digit_labeler,
    face_labeler,
    function_labeler,
    library_labeler,
    module_labeler,
    published_labeler,
    script_labeler,
)
from lace_lightning.labelers.adapters import FunctionNetwork
from lace_lightning.labelers.digits import DigitAttributes
from lace_lightning.labelers.face_networks import FaceAttributes
from lace_lightning.schema import Attribute, Labels, Schema
from tests.models import tiny_clip

SCHEMA = Schema("s", (Attribute("hat"), Attribute("hair", "discrete", 3), Attribute("age", "continuous")))
CONFIG = SCHEMA.to_config()
PROMPTS = {"hat": ["a cat", "a cat in a hat"], "coat": ["a black cat", "a white cat", "a red cat"]}
COUNT, SIDE = 6, 16
# Base classes, which define no network by themselves.
ABSTRACT = {ImageNetwork, Normalized}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pictures(side: int = SIDE, count: int = COUNT) -> Tensor:
    """Return pictures of different colours, with noise."""
    random = torch.Generator().manual_seed(3)
    colours = torch.randn(count, 3, 1, 1, generator=random)
    return torch.tanh(colours + 0.3 * torch.randn(count, 3, side, side, generator=random))


def settled(network: nn.Module, side: int = SIDE) -> nn.Module:
    """Give the batch normalisations of an untrained network the statistics of pictures."""
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(pictures(side, 32))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return network.eval()


def classifier(network: str, arguments: dict[str, Any], seed: int) -> AttributeClassifier:
    torch.manual_seed(seed)
    result = AttributeClassifier(SCHEMA, "x", network, arguments)
    result.network.prepare(pictures(count=32))
    settled(result.network)
    return result


def of_network(network: str, **arguments: Any) -> Callable[..., Labeler]:
    return lambda path, seed, options: Labeler(classifier(network, arguments, seed), **options)


def of_file(path: Path, seed: int, options: dict[str, Any]) -> Labeler:
    classifier("resnet9", {"width": 2}, seed).save(path / f"classifier{seed}.safetensors")
    return Labeler(path / f"classifier{seed}.safetensors", **options)


def of_published_weights(path: Path, seed: int, options: dict[str, Any]) -> Labeler:
    torch.manual_seed(seed)
    arguments = {"depth": 10, "growth": 2}
    network = settled(build_network("densenet_bc", num_logits=SCHEMA.num_logits, **arguments))
    torch.save({"state_dict": network.state_dict()}, path / f"densenet{seed}.pth")
    return published_labeler("densenet_bc", path / f"densenet{seed}.pth", CONFIG, arguments, **options)


def of_torchvision(path: Path, seed: int, options: dict[str, Any]) -> Labeler:
    from torchvision.models import get_model

    torch.manual_seed(seed)
    network = settled(get_model("mobilenet_v3_small", num_classes=8, width_mult=0.25), 32)
    save_file(network.state_dict(), path / f"torchvision{seed}.safetensors")
    arguments = {"num_classes": 8, "width_mult": 0.25}
    weights, outputs = path / f"torchvision{seed}.safetensors", [7, 0, 1, 2, 4, 5]
    return library_labeler(
        "torchvision", "mobilenet_v3_small", CONFIG, weights, outputs, 32, arguments=arguments, **options
    )


def of_timm(path: Path, seed: int, options: dict[str, Any]) -> Labeler:
    timm = pytest.importorskip("timm")
    torch.manual_seed(seed)
    network = settled(timm.create_model("test_resnet", num_classes=SCHEMA.num_logits), 32)
    torch.save(network.state_dict(), path / f"timm{seed}.pt")
    return library_labeler("timm", "test_resnet", CONFIG, path / f"timm{seed}.pt", resolution=32, **options)


def of_script(resolution: int | None) -> Callable[..., Labeler]:
    """Return the builder of a script of 16x16 pictures, or of pictures of any size."""

    def build(path: Path, seed: int, options: dict[str, Any]) -> Labeler:
        torch.manual_seed(seed)
        pool = nn.AdaptiveAvgPool2d(4) if resolution is None else nn.AvgPool2d(4)
        network = nn.Sequential(pool, nn.Flatten(), nn.Linear(48, SCHEMA.num_logits))
        torch.jit.script(network).save(str(path / f"script{resolution}{seed}.pt"))
        return script_labeler(path / f"script{resolution}{seed}.pt", CONFIG, resolution=resolution, **options)

    return build


def of_module(path: Path, seed: int, options: dict[str, Any]) -> Labeler:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(48, 16), nn.ReLU())
    network.append(nn.Linear(16, SCHEMA.num_logits))
    torch.save({"net": network.state_dict()}, path / f"module{seed}.pt")
    return module_labeler(
        copy.deepcopy(network),
        CONFIG,
        path / f"module{seed}.pt",
        image_shape=(3, SIDE, SIDE),
        resolution=SIDE,
        **options,
    )


def of_clip(path: Path, seed: int, options: dict[str, Any]) -> Labeler:
    config, weights = tiny_clip(path, f"clip{seed}", seed)
    return clip_labeler(PROMPTS, str(config), weights, **options)


def label_colours(images: Tensor) -> Tensor:
    """Return labels; that of the hat is not known for pictures of medium red."""
    red, age = images[:, 0].mean((1, 2)), images.mean((1, 2, 3)) / 2 + 0.5
    return torch.stack(
        [(red > 0).float().masked_fill(red.abs() < 0.3, torch.nan), images.mean((2, 3)).argmax(1), age], 1
    )


def label_other_colours(images: Tensor) -> Tensor:
    return label_colours(images.flip(1))


def score_colours(images: Tensor) -> Tensor:
    """Return logits."""
    return F.adaptive_avg_pool2d(images, 2).flatten(1)[:, : SCHEMA.num_logits]


def score_other_colours(images: Tensor) -> Tensor:
    return score_colours(images.flip(1))


def of_anything(path: Path, seed: int, options: dict[str, Any]) -> Labeler:
    kinds = {"hat": 2, "hair": 3, "age": "continuous"}
    return as_labeler((label_colours, label_other_colours)[seed], kinds, **options)


def of_function(*functions: Callable[[Tensor], Tensor]) -> Callable[..., Labeler]:
    return lambda path, seed, options: function_labeler(functions[seed], CONFIG, **options)


def of_faces(path: Path, seed: int, options: dict[str, Any]) -> Labeler:
    # Without landmarks, which do not know the labels of pictures of no face.
    return face_labeler(("face_api", "second")[seed], ["smile", "brightness"], **options)


def of_digits(path: Path, seed: int, options: dict[str, Any]) -> Labeler:
    return digit_labeler(("digits_labeler", "digits_judge")[seed], **options)


@dataclass
class Case:
    """A kind of labelers, its network, and which promises apply to it."""

    # The class or function that makes it, and the class of its network.
    kind: Callable[..., Labeler]
    network: type[ImageNetwork]
    build: Callable[[Path, int, dict[str, Any]], Labeler]
    # The side that pictures are resized to by `resize`; None where the network takes pictures as they are.
    side: int | None = None
    resize: dict[str, Any] = field(default_factory=lambda: {"mode": "bicubic", "antialias": True})
    # It may leave labels unknown without a confidence.
    abstains: bool = False


CASES: dict[str, Case] = {
    "Labeler of a file": Case(Labeler, ResNet9, of_file),
    "Labeler of resnet9": Case(Labeler, ResNet9, of_network("resnet9", width=2)),
    "Labeler of wide_resnet": Case(Labeler, WideResNet, of_network("wide_resnet", widths=(4, 8), blocks=1)),
    "Labeler of whitened_vgg": Case(Labeler, WhitenedVGG, of_network("whitened_vgg", widths=(24, 24))),
    "Labeler of densenet_bc": Case(Labeler, DenseNetBC, of_network("densenet_bc", depth=10, growth=2)),
    "Labeler of wide_resnet_cifar": Case(Labeler, WideResNetCIFAR, of_network("wide_resnet_cifar", depth=10, widen=1)),
    "Labeler of mobilenet": Case(
        Labeler,
        MobileNet,
        of_network("mobilenet", variant="v3_small", resolution=32, width=0.25),
        32,
        {"mode": "bilinear", "antialias": True},
    ),
    "published": Case(published_labeler, DenseNetBC, of_published_weights),
    "torchvision": Case(library_labeler, WrappedImageNetwork, of_torchvision, 32),
    "timm": Case(library_labeler, WrappedImageNetwork, of_timm, 32),
    "script": Case(script_labeler, WrappedImageNetwork, of_script(SIDE), SIDE),
    "script of any size": Case(script_labeler, WrappedImageNetwork, of_script(None)),
    "module": Case(module_labeler, WrappedImageNetwork, of_module, SIDE),
    "clip": Case(clip_labeler, WrappedImageNetwork, of_clip, 32),
    "digits": Case(digit_labeler, DigitAttributes, of_digits),
    "face networks": Case(face_labeler, FaceAttributes, of_faces),
    "function of labels": Case(
        function_labeler, FunctionNetwork, of_function(label_colours, label_other_colours), abstains=True
    ),
    "function by names": Case(as_labeler, FunctionNetwork, of_anything, abstains=True),
    "function of logits": Case(function_labeler, FunctionNetwork, of_function(score_colours, score_other_colours)),
}
each = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Labeler]:
    """Return a function that builds the labeler of a case once; computed in float32 unless a format is given."""

    @cache
    def build(name: str, seed: int = 0, **options: Any) -> Labeler:
        path = tmp_path_factory.mktemp("labelers")
        return CASES[name].build(path, seed, {"precision": "float32", **options})

    return build


def subclasses(kind: type) -> Iterator[type]:
    """Yield the classes of the package that derive from a class, and the class; those of examples are not of it."""
    if getattr(sys.modules[kind.__module__], kind.__name__, None) is kind and kind.__module__.startswith(
        "lace_lightning"
    ):
        yield kind
    for child in kind.__subclasses__():
        yield from subclasses(child)


def builders() -> set[Callable[..., Labeler]]:
    """Return the public functions of the package that return a labeler."""
    return {
        value
        for module in pkgutil.walk_packages(labelers.__path__, "lace_lightning.labelers.")
        for name, value in vars(importlib.import_module(module.name)).items()
        if inspect.isfunction(value)
        and not name.startswith("_")
        and value.__module__ == module.name
        and value.__annotations__.get("return") == "Labeler"
    }


def close(first: Tensor, second: Tensor, share: float = 1e-3) -> None:
    """Compare logits or features up to a share of their spread, since each processor rounds sums in its own order."""
    assert torch.equal(first.isnan(), second.isnan())
    first, second = first.nan_to_num(0.0), second.nan_to_num(0.0)
    assert float((first - second).abs().max()) <= share * float(first.std()) + 1e-6


def same_labels(first: Labels, second: Labels, logits: Tensor) -> None:
    """Compare labels, except for classes whose logits are as near each other as roundings."""
    assert torch.equal(first.known, second.known)
    for column, attribute in enumerate(first.schema):
        one, two = first.values[:, column], second.values[:, column]
        if attribute.kind == "continuous":
            torch.testing.assert_close(one, two, atol=1e-3, rtol=0)
            continue
        best, next_best = logits[:, first.schema.slices[attribute.name]].topk(2, dim=1).values.unbind(1)
        assert torch.equal(one[best - next_best > 1e-3], two[best - next_best > 1e-3])


def check_range(labels: Labels) -> None:
    """Check that classes are whole numbers of the schema, and values in [0, 1]."""
    for column, attribute in enumerate(labels.schema):
        values = labels.values[:, column]
        highest = 1 if attribute.kind == "continuous" else attribute.num_classes - 1
        assert bool(((values >= 0) & (values <= highest)).all())
        assert attribute.kind == "continuous" or torch.equal(values, values.round())


def test_every_kind_has_a_case() -> None:
    for module in pkgutil.walk_packages(lace_lightning.__path__, "lace_lightning."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    kinds = builders() | set(subclasses(Labeler))
    covered = {case.kind for case in CASES.values()}
    assert {kind.__name__ for kind in kinds - covered} == set()
    assert {kind.__name__ for kind in kinds} <= set(labelers.__all__)
    networks = set(subclasses(ImageNetwork)) - ABSTRACT
    assert {kind.__name__ for kind in networks - {case.network for case in CASES.values()}} == set()


def test_every_file_of_the_configuration_names_a_kind() -> None:
    named = {
        yaml.safe_load(path.read_text(encoding="utf-8"))["_target_"]
        for path in (config_folder() / "labeler").glob("*.yaml")
    }
    # The one for Python has no file: it takes an object.
    kinds = {case.kind for case in CASES.values()} - {as_labeler}
    assert named - {None} == {f"lace_lightning.labelers.{kind.__name__}" for kind in kinds}


@each
def test_labels_have_their_kind_and_range(name: str, make) -> None:
    labeler = make(name)
    assert type(labeler.classifier.network) is CASES[name].network
    labels = labeler.labels(pictures())
    assert labels.schema is labeler.schema
    assert labels.values.shape == labels.known.shape == (COUNT, len(labeler.schema))
    assert labels.values.dtype == torch.float32
    assert labels.known.dtype == torch.bool
    assert bool(labels.known.any())
    assert bool(labels.known.all()) != CASES[name].abstains
    check_range(labels)


@each
def test_extreme_logits_become_labels_in_their_range(name: str, make) -> None:
    labeler = make(name)
    logits = 1000 * torch.randn(COUNT, labeler.schema.num_logits, generator=torch.Generator().manual_seed(1))
    logits[0] = torch.nan
    labels = labeler.decide(logits)
    check_range(labels)
    assert labels.known[:, 0].tolist() == [False] + [True] * (COUNT - 1)
    for attribute in labeler.schema:
        if attribute.kind == "discrete":
            chosen = logits[1:, labeler.schema.slices[attribute.name]].argmax(1)
            assert torch.equal(labels.column(attribute.name)[1:].long(), chosen)


@each
def test_features_logits_and_labels_agree(name: str, make) -> None:
    labeler, images = make(name), pictures()
    features, logits = labeler.features_and_logits(images)
    assert features.shape == (COUNT, labeler.num_features)
    assert logits.shape == (COUNT, labeler.schema.num_logits)
    assert features.dtype == logits.dtype == torch.float32
    # The pictures are told apart.
    assert float(logits.nan_to_num(0.0).std(0).max()) > 1e-2
    close(labeler.features(images), features)
    close(labeler(images), logits)
    close(labeler.classifier.network.head(features), logits)
    same_labels(labeler.labels(images), labeler.decide(logits), logits)


@each
def test_the_label_of_a_picture_does_not_depend_on_its_batch(name: str, make) -> None:
    labeler, images = make(name), pictures()
    logits, labels = labeler(images), labeler.labels(images)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    alone = [labeler.labels(images[i : i + 1]) for i in range(COUNT)]
    for other, rows in (
        (labeler.labels(images[order]), order),
        (labeler.labels(images[1:4]), torch.arange(1, 4)),
        (Labels.cat(alone), torch.arange(COUNT)),
        (make(name, max_batch=4).labels(images), torch.arange(COUNT)),
    ):
        same_labels(other, labels[rows], logits[rows])
    close(labeler(images[order]), logits[order])
    close(make(name, max_batch=4)(images), logits)


@each
def test_two_calls_agree_and_change_nothing(name: str, make) -> None:
    labeler, images = make(name), pictures()
    before, random, digest = images.clone(), torch.get_rng_state(), labeler.classifier.digest
    first, second = labeler(images), labeler(images)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5, equal_nan=True)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), random)
    assert labeler.classifier.digest == digest


@each
@pytest.mark.parametrize("side", [24, 40])
def test_pictures_of_another_resolution_are_labelled(name: str, side: int, make) -> None:
    labeler, case, images = make(name), CASES[name], pictures(side)
    logits = labeler(images)
    assert logits.shape == (COUNT, labeler.schema.num_logits)
    labels = labeler.labels(images)
    assert bool(labels.known.all()) or case.abstains
    check_range(labels)
    if case.side is not None:
        close(labeler(F.interpolate(images, (case.side, case.side), **case.resize).clamp(-1, 1)), logits)


def test_a_script_of_another_resolution_is_refused(tmp_path: Path) -> None:
    CASES["script"].build(tmp_path, 0, {})
    for resolution in (8, None):
        with pytest.raises(LaceError, match=r"set labeler\.resolution to its size"):
            script_labeler(tmp_path / f"script{SIDE}0.pt", CONFIG, resolution=resolution)


@each
def test_no_gradient_is_kept(name: str, make) -> None:
    labeler, images = make(name), pictures().requires_grad_()
    assert not labeler.classifier.training
    assert not any(parameter.requires_grad for parameter in labeler.parameters())
    features, logits = labeler.features_and_logits(images)
    for tensor in (features, logits, labeler.features(images), labeler.labels(images).values):
        assert not tensor.requires_grad
    with torch.inference_mode():
        close(labeler(pictures()), logits)


@each
@pytest.mark.parametrize("device", DEVICES)
def test_answers_are_on_the_device_of_the_pictures(name: str, device: str, make) -> None:
    labeler, images = make(name), pictures().to(device)
    try:
        features, logits = labeler.to(device).features_and_logits(images)
        labels = labeler.labels(images)
    finally:
        labeler.to("cpu")
    for tensor in (features, logits, labels.values, labels.known):
        assert tensor.device.type == device
    check_range(labels)


@each
def test_answers_are_float32_whatever_is_computed(name: str, make) -> None:
    labeler, images = make(name, precision="bfloat16"), pictures()
    features, logits = labeler.features_and_logits(images)
    assert features.dtype == logits.dtype == labeler.labels(images).values.dtype == torch.float32
    wanted = make(name)(images)
    assert torch.equal(logits.isnan(), wanted.isnan())
    assert float(torch.stack([logits, wanted]).nan_to_num(0.0).flatten(1).corrcoef()[0, 1]) > 0.5
    assert labeler.digest == make(name).digest


@each
def test_logits_are_averaged_over_views(name: str, make) -> None:
    labeler, both, images = make(name), make(name, views=2), pictures()
    wanted = (labeler(images) + labeler(images.flip(-1))) / 2
    close(both(images), wanted)
    close(both.features(images), labeler.features(images))


@each
def test_labels_are_known_from_the_confidence_on(name: str, make) -> None:
    labeler, images = make(name), pictures()
    logits, decided = labeler(images), labeler.labels(images)
    largest = logits[:, labeler.schema.slices[labeler.schema.names[0]]].softmax(1).amax(1)
    confidence = float(largest.nan_to_num(0.0).sort().values[-2:].mean())
    labels = make(name, confidence=confidence).labels(images)
    for column, attribute in enumerate(labeler.schema):
        known = decided.known[:, column]
        if attribute.kind == "discrete":
            largest = logits[:, labeler.schema.slices[attribute.name]].softmax(1).amax(1)
            clear = (largest - confidence).abs() > 1e-5
            assert torch.equal(labels.known[clear, column], (known & (largest >= confidence))[clear])
        else:
            assert torch.equal(labels.known[:, column], known)


@each
def test_the_digest_names_what_decides_the_labels(name: str, make) -> None:
    labeler = make(name)
    again = make(name, max_batch=3)
    assert labeler.digest == again.digest
    others = [make(name, seed=1), make(name, views=2), make(name, confidence=0.9)]
    assert len({labeler.digest, *(other.digest for other in others)}) == 4
