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


STRANGER = """
import torch
from torch import nn


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 40))
        self.decoder = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 784))

    def decode(self, z):
        return torch.sigmoid(3 * self.decoder(z))

    def forward(self, x):
        mean, log_variance = self.encoder(x.view(-1, 784)).chunk(2, dim=1)
        return self.decode(mean), mean, log_variance


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.last = nn.Sequential(nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))

    def forward(self, x):
        for layer in (self.first, self.second):
            x = torch.max_pool2d(layer(x).relu(), 2)
        return self.last(x.flatten(1))


network = LeNet()


def load():
    network.load_state_dict(torch.load("lenet.pt", weights_only=True))
    return network.eval()


def digit(images):
    return load()((images + 1) / 2)
"""
# All that is written for a VAE and a classifier that are there: one line for each argument of the command line.
DIGITS = [
    "+experiment=yours",
    "generator.module._target_=stranger.VAE",
    "generator.checkpoint=vae.pt",
    "labeler=module",
    "labeler.module._target_=stranger.LeNet",
    "labeler.checkpoint=lenet.pt",
    "labeler.mean=[0]",
    "labeler.std=[1]",
    "labeler.schema={name: digits, attributes: [{name: digit, num_classes: 10}]}",
    "query=digit == 3",
]
# As a file, with a function in place of the module: my_conf/experiment/digits.yaml.
YAML = """
# @package _global_
defaults: [yours]
generator:
  module: {_target_: stranger.VAE}
  checkpoint: vae.pt
labeler:
  function: stranger.digit
  schema: {name: digits, attributes: [{name: digit, num_classes: 10}]}
query: {text: digit == 3}
name: digits
"""


@pytest.fixture
def stranger(own_code: Path) -> Path:
    """A folder with the code and the weights of a VAE of flat pictures in [0, 1], and of a classifier of digits."""
    import importlib
    import sys

    (own_code / "stranger.py").write_text(STRANGER)
    sys.modules.pop("stranger", None)
    module = importlib.import_module("stranger")
    torch.manual_seed(0)
    torch.save(module.VAE().state_dict(), own_code / "vae.pt")
    lenet = module.LeNet()
    with torch.no_grad():
        # Every class is the answer for some of the pictures.
        lenet.last[-1].weight.mul_(20)
        pictures = module.VAE().decode(torch.randn(500, 20)).view(-1, 1, 28, 28)
        lenet.last[-1].bias.sub_(lenet(pictures).mean(0))
    torch.save(lenet.state_dict(), own_code / "lenet.pt")
    (own_code / "my_conf" / "experiment").mkdir(parents=True)
    (own_code / "my_conf" / "experiment" / "digits.yaml").write_text(YAML.lstrip())
    yield own_code
    sys.modules.pop("stranger", None)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("way", ["command line", "yaml"])
def test_a_strangers_vae_and_classifier_are_sampled_judged_and_edited_at_the_first_try(
    way: str, stranger: Path, capsys
) -> None:
    lines = DIGITS if way == "command line" else [line for line in YAML.splitlines() if line.strip()]
    assert len(lines) <= 12
    words = DIGITS if way == "command line" else ["--config-dir", "my_conf", "+experiment=digits"]
    quick = ["debug=fast", "logger=csv", "pairs.count=300", "metrics.num_samples=20"]
    cli.main([*words, *quick, "hydra.run.dir=sampled"])
    sampled = json.loads((stranger / "sampled" / "metrics.json").read_text())
    assert 0 <= sampled["metrics"]["acc"] <= 1
    found = ["z_dim=20", "synthesis=decode", "image_shape=[1,28,28]", "output_range=[0,1]"]
    assert sampled["protocol"]["generator_found"] == found
    assert "the labeler measures its own labels, so that ACC flatters" in sampled["protocol"]["judge_note"]
    assert sampled["protocol"]["frechet"] is None
    printed = capsys.readouterr()
    assert f"found by trying the generator: {' '.join(found)}" in printed.err
    assert "judge=none: the labeler measures its own labels" in printed.out
    assert (stranger / "sampled" / "samples.png").is_file()
    if way == "yaml":
        return
    cli.main([*words, "task=edit", "edits=digit == 7", *quick, "hydra.run.dir=edited"])
    edited = json.loads((stranger / "edited" / "metrics.json").read_text())
    assert edited["protocol"]["query"] == "digit == 7"
    assert (stranger / "edited" / "samples.png").is_file()
    # What was learned for the samples is used again.
    assert edited["protocol"]["classifier"] == sampled["protocol"]["classifier"]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("task", ["control", "reference", "check_labelers"])
def test_a_run_without_labeler_and_judge_says_what_it_needs(own_code: Path, task: str, capsys) -> None:
    export = ["task.export=statistics", "metrics.fid=judge"] if task == "reference" else []
    with pytest.raises(SystemExit):
        cli.main(["+experiment=yours", *MODULE, "labeler=none", f"task={task}", *QUICK, *export])
    words = {
        "control": "both are none: choose a judge of the attributes, for example judge=clip",
        "reference": "The task reference needs a judge, and judge=none",
        "check_labelers": "The task check_labelers needs a labeler, and labeler=none",
    }
    assert words[task] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_classifier_of_the_output_of_a_layer(stranger: Path, capsys) -> None:
    words = [*DIGITS, "classifier=features", "debug=fast", "logger=csv", "pairs.count=300", "metrics.num_samples=20"]
    cli.main([*words, "generator.features=decoder.1", "task=edit", "edits=digit == 7", "hydra.run.dir=edited"])
    edited = json.loads((stranger / "edited" / "metrics.json").read_text())
    assert edited["protocol"]["space"] == "features"
    with pytest.raises(SystemExit):
        cli.main([*words, "hydra.run.dir=none"])
    assert "generator.features is null: set it" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_pictures_with_opacity_are_drawn_and_a_judge_of_other_channels_is_refused(own_code: Path, capsys) -> None:
    four = ["+experiment=yours", *MODULE, "generator.image_shape=[4,16,16]", "+generator.module.channels=4"]
    labels = ["labeler.function=own_code.bright", SCHEMA, "query=bright == yes"]
    with pytest.raises(SystemExit):
        cli.main([*four, *labels, "judge=cifar10", *QUICK])
    assert "The judge must take the generator's pictures of 4 channels" in capsys.readouterr().err.splitlines()[-1]
    cli.main([*four, *labels, "task=draw", "task.count=2", *QUICK])
    report = json.loads(next(own_code.glob("out/**/report.json")).read_text())
    assert "ACC flatters" in report["judge_note"]
    assert report["judged_by"] == "labeler"
    header = next(own_code.glob("out/**/samples.csv")).read_text().splitlines()[0].split(",")
    assert "labeler_bright" in header
    assert not any(name.startswith("judge_") for name in header)
    last = capsys.readouterr().out
    assert "; the labeler sees the query in " in last
    assert "no independent judge was asked" in last
    from PIL import Image

    assert Image.open(next(own_code.glob("out/**/0000.png"))).mode == "RGBA"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("task", ["control", "draw", "edit"])
def test_labels_of_a_table_need_neither_labeler_nor_judge(own_code: Path, task: str, capsys) -> None:
    """ACC is not measured then; an edit is measured by labels before and after, and needs a judge."""
    (own_code / "labels.csv").write_text("sample,bright\n" + "".join(f"{i},{i % 2}\n" for i in range(60)))
    words = ["+experiment=yours", *MODULE, "labeler=none", "judge=none", "pairs.source=labels.csv", "query=bright == 1"]
    extra = {"control": ["metrics.keep=2"], "draw": ["task.count=2"], "edit": ["edits=bright == 1"]}[task]
    command = [*words, f"task={task}", *extra, "debug=fast", "logger=csv", "hydra.run.dir=out"]
    if task == "edit":
        with pytest.raises(SystemExit):
            cli.main(command)
        assert "both are none: choose a judge" in capsys.readouterr().err
        return
    cli.main(command)
    assert "ACC is not measured, since no network looks at the pictures" in capsys.readouterr().err
    results = json.loads((own_code / "out" / "metrics.json").read_text())
    assert "ACC is not measured" in results["protocol"]["judge_note"]
    assert not {"acc", "holds", "unknown", "prior/holds"} & set(results["metrics"])
    table = next(own_code.glob("out/**/samples.csv")).read_text()
    assert "bright," not in table.splitlines()[0]
    assert "holds" not in table.splitlines()[0]
