"""The experiments on faces, from the command line, on few pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lace_lightning import cli
from lace_lightning.classifiers import load_embedding
from lace_lightning.labelers.face_networks import FACES
from lace_lightning.report import sweeps


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch, cache) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(cache))
    monkeypatch.delenv("LACE_TRACEBACK", raising=False)
    sweeps.OUTCOMES.clear()


def metrics(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())["metrics"]


def test_networks_of_different_origin_are_compared_without_labels(tmp_path: Path, capsys) -> None:
    cli.main(
        ["+experiment=faces_check", "metrics.num_samples=12", "metrics.batch_size=6", "logger=csv", "hydra.run.dir=out"]
    )
    found = metrics(tmp_path / "out")
    assert {f"agreement/{name}" for name in FACES.names} | {f"both_know/{name}" for name in FACES.names} == set(found)
    assert all(0 <= value <= 1 for value in found.values())
    # The functions of the pixels are the same in both sets.
    assert found["agreement/light0"] == found["both_know/light0"] == pytest.approx(1.0)
    assert found["agreement/yaw"] > 0.8
    assert "agreement on 12 pictures of faces" in capsys.readouterr().out


# Settings of one job of each experiment that draws or edits, on few pictures.
JOBS = {
    "faces_smile": ["query.text=smile == yes", "seed=1"],
    "faces_gender_smile_age": ["query.text=gender == * and smile == * and mouth == *", "seed=1", "metrics.fid=none"],
    "faces_edit": ["editing=sequential", "seed=1"],
    "faces_edit_order": ["editing=faces_from_start", "seed=1"],
    "faces_logic": ["query.text=smile == yes or mouth == open", "query.logic=exact", "seed=1"],
    "faces_zero_shot": ["query.text=smile == yes and yaw == 0.8 and brightness == 0.7", "seed=1"],
    "faces_rare": ["query.text=smile == yes and yaw > 0.5", "method=lace_heun", "metrics.posterior_sets=0"],
    "faces_temperature": ["query.text=smile == yes", "seed=1", "task.temperatures=[1.0,0.5]"],
    "faces_attributes": ["query.text=smile == * and mouth == *", "seed=1"],
    "faces_spaces": ["classifier=features", "classifier.arguments.hidden=[4]"],
    "faces_latent_jem": ["model.step_size=0.1", "model.num_steps=3", "model.chain_steps=2"],
    "faces_styleflow": ["model.hidden=[8]", "model.batch_size=32"],
}
FEW = [
    "debug=fast",
    "pairs.count=100",
    "metrics.num_samples=8",
    "metrics.batch_size=8",
    "sampler.atol=0.1",
    "sampler.rtol=0.1",
]


def test_every_experiment_on_faces_is_among_the_tests() -> None:
    names = {name for name, _ in cli.describe("experiment") if name.startswith("faces_")}
    assert names == {*JOBS, "faces_check", "faces_reference"}


@pytest.mark.parametrize("name", JOBS)
def test_faces_are_drawn_or_edited_and_judged(name: str, tmp_path: Path) -> None:
    # The network of the distance takes long; one experiment is enough for it.
    fid = [] if name == "faces_smile" else ["metrics.fid=none"]
    cli.main([f"+experiment={name}", *FEW, *fid, *JOBS[name], "hydra.mode=RUN", "logger=csv", "hydra.run.dir=out"])
    found = metrics(tmp_path / "out")
    scores = {key: value for key, value in found.items() if key.split("/")[0] in ("acc", "holds", "confidence")}
    assert scores
    assert all(0 <= value <= 1 for value in scores.values())
    if name.startswith("faces_edit"):
        assert 0 <= found["id"] <= 2
        assert {"acc/yaw", "acc/smile", "acc/age", "acc/mouth"} <= set(found)
    if name == "faces_smile":
        assert "unknown" not in found
        # On the features of photographs, EfficientNet-Lite0's, against the shipped reference.
        assert min(found["fd_lite0"], found["fd_lite0/unconditional"]) > 0


def test_the_reference_is_of_the_pictures_of_the_generator(tmp_path: Path) -> None:
    cli.main(
        ["+experiment=faces_reference", "dataset.module.count=4", "logger=csv", "hydra.run.dir=out"],
    )
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert "1280 features" in record["protocol"]["network"]


def test_the_descriptor_is_an_embedding_of_identity() -> None:
    embedding = load_embedding("face_api_descriptor")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert embedding.distance(images, images).tolist() == pytest.approx([0.0, 0.0], abs=1e-3)
    assert torch.allclose(embedding(images).norm(dim=1), torch.ones(2))
    assert embedding.protocol["network"] == "face_api_descriptor"
