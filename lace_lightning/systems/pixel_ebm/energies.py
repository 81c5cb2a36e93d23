"""Composition of conditional energies of pictures for codes and queries: exact, or as published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...conditions import And as AndNode
from ...conditions import Atom, Leaf, Node, Or, conjuncts
from ...conditions import Not as NotNode
from ...energies import And, Energy
from ...energies.from_query import check_query
from ...errors import LaceError
from ...query import Query
from ...schema import Labels, Schema
from .cond_ebm_network import build_energy

# Sharpness of a disjunction and weight of a negation in the composition of improved contrastive divergence.
SHARPNESS, NEGATION = 100.0, 0.001
# The largest number of combinations of classes that exact logic sums over.
MAX_CELLS = 4096


class AttributeEnergies(nn.Module):
    """Conditional energies of pictures (B, C, H, W) in [0, 1], with one network for each attribute.

    Args:
        schema: the attributes.
        network: arguments of `build_energy`, except the number of conditions.

    Raises:
        LaceError: for arguments that `build_energy` refuses.

    Example:
        >>> from lace_lightning.schema import Attribute
        >>> schema = Schema("s", (Attribute("hat"), Attribute("age", "continuous")))
        >>> model = AttributeEnergies(schema, {"filter_dim": 4, "stages": 1, "multiscale": False})
        >>> energies = model(torch.rand(2, 3, 8, 8), Labels.constant(schema, 2, hat=1))
        >>> energies.shape, bool(energies[:, 0].any()), bool(energies[:, 1].any())
        (torch.Size([2, 2, 1]), True, False)
    """

    def __init__(self, schema: Schema, network: Mapping[str, Any]) -> None:
        super().__init__()
        self.schema = schema
        self.networks = nn.ModuleList(build_energy(attribute.num_logits, **network) for attribute in schema)
        # Pictures that a network has been evaluated on.
        self.evaluated = 0

    def one(self, x: Tensor, index: int, value: Tensor) -> Tensor:
        """Return the energies (B, S) of pictures for one attribute, given its classes or values (B,)."""
        self.evaluated += len(x)
        attribute = self.schema.attributes[index]
        discrete = attribute.kind == "discrete"
        condition = F.one_hot(value.long(), attribute.num_classes).to(x) if discrete else value[:, None].to(x)
        result: Tensor = self.networks[index](x, condition)
        return result

    def forward(self, x: Tensor, codes: Labels) -> Tensor:
        """Return energies (B, K, S) of pictures given codes (B rows); 0 for values that are not known."""
        # Attributes that no code knows are left out. Without known ones the first gives the number of scales.
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
    """Base class of energies of pictures (B, C, H, W) in [-1, 1] by several models, whose energies are added.

    Args:
        models: at least one model of the same schema. Their parameters are no part of this module.

    Example:
        >>> from lace_lightning.schema import Attribute
        >>> schema = Schema("s", (Attribute("hat"),))
        >>> model = AttributeEnergies(schema, {"filter_dim": 4, "stages": 1, "multiscale": False})
        >>> energy = PictureEnergy([model, model])
        >>> energy.attribute_energy(torch.rand(2, 3, 8, 8), 0, torch.tensor([0, 1])).shape
        torch.Size([2])
    """

    is_probability = False

    def __init__(self, models: Sequence[AttributeEnergies]) -> None:
        super().__init__()
        # In a tuple: the networks are shared, and no part of the energy's own state.
        self.models = tuple(models)

    def attribute_energy(self, u: Tensor, index: int, value: Tensor) -> Tensor:
        """Return Σ E_i(x|c) (B,) over models and scales for attribute number `index` and its values (B,)."""
        return torch.stack([model.one((u + 1) / 2, index, value).sum(1) for model in self.models]).sum(0)


class CodeEnergy(PictureEnergy):
    """The energy Σ E_i(x|c_i) over the attributes that a code knows.

    Args:
        models: at least one model of the same schema.
        codes: codes c (B rows).

    References:
        Conjunction of compositional energy-based models (arXiv 2004.06030).

    Example:
        >>> from lace_lightning.schema import Attribute
        >>> schema = Schema("s", (Attribute("hat"),))
        >>> model = AttributeEnergies(schema, {"filter_dim": 4, "stages": 1, "multiscale": False})
        >>> CodeEnergy([model], Labels.constant(schema, 2, hat=1))(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2])
    """

    def __init__(self, models: Sequence[AttributeEnergies], codes: Labels) -> None:
        super().__init__(models)
        self.codes = codes

    def forward(self, u: Tensor) -> Tensor:
        return torch.stack([model((u + 1) / 2, self.codes).sum((1, 2)) for model in self.models]).sum(0)

    def rows(self, index: Tensor | slice) -> Energy:
        return CodeEnergy(self.models, self.codes[index])


class Given(PictureEnergy):
    """The energy E_i(x|c) of one attribute.

    Args:
        models: at least one model of the same schema.
        index: number of the attribute in the schema.
        value: class or value c, one for all samples or a tensor (B,).

    Example:
        >>> from lace_lightning.schema import Attribute
        >>> schema = Schema("s", (Attribute("hat"),))
        >>> model = AttributeEnergies(schema, {"filter_dim": 4, "stages": 1, "multiscale": False})
        >>> Given([model], 0, torch.tensor(1.0))(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2])
    """

    def __init__(self, models: Sequence[AttributeEnergies], index: int, value: Tensor) -> None:
        super().__init__(models)
        self.index, self.value = index, value

    def forward(self, u: Tensor) -> Tensor:
        return self.attribute_energy(u, self.index, self.value.to(u.device).expand(len(u)))

    def rows(self, index: Tensor | slice) -> Energy:
        return Given(self.models, self.index, self.value[index] if self.value.ndim else self.value)


class Cells(PictureEnergy):
    """The energy -log Σ exp(-Σ_i E_i(x|c_i)) over the combinations c of classes for which a query is true.

    All combinations have the same prior probability. The energy is exact if the normalising constants of the energies
    E_i(·|c) do not depend on c.

    Args:
        models: at least one model of the same schema.
        indices: numbers of n attributes in the schema.
        cells: combinations (M, n) of classes of these attributes.
        holds: for which combinations the query is true, a mask (M,) for all samples or (B, M) bool.

    References:
        Disjunction of compositional energy-based models (arXiv 2004.06030).

    Example:
        >>> from lace_lightning.schema import Attribute
        >>> schema = Schema("s", (Attribute("hat"),))
        >>> model = AttributeEnergies(schema, {"filter_dim": 4, "stages": 1, "multiscale": False})
        >>> one = Cells([model], [0], torch.tensor([[0], [1]]), torch.tensor([False, True]))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> torch.allclose(one(x), Given([model], 0, torch.tensor(1))(x))
        True
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
    """The energy -log(exp(-s·E_1) + exp(-s·E_2))/s: the published disjunction, close to min(E_1, E_2) for large s.

    Args:
        left: E_1.
        right: E_2.
        sharpness: s, above 0.

    References:
        Disjunction of compositional energy-based models (arXiv 2004.06030), with the sharpness of improved contrastive
        divergence (arXiv 2012.01316).

    Example:
        >>> from lace_lightning.energies import Prior
        >>> SoftMinimum(Prior(), 2 * Prior())(torch.ones(1, 4))
        tensor([2.])
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
    """Return the energy of a query on pictures (B, C, H, W) in [-1, 1].

    With exact logic, attributes that must have one value each contribute the sum of their energies, and the rest of the
    query the energy of `Cells`. With paper logic, `and` is a sum, `or` is `SoftMinimum`, and `not` is -0.001·E.

    Args:
        models: at least one model of the query's schema.
        query: the condition.
        free: values of the query's free attributes, B rows.
        logic: "exact" or "paper".

    Raises:
        LaceError: for a query that `check_query` refuses and for half-lines; in exact logic also for conditions on a
            continuous attribute other than one value, and for more than `MAX_CELLS` combinations of classes.

    References:
        Compositional energy-based models (arXiv 2004.06030).

    Example:
        >>> from lace_lightning.query import parse
        >>> from lace_lightning.schema import Attribute
        >>> schema = Schema("s", (Attribute("hat"), Attribute("smile")))
        >>> model = AttributeEnergies(schema, {"filter_dim": 4, "stages": 1, "multiscale": False})
        >>> compose([model], parse("hat == 1 or smile == 1", schema))(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2])
    """
    check_query(query, free, logic)
    if logic == "paper":
        return _published(models, query, query.root, free)
    sides = conjuncts(query.root)
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


def _given(models: Sequence[AttributeEnergies], query: Query, atom: Leaf, free: Labels | None) -> Energy:
    if not isinstance(atom, Atom) or atom.is_bound:
        received = f"the half-line '{atom}'" if isinstance(atom, Atom) else f"'{atom}'"
        raise LaceError(
            f"An energy of pictures requires a value of '{atom.attribute.name}', received {received}: use == and a "
            "value."
        )
    if atom.value is None:
        assert free is not None
        value = free.column(atom.attribute.name)
    else:
        value = torch.tensor(float(atom.value))
    return Given(models, query.schema.index(atom.attribute.name), value)


def _published(models: Sequence[AttributeEnergies], query: Query, node: Node, free: Labels | None) -> Energy:
    if isinstance(node, Leaf):
        energy = _given(models, query, node, free)
        return -NEGATION * energy if isinstance(node, Atom) and node.op == "!=" else energy
    if isinstance(node, NotNode):
        return -NEGATION * _published(models, query, node.inner, free)
    if not isinstance(node, (AndNode, Or)):
        raise LaceError(f"The paper's logic has no counts, and the query has '{node}': set query.logic=exact.")
    left, right = (_published(models, query, side, free) for side in (node.left, node.right))
    return left & right if isinstance(node, AndNode) else SoftMinimum(left, right)


def _cells(models: Sequence[AttributeEnergies], query: Query, free: Labels | None) -> Energy:
    attributes = [query.schema[name] for name in query.attributes]
    for attribute in attributes:
        if attribute.kind == "continuous":
            raise LaceError(
                f"Exact logic requires one value of the continuous attribute '{attribute.name}', received the query "
                f"'{query}': join '{attribute.name} == ...' to the rest with `and`, or use logic=paper."
            )
    cells = torch.cartesian_prod(*(torch.arange(attribute.num_classes) for attribute in attributes)).reshape(
        -1, len(attributes)
    )
    if len(cells) > MAX_CELLS:
        raise LaceError(
            f"Exact logic sums over at most {MAX_CELLS} combinations of classes, and the query '{query}' has "
            f"{len(cells)}: use fewer attributes, or logic=paper."
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
