"""The same semantics on every architecture: its page size, tables and entries."""

import pytest
from spaces import letters

import extmeta as em
from extmeta.arch import ARCHES

FIELDS = em.Fields(uffd_wp=1, soft_dirty=1)


class Space(em.AddressSpace):
    """An address space that knows its sizes."""

    def __init__(self, arch, encoding="linked"):
        super().__init__(FIELDS, encoding, arch)
        self.page = ARCHES[arch].page_bytes
        self.huge = self.page * ARCHES[arch].ptrs_per_pte
        self.at = 16 * self.huge

    def shown(self, addr, pages):
        return " ".join(map(letters, self.pagemap(addr, pages * self.page)))


@pytest.fixture(params=ARCHES)
def space(request):
    a = Space(request.param)
    yield a
    a.table.check()


def test_every_kind_of_page(space):
    at, page = space.at, space.page
    space.mmap(at, 8 * page)
    space.write(at, 4 * page)
    space.read(at + 4 * page, 2 * page)
    space.uffd_register(at, 8 * page, ("WP_ASYNC", "EVENT_FORK"))
    space.uffd_writeprotect(at, 7 * page, True)
    space.clear_refs()
    space.madvise(at, 2 * page, "PAGEOUT")
    space.write(at + 2 * page)
    assert space.shown(at, 8) == "SW SW PXD PWX PW PW SW -"
    child = space.fork()
    space.write(at, page)
    space.read(at + page)
    assert space.shown(at, 8) == "PXD PWX PD PW PW PW SW -"
    words = " ".join(map(letters, child.pagemap(at, 8 * page)))
    assert words == "SW SW PD PW PW PW SW -"


def test_huge_pages_are_of_the_tables_size(space):
    at, huge, page = space.at, space.huge, space.page
    space.mmap(at, 2 * huge)
    space.madvise(at, 2 * huge, "HUGEPAGE")
    space.read(at)
    space.write(at + huge)
    space.clear_refs()
    found, _end = space.pagemap_scan(
        at, at + 2 * huge, category_mask="HUGE", return_mask="HUGE|PFNZERO"
    )
    assert [tuple(map(int, one)) for one in found] == [
        (at, at + huge, 64 | 32),
        (at + huge, at + 2 * huge, 64),
    ]
    space.mprotect(at + huge, page, "r")
    space.madvise(at, huge, "DONTNEED")
    words = space.shown(at, 2 * huge // page).split()
    nr = huge // page
    assert words == ["-"] * nr + ["PXD"] * nr


# Linux 6.12.117: arch/{x86,arm64,riscv}/Kconfig select HAVE_MOVE_PMD; powerpc's
# arch_supports_page_table_move() is radix_enabled(), arch/powerpc/include/asm/tlb.h:87.
MOVES_EACH_PTE = {"s390x", "ppc64_hash_64k", "loongarch64"}


def test_mremap_of_a_whole_table_makes_ptes_soft_dirty_where_they_are_moved(space):
    at, huge = space.at, space.huge
    nr = huge // space.page
    space.mmap(at, huge)
    space.write(at, huge)
    space.clear_refs()
    assert space.shown(at, nr).split() == ["PX"] * nr
    space.mremap(at, huge, huge, at + 4 * huge)
    moved = "PXD" if space.table.arch.name in MOVES_EACH_PTE else "PX"
    assert space.shown(at + 4 * huge, nr).split() == [moved] * nr


def test_a_release_is_the_architectures_too():
    assert em.AddressSpace(FIELDS, release="6.12").table.arch.name == "x86_64@6.12"
    assert em.AddressSpace(FIELDS, release="6.7").table.arch.name == "x86_64@6.12"
    arch = ARCHES["arm64_64k"]
    assert em.AddressSpace(FIELDS, arch=arch, release="6.12").table.arch is arch
    with pytest.raises(ValueError, match=r"'x86_64@6\.12' is not of release '6\.18'"):
        em.AddressSpace(FIELDS, arch="x86_64@6.12")
    with pytest.raises(ValueError, match=r"'7\.3' is not known; 6\.7 to 6\.19 are"):
        em.AddressSpace(FIELDS, release="7.3")


def test_a_read_maps_64_kib_around(space):
    at, page = space.at, space.page
    pages = 64 * 1024 // page
    space.mmap(at, 3 * 64 * 1024, "rw", "shared|anonymous")
    space.write(at, 3 * 64 * 1024)
    child = space.fork()
    child.read(at + 64 * 1024)
    held = [int(w) >> 63 for w in child.pagemap(at, 3 * 64 * 1024)]
    nr = min(pages, space.huge // page)
    assert held == [0] * pages + [1] * nr + [0] * (2 * pages - nr)


@pytest.mark.parametrize("name", ["adjacent", "wide", "xarray", "hash"])
def test_where_tables_of_the_encoding_are_others(name):
    """`wide` halves the tables; huge pages stay what they are."""
    a = Space("x86_64", name)
    a.mmap(a.at, a.huge)
    a.madvise(a.at, a.huge, "HUGEPAGE")
    a.write(a.at)
    a.clear_refs()
    a.madvise(a.at + a.page, a.page, "DONTNEED")
    assert a.shown(a.at, 512).split() == ["PXD", "-", *["PXD"] * 510]
    a.madvise(a.at, a.huge, "DONTNEED")
    found, _end = a.pagemap_scan(a.at, a.at + a.huge, category_mask="WRITTEN")
    assert found.tolist() == []
    a.table.check()
