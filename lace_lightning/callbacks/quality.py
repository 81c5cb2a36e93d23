"""The features that a Fréchet distance is measured on, and what they are compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..artifacts import Cache, digest
from ..errors import LaceError, suggest
from ..labelers import Labeler
from ..metrics import FeatureStatistics, frechet_distance, inception_features, inception_weights, load_statistics, save_statistics
from ..pictures import numbers
from ..weights import weight_names, weight_path

CHOICES = ("auto", "judge", "inception", "none")
Pictures = Callable[[], Tensor]


@dataclass
class FeatureSpace:
    """A feature network with reference statistics: `key` is `fid` for Inception, else `fd_<network>`."""

    key: str
    features: Callable[[Tensor], Tensor]
    num_features: int
    reference: dict[str, Tensor]
    protocol: dict[str, Any] = field(default_factory=dict)

    def statistics(self) -> FeatureStatistics:
        """Return empty statistics over these features."""
        return FeatureStatistics(self.num_features)


def judge_features(judge: Labeler) -> Callable[[Tensor], Tensor]:
    """Return uint8 pictures ↦ the judge's penultimate features."""
    return lambda images: torch.cat([judge.features(part) for part in numbers(images)])


def feature_name(judge: Labeler) -> str:
    """Return the name under which the features of a judge are known."""
    return f"{judge.name} {judge.digest}, {judge.num_features} features"


def measure_reference(judge: Labeler, pictures: dict[str, Tensor], dataset: str, path: Path) -> dict[str, float]:
    """Write the statistics of the train pictures to `path`; return the Fréchet distances of the other splits to them."""
    measured = {split: reference_statistics(judge_features(judge), judge.num_features, images) for split, images in pictures.items()}
    save_statistics(path, measured["train"], {"network": feature_name(judge),
                                              "reference": f"{dataset} train, {len(pictures['train'])} pictures"})
    return {f"fd/{split}": frechet_distance(value, measured["train"]) for split, value in measured.items() if split != "train"}


def reference_statistics(features: Callable[[Tensor], Tensor], num_features: int, pictures: Tensor,
                         batch_size: int = 500) -> dict[str, Tensor]:
    """Return the statistics of real pictures (N, C, H, W) uint8."""
    statistics = FeatureStatistics(num_features)
    for part in tqdm(pictures.split(batch_size), desc="reference statistics", leave=False):
        statistics.update(features(part.clone()).cpu())
    return statistics.compute()


def build_feature_space(choice: str, judge: Labeler, pictures: Pictures | None, dataset: str, cache: Cache,
                        device: str = "cpu") -> FeatureSpace | None:
    """Return the feature space of `choice`: auto (Inception where its weights lie on this machine, else the judge), judge,
    inception (downloads the weights if needed), or none.

    Reference statistics come from the package (`<dataset>_reference`), else from `pictures()`, kept in the cache.
    Raises LaceError for an unknown choice, or when neither statistics nor pictures can be had.
    """
    if choice not in CHOICES:
        raise LaceError(f"metrics.fid must be one of {', '.join(CHOICES)}, received '{choice}'.{suggest(choice, CHOICES)}")
    if choice == "none":
        return None
    use_inception = choice == "inception" or (choice == "auto" and inception_weights() is not None and pictures is not None)
    if use_inception:
        features, size = inception_features(inception_weights(), device)
        network, key = "torch-fidelity inception-v3-compat, 2048 features", "fid"
    else:
        features, size = judge_features(judge), judge.num_features
        network, key = feature_name(judge), f"fd_{judge.name.removeprefix(dataset + '_')}"
    protocol = {"network": network, "distance": "Fréchet distance of Gaussians (torch-fidelity)", "resize": "none"
                if not use_inception else "299x299 bilinear as in TensorFlow 1", "range": "uint8"}
    reference, measured = _reference(network, features, size, pictures, dataset, cache)
    return FeatureSpace(key, features, size, reference, {**protocol, "reference": measured})


def _reference(network: str, features: Callable[[Tensor], Tensor], size: int, pictures: Pictures | None, dataset: str,
               cache: Cache) -> tuple[dict[str, Tensor], str]:
    shipped = f"{dataset}_reference"
    if shipped in weight_names():
        path = weight_path(shipped)
        statistics, protocol = load_statistics(path)
        if protocol.get("network") == network:
            return statistics, str(protocol["reference"])
    path = cache.folder("reference", digest({"network": network, "dataset": dataset})) / "statistics.safetensors"
    if not path.is_file():
        if pictures is None:
            raise LaceError(f"The Fréchet distance needs reference statistics of '{dataset}' for this judge, and they are neither "
                            "shipped nor measured: set dataset.module.root to the pictures, or metrics.fid=none.")
        real = pictures()
        with torch.no_grad():
            measured = reference_statistics(features, size, real)
        save_statistics(path, measured, {"network": network, "reference": f"{dataset} train, {len(real)} pictures"})
    statistics, protocol = load_statistics(path, network)
    return statistics, str(protocol["reference"])
