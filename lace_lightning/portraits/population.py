"""Population of the portraits: correlated, imbalanced attributes, as in photographs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..schema import Labels
from ..seeds import Streams, uniform
from .face import IDENTITY, PORTRAITS_SCHEMA


def sample_identity(seeds: Tensor) -> Tensor:
    """Return the identity factors of people, uniform in [0, 1).

    Args:
        seeds: one seed for each person (B,) int64.

    Returns:
        Factors (B, 20), in the order of `IDENTITY`.

    Example:
        >>> tuple(sample_identity(torch.arange(3)).shape)
        (3, 20)
    """
    return uniform(seeds, (len(IDENTITY),), Streams.PERSON_IDENTITY)


def sample_attributes(seeds: Tensor) -> Labels:
    """Return the attributes of people from a correlated, imbalanced population.

    Ages around the middle of [0, 1] are the most frequent. Only men have beards, which are rare below age 0.3. Glasses
    are more frequent with age. More than half of the people smile, and more of the young. Hair is grey or absent more
    often with age, and absent mostly for men. Two combinations do not occur below age 0.4: glasses and a beard without
    a smile, and glasses of a woman without a smile.

    Args:
        seeds: one seed for each person (B,) int64.

    Returns:
        Labels (B, 12) of `PORTRAITS_SCHEMA`, all known.

    Example:
        >>> sample_attributes(torch.arange(3)).known.all().item()
        True
    """
    u = uniform(seeds, (len(PORTRAITS_SCHEMA) + 4,), Streams.PERSON_ATTRIBUTES).unbind(1)
    age = 0.75 * (u[0] + u[1]) / 2 * 1.1 + 0.25 * u[2]
    age = age.clamp(0, 1)
    young = ((0.45 - age) / 0.25).clamp(0, 1)
    male = u[3] < 0.5
    smile = u[4] < 0.52 + 0.18 * young + 0.06 * (~male).float()
    beard = male & (u[5] < 0.48 * ((age - 0.12) / 0.25).clamp(0.06, 1))
    glasses = u[6] < 0.10 + 0.38 * age
    absent = glasses & ~smile & (age < 0.4) & (beard | ~male)
    glasses = glasses & ~absent
    grey = u[7] < ((age - 0.5) / 0.45).clamp(0, 0.9)
    colour = torch.bucketize(u[8].contiguous(), torch.tensor([0.30, 0.58, 0.84], device=u[8].device)).float()
    haircolor = torch.where(grey, torch.full_like(colour, 4.0), colour)
    bald = torch.where(male, u[9] * (0.25 + 0.75 * age), u[9] * 0.25)
    columns = {
        "smile": smile.float(),
        "glasses": glasses.float(),
        "gender": male.float(),
        "beard": beard.float(),
        "haircolor": haircolor,
        "age": age,
        "bald": bald,
        "yaw": _bell(u[10], u[11]),
        "pitch": _bell(u[12], u[13]),
        "width": (0.15 * male.float() + 0.85 * u[14]).clamp(0, 1),
    }
    light = uniform(seeds, (2,), Streams.PERSON_LIGHT)
    return Labels.constant(PORTRAITS_SCHEMA, len(seeds), light0=light[:, 0], light3=light[:, 1], **columns)


def _bell(first: Tensor, second: Tensor) -> Tensor:
    """Return values in [0, 1] from a mixture: half triangular around the middle, half uniform."""
    return torch.where(first < 0.5, first * 2, (first * 2 - 1 + second) / 2)
