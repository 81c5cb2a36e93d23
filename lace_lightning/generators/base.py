"""Base class of frozen generators with latent spaces z and w, style layers ws, and pictures x."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..artifacts import digest
from ..errors import LaceError
from ..numerics.memory import Chunks
from ..numerics.recording import is_recording
from ..pictures.convert import to_bytes
from ..seeds import normal, sample_seeds
from .arguments import require_whole
from .layers import layer_named, layer_output

# Assumed number of feature maps of the size of the picture, where a network does not tell its need of memory.
UNKNOWN_MAPS = 512
# Pictures in which a value below 0 is looked for where two have none.
MORE = 16


class Generator(nn.Module):
    """Base class of frozen generators: x = synthesis(mapping(z)), pictures x (B, C, H, W) in [-1, 1].

    Latents are z (B, Dz), w (B, Dw) and ws (B, L, Dw), one w for each of L style layers. A subclass sets `mapping`, a
    module z -> w (the identity for a generator without w), and defines `render`. `check_generator` compares a subclass
    with what it declares.

    Args:
        z_dim: Dz, size of a latent z, at least 1.
        w_dim: Dw, size of a latent w, at least 1.
        image_shape: (C, H, W) of a picture, in channels and pixels.
        num_ws: L, number of style layers, at least 1.
        has_w: whether there is a space w other than z.
        max_batch: pictures computed at a time, at least 1, or "auto" for as many as fit into `memory` by
            `bytes_per_picture`.
        memory: GiB above 0 for "auto"; None for half of the free memory.

    Raises:
        LaceError: for an argument out of range, and for latents of another shape.

    Example:
        >>> class Gray(Generator):
        ...     def __init__(self):
        ...         super().__init__(z_dim=2, w_dim=2, image_shape=(1, 4, 4), has_w=False)
        ...         self.mapping = nn.Identity()
        ...
        ...     def render(self, ws):
        ...         return ws.mean((1, 2)).tanh()[:, None, None, None].expand(-1, 1, 4, 4)
        >>> generator = Gray().frozen()
        >>> check_generator(generator)
        >>> generator(generator.prior(3, seed=1)).shape
        torch.Size([3, 1, 4, 4])
    """

    mapping: nn.Module
    # Arguments that were found by trying, as they are written on the command line.
    found: list[str] = []
    # Whether gradients of the pictures reach the latents.
    has_gradients = True
    # Name of the submodule whose output is the space `features`, None for none.
    feature_name: str | None = None

    def __init__(
        self,
        z_dim: int,
        w_dim: int,
        image_shape: Sequence[int],
        num_ws: int = 1,
        has_w: bool = True,
        max_batch: int | str = "auto",
        memory: float | None = None,
    ) -> None:
        super().__init__()
        self.z_dim, self.w_dim = require_whole("z_dim", z_dim, 1), require_whole("w_dim", w_dim, 1)
        self.num_ws, self.has_w = num_ws, has_w
        self.chunks = Chunks(max_batch, memory)
        sides = list(image_shape) if isinstance(image_shape, Sequence) else []
        if len(sides) != 3:
            raise LaceError(
                "The image_shape of a generator must be three numbers, channels, height and width, received "
                f"{sides or image_shape}: correct it."
            )
        self.image_shape: tuple[int, int, int] = tuple(  # type: ignore[assignment]
            require_whole("image_shape", side, 1) for side in sides
        )

    @property
    def has_layers(self) -> bool:
        """Whether there are several style layers, which can have different w."""
        return self.has_w and self.num_ws > 1

    @property
    def device(self) -> torch.device:
        """The device of the weights; the CPU for a generator without parameters."""
        return next(self.parameters(), torch.empty(0)).device

    def render(self, ws: Tensor) -> Tensor:
        """Return the pictures (B, C, H, W) in [-1, 1] of ws (B, L, Dw), all in one batch."""
        raise NotImplementedError

    def bytes_per_picture(self) -> int:
        """Return the peak memory of `render` in bytes for each picture of a batch; here a guess."""
        return UNKNOWN_MAPS * 4 * self.image_shape[1] * self.image_shape[2]

    def describe(self) -> dict[str, Any]:
        """Return the settings, as plain values, that decide the pictures together with the weights."""
        return {"class": type(self).__name__, "z_dim": self.z_dim, "w_dim": self.w_dim, "image_shape": self.image_shape}

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of settings and weights, computed once: the key of cached results."""
        return digest({"settings": self.describe(), "state": dict(self.state_dict())})

    def digest_for(self, space: str) -> str:
        """Return the digest for classifiers of a space: equal for generators with the same p(c|space)."""
        return digest([self.digest, self.feature_name]) if space == "features" else self.digest

    def prior(self, count: int, seed: int = 0, first: int = 0, device: torch.device | str | None = None) -> Tensor:
        """Return z (count, Dz) ~ N(0, I), float32; row i is a function of `seed` and first + i only."""
        return normal(sample_seeds(count, seed, first), (self.z_dim,), device=device)

    def broadcast(self, w: Tensor) -> Tensor:
        """Give every style layer the same w: (B, Dw) -> (B, L, Dw)."""
        return w[:, None].expand(-1, self.num_ws, -1)

    def _ws(self, w: Tensor) -> Tensor:
        if w.shape[1:] not in ((self.w_dim,), (self.num_ws, self.w_dim)):
            raise LaceError(
                f"Latents w must have the shape (B, {self.w_dim}) or (B, {self.num_ws}, {self.w_dim}), received "
                f"{tuple(w.shape)}: give w of this generator."
            )
        return self.broadcast(w) if w.ndim == 2 else w

    def synthesis(self, w: Tensor) -> Tensor:
        """Return the pictures (B, C, H, W) in [-1, 1] of w (B, Dw) or ws (B, L, Dw).

        `max_batch` pictures are computed at a time, but all of them at once where w requires a gradient or a graph is
        recorded (torch.compile, torch.export, ONNX).
        """
        ws = self._ws(w)
        return (
            self.render(ws)
            if ws.requires_grad or is_recording()
            else _joined(self.chunks(self.render, ws, self.bytes_per_picture()), len(ws))
        )

    @torch.no_grad()
    def parts(self, w: Tensor) -> Iterator[Tensor]:
        """Yield the pictures of w (B, Dw) or ws (B, L, Dw) as bytes, uint8 (N, C, H, W), `max_batch` at a time.

        Raises:
            LaceError: when a picture is NaN or infinite, which bytes cannot show.
        """
        yield from self.chunks(self._bytes, self._ws(w), self.bytes_per_picture())

    def _bytes(self, ws: Tensor) -> Tensor:
        images = self.render(ws)
        # The sum is finite where every value is, and is cheaper than a look at every value.
        if not images.sum().isfinite():
            wrong = int((~images.isfinite()).flatten(1).any(1).sum())
            if wrong:
                raise LaceError(
                    f"Pictures must be finite, and {wrong} of {len(images)} pictures of {type(self).__name__} are NaN "
                    "or infinite: check the latents and the weights, or compute in float32 (generator.precision)."
                )
        return to_bytes(images)

    def pictures(self, w: Tensor) -> Tensor:
        """Return the pictures of w (B, Dw) or ws (B, L, Dw) as bytes, uint8 (B, C, H, W).

        Only `max_batch` pictures at a time are held in a floating format.
        """
        return _joined(self.parts(w), len(w))

    def map_to(self, space: str) -> Callable[[Tensor], Tensor] | None:
        """Return the map from z to `space`: None for z itself, the mapping for w, the whole generator for x.

        The map to `features` ends at the layer of this name.
        """
        return {"z": None, "w": self.mapping, "x": self, "features": self._features_at}[space]

    def size_of(self, space: str) -> int:
        """Return the number of numbers of one point of `space`: z, w or features."""
        return {"z": lambda: self.z_dim, "w": lambda: self.w_dim, "features": lambda: self.num_features}[space]()

    @property
    def feature_network(self) -> nn.Module:
        """The network whose submodules `features` names."""
        return self

    def with_features(self, name: str | None) -> Self:
        """Set the submodule whose output is the space `features`; return the generator itself.

        Raises:
            LaceError: where there is no submodule of that name.
        """
        if name is not None:
            layer_named(self.feature_network, name)
        self.feature_name = name
        self.__dict__.pop("num_features", None)
        return self

    def features_of(self, w: Tensor) -> Tensor:
        """Return the output of the submodule `features`, flat (B, F) float32, for w (B, Dw) or ws (B, L, Dw).

        The network is computed no further, `max_batch` latents at a time, but all of them where w requires a gradient.

        Raises:
            LaceError: for a generator without `features`, and for a submodule that gives none.
        """
        if self.feature_name is None:
            raise LaceError(
                "A classifier of features needs the name of the generator's submodule, and generator.features is null: "
                "set it, for example generator.features=decoder.2."
            )
        name, layer, ws = self.feature_name, layer_named(self.feature_network, self.feature_name), self._ws(w)

        def part(ws: Tensor) -> Tensor:
            return layer_output(layer, self.render_exactly, ws, name).to(torch.promote_types(w.dtype, torch.float32))

        return part(ws) if ws.requires_grad else _joined(self.chunks(part, ws, self.bytes_per_picture()), len(ws))

    @cached_property
    def num_features(self) -> int:
        """The number F of features."""
        with torch.no_grad():
            return self.features_of(self.mapping(self.prior(1, device=self.device))).shape[1]

    def render_exactly(self, ws: Tensor) -> Tensor:
        """Return the pictures of ws as `render` does, but in float32."""
        return self.render(ws)

    def _features_at(self, z: Tensor) -> Tensor:
        return self.features_of(self.mapping(z))

    def forward(self, z: Tensor) -> Tensor:
        if z.shape[1:] != (self.z_dim,):
            raise LaceError(
                f"Latents z must have the shape (B, {self.z_dim}), received {tuple(z.shape)}: give z of this generator."
            )
        return self.synthesis(self.mapping(z))

    def frozen(self) -> Generator:
        """Switch to evaluation and turn off gradients of the weights; return the generator itself."""
        return self.eval().requires_grad_(False)


def _joined(parts: Iterator[Tensor], count: int) -> Tensor:
    """Concatenate parts as they are computed, so that no part is held twice."""
    first = next(parts)
    if len(first) == count:
        return first
    whole, place = first.new_empty(count, *first.shape[1:]), 0
    for part in chain([first], parts):
        whole[place : place + len(part)] = part
        place += len(part)
    return whole


@torch.no_grad()
def check_generator(generator: Generator) -> None:
    """Check that a generator is frozen, repeats its pictures, and has the shapes and values that it declares.

    Two samples are drawn and rendered twice, together and alone. A warning tells where no picture has a value below 0.

    Args:
        generator: the generator.

    Raises:
        LaceError: when a weight requires gradients, the generator is in training mode, w or pictures have another
            shape than declared, a picture has a value outside [-1, 1], NaN or infinite, or a picture is another one at
            the second time.

    Example:
        >>> from lace_lightning.generators import ModuleGenerator
        >>> module = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Unflatten(1, (1, 4, 4)))
        >>> check_generator(ModuleGenerator(module, 2, (1, 4, 4)))
        >>> check_generator(ModuleGenerator(module, 2, (1, 8, 8)))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        lace_lightning.errors.LaceError: The synthesis of ModuleGenerator must return the shape (2, 1, 8, 8) for two ...
    """
    name = type(generator).__name__
    trainable = [key for key, parameter in generator.named_parameters() if parameter.requires_grad]
    if trainable or generator.training:
        reason = f"'{trainable[0]}' requires gradients" if trainable else "it is in training mode"
        raise LaceError(f"The generator must be frozen and {reason} in {name}: call generator.frozen().")
    z = generator.prior(2, device=generator.device)
    w = generator.mapping(z)
    require_shape(name, "mapping", w, (2, generator.w_dim))
    images = generator.synthesis(w)
    require_shape(name, "synthesis", images, (2, *generator.image_shape))
    _check_values(name, images)
    if images.min() >= 0:
        _warn_of_range(name, generator)
    _check_repeated(name, generator, z, images)


def require_shape(name: str, part: str, received: Tensor, required: tuple[int, ...]) -> None:
    """Compare the shape of w or of pictures of two samples with the declared one.

    Args:
        name: name of the generator, for messages.
        part: "mapping" or "synthesis".
        received: w or pictures.
        required: the declared shape.

    Raises:
        LaceError: for another shape.

    Example:
        >>> require_shape("Tiny", "mapping", torch.zeros(2, 4), (2, 4))
    """
    if tuple(received.shape) != tuple(required):
        raise LaceError(
            f"The {part} of {name} must return the shape {tuple(required)} for two samples, received "
            f"{tuple(received.shape)}: correct z_dim, w_dim or image_shape."
        )


def _check_values(name: str, images: Tensor) -> None:
    if not images.is_floating_point():
        raise LaceError(
            f"The pictures of {name} must be floating numbers in [-1, 1], received {images.dtype}: convert them, as "
            "images / 127.5 - 1 for bytes."
        )
    wrong = int((~images.isfinite()).sum())
    if wrong:
        raise LaceError(
            f"The pictures of {name} must lie in [-1, 1], and {wrong} of {images.numel()} values of two pictures are "
            "NaN or infinite: check its weights, or compute it in float32."
        )
    low, high = float(images.min()), float(images.max())
    if low < -1 or high > 1:
        raise LaceError(
            f"The pictures of {name} must lie in [-1, 1], received values from {low:.3g} to {high:.3g}: set "
            "output_range or add a tanh."
        )


def _warn_of_range(name: str, generator: Generator) -> None:
    """Warn where many pictures have no value below 0 either."""
    images = generator(generator.prior(MORE, first=2, device=generator.device))
    low, high = float(images.min()), float(images.max())
    if low >= 0:
        warnings.warn(
            f"The values of {MORE} pictures of {name} go from {low:.3g} to {high:.3g}, and pictures here go from -1 to "
            "1: set output_range=[0, 1] unless all pictures are so bright.",
            stacklevel=3,
        )


def _check_repeated(name: str, generator: Generator, z: Tensor, images: Tensor) -> None:
    """Refuse a generator that draws noise by itself: sample i must depend on seed i alone."""
    # Each alone, which also shows noise that depends on the place in the batch, and pictures that depend on others.
    again = torch.cat([generator(row[None]) for row in z])
    if torch.allclose(again, images, atol=1e-4, rtol=0):
        return
    advice = (
        "store the noise as a buffer or switch it off (the noise mode of StyleGAN2 is 'random' by default), since "
        "sample i must depend on seed i alone"
    )
    repeated = float((generator(z) - images).abs().max())
    # On a GPU the order of sums can differ from call to call.
    if repeated > (1e-4 if images.device.type == "cpu" else 0.02):
        raise LaceError(
            f"A generator must give the same pictures for the same latents, and those of {name} differ by up to "
            f"{repeated:.2g} between two calls: {advice}."
        )
    # Half precision rounds in another way at another place.
    moved = float((again - images).abs().mean())
    if moved > 0.01:
        raise LaceError(
            f"A picture must not depend on its place in a batch or on other pictures, and those of {name} differ by "
            f"{moved:.2g} on average when they are made alone: {advice}, and normalise no picture by the others."
        )
