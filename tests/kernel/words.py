"""The words beside PTEs: what the device of the kernel in ``kernel/`` does, on the model.

Each word is 62 bits wide, so that it fits one beside the two trackers. An encoding that
has no room for that keeps the lowest bit of each word, which says that there is one.
"""

from typing import Any

import numpy as np
from programs import PAGE, Operation

import extmeta as em
from extmeta.arrays import U64

WIDTH = 62
# Encodings whose words are in the PTE, where a swap entry has one free bit.
IN_PTE = ("inpte", "compact")


def width_of(encoding: str) -> int:
    """Return the width in bits of an encoding's words."""
    return 1 if encoding.partition(":")[0] in IN_PTE else WIDTH


def follow_the_prototype(space: Any) -> None:
    """Make an AddressSpace refuse to collapse PTEs that have words."""
    space._mm.collapses_words = False


def set_words(space: Any, operation: Operation) -> int:
    """Write words as the device does; return how many were not 0.

    A huge page is split first, even if none of its pages gets a word. A PTE that is
    none, or a marker, has no word.
    """
    addr, length, word, step, every = map(int, operation.arguments)
    mm, first, stop = space._mm, addr // PAGE, (addr + length) // PAGE
    for base in mm.leaves_within(first, stop):
        mm.split_leaf(base)
    entries = mm.entries(first, stop)
    vpns = entries.vpn[~mm.marked(entries)]
    vpns = vpns[(vpns - np.uint64(first)) % np.uint64(every) == 0]
    words = np.uint64(word) + (vpns - np.uint64(first)) * np.uint64(step)
    store(space.table, vpns, words)
    return int(np.count_nonzero(words))


def store(table: em.PageTable, vpns: U64, words: U64) -> None:
    """Store the field `word`, as much of it as there is room for."""
    if len(vpns):
        fields = table.fields
        mask = fields.mask("word")
        shift = fields.shift("word")
        kept = table.load(vpns) & np.uint64(~mask % 2**64)
        table.store(vpns, kept | words << np.uint64(shift) & np.uint64(mask))


def words_of(space: Any, start: int, length: int) -> U64:
    """Return the word of each page; 0 where there is none."""
    found = space.table.load(slice(start // PAGE, (start + length) // PAGE), "word")
    return np.asarray(found, np.uint64)
