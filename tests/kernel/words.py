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

    A huge page gets a word if all its pages get this one. Otherwise it is split, even
    if none of its pages gets a word. A PTE that is none, or a marker, has no word.
    """
    addr, length, word, step, every = map(int, operation.arguments)
    mm, first, stop = space._mm, addr // PAGE, (addr + length) // PAGE
    written = 0
    for base in mm.leaves_within(first, stop):
        leaf = mm.leaves[base]
        inside = first <= base and base + mm.pages_per_leaf <= stop
        if inside and every == 1 and step == 0 and not leaf.zero:
            mask, shift = _place_of_words(space.table)
            leaf.word = leaf.word & ~mask | word << shift & mask
            written += mm.pages_per_leaf * bool(word)
        else:
            mm.split_leaf(base)
    entries = mm.entries(first, stop)
    vpns = entries.vpn[~mm.marked(entries)]
    vpns = vpns[(vpns - np.uint64(first)) % np.uint64(every) == 0]
    words = np.uint64(word) + (vpns - np.uint64(first)) * np.uint64(step)
    store(space.table, vpns, words)
    return written + int(np.count_nonzero(words))


def _place_of_words(table: em.PageTable) -> tuple[int, int]:
    """Return the mask and the shift of the field `word`."""
    return int(table.fields.mask("word")), int(table.fields.shift("word"))


def store(table: em.PageTable, vpns: U64, words: U64) -> None:
    """Store the field `word`, as much of it as there is room for."""
    if len(vpns):
        mask, shift = _place_of_words(table)
        kept = table.load(vpns) & np.uint64(~mask % 2**64)
        table.store(vpns, kept | words << np.uint64(shift) & np.uint64(mask))


def words_of(space: Any, start: int, length: int) -> U64:
    """Return the word of each page; 0 where there is none."""
    first, stop = start // PAGE, (start + length) // PAGE
    found = np.asarray(space.table.load(slice(first, stop), "word"), np.uint64)
    mask, shift = _place_of_words(space.table)
    for base in space._mm.leaves_within(first, stop):
        pages = slice(max(base - first, 0), base + space._mm.pages_per_leaf - first)
        found[pages] = (space._mm.leaves[base].word & mask) >> shift
    return found
