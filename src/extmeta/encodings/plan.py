"""The fewest PTE bits that hold a set of fields, if not all fields go together.

Arcangeli asked in 2020 for "a more compact encoding with the bits we already
have" before RAM and CPU are spent (X+PY3zQeYNnheZhT@redhat.com). The user says which
fields exclude or imply each other, and which share a bit by VMA. The legal words are
counted exactly and numbered: ceil(log2) bits are enough. A plan also tells what each
constraint loses, and what a side page would cost instead.
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
from extmeta.notebook import table_html

# The most words that Assignment.codes lists and that Plan.codes numbers.
LISTED = 64
NUMBERED = 1 << 16

# The most combinations of choices by VMAs, and the most fields for `Plan.remedies`.
MAX_CHOICES = 1 << 12
MAX_PAIRED = 32


class PlanConflict(ValueError):
    """A field can never be non-zero.

    Attributes
    ----------
    field : str
    constraints : tuple of Constraint
        The reason. Without any one of them it could.
    """

    def __init__(self, field: str, constraints: tuple[Constraint, ...]) -> None:
        self.field = field
        self.constraints = constraints
        why = "; ".join(map(str, constraints))
        super().__init__(f"field {field!r} can never be non-zero: {why}")

    def __reduce__(self) -> tuple[type["PlanConflict"], tuple[Any, ...]]:
        return type(self), (self.field, self.constraints)


class Assignment(NamedTuple):
    """Which bits hold a code, and what each code means.

    Attributes
    ----------
    present, swap : tuple of int
        The bits of a present PTE and of a swap entry that hold the code, its
        lowest bit first. Fewer than the code's if there are no more.
    codes : dict
        Choice of the VMAs (a name for each group of ``per_vma``) -> code -> the
        non-zero fields. Empty if there are more than 64 words.
    """

    present: tuple[int, ...]
    swap: tuple[int, ...]
    codes: dict[Group, dict[int, dict[str, int]]]


@dataclass(frozen=True)
class Plan:
    """The bits that a set of fields needs, and the bits that an architecture has.

    Attributes
    ----------
    fields : Fields
    arch : Arch
    constraints : tuple of Constraint
    combinations : int
        Legal words. If VMAs choose, those of the choice with the most.
    bits : int
        The fewest bits that number them.
    available, available_swap : int
        Bits of a present PTE and of a swap entry that are free, or that Linux gives
        to one of these fields.
    side : dict of str to int
        By encoding, bytes of side memory for a PTE table with a word, if the fields
        were kept there without codes.
    """

    fields: Fields
    arch: Arch
    constraints: tuple[Constraint, ...]
    combinations: int
    bits: int
    available: int
    available_swap: int
    side: dict[str, int]

    def __repr__(self) -> str:
        return (
            f"<Plan of {self.fields!r} on {self.arch.name}: {self.combinations:,} words "
            f"need {self.bits} bit{'s' * (self.bits != 1)}; a present PTE has "
            f"{self.available}, a swap entry {self.available_swap}>"
        )

    def _repr_html_(self) -> str:
        def of(has: int, lacks: int) -> str:
            return f"{has}, {f'{lacks} too few' if lacks else 'enough'}"

        return table_html(
            f"Plan of {self.fields!r} on {self.arch.name}",
            {
                "legal words": self.combinations,
                "bits they need": self.bits,
                "bits of a present PTE": of(self.available, self.missing),
                "bits of a swap entry": of(self.available_swap, self.missing_swap),
                **{
                    f"bytes a PTE table with {name}": nbytes
                    for name, nbytes in self.side.items()
                },
            },
        )

    @property
    def fits(self) -> bool:
        """Whether a present PTE has enough bits."""
        return self.missing == 0

    @property
    def fits_swap(self) -> bool:
        """Whether a swap entry has enough bits."""
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
        """Bits of the code that mprotect clears: see `Arch.cleared`."""
        return tuple(b for b in self.assignment.present if b in self.arch.cleared)

    @property
    def flushed(self) -> tuple[int, ...]:
        """Bits of the code whose change may flush the TLB: see `Arch.unflushed`."""
        return tuple(b for b in self.assignment.present if b not in self.arch.unflushed)

    @property
    def choices(self) -> list[Group]:
        """The choices that VMAs have: a name for each group of ``per_vma``."""
        return list(product(*(c.names for c in self._of("per_vma"))))

    @cached_property
    def assignment(self) -> Assignment:
        """Which bits hold the code, and what each code means."""
        present, swap = _room(self.fields, self.arch)
        codes = {}
        for choice in self.choices if self.combinations <= LISTED else ():
            word_of = {code: word for word, code in self.codes(choice).items()}
            codes[choice] = {
                code: {n: v for n, v in self.fields.unpack(word_of[code]).items() if v}
                for code in sorted(word_of)
            }
        return Assignment(tuple(present[: self.bits]), tuple(swap[: self.bits]), codes)

    def codes(self, choice: Group | None = None) -> dict[int, int]:
        """Return every legal word with its code. Word 0 has code 0.

        Fields that no constraint ties together get their own bits of the code if that
        takes no more bits. Then a scan for one field compares bits.

        Parameters
        ----------
        choice : tuple of str, optional
            One of `choices`; by default the first.

        Raises
        ------
        KeyError
            If ``choice`` is not one of them.
        ValueError
            If there are more than 2**16 words.
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
        """Sentences on what can't be expressed; what constraints forbid comes first."""
        return tuple(self._lost())

    @cached_property
    def remedies(self) -> tuple[Group, ...]:
        """Pairs of fields whose exclusion would make the plan fit.

        The pair that forbids the fewest words comes first. Empty with more than 32
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
    """Count the legal words of a set of fields, and find bits for their codes.

    Parameters
    ----------
    fields : Fields
    arch : str or Arch, default "x86_64"
    excludes : iterable of groups of names
        At most one field of each group is non-zero in a PTE.
    implies : iterable of pairs of names
        (a, b): if a is non-zero, b is non-zero.
    per_vma : iterable of groups of names
        Each VMA uses one field of each group; the others are 0 there. No field is
        in two groups.
    release : str, optional
        The Linux release whose bits are counted, as in :func:`extmeta.arch.arch_named`.

    Returns
    -------
    Plan

    Raises
    ------
    KeyError
        If a field or architecture is unknown.
    PlanConflict
        If a field can never be non-zero; names the fewest constraints that cause it.
        It is a ValueError.
    TypeError
        If an argument is not Fields, an Arch or groups of names.
    ValueError
        If a group has fewer than two names, or a name twice; if a group of ``implies``
        is not a pair; if groups of ``per_vma`` overlap, or allow too many choices; if
        the release is unknown, or ``arch`` is an Arch, which has its own.

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
    """Check the constraints of a call of :func:`plan`, and return them."""
    given = {"excludes": excludes, "implies": implies, "per_vma": per_vma}
    found = [
        Constraint(kind, names)
        for kind, groups in given.items()
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
    """Check the groups of one kind, except whether fields exist, and yield them."""
    example = f"as in {kind}=[('a', 'b')]"
    if isinstance(groups, str | Mapping) or not isinstance(groups, Iterable):
        raise TypeError(f"{kind}: {groups!r} is not groups of names, {example}")
    for group in groups:
        if isinstance(group, str) or not isinstance(group, Iterable):
            raise TypeError(f"{kind}: {group!r} is not a group of names, {example}")
        names = tuple(group)
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"{kind}: {name!r} is not a name of a field, {example}")
        if len(names) < 2 or (kind == "implies" and len(names) > 2):
            wanted = "a pair" if kind == "implies" else "two names or more"
            raise ValueError(f"{kind}: {names!r} is not {wanted}, {example}")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{kind}: {names!r} has {twice!r} twice")
        yield names


def owned(fields: Fields, arch: Arch) -> list[str]:
    """Return the fields that Linux already has bits for."""
    return [n for n, width in fields.items() if width == 1 and n in arch.owned]


def _room(fields: Fields, arch: Arch) -> tuple[list[int], list[int]]:
    """Return the bits for a code in a present PTE and in a swap entry.

    Ascending, so that they are fewer runs, and one right shift moves each.
    """
    own = [arch.owned[name] for name in owned(fields, arch)]
    # A set, because a free bit of a swap entry may be a field's own too.
    return (
        sorted({*(bit for bit, _swap_bit in own), *arch.free}),
        sorted({*(swap_bit for _bit, swap_bit in own), *arch.swap.free}),
    )


def width_of(bits: int) -> int:
    """Return the width of a word in a side page: a power of 2 or whole 64 bits."""
    return 1 << (bits - 1).bit_length() if bits <= 64 else (bits + 63) // 64 * 64


def _side(fields: Fields, arch: Arch) -> dict[str, int]:
    """Return the bytes a table of side pages, by encoding."""
    side = {"linked": arch.ptrs_per_pte * width_of(fields.bits) // 8}
    if fields.bits <= 64:
        side["adjacent"] = arch.ptrs_per_pte * 8
    return side


def _conflict(
    fields: Fields, constraints: tuple[Constraint, ...]
) -> PlanConflict | None:
    """Return the error if a field can never be non-zero, or None."""
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
