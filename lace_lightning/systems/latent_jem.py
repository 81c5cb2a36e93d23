"""Latent-JEM: a classifier of w whose logits also define a density of w."""

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
    """Joint energy-based model p(w, c) ∝ exp(-E(w, c)) of latents w (B, Dw) of a generator and attributes.

    E(w, c) = -Σ_discrete f_i(w)[c_i] + Σ_continuous (c_i - f_i(w))²/(2σ²), and the marginal is E(w) = -Σ_discrete
    logsumexp f_i(w). The loss is cross-entropy for discrete attributes, plus `continuous_weight` times the squared
    error of continuous ones, plus `likelihood_weight` times mean E(w) of the batch - mean E(w⁻). Negatives w⁻ are ends
    of Langevin chains w ← w - η·∇E(w) + s·n that go on from a buffer and begin at the w of the batch. Processes share
    one buffer. Without discrete attributes E(w) is constant, and there are no chains.

    Batches are (w (B, Dw); labels (B, K), or logits of the labeler (B, L); and optionally known (B, K) bool). Unknown
    labels enter neither losses nor scores.

    Args:
        schema: the attributes, or their plain containers.
        w_dim: Dw, at least 1.
        arguments: arguments of the MLP, except the input dimension.
        num_steps: Langevin steps of a sample, at least 1.
        step_size: η of all chains, above 0.
        noise_std: s of all chains, 0 or more.
        chain_steps: steps of a negative in a training step, at least 1.
        buffer_size: chains in the buffer, at least 1, and at least the rows of a batch over all processes.
        restart: probability that a chain begins again at a w of the batch, from 0 to 1.
        likelihood_weight: weight of the maximum likelihood of w; 0 leaves the chains out.
        continuous_weight: weight of the squared error, 0 or more.
        sigma: σ in units of the attribute, above 0.
        learning_rate: learning rate of Adam after the warm-up, above 0.
        warmup_steps: steps of linear warm-up, 0 or more.
        decay: factor of the learning rate at each decay, above 0, at most 1.
        decay_epochs: epochs between two decays, at least 1.
        weight_decay: weight decay of Adam, 0 or more.
        seed: seed of the randomness of training steps.
        generator_digest: digest of the generator whose w are modelled, None if it is not known.

    Raises:
        LaceError: for `restart` or `buffer_size` out of range, and settings that `FlatLangevin` refuses; in training,
            when loss or mean energies are not finite or not within ±1e8.

    References:
        Eq. 24 to 27 of LACE (arXiv 2110.10873); JEM (arXiv 1912.03263).

    Example:
        >>> from lace_lightning.schema import Attribute
        >>> schema = Schema("s", (Attribute("hat"),))
        >>> model = LatentJEM(schema, w_dim=4, arguments={"hidden": [8]}, num_steps=2, buffer_size=10)
        >>> sample = model.sample(Labels.constant(schema, 2, hat=1), torch.arange(2), starts=torch.zeros(2, 4))
        >>> sample.z.shape, sample.evaluations
        (torch.Size([2, 4]), 2.0)
    """

    space = "w"
    composes = True
    kind = "latent_jem"
    draws_with = ("num_steps",)
    buffer: Tensor
    # Number of training steps that each chain of the buffer has had since it began; 0 for a place without a chain.
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
                "restart must be a probability and buffer_size at least 1, received "
                f"restart={restart} and buffer_size={buffer_size}: the published values are 0.05 and 10000."
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
        result: Tensor = self.classifier(w)
        return result

    def energy(self, query: str | Query, free: Labels | None = None, **options: Any) -> Energy:
        """Return the energy E(w) - log p(query|w) on w (B, Dw), which is E(w, c) for a query that names a code c.

        `free` and `options` are those of `AttributeClassifier.energy`. The energy is the whole density of w: sample it
        with `FlatLangevin` or follow it with a flow. Samplers that add the prior of z would count a prior that w does
        not have.
        """
        return self.marginal.pullback(self.classifier) & self.classifier.energy(
            query, free, **{"sigma": self.hparams["sigma"], **options}
        )

    def sample(self, codes: Labels, seeds: Tensor, starts: Tensor | None = None) -> Sample:
        """Return w (B, Dw) after `num_steps` Langevin steps on E(w, c) from `starts`, which are g(z) of the generator.

        Without starts, chains begin at states of the training's buffer, which their seeds choose. Sample i depends on
        its seed, code and start alone. Raises LaceError for codes that do not fit (see `checked`), and for an empty
        buffer.
        """
        codes = self.checked(codes, seeds, starts)
        return self.draw_energy(Joint(codes, self.hparams["sigma"]).pullback(self.classifier), seeds, starts)

    def draw_energy(
        self, energy: Energy, seeds: Tensor, starts: Tensor | None = None, terms: Tensor | None = None
    ) -> Sample:
        """Return w (B, Dw) after the steps of `sample` on an energy of w; the number of `terms` is not used."""
        return self.sampler(energy, self._from_buffer(seeds) if starts is None else starts, seeds)

    def _from_buffer(self, seeds: Tensor) -> Tensor:
        begun = self.visits.nonzero()[:, 0]
        if not len(begun):
            raise LaceError(
                "Chains must begin at `starts` or in the buffer of the training, and the buffer is empty: give starts, "
                "g(z) of the generator."
            )
        return self.buffer[begun[integers(seeds, len(begun), stream=Streams.BUFFER, device=begun.device)]]

    def training_step(self, batch: tuple[Tensor, ...], batch_index: int) -> Tensor:
        """Return the loss of a batch and advance its chains."""
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
        result: Tensor = loss
        return result

    @torch.no_grad()
    def negatives(self, w: Tensor) -> Tensor:
        """Advance as many chains of the buffer as w (B, Dw) has rows, and return their ends (B, Dw)."""
        world, rank = (1, 0) if self._trainer is None else (self.trainer.world_size, self.trainer.global_rank)
        size, count = len(self.buffer), len(w)
        if count * world > size:
            raise LaceError(
                f"The buffer must hold a chain for every row of a batch, received buffer_size={size} and "
                f"{count * world} rows over all processes: raise buffer_size or make batches smaller."
            )
        # Without replacement: two chains with one place in the buffer would write in no defined order.
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
        # A CUDA graph would be captured anew at every step, which takes longer than the chain.
        field = Field(self.marginal.pullback(self.classifier), self.chain, len(states), capture=False)
        return self.chain.run(
            field,
            states,
            lambda _, like: torch.randn(like.shape, generator=random, device=like.device, dtype=like.dtype),
            lambda _: None,
        )[0]

    def _random(self, purpose: int) -> torch.Generator:
        """Return the generator of this step: purpose 0 is shared by processes, 1 + rank is that of one process."""
        terms = ((1_000_003, self.global_step), (1009, purpose))
        return step_generator(self.device, int(self.hparams["seed"]), *terms)

    def _evaluate(self, batch: tuple[Tensor, ...], stage: str) -> None:
        w, target, known = batch_parts(batch)
        logits = self(w)
        rows = [len(w)] * len(self.schema) if known is None else known.sum(0).tolist()
        # Weighted by the number of known labels, the means over batches are the means over pairs.
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
        """Log accuracy, conditional loss and mean energy of a batch."""
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, ...], batch_index: int) -> None:
        """Log accuracy, conditional loss and mean energy of a batch."""
        self._evaluate(batch, "test")

    def configure_optimizers(self) -> Any:
        """Return Adam with warm-up and staircase."""
        h = self.hparams
        optimizer = torch.optim.Adam(
            self.parameters(), lr=h["learning_rate"], weight_decay=h["weight_decay"], fused=True
        )
        return with_staircase(optimizer, self.trainer, h["warmup_steps"], h["decay"], h["decay_epochs"])
