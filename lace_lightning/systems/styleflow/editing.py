"""Editing by a conditional flow: encode styles with the attributes that they have, decode with those that they shall
have.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Protocol

import torch
from torch import Tensor

from ...errors import LaceError
from ...generators import Generator
from ...labelers import Labeler
from ...pictures.convert import float_batches
from ...query import Query
from ...schema import Labels, Schema
from ...targets import wanted_labels
from ..editing import in_force, parse_edit
from ..label_encoding import LabelEncoding
from .network import FlowChain, Solver, finite

# What the published program multiplies a wanted change by, for its own weights; 1 for what is not named.
PUBLISHED_OVERSHOOT = {"gender": 1.5, "glasses": 2.5, "bald": 2.0, "beard": 1.7, "age": 0.93}


@dataclass(frozen=True)
class FlowOptions:
    """How a flow edits: the arguments of a `FlowStyleEditor`, with "published" for PUBLISHED_OVERSHOOT.

    Raises LaceError for factors that are no finite numbers.
    """

    layers: Mapping[str, Sequence[int]] | None = None
    overshoot: Mapping[str, float] | Any = None
    reencode: bool = True

    def __post_init__(self) -> None:
        if self.overshoot == "published":
            object.__setattr__(self, "overshoot", PUBLISHED_OVERSHOOT)
        given = {} if self.overshoot is None else self.overshoot
        if not isinstance(given, Mapping) or not all(
            isinstance(factor, (int, float)) and isfinite(factor) for factor in given.values()
        ):
            raise LaceError(f"overshoot must be factors, {{gender: 1.5}}, published or null, received '{given}'.")


@dataclass(frozen=True)
class FlowEdited:
    """Styles ws (B, L, Dw) after some edits, the conditions (B, C) that they have now and had at first, what the last
    edit cost.

    `z` (B, L, Dw) is what was decoded, None before any edit; `evaluations` are those of F per sample. `edits` are those
    in force, where they were made by words.
    """

    ws: Tensor
    codes: Tensor
    original: Tensor
    z: Tensor | None = None
    evaluations: float = 0.0
    seconds: float = 0.0
    edits: tuple[Query, ...] = ()


class ConditionalFlow(Protocol):
    """A flow of styles with conditions, as StyleFlow has it."""

    schema: Schema
    flow: FlowChain
    conditions: LabelEncoding
    sampling: Solver

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def check_query(self, query: Query) -> None:
        """Refuse (LaceError) a query that the flow cannot draw."""

    def checked(self, codes: Labels) -> Labels:
        """Return labels of the flow's schema."""


class FlowStyleEditor:
    """Edit styles ws (B, L, Dw) by a flow: z = T_c(ws), then T_c'⁻¹(z) in the style layers that carry an edited
    attribute.

    c' is c₀ + d·(wanted - c₀) for edited attributes, with the conditions c₀ before any edit and d from `overshoot`
    {name: factor}, 1 where it is not named; other attributes keep their c, edited before or not. `layers` {name: style
    layers} is the subset selection: attributes without an entry change all layers, and what no edited attribute changes
    stays as it is, bit by bit. With `reencode` every edit encodes the styles that the last one left; without, all edits
    decode the first z. The paper's V2 has `layers` and `reencode`, its V1 neither. Sample i depends on its styles and
    labels alone with fixed steps (see `StyleFlow`). Raises LaceError for unknown names.
    """

    def __init__(
        self,
        model: ConditionalFlow,
        layers: Mapping[str, Sequence[int]] | None = None,
        overshoot: Mapping[str, float] | None = None,
        reencode: bool = True,
    ) -> None:
        self.model, self.layers, self.reencode = model, dict(layers or {}), reencode
        factors = torch.ones(1, len(model.schema))
        for name, factor in (overshoot or {}).items():
            factors[:, model.schema.index(name)] = factor
        self.overshoot = model.conditions.spread(factors.to(model.device))
        for name in self.layers:
            _ = model.schema[name]

    def begin(self, ws: Tensor, before: Labels) -> FlowEdited:
        """Return the state before any edit of styles ws (B, L, Dw), whose attributes are `before`, all of them known
        (LaceError).
        """
        before = self.model.checked(before)
        if ws.ndim != 3 or ws.shape[-1] != self.model.flow.dim or len(ws) != len(before):
            raise LaceError(
                f"An edit begins with styles ({len(before)}, L, {self.model.flow.dim}), received {tuple(ws.shape)}: "
                f"give the "
                "generator's broadcast of w, one row for each label."
            )
        decided = before.known.all(0).tolist()
        if not all(decided):
            missing = [name for name, known in zip(self.model.schema.names, decided, strict=True) if not known]
            raise LaceError(
                f"An edit must know what there is before it, and {', '.join(missing)} is not known: measure it."
            )
        code = self.model.conditions.numbers(before.values)
        return FlowEdited(ws, code, code)

    @torch.no_grad()
    def apply(self, state: FlowEdited, after: Labels) -> FlowEdited:
        """Return the state after one more edit, of what `after` knows. Raises LaceError for labels and layers that do
        not fit.
        """
        start = time.perf_counter()
        model, after = self.model, self.model.checked(after)
        chosen = self._chosen(after.known, state.ws.shape[1])
        wanted = model.conditions.numbers(torch.where(after.known, after.values, 0.0))
        codes = torch.where(
            model.conditions.spread(after.known), torch.lerp(state.original, wanted, self.overshoot), state.codes
        )
        z, evaluations = state.z, 0
        if z is None or self.reencode:
            encoded = model.flow.encode(state.ws, state.codes[:, None], model.sampling)
            z, evaluations = encoded.x, encoded.evaluations
        decoded = model.flow.decode(z, codes[:, None], model.sampling)
        ws = torch.where(chosen[:, :, None], finite(decoded.x), state.ws)
        if ws.is_cuda:
            torch.cuda.synchronize(ws.device)
        return replace(
            state,
            ws=ws,
            codes=codes,
            z=z,
            evaluations=float(evaluations + decoded.evaluations),
            seconds=time.perf_counter() - start,
        )

    def _chosen(self, edited: Tensor, num_ws: int) -> Tensor:
        """Return which style layers (B, L) may change where attributes `edited` (B, K) do."""
        allowed = torch.ones(len(self.model.schema), num_ws, dtype=torch.bool)
        for name, chosen in self.layers.items():
            if not chosen or not all(0 <= layer < num_ws for layer in chosen):
                raise LaceError(f"The style layers of '{name}' must lie in 0 to {num_ws - 1}, received {list(chosen)}.")
            row = allowed[self.model.schema.index(name)]
            row[:] = False
            row[list(chosen)] = True
        return (edited[:, :, None] & allowed.to(edited.device)).any(1)


class FlowEditor:
    """Edit latents of a generator by a flow and words (`"age == 0.8"`, `"glasses == 1"`), one edit after the other.

    `editor.begin(z)` -> FlowEdited; `editor.apply(state, "smile == 1")` -> FlowEdited. An edit replaces earlier ones of
    the same attributes. What a picture has before any edit is what `labeler` decides, also where it would abstain; that
    costs no evaluations. Raises LaceError for edits that are no conjunction of ==, and for a labeler that does not know
    the flow's attributes.
    """

    def __init__(self, editor: FlowStyleEditor, generator: Generator, labeler: Labeler) -> None:
        self.editor, self.generator, self.labeler = editor, generator, labeler

    @torch.no_grad()
    def begin(self, z: Tensor) -> FlowEdited:
        """Return the state before any edit, for latents z (B, Dz)."""
        ws = self.generator.broadcast(self.generator.mapping(z)).clone()
        logits = torch.cat([self.labeler(part) for part in float_batches(self.generator.pictures(ws))])
        return self.editor.begin(ws, self.labeler.schema.decode(logits).part(self.editor.model.schema))

    def apply(self, state: FlowEdited, edit: str | Query, seeds: Tensor | None = None) -> FlowEdited:
        """Return the state after one more edit; a flow draws nothing, and does not look at `seeds`."""
        query = parse_edit(edit, self.editor.model.schema)
        self.editor.model.check_query(query)
        after = wanted_labels(query, len(state.ws), None).part(self.editor.model.schema)
        return replace(self.editor.apply(state, after), edits=in_force(state.edits, query))
