"""Counts arm64's contiguous blocks, without and with words.

Linux gives 16 PTEs (with 4K pages) the CONT bit, and one TLB entry, if they are aligned,
map consecutive pages of one folio and are alike but for AF and dirty: 6.12
arch/arm64/mm/contpte.c, __contpte_try_fold(). A flag or a word that only some of them
have makes them differ.
"""

import numpy as np
import numpy.typing as npt

from extmeta.pagetable import PageTable

U64 = npt.NDArray[np.uint64]


def alike(table: PageTable) -> tuple[U64, U64]:
    """Return the vpns of present PTEs, and their bits that must be equal in a block.

    Returns
    -------
    vpns : (n,) uint64 ndarray
        Ascending.
    prot : (n, k) uint64 ndarray
        The bits of pte_pgprot() without AF and dirty.
    """
    arch = table.arch
    size = arch.ptrs_per_pte
    # pte_mkclean() sets the read-only bit, so only the write bit counts.
    free = {arch.accessed, arch.dirty, *arch.readonly}
    free |= {*range(arch.pfn_shift, arch.pfn_shift + arch.pfn_bits)}
    kept = np.uint64(sum(1 << bit for bit in range(64) if bit not in free))
    firsts = np.array(list(table.tables), np.uint64)
    vpns = (firsts[:, None] + np.arange(size, dtype=np.uint64)).ravel()
    ptes = np.concatenate([*table.tables.values(), np.zeros(0, np.uint64)])
    here = ptes & np.uint64(1 << arch.present) != 0
    vpns = vpns[here]
    prot = (ptes[here] & kept)[:, None]
    if arch.entry_bytes > 8:
        # The second half of a wide entry is its word.
        prot = np.column_stack((prot, table.load(vpns)))
    return vpns, prot


def blocks(vpns: U64, prot: U64, size: int, pfns: U64 | None = None) -> int:
    """Count blocks: aligned runs of present PTEs that are alike.

    Parameters
    ----------
    vpns : (n,) uint64 ndarray
        vpns of present PTEs, ascending.
    prot : (n, k) uint64 ndarray
        Bits that are equal in all PTEs of a block.
    size : int
        PTEs of a block, a power of two.
    pfns : (n,) uint64 ndarray, optional
        PFNs of a block are consecutive, the first one aligned. Without them every
        aligned run counts as a block, so the result is an upper bound.

    Examples
    --------
    >>> vpns = np.arange(1, 48, dtype=np.uint64)
    >>> flag = (vpns == 20).astype(np.uint64)[:, None]
    >>> blocks(vpns, 0 * flag, 16), blocks(vpns, flag, 16)
    (2, 1)
    """
    first = np.flatnonzero(vpns % np.uint64(size) == 0)
    first = first[first + size <= len(vpns)]
    last = first + size - 1
    # A step: the next PTE can't be in this PTE's block.
    steps = (np.diff(vpns) != 1) | (prot[1:] != prot[:-1]).any(axis=1)
    aligned = np.ones(len(first), bool)
    if pfns is not None:
        steps |= np.diff(pfns) != 1
        aligned = pfns[first] % np.uint64(size) == 0
    before = np.concatenate(([0], np.cumsum(steps)))
    return int((aligned & (before[first] == before[last])).sum())
