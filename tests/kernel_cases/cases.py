"""What the kernel's test cases are run on, and what is looked at.

A form is an encoding on an architecture. All sizes come from the architecture: a
case never says 4096 or 512.
"""

import numpy as np
import pytest

import extmeta as em

FIELDS = em.Fields(uffd_wp=1, soft_dirty=1)

# Those the documentation's table calls "all": every built-in encoding that has a
# word for each PTE, `adjacent` with its pairs there from the start or when needed,
# and `compact` with a bit for each tracker, or one for both by VMA ("mux").
ENCODINGS = {
    "inpte": "inpte",
    "compact": "compact",
    "mux": em.Compact(per_vma=[("uffd_wp", "soft_dirty")]),
    "adjacent": "adjacent",
    "adjacent-needed": em.Adjacent(when="needed"),
    "linked": "linked",
    "adaptive": "adaptive",
    "wide": "wide",
    "xarray": "xarray",
    "hash": "hash",
    "page_ext": "page_ext",
}

# Other architectures, where their entries differ most: bits that are free or not,
# a PTE that is empty and not 0, tables of 256 or 2048 entries, pages of 16K.
FORMS = {
    **{name: (encoding, "x86_64") for name, encoding in ENCODINGS.items()},
    "linked-arm64_4k": ("linked", "arm64_4k"),
    "inpte-arm64_4k": ("inpte", "arm64_4k"),
    "adaptive-arm64_16k": ("adaptive", "arm64_16k"),
    "linked-riscv64_sv48": ("linked", "riscv64_sv48"),
    "mux-riscv64_sv48": (ENCODINGS["mux"], "riscv64_sv48"),
    "linked-s390x": ("linked", "s390x"),
    "adjacent-s390x": ("adjacent", "s390x"),
    "linked-ppc64_radix_64k": ("linked", "ppc64_radix_64k"),
}

# The running kernel in an encoding's place.
RUNNING = "running"

# Why `page_ext` can't do a case, and how that shows.
NO_PAGE = "a swap entry or a marker maps no page, so it has no word"
ONE_WORD = "the word is the page's, so a child of fork takes the bit off its parent"
SIGN = {NO_PAGE: em.Refused, ONE_WORD: (AssertionError, pytest.fail.Exception)}


def fails_on_page_ext(reason, **only):
    """Say that a test must fail on `page_ext`, perhaps for some parameters only.

    Where it does not fail, or by something else, that is an error.
    """
    return pytest.mark.fails_on_page_ext(reason, **only)


# Bits of a pagemap word.
SOFT_DIRTY, UFFD_WP, FILE, SWAPPED, PRESENT = 55, 57, 61, 62, 63

# What of flags= a case calls anon, shmem, shmem-private (uffd-unit-tests.c).
MEMORY = {
    "anon": "private|anonymous",
    "shmem": "shared|anonymous",
    "shmem-private": "private|file",
}


def page_of(a):
    """Return the bytes of a page."""
    return a.table.arch.page_bytes


def huge_of(a):
    """Return the bytes of a huge page."""
    return page_of(a) * a.table.huge_ptes()


def place(number=0):
    """Return an address far from other numbers', and from what a process has."""
    return (1 + number) << 36


def told(a, bit, addr, pages=1):
    """Return one bit of some pages' words, as a list of bool."""
    words = a.pagemap(addr, pages * page_of(a))
    return (words >> np.uint64(bit) & np.uint64(1)).astype(bool).tolist()


def soft_dirty(a, addr, pages=1):
    """Return which pages are soft-dirty."""
    if not isinstance(a, em.AddressSpace):
        a.soft_dirty()
    return told(a, SOFT_DIRTY, addr, pages)


def uffd_wp(a, addr, pages=1):
    """Return which pages have the uffd-wp bit."""
    return told(a, UFFD_WP, addr, pages)


def regions(a, addr, pages, **arguments):
    """Return PAGEMAP_SCAN's regions as (first, stop) in pages, and walk_end."""
    page = page_of(a)
    found, end = a.pagemap_scan(addr, addr + pages * page, **arguments)
    rows = [((int(r[0]) - addr) // page, (int(r[1]) - addr) // page) for r in found]
    return rows, (end - addr) // page


def written(a, addr, pages, *, reset=False, **arguments):
    """Return which pages are WRITTEN, as regions; with `reset` protect them."""
    flags = "WP_MATCHING|CHECK_WPASYNC" if reset else 0
    return regions(
        a,
        addr,
        pages,
        flags=flags,
        category_mask="WRITTEN",
        return_mask="WRITTEN",
        **arguments,
    )[0]


def is_huge(a, addr):
    """Tell whether a huge page is mapped at an address."""
    found, _ = regions(a, addr, 1, category_mask="HUGE")
    return found == [(0, 1)]


def waits(a):
    """Expect a write that waits for somebody to take its page's protection off."""
    if not isinstance(a, em.AddressSpace):
        a.writer_waits()
    return pytest.raises(em.UserFault)


def track(a, addr, pages, features=("WP_ASYNC",)):
    """Register pages and protect them, as a monitor starts."""
    a.uffd_register(addr, pages * page_of(a), features)
    a.uffd_writeprotect(addr, pages * page_of(a), True)
