"""StyleFlow (Abdal et al., 2021): a continuous normalising flow between w and z, given attributes, that samples and edits."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..artifacts import load_tensors, save_tensors
from ..errors import LaceError
from ..samplers import Sample
from ..schema import Attribute, Labels, Schema
from ..seeds import normal
from ..unpickle.state import read_state
from .conditional import ConditionalModel
from .conditions import Conditions
from .styleflow_network import FlowChain, Solver, solving

# Uses of a sample's seed: 0 is z.
ROW_STREAM, PROBE_STREAM = 1, 2

# What the published weights are conditioned on, in their order: nine coefficients of the light, then attributes, of which yaw and pitch are
# in degrees and age in years; [0, 1] here is the extent of the published thousand people (of all coefficients together).
PUBLISHED_SCHEMA = Schema("styleflow", (
    *(Attribute(f"light{number}", "continuous") for number in range(9)), Attribute("gender"), Attribute("glasses"),
    *(Attribute(name, "continuous") for name in ("yaw", "pitch", "bald", "beard", "age", "smile"))))
PUBLISHED_RANGES = {**{f"light{number}": (-0.413, 1.215) for number in range(9)}, "yaw": (-42.7, 50.2), "pitch": (-27.1, 28.5),
                    "bald": (0.0, 0.98), "beard": (0.0, 0.9), "age": (0.0, 68.0)}
PUBLISHED_OVERSHOOT = {"gender": 1.5, "glasses": 2.5, "bald": 2.0, "beard": 1.7, "age": 0.93}
# How names of the published state dict are ours.
RENAMED = (("odefunc.diffeq.", "velocity."), ("._layer.", ".linear."), ("._hyper_bias.", ".shift."), ("._hyper_gate.", ".gate."))
COUNTERS = (".step", "._num_evals")


@dataclass(frozen=True)
class FlowEdited:
    """Styles ws (B, L, Dw) after some edits, conditions (B, C) that they have and had at first, and evaluations of the last edit."""

    ws: Tensor
    codes: Tensor
    original: Tensor
    z: Tensor | None = None
    evaluations: float = 0.0


class StyleFlow(ConditionalModel):
    """w = T_c⁻¹(z), z ~ N(0, I): normalisation, dx/dt = F(t, c, x), normalisation; trained by maximum likelihood of w given c.

    Conditions are the attributes as numbers: values as they are or scaled to `ranges` {name: (number for 0, number for 1)}, the class of two, one
    number per class of more (a class index is no quantity). Where labels are not known, in training or sampling, they are
    those of a training row that the sample's seed picks among the last `num_rows`. `solver` is what training integrates with (the
    published: dopri5, 1e-5, adjoint, one error norm over the batch), `sampling` what likelihoods, samples and edits do: fixed steps, so that a
    sample does not depend on its batch (method=dopri5 there is the published way, and couples the batch within its tolerance).
    The trace is estimated with one normal probe per solve, or is `exact_trace`. An edit goes `overshoot` {name: factor} times as far
    as asked for (1 where not named); with `reencode` (the paper's V2) the edited styles are encoded again before the next edit.
    Raises LaceError for settings that make no sense.
    """

    space = "w"
    overshoot: Tensor

    def __init__(self, schema: Mapping[str, Any] | Schema, w_dim: int = 512, hidden: Sequence[int] = (512, 512, 512, 512, 512),
                 blocks: int = 1, learning_rate: float = 1e-3, solver: Mapping[str, Any] | None = None,
                 sampling: Mapping[str, Any] | None = None, exact_trace: bool = False, num_rows: int = 10_000,
                 ranges: Mapping[str, Sequence[float]] | None = None, overshoot: Mapping[str, float] | None = None,
                 reencode: bool = True, seed: int = 0) -> None:
        config = schema.to_config() if isinstance(schema, Schema) else dict(schema)
        super().__init__(Schema.from_config(config))
        self.save_hyperparameters({
            "schema": config, "w_dim": w_dim, "hidden": list(hidden), "blocks": blocks, "learning_rate": learning_rate,
            "solver": dict(solver or {}), "sampling": {"method": "rk4", "steps": 16, **(sampling or {})}, "exact_trace": exact_trace,
            "num_rows": num_rows, "ranges": {name: list(pair) for name, pair in (ranges or {}).items()},
            "overshoot": dict(overshoot or {}), "reencode": reencode, "seed": seed})
        self.solver, self.sampling = Solver(**self.hparams["solver"]), Solver(**self.hparams["sampling"])
        self.conditions = Conditions(self.schema, self.hparams["ranges"], num_rows)
        self.flow = FlowChain(w_dim, self.conditions.size, hidden, blocks)
        factors = torch.ones(len(self.schema))
        for name, factor in self.hparams["overshoot"].items():
            factors[self.schema.index(name)] = factor
        self.register_buffer("overshoot", self.conditions.spread(factors[None])[0], persistent=False)

    def training_step(self, batch: Sequence[Tensor], batch_index: int) -> Tensor:
        w, values = batch[:2]
        known = batch[2] if len(batch) > 2 else torch.ones_like(values, dtype=torch.bool)
        # A resumed run draws what it would have drawn.
        random = torch.Generator().manual_seed((self.hparams["seed"] * 100_003 + self.global_rank) * 1_000_003 + self.global_step)
        self.conditions.remember(values, known)
        rows = torch.randint(self.conditions.count, (len(w),), generator=random).to(w.device)
        code = self.conditions.numbers(self.conditions.filled(values, known, rows))
        probes = None if self.hparams["exact_trace"] else torch.randn(1, *w.shape, generator=random).to(w)
        loss = -self.flow.log_prob(w, code, self.solver, probes, learn=True).mean()
        if not bool(loss.isfinite()):
            raise LaceError(f"The loss of the flow must stay finite and became {float(loss)} at step {self.global_step}: use a smaller "
                            "learning rate, or go on from a checkpoint before.")
        if batch_index % 20 == 0:
            self.log("train/nll", loss.detach(), prog_bar=True)
        return loss

    def backward(self, loss: Tensor, *arguments: Any, **options: Any) -> None:
        with solving(f"the gradient of step {self.global_step}"):
            super().backward(loss, *arguments, **options)

    def _evaluate(self, batch: Sequence[Tensor], stage: str) -> None:
        codes = Labels(self.schema, batch[1], batch[2] if len(batch) > 2 else None)
        nll = -self.log_prob(batch[0], codes, torch.arange(len(codes), device=batch[0].device))
        self.log(f"{stage}/nll", nll.mean(), batch_size=len(codes), sync_dist=True)

    def validation_step(self, batch: Sequence[Tensor], batch_index: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: Sequence[Tensor], batch_index: int) -> None:
        self._evaluate(batch, "test")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["learning_rate"])

    @torch.no_grad()
    def log_prob(self, w: Tensor, codes: Labels, seeds: Tensor, exact: bool | None = None) -> Tensor:
        """Return log p(w|c) (B,) of w (B, Dw); with an `exact` trace, or one probe from each sample's seed (None: as in training).

        Where codes are not known they are those of a training row. Raises LaceError for codes of another schema.
        """
        exact = self.hparams["exact_trace"] if exact is None else exact
        probes = None if exact else normal(seeds, w.shape[1:], PROBE_STREAM, w.device, w.dtype)[None]
        return self.flow.log_prob(w, self._numbers(codes, seeds), self.sampling, probes)

    @torch.no_grad()
    def sample(self, codes: Labels, seeds: Tensor, starts: Tensor | None = None) -> Sample:
        """Return w (B, Dw) = T_c⁻¹(z), z and what the codes leave free from the seeds; `starts` are not looked at: a flow begins at z.

        Sample i depends on its seed and code alone with fixed steps (see the class). `evaluations` counts those of F. Raises LaceError
        for codes of another schema, and where something is free and no training row is there.
        """
        start = time.perf_counter()
        code = self._numbers(codes, seeds)
        z = normal(seeds, (self.flow.dim,), 0, code.device, code.dtype)
        flowed = self.flow.decode(z, code, self.sampling)
        return Sample(_finite(flowed.x), flowed.evaluations, time.perf_counter() - start)

    def _numbers(self, codes: Labels, seeds: Tensor) -> Tensor:
        """Return the conditions (B, C) of codes, filled where they are not known."""
        codes = self._checked(codes)
        return self.conditions.numbers(self.conditions.filled_by_seed(codes, seeds.to(self.device), ROW_STREAM)).to(self.flow_dtype)

    def _checked(self, codes: Labels) -> Labels:
        ours, theirs = self.schema.attributes, codes.schema.attributes
        if len(ours) != len(theirs) or not all(a.name == b.name and a.agrees_with(b) for a, b in zip(ours, theirs, strict=True)):
            raise LaceError(f"The flow is conditioned on the schema '{self.schema.name}' ({', '.join(self.schema.names)}), and codes are of "
                            f"'{codes.schema.name}' ({', '.join(codes.schema.names)}): give codes of the flow's schema.")
        return codes.to(self.device)

    @property
    def flow_dtype(self) -> torch.dtype:
        return next(self.flow.parameters()).dtype

    def edit(self, ws: Tensor, before: Labels, after: Labels, layers: Mapping[str, Sequence[int]] | None = None) -> FlowEdited:
        """Return `ws` (B, L, Dw), whose attributes are `before`, with those that `after` knows changed, and `evaluations`.

        The first of possibly several edits: `begin`, then `apply`, which say the rest.
        """
        return self.apply(self.begin(ws, before), after, layers)

    def begin(self, ws: Tensor, before: Labels) -> FlowEdited:
        """Return the state before any edit of styles ws (B, L, Dw), whose attributes are `before`; all of them must be known (LaceError)."""
        before = self._checked(before)
        if ws.ndim != 3 or ws.shape[-1] != self.flow.dim or len(ws) != len(before):
            raise LaceError(f"An edit begins with styles ({len(before)}, L, {self.flow.dim}), received {tuple(ws.shape)}: give the "
                            "generator's broadcast of w, one row for each label.")
        if not bool(before.known.all()):
            missing = [name for name, sure in zip(self.schema.names, before.known.all(0).tolist(), strict=True) if not sure]
            raise LaceError(f"An edit must know what there is before it, and {', '.join(missing)} is not known: measure it.")
        code = self.conditions.numbers(before.values).to(self.flow_dtype)
        return FlowEdited(ws, code, code)

    @torch.no_grad()
    def apply(self, state: FlowEdited, after: Labels, layers: Mapping[str, Sequence[int]] | None = None) -> FlowEdited:
        """Return the state after one more edit: z = T_c(ws), then T_c'⁻¹(z) in the style layers that carry an edited attribute.

        c' is c₀ + d·(`after` - c₀) where `after` is known, with the conditions c₀ before any edit and the overshoot d, and c elsewhere.
        `layers` {name: style layers} chooses (the published subset selection); attributes without an entry, and None, change all.
        Layers that are not chosen stay as they are, bit by bit. Raises LaceError for another schema, unknown names and layers.
        """
        after = self._checked(after)
        chosen = self._chosen(after.known, layers or {}, state.ws.shape[1])
        wanted = state.original + self.overshoot * (self.conditions.numbers(after.values * after.known) - state.original)
        codes = torch.where(self.conditions.spread(after.known), wanted, state.codes)
        z, evaluations = state.z, 0
        if z is None or self.hparams["reencode"]:
            encoded = self.flow.encode(state.ws, state.codes[:, None], self.sampling)
            z, evaluations = encoded.x, encoded.evaluations
        decoded = self.flow.decode(z, codes[:, None], self.sampling)
        ws = torch.where(chosen[:, :, None], _finite(decoded.x), state.ws)
        return replace(state, ws=ws, codes=codes, z=z, evaluations=float(evaluations + decoded.evaluations))

    def _chosen(self, edited: Tensor, layers: Mapping[str, Sequence[int]], num_ws: int) -> Tensor:
        """Return which style layers (B, L) may change where attributes `edited` (B, K) do."""
        allowed = torch.ones(len(self.schema), num_ws, dtype=torch.bool)
        for name, numbers in layers.items():
            if not numbers or not all(0 <= layer < num_ws for layer in numbers):
                raise LaceError(f"The style layers of '{name}' must lie in 0 to {num_ws - 1}, received {list(numbers)}.")
            row = allowed[self.schema.index(name)]
            row[:] = False
            row[list(numbers)] = True
        return (edited[:, :, None] & allowed.to(edited.device)).any(1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, moments, training rows and configuration as safetensors, atomically."""
        save_tensors(path, self.state_dict(), {"kind": "styleflow", "settings": dict(self.hparams)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> StyleFlow:
        """Read what `save` wrote, ready for use (frozen). Raises LaceError for missing, damaged or other weights."""
        tensors, config = load_tensors(path)
        if config.get("kind") != "styleflow":
            raise LaceError(f"The weights '{path}' must be a StyleFlow and are of kind '{config.get('kind')}'.")
        result = cls(**config["settings"])
        result.load_state_dict(tensors)
        return result.eval().requires_grad_(False)

    @classmethod
    def published(cls, path: str | os.PathLike[str], schema: Schema = PUBLISHED_SCHEMA,
                  ranges: Mapping[str, Sequence[float]] | None = None, overshoot: Mapping[str, float] | None = None) -> StyleFlow:
        """Read published weights (modellarge10k.pt, or others of that program), frozen; nothing in the file is run.

        Sizes come from the file; the conditions of `schema` must be as many as its, in its order. `ranges` and `overshoot` are the
        published ones unless given. Labels of training rows are not in the file: without `conditions.remember` all codes must be
        known. Raises LaceError for a file that is none, and for another number of conditions.
        """
        state = {_renamed(name): value for name, value in read_state(path).items() if not name.endswith(COUNTERS)}
        widths = [value.shape[0] for name, value in state.items() if name.startswith("chain.1.") and name.endswith(".linear.weight")]
        gate = state.get("chain.1.velocity.layers.0.gate.weight")
        if not widths or gate is None:
            raise LaceError(f"The file '{path}' must hold the state dict of a StyleFlow (chain.1.odefunc.diffeq.layers.0._hyper_gate.weight, "
                            f"...), and holds {', '.join(list(state)[:3])}: give flow_weight/modellarge10k.pt.")
        blocks = sum(name.endswith("sqrt_end_time") for name in state)
        result = cls(schema, widths[-1], widths[:-1], blocks, ranges=PUBLISHED_RANGES if ranges is None else ranges,
                     overshoot=PUBLISHED_OVERSHOOT if overshoot is None else overshoot)
        if gate.ndim != 2 or gate.shape[1] != 1 + result.conditions.size:
            raise LaceError(f"The weights '{path}' have {gate.shape[-1] - 1} conditions, and the schema '{schema.name}' has "
                            f"{result.conditions.size} ({', '.join(schema.names)}): give the schema that they were trained on.")
        try:
            result.flow.load_state_dict({name: value.reshape(()) if name.endswith("sqrt_end_time") else value
                                         for name, value in state.items()})
        except RuntimeError as error:
            raise LaceError(f"The weights '{path}' must be those of a StyleFlow and are not ({' '.join(str(error).split())[:160]}): get the "
                            "file again.") from None
        return result.eval().requires_grad_(False)


def _renamed(name: str) -> str:
    for theirs, ours in RENAMED:
        name = name.replace(theirs, ours)
    return name


def _finite(w: Tensor) -> Tensor:
    bad = (~w.isfinite().flatten(1).all(1)).nonzero()[:, 0].tolist()
    if bad:
        raise LaceError(f"The latents of a flow must be finite and those of samples {bad[:5]} are not: train with a smaller learning rate, or "
                        "sample with more steps.")
    return w
