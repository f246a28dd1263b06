"""tools/testing/selftests/mm/soft-dirty.c: what clear_refs and pagemap's bit 55 do."""

import pytest
from cases import huge_of, is_huge, page_of, place, soft_dirty

ROUNDS = 20


def test_simple(new):
    """Clear, not dirty; written, dirty: again and again."""
    a = new()
    at = place()
    a.mmap(at, page_of(a))
    for _ in range(ROUNDS):
        a.clear_refs()
        assert soft_dirty(a, at) == [False]
        a.write(at)
        assert soft_dirty(a, at) == [True]


def test_vma_reuse(new):
    """A new mapping is dirty, one at the place of an old clean one too."""
    a = new()
    at, page = place(), page_of(a)
    a.mmap(at, page)
    assert soft_dirty(a, at) == [True]
    a.clear_refs()
    assert soft_dirty(a, at) == [False]
    a.munmap(at, page)
    a.mmap(at, page)
    assert soft_dirty(a, at) == [True]


def test_hugepage(new):
    """As simple, of a huge page, which stays one: a write tells for all of it."""
    a = new()
    at, huge = place(), huge_of(a)
    pages = huge // page_of(a)
    a.mmap(at, huge)
    a.madvise(at, huge, "HUGEPAGE")
    a.write(at, huge)
    for i in range(ROUNDS):
        a.clear_refs()
        assert not any(soft_dirty(a, at, pages))
        a.write(at + i * page_of(a))
        assert all(soft_dirty(a, at, pages))
        assert is_huge(a, at)


@pytest.mark.parametrize("memory", ["private|anonymous", "shared|file"])
def test_mprotect(new, memory):
    """Read-only and back leaves a clean page clean; only a write makes it dirty."""
    a = new()
    at, page = place(), page_of(a)
    a.mmap(at, page, "rw", memory)
    a.write(at)
    assert soft_dirty(a, at) == [True]
    a.clear_refs()
    assert soft_dirty(a, at) == [False]
    for prot in ("r", "rw"):
        a.mprotect(at, page, prot)
        assert soft_dirty(a, at) == [False]
    a.write(at)
    assert soft_dirty(a, at) == [True]


@pytest.mark.parametrize("release", ["6.12", "6.18", "6.19"])
def test_merge_by_mremap(new, release):
    """A new mapping moved beside a clean one: since 6.19 both count as dirty.

    Before, the VMA that survives kept its VM_SOFTDIRTY, and the new page was lost:
    the case's reason to be.
    """
    a = new(release=release)
    at, page = place(), page_of(a)
    a.mmap(at + page, page)
    a.clear_refs()
    a.mmap(at + 3 * page, page)
    a.mremap(at + 3 * page, page, page, at + 2 * page)
    assert soft_dirty(a, at + page, 2) == [release == "6.19"] * 2


@pytest.mark.parametrize("release", ["6.12", "6.18", "6.19"])
def test_merge_by_mprotect(new, release):
    """A new read-only mapping made writable beside a clean one: both are dirty."""
    a = new(release=release)
    at, page = place(), page_of(a)
    a.mmap(at + page, page)
    a.clear_refs()
    a.mmap(at + 2 * page, page, "r")
    a.mprotect(at + 2 * page, page, "rw")
    assert soft_dirty(a, at + page, 2) == [True, True]
