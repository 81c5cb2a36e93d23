"""Any nn.Module as a generator: a VAE's decoder, a plain GAN, a network of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import LaceError
from ..unpickle.state import load_state
from .base import Generator


class ModuleGenerator(Generator):
    """Wrap `module`: z (B, z_dim) -> pictures, optionally through a submodule `mapping` and a submodule `synthesis`.

    `mapping` and `synthesis` name methods or submodules of `module` (default: no w, and the module itself); `reshape`
    is the shape of one latent as the module wants it (a DCGAN takes (z_dim, 1, 1)); `output_range` is what the module
    returns, mapped to [-1, 1] and, if `clamp`, cut there; `checkpoint` is a state dict (.safetensors, or .pt read as
    data); `freeze=False` leaves the module as it is.
    """

    def __init__(
        self,
        module: nn.Module,
        z_dim: int,
        image_shape: Sequence[int],
        w_dim: int | None = None,
        mapping: str | None = None,
        synthesis: str | None = None,
        reshape: Sequence[int] | None = None,
        output_range: Sequence[float] = (-1.0, 1.0),
        clamp: bool = False,
        checkpoint: str | None = None,
        strict: bool = True,
        freeze: bool = True,
        max_batch: int | str = "auto",
        memory: float | None = None,
    ) -> None:
        super().__init__(
            z_dim, w_dim or z_dim, image_shape, has_w=mapping is not None, max_batch=max_batch, memory=memory
        )
        if checkpoint is not None:
            load_state(module, checkpoint, strict)
        self.module = module
        self.mapping = nn.Identity() if mapping is None else _Method(module, mapping)
        self._render = module if synthesis is None else _Method(module, synthesis)
        self.reshape, self.clamp = tuple(reshape or ()), clamp
        self.low, self.high = (float(value) for value in output_range)
        if freeze:
            self.frozen()

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "module": type(self.module).__name__,
            "range": [self.low, self.high],
            "clamp": self.clamp,
        }

    def render(self, ws: Tensor) -> Tensor:
        w = ws[:, 0]
        images = self._render(w.reshape(-1, *self.reshape) if self.reshape else w)
        if (self.low, self.high) != (-1.0, 1.0):
            images = (images - self.low) * (2 / (self.high - self.low)) - 1
        return images.clamp(-1, 1) if self.clamp else images


class _Method(nn.Module):
    """A method or submodule of a module, as a module that owns no weights."""

    def __init__(self, owner: nn.Module, name: str) -> None:
        super().__init__()
        if not callable(getattr(owner, name, None)):
            raise LaceError(
                f"The module {type(owner).__name__} must have a callable '{name}' and has none: correct the name."
            )
        self._owner, self.name = (owner,), name

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self._owner[0], self.name)(x)
