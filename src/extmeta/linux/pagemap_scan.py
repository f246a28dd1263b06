"""The running kernel, asked in plain Python.

What Linux tells and does by itself, so that the model can be held against it:
for now the PAGEMAP_SCAN ioctl, which names the populated ranges of an address
space without reading its entries one by one. No header of this machine is
needed: distributions ship ones older than the kernel they run.
"""

import errno
import fcntl
import struct
from enum import IntFlag

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]

# _IOWR('f', 16, struct pm_scan_arg): include/uapi/linux/fs.h, Linux 6.7 up.
PAGEMAP_SCAN = 0xC0606610

# struct pm_scan_arg: size, flags, start, end, walk_end (out), vec, vec_len,
# max_pages, category_inverted, category_mask, category_anyof_mask, return_mask.
_ARG = struct.Struct("=12Q")
_WALK_END = struct.Struct("=32xQ")

# Linux 6.18 was seen to leave walk_end before the end of the last region it
# returned, with a vec of more than 512 regions.
VEC_LEN = 512


class PageIs(IntFlag):
    """Categories of a page: PAGE_IS_* of include/uapi/linux/fs.h.

    A PTE marker (userfaultfd write-protection of a page that is not there, a
    poisoned page, a guard page) counts as SWAPPED.
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

# PM_SCAN_* of include/uapi/linux/fs.h: write-protect what is found; refuse, by EPERM,
# a VMA that no userfaultfd with WP_ASYNC has.
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
    """Return the ranges of an address space whose pages are of some categories.

    Parameters
    ----------
    fd : int
        An open /proc/PID/pagemap.
    start, end : int
        Bytes, page-aligned, [start, end), within the user half.
    anyof : PageIs
        A page is returned if it is in any of these.
    returned : PageIs
        Which categories are told apart; neighbours that differ in no other
        come as one range.
    every, no : PageIs
        And only if it is in every one of these, in none of those.
    flags : int
        `WP_MATCHING` and the like.

    Returns
    -------
    (n, 3) uint64 ndarray
        first byte, byte past the end, categories & `returned`; ascending.

    Raises
    ------
    OSError
        ENOTTY where the kernel has no PAGEMAP_SCAN; otherwise what the ioctl
        gave (Documentation/admin-guide/mm/pagemap.rst).
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
