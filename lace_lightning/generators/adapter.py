"""Adapter that makes a generator of any nn.Module, such as the decoder of a VAE or a DCGAN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LaceError, in_one_line
from ..source import user_line
from ..unpickle.state import load_state
from .arguments import is_whole, require_number
from .base import Generator


class ModuleGenerator(Generator):
    """A generator of any module: z (B, z_dim) -> w (B, w_dim) -> pictures (B, C, H, W) in [-1, 1].

    Args:
        module: the network, of any floating type. It is used itself, not a copy.
        z_dim: size of a latent z, at least 1.
        image_shape: (C, H, W) of a picture, in channels and pixels.
        w_dim: size of a latent w; None takes `z_dim`.
        mapping: name of the method or submodule z (B, z_dim) -> w (B, w_dim); None uses z itself as w.
        synthesis: name of the method or submodule that turns w into pictures; None calls the module.
        reshape: shape of one latent as the module takes it, such as (z_dim, 1, 1) for a DCGAN; None keeps (w_dim,).
        output_range: lowest and highest value of the pictures of the module, which are mapped linearly to [-1, 1].
            Pictures that the module returns flat (B, C·H·W) are given their shape.
        clamp: whether to clamp the mapped pictures to [-1, 1].
        checkpoint: file of a state dict that is loaded into the module (safetensors, or of torch, of which no code is
            run); the table whose names and shapes fit is taken, averaged weights before others. None keeps the weights
            of the module.
        checkpoint_key: name of the state dict in the file; None chooses by content.
        strict: whether the state dict must have exactly the names of the module.
        condition: second argument of a conditional module, the same for all pictures: class number from 0, or numbers.
            The mapping gets it, or the synthesis where there is no mapping. None for none.
        freeze: whether to switch the module to evaluation and turn off gradients of its weights.
        max_batch: pictures computed at a time, at least 1, or "auto" for as many as fit into `memory`.
        memory: GiB above 0 for "auto"; None for half of the free memory.

    Raises:
        LaceError: for a name that is no callable of the module, an unreadable or unsuitable checkpoint, and another
            argument out of range; in use, where the module does not take latents of these shapes or does not return
            pictures.

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
        checkpoint_key: str | None = None,
        condition: int | Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            z_dim, w_dim or z_dim, image_shape, has_w=mapping is not None, max_batch=max_batch, memory=memory
        )
        if mapping is None and w_dim not in (None, z_dim):
            raise LaceError(
                f"A generator without a mapping has w_dim = z_dim, received {w_dim} and {z_dim}: set mapping, or "
                "w_dim=null."
            )
        self.reshape, self.clamp = _shape(reshape, self.w_dim), clamp
        self.low, self.high = _range(output_range)
        self.condition = _condition(condition)
        if checkpoint is not None:
            load_state(module, checkpoint, strict, key=checkpoint_key)
        self.module = module
        self._methods = {"mapping": mapping, "synthesis": synthesis, "reshape": self.reshape or None}
        first = self.condition if mapping is not None else None
        self.mapping = nn.Identity() if mapping is None else _Method(module, mapping, first, "mapping")
        rest = self.condition if mapping is None else None
        self._render = _Method(module, synthesis, rest, "synthesis")
        if freeze:
            self.frozen()

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "module": type(self.module).__name__,
            "range": [self.low, self.high],
            "clamp": self.clamp,
            **({} if self.condition is None else {"condition": self.condition}),
            **{name: value for name, value in self._methods.items() if value is not None},
        }

    def render(self, ws: Tensor) -> Tensor:
        w = ws[:, 0]
        images = self._render(w.reshape(-1, *self.reshape) if self.reshape else w)
        if images.ndim == 2 and images.shape[1] == math.prod(self.image_shape):
            images = images.unflatten(1, self.image_shape)
        if (self.low, self.high) != (-1.0, 1.0):
            images = (images - self.low) * (2 / (self.high - self.low)) - 1
        result: Tensor = images.clamp(-1, 1) if self.clamp else images
        return result


def _shape(reshape: Any, w_dim: int) -> tuple[int, ...]:
    shape = tuple(reshape or ())
    if shape and not (all(is_whole(size) and size >= 1 for size in shape) and math.prod(shape) == w_dim):
        raise LaceError(
            f"The shape of one latent (reshape) must have {w_dim} numbers, as w_dim says, received {list(shape)}: "
            "correct reshape, z_dim or w_dim."
        )
    return shape


def _range(output_range: Any) -> tuple[float, float]:
    values = list(output_range) if isinstance(output_range, Sequence) and not isinstance(output_range, str) else []
    numbers = [float(require_number("output_range", value) or 0.0) for value in values]
    if len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise LaceError(
            "The output_range of a generator must be its lowest and its highest value, such as [-1, 1] or [0, 1], "
            f"received {values or output_range}: correct it."
        )
    return numbers[0], numbers[1]


def _condition(condition: Any) -> int | list[float] | None:
    if condition is None:
        return None
    if is_whole(condition) and condition >= 0:
        return int(condition)
    if isinstance(condition, Sequence) and not isinstance(condition, str) and len(condition):
        return [float(require_number("condition", value) or 0.0) for value in condition]
    raise LaceError(
        f"The condition of a generator must be a class number from 0 or a list of numbers, received {condition!r}: "
        "correct it, or set it to null."
    )


class _Method(nn.Module):
    """A module, or a method or submodule of it, as a module without weights of its own.

    Latents are given in the type of the weights, and results are returned in that of the latents, but not in half
    precision. Whatever the module does not take becomes one sentence that names the setting.
    """

    def __init__(self, owner: nn.Module, name: str | None, condition: Any, part: str) -> None:
        super().__init__()
        if name is not None and not callable(getattr(owner, name, None)):
            raise LaceError(
                f"The module {type(owner).__name__} must have a callable '{name}' and has none: correct the name."
            )
        self._owner, self.name, self.condition, self.part = (owner,), name, condition, part

    @property
    def title(self) -> str:
        return type(self._owner[0]).__name__ + ("" if self.name is None else f".{self.name}")

    def _arguments(self, x: Tensor) -> list[Tensor]:
        if self.condition is None:
            return [x]
        if isinstance(self.condition, int):
            return [x, torch.full((len(x),), self.condition, device=x.device)]
        return [x, torch.tensor(self.condition, dtype=x.dtype, device=x.device).expand(len(x), -1)]

    def forward(self, x: Tensor) -> Tensor:
        owner = self._owner[0]
        weight = next((tensor for tensor in owner.parameters() if tensor.is_floating_point()), x)
        called = owner if self.name is None else getattr(owner, self.name)
        try:
            result = called(*self._arguments(x.to(weight.dtype)))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if isinstance(error, LaceError):
                raise
            raise LaceError(
                f"The {self.part} of a generator must take latents of the shape {tuple(x.shape)}"
                f"{'' if self.condition is None else ' and a condition'}, and {self.title} does not "
                f"({in_one_line(error, 140)}{user_line(error)}): set {self._advice(error)}."
            ) from error
        if not isinstance(result, Tensor):
            kind = "w" if self.part == "mapping" else "pictures"
            raise LaceError(
                f"The {self.part} of a generator must return {kind} as one tensor, and {self.title} returns "
                f"{type(result).__name__}: set {self.part} to a method that returns them alone."
            )
        return result.to(torch.promote_types(x.dtype, torch.float32)) if result.is_floating_point() else result

    def _advice(self, error: Exception) -> str:
        if isinstance(error, TypeError) and self.condition is None:
            return "condition where it is conditional, or synthesis (or mapping) to a method that takes latents alone"
        if self.condition is not None:
            return "condition, z_dim, or reshape (the shape of one latent)"
        return "z_dim to the size of its latents, or reshape to the shape of one latent"
