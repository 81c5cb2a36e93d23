"""Whether Markov chains have arrived at their target: the agreement of pilot chains from different starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Chains agree where the split R-hat of every feature is at most this.
ARRIVED = 1.01
# Below this acceptance chains count as stuck.
STUCK = 0.02
NAMES = (
    "log p",
    "the direction of the flow",
    "each sample's own direction of the flow",
    "the length of z",
    "the region",
)


@dataclass(frozen=True)
class Arrival:
    """The diagnosis of pilot chains.

    Args:
        rhat: largest split R-hat over the features, 1 where all groups agree.
        feature: the feature that has it.
        moves: number of moves after which it was measured, 0 or more.
        starts: the groups of chains by where they began.
        acceptance: mean acceptance of the moves, in [0, 1].
        inside: share of the chains in the hard region; 1 where the target has no walls.

    Example:
        >>> arrival = Arrival(1.5, "log p", 40, ("the prior", "the flow"), 0.8)
        >>> arrival.has_arrived, arrival.sentences()[0][:56]
        (False, 'Chains from the prior and the flow disagree after 40 mov')
    """

    rhat: float
    feature: str
    moves: int
    starts: tuple[str, ...]
    acceptance: float
    inside: float = 1.0

    @property
    def has_arrived(self) -> bool:
        """Whether the chains agree, move and are in the region."""
        return self.rhat <= ARRIVED and self.acceptance >= STUCK and self.inside > 0

    def sentences(self) -> list[str]:
        """Return the diagnosis in sentences, the first of which says whether the chains have arrived."""
        starts = ", ".join(self.starts[:-1]) + " and " + self.starts[-1]
        if self.rhat <= ARRIVED:
            said = [f"Chains from {starts} agree after {self.moves} moves (split R-hat {self.rhat:.3f})."]
        else:
            said = [
                f"Chains from {starts} disagree after {self.moves} moves: the split R-hat of {self.feature} is "
                f"{self.rhat:.3f}, above {ARRIVED}. The samples are not exact: raise the number of moves, or choose "
                "sampler=rejection."
            ]
        if self.acceptance < STUCK:
            said.append(f"The chains are stuck: {self.acceptance:.2%} of the moves are accepted.")
        if self.inside == 0:
            said.append("No pilot chain reached the hard region: the query may have probability zero.")
        elif self.inside < 0.99:
            said.append(f"{1 - self.inside:.1%} of the pilot chains are outside the hard region.")
        return said


def features(z: Tensor, value: Tensor, inside: Tensor, directions: Tensor) -> Tensor:
    """Return what groups of chains are compared by, (N, 5) float64 in the order of `NAMES`.

    Args:
        z: latents (N, D).
        value: E(z) (N,) of the target without its walls.
        inside: which latents are in the hard region (N,) bool.
        directions: a direction of unit length for each chain (N, D).
    """
    mean = directions.mean(0)
    mean = mean / mean.norm().clamp(min=1e-12)
    columns = [value, z @ mean, (z * directions).sum(1), z.square().sum(1), inside]
    return torch.stack([column.double() for column in columns], 1)


def split_rhat(draws: Tensor) -> Tensor:
    """Return the split R-hat (F,) of groups of many short chains, 1 where all groups have one mean.

    Every group is split into the first and the second half of its moves. R-hat is √(1 + B/W), where B is the variance
    of the means of these parts, less the W/K that is expected of K independent chains, and W the mean of their
    variances.

    Args:
        draws: features (T, G, K, F) of T moves of G groups of K chains.

    References:
        Margossian et al., Nested R-hat: assessing the convergence of Markov chain Monte Carlo when running many short
        chains, Bayesian Analysis 2024; Vehtari et al., Rank-normalization, folding, and localization: an improved
        R-hat, Bayesian Analysis 2021.

    Example:
        >>> split_rhat(torch.tensor([0.0, 1.0, 0.0, 1.0]).view(1, 2, 2, 1)).item()
        1.0
        >>> split_rhat(torch.tensor([0.0, 1.0, 5.0, 6.0]).view(1, 2, 2, 1)).item() > 5
        True
    """
    halves = draws.tensor_split(2) if len(draws) > 1 else (draws,)
    parts = [half[:, group].flatten(0, 1).double() for half in halves for group in range(draws.shape[1])]
    between = torch.stack([part.mean(0) for part in parts]).var(0)
    within = torch.stack([part.var(0) for part in parts]).mean(0)
    # A feature without any variance, as the region where all chains are inside, says nothing where the groups agree.
    scale = 1e-12 * (1 + torch.stack([part.square().mean(0) for part in parts]).mean(0))
    return (1 + (between - within / draws.shape[2]).clamp(min=0) / (within + scale)).sqrt()


def judged(
    kept: Sequence[Tensor], groups: int, starts: tuple[str, ...], moves: int, acceptance: float, walled: bool
) -> Arrival:
    """Return the diagnosis of the second half of the moves so far.

    Args:
        kept: features (G·K, F) of the starts and after every move.
        groups: G, the number of groups, whose chains stand together.
        starts: where each group began.
        moves: number of moves that a run with this diagnosis makes, which messages name.
        acceptance: mean acceptance so far, in [0, 1].
        walled: whether the target is a hard region.
    """
    made = len(kept) - 1
    window = torch.stack(list(kept[made // 2 + 1 :] or kept[-1:]))
    draws = window.view(len(window), groups, -1, window.shape[-1])
    rhat, index = split_rhat(draws).nan_to_num(torch.inf).max(0)
    inside = float(draws[-1, ..., NAMES.index("the region")].mean()) if walled else 1.0
    return Arrival(float(rhat), NAMES[int(index)], moves, starts, acceptance, inside)
