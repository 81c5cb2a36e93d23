"""Gradients of many samples in bounded memory."""

from __future__ import annotations

import torch
from torch import Tensor

from ..energies import Energy

# Activations of so many samples fit in the caches of a processor's socket and fill a GPU.
CHUNK = 8192


class Chunked(Energy):
    """The same energy, evaluated `size` samples at a time: intermediate results do not grow with the batch."""

    inner: Energy

    def __init__(self, inner: Energy, size: int = CHUNK) -> None:
        super().__init__()
        self.inner, self.size = inner, size

    def forward(self, u: Tensor) -> Tensor:
        return torch.cat([part.forward(x) for part, x in self._parts(u)])

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = u.new_empty(len(u)), torch.empty_like(u)
        for first, (part, x) in enumerate(self._parts(u)):
            rows = slice(first * self.size, (first + 1) * self.size)
            value[rows], gradient[rows] = part.value_and_grad(x)
        return value, gradient

    def _parts(self, u: Tensor) -> list[tuple[Energy, Tensor]]:
        return [(self.inner.rows(slice(first, first + self.size)), u[first : first + self.size]) for first in range(0, len(u), self.size)]

    def rows(self, index: Tensor | slice) -> Energy:
        return Chunked(self.inner.rows(index), self.size)

    def tempered(self, temperature: float) -> Energy:
        return Chunked(self.inner.tempered(temperature), self.size)


def in_chunks(energy: Energy, count: int) -> Energy:
    """Return an energy for batches of `count`: itself where they are small enough."""
    return energy if count <= CHUNK else Chunked(energy)
