"""What energy-based models of pictures share.

Batches, the randomness of a step, the guard, chains with seeds, files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

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
    """A model p(x|c) ∝ exp(-E(x, c)) of pictures (B, C, H, W) in [-1, 1], trained against what chains on E reach.

    Subclasses name their `kind` and the parts of their state, `drawn_from`, that drawing needs; they give
    `run_chain` and the training step.
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
        """Return pictures and labels of a batch; all are known where it does not say."""
        points, labels, known = batch_parts(batch)
        if points.shape[1:] != self.buffer.points.shape[1:]:
            raise LaceError(
                f"The model has pictures {tuple(self.buffer.points.shape[1:])}, and those of the data set are "
                f"{tuple(points.shape[1:])}: set dataset.module.resolution, or +model.shape."
            )
        return points, Labels(self.schema, labels, known)

    def random(self, everywhere: bool = False) -> torch.Generator:
        """Return the generator of this training step, on the model's device: the same in a resumed run, `everywhere` in
        every process.
        """
        rank = 0 if everywhere else 1 + (0 if self._trainer is None else self.trainer.global_rank)
        return step_generator(self.device, int(self.hparams["seed"]), (1_000_003, int(self.batches)), (100_003, rank))

    def keep(self, points: Tensor, indices: Tensor) -> None:
        """Put what chains have reached into the buffer, of all processes into the buffer of each."""
        if self._trainer is not None and self.trainer.world_size > 1:
            points, indices = self.all_gather(points).flatten(0, 1), self.all_gather(indices).flatten()  # type: ignore[union-attr]
        self.buffer.put(points, indices, self.random(everywhere=True))

    def guard(self, bound: float, **values: Tensor) -> None:
        """Raise LaceError, with the step, where a value is not finite or beyond ± `bound`."""
        advice = (
            "go on from an earlier checkpoint with a smaller learning rate, more steps of the chain or more input noise"
        )
        require_bounded(int(self.batches), advice, bound, **values)

    def run_chain(self, energy: Energy, x: Tensor, seeds: Tensor, done: Callable[[], Any]) -> Tensor:
        """Return where the chains of sampling lead from x (B, C, H, W), a function of each sample's energy, start and
        seed alone.
        """
        raise NotImplementedError

    def run_chains(self, energy: Energy, x: Tensor, seeds: Tensor, steps: int) -> Tensor:
        """Return where chains of so many steps lead from x (B, C, H, W), some at a time."""
        part, seeds = at_a_time(x), seeds.to(self.device)
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            tqdm(desc="sampling", total=steps * -(-len(x) // part), leave=False, delay=1, disable=None) as bar,
        ):
            rows = [slice(first, first + part) for first in range(0, len(x), part)]
            return torch.cat([self.run_chain(energy.rows(r), x[r].clone(), seeds[r].clone(), bar.update) for r in rows])

    @staticmethod
    def timed(draw: Callable[[], Tensor], evaluations: Callable[[], float], **diagnostics: Any) -> Sample:
        """Return what `draw` returns as a sample, with the time that it took and what `evaluations` then says."""
        start = time.perf_counter()
        x = draw()
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        return Sample(x, evaluations(), time.perf_counter() - start, diagnostics)

    def saved_state(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.state_dict().items() if name.startswith(self.drawn_from)}

    def load_saved_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.load_state_dict(tensors, strict=False)
