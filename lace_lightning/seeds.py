"""Random numbers that depend on a sample's own seed only: not on the batch, the device or the number of devices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import LaceError

_MASK = 0xFFFFFFFF
# The multipliers minus 2**32: the product with a 32-bit word then fits into int64 without overflow.
_MULTIPLIERS = (0xD2511F53 - 2**32, 0xCD9E8D57 - 2**32)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
# Where the streams of uniform values begin: beyond those of normals.
UNIFORM_STREAM = 2**40


def _multiply(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of word · (multiplier + 2**32)."""
    product = word * multiplier
    low = product & _MASK
    return product.bitwise_right_shift_(32).add_(word).bitwise_and_(_MASK), low


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 (Salmon et al., SC 2011): four 32-bit words of a counter and two of a key give four random words.

    Every word is an int64 tensor with values in [0, 2**32); counters and keys broadcast against each other.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for round_ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        round_key0, round_key1 = (k0 + round_ * _WEYL[0]) & _MASK, (k1 + round_ * _WEYL[1]) & _MASK
        c0, c1, c2, c3 = high1 ^ c1 ^ round_key0, low1, high0 ^ c3 ^ round_key1, low0
    return c0, c1, c2, c3


def _check(seeds: Tensor, shape: Sequence[int]) -> None:
    if not isinstance(seeds, Tensor) or seeds.dtype != torch.int64 or seeds.ndim != 1:
        received = f"{seeds.dtype} of shape {tuple(seeds.shape)}" if isinstance(seeds, Tensor) else type(seeds).__name__
        raise LaceError(f"seeds must be an int64 tensor of shape (B,), received {received}: use torch.arange(B).")
    if any(not isinstance(n, int) or n < 0 for n in shape):
        raise LaceError(
            f"A noise shape must hold integers >= 0, received {tuple(shape)}: give the shape of one sample."
        )


def _words(seeds: Tensor, count: int, streams: Tensor, device: torch.device | str | None) -> Tensor:
    """`count` 32-bit words for each pair of `seeds` and `streams` (broadcast to (R,)), with shape (R, count, 4)."""
    device = seeds.device if device is None else torch.device(device)
    seeds, streams = seeds.to(device).unsqueeze(1), streams.to(device).unsqueeze(1)
    block = torch.arange(count, device=device).unsqueeze(0)
    zero = torch.zeros((), dtype=torch.int64, device=device)
    counter = (block & _MASK, zero, streams & _MASK, (streams >> 32) & _MASK)
    words = philox(counter, (seeds & _MASK, (seeds >> 32) & _MASK))
    return torch.stack(torch.broadcast_tensors(*words), dim=-1)


def _rows(seeds: Tensor, shape: Sequence[int], stream: int | Tensor, device: torch.device | str | None) -> Tensor:
    """32-bit words with shape (R, ceil(n/4)·4) where n is the number of values in `shape`."""
    _check(seeds, shape)
    streams = stream if isinstance(stream, Tensor) else torch.tensor([stream], dtype=torch.int64)
    return _words(seeds, -(-math.prod(shape) // 4), streams, device)


def _box_muller(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Normals of shape (R, n) from words of shape (R, n/4, 4): (√(-2 log u) cos 2πv, √(-2 log u) sin 2πv)."""
    real = torch.float64 if dtype == torch.float64 else torch.float32
    pairs = words.unflatten(-1, (2, 2)).to(real)
    radius = ((pairs[..., 0] + 0.5) * 2.0**-32).log_().mul_(-2.0).clamp_(min=0.0).sqrt_()
    angle = pairs[..., 1] * (2.0 * math.pi * 2.0**-32)
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).flatten(1).to(dtype)


def normal(
    seeds: Tensor,
    shape: Sequence[int],
    stream: int | Tensor = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normals with shape (B, *shape); row i is a function of `seeds[i]` and `stream` only.

    `seeds` is int64 (B,), all 64 bits count. `stream` (>= 0, one for all or (B,)) separates uses of one seed: 0 is the
    prior of z, samplers use 1 and up. Raises LaceError when `seeds` is no int64 vector.
    """
    values = _box_muller(_rows(seeds, shape, stream, device), dtype)
    return values[:, : math.prod(shape)].reshape(-1, *shape)


def uniform(
    seeds: Tensor,
    shape: Sequence[int],
    stream: int | Tensor = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Uniform values in [0, 1) with shape (B, *shape); row i is a function of `seeds[i]` and `stream` only."""
    words = _rows(seeds, shape, stream, device).flatten(1)[:, : math.prod(shape)].reshape(-1, *shape)
    # float32 holds 24 bits: more would round up to 1.
    return words.double() * 2.0**-32 if dtype == torch.float64 else ((words >> 8).float() * 2.0**-24).to(dtype)


def integers(
    seeds: Tensor,
    high: int,
    shape: Sequence[int] = (),
    stream: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Integers in [0, high), int64, with shape (B, *shape); row i is a function of `seeds[i]` and `stream` only."""
    if not 1 <= high < 2**31:
        raise LaceError(f"high must be an integer from 1 to 2**31 - 1, received {high}: give the number of choices.")
    words = _rows(seeds, shape, stream, device).flatten(1)[:, : math.prod(shape)].reshape(-1, *shape)
    return (words * high) >> 32


class Noise:
    """The noise of a chain: `noise(k, like)` is `normal(seeds, like.shape[1:], stream + k)`, drawn some steps ahead.

    Drawing `ahead` steps at once costs far fewer kernel launches than one step at a time, and changes no value.
    """

    def __init__(self, seeds: Tensor, stream: int = 1, ahead: int = 16) -> None:
        _check(seeds, ())
        self.seeds, self.stream, self.ahead = seeds, stream, max(1, ahead)
        self._first = 0
        self._steps: Tensor | None = None

    def rows(self, index: Tensor | slice) -> Noise:
        """Return the noise of these samples of the batch."""
        return Noise(
            self.seeds[index.to(self.seeds.device) if isinstance(index, Tensor) else index], self.stream, self.ahead
        )

    def shifted(self, streams: int) -> Noise:
        """Return noise of the same samples that has nothing to do with this one, as long as fewer steps than `streams`
        are drawn.
        """
        return Noise(self.seeds, self.stream + streams, self.ahead)

    def uniform(self, k: int, count: int, device: torch.device | str | None = None) -> Tensor:
        """Uniform values in [0, 1), (B, count), for step k >= 0; independent of its normals."""
        return uniform(self.seeds, (count,), self.stream + UNIFORM_STREAM + k, device)

    def attempts(self, first: int, count: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return normals (B·count, D) and uniforms (B·count,) of attempts first .. first + count - 1, those of a sample
        together.

        `like` (B, D) says shape and device.
        """
        seeds = self.seeds.repeat_interleave(count)
        streams = (self.stream + torch.arange(first, first + count, device=seeds.device)).repeat(len(self.seeds))
        draws = normal(seeds, like.shape[1:], streams, like.device, like.dtype)
        return draws, uniform(seeds, (1,), streams + UNIFORM_STREAM, like.device)[:, 0]

    def __call__(self, k: int, like: Tensor) -> Tensor:
        """Normals for step k >= 0 with the shape, the device and the dtype of `like` (B, *shape)."""
        if like.shape[0] != len(self.seeds):
            raise LaceError(
                f"Noise needs one seed per sample, received {len(self.seeds)} for {like.shape[0]} samples: match them."
            )
        steps = self._steps
        known = (
            steps is not None
            and steps[0].shape == like.shape
            and steps.device == like.device
            and steps.dtype == like.dtype
        )
        if steps is None or not known or not self._first <= k < self._first + len(steps):
            count = max(1, min(self.ahead, 2**21 // max(1, like.numel())))
            streams = self.stream + torch.arange(k, k + count).repeat_interleave(len(self.seeds))
            values = _box_muller(_rows(self.seeds.repeat(count), like.shape[1:], streams, like.device), like.dtype)
            steps = values[:, : like[0].numel()].reshape(count, *like.shape)
            self._first, self._steps = k, steps
        return steps[k - self._first]
