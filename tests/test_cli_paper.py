"""The paper's experiments on published networks, on small files of their layouts: 18 style layers, given pairs,
prompts.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lace_lightning import catalogue, cli
from lace_lightning.artifacts import file_sha256, write_json
from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.data import FACES_SCHEMA
from lace_lightning.generators import StyleGAN2Network, load_generator
from lace_lightning.report import sweeps

from .foreign_files import nvidia_pickle
from .models import tiny_clip
from .test_cli import results

FFHQ = ["ffhq_glasses", "ffhq_gender_smile_age", "ffhq_edit", "ffhq_edit_styleflow", "ffhq_zero_shot", "ffhq_logic"]
METFACES = ["metfaces_yaw", "metfaces_gender_yaw", "metfaces_haircolor", "metfaces_edit"]
CATS = ["afhq_cats_breed", "afhq_cats_hair_age", "afhq_cats_three", "afhq_cats_edit"]
# One of every kind of thing that an experiment sweeps over.
TINY = {
    "ffhq_glasses": ["seed=1"],
    "ffhq_gender_smile_age": ["seed=1"],
    "ffhq_edit": ["seed=1", "editing=ffhq_layers", "task.strips=1"],
    "ffhq_edit_styleflow": [
        "seed=1",
        "editing=styleflow_v2_ffhq",
        "task.strips=1",
        "task.edits=[glasses == 1]",
        "model.hidden=[8]",
        "model.batch_size=32",
    ],
    "ffhq_zero_shot": ["seed=1"],
    "ffhq_logic": ["query.logic=exact"],
    "metfaces_edit": ["editing=ffhq_layers", "task.strips=1"],
    "afhq_cats_edit": ["task.strips=1"],
}
JOBS = {"ffhq_zero_shot": 2, "ffhq_logic": 4}
# Pictures of 1024 pixels take most of the time.
QUICK = [
    "debug=fast",
    "logger=csv",
    "pairs.count=16",
    "metrics.num_samples=2",
    "metrics.batch_size=2",
    "generator.precision=float32",
    "sampler.atol=0.1",
    "sampler.rtol=0.1",
    "trainer.max_epochs=1",
    "classifier.max_epochs=1",
    "metrics.fid=judge",
]
W = 8


def published_file(path: Path, resolution: int) -> Path:
    """Write a pickle as NVIDIA's of this resolution, with two channels a layer, and one in large layers."""
    sides = [2**level for level in range(2, resolution.bit_length())]
    config = {
        "z_dim": W,
        "w_dim": W,
        "c_dim": 0,
        "img_resolution": resolution,
        "img_channels": 3,
        "mapping_kwargs": {"num_layers": 2, "lr_multiplier": 0.01},
        "synthesis_kwargs": {"channels": {side: 2 if side < 128 else 1 for side in sides}},
    }
    torch.manual_seed(resolution)
    path.write_bytes(nvidia_pickle(StyleGAN2Network(**config).state_dict(), config))
    return path


def accept(network: catalogue.Published) -> None:
    """Write down that a published network's file, which lies where it is downloaded to, is what it shall be."""
    stat = network.path.stat()
    write_json(
        network.record,
        {
            "name": network.name,
            "sha256": file_sha256(network.path),
            "checksum": "first file",
            "bytes": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
        },
    )


def styleflow(folder: Path, count: int = 120) -> Path:
    """Write latents and attributes as the paper's experiments read them, some of them missing."""
    draw = np.random.default_rng(0)
    table = draw.uniform(size=(count, 21)).astype(object)
    for column, classes in ((2, 2), (6, 2), (8, 2), (9, 2), (11, 5)):
        table[:, column] = draw.integers(classes, size=count)
        table[column, column] = None
    latents = np.repeat(draw.normal(size=(count, 1, 1, W)).astype(np.float32), 18, axis=2)
    folder.mkdir()
    (folder / "all_latents.pickle").write_bytes(pickle.dumps({"Latent": latents}))
    (folder / "att_light.pickle").write_bytes(pickle.dumps({"att_light": [table]}))
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    found = {
        "faces": published_file(folder / "faces.pkl", 1024),
        "styleflow": styleflow(folder / "styleflow"),
        "cats": published_file(folder / "cats.pkl", 512),
    }
    for seed, name in enumerate(("labeler", "judge")):
        torch.manual_seed(seed)
        found[name] = folder / f"{name}.safetensors"
        AttributeClassifier(FACES_SCHEMA, "x", "mobilenet", {"variant": "v3_small", "resolution": 32}).eval().save(
            found[name]
        )
    return found


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, tmp_path_factory, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(tmp_path_factory.getbasetemp() / "paper_cache"))
    monkeypatch.delenv("LACE_TRACEBACK", raising=False)
    monkeypatch.setattr("lace_lightning.callbacks.editing.SequentialEditing.frames_per_edit", 1)
    sweeps.OUTCOMES.clear()


def check_results(folder: Path, jobs: int) -> list[dict]:
    found = results(folder)
    assert len(found) == jobs
    for result in found:
        assert 0 <= result["metrics"].get("acc", result["metrics"].get("holds", -1)) <= 1
        count = result["protocol"]["num_samples"]
        assert result["protocol"]["frechet"]["reference"] == f"generated train, {count} pictures"
        assert next(value for name, value in result["metrics"].items() if name.startswith("fd_")) > 0
    for picture in folder.rglob("samples.png"):
        with Image.open(picture) as image:
            assert max(image.size) < 8000
    return found


@pytest.mark.parametrize("name", FFHQ)
def test_ffhq(name: str, files, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LACE_STYLEFLOW", str(files["styleflow"]))
    monkeypatch.setenv("LACE_FACES_JUDGE", str(files["judge"]))
    cli.main([f"+experiment={name}", f"generator.name={files['faces']}", *QUICK, *TINY.get(name, [])])
    found = check_results(tmp_path, JOBS.get(name, 1))
    assert all(result["protocol"]["judge"].endswith("judge.safetensors") for result in found)
    # Given pairs come without a labeler.
    assert all(result["protocol"].get("attributes_before", "judge").startswith("judge") for result in found)


@pytest.mark.parametrize("name", METFACES)
def test_metfaces(name: str, files, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LACE_FACES_LABELER", str(files["labeler"]))
    monkeypatch.setenv("LACE_FACES_JUDGE", str(files["judge"]))
    cli.main([f"+experiment={name}", f"generator.name={files['faces']}", *QUICK, *TINY.get(name, [])])
    check_results(tmp_path, 1)


def clip_weights(folder: Path) -> list[str]:
    """Return the settings of a labeler and a judge by CLIP of random weights."""
    result = []
    for seed, who in enumerate(("labeler", "judge")):
        config, weights = tiny_clip(folder, f"{who}_clip", seed)
        result += [f"{who}.model={config}", f"{who}.weights={weights}"]
    return result


@pytest.mark.parametrize("name", CATS)
def test_afhq_cats(name: str, files, tmp_path) -> None:
    # With random weights CLIP is sure of nothing, and would abstain from all.
    cli.main(
        [
            f"+experiment={name}",
            f"generator.name={files['cats']}",
            *QUICK,
            "labeler.confidence=0",
            *clip_weights(tmp_path),
            *TINY.get(name, []),
        ]
    )
    check_results(tmp_path, 1)


def test_an_attribute_of_your_own(files, tmp_path) -> None:
    cli.main(
        [
            "+experiment=your_attribute",
            f"generator.name={files['cats']}",
            "query=hat == 1",
            "labeler.prompts={hat: [a photo of a cat, a photo of a cat wearing a hat]}",
            *QUICK,
            *clip_weights(tmp_path),
        ]
    )
    found = check_results(tmp_path, 1)
    assert found[0]["protocol"]["query"] == "hat == yes"


def test_the_published_cifar10_network_lies_where_it_is_downloaded_to(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lace_lightning.run.nodes.BUILT", {})
    network = catalogue.published("stylegan2_ada_cifar10")
    network.path.parent.mkdir(parents=True)
    published_file(network.path, 32)
    command = [
        "+experiment=cifar10_ode",
        "generator=stylegan2_ada_cifar10",
        "debug=fast",
        "logger=csv",
        "metrics.fid=judge",
        "sampler.atol=0.1",
        "sampler.rtol=0.1",
        "hydra.run.dir=out",
    ]
    with pytest.raises(SystemExit):
        cli.main(command)
    accept(network)
    cli.main(command)
    assert 0 <= results(tmp_path / "out")[0]["metrics"]["acc"] <= 1


def test_given_pairs_say_what_they_cannot_do(files, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("LACE_FACES_JUDGE", str(files["judge"]))
    for setting, message in (
        ("pairs.source=null", "labeler=none"),
        ("pairs.more=10", "pairs.more is 10"),
        ("classifier.soft_labels=true", "classifier.soft_labels is True"),
        ("classifier.space=z", "classifier.space is z"),
        ("pairs.source=nowhere", "are not there"),
        ("judge=cifar10", "The judge must know every attribute"),
    ):
        with pytest.raises(SystemExit):
            cli.main(
                [
                    "+experiment=ffhq_glasses",
                    f"generator.name={files['faces']}",
                    *QUICK,
                    f"pairs.source={files['styleflow']}",
                    "hydra.mode=RUN",
                    "query=glasses == 1" if "cifar10" not in setting else "query=label == 1",
                    setting,
                ]
            )
        assert message in capsys.readouterr().err


def test_pictures_are_written_labelled_and_learned_from(files, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))
    generator = ["generator=stylegan2", f"generator.name={files['cats']}", "generator.precision=float32"]
    command = [
        "+experiment=pictures_to_label",
        *generator,
        "task.attributes=[hat]",
        "task.count=30",
        "logger=csv",
        "hydra.run.dir=out",
    ]
    cli.main(command)
    rows = (tmp_path / "pictures" / "labels.csv").read_text().splitlines()
    assert rows[:2] == ["sample,hat", "000000.png,"]
    assert len(list((tmp_path / "pictures").glob("*.png"))) == len(rows) - 1 == 30
    (tmp_path / "pictures" / "labels.csv").write_text(
        "\n".join([rows[0], *(f"{row}{index % 2}" for index, row in enumerate(rows[1:]))])
    )
    with pytest.raises(SystemExit):
        cli.main(command)
    assert "must not be lost" in capsys.readouterr().err
    judge = clip_weights(tmp_path)[2:]
    cli.main(
        [
            "+experiment=your_attribute",
            *generator,
            "labeler=none",
            "pairs.source=pictures/labels.csv",
            "query=hat == 1",
            *QUICK,
            *judge,
            "judge.prompts={hat: [a photo of a cat, a photo of a cat wearing a hat]}",
            "judge.templates=[]",
            "hydra.run.dir=out2",
        ]
    )
    check_results(tmp_path / "out2", 1)
    pairs = next(path for path in (tmp_path / "cache" / "pairs").iterdir())
    drawn = load_generator(files["cats"], precision="float32").prior(30)
    torch.testing.assert_close(torch.from_numpy(np.load(pairs / "z.npy")), drawn)
