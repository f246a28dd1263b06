"""The legal words of fields under constraints: counted exactly, and listed.

Each constraint is between two fields: "not both" or "not a without b". So once some
fields are known to be 0 or not, the constraints left depend only on the set of open
fields. The count is a cached recursion over such sets, which splits a set into parts
that no constraint ties together. It is exponential in the treewidth of the
constraints, not in the number of fields. A field that can be non-zero at all can be
so with only the fields that it implies, so finding conflicts needs no search either.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, product
from math import prod

from extmeta.encodings.constraints import Constraint, Group
from extmeta.fields import Fields


class Graph:
    """The constraints between fields. A set of fields is an int: bit i is field i.

    Without a choice, a group of ``per_vma`` counts as one of ``excludes``: this gives
    all words that a PTE can have. With a choice, the other fields are left out.
    """

    def __init__(
        self,
        fields: Fields,
        constraints: Iterable[Constraint],
        choice: Group | None = None,
    ) -> None:
        self.fields = fields
        self.at = {name: i for i, name in enumerate(fields)}
        n = len(fields)
        self.all = (1 << n) - 1
        self.excluded = [0] * n
        # The fields that each field implies and that imply it, itself included.
        self.implied = [1 << i for i in range(n)]
        self.implying = [1 << i for i in range(n)]
        never = 0
        for kind, names in constraints:
            places = [self.at[name] for name in names]
            if kind == "implies":
                self._imply(*places)
            elif kind == "per_vma" and choice is not None:
                never |= sum(1 << self.at[n] for n in names if n not in choice)
            else:
                for i, j in combinations(places, 2):
                    self.excluded[i] |= 1 << j
                    self.excluded[j] |= 1 << i
        for i in members(never):
            self.all &= ~self.implying[i]

    def _imply(self, a: int, b: int) -> None:
        """Add a => b and what follows from it."""
        more, less = self.implied[b], self.implying[a]
        for i in members(less):
            self.implied[i] |= more
        for i in members(more):
            self.implying[i] |= less

    def possible(self, i: int) -> bool:
        """Return whether a field, with those that it implies, can be non-zero."""
        return all(
            not self.excluded[j] & self.implied[i] for j in members(self.implied[i])
        )

    def needs(self, a: str, b: str) -> bool:
        """Return whether a field implies another."""
        return bool(self.implied[self.at[a]] >> self.at[b] & 1)

    def bars(self, a: str, b: str) -> bool:
        """Return whether two fields exclude each other, but only by what they imply."""
        i, j = self.at[a], self.at[b]
        both = self.implied[i] | self.implied[j]
        direct = self.excluded[i] >> j & 1
        return not direct and any(self.excluded[k] & both for k in members(both))

    def near(self, i: int) -> int:
        """Return the fields that constraints, or their consequences, tie to a field."""
        return (self.excluded[i] | self.implied[i] | self.implying[i]) & ~(1 << i)

    def without(self, i: int, some: int) -> int:
        """Return which of ``some`` stay open if field i is 0."""
        return some & ~self.implying[i]

    def given(self, i: int, some: int) -> int:
        """Return which of ``some`` stay open if field i is non-zero."""
        closed = self.implied[i]
        for j in members(closed):
            for k in members(self.excluded[j] & some):
                closed |= self.implying[k]
        return some & ~closed

    def parts(self, some: int) -> Iterator[int]:
        """Yield the parts of a set that no constraint ties together."""
        while some:
            part, edge = 0, some & -some
            while edge:
                part |= edge
                reached = 0
                for i in members(edge):
                    reached |= self.near(i)
                edge = reached & some & ~part
            yield part
            some &= ~part


def members(some: int) -> Iterator[int]:
    """Yield the fields of a set."""
    while some:
        low = some & -some
        yield low.bit_length() - 1
        some ^= low


class _Count:
    """Counts legal words with non-zero fields in a set only."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.weight = [(1 << width) - 1 for width in graph.fields.values()]
        self.rank = _separators(graph)
        self.counted: dict[int, int] = {}

    def of(self, some: int) -> int:
        # A dict and one frame a level: 512 fields stay below the recursion limit.
        total = 1
        for part in self.graph.parts(some):
            if part not in self.counted:
                i = max(members(part), key=self.rank.__getitem__)
                # Field i is 0, or non-zero with those of the part that it implies.
                with_ = members(self.graph.implied[i] & part)
                ways = prod([self.weight[j] for j in with_])
                self.counted[part] = self.of(self.graph.without(i, part)) + (
                    ways * self.of(self.graph.given(i, part))
                )
            total *= self.counted[part]
        return total


def _separators(graph: Graph) -> list[int]:
    """Return a rank for each field; branching on the highest first splits best.

    This is the order of elimination by least degree, backwards.
    """
    near = {i: graph.near(i) & graph.all for i in members(graph.all)}
    rank = [0] * len(graph.fields)
    for turn in range(len(near)):
        i = min(near, key=lambda i: near[i].bit_count())
        rank[i] = turn
        others = near.pop(i)
        for j in members(others):
            near[j] = (near[j] | others) & ~(1 << i | 1 << j)
    return rank


def most_words(fields: Fields, constraints: tuple[Constraint, ...]) -> int:
    """Return the count of the choice that has the most words."""
    tied = Graph(fields, constraints)
    groups = [c.names for c in constraints if c.kind == "per_vma"]
    count = _Count(tied)
    total = 1
    # Part by part: a choice in one doesn't matter in another.
    for part in tied.parts(tied.all):
        inside = [g for g in groups if part >> tied.at[g[0]] & 1]
        if not inside:
            total *= count.of(part)
            continue
        own = [c for c in constraints if part >> tied.at[c.names[0]] & 1]
        graphs = (Graph(fields, own, choice) for choice in product(*inside))
        total *= max(_Count(graph).of(graph.all & part) for graph in graphs)
    return total


def words_of(fields: Fields, graph: Graph, part: int) -> list[int]:
    """Return the legal words of the fields of ``part``, ascending."""
    names = list(fields)
    patterns = [(part, 0)]
    words = []
    while patterns:
        left, on = patterns.pop()
        if not left:
            values = [
                [v << fields.shift(names[i]) for v in range(1, 1 << fields[names[i]])]
                for i in members(on)
            ]
            words += sums(values)
            continue
        i = left.bit_length() - 1
        patterns.append((graph.without(i, left), on))
        patterns.append((graph.given(i, left), on | graph.implied[i] & part))
    return sorted(words)


def sums(parts: Sequence[Sequence[int]]) -> list[int]:
    return sorted(map(sum, product(*parts)))
