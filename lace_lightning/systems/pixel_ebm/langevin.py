"""Short-run Langevin chains on the pixels of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import LaceError

EnergyFunction = Callable[[Tensor], Tensor]
# noise(k, like): normals of step k with the shape of `like` (B, ...); `seeds.Noise` is one.
NoiseSource = Callable[[int, Tensor], Tensor]


class LangevinChain:
    """x ← x - η·∇E(x) + s·n, `num_steps` times, with η = `step_size` and s = `noise_std`, chosen apart from each other.

    With `noise_first` the gradient is taken where the noise has led, x ← x + s·n, then x ← x - η·∇E(x). `gradient_clip`
    bounds every entry of the gradient, `clamp` = (low, high) every entry of x after a step. On E = k·x²/2 without
    bounds the variance at rest is s²/(1 - (1 - ηk)²), times (1 - ηk)² where the noise comes first. Raises LaceError for
    settings that are no chain's.
    """

    def __init__(
        self,
        num_steps: int = 20,
        step_size: float = 1.0,
        noise_std: float = 0.01,
        noise_first: bool = False,
        clamp: Sequence[float] | None = None,
        gradient_clip: float | None = None,
    ) -> None:
        if num_steps < 0 or not step_size > 0 or noise_std < 0 or (gradient_clip is not None and not gradient_clip > 0):
            raise LaceError(
                f"A chain needs num_steps and noise_std from 0, step_size and gradient_clip above 0 (or no clip), "
                f"received "
                f"{num_steps}, {noise_std}, {step_size} and {gradient_clip}."
            )
        if clamp is not None and (len(clamp) != 2 or not clamp[0] < clamp[1]):
            raise LaceError(f"A chain is clamped between two numbers, the lower one first, received {list(clamp)}.")
        self.num_steps, self.step_size, self.noise_std, self.noise_first = num_steps, step_size, noise_std, noise_first
        self.clamp, self.gradient_clip = None if clamp is None else (float(clamp[0]), float(clamp[1])), gradient_clip

    def step(self, energy: EnergyFunction, x: Tensor, noise: Tensor, create_graph: bool = False) -> Tensor:
        """Return x (B, ...) after one step with normals of its shape; with `create_graph` as a function of the energy's
        parameters.
        """
        if self.noise_first and self.noise_std:
            x = x + self.noise_std * noise
        with torch.inference_mode(False), torch.enable_grad():
            place = x.detach().clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(energy(place).sum(), place, create_graph=create_graph)
        with torch.set_grad_enabled(create_graph):
            if self.gradient_clip is not None:
                gradient = gradient.clamp(-self.gradient_clip, self.gradient_clip)
            x = place.detach() - self.step_size * gradient
            if not self.noise_first and self.noise_std:
                x = x + self.noise_std * noise
            return x if self.clamp is None else x.clamp(*self.clamp)

    def __call__(
        self,
        energy: EnergyFunction,
        x: Tensor,
        noise: NoiseSource,
        first: int = 0,
        steps: int | None = None,
        done: Callable[[], Any] = lambda: None,
    ) -> Tensor:
        """Return x (B, ...) after `steps` steps (all of them), the first with the normals `noise(first, x)`; `done()`
        after each.

        Raises LaceError where x does not stay finite.
        """
        count = self.num_steps if steps is None else steps
        for k in range(first, first + count):
            x = self.step(energy, x, noise(k, x))
            done()
        if not bool(torch.isfinite(x).all()):
            raise LaceError(
                f"A chain must stay finite and did not in {count} steps of size {self.step_size:g}: use smaller steps, "
                f"or "
                "weights from before the training diverged."
            )
        return x


class FreshNoise:
    """Normals from a generator, another draw at every call: the noise of training."""

    def __init__(self, random: torch.Generator) -> None:
        self.random = random

    def __call__(self, k: int, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.random, device=like.device, dtype=like.dtype)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Evaluate `module` without gradients of its parameters, which a chain does not need, inside this context."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
