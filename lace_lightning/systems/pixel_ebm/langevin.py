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
    """Short-run Langevin steps x ← x - η·∇E(x) + s·n, n ~ N(0, I), with step size η and noise s chosen independently.

    With `noise_first` the gradient is taken after the noise: x ← x + s·n, then x ← x - η·∇E(x). On E = k·x²/2 without
    bounds the stationary variance is s²/(1 - (1 - ηk)²), and (1 - ηk)² times this value with `noise_first`.

    Args:
        num_steps: number of steps, 0 or more.
        step_size: η, above 0.
        noise_std: s, 0 or more, in units of x; s² = 2η samples exp(-E) for small η.
        noise_first: add the noise before the gradient step.
        clamp: bounds (low, high) of every entry of x after a step, low below high; None for none.
        gradient_clip: bound of the absolute value of every entry of the gradient, above 0; None for none.

    Raises:
        LaceError: for settings outside these ranges; in a call, when x does not stay finite.

    References:
        Eq. 2 of LACE (arXiv 2110.10873); short-run chains of JEM (arXiv 1912.03263) and of improved contrastive
        divergence (arXiv 2012.01316).

    Example:
        >>> chain = LangevinChain(num_steps=3, step_size=0.5, noise_std=0.0)
        >>> chain(lambda x: x.square().sum(1) / 2, torch.ones(1, 2), FreshNoise(torch.Generator()))
        tensor([[0.1250, 0.1250]])
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
                "A chain requires num_steps and noise_std of 0 or more, and step_size and gradient_clip above 0, "
                f"received num_steps={num_steps}, noise_std={noise_std}, step_size={step_size} and "
                f"gradient_clip={gradient_clip}: set gradient_clip=null for no bound."
            )
        if clamp is not None and (len(clamp) != 2 or not clamp[0] < clamp[1]):
            raise LaceError(
                f"clamp must be two numbers, the lower one first, received {list(clamp)}: set clamp=null for no bounds."
            )
        self.num_steps, self.step_size, self.noise_std, self.noise_first = num_steps, step_size, noise_std, noise_first
        self.clamp, self.gradient_clip = None if clamp is None else (float(clamp[0]), float(clamp[1])), gradient_clip

    def step(self, energy: EnergyFunction, x: Tensor, noise: Tensor, create_graph: bool = False) -> Tensor:
        """Return x (B, ...) after one step with given normals of its shape.

        With `create_graph` the result is a differentiable function of the energy's parameters.
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
        """Return x (B, ...) after a number of steps.

        Args:
            energy: function from x (B, ...) to E(x) (B,).
            x: starting points (B, ...).
            noise: source of normals; step k uses `noise(k, x)`.
            first: number k of the first step.
            steps: number of steps; `num_steps` by default.
            done: called after every step.

        Raises:
            LaceError: when x does not stay finite.
        """
        count = self.num_steps if steps is None else steps
        for k in range(first, first + count):
            x = self.step(energy, x, noise(k, x))
            done()
        if not bool(torch.isfinite(x).all()):
            raise LaceError(
                f"A chain must stay finite and did not in {count} steps of size {self.step_size:g}: use smaller steps, "
                "or weights from before the training diverged."
            )
        return x


class FreshNoise:
    """Normals from a generator, drawn anew at every call: the noise of training chains.

    Args:
        random: the generator, on the device of the points.

    Example:
        >>> noise = FreshNoise(torch.Generator().manual_seed(0))
        >>> like = torch.zeros(2, 3)
        >>> torch.equal(noise(0, like), noise(0, like))
        False
    """

    def __init__(self, random: torch.Generator) -> None:
        self.random = random

    def __call__(self, k: int, like: Tensor) -> Tensor:
        """Return normals with shape, device and type of `like`; the number k of the step is not used."""
        return torch.randn(like.shape, generator=self.random, device=like.device, dtype=like.dtype)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Compute no gradients of the parameters of a module inside this context.

    Parameters that had gradients before have them again afterwards.

    Args:
        module: the module.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> with frozen(layer):
        ...     layer.weight.requires_grad
        False
        >>> layer.weight.requires_grad
        True
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
