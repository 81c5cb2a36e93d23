"""Markov chains that leave N(0, I)·exp(-E) invariant: the loop, its length, states and random numbers."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..energies import WALL, Energy
from ..errors import LaceError
from ..seeds import Noise, SampleSeeds, Streams, normal
from .arrival import Arrival, features, judged
from .base import Field, NoiseSource, Record, Run, Sampler, _ignore
from .heun import Heun

# Pilot chains that begin at each of the places that are compared; a multiple of PILOT_SIZE.
CHAINS = 128
# The number of moves doubles at most so often.
DOUBLINGS = 5
# Moves that bring annealed pilot chains to the target, on the way to it.
ANNEALING = 10


@dataclass
class State:
    """The state of a batch of chains.

    Args:
        z: latents (B, D).
        value: E(z) (B,).
        gradient: ∂E/∂z (B, D), for kernels that use it.

    Example:
        >>> import torch
        >>> low, high = State(torch.zeros(2, 1), torch.zeros(2)), State(torch.ones(2, 1), torch.ones(2))
        >>> low.moved(torch.tensor([True, False]), high).value
        tensor([1., 0.])
    """

    z: Tensor
    value: Tensor
    gradient: Tensor | None = None

    def moved(self, accepted: Tensor, other: State) -> State:
        """Return `other` for the accepted samples (B,), this state for the rest."""
        gradient = None
        if self.gradient is not None and other.gradient is not None:
            gradient = torch.where(accepted[:, None], other.gradient, self.gradient)
        return State(
            torch.where(accepted[:, None], other.z, self.z), torch.where(accepted, other.value, self.value), gradient
        )


class Draws:
    """The random numbers of a chain, move by move; those of a sample follow from its own seed.

    Args:
        noise: noise of the samples' seeds.

    Raises:
        LaceError: when the noise is a function of another kind, which has no uniform numbers.

    Example:
        >>> import torch
        >>> draws = Draws(Noise(torch.arange(3)))
        >>> draws.normal(torch.zeros(3, 4)).shape, draws.uniform(2, torch.zeros(3, 4)).shape
        (torch.Size([3, 4]), torch.Size([3, 2]))
    """

    def __init__(self, noise: NoiseSource) -> None:
        if not isinstance(noise, Noise):
            raise LaceError(
                "The exact kernels draw normal and uniform numbers: give seeds (one integer per sample) instead of "
                "noise."
            )
        self.noise, self.step = noise, -1

    def normal(self, like: Tensor) -> Tensor:
        """Return the normals (B, D) of the next move, which begins with them."""
        self.step += 1
        return self.noise(self.step, like)

    def uniform(self, count: int, like: Tensor) -> Tensor:
        """Return uniform values (B, count) of the current move, independent of its normals."""
        return self.noise.uniform(self.step, count, like.device).to(like.dtype)


class Chain(Sampler):
    """Base class of `num_steps` moves of a kernel that leaves N(0, I)·exp(-E) invariant; a subclass defines `move`.

    Samples are independent chains. From the prior they approach the target; after a flow, as its `corrector`, they
    remove its bias. Where `num_steps` is None a pilot doubles `fewest_moves` until its chains from the prior, from the
    flow and from annealed states agree after half of the moves; where they never do, `arrival` of the calibrated chain
    says so. Diagnostics: `acceptance`, the mean over moves and samples, and `step_size` where there is one.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> class Independent(Chain):
        ...     num_steps = 5
        ...     def move(self, field, state, scale, draws):
        ...         z = draws.normal(state.z)
        ...         after = State(z, field.value(z))
        ...         accept = probability(scale * (state.value - after.value))
        ...         return state.moved(draws.uniform(1, z)[:, 0] < accept, after), accept
        >>> Independent()(Prior(), torch.zeros(4, 1), seeds=torch.arange(4)).forward
        6.0
    """

    needs_noise = True
    uses_gradient = False
    num_steps: int | None
    step_size: float | None = None
    # Moves of the shortest run that a pilot considers.
    fewest_moves = 10

    def move(self, field: Field, state: State, scale: float, draws: Draws) -> tuple[State, Tensor]:
        """Return the state after one move and the probability of acceptance (B,).

        Args:
            field: the energy E and its gradient.
            state: the state before the move.
            scale: the target is N(0, I)·exp(-scale·E).
            draws: random numbers, of which a move begins with the normals.
        """
        raise NotImplementedError

    def advance(self, field: Field, state: State, scale: float, draws: Draws) -> tuple[State, Tensor]:
        """Return the state after one step of a run and the probability of acceptance (B,); see `move`."""
        return self.move(field, state, scale, draws)

    def state(self, field: Field, z: Tensor) -> State:
        """Return the state at z, with a gradient if the kernel uses one."""
        return State(z, *field.evaluate(z)) if self.uses_gradient else State(z, field.value(z))

    @property
    def is_ready(self) -> bool:
        return self.num_steps is not None

    def prepare(self, energy: Energy, z: Tensor, noise: Noise) -> Sampler:
        return self.measured(energy, z)

    def diagnosed(self, energy: Energy, z: Tensor, noise: Noise) -> Sampler:
        return self if self.arrival is not None else self.measured(energy, z)

    def measured(self, energy: Energy, like: Tensor) -> Chain:
        """Return a copy with a number of moves where there was none, and with the diagnosis of pilot chains.

        Args:
            energy: the energy of the pilot's samples.
            like: a tensor (P, D) with their number, shape, device and type.
        """
        starts, flowed, field = pilot_starts(self, energy, like)
        result = copy.copy(self)
        result.num_steps, result.arrival = until_agreed(self, field, starts, flowed, self.num_steps, self.fewest_moves)
        return result

    def run(self, field: Field, z: Tensor, noise: NoiseSource, record: Record) -> Run:
        assert self.num_steps is not None
        draws, state, acceptance = Draws(noise), self.state(field, z), 0.0
        for k in range(self.num_steps):
            field.time = f"move {k + 1} of {self.num_steps}"
            state, accepted = self.advance(field, state, 1.0, draws)
            acceptance += float(accepted.mean())
            record(state.z)
        diagnostics: dict[str, Any] = {"acceptance": acceptance / self.num_steps}
        if self.step_size is not None:
            diagnostics["step_size"] = self.step_size
        return state.z, diagnostics


def pilot_field(sampler: Sampler, energy: Energy, like: Tensor, groups: int) -> tuple[Field, Tensor, Noise]:
    """Return the field of `groups` groups of CHAINS pilot chains, prior samples (CHAINS, D), and noise of all chains.

    Args:
        sampler: the sampler that messages name.
        energy: the energy of the pilot's samples.
        like: a tensor (P, D) with their number, shape, device and type.
        groups: number of groups, at least 1.
    """
    rows = torch.arange(CHAINS * groups, device=like.device) % len(like)
    seeds = SampleSeeds.PILOT + torch.arange(CHAINS * groups)
    z = normal(seeds[:CHAINS], like.shape[1:], Streams.PRIOR, like.device, like.dtype)
    return Field(energy.rows(rows), sampler, len(rows)), z, Noise(seeds.to(like.device))


def flow_ends(sampler: Sampler, energy: Energy, z: Tensor) -> Tensor | None:
    """Return where the flow from z (N, D) ends, None where it cannot be followed.

    Args:
        sampler: the sampler that messages name.
        energy: the energy of N samples.
        z: where the flow begins (N, D).
    """
    try:
        end = Heun(max_steps=300).run(Field(energy, sampler, len(z)), z.clone(), Noise(torch.arange(len(z))), _ignore)[
            0
        ]
    except LaceError:
        return None
    return end if bool(torch.isfinite(end).all()) else None


def pilot_starts(chain: Chain, energy: Energy, like: Tensor) -> tuple[dict[str, Tensor], Tensor, Field]:
    """Return where pilot chains begin, (CHAINS, D) for each place by name, the way of the flow, and their field.

    Args:
        chain: the kernel, which also makes the annealed states.
        energy: the energy of the pilot's samples.
        like: a tensor (P, D) with their number, shape, device and type.
    """
    field, z, noise = pilot_field(chain, energy, like, 1)
    starts = {"the prior": z}
    flowed = flow_ends(chain, field.energy, z)
    if flowed is not None:
        starts["the flow"] = flowed
    # Other prior samples than those of the first group, and noise that no chain goes on with.
    draws = Draws(noise.shifted(Streams.PILOT_AGAIN))
    state = chain.state(field, draws.normal(z))
    for k in range(1, ANNEALING + 1):
        state, _ = chain.advance(field, state, (k / ANNEALING) ** 3, draws)
    starts["annealed states"] = state.z
    return starts, starts.get("the flow", z) - z, pilot_field(chain, energy, like, len(starts))[0]


def until_agreed(
    chain: Chain, field: Field, starts: dict[str, Tensor], flowed: Tensor, moves: int | None, fewest: int
) -> tuple[int, Arrival]:
    """Return a number of moves and the diagnosis of chains from these starts.

    Without `moves`, the number is the first of fewest, 2·fewest, 4·fewest, ... with chains that agree after half of the
    moves: what is left of the start shrinks as much again in the other half.

    Args:
        chain: the kernel.
        field: the field of all chains.
        starts: where they begin, (CHAINS, D) for each place by name.
        flowed: how far the flow moves each sample from the prior (CHAINS, D), 0 where it cannot be followed.
        moves: the number of moves, 0 or more; None for the smallest that suffices.
        fewest: the smallest number of moves that is considered, at least 1.
    """
    z, names, walled = torch.cat(list(starts.values())), tuple(starts), field.energy.guide is not field.energy
    directions = torch.nn.functional.normalize(flowed).repeat(len(starts), 1)
    soft = field.on(field.energy.guide)
    draws = Draws(Noise(SampleSeeds.PILOT + torch.arange(len(z), device=z.device)))
    state, kept, acceptance = chain.state(field, z), list[Tensor](), 0.0

    def keep() -> None:
        value = soft.value(state.z) if walled else state.value
        kept.append(features(state.z, value, state.value < WALL / 2, directions))

    keep()
    for total in [moves] if moves is not None else [fewest * 2**k for k in range(DOUBLINGS + 1)]:
        while len(kept) <= (total if moves is not None else (total + 1) // 2):
            state, accepted = chain.advance(field, state, 1.0, draws)
            acceptance += float(accepted.mean())
            keep()
        arrival = judged(
            kept, len(starts), names, total, acceptance / (len(kept) - 1) if len(kept) > 1 else 1.0, walled
        )
        if arrival.has_arrived:
            break
    return total, arrival


def probability(log_ratio: Tensor) -> Tensor:
    """Return the probability of acceptance min(1, exp(log_ratio)), which is 0 where the ratio is not a number.

    Args:
        log_ratio: logs (B,) of the ratio of densities.

    Example:
        >>> import torch
        >>> probability(torch.tensor([1.0, torch.nan]))
        tensor([1., 0.])
    """
    return log_ratio.nan_to_num(-math.inf, math.inf, -math.inf).clamp(max=0).exp()
