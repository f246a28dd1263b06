"""One bit for uffd-wp and soft-dirty, by VMA: what it shows, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spaces import FIELDS, PAGE, PMD, A, B, letters, make, shown, tidy

import extmeta as em

SYNC = ("WP_UNPOPULATED",)
EVENTS = ("WP_ASYNC", "EVENT_FORK", "EVENT_REMAP")


@pytest.fixture(params=[("uffd_wp", "soft_dirty"), ("soft_dirty", "uffd_wp")])
def mux(request):
    """Eight pages, the first four written; whichever is the encoding's default."""
    a = make(em.Compact(per_vma=[request.param]))
    a.mmap(A, 8 * PAGE)
    a.write(A, 4 * PAGE)
    yield a
    tidy(a)


def test_it_takes_one_bit(mux):
    assert mux.table.encoding.plan.bits == 2  # and one is age's


def test_soft_dirty_alone_is_as_ever(mux):
    mux.clear_refs()
    mux.write(A + PAGE)
    mux.madvise(A, 3 * PAGE, "PAGEOUT")
    assert shown(mux) == "S SD S PX - - - -"
    mux.mremap(A, 8 * PAGE, 8 * PAGE, B)
    assert shown(mux, B) == "SD SD SD PXD - - - -"


def test_uffd_wp_alone_is_as_ever_and_all_is_soft_dirty(mux):
    mux.uffd_register(A, 8 * PAGE)
    mux.uffd_writeprotect(A, 8 * PAGE, True)
    mux.write(A)
    mux.write(A + 5 * PAGE)
    mux.madvise(A + PAGE, PAGE, "PAGEOUT")
    assert shown(mux) == "PXD SWD PWXD PWXD SWD PXD SWD SWD"


def test_soft_dirty_holds_the_bit(mux):
    mux.mmap(B, PAGE)
    mux.clear_refs()
    mux.write(A)
    before = shown(mux)
    with pytest.raises(em.Refused, match=r"uffd_wp has no bit .* soft_dirty holds it"):
        mux.uffd_register(A, 8 * PAGE)
    assert shown(mux) == before == "PXD PX PX PX - - - -"
    # If one of several VMAs is refused, none is registered.
    mux.mmap(A + 8 * PAGE, 4 * PAGE, "r")
    with pytest.raises(em.Refused, match="soft_dirty holds it"):
        mux.uffd_register(A, 12 * PAGE)
    with pytest.raises(OSError, match="no userfaultfd"):
        mux.uffd_writeprotect(A + 8 * PAGE, PAGE, True)
    # A VMA that is new since then has the bit free.
    mux.uffd_register(A + 8 * PAGE, 4 * PAGE)


def test_uffd_wp_holds_the_bit(mux):
    mux.mmap(B, PAGE)
    mux.uffd_register(A, 8 * PAGE)
    mux.uffd_writeprotect(A, 8 * PAGE, True)
    with pytest.raises(em.Refused, match=r"soft_dirty has no bit .* uffd_wp holds it"):
        mux.clear_refs()
    assert shown(mux, B, 1) == "D"
    assert shown(mux, A, 2) == "PWXD PWXD"
    mux.uffd_unregister(A, 8 * PAGE)
    mux.clear_refs()
    assert shown(mux, A, 5) == "PX PX PX PX -"


def test_what_is_given_back_is_soft_dirty(mux):
    """Although the neighbour that the VMA joins is clean by then."""
    mux.clear_refs()
    mux.mmap(B, 4 * PAGE)
    mux.uffd_register(B, 2 * PAGE)
    mux.uffd_writeprotect(B, 2 * PAGE, True)
    mux.write(B, PAGE)
    mux.uffd_unregister(B, 2 * PAGE)
    vpns = np.arange(2) + B // PAGE
    assert mux.table.load(vpns[:1], "soft_dirty").tolist() == [1]
    assert shown(mux, B, 3) == "PXD D D"


@pytest.mark.parametrize("features", [("WP_ASYNC",), EVENTS])
def test_fork_and_mremap_take_the_bit_along_with_the_userfaultfd(mux, features):
    mux.uffd_register(A, 8 * PAGE, features)
    mux.uffd_writeprotect(A, 8 * PAGE, True)
    kept = "EVENT_FORK" in features
    child = mux.fork()
    mux.mremap(A, 8 * PAGE, 8 * PAGE, B)
    for a, at in ((child, A), (mux, B)):
        w = "W" if kept else ""
        words = ["P" + w + "D"] * 4 + ["SWD" if kept else "D"] * 4
        assert shown(a, at).replace("X", "").split() == words
        if kept:
            with pytest.raises(em.Refused, match="uffd_wp holds it"):
                a.clear_refs()
        else:
            a.clear_refs()
            a.write(at + PAGE)
            assert "D" in shown(a, at + PAGE, 1)
            assert "D" not in shown(a, at, 1)
        tidy(a)


def test_a_mapping_made_longer_uses_what_its_userfaultfd_does(mux):
    mux.uffd_register(A, 8 * PAGE, EVENTS)
    mux.mremap(A, 8 * PAGE, 12 * PAGE, B)
    mux.uffd_writeprotect(B, 12 * PAGE, True)
    assert shown(mux, B + 8 * PAGE, 4) == "SWD SWD SWD SWD"
    # Where that was, another mapping is soft-dirty's again.
    mux.mmap(B, 12 * PAGE)
    mux.clear_refs()
    mux.write(B + 11 * PAGE)
    assert shown(mux, B + 10 * PAGE, 2) == "- PXD"


def test_huge_pages(mux):
    mux.mmap(B, 2 * PMD)
    mux.madvise(B, 2 * PMD, "HUGEPAGE")
    mux.write(B, 2 * PMD)
    mux.uffd_register(B, PMD)
    mux.uffd_writeprotect(B, PMD, True)
    mux.write(B + PAGE)
    assert shown(mux, B, 3) == "PWXD PXD PWXD"
    mux.uffd_writeprotect(B, PMD, False)
    mux.madvise(B, PMD, "COLLAPSE")
    assert shown(mux, B, 2) == "PXD PXD"
    mux.uffd_unregister(B, PMD)
    mux.clear_refs()
    assert shown(mux, B, 2) == "PX PX"


def test_other_fields_stay_when_the_bit_changes_hands(mux):
    vpns = np.arange(4) + A // PAGE
    mux.table.update(vpns, set=FIELDS.mask("age"))
    for _ in range(2):
        mux.uffd_register(A, 8 * PAGE)
        mux.uffd_unregister(A, 8 * PAGE)
        assert mux.table.load(vpns, "age").tolist() == [1] * 4


def test_riscv_without_svrsw60t59b_has_one_bit_for_both():
    fields = em.Fields(uffd_wp=1, soft_dirty=1)
    with pytest.raises(ValueError, match="riscv64"):
        em.AddressSpace(fields, "inpte", "riscv64")
    mux = em.Compact(per_vma=[("uffd_wp", "soft_dirty")])
    a = em.AddressSpace(fields, mux, "riscv64")
    a.mmap(A, 4 * PAGE)
    a.uffd_register(A, 2 * PAGE)
    a.uffd_writeprotect(A, 2 * PAGE, True)
    a.write(A, 3 * PAGE)
    assert shown(a, A, 3) == "PXD PXD PXD"


ACTIONS = {
    "write": lambda a, at, length: a.write(at, length),
    "read": lambda a, at, length: a.read(at, length),
    "drop": lambda a, at, length: a.madvise(at, length, "DONTNEED"),
    "page out": lambda a, at, length: a.madvise(at, length, "PAGEOUT"),
    "protect": lambda a, at, length: a.uffd_writeprotect(at, length, True),
    "unprotect": lambda a, at, length: a.uffd_writeprotect(at, length, False),
    "register": lambda a, at, length: a.uffd_register(at, length),
    "unregister": lambda a, at, length: a.uffd_unregister(at, length),
    "clear_refs": lambda a, at, length: a.clear_refs(),
    "fork": lambda a, at, length: tidy(a.fork()).exit(),
    "move": lambda a, at, length: a.mremap(at, length, length, at + B - A),
    "back": lambda a, at, length: a.mremap(at + B - A, length, length, at),
    "read-only": lambda a, at, length: a.mprotect(at, length, "r"),
    "writable": lambda a, at, length: a.mprotect(at, length, "rw"),
}
OFTEN = ("write", "write", "clear_refs", "unregister")
PLACES = ((0, 8), (0, 8), (0, 4), (2, 3), (4, 4))


def answer(action, a, at, length):
    """Return 0, the errno, or "refused" by the encoding."""
    try:
        ACTIONS[action](a, at, length)
    except em.Refused:
        return "refused"
    except OSError as error:
        return error.errno
    return 0


@given(
    st.lists(
        st.tuples(st.sampled_from((*ACTIONS, *OFTEN)), st.sampled_from(PLACES)),
        min_size=12,
        max_size=24,
    )
)
def test_never_clean_where_two_bits_say_dirty(actions):
    """Beside an encoding with a bit for each: the same pages and protection, and
    what is soft-dirty there is soft-dirty here."""
    mux, two_bits = make(em.Compact(per_vma=[("uffd_wp", "soft_dirty")])), make("inpte")
    for a in (mux, two_bits):
        a.mmap(A, 8 * PAGE)
    dirty = np.uint64(1 << 55)
    for action, (start, count) in actions:
        at, length = A + start * PAGE, count * PAGE
        said = answer(action, mux, at, length)
        if said == "refused":
            continue
        assert answer(action, two_bits, at, length) == said
        for place in (A, B):
            one, two = (a.pagemap(place, 8 * PAGE) for a in (mux, two_bits))
            assert list(map(letters, one & ~dirty)) == list(map(letters, two & ~dirty))
            assert not (two & dirty & ~one).any()
    tidy(mux)
