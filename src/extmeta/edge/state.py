"""A page table's content as plain data, for pickle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from extmeta.arrays import U64, Bools

if TYPE_CHECKING:
    from extmeta.fields import Fields
    from extmeta.pagetable import PageTable
    from extmeta.table.encoding import Encoding


class State(NamedTuple):
    """All that is needed to make an equal page table.

    Attributes
    ----------
    encoding : Encoding
        A recipe.
    fields : Fields
    arch : str
    vpns : (n,) uint64 ndarray
        vpns of the PTEs, ascending.
    values : (n,) uint64 ndarray
        The pfn of a present PTE, the swap slot of a swapped one.
    present, writable : (n,) bool ndarray
    words : (n,) or (n, lanes) uint64 ndarray
    leaf_vpns, leaf_pfns : (m,) uint64 ndarray
    deposited : (m,) bool ndarray
    """

    encoding: Encoding
    fields: Fields
    arch: str
    vpns: U64
    values: U64
    present: Bools
    writable: Bools
    words: U64
    leaf_vpns: U64
    leaf_pfns: U64
    deposited: Bools


def _bits(raw: U64, shift: int, width: int) -> U64:
    return raw >> np.uint64(shift) & np.uint64((1 << width) - 1)


def state_of(table: PageTable) -> State:
    """Return a page table's content. No other thread may change it meanwhile."""
    arch, swap = table.arch, table.arch.swap
    vpns, entries = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    for first, view in table.tables.items():
        used = np.flatnonzero(view != np.uint64(arch.none))
        vpns.append(used.astype(np.uint64) + np.uint64(first))
        entries.append(view[used])
    raw = np.concatenate(entries)
    present = _bits(raw, arch.present, 1) != 0
    offset = _bits(raw, swap.offset_shift, swap.offset_bits)
    if swap.offset_inverted:
        offset ^= np.uint64((1 << swap.offset_bits) - 1)
    kind = _bits(raw, swap.type_shift, swap.type_bits) << np.uint64(swap.offset_bits)
    pfn = _bits(raw, arch.pfn_shift, arch.pfn_bits)
    write = np.where(present, _bits(raw, arch.write, 1), _bits(raw, swap.exclusive, 1))
    named = np.concatenate(vpns)
    return State(
        table.encoding,
        table.fields,
        f"{arch.name}@{arch.release}",
        named,
        np.where(present, pfn, kind | offset),
        present,
        write != 0,
        table.load(named),
        *table.leaves(),
    )


def rebuilt(*state: Any) -> PageTable:
    """Return a page table with the content of ``State(*state)``."""
    from extmeta.pagetable import PageTable

    s = State(*state)
    table = PageTable(s.encoding, s.fields, s.arch)
    # Swap entries first: they are mapped with pfns that swap_out() frees again.
    for may_write in (False, True):
        table.map(s.vpns[~s.present & (s.writable == may_write)], writable=may_write)
    table.swap_out(s.vpns[~s.present], s.values[~s.present])
    for may_write in (False, True):
        chosen = s.present & (s.writable == may_write)
        table.map(s.vpns[chosen], s.values[chosen], writable=may_write)
    if len(s.leaf_vpns):
        step = table.huge_ptes()
        for deposited in (False, True):
            whole = (s.leaf_vpns % np.uint64(step) == 0) & (s.deposited == deposited)
            table.map_huge(s.leaf_vpns[whole], s.leaf_pfns[whole], deposited)
    table.store(s.vpns, s.words)
    return table
