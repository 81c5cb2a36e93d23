"""A frozen generator with its spaces: z, w, per-layer ws, x."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ..artifacts import digest
from ..errors import LaceError
from ..numerics.memory import Chunks
from ..pictures.convert import to_bytes
from ..seeds import normal, sample_seeds

# Feature maps of the picture's size that a network which says nothing is assumed to need.
UNKNOWN_MAPS = 512


class Generator(nn.Module):
    """x = synthesis(mapping(z)), frozen: z (B, Dz), w (B, Dw), ws (B, L, Dw), x (B, C, H, W) in [-1, 1].

    `mapping` is a module (the identity for a generator without w); subclasses give `render`. Pictures are made
    `max_batch` at a time: a number, or "auto", as many as fit into `memory` GiB (None: half of what is free) by
    `bytes_per_picture`.
    """

    mapping: nn.Module

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
        self.z_dim, self.w_dim, self.num_ws, self.has_w = z_dim, w_dim, num_ws, has_w
        self.chunks = Chunks(max_batch, memory)
        self.image_shape: tuple[int, int, int] = tuple(int(n) for n in image_shape)  # type: ignore[assignment]

    @property
    def has_layers(self) -> bool:
        """Whether style layers can be chosen."""
        return self.has_w and self.num_ws > 1

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters(), torch.empty(0)).device

    def render(self, ws: Tensor) -> Tensor:
        """Turn ws (B, L, Dw) into pictures (B, C, H, W)."""
        raise NotImplementedError

    def bytes_per_picture(self) -> int:
        """Return how many bytes `render` needs at its peak for each picture of a batch; a guess where the network does
        not say.
        """
        return UNKNOWN_MAPS * 4 * self.image_shape[1] * self.image_shape[2]

    def describe(self) -> dict[str, Any]:
        """Return the plain settings that, with the weights, decide what pictures come out."""
        return {"class": type(self).__name__, "z_dim": self.z_dim, "w_dim": self.w_dim, "image_shape": self.image_shape}

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of settings and weights: what is computed from this generator is keyed by it."""
        return digest({"settings": self.describe(), "state": dict(self.state_dict())})

    def digest_for(self, space: str) -> str:
        """Return the digest that a classifier of z, w or x is tied to: where p(c|w) is the same for two generators, so
        is this.
        """
        return self.digest

    def prior(self, count: int, seed: int = 0, first: int = 0, device: torch.device | str | None = None) -> Tensor:
        """Return z (count, Dz) ~ N(0, I); row i depends on `seed` and first + i alone."""
        return normal(sample_seeds(count, seed, first), (self.z_dim,), device=device)

    def broadcast(self, w: Tensor) -> Tensor:
        """Give every style layer the same w: (B, Dw) -> (B, L, Dw)."""
        return w[:, None].expand(-1, self.num_ws, -1)

    def _ws(self, w: Tensor) -> Tensor:
        return self.broadcast(w) if w.ndim == 2 else w

    def synthesis(self, w: Tensor) -> Tensor:
        """Turn w (B, Dw) or ws (B, L, Dw) into pictures (B, C, H, W) in [-1, 1], `max_batch` at a time where no
        gradient passes.
        """
        ws = self._ws(w)
        return (
            self.render(ws)
            if ws.requires_grad
            else _joined(self.chunks(self.render, ws, self.bytes_per_picture()), len(ws))
        )

    @torch.no_grad()
    def parts(self, w: Tensor) -> Iterator[Tensor]:
        """Yield the pictures of w (B, Dw) or ws (B, L, Dw) as bytes, uint8 (N, C, H, W), `max_batch` at a time."""
        yield from self.chunks(lambda ws: to_bytes(self.render(ws)), self._ws(w), self.bytes_per_picture())

    def pictures(self, w: Tensor) -> Tensor:
        """Turn w (B, Dw) or ws (B, L, Dw) into pictures as bytes, uint8 (B, C, H, W); as numbers they exist `max_batch`
        at a time.
        """
        return _joined(self.parts(w), len(w))

    def map_to(self, space: str) -> Callable[[Tensor], Tensor] | None:
        """Return the map from z to `space`: None for z itself, the mapping for w, the whole generator for x."""
        return {"z": None, "w": self.mapping, "x": self}[space]

    def forward(self, z: Tensor) -> Tensor:
        return self.synthesis(self.mapping(z))

    def frozen(self) -> Generator:
        """Switch to evaluation and take the weights out of every gradient; returns self."""
        return self.eval().requires_grad_(False)


def _joined(parts: Iterator[Tensor], count: int) -> Tensor:
    """Put parts together, each as it comes, so that none is held twice."""
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
    """Refuse a generator that is not frozen, or whose shapes or values are not what it declares (LaceError)."""
    name = type(generator).__name__
    trainable = [key for key, parameter in generator.named_parameters() if parameter.requires_grad]
    if trainable or generator.training:
        why = f"'{trainable[0]}' requires gradients" if trainable else "it is in training mode"
        raise LaceError(f"The generator must be frozen and {why} in {name}: call generator.frozen().")
    parameter = next(generator.parameters(), torch.empty(0))
    z = generator.prior(2, device=parameter.device)
    w = generator.mapping(z)
    images = generator.synthesis(w)
    for what, received, required in (
        ("mapping", w.shape, (2, generator.w_dim)),
        ("synthesis", images.shape, (2, *generator.image_shape)),
    ):
        if tuple(received) != tuple(required):
            raise LaceError(
                f"The {what} of {name} must return the shape {tuple(required)} for two samples, received "
                f"{tuple(received)}: correct z_dim, w_dim or image_shape."
            )
    low, high = float(images.min()), float(images.max())
    # NaN compares false.
    if not (low >= -1 and high <= 1):
        raise LaceError(
            f"The pictures of {name} must lie in [-1, 1], received values from {low:.3g} to {high:.3g}: set "
            "output_range or add a tanh."
        )
