"""StyleFlow (Abdal et al., 2021): a conditional normalising flow between w and z, for sampling and editing."""

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

# Conditions of the published weights, in their order: nine coefficients of the light, then attributes. Yaw and pitch
# are in degrees there, age is in years. The ranges below, their numbers for 0 and 1 here, are the extremes over the
# published thousand people (for the light: over all coefficients together).
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
# Names in the published state dict, and the names here.
RENAMED = (
    ("odefunc.diffeq.", "velocity."),
    ("._layer.", ".linear."),
    ("._hyper_bias.", ".shift."),
    ("._hyper_gate.", ".gate."),
)
COUNTERS = (".step", "._num_evals")


class StyleFlow(ConditionalModel):
    """StyleFlow: w = T_c⁻¹(z) with z ~ N(0, I), trained by maximum likelihood of w given conditions c.

    T_c is a normalisation, a flow dx/dt = F(t, c, x), and a normalisation. Conditions are the attributes as numbers: a
    continuous value as it is or scaled to its range, the class of two, and one number per class of more, because a
    class index is no quantity. Labels that are not known are taken from a training row, which is random in training and
    picked by the sample's seed in sampling. With fixed steps in `sampling` sample i depends on its own seed and code
    alone.

    Args:
        schema: the attributes that the model knows.
        w_dim: size of w.
        hidden: sizes between the layers of F, any number of them.
        blocks: number of flows, at least 1.
        learning_rate: learning rate of Adam, above 0.
        solver: settings of the `Solver` of the training; by default as published dopri5 with tolerances of 1e-5, one
            error norm over the batch, and the adjoint equation.
        sampling: settings of the `Solver` of likelihoods, samples and edits; rk4 with 16 steps by default. The
            published dopri5 makes a sample depend on its batch within the tolerance.
        exact_trace: whether the trace is exact; else it is estimated with one normal probe for each solve.
        num_rows: number of the last training rows whose labels are kept, at least 1.
        ranges: for continuous attributes, by name: the two different numbers that stand for 0 and 1; others stay in [0,
            1].
        seed: the seed of the training's random numbers.

    Raises:
        LaceError: for settings out of range, and for ranges of unknown or discrete attributes.

    References:
        Abdal, Zhu, Mitra and Wonka, StyleFlow, ACM Transactions on Graphics 2021.

    Example:
        >>> import torch
        >>> from lace_lightning.schema import Attribute, Labels, Schema
        >>> schema = Schema("s", (Attribute("hat"), Attribute("age", "continuous")))
        >>> flow = StyleFlow(schema, w_dim=4, hidden=[8])
        >>> codes = Labels.constant(schema, 3, hat=1.0, age=0.5)
        >>> flow.sample(codes, torch.arange(3)).z.shape
        torch.Size([3, 4])
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
        """Return the negative log-likelihood of a batch, averaged over its latents."""
        w, values, known = labelled_batch(batch)
        # The numbers depend on the step alone, so that a resumed training draws the same ones.
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
        """Compute the gradients, with one sentence for a solver that fails."""
        with solving(f"the gradient of step {self.global_step}"):
            super().backward(loss, *arguments, **options)

    def _evaluate(self, batch: Sequence[Tensor], stage: str) -> None:
        w, values, known = labelled_batch(batch)
        codes = Labels(self.schema, values, known)
        nll = -self.log_prob(w, codes, torch.arange(len(codes), device=w.device))
        self.log(f"{stage}/nll", nll.mean(), batch_size=len(codes), sync_dist=True)

    def validation_step(self, batch: Sequence[Tensor], batch_index: int) -> None:
        """Log the negative log-likelihood of a validation batch."""
        # Before the training no row is kept that could fill labels that are not known.
        if not self.trainer.sanity_checking:
            self._evaluate(batch, "val")

    def test_step(self, batch: Sequence[Tensor], batch_index: int) -> None:
        """Log the negative log-likelihood of a test batch."""
        self._evaluate(batch, "test")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.hparams["learning_rate"])

    @torch.no_grad()
    def log_prob(self, w: Tensor, codes: Labels, seeds: Tensor, exact: bool | None = None) -> Tensor:
        """Return log p(w|c) (B,) of latents.

        Args:
            w: latents (B, Dw).
            codes: labels (B, K); those that are not known are taken from a training row.
            seeds: one seed a sample (B,) int64, for its probe and its training row.
            exact: whether the trace is exact; None for the setting of the training.

        Raises:
            LaceError: for codes that do not fit, see `checked`.
        """
        exact = self.hparams["exact_trace"] if exact is None else exact
        probes = None if exact else normal(seeds, w.shape[1:], Streams.TRACE_PROBE, w.device, w.dtype)[None]
        return self.flow.log_prob(w, self._numbers(codes, seeds), self.sampling, probes)

    @torch.no_grad()
    def sample(self, codes: Labels, seeds: Tensor, starts: Tensor | None = None) -> Sample:
        """Return latents w = T_c⁻¹(z) with the attributes that the codes ask for.

        Args:
            codes: labels (B, K); attributes that are not known are taken from a training row.
            seeds: one seed a sample (B,) int64, for z and the training row.
            starts: not used; a flow begins at z.

        Returns:
            Latents `z` (B, Dw), with evaluations of F.

        Raises:
            LaceError: for codes that do not fit, see `checked`, for free attributes that no training row knows, and for
                latents that are not finite.
        """
        start = time.perf_counter()
        code = self._numbers(codes, seeds)
        z = normal(seeds, (self.flow.dim,), Streams.PRIOR, code.device, code.dtype)
        flowed = self.flow.decode(z, code, self.sampling)
        return Sample(finite(flowed.x), flowed.evaluations, time.perf_counter() - start)

    def _numbers(self, codes: Labels, seeds: Tensor) -> Tensor:
        """Return the conditions (B, C) of codes, filled from training rows where they are not known."""
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
        """Return the result of one edit of styles; a `FlowStyleEditor` makes several, one after the other.

        Args:
            ws: styles (B, L, Dw).
            before: the attributes that the styles have, all of them known, B rows.
            after: the attributes that they should have, B rows; those that are not known stay.
            layers: style layers that an edit may change, by attribute; None for all.
            overshoot: factors of the wanted changes, by attribute; None for 1.

        Raises:
            LaceError: for labels, layers and names that do not fit.
        """
        editor = FlowStyleEditor(self, layers, overshoot)
        return editor.apply(editor.begin(ws, before), after)

    def editor(self, generator: Generator, labeler: Labeler, options: FlowOptions) -> FlowEditor:
        """Return the editor of a generator's latents; `labeler` labels the pictures before any edit."""
        # Layers and factors of attributes that this flow was not trained on are left out. Names that are in no schema
        # are refused earlier.
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
        """Return StyleFlow with published weights (modellarge10k.pt, or another file of that program), frozen.

        The file is read as data and never executed. Sizes come from the file. It does not hold labels of training rows:
        without `conditions.remember` all codes must be known.

        Args:
            path: file of the weights.
            schema: the attributes of the weights' conditions, in their order.
            ranges: numbers for 0 and 1 of continuous attributes, by name.

        Raises:
            LaceError: for a file that is no StyleFlow, and for another number of conditions.
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
                f"(chain.1.odefunc.diffeq.layers.0._layer.weight, ...), "
                f"and holds {', '.join(list(state)[:3])}: give flow_weight/modellarge10k.pt."
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
                f"({' '.join(str(error).split())[:150]}): get the file again."
            ) from None
        return result.eval().requires_grad_(False)


def _renamed(name: str) -> str:
    for theirs, ours in RENAMED:
        name = name.replace(theirs, ours)
    return name
