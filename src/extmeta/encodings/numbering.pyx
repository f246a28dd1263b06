"""The numbering of legal words, and which numbering each VMA has chosen."""
from bisect import bisect_right
from functools import lru_cache

from cython cimport final
from libc.stdint cimport int32_t, uint16_t, uint64_t

import numpy as np

from extmeta.encodings.parts cimport fill_layout, scatter

from extmeta.encodings.plan import plan


@final
cdef class Book:
    """The codes of a plan's words, and the words of codes, for each choice of VMAs.

    Immutable; shared by all page tables with the same plan.

    Parameters
    ----------
    found : Plan

    Raises
    ------
    ValueError
        If there are too many codes or choices.
    """

    def __init__(self, found):
        cdef uint64_t[::1] words, keys, pte_bits
        cdef uint16_t[::1] slots
        cdef uint64_t word, slot
        cdef Py_ssize_t c
        cdef int code
        self.plan = found
        self.choices = found.choices
        if found.bits > MAX_CODE_BITS or len(self.choices) > MAX_CHOICES:
            raise ValueError(f"{found.combinations} words and {len(self.choices)} "
                             f"choices of VMAs are too many to number; at most "
                             f"{1 << <int>MAX_CODE_BITS} and {<int>MAX_CHOICES} are")
        self.word_bits = found.fields.bits
        self.code_bits = found.bits
        n = len(self.choices)
        direct = n << self.word_bits <= 1 << <int>MAX_DIRECT_BITS
        self.slot_bits = self.word_bits if direct else found.bits + 1
        slots = np.full(n << self.slot_bits, <int>NO_CODE, np.uint16)
        words = np.zeros(n << self.code_bits, np.uint64)
        keys = np.zeros(1 if direct else n << self.slot_bits, np.uint64)
        pte_bits = np.zeros(1 << self.code_bits, np.uint64)
        self.held = slots, words, keys, pte_bits
        self.slots = &slots[0]
        self.words = &words[0]
        self.keys = NULL if direct else &keys[0]
        self.pte_bits = &pte_bits[0]
        fill_layout(&self.layout, found.assignment.present, found.assignment.swap)
        self.swap_codes = self.layout.swap_bits + 1
        for code in range(1 << self.code_bits):
            pte_bits[code] = scatter(self.layout.parts, self.layout.nr_parts, code)
        self.all_legal = True
        for c in range(n):
            codes = found.codes(self.choices[c])
            self.all_legal &= len(codes) == 1 << <object>self.word_bits
            for word, code in codes.items():
                words[c << self.code_bits | code] = word
                slot = self.slot_of(c, word)
                slots[slot] = code
                if not direct:
                    keys[slot] = word


@lru_cache(maxsize=64)
def book_of(fields, arch, excludes, implies, per_vma):
    """Return the Book of a plan. Equal arguments give the same Book."""
    found = plan(fields, arch, excludes, implies, per_vma)
    if not found.fits:
        raise ValueError(f"{found.combinations} combinations of {fields!r} need "
                         f"{found.bits} bits in a PTE; there are {found.available}, "
                         f"{found.missing} missing")
    return Book(found)


@final
cdef class Spans:
    """What VMAs have chosen: ``choices[i]`` from ``starts[i]`` on. Immutable."""

    def __init__(self, starts, choices):
        cdef const uint64_t[::1] first = np.array(starts, np.uint64)
        cdef const int32_t[::1] chosen = np.array(choices, np.int32)
        self.starts = starts
        self.choices = choices
        self.arrays = first, chosen
        self.first = &first[0]
        self.chosen = &chosen[0]
        self.n = len(starts)

    def choice(self, vpn):
        """Return the choice at ``vpn``."""
        return self.choices[bisect_right(self.starts, vpn) - 1]

    cdef list inside(self, first, stop):
        """Return (start, end, choice) for each span in [first, stop)."""
        i = bisect_right(self.starts, first) - 1
        found = []
        while first < stop:
            end = min(self.starts[i + 1], stop) if i + 1 < self.n else stop
            found.append((first, end, self.choices[i]))
            first = end
            i += 1
        return found

    cdef Spans spliced(self, first, stop, pieces):
        """Return spans with [first, stop) replaced by ``pieces``: (start, choice)."""
        if first == stop:
            return self
        every = zip(self.starts, self.choices, strict=True)
        kept = [span for span in every if not first <= span[0] <= stop]
        starts, choices = [], []
        last = None
        for start, choice in sorted([*kept, *pieces, (stop, self.choice(stop))]):
            if choice != last:
                starts.append(start)
                choices.append(choice)
            last = choice
        return Spans(starts, choices)
