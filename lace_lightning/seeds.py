"""Random numbers that are functions of a sample's seed and a stream, and the register of all seeds and streams.

They do not depend on the batch, the device or the number of devices.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .errors import LaceError

_MASK = 0xFFFFFFFF
# The multipliers minus 2**32: the product with a 32-bit word then fits into int64 without overflow.
_MULTIPLIERS = (0xD2511F53 - 2**32, 0xCD9E8D57 - 2**32)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
# Numbers that a processor draws at a time.
PART = 2**16
# Sample i of run seed s has the seed s·2³² + i.
SEED_STRIDE = 2**32
# Seeds of runs: sample i of run seed s has the seed s·SEED_STRIDE + i in 64 bits, and RunSeeds are added to s.
LARGEST_RUN_SEED = 2**31 - 2**24


class Numbered(int):
    """An entry of the register: a range of streams or seeds that begins with the number itself.

    Args:
        first: the first number of the range.
        count: how many numbers it has.
        purpose: the random values that are drawn with them.
        group: "" for a range that is apart from all others; ranges of two different groups may overlap, because no
            sample is drawn with both.

    Example:
        >>> entry = Numbered(8, 2, "an example")
        >>> entry + 1, entry.count, entry.overlaps(Numbered(9, 1, "another"))
        (9, 2, True)
    """

    count: int
    purpose: str
    group: str

    def __new__(cls, first: int, count: int, purpose: str, group: str = "") -> Numbered:
        entry = super().__new__(cls, first)
        entry.count, entry.purpose, entry.group = count, purpose, group
        return entry

    def __getnewargs__(self) -> tuple[int, int, str, str]:  # type: ignore[override]
        return int(self), self.count, self.purpose, self.group

    def overlaps(self, other: Numbered) -> bool:
        """Return whether the ranges have a number in common and may be used for one sample."""
        apart = bool(self.group and other.group) and self.group != other.group
        return not apart and self < other + other.count and other < self + self.count


class Register:
    """Base class of tables of `Numbered` constants.

    Example:
        >>> Streams.entries()["PRIOR"].purpose
        'z of a sample, or the noise from which a diffusion begins'
    """

    @classmethod
    def entries(cls) -> dict[str, Numbered]:
        """Return the constants by name."""
        return {name: value for name, value in vars(cls).items() if isinstance(value, Numbered)}


class Streams(Register):
    """The streams of a sample's seed: what the random numbers of one seed are used for.

    Example:
        >>> import torch
        >>> z = normal(torch.arange(4), (3,), Streams.PRIOR)
        >>> bool(torch.equal(z, normal(torch.arange(4), (3,), Streams.NOISE)))
        False
    """

    PRIOR = Numbered(0, 1, "z of a sample, or the noise from which a diffusion begins")
    NOISE = Numbered(1, 2**20 - 1, "normals of step k of a sampler or chain at NOISE + k", "samplers")
    CONDITION_ROW = Numbered(1, 1, "the training row that fills what a code leaves free", "styleflow")
    TRACE_PROBE = Numbered(2, 1, "the probe of a trace of StyleFlow", "styleflow")
    DENSITY_PROBE = Numbered(1, 1, "the probe of a divergence of the probability flow", "score")
    SPLIT = Numbered(2**20, 1, "whether a pair is of the training, validation or test split")
    CONDITION = Numbered(2**20 + 1, 100, "the continuous values of free attribute number k of a query at CONDITION + k")
    PERSON_ATTRIBUTES = Numbered(2**20 + 101, 1, "the attributes of a person of portraits")
    PERSON_IDENTITY = Numbered(2**20 + 102, 1, "the identity of a person of portraits")
    PERSON_LIGHT = Numbered(2**20 + 111, 1, "the light on a person of portraits")
    DEGRADE = Numbered(2**20 + 201, 2, "blur and hidden parts of a picture, then its speckle")
    WISH = Numbered(2**20 + 301, 1, "the attributes that a steered latent is asked for")
    BUFFER = Numbered(2**21, 1, "where in the buffer of LatentJEM a chain begins")
    ROUND = Numbered(2**24, 2**32 - 2**24, "noise and starts of round n of Filtered from n·ROUND on", "samplers")
    PILOT_AGAIN = Numbered(2**30, 2**20, "noise of the second run of a pilot", "pilot")
    START = Numbered(2**32, 2, "where a chain of pictures begins, then the block of its buffer", "samplers")
    CHANGE = Numbered(2**33, 2**33, "changes of a picture after round n at CHANGE + n", "samplers")
    UNIFORM = Numbered(2**40, 2**40, "uniform values beside the normals of stream s at s + UNIFORM")


class RunSeeds(Register):
    """Numbers that are added to the seed of a run, for latents that no other part of the run begins at.

    They keep apart runs whose seeds are below `count`.

    Example:
        >>> int(RunSeeds.FRESH) == 2**21
        True
    """

    OWN = Numbered(0, 2**20, "samples and pairs of a run")
    OTHER = Numbered(2**20, 2**10, "steered latents, and pictures that are compared with those of the run")
    POSTERIOR = Numbered(2**20 + 2**10, 2**20 - 2**10, "exact samples of the posterior")
    FRESH = Numbered(2**21, 2**21, "pairs that are drawn while a classifier is trained")
    REFERENCE = Numbered(2**22, 2**22, "pictures of a generator as reference of a distance")


class SampleSeeds(Register):
    """Seeds of samples that are not those of any run: sample i has the seed of its entry plus i.

    Example:
        >>> int(SampleSeeds.PILOT) < 0
        True
    """

    RUNS = Numbered(0, 2**62, "samples of runs, SEED_STRIDE for each run seed from 0 on")
    PILOT = Numbered(-(2**40), 2**40, "samples of pilots")
    TEST_PEOPLE = Numbered(2**62, 2**62, "people of portraits that nothing is trained on")


def sample_seeds(count: int, seed: int = 0, first: int = 0) -> Tensor:
    """Return the seeds (count,) int64 of samples first .. first + count - 1 of a run.

    Args:
        count: number of samples, 0 or more.
        seed: the seed of the run.
        first: number of the first sample.

    Example:
        >>> (sample_seeds(2, seed=1, first=5) - SEED_STRIDE).tolist()
        [5, 6]
    """
    return seed * SEED_STRIDE + torch.arange(first, first + count)


def seed_ranges(seeds: str | int | Sequence[int]) -> list[range]:
    """Return the numbers of samples that a text or a sequence names, as ranges in the order in which they are named.

    Number i stands for sample i of a run: `sample_seeds(1, seed, first=i)`.

    Args:
        seeds: numbers and ranges with their end, such as "0-99,250"; or one number; or numbers. Each is from 0 to
            2**32 - 1.

    Returns:
        Ranges of step 1, at least one, without a number in common.

    Raises:
        LaceError: for no numbers, other words, numbers out of range, a range that goes down, and a number that is
            named twice.

    Example:
        >>> seed_ranges("0-99,250"), seed_ranges([3, 4, 9])
        ([range(0, 100), range(250, 251)], [range(3, 5), range(9, 10)])
    """
    parts = _parsed_ranges(seeds) if isinstance(seeds, str) else _runs([seeds] if isinstance(seeds, int) else seeds)
    if not parts:
        raise LaceError("Seeds must be one or more numbers, received none: write for example 0-99,250.")
    for part in parts:
        if part.start < 0 or part.stop > SEED_STRIDE:
            wrong = part.start if part.start < 0 else part.stop - 1
            raise LaceError(f"Seeds must be from 0 to 2**32 - 1, received {wrong}: write for example 0-99,250.")
    for before, after in pairwise(sorted(parts, key=lambda part: part.start)):
        if after.start < before.stop:
            raise LaceError(
                f"Seeds must be named once, and {range_text([before])} and {range_text([after])} both name "
                f"{after.start}: leave one out."
            )
    return parts


def _parsed_ranges(text: str) -> list[range]:
    result = []
    for word in (part.strip() for part in text.split(",")):
        if not word and not text.strip():
            continue
        match = re.fullmatch(r"(-?\d+)(?:\s*-\s*(-?\d+))?", word)
        if match is None:
            raise LaceError(
                f"Seeds must be whole numbers and ranges, received '{word}' in '{text}': write for example 0-99,250."
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if min(first, last) < 0:
            raise LaceError(f"Seeds must be from 0 to 2**32 - 1, received {word}: write for example 0-99,250.")
        if last < first:
            raise LaceError(f"A range of seeds must go upwards, received {word}: write {last}-{first}.")
        result.append(range(first, last + 1))
    return result


def _runs(numbers: Sequence[int]) -> list[range]:
    """Return numbers as ranges, as long as they are in a row."""
    if isinstance(numbers, range) and numbers.step == 1:
        return [numbers] if numbers else []
    result: list[range] = []
    for number in map(operator.index, numbers):
        if result and number == result[-1].stop:
            result[-1] = range(result[-1].start, number + 1)
        else:
            result.append(range(number, number + 1))
    return result


def range_text(parts: Sequence[range]) -> str:
    """Return ranges as `seed_ranges` reads them.

    Args:
        parts: ranges of step 1.

    Example:
        >>> range_text([range(100), range(250, 251)])
        '0-99,250'
    """
    return ",".join(str(part.start) if len(part) == 1 else f"{part.start}-{part.stop - 1}" for part in parts)


def _multiply(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of word · (multiplier + 2**32)."""
    product = word * multiplier
    low = product & _MASK
    return product.bitwise_right_shift_(32).add_(word).bitwise_and_(_MASK), low


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the four random 32-bit words of Philox4x32-10 for a counter and a key.

    Every word is an int64 tensor with values in [0, 2**32); counters and keys broadcast against each other.

    Args:
        counter: four words.
        key: two words.

    References:
        Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011.

    Example:
        >>> zero = torch.zeros(1, dtype=torch.int64)
        >>> hex(philox([zero] * 4, [zero] * 2)[0].item())
        '0x6627e8d5'
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
    """Return 32-bit words (R, count, 4) for each pair of `seeds` and `streams`, which are broadcast to (R,)."""
    device = seeds.device if device is None else torch.device(device)
    seeds, streams = seeds.to(device).unsqueeze(1), streams.to(device).unsqueeze(1)
    block = torch.arange(count, device=device).unsqueeze(0)
    zero = torch.zeros((), dtype=torch.int64, device=device)
    counter = (block & _MASK, zero, streams & _MASK, (streams >> 32) & _MASK)
    words = philox(counter, (seeds & _MASK, (seeds >> 32) & _MASK))
    return torch.stack(torch.broadcast_tensors(*words), dim=-1)


def _rows(seeds: Tensor, shape: Sequence[int], stream: int | Tensor, device: torch.device | str | None) -> Tensor:
    """Return 32-bit words (R, ceil(n/4), 4), where n is the number of values in `shape`."""
    _check(seeds, shape)
    streams = stream if isinstance(stream, Tensor) else torch.tensor([stream], dtype=torch.int64)
    return _words(seeds, -(-math.prod(shape) // 4), streams, device)


def _box_muller(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Return normals (R, n) from words (R, n/4, 4): (√(-2 log u) cos 2πv, √(-2 log u) sin 2πv)."""
    real = torch.float64 if dtype == torch.float64 else torch.float32
    pairs = words.reshape(*words.shape[:-1], 2, 2).to(real)
    radius = ((pairs[..., 0] + 0.5) * 2.0**-32).log_().mul_(-2.0).clamp_(min=0.0).sqrt_()
    angle = pairs[..., 1] * (2.0 * math.pi * 2.0**-32)
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).flatten(1).to(dtype)


def _in_parts(
    drawn: Callable[[Tensor, int | Tensor], Tensor],
    seeds: Tensor,
    shape: Sequence[int],
    stream: int | Tensor,
    device: torch.device | str | None,
) -> Tensor:
    """Return `drawn(seeds, stream)`, rows of numbers, of which a processor draws as many at a time as its cache holds.

    The words of a number take 48 times the memory of its float32. An accelerator draws all at once, because it waits
    for the start of every operation.
    """
    _check(seeds, shape)
    rows = max(1, PART // max(1, math.prod(shape)))
    if len(seeds) <= rows or (seeds.device if device is None else torch.device(device)).type != "cpu":
        return drawn(seeds, stream)
    streams = list(stream.split(rows)) if isinstance(stream, Tensor) and stream.numel() > 1 else None
    result: Tensor | None = None
    for index, part in enumerate(seeds.split(rows)):
        values = drawn(part, streams[index] if streams else stream)
        result = values.new_empty(len(seeds), values.shape[1]) if result is None else result
        result[index * rows : index * rows + len(part)] = values
    assert result is not None
    return result


def normal(
    seeds: Tensor,
    shape: Sequence[int],
    stream: int | Tensor = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return standard normals (B, *shape); row i is a function of `seeds[i]` and the stream only.

    Args:
        seeds: int64 (B,), of which all 64 bits count.
        shape: the shape of one row.
        stream: a number of `Streams`, 0 or more, one for all rows or one for each (B,) int64.
        device: where the values are computed; the device of the seeds by default.
        dtype: the type of the values; float64 has 32 random bits for each.

    Raises:
        LaceError: when `seeds` is no int64 vector, or the shape holds something else than integers from 0.

    Example:
        >>> normal(torch.arange(3), (2, 4)).shape
        torch.Size([3, 2, 4])
    """
    count = math.prod(shape)

    def drawn(seeds: Tensor, stream: int | Tensor) -> Tensor:
        return _box_muller(_rows(seeds, shape, stream, device), dtype)[:, :count]

    return _in_parts(drawn, seeds, shape, stream, device).reshape(len(seeds), *shape)


def uniform(
    seeds: Tensor,
    shape: Sequence[int],
    stream: int | Tensor = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return uniform values (B, *shape) in [0, 1); row i is a function of `seeds[i]` and the stream only.

    Args:
        seeds: int64 (B,), of which all 64 bits count.
        shape: the shape of one row.
        stream: a number of `Streams`, 0 or more, one for all rows or one for each (B,) int64.
        device: where the values are computed; the device of the seeds by default.
        dtype: the type of the values: 24 random bits, and 32 in float64.

    Raises:
        LaceError: when `seeds` is no int64 vector, or the shape holds something else than integers from 0.

    Example:
        >>> u = uniform(torch.arange(3), (2,))
        >>> u.shape, bool((u >= 0).all() and (u < 1).all())
        (torch.Size([3, 2]), True)
    """
    count = math.prod(shape)

    def drawn(seeds: Tensor, stream: int | Tensor) -> Tensor:
        words = _rows(seeds, shape, stream, device).flatten(1)[:, :count]
        # float32 holds 24 bits: more would round up to 1.
        return words.double() * 2.0**-32 if dtype == torch.float64 else ((words >> 8).float() * 2.0**-24).to(dtype)

    return _in_parts(drawn, seeds, shape, stream, device).reshape(len(seeds), *shape)


def integers(
    seeds: Tensor,
    high: int,
    shape: Sequence[int] = (),
    stream: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return integers (B, *shape) int64 in [0, high); row i is a function of `seeds[i]` and the stream only.

    Args:
        seeds: int64 (B,), of which all 64 bits count.
        high: the number of choices, from 1 to 2**31 - 1.
        shape: the shape of one row.
        stream: a number of `Streams`, 0 or more.
        device: where the values are computed; the device of the seeds by default.

    Raises:
        LaceError: when `seeds` is no int64 vector, or `high` is out of range.

    Example:
        >>> integers(torch.arange(3), 1).tolist()
        [0, 0, 0]
    """
    if not 1 <= high < 2**31:
        raise LaceError(f"high must be an integer from 1 to 2**31 - 1, received {high}: give the number of choices.")
    words = _rows(seeds, shape, stream, device).flatten(1)[:, : math.prod(shape)].reshape(-1, *shape)
    return (words * high) >> 32


class Noise:
    """The noise of a sampler: `noise(k, like)` is `normal(seeds, like.shape[1:], stream + k)`, drawn some steps ahead.

    Drawing several steps at once costs far fewer kernel launches than one step at a time, and changes no value.

    Args:
        seeds: int64 (B,), one for each sample.
        stream: the stream of step 0.
        ahead: the most steps that are drawn at once, at least 1.

    Raises:
        LaceError: when `seeds` is no int64 vector, or not one for each sample.

    Example:
        >>> noise = Noise(torch.arange(3))
        >>> torch.equal(noise(4, torch.zeros(3, 2)), normal(torch.arange(3), (2,), Streams.NOISE + 4))
        True
    """

    def __init__(self, seeds: Tensor, stream: int = Streams.NOISE, ahead: int = 16) -> None:
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
        """Return noise of the same samples on later streams, independent of this one's first `streams` steps."""
        return Noise(self.seeds, self.stream + streams, self.ahead)

    def uniform(self, k: int, count: int, device: torch.device | str | None = None) -> Tensor:
        """Return uniform values (B, count) in [0, 1) for step k >= 0, independent of its normals."""
        return uniform(self.seeds, (count,), self.stream + Streams.UNIFORM + k, device)

    def attempts(self, first: int, count: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return normals (B·count, D) and uniform values (B·count,) of attempts first .. first + count - 1.

        Those of a sample stand together. `like` (B, D) has their shape, device and type.
        """
        seeds = self.seeds.repeat_interleave(count)
        streams = (self.stream + torch.arange(first, first + count, device=seeds.device)).repeat(len(self.seeds))
        draws = normal(seeds, like.shape[1:], streams, like.device, like.dtype)
        return draws, uniform(seeds, (1,), streams + Streams.UNIFORM, like.device)[:, 0]

    def __call__(self, k: int, like: Tensor) -> Tensor:
        """Return normals for step k >= 0 with the shape, the device and the type of `like` (B, *shape)."""
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
            values = normal(self.seeds.repeat(count), like.shape[1:], streams, like.device, like.dtype)
            steps = values.reshape(count, *like.shape)
            self._first, self._steps = k, steps
        return steps[k - self._first]
