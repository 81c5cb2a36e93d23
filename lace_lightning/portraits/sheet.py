"""Contact sheets of portraits: people, and the values of every attribute."""

from __future__ import annotations

import torch
from torch import Tensor

from ..schema import Labels
from .face import PORTRAITS_SCHEMA, render
from .population import sample_attributes, sample_identity


def attribute_rows(resolution: int = 64, columns: int = 10, seed: int = 0) -> dict[str, Tensor]:
    """Return rows of portraits: people of the population, and one row for the values of each attribute.

    In the row of an attribute the first half shows one person with the attribute going through its values, the second
    half another.

    Args:
        resolution: side of the pictures in pixels, at least 8.
        columns: pictures of a row, at least 2.
        seed: seed of the first person.

    Returns:
        Pictures (columns, 3, R, R) in [-1, 1] by title of the row.

    Example:
        >>> len(attribute_rows(16, columns=2))
        14
    """
    rows = {}
    seeds = torch.arange(seed, seed + 2 * columns)
    for name, part in (("people", seeds[:columns]), ("more people", seeds[columns:])):
        rows[name] = render(sample_attributes(part), sample_identity(part), resolution)
    half = columns // 2
    for index, attribute in enumerate(PORTRAITS_SCHEMA):
        discrete = attribute.kind == "discrete"
        values = torch.arange(half) % attribute.num_classes if discrete else torch.linspace(0, 1, half)
        parts = []
        for person in (0, 1):
            labels = _plain_person(half, float(person))
            labels.values[:, index] = values.float()
            identity = sample_identity(torch.tensor([seed + 2 * index + person])).expand(half, -1)
            parts.append(render(labels, identity, resolution))
        rows[attribute.name] = torch.cat(parts)
    return rows


def _plain_person(count: int, gender: float) -> Labels:
    """Return labels of a person of middle age in front view, without a smile, beard or glasses."""
    middle = dict.fromkeys(("yaw", "pitch", "age", "width", "light3"), 0.5)
    return Labels.constant(
        PORTRAITS_SCHEMA,
        count,
        gender=gender,
        haircolor=1.0,
        bald=0.1,
        light0=0.6,
        smile=0.0,
        glasses=0.0,
        beard=0.0,
        **middle,
    )
