"""A process's page tables: captured, kept in a file, built again.

A `Capture` is what Linux shows of one address space: its VMAs, the pagemap
word of every page that has an entry, and VmPTE, the size of the real tables to
hold the model's against. For each entry, reading takes about 0.1 us, memory 16
bytes, a file 2, or 4 with PFNs.

The file is numpy's .npz with plain arrays, never pickles::

    file     = zip archive of members, stored or deflated, in any order
    member   = key ".npy": numpy format 1.0, 2.0 or 3.0, either byte order
    V        = number of VMAs          N = number of entries
    rows     = vma_start   uint64 (V,)  first byte, page-aligned, ascending
               vma_end     uint64 (V,)  byte past the end, not past the next start
               vma_perms   str    (V,)  [r-][w-][x-][ps], or "": as vma_flags say
               vma_flags   str    (V,)  VmFlags of smaps: "rd wr mr mw me ac"
               vma_name    str    (V,)  file name without folder, "[heap]" or ""
               vpn         uint64 (N,)  strictly ascending, each in a VMA
               entry       uint64 (N,)  its pagemap word, not 0
               vmpte_kb    int    ()    VmPTE of status, KiB
               vmrss_kb    int    ()    VmRSS of status, KiB
               kernel      str    ()    release, "6.18.44"
               comm        str    ()    the process's name
    optional = huge_vpn    uint64 (H,)  ascending first vpns of 2 MiB leaves
                                        (absent: hugetlb's are found by VmFlags ht)
               vma_unlocated_kb
                           uint64 (V,)  KiB of files and shmem mapped by leaves at
                                        places that the kernel did not tell
                                        (absent: 0)
               vma_anon_huge_kb
                           uint64 (V,)  the same of anonymous memory (absent: 0)
               huge_marked bool   ()    anonymous leaves are in huge_vpn or counted
                                        above (absent: false, they look like PTEs)
               settled     bool   ()    nothing moved meanwhile (absent: true)
    entry    = bit 63 present, bits 0-54 PFN, 0 if hidden
             | bit 62 swapped, bits 0-4 swap type, bits 5-54 offset
             | bit 62 with type 31: a marker, offset 1 uffd-wp, 2 poisoned,
               4 guard region
               and bit 55 soft-dirty, 56 exclusively mapped, 57 uffd-wp,
               58 guard region, 61 file or shared anonymous page
               of a leaf: 512 words; a private one without bit 61 is anonymous

Members of other names are left alone. The last VMA may be the vsyscall page,
which is in the kernel half and has no entries. :mod:`extmeta.linux.pagewords` has the
sources of the bits, :mod:`extmeta.captures.npz` the limits on sizes.
"""

import hashlib
import operator
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from extmeta.arrays import restore
from extmeta.captures import consistency, huge, npz
from extmeta.linux.pagewords import (
    LEAF_KB,
    LEAF_PAGES,
    PAGE_BYTES,
    PFN_MASK,
    distinct,
    marker,
    populated,
    present,
)

if TYPE_CHECKING:
    from extmeta.fields import Fields
    from extmeta.pagetable import PageTable

U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Text = npt.NDArray[np.str_]

# What four levels of table can index.
FOUR_LEVEL_VPNS = 1 << 36

# The shipped capture to start with.
DEFAULT = "numpy-sparse"


class CaptureError(ValueError):
    """A process that can't be captured, or a capture that contradicts itself."""


class Tables(NamedTuple):
    """Pages of page table, by level; the root is one more."""

    pte: int
    pmd: int
    pud: int
    p4d: int


def _array(key: str, value: Any) -> npt.NDArray[Any]:
    """Return a read-only view of an array of the type that ``key`` has."""
    array = np.asarray(value)
    kind = npz.KEYS[key].kind
    if array.dtype.kind != kind or (kind == "u" and array.dtype.itemsize != 8):
        wanted = {"u": "uint64", "U": "str"}[kind]
        raise CaptureError(f"{key}: dtype {array.dtype}; {wanted} is needed")
    if array.ndim != 1:
        raise CaptureError(f"{key}: shape {array.shape}; one dimension is needed")
    # A view: the caller's own array stays writable.
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).view()
    array.flags.writeable = False
    return array


def _perms(perms: Text, flags: Text) -> Text:
    """Return VMA permissions, those left empty as VmFlags tell them.

    The flags are those of Linux Documentation/filesystems/proc.rst; "s" is
    VM_MAYSHARE in fs/proc/task_mmu.c show_vma_header_prefix().
    """
    empty = perms == ""
    if len(perms) != len(flags) or not empty.any():
        return perms
    told: Any = ""
    for flag, yes, no in (("rd", *"r-"), ("wr", *"w-"), ("ex", *"x-"), ("ms", *"sp")):
        told = np.strings.add(told, np.where(huge.has_flag(flags, flag), yes, no))
    return _array("vma_perms", np.where(empty & (flags != ""), told, perms))


def _kib(key: str, value: Any) -> int:
    try:
        kib = operator.index(value)
    except TypeError:
        raise CaptureError(f"{key}: {value!r} is not an integer") from None
    if not 0 <= kib < 1 << 63:
        raise CaptureError(f"{key}: {kib} is no size in KiB")
    return kib


@dataclass(frozen=True, eq=False, repr=False)
class Capture:
    """One address space: VMAs, pagemap words, and the size of its tables.

    Attributes are read-only, arrays included. The module's docstring has the
    meaning of each; checked when made.

    Parameters
    ----------
    vma_start, vma_end : (V,) uint64 ndarray
        Bytes.
    vma_perms, vma_flags, vma_name : (V,) str ndarray
    vpn, entry : (N,) uint64 ndarray
    vmpte_kb, vmrss_kb : int
        KiB.
    kernel, comm : str
    huge_vpn : (H,) uint64 ndarray, optional
        First vpns of 2 MiB leaves: huge pages, each mapped by one PMD. hugetlb's are
        added. Their 512 words each are in `vpn` and `entry` too.
    vma_unlocated_kb : (V,) uint64 ndarray, optional
        KiB of files and shmem that leaves map at places not known: where the kernel
        has no PAGEMAP_SCAN, smaps (FilePmdMapped, ShmemPmdMapped) has only the sums.
        Their words then look like 512 PTEs each, `tables_needed` takes their
        PTE tables off, and `build` makes one PTE table too many for each.
    vma_anon_huge_kb : (V,) uint64 ndarray, optional
        KiB of anonymous memory that leaves map at places not known (AnonHugePages).
        `build` makes 512 PTEs of each, in the table that Linux has deposited.
    huge_marked : bool, optional
        All anonymous leaves are in `huge_vpn` or counted in `vma_anon_huge_kb`. False
        in captures from before they were; then `unmarked` leaves at most are taken
        for PTEs.
    settled : bool, optional
        The VMAs and VmPTE were the same before and after the reading.

    Raises
    ------
    CaptureError
        If a part contradicts another, by value.

    Notes
    -----
    Mappings of device memory (VmFlags `pf`) show no words at all, 1 GiB
    hugetlb pages are left out, and without CAP_SYS_ADMIN neither PFNs nor swap
    slots are told: then markers but for guard regions look like swapped pages.
    """

    vma_start: U64
    vma_end: U64
    vma_perms: Text
    vma_flags: Text
    vma_name: Text
    vpn: U64
    entry: U64
    vmpte_kb: int
    vmrss_kb: int
    kernel: str
    comm: str
    huge_vpn: U64 = None  # type: ignore[assignment]
    vma_unlocated_kb: U64 = None  # type: ignore[assignment]
    vma_anon_huge_kb: U64 = None  # type: ignore[assignment]
    huge_marked: bool = False
    settled: bool = True

    def __post_init__(self) -> None:
        put = object.__setattr__
        if self.huge_vpn is None:
            put(self, "huge_vpn", np.empty(0, np.uint64))
        for key in ("vma_unlocated_kb", "vma_anon_huge_kb"):
            if getattr(self, key) is None:
                put(self, key, np.zeros(len(self.vma_start), np.uint64))
        for key, spec in npz.KEYS.items():
            value = getattr(self, key)
            if spec.limit:
                put(self, key, _array(key, value))
            elif spec.kind == "i":
                put(self, key, _kib(key, value))
        put(self, "kernel", str(self.kernel))
        put(self, "comm", str(self.comm))
        for key in ("huge_marked", "settled"):
            put(self, key, bool(getattr(self, key)))
        put(self, "vma_perms", _perms(self.vma_perms, self.vma_flags))
        if why := consistency.fault(self):
            raise CaptureError(why)
        leaves = np.union1d(self.huge_vpn, huge.hugetlb(self))
        put(self, "huge_vpn", _array("huge_vpn", leaves))

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore(self, state)

    @property
    def deposited_vpn(self) -> U64:
        """First vpns of anonymous leaves, for each of which Linux deposits a PTE table.

        A part of `huge_vpn`.
        """
        return huge.deposited(self)

    @property
    def unplaced_kb(self) -> int:
        """KiB that leaves map at places not known: their words are taken for PTEs."""
        return int(self.vma_unlocated_kb.sum() + self.vma_anon_huge_kb.sum())

    @property
    def unmarked(self) -> int:
        """How many anonymous 2 MiB leaves may have been taken for 512 PTEs each.

        Not 0 only in captures from before these leaves were marked.
        """
        return huge.unmarked(self)

    @property
    def nr_present(self) -> int:
        """Present pages, 512 for each 2 MiB leaf."""
        return int(np.count_nonzero(present(self.entry)))

    @property
    def nr_swapped(self) -> int:
        """PTEs of pages in swap or on their way: not markers."""
        held = int(np.count_nonzero(populated(self.entry)))
        return held - self.nr_present - self.nr_markers

    @property
    def nr_markers(self) -> int:
        """PTE markers: write-protected, poisoned or guard, without a page."""
        return int(np.count_nonzero(marker(self.entry)))

    @property
    def has_pfns(self) -> bool:
        """Whether the PFNs are known: captured by root, saved with ``pfns=True``."""
        return bool((self.entry[present(self.entry)] & PFN_MASK).any())

    @property
    def arch(self) -> str:
        """ "x86_64", or "x86_64_la57" where four levels can't index a page."""
        high = len(self.vpn) and self.vpn[-1] >= FOUR_LEVEL_VPNS
        return "x86_64_la57" if high else "x86_64"

    def tables_needed(self) -> Tables:
        """Return how many tables of each level the entries need.

        Returns
        -------
        Tables
            A named tuple; `p4d` is 0 with four levels. The root is not in it. The PTE
            tables that are deposited with anonymous leaves are.
        """
        # One PTE table fewer for each leaf that only looks like 512 PTEs.
        unlocated = int(self.vma_unlocated_kb.sum()) // LEAF_KB
        vpn = self.vpn[populated(self.entry)]
        five_levels = self.arch == "x86_64_la57"
        return Tables(
            pte=distinct(self.vpn[huge.ptes(self)] >> 9)
            + len(self.deposited_vpn)
            - unlocated,
            pmd=distinct(vpn >> 18),
            pud=distinct(vpn >> 27),
            p4d=distinct(vpn >> 36) if five_levels else 0,
        )

    @property
    def empty_tables(self) -> int:
        """Tables that VmPTE counts and no entry needs.

        What unmapping and reclaim left empty, and tables of device memory,
        which pagemap does not show. VmPTE counts PTE, PMD and PUD tables but
        not P4D tables nor the root: Linux mm/memory.c mm_inc_nris_pte(),
        mm_inc_nr_pmds(), mm_inc_nr_puds() and their callers. Below 0 only
        where the capture is not `settled`.
        """
        need = self.tables_needed()
        return self.vmpte_kb * 1024 // PAGE_BYTES - (need.pte + need.pmd + need.pud)

    def occupancy(self) -> npt.NDArray[np.int64]:
        """Return how full the PTE tables are.

        Returns
        -------
        (513,) int64 ndarray
            Number of PTE tables by number of their entries; 2 MiB leaves,
            which have none, left out, so that [0] is 0.
        """
        _, filled = np.unique(self.vpn[huge.ptes(self)] >> 9, return_counts=True)
        return np.bincount(filled, minlength=LEAF_PAGES + 1)

    @property
    def sha256(self) -> str:
        """Hex digest of the content; a file of the same content has the same."""
        digest = hashlib.sha256()
        for key, spec in npz.KEYS.items():
            value = getattr(self, key)
            # Those of before have the digest that they had.
            if not self.huge_marked and key in ("vma_anon_huge_kb", "huge_marked"):
                continue
            if spec.kind == "u":
                raw = value.astype("<u8", copy=False).tobytes()
            else:
                # By code point, with its width: neither depends on the padding.
                items = value.tolist() if spec.limit else [str(value)]
                raw = "\0".join(items).encode("utf-8", "surrogatepass")
            digest.update(f"{key} {len(raw)}\n".encode())
            digest.update(raw)
        return digest.hexdigest()

    def __repr__(self) -> str:
        need = self.tables_needed()
        return (
            f"<Capture of {self.comm!r}: {len(self.vpn):,} entries in {need.pte:,} "
            f"PTE tables, VmPTE {self.vmpte_kb:,} KiB, Linux {self.kernel}>"
        )

    def save(self, path: str | os.PathLike[str], pfns: bool = False) -> None:
        """Write the capture to a file, all of it or nothing.

        Parameters
        ----------
        path : path-like
            Taken as it is; ".npz" is not added. A file that was there is
            replaced once the new one is on disk.
        pfns : bool, optional
            Keep the PFNs of present pages. They say where in a machine's
            memory a page is, so by default they do not leave it. Swap slots
            and markers stay.

        Raises
        ------
        OSError
            If there is no space, no permission and the like.
        """
        arrays = {key: getattr(self, key) for key in npz.KEYS}
        if not pfns:
            hidden = np.where(present(self.entry), np.uint64(PFN_MASK), np.uint64(0))
            arrays["entry"] = self.entry & ~hidden
        npz.write(os.fsdecode(path), arrays)

    def build(
        self,
        encoding: Any = "linked",
        fields: "Fields | None" = None,
        arch: str | None = None,
    ) -> "PageTable":
        """Build the process's page tables.

        Parameters
        ----------
        encoding : str or encoding, optional
        fields : Fields, optional
            Those named `uffd_wp` and `soft_dirty` are set to 1 where the
            capture has that bit; every other word is 0.
        arch : str, optional
            By default `arch`, the smallest that holds every page.

        Returns
        -------
        PageTable
            With every PTE table that the process needs: present PTEs, with
            their PFNs if known, else PFNs of their own; swap entries and
            markers as slot type << 50 | offset; 2 MiB leaves as such, anonymous
            ones with a deposited PTE table. In a capture with `unmarked` leaves,
            these are PTEs. PTEs are writable where their VMA is. A settled
            capture's table has
            ``memory().pte + memory().upper`` equal to VmPTE plus the root
            (plus, with five levels, the P4D tables), less `empty_tables`.

        Raises
        ------
        ValueError
            If `arch` can't index a page or the encoding can't hold `fields`.
        MemoryError
        """
        from extmeta.captures.build import build

        return build(self, encoding, fields, arch or self.arch)


def load_capture(path: str | os.PathLike[str]) -> Capture:
    """Read a capture from a file, believing nothing in it unchecked.

    Parameters
    ----------
    path : path-like
        If there is no such file: the name of a capture of `shipped`.

    Returns
    -------
    Capture

    Raises
    ------
    CaptureError
        If the file is damaged, hostile, too large, or contradicts itself: one
        line with the file, and the value that is wrong.
    OSError
        If it can't be read; FileNotFoundError if it is not there.
    """
    path = os.fsdecode(path)
    if not os.path.exists(path):
        path = os.fsdecode(shipped().get(path, path))
    try:
        return Capture(**npz.values(path))
    except (npz.DamagedFileError, CaptureError) as error:
        raise CaptureError(f"{path}: {error}") from None


def shipped() -> dict[str, Path]:
    """Return the captures that come with the package, by name.

    Returns
    -------
    dict of str to Path
        "numpy-sparse", the default, first. Their data/README.md says what ran.
    """
    folder = Path(str(resources.files("extmeta") / "data"))
    paths = sorted(folder.glob("*.npz"), key=lambda p: (p.stem != DEFAULT, p.stem))
    return {path.stem: path for path in paths}
