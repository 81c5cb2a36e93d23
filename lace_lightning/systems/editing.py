"""Editing of latents step by step: each edit is a query, replaces earlier ones of its attributes, and can be undone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from ..classifiers import AttributeClassifier
from ..energies import Affine, Anchor, Energy, Near, build
from ..errors import LaceError, no_edits, suggest
from ..generators import Generator
from ..generators.whitening import Whitening
from ..query import Query, atoms, parse
from ..samplers import Sampler
from ..schema import Schema

METHODS = ("sequential", "from_start", "posterior")


@dataclass(frozen=True)
class EditOptions:
    """Options of an edit by a latent classifier.

    Method `sequential` is the paper's. From z_{k-1} it descends E = λ_prev Σ_{j<k} E(c_j|·) + λ_k E(c_k|·) + μ(‖z -
    z_{k-1}‖² + ‖w - w_{k-1}‖²) + γ Σ_{j unedited} ‖f_j - f_j(z_{k-1})‖². Method `from_start` solves for all edits at
    once from the original z₀, with z₀ in place of z_{k-1}: the order of edits does not matter, and errors do not add
    up. Method `posterior` samples p(c|w) under the prior N(ρz₀, (1-ρ²)I), from z₀ on.

    Args:
        method: sequential, from_start or posterior.
        proximity: μ, the weight of the squared distances of z and w to those before the edit, 0 or more.
        keep: γ, the weight of the squared change of the logits of unedited attributes, 0 or more.
        reweight: whether earlier edits have the weight λ_prev and the new one λ_k; else both are 1.
        previous_weight: λ_prev, the weight of earlier edits with `reweight`, 0 or more.
        continuous_weight: λ_k, the weight of a new edit of continuous attributes with `reweight`, 0 or more.
        discrete_weight: λ_k, the weight of a new edit of discrete attributes with `reweight`, 0 or more.
        closeness: ρ of the method posterior, at least 0 (ignores the original latent) and below 1 (stays near it).
        weight: exponent of p(c|w) in all methods, 0 or more; 1 is calibrated, 4 to 8 make the edit more certain.
        sigma: error of continuous attributes, above 0.
        layers: style layers that an edit may change, by attribute (subset selection); None for all.

    Raises:
        LaceError: for an unknown method, and for values out of range.

    References:
        Sequential editing, reweighting and subset selection of LACE (arXiv 2110.10873).

    Example:
        >>> EditOptions(reweight=True).continuous_weight
        10.0
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
                f"The method of an edit must be one of {', '.join(METHODS)}, received "
                f"'{self.method}'.{suggest(self.method, METHODS)}"
            )
        if not 0 <= self.closeness < 1:
            raise LaceError(
                f"closeness must be at least 0 and below 1, received {self.closeness}: at 1 nothing can change."
            )
        for name in ("proximity", "keep", "previous_weight", "continuous_weight", "discrete_weight", "weight"):
            if not getattr(self, name) >= 0:
                raise LaceError(f"{name} must be at least 0, received {getattr(self, name)}: 0 switches it off.")


class EditState(Protocol):
    """Protocol of the state after some edits, such as `Edited`.

    Example:
        >>> import torch
        >>> state: EditState = Edited(torch.zeros(2, 4), torch.zeros(2, 3, 4))
        >>> state.edits
        ()
    """

    @property
    def ws(self) -> Tensor:
        """The styles (B, L, Dw)."""

    @property
    def edits(self) -> tuple[Query, ...]:
        """The edits in force."""

    @property
    def evaluations(self) -> float:
        """Evaluations per sample in the last edit."""

    @property
    def seconds(self) -> float:
        """Wall time of the last edit, in seconds."""


class StepEditor(Protocol):
    """Protocol of editors of latents z (B, Dz) of a generator: `Editor`, or the editor of a model.

    Example:
        >>> import torch
        >>> class Nothing:
        ...     def begin(self, z):
        ...         return Edited(z, z[:, None])
        ...
        ...     def apply(self, state, edit, seeds=None):
        ...         return state
        >>> editor: StepEditor = Nothing()
        >>> editor.begin(torch.zeros(2, 4)).ws.shape
        torch.Size([2, 1, 4])
    """

    def begin(self, z: Tensor) -> Any:
        """Return the `EditState` before any edit."""

    def apply(self, state: Any, edit: str | Query, seeds: Tensor | None = None) -> Any:
        """Return the `EditState` after one more edit, which replaces earlier ones of the same attributes."""


@dataclass(frozen=True)
class Edited:
    """Latents after some edits, with the cost of the last edit and the state before it.

    Args:
        z: latents (B, Dz); None where the styles alone are known.
        ws: styles (B, L, Dw).
        edits: edits in force.
        evaluations: gradient evaluations per sample in the last edit.
        seconds: wall time of the last edit.
        previous: the state before the last edit, None before any edit.

    Example:
        >>> import torch
        >>> before = Edited(torch.zeros(2, 4), torch.zeros(2, 3, 4))
        >>> Edited(torch.ones(2, 4), torch.ones(2, 3, 4), previous=before).undo() is before
        True
    """

    z: Tensor | None
    ws: Tensor
    edits: tuple[Query, ...] = ()
    evaluations: float = 0.0
    seconds: float = 0.0
    previous: Edited | None = None

    def undo(self) -> Edited:
        """Return the state before the last edit.

        Raises:
            LaceError: when there was no edit.
        """
        if self.previous is None:
            raise LaceError("There is no edit to undo: apply one first.")
        return self.previous


@dataclass(frozen=True)
class _Problem:
    """What a sampler is given for one edit, and how its result becomes latents.

    Args:
        start: starting points (B, D).
        energy: the energy of points (B, D).
        finish: function from the sampler's points to z (None for none) and styles (B, L, Dw).
    """

    start: Tensor
    energy: Energy
    finish: Callable[[Tensor], tuple[Tensor | None, Tensor]]


class Editor:
    """Apply edits (`"age == 0.8"`, `"glasses == 1"`) to latents of a generator, one after the other.

    `editor.begin(z)` -> Edited; `editor.apply(state, "smile == 1")` -> Edited. An edit replaces earlier ones of the
    same attributes. Sample i depends on its own z and seed alone.

    Styles without a z (w or w+ of an encoder or a projector) begin with `editor.begin_styles(ws)`, and are edited in w
    by a classifier of w. An edit adds one displacement d = A·v to the w of every layer of a set C (`options.layers`;
    all layers by default), where AAᵀ is the covariance of w under the prior. A term whose attributes lie in the
    layers S (again `options.layers`) is evaluated at the mean of the w of these layers: E(c | mean_S w_l + r·d) with
    r = |C ∩ S|/|S|. One displacement for all layers is no restriction: of all changes of the layers with one mean, the
    equal one has the smallest Σ‖d_l‖². For the same w in all layers the terms are those of w itself. v takes the place
    of z - z_{k-1}: the proximity term is μ(‖v‖² + ‖d‖²), samplers start at v = 0, and the method posterior has the
    prior N(ρu₀, (1-ρ²)I) of the whitened w, u₀ = A⁺(mean_C w_l - w̄).

    Args:
        generator: the generator.
        classifier: the latent classifier, of space z or w.
        sampler: the sampler of every edit's energy.
        options: options of the edits, None for the defaults.

    Raises:
        LaceError: for a classifier of another generator or of space x, and for style layers that the generator does not
            have.

    References:
        Sequential editing of LACE (arXiv 2110.10873).

    Example:
        >>> import torch
        >>> from lace_lightning.generators import ModuleGenerator
        >>> from lace_lightning.samplers import Heun
        >>> from lace_lightning.schema import Attribute, Schema
        >>> decoder = torch.nn.Sequential(torch.nn.Linear(4, 48), torch.nn.Tanh(), torch.nn.Unflatten(1, (3, 4, 4)))
        >>> generator = ModuleGenerator(decoder, 4, (3, 4, 4))
        >>> schema = Schema("s", (Attribute("hat"), Attribute("smile")))
        >>> classifier = AttributeClassifier(schema, "z", "mlp", {"input_dim": 4, "hidden": [8]})
        >>> editor = Editor(generator, classifier, Heun())
        >>> state = editor.apply(editor.apply(editor.begin(torch.zeros(2, 4)), "hat == 1"), "smile == 0")
        >>> [str(edit) for edit in state.edits], [str(edit) for edit in state.undo().edits]
        (['hat == 1', 'smile == 0'], ['hat == 1'])
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

    def begin_styles(self, w: Tensor) -> Edited:
        """Return the state before any edit, for w (B, Dw) or styles w+ (B, L, Dw) without a known z.

        Raises:
            LaceError: for a classifier of z, a generator without a space w, and latents of another shape.

        Example:
            >>> import torch
            >>> from lace_lightning import load_generator
            >>> from lace_lightning.samplers import Heun
            >>> from lace_lightning.schema import Attribute, Schema
            >>> generator = load_generator("cifar10")
            >>> schema = Schema("s", (Attribute("hat"),))
            >>> classifier = AttributeClassifier(schema, "w", "mlp", {"input_dim": generator.w_dim, "hidden": [8]})
            >>> editor = Editor(generator, classifier, Heun())
            >>> editor.apply(editor.begin_styles(torch.zeros(2, generator.w_dim)), "hat == 1").ws.shape
            torch.Size([2, 8, 128])
        """
        generator, space = self.generator, self.classifier.space
        if space != "w" or not generator.has_w:
            raise LaceError(
                f"Editing w or w+ needs a generator with w and a classifier of w, and the classifier is of {space}"
                f"{'' if generator.has_w else ' and the generator has z alone'}: set classifier.space=w, or give z."
            )
        if w.shape[1:] not in ((generator.w_dim,), (generator.num_ws, generator.w_dim)):
            raise LaceError(
                f"Styles must have the shape (B, {generator.w_dim}) or (B, {generator.num_ws}, {generator.w_dim}), "
                f"received {tuple(w.shape)}: give w or w+ of this generator."
            )
        # Not generator.broadcast, which may truncate: given styles are those of the picture.
        return Edited(None, (w if w.ndim == 3 else w[:, None].expand(-1, generator.num_ws, -1)).clone())

    def apply(self, state: Edited, edit: str | Query, seeds: Tensor | None = None) -> Edited:
        """Return the state after one more edit.

        Args:
            state: the state before the edit.
            edit: the edit, as text or query.
            seeds: one seed a sample (B,) int64, for samplers that draw noise.

        Raises:
            LaceError: for unknown attributes, free values, and edits that can never be true.
        """
        query = parse_edit(edit, self.classifier.schema)
        edits = in_force(state.edits, query)
        problem = self._of_styles(state, edits) if state.z is None else self._of_latents(state, edits)
        sample = self.sampler(problem.energy, problem.start, seeds=seeds)
        with torch.no_grad():
            z, ws = problem.finish(sample.z)
        return Edited(z, ws, edits, sample.evaluations, sample.seconds, state)

    def without(self, state: Edited, edit: str | Query, seeds: Tensor | None = None) -> Edited:
        """Return the state without one of the edits in force; the others are applied again from the start.

        Args:
            state: the state.
            edit: the edit that is taken out, as text or query.
            seeds: one seed a sample (B,) int64, for samplers that draw noise.

        Raises:
            LaceError: for an edit that is not in force.
        """
        query = parse_edit(edit, self.classifier.schema)
        if query not in state.edits:
            raise LaceError(
                f"'{query}' is not among the edits in force ({', '.join(map(str, state.edits)) or 'none'}): name one "
                "of them."
            )
        result = _first(state)
        for other in state.edits:
            result = result if other == query else self.apply(result, other, seeds)
        return replace(result, previous=state)

    def _attribute_energy(self, query: Query) -> Energy:
        energy = self.classifier.energy(query, sigma=self.options.sigma)
        return energy if self.options.weight == 1 else self.options.weight * energy

    def _to_z(self, energy: Energy) -> Energy:
        return energy.pullback(self.generator.map_to(self.classifier.space))

    def _of_latents(self, state: Edited, edits: Sequence[Query]) -> _Problem:
        """Return the problem on z of edits, of which the last is new."""
        o = self.options
        first, last = (part.z for part in (_first(state), state))
        assert first is not None
        assert last is not None

        def styles(z: Tensor) -> tuple[Tensor, Tensor]:
            after = self.generator.broadcast(self.generator.mapping(z))
            before, chosen = self._changed(state, edits)
            return z, after.clone() if chosen is None else before.index_copy(1, chosen, after[:, chosen])

        if o.method == "posterior":
            inner = self._to_z(_total([self._attribute_energy(edit) for edit in edits]))
            near = Near(inner, first, o.closeness)
            return _Problem(first * _start_of(o.closeness), near, lambda v: styles(near.point(v)))
        origin = last if o.method == "sequential" else first
        return _Problem(origin, self._held(origin, self._wanted(edits), _attributes(*edits)), styles)

    def _of_styles(self, state: Edited, edits: Sequence[Query]) -> _Problem:
        """Return the problem on the displacement v of edits, of which the last is new; see the class."""
        o, schema, touched = self.options, self.classifier.schema, _attributes(*edits)
        before, changed = self._changed(state, edits)
        everything = list(range(self.generator.num_ws))
        chosen = everything if changed is None else changed.tolist()
        root = self._whitening.root.to(before)
        # The displacement is d = A·(shift + scale·v).
        shift, scale, start = torch.zeros_like(before[:, 0]), 1.0, torch.zeros_like(before[:, 0])
        if o.method == "posterior":
            u0 = self._whitening.u(before[:, chosen].mean(1))
            shift, scale, start = (o.closeness - 1) * u0, _spread(o.closeness), u0 * _start_of(o.closeness)
        # Terms by the layers at whose mean they are evaluated.
        terms: dict[tuple[int, ...], list[Energy]] = {}

        def layers_of(names: set[str]) -> tuple[int, ...]:
            return tuple(self._layers(names) or everything)

        wanted = [self._attribute_energy(edit) for edit in edits] if o.method == "posterior" else self._wanted(edits)
        for edit, energy in zip(edits, wanted, strict=True):
            terms.setdefault(layers_of(_attributes(edit)), []).append(energy)
        if o.keep and o.method != "posterior":
            kept: dict[tuple[int, ...], list[int]] = {}
            for attribute in schema:
                if attribute.name not in touched:
                    part = schema.slices[attribute.name]
                    kept.setdefault(layers_of({attribute.name}), []).extend(range(part.start, part.stop))
            for layers, columns in kept.items():
                with torch.no_grad():
                    logits = self.classifier(before[:, list(layers)].mean(1))
                terms.setdefault(layers, []).append(Anchor(logits, o.keep, columns).pullback(self.classifier))
        parts: list[Energy] = []
        for layers, energies in terms.items():
            share = len(set(layers) & set(chosen)) / len(layers)
            centre = before[:, list(layers)].mean(1) + share * (shift @ root)
            parts.append(Affine(_total(energies), centre, share * scale * root))
        if o.proximity and o.method != "posterior":
            parts.append(Anchor(start, o.proximity))
            parts.append(Affine(Anchor(start, o.proximity), start, root))

        def finish(v: Tensor) -> tuple[None, Tensor]:
            moved = before.clone()
            moved[:, chosen] += ((shift + scale * v) @ root)[:, None]
            return None, moved

        return _Problem(start, _total(parts), finish)

    @cached_property
    def _whitening(self) -> Whitening:
        return Whitening.of(self.generator)

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
        """Return the energy of z: the wanted energies, with terms that hold the sample near `origin`.

        Attributes that are not `touched` are held near their logits at `origin`.
        """
        o, schema, terms = self.options, self.classifier.schema, list(wanted)
        with torch.no_grad():
            w = self.generator.mapping(origin)
            to_space = self.generator.map_to(self.classifier.space)
            before = self.classifier(origin if to_space is None else to_space(origin))
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
            if self.classifier.space != "w" and self.generator.has_w:
                energy = energy & Anchor(w, o.proximity).pullback(self.generator.mapping)
        return energy

    def _changed(self, state: Edited, edits: Sequence[Query]) -> tuple[Tensor, Tensor | None]:
        """Return the styles that an edit changes, and the numbers of the layers (None for all).

        Methods that solve from the original latent change the layers of all edits, on top of the original styles.
        """
        if self.options.method == "sequential":
            before, names = state.ws, _attributes(edits[-1])
        else:
            before, names = _first(state).ws, _attributes(*edits)
        layers = self._layers(names)
        return before, None if layers is None else torch.tensor(layers, device=before.device)

    def _layers(self, names: set[str]) -> list[int] | None:
        """Return the style layers of attributes, None for all."""
        layers = self.options.layers or {}
        if not names & set(layers):
            return None
        return sorted({layer for name in names for layer in layers.get(name, range(self.generator.num_ws))})


def parse_edit(edit: str | Query, schema: Schema) -> Query:
    """Return an edit as a query.

    Args:
        edit: the edit, as text or query.
        schema: the attributes that can be edited.

    Raises:
        LaceError: for unknown attributes, values that are left free, and edits that can never be true.

    Example:
        >>> from lace_lightning.schema import Attribute, Schema
        >>> str(parse_edit("hat==1", Schema("s", (Attribute("hat"),))))
        'hat == 1'
    """
    if not isinstance(edit, (str, Query)):
        raise LaceError(
            f"An edit must be text or a Query, received {type(edit).__name__}: write for example 'glasses == 1'."
        )
    query = parse(edit, schema) if isinstance(edit, str) else edit
    if query.free:
        raise LaceError(
            f"An edit needs a value for every attribute, and '{query}' leaves {', '.join(query.free)} free: give one."
        )
    build(query)
    return query


def parse_edits(edits: Any, schema: Schema) -> list[Query]:
    """Return the edits of a session as queries.

    Args:
        edits: one edit, or several in their order, each as text or query.
        schema: the attributes that can be edited.

    Raises:
        LaceError: where there is none, and in the cases of `parse_edit`.

    Example:
        >>> from lace_lightning.schema import Attribute, Schema
        >>> [str(edit) for edit in parse_edits(["hat==1", "hat==0"], Schema("s", (Attribute("hat"),)))]
        ['hat == 1', 'hat == 0']
    """
    given = list(edits) if isinstance(edits, Iterable) and not isinstance(edits, str) else [edits]
    if not given:
        raise no_edits()
    return [parse_edit(edit, schema) for edit in given]


def in_force(edits: Sequence[Query], query: Query) -> tuple[Query, ...]:
    """Return the edits in force after one more edit, which replaces earlier ones of the same attributes.

    Args:
        edits: the edits in force before it.
        query: the new edit.

    Example:
        >>> from lace_lightning.schema import Attribute, Schema
        >>> schema = Schema("s", (Attribute("hat"), Attribute("smile")))
        >>> one, two, three = (parse(text, schema) for text in ("hat == 1", "smile == 1", "hat == 0"))
        >>> [str(edit) for edit in in_force((one, two), three)]
        ['smile == 1', 'hat == 0']
    """
    return (*(earlier for earlier in edits if not _attributes(earlier) & _attributes(query)), query)


def check_layers(chosen: Mapping[str, Sequence[int]] | None, generator: Generator, schema: Schema) -> None:
    """Refuse style layers that a generator does not have.

    Args:
        chosen: style layers by attribute, None for none.
        generator: the generator.
        schema: the attributes that can be edited.

    Raises:
        LaceError: for such layers, and for unknown attributes.
    """
    for name, layers in (chosen or {}).items():
        _ = schema[name]
        if not generator.has_layers:
            raise LaceError(
                f"Choosing style layers needs a generator that has them, and {type(generator).__name__} has one latent "
                "for the whole picture: leave layers empty."
            )
        if not layers or not all(0 <= layer < generator.num_ws for layer in layers):
            raise LaceError(
                f"The style layers of '{name}' must lie in 0 to {generator.num_ws - 1}, received {list(layers)}: "
                "correct them."
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


def _spread(closeness: float) -> float:
    """Return √(1-ρ²)."""
    return float((1 - closeness**2) ** 0.5)


def _start_of(closeness: float) -> float:
    """Return (1-ρ)/√(1-ρ²): z₀ itself is v = z₀·(1-ρ)/√(1-ρ²) of `Near`."""
    return (1 - closeness) / _spread(closeness)
