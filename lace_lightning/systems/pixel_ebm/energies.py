"""Conditional energies of pictures put together: codes, queries, exactly or as published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...energies import And, Energy
from ...energies.from_query import check_query
from ...errors import LaceError
from ...query import And as AndNode
from ...query import Atom, Node, Query
from ...query import Not as NotNode
from ...schema import Labels, Schema
from .cond_ebm_network import build_energy

# Of the composition in improved contrastive divergence: how sharp a disjunction is, and how much a negation counts.
SHARPNESS, NEGATION = 100.0, 0.001
# So many combinations of classes are looked through one by one.
MAX_CELLS = 4096


class AttributeEnergies(nn.Module):
    """A network of conditional energies for each attribute, of pictures (B, 3, H, W) in [0, 1]."""

    def __init__(self, schema: Schema, network: Mapping[str, Any]) -> None:
        super().__init__()
        self.schema = schema
        self.networks = nn.ModuleList(build_energy(attribute.num_logits, **network) for attribute in schema)
        # Pictures that a network has been evaluated on.
        self.evaluated = 0

    def one(self, x: Tensor, index: int, value: Tensor) -> Tensor:
        """Return the energies (B, S) of pictures given a class or number (B,) for one attribute."""
        self.evaluated += len(x)
        attribute = self.schema.attributes[index]
        discrete = attribute.kind == "discrete"
        condition = F.one_hot(value.long(), attribute.num_classes).to(x) if discrete else value[:, None].to(x)
        return self.networks[index](x, condition)

    def forward(self, x: Tensor, codes: Labels) -> Tensor:
        """Return energies (B, K, S), those of what is not known 0."""
        # What nobody knows is left out; where nobody knows anything, something says how many scales there are.
        asked = codes.known.any(0).nonzero()[:, 0].tolist() or [0]
        values = torch.where(codes.known, codes.values, 0.0)
        energies = {index: self.one(x, index, values[:, index]) for index in asked}
        nothing = torch.zeros_like(energies[asked[0]])
        return torch.stack(
            [
                torch.where(codes.known[:, index, None], energies[index], 0.0) if index in energies else nothing
                for index in range(len(self.schema))
            ],
            1,
        )


class PictureEnergy(Energy):
    """An energy of pictures (B, 3, H, W) in [-1, 1] by several models, whose energies are added."""

    is_probability = False

    def __init__(self, models: Sequence[AttributeEnergies]) -> None:
        super().__init__()
        # Held in a tuple: the networks are shared, and no part of the energy's own state.
        self.models = tuple(models)

    def attribute_energy(self, u: Tensor, index: int, value: Tensor) -> Tensor:
        """Return Σ E(x|c) (B,) over models and scales."""
        return torch.stack([model.one((u + 1) / 2, index, value).sum(1) for model in self.models]).sum(0)


class CodeEnergy(PictureEnergy):
    """Σ over the attributes that the codes (B rows) know of E_i(x|c_i)."""

    def __init__(self, models: Sequence[AttributeEnergies], codes: Labels) -> None:
        super().__init__(models)
        self.codes = codes

    def forward(self, u: Tensor) -> Tensor:
        return torch.stack([model((u + 1) / 2, self.codes).sum((1, 2)) for model in self.models]).sum(0)

    def rows(self, index: Tensor | slice) -> Energy:
        return CodeEnergy(self.models, self.codes[index])


class Given(PictureEnergy):
    """E_i(x|c) of one attribute, for one value or one a sample (B,)."""

    def __init__(self, models: Sequence[AttributeEnergies], index: int, value: Tensor) -> None:
        super().__init__(models)
        self.index, self.value = index, value

    def forward(self, u: Tensor) -> Tensor:
        return self.attribute_energy(u, self.index, self.value.to(u.device).expand(len(u)))

    def rows(self, index: Tensor | slice) -> Energy:
        return Given(self.models, self.index, self.value[index] if self.value.ndim else self.value)


class Cells(PictureEnergy):
    """-log Σ exp(-Σ_i E_i(x|c_i)) over the combinations c of classes for which a query is true: all are as likely, a
    priori.

    Exact as far as the constants of the energies E_i(·|c) are equal. `holds` (M,) or (B, M) says for which of `cells`
    (M, n), classes of the attributes with these `indices`, it is.
    """

    def __init__(
        self, models: Sequence[AttributeEnergies], indices: Sequence[int], cells: Tensor, holds: Tensor
    ) -> None:
        super().__init__(models)
        used = holds if holds.ndim == 1 else holds.any(0)
        self.indices, self.cells, self.holds = list(indices), cells[used], holds[..., used]

    def forward(self, u: Tensor) -> Tensor:
        total = u.new_zeros(len(u), len(self.cells))
        for column, index in enumerate(self.indices):
            classes, which = self.cells[:, column].unique(return_inverse=True)
            table = torch.stack(
                [self.attribute_energy(u, index, value.to(u.device).expand(len(u))) for value in classes], 1
            )
            total = total + table[:, which.to(u.device)]
        # A large finite number, not infinity, keeps gradients free of 0·inf.
        total = total.masked_fill(~self.holds.to(u.device), torch.finfo(total.dtype).max)
        return -(-total).logsumexp(1)

    def rows(self, index: Tensor | slice) -> Energy:
        return Cells(self.models, self.indices, self.cells, self.holds if self.holds.ndim == 1 else self.holds[index])


class SoftMinimum(Energy):
    """E = -log(exp(-s·E_1) + exp(-s·E_2))/s: the published disjunction, with s = `SHARPNESS` nearly the lower of the
    two.
    """

    is_probability = False

    def __init__(self, left: Energy, right: Energy, sharpness: float = SHARPNESS) -> None:
        super().__init__()
        self.left, self.right, self.sharpness = left, right, sharpness

    def forward(self, u: Tensor) -> Tensor:
        return -torch.logaddexp(-self.sharpness * self.left(u), -self.sharpness * self.right(u)) / self.sharpness

    def rows(self, index: Tensor | slice) -> Energy:
        return SoftMinimum(self.left.rows(index), self.right.rows(index), self.sharpness)


def compose(
    models: Sequence[AttributeEnergies], query: Query, free: Labels | None = None, logic: str = "exact"
) -> Energy:
    """Return the energy of a query on pictures (B, 3, H, W) in [-1, 1].

    `exact` adds up the energies of attributes that must have one value each, and sums exp(-E) over all combinations of
    classes that make the rest true. `paper` is what was published: a sum for `and`, `SoftMinimum` for `or`, -0.001·E
    for `not`. `free` (B rows) gives the values of free attributes. Raises LaceError for a query that can never or must
    always hold, and for what there is no energy of: half-lines, and in exact logic any condition on a continuous
    attribute but one value.
    """
    check_query(query, free, logic)
    if logic == "paper":
        return _published(models, query, query.root, free)
    sides = _sides(query.root)
    names = [name for side in sides for name in Query(side, query.schema).attributes]
    single = [
        side for side in sides if isinstance(side, Atom) and side.op == "==" and names.count(side.attribute.name) == 1
    ]
    rest = [side for side in sides if side not in single]
    parts = [_given(models, query, atom, free) for atom in single]
    if rest:
        node = rest[0]
        for side in rest[1:]:
            node = AndNode(node, side)
        parts.append(_cells(models, Query(node, query.schema), free))
    return And(*parts) if len(parts) > 1 else parts[0]


def _sides(node: Node) -> list[Node]:
    return [*_sides(node.left), *_sides(node.right)] if isinstance(node, AndNode) else [node]


def _given(models: Sequence[AttributeEnergies], query: Query, atom: Atom, free: Labels | None) -> Energy:
    if atom.op in "<>":
        raise LaceError(f"An energy of pictures is conditional on a value, and '{atom}' is a half-line: name a value.")
    if atom.value is None:
        assert free is not None
        value = free.column(atom.attribute.name)
    else:
        value = torch.tensor(float(atom.value))
    return Given(models, query.schema.index(atom.attribute.name), value)


def _published(models: Sequence[AttributeEnergies], query: Query, node: Node, free: Labels | None) -> Energy:
    if isinstance(node, Atom):
        energy = _given(models, query, node, free)
        return energy if node.op == "==" else -NEGATION * energy
    if isinstance(node, NotNode):
        return -NEGATION * _published(models, query, node.inner, free)
    left, right = (_published(models, query, side, free) for side in (node.left, node.right))
    return left & right if isinstance(node, AndNode) else SoftMinimum(left, right)


def _cells(models: Sequence[AttributeEnergies], query: Query, free: Labels | None) -> Energy:
    attributes = [query.schema[name] for name in query.attributes]
    for attribute in attributes:
        if attribute.kind == "continuous":
            raise LaceError(
                f"Exact logic sums over classes, and '{query}' needs more of the continuous '{attribute.name}' than "
                f"one value: "
                f"join '{attribute.name} == ...' to the rest with `and`, or use logic=paper."
            )
    cells = torch.cartesian_prod(*(torch.arange(attribute.num_classes) for attribute in attributes)).reshape(
        -1, len(attributes)
    )
    if len(cells) > MAX_CELLS:
        raise LaceError(
            f"The query '{query}' has {len(cells)} combinations of classes, and {MAX_CELLS} are looked through at "
            f"most: use "
            "fewer attributes, or logic=paper."
        )
    labels = Labels.constant(
        query.schema, len(cells), **{a.name: cells[:, column].float() for column, a in enumerate(attributes)}
    )
    if query.free and free is not None:
        count, free = len(free), free.to("cpu")
        every = torch.arange(len(cells)).repeat(count)
        holds = query.holds(labels[every], free[torch.arange(count).repeat_interleave(len(cells))]).view(count, -1)
    else:
        holds = query.holds(labels)
    return Cells(models, [query.schema.index(attribute.name) for attribute in attributes], cells, holds)
