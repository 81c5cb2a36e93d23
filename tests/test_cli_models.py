"""Baselines from the command line: trained once, gone on with, measured as LACE is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lace_lightning import cli
from lace_lightning.data import CIFAR10_SCHEMA
from lace_lightning.report import sweeps
from lace_lightning.systems.pixel_ebm.jem import JEM

from .models import Lookup
from .test_cli import few_digits, few_pictures, results

LOOKUP = [
    "+experiment=cifar10_ode",
    "task=model",
    "model._target_=tests.models.Lookup",
    "+model.batch_size=50",
    "logger=csv",
    "pairs.count=500",
    "pairs.batch_size=250",
    "metrics.num_samples=100",
    "metrics.batch_size=50",
    "metrics.timing_repeats=0",
    "trainer.max_epochs=1",
    "metrics.progress=false",
]


SMALL_COND_EBM = [
    "model.network.filter_dim=4",
    "model.chain.num_steps=2",
    "model.sampling.rounds=1",
    "model.sampling.steps=2",
    "model.sampling.refine=2",
    "model.buffer.size=100",
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lace_lightning.run.nodes.BUILT", {})
    sweeps.OUTCOMES.clear()


def test_a_model_that_knows_the_answers_has_the_accuracy_of_the_labels(tmp_path: Path, capsys) -> None:
    cli.main([*LOOKUP, "hydra.run.dir=out", "task.export=lookup"])
    result = results(tmp_path / "out")[0]
    metrics, protocol = result["metrics"], result["protocol"]
    # Labeler and judge agree on 0.85 of the generator's pictures, and every sample is one that the labeler gave the
    # wanted class.
    assert 0.75 < metrics["acc"] < 0.95
    assert metrics["evaluations"] == 0
    assert metrics["minutes/training"] > 0
    assert metrics["fd_judge/unconditional"] > 0
    assert protocol["sampler"].startswith("Lookup(")
    assert len(load_file(tmp_path / "out" / "lookup.safetensors")["points"]) == 400
    trained = next((tmp_path / "cache" / "systems").rglob("system.safetensors"))
    before = trained.stat().st_mtime_ns
    cli.main([*LOOKUP, "hydra.run.dir=again"])
    assert trained.stat().st_mtime_ns == before
    again = results(tmp_path / "again")[0]["metrics"]
    assert {name: value for name, value in again.items() if "seconds" not in name} == {
        name: value for name, value in metrics.items() if "seconds" not in name
    }
    # Drawn in another way, it is the same training.
    cli.main([*LOOKUP, "hydra.run.dir=other", "+model.stream=1"])
    assert len(list((tmp_path / "cache" / "systems").rglob("system.safetensors"))) == 1
    # So it is with the file, which another generator refuses.
    cli.main([*LOOKUP, "hydra.run.dir=given", "+model.stream=1", "task.weights=out/lookup.safetensors"])
    given, other = (results(tmp_path / name)[0]["metrics"] for name in ("given", "other"))
    assert {name: value for name, value in given.items() if "seconds" not in name} == {
        name: value for name, value in other.items() if "seconds" not in name
    }
    cli.main([*LOOKUP, "hydra.run.dir=drawn", "task=draw", "task.count=3", "task.weights=out/lookup.safetensors"])
    assert len(list((tmp_path / "drawn").glob("0*.png"))) == 3
    with pytest.raises(SystemExit):
        cli.main([*LOOKUP, "generator=portraits", "task.weights=out/lookup.safetensors"])
    assert "was trained on the latents of generator" in capsys.readouterr().err
    assert other["minutes/training"] == metrics["minutes/training"]
    assert other["fd_judge"] != metrics["fd_judge"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("query=label == cat or label == dog", "a conjunction of =="),
        ("model._target_=null", "needs a model"),
        ("model._target_=torch.nn.Identity", "must be a System, and torch.nn.Identity is none"),
        ("pairs.holdout=[0,0]", "none is left for that"),
        ("task.attributes=[hat]", "'hat' was asked for"),
        ("labeler=none", "labeler=none: choose a labeler"),
    ],
)
def test_what_cannot_be_is_one_sentence(override: str, message: str, capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main([*LOOKUP, override])
    assert message in capsys.readouterr().err


def test_models_of_pictures_learn_the_labels_that_there_are(capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(
            [
                "+experiment=portraits_latent_jem",
                "model=jem",
                "dataset=cifar10",
                "hydra.mode=RUN",
                "~model.decay_epochs",
                "logger=csv",
                "metrics.fid=none",
            ]
        )
    assert "learns labels of the data set, label, and was asked for glasses" in capsys.readouterr().err


def test_what_an_energy_cannot_say_is_refused_before_it_is_trained(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(
            [
                "+experiment=portraits_cond_ebm",
                "hydra.mode=RUN",
                "logger=csv",
                "metrics.fid=none",
                "task.attributes=[age,glasses]",
                "query=age > 0.5 or glasses == 1",
            ]
        )
    assert "age" in capsys.readouterr().err
    assert not list((tmp_path / "cache" / "systems").rglob("*"))


def test_a_model_of_pictures_sees_the_labels_that_it_learns() -> None:
    model = Lookup(
        {"name": "two", "attributes": [{"name": name, "kind": "discrete", "num_classes": 2} for name in ("b", "a")]}, 3
    )
    batch = (torch.zeros(2, 3), torch.tensor([[0.0, 1, 2], [3, 4, 5]]), torch.tensor([[True, True, False]] * 2))
    assert model.on_after_batch_transfer(batch, 0) is batch
    model.columns = [2, 0]
    points, labels, known = model.on_after_batch_transfer(batch, 0)
    assert points is batch[0]
    assert labels.tolist() == [[2, 0], [5, 3]]
    assert known.tolist() == [[False, True]] * 2


def test_energies_of_w_draw_what_no_label_says(tmp_path: Path) -> None:
    """A disjunction holds more often than for the generator alone, and its sides are told apart."""
    cli.main(
        [
            "+experiment=portraits_latent_jem",
            "hydra.mode=RUN",
            "logger=csv",
            "metrics.progress=false",
            "pairs.count=1000",
            "task.attributes=[glasses,beard]",
            "query=glasses == 1 or beard == 1",
            "trainer.max_epochs=6",
            "model.chain_steps=2",
            "model.warmup_steps=0",
            "metrics.num_samples=100",
            "metrics.timing_repeats=0",
            "metrics.fid=none",
            "hydra.run.dir=out",
        ]
    )
    result = results(tmp_path / "out")[0]
    assert result["metrics"]["holds"] > result["metrics"]["prior/holds"] + 0.1
    assert "branch/glasses == yes" in result["metrics"]
    assert result["protocol"]["logic"] == "exact"


@pytest.fixture
def few(shared_dir: Path, monkeypatch) -> None:
    """Fifty pictures of CIFAR-10 for all of it, and of MNIST."""
    monkeypatch.setenv("LACE_CIFAR10", str(shared_dir / "data"))
    monkeypatch.setattr("lace_lightning.data.cifar10.load_cifar10", few_pictures)
    monkeypatch.setattr("lace_lightning.data.cifar10.SIZES", {"train": 40, "test": 10})
    monkeypatch.setenv("LACE_MNIST", str(shared_dir / "data"))
    monkeypatch.setattr("lace_lightning.data.digits.load_digits", few_digits)
    monkeypatch.setattr("lace_lightning.data.digits.VALIDATION", 10)


def test_a_published_model_draws_without_any_training(few: None, tmp_path: Path) -> None:
    """Its chains of no length end in the pictures that the file's buffer has."""
    source = JEM(CIFAR10_SCHEMA, {"depth": 10, "widen": 1, "published": True}, buffer={"size": 12})
    grey = torch.full_like(source.buffer.points, 0.5)
    torch.save({"model_state_dict": source.network.state_dict(), "replay_buffer": grey}, tmp_path / "published.pt")
    cli.main(
        [
            "+experiment=cifar10_jem",
            "logger=csv",
            "metrics.progress=false",
            "metrics.num_samples=10",
            "metrics.fid=none",
            "metrics.batch_size=10",
            "metrics.pictures_per_class=1",
            "model.network.published=true",
            "model.buffer.size=12",
            "model.start=published.pt",
            "trainer.max_steps=0",
            "model.sampling.num_steps=1",
            "model.sampling.noise_std=0",
            "model.sampling.step_size=1e-9",
            "hydra.run.dir=out",
        ]
    )
    assert results(tmp_path / "out")[0]["metrics"]["minutes/training"] == 0
    with Image.open(tmp_path / "out" / "samples.png") as picture:
        assert picture.getpixel((picture.width - 16, picture.height - 16)) == (191, 191, 191)


@pytest.mark.parametrize(
    ("name", "small"),
    [
        ("cifar10_jem", ["model.chain.num_steps=2", "model.sampling.num_steps=2", "model.buffer.size=100"]),
        (
            "cifar10_cond_ebm",
            SMALL_COND_EBM,
        ),
        (
            "portraits_cond_ebm",
            [
                *SMALL_COND_EBM,
                "dataset.module.limit=40",
                "hydra.mode=RUN",
                "query=glasses == 1 and smile == 0 or not glasses == 1 and smile == 1",
            ],
        ),
        ("cifar10_vp_sde", ["model.network.nf=8", "model.sampler.num_steps=21"]),
        (
            "cifar10_jem_full",
            [
                "model.network.depth=10",
                "model.network.widen=1",
                "model.chain.num_steps=2",
                "model.sampling.num_steps=2",
                "model.buffer.size=100",
            ],
        ),
        (
            "cifar10_cond_ebm_full",
            SMALL_COND_EBM,
        ),
        ("digits_jem", ["model.chain.num_steps=2", "model.sampling.num_steps=2", "model.buffer.size=100"]),
        (
            "digits_cond_ebm",
            SMALL_COND_EBM,
        ),
        *(
            (
                f"digits_{kind}_sde",
                [
                    "model.network.nf=8",
                    "score_sampler@model.sampler=probability_flow",
                    "model.sampler.num_steps=2",
                ],
            )
            for kind in ("vp", "ve")
        ),
        *(
            (
                f"cifar10_{kind}_sde_full",
                [
                    "model.network.nf=8",
                    "model.network.blocks=1",
                    "model.classifier.depth=10",
                    "model.classifier.widen=1",
                    "model.sampler.num_steps=21",
                ],
            )
            for kind in ("vp", "ve")
        ),
        (
            "cifar10_ve_sde",
            ["model.network.nf=8", "score_sampler@model.sampler=probability_flow", "model.sampler.num_steps=2"],
        ),
    ],
)
def test_baselines_of_pictures_run_and_go_on(name: str, small: list[str], few: None, tmp_path: Path) -> None:
    command = [
        f"+experiment={name}",
        "logger=csv",
        "metrics.progress=false",
        "dataset.module.batch_size=8",
        "metrics.num_samples=10",
        "metrics.batch_size=10",
        "metrics.pictures_per_class=1",
        "task.checkpoint_steps=1",
        *small,
    ]
    cli.main([*command, "trainer.max_steps=2", "hydra.run.dir=out", "task.export=model"])
    metrics = results(tmp_path / "out")[0]["metrics"]
    assert metrics["fd_judge"] > 0
    # What a latent generator draws is nothing to stand beside.
    assert "fd_judge/unconditional" not in metrics
    assert metrics["evaluations"] > 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    with Image.open(tmp_path / "out" / "samples.png") as picture:
        assert picture.size[1] > 10 * 32


FLOW = [
    "logger=csv",
    "debug=fast",
    "metrics.fid=none",
    "model.sampling.steps=2",
    "model.solver.steps=1",
    "hydra.mode=RUN",
    "pairs.count=100",
    "metrics.num_samples=8",
    "metrics.batch_size=8",
]


def test_a_flow_samples_and_edits_with_one_training(tmp_path: Path, capsys) -> None:
    cli.main(["+experiment=portraits_styleflow", *FLOW, "hydra.run.dir=sampled"])
    sampled = results(tmp_path / "sampled")[0]
    for name, evaluations in (("styleflow_v1", (16 + 3 * 8) / 4), ("styleflow_v2", 16)):
        cli.main(
            [
                "+experiment=portraits_edit_styleflow",
                *FLOW,
                "task.strips=1",
                "metrics.keep=3",
                f"editing={name}",
                f"hydra.run.dir={name}",
            ]
        )
        result = results(tmp_path / name)[0]
        metrics, protocol = result["metrics"], result["protocol"]
        assert metrics["evaluations"] == evaluations
        assert metrics["model/nll"] == sampled["metrics"]["model/nll"]
        assert metrics["minutes/training"] == sampled["metrics"]["minutes/training"]
        assert protocol["classifier"] == sampled["protocol"]["classifier"]
        assert protocol["attributes_before"].startswith("labeler: portraits_labeler")
        assert {"acc/yaw", "des", "id", "edit4/holds", "seconds/sampling_per_64"} <= set(metrics)
        assert (tmp_path / name / "samples.webp").is_file()
        assert len(list((tmp_path / name / "samples").glob("0002_*.png"))) == 5
    assert len(list((tmp_path / "cache" / "systems").rglob("system.safetensors"))) == 1
    assert protocol["editing"]["layers"]["age"] == [0, 1]
    assert "training, minutes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.edits=[age > 0.5]"], "StyleFlow takes a conjunction of =="),
        (["model=latent_jem"], "LatentJEM only draws: set model=styleflow"),
        (["editing=sequential"], "takes layers, overshoot, reencode, and editing=sequential has closeness"),
        (
            ["model=none"],
            "and editing=styleflow_v2 has overshoot, reencode: set editing=sequential, or model=styleflow",
        ),
        (["+editing.overshoot={hat: 2}"], "'hat' was asked for"),
        (["editing=styleflow_v2_ffhq"], "must lie in 0 to 7"),
        (["editing.overshoot=much"], "overshoot must be factors"),
        (["task.edits=[]"], "Editing needs edits"),
        (["task.attributes=[smile]", "editing=styleflow_v1"], "needs yaw"),
    ],
)
def test_what_cannot_be_edited_is_one_sentence(overrides: list[str], message: str, tmp_path: Path, capsys) -> None:
    settings = [setting for setting in FLOW if not setting.startswith("model.")]
    with pytest.raises(SystemExit):
        cli.main(["+experiment=portraits_edit_styleflow", *settings, *overrides])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "cache" / "pairs").exists()
