"""Latent-JEM: a classifier of w whose logits are a density of w as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..classifiers import AttributeClassifier
from ..energies import Energy, Joint
from ..errors import LaceError
from ..query import Query
from ..samplers import FlatLangevin, Sample
from ..samplers.base import Field
from ..schema import Labels, Schema
from ..seeds import Streams, integers
from ..training.learning_rates import with_staircase
from ..training.losses import attribute_losses, attribute_scores, batch_parts
from ..training.steps import require_bounded, step_generator
from .base import ConditionalModel


class LatentJEM(ConditionalModel):
    """p(w, c) ∝ exp(-E(w, c)), E(w, c) = -Σ_discrete f_i(w)[c_i] + Σ_continuous (c_i - f_i(w))²/(2σ²); marginal E(w) of
    discrete ones.

    Loss: cross-entropy, and squared error times `continuous_weight`, of p(c|w), plus `likelihood_weight` times mean E(w
    of the batch) - mean E(negatives), which is maximum likelihood of w. What is not known counts nowhere. Negatives are
    chains w ← w - `step_size`·∇E(w) + `noise_std`·n of `chain_steps` steps that go on from a buffer of `buffer_size`
    states; a chain begins at g(z), z ~ N(0, I), and begins anew with probability `restart`. The w of pairs are such
    g(z), so that chains begin at those of the batch: the buffer needs no generator. Noise in training follows from
    `seed` and step; processes share one buffer. Without discrete attributes E(w) is constant and there are no chains.
    Adam with warm-up and staircase as for `LatentClassifier`. Batches are (w (B, Dw), labels (B, K) or logits (B, L) of
    the labeler, known (B, K) bool or nothing). Raises LaceError, with the step, where loss or energies are not finite
    or beyond 1e8.
    """

    space = "w"
    composes = True
    kind = "latent_jem"
    draws_with = ("num_steps",)
    buffer: Tensor
    # How often a chain of the buffer has been taken up since it began; 0 where none has begun.
    visits: Tensor
    weights: Tensor

    def __init__(
        self,
        schema: Mapping[str, Any] | Schema,
        w_dim: int,
        arguments: Mapping[str, Any] | None = None,
        num_steps: int = 100,
        step_size: float = 0.1,
        noise_std: float = 0.01,
        chain_steps: int = 20,
        buffer_size: int = 10_000,
        restart: float = 0.05,
        likelihood_weight: float = 1.0,
        continuous_weight: float = 1.0,
        sigma: float = 0.1,
        learning_rate: float = 1e-4,
        warmup_steps: int = 1000,
        decay: float = 0.5,
        decay_epochs: int = 10,
        weight_decay: float = 0.0,
        seed: int = 0,
        generator_digest: str | None = None,
    ) -> None:
        schema = Schema.of(schema)
        super().__init__(schema)
        if not 0 <= restart <= 1 or buffer_size < 1:
            raise LaceError(
                f"restart must be a probability and buffer_size at least 1, received {restart} and {buffer_size}: 0.05 "
                f"and "
                "10000 are the published ones."
            )
        self.save_hyperparameters(
            {
                "schema": schema.to_config(),
                "w_dim": w_dim,
                "arguments": dict(arguments or {}),
                "num_steps": num_steps,
                "step_size": step_size,
                "noise_std": noise_std,
                "chain_steps": chain_steps,
                "buffer_size": buffer_size,
                "restart": restart,
                "likelihood_weight": likelihood_weight,
                "continuous_weight": continuous_weight,
                "sigma": sigma,
                "learning_rate": learning_rate,
                "warmup_steps": warmup_steps,
                "decay": decay,
                "decay_epochs": decay_epochs,
                "weight_decay": weight_decay,
                "seed": seed,
                "generator_digest": generator_digest,
            }
        )
        self.classifier = AttributeClassifier(
            schema, "w", "mlp", {**(arguments or {}), "input_dim": w_dim}, generator_digest
        )
        # E(w), on logits.
        self.marginal = Joint(Labels.constant(schema, 1), sigma)
        self.chain = FlatLangevin(chain_steps, step_size, noise_std)
        self.sampler = FlatLangevin(num_steps, step_size, noise_std)
        self.has_chains = likelihood_weight != 0 and any(attribute.kind == "discrete" for attribute in schema)
        self.register_buffer("buffer", torch.zeros(buffer_size, w_dim))
        self.register_buffer("visits", torch.zeros(buffer_size, dtype=torch.long))
        weights = [continuous_weight if attribute.kind == "continuous" else 1.0 for attribute in schema]
        self.register_buffer("weights", torch.tensor(weights), persistent=False)

    def forward(self, w: Tensor) -> Tensor:
        """Return the logits (B, L)."""
        return self.classifier(w)

    def energy(self, query: str | Query, free: Labels | None = None, **options: Any) -> Energy:
        """Return E(w) - log p(query|w) on w (B, Dw): E(w, c) where the query says c, and the same for and, or, not.

        `free` and `options` are those of `AttributeClassifier.energy`. It is the whole density of w: sample it with
        `FlatLangevin`, or follow it with a flow; samplers that add the prior of z would add a prior that w does not
        have.
        """
        return self.marginal.pullback(self.classifier) & self.classifier.energy(
            query, free, **{"sigma": self.hparams["sigma"], **options}
        )

    def sample(self, codes: Labels, seeds: Tensor, starts: Tensor | None = None) -> Sample:
        """Return w (B, Dw) after `num_steps` Langevin steps on E(w, c) from `starts`, g(z) of the generator.

        Without starts, chains begin at states of the training's buffer, which their seeds choose. Sample i depends on
        its seed, code and start alone. Raises LaceError for codes that do not fit (see `checked`), and for an empty
        buffer.
        """
        codes = self.checked(codes, seeds, starts)
        return self.draw_energy(Joint(codes, self.hparams["sigma"]).pullback(self.classifier), seeds, starts)

    def draw_energy(
        self, energy: Energy, seeds: Tensor, starts: Tensor | None = None, terms: Tensor | None = None
    ) -> Sample:
        """Return w (B, Dw) after the steps of `sample` on an energy of w, whatever the number of `terms`."""
        return self.sampler(energy, self._from_buffer(seeds) if starts is None else starts, seeds)

    def _from_buffer(self, seeds: Tensor) -> Tensor:
        begun = self.visits.nonzero()[:, 0]
        if not len(begun):
            raise LaceError(
                "Chains begin at `starts` or in the buffer of the training, and the buffer is empty: give starts, g(z) "
                "of "
                "the generator."
            )
        return self.buffer[begun[integers(seeds, len(begun), stream=Streams.BUFFER, device=begun.device)]]

    def training_step(self, batch: tuple[Tensor, ...], batch_index: int) -> Tensor:
        w, target, known = batch_parts(batch)
        points = torch.cat([w, self.negatives(w)]) if self.has_chains else w
        logits = self(points)
        conditional = (self.weights * attribute_losses(self.schema, logits[: len(w)], target, known=known)).sum()
        energies = self.marginal(logits)
        data = energies[: len(w)].mean()
        negative = energies[len(w) :].mean() if self.has_chains else data
        loss = conditional + self.hparams["likelihood_weight"] * (data - negative)
        require_bounded(
            self.global_step,
            "go on from an earlier checkpoint with a smaller learning_rate, or with more chain_steps",
            the_loss=loss,
            mean_energy_of_data=data,
            mean_energy_of_chains=negative,
        )
        if batch_index % 50 == 0:
            self.log_dict(
                {
                    "train/loss": loss.detach(),
                    "train/conditional": conditional.detach(),
                    "train/energy": data.detach(),
                    "train/energy_gap": (data - negative).detach(),
                },
                prog_bar=True,
            )
        return loss

    @torch.no_grad()
    def negatives(self, w: Tensor) -> Tensor:
        """Advance as many chains of the buffer as there are rows in w (B, Dw), write them back and return them (B,
        Dw).
        """
        world, rank = (1, 0) if self._trainer is None else (self.trainer.world_size, self.trainer.global_rank)
        size, count = len(self.buffer), len(w)
        if count * world > size:
            raise LaceError(
                f"The buffer must hold a chain for every row of a batch, and holds {size} for {count * world}: raise "
                "buffer_size or make batches smaller."
            )
        # Without replacement: two chains with one place in the buffer would write in no certain order.
        places = torch.randperm(size, generator=self._random(0), device=self.device)[rank * count : (rank + 1) * count]
        random = self._random(1 + rank)
        begin = torch.rand(count, generator=random, device=self.device) < self.hparams["restart"]
        begin |= self.visits[places] == 0
        states = self._advance(torch.where(begin[:, None], w, self.buffer[places]), random)
        written: Any = (places, states, torch.where(begin, 1, self.visits[places] + 1))
        if world > 1:
            written = (part.flatten(0, 1) for part in self.all_gather(written))
        where, after, visits = written
        self.buffer[where], self.visits[where] = after, visits
        return states

    def _advance(self, states: Tensor, random: torch.Generator) -> Tensor:
        # Capturing a graph, which would have to be done at every step, would cost more than the chain.
        field = Field(self.marginal.pullback(self.classifier), self.chain, len(states), capture=False)
        return self.chain.run(
            field,
            states,
            lambda _, like: torch.randn(like.shape, generator=random, device=like.device, dtype=like.dtype),
            lambda _: None,
        )[0]

    def _random(self, purpose: int) -> torch.Generator:
        """Return the random numbers of this step: 0 those that processes share, 1 + rank those of each."""
        terms = ((1_000_003, self.global_step), (1009, purpose))
        return step_generator(self.device, int(self.hparams["seed"]), *terms)

    def _evaluate(self, batch: tuple[Tensor, ...], stage: str) -> None:
        w, target, known = batch_parts(batch)
        logits = self(w)
        rows = [len(w)] * len(self.schema) if known is None else known.sum(0).tolist()
        # Weighted by what is known, the means over batches are the means over pairs.
        for (name, score), count in zip(
            attribute_scores(self.schema, logits, target, known).items(), rows, strict=True
        ):
            if count:
                self.log(f"{stage}/accuracy/{name}", score, batch_size=count, sync_dist=True)
        loss = (self.weights * attribute_losses(self.schema, logits, target, known=known)).sum()
        self.log_dict(
            {f"{stage}/conditional": loss, f"{stage}/energy": self.marginal(logits).mean()},
            batch_size=len(w),
            sync_dist=True,
        )

    def validation_step(self, batch: tuple[Tensor, ...], batch_index: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, ...], batch_index: int) -> None:
        self._evaluate(batch, "test")

    def configure_optimizers(self) -> Any:
        h = self.hparams
        optimizer = torch.optim.Adam(
            self.parameters(), lr=h["learning_rate"], weight_decay=h["weight_decay"], fused=True
        )
        return with_staircase(optimizer, self.trainer, h["warmup_steps"], h["decay"], h["decay_epochs"])
