"""A dirty bitmap of guest memory, as KVM_GET_DIRTY_LOG fills it for a memory slot.

It is little-endian 64-bit words: bit b of word w is set if page 64 w + b of the slot was
written (Linux Documentation/virt/kvm/api.rst). It has no header, so it is recognised
last: any whole number of words that is neither text nor of another kind. It does not
tell where its slot is: page 0 becomes `FIRST_VPN`. It does not tell which clean pages are
mapped. The capture has the written pages, present and soft-dirty, in one VMA of the
whole slot.
"""

from collections.abc import Sequence

import numpy as np

from extmeta.arrays import U64
from extmeta.captures import npz
from extmeta.captures.capture import Capture, CaptureError
from extmeta.captures.formats import source
from extmeta.captures.formats.pages import NOT_KNOWN, captured
from extmeta.captures.formats.source import WORD_BYTES, Source
from extmeta.captures.trace import MAX_WRITTEN, Trace
from extmeta.linux.pagewords import (
    PAGE_BYTES,
    PAGE_SHIFT,
    PRESENT,
    SOFT_DIRTY,
    distinct,
)
from extmeta.table.simd import vpns_of

NAME = "a dirty bitmap (64-bit words)"

WORD_BITS = 64

# No process has page 0. This begins a table on each level, as page 0 does.
FIRST_VPN = 1 << 33

# log2 of the pages below a PTE, a PMD and a PUD table.
TABLE_BITS = (9, 18, 27)

# What other binary files begin with: ELF, zip, gzip, zstd, xz, PNG.
OTHERS = (
    *(b"\x7fELF", b"PK\3\4", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ"),
    b"\x89PNG",
)
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
    if (written := _count(words)) > npz.MAX_ENTRIES:
        raise CaptureError(f"{written} pages are more than {npz.MAX_ENTRIES}")
    vpn = vpns_of(words, FIRST_VPN)
    nr_pages = len(words) * WORD_BITS
    tables = sum(_spans(words, bits) for bits in TABLE_BITS)
    return captured(
        vpn,
        np.full(len(vpn), PRESENT | SOFT_DIRTY, np.uint64),
        f"From a dirty bitmap of {nr_pages:,} pages of a guest: the {len(vpn):,} "
        "written ones, as soft-dirty.",
        vmpte_kb=tables * PAGE_BYTES // 1024,
        vmrss_kb=len(vpn) * PAGE_BYTES // 1024,
        vma_start=np.full(1, FIRST_VPN << PAGE_SHIFT, np.uint64),
        vma_end=np.full(1, FIRST_VPN + nr_pages << PAGE_SHIFT, np.uint64),
        vma_perms=np.array(["rw-p"]),
        vma_flags=np.array([""]),
        vma_name=np.array(["guest memory"]),
    )


def trace(series: Sequence[Source], interval: float) -> Trace:
    """Return the writes of bitmaps of one slot, each a round; see `read_writes`."""
    rounds, nr_words, written = [], 0, 0
    for found in series:
        words = source.words(found.path)
        nr_words = nr_words or len(words)
        if len(words) != nr_words:
            raise CaptureError(
                f"{found.path}: {len(words)} words, but {series[0].path} has {nr_words}"
            )
        written += _count(words)
        if written > MAX_WRITTEN:
            raise CaptureError(
                f"{found.path}: more than {MAX_WRITTEN} pages written in all rounds"
            )
        rounds.append(vpns_of(words, FIRST_VPN))
    return Trace(
        vpns=np.concatenate(rounds),
        rounds=np.cumsum([0, *map(len, rounds)]),
        vmas=np.array([[FIRST_VPN, FIRST_VPN + nr_words * WORD_BITS]], np.uint64),
        interval=interval,
        comm=NOT_KNOWN,
        release=NOT_KNOWN,
        how="dirty bitmaps",
    )


def _spans(words: U64, bits: int) -> int:
    """Return how many aligned spans of 2**bits pages have a bit that is set."""
    return distinct(np.flatnonzero(words) // ((1 << bits) // WORD_BITS))


def _count(words: U64) -> int:
    """Return how many bits are set."""
    return int(np.bitwise_count(words).sum(dtype=np.int64))
