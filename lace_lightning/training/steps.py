"""Random numbers of training steps, and the check for divergence."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import LaceError

# Larger mean energies and losses count as divergence, as in JEM (Grathwohl et al., ICLR 2020).
LIMIT = 1e8


def step_seed(seed: int, *terms: tuple[int, int]) -> int:
    """Return the seed of a step: seed·m₁ + n₁, times m₂, plus n₂, and so on, modulo 2⁶³.

    Args:
        seed: the seed of the training.
        terms: pairs (multiplier, number); the numbers distinguish uses of one seed: step, process, purpose.

    Returns:
        A seed of torch's generators, from 0 to 2⁶³ - 1.

    Example:
        >>> step_seed(2, (10, 3), (100, 4))
        2304
    """
    for multiplier, number in terms:
        seed = (seed * multiplier + number) % 2**63
    return seed % 2**63


def step_generator(device: torch.device | str, seed: int, *terms: tuple[int, int]) -> torch.Generator:
    """Return the random generator of a step, which is the same again in a resumed training.

    Args:
        device: the device of the generator.
        seed: the seed of the training.
        terms: pairs (multiplier, number) as in `step_seed`.

    Returns:
        A new generator with the seed of `step_seed`.

    Example:
        >>> step_generator("cpu", 1, (10, 2)).initial_seed()
        12
    """
    return torch.Generator(device).manual_seed(step_seed(seed, *terms))


def require_bounded(step: int, advice: str, bound: float = LIMIT, **values: Tensor) -> None:
    """Raise an error if a figure of the training is not finite or not within ± `bound`.

    Args:
        step: the number of the training step.
        advice: the end of the message: what to change.
        bound: the largest absolute value; infinity accepts every finite number.
        values: figures by name, tensors of one number; underscores of a name are written as spaces.

    Raises:
        LaceError: with the step, the figure and the advice.

    Example:
        >>> require_bounded(3, "use a smaller learning rate", loss=torch.tensor(2.0))
    """
    for name, number in zip(
        values, torch.stack([value.detach().float() for value in values.values()]).tolist(), strict=True
    ):
        # NaN compares false.
        if not (abs(number) <= bound and math.isfinite(number)):
            within = "stay finite" if math.isinf(bound) else f"stay within ±{bound:g}"
            raise LaceError(
                f"The training diverged at step {step}: {name.replace('_', ' ')} must {within} and is {number:.4g}; "
                f"{advice}."
            )
