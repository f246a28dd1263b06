"""A dirty bitmap of guest memory, as KVM_GET_DIRTY_LOG fills it for a memory slot.

It is little-endian 64-bit words: bit b of word w is set if page 64 w + b of the slot was
written (Linux Documentation/virt/kvm/api.rst). It has no header and does not tell where
its slot is, so it counts from page 0, and it is recognised last: any whole number of
words that is neither text nor of another kind. It does not tell which clean pages are
mapped. The capture has the written pages, present and soft-dirty, in one VMA of the
whole slot.
"""

import numpy as np

from extmeta.arrays import U64
from extmeta.captures.capture import Capture
from extmeta.captures.formats import source
from extmeta.captures.formats.pages import captured
from extmeta.captures.formats.source import WORD_BYTES, Source
from extmeta.linux.pagewords import (
    PAGE_BYTES,
    PAGE_SHIFT,
    PRESENT,
    SOFT_DIRTY,
    distinct,
)

NAME = "a dirty bitmap (64-bit words)"

WORD_BITS = 64

# log2 of the pages below a PTE, a PMD and a PUD table.
TABLE_BITS = (9, 18, 27)

# Words whose bits are unpacked at once, 1 MiB of bytes: `python benchmarks/readers.py
# 4096 16384 131072 1048576` took 0.15, 0.16, 0.20 and 0.34 s with 1 % at random.
CHUNK_WORDS = 1 << 14

# What other binary files begin with: ELF, zip, gzip, zstd, xz, PNG.
OTHERS = (b"\x7fELF", b"PK", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"\x89PNG")
TEXT = bytes([*range(0x20, 0x7F), *b"\t\n\r"])


def recognises(found: Source) -> bool:
    """Tell whether this may be a bitmap: words that are of nothing else known."""
    return bool(
        found.nbytes
        and found.nbytes % WORD_BYTES == 0
        and not found.head.startswith(OTHERS)
        and found.head.translate(None, TEXT)
    )


def read(found: Source) -> Capture:
    """Return the capture of the pages that were written."""
    words = source.words(found.path)
    vpn = set_bits(words)
    nr_pages = len(words) * WORD_BITS
    tables = sum(_spans(words, bits) for bits in TABLE_BITS)
    return captured(
        vpn,
        np.full(len(vpn), PRESENT | SOFT_DIRTY, np.uint64),
        f"From a dirty bitmap of {nr_pages:,} pages of a guest: the {len(vpn):,} "
        "written ones, as soft-dirty.",
        vmpte_kb=tables * PAGE_BYTES // 1024,
        vmrss_kb=len(vpn) * PAGE_BYTES // 1024,
        vma_start=np.zeros(1, np.uint64),
        vma_end=np.full(1, nr_pages << PAGE_SHIFT, np.uint64),
        vma_perms=np.array(["rw-p"]),
        vma_flags=np.array([""]),
        vma_name=np.array(["guest memory"]),
    )


def _spans(words: U64, bits: int) -> int:
    """Return how many aligned spans of 2**bits pages have a bit that is set."""
    return distinct(np.flatnonzero(words) // ((1 << bits) // WORD_BITS))


def set_bits(words: U64) -> U64:
    """Return the numbers of the bits that are set, ascending.

    Parameters
    ----------
    words : (N,) uint64 ndarray

    Returns
    -------
    (M,) uint64 ndarray
    """
    found = np.empty(int(np.bitwise_count(words).sum(dtype=np.int64)), np.uint64)
    done = 0
    for first in range(0, len(words), CHUNK_WORDS):
        chunk = words[first : first + CHUNK_WORDS].astype("<u8", copy=False)
        bits = np.unpackbits(chunk.view(np.uint8), bitorder="little")
        at = np.flatnonzero(bits.view(np.bool_)).view(np.uint64)
        np.add(at, np.uint64(first * WORD_BITS), out=found[done : done + len(at)])
        done += len(at)
    return found
