"""Identity embeddings (ArcFace-like): unit vectors, close for pictures of one person."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..artifacts import digest, file_sha256, load_tensors, save_tensors
from ..errors import LaceError, quoted, suggest
from ..faces import load_face_network
from ..unpickle.torchscript import last_line, load_program
from ..weights import card, weight_path
from .base import load_built
from .networks import build_network

# Template of ArcFace's 112x112 pictures: left eye, right eye, and the corners of the mouth.
ARCFACE_POINTS = ((38.2946, 51.6963), (73.5318, 51.5014), (41.5493, 92.3655), (70.7299, 92.2041))
ARCFACE_SIDE = 112


def ffhq_arcface_crop() -> tuple[float, float, float, float]:
    """Return the part of an FFHQ picture that ArcFace's 112x112 pictures show.

    FFHQ's squares follow from the same points: centre eyes + 0.1·(mouth - eyes), half a side the larger of 2·|right eye
    - left eye| and 1.8·|mouth - eyes|. For a face whose points are ArcFace's template the square is known in the
    template's pixels, and the template's picture is therefore known in fractions of the square.

    Returns:
        Left, top, right and bottom as fractions of the picture, from 0 to 1.

    References:
        Deng, Guo, Xue and Zafeiriou, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019. The
        square: Appendix C of Karras, Aila, Laine and Lehtinen, "Progressive Growing of GANs for Improved Quality,
        Stability, and Variation", ICLR 2018.

    Example:
        >>> [round(edge, 2) for edge in ffhq_arcface_crop()]
        [0.11, 0.12, 0.88, 0.88]
    """
    left, right, *corners = (torch.tensor(point, dtype=torch.float64) for point in ARCFACE_POINTS)
    eyes, mouth = (left + right) / 2, sum(corners) / 2
    half = torch.maximum(2 * (right - left).norm(), 1.8 * (mouth - eyes).norm())
    corner = eyes + 0.1 * (mouth - eyes) - half
    # Points are at the centres of pixels, and pictures begin half a pixel before the first.
    start, end = ((torch.tensor(edge - 0.5) - corner) / (2 * half) for edge in (0.0, float(ARCFACE_SIDE)))
    return float(start[0]), float(start[1]), float(end[0]), float(end[1])


# Parts of pictures by name; LACE's metric uses rows 35 to 223 and columns 32 to 220 of 256.
CROPS = {"ffhq_arcface": ffhq_arcface_crop(), "ffhq_lace": (32 / 256, 35 / 256, 220 / 256, 223 / 256)}


class Embedding(nn.Module):
    """Base class of embeddings: pictures (B, 3, R, R) in [-1, 1] -> unit vectors (B, D).

    A subclass defines `forward` and `protocol`.

    Example:
        >>> class Colour(Embedding):
        ...     def forward(self, images):
        ...         return F.normalize(images.mean((2, 3)), dim=1)
        >>> red, green = (torch.zeros(1, 3, 4, 4).index_fill(1, torch.tensor(channel), 1.0) for channel in (0, 1))
        >>> Colour().distance(red, green)
        tensor([1.4142])
    """

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the Euclidean distances between the embeddings of two batches of pictures.

        Args:
            first: pictures (B, 3, R, R) in [-1, 1].
            second: pictures (B, 3, R, R) in [-1, 1].

        Returns:
            Distances (B,), from 0 (the same embedding) to 2.
        """
        result: Tensor = (self(first) - self(second)).norm(dim=1)
        return result

    def with_gradient(self, images: Tensor) -> Tensor:
        """Return unit vectors (B, D) of pictures (B, 3, R, R) in [-1, 1], with a graph where one is asked for."""
        result: Tensor = self(images)
        return result

    @property
    def protocol(self) -> dict[str, Any]:
        """Plain values that the distance depends on."""
        raise NotImplementedError


class IdentityEmbedding(Embedding):
    """Pictures (B, 3, R, R) in [-1, 1] -> unit vectors (B, size): an image network whose head is the embedding.

    Args:
        network: name of the image network, a key of `IMAGE_NETWORKS`.
        arguments: further arguments of the network's class.
        size: dimension of the embedding, at least 1.

    Raises:
        LaceError: when the name is unknown, or the network's class refuses the value of an argument.

    Example:
        >>> vectors = IdentityEmbedding("resnet9", {"width": 2}, size=4).eval()(torch.rand(3, 3, 16, 16))
        >>> tuple(vectors.shape), bool(((vectors.norm(dim=1) - 1).abs() < 1e-5).all())
        ((3, 4), True)
    """

    def __init__(self, network: str = "resnet9", arguments: Mapping[str, Any] | None = None, size: int = 64) -> None:
        super().__init__()
        self.network_name, self.arguments, self.size = network, dict(arguments or {}), size
        self.network = build_network(network, num_logits=size, **self.arguments)

    def forward(self, images: Tensor) -> Tensor:
        """Return unit vectors (B, size) of pictures (B, 3, R, R) in [-1, 1]."""
        return F.normalize(self.network(images).float(), dim=1)

    @property
    def digest(self) -> str:
        """Digest of configuration and weights, 16 hexadecimal digits."""
        return digest({"config": self._config(), "state": dict(self.network.state_dict())})

    @property
    def protocol(self) -> dict[str, Any]:
        return {"network": self.network_name, "digest": self.digest}

    def _config(self) -> dict[str, Any]:
        return {"kind": "identity", "network": self.network_name, "arguments": self.arguments, "size": self.size}

    def save(self, path: str | os.PathLike[str], dtype: torch.dtype | None = None, **metadata: Any) -> None:
        """Write weights, configuration and metadata as safetensors, atomically.

        Args:
            path: file to write.
            dtype: type of the stored weights; None for their own.
            metadata: further plain values.
        """
        save_tensors(path, self.network.state_dict(), {**self._config(), "metadata": metadata}, dtype)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> IdentityEmbedding:
        """Return the embedding of a file that `save` wrote, frozen and in evaluation mode.

        Args:
            path: safetensors file.

        Raises:
            LaceError: when the file is missing, damaged or no identity embedding.
        """
        tensors, config = load_tensors(path)
        kind = config.get("kind") if isinstance(config, Mapping) else type(config).__name__
        if kind != "identity":
            raise LaceError(
                f"The weights '{path}' must be an identity embedding and are of kind {quoted(kind)}: check "
                "task.identity.weights."
            )
        result = load_built(
            lambda: cls(config["network"], config["arguments"], config["size"]),
            config,
            tensors,
            f"The weights '{path}' must be an identity embedding",
        )
        return result.eval().requires_grad_(False)


class FaceEmbedding(Embedding):
    """Pictures (B, 3, R, R) in [-1, 1] -> unit vectors (B, 128): the shipped descriptor of face-api, of dlib.

    Example:
        >>> vectors = FaceEmbedding()(torch.rand(2, 3, 64, 64))
        >>> tuple(vectors.shape), bool(((vectors.norm(dim=1) - 1).abs() < 1e-5).all())
        ((2, 128), True)
    """

    NAME = "face_api_descriptor"

    def __init__(self) -> None:
        super().__init__()
        self.network = load_face_network(self.NAME)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return unit vectors (B, 128) of pictures (B, 3, R, R) in [-1, 1]."""
        # The network enlarges pictures to 150x150; parts of 50 keep the memory independent of the batch.
        return torch.cat([F.normalize(self.network(part), dim=1) for part in images.split(50)])

    @property
    def protocol(self) -> dict[str, Any]:
        return {"network": self.NAME, "sha256": card(self.NAME)["sha256"]}


class ScriptedEmbedding(Embedding):
    """Pictures (B, 3, R, R) in [-1, 1] -> unit vectors (B, D) of a network in a TorchScript file, such as ArcFace's.

    A TorchScript file is a program, and it is run: give only one that you trust. No gradient is kept.

    Args:
        script: the file, whose network turns pictures (B, 3, resolution, resolution) into vectors (B, D).
        resolution: side in pixels that pictures are resized to (bilinear, antialiased), at least 1.
        crop: part of a picture that is used: left, top, right and bottom as fractions from 0 to 1, or a key of
            `CROPS`; None for all of it.
        range: the numbers of a black and of a white pixel, ascending.
        channels: rgb or bgr, the order of the channels that the network takes.
        flip: whether the unit vectors of a picture and of its mirror image are added.
        device: device of the network.

    Raises:
        LaceError: when the file is missing or no TorchScript, a setting is out of range, or the network does not turn
            two black pictures into finite floating numbers (2, D).

    Example:
        >>> import tempfile
        >>> network = torch.jit.trace(nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), torch.zeros(2, 3, 8, 8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.jit.save(network, f"{folder}/network.pt")
        ...     embedding = ScriptedEmbedding(f"{folder}/network.pt", resolution=8)
        >>> tuple(embedding(torch.ones(5, 3, 16, 16)).shape)
        (5, 12)
    """

    def __init__(
        self,
        script: str | os.PathLike[str],
        resolution: int = 112,
        crop: str | Sequence[float] | None = None,
        range: Sequence[float] = (-1.0, 1.0),
        channels: str = "rgb",
        flip: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        if resolution < 1:
            raise LaceError(f"task.identity.resolution must be at least 1, received {resolution}: set it to 112.")
        if len(range) != 2 or not all(map(math.isfinite, range)) or range[0] >= range[1]:
            raise LaceError(
                f"task.identity.range must be two numbers, of a black and of a white pixel, received {list(range)}: "
                "set it to [-1, 1]."
            )
        if channels not in ("rgb", "bgr"):
            raise LaceError(
                f"task.identity.channels must be rgb or bgr, received '{channels}'.{suggest(channels, ('rgb', 'bgr'))}"
            )
        self.script, self.resolution, self.crop = Path(script), resolution, _crop(crop)
        self.range, self.channels, self.flip = (float(range[0]), float(range[1])), channels, flip
        self.program = load_program(self.script, device)
        self._check(device)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return unit vectors (B, D) of pictures (B, 3, R, R) in [-1, 1]."""
        return self.with_gradient(images)

    def with_gradient(self, images: Tensor) -> Tensor:
        """Return unit vectors (B, D) of pictures (B, 3, R, R) in [-1, 1], with a graph where one is asked for."""
        inputs = self.prepare(images)
        vectors = self.program(inputs)
        if self.flip:
            vectors = F.normalize(vectors.float(), dim=1) + F.normalize(self.program(inputs.flip(-1)).float(), dim=1)
        return F.normalize(vectors.float(), dim=1)

    def prepare(self, images: Tensor) -> Tensor:
        """Return the inputs of the network, cut, resized and scaled.

        Args:
            images: pictures (B, 3, H, W) in [-1, 1].

        Returns:
            Pictures (B, 3, resolution, resolution) in `range`.
        """
        if self.crop is not None:
            height, width = images.shape[-2:]
            left, top, right, bottom = (
                round(share * side) for share, side in zip(self.crop, (width, height, width, height), strict=True)
            )
            images = images[:, :, top : max(bottom, top + 1), left : max(right, left + 1)]
        if images.shape[-2:] != (self.resolution, self.resolution):
            images = F.interpolate(images, (self.resolution, self.resolution), mode="bilinear", antialias=True)
        low, high = self.range
        images = low + (images + 1) / 2 * (high - low)
        return images.flip(1) if self.channels == "bgr" else images

    @property
    def protocol(self) -> dict[str, Any]:
        return {
            "script": self.script.name,
            "sha256": file_sha256(self.script),
            "resolution": self.resolution,
            "crop": self.crop and list(self.crop),
            "range": list(self.range),
            "channels": self.channels,
            "flip": self.flip,
        }

    def _check(self, device: torch.device | str) -> None:
        shape = (2, 3, self.resolution, self.resolution)
        try:
            with torch.no_grad():
                vectors = self.program(torch.full(shape, self.range[0], device=device))
        except Exception as error:
            # Any exception is possible: the program is not of this package.
            raise LaceError(
                f"The network '{self.script}' must take pictures of shape {shape} and fails on them "
                f"({last_line(error)}): set task.identity.resolution."
            ) from error
        received = f"{vectors.dtype} {tuple(vectors.shape)}" if isinstance(vectors, Tensor) else type(vectors).__name__
        if not isinstance(vectors, Tensor) or not vectors.is_floating_point() or vectors.ndim != 2 or len(vectors) != 2:
            raise LaceError(
                f"The network '{self.script}' must turn two pictures into floating numbers of shape (2, D), received "
                f"{received}: export the network that ends with its embedding."
            )
        if not vectors.isfinite().all():
            raise LaceError(
                f"The network '{self.script}' must turn two black pictures into finite numbers and does not: set "
                "task.identity.range to the range that it was trained with."
            )


def _crop(crop: str | Sequence[float] | None) -> tuple[float, ...] | None:
    if isinstance(crop, str):
        if crop not in CROPS:
            raise LaceError(
                f"task.identity.crop must be four fractions or one of {', '.join(CROPS)}, received '{crop}'."
                f"{suggest(crop, CROPS)}"
            )
        return CROPS[crop]
    if crop is None:
        return None
    left, top, right, bottom = parts = tuple(map(float, crop)) if len(crop) == 4 else (1.0, 1.0, 0.0, 0.0)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise LaceError(
            f"task.identity.crop must be [left, top, right, bottom] as fractions from 0 to 1, received {list(crop)}: "
            "set it to [0, 0, 1, 1] for all of the picture."
        )
    return parts


def load_embedding(settings: str | Mapping[str, Any] | None, device: torch.device | str = "cpu") -> Embedding | None:
    """Return the embedding of the settings `task.identity`.

    A TorchScript file is a program, and it is run where it is named as `script`, never where it is named as `weights`.

    Args:
        settings: a mapping with `weights`, a shipped name or a safetensors file of this program, or with `script` and
            further arguments of `ScriptedEmbedding`; `weights` alone as text; or None. A script comes first.
        device: device of the embedding.

    Returns:
        The embedding, None where neither weights nor a script are given.

    Raises:
        LaceError: when a setting is unknown or out of range, or a file is missing, damaged or of another kind.

    Example:
        >>> load_embedding({"weights": None, "script": None}) is None
        True
    """
    table = {"weights": settings} if isinstance(settings, str) else dict(settings or {})
    weights, script = table.pop("weights", None), table.pop("script", None)
    if script is not None:
        try:
            return ScriptedEmbedding(script, **table, device=device)
        except TypeError as error:
            raise LaceError(
                f"task.identity has settings that a TorchScript file does not take ({error}): see conf/task/edit.yaml."
            ) from error
    if weights is None:
        return None
    if Path(weights).suffix in (".pt", ".pth", ".ts", ".jit", ".torchscript"):
        raise LaceError(
            f"Identity weights must be a safetensors file of this program, received '{weights}': a TorchScript file is "
            f"a program, and is run only where it is given as task.identity.script={weights}."
        )
    if weights == FaceEmbedding.NAME:
        return FaceEmbedding().to(device)
    return IdentityEmbedding.load(weight_path(weights)).to(device)
