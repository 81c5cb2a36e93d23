"""StyleFlow (Abdal et al., 2021): a continuous normalising flow between w and z, given attributes, that samples and
edits.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import LaceError
from ...generators import Generator
from ...labelers import Labeler
from ...samplers import Sample
from ...schema import Attribute, Labels, Schema
from ...seeds import Streams, normal
from ...training.losses import labelled_batch
from ...training.steps import require_bounded, step_generator
from ...unpickle.state import read_state
from ..base import ConditionalModel
from ..label_encoding import LabelEncoding
from .editing import PUBLISHED_OVERSHOOT, FlowEdited, FlowEditor, FlowOptions, FlowStyleEditor
from .network import FlowChain, Solver, finite, solving

# What the published weights are conditioned on, in their order: nine coefficients of the light, then attributes, of
# which yaw and pitch are in degrees and age in years; [0, 1] here is the extent of the published thousand people (of
# all coefficients together).
PUBLISHED_SCHEMA = Schema(
    "styleflow",
    (
        *(Attribute(f"light{number}", "continuous") for number in range(9)),
        Attribute("gender"),
        Attribute("glasses"),
        *(Attribute(name, "continuous") for name in ("yaw", "pitch", "bald", "beard", "age", "smile")),
    ),
)
PUBLISHED_RANGES = {
    **{f"light{number}": (-0.413, 1.215) for number in range(9)},
    "yaw": (-42.7, 50.2),
    "pitch": (-27.1, 28.5),
    "bald": (0.0, 0.98),
    "beard": (0.0, 0.9),
    "age": (0.0, 68.0),
}
# How names of the published state dict are ours.
RENAMED = (
    ("odefunc.diffeq.", "velocity."),
    ("._layer.", ".linear."),
    ("._hyper_bias.", ".shift."),
    ("._hyper_gate.", ".gate."),
)
COUNTERS = (".step", "._num_evals")


class StyleFlow(ConditionalModel):
    """w = T_c⁻¹(z), z ~ N(0, I): normalisation, dx/dt = F(t, c, x), normalisation; trained by maximum likelihood of w
    given c.

    Conditions are the attributes as numbers: a value as it is or scaled to `ranges` {name: (number for 0, number for
    1)}, the class of two, one number per class of more (a class index is no quantity). Labels that are not known, in
    training or sampling, are those of a training row that the sample's seed picks among the last `num_rows`. `solver`
    is what training integrates with: as published dopri5 with 1e-5, one error norm over the batch, and the adjoint.
    `sampling` is for likelihoods, samples and edits: equal steps, so that a sample does not depend on its batch (the
    published dopri5 there couples it within the tolerance). The trace is estimated with one normal probe per solve, or
    with `exact_trace` it is exact. Raises LaceError for settings that make no sense.
    """

    space = "w"
    kind = "styleflow"
    draws_with = ("sampling",)
    edit_options = FlowOptions

    def __init__(
        self,
        schema: Mapping[str, Any] | Schema,
        w_dim: int = 512,
        hidden: Sequence[int] = (512, 512, 512, 512, 512),
        blocks: int = 1,
        learning_rate: float = 1e-3,
        solver: Mapping[str, Any] | None = None,
        sampling: Mapping[str, Any] | None = None,
        exact_trace: bool = False,
        num_rows: int = 10_000,
        ranges: Mapping[str, Sequence[float]] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(Schema.of(schema))
        self.save_hyperparameters(
            {
                "schema": self.schema.to_config(),
                "w_dim": w_dim,
                "hidden": list(hidden),
                "blocks": blocks,
                "learning_rate": learning_rate,
                "solver": dict(solver or {}),
                "sampling": {"method": "rk4", "steps": 16, **(sampling or {})},
                "exact_trace": exact_trace,
                "num_rows": num_rows,
                "ranges": {name: list(pair) for name, pair in (ranges or {}).items()},
                "seed": seed,
            }
        )
        self.solver, self.sampling = Solver(**self.hparams["solver"]), Solver(**self.hparams["sampling"])
        self.conditions = LabelEncoding(self.schema, self.hparams["ranges"], num_rows)
        self.flow = FlowChain(w_dim, self.conditions.size, hidden, blocks)

    def training_step(self, batch: Sequence[Tensor], batch_index: int) -> Tensor:
        w, values, known = labelled_batch(batch)
        # A resumed run draws what it would have drawn.
        terms = ((100_003, self.global_rank), (1_000_003, self.global_step))
        random = step_generator("cpu", self.hparams["seed"], *terms)
        self.conditions.remember(values, known)
        rows = torch.randint(self.conditions.count, (len(w),), generator=random).to(w.device)
        code = self.conditions.numbers(self.conditions.filled(values, known, rows))
        probes = None if self.hparams["exact_trace"] else torch.randn(1, *w.shape, generator=random).to(w)
        loss = -self.flow.log_prob(w, code, self.solver, probes, learn=True).mean()
        advice = "use a smaller learning rate, or go on from a checkpoint before"
        require_bounded(self.global_step, advice, math.inf, the_loss=loss)
        if batch_index % 20 == 0:
            self.log("train/nll", loss.detach(), prog_bar=True)
        return loss

    def backward(self, loss: Tensor, *arguments: Any, **options: Any) -> None:
        with solving(f"the gradient of step {self.global_step}"):
            super().backward(loss, *arguments, **options)

    def _evaluate(self, batch: Sequence[Tensor], stage: str) -> None:
        w, values, known = labelled_batch(batch)
        codes = Labels(self.schema, values, known)
        nll = -self.log_prob(w, codes, torch.arange(len(codes), device=w.device))
        self.log(f"{stage}/nll", nll.mean(), batch_size=len(codes), sync_dist=True)

    def validation_step(self, batch: Sequence[Tensor], batch_index: int) -> None:
        # Before the training there is no row for what is not known.
        if not self.trainer.sanity_checking:
            self._evaluate(batch, "val")

    def test_step(self, batch: Sequence[Tensor], batch_index: int) -> None:
        self._evaluate(batch, "test")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["learning_rate"])

    @torch.no_grad()
    def log_prob(self, w: Tensor, codes: Labels, seeds: Tensor, exact: bool | None = None) -> Tensor:
        """Return log p(w|c) (B,) of w (B, Dw); with an `exact` trace, or one probe from each sample's seed (None: as in
        training).

        Where codes are not known they are those of a training row. Raises LaceError for codes that do not fit (see
        `checked`).
        """
        exact = self.hparams["exact_trace"] if exact is None else exact
        probes = None if exact else normal(seeds, w.shape[1:], Streams.TRACE_PROBE, w.device, w.dtype)[None]
        return self.flow.log_prob(w, self._numbers(codes, seeds), self.sampling, probes)

    @torch.no_grad()
    def sample(self, codes: Labels, seeds: Tensor, starts: Tensor | None = None) -> Sample:
        """Return w (B, Dw) = T_c⁻¹(z), z and what the codes leave free from the seeds; `starts` are not looked at: a
        flow begins at z.

        Sample i depends on its seed and code alone with fixed steps (see the class). `evaluations` counts those of F.
        Raises LaceError for codes that do not fit (see `checked`), and where something is free and no training row is
        there.
        """
        start = time.perf_counter()
        code = self._numbers(codes, seeds)
        z = normal(seeds, (self.flow.dim,), Streams.PRIOR, code.device, code.dtype)
        flowed = self.flow.decode(z, code, self.sampling)
        return Sample(finite(flowed.x), flowed.evaluations, time.perf_counter() - start)

    def _numbers(self, codes: Labels, seeds: Tensor) -> Tensor:
        """Return the conditions (B, C) of codes, filled where they are not known."""
        codes = self.checked(codes, seeds)
        return self.conditions.numbers(
            self.conditions.filled_by_seed(codes, seeds.to(self.device), Streams.CONDITION_ROW)
        )

    def edit(
        self,
        ws: Tensor,
        before: Labels,
        after: Labels,
        layers: Mapping[str, Sequence[int]] | None = None,
        overshoot: Mapping[str, float] | None = None,
    ) -> FlowEdited:
        """Return `ws` (B, L, Dw), whose attributes are `before`, with those changed that `after` knows, and
        `evaluations`.

        One edit of a `FlowStyleEditor`, which says the rest; it also makes several, one after the other.
        """
        editor = FlowStyleEditor(self, layers, overshoot)
        return editor.apply(editor.begin(ws, before), after)

    def editor(self, generator: Generator, labeler: Labeler, options: FlowOptions) -> FlowEditor:
        # Tables of all attributes say nothing of those that this flow was not trained on; names that nobody has are
        # refused before.
        layers = {name: chosen for name, chosen in (options.layers or {}).items() if name in self.schema.names}
        overshoot = dict(options.overshoot or {})
        if options.overshoot is PUBLISHED_OVERSHOOT:
            overshoot = {name: factor for name, factor in PUBLISHED_OVERSHOOT.items() if name in self.schema.names}
        return FlowEditor(FlowStyleEditor(self, layers, overshoot, options.reencode), generator, labeler)

    @classmethod
    def published(
        cls,
        path: str | os.PathLike[str],
        schema: Schema = PUBLISHED_SCHEMA,
        ranges: Mapping[str, Sequence[float]] = PUBLISHED_RANGES,
    ) -> StyleFlow:
        """Read published weights (modellarge10k.pt, or others of that program), frozen; nothing in the file is run.

        Sizes come from the file; the conditions of `schema` must be as many as its, in its order. Labels of training
        rows are not in it: without `conditions.remember` all codes must be known. Raises LaceError for a file that is
        none, and for other conditions.
        """
        state = {_renamed(name): value for name, value in read_state(path).items() if not name.endswith(COUNTERS)}
        widths = [
            value.shape[0]
            for name, value in state.items()
            if name.startswith("chain.1.") and name.endswith(".linear.weight")
        ]
        gate = state.get("chain.1.velocity.layers.0.gate.weight")
        if not widths or gate is None:
            raise LaceError(
                f"The file '{path}' must hold the state dict of a StyleFlow "
                f"(chain.1.odefunc.diffeq.layers.0._layer.weight, "
                f"...), and holds {', '.join(list(state)[:3])}: give flow_weight/modellarge10k.pt."
            )
        blocks = sum(name.endswith("sqrt_end_time") for name in state)
        result = cls(schema, widths[-1], widths[:-1], blocks, ranges=ranges)
        if gate.ndim != 2 or gate.shape[1] != 1 + result.conditions.size:
            raise LaceError(
                f"The weights '{path}' have {gate.shape[-1] - 1} conditions, and the schema '{schema.name}' has "
                f"{result.conditions.size} ({', '.join(schema.names)}): give the schema that they were trained on."
            )
        try:
            result.flow.load_state_dict(
                {name: value.reshape(()) if name.endswith("sqrt_end_time") else value for name, value in state.items()}
            )
        except RuntimeError as error:
            raise LaceError(
                f"The weights '{path}' must be those of a StyleFlow and are not "
                f"({' '.join(str(error).split())[:150]}): "
                "get the file again."
            ) from None
        return result.eval().requires_grad_(False)


def _renamed(name: str) -> str:
    for theirs, ours in RENAMED:
        name = name.replace(theirs, ours)
    return name
