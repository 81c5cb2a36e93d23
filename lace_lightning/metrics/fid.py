"""Fréchet distances by torch-fidelity: FID on Inception features, or the same formula on other features."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ..artifacts import load_tensors, save_tensors
from ..errors import LaceError

INCEPTION = "inception-v3-compat"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_FEATURES = 2048
TENSORFLOW_RESIZE = "299x299 bilinear as in TensorFlow 1"
# Number of samples of FID where its name has no number.
FID_SAMPLES = 50_000
# uint8 pictures (B, 3, H, W) -> features (B, F)
Features = Callable[[Tensor], Tensor]


class FeatureStatistics(Metric):
    """Number, mean and covariance of features, as sums in float64 that add over batches and processes.

    Args:
        num_features: Number F of features.

    Returns:
        From `compute`: `count` (), `mean` (F,) and `covariance` (F, F), float64.

    Example:
        >>> statistics = FeatureStatistics(2)
        >>> statistics.update(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))
        >>> {name: value.tolist() for name, value in statistics.compute().items()}
        {'count': 2.0, 'mean': [1.0, 1.0], 'covariance': [[2.0, 0.0], [0.0, 0.0]]}
    """

    full_state_update = False
    count: Tensor
    first: Tensor
    second: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        for name, shape in (("count", ()), ("first", (num_features,)), ("second", (num_features, num_features))):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Tensor) -> None:
        """Add samples.

        Args:
            features: Features (B, F).
        """
        features = features.double()
        self.count += len(features)
        self.first += features.sum(0)
        self.second += features.T @ features

    def compute(self) -> dict[str, Tensor]:
        """Return count (), mean (F,) and covariance (F, F), unbiased as in numpy.cov."""
        mean = self.first / self.count
        covariance = (self.second - self.count * torch.outer(mean, mean)) / (self.count - 1).clamp(min=1)
        return {"count": self.count.clone(), "mean": mean, "covariance": covariance}


def frechet_distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Return ‖μ_a - μ_b‖² + tr(Σ_a + Σ_b - 2(Σ_aΣ_b)^½), computed by torch-fidelity.

    It warns where a side has no more samples than features.

    Args:
        a: Mean (F,), covariance (F, F) and count (); a side without count is taken to hold enough samples.
        b: The same of the other side.

    Raises:
        LaceError: When the two have different numbers of features, or one has fewer than two samples.

    References:
        Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", 2017.

    Example:
        >>> a = {"mean": torch.zeros(2), "covariance": torch.eye(2)}
        >>> b = {"mean": torch.tensor([3.0, 4.0]), "covariance": torch.eye(2)}
        >>> round(frechet_distance(a, b), 6)
        25.0
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
    # torch-fidelity imports torchvision, which takes seconds.
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    statistics = [
        {"mu": s["mean"].cpu().double().numpy(), "sigma": s["covariance"].cpu().double().numpy()} for s in (a, b)
    ]
    return float(fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"])


def fid_name(count: int) -> str:
    """Return the name of FID: `fid` for 50,000 samples, else with their number.

    Args:
        count: Number of samples.

    Example:
        >>> fid_name(50_000), fid_name(1000), fid_name(300)
        ('fid', 'fid_1k', 'fid_300')
    """
    if count == FID_SAMPLES:
        return "fid"
    return f"fid_{count // 1000}k" if count >= 1000 and count % 1000 == 0 else f"fid_{count}"


def save_statistics(
    path: str | os.PathLike[str], statistics: Mapping[str, Tensor], protocol: Mapping[str, Any]
) -> None:
    """Write statistics and the protocol of their measurement as safetensors.

    Args:
        path: File to write.
        statistics: Mean (F,), covariance (F, F) and, where it is known, count (), as of `FeatureStatistics.compute`.
        protocol: Plain values, such as `network`, `resize` and `reference`.
    """
    save_tensors(
        path, {name: torch.as_tensor(value) for name, value in statistics.items()}, {"protocol": dict(protocol)}
    )


def load_statistics(
    path: str | os.PathLike[str], network: str | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read statistics that `save_statistics` wrote.

    Args:
        path: File to read.
        network: Name of the features that they must be of; None takes any.

    Returns:
        The statistics, and their protocol.

    Raises:
        LaceError: When the file is missing or damaged, or the statistics are of other features.
    """
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
    """Return torch-fidelity's extractor of 2048 Inception features.

    Args:
        weights: File of its weights; None takes torch-fidelity's own, which are downloaded (96 MB) unless cached.
        device: Device of the network.

    Returns:
        A function of uint8 pictures (B, 3, H, W) that returns features (B, 2048), and their number.

    Raises:
        LaceError: When the weights are neither on this machine nor can be downloaded.
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
            f"The Inception weights of torch-fidelity could not be loaded ({error}): put {INCEPTION_FILE} into "
            f"{Path(torch.hub.get_dir()) / 'checkpoints'}, or set metrics.fid=judge."
        ) from error
    # The extractor enlarges pictures to 299x299; parts of 64 keep the memory independent of the batch.
    return (lambda images: torch.cat([extractor(part)[0] for part in images.split(64)])), INCEPTION_FEATURES
