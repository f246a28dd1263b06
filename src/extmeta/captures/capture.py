"""A process's page tables: captured, kept in a file, built again.

A `Capture` has what Linux shows of one address space: its VMAs, the pagemap word of
every page that has an entry, and VmPTE, the size of the real tables, to compare the
model's with. Each entry takes about 0.1 us to read, 16 bytes of memory, and 2 bytes in
a file, or 4 with PFNs.

The file is numpy's .npz with plain arrays, never pickles::

    file     = zip archive of members, stored or deflated, in any order
    member   = key ".npy": numpy format 1.0, 2.0 or 3.0, either byte order
    V        = number of VMAs          N = number of entries
    rows     = vma_start   uint64 (V,)  first byte, page-aligned, ascending
               vma_end     uint64 (V,)  byte past the end, not past the next start
               vma_perms   str    (V,)  [r-][w-][x-][ps], or "": see vma_flags
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
                                        unknown places (absent: 0)
               vma_anon_huge_kb
                           uint64 (V,)  KiB of anonymous memory mapped by leaves at
                                        unknown places (absent: 0)
               huge_marked bool   ()    anonymous leaves are in huge_vpn or counted
                                        above (absent: false, they look like PTEs)
               settled     bool   ()    VMAs and VmPTE did not change meanwhile
                                        (absent: true)
               about       str    ()    what ran, and the command that captured it
                                        (absent: "")
    entry    = bit 63 present, bits 0-54 PFN, 0 if hidden
             | bit 62 swapped, bits 0-4 swap type, bits 5-54 offset
             | bit 62 with type 31: a marker, offset 1 uffd-wp, 2 poisoned,
               4 guard region
               and bit 55 soft-dirty, 56 exclusively mapped, 57 uffd-wp,
               58 guard region, 61 file or shared anonymous page
               of a leaf: 512 words; a private one without bit 61 is anonymous

Members with other names are ignored. The last VMA may be the vsyscall page, which is in
the kernel half and has no entries. :mod:`extmeta.linux.pagewords` has the sources of
the bits, :mod:`extmeta.captures.npz` the size limits.
"""

import operator
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from extmeta.arrays import U64, restore
from extmeta.captures import consistency, huge, npz, shown
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
    from matplotlib.axes import Axes

    from extmeta.fields import Fields
    from extmeta.pagetable import PageTable

Text = npt.NDArray[np.str_]

# The pages that four levels can map.
FOUR_LEVEL_VPNS = 1 << 36

# The shipped capture that examples use.
DEFAULT = "numpy-sparse"


class CaptureError(ValueError):
    """A process can't be captured, or a capture is inconsistent."""


class Tables(NamedTuple):
    """Number of tables by level, without the root."""

    pte: int
    pmd: int
    pud: int
    p4d: int


def array_of(key: str, value: Any, spec: npz.Key) -> npt.NDArray[Any]:
    """Return a read-only view of an array, with the type that ``spec`` says."""
    array, kind = np.asarray(value), spec.kind
    wanted = {"u": "uint64", "i": "int64", "U": "str"}[kind]
    if array.dtype.kind not in ("iu" if kind == "i" else kind) or (
        kind == "u" and array.dtype.itemsize != 8
    ):
        raise CaptureError(f"{key}: dtype {array.dtype}; {wanted} is needed")
    if array.ndim != spec.dimensions:
        raise CaptureError(
            f"{key}: shape {array.shape} has not {spec.dimensions} dimension(s)"
        )
    if kind == "i" and array.size and (high := int(array.max())) >= 1 << 63:
        raise CaptureError(f"{key}: {high} is too large")
    dtype = np.dtype(np.int64) if kind == "i" else array.dtype.newbyteorder("=")
    # A view: the caller's own array stays writable.
    array = np.ascontiguousarray(array, dtype).view()
    array.flags.writeable = False
    return array


def _perms(perms: Text, flags: Text) -> Text:
    """Return VMA permissions, with empty ones filled in from VmFlags.

    The flags are in Linux Documentation/filesystems/proc.rst; "s" is VM_MAYSHARE in
    fs/proc/task_mmu.c show_vma_header_prefix().
    """
    empty = perms == ""
    if len(perms) != len(flags) or not empty.any():
        return perms
    told: Any = ""
    for flag, yes, no in (("rd", *"r-"), ("wr", *"w-"), ("ex", *"x-"), ("ms", *"sp")):
        told = np.strings.add(told, np.where(huge.has_flag(flags, flag), yes, no))
    perms = np.where(empty & (flags != ""), told, perms)
    return array_of("vma_perms", perms, npz.KEYS["vma_perms"])


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

    Attributes and arrays are read-only. The module's docstring has the grammar.

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
        First vpns of 2 MiB leaves: huge pages, each mapped by one PMD. Those of hugetlb
        are added. `vpn` and `entry` have 512 words for each.
    vma_unlocated_kb : (V,) uint64 ndarray, optional
        KiB of files and shmem that leaves map at unknown places: without PAGEMAP_SCAN
        there are only the sums of smaps (FilePmdMapped, ShmemPmdMapped). Each leaf
        looks like 512 PTEs. `tables_needed` subtracts their PTE tables; `build` makes
        one PTE table too many for each.
    vma_anon_huge_kb : (V,) uint64 ndarray, optional
        KiB of anonymous memory that leaves map at unknown places (AnonHugePages).
        `build` makes 512 PTEs of each, in the table that Linux has deposited.
    huge_marked : bool, optional
        `huge_vpn` and `vma_anon_huge_kb` have all anonymous leaves. False in old
        captures, in which up to `unmarked` leaves are taken for PTEs.
    settled : bool, optional
        VMAs and VmPTE did not change during the reading.
    about : str, optional
        What ran, and the command that captured it. `sha256` leaves it out.

    Raises
    ------
    CaptureError
        If parts are inconsistent, with the wrong value.

    Notes
    -----
    Mappings of device memory (VmFlags `pf`) have no words, 1 GiB hugetlb pages are left
    out, and without CAP_SYS_ADMIN the kernel hides PFNs and swap slots: markers other
    than guard regions then look like swapped pages.
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
    about: str = ""

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
                put(self, key, array_of(key, value, spec))
            elif spec.kind == "i":
                put(self, key, _kib(key, value))
            else:
                put(self, key, (str if spec.kind == "U" else bool)(value))
        put(self, "vma_perms", _perms(self.vma_perms, self.vma_flags))
        if why := consistency.fault(self):
            raise CaptureError(why)
        leaves = np.union1d(self.huge_vpn, huge.hugetlb(self))
        put(self, "huge_vpn", array_of("huge_vpn", leaves, npz.KEYS["huge_vpn"]))

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore(self, state)

    @property
    def deposited_vpn(self) -> U64:
        """Those of `huge_vpn` that are anonymous, with a deposited PTE table each."""
        return huge.deposited(self)

    @property
    def unplaced_kb(self) -> int:
        """KiB that leaves map at unknown places. Their words are taken for PTEs."""
        return int(self.vma_unlocated_kb.sum() + self.vma_anon_huge_kb.sum())

    @property
    def unmarked(self) -> int:
        """Maximum number of anonymous 2 MiB leaves that are taken for 512 PTEs each.

        0 if `huge_marked`.
        """
        return huge.unmarked(self)

    @property
    def nr_present(self) -> int:
        """Number of present pages, 512 for each 2 MiB leaf."""
        return int(np.count_nonzero(present(self.entry)))

    @property
    def nr_swapped(self) -> int:
        """Number of swap and migration entries, without markers."""
        held = int(np.count_nonzero(populated(self.entry)))
        return held - self.nr_present - self.nr_markers

    @property
    def nr_markers(self) -> int:
        """Number of PTE markers: write-protected, poisoned or guard, without a page."""
        return int(np.count_nonzero(marker(self.entry)))

    @property
    def has_pfns(self) -> bool:
        """Whether PFNs are known: captured by root, and saved with ``pfns=True``."""
        return bool((self.entry[present(self.entry)] & PFN_MASK).any())

    @property
    def arch(self) -> str:
        """ "x86_64", or "x86_64_la57" if a page is beyond four levels."""
        high = len(self.vpn) and self.vpn[-1] >= FOUR_LEVEL_VPNS
        return "x86_64_la57" if high else "x86_64"

    def tables_needed(self) -> Tables:
        """Return how many tables of each level the entries need.

        Returns
        -------
        Tables
            A named tuple, without the root, with the PTE tables deposited for anonymous
            leaves; `p4d` is 0 with four levels.
        """
        # Leaves that look like 512 PTEs have no PTE table.
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
        """Number of tables that VmPTE counts and no entry needs.

        Unmap and reclaim left them empty, or they map device memory, which pagemap does
        not show. VmPTE counts PTE, PMD and PUD tables, not P4D tables and the root:
        Linux mm/memory.c mm_inc_nr_ptes(), mm_inc_nr_pmds(), mm_inc_nr_puds() and their
        callers. Below 0 only if the capture is not `settled`.
        """
        need = self.tables_needed()
        return self.vmpte_kb * 1024 // PAGE_BYTES - (need.pte + need.pmd + need.pud)

    def occupancy(self) -> npt.NDArray[np.int64]:
        """Return the number of PTE tables by number of entries, (513,) int64.

        2 MiB leaves and empty tables are not counted, so that [0] is 0.
        """
        _, filled = np.unique(self.vpn[huge.ptes(self)] >> 9, return_counts=True)
        return np.bincount(filled, minlength=LEAF_PAGES + 1)

    @property
    def sha256(self) -> str:
        """Hex digest of all but `about`, independent of the file's compression."""
        import hashlib  # 5 ms, which `import extmeta` would take

        digest = hashlib.sha256()
        for key, spec in npz.KEYS.items():
            value = getattr(self, key)
            # A description is no content of page tables.
            if key == "about":
                continue
            # Old captures keep their digest.
            if not self.huge_marked and key in ("vma_anon_huge_kb", "huge_marked"):
                continue
            if spec.kind == "u":
                raw = value.astype("<u8", copy=False).tobytes()
            else:
                # The digest must not depend on the padding of texts.
                items = value.tolist() if spec.limit else [str(value)]
                raw = "\0".join(items).encode("utf-8", "surrogatepass")
            digest.update(f"{key} {len(raw)}\n".encode())
            digest.update(raw)
        return digest.hexdigest()

    def __repr__(self) -> str:
        need = self.tables_needed()
        return (
            f"<Capture of {self.comm!r}: {len(self.vpn):,} entries in {need.pte:,} "
            # The kernel's name comes from a file, and repr() keeps it on one line.
            f"PTE tables, VmPTE {self.vmpte_kb:,} KiB, Linux {repr(self.kernel)[1:-1]}>"
        )

    def _repr_html_(self) -> str:
        return shown.html_of(self)

    @property
    def vmas(self) -> npt.NDArray[np.void]:
        """The VMAs as a (V,) structured array, a copy.

        Its fields are start and end (bytes), perms, flags, name, unlocated_kb and
        anon_huge_kb.
        """
        return shown.vmas_of(self)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the entries of all PTE tables; see `PageTable.plot`.

        A page that is write-protected by userfaultfd, or soft-dirty, counts as one with
        a word.
        """
        return shown.plot(self, ax)

    def save(self, path: str | os.PathLike[str], pfns: bool = False) -> None:
        """Write the capture to a file, all of it or nothing.

        Parameters
        ----------
        path : path-like
            ".npz" is not added. An existing file is replaced when the new one is on
            disk.
        pfns : bool, optional
            Keep the PFNs of present pages, which tell physical addresses of the
            machine. Swap slots and markers are always kept.

        Raises
        ------
        OSError
            For example no space, no permission.
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
            `uffd_wp` and `soft_dirty` are 1 if the page's word has that bit; other
            fields are 0.
        arch : str, optional
            By default `arch`, the smallest that can map every page.

        Returns
        -------
        PageTable
            Present PTEs have their PFNs if known, else arbitrary ones; swap entries and
            markers have the slot type << 50 | offset; 2 MiB leaves are leaves, anonymous
            ones with a deposited PTE table, except `unmarked` ones, which are PTEs. PTEs
            are writable if their VMA is. If the capture is settled,
            ``memory().pte + memory().upper`` is VmPTE plus the root (plus, with five
            levels, the P4D tables), less `empty_tables`.

        Raises
        ------
        ValueError
            If `arch` can't map a page or the encoding can't hold `fields`.
        MemoryError
        """
        from extmeta.captures.build import build

        return build(self, encoding, fields, arch or self.arch)


def load_capture(path: str | os.PathLike[str]) -> Capture:
    """Read a capture from a file, which need not be trusted.

    Parameters
    ----------
    path : path-like
        If there is no file of this name, the name of a capture in `shipped`.

    Returns
    -------
    Capture

    Raises
    ------
    CaptureError
        If the file is damaged, hostile, too large or inconsistent: one line with the
        file and the wrong value.
    OSError
        If it can't be read; FileNotFoundError if it does not exist.
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
        "numpy-sparse", the default, is first. data/README.md describes the processes.
    """
    folder = Path(__file__).parents[1] / "data"
    paths = sorted(folder.glob("*.npz"), key=lambda p: (p.stem != DEFAULT, p.stem))
    return {path.stem: path for path in paths}
