"""The PTEs of an address space, from a capture or synthetic."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from extmeta.arch import Arch, arch_named
from extmeta.arrays import U64, Bools
from extmeta.captures.capture import Capture, CaptureError
from extmeta.edge.state import State, rebuilt, state_of
from extmeta.fields import Fields
from extmeta.linux.pagewords import LEAF_KB, PAGE_BYTES, PAGE_SHIFT, PFN_MASK, present
from extmeta.pagetable import PageTable
from extmeta.table.encoding import Encoding

# First vpn of synthetic tables: a multiple of a PMD table's span, not 0. An architecture
# with fewer vpns starts halfway.
SYNTHETIC_FIRST = 1 << 27

DEFAULT_ARCH = "x86_64"


@dataclass(frozen=True, eq=False)
class Space:
    """An address space's PTEs, to be built in any encoding.

    Attributes
    ----------
    name : str
    vpns : (n,) uint64 ndarray
        Ascending: every vpn that has a PTE.
    present_bytes : int
        Memory that is mapped and present, huge pages included.
    nr_huge : int
        Huge pages of 2 MiB mapped by leaves, which have no PTE.
    has_swap : bool
        Whether some PTEs are swap entries or markers.
    arch : str
    sha256 : str
        The capture's name; empty for synthetic tables.
    build : callable
        ``build(encoding, fields)`` returns the PageTable. It can be pickled, as the
        space can: other processes build it too.
    note : str
        How it differs from the capture; empty if it does not.
    pfns : (n,) uint64 ndarray, optional
        The machine's PFNs of present PTEs, if the capture has them.
    deposited : (n,) uint64 ndarray
        First vpns of the anonymous huge pages, which have a deposited PTE table.
    nr_unplaced, nr_unmarked : int
        Huge pages counted as 512 PTEs each: those whose places are not known, and the
        most there may be in addition (`Capture.unmarked`).
    """

    name: str
    vpns: U64
    present_bytes: int
    nr_huge: int
    has_swap: bool
    arch: str
    sha256: str
    build: Callable[[str | Encoding, Fields], PageTable]
    note: str = ""
    pfns: U64 | None = None
    deposited: U64 = field(default_factory=lambda: np.empty(0, np.uint64))
    nr_unplaced: int = 0
    nr_unmarked: int = 0

    @property
    def range(self) -> slice:
        """The smallest range that has every PTE in it."""
        return slice(int(self.vpns[0]), int(self.vpns[-1]) + 1)

    def bare(self, encoding: str | Encoding, fields: Fields) -> PageTable:
        """Return the table without words, also those of the capture."""
        table = self.build(encoding, fields)
        table.update(self.range, clear=(1 << fields.bits) - 1)
        return table


def space_of(capture: Capture, name: str, arch: str | None = None) -> Space:
    """Return a capture's address space, `ported` if ``arch`` is another architecture.

    The default is the capture's; "NAME@RELEASE" names a Linux release. CaptureError is
    raised if it has no PTE.
    """
    made = arch_named(arch or capture.arch)
    if made.name.partition("@")[0] != capture.arch:
        return ported(capture, name, made)
    plain = capture.build("inpte", Fields(bit=1))
    vpns = plain.scan(slice(0, plain.arch.nr_vpns), 0)
    if not len(vpns):
        raise CaptureError(f"{name}: no PTE, so nothing to compare")
    return Space(
        name=name,
        vpns=vpns,
        present_bytes=capture.nr_present * PAGE_BYTES,
        nr_huge=len(capture.huge_vpn),
        has_swap=capture.nr_swapped + capture.nr_markers > 0,
        arch=made.name,
        sha256=capture.sha256,
        build=functools.partial(capture.build, arch=made.name),
        deposited=capture.deposited_vpn,
        nr_unplaced=capture.unplaced_kb // LEAF_KB,
        nr_unmarked=capture.unmarked,
    )


def space_of_table(table: PageTable, name: str, arch: str | None = None) -> Space:
    """Return the address space of a page table as it is now, without its words.

    Raises ValueError if ``arch`` is another architecture, or there is no PTE.
    """
    made = table.arch
    if arch is not None and arch_named(arch).name != made.name:
        raise ValueError(f"arch: {arch!r}, but {name} is of {made.name!r}")
    # An encoding may have changed the tables: the name is of the unchanged ones.
    state = state_of(table)._replace(arch=made.name)
    if not len(state.vpns):
        raise ValueError(f"{name}: no PTE, so nothing to compare")
    heads = state.leaf_vpns % np.uint64(table.huge_ptes()) == 0
    present_ptes = int(state.present.sum() + heads.sum() * table.huge_ptes())
    return Space(
        name=name,
        vpns=state.vpns,
        present_bytes=present_ptes * made.page_bytes,
        nr_huge=int(heads.sum()),
        has_swap=not state.present.all(),
        arch=made.name,
        sha256="",
        build=functools.partial(_rebuilt, state=state),
        deposited=state.leaf_vpns[heads & state.deposited],
    )


def _rebuilt(encoding: str | Encoding, fields: Fields, *, state: State) -> PageTable:
    """Build a table like the one that ``state`` is of, without a word."""
    table = PageTable(encoding, fields, state.arch)
    words = table.load(state.vpns)
    return rebuilt(*state._replace(encoding=table.encoding, fields=fields, words=words))


def ported(capture: Capture, name: str, arch: Arch) -> Space:
    """Return a capture's address space as another architecture would have it.

    The capture has x86-64's 4 KiB pages. A page of ``arch`` is mapped if one of its
    4 KiB parts is: present if one of them is, else a swap entry with its own slot;
    writable if one of them is. PFNs are new, 2 MiB leaves are left out. If addresses
    exceed the architecture's vpns, holes are cut by whole spans of the tables above the
    PTE tables, to less than two spans: everything moves down in order and keeps its
    place in PTE tables and in the tables above them.

    Raises CaptureError if it has no PTE, or too many for the architecture's vpns.
    """
    plain = capture.build("inpte", Fields(bit=1))
    parts = plain.scan(slice(0, plain.arch.nr_vpns), 0)
    if not len(parts):
        raise CaptureError(f"{name}: no PTE, so nothing to compare")
    shift = np.uint64(arch.page_shift - PAGE_SHIFT)
    vpns, first = np.unique(parts >> shift, return_index=True)
    entry = capture.entry[np.searchsorted(capture.vpn, parts)]
    here = present(entry)
    here = np.logical_or.reduceat(here, first)
    writable = np.logical_or.reduceat(_writable(capture, parts), first)
    notes = []
    if shift:
        notes.append("a page is mapped where one of its 4 KiB parts is")
    if vpns[-1] >= arch.nr_vpns:
        vpns = _closer(vpns, arch)
        notes.append("holes are cut so that all of it fits the addresses there are")
        if vpns[-1] >= arch.nr_vpns:
            raise CaptureError(f"{name}: too large for the addresses of {arch.name}")
    if len(capture.huge_vpn):
        notes.append("2 MiB pages are left out")

    return Space(
        name=name,
        vpns=vpns,
        present_bytes=int(here.sum()) * arch.page_bytes,
        nr_huge=0,
        has_swap=not here.all(),
        arch=arch.name,
        sha256=capture.sha256,
        build=functools.partial(
            built, arch=arch.name, vpns=vpns, writable=writable, here=here
        ),
        pfns=entry & np.uint64(PFN_MASK) if capture.has_pfns and not shift else None,
        note="; ".join((f"from a capture of {capture.arch}", *notes)),
    )


def built(
    encoding: str | Encoding,
    fields: Fields,
    *,
    arch: str,
    vpns: U64,
    writable: Bools,
    here: Bools,
) -> PageTable:
    """Build a table from ascending vpns; those that are not here are swapped."""
    table = PageTable(encoding, fields, arch)
    for may_write in (False, True):
        table.map(vpns[writable == may_write], writable=may_write)
    swapped = vpns[~here]
    slots = np.arange(len(swapped), dtype=np.uint64)
    table.swap_out(swapped, slots + np.uint64(table.arch.first_slot))
    return table


def _writable(capture: Capture, vpns: U64) -> Bools:
    """Tell which vpns lie in a writable VMA; each lies in a VMA."""
    vma = np.searchsorted(capture.vma_start >> PAGE_SHIFT, vpns, "right") - 1
    writable = np.strings.find(capture.vma_perms, "w") >= 0
    return np.asarray(writable[vma])


def _closer(vpns: U64, arch: Arch) -> U64:
    """Return ascending vpns with the holes between PTE tables cut; see `ported`."""
    size = np.uint64(arch.ptrs_per_pte)
    span = np.uint64(1 << arch.level_bits[-2])
    table = vpns // size
    ahead = np.diff(table, prepend=np.uint64(0))
    cut = np.where(ahead < 2 * span, ahead, span + ahead % span)
    return np.asarray(np.cumsum(cut, dtype=np.uint64) * size + vpns % size)


def full_tables(nr_tables: int, arch: str = DEFAULT_ARCH) -> Space:
    """Return consecutive PTE tables with every entry mapped."""
    made = arch_named(arch)
    first = min(SYNTHETIC_FIRST, made.nr_vpns // 2)
    vpns = range(first, first + nr_tables * made.ptrs_per_pte)
    name = f"{nr_tables:,} full table{'s' if nr_tables > 1 else ''}"
    return synthetic(name, vpns, made)


def sparse_tables(
    nr_tables: int, per_table: int, seed: int, arch: str = DEFAULT_ARCH
) -> Space:
    """Return consecutive PTE tables, each with ``per_table`` random entries mapped."""
    made = arch_named(arch)
    size = made.ptrs_per_pte
    rng = np.random.default_rng(seed)
    # The places of the smallest random numbers are a random subset.
    order = rng.random((nr_tables, size)).argpartition(per_table - 1, axis=1)
    places = np.sort(order[:, :per_table], axis=1).astype(np.uint64)
    start = min(SYNTHETIC_FIRST, made.nr_vpns // 2)
    first = start + size * np.arange(nr_tables, dtype=np.uint64)
    vpns = (places + first[:, None]).ravel()
    return synthetic(f"{nr_tables:,} tables of {per_table} entries", vpns, made)


def synthetic(name: str, vpns: range | U64, arch: Arch) -> Space:
    """Return an address space in which ascending vpns are mapped."""
    return Space(
        name=name,
        vpns=np.asarray(vpns, np.uint64),
        present_bytes=len(vpns) * arch.page_bytes,
        nr_huge=0,
        has_swap=False,
        arch=arch.name,
        sha256="",
        build=functools.partial(_mapped, arch=arch.name, vpns=vpns),
    )


def _mapped(
    encoding: str | Encoding, fields: Fields, *, arch: str, vpns: range | U64
) -> PageTable:
    """Build a table in which some vpns are mapped."""
    table = PageTable(encoding, fields, arch)
    table.map(vpns)
    return table
