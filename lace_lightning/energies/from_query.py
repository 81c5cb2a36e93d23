"""From a query to the energy on the logits of its schema."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

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
    """Refuse (LaceError) an unknown logic, free attributes without values, and a query that can never or must always
    hold.
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
    """Return E(logits) of a query: logits (B, num_logits) -> (B,).

    `weight` is the γ of the target p^γ; `hard` puts walls around where every decision is right, and p^γ shows the way
    there.

    `free` (B rows) gives the values of free attributes; `logic` is the exact algebra or the paper's OR and NOT; `sigma`
    is the error of continuous attributes; `temperature` divides logits. Atoms of different attributes are independent
    given the latent (Eq. 3); several atoms of one discrete attribute are resolved class by class, several of one
    continuous attribute are multiplied as if independent. Raises LaceError for a query that can never or must always
    hold.
    """
    check_query(query, free, logic)
    builder = _Builder(query, free, sigma, temperature, paper_temperature)
    energy = builder.exact(query.root) if logic == "exact" else builder.paper(query.root)
    energy = energy if weight == 1 else weight * energy
    return Region(energy, query, free) if hard else energy


@dataclass
class _Builder:
    query: Query
    free: Labels | None
    sigma: float
    temperature: float
    paper_temperature: bool

    def atom(self, atom: Atom, negate: type[Energy] = Not) -> Energy:
        columns = self.query.schema.slices[atom.attribute.name]
        target = atom.value
        if target is None:
            assert self.free is not None
            target = self.free.column(atom.attribute.name)  # type: ignore[assignment]
        if atom.attribute.kind == "discrete":
            energy: Energy = Discrete(columns, target, self.temperature, self.paper_temperature)  # type: ignore[arg-type]
        elif atom.op in "<>":
            return HalfLine(columns, target, atom.op == ">", self.sigma)  # type: ignore[arg-type]
        else:
            energy = Continuous(columns, target, self.sigma)  # type: ignore[arg-type]
        return energy if atom.op == "==" else negate(energy)  # type: ignore[call-arg]

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
