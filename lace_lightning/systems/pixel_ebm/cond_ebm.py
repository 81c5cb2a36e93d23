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
    """Conditional energy-based model p(x|c) ∝ exp(-Σ_i E_i(x|c_i)) of pictures, by improved contrastive divergence.

    Energies are computed on pictures in [0, 1]; bytes are drawn uniformly within their level. Chains x⁻ have the labels
    of the batch and begin at points of a replay buffer. The loss has four terms. The first is the objective: mean E(x,
    c) - mean E(x⁻, c) for "cd", the same with weights softmax(-E(x⁻, c)) over the batch in the second mean for
    "logsumexp", and mean softplus(E(x, c) - E(x⁻, c)) for "softplus". The second is `l2`·(mean E_i(x)² + mean
    E_i(x⁻)²), summed over attributes. The third is `kl`·mean E(x⁻, c) with the parameters of E held constant,
    differentiated through the last step of the chain. The fourth is -`repel`·mean log of the distance from x⁻ to the
    nearest of `repel_points` points of the buffer.

    Losses have the mean over the scales of a network, and chains the sum. The optimizer is Adam. Pictures are drawn
    from a moving average of the networks.

    Args:
        schema: the attributes, or their plain containers.
        network: arguments of `build_energy`, except the numbers of conditions and channels.
        chain: arguments of `LangevinChain` for the training; `num_steps` is at least 1. Defaults: 40 steps of size 100
            with noise 0.001, noise first, clamped to [0, 1].
        buffer: arguments of `ReplayBuffer`. Defaults: a reservoir of 10,000 points as bytes with restart 0.001.
        changes: arguments of `Changes`, which change points of the buffer before chains go on from them; None for none.
        sampling: how pictures are drawn, from noise: `rounds` (0 or more) of `steps` steps (1 or more) that are
            followed by `changes`, then `refine` steps (0 or more). `step_size` is divided by the number of energies,
            and `noise_std` is the noise of a step. With `models` 2 the energies of the moving average and of its last
            snapshot are added; with 1 only the average is used.
        shape: shape (C, H, W) of a picture.
        objective: "cd", "logsumexp" or "softplus".
        l2: weight of squared energies, 0 or more.
        kl: weight of the energy at the ends of chains, 0 or more.
        repel: weight of the entropy term, 0 or more.
        repel_points: number of points of the buffer that ends of chains are compared with, at least 1.
        repel_from: the entropy term is used when the buffer has more points than this, 0 or more.
        kl_rows: number of chains of a batch that the terms of `kl` and `repel` are computed on, at least 1.
        learning_rate: learning rate of Adam, above 0.
        betas: β₁ and β₂ of Adam, each in [0, 1).
        gradient_norm: largest norm of the gradient, above 0; None for none.
        ema_decay: decay of the moving average a step, in [0, 1).
        snapshot_steps: steps between two snapshots of the moving average, at least 1.
        bound: the training stops when the mean energy of data is not within ±bound, above 0.
        seed: seed of the randomness of training steps.

    Raises:
        LaceError: for an unknown objective, a chain without steps, settings that `LangevinChain`, `ReplayBuffer`,
            `Changes` or `build_energy` refuse, and sampling outside its ranges; in training, when energy or loss
            diverge.

    References:
        Improved contrastive divergence training of energy-based models (arXiv 2012.01316); compositional visual
        generation with energy-based models (arXiv 2004.06030).

    Example:
        >>> from lace_lightning.schema import Attribute
        >>> schema = Schema("s", (Attribute("hat"),))
        >>> network = {"filter_dim": 4, "stages": 1, "multiscale": False}
        >>> sampling = {"models": 1, "rounds": 0, "refine": 2}
        >>> model = CondEBM(schema, network, buffer={"size": 10}, sampling=sampling, shape=(3, 8, 8))
        >>> sample = model.sample(Labels.constant(schema, 2, hat=1), torch.arange(2))
        >>> sample.z.shape, sample.evaluations
        (torch.Size([2, 3, 8, 8]), 2.0)
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
        self.energies = AttributeEnergies(self.schema, {**(network or {}), "channels": shape[0]})
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
                "Chains of the training require at least 1 step, received num_steps=0: published numbers are 40 and 60."
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
        """Return pictures in [0, 1] of pictures in [-1, 1], or of bytes, drawn uniformly within their level."""
        if images.dtype != torch.uint8:
            return (images + 1) / 2
        return (images.float() + torch.rand(images.shape, generator=random, device=images.device)) / 256

    def negatives(self, labels: Labels, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return chains (B, C, H, W) from the buffer one step before their end, and indices (B,) of their starts."""
        x, indices = self.buffer.draw(len(labels), random)
        with frozen(self.energies):
            return self.chain(
                self._chain_energy(labels), x, FreshNoise(random), steps=self.chain.num_steps - 1
            ), indices

    def _chain_energy(self, labels: Labels) -> Callable[[Tensor], Tensor]:
        return lambda x: self.energies(x, labels).sum((1, 2))

    def contrast(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Return the objective and the penalty on squares from energies (B, K, S) of data and of ends of chains."""
        data, ends = positive.sum(1), negative.sum(1)
        if self.hparams["objective"] == "softplus":
            loss = F.softplus(data - ends).mean()
        elif self.hparams["objective"] == "logsumexp":
            loss = data.mean() - ((-ends).detach().softmax(0) * ends).sum(0).mean()
        else:
            loss = data.mean() - ends.mean()
        result: Tensor = loss + self.hparams["l2"] * (positive.square() + negative.square()).mean((0, 2)).sum()
        return result

    def sampler_loss(self, x: Tensor, labels: Labels, others: Tensor | None) -> Tensor:
        """Return the loss of ends x (B, C, H, W) of chains: their energy and their distance from other points.

        Gradients pass through x, which has a graph, and not through the energy's parameters. The weights are `kl` and
        `repel`. `others` are points (N, C, H, W) of the buffer, None to leave out the distance.
        """
        with frozen(self.energies):
            loss = self.hparams["kl"] * self.energies(x, labels).sum(1).mean()
        if others is not None:
            distance = torch.cdist(x.flatten(1), others.flatten(1)).amin(1)
            loss = loss - self.hparams["repel"] * distance.clamp(min=1e-6).log().mean()
        result: Tensor = loss
        return result

    def training_step(self, batch: Sequence[Tensor], batch_index: int) -> Tensor:
        """Return the loss of a batch and put the ends of its chains into the buffer."""
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
        """Clip gradients to the norm `gradient_norm`."""
        if self.hparams["gradient_norm"] is not None:
            self.clip_gradients(optimizer, self.hparams["gradient_norm"], "norm")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Take a snapshot of the average every `snapshot_steps` steps."""
        # Before the step, so that snapshot and average differ when a training ends at a multiple.
        if int(self.batches) and int(self.batches) % self.hparams["snapshot_steps"] == 0:
            self.past.load_state_dict(self.average.state_dict())
            self.snapshots += 1

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """Make the optimizer's step and move the average."""
        super().optimizer_step(*arguments, **options)
        # Moved here, so that a checkpoint of this step has its average.
        move_average(self.average, self.energies, 1 - self.hparams["ema_decay"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam for the energies."""
        return torch.optim.Adam(self.energies.parameters(), self.hparams["learning_rate"], tuple(self.hparams["betas"]))

    @property
    def models(self) -> tuple[AttributeEnergies, ...]:
        """The models that pictures are drawn from: the average, and with `models` 2 its last snapshot, if any."""
        return (self.average, self.past)[: min(self.drawing.models, 1 + int(self.snapshots))]

    def energy(self, query: str | Query, free: Labels | None = None, logic: str = "exact") -> Energy:
        """Return the energy of a query on pictures (B, C, H, W) in [-1, 1]; see `compose` of the module `energies`."""
        return compose(self.models, self.parsed(query), free, logic)

    def run_chain(self, energy: Energy, x: Tensor, seeds: Tensor, done: Callable[[], Any]) -> Tensor:
        d, noise, inner, x = self.drawing, Noise(seeds), energy.pullback(_signed), (x + 1) / 2
        for round_ in range(d.rounds):
            x = d.chain(inner, x, noise, round_ * d.steps, d.steps, done)
            x = d.changes(x, uniform(seeds, (d.changes.numbers,), Streams.CHANGE + round_, x.device))
        return _signed(d.chain(inner, x, noise, d.rounds * d.steps, d.refine, done))

    def sample(self, codes: Labels, seeds: Tensor, starts: Tensor | None = None) -> Sample:
        """Return pictures `Sample.z` (B, C, H, W) in [-1, 1] by chains on the sum of the energies of known attributes.

        Raises LaceError for a code that knows no attribute.
        """
        codes = self.checked(codes, seeds, starts)
        return self.draw_energy(CodeEnergy(self.models, codes), seeds, starts, codes.known.sum(1))

    def draw_energy(
        self, energy: Energy, seeds: Tensor, starts: Tensor | None = None, terms: Tensor | None = None
    ) -> Sample:
        """Return pictures of an energy of pictures by chains.

        Args:
            energy: energy of pictures (B, C, H, W) in [-1, 1].
            seeds: one seed a sample (B,) int64.
            starts: pictures (B, C, H, W) in [-1, 1] at which chains begin; uniform noise by default.
            terms: number of energies that `energy` adds, one or (B,), by which the step size is divided; 1 by default.
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
    """Settings of `sampling`."""

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
                "sampling requires models of 1 or 2, rounds and refine of 0 or more and steps of at least 1, received "
                f"models={models}, rounds={rounds}, refine={refine} and steps={steps}: change model.sampling."
            )
        self.models, self.rounds, self.steps, self.refine = models, rounds, steps, refine
        self.chain = LangevinChain(0, step_size, noise_std, noise_first=True, clamp=BOX)
        self.changes = Changes(**({} if changes is None else changes))
