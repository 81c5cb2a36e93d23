"""Features that a Fréchet distance is measured on, and reference statistics of real pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor

from ..artifacts import load_tensors, save_tensors
from ..cache import Cache, Entry, is_whole, remove_sealed, sealed_path
from ..errors import LaceError, suggest
from ..faces import load_face_network
from ..faces.lite0 import FEATURES as LITE0_FEATURES
from ..labelers import Labeler
from ..pictures.convert import float_batches, from_bytes
from ..progress import steps
from ..source import identity_of
from ..weights import card, weight_names, weight_path
from .fid import (
    INCEPTION_FEATURES,
    TENSORFLOW_RESIZE,
    FeatureStatistics,
    fid_name,
    frechet_distance,
    inception_features,
    inception_weights,
    load_statistics,
    save_statistics,
)
from .reference import GivenStatistics

CHOICES = ("auto", "judge", "inception", "lite0", "none")
INCEPTION_NETWORK = f"torch-fidelity inception-v3-compat, {INCEPTION_FEATURES} features"
LITE0_NETWORK = f"EfficientNet-Lite0 of ImageNet, {LITE0_FEATURES} features"
# Pictures (N, C, H, W) uint8, or batches of them that are read one at a time.
Pictures = Tensor | Sequence[Tensor]
SAVE_SECONDS = 60.0


class RealPictures(Protocol):
    """Interface of data sets whose train pictures are the reference of a Fréchet distance.

    Example:
        >>> class Grey:
        ...     source = {"shape": [3, 8, 8]}
        ...
        ...     def train_pictures(self):
        ...         return torch.full((4, 3, 8, 8), 127, dtype=torch.uint8)
        >>> pictures: RealPictures = Grey()
        >>> len(pictures.train_pictures())
        4
    """

    @property
    def source(self) -> Mapping[str, Any]:
        """Plain values that the pictures depend on, with their `shape`, [C, H, W]."""
        ...

    def train_pictures(self) -> Pictures:
        """Return the train pictures (N, C, H, W), uint8, or batches of them."""
        ...


@dataclass(frozen=True)
class Extractor:
    """Network that computes features of pictures, and the name of the distance on them.

    Args:
        network: Name of the network, its weights and its features.
        key: Name of the Fréchet distance on these features, `fid` or `fd_<network>`.
        size: Number F of features.
        features: Function of pictures (B, C, H, W), uint8, that returns features (B, F).
        resize: How pictures are resized before.
        device: Device that pictures are moved to.
        identity: Digest of all that the features depend on, where the name does not say it.

    Example:
        >>> extractor = Extractor("mean colour", "fd_colour", 3, lambda images: images.double().mean((2, 3)), "none")
        >>> extractor.statistics(torch.zeros(4, 3, 8, 8, dtype=torch.uint8))["mean"].tolist()
        [0.0, 0.0, 0.0]
    """

    network: str
    key: str
    size: int
    features: Callable[[Tensor], Tensor]
    resize: str
    device: str = "cpu"
    identity: str = ""

    def statistics(self, pictures: Pictures, batch_size: int = 500, partial: Path | None = None) -> dict[str, Tensor]:
        """Return the statistics of real pictures.

        Args:
            pictures: Pictures (N, C, H, W), uint8, or batches of them.
            batch_size: Pictures at a time.
            partial: File of the sums so far, as in `reference_statistics`.
        """
        return reference_statistics(
            lambda part: self.features(part.to(self.device)), self.size, pictures, batch_size, partial
        )


@dataclass
class FeatureSpace:
    """A feature network with reference statistics.

    Args:
        key: `fid` for Inception features, else `fd_<network>`.
        features: Function of pictures (B, C, H, W), uint8, that returns features (B, F).
        num_features: Number F of features.
        reference: Statistics of real pictures: mean (F,), covariance (F, F) and, where it is known, count ().
        protocol: Plain values that describe the pictures and the network of the statistics.

    Example:
        >>> space = FeatureSpace("fid", lambda images: images.double().mean((2, 3)), 3, {})
        >>> space.name(10_000), space.num_features
        ('fid_10k', 3)
    """

    key: str
    features: Callable[[Tensor], Tensor]
    num_features: int
    reference: dict[str, Tensor]
    protocol: dict[str, Any] = field(default_factory=dict)

    def statistics(self) -> FeatureStatistics:
        """Return empty statistics over these features."""
        return FeatureStatistics(self.num_features)

    def name(self, count: int) -> str:
        """Return the name of the distance of so many samples: FID has the number in its name unless it is 50,000.

        Args:
            count: Number of samples.
        """
        return fid_name(count) if self.key == "fid" else self.key


def inception_extractor(device: str = "cpu") -> Extractor:
    """Return the extractor of Inception features; its weights are downloaded (96 MB) unless they are on this machine.

    Args:
        device: Device of the network.

    Raises:
        LaceError: When the weights are neither on this machine nor can be downloaded.
    """
    features, size = inception_features(inception_weights(), device)
    return Extractor(INCEPTION_NETWORK, "fid", size, features, TENSORFLOW_RESIZE, device)


def lite0_extractor(device: str = "cpu") -> Extractor:
    """Return the extractor of the features of EfficientNet-Lite0, whose weights come with this package.

    Args:
        device: Device of the network.
    """
    network = load_face_network("lite0_features").to(device).to(memory_format=torch.channels_last)
    # The network enlarges pictures to 224x224; few of them at a time stay in the cache of a processor.
    together = 250 if device.startswith("cuda") else 8

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        return torch.cat([network(from_bytes(part)) for part in images.split(together)])

    resize = "224x224 bicubic, antialiased"
    return Extractor(
        LITE0_NETWORK, "fd_lite0", LITE0_FEATURES, features, resize, device, card("lite0_features")["sha256"]
    )


def judge_extractor(judge: Labeler, dataset: str, device: str = "cpu") -> Extractor:
    """Return the extractor of a judge's penultimate features.

    Args:
        judge: The judge.
        dataset: Name of the data set, which the name of the distance leaves out.
        device: Device that the judge is moved to.
    """
    judge.to(device)
    return Extractor(
        feature_name(judge),
        f"fd_{judge.name.removeprefix(dataset + '_')}",
        judge.num_features,
        lambda images: torch.cat([judge.features(part) for part in float_batches(images)]),
        "none",
        device,
        identity_of(judge),
    )


def extractor_of(choice: str, judge: Labeler, dataset: str, device: str = "cpu") -> Extractor:
    """Return the extractor of a choice.

    Args:
        choice: `judge`, `inception` or `lite0`.
        judge: The judge.
        dataset: Name of the data set, which the name of the distance leaves out.
        device: Device of the network.

    Raises:
        LaceError: When the weights of Inception are neither on this machine nor can be downloaded.
    """
    if choice == "inception":
        return inception_extractor(device)
    return lite0_extractor(device) if choice == "lite0" else judge_extractor(judge, dataset, device)


def feature_name(judge: Labeler) -> str:
    """Return the name of a judge's features: its name, the digest of its weights, and the number of features.

    Args:
        judge: The judge.
    """
    return f"{judge.name} {judge.digest}, {judge.num_features} features"


def measure_reference(
    extractor: Extractor,
    pictures: Mapping[str, Pictures],
    dataset: str,
    path: Path,
    source: Mapping[str, Any],
    cache: Cache,
) -> dict[str, float]:
    """Write the statistics of the train pictures, and return the Fréchet distances of the other splits to them.

    Args:
        extractor: The features.
        pictures: Pictures of every split; one of them is `train`.
        dataset: Name of the data set.
        path: File of the statistics.
        source: Plain values that the pictures depend on.
        cache: Cache of sums so far, from which a measurement that was stopped continues.

    Returns:
        `fd/<split>` for every other split.
    """
    entry = _entry(extractor, dataset, source, cache)
    measured = {}
    with entry.making("reference statistics"):
        for split, images in pictures.items():
            measured[split] = extractor.statistics(images, partial=entry.folder / f"{split}.partial")
    _save_reference(path, measured["train"], extractor, dataset, source)
    return {
        f"fd/{split}": frechet_distance(value, measured["train"])
        for split, value in measured.items()
        if split != "train"
    }


def _entry(extractor: Extractor, dataset: str, source: Mapping[str, Any], cache: Cache) -> Entry:
    """Return the entry of the statistics of these pictures under these features."""
    return cache.entry(
        "reference",
        {
            "network": extractor.network,
            "identity": extractor.identity,
            "resize": extractor.resize,
            "dataset": dataset,
            "source": dict(source),
            "recipe": 2,
        },
    )


def _save_reference(
    path: Path, statistics: Mapping[str, Tensor], extractor: Extractor, dataset: str, source: Mapping[str, Any]
) -> None:
    """Write reference statistics with their protocol."""
    save_statistics(
        path,
        statistics,
        {
            "network": extractor.network,
            "resize": extractor.resize,
            "reference": f"{dataset} train, {int(statistics['count'])} pictures",
            "source": dict(source),
        },
    )


def reference_statistics(
    features: Callable[[Tensor], Tensor],
    num_features: int,
    pictures: Pictures,
    batch_size: int = 500,
    partial: Path | None = None,
) -> dict[str, Tensor]:
    """Return the statistics of features of real pictures.

    Args:
        features: Function of pictures (B, C, H, W), uint8, that returns features (B, F).
        num_features: Number F of features.
        pictures: Pictures (N, C, H, W), uint8, or batches of them.
        batch_size: Pictures at a time, of a tensor.
        partial: File that the sums so far are written to every minute, and from which a measurement that was stopped
            continues.

    Returns:
        Mean (F,), covariance (F, F) and count ().
    """
    batches: Sequence[Tensor] = pictures if not isinstance(pictures, Tensor) else torch.split(pictures, batch_size)
    statistics, first = FeatureStatistics(num_features), 0
    whole = {"batches": len(batches), "batch_size": getattr(batches, "batch_size", batch_size)}
    if partial is not None and is_whole(partial):
        sums, where = load_tensors(partial)
        if where == whole:
            first = int(sums.pop("next"))
            statistics.count, statistics.first, statistics.second = sums["count"], sums["first"], sums["second"]
    saved = perf_counter()
    with torch.no_grad():
        for index in steps(range(first, len(batches)), "reference statistics", "batch"):
            statistics.update(features(batches[index].clone()).cpu())
            if partial is not None and perf_counter() - saved > SAVE_SECONDS:
                sums = {"count": statistics.count, "first": statistics.first, "second": statistics.second}
                with sealed_path(partial) as temporary:
                    save_tensors(temporary, {**sums, "next": torch.tensor(index + 1)}, whole)
                saved = perf_counter()
    if partial is not None:
        remove_sealed(partial)
    return statistics.compute()


def build_feature_space(
    choice: str,
    judge: Labeler,
    pictures: RealPictures | None,
    dataset: str,
    cache: Cache,
    device: str = "cpu",
    given: GivenStatistics | None = None,
    image_shape: Sequence[int] | None = None,
) -> FeatureSpace | None:
    """Return the feature space that Fréchet distances are measured in.

    Reference statistics are the given ones; else those of the package (`<dataset>_reference`); else those of the
    pictures, which are kept in the cache.

    Args:
        choice: `auto` (the features of the given statistics; without them Inception where its weights are on this
            machine and there are pictures, else the judge), `judge`, `inception` (downloads the weights if needed),
            `lite0` (EfficientNet-Lite0, whose weights come with this package), or `none`.
        judge: The judge.
        pictures: Real pictures, None where there are none.
        dataset: Name of the data set.
        cache: Cache of statistics.
        device: Device of the network.
        given: Statistics of a file of the user's.
        image_shape: Shape [C, H, W] of the generator's pictures, None where it is not compared.

    Returns:
        The feature space, None for `none`.

    Raises:
        LaceError: For an unknown choice; when there are neither statistics nor pictures; for given statistics of other
            features; and for pictures of another shape than the generator's, unless the network resizes both.
    """
    if choice not in CHOICES:
        raise LaceError(
            f"metrics.fid must be one of {', '.join(CHOICES)}, received '{choice}'.{suggest(choice, CHOICES)}"
        )
    if choice == "none":
        return None
    chosen = _chosen(choice, judge, pictures is not None, given)
    if given is not None:
        _check_given(given, *_published().get(chosen, (feature_name(judge), judge.num_features)))
    extractor = extractor_of(chosen, judge, dataset, device)
    protocol = {
        "network": extractor.network,
        "distance": "Fréchet distance of Gaussians (torch-fidelity)",
        "resize": extractor.resize,
        "range": "uint8",
    }
    if given is not None:
        reference, measured = (
            given.statistics,
            {name: value for name, value in given.protocol.items() if name != "network"},
        )
    else:
        reference, measured = _reference(extractor, pictures, dataset, cache, image_shape)
    return FeatureSpace(extractor.key, extractor.features, extractor.size, reference, {**protocol, **measured})


def _published() -> dict[str, tuple[str, int]]:
    """Return name and number of the features of each network that is no judge."""
    return {"inception": (INCEPTION_NETWORK, INCEPTION_FEATURES), "lite0": (LITE0_NETWORK, LITE0_FEATURES)}


def _chosen(choice: str, judge: Labeler, has_pictures: bool, given: GivenStatistics | None) -> str:
    """Return judge, inception or lite0; for auto by the given statistics, of which a name counts before the size."""
    if choice != "auto":
        return choice
    if given is None:
        return "inception" if inception_weights() is not None and has_pictures else "judge"
    for name, (network, size) in _published().items():
        if given.network == network or (given.network is None and given.num_features == size):
            return name
    return "judge"


def _check_given(given: GivenStatistics, network: str, size: int) -> None:
    """Refuse (LaceError) statistics of other features."""
    name = given.protocol.get("reference_file", given.protocol["reference"])
    if given.network not in (None, network) or given.num_features != size:
        raise LaceError(
            f"The reference statistics '{name}' must be of the features '{network}', and are of {given.num_features} "
            f"features{f' of {given.network}' if given.network else ''}: set metrics.fid to the features of their "
            "measurement, or metrics.reference=null."
        )


def _are_of(protocol: Mapping[str, Any], pictures: RealPictures | None) -> bool:
    """Return whether shipped statistics are of these pictures, where both name the generator that drew them."""
    generator = protocol.get("source", {}).get("generator")
    return generator is None or pictures is None or pictures.source.get("generator") in (None, generator)


def _reference(
    extractor: Extractor, pictures: RealPictures | None, dataset: str, cache: Cache, image_shape: Sequence[int] | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the statistics of a data set and their protocol: shipped, cached, or measured now."""
    shipped = f"{dataset}_reference"
    if shipped in weight_names():
        statistics, protocol = load_statistics(weight_path(shipped))
        if protocol.get("network") == extractor.network and _are_of(protocol, pictures):
            return statistics, {"reference": str(protocol["reference"])}
    if pictures is None:
        raise LaceError(
            f"The Fréchet distance needs reference statistics of '{dataset}' for these features, and they are neither "
            "shipped nor measured: set dataset.module.root to the pictures, metrics.reference to statistics, or "
            "metrics.fid=none."
        )
    source = dict(pictures.source)
    shape = "x".join(map(str, source["shape"]))
    if extractor.resize == "none" and image_shape is not None and list(image_shape) != source["shape"]:
        raise LaceError(
            f"The judge compares pictures of one shape, and the generator's are {'x'.join(map(str, image_shape))}, "
            f"those of '{dataset}' {shape}: set dataset.module.resolution, or metrics.fid=inception or lite0, which "
            "resize both."
        )
    entry = _entry(extractor, dataset, source, cache)

    def make(path: Path) -> None:
        measured = extractor.statistics(pictures.train_pictures(), partial=entry.folder / "train.partial")
        _save_reference(path, measured, extractor, dataset, source)

    path = entry.file("statistics.safetensors", make, f"reference statistics of {dataset}")
    statistics, protocol = load_statistics(path, extractor.network)
    return statistics, {
        "reference": str(protocol["reference"]),
        "reference_shape": shape,
        **({"reference_resize": source["resize"]} if "resize" in source else {}),
    }
