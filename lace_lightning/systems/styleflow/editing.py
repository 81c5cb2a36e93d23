"""Editing by a conditional flow: encode styles with their attributes, decode them with the wanted attributes."""

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

# Factors of wanted changes in the published program, for its own weights; 1 for other attributes.
PUBLISHED_OVERSHOOT = {"gender": 1.5, "glasses": 2.5, "bald": 2.0, "beard": 1.7, "age": 0.93}


@dataclass(frozen=True)
class FlowOptions:
    """Options of an edit by a flow, as `FlowStyleEditor` takes them.

    Args:
        layers: style layers that an edit may change, by attribute; attributes without an entry change all layers. None
            for no entries.
        overshoot: factors of the wanted changes, by attribute, finite; "published" for those of the published program;
            None for 1.
        reencode: whether every edit encodes the styles that the last one left; else all edits decode the first z.

    Raises:
        LaceError: for factors that are no finite numbers.

    Example:
        >>> FlowOptions(overshoot="published").overshoot["gender"]
        1.5
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
    """Styles after some edits by a flow, with their conditions and the cost of the last edit.

    Args:
        ws: styles (B, L, Dw).
        codes: conditions (B, C) of the styles.
        original: conditions (B, C) before any edit.
        z: encoded styles (B, L, Dw) that the last edit decoded; None before any edit.
        evaluations: evaluations of F per sample in the last edit.
        seconds: wall time of the last edit.
        edits: edits in force, where they were given as queries.

    Example:
        >>> import torch
        >>> FlowEdited(torch.zeros(2, 3, 4), torch.zeros(2, 1), torch.zeros(2, 1)).edits
        ()
    """

    ws: Tensor
    codes: Tensor
    original: Tensor
    z: Tensor | None = None
    evaluations: float = 0.0
    seconds: float = 0.0
    edits: tuple[Query, ...] = ()


class ConditionalFlow(Protocol):
    """Protocol of a flow of styles with conditions, such as `StyleFlow`.

    Example:
        >>> from lace_lightning.schema import Attribute, Schema
        >>> from lace_lightning.systems.styleflow.model import StyleFlow
        >>> flow: ConditionalFlow = StyleFlow(Schema("s", (Attribute("hat"),)), w_dim=4, hidden=[8])
        >>> flow.conditions.size
        1
    """

    schema: Schema
    flow: FlowChain
    conditions: LabelEncoding
    sampling: Solver

    @property
    def device(self) -> torch.device:
        """The device of the weights."""

    def check_query(self, query: Query) -> None:
        """Refuse a query that the flow cannot draw.

        Raises:
            LaceError: for such a query.
        """

    def checked(self, codes: Labels) -> Labels:
        """Return labels (B, K) of the flow's schema on its device."""


class FlowStyleEditor:
    """Edit styles ws (B, L, Dw) by a flow: z = T_c(ws), then T_c'⁻¹(z) in the style layers of the edited attributes.

    For an edited attribute c' is c₀ + d·(wanted - c₀), with the conditions c₀ before any edit and the factor d of
    `overshoot`. Other attributes keep their c, whether they were edited before or not. Style layers of no edited
    attribute stay equal bit by bit. With fixed steps (see `StyleFlow`) sample i depends on its own styles and labels
    alone.

    Args:
        model: the flow.
        layers: style layers that an edit may change, by attribute (subset selection); attributes without an entry
            change all layers.
        overshoot: factors d, by attribute; 1 for attributes without an entry.
        reencode: whether every edit encodes the styles that the last one left; else all edits decode the first z.

    Raises:
        LaceError: for unknown names of attributes.

    References:
        Abdal et al., StyleFlow, 2021. The paper's StyleFlow V2 has `layers` and `reencode`, its V1 has neither.

    Example:
        >>> import torch
        >>> from lace_lightning.schema import Attribute, Labels, Schema
        >>> from lace_lightning.systems.styleflow.model import StyleFlow
        >>> schema = Schema("s", (Attribute("hat"),))
        >>> editor = FlowStyleEditor(StyleFlow(schema, w_dim=4, hidden=[8]), layers={"hat": [0]})
        >>> before = editor.begin(torch.zeros(2, 3, 4), Labels.constant(schema, 2, hat=0.0))
        >>> after = editor.apply(before, Labels.constant(schema, 2, hat=1.0))
        >>> torch.equal(after.ws[:, 1:], before.ws[:, 1:])
        True
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
        """Return the state before any edit.

        Args:
            ws: styles (B, L, Dw).
            before: the attributes of the styles, all of them known, B rows.

        Raises:
            LaceError: for styles of another shape, and for attributes that are not known.
        """
        before = self.model.checked(before)
        if ws.ndim != 3 or ws.shape[-1] != self.model.flow.dim or len(ws) != len(before):
            raise LaceError(
                f"An edit begins with styles ({len(before)}, L, {self.model.flow.dim}), received {tuple(ws.shape)}: "
                "give the generator's broadcast of w, one row for each label."
            )
        decided = before.known.all(0).tolist()
        if not all(decided):
            missing = [name for name, known in zip(self.model.schema.names, decided, strict=True) if not known]
            raise LaceError(
                f"An edit needs every attribute before it, and {', '.join(missing)} is not known: measure it."
            )
        code = self.model.conditions.numbers(before.values)
        return FlowEdited(ws, code, code)

    @torch.no_grad()
    def apply(self, state: FlowEdited, after: Labels) -> FlowEdited:
        """Return the state after one more edit.

        Args:
            state: the state before the edit.
            after: the wanted attributes, B rows; those that are not known are not edited.

        Raises:
            LaceError: for labels and style layers that do not fit, and for latents that are not finite.
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
        """Return which style layers (B, L) may change when attributes `edited` (B, K) do."""
        allowed = torch.ones(len(self.model.schema), num_ws, dtype=torch.bool)
        for name, chosen in self.layers.items():
            if not chosen or not all(0 <= layer < num_ws for layer in chosen):
                raise LaceError(
                    f"The style layers of '{name}' must lie in 0 to {num_ws - 1}, received {list(chosen)}: correct "
                    "them."
                )
            row = allowed[self.model.schema.index(name)]
            row[:] = False
            row[list(chosen)] = True
        return (edited[:, :, None] & allowed.to(edited.device)).any(1)


class FlowEditor:
    """Edit latents of a generator by a flow and queries (`"age == 0.8"`, `"glasses == 1"`), one edit after the other.

    `editor.begin(z)` -> FlowEdited; `editor.apply(state, "smile == 1")` -> FlowEdited. An edit replaces earlier ones of
    the same attributes. The attributes before any edit are the labeler's decisions, also where it is below its
    confidence; they cost no evaluations.

    Args:
        editor: the editor of styles.
        generator: the generator.
        labeler: the network that labels the pictures before any edit.

    Example:
        >>> from lace_lightning.examples import tiny_generator, tiny_labeler, tiny_schema
        >>> import torch
        >>> from lace_lightning.systems.styleflow.model import StyleFlow
        >>> schema = tiny_schema()
        >>> generator = tiny_generator()
        >>> labeler = tiny_labeler()
        >>> flow = FlowStyleEditor(StyleFlow(schema, w_dim=4, hidden=[8]))
        >>> editor = FlowEditor(flow, generator, labeler)
        >>> state = editor.apply(editor.begin(torch.zeros(2, 4)), "hat == 1")
        >>> state.ws.shape, [str(edit) for edit in state.edits]
        (torch.Size([2, 1, 4]), ['hat == 1'])
    """

    def __init__(self, editor: FlowStyleEditor, generator: Generator, labeler: Labeler) -> None:
        self.editor, self.generator, self.labeler = editor, generator, labeler

    @torch.no_grad()
    def begin(self, z: Tensor) -> FlowEdited:
        """Return the state before any edit, for latents z (B, Dz).

        Raises:
            LaceError: when the labeler does not know the flow's attributes.
        """
        ws = self.generator.broadcast(self.generator.mapping(z)).clone()
        logits = torch.cat([self.labeler(part) for part in float_batches(self.generator.pictures(ws))])
        return self.editor.begin(ws, self.labeler.schema.decode(logits).part(self.editor.model.schema))

    def apply(self, state: FlowEdited, edit: str | Query, seeds: Tensor | None = None) -> FlowEdited:
        """Return the state after one more edit.

        Args:
            state: the state before the edit.
            edit: a conjunction of ==, as text or query.
            seeds: not used; a flow draws no random numbers.

        Raises:
            LaceError: for an edit that is no conjunction of ==, or of unknown attributes.
        """
        query = parse_edit(edit, self.editor.model.schema)
        self.editor.model.check_query(query)
        after = wanted_labels(query, len(state.ws), None).part(self.editor.model.schema)
        return replace(self.editor.apply(state, after), edits=in_force(state.edits, query))
