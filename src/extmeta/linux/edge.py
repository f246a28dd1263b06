"""State and argument checks shared by the system calls of `AddressSpace`."""

import errno
from collections.abc import Iterable
from enum import IntFlag
from typing import Any

import numpy as np

from extmeta.arrays import U64
from extmeta.integers import is_whole, whole
from extmeta.linux.mm import Mm
from extmeta.linux.userfault import Userfaultfd
from extmeta.linux.vma import Prot

# The usual value of vm.mmap_min_addr in distributions.
MIN_ADDRESS = 65536


def names_of(name: str, text: Any) -> set[str]:
    """Return the names of "a|b" or of an iterable."""
    if isinstance(text, str):
        return set(text.split("|")) - {"", "-"}
    if isinstance(text, Iterable) and not isinstance(text, bytes):
        return set(text)
    raise TypeError(f"{name}: {text!r} is neither names nor text")


def prot_of(text: Any) -> Prot:
    """Return the PROT_* of "rw", "r", "none" and so on."""
    if not isinstance(text, str):
        raise TypeError(f"prot: {text!r} is not text such as 'rw'")
    prot = Prot.NONE
    for letter in "" if text == "none" else text:
        if letter not in "rwx":
            raise ValueError(
                f"prot: {text!r} has {letter!r}; 'rwx' and 'none' are known"
            )
        prot |= Prot[letter.upper()]
    return prot


def bits_of(name: str, value: Any, names: type[IntFlag]) -> int:
    """Return a mask given as an int or as names."""
    if is_whole(value):
        return whole(name, value)
    bits = 0
    for one in sorted(names_of(name, value)):
        if one not in names.__members__:
            raise ValueError(f"{name}: no {one!r}; there are {list(names.__members__)}")
        bits |= names[one]
    return bits


def vpns_of(addrs: U64, length: int, shift: int) -> U64:
    """Return the vpns of the pages of ranges no longer than a page, range by range."""
    first = np.ravel(addrs) >> np.uint64(shift)
    if length == 1:
        return first
    offset = np.ravel(addrs) - (first << np.uint64(shift))
    # How many pages a range reaches into.
    count = (offset + np.uint64(length + (1 << shift) - 1)) >> np.uint64(shift)
    pages = np.array([0, 1], np.uint64)
    return np.asarray(np.add.outer(first, pages)[pages < count[:, np.newaxis]])


class Edge:
    """A process's memory and checks of its addresses: a part of `AddressSpace`."""

    # Vpns of pages whose access waits and was not woken yet.
    _asleep: set[int]
    # This process's, the one registered last at the end.
    _uffds: list[Userfaultfd]

    def _adopt(self, mm: Mm) -> None:
        self._mm = mm
        self._shift = mm.arch.page_shift
        self._page = 1 << self._shift
        # TASK_SIZE of x86-64: the lower half without its last page.
        self._end = (mm.arch.nr_vpns // 2 << self._shift) - self._page
        self._uffds = []
        self._asleep = set()

    def _whole_pages(self, addr: Any, length: Any, beyond: int) -> tuple[int, int]:
        """Return a range as vpns, the length rounded up; EINVAL if unaligned.

        `beyond` is the errno for a range that leaves the address space.
        """
        addr, length = whole("addr", addr), whole("length", length)
        if addr % self._page:
            raise OSError(errno.EINVAL, f"address {addr:#x} is not of a page")
        stop = addr + -(-length // self._page) * self._page
        if stop > self._end:
            raise OSError(beyond, f"[{addr:#x}, {stop:#x}) leaves the address space")
        return addr >> self._shift, stop >> self._shift

    def _uffd_range(self, addr: Any, length: Any) -> tuple[int, int]:
        """Return a range as vpns: validate_range()."""
        addr, length = whole("addr", addr), whole("length", length)
        if addr % self._page or length % self._page or not length:
            raise OSError(
                errno.EINVAL, f"address {addr:#x}, length {length:#x}: no whole pages"
            )
        if addr < MIN_ADDRESS:
            raise OSError(errno.EINVAL, f"address {addr:#x} is below {MIN_ADDRESS:#x}")
        return self._whole_pages(addr, length, errno.EINVAL)
