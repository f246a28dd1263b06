"""The output of PAGEMAP_SCAN: regions of pages whose categories match.

Linux fs/proc/task_mmu.c. The kernel's buffer of 512 regions is modelled, because
walk_end depends on it.
"""
from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memcpy

import numpy as np

from extmeta.linux import pagemap_scan

cdef enum:
    # Equals `pagemap_scan.VEC_LEN`; this is checked below.
    VEC_LEN = 512

cdef uint16_t IS_WRITTEN = pagemap_scan.PageIs.WRITTEN
if VEC_LEN != pagemap_scan.VEC_LEN:
    raise ImportError(f"a buffer of {VEC_LEN} regions, not {pagemap_scan.VEC_LEN}")

cdef struct Region:
    uint64_t first
    uint64_t stop
    uint64_t categories


cdef class Regions:
    """The masks of struct pm_scan_arg, and the output.

    Parameters
    ----------
    category_inverted, category_mask, category_anyof_mask, return_mask : int
        PAGE_IS_*.
    max_pages : int
    vec_len : int
        Regions there is room for. 0: no output is wanted.

    Attributes
    ----------
    wants_output : bool
    walk_end : int or None
        The vpn where the walk stopped because the output was full.
    """
    cdef uint16_t inverted, mask, anyof, shown
    cdef uint64_t max_pages, found_pages, vec_len
    cdef readonly bint wants_output
    cdef readonly object walk_end
    cdef Region[VEC_LEN] buffer
    cdef Py_ssize_t n, room
    # A region was backed out: the next one does not extend the last.
    cdef bint apart
    # What `back_out` restores: the buffer's length, its last region's end, found_pages.
    cdef Py_ssize_t n_before
    cdef uint64_t stop_before, found_before
    cdef list done

    def __init__(
            self, category_inverted, category_mask, category_anyof_mask, return_mask,
            max_pages, vec_len):
        self.inverted = category_inverted
        self.mask = category_mask
        self.anyof = category_anyof_mask
        self.shown = return_mask
        self.max_pages = min(max_pages, 2**64 - 1)
        self.vec_len = min(vec_len, 2**64 - 1)
        self.wants_output = vec_len > 0
        self.room = min(vec_len, VEC_LEN)
        self.done = []

    cdef inline bint interesting(self, uint16_t categories) noexcept:
        cdef uint16_t seen = categories ^ self.inverted
        return seen & self.mask == self.mask and (
            self.anyof == 0 or seen & self.anyof != 0)

    def matches(self, uint16_t categories):
        """pagemap_scan_is_interesting_page()"""
        return self.interesting(categories)

    def add(self, uint16_t categories, uint64_t first, uint64_t stop):
        """Add a range; return the end of what fitted, and whether the output is full.

        pagemap_scan_output(), pagemap_scan_push_range()
        """
        cdef bint full = False
        self.n_before = self.n
        self.found_before = self.found_pages
        if self.n:
            self.stop_before = self.buffer[self.n - 1].stop
        stop = self.push(categories & self.shown, first, stop, &full)
        return stop, full

    cdef uint64_t push(
            self, uint16_t categories, uint64_t first, uint64_t stop, bint* full):
        cdef Region* last = &self.buffer[self.n - 1] if self.n else NULL
        if not self.wants_output:
            return stop
        full[0] = self.found_pages + (stop - first) > self.max_pages
        if full[0]:
            stop = first + self.max_pages - self.found_pages
        if last is not NULL and not self.apart and (
                last.stop == first and last.categories == categories):
            last.stop = stop
        elif self.n >= self.room:
            stop = first
            full[0] = True
        elif first < stop:
            self.buffer[self.n] = Region(first, stop, categories)
            self.n += 1
            self.apart = False
        self.found_pages += stop - first
        if full[0]:
            self.walk_end = stop
        return stop

    def add_pages(self, uint64_t first, const uint16_t[::1] categories):
        """Add the pages from ``first`` on that match; return as `add`.

        Parameters
        ----------
        categories : (n,) uint16 buffer
            Those of each page.
        """
        cdef Py_ssize_t n = categories.shape[0]
        cdef Py_ssize_t i = 0, start
        cdef uint64_t stop = first + <uint64_t>n
        cdef uint16_t shown
        cdef bint full = False
        while i < n and not full:
            if not self.interesting(categories[i]):
                i += 1
                continue
            start = i
            shown = categories[i] & self.shown
            while i < n and categories[i] & self.shown == shown and (
                    self.interesting(categories[i])):
                i += 1
            stop = self.push(
                shown, first + <uint64_t>start, first + <uint64_t>i, &full)
        return (stop if full else first + <uint64_t>n), full

    def written(
            self, uint64_t first, const uint16_t[::1] categories, uint64_t stop,
            bint matching):
        """Return the pages of [first, stop) that are WRITTEN; maybe only matching ones.

        Parameters
        ----------
        categories : (n,) uint16 buffer
            Those of each page from ``first`` on; stop <= first + n.

        Returns
        -------
        (k,) uint64 ndarray
            vpns, ascending.
        """
        cdef Py_ssize_t n = <Py_ssize_t>(stop - first)
        cdef Py_ssize_t k = 0, i
        vpns = np.empty(n, np.uint64)
        cdef uint64_t[::1] out = vpns
        for i in range(n):
            if categories[i] & IS_WRITTEN and (
                    not matching or self.interesting(categories[i])):
                out[k] = first + <uint64_t>i
                k += 1
        return vpns[:k]

    def back_out(self):
        """Take back the last `add`: pagemap_scan_backout_range()."""
        self.apart = self.n > self.n_before
        self.n = self.n_before
        self.found_pages = self.found_before
        if self.n:
            self.buffer[self.n - 1].stop = self.stop_before

    def flush(self):
        """Move the buffer to the result: pagemap_scan_flush_buffer()."""
        cdef uint64_t[:, ::1] out
        if self.n:
            flushed = np.empty((self.n, 3), np.uint64)
            out = flushed
            memcpy(&out[0, 0], self.buffer, self.n * sizeof(Region))
            self.done.append(flushed)
        self.vec_len -= <uint64_t>self.n
        self.n = 0
        self.room = <Py_ssize_t>min(<uint64_t>self.room, self.vec_len)
        self.apart = False

    @property
    def over(self):
        """Whether there is no room for a region, or no page may be added."""
        return self.vec_len == 0 or self.found_pages == self.max_pages

    def result(self):
        """Return what was flushed, (n, 3) uint64: first, stop, categories."""
        if not self.done:
            return np.empty((0, 3), np.uint64)
        return np.concatenate(self.done)
