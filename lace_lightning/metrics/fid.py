"""Fréchet distances through torch-fidelity: FID on Inception features, or the same formula on a network of ours."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torchmetrics import Metric

from ..artifacts import load_tensors, save_tensors
from ..errors import LaceError

INCEPTION = "inception-v3-compat"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_FEATURES = 2048
TENSORFLOW_RESIZE = "299x299 bilinear as in TensorFlow 1"
# What FID stands for without a number beside it.
FID_SAMPLES = 50_000
# uint8 pictures (B, 3, H, W) -> features (B, F)
Features = Callable[[Tensor], Tensor]


class FeatureStatistics(Metric):
    """Number, mean and covariance of features, as sums in float64 that add over batches and processes."""

    full_state_update = False
    count: Tensor
    first: Tensor
    second: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        for name, shape in (("count", ()), ("first", (num_features,)), ("second", (num_features, num_features))):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Tensor) -> None:
        """Add features (B, F)."""
        features = features.double()
        self.count += len(features)
        self.first += features.sum(0)
        self.second += features.T @ features

    def compute(self) -> dict[str, Tensor]:
        """Return count, mean (F,) and covariance (F, F), unbiased as in numpy.cov."""
        mean = self.first / self.count
        covariance = (self.second - self.count * torch.outer(mean, mean)) / (self.count - 1).clamp(min=1)
        return {"count": self.count.clone(), "mean": mean, "covariance": covariance}


def frechet_distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Return ‖μ_a - μ_b‖² + tr(Σ_a + Σ_b - 2(Σ_aΣ_b)^½), computed by torch-fidelity; warns with too few samples.

    A side without `count` holds enough. Raises LaceError when the two were measured with different features or hold
    fewer than two samples.
    """
    if a["mean"].shape != b["mean"].shape:
        raise LaceError(
            f"A Fréchet distance needs the same features on both sides, received {len(a['mean'])} and "
            f"{len(b['mean'])}: recompute the reference statistics with this network."
        )
    fewest = min((int(side["count"]) for side in (a, b) if "count" in side), default=None)
    if fewest is not None and fewest < 2:
        raise LaceError(
            f"A Fréchet distance needs at least 2 samples on each side, received {fewest}: raise num_samples."
        )
    if fewest is not None and fewest <= len(a["mean"]):
        warnings.warn(
            f"A Fréchet distance over {len(a['mean'])} features from {fewest} samples is biased upwards: draw more "
            "samples.",
            stacklevel=2,
        )
    statistics = [
        {"mu": s["mean"].cpu().double().numpy(), "sigma": s["covariance"].cpu().double().numpy()} for s in (a, b)
    ]
    return float(fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"])


def fid_name(count: int) -> str:
    """Return `fid` for the standard number of samples, else the number as well: `fid_1k`, `fid_300`."""
    if count == FID_SAMPLES:
        return "fid"
    return f"fid_{count // 1000}k" if count >= 1000 and count % 1000 == 0 else f"fid_{count}"


def save_statistics(
    path: str | os.PathLike[str], statistics: Mapping[str, Tensor], protocol: Mapping[str, Any]
) -> None:
    """Write statistics with the protocol that they were measured by."""
    save_tensors(
        path, {name: torch.as_tensor(value) for name, value in statistics.items()}, {"protocol": dict(protocol)}
    )


def load_statistics(
    path: str | os.PathLike[str], network: str | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read statistics and their protocol; with `network`, refuse (LaceError) those of other features."""
    tensors, config = load_tensors(path)
    protocol = config.get("protocol", {})
    if network is not None and protocol.get("network") != network:
        raise LaceError(
            f"The reference statistics '{path}' were measured with the network {protocol.get('network')} and the "
            f"features here are those of {network}: measure them again (task=reference)."
        )
    return tensors, protocol


def inception_weights() -> Path | None:
    """Return the file of torch-fidelity's Inception weights if this machine has it."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    return path if path.is_file() else None


def inception_features(weights: str | os.PathLike[str] | None = None, device: str = "cpu") -> tuple[Features, int]:
    """Return torch-fidelity's extractor of 2048 Inception features; downloads its weights (96 MB) unless given or
    cached.
    """
    from torch_fidelity.utils import create_feature_extractor

    try:
        extractor = create_feature_extractor(
            INCEPTION,
            ["2048"],
            cuda=device.startswith("cuda"),
            verbose=False,
            feature_extractor_weights_path=None if weights is None else str(weights),
        )
    except Exception as error:
        raise LaceError(
            f"The Inception weights of torch-fidelity could not be had ({error}): put {INCEPTION_FILE} into "
            f"{Path(torch.hub.get_dir()) / 'checkpoints'}, or set metrics.fid=judge."
        ) from error
    # It enlarges pictures to 299x299: in parts, so that memory does not grow with the batch.
    return (lambda images: torch.cat([extractor(part)[0] for part in images.split(64)])), INCEPTION_FEATURES
