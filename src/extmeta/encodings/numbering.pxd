"""Words and their codes, back and forth; which numbering the VMA at a vpn uses."""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint64_t

from extmeta.encodings.parts cimport (
    NumberLayout, Part, gather, gather_all, swap_entries)
from extmeta.table.encoding cimport Write
from extmeta.table.pte cimport ALL, PteLayout, lowest
from extmeta.table.vpns cimport Run

cdef enum:
    # What a word without a code gets. Codes have fewer bits.
    NO_CODE = 0xffff
    MAX_CODE_BITS = 15
    # Words and choices of up to 17 bits together are looked up in an array, which has
    # 2 bytes for each, legal or not. Beyond that, legal words are in a hash table.
    MAX_DIRECT_BITS = 17
    # Combinations that VMAs can choose. Each has its own codes.
    MAX_CHOICES = 256

cdef class Book:
    cdef readonly object plan
    cdef readonly list choices
    cdef readonly bint all_legal
    cdef object held              # the arrays behind the pointers
    # [choice << code_bits | code]; 0 if no word has the code.
    cdef uint64_t* words
    # [choice << slot_bits | slot]. The slot is the word itself, or in the hash table
    # the place of the word in `keys`.
    cdef uint16_t* slots
    cdef uint64_t* keys
    cdef int word_bits
    cdef int code_bits
    cdef int slot_bits
    cdef NumberLayout layout      # of a code in an entry
    cdef uint64_t* pte_bits       # of each code in a present PTE
    cdef uint64_t swap_codes      # codes below it have a place in a swap entry

    cdef inline uint64_t slot_of(self, Py_ssize_t choice, uint64_t word) noexcept nogil:
        """Return where the word's code is, or would be."""
        cdef uint64_t first = <uint64_t>choice << self.slot_bits
        cdef uint64_t last = (<uint64_t>1 << self.slot_bits) - 1
        cdef uint64_t i
        if self.keys is NULL:
            return first | word
        i = word * 0x9e3779b97f4a7c15ULL >> (64 - self.slot_bits)
        # The search ends, since at least half of the slots are free.
        while self.slots[first | i] != NO_CODE and self.keys[first | i] != word:
            i = (i + 1) & last
        return first | i

    cdef inline uint64_t code_of(self, Py_ssize_t choice, uint64_t word) noexcept nogil:
        """Return the code of a word, or NO_CODE."""
        if self.keys is NULL and word >> self.word_bits:
            return NO_CODE
        return self.slots[self.slot_of(choice, word)]

    cdef inline const uint64_t* words_of(self, Py_ssize_t choice) noexcept nogil:
        """Return an array of words, indexed by code."""
        return self.words + (<uint64_t>choice << self.code_bits)

    cdef inline bint used(self, Py_ssize_t choice, uint64_t code) noexcept nogil:
        """Return whether a word has this code."""
        return self.code_of(choice, self.words_of(choice)[code]) == code

    cdef inline uint64_t code_after(
            self, Py_ssize_t choice, uint64_t code, const Write* w, Py_ssize_t i
            ) noexcept nogil:
        """Return what a code becomes by the i-th write of ``w``, or NO_CODE."""
        return self.code_of(
            choice, self.words_of(choice)[code] & w.keep[0] | w.add[i * w.step])

cdef class Spans:
    # [starts[i], starts[i + 1]) uses choices[i]. The last span has no end.
    cdef readonly list starts
    cdef readonly list choices
    cdef tuple arrays             # behind the pointers
    cdef const uint64_t* first
    cdef const int32_t* chosen
    cdef Py_ssize_t n

    cdef list inside(self, first, stop)
    cdef Spans spliced(self, first, stop, pieces)

    cdef inline void piece(
            self, uint64_t table_vpn, const Run* r, Py_ssize_t at, Run* p,
            Py_ssize_t* choice) noexcept nogil:
        """Fill ``p`` with the run's entries from ``at`` on that share a choice."""
        cdef uint64_t vpn, stop
        cdef Py_ssize_t low = 0
        cdef Py_ssize_t high = self.n
        cdef Py_ssize_t middle
        p.first = r.first + at
        p.n = r.n - at
        p.vpns = r.vpns + at if r.vpns else NULL
        if high > 1:
            vpn = r.vpns[at] if r.vpns else table_vpn + <uint64_t>p.first
            while high - low > 1:
                middle = (low + high) >> 1
                if self.first[middle] <= vpn:
                    low = middle
                else:
                    high = middle
            stop = self.first[high] if high < self.n else ALL
            if r.vpns:
                high = 1
                while high < p.n and self.first[low] <= p.vpns[high] < stop:
                    high += 1
                p.n = high
            else:
                p.n = <Py_ssize_t>min(<uint64_t>p.n, stop - vpn)
        choice[0] = self.chosen[low]

cdef struct Turns:
    # What each code became by the last `keep` and `add` written to many entries.
    uint16_t* code
    uint64_t* bits
    uint64_t keep
    uint64_t add
    Py_ssize_t choice
    bint illegal          # a code becomes NO_CODE
    bint lost             # a code becomes one without a place in swap entries

cdef struct Hits:
    # Which codes match the mask and value of the last scan. If `by_bits`, exactly
    # these codes have code & told == wanted.
    uint8_t* hit
    uint64_t mask
    uint64_t value
    Py_ssize_t choice
    uint64_t told
    uint64_t wanted
    bint by_bits
    bint any

cdef inline void look_up(
        const NumberLayout* l, const uint64_t* pte, Py_ssize_t n,
        const uint64_t* of_code, uint64_t* to) noexcept nogil:
    """Fill ``to`` with ``of_code`` at the codes of n <= 64 present entries."""
    cdef Part a = l.parts[0]
    cdef Part b = l.parts[1]
    cdef int shift_a = a.to - a.from_
    cdef int shift_b = b.to - b.from_
    cdef Py_ssize_t i
    if l.nr_parts <= 2:
        # x86-64 has at most two: one pass. A part that isn't there has no bits.
        for i in range(n):
            to[i] = pte[i] >> shift_a & a.mask | pte[i] >> shift_b & b.mask
    else:
        gather_all(l, pte, n, to)
    for i in range(n):
        to[i] = of_code[to[i]]

cdef inline void look_up_all(
        const NumberLayout* l, const PteLayout* a, const uint64_t* pte, Py_ssize_t n,
        const uint64_t* of_code, uint64_t* to) noexcept nogil:
    """Do what look_up() does for entries of any kind."""
    cdef uint64_t swapped = swap_entries(pte, n, a)
    cdef Py_ssize_t i
    look_up(l, pte, n, of_code, to)
    while swapped:
        i = lowest(swapped)
        to[i] = of_code[gather(l.swap_parts, l.nr_swap_parts, pte[i])]
        swapped &= swapped - 1

cdef inline bint know_turns(
        Book book, Turns* t, Py_ssize_t choice, const Write* w, Py_ssize_t n
        ) noexcept nogil:
    """Find what each code becomes if ``w`` is written; False if n is too small."""
    cdef uint64_t code_mask = (<uint64_t>1 << book.code_bits) - 1
    cdef uint64_t keep = w.keep[0] & ALL >> (64 - book.word_bits)
    cdef uint64_t code, after
    if w.step or keep == 0:
        return False
    if t.choice == choice and t.keep == keep and t.add == w.add[0]:
        return True
    if <uint64_t>n << 1 <= code_mask:
        return False
    t.keep = keep
    t.add = w.add[0]
    t.choice = choice
    t.illegal = t.lost = False
    for code in range(code_mask + 1):
        after = book.code_after(choice, code, w, 0)
        t.code[code] = <uint16_t>after
        t.bits[code] = book.pte_bits[after & code_mask]
        if book.used(choice, code):
            t.illegal |= after == NO_CODE
            t.lost |= after >= book.swap_codes and code < book.swap_codes
    return True

cdef inline void codes_after(
        Book book, const Turns* t, Py_ssize_t choice, const uint64_t* codes,
        Py_ssize_t n, const Write* w, uint64_t word_mask, Py_ssize_t at, uint64_t* after
        ) noexcept nogil:
    """Fill ``after`` with what n codes become by the writes of ``w`` from ``at`` on.

    ``t`` is NULL if it is not about ``w``. ``codes`` is read only if ``w`` keeps bits.
    """
    cdef uint64_t keep = w.keep[0]
    cdef const uint64_t* add = w.add + at * w.step
    cdef const uint64_t* word_of = book.words_of(choice)
    cdef const uint16_t* slots = book.slots + (<uint64_t>choice << book.slot_bits)
    cdef Py_ssize_t i
    if t is not NULL:
        for i in range(n):
            after[i] = t.code[codes[i]]
    elif keep & word_mask:
        for i in range(n):
            after[i] = book.code_of(choice, word_of[codes[i]] & keep | add[i * w.step])
    elif w.step == 0:
        after[0] = book.code_of(choice, add[0])
        for i in range(1, n):
            after[i] = after[0]
    elif book.keys is NULL:
        for i in range(n):
            after[i] = slots[add[i] & word_mask]
    else:
        for i in range(n):
            after[i] = book.code_of(choice, add[i])

cdef inline void know_hits(
        Book book, Hits* h, Py_ssize_t choice, uint64_t mask, uint64_t value
        ) noexcept nogil:
    """Find the codes whose words match, and the bits that tell them from others."""
    cdef const uint64_t* word_of = book.words_of(choice)
    cdef uint64_t code_mask = (<uint64_t>1 << book.code_bits) - 1
    cdef uint64_t all_have = code_mask
    cdef uint64_t some_have = 0
    cdef uint64_t code
    if h.choice == choice and h.mask == mask and h.value == value:
        return
    h.choice = choice
    h.mask = mask
    h.value = value
    h.any = False
    for code in range(code_mask + 1):
        h.hit[code] = word_of[code] & mask == value and book.used(choice, code)
        if h.hit[code]:
            h.any = True
            all_have &= code
            some_have |= code
    h.told = code_mask & ~(all_have ^ some_have)
    h.wanted = all_have
    h.by_bits = True
    for code in range(code_mask + 1):
        if code & h.told == all_have and h.hit[code] == 0 and book.used(choice, code):
            h.by_bits = False
