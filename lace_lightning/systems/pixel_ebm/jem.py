"""JEM: a classifier of pictures whose logits also define a density of pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ... import progress
from ...energies import Energy, Joint, build
from ...errors import LaceError, suggest
from ...pictures.convert import from_bytes
from ...query import Query
from ...samplers import Sample
from ...schema import Labels, Schema
from ...seeds import Noise, Streams, integers, uniform
from ...training.learning_rates import by_steps, steps_per_epoch, warmed_up
from ...training.losses import attribute_losses, attribute_scores
from ...unpickle.state import read_data
from .base import EnergyModel
from .jem_network import JEMNetwork
from .langevin import FreshNoise, LangevinChain, frozen
from .replay import ReplayBuffer

CONDITIONALS = ("chain", "sort")


class JEM(EnergyModel):
    """Joint energy-based model p(x, c) ∝ exp(-E(x, c)) of pictures (B, C, H, W) in [-1, 1] and attributes.

    The loss is w₁·(mean E(x) - mean E(x⁻)) + w₂·(-log p(c|x)) + w₃·(mean E(x, c) - mean E(x⁻, c)) of pictures with
    Gaussian noise. In the first term x⁻ are ends of chains on E(x), in the third of chains on E(x, c) with the labels
    of the batch. The optimizer is Adam with `warmup_steps` of linear warm-up and a factor `decay` at each of
    `decay_epochs`.

    Args:
        schema: the attributes, or their plain containers; at least one is discrete.
        network: arguments of `JEMNetwork`, except the numbers of logits and channels.
        chain: arguments of `LangevinChain` for the training.
        buffer: arguments of `ReplayBuffer`; it has 10,000 points by default.
        sampling: how pictures are drawn. `conditional` is "chain", Langevin steps on E(x, c), or "sort", points of the
            buffer that the classifier assigns to the code. Chains begin at points of the buffer (`start` "buffer") or
            at uniform noise ("noise") and have `num_steps`, `step_size`, `noise_std` and `clamp` (None by default).
        shape: shape (C, H, W) of a picture.
        weights: (w₁, w₂, w₃), each 0 or more, not all 0.
        class_conditional: run the chains of the first term on E(x, c) of random classes. With it, or with w₃ above 0,
            the buffer has one block for each combination of classes.
        separate: use the first half of a batch for the first term and the second half for the others.
        input_noise: standard deviation of the noise on pictures, 0 or more, in units of [-1, 1].
        sigma: the classifier's error σ on continuous attributes, in units of the attribute, above 0.
        learning_rate: learning rate of Adam after the warm-up, above 0.
        betas: β₁ and β₂ of Adam, each in [0, 1).
        warmup_steps: steps of the warm-up, 0 or more.
        decay: factor of the learning rate at each decay, above 0.
        decay_epochs: epochs at which the learning rate decays, counted from 0.
        bound: the training stops when the loss is not within ±bound, above 0.
        start: file of published weights and replay buffer to begin from, None for random weights.
        seed: seed of the buffer and of the randomness of training steps.

    Raises:
        LaceError: for a schema without discrete attributes, weights outside their ranges, an unknown way of sampling,
            other settings that `JEMNetwork`, `LangevinChain` or `ReplayBuffer` refuse, and a file that does not fit; in
            training, when the loss diverges.

    References:
        JEM (arXiv 1912.03263), sections 3 and 4 and algorithm 1.

    Example:
        >>> from lace_lightning.schema import Attribute
        >>> schema = Schema("s", (Attribute("hat"),))
        >>> sampling, buffer = {"num_steps": 2}, {"size": 10}
        >>> model = JEM(schema, {"depth": 10, "widen": 1}, buffer=buffer, sampling=sampling, shape=(3, 8, 8))
        >>> sample = model.sample(Labels.constant(schema, 2, hat=1), torch.arange(2))
        >>> sample.z.shape, sample.evaluations
        (torch.Size([2, 3, 8, 8]), 2)
    """

    kind = "jem"
    draws_with = ("sampling",)
    drawn_from = ("network.", "buffer.")

    def __init__(
        self,
        schema: Mapping[str, Any] | Schema,
        network: Mapping[str, Any] | None = None,
        chain: Mapping[str, Any] | None = None,
        buffer: Mapping[str, Any] | None = None,
        sampling: Mapping[str, Any] | None = None,
        shape: Sequence[int] = (3, 32, 32),
        weights: Sequence[float] = (1.0, 1.0, 0.0),
        class_conditional: bool = False,
        separate: bool = False,
        input_noise: float = 0.03,
        sigma: float = 0.1,
        learning_rate: float = 1e-4,
        betas: Sequence[float] = (0.9, 0.999),
        warmup_steps: int = 1000,
        decay: float = 0.3,
        decay_epochs: Sequence[int] = (160, 180),
        bound: float = 1e8,
        start: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            {
                "schema": schema,
                "network": network or {},
                "chain": chain or {},
                "buffer": buffer or {},
                "sampling": sampling or {},
                "shape": shape,
                "weights": weights,
                "class_conditional": class_conditional,
                "separate": separate,
                "input_noise": input_noise,
                "sigma": sigma,
                "learning_rate": learning_rate,
                "betas": betas,
                "warmup_steps": warmup_steps,
                "decay": decay,
                "decay_epochs": decay_epochs,
                "bound": bound,
                "start": start,
                "seed": seed,
            }
        )
        self.classes = [attribute.num_classes for attribute in self.schema if attribute.kind == "discrete"]
        if not self.classes or len(weights) != 3 or min(weights) < 0 or not any(weights):
            raise LaceError(
                "JEM requires a discrete attribute, without which E(x) is constant, and three weights of 0 or more, "
                f"not all 0, received {', '.join(f'{a.name} ({a.kind})' for a in self.schema)} and {list(weights)}: "
                "change task.attributes or model.weights."
            )
        self.network = JEMNetwork(self.schema.num_logits, channels=shape[0], **(network or {}))
        self.chain = LangevinChain(**(chain or {}))
        self.drawing = _Drawing(**(sampling or {}))
        blocks = math.prod(self.classes) if class_conditional or weights[2] else 1
        self.buffer = ReplayBuffer(
            **{"size": 10_000, "shape": tuple(shape), "seed": seed, "blocks": blocks, **(buffer or {})}
        )
        if start is not None:
            self._begin_from(start)

    def _begin_from(self, start: str) -> None:
        data = read_data(start)
        state = data.get("model_state_dict") if isinstance(data, Mapping) else None
        points = data.get("replay_buffer") if isinstance(data, Mapping) else None
        try:
            self.network.load_state_dict(dict(state))  # type: ignore[arg-type]
            self.buffer.points.copy_(points)  # type: ignore[arg-type]
        except (RuntimeError, TypeError, AttributeError, ValueError) as error:
            raise LaceError(
                f"The file '{start}' must hold JEM's model_state_dict and replay_buffer for this network and buffer, "
                f"and does not ({' '.join(str(error).split())[:160]}): set model.network.published=true and the file's "
                "depth and widen."
            ) from error

    def joint(self, codes: Labels | None = None) -> Energy:
        """Return E(x, c) on outputs of the network, or E(x) without codes."""
        known = Labels.constant(self.schema, 1).to(self.device) if codes is None else codes
        return Joint(known, self.hparams["sigma"], self.network.energy_head)

    def energy(self, query: str | Query, free: Labels | None = None, logic: str = "exact") -> Energy:
        """Return E(x) - log p(query|x) of pictures (B, C, H, W) in [-1, 1]; see `lace_lightning.energies.build`."""
        return (self.joint() & build(self.parsed(query), free, logic, self.hparams["sigma"])).pullback(self.network)

    def cells(self, codes: Labels, drawn: Tensor) -> Tensor:
        """Return the numbers (B,) int64 of the combinations of classes of codes.

        `drawn` (B, K) in [0, 1) decides the classes that are not known.
        """
        cell = torch.zeros(len(codes), dtype=torch.long, device=codes.values.device)
        for index, attribute in enumerate(self.schema):
            if attribute.kind == "discrete":
                free = (drawn[:, index] * attribute.num_classes).floor()
                cell = (
                    cell * attribute.num_classes
                    + torch.where(codes.known[:, index], codes.values[:, index], free).long()
                )
        return cell

    def random_codes(self, count: int, random: torch.Generator) -> Labels:
        """Return codes (count rows) of uniformly random classes; continuous attributes are not known."""
        discrete = torch.tensor([attribute.kind == "discrete" for attribute in self.schema], device=self.device)
        classes = torch.tensor([attribute.num_classes for attribute in self.schema], device=self.device)
        drawn = torch.rand(count, len(self.schema), generator=random, device=self.device)
        return Labels(self.schema, (drawn * classes).floor() * discrete, discrete.expand(count, -1))

    def negatives(self, count: int, random: torch.Generator, codes: Labels | None = None) -> Tensor:
        """Return ends of chains (count, C, H, W) on E(x), or on E(x, c) of codes, and put them into the buffer."""
        labels = None
        if codes is not None:
            labels = self.cells(codes, torch.rand(codes.values.shape, generator=random, device=self.device))
        x, indices = self.buffer.draw(count, random, labels)
        with frozen(self.network):
            x = self.chain(self.joint(codes).pullback(self.network), x, FreshNoise(random))
        self.keep(x, indices)
        return x

    def training_step(self, batch: Sequence[Tensor], batch_index: int) -> Tensor:
        """Return the loss of a batch and put the ends of its chains into the buffer."""
        images, labels = self.parts(batch)
        random, (w_x, w_c, w_joint) = self.random(), self.hparams["weights"]
        x = from_bytes(images)
        x = x + self.hparams["input_noise"] * torch.randn(x.shape, generator=random, device=x.device)
        half = len(x) // 2 if self.hparams["separate"] else 0
        figures: dict[str, Tensor] = {}
        u = self.network(x)
        loss = u.new_zeros([])
        if w_x:
            codes = self.random_codes(half or len(x), random) if self.hparams["class_conditional"] else None
            negatives = self.network(self.negatives(half or len(x), random, codes))
            figures["energy"], figures["energy_negative"] = (
                self.joint()(u[:half] if half else u).mean(),
                self.joint()(negatives).mean(),
            )
            loss = loss + w_x * (figures["energy"] - figures["energy_negative"])
        u, labels = u[half:], labels[slice(half, None)]
        if w_c:
            figures["nll"] = self.classification_loss(u, labels)
            loss = loss + w_c * figures["nll"]
        if w_joint:
            energy = self.joint(labels)
            figures["joint"] = energy(u).mean() - energy(self.network(self.negatives(len(u), random, labels))).mean()
            loss = loss + w_joint * figures["joint"]
        self.guard(self.hparams["bound"], the_loss=loss)
        self.batches += 1
        if batch_index % 20 == 0:
            self.log_dict(
                {"loss": loss.detach(), **{name: value.detach() for name, value in figures.items()}}, prog_bar=True
            )
        result: Tensor = loss
        return result

    def classification_loss(self, u: Tensor, labels: Labels) -> Tensor:
        """Return the mean of -log p(c|x), up to a constant, from outputs (B, L) of the network."""
        losses = attribute_losses(self.schema, u[:, : self.schema.num_logits], labels.values, known=labels.known)
        scale = 1 / (2 * self.hparams["sigma"] ** 2)
        return torch.stack(
            [loss * (1.0 if a.kind == "discrete" else scale) for loss, a in zip(losses, self.schema, strict=True)]
        ).sum()

    def validation_step(self, batch: Sequence[Tensor], batch_index: int) -> None:
        """Log accuracy and mean energy of a batch."""
        images, labels = self.parts(batch)
        x, random = from_bytes(images), torch.Generator(self.device).manual_seed(batch_index)
        u = self.network(x + self.hparams["input_noise"] * torch.randn(x.shape, generator=random, device=x.device))
        scores = attribute_scores(self.schema, u[:, : self.schema.num_logits], labels.values, labels.known)
        for index, (name, score) in enumerate(scores.items()):
            if count := int(labels.known[:, index].sum()):
                self.log(f"val_accuracy/{name}", score, batch_size=count, sync_dist=True)
        self.log("val_energy", self.joint()(u).mean(), batch_size=len(x), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Return Adam with warm-up and decays."""
        h = self.hparams
        optimizer = torch.optim.Adam(
            [p for p in self.parameters() if p.requires_grad], h["learning_rate"], tuple(h["betas"])
        )
        per_epoch = steps_per_epoch(self.trainer)

        def factor(step: int) -> float:
            passed = sum(step >= epoch * per_epoch for epoch in h["decay_epochs"])
            return float(warmed_up(step, h["warmup_steps"]) * h["decay"] ** passed)

        return by_steps(optimizer, factor)

    def renew_buffer(self, visits: int = 1000, num_steps: int = 40, count: int = 100, seed: int = 0) -> None:
        """Fill the buffer with uniform points and run chains on them.

        Args:
            visits: number of times that chains are run, 0 or more.
            num_steps: steps of a chain at each visit, 0 or more.
            count: number of chains at each visit, at least 1.
            seed: seed of the randomness.
        """
        random = torch.Generator(self.device).manual_seed(seed)
        points = self.buffer.fresh(len(self.buffer.points), random)
        self.buffer.put(points, torch.arange(len(points), device=self.device), random)
        steps, self.chain.num_steps = self.chain.num_steps, num_steps
        try:
            for _ in progress.steps(range(visits), "renewing the buffer"):
                self.negatives(count, random, self.random_codes(count, random) if self.buffer.blocks > 1 else None)
        finally:
            self.chain.num_steps = steps

    def starts(self, codes: Labels, seeds: Tensor) -> Tensor:
        """Return the starting points (B, C, H, W) of chains.

        They are points of the buffer, within the block of the code if it has several, or uniform noise.
        """
        if self.drawing.start == "noise":
            return 2 * uniform(seeds, self.buffer.points.shape[1:], Streams.START, self.device) - 1
        drawn = uniform(seeds, (len(self.schema),), Streams.START + 1, self.device)
        first, length = self.buffer.block(self.cells(codes, drawn)) if self.buffer.blocks > 1 else (0, len(self.buffer))
        return self.buffer.at(first + integers(seeds, length, (), Streams.START, self.device))

    def run_chain(self, energy: Energy, x: Tensor, seeds: Tensor, done: Callable[[], Any]) -> Tensor:
        with frozen(self.network):
            return self.drawing.chain(energy, x, Noise(seeds), done=done)

    def sample(self, codes: Labels, seeds: Tensor, starts: Tensor | None = None) -> Sample:
        """Return pictures `Sample.z` (B, C, H, W) in [-1, 1] with the codes, by the method of the argument `sampling`.

        If sorting finds no point of the buffer that is assigned to a code, it returns the point of the largest p(c|x).
        Sorting does not use starts.
        """
        codes = self.checked(codes, seeds, starts)
        if self.drawing.conditional == "sort":
            return self.timed(
                lambda: self._sorted(codes, seeds).clamp(-1, 1),
                lambda: len(self.buffer) / len(codes),
                conditional="sort",
            )
        energy = self.joint(codes).pullback(self.network)
        return self._chained(energy, seeds, codes, starts)

    def draw_energy(
        self, energy: Energy, seeds: Tensor, starts: Tensor | None = None, terms: Tensor | None = None
    ) -> Sample:
        """Return pictures of an energy of pictures by chains as in `sample`, from any point of the buffer.

        The number of `terms` is not used. Raises LaceError if the argument `sampling` names sorting, which requires
        codes.
        """
        if self.drawing.conditional == "sort":
            raise LaceError(
                "Sorting requires a code, that is a conjunction of ==, received another query: set "
                "model.sampling.conditional=chain."
            )
        return self._chained(energy, seeds, Labels.constant(self.schema, len(seeds)).to(self.device), starts)

    def _chained(self, energy: Energy, seeds: Tensor, codes: Labels, starts: Tensor | None) -> Sample:
        start, steps = self.drawing.start if starts is None else "given", self.drawing.chain.num_steps
        x = self.starts(codes, seeds) if starts is None else starts.to(self.device)
        return self.timed(
            lambda: self.run_chains(energy, x, seeds, steps).clamp(-1, 1),
            lambda: steps,
            conditional="chain",
            start=start,
        )

    @torch.no_grad()
    def _sorted(self, codes: Labels, seeds: Tensor) -> Tensor:
        """Return points of the buffer that the classifier assigns to the codes; seeds choose among them."""
        with torch.inference_mode(False):
            parts = torch.arange(len(self.buffer), device=self.device).split(500)
            u = torch.cat([self.network(self.buffer.at(part)) for part in progress.steps(parts, "sorting", "batch")])
        decided = self.schema.decode(u[:, : self.schema.num_logits]).values
        near = torch.tensor(
            [0.5 if a.kind == "discrete" else self.hparams["sigma"] for a in self.schema], device=self.device
        )
        result = torch.zeros(len(codes), dtype=torch.long, device=self.device)
        kinds, which = torch.unique(
            torch.cat([codes.values * codes.known, codes.known.float()], 1), dim=0, return_inverse=True
        )
        for kind, row in enumerate(kinds):
            code = Labels(self.schema, *row[None].chunk(2, 1))
            found = (((decided - code.values).abs() <= near) | ~code.known).all(1).nonzero()[:, 0]
            if not len(found):
                repeated = Labels(self.schema, code.values.expand(len(u), -1), code.known.expand(len(u), -1))
                found = (self.joint(repeated)(u) - self.joint()(u)).argmin()[None]
            chosen = (which == kind).nonzero()[:, 0]
            result[chosen] = found[integers(seeds[chosen.to(seeds.device)], len(found), (), Streams.START, self.device)]
        return self.buffer.at(result)


class _Drawing:
    """Settings of `sampling`."""

    def __init__(
        self,
        conditional: str = "chain",
        start: str = "buffer",
        num_steps: int = 1000,
        step_size: float = 1.0,
        noise_std: float = 0.01,
        clamp: Sequence[float] | None = None,
    ) -> None:
        for name, value, options in (("conditional", conditional, CONDITIONALS), ("start", start, ("buffer", "noise"))):
            if value not in options:
                raise LaceError(
                    f"sampling.{name} must be one of {', '.join(options)}, received '{value}'.{suggest(value, options)}"
                )
        self.conditional, self.start = conditional, start
        self.chain = LangevinChain(num_steps, step_size, noise_std, clamp=clamp)
