"""Editing pictures step by step: "a bit older", then "and glasses", then take one back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..classifiers import AttributeClassifier
from ..energies import Anchor, Energy, Near, build
from ..errors import LaceError, suggest
from ..generators import Generator
from ..query import Query, atoms, parse
from ..samplers import Sampler
from ..schema import Schema

METHODS = ("sequential", "from_start", "posterior")


@dataclass(frozen=True)
class EditOptions:
    """How an edit is made.

    `sequential` is the paper's: from z_{k-1}, E = λ_prev Σ_{j<k} E(c_j|·) + λ_k E(c_k|·) + μ(‖z - z_{k-1}‖² + ‖w -
    w_{k-1}‖²) + γ Σ_{j unedited} ‖f_j - f_j(z_{k-1})‖², with μ = `proximity`, γ = `keep`, and weights of 1 unless
    `reweight`: then λ_prev = `previous_weight` and λ_k = `continuous_weight` or `discrete_weight`. `from_start` solves
    for all edits at once from the original z₀, held near that one (k-1 is 0 in the terms of μ and γ): their order does
    not matter, and nothing drifts. `posterior` looks for p(c|w) under the prior N(ρz₀, (1-ρ²)I) with ρ = `closeness`,
    starting at z₀ again. `weight` is the γ of p(c|w)^γ in all three: 1 is calibrated, 4 to 8 hold a doubtful classifier
    to its word. `layers` names the style layers that an edit of an attribute may change (subset selection); others keep
    their style.
    """

    method: str = "sequential"
    proximity: float = 0.04
    keep: float = 0.01
    reweight: bool = False
    previous_weight: float = 0.1
    continuous_weight: float = 10.0
    discrete_weight: float = 1.0
    closeness: float = 0.9
    weight: float = 1.0
    sigma: float = 0.1
    layers: Mapping[str, Sequence[int]] | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise LaceError(
                f"Editing knows the methods {', '.join(METHODS)}, received "
                f"'{self.method}'.{suggest(self.method, METHODS)}"
            )
        if not 0 <= self.closeness < 1:
            raise LaceError(
                f"closeness must be at least 0 and below 1, received {self.closeness}: at 1 nothing may change."
            )
        for name in ("proximity", "keep", "previous_weight", "continuous_weight", "discrete_weight", "weight"):
            if not getattr(self, name) >= 0:
                raise LaceError(f"{name} must be at least 0, received {getattr(self, name)}.")


class EditState(Protocol):
    """Styles ws (B, L, Dw) after some edits, the edits in force, evaluations per sample and seconds of the last one."""

    @property
    def ws(self) -> Tensor: ...

    @property
    def edits(self) -> tuple[Query, ...]: ...

    @property
    def evaluations(self) -> float: ...

    @property
    def seconds(self) -> float: ...


class StepEditor(Protocol):
    """What edits latents z (B, Dz) of a generator step by step: an `Editor` by a latent classifier, or what a model
    edits by.
    """

    def begin(self, z: Tensor) -> Any:
        """Return the `EditState` before any edit."""

    def apply(self, state: Any, edit: str | Query, seeds: Tensor | None = None) -> Any:
        """Return the `EditState` after one more edit, which replaces earlier ones of the same attributes."""


@dataclass(frozen=True)
class Edited:
    """Latents after some edits: z (B, Dz), styles ws (B, L, Dw), the edits in force, what the last one cost, and what
    was before.
    """

    z: Tensor
    ws: Tensor
    edits: tuple[Query, ...] = ()
    evaluations: float = 0.0
    seconds: float = 0.0
    previous: Edited | None = None

    def undo(self) -> Edited:
        """Return what was before the last edit, exactly. Raises LaceError where nothing was edited."""
        if self.previous is None:
            raise LaceError("There is no edit to undo.")
        return self.previous


class Editor:
    """Apply edits (`"age == 0.8"`, `"glasses == 1"`) to latents of a generator, one after the other.

    `editor.begin(z)` -> Edited; `editor.apply(state, "smile == 1")` -> Edited. An edit replaces earlier ones of the
    same attributes. Sample i depends on its own z and seed alone. Raises LaceError for a classifier of another
    generator or space x, and for style layers that the generator does not have.
    """

    def __init__(
        self,
        generator: Generator,
        classifier: AttributeClassifier,
        sampler: Sampler,
        options: EditOptions | None = None,
    ) -> None:
        classifier.check_generator(generator.digest_for(classifier.space))
        if classifier.space == "x":
            raise LaceError("Editing needs a classifier of latents (space w or z), received one of pictures (space x).")
        self.generator, self.classifier, self.sampler = generator, classifier, sampler
        self.options = options or EditOptions()
        check_layers(self.options.layers, generator, classifier.schema)

    def begin(self, z: Tensor) -> Edited:
        """Return the state before any edit, for latents z (B, Dz)."""
        with torch.no_grad():
            return Edited(z, self.generator.broadcast(self.generator.mapping(z)).clone())

    def apply(self, state: Edited, edit: str | Query, seeds: Tensor | None = None) -> Edited:
        """Return the state after one more edit; `seeds` (B,) is for samplers that draw noise."""
        query = parse_edit(edit, self.classifier.schema)
        edits = in_force(state.edits, query)
        sample_from, energy = self._energy(state, edits)
        sample = self.sampler(energy, sample_from, seeds=seeds)
        z = energy.point(sample.z) if isinstance(energy, Near) else sample.z
        with torch.no_grad():
            ws = self._styles(state, self.generator.broadcast(self.generator.mapping(z)), edits)
        return Edited(z, ws, edits, sample.evaluations, sample.seconds, state)

    def without(self, state: Edited, edit: str | Query, seeds: Tensor | None = None) -> Edited:
        """Return the state with an earlier edit taken out, whichever it was: the others are applied again from the
        start.
        """
        query = parse_edit(edit, self.classifier.schema)
        if query not in state.edits:
            raise LaceError(
                f"'{query}' is not among the edits in force ({', '.join(map(str, state.edits)) or 'none'})."
            )
        result = self.begin(_first(state).z)
        for other in state.edits:
            result = result if other == query else self.apply(result, other, seeds)
        return replace(result, previous=state)

    def _attribute_energy(self, query: Query) -> Energy:
        energy = self.classifier.energy(query, sigma=self.options.sigma)
        return energy if self.options.weight == 1 else self.options.weight * energy

    def _to_z(self, energy: Energy) -> Energy:
        return energy.pullback(self.generator.map_to(self.classifier.space))

    def _energy(self, state: Edited, edits: Sequence[Query]) -> tuple[Tensor, Energy]:
        """Return where to begin and what to descend, for edits of which the last is new."""
        o = self.options
        if o.method == "posterior":
            z0 = _first(state).z
            energy = self._to_z(_total([self._attribute_energy(edit) for edit in edits]))
            # The point z₀ itself is v = z₀·(1-ρ)/√(1-ρ²).
            return z0 * ((1 - o.closeness) / (1 - o.closeness**2) ** 0.5), Near(energy, z0, o.closeness)
        origin = (state if o.method == "sequential" else _first(state)).z
        return origin, self._held(origin, self._wanted(edits), _attributes(*edits))

    def _wanted(self, edits: Sequence[Query]) -> list[Energy]:
        """Return the energies of the edits, each with its weight."""
        o, energies = self.options, [self._attribute_energy(edit) for edit in edits]
        if not o.reweight:
            return energies
        continuous = any(atom.attribute.kind == "continuous" for atom in atoms(edits[-1].root))
        return [
            *(o.previous_weight * energy for energy in energies[:-1]),
            (o.continuous_weight if continuous else o.discrete_weight) * energies[-1],
        ]

    def _held(self, origin: Tensor, wanted: Sequence[Energy], touched: set[str]) -> Energy:
        """Return the energy of z: what is wanted, held near `origin` and near what it has of the attributes that are
        not touched.
        """
        o, schema, terms = self.options, self.classifier.schema, list(wanted)
        with torch.no_grad():
            w = self.generator.mapping(origin)
            before = self.classifier(w if self.classifier.space == "w" else origin)
        columns = [
            c
            for a in schema
            if a.name not in touched
            for c in range(schema.slices[a.name].start, schema.slices[a.name].stop)
        ]
        if o.keep and columns:
            terms.append(Anchor(before, o.keep, columns).pullback(self.classifier))
        if o.proximity and self.classifier.space == "w" and self.generator.has_w:
            terms.append(Anchor(w, o.proximity))
        energy = self._to_z(_total(terms))
        if o.proximity:
            energy = energy & Anchor(origin, o.proximity)
            if self.classifier.space == "z" and self.generator.has_w:
                energy = energy & Anchor(w, o.proximity).pullback(self.generator.mapping)
        return energy

    def _styles(self, state: Edited, after: Tensor, edits: Sequence[Query]) -> Tensor:
        """Take the new style in the layers of the edited attributes, the old one elsewhere.

        What is solved from the original latent changes the layers of all edits, on top of the original styles.
        """
        if self.options.method == "sequential":
            before, names = state.ws, _attributes(edits[-1])
        else:
            before, names = _first(state).ws, _attributes(*edits)
        layers = self.options.layers or {}
        if not names & set(layers):
            return after.clone()
        chosen = sorted({layer for name in names for layer in layers.get(name, range(self.generator.num_ws))})
        result = before.clone()
        result[:, chosen] = after[:, chosen]
        return result


def parse_edit(edit: str | Query, schema: Schema) -> Query:
    """Return the edit as a query. Raises LaceError for unknown attributes, values left free, and what can never be
    true.
    """
    query = parse(edit, schema) if isinstance(edit, str) else edit
    if query.free:
        raise LaceError(f"An edit says what it wants, and '{query}' leaves {', '.join(query.free)} free: give a value.")
    build(query)
    return query


def in_force(edits: Sequence[Query], query: Query) -> tuple[Query, ...]:
    """Return the edits in force after `query`, which replaces earlier ones of the same attributes."""
    return (*(earlier for earlier in edits if not _attributes(earlier) & _attributes(query)), query)


def check_layers(chosen: Mapping[str, Sequence[int]] | None, generator: Generator, schema: Schema) -> None:
    """Refuse (LaceError) style layers that the generator does not have, and layers of unknown attributes."""
    for name, layers in (chosen or {}).items():
        _ = schema[name]
        if not generator.has_layers:
            raise LaceError(
                f"Choosing style layers needs a generator that has them, and {type(generator).__name__} has one latent "
                f"for "
                "the whole picture: leave layers empty."
            )
        if not layers or not all(0 <= layer < generator.num_ws for layer in layers):
            raise LaceError(
                f"The style layers of '{name}' must lie in 0 to {generator.num_ws - 1}, received {list(layers)}."
            )


def _attributes(*queries: Query) -> set[str]:
    return {atom.attribute.name for query in queries for atom in atoms(query.root)}


def _first(state: Edited) -> Edited:
    while state.previous is not None:
        state = state.previous
    return state


def _total(terms: Sequence[Energy]) -> Energy:
    result = terms[0]
    for term in terms[1:]:
        result = result & term
    return result
