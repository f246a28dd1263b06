"""PTE tables deposited with huge leaves, as Linux does for anonymous huge pages."""

import numpy as np
import pytest

import extmeta as em
from extmeta.arch import ARCHES
from extmeta.memory.allowance import fail_after
from extmeta.testing.machine import dump

FIRST = 0x80000
FIELDS = em.Fields(uffd_wp=1, soft_dirty=1)
TABLES = 4


def of(form, **options):
    """Return a table with huge pages, their first vpns, and bytes of a PTE table."""
    table = em.PageTable(form, FIELDS, **options)
    size = table.huge_ptes()
    # What two leaves take where the tables of `wide` are half as long.
    nbytes = table.arch.frame_bytes * (size // table.arch.ptrs_per_pte)
    return table, [FIRST + i * size for i in range(TABLES)], nbytes


@pytest.mark.parametrize("form", em.encodings())
def test_a_deposited_table_is_held_until_it_is_needed(form):
    table, vpns, nbytes = of(form)
    none = table.memory()
    table.map_huge(vpns, deposit=True)
    held = table.memory()
    assert held.pte == TABLES * nbytes
    assert len(table) == 0
    assert len(table.tables) == 0
    table.check()
    # A split takes the deposited table: the same tables as before.
    table.split_huge(vpns[1], 1)
    assert table.memory().pte == held.pte
    assert len(table) == table.huge_ptes()
    table.check()
    table.unmap(slice(vpns[0], vpns[0] + TABLES * table.huge_ptes()))
    assert table.memory().total == none.total
    table.check()


@pytest.mark.parametrize("form", em.encodings())
def test_a_split_without_a_word_needs_no_memory(form):
    table, vpns, _nbytes = of(form)
    table.map_huge(vpns, deposit=True)
    if form == "page_ext":
        # Each page has its entry, used or not.
        table.split_huge(vpns[0])
        return
    with em.no_allocation():
        table.split_huge(vpns[0])
    assert table.load(vpns[0]) == 0
    table.check()


def test_a_deposited_table_is_clean_when_it_is_used():
    table, vpns, _nbytes = of("linked")
    size = table.huge_ptes()
    table.map(slice(vpns[0], vpns[0] + size))
    table.store(slice(vpns[0], vpns[0] + size), 3)
    table.unmap(slice(vpns[0], vpns[0] + size))
    table.map_huge(vpns[0], pfns=512, deposit=True)
    table.split_huge(vpns[0])
    pfns = (table.tables[vpns[0]] >> np.uint64(12)) & np.uint64((1 << 40) - 1)
    assert pfns.tolist() == list(range(512, 1024))
    assert not table.flagged(slice(vpns[0], vpns[0] + size)).any()


@pytest.mark.parametrize("form", em.encodings())
@pytest.mark.parametrize("copy", ["fork", "copy"])
def test_a_child_has_tables_of_its_own(form, copy):
    """As copy_huge_pmd() deposits one for it."""
    table, vpns, nbytes = of(form)
    table.map_huge(vpns[:2], deposit=True)
    table.map_huge(vpns[2:])
    child = getattr(table, copy)()
    assert child.memory().pte == table.memory().pte == 2 * nbytes
    child.split_huge(vpns[0], 1)
    child.unmap(slice(vpns[1], vpns[1] + child.huge_ptes()))
    assert child.memory().pte == nbytes
    assert table.memory().pte == 2 * nbytes
    for each in (child, table):
        each.check()


def test_some_leaves_have_one():
    """Leaves with and without a deposited table, of several PMD tables."""
    table, _vpns, nbytes = of("linked")
    some = [FIRST + i * 512 * 300 for i in range(6)]
    table.map_huge(some[::2], deposit=True)
    table.map_huge(some[1::2])
    # Named twice, it has one.
    table.map_huge([0, 0], deposit=True)
    assert table.memory().pte == 4 * nbytes
    table.check()
    table.split_huge(some[1])
    assert table.memory().pte == 5 * nbytes
    table.unmap(slice(some[2], some[2] + 512))
    assert table.memory().pte == 4 * nbytes
    table.check()


def test_a_split_that_fails_deposits_the_table_again():
    table, vpns, _nbytes = of("linked")
    table.map_huge(vpns, deposit=True)
    before, held = dump(table), table.memory()
    with em.no_allocation(), pytest.raises(MemoryError):
        table.split_huge(vpns[0], 1)
    assert dump(table) == before
    assert table.memory() == held
    table.check()
    with em.no_allocation():
        table.split_huge(vpns[0])


def test_a_larger_block_replaces_the_deposited_one():
    """Words of a split need a pair here; what was deposited goes back."""
    table, vpns, nbytes = of(em.Adjacent(when="needed"))
    table.map_huge(vpns, deposit=True)
    table.split_huge(vpns[0], 1)
    assert table.memory().pte == TABLES * nbytes
    table.check()


def test_no_memory_for_a_deposit_maps_nothing():
    table, vpns, _nbytes = of("linked")
    none = table.memory()
    for allowed in range(TABLES + 2):
        fail_after(allowed)
        try:
            with pytest.raises(MemoryError):
                table.map_huge(vpns, deposit=True)
        finally:
            fail_after()
        assert table.memory() == none
        table.check()


@pytest.mark.parametrize("arch", sorted({arch.name for arch in ARCHES.values()}))
def test_every_architecture(arch):
    table, vpns, nbytes = of("linked", arch=arch)
    table.map_huge(vpns, deposit=True)
    fork = table.fork()
    table.split_huge(vpns[0], 3)
    table.check()
    fork.check()
    # Where several tables share a page, whole pages are counted.
    page = table.arch.page_bytes
    assert table.memory().pte == -(-TABLES * nbytes // page) * page
    fork.unmap(slice(vpns[0], vpns[0] + TABLES * fork.huge_ptes()))
    assert fork.memory().pte == 0
