"""Reads of /proc/PID/pagemap and PAGEMAP_SCAN, with checks of their arguments."""

import errno
from enum import IntFlag

import numpy as np
import numpy.typing as npt

from extmeta.integers import is_whole, uint64s, whole
from extmeta.linux import scan
from extmeta.linux.edge import Edge, bits_of
from extmeta.linux.pagemap_scan import CHECK_WPASYNC, WP_MATCHING, PageIs


class _ScanFlags(IntFlag):
    WP_MATCHING = WP_MATCHING
    CHECK_WPASYNC = CHECK_WPASYNC


class Pagemap(Edge):
    """/proc/PID/pagemap of a process: a part of `AddressSpace`."""

    def pagemap(
        self, addr: int | npt.ArrayLike, length: int, *, pfns: bool = False
    ) -> npt.NDArray[np.uint64]:
        """Return the words of /proc/PID/pagemap for a range, or for several.

        Parameters
        ----------
        addr : int or array_like of int
            The start of each range. Their words come in the given order.
        length : int
            Bytes of each range.
        pfns : bool, default False
            With PFNs and swap slots, which need CAP_SYS_ADMIN.

        Returns
        -------
        (n,) uint64 ndarray
            One word for each page up to the end of the address space.

        Raises
        ------
        OSError
            EINVAL: not aligned, or beyond the address space.
        """
        end = self._end >> self._shift
        if is_whole(addr):
            first, _ = self._whole_pages(addr, 0, errno.EINVAL)
            stop = min(end, first + -(-whole("length", length) // self._page))
            return scan.pagemap(self._mm, first, max(first, stop), pfns=pfns)
        given = np.ravel(uint64s("addr", addr))
        for bad in given[(given % self._page != 0) | (given > self._end)][:1].tolist():
            self._whole_pages(bad, 0, errno.EINVAL)
        within = np.arange(-(-whole("length", length) // self._page), dtype=np.uint64)
        vpns = np.add.outer(given >> np.uint64(self._shift), within).ravel()
        return scan.pagemap_of(self._mm, vpns[vpns < end], pfns=pfns)

    def pagemap_scan(
        self,
        start: int,
        end: int,
        flags: int | str = 0,
        category_inverted: int | str = 0,
        category_mask: int | str = 0,
        category_anyof_mask: int | str = 0,
        return_mask: int | str = 0,
        max_pages: int = 0,
        vec_len: int | None = None,
    ) -> tuple[npt.NDArray[np.void], int]:
        """Find pages in some categories, and protect them: the ioctl PAGEMAP_SCAN.

        Parameters
        ----------
        start, end : int
            Bytes; the end is rounded up to pages.
        flags : int or str
            WP_MATCHING, CHECK_WPASYNC.
        category_inverted, category_mask, category_anyof_mask, return_mask : int or str
            PAGE_IS_*, as bits or as names joined by "|".
        max_pages : int, default 0
            0: no limit.
        vec_len : int, optional
            Number of regions to return at most; by default all. 0: no output.

        Returns
        -------
        regions : structured ndarray of start, end, categories
        walk_end : int
            Where the walk stopped. With more than 512 regions it may be before the end
            of the last one, as in the kernel.

        Raises
        ------
        OSError
            EINVAL: an unknown flag or category, or not aligned. EFAULT: beyond the
            address space. EPERM: CHECK_WPASYNC, and a VMA has no WP_ASYNC; pages before
            it have been protected.
        """
        bits = bits_of("flags", flags, _ScanFlags)
        masks = {
            "category_inverted": category_inverted,
            "category_mask": category_mask,
            "category_anyof_mask": category_anyof_mask,
            "return_mask": return_mask,
        }
        categories = {name: bits_of(name, mask, PageIs) for name, mask in masks.items()}
        unknown = -1 << len(PageIs)
        for one, since in ((PageIs.SOFT_DIRTY, (6, 8)), (PageIs.GUARD, (6, 15))):
            unknown |= int(one) if self._mm.release < since else 0
        if bits >> len(_ScanFlags) or any(m & unknown for m in categories.values()):
            raise OSError(
                errno.EINVAL,
                f"flags {bits:#x} or a category of {categories} is unknown",
            )
        start, end = whole("start", start), whole("end", end)
        if start % self._page:
            raise OSError(errno.EINVAL, f"start {start:#x} is not of a page")
        if not start <= end <= self._end:
            raise OSError(errno.EFAULT, f"[{start:#x}, {end:#x}) is no range")
        stop = -(-end // self._page)
        walk = scan.Scan(
            self._mm,
            bits,
            max_pages=whole("max_pages", max_pages) or 1 << 64,
            vec_len=1 << 64 if vec_len is None else whole("vec_len", vec_len),
            **categories,
        )
        regions = walk.run(start >> self._shift, stop)
        regions[:, :2] <<= np.uint64(self._shift)
        walked = walk.regions.walk_end
        walked = stop if walked is None else walked
        return (
            np.rec.fromarrays(regions.T, dtype=scan.REGION).view(np.ndarray),
            walked << self._shift,
        )
