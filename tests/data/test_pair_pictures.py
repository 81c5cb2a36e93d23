"""Pictures of labelled latents: synthesised once, split by seed, trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lace_lightning import cli
from lace_lightning.artifacts import digest
from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.data import FACES_SCHEMA, LatentPairsDataModule, PairPicturesDataModule, make_pairs
from lace_lightning.data.resumable_arrays import blocks_of, fill, rows_done
from lace_lightning.errors import LaceError
from lace_lightning.generators import Generator, load_generator
from lace_lightning.labelers import Labeler
from lace_lightning.pictures.convert import to_bytes
from lace_lightning.schema import Labels
from tests.data.test_imported_pairs import N, pickles


class Pairs:
    """Latents with labels of faces, some of them not known, and no pictures."""

    schema = FACES_SCHEMA

    def __init__(self, generator: Generator, count: int = 60) -> None:
        self.w = generator.mapping(generator.prior(count, seed=5)).detach()
        random = torch.Generator().manual_seed(0)
        scale = torch.tensor([a.num_classes if a.kind == "discrete" else 0 for a in self.schema])
        values = torch.rand(count, len(self.schema), generator=random)
        self.values = torch.where(scale > 0, (values * scale).floor(), values)
        self.known = torch.rand(count, len(self.schema), generator=random) < 0.8
        self.meta = {"key": f"test{count}", "seed": 3}

    def array(self, name: str) -> torch.Tensor:
        return {"w": self.w}[name]

    def labels(self) -> Labels:
        return Labels(self.schema, self.values, self.known)

    def __len__(self) -> int:
        return len(self.w)


def _data(generator, cache: Path, **options) -> PairPicturesDataModule:
    options = {
        "resolution": 4,
        "fractions": (0.2, 0.3),
        "synthesis_batch_size": 8,
        "progress": False,
        "flip": False,
        **options,
    }
    return PairPicturesDataModule(options.pop("pairs", None) or Pairs(generator), generator, cache=cache, **options)


def test_every_pair_is_shown_once_with_its_picture_and_labels(tiny_generator, tmp_path: Path) -> None:
    data, pairs = _data(tiny_generator, tmp_path), Pairs(tiny_generator)
    data.setup()
    whole = tiny_generator.synthesis(pairs.w)
    # The mean over the four pixels that become one.
    expected = to_bytes(whole.unflatten(-1, (4, 2)).unflatten(2, (4, 2)).mean((3, 5)))
    shown, labels, known = (torch.cat(parts) for parts in zip(*data.splits.values(), strict=True))
    order = (labels[:, None] == pairs.values).all(2).int().argmax(1)
    assert sorted(order.tolist()) == list(range(60))
    assert (shown.int() - expected[order].int()).abs().max() <= 1
    assert torch.equal(known, pairs.known[order])
    images, *rest = next(iter(data.train_dataloader()))
    assert images.dtype == torch.uint8
    assert [len(part) for part in rest] == [len(images)] * 2


def test_the_split_is_that_of_latent_pairs(tiny_generator, tiny_labeler, tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "pairs", tiny_generator, tiny_labeler, 200, seed=4, progress=False)
    latents = LatentPairsDataModule(pairs, "x", fractions=(0.2, 0.3))
    latents.setup()
    pictures = _data(tiny_generator, tmp_path, pairs=pairs, resolution=1024)
    pictures.setup()
    assert pictures.resolution == 8
    for split, (images, _, _) in pictures.splits.items():
        assert len(images) > 30
        assert (images.int() - latents.parts[split][0].int()).abs().max() <= 1


def test_a_killed_synthesis_goes_on_and_a_finished_one_is_found(tiny_generator, tmp_path: Path, monkeypatch) -> None:
    whole = _data(tiny_generator, tmp_path / "whole")
    whole.setup()
    calls, render = [], type(tiny_generator).render

    def dying(self, ws):
        calls.append(len(ws))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return render(self, ws)

    monkeypatch.setattr(type(tiny_generator), "render", dying)
    with pytest.raises(KeyboardInterrupt):
        _data(tiny_generator, tmp_path / "killed").setup()
    assert rows_done(blocks_of(next((tmp_path / "killed").rglob("meta.json")).parent)) == 16
    again = _data(tiny_generator, tmp_path / "killed")
    again.setup()
    assert sum(calls) == 60 + 8
    assert torch.equal(again.splits["train"][0], whole.splits["train"][0])
    _data(tiny_generator, tmp_path / "killed").setup()
    assert sum(calls) == 68
    _data(tiny_generator, tmp_path / "killed", resolution=2).setup()
    assert sum(calls) == 128


def test_what_cannot_be_is_refused(tiny_generator, tmp_path: Path) -> None:
    wrong = Pairs(tiny_generator)
    wrong.w = wrong.w[:, 1:]
    with pytest.raises(LaceError, match=r"generator's 12 numbers, received \(11,\)"):
        _data(tiny_generator, tmp_path, pairs=wrong)
    with pytest.raises(LaceError, match="The val split must have pairs"):
        _data(tiny_generator, tmp_path, fractions=(0, 0.5)).setup()
    assert not list(tmp_path.rglob("images.npy"))
    arguments = ({"a": (1,)}, lambda count, first: {"a": torch.ones(count, 1)}, 2, "rows", False)
    fill(tmp_path / "rows", {"key": "a", "count": 3}, *arguments)
    with pytest.raises(LaceError, match="use another folder"):
        fill(tmp_path / "rows", {"key": "b", "count": 3}, *arguments)


@pytest.mark.parametrize("name", ["ffhq_labeler", "ffhq_judge"])
def test_fine_tuning_on_pairs_begins_from_what_celeba_taught(name: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LACE_STYLEFLOW", str(tmp_path / "styleflow"))
    w = np.random.default_rng(0).normal(size=(N, 1, 1, 128)).astype(np.float32)
    pickles(tmp_path / "styleflow", np.broadcast_to(w, (N, 1, 2, 128)))
    command = [
        f"+experiment={name}",
        "debug=fast_training",
        "logger=csv",
        "generator.name=portraits_generator",
        "hydra.run.dir=out",
        "dataset.module.resolution=32",
        "dataset.module.fractions=[0.2,0.2]",
        "training.arguments.width=0.25",
        "training.arguments.resolution=32",
    ]
    begin = name.replace("ffhq", "celeba")
    if name == "ffhq_judge":
        with pytest.raises(SystemExit):
            cli.main(command)
        assert f"'{begin}.safetensors' were required and do not exist" in capsys.readouterr().err
    variant = {"ffhq_labeler": "v3_large", "ffhq_judge": "v2"}[name]
    classifier = AttributeClassifier(
        FACES_SCHEMA.part(["smile", "age"]), "x", "mobilenet", {"variant": variant, "width": 0.25}
    )
    classifier.save(f"{begin}.safetensors")
    cli.main(command)
    labeler = Labeler(tmp_path / "out" / f"{name}.safetensors")
    assert labeler.schema == FACES_SCHEMA
    images = load_generator("portraits_generator")(torch.randn(2, 128))
    assert labeler(images).isfinite().all()


def test_distances_may_be_measured_to_the_pictures(tiny_generator, tmp_path: Path) -> None:
    """What a reference is kept by changes with everything that the pictures depend on."""
    data = _data(tiny_generator, tmp_path)
    keys = [
        digest(_data(tiny_generator, tmp_path, **options).source)
        for options in (
            {},
            {"resolution": 2},
            {"fractions": (0.3, 0.3)},
            {"limit": 30},
            {"pairs": Pairs(tiny_generator, 50)},
        )
    ]
    assert len(set(keys)) == 5
    assert list(data.train_pictures().shape[1:]) == data.source["shape"]
