"""A decoder and a labelling function of one's own from the command line: nothing but what is one's own is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lace_lightning import cli

CODE = """
import torch
from torch import nn


class Decoder(nn.Module):
    def __init__(self, channels=1, sizes=(16,)):
        super().__init__()
        assert isinstance(sizes, (list, tuple)), "lists must arrive as lists"
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, channels * 256), nn.Tanh())

    def forward(self, z):
        return self.net(z)


def bright(images):
    return (images.mean((1, 2, 3)) > 0).float()[:, None]


def by_eye(images):
    return (images[:, 0, 2:].mean((1, 2)) > 0).float()[:, None]
"""
SCHEMA = "labeler.schema={name: light, attributes: [{name: bright, num_classes: 2, class_names: ['no', 'yes']}]}"
MODULE = ["generator.module._target_=own_code.Decoder", "generator.z_dim=8"]
LABELS = ["labeler.function=own_code.bright", "judge.function=own_code.by_eye", SCHEMA, "query=bright == yes"]
QUICK = ["debug=fast", "logger=csv", "metrics.fid=none", "hydra.run.dir=out"]


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lace_lightning.run.nodes.BUILT", {})
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_code.py").write_text(CODE)
    import importlib
    import sys

    sys.modules.pop("own_code", None)
    module = importlib.import_module("own_code")
    torch.manual_seed(0)
    state = module.Decoder().state_dict()
    raw = {name: value * 0 for name, value in state.items()}
    torch.save({"netG": raw, "netG_ema": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "real.pth.tar")
    yield tmp_path
    sys.modules.pop("own_code", None)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "experiment",
    [
        ["+experiment=your_module"],
        ["+experiment=your_attribute", "generator=module", "labeler=function", "judge=function"],
    ],
)
def test_a_flat_decoder_of_grey_pictures_and_a_function(own_code: Path, experiment: list[str], capsys) -> None:
    cli.main(
        [*experiment, *MODULE, "generator.image_shape=[1,16,16]", "generator.checkpoint=real.pth.tar", *LABELS, *QUICK]
    )
    metrics = json.loads(next(own_code.glob("out/**/metrics.json")).read_text())
    # Pictures of the raw weights, which are 0, would all be grey and have one label.
    assert 0 < metrics["metrics"]["acc"] < 1


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ["generator.image_shape=[4,16,16]", "+generator.module.channels=4"],
            "must take the generator's pictures of 4 channels, and 'cifar10_labeler' takes pictures of 3",
        ),
        (["generator.image_shape=[1,16,16]", "generator.z_dim=9"], "set z_dim to the size of its latents"),
        (["generator.image_shape=[1,9,9]"], "must return the shape (2, 1, 9, 9) for two samples"),
        (["generator.image_shape=[1,16,16]", "generator.output_range=[1,1]"], "lowest and its highest value"),
        (["generator.image_shape=[1,16,16]", "generator.checkpoint=none.pt"], "does not exist (looked for in "),
    ],
)
def test_what_does_not_fit_is_one_sentence(own_code: Path, settings: list[str], words: str, capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["+experiment=cifar10_heun", "generator=module", *MODULE, *settings, *QUICK])
    errors = capsys.readouterr().err.splitlines()
    assert words in errors[-1]
    assert not any("Traceback" in line for line in errors)


def test_a_decoder_of_grey_pictures_with_a_labeler_of_three_channels(own_code: Path) -> None:
    cli.main(["+experiment=cifar10_heun", "generator=module", *MODULE, "generator.image_shape=[1,16,16]", *QUICK])
    assert list(own_code.glob("out/**/metrics.json"))
