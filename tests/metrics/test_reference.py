"""Statistics files of others: the Fréchet distance through each is that of the formula."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lace_lightning.errors import LaceError
from lace_lightning.metrics import fid_name, frechet_distance, read_statistics, save_statistics

MEAN, SIGMA = np.array([1.0, 3.0]), np.diag([1.0, 16.0])
# Diagonal Gaussians: Σ (μ_a - μ_b)² + Σ (σ_a - σ_b)².
OURS = {
    "count": torch.tensor(100.0),
    "mean": torch.tensor([0.0, 1.0]),
    "covariance": torch.diag(torch.tensor([4.0, 9.0])),
}
DISTANCE = 1 + 4 + 1 + 1


def _pickle(path: Path, content: Any) -> None:
    path.write_bytes(pickle.dumps(content))


def _sums(count: int) -> dict[str, Any]:
    """What NVIDIA's metrics keep of `count` features with the mean and the unbiased covariance above."""
    second = SIGMA * (count - 1) + count * np.outer(MEAN, MEAN)
    return {
        "capture_all": False,
        "capture_mean_cov": True,
        "max_items": count,
        "num_items": count,
        "num_features": 2,
        "all_features": [],
        "raw_mean": MEAN * count,
        "raw_cov": second,
    }


WRITERS = {
    "cifar10_clean_train_32.npz": lambda p: np.savez_compressed(p, mu=MEAN, sigma=SIGMA),
    "fid.npz": lambda p: np.savez(p, mu=MEAN, sigma=SIGMA, mu_s=np.zeros(3), sigma_s=np.eye(3)),
    "mean_cov.npz": lambda p: np.savez(p, mean=MEAN, cov=SIGMA),
    "inception_ffhq_gen_1k.pkl": lambda p: _pickle(
        p, {"mean": MEAN.astype(np.float32), "cov": SIGMA, "size": 1024, "path": "somewhere"}
    ),
    "cifar10-train-inception-v3-compat-stat-fid-2048.pt": lambda p: torch.save({"mu": MEAN, "sigma": SIGMA}, p),
    "ffhq-inception-2015-12-05-0123.pkl": lambda p: _pickle(p, _sums(70_000)),
    "ours.safetensors": lambda p: save_statistics(
        p,
        {"count": torch.tensor(500.0), "mean": torch.from_numpy(MEAN), "covariance": torch.from_numpy(SIGMA)},
        {"network": "n", "reference": "r"},
    ),
}
ORIGINS = {
    "cifar10_clean_train_32.npz": ("clean-fid, clean", "unknown", "bicubic with antialiasing (differs"),
    "fid.npz": ("pytorch-fid or clean-fid", "unknown", "both differ"),
    "mean_cov.npz": ("mean and cov", "unknown", "PyTorch"),
    "inception_ffhq_gen_1k.pkl": ("LACE", "unknown", "PyTorch"),
    "cifar10-train-inception-v3-compat-stat-fid-2048.pt": ("torch-fidelity", "unknown", "TensorFlow"),
    "ffhq-inception-2015-12-05-0123.pkl": ("NVIDIA", 70_000, "TensorFlow"),
    "ours.safetensors": ("this program", 500, "as here"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_distance_of_the_formula(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    given = read_statistics(tmp_path / name)
    assert frechet_distance(OURS, given.statistics) == pytest.approx(DISTANCE, rel=1e-6)
    kind, count, resize = ORIGINS[name]
    assert kind in given.protocol["reference_format"]
    assert given.protocol["reference_count"] == count
    assert resize in given.protocol["reference_resize"]
    assert name in (given.protocol["reference"], given.protocol.get("reference_file"))
    assert len(given.protocol["reference_sha256"]) == 64


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"mu": MEAN, "sigma": np.eye(3)}, "shapes"),
        ({"mu": MEAN[None], "sigma": SIGMA}, "shapes"),
        ({"mu": MEAN, "sigma": np.array([[1.0, 0.5], [0.0, 16.0]])}, "symmetric"),
        ({"mu": MEAN, "sigma": np.array([[1.0, 5.0], [5.0, 16.0]])}, "no negative eigenvalue"),
        ({"mu": MEAN * np.nan, "sigma": SIGMA}, "finite"),
        ({"mu": MEAN, "sigma": np.diag([np.inf, 1.0])}, "finite"),
        ({"mu": np.array([1, 3]), "sigma": SIGMA}, "floating numbers"),
        ({"mu": MEAN}, "must hold mu and sigma"),
        ({"feats": np.zeros((5, 2))}, "must hold mu and sigma"),
    ],
)
def test_what_is_no_gaussian_is_refused(content: dict[str, np.ndarray], words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **content)
    _pickle(tmp_path / "x.pkl", content)
    for name in ("x.npz", "x.pkl"):
        with pytest.raises(LaceError, match=words):
            read_statistics(tmp_path / name)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(LaceError, match="do not exist"):
        read_statistics(tmp_path / "x.npz")
    for name, content in {
        "x.npz": b"nothing",
        "x.pkl": pickle.dumps([1, 2]),
        "x.pt": b"",
        "x.safetensors": b"nothing",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LaceError):
            read_statistics(tmp_path / name)
    np.savez(tmp_path / "o.npz", mu=np.array([{}], dtype=object), sigma=SIGMA)
    with pytest.raises(LaceError, match="arrays of numbers"):
        read_statistics(tmp_path / "o.npz")
    _pickle(tmp_path / "s.pkl", _sums(1))
    with pytest.raises(LaceError, match="num_items"):
        read_statistics(tmp_path / "s.pkl")


def test_a_rounded_covariance_is_made_symmetric(tmp_path: Path) -> None:
    torch.manual_seed(0)
    features = torch.randn(20, 50, dtype=torch.float64)
    covariance = torch.cov(features.T).float() + 1e-7 * torch.randn(50, 50)
    np.savez(tmp_path / "x.npz", mu=features.mean(0).numpy(), sigma=covariance.numpy())
    read = read_statistics(tmp_path / "x.npz").statistics
    assert torch.equal(read["covariance"], read["covariance"].T)
    torch.testing.assert_close(read["covariance"].float(), covariance, atol=1e-6, rtol=0)


def test_an_unknown_count_counts_as_enough(tmp_path: Path, recwarn) -> None:
    unknown = {name: value for name, value in OURS.items() if name != "count"}
    assert frechet_distance(unknown, unknown) == pytest.approx(0, abs=1e-9)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="from 2 samples"):
        frechet_distance({**OURS, "count": torch.tensor(2)}, unknown)
    with pytest.raises(LaceError, match="at least 2 samples"):
        frechet_distance({**OURS, "count": torch.tensor(1)}, unknown)


def test_fid_says_how_many_samples_where_it_is_not_fid() -> None:
    assert [fid_name(count) for count in (50_000, 1000, 10_000, 300, 1500)] == [
        "fid",
        "fid_1k",
        "fid_10k",
        "fid_300",
        "fid_1500",
    ]
