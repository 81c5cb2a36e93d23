"""The energy of a query on the logits of its schema."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..conditions import And as AndNode
from ..conditions import Count as CountNode
from ..conditions import Interval as IntervalNode
from ..conditions import Leaf, Node, atoms, decided, inner_nodes, is_free, restrict
from ..conditions import Not as NotNode
from ..conditions import OneOf as OneOfNode
from ..errors import LaceError, suggest
from ..query import Query
from ..schema import Attribute, Labels
from .base import Energy, Not, Or
from .logic import Cases, Cells, Certain, Count, PaperNot, PaperOr
from .region import Region
from .terms import Continuous, Discrete, HalfLine, Interval, OneOf

LOGICS = ("exact", "paper")


def check_query(query: Query, free: Labels | None, logic: str) -> None:
    """Check that a query has an energy.

    Args:
        query: the condition.
        free: values of its free attributes, None where they are not given.
        logic: a name of `LOGICS`.

    Raises:
        LaceError: for an unknown logic, for free attributes without values, and for a query that can never be true or
            is always true, except `anything`.
    """
    if logic not in LOGICS:
        raise LaceError(f"The logic must be one of {', '.join(LOGICS)}, received '{logic}'.{suggest(logic, LOGICS)}")
    if query.free and free is None:
        raise LaceError(f"The query '{query}' leaves {', '.join(query.free)} free: give its values for every sample.")
    if query.asks and len(outcomes := query.outcomes()) == 1:
        raise LaceError(f"The query '{query}' {_certainly(True in outcomes)}.")


def build(
    query: Query,
    free: Labels | None = None,
    logic: str = "exact",
    sigma: float = 0.1,
    temperature: float = 1.0,
    paper_temperature: bool = False,
    weight: float = 1.0,
    hard: bool = False,
) -> Energy:
    """Return the energy E: (B, num_logits) -> (B,) of a query on the logits of its schema.

    Comparisons of different attributes are independent given the latent (Eq. 3 of LACE). Several comparisons of one
    discrete attribute are resolved class by class, several bounds and intervals of one continuous attribute cell by
    cell. A continuous `==` has the probability of the paper, and counts as independent of other comparisons.

    Args:
        query: the condition.
        free: values of the query's free attributes, B rows.
        logic: "exact" for the exact algebra of events, "paper" for the paper's OR and NOT.
        sigma: the classifier's error on continuous attributes, in units of the attribute, above 0.
        temperature: divides the logits of discrete attributes, above 0.
        paper_temperature: divide the logit of the wanted class alone, as the paper's code does.
        weight: γ of the target p^γ.
        hard: return the hard region of the query, in which every decision is right, with p^γ as its guide.

    Raises:
        LaceError: for a query that `check_query` refuses, for a free attribute that the query uses twice, for a count
            of several `==` of one continuous attribute, and for a count in the paper's logic.

    Example:
        >>> import torch
        >>> from lace_lightning.query import parse
        >>> from lace_lightning.schema import Attribute, Schema
        >>> schema = Schema("s", (Attribute("hat"), Attribute("smile")))
        >>> torch.exp(-build(parse("hat == 1 and not smile == 1", schema))(torch.zeros(1, 4)))
        tensor([0.2500])
    """
    check_query(query, free, logic)
    if not query.asks:
        return Certain()
    builder = _Builder(query, free, sigma, temperature, paper_temperature)
    energy = builder.exact(query.root) if logic == "exact" else builder.paper(query.root)
    energy = energy if weight == 1 else weight * energy
    return Region(energy, query, free) if hard else energy


def _certainly(is_true: bool) -> str:
    """Return what is wrong with a condition that does not depend on the picture."""
    if is_true:
        return "is true for every picture, and asks for nothing: leave it out, or write `anything`"
    return "can never be true: an attribute has one value at a time, so change one of its comparisons"


@dataclass
class _Builder:
    """Settings of a query's energy, and the recursion over its tree."""

    query: Query
    free: Labels | None
    sigma: float
    temperature: float
    paper_temperature: bool

    def atom(self, atom: Leaf, negate: Callable[[Energy], Energy] = Not) -> Energy:
        columns = self.query.schema.slices[atom.attribute.name]
        if isinstance(atom, IntervalNode):
            return Interval(columns, atom.low, atom.high, self.sigma)
        if isinstance(atom, OneOfNode):
            return self._one_of(atom, columns, negate)
        target: float | Tensor | None = atom.value
        if target is None:
            assert self.free is not None
            target = self.free.column(atom.attribute.name)
        energy: Energy
        if atom.is_bound:
            return HalfLine(columns, target, atom.op[0] == ">", self.sigma)
        if atom.attribute.kind == "discrete":
            energy = Discrete(columns, target, self.temperature, self.paper_temperature)
        else:
            energy = Continuous(columns, target, self.sigma)
        return energy if atom.op == "==" else negate(energy)

    def _one_of(self, atom: OneOfNode, columns: slice, negate: Callable[[Energy], Energy]) -> Energy:
        if self.paper_temperature and self.temperature != 1:
            raise LaceError(
                f"paper_temperature divides the logit of one class, and '{atom}' asks for several: set "
                "query.paper_temperature=false."
            )
        energy = OneOf(columns, atom.classes, self.temperature)
        return negate(energy) if atom.negated else energy

    def paper(self, node: Node) -> Energy:
        if isinstance(node, Leaf):
            return self.atom(node, PaperNot)
        if isinstance(node, NotNode):
            return PaperNot(self.paper(node.inner))
        if isinstance(node, CountNode):
            raise LaceError(f"The paper's logic has no counts, and the query has '{node}': set query.logic=exact.")
        left, right = (self.paper(part) for part in inner_nodes(node))
        return left & right if isinstance(node, AndNode) else PaperOr(left, right)

    def exact(self, node: Node) -> Energy:
        repeated = self._repeated(node)
        if repeated is not None:
            return self._by_class(node, repeated) if repeated.kind == "discrete" else self._by_cell(node, repeated)
        if isinstance(node, Leaf):
            return self.atom(node)
        if isinstance(node, NotNode):
            return ~self.exact(node.inner)
        if isinstance(node, CountNode):
            self._check_count(node)
            numbers = [number for number in range(len(node.conditions) + 1) if node.allows(number)]
            return Count(numbers, [self.exact(part) for part in node.conditions])
        left, right = (self.exact(part) for part in inner_nodes(node))
        return left & right if isinstance(node, AndNode) else Or(left, right)

    def _repeated(self, node: Node) -> Attribute | None:
        """Return an attribute whose comparisons depend on each other, the most frequent one; None where none do."""
        counts = Counter(atom.attribute for atom in atoms(node) if atom.attribute.kind == "discrete" or atom.is_bound)
        attribute, count = counts.most_common(1)[0] if counts else (None, 0)
        if attribute is None or count < 2:
            return None
        if any(is_free(atom) and atom.attribute == attribute for atom in atoms(node)):
            raise LaceError(
                f"The query '{self.query}' leaves '{attribute.name}' free and uses it {count} times: use a free "
                "attribute once."
            )
        return attribute

    def _check_count(self, node: CountNode) -> None:
        """Refuse (LaceError) values of one continuous attribute in several conditions of a count."""
        names = [
            name
            for part in node.conditions
            for name in {atom.attribute.name for atom in atoms(part) if atom.attribute.kind == "continuous"}
        ]
        for name, count in Counter(names).items():
            if count > 1:
                raise LaceError(
                    f"The conditions of '{node}' must be independent, and '{name}' is compared with a value in "
                    f"{count} of them: write intervals such as `0.3 < {name} < 0.5` in the place of `==`."
                )

    def _branches(self, node: Node, name: str, cases: Sequence[Node | bool]) -> list[Energy | bool]:
        """Return the energies of the cases of an attribute. Raises LaceError where all are true, or all false."""
        if all(isinstance(case, bool) for case in cases) and len(set(cases)) == 1:
            raise LaceError(f"The part '{node}' of the query '{self.query}' {_certainly(bool(cases[0]))}.")
        return [case if isinstance(case, bool) else self.exact(case) for case in cases]

    def _by_class(self, node: Node, attribute: Attribute) -> Energy:
        name = attribute.name
        cases = [restrict(node, name, index) for index in range(attribute.num_classes)]
        return Cases(self.query.schema.slices[name], self._branches(node, name, cases), self.temperature)

    def _by_cell(self, node: Node, attribute: Attribute) -> Energy:
        bounds = sorted(
            {end for atom in atoms(node) if atom.attribute == attribute and atom.is_bound for end in atom.edges(0)}
        )
        # A point in every cell: below, between and above the bounds.
        points = [bounds[0] - 1, *((low + high) / 2 for low, high in pairwise(bounds)), bounds[-1] + 1]

        def in_cell(point: float) -> Node | bool:
            value = torch.tensor(point, dtype=torch.float64)
            return decided(node, lambda a: bool(a.true(value, 0)) if a.attribute == attribute and a.is_bound else None)

        cases = [in_cell(point) for point in points]
        branches = self._branches(node, attribute.name, cases)
        return Cells(self.query.schema.slices[attribute.name], bounds, branches, self.sigma)
