"""Labelers out of other people's classifiers give what those classifiers say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lace_lightning.classifiers.adapter import split_head
from lace_lightning.errors import LaceError
from lace_lightning.labelers import clip_labeler, function_labeler, library_labeler, module_labeler, script_labeler
from lace_lightning.labelers.clip import parse_prompts

from ..models import TINY_CLIP, tiny_clip

HATS = {
    "name": "cats",
    "attributes": [
        {"name": "hat", "num_classes": 2, "class_names": ["no", "yes"]},
        {"name": "warm", "kind": "continuous"},
    ],
}
COLOURS = {"name": "colours", "attributes": [{"name": "colour", "num_classes": 3}]}


def pictures(count: int = 4, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    ("library", "model"),
    [
        ("torchvision", "mobilenet_v3_small"),
        ("torchvision", "squeezenet1_1"),
        ("timm", "resnet10t"),
        ("timm", "vit_tiny_patch16_224"),
    ],
)
def test_a_library_network_answers_as_it_does_by_itself(library: str, model: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    if library == "timm":
        timm = pytest.importorskip("timm")
        network = timm.create_model(model, num_classes=3).eval()
    else:
        from torchvision.models import get_model

        network = get_model(model, num_classes=3).eval()
    size = 224 if "vit" in model else 64
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "weights.pth")
    labeler = library_labeler(library, model, COLOURS, tmp_path / "weights.pth", resolution=size, precision="float32")
    images = pictures(3)
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    seen = (F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(-1, 1) / 2 + 0.5 - mean) / std
    features, logits = labeler.features_and_logits(images)
    with torch.no_grad():
        torch.testing.assert_close(logits, network(seen), atol=1e-4, rtol=1e-4)
    if model != "squeezenet1_1":  # its last layer is a convolution: the features are the logits
        assert features.shape[1] == labeler.num_features > 100
    other = {k: v * 1.01 if v.is_floating_point() else v for k, v in network.state_dict().items()}
    torch.save(other, tmp_path / "other.pth")
    assert library_labeler(library, model, COLOURS, tmp_path / "other.pth", resolution=size).digest != labeler.digest


def test_outputs_are_chosen_in_the_order_of_the_classes(tmp_path: Path) -> None:
    from torchvision.models import get_model

    torch.manual_seed(0)
    network = get_model("mobilenet_v3_small", num_classes=7).eval()
    torch.save(network.state_dict(), tmp_path / "seven.pth")
    arguments = {"num_classes": 7}
    whole = library_labeler(
        "torchvision",
        "mobilenet_v3_small",
        {"name": "s", "attributes": [{"name": "a", "num_classes": 7}]},
        tmp_path / "seven.pth",
        resolution=32,
        precision="float32",
    )
    part = library_labeler(
        "torchvision",
        "mobilenet_v3_small",
        COLOURS,
        tmp_path / "seven.pth",
        [5, 0, 2],
        32,
        arguments=arguments,
        precision="float32",
    )
    torch.testing.assert_close(part(pictures()), whole(pictures())[:, [5, 0, 2]])
    with pytest.raises(
        LaceError, match="The schema needs 3 outputs of mobilenet_v3_small, which has 7, and 2 were chosen"
    ):
        library_labeler(
            "torchvision", "mobilenet_v3_small", COLOURS, tmp_path / "seven.pth", [5, 0], 32, arguments=arguments
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"library": "keras"}, "one of torchvision, timm"),
        ({"model": "resnet17"}, "could not give the network 'resnet17'"),
        ({"weights": None}, "needs weights and received none"),
        ({"weights": "missing.pth"}, "missing.pth"),
        ({"weights": "IMAGENET_V9"}, "with weights IMAGENET_V9"),
    ],
)
def test_wrong_names_are_one_sentence(arguments, message) -> None:
    with pytest.raises(LaceError, match=message):
        library_labeler(
            **{"library": "torchvision", "model": "resnet18", "schema": COLOURS, "weights": "x.pth", **arguments}
        )


def test_a_network_whose_last_layer_is_not_its_head_stays_whole() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(12, 5), nn.Linear(5, 5)

        def forward(self, x):
            y = self.a(x.flatten(1))
            return y + self.b(y)

    torch.manual_seed(0)
    model, x = Residual(), torch.randn(3, 3, 2, 2)
    wanted = model(x)
    body, head = split_head(model, x)
    assert body is model
    torch.testing.assert_close(head(body(x)), wanted)


def test_a_script_answers_as_it_does_by_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 3))
    torch.jit.script(network).save(str(tmp_path / "labels.pt"))
    labeler = script_labeler(tmp_path / "labels.pt", HATS, resolution=32)
    with torch.no_grad():
        torch.testing.assert_close(labeler(pictures()), network(pictures()))
    with pytest.raises(LaceError, match="resolution"):
        script_labeler(tmp_path / "labels.pt", HATS, resolution=16)
    with pytest.raises(LaceError, match="The schema needs 2 outputs"):
        script_labeler(tmp_path / "labels.pt", {"name": "s", "attributes": [{"name": "a"}]}, resolution=32)
    (tmp_path / "none.pt").write_bytes(b"nothing")
    with pytest.raises(LaceError, match="must be a TorchScript file"):
        script_labeler(tmp_path / "none.pt", HATS)
    with pytest.raises(LaceError, match="does not exist"):
        script_labeler(tmp_path / "missing.pt", HATS)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_a_script_of_other_channels(tmp_path: Path, channels: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(channels, 4, 8, stride=8), nn.Flatten(), nn.Linear(64, 3))
    torch.jit.script(network).save(str(tmp_path / "labels.pt"))
    labeler = script_labeler(tmp_path / "labels.pt", HATS, resolution=32)
    images = torch.rand(4, channels, 32, 32) * 2 - 1
    assert labeler.channels == channels
    with torch.no_grad():
        torch.testing.assert_close(labeler(images), network(images))
    if channels > 1:
        torch.testing.assert_close(labeler(images[:, :1]), labeler(images[:, :1].repeat(1, channels, 1, 1)))
    with pytest.raises(LaceError, match=f"'labels' takes pictures of {channels} channels?, and received 3: choose a"):
        labeler(pictures())
    with pytest.raises(
        LaceError, match=rf"labeler\.mean must have {channels} numbers?, .* received \[0\.1, 0\.2, 0\.3\]"
    ):
        script_labeler(tmp_path / "labels.pt", HATS, resolution=32, mean=(0.1, 0.2, 0.3))


def test_a_program_of_any_channels(tmp_path: Path) -> None:
    class Means(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=[1, 2, 3]).unsqueeze(1).repeat(1, 3)

    torch.jit.script(Means()).save(str(tmp_path / "labels.pt"))
    labeler = script_labeler(tmp_path / "labels.pt", HATS)
    assert labeler.channels is None
    for channels in (1, 3, 4, 7):
        images = torch.rand(2, channels, 8, 8)
        torch.testing.assert_close(labeler(images)[:, 0], images.mean((1, 2, 3)))


def test_grey_pictures_are_repeated_for_every_labeler(tiny_labeler) -> None:
    grey = torch.rand(3, 1, 16, 16) * 2 - 1
    colours = grey.repeat(1, 3, 1, 1)
    torch.testing.assert_close(tiny_labeler(grey), tiny_labeler(colours))
    torch.testing.assert_close(tiny_labeler.features(grey), tiny_labeler.features(colours))
    assert tiny_labeler.labels(grey).values.equal(tiny_labeler.labels(colours).values)
    for images in (torch.zeros(2, 4, 16, 16), torch.zeros(2, 2, 16, 16)):
        with pytest.raises(LaceError, match=f"takes pictures of 3 channels, and received {images.shape[1]}: choose"):
            tiny_labeler.labels(images)


def test_weights_of_a_library_network_by_their_content(tmp_path: Path) -> None:
    from torchvision.models import get_model

    torch.manual_seed(0)
    state = get_model("mobilenet_v3_small", num_classes=3).state_dict()
    raw = {name: value * 2 for name, value in state.items()}
    torch.save({"model": raw, "model_ema": {f"_orig_mod.{k}": v for k, v in state.items()}}, tmp_path / "real.pth.tar")
    torch.save(state, tmp_path / "alone.pth")

    def labeler(name: str, **options):
        return library_labeler("torchvision", "mobilenet_v3_small", COLOURS, tmp_path / name, resolution=32, **options)

    with pytest.warns(UserWarning, match="the average of the weights under 'model_ema' is taken"):
        average = labeler("real.pth.tar")
    assert average.digest.split("-")[0] == labeler("alone.pth").digest.split("-")[0]
    assert labeler("real.pth.tar", checkpoint_key="model").digest != average.digest


def redness(images: torch.Tensor) -> torch.Tensor:
    red = images[:, 0].mean((1, 2))
    return torch.stack([torch.where(red.abs() < 0.01, torch.nan, (red > 0).float()), red / 2 + 0.5], dim=1)


def test_a_function_labels() -> None:
    images = torch.stack([torch.full((3, 8, 8), v) for v in (-0.5, 0.0, 0.5)])
    labeler = function_labeler(redness, HATS)
    labels = labeler.labels(images)
    assert labels.known[:, 0].tolist() == [True, False, True]
    assert labels.values[[0, 2], 0].tolist() == [0, 1]
    torch.testing.assert_close(labels.values[:, 1], torch.tensor([0.25, 0.5, 0.75]))
    assert labels.known[:, 1].all()
    by_name = function_labeler("lace_lightning.pictures.to_bytes", HATS)
    with pytest.raises(LaceError, match=r"labels \(3, 2\) or logits \(3, 3\) for 3 pictures"):
        by_name(images)
    with pytest.raises(LaceError, match="classes from 0 to 1 for 'hat'"):
        function_labeler(lambda x: torch.full((len(x), 2), 2.0), HATS)(images)
    logits = torch.tensor([[1.0, -2.0, 0.25]]).expand(3, 3)
    torch.testing.assert_close(function_labeler(lambda x: logits, HATS)(images), logits)
    for name in ("no_such_package.f", "redness", "lace_lightning.pictures.nothing"):
        with pytest.raises(LaceError, match=r"labeler\.function"):
            function_labeler(name, HATS)


# ------------------------------------------------------------------------------------------------ CLIP


def test_clip_compares_pictures_with_sentences(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    config, weights = tiny_clip(tmp_path)
    prompts = {
        "hat": ["a photo of a cat", "a photo of a cat wearing a hat"],
        "breed": {
            "persian": ["a persian cat", "a photo of a persian"],
            "bombay": "a bombay cat",
            "siamese": "a siamese cat",
        },
    }
    labeler = clip_labeler(prompts, str(config), weights, precision="float32")
    assert [(a.name, a.class_names) for a in labeler.schema] == [
        ("hat", ("no", "yes")),
        ("breed", ("persian", "bombay", "siamese")),
    ]
    torch.manual_seed(0)
    model, tokenizer = open_clip.CLIP(**TINY_CLIP).eval(), open_clip.get_tokenizer("tiny")
    images = pictures()
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    with torch.no_grad():
        seen = model.encode_image((images / 2 + 0.5 - mean[:, None, None]) / std[:, None, None], normalize=True)
        text = model.encode_text(
            tokenizer(
                [
                    "a photo of a cat",
                    "a photo of a cat wearing a hat",
                    "a persian cat",
                    "a photo of a persian",
                    "a bombay cat",
                    "a siamese cat",
                ]
            ),
            normalize=True,
        )
        pair = F.normalize(text[2:4].mean(0), dim=0)
        wanted = model.logit_scale.exp() * seen @ torch.stack([text[0], text[1], pair, text[4], text[5]]).T
    torch.testing.assert_close(labeler(images), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(labeler.features(images), seen, atol=1e-5, rtol=1e-5)
    assert clip_labeler(prompts, str(config), weights, scale=1.0, precision="float32")(images).abs().max() <= 1.0001
    words = clip_labeler(
        {"breed": ["persian", "bombay"]},
        str(config),
        weights,
        templates=["a {} cat", "a photo of a {}"],
        precision="float32",
    )
    assert words.schema["breed"].class_names == ("persian", "bombay")
    torch.testing.assert_close(words(images)[:, 0], wanted[:, 2], atol=1e-4, rtol=1e-4)
    assert words.digest != labeler.digest


def test_clip_abstains_below_its_confidence(tmp_path: Path) -> None:
    config, weights = tiny_clip(tmp_path)
    prompts = {"hat": ["a photo of a cat", "a photo of a cat wearing a hat"]}
    images = pictures(64)
    sure = clip_labeler(prompts, str(config), weights, precision="float32")(images).softmax(1).amax(1)
    confidence = float(sure.median())
    labels = clip_labeler(prompts, str(config), weights, precision="float32", confidence=confidence).labels(images)
    assert labels.known[:, 0].tolist() == (sure >= confidence).tolist()
    assert 30 < labels.known.sum() < 34


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, "at least one attribute"),
        ({"hat": "a cat wearing a hat"}, "pictures without it as well as with it"),
        ({"hat": ["a cat wearing a hat"]}, "pictures without it as well as with it"),
        ({"hat": {"yes": "a hat"}}, "received 1"),
        ({"hat": ["a cat", ""]}, "none of them empty"),
        ({"hat": ["a cat", "a cat"]}, "different sentences"),
        ({"hat!": ["a", "b"]}, "must consist of letters"),
    ],
)
def test_wrong_prompts_are_one_sentence(prompts, message) -> None:
    with pytest.raises(LaceError, match=message):
        parse_prompts(prompts)


def test_wrong_clip_models_are_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    prompts = {"hat": ["a cat", "a hat"]}
    with pytest.raises(LaceError, match="open_clip could not give the model 'ViT-B-99'"):
        clip_labeler(prompts, "ViT-B-99", "openai")
    config, weights = tiny_clip(tmp_path)
    os.truncate(weights, 1000)
    with pytest.raises(LaceError, match="safetensors"):
        clip_labeler(prompts, str(config), weights)
    with pytest.raises(LaceError, match="where the word"):
        parse_prompts(prompts, ["a photo"])


def test_networks_are_tried_with_the_shape_of_the_generators_pictures(tmp_path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 5), nn.Flatten(), nn.Linear(2 * 24 * 16, 3))
    torch.jit.script(network).save(str(tmp_path / "grey.pt"))
    schema = {"name": "s", "attributes": [{"name": "kind", "num_classes": 3}]}
    images = torch.linspace(-1, 1, 2 * 28 * 20).reshape(2, 1, 28, 20)
    exact = network(images)
    for labeler in (
        script_labeler(tmp_path / "grey.pt", schema, image_shape=[1, 28, 20]),
        module_labeler(network, schema, image_shape=[1, 28, 20]),
    ):
        assert labeler.channels == 1
        torch.testing.assert_close(labeler(images), exact)
    with pytest.raises(LaceError, match=r"must take pictures \(2, 3, 64, 64\)"):
        script_labeler(tmp_path / "grey.pt", schema)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_batch": 0}, "A labeler needs at least 1 picture at a time, received max_batch=0"),
        ({"max_batch": "many"}, "received max_batch='many'"),
        ({"views": 3}, "needs 1, 2 or 4 views of a picture, received 3"),
        ({"views": "two"}, "received 'two'"),
        ({"confidence": "high"}, r"must lie in \[0, 1\], received 'high'"),
        ({"confidence": float("nan")}, r"must lie in \[0, 1\], received nan"),
        ({"std": [0]}, "labeler.std must be a list of numbers above 0, one for each channel, received \\[0\\]"),
        ({"mean": "grey"}, "labeler.mean must be a list of numbers, one for each channel, received 'grey'"),
        ({"resolution": 0}, "labeler.resolution must be a whole number of pixels of at least 1"),
        ({"checkpoint": "none.pt"}, "none.pt"),
    ],
)
def test_arguments_of_labelers_are_refused_in_one_sentence(options: dict, words: str) -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 2))
    schema = {"name": "s", "attributes": [{"name": "hat", "num_classes": 2}]}
    with pytest.raises(LaceError, match=words) as caught:
        module_labeler(network, schema, image_shape=[3, 8, 8], **options)
    assert "\n" not in str(caught.value)


def test_the_line_of_a_network_that_fails_is_shown() -> None:
    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.nothing(images)  # the broken line

    schema = {"name": "s", "attributes": [{"name": "hat", "num_classes": 2}]}
    with pytest.raises(LaceError, match=r"in test_adapters.py:\d+ `return self.nothing\(images\)  # the broken line`"):
        module_labeler(Broken(), schema, image_shape=[3, 8, 8])
