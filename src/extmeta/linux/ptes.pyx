"""What PTEs say, for many at a time: frames, swap slots, and what pagemap shows.

Each method is one pass over an array of PTEs without a Python object for any of them.
"""
from libc.stdint cimport uint8_t, uint16_t, uint64_t

import numpy as np

from extmeta.linux.pages cimport Page, is_alone
from extmeta.pagetable cimport PageTable
from extmeta.table.pte cimport ALL
from extmeta.table.vpns cimport Vpns

from extmeta.linux import pagewords, physical
from extmeta.linux.pagemap_scan import PageIs

cdef uint64_t ZERO_PFN = physical.ZERO_PFN

cdef uint64_t PRESENT = pagewords.PRESENT
cdef uint64_t SWAPPED = pagewords.SWAPPED
cdef uint64_t FILE = pagewords.FILE
cdef uint64_t UFFD_WP = pagewords.UFFD_WP
cdef uint64_t EXCLUSIVE = pagewords.EXCLUSIVE
cdef uint64_t SOFT_DIRTY = pagewords.SOFT_DIRTY
cdef int SWAP_OFFSET_SHIFT = pagewords.SWAP_OFFSET_SHIFT

cdef uint16_t IS_WRITTEN = PageIs.WRITTEN
cdef uint16_t IS_FILE = PageIs.FILE
cdef uint16_t IS_PRESENT = PageIs.PRESENT
cdef uint16_t IS_SWAPPED = PageIs.SWAPPED
cdef uint16_t IS_PFNZERO = PageIs.PFNZERO
cdef uint16_t IS_SOFT_DIRTY = PageIs.SOFT_DIRTY

cdef struct Layout:
    # Masks and shifts of an architecture's PTEs; `flip` is xor'ed to an offset.
    uint64_t none, present, pfn_mask, offset_mask, flip, type_mask
    int pfn_shift, offset_shift, offset_bits, type_shift

cdef struct Bit:
    # A field of one bit in words of several lanes; `mask` is 0 if there is no field.
    Py_ssize_t lane
    uint64_t mask

cdef Bit bit_of(mask):
    """Return where in a word the one bit of ``mask`` lies."""
    at = max(0, mask.bit_length() - 1)
    return Bit(at // 64, mask >> at // 64 * 64)

cdef inline bint has(const uint64_t[:, ::1] words, Py_ssize_t i, Bit bit) noexcept:
    return bit.mask != 0 and words[i, bit.lane] & bit.mask != 0


cdef inline uint64_t mask_of(bint is_set) noexcept:
    """Return a mask of all bits, or of none."""
    return 0 - <uint64_t>is_set


def raw(PageTable table, vpns):
    """Return PTEs as they are, and read no words.

    Parameters
    ----------
    table : PageTable
    vpns : (n,) uint64 ndarray, range or slice

    Returns
    -------
    (n,) uint64 ndarray
    """
    cdef Vpns v = table.named(vpns)
    cdef uint64_t[::1] out
    cdef int range_
    found = np.empty(v.span.n, np.uint64)
    if v.span.n:
        out = found
        range_ = table.enter_span(&v.span, False)
        with nogil:
            table.read_ptes(&v.span, &out[0])
        table.leave_span(range_, 0)
    return found


cdef inline uint64_t value_of(Layout a, uint64_t pte) noexcept:
    """Return the pfn of a present PTE, or the swap slot."""
    cdef uint64_t offset
    if pte & a.present:
        return pte >> a.pfn_shift & a.pfn_mask
    offset = (pte >> a.offset_shift & a.offset_mask) ^ a.flip
    return (pte >> a.type_shift & a.type_mask) << a.offset_bits | offset


cdef class Ptes:
    """The PTEs of one architecture.

    Parameters
    ----------
    arch : Arch
    uffd_wp, soft_dirty : int
        These fields' bits in a word; 0 if there is no such field.
    marker : int
        The swap slot, type << offset_bits | offset, of a uffd-wp marker.
    """
    cdef Layout layout
    cdef uint64_t marker
    cdef Bit uffd_wp, soft_dirty
    cdef tuple made_of

    def __init__(self, arch, uffd_wp, soft_dirty, marker):
        swap = arch.swap
        offset_mask = (1 << swap.offset_bits) - 1
        self.layout = Layout(
            none=arch.none, present=1 << arch.present,
            pfn_shift=arch.pfn_shift, pfn_mask=(1 << arch.pfn_bits) - 1,
            offset_shift=swap.offset_shift, offset_bits=swap.offset_bits,
            offset_mask=offset_mask, flip=offset_mask if swap.offset_inverted else 0,
            type_shift=swap.type_shift, type_mask=(1 << swap.type_bits) - 1)
        self.marker = marker
        self.uffd_wp = bit_of(uffd_wp)
        self.soft_dirty = bit_of(soft_dirty)
        self.made_of = arch, uffd_wp, soft_dirty, marker

    def __reduce__(self):
        return Ptes, self.made_of

    def decoded(self, const uint64_t[::1] ptes):
        """Decode PTEs.

        Parameters
        ----------
        ptes : (n,) uint64 buffer

        Returns
        -------
        present : (n,) bool ndarray
        value : (n,) uint64 ndarray
            The pfn, or the slot: type << offset_bits | offset.
        """
        cdef Py_ssize_t n = ptes.shape[0], i
        cdef Layout a = self.layout
        present, value = np.empty(n, np.uint8), np.empty(n, np.uint64)
        cdef uint8_t[::1] to_present = present
        cdef uint64_t[::1] to_value = value
        for i in range(n):
            to_present[i] = ptes[i] & a.present != 0
            to_value[i] = value_of(a, ptes[i])
        return present.view(np.bool_), value

    def page_alone(self, uint64_t pte, const Page[::1] pages):
        """Return the pfn of a PTE whose page is `pages.alone`, else 0."""
        cdef Layout a = self.layout
        cdef uint64_t pfn = value_of(a, pte)
        return pfn if pte & a.present and is_alone(&pages[pfn]) else 0

    def pagemap(
            self, const uint64_t[::1] ptes, const uint64_t[:, ::1] words,
            const Page[::1] pages, bint pfns, uint64_t[::1] out):
        """Write pagemap's words of PTEs to ``out``: pte_to_pagemap_entry().

        Parameters
        ----------
        ptes : (n,) uint64 buffer
        words : (n, lanes) uint64 buffer
            Their words.
        pages : PAGE buffer
            By pfn.
        pfns : bool
            Show frames and swap slots. The type of a marker is always shown.
        out : (n,) uint64 buffer
            A PTE that is none is 0.
        """
        cdef Layout a = self.layout
        cdef Bit uffd_wp = self.uffd_wp, soft_dirty = self.soft_dirty
        # Copies, because stores to `out` might alias the globals.
        cdef uint64_t present = PRESENT, file = FILE, exclusive = EXCLUSIVE
        cdef uint64_t is_wp = UFFD_WP, is_dirty = SOFT_DIRTY
        cdef uint64_t marker = self.marker, shown = ALL if pfns else 0
        # NULL if no words were read, because neither field is there.
        cdef const uint64_t* first = &words[0, 0] if words.shape[0] else NULL
        cdef const uint64_t* own
        cdef uint64_t pte, value, word
        cdef const Page* page
        cdef Py_ssize_t i
        for i in range(ptes.shape[0]):
            pte = ptes[i]
            if pte == a.none:
                out[i] = 0
                continue
            if pte & a.present:
                value = pte >> a.pfn_shift & a.pfn_mask
                page = &pages[value]
                word = present | value & shown
                # The page of zeros is neither: no PTE of it is counted.
                word |= file & mask_of(page.file != 0)
                word |= exclusive & mask_of(page.mapcount == 1)
            else:
                value = value_of(a, pte)
                word = SWAPPED
                if pfns or value == marker:
                    word |= (value & a.offset_mask) << SWAP_OFFSET_SHIFT
                    word |= value >> a.offset_bits
            if first is not NULL:
                own = first + i * words.shape[1]
                word |= is_wp & mask_of(own[uffd_wp.lane] & uffd_wp.mask != 0)
                word |= is_dirty & mask_of(own[soft_dirty.lane] & soft_dirty.mask != 0)
            out[i] = word

    def categories(
            self, const uint64_t[::1] ptes, const uint64_t[:, ::1] words,
            const Page[::1] pages, uint16_t of_vma, uint16_t wanted):
        """Return PAGEMAP_SCAN's categories of PTEs: pagemap_page_category().

        Parameters
        ----------
        ptes, words, pages
            See `pagemap`.
        of_vma : int
            PAGE_IS_* that all of them have.
        wanted : int
            FILE is left out unless it is among these, so that no page is looked at.

        Returns
        -------
        (n,) uint16 ndarray
        """
        cdef Py_ssize_t n = ptes.shape[0], i
        cdef Layout a = self.layout
        cdef Bit uffd_wp = self.uffd_wp, soft_dirty = self.soft_dirty
        cdef uint64_t pte, pfn
        cdef uint16_t here
        found = np.empty(n, np.uint16)
        cdef uint16_t[::1] out = found
        for i in range(n):
            pte = ptes[i]
            here = of_vma
            if pte == a.none:
                out[i] = here | IS_WRITTEN
                continue
            if pte & a.present:
                pfn = value_of(a, pte)
                here |= IS_PRESENT
                if pfn == ZERO_PFN:
                    here |= IS_PFNZERO
                elif wanted & IS_FILE and pages[pfn].file:
                    here |= IS_FILE
            else:
                here |= IS_SWAPPED
            here |= 0 if has(words, i, uffd_wp) else IS_WRITTEN
            here |= IS_SOFT_DIRTY if has(words, i, soft_dirty) else 0
            out[i] = here
        return found
