"""The PAGEMAP_SCAN ioctl of the running kernel.

It returns the populated ranges of an address space without a read of every entry. The
numbers are written out, because distributions ship older headers than their kernel.
"""

import errno
import fcntl
import struct
from enum import IntFlag

import numpy as np

from extmeta.arrays import U64

# _IOWR('f', 16, struct pm_scan_arg): include/uapi/linux/fs.h, Linux 6.7 up.
PAGEMAP_SCAN = 0xC0606610

# struct pm_scan_arg: size, flags, start, end, walk_end (out), vec, vec_len,
# max_pages, category_inverted, category_mask, category_anyof_mask, return_mask.
_ARG = struct.Struct("=12Q")
_WALK_END = struct.Struct("=32xQ")

# With a vec of more than 512 regions, Linux 6.18 was seen to return a walk_end before
# the end of the last region.
VEC_LEN = 512


class PageIs(IntFlag):
    """Categories of a page: PAGE_IS_* of include/uapi/linux/fs.h.

    A PTE marker (write-protection of a missing page by userfaultfd, a poisoned page, a
    guard page) counts as SWAPPED.
    """

    WPALLOWED = 1 << 0
    WRITTEN = 1 << 1
    FILE = 1 << 2
    PRESENT = 1 << 3
    SWAPPED = 1 << 4
    PFNZERO = 1 << 5
    HUGE = 1 << 6
    SOFT_DIRTY = 1 << 7
    GUARD = 1 << 8


NONE = PageIs(0)

# PM_SCAN_* of include/uapi/linux/fs.h: write-protect the pages found; return EPERM at a
# VMA without WP_ASYNC.
WP_MATCHING = 1 << 0
CHECK_WPASYNC = 1 << 1


def pagemap_scan(
    fd: int,
    start: int,
    end: int,
    *,
    anyof: PageIs,
    returned: PageIs,
    every: PageIs = NONE,
    no: PageIs = NONE,
    flags: int = 0,
) -> U64:
    """Return the ranges of an address space whose pages are in some categories.

    Parameters
    ----------
    fd : int
        An open /proc/PID/pagemap.
    start, end : int
        Bytes, page-aligned, [start, end), within the user half.
    anyof, every, no : PageIs
        A page is returned if it is in one of `anyof`, in all of `every` and in none of
        `no`.
    returned : PageIs
        Categories to return. Neighbours that differ only in others are one range.
    flags : int
        `WP_MATCHING`, `CHECK_WPASYNC`.

    Returns
    -------
    (n, 3) uint64 ndarray
        first byte, byte past the end, categories & `returned`; ascending.

    Raises
    ------
    OSError
        ENOTTY if the kernel has no PAGEMAP_SCAN, or the ioctl's error
        (Documentation/admin-guide/mm/pagemap.rst).
    """
    vec = np.empty((VEC_LEN, 3), np.uint64)
    found = []
    while start < end:
        arg = bytearray(
            _ARG.pack(
                *(_ARG.size, flags, start, end, 0, vec.ctypes.data, VEC_LEN, 0),
                *(no, every | no, anyof, returned),
            )
        )
        nr = fcntl.ioctl(fd, PAGEMAP_SCAN, arg, True)
        found.append(vec[:nr].copy())
        (walked,) = _WALK_END.unpack_from(arg)
        # Not walk_end alone: see VEC_LEN.
        resume = max(walked, int(vec[nr - 1, 1]) if nr else 0)
        if resume <= start:
            raise OSError(errno.EIO, f"PAGEMAP_SCAN stays at {start:#x}")
        start = resume
    return np.concatenate(found) if found else np.empty((0, 3), np.uint64)
