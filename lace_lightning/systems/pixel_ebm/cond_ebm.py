"""Conditional energy-based models of pictures: contrastive divergence with labels, and composition at sampling."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...energies import Energy, Weighted
from ...errors import LaceError, suggest
from ...query import Query
from ...samplers import Sample
from ...schema import Labels, Schema
from ...seeds import Noise, Streams, uniform
from ...training.average import averaged_copy, move_average
from .augmentation import Changes
from .base import EnergyModel
from .energies import AttributeEnergies, CodeEnergy, compose
from .langevin import FreshNoise, LangevinChain, frozen
from .replay import ReplayBuffer

OBJECTIVES = ("cd", "logsumexp", "softplus")
BOX = (0.0, 1.0)


class CondEBM(EnergyModel):
    """p(x|c) ∝ exp(-Σ_i E_i(x|c_i)), an energy for each attribute, after improved contrastive divergence (arXiv
    2012.01316).

    Inside, pictures are in [0, 1], bytes drawn uniformly within their level. Chains have the labels of the batch and
    begin in a buffer of bytes, whose points are changed by `changes` (arguments of `Changes`, null for none). With
    `objective` cd:        L = mean E(x, c) - mean E(x⁻, c) logsumexp: the latter mean is weighted by softmax(-E(x⁻, c))
    over the batch softplus:  L = mean softplus(E(x, c) - E(x⁻, c)) plus `l2`·(mean E_i(x)² + mean E_i(x⁻)²) for each
    attribute, plus `kl`·mean E(x⁻, c), the energy held constant and the last step of the chain not, minus `repel`·mean
    log of the distance of x⁻ from the nearest of `repel_points` of the buffer once it has more than `repel_from`; both
    on the first `kl_rows` chains. Networks of several scales have a mean over them in losses and a sum in chains.

    `network` is the arguments of `build_energy`, `chain` and `buffer` those of `LangevinChain` and `ReplayBuffer`.
    Adam, gradients of a norm of at most `gradient_norm`; pictures are drawn from the moving average, `ema_decay`, and,
    with `sampling.models` 2, from its state at the last multiple of `snapshot_steps` together with it. `sampling`:
    noise, then `rounds` of `steps` steps and changes, then `refine` steps of `step_size` over the number of energies.
    Training stops with a LaceError where the mean energy of data leaves ±`bound`.
    """

    kind = "cond_ebm"
    draws_with = ("sampling",)
    needs_condition = True
    drawn_from = ("average.", "past.", "snapshots")
    snapshots: Tensor

    def __init__(
        self,
        schema: Mapping[str, Any] | Schema,
        network: Mapping[str, Any] | None = None,
        chain: Mapping[str, Any] | None = None,
        buffer: Mapping[str, Any] | None = None,
        changes: Mapping[str, Any] | None = None,
        sampling: Mapping[str, Any] | None = None,
        shape: Sequence[int] = (3, 32, 32),
        objective: str = "cd",
        l2: float = 1.0,
        kl: float = 1.0,
        repel: float = 0.3,
        repel_points: int = 100,
        repel_from: int = 1000,
        kl_rows: int = 128,
        learning_rate: float = 2e-4,
        betas: Sequence[float] = (0.0, 0.9),
        gradient_norm: float | None = 0.5,
        ema_decay: float = 0.99,
        snapshot_steps: int = 1000,
        bound: float = 10.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            {
                "schema": schema,
                "network": network or {},
                "chain": chain or {},
                "buffer": buffer or {},
                "changes": changes,
                "sampling": sampling or {},
                "shape": shape,
                "objective": objective,
                "l2": l2,
                "kl": kl,
                "repel": repel,
                "repel_points": repel_points,
                "repel_from": repel_from,
                "kl_rows": kl_rows,
                "learning_rate": learning_rate,
                "betas": betas,
                "gradient_norm": gradient_norm,
                "ema_decay": ema_decay,
                "snapshot_steps": snapshot_steps,
                "bound": bound,
                "seed": seed,
            }
        )
        if objective not in OBJECTIVES:
            raise LaceError(
                f"The objective must be one of {', '.join(OBJECTIVES)}, received '{objective}'."
                f"{suggest(objective, OBJECTIVES)}"
            )
        self.energies = AttributeEnergies(self.schema, network or {})
        self.average = averaged_copy(self.energies)
        self.past = copy.deepcopy(self.average)
        self.register_buffer("snapshots", torch.zeros([], dtype=torch.long))
        self.chain = LangevinChain(
            **{
                "num_steps": 40,
                "step_size": 100.0,
                "noise_std": 0.001,
                "noise_first": True,
                "clamp": BOX,
                **(chain or {}),
            }
        )
        if self.chain.num_steps < 1:
            raise LaceError(
                "The chain of the training needs num_steps from 1, received 0: the published ones are 40 and 60."
            )
        self.buffer = ReplayBuffer(
            **{
                "size": 10_000,
                "shape": tuple(shape),
                "replacement": "reservoir",
                "restart": 0.001,
                "as_bytes": True,
                "low": 0.0,
                "high": 1.0,
                "change": None if changes is None else Changes(**changes).drawn,
                **(buffer or {}),
            }
        )
        self.drawing = _Drawing(**(sampling or {}))

    def numbers(self, images: Tensor, random: torch.Generator) -> Tensor:
        """Return pictures in [0, 1]: bytes anywhere within their level."""
        if images.dtype != torch.uint8:
            return (images + 1) / 2
        return (images.float() + torch.rand(images.shape, generator=random, device=images.device)) / 256

    def negatives(self, labels: Labels, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return where chains (B, 3, H, W) begin in the buffer, one step short of their end, and their indices (B,)."""
        x, indices = self.buffer.draw(len(labels), random)
        with frozen(self.energies):
            return self.chain(
                self._chain_energy(labels), x, FreshNoise(random), steps=self.chain.num_steps - 1
            ), indices

    def _chain_energy(self, labels: Labels) -> Callable[[Tensor], Tensor]:
        return lambda x: self.energies(x, labels).sum((1, 2))

    def contrast(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Return the objective from energies (B, K, S) of data and of ends of chains, with the penalty on their
        squares.
        """
        data, ends = positive.sum(1), negative.sum(1)
        if self.hparams["objective"] == "softplus":
            loss = F.softplus(data - ends).mean()
        elif self.hparams["objective"] == "logsumexp":
            loss = data.mean() - ((-ends).detach().softmax(0) * ends).sum(0).mean()
        else:
            loss = data.mean() - ends.mean()
        return loss + self.hparams["l2"] * (positive.square() + negative.square()).mean((0, 2)).sum()

    def sampler_loss(self, x: Tensor, labels: Labels, others: Tensor | None) -> Tensor:
        """Return what makes chains end at low energy, `kl`, and apart from `others` (N, 3, H, W), `repel`; x (B, 3, H,
        W) has a graph.
        """
        with frozen(self.energies):
            loss = self.hparams["kl"] * self.energies(x, labels).sum(1).mean()
        if others is not None:
            distance = torch.cdist(x.flatten(1), others.flatten(1)).amin(1)
            loss = loss - self.hparams["repel"] * distance.clamp(min=1e-6).log().mean()
        return loss

    def training_step(self, batch: Sequence[Tensor], batch_index: int) -> Tensor:
        h, random = self.hparams, self.random()
        images, labels = self.parts(batch)
        data = self.numbers(images, random)
        x, indices = self.negatives(labels, random)
        noise, count, loss = FreshNoise(random)(0, x), 0, data.new_zeros([])
        if h["kl"] or h["repel"]:
            count = min(len(x), h["kl_rows"])
            others = (
                self.buffer.some(h["repel_points"], random)
                if h["repel"] and len(self.buffer) > h["repel_from"]
                else None
            )
            ends = self.chain.step(self._chain_energy(labels[:count]), x[:count], noise[:count], create_graph=True)
            loss = self.sampler_loss(ends, labels[:count], others)
            x = torch.cat([ends.detach(), x[count:]])
        if count < len(x):
            with frozen(self.energies):
                x = torch.cat(
                    [x[:count], self.chain.step(self._chain_energy(labels[count:]), x[count:], noise[count:])]
                )
        self.keep(x, indices)
        positive, negative = self.energies(torch.cat([data, x]), Labels.cat([labels, labels])).chunk(2)
        self.guard(h["bound"], mean_energy_of_data=positive.sum(1).mean())
        loss = loss + self.contrast(positive, negative)
        self.guard(math.inf, the_loss=loss)
        self.batches += 1
        if batch_index % 20 == 0:
            self.log_dict(
                {
                    "loss": loss.detach(),
                    "energy": positive.detach().sum(1).mean(),
                    "difference": (positive - negative).detach().sum(1).mean(),
                },
                prog_bar=True,
            )
        return loss

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        if self.hparams["gradient_norm"] is not None:
            self.clip_gradients(optimizer, self.hparams["gradient_norm"], "norm")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Before the step, so that a training that ends at a multiple still has two different states.
        if int(self.batches) and int(self.batches) % self.hparams["snapshot_steps"] == 0:
            self.past.load_state_dict(self.average.state_dict())
            self.snapshots += 1

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        # Here, so that a checkpoint of this step has its average.
        move_average(self.average, self.energies, 1 - self.hparams["ema_decay"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.energies.parameters(), self.hparams["learning_rate"], tuple(self.hparams["betas"]))

    @property
    def models(self) -> tuple[AttributeEnergies, ...]:
        """Return the states that pictures are drawn from, as far as the training has got."""
        return (self.average, self.past)[: min(self.drawing.models, 1 + int(self.snapshots))]

    def energy(self, query: str | Query, free: Labels | None = None, logic: str = "exact") -> Energy:
        """Return the energy of a query on pictures (B, 3, H, W) in [-1, 1]; see
        `lace_lightning.systems.pixel_ebm.energies.compose`.
        """
        return compose(self.models, self.parsed(query), free, logic)

    def run_chain(self, energy: Energy, x: Tensor, seeds: Tensor, done: Callable[[], Any]) -> Tensor:
        d, noise, inner, x = self.drawing, Noise(seeds), energy.pullback(_signed), (x + 1) / 2
        for round_ in range(d.rounds):
            x = d.chain(inner, x, noise, round_ * d.steps, d.steps, done)
            x = d.changes(x, uniform(seeds, (d.changes.numbers,), Streams.CHANGE + round_, x.device))
        return _signed(d.chain(inner, x, noise, d.rounds * d.steps, d.refine, done))

    def sample(self, codes: Labels, seeds: Tensor, starts: Tensor | None = None) -> Sample:
        """Return pictures `Sample.z` (B, 3, H, W) in [-1, 1] by chains on the sum of the energies of what each code
        knows.

        Raises LaceError for a code that knows nothing.
        """
        codes = self.checked(codes, seeds, starts)
        return self.draw_energy(CodeEnergy(self.models, codes), seeds, starts, codes.known.sum(1))

    def draw_energy(
        self, energy: Energy, seeds: Tensor, starts: Tensor | None = None, terms: Tensor | None = None
    ) -> Sample:
        """Return pictures of an energy of pictures; `terms`, one or (B,), is of how many energies it consists, which
        the steps share.
        """
        count = len(self.models) * (torch.ones([]) if terms is None else terms)
        share = (1 / count).to(self.device).expand(len(seeds))
        shape = self.buffer.points.shape[1:]
        x = 2 * uniform(seeds, shape, Streams.START, self.device) - 1 if starts is None else starts.to(self.device)
        steps = self.drawing.rounds * self.drawing.steps + self.drawing.refine
        before = sum(model.evaluated for model in self.models)
        return self.timed(
            lambda: self.run_chains(Weighted(energy, share), x, seeds, steps),
            lambda: (sum(model.evaluated for model in self.models) - before) / len(seeds),
            models=len(self.models),
        )


def _signed(x: Tensor) -> Tensor:
    return 2 * x - 1


class _Drawing:
    """The settings of `sampling`."""

    def __init__(
        self,
        models: int = 2,
        rounds: int = 10,
        steps: int = 20,
        refine: int = 200,
        step_size: float = 10.0,
        noise_std: float = 0.001,
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        if models not in (1, 2) or rounds < 0 or steps < 1 or refine < 0:
            raise LaceError(
                "Drawing pictures takes 1 or 2 models, rounds and refine from 0 and steps from 1, received "
                f"{models}, {rounds}, {refine} and {steps}."
            )
        self.models, self.rounds, self.steps, self.refine = models, rounds, steps, refine
        self.chain = LangevinChain(0, step_size, noise_std, noise_first=True, clamp=BOX)
        self.changes = Changes(**({} if changes is None else changes))
