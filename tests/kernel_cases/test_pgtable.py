"""mm/debug_vm_pgtable.c: what must hold of one entry, on every architecture.

The kernel's test checks its helpers on entries in a variable; here each helper is the
operation that does the same to the entry of a table.
"""

import pytest
from cases import (
    ENCODINGS,
    FIELDS,
    NO_PAGE,
    ONE_WORD,
    fails_on_page_ext,
    huge_of,
    is_huge,
    page_of,
    place,
    soft_dirty,
    track,
    uffd_wp,
)

import extmeta as em
from extmeta.arch import ARCHES

TRACKERS = tuple(FIELDS)
VPN = 0x12345


def fits(encoding, arch):
    """Tell whether an encoding has room for both trackers there."""
    try:
        em.PageTable(encoding, FIELDS, arch)
    except ValueError:
        return False
    return True


# Every encoding, and on every architecture the ways to use its bits: words in the PTE,
# a flag there, and wider entries. tests/test_arch.py has all pairs.
EVERYWHERE = ("inpte", "linked", "wide")
FORMS = {
    f"{name}-{arch}": (encoding, arch)
    for name, encoding in ENCODINGS.items()
    for arch in ARCHES
    if arch == "x86_64" or name in EVERYWHERE
    if fits(encoding, arch)
}


@pytest.fixture(params=TRACKERS)
def tracker(request):
    return request.param


@pytest.fixture(params=FORMS)
def table(request, tracker):
    """A table whose encoding has a bit for the tracker."""
    encoding, arch = FORMS[request.param]
    t = em.PageTable(encoding, FIELDS, arch)
    if getattr(t.encoding, "per_vma", ()):
        t.encoding.choose(0, t.arch.nr_vpns, tracker)
    yield t
    t.check()


def entry(t):
    """Return the entry as it is in the table."""
    size = t.arch.ptrs_per_pte
    return int(t.tables[VPN // size * size][VPN % size])


def pfn(t):
    """Return the pfn of the entry."""
    return entry(t) >> t.arch.pfn_shift & (1 << t.arch.pfn_bits) - 1


def slot(t):
    """Return type and offset of the swap entry, as one number."""
    swap = t.arch.swap
    mask = (1 << swap.offset_bits) - 1
    offset = entry(t) >> swap.offset_shift & mask
    if swap.offset_inverted:
        offset ^= mask
    device = entry(t) >> swap.type_shift & (1 << swap.type_bits) - 1
    return device << swap.offset_bits | offset


def mark(t, tracker):
    t.update(VPN, set=FIELDS.mask(tracker))


def clear(t, tracker):
    t.update(VPN, clear=FIELDS.mask(tracker))


def slots(arch):
    """Return the least slot, one with every bit set, and halves of such."""
    full = arch.nr_slots - 1
    return (arch.first_slot or 1, full, full >> 1, 0x5555555555555555 & full)


def by_page(t):
    """Tell whether words are of pages, so that swap entries have none."""
    return t.encoding.by_page


# -- PTEs -------------------------------------------------------------------


@pytest.mark.parametrize("writable", [False, True])
def test_pte_tracker(table, tracker, writable):
    """Set, the bit is set; cleared, clear; the page and all else stay."""
    top = (1 << table.arch.pfn_bits) - 1
    for number in (1, top, 0x5555555555555555 & top):
        table.map(VPN, number, writable)
        before = entry(table)
        other = FIELDS.mask(next(name for name in TRACKERS if name != tracker))
        for _ in range(2):
            mark(table, tracker)
            assert table.load(VPN) == FIELDS.mask(tracker)
            assert pfn(table) == number
            mark(table, tracker)
            assert table.load(VPN) & other == 0
            clear(table, tracker)
            assert table.load(VPN) == 0
            assert entry(table) == before
        table.unmap(VPN)


def test_pte_clear(table, tracker):
    """A cleared entry is none, and the next page there starts without the bit."""
    table.map(VPN)
    mark(table, tracker)
    table.unmap(VPN)
    assert len(table) == 0
    assert table.load(VPN) == 0
    table.map(VPN)
    assert table.load(VPN) == 0


def test_pte_basic(table, tracker):
    """Both bits at once, where both have one; each is cleared by itself."""
    if getattr(table.encoding, "per_vma", ()):
        table.map(VPN)
        mark(table, tracker)
        before = entry(table)
        other = next(name for name in TRACKERS if name != tracker)
        with pytest.raises(ValueError, match=f"{tracker} holds it"):
            mark(table, other)
        assert entry(table) == before
        return
    table.map(VPN)
    for name in TRACKERS:
        mark(table, name)
    clear(table, tracker)
    both = sum(FIELDS.mask(name) for name in TRACKERS)
    assert table.load(VPN) == both & ~FIELDS.mask(tracker)


# -- swap entries -----------------------------------------------------------


def test_pte_swap(table):
    """Type and offset come back as they went, without a word."""
    for number in slots(table.arch):
        table.map(VPN)
        table.swap_out(VPN, number)
        assert slot(table) == number
        assert entry(table) >> table.arch.present & 1 == 0
        table.unmap(VPN)


@pytest.mark.parametrize("writable", [False, True])
def test_pte_swap_tracker(table, tracker, writable):
    """Set and cleared in a swap entry the bit touches neither type, offset nor
    exclusive; a word set before swap-out is there after it."""
    exclusive = 1 << table.arch.swap.exclusive
    for number in slots(table.arch):
        table.map(VPN, 7, writable)
        if by_page(table):
            mark(table, tracker)
            with pytest.raises(ValueError, match="swap entry"):
                table.swap_out(VPN, number)
            clear(table, tracker)
            table.swap_out(VPN, number)
            with pytest.raises(ValueError, match="swap entry"):
                mark(table, tracker)
        else:
            mark(table, tracker)
            table.swap_out(VPN, number)
            for _ in range(2):
                assert table.load(VPN, tracker) == 1
                clear(table, tracker)
                assert table.load(VPN) == 0
                assert slot(table) == number
                mark(table, tracker)
                assert slot(table) == number
                assert bool(entry(table) & exclusive) == writable
            table.swap_in(VPN, 9)
            assert table.load(VPN) == FIELDS.mask(tracker)
            assert pfn(table) == 9
        table.unmap(VPN)


def test_pte_swap_exclusive(table):
    """Exclusive in an entry with all bits set, and not: each comes back as it was."""
    exclusive = 1 << table.arch.swap.exclusive
    for number in slots(table.arch):
        seen = {}
        for writable in (False, True):
            table.map(VPN, 7, writable)
            before = entry(table)
            table.swap_out(VPN, number)
            seen[writable] = entry(table)
            assert slot(table) == number
            table.swap_in(VPN, 7)
            assert entry(table) == before
            table.unmap(VPN)
        assert seen[False] ^ seen[True] == exclusive


# -- through an address space -----------------------------------------------


def test_pte_modify(new):
    """mprotect, to PROT_NONE and back, keeps both bits: _PAGE_CHG_MASK."""
    a = new()
    at, page = place(), page_of(a)
    a.mmap(at, 3 * page)
    a.write(at, 2 * page)
    track(a, at, 2)
    a.write(at)
    for prot in ("none", "r", "rw"):
        a.mprotect(at, 3 * page, prot)
        assert uffd_wp(a, at, 3) == [False, True, False]
        assert soft_dirty(a, at, 3) == [True] * 3


def test_pte_wrprotect_of_fork_keeps_the_bits(new):
    """ptep_set_wrprotect(): the parent's entries of private pages."""
    a = new()
    at, page = place(), page_of(a)
    a.mmap(at, 2 * page)
    a.clear_refs()
    a.write(at)
    a.read(at + page)
    child = a.fork()
    assert soft_dirty(a, at, 2) == soft_dirty(child, at, 2) == [True, False]
    child.table.check()


@fails_on_page_ext(ONE_WORD)
def test_pte_of_another_process_is_another(new):
    """The child's bit is cleared, the parent's stays."""
    a = new()
    at = place()
    a.mmap(at, page_of(a))
    a.clear_refs()
    a.write(at)
    child = a.fork()
    child.clear_refs()
    assert soft_dirty(child, at) == [False]
    assert soft_dirty(a, at) == [True]


def test_pmd_soft_dirty(new):
    """A huge page's bit is set by a write and cleared by clear_refs, all at once."""
    a = new()
    at, pages = place(), huge_of(a) // page_of(a)
    a.mmap(at, huge_of(a))
    a.madvise(at, huge_of(a), "HUGEPAGE")
    for _ in range(2):
        a.write(at)
        assert soft_dirty(a, at, pages) == [True] * pages
        a.clear_refs()
        assert soft_dirty(a, at, pages) == [False] * pages
    assert is_huge(a, at)


def test_pmd_uffd_wp(new):
    a = new()
    at, pages = place(), huge_of(a) // page_of(a)
    a.mmap(at, huge_of(a))
    a.madvise(at, huge_of(a), "HUGEPAGE")
    a.write(at)
    a.uffd_register(at, huge_of(a))
    for on in (True, False, True):
        a.uffd_writeprotect(at, huge_of(a), on)
        assert uffd_wp(a, at, pages) == [on] * pages
        assert is_huge(a, at)


@pytest.mark.parametrize("on", [False, True])
def test_pmd_split_gives_its_bit_to_all(new, on):
    a = new()
    at, page, pages = place(), page_of(a), huge_of(a) // page_of(a)
    a.mmap(at, huge_of(a))
    a.madvise(at, huge_of(a), "HUGEPAGE")
    a.write(at)
    a.uffd_register(at, huge_of(a))
    a.uffd_writeprotect(at, huge_of(a), on)
    a.madvise(at, page, "DONTNEED")
    assert not is_huge(a, at + page)
    assert uffd_wp(a, at, pages) == [False] + [on] * (pages - 1)


@fails_on_page_ext(NO_PAGE)
def test_pmd_swap(new):
    """A huge page paged out keeps both bits in each of its swap entries."""
    a = new()
    at, pages = place(), huge_of(a) // page_of(a)
    a.mmap(at, huge_of(a))
    a.madvise(at, huge_of(a), "HUGEPAGE")
    a.write(at, huge_of(a))
    a.uffd_register(at, huge_of(a))
    a.uffd_writeprotect(at, huge_of(a), True)
    a.madvise(at, huge_of(a), "PAGEOUT")
    assert uffd_wp(a, at, pages) == soft_dirty(a, at, pages) == [True] * pages
    a.read(at, huge_of(a))
    assert uffd_wp(a, at, pages) == soft_dirty(a, at, pages) == [True] * pages
