"""The legal words of fields under constraints: counted exactly, and listed.

All constraints are between two fields, of the kinds "not both" and "a without b
not". So what is left of them, after some fields are known to be 0 or not, depends
on which fields are left only: the count is a recursion over sets of fields, with
what was counted kept, that splits where nothing ties two parts together. It is
exponential in the treewidth of the constraints, not in the fields. A field that
can be non-zero at all can be so with just those that it implies, so conflicts
need no search either.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, product
from math import prod

from extmeta.encodings.constraints import Constraint, Group
from extmeta.fields import Fields


class Graph:
    """The constraints between fields, as sets of them in ints: bit i is field i.

    Without a choice, the groups of ``per_vma`` are as those of ``excludes``: that
    is what a PTE can be at all. With one, the fields not chosen are gone.
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
        # What each field implies and what implies it, itself among them.
        self.implied = [1 << i for i in range(n)]
        self.implying = [1 << i for i in range(n)]
        never = 0
        for kind, names in constraints:
            places = [self.at[name] for name in names]
            if kind == "implies":
                self._imply(*places)
            elif kind == "per_vma" and choice is not None:
                never |= sum(1 << i for i in places if not self._chosen(i, choice))
            else:
                for i, j in combinations(places, 2):
                    self.excluded[i] |= 1 << j
                    self.excluded[j] |= 1 << i
        for i in range(n):
            if never >> i & 1:
                self.all &= ~self.implying[i]

    def _chosen(self, i: int, choice: Group) -> bool:
        return any(self.at[name] == i for name in choice)

    def _imply(self, a: int, b: int) -> None:
        """Add a => b and what follows from it."""
        more, less = self.implied[b], self.implying[a]
        for i in members(less):
            self.implied[i] |= more
        for i in members(more):
            self.implying[i] |= less

    def possible(self, i: int) -> bool:
        """Tell whether a field can be non-zero: with those that it implies."""
        return all(
            not self.excluded[j] & self.implied[i] for j in members(self.implied[i])
        )

    def needs(self, a: str, b: str) -> bool:
        """Tell whether a field implies another."""
        return bool(self.implied[self.at[a]] >> self.at[b] & 1)

    def bars(self, a: str, b: str) -> bool:
        """Tell whether one field excludes another by what they imply alone."""
        i, j = self.at[a], self.at[b]
        both = self.implied[i] | self.implied[j]
        direct = self.excluded[i] >> j & 1
        return not direct and any(self.excluded[k] & both for k in members(both))

    def near(self, i: int) -> int:
        """Return the fields that a constraint, or what follows from one, ties to."""
        return (self.excluded[i] | self.implied[i] | self.implying[i]) & ~(1 << i)

    def without(self, i: int, some: int) -> int:
        """Return which of ``some`` are open still where i is 0."""
        return some & ~self.implying[i]

    def given(self, i: int, some: int) -> int:
        """Return which of ``some`` are open still where i is non-zero."""
        closed = self.implied[i]
        for j in members(closed):
            for k in members(self.excluded[j] & some):
                closed |= self.implying[k]
        return some & ~closed

    def parts(self, some: int) -> Iterator[int]:
        """Yield the parts of a set that nothing ties together."""
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
    """Yield the numbers of the bits that are set."""
    while some:
        low = some & -some
        yield low.bit_length() - 1
        some ^= low


class _Count:
    """Legal words over sets of fields."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.weight = [(1 << width) - 1 for width in graph.fields.values()]
        self.counted: dict[int, int] = {}
        self.rank = _separators(graph)

    def of(self, some: int) -> int:
        """Return how many words there are in which all but ``some`` are 0."""
        total = 1
        for part in self.graph.parts(some):
            if part not in self.counted:
                i = max(members(part), key=self.rank.__getitem__)
                kept = self.graph.given(i, part)
                # Those that i implies are non-zero too, unless they were before.
                with_ = self.graph.implied[i] & part
                self.counted[part] = self.of(self.graph.without(i, part)) + self.of(
                    kept
                ) * prod(self.weight[j] for j in members(with_))
            total *= self.counted[part]
        return total


def _separators(graph: Graph) -> list[int]:
    """Return a rank for each field: to branch on the highest first splits best.

    It is the order of elimination by least degree, backwards.
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
    alike = _Count(tied)
    total = 1
    # Part by part: what VMAs choose in one doesn't matter in another.
    for part in tied.parts(tied.all):
        inside = [g for g in groups if part >> tied.at[g[0]] & 1]
        if not inside:
            total *= alike.of(part)
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
