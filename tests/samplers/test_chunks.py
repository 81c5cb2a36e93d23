"""Chunks change no result."""

from __future__ import annotations

import torch

from lace_lightning.energies import Discrete
from lace_lightning.samplers import Euler
from lace_lightning.samplers.chunks import CHUNK, Chunked, in_chunks

from ..exact.test_flows import Logit


def test_chunks_are_the_whole() -> None:
    energy = Discrete(slice(0, 2), torch.tensor([1, 0, 1, 1, 0])).pullback(Logit(3.0, 0.2))
    chunked, u = Chunked(energy, 2), torch.randn(5, 3, dtype=torch.float64)
    for ours, whole in zip(chunked.value_and_grad(u), energy.value_and_grad(u), strict=True):
        torch.testing.assert_close(ours, whole)
    torch.testing.assert_close(chunked(u), energy(u))
    rows = torch.tensor([4, 0, 2])
    torch.testing.assert_close(chunked.rows(rows).tempered(2.0)(u[rows]), energy.rows(rows).tempered(2.0)(u[rows]))


def test_only_large_batches_are_cut() -> None:
    energy = Discrete(slice(0, 2), 1).pullback(Logit(3.0, 0.2))
    assert in_chunks(energy, CHUNK) is energy
    z = torch.randn(CHUNK + 3, 2)
    torch.testing.assert_close(Euler(0.25)(energy, z).z[-3:], Euler(0.25)(energy, z[-3:]).z)
