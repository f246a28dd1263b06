"""Loops over the pages of many PTEs: who maps them, and a new start for them.

In each, `pages` is the array of `physical.PAGE` by pfn.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

import numpy as np


def alone(const Page[::1] pages, const uint64_t[::1] pfns):
    """Tell which are small anonymous pages that one PTE maps and nothing else needs.

    Their PTE may write to them. Others may have to be copied before.

    Parameters
    ----------
    pages : PAGE buffer
    pfns : (n,) uint64 buffer

    Returns
    -------
    (n,) bool ndarray
    """
    cdef Py_ssize_t i
    found = np.empty(pfns.shape[0], np.uint8)
    cdef uint8_t[::1] out = found
    for i in range(pfns.shape[0]):
        out[i] = is_alone(&pages[pfns[i]])
    return found.view(np.bool_)


def count(Page[::1] pages, const uint64_t[::1] pfns, int more):
    """Add ``more`` to the mapcount of each page; one may be named several times.

    Parameters
    ----------
    pages : PAGE buffer
    pfns : (n,) uint64 buffer
    more : int
        1 or -1.
    """
    cdef Py_ssize_t i
    for i in range(pfns.shape[0]):
        pages[pfns[i]].mapcount += <uint32_t>more


def reset(Page[::1] pages, const uint64_t[::1] pfns, bint file):
    """Make pages new ones that nothing maps, of a backing or anonymous.

    Parameters
    ----------
    pages : PAGE buffer
    pfns : (n,) uint64 buffer
    file : bool
    """
    cdef Page new = Page(
        mapcount=0, head=0, slot=0, file=file, written=False, exclusive=not file,
        lazy=False, writes=0)
    cdef Py_ssize_t i
    for i in range(pfns.shape[0]):
        pages[pfns[i]] = new
