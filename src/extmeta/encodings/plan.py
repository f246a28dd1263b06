"""The fewest PTE bits that hold a set of fields, of which not all go together.

Arcangeli asked in 2020 for "a more compact encoding with the bits we already
have" before RAM and CPU are spent (X+PY3zQeYNnheZhT@redhat.com). Given which
fields exclude or imply each other, and which share a bit by VMA, the legal words
are counted, exactly, and numbered: ceil(log2) bits are enough. What is lost by
each such choice is said, and what a side page would cost instead.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from math import prod
from typing import Any, NamedTuple

from extmeta.arch import Arch, arch_of
from extmeta.encodings.constraints import Constraint, Group, Groups, listed
from extmeta.encodings.counting import Graph, most_words, sums, words_of
from extmeta.fields import Fields

# Codes are listed by Assignment.codes up to so many, and numbered up to the other.
LISTED = 64
NUMBERED = 1 << 16

# Ways for VMAs to choose that are looked at, and fields that are paired for
# `Plan.remedies`.
MAX_CHOICES = 1 << 12
MAX_PAIRED = 32


class PlanConflict(ValueError):
    """A field can never be non-zero.

    Attributes
    ----------
    field : str
    constraints : tuple of Constraint
        Why: without any one of them it could.
    """

    def __init__(self, field: str, constraints: tuple[Constraint, ...]) -> None:
        self.field = field
        self.constraints = constraints
        why = "; ".join(map(str, constraints))
        super().__init__(f"field {field!r} can never be non-zero: {why}")

    def __reduce__(self) -> tuple[type["PlanConflict"], tuple[Any, ...]]:
        return type(self), (self.field, self.constraints)


class Assignment(NamedTuple):
    """Where a code goes, and what it stands for.

    Attributes
    ----------
    present, swap : tuple of int
        The bits of a present PTE and of a swap entry that hold the code, its
        lowest bit first. Fewer than the code has where there are no more.
    codes : dict
        What the VMAs chose (a name for each group of ``per_vma``) -> code -> the
        non-zero fields. Empty where there are more than 64.
    """

    present: tuple[int, ...]
    swap: tuple[int, ...]
    codes: dict[Group, dict[int, dict[str, int]]]


@dataclass(frozen=True)
class Plan:
    """What a set of fields needs, and what an architecture has.

    Attributes
    ----------
    fields : Fields
    arch : Arch
    constraints : tuple of Constraint
    combinations : int
        Legal words; where VMAs choose, of the choice that has the most.
    bits : int
        The fewest that number them.
    available, available_swap : int
        Bits of a present PTE and of a swap entry: those that are free, and those
        that Linux gives to one of these fields.
    side : dict of str to int
        Bytes of side memory for each PTE table with a word, by encoding, if the
        fields were kept there as they are.
    """

    fields: Fields
    arch: Arch
    constraints: tuple[Constraint, ...]
    combinations: int
    bits: int
    available: int
    available_swap: int
    side: dict[str, int]

    @property
    def fits(self) -> bool:
        """Whether present PTEs have the bits."""
        return self.missing == 0

    @property
    def fits_swap(self) -> bool:
        """Whether swap entries have them too."""
        return self.missing_swap == 0

    @property
    def missing(self) -> int:
        """Bits that a present PTE lacks."""
        return max(self.bits - self.available, 0)

    @property
    def missing_swap(self) -> int:
        """Bits that a swap entry lacks."""
        return max(self.bits - self.available_swap, 0)

    @property
    def cleared(self) -> tuple[int, ...]:
        """Bits for the code that mprotect clears: see `Arch.cleared`."""
        return tuple(b for b in self.assignment.present if b in self.arch.cleared)

    @property
    def flushed(self) -> tuple[int, ...]:
        """Bits for the code of which a change may flush: not `Arch.unflushed`."""
        return tuple(b for b in self.assignment.present if b not in self.arch.unflushed)

    @property
    def choices(self) -> list[Group]:
        """What VMAs may choose: a name for each group of ``per_vma``."""
        return list(product(*(c.names for c in self._of("per_vma"))))

    @cached_property
    def assignment(self) -> Assignment:
        """Which bits hold the code, and which code is what."""
        present, swap = _room(self.fields, self.arch)
        codes = {}
        if self.combinations <= LISTED:
            for choice in self.choices:
                codes[choice] = {
                    code: {n: v for n, v in self.fields.unpack(word).items() if v}
                    for code, word in sorted(
                        (code, word) for word, code in self.codes(choice).items()
                    )
                }
        return Assignment(tuple(present[: self.bits]), tuple(swap[: self.bits]), codes)

    def codes(self, choice: Group | None = None) -> dict[int, int]:
        """Return every legal word with its code; that of word 0 is 0.

        Fields that nothing ties together have bits of the code of their own,
        where that takes no bit more: asking for one is then asking for bits.

        Parameters
        ----------
        choice : tuple of str, optional
            One of `choices`; by default the first.

        Raises
        ------
        KeyError
            If it is none of them.
        ValueError
            If they are more than 2**16.
        """
        if choice is None:
            choice = self.choices[0]
        if choice not in self.choices:
            raise KeyError(f"no choice {choice!r}; there are {self.choices}")
        if self.combinations > NUMBERED:
            raise ValueError(f"{self.combinations} combinations are not numbered; "
                             f"at most {NUMBERED} are")  # fmt: skip
        graph = Graph(self.fields, self.constraints, choice)
        words = [words_of(self.fields, graph, part) for part in graph.parts(graph.all)]
        widths = [(len(some) - 1).bit_length() for some in words]
        if sum(widths) > self.bits:
            return {word: code for code, word in enumerate(sums(words))}
        shifts = [sum(widths[:i]) for i in range(len(widths))]
        codes = [
            [code << shift for code in range(len(some))]
            for some, shift in zip(words, shifts, strict=True)
        ]
        legal = zip(product(*words), product(*codes), strict=True)
        return {sum(word): sum(code) for word, code in legal}

    @cached_property
    def lost(self) -> tuple[str, ...]:
        """What can't be expressed any more, in words; what constraints forbid first."""
        return tuple(self._lost())

    @cached_property
    def remedies(self) -> tuple[Group, ...]:
        """Pairs of fields of which one more ``excludes`` would make it fit.

        The one that takes least away first. Not looked for with more than 32
        fields.
        """
        if self.fits or len(self.fields) > MAX_PAIRED:
            return ()
        found = []
        for pair in combinations(self.fields, 2):
            added = (*self.constraints, Constraint("excludes", pair))
            if _conflict(self.fields, added) is None:
                count = most_words(self.fields, added)
                if count <= 1 << self.available:
                    found.append((-count, pair))
        return tuple(pair for _count, pair in sorted(found))

    def _of(self, kind: str) -> list[Constraint]:
        return [c for c in self.constraints if c.kind == kind]

    def _lost(self) -> Iterator[str]:
        for c in self.constraints:
            if c.kind == "implies":
                yield f"a PTE with {c.names[0]} and without {c.names[1]}"
            elif c.kind == "excludes":
                yield f"a PTE with {'any two' if len(c.names) > 2 else 'both'} of " + (
                    listed(c.names)
                )
            else:
                many = {2: "two", 3: "three"}.get(len(c.names), str(len(c.names)))
                yield (
                    f"{many} trackers on one VMA: {listed(c.names)} share the bit, and "
                    "a VMA that has words can't change over"
                )
        graph = Graph(self.fields, self.constraints)
        for c in self._of("per_vma"):
            for name in self.fields:
                if name in c.names:
                    continue
                needed = [n for n in c.names if graph.needs(name, n)]
                barred = [n for n in c.names if graph.bars(name, n)]
                if needed:
                    yield f"{name} on a VMA that doesn't have {needed[0]}"
                elif barred:
                    yield f"{name} together with {listed(barred, 'or')} in one PTE"
        if self.fits and not self.fits_swap:
            yield (
                "a swapped PTE with a word whose code is above "
                f"{(1 << self.available_swap) - 1}: it can't be swapped out"
            )


def plan(
    fields: Fields,
    arch: str | Arch = "x86_64",
    excludes: Groups = (),
    implies: Groups = (),
    per_vma: Groups = (),
    release: str | None = None,
) -> Plan:
    """Count the legal words of a set of fields, and find bits for them.

    Parameters
    ----------
    fields : Fields
    arch : str or Arch, default "x86_64"
    excludes : iterable of groups of names
        At most one field of each group is non-zero in a PTE.
    implies : iterable of pairs of names
        (a, b): where a is non-zero, b is.
    per_vma : iterable of groups of names
        Each VMA uses one of each group; there the others are 0. No field is in
        two groups.
    release : str, optional
        The Linux release whose bits are counted, as in :func:`extmeta.arch.arch_named`.

    Returns
    -------
    Plan

    Raises
    ------
    KeyError
        If a name is none of a field, or there is no such architecture.
    PlanConflict
        If a field can never be non-zero; with the fewest constraints that say so.
        It is a ValueError.
    TypeError
        If something is no Fields, no Arch or no group of names.
    ValueError
        If a group has fewer than two names, or one twice, or a pair isn't one; if
        the groups of ``per_vma`` overlap, or can be chosen of in too many ways; if the
        release is not known, or ``arch`` is an Arch, which has its own.

    Examples
    --------
    >>> trackers = Fields(uffd_wp=1, soft_dirty=1)
    >>> plan(trackers, excludes=[("uffd_wp", "soft_dirty")]).bits
    2
    >>> plan(trackers, per_vma=[("uffd_wp", "soft_dirty")]).bits
    1
    """
    if not isinstance(fields, Fields):
        raise TypeError(f"fields: {fields!r} is no Fields, as in Fields(age=8)")
    arch = arch_of(arch, release)
    found = constraints_of(fields, excludes, implies, per_vma)
    conflict = _conflict(fields, found)
    if conflict is not None:
        raise conflict
    count = most_words(fields, found)
    present, swap = _room(fields, arch)
    return Plan(
        fields=fields,
        arch=arch,
        constraints=found,
        combinations=count,
        bits=(count - 1).bit_length(),
        available=len(present),
        available_swap=len(swap),
        side=_side(fields, arch),
    )


def constraints_of(
    fields: Fields, excludes: Groups, implies: Groups, per_vma: Groups
) -> tuple[Constraint, ...]:
    """Return the constraints of a call of :func:`plan`, checked as it says."""
    found = [
        Constraint(kind, names)
        for kind, groups in (
            ("excludes", excludes),
            ("implies", implies),
            ("per_vma", per_vma),
        )
        for names in groups_of(kind, groups)
    ]
    chosen: dict[str, Group] = {}
    for kind, names in found:
        for name in names:
            if name not in fields:
                raise KeyError(f"{kind}: no field named {name!r}; there are "
                               f"{list(fields)}")  # fmt: skip
            if kind == "per_vma" and chosen.setdefault(name, names) is not names:
                raise ValueError(f"per_vma: {name!r} is in two groups, "
                                 f"{chosen[name]} and {names}")  # fmt: skip
    ways = prod(len(c.names) for c in found if c.kind == "per_vma")
    if ways > MAX_CHOICES:
        raise ValueError(f"per_vma: {ways} ways to choose; at most {MAX_CHOICES}")
    return tuple(found)


def groups_of(kind: str, groups: Any) -> Iterator[Group]:
    """Yield the groups of one kind of constraint, checked but for the fields."""
    example = f"as in {kind}=[('a', 'b')]"
    if isinstance(groups, str | Mapping) or not isinstance(groups, Iterable):
        raise TypeError(f"{kind}: {groups!r} is no list of groups of names, {example}")
    for group in groups:
        if isinstance(group, str) or not isinstance(group, Iterable):
            raise TypeError(f"{kind}: {group!r} is no group of names, {example}")
        names = tuple(group)
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"{kind}: {name!r} is no name of a field, {example}")
        if len(names) < 2 or (kind == "implies" and len(names) > 2):
            wanted = "a pair" if kind == "implies" else "two names or more"
            raise ValueError(f"{kind}: {names!r} is not {wanted}, {example}")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{kind}: {names!r} has {twice!r} twice")
        yield names


def owned(fields: Fields, arch: Arch) -> list[str]:
    """Return those of the fields that Linux already has bits for."""
    return [n for n, width in fields.items() if width == 1 and n in arch.owned]


def _room(fields: Fields, arch: Arch) -> tuple[list[int], list[int]]:
    """Return the bits of a present PTE and of a swap entry, ascending.

    In that order they are fewer runs, and each is moved by one shift to the right.
    """
    own = [arch.owned[name] for name in owned(fields, arch)]
    # Each once: what is free in one row may be owned in another.
    return (
        sorted({*(bit for bit, _swap_bit in own), *arch.free}),
        sorted({*(swap_bit for _bit, swap_bit in own), *arch.swap.free}),
    )


def _side(fields: Fields, arch: Arch) -> dict[str, int]:
    """Return what side pages for the fields as they are take, in bytes a table."""
    width = 1
    while width < min(fields.bits, 64):
        width *= 2
    if fields.bits > 64:
        width = (fields.bits + 63) // 64 * 64
    side = {"linked": arch.ptrs_per_pte * width // 8}
    if fields.bits <= 64:
        side["adjacent"] = arch.ptrs_per_pte * 8
    return side


def _conflict(
    fields: Fields, constraints: tuple[Constraint, ...]
) -> PlanConflict | None:
    """Return why a field can never be non-zero, or None."""
    graph = Graph(fields, constraints)
    for i, name in enumerate(fields):
        if not graph.possible(i):
            needed = list(constraints)
            for c in constraints:
                fewer = [other for other in needed if other is not c]
                if not Graph(fields, fewer).possible(i):
                    needed = fewer
            return PlanConflict(name, tuple(needed))
    return None
