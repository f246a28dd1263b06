"""The planner: what it counts, what it finds in an architecture, what it refuses."""

import dataclasses
from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

import extmeta as em
from extmeta.arch import ARCHES
from extmeta.encodings.constraints import listed
from extmeta.encodings.plan import MAX_CHOICES

X86 = ARCHES["x86_64"]

# One free bit, in present PTEs and in swap entries, as riscv64 has it without
# Svrsw60t59b; it was devmap's (Linux v6.12 arch/riscv/include/asm/pgtable-bits.h).
ONE_BIT = dataclasses.replace(
    X86,
    name="one_bit",
    free=(9,),
    owned={},
    swap=dataclasses.replace(X86.swap, free=(4,)),
)
NO_BIT = dataclasses.replace(ONE_BIT, name="no_bit", free=())

TRACKERS = em.Fields(uffd_wp=1, soft_dirty=1)
PAIR = ("uffd_wp", "soft_dirty")


def is_legal(values, choice, excludes, implies, per_vma):
    return (
        all(sum(values[n] != 0 for n in group) <= 1 for group in excludes)
        and all(values[a] == 0 or values[b] for a, b in implies)
        and not any(
            values[n]
            for name, group in zip(choice, per_vma, strict=True)
            for n in group
            if n != name
        )
    )


def legal_words(fields, choice, *constraints):
    """Return the legal words, of all that there are."""
    words = range(1 << fields.bits)
    return [w for w in words if is_legal(fields.unpack(w), choice, *constraints)]


NAMES = "abcdefg"


@st.composite
def problems(draw):
    """Draw fields of 1 to 9 bits and constraints between them."""
    names = NAMES[: draw(st.integers(2, len(NAMES)))]
    widths = {n: draw(st.integers(1, 2)) for n in names}
    while sum(widths.values()) > 9:
        widths[max(widths, key=widths.get)] = 1
    groups = st.lists(st.sampled_from(names), min_size=2, max_size=4, unique=True)
    pairs = st.lists(st.sampled_from(names), min_size=2, max_size=2, unique=True)
    left = draw(st.permutations(names))
    per_vma = []
    for _ in range(draw(st.integers(0, 2))):
        size = draw(st.integers(2, 3))
        if len(left) >= size:
            per_vma.append(tuple(left[:size]))
            left = left[size:]
    return (
        em.Fields(**widths),
        draw(st.lists(groups, max_size=3)),
        draw(st.lists(pairs, max_size=4)),
        per_vma,
    )


@given(problems())
def test_it_counts_what_there_is(problem):
    fields, *constraints = problem
    choices = list(product(*constraints[2]))
    words = {choice: legal_words(fields, choice, *constraints) for choice in choices}
    usable = {
        name
        for some in words.values()
        for word in some
        for name, value in fields.unpack(word).items()
        if value
    }
    try:
        found = em.plan(fields, X86, *constraints)
    except em.PlanConflict as caught:
        conflict = caught
    else:
        conflict = None
    if conflict:
        assert conflict.field not in usable
        assert_minimal(fields, conflict)
        return
    assert usable == {*fields}
    assert found.combinations == max(map(len, words.values()))
    assert 2 ** (found.bits - 1) < found.combinations <= 2**found.bits
    assert found.choices == choices
    for choice, some in words.items():
        codes = found.codes(choice)
        assert sorted(codes) == some
        assert codes[0] == 0
        assert len({*codes.values()}) == len(codes)
        assert max(codes.values()) < 2**found.bits


def assert_minimal(fields, conflict):
    """Assert that the constraints make the field useless, and no fewer do."""

    def planned(constraints):
        kinds = {"excludes": [], "implies": [], "per_vma": []}
        for kind, names in constraints:
            kinds[kind].append(names)
        try:
            em.plan(fields, X86, **kinds)
        except em.PlanConflict as other:
            return other.field
        return None

    assert planned(conflict.constraints) is not None
    for n in range(len(conflict.constraints)):
        for fewer in combinations(conflict.constraints, n):
            assert planned(fewer) != conflict.field


# -- cases that came up in the kernel --------------------------------------------


def test_two_trackers_that_exclude_each_other_still_need_two_bits():
    """Three states; Arcangeli, X+PY3zQeYNnheZhT@redhat.com, 2020."""
    found = em.plan(TRACKERS, "x86_64", excludes=[PAIR])
    assert (found.combinations, found.bits) == (3, 2)
    assert found.lost == ("a PTE with both of uffd_wp and soft_dirty",)
    assert found.assignment.codes == {
        (): {0: {}, 1: {"uffd_wp": 1}, 2: {"soft_dirty": 1}}
    }


def test_two_trackers_of_which_a_vma_has_one_need_one_bit():
    """RWP, 20260706084805.8400-1-kirill@shutemov.name, 2026."""
    found = em.plan(TRACKERS, "x86_64", per_vma=[PAIR])
    assert (found.combinations, found.bits) == (2, 1)
    assert found.fits
    assert found.fits_swap
    (lost,) = found.lost
    assert lost.startswith("two trackers on one VMA: uffd_wp and soft_dirty share")
    assert found.assignment.codes == {
        ("uffd_wp",): {0: {}, 1: {"uffd_wp": 1}},
        ("soft_dirty",): {0: {}, 1: {"soft_dirty": 1}},
    }


def test_a_three_way_mux_fits_in_one_bit():
    """RISC-V V2, CAAfSe-v6+Gc8ujv3m3LdBPk+rGSqmz44RheoNqGJcXjOq3vU9A@mail.gmail.com."""
    fields = em.Fields(soft_dirty=1, uffd_wp=1, devmap=1)
    found = em.plan(fields, ONE_BIT, per_vma=[("soft_dirty", "uffd_wp", "devmap")])
    assert (found.combinations, found.bits, found.available) == (2, 1, 1)
    assert found.fits
    assert found.assignment.present == (9,)
    assert found.assignment.swap == (4,)
    assert "three trackers on one VMA" in found.lost[0]
    # Per PTE they are four states.
    per_pte = em.plan(fields, ONE_BIT, excludes=[tuple(fields)])
    assert (per_pte.combinations, per_pte.bits, per_pte.missing) == (4, 2, 1)
    assert not per_pte.fits
    assert per_pte.assignment.present == (9,)


def test_four_independent_flags_on_x86_64():
    found = em.plan(em.Fields(a=1, b=1, c=1, d=1), X86)
    assert (found.combinations, found.bits) == (16, 4)
    assert (found.available, found.available_swap) == (6, 1)
    assert found.fits
    assert (found.fits_swap, found.missing_swap) == (False, 3)
    assert found.assignment.present == (52, 53, 54, 55)
    assert found.assignment.swap == (4,)
    assert found.lost == (
        "a swapped PTE with a word whose code is above 1: it can't be swapped out",
    )
    with_trackers = em.plan(em.Fields(uffd_wp=1, soft_dirty=1, c=1, d=1), X86)
    assert (with_trackers.available, with_trackers.available_swap) == (8, 3)
    assert with_trackers.assignment.present == (10, 11, 52, 53)
    assert with_trackers.assignment.swap == (1, 2, 4)
    # Two bits of that name are not the one that Linux tracks.
    assert em.plan(em.Fields(uffd_wp=2), X86).available == 6


TWELVE = em.Fields(**{f"f{i}": 1 + i % 3 for i in range(12)})


def test_twelve_fields_with_twenty_constraints():
    excludes = [(f"f{i}", f"f{(i + 3) % 12}") for i in range(0, 12, 2)]
    excludes += [("f0", "f5", "f7"), ("f1", "f2"), ("f3", "f8", "f10"), ("f9", "f4")]
    implies = [("f6", "f11"), ("f8", "f1"), ("f2", "f3"), ("f5", "f4"), ("f7", "f9")]
    per_vma = [("f0", "f1"), ("f4", "f11"), ("f6", "f9")]
    excludes += [("f10", "f11"), ("f5", "f6")]
    constraints = excludes, implies, per_vma
    assert sum(map(len, constraints)) == 20
    found = em.plan(TWELVE, X86, *constraints)
    # By patterns of what is non-zero, 2**12 a choice: words are too many.
    most = 0
    for choice in product(*per_vma):
        total = 0
        for pattern in product((0, 1), repeat=12):
            values = dict(zip(TWELVE, pattern, strict=True))
            if is_legal(values, choice, *constraints):
                weight = 1
                for name, on in values.items():
                    weight *= (1 << TWELVE[name]) - 1 if on else 1
                total += weight
        most = max(most, total)
    assert found.combinations == most


def test_constraints_that_nothing_ties_together_multiply():
    fields = em.Fields(**{f"f{i}": 1 for i in range(400)})
    excludes = [(f"f{i}", f"f{i + 1}") for i in range(0, 200, 2)]
    implies = [(f"f{i}", f"f{i + 1}") for i in range(200, 300, 2)]
    found = em.plan(fields, X86, excludes, implies)
    assert found.combinations == 3**100 * 3**50 * 2**100


def test_a_ladder_and_a_clique_of_many_fields():
    """By patterns there would be 2**200 of them."""
    n = 100
    fields = em.Fields(**{f"{side}{i}": 1 for i in range(n) for side in "ab"})
    excludes = [(f"a{i}", f"b{i}") for i in range(n)]
    excludes += [
        (f"{side}{i}", f"{side}{i + 1}") for i in range(n - 1) for side in "ab"
    ]
    # A rung has none, a or b: none follows on any, a on none or b.
    none, one = 1, 1
    for _ in range(n - 1):
        none, one = none + 2 * one, none + one
    assert em.plan(fields, X86, excludes).combinations == none + 2 * one
    assert em.plan(fields, X86, [tuple(fields)]).combinations == 2 * n + 1
    # The recursion is as deep as there are fields.
    most = em.Fields(**{f"f{i}": 1 for i in range(512)})
    assert em.plan(most, X86, [tuple(most)]).combinations == 513


def test_fields_of_512_bits():
    fields = em.Fields(a=500, b=12)
    assert em.plan(fields).combinations == 2**512
    found = em.plan(fields, excludes=[("a", "b")])
    assert found.combinations == 2**500 + 2**12 - 1
    assert (found.bits, found.missing) == (501, 495)
    assert found.side == {"linked": 32768}
    with pytest.raises(ValueError, match="at most 65536"):
        found.codes()


# -- what else it says -----------------------------------------------------------


def test_side_pages_are_as_large_as_they_turn_out():
    for widths in ({"a": 1}, {"a": 3}, {"a": 9, "b": 7}, {"a": 33}, {"a": 64, "b": 1}):
        fields = em.Fields(**widths)
        for name, nbytes in em.plan(fields).side.items():
            table = em.PageTable(name, fields)
            table.map(5)
            table.store(5, 1)
            assert table.memory().side == nbytes


def test_a_release_has_its_own_free_bits():
    fields = em.Fields(a=1, b=1, c=1, d=1, e=1, f=1)
    old, new = em.plan(fields, release="6.12"), em.plan(fields)
    assert (old.available, old.missing, old.arch.release) == (5, 1, "6.12")
    assert (new.available, new.fits, new.arch.release) == (6, True, "6.18")
    assert em.plan(fields, "x86_64@6.12") == old
    # mprotect clears all of these bits, and flushes for all but 57.
    assert new.cleared == new.assignment.present == (52, 53, 54, 55, 56, 57)
    assert new.flushed == (52, 53, 54, 55, 56)
    assert em.plan(TRACKERS).cleared == em.plan(TRACKERS).flushed == ()
    assert em.plan(em.Fields(a=2), "arm64").cleared == ()


def test_an_architecture_without_a_bit():
    found = em.plan(TRACKERS, NO_BIT)
    assert (found.available, found.missing, found.fits) == (0, 2, False)
    assert found.assignment.present == ()


def test_fields_that_no_constraint_ties_have_bits_of_their_own():
    fields = em.Fields(uffd_wp=1, age=4, soft_dirty=1)
    found = em.plan(fields, X86, excludes=[PAIR])
    assert found.bits == 6
    for word, code in found.codes().items():
        assert code >> 2 == fields.unpack(word)["age"]
    # Where that would take a bit more, they share: 3 * 3 words are 4 bits, 3 * 3 * 3
    # are 5.
    names = [f"f{i}" for i in range(6)]
    thrice = em.plan(
        em.Fields(**dict.fromkeys(names, 1)),
        X86,
        excludes=[names[0:2], names[2:4], names[4:6]],
    )
    assert (thrice.combinations, thrice.bits) == (27, 5)
    assert sorted(thrice.codes().values()) == list(range(27))


def test_what_one_more_exclude_would_do():
    fields = em.Fields(a=3, b=3, c=1)
    found = em.plan(fields, X86)
    assert (found.bits, found.missing) == (7, 1)
    assert found.remedies == (("a", "b"),)
    assert em.plan(fields, X86, excludes=found.remedies[:1]).fits
    for pair in (("a", "c"), ("b", "c")):
        assert not em.plan(fields, X86, excludes=[pair]).fits
    assert em.plan(em.Fields(a=2), X86).remedies == ()
    many = em.Fields(**{f"f{i}": 1 for i in range(40)})
    assert em.plan(many, X86).remedies == ()


def test_a_remedy_makes_no_field_useless():
    fields = em.Fields(a=3, b=4)
    found = em.plan(fields, X86, implies=[("a", "b")])
    assert not found.fits
    assert found.remedies == ()


TWO_TRACKERS = (
    "two trackers on one VMA: a and b share the bit, and a VMA that has words can't "
    "change over"
)


def test_what_is_lost_by_what_others_imply():
    found = em.plan(
        em.Fields(a=1, b=1, c=1, d=1, e=1),
        X86,
        excludes=[("d", "a", "c")],
        implies=[("c", "b"), ("e", "d")],
        per_vma=[("a", "b")],
    )
    assert found.lost == (
        "a PTE with any two of d, a and c",
        "a PTE with c and without b",
        "a PTE with e and without d",
        TWO_TRACKERS,
        "c on a VMA that doesn't have b",
        "e together with a in one PTE",
        "a swapped PTE with a word whose code is above 1: it can't be swapped out",
    )


# -- what is refused -------------------------------------------------------------


def test_a_conflict_comes_with_a_minimal_subset():
    fields = em.Fields(a=1, b=1, c=1, d=1, e=1)
    with pytest.raises(
        em.PlanConflict,
        match="field 'a' can never be non-zero: b and c exclude each other; "
        "a implies b; d implies c; a implies d",
    ) as caught:
        em.plan(
            fields,
            X86,
            excludes=[("a", "e"), ("b", "c"), ("d", "e")],
            implies=[("e", "c"), ("a", "b"), ("d", "c"), ("a", "d")],
        )
    assert caught.value.field == "a"
    assert [c.kind for c in caught.value.constraints] == ["excludes"] + ["implies"] * 3
    assert_minimal(fields, caught.value)


def test_a_field_that_no_vma_can_use_is_a_conflict():
    with pytest.raises(em.PlanConflict, match=r"'b'.*b implies a; a VMA has one of a"):
        em.plan(em.Fields(a=1, b=1), implies=[("b", "a")], per_vma=[("a", "b")])


AB = em.Fields(a=1, b=1, c=1, d=1)

BAD = {
    "fields": (lambda: em.plan({"a": 1}), TypeError, "no Fields"),
    "arch": (lambda: em.plan(AB, 5), TypeError, "arch: 5"),
    "release": (lambda: em.plan(AB, release="5.4"), ValueError, r"'5\.4' is not known"),
    "release of an Arch": (
        lambda: em.plan(AB, X86, release="6.12"),
        ValueError,
        "a release goes with a name",
    ),
    "arch name": (lambda: em.plan(AB, "z80"), KeyError, "'z80'"),
    "unknown": (lambda: em.plan(AB, excludes=[("a", "x")]), KeyError, "excludes.*'x'"),
    "flat": (lambda: em.plan(AB, excludes=("a", "b")), TypeError, "'a' is not a group"),
    "string": (lambda: em.plan(AB, excludes="ab"), TypeError, "'ab' is not groups"),
    "none": (lambda: em.plan(AB, per_vma=None), TypeError, "per_vma: None"),
    "dict": (lambda: em.plan(AB, implies={"a": "b"}), TypeError, "is not groups of"),
    "number": (lambda: em.plan(AB, excludes=[("a", 1)]), TypeError, "1 is not a name"),
    "one": (lambda: em.plan(AB, excludes=[("a",)]), ValueError, r"\('a',\)"),
    "no pair": (
        lambda: em.plan(AB, implies=["ab", "c"]),
        TypeError,
        "'ab' is not a group",
    ),
    "three": (lambda: em.plan(AB, implies=[("a", "b", "c")]), ValueError, "not a pair"),
    "twice": (lambda: em.plan(AB, excludes=[("a", "a")]), ValueError, "'a' twice"),
    "itself": (lambda: em.plan(AB, implies=[("a", "a")]), ValueError, "'a' twice"),
    "overlap": (
        lambda: em.plan(AB, per_vma=[("a", "b"), ("b", "c")]),
        ValueError,
        r"'b' is in two groups",
    ),
    "ways": (
        lambda: em.plan(
            em.Fields(**{f"f{i}": 1 for i in range(40)}),
            per_vma=[(f"f{i}", f"f{i + 1}") for i in range(0, 40, 2)],
        ),
        ValueError,
        f"{2**20} ways.*at most {MAX_CHOICES}",
    ),
    "choice": (lambda: em.plan(AB).codes(("a",)), KeyError, "no choice"),
}


@pytest.mark.parametrize("call", BAD)
def test_bad_input_is_refused_by_name(call):
    function, error, message = BAD[call]
    with pytest.raises(error, match=message):
        function()


def test_names_as_one_says_them():
    assert listed(("a",)) == "a"
    assert listed(("a", "b")) == "a and b"
    assert listed(("a", "b", "c"), "or") == "a, b or c"
