"""Annealed ∞-HMC: independent chains from the prior to the target, which also estimate its probability."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch

from ..energies import WALL, Energy
from ..errors import LaceError
from ..seeds import Noise, Streams
from .base import Field, NoiseSource, Record, Run, Sampler, _ignore, require_positive
from .hmc import HamiltonianMC
from .importance import effective_sample_size
from .markov import Draws, State, flow_ends, pilot_field, until_agreed
from .slice import EllipticalSlice

# Slice moves from the end of the flow, with which annealed chains are compared.
REFERENCE_MOVES = 40
# The smallest number of slice moves that a pilot considers.
FEWEST_MOVES = 10
# How often a chain outside of a hard region takes the slice moves again.
MORE_ROUNDS = 20


class Annealed(Sampler):
    """One ∞-HMC move on N(0, I)·exp(-λ_i E) in each of k stages, λ_i = min(1, ((i + 1)/(ramp·k))³), then slice moves.

    z must begin at the prior. The chains are independent, nothing is resampled. Their weights Σ(λ_{i+1} - λ_i)·(-E)
    estimate the normaliser of the target without bias, and at λ = 1/γ the probability of the query. In a hard region
    the path is that of the guide, and the wall is added where λ reaches 1; a chain that ends outside of the region
    takes as many slice moves again, up to 20 times. A sample costs k·L + 1 gradients.
    Diagnostics: `acceptance` (mean over stages), `acceptance_end` (last stage), `step_sizes`, `log_weights` (B,),
    `weights_ess` (their effective sample size) and, where the energy has one power γ, `event_log_weights` (B,).

    Target: N(0, I)·exp(-E), exactly after enough slice moves. Use: rare queries, powers γ above 1 and hard regions:
    each sample is its own chain, and the weights estimate the probability of the query.

    Args:
        num_stages: k, at least 1.
        num_leapfrogs: L, leapfrog steps of a move, at least 1.
        num_slice_moves: elliptical slice moves on the target at the end, 0 or more; None for as many as a pilot finds
            necessary: those after which its chains agree with slice moves from the end of the flow.
        ramp: the share of the stages in (0, 1] after which λ is 1.
        step_sizes: one angle for each stage, in radians; None for those that a pilot finds.

    Raises:
        LaceError: for settings out of range, and for step sizes that are not one for each stage.

    References:
        Neal, Annealed importance sampling, Statistics and Computing 2001.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import HalfLine
        >>> annealed = Annealed(5, num_leapfrogs=2)
        >>> sample = annealed(HalfLine(slice(0, 1), 0.5), torch.zeros(4, 2), seeds=torch.arange(4))
        >>> sample.z.shape, sample.evaluations, sample.diagnostics["log_weights"].shape
        (torch.Size([4, 2]), 11.0, torch.Size([4]))
    """

    needs_noise = True

    def __init__(
        self,
        num_stages: int = 10,
        num_leapfrogs: int = 4,
        num_slice_moves: int | None = None,
        ramp: float = 0.6,
        step_sizes: Sequence[float] | None = None,
    ) -> None:
        require_positive(num_stages=num_stages, num_leapfrogs=num_leapfrogs, ramp=ramp)
        if ramp > 1 or (num_slice_moves is not None and num_slice_moves < 0):
            raise LaceError(
                f"An annealed chain needs ramp in (0, 1] and num_slice_moves >= 0, received {ramp} and "
                f"{num_slice_moves}: 0.6 and None are the defaults."
            )
        if step_sizes is not None and len(step_sizes) != num_stages:
            raise LaceError(
                f"An annealed chain of {num_stages} stages needs as many step sizes, received {len(step_sizes)}: leave "
                "them out, and a pilot finds them."
            )
        self.num_stages, self.num_leapfrogs = num_stages, num_leapfrogs
        self.num_slice_moves, self.ramp = num_slice_moves, ramp
        self.step_sizes = None if step_sizes is None else [float(size) for size in step_sizes]

    def scales(self) -> list[float]:
        """Return λ_i of every stage."""
        return [min(1.0, ((i + 1) / (self.ramp * self.num_stages)) ** 3) for i in range(self.num_stages)]

    @property
    def is_ready(self) -> bool:
        return self.step_sizes is not None and self.num_slice_moves is not None

    def prepare(self, energy: Energy, z: torch.Tensor, noise: Noise) -> Sampler:
        result = self if self.step_sizes is not None else self._tuned(energy, z, noise)
        return result._measured(energy, z)

    def diagnosed(self, energy: Energy, z: torch.Tensor, noise: Noise) -> Sampler:
        return self if self.arrival is not None else self._measured(energy, z)

    def _measured(self, energy: Energy, like: torch.Tensor) -> Annealed:
        """Return a copy with a number of slice moves and with the diagnosis of pilot chains."""
        result, slices = copy.copy(self), EllipticalSlice(1)
        field, z, noise = pilot_field(self, energy, like, 1)
        result.num_slice_moves = 0
        noise = noise.shifted(Streams.PILOT_AGAIN)
        starts = {"annealing": result.run(field, z.clone(), noise, _ignore)[0]}
        flowed = flow_ends(self, field.energy, z)
        # Slice moves from the prior do as well, where the flow cannot be followed.
        draws = Draws(noise.shifted(self.num_stages))
        state = slices.state(field, z if flowed is None else flowed)
        for _ in range(REFERENCE_MOVES):
            state, _ = slices.move(field, state, 1.0, draws)
        starts["the flow" if flowed is not None else "the prior"] = state.z
        both = pilot_field(self, energy, like, len(starts))[0]
        way = z - z if flowed is None else flowed - z
        result.num_slice_moves, result.arrival = until_agreed(
            slices, both, starts, way, self.num_slice_moves, FEWEST_MOVES
        )
        return result

    def _tuned(self, energy: Energy, z: torch.Tensor, noise: Noise) -> Annealed:
        """Return a copy with step sizes."""
        kernel = HamiltonianMC(1, self.num_leapfrogs)
        soft, draws, slices = Field(energy.guide, self, len(z)), Draws(noise), EllipticalSlice(1)
        field, state = soft, slices.state(soft, z)
        sizes: list[float] = []
        for scale in self.scales():
            if scale == 1 and field.energy is not energy:
                field = soft.on(energy)
                state = slices.state(field, state.z)
            for _ in range(2):
                state, _ = slices.move(field, state, scale, draws)
            nearby = [size for size in kernel.candidates if not sizes or sizes[-1] / 4 < size < sizes[-1] * 1.5]
            tuned, state = kernel.tuned(field, state, scale, draws, tuple(nearby), trials=2)
            sizes.append(float(tuned.step_size or kernel.candidates[-1]))
        result = copy.copy(self)
        result.step_sizes = sizes
        return result

    def run(self, field: Field, z: torch.Tensor, noise: NoiseSource, record: Record) -> Run:
        assert self.step_sizes is not None
        assert self.num_slice_moves is not None
        kernel, draws, current = HamiltonianMC(1, self.num_leapfrogs), Draws(noise), field.on(field.energy.guide)
        state = State(z, *current.evaluate(z))
        weights, last = torch.zeros_like(state.value, dtype=torch.float64), 0.0
        event: torch.Tensor | None = None
        acceptance: list[float] = []
        query_at = 1 / field.energy.power if field.energy.power > 0 else math.nan
        for i, scale in enumerate(self.scales()):
            field.time = current.time = f"stage {i + 1} of {self.num_stages}"
            if last < query_at <= scale + 1e-9:
                event = weights - (query_at - last) * state.value.double()
            if scale > last:
                weights = weights - (scale - last) * state.value.double()
            if scale == 1 and current is not field:
                walled = field.value(state.z)
                weights = weights + state.value.double() - walled.double()
                state, current = State(state.z, walled, state.gradient), field
            last, kernel.step_size = scale, self.step_sizes[i]
            state, accepted = kernel.move(current, state, scale, draws)
            acceptance.append(float(accepted.mean()))
            record(state.z)
        slices = EllipticalSlice(1)
        for _ in range(self.num_slice_moves):
            state, _ = slices.move(current, state, 1.0, draws)
            record(state.z)
        for _ in range(MORE_ROUNDS):
            outside = state.value >= WALL / 2
            if not outside.any():
                break
            # The others stay where they are: a sample depends on its own seed alone.
            for _ in range(max(self.num_slice_moves, FEWEST_MOVES)):
                moved, _ = slices.move(current, state, 1.0, draws)
                state = state.moved(outside, moved)
        diagnostics: dict[str, Any] = {
            "acceptance": sum(acceptance) / len(acceptance),
            "acceptance_end": acceptance[-1],
            "step_sizes": self.step_sizes,
            "log_weights": weights,
            "weights_ess": effective_sample_size(weights),
        }
        if event is not None:
            diagnostics["event_log_weights"] = event
        return state.z, diagnostics
