"""Work that faults are tried on: pairs, statistics, trainings, pictures, conversion, download, sweeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lace_lightning.artifacts import digest, load_tensors, save_tensors
from lace_lightning.cache import Cache, sealed_path
from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.data import PairSet, make_pairs, pairs_identity
from lace_lightning.data.resumable_arrays import fill
from lace_lightning.generators import StyleGAN2Generator, StyleGAN2Network, convert
from lace_lightning.labelers import Labeler
from lace_lightning.schema import Attribute, Schema
from lace_lightning.training.checkpoints import SealedCheckpoints, newest_checkpoint, remove_checkpoints

torch.manual_seed(0)
GENERATOR = StyleGAN2Generator(
    StyleGAN2Network(
        8,
        12,
        img_resolution=8,
        mapping_kwargs={"num_layers": 2, "lr_multiplier": 1.0},
        synthesis_kwargs={"channel_base": 64, "channel_max": 8},
    )
)
SCHEMA = Schema("tiny", (Attribute("label", "discrete", 4, ("a", "b", "c", "d")),))
LABELER = Labeler(
    AttributeClassifier(SCHEMA, "x", "resnet9", {"width": 4}).eval().requires_grad_(False), precision="float32"
)


def pairs(folder: Path, count: int = 40) -> PairSet:
    """Make pairs in a cache."""
    entry = Cache(folder).entry("pairs", pairs_identity(GENERATOR, LABELER, count, 0))
    return make_pairs(entry.folder, GENERATOR, LABELER, count, batch_size=8, progress=False)


def read_pairs(folder: Path) -> dict[str, torch.Tensor]:
    """Return the arrays of the pairs, copied."""
    made = pairs(folder)
    return {name: made.array(name).clone() for name in PairSet.NAMES}


def statistics(folder: Path) -> dict[str, torch.Tensor]:
    """Make and read a file of statistics in a cache."""
    entry = Cache(folder).entry("reference", {"network": "n", "recipe": 2})
    values = torch.linspace(0, 1, 300, dtype=torch.float64)
    path = entry.file("statistics.safetensors", lambda file: save_tensors(file, {"mean": values}, {"of": "n"}))
    tensors, config = load_tensors(path)
    # Tensors of a file are mapped from it; the file is about to change.
    return {name: tensor.clone() for name, tensor in tensors.items()} | {"config": config}


class Steps(pl.LightningModule):
    """A weight that gains one with every step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        return -self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1.0)


def training(folder: Path) -> None:
    """Train with a checkpoint every two steps, from the newest checkpoint on, and keep the weights."""
    entry = Cache(folder).entry("systems", {"steps": 12})
    with entry.making():
        if entry.has("system.safetensors"):
            remove_checkpoints(entry.folder)
            return
        module = Steps()
        newest = newest_checkpoint(entry.folder)
        every = pl.callbacks.ModelCheckpoint(
            entry.folder, filename="last", save_top_k=1, enable_version_counter=False, every_n_train_steps=2
        )
        trainer = pl.Trainer(
            max_steps=12,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            plugins=[SealedCheckpoints()],
            callbacks=[every],
            default_root_dir=folder,
        )
        data = torch.utils.data.DataLoader(torch.zeros(24, 1), batch_size=2)
        trainer.fit(module, data, ckpt_path=None if newest is None else str(newest), weights_only=True)
        assert trainer.global_step == 12
        with sealed_path(entry.folder / "system.safetensors") as temporary:
            save_tensors(temporary, {"weight": module.weight.data}, {})
        remove_checkpoints(entry.folder)


def read_checkpoint(folder: Path) -> Callable[[], Any]:
    """Return a function that reads the newest of two checkpoints, of one content: damage leaves the other."""
    for _ in range(2):
        SealedCheckpoints().save_checkpoint({"weight": torch.arange(50.0)}, folder / "last.ckpt")

    def read() -> Any:
        path = newest_checkpoint(folder)
        found = None if path is None else SealedCheckpoints().load_checkpoint(path, weights_only=True)["weight"]
        for aside in folder.glob("*.damaged"):
            aside.unlink()
        return found

    return read


def pictures(folder: Path) -> torch.Tensor:
    """Decode pictures row by row into a cache."""
    entry = Cache(folder).entry("pictures", {"recipe": 2})
    values = torch.arange(20 * 48).reshape(20, 3, 4, 4).remainder(251).byte()
    fill(
        entry.folder,
        {"key": digest({"recipe": 2}), "count": 20},
        {"images": (3, 4, 4)},
        lambda count, first: {"images": values[first : first + count]},
        3,
        "pictures",
        progress=False,
    )
    from lace_lightning.data.resumable_arrays import open_rows

    return torch.from_numpy(open_rows(entry.folder, "images")).clone()


def conversion(folder: Path) -> None:
    """Convert a generator's file."""
    source = folder.parent / "source.pt"
    if not source.is_file():
        torch.save(GENERATOR.network.state_dict(), source)
    convert(source, folder / "converted.safetensors", lr_multiplier=1.0)


def download(folder: Path) -> None:
    """Fetch a file from a file address."""
    from lace_lightning.artifacts import file_sha256
    from lace_lightning.download import download as fetch

    source = folder.parent / "download.bin"
    if not source.is_file():
        source.write_bytes(bytes(range(256)) * 4000)
    fetch([source.as_uri()], folder / "download.bin", file_sha256(source))


def sweep(folder: Path) -> None:
    """Run a sweep of two jobs through the command line, with the smallest sizes."""
    import os

    from lace_lightning import cli
    from lace_lightning.run import nodes

    nodes.BUILT.clear()
    os.environ["LACE_CACHE"] = str(folder / "cache")
    os.chdir(folder)
    cli.main(
        [
            "-m",
            "+experiment=cifar10_heun",
            "debug=fast",
            "logger=csv",
            "metrics.fid=none",
            "metrics.num_samples=4",
            "metrics.batch_size=4",
            "metrics.timing_repeats=0",
            "pairs.count=60",
            "pairs.holdout=[0.1,0.1]",
            "sampler.atol=0.5,1",
            f"hydra.sweep.dir={folder / 'sweep'}",
        ]
    )
