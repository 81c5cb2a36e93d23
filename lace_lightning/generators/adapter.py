"""Adapter that makes a generator of any nn.Module, such as the decoder of a VAE or a DCGAN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import LaceError
from ..unpickle.state import load_state
from .base import Generator


class ModuleGenerator(Generator):
    """A generator of any module: z (B, z_dim) -> w (B, w_dim) -> pictures (B, C, H, W) in [-1, 1].

    Args:
        module: the network. It is used itself, not a copy.
        z_dim: size of a latent z, at least 1.
        image_shape: (C, H, W) of a picture, in channels and pixels.
        w_dim: size of a latent w; None takes `z_dim`.
        mapping: name of the method or submodule z (B, z_dim) -> w (B, w_dim); None uses z itself as w.
        synthesis: name of the method or submodule that turns w into pictures; None calls the module.
        reshape: shape of one latent as the module takes it, such as (z_dim, 1, 1) for a DCGAN; None keeps (w_dim,).
        output_range: lowest and highest value of the pictures of the module, which are mapped linearly to [-1, 1].
        clamp: whether to clamp the mapped pictures to [-1, 1].
        checkpoint: file of a state dict that is loaded into the module (.safetensors, or .pt, of which no code is run);
            None keeps the weights of the module.
        strict: whether the state dict must have exactly the names of the module.
        freeze: whether to switch the module to evaluation and turn off gradients of its weights.
        max_batch: pictures computed at a time, at least 1, or "auto" for as many as fit into `memory`.
        memory: GiB above 0 for "auto"; None for half of the free memory.

    Raises:
        LaceError: for a name that is no callable of the module, an unreadable or unsuitable checkpoint, and `max_batch`
            or `memory` out of range.

    Example:
        >>> decoder = nn.Sequential(nn.Linear(2, 48), nn.Sigmoid(), nn.Unflatten(1, (3, 4, 4)))
        >>> generator = ModuleGenerator(decoder, 2, (3, 4, 4), output_range=(0, 1))
        >>> generator(generator.prior(5)).shape
        torch.Size([5, 3, 4, 4])
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
    """A method or submodule of another module as a module without weights of its own."""

    def __init__(self, owner: nn.Module, name: str) -> None:
        super().__init__()
        if not callable(getattr(owner, name, None)):
            raise LaceError(
                f"The module {type(owner).__name__} must have a callable '{name}' and has none: correct the name."
            )
        self._owner, self.name = (owner,), name

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self._owner[0], self.name)(x)
