"""A training that goes on from any of its checkpoints, in the middle of an epoch or at its end, ends where it would
have, bit for bit.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from lace_lightning.data import CIFAR10DataModule, LatentPairsDataModule, PairSet, make_pairs
from lace_lightning.data.cifar10 import SCHEMA
from lace_lightning.systems.latent_jem import LatentJEM
from lace_lightning.systems.pixel_ebm.cond_ebm import CondEBM
from lace_lightning.systems.pixel_ebm.jem import JEM
from lace_lightning.systems.styleflow.model import StyleFlow
from lace_lightning.training.image_classifier import ImageClassifierTraining
from lace_lightning.training.latent_classifier import LatentClassifier

# Batches of an epoch.
EPOCH = 3


@pytest.fixture(scope="module")
def pairs(tiny_generator, tiny_labeler, tmp_path_factory) -> PairSet:
    return make_pairs(tmp_path_factory.mktemp("pairs"), tiny_generator, tiny_labeler, 8 * EPOCH, progress=False)


def latents(pairs: PairSet) -> LatentPairsDataModule:
    return LatentPairsDataModule(pairs, "w", 8, fractions=(0.0, 0.0), seed=3)


def pictures() -> CIFAR10DataModule:
    """Pictures of noise, shifted, mirrored and covered in part."""
    random = torch.Generator().manual_seed(1)
    data = CIFAR10DataModule(batch_size=4, seed=3)
    data.splits = {
        split: (
            torch.randint(256, (4 * EPOCH, 3, 32, 32), dtype=torch.uint8, generator=random),
            torch.randint(10, (4 * EPOCH, 1), generator=random).float(),
        )
        for split in ("train", "test")
    }
    return data


def network(kind: str, pairs: PairSet) -> pl.LightningModule:
    torch.manual_seed(0)
    if kind == "latent classifier":
        return LatentClassifier(
            pairs.schema, arguments={"input_dim": 12, "hidden": [8]}, warmup_steps=3, decay_epochs=1
        )
    if kind == "latent_jem":
        return LatentJEM(
            pairs.schema, 12, {"hidden": [8]}, chain_steps=2, buffer_size=20, warmup_steps=3, decay_epochs=1
        )
    if kind == "styleflow":
        return StyleFlow(pairs.schema, 12, [8], solver={"method": "rk4", "steps": 2}, num_rows=12)
    if kind == "cond_ebm":
        return CondEBM(
            SCHEMA,
            network={"filter_dim": 2, "stages": 1, "multiscale": False},
            chain={"num_steps": 1},
            buffer={"size": 12},
            shape=(3, 32, 32),
            repel_from=8,
            repel_points=4,
            ema_decay=0.5,
            snapshot_steps=2,
        )
    if kind == "image classifier":
        return ImageClassifierTraining(SCHEMA, "resnet9", {"width": 4}, bf16=False, mirror=False)
    return JEM(
        SCHEMA,
        network={"depth": 10, "widen": 1},
        chain={"num_steps": 1},
        buffer={"size": 12},
        shape=(3, 32, 32),
        warmup_steps=1,
        sampling={"num_steps": 1},
        learning_rate=1e-3,
    )


LATENTS, PICTURES = ("latent classifier", "latent_jem", "styleflow"), ("jem", "cond_ebm", "image classifier")
EPOCHS, STEPS = {"max_epochs": 2}, {"max_epochs": -1, "max_steps": 2 * EPOCH}


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize(
    ("kind", "limit"), [*((kind, EPOCHS) for kind in (*LATENTS, *PICTURES)), (LATENTS[0], STEPS), (LATENTS[1], STEPS)]
)
def test_a_training_goes_on_exactly(kind: str, limit: dict[str, int], pairs: PairSet, tmp_path: Path) -> None:
    def fit(checkpoint: Path | None = None) -> dict[str, torch.Tensor]:
        module, data = network(kind, pairs), latents(pairs) if kind in LATENTS else pictures()
        keep = ModelCheckpoint(checkpoint or tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
        trainer = pl.Trainer(
            **limit,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            callbacks=[keep],
        )
        torch.rand(1 if checkpoint is None else 2)
        trainer.fit(module, data, ckpt_path=checkpoint and f"{checkpoint}.ckpt", weights_only=True)
        assert trainer.global_step == 2 * EPOCH
        assert trainer.current_epoch == 2
        return module.state_dict()

    whole = fit()
    for step in (1, EPOCH - 1, EPOCH, EPOCH + 1):
        rest, before = (
            fit(tmp_path / f"step={step}"),
            torch.load(tmp_path / f"step={step}.ckpt", weights_only=True)["state_dict"],
        )
        for name, value in whole.items():
            assert torch.equal(value, rest[name]), (step, name)
        assert any(not torch.equal(value, before[name]) for name, value in whole.items())
