"""Reference statistics of Fréchet distances from files of this and of other programs.

The other programs are pytorch-fid, clean-fid, torch-fidelity, LACE's code and NVIDIA's metrics.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..artifacts import file_sha256
from ..errors import LaceError
from ..unpickle import safe_unpickle
from .fid import TENSORFLOW_RESIZE, load_statistics

# Mean and covariance, as files name them; the names of the second kind are sums over `num_items`.
NAMES = (("mu", "sigma"), ("mean", "cov"), ("mean", "covariance"))
SUMS = ("raw_mean", "raw_cov")
COUNTS = ("count", "num_items", "num_samples")
# Covariances in float32 are symmetric, and have no negative eigenvalue, up to this share of their largest number.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class GivenStatistics:
    """Reference statistics of a file, and their origin.

    Args:
        statistics: Mean (F,), covariance (F, F) and, where the file has it, count ().
        protocol: Plain values: name, digest and format of the file, and how pictures were resized.

    Example:
        >>> given = GivenStatistics({"mean": torch.zeros(8), "covariance": torch.eye(8)}, {"reference": "a.npz"})
        >>> given.num_features, given.network
        (8, None)
    """

    statistics: dict[str, Tensor]
    protocol: dict[str, Any]

    @property
    def num_features(self) -> int:
        """Number F of features."""
        return len(self.statistics["mean"])

    @property
    def network(self) -> str | None:
        """Name of the network that the features are of, None where the file does not say."""
        return self.protocol.get("network")


def read_statistics(path: str | os.PathLike[str]) -> GivenStatistics:
    """Read reference statistics of any of the usual formats; no code in the file is run.

    Args:
        path: A .safetensors of this program; .npz or a pickle (.pkl, .pt) with mu and sigma, mean and cov, or the sums
            raw_mean, raw_cov and num_items of NVIDIA's metrics.

    Returns:
        The statistics, the covariance symmetric to the last bit.

    Raises:
        LaceError: When the file is missing, damaged or of another kind, and when the numbers are no mean and
            covariance: not finite, of shapes that do not fit, not symmetric, or with a negative eigenvalue.
    """
    path = Path(path)
    if not path.is_file():
        raise LaceError(f"The reference statistics '{path}' were required and do not exist: check metrics.reference.")
    protocol: dict[str, Any] = {"reference": path.name}
    content: Any
    if path.suffix == ".safetensors":
        content, own = load_statistics(path)
        protocol |= {
            "reference": own.get("reference", path.name),
            "network": own.get("network"),
            "reference_file": path.name,
        }
        kind, resize = "this program", own.get("resize", "as here")
        before = own.get("source", {}).get("resize", "none")
        resize = resize if before == "none" else f"{before}, then {resize}"
    else:
        content = _read_npz(path) if _is_npz(path) else safe_unpickle(path)
        kind, resize = "", ""
    mean, covariance, count, names = _moments(path, content)
    kind, resize = (kind, resize) if kind else _origin(path, names)
    statistics = {
        "mean": mean,
        "covariance": _checked(path, mean, covariance),
        **({} if count is None else {"count": torch.tensor(count)}),
    }
    return GivenStatistics(
        statistics,
        {
            **protocol,
            "reference_sha256": file_sha256(path),
            "reference_format": kind,
            "reference_count": "unknown" if count is None else int(count),
            "reference_resize": resize,
        },
    )


def _is_npz(path: Path) -> bool:
    """Return whether a file is an archive of NumPy arrays."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(".npy") for name in archive.namelist())


def _read_npz(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read the arrays of an archive that are known by name."""
    wanted = {*(name for pair in (*NAMES, SUMS) for name in pair), *COUNTS}
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if name in wanted}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise LaceError(
            f"The reference statistics '{path}' must be arrays of numbers and could not be read ({error}): get the "
            "file again."
        ) from error


def _moments(path: Path, content: Any) -> tuple[Tensor, Tensor, float | None, tuple[str, str]]:
    """Return mean, covariance, count and the names that the file has for the first two."""
    table = content if isinstance(content, Mapping) else {}
    count = next((number for name in COUNTS if (number := _number(table.get(name))) is not None), None)
    names = next(
        (pair for pair in (*NAMES, SUMS) if all(isinstance(table.get(name), (np.ndarray, Tensor)) for name in pair)),
        None,
    )
    if names is None or (names == SUMS and (count is None or count < 2)):
        found = ", ".join(map(str, list(table)[:6])) or type(content).__name__
        raise LaceError(
            f"The reference statistics '{path}' must hold mu and sigma, mean and cov, or raw_mean, raw_cov and "
            f"num_items, and hold {found}: give statistics of Inception features."
        )
    first, second = (torch.as_tensor(np.array(table[name])) for name in names)
    if not all(part.dtype in (torch.float16, torch.float32, torch.float64) for part in (first, second)):
        raise LaceError(
            f"Mean and covariance in '{path}' must be floating numbers, received {first.dtype} and {second.dtype}: get "
            "the file again."
        )
    first, second = first.double(), second.double()
    if first.ndim != 1 or second.shape != (len(first), len(first)):
        raise LaceError(
            f"Mean and covariance in '{path}' must have shapes (F,) and (F, F), received {tuple(first.shape)} and "
            f"{tuple(second.shape)}: get the file again."
        )
    if names == SUMS:
        assert count is not None
        mean = first / count
        # Unbiased, as here and in NumPy; NVIDIA's program divides by the number of items.
        first, second = mean, (second - count * torch.outer(mean, mean)) / (count - 1)
    return first, second, count, names


def _number(value: Any) -> float | None:
    """Return a positive number, also out of an array of one; None for anything else."""
    if isinstance(value, (np.ndarray, Tensor)) and value.shape in ((), (1,)):
        value = value.item()
    return float(value) if isinstance(value, (int, float)) and value > 0 else None


def _checked(path: Path, mean: Tensor, covariance: Tensor) -> Tensor:
    """Return the covariance, symmetric to the last bit; refuse a matrix that is no covariance (LaceError)."""
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise LaceError(f"Mean and covariance in '{path}' must be finite and are not: measure them again.")
    largest = covariance.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    asymmetry = float((covariance - covariance.T).abs().max() / largest)
    if asymmetry > TOLERANCE:
        raise LaceError(
            f"The covariance in '{path}' must be symmetric, and differs from its transpose by {asymmetry:.1e} of its "
            "largest number: measure it again."
        )
    covariance = (covariance + covariance.T) / 2
    eigenvalues = torch.linalg.eigvalsh(covariance)
    if eigenvalues[0] < -TOLERANCE * eigenvalues[-1].clamp(min=0):
        raise LaceError(
            f"The covariance in '{path}' must have no negative eigenvalue, received {float(eigenvalues[0]):.3g} beside "
            f"{float(eigenvalues[-1]):.3g}: measure it again."
        )
    return covariance


def _origin(path: Path, names: tuple[str, str]) -> tuple[str, str]:
    """Return the program that wrote a file and its way of resizing to 299x299, as far as names show them."""
    if names == SUMS:
        return "sums of NVIDIA's metrics", TENSORFLOW_RESIZE
    if names == ("mean", "cov"):
        return "mean and cov, as of LACE", "299x299 bilinear as in PyTorch (differs from here) if it is LACE's"
    if path.suffix in (".pt", ".pth"):
        return "torch-fidelity", TENSORFLOW_RESIZE
    # clean-fid's files are <name>_<mode>_<split>_<resolution>.npz.
    mode = re.search(r"_(clean|legacy_tensorflow|legacy_pytorch)_", path.name)
    modes = {
        "clean": "299x299 bicubic with antialiasing (differs from here)",
        "legacy_tensorflow": TENSORFLOW_RESIZE,
        "legacy_pytorch": "299x299 bilinear as in PyTorch (differs from here)",
    }
    if mode is not None:
        return f"clean-fid, {mode[1]}", modes[mode[1]]
    return "mu and sigma, as of pytorch-fid or clean-fid", (
        "unknown: 299x299 bilinear as in PyTorch if pytorch-fid's, bicubic with "
        "antialiasing if clean-fid's (both differ from here)"
    )
