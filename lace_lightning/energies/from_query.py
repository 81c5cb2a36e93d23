"""The energy of a query on the logits of its schema."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..errors import LaceError, suggest
from ..query import And as AndNode
from ..query import Atom, Node, Query, atoms, restrict
from ..query import Not as NotNode
from ..schema import Labels
from .base import Energy, Not, Or
from .logic import Cases, PaperNot, PaperOr
from .region import Region
from .terms import Continuous, Discrete, HalfLine

LOGICS = ("exact", "paper")


def check_query(query: Query, free: Labels | None, logic: str) -> None:
    """Check that a query has an energy.

    Args:
        query: the condition.
        free: values of its free attributes, None where they are not given.
        logic: a name of `LOGICS`.

    Raises:
        LaceError: for an unknown logic, for free attributes without values, and for a query that can never be true or
            is always true.
    """
    if logic not in LOGICS:
        raise LaceError(f"The logic must be one of {', '.join(LOGICS)}, received '{logic}'.{suggest(logic, LOGICS)}")
    if query.free and free is None:
        raise LaceError(f"The query '{query}' leaves {', '.join(query.free)} free: give its values for every sample.")
    if len(outcomes := query.outcomes()) == 1:
        raise LaceError(
            f"The query '{query}' can {'always' if True in outcomes else 'never'} be true, whatever the picture: "
            "an attribute has one value at a time."
        )


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
    discrete attribute are resolved class by class. Several of one continuous attribute count as independent.

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
        LaceError: for a query that `check_query` refuses, and for a free attribute that the query uses twice.

    Example:
        >>> import torch
        >>> from lace_lightning.query import parse
        >>> from lace_lightning.schema import Attribute, Schema
        >>> schema = Schema("s", (Attribute("hat"), Attribute("smile")))
        >>> torch.exp(-build(parse("hat == 1 and not smile == 1", schema))(torch.zeros(1, 4)))
        tensor([0.2500])
    """
    check_query(query, free, logic)
    builder = _Builder(query, free, sigma, temperature, paper_temperature)
    energy = builder.exact(query.root) if logic == "exact" else builder.paper(query.root)
    energy = energy if weight == 1 else weight * energy
    return Region(energy, query, free) if hard else energy


@dataclass
class _Builder:
    """Settings of a query's energy, and the recursion over its tree."""

    query: Query
    free: Labels | None
    sigma: float
    temperature: float
    paper_temperature: bool

    def atom(self, atom: Atom, negate: Callable[[Energy], Energy] = Not) -> Energy:
        columns = self.query.schema.slices[atom.attribute.name]
        target: float | Tensor | None = atom.value
        if target is None:
            assert self.free is not None
            target = self.free.column(atom.attribute.name)
        energy: Energy
        if atom.attribute.kind == "discrete":
            energy = Discrete(columns, target, self.temperature, self.paper_temperature)
        elif atom.op in "<>":
            return HalfLine(columns, target, atom.op == ">", self.sigma)
        else:
            energy = Continuous(columns, target, self.sigma)
        return energy if atom.op == "==" else negate(energy)

    def paper(self, node: Node) -> Energy:
        if isinstance(node, Atom):
            return self.atom(node, PaperNot)
        if isinstance(node, NotNode):
            return PaperNot(self.paper(node.inner))
        left, right = self.paper(node.left), self.paper(node.right)
        return left & right if isinstance(node, AndNode) else PaperOr(left, right)

    def exact(self, node: Node) -> Energy:
        repeated = self._repeated(node)
        if repeated is not None:
            return self._by_cases(node, repeated)
        if isinstance(node, Atom):
            return self.atom(node)
        if isinstance(node, NotNode):
            return ~self.exact(node.inner)
        left, right = self.exact(node.left), self.exact(node.right)
        return left & right if isinstance(node, AndNode) else Or(left, right)

    def _repeated(self, node: Node) -> str | None:
        counts = Counter(atom.attribute.name for atom in atoms(node) if atom.attribute.kind == "discrete")
        name, count = counts.most_common(1)[0] if counts else ("", 0)
        if count > 1 and name in self.query.free:
            raise LaceError(
                f"The query '{self.query}' leaves '{name}' free and uses it {count} times: use a free attribute once."
            )
        return name if count > 1 else None

    def _by_cases(self, node: Node, name: str) -> Energy:
        attribute = self.query.schema[name]
        cases = [restrict(node, name, index) for index in range(attribute.num_classes)]
        if all(isinstance(case, bool) for case in cases) and len(set(cases)) == 1:
            never = "always" if cases[0] else "never"
            raise LaceError(
                f"The part '{node}' of the query '{self.query}' can {never} be true, whatever the picture: "
                f"'{name}' has one value at a time."
            )
        branches = [case if isinstance(case, bool) else self.exact(case) for case in cases]
        return Cases(self.query.schema.slices[name], branches, self.temperature)
