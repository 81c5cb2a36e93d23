"""The base class of energy-based models of pictures: batches, randomness of a step, chains with seeds, files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ... import progress
from ...artifacts import to_builtin
from ...energies import Energy
from ...errors import LaceError
from ...pictures.convert import at_a_time
from ...samplers import Sample
from ...schema import Labels, Schema
from ...training.losses import batch_parts
from ...training.steps import require_bounded, step_generator
from ..base import ConditionalModel
from .replay import ReplayBuffer


class EnergyModel(ConditionalModel):
    """Base class of models p(x|c) ∝ exp(-E(x, c)) of pictures (B, C, H, W) in [-1, 1] that are trained with chains.

    Subclasses define `kind`, the prefixes `drawn_from` of the state that drawing needs, `buffer`, `run_chain`,
    `energy`, `sample`, `draw_energy`, and the training step.

    Args:
        arguments: all arguments of the subclass's constructor by name; `schema` is one of them. They become the
            hyperparameters.

    References:
        JEM (arXiv 1912.03263); improved contrastive divergence (arXiv 2012.01316).

    Example:
        >>> from lace_lightning.schema import Attribute
        >>> class Toy(EnergyModel):
        ...     kind = "toy"
        ...     def __init__(self, schema, seed=0):
        ...         super().__init__({"schema": schema, "seed": seed})
        >>> model = Toy(Schema("s", (Attribute("hat"),)), seed=3)
        >>> model.space, model.hparams["seed"], int(model.batches)
        ('x', 3, 0)
    """

    space = "x"
    composes = True
    kind = ""
    drawn_from: tuple[str, ...] = ()
    buffer: ReplayBuffer
    batches: Tensor

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__(Schema.of(arguments["schema"]))
        self.save_hyperparameters(to_builtin({**arguments, "schema": self.schema.to_config()}))
        self.register_buffer("batches", torch.zeros([], dtype=torch.long))

    def parts(self, batch: Sequence[Tensor]) -> tuple[Tensor, Labels]:
        """Return pictures and labels of a batch; without a mask in the batch all labels are known."""
        points, labels, known = batch_parts(batch)
        if points.shape[1:] != self.buffer.points.shape[1:]:
            raise LaceError(
                f"Pictures must have the model's shape {tuple(self.buffer.points.shape[1:])}, received "
                f"{tuple(points.shape[1:])}: set dataset.module.resolution, or +model.shape."
            )
        return points, Labels(self.schema, labels, known)

    def random(self, everywhere: bool = False) -> torch.Generator:
        """Return the generator of this training step on the model's device, which is the same in a resumed run.

        With `everywhere` all processes have the same generator, otherwise each has its own.
        """
        rank = 0 if everywhere else 1 + (0 if self._trainer is None else self.trainer.global_rank)
        return step_generator(self.device, int(self.hparams["seed"]), (1_000_003, int(self.batches)), (100_003, rank))

    def keep(self, points: Tensor, indices: Tensor) -> None:
        """Put the ends of the chains of all processes into the buffer of each process."""
        if self._trainer is not None and self.trainer.world_size > 1:
            points, indices = self.all_gather(points).flatten(0, 1), self.all_gather(indices).flatten()  # type: ignore[union-attr]
        self.buffer.put(points, indices, self.random(everywhere=True))

    def guard(self, bound: float, **values: Tensor) -> None:
        """Raise LaceError if a value is not finite or not within ± `bound`; the message gives the step."""
        advice = (
            "go on from an earlier checkpoint with a smaller learning rate, more steps of the chain or more input noise"
        )
        require_bounded(int(self.batches), advice, bound, **values)

    def run_chain(self, energy: Energy, x: Tensor, seeds: Tensor, done: Callable[[], Any]) -> Tensor:
        """Return the ends of the sampling chains that begin at x (B, C, H, W), and call `done` after each step.

        Row i is a function of the energy, the start and the seed of sample i alone.
        """
        raise NotImplementedError

    def run_chains(self, energy: Energy, x: Tensor, seeds: Tensor, steps: int) -> Tensor:
        """Return the ends of chains of `steps` steps that begin at x (B, C, H, W), computed in parts."""
        part, seeds = at_a_time(x), seeds.to(self.device)
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            progress.bar("sampling", steps * -(-len(x) // part), "step") as bar,
        ):
            rows = [slice(first, first + part) for first in range(0, len(x), part)]
            return torch.cat([self.run_chain(energy.rows(r), x[r].clone(), seeds[r].clone(), bar.update) for r in rows])

    @staticmethod
    def timed(draw: Callable[[], Tensor], evaluations: Callable[[], float], **diagnostics: Any) -> Sample:
        """Return the result of `draw` as a sample, with its wall time and the number of evaluations afterwards."""
        start = time.perf_counter()
        x = draw()
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        return Sample(x, evaluations(), time.perf_counter() - start, diagnostics)

    def saved_state(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.state_dict().items() if name.startswith(self.drawn_from)}

    def load_saved_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.load_state_dict(tensors, strict=False)
