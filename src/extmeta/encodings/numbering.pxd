"""Words and their codes, back and forth; which numbering the VMA of a vpn has."""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint64_t

from extmeta.encodings.parts cimport MAX_PARTS, Part, gather, gather_all, swap_entries
from extmeta.table.encoding cimport Write
from extmeta.table.pte cimport ALL, PteLayout, lowest
from extmeta.table.vpns cimport Run, entry_at

cdef enum:
    # Stands for words without a code; codes have fewer bits.
    NO_CODE = 0xffff
    MAX_CODE_BITS = 15
    # Up to this many bits, a word is looked up in an array of 2 bytes for each word of
    # each choice, legal or not. Beyond, legal words are in a hash table.
    MAX_DIRECT_BITS = 17
    # Ways for VMAs to choose; each has its own codes.
    MAX_CHOICES = 256

cdef class Book:
    cdef readonly object plan
    cdef readonly list choices
    cdef readonly bint all_legal
    cdef object held              # what the pointers point into
    # [choice << code_bits | code]; 0 for a code that isn't used.
    cdef uint64_t* words
    # [choice << slot_bits | slot]. The slot is the word itself. In a hash table, it is
    # where the search for the word in `keys` begins.
    cdef uint16_t* slots
    cdef uint64_t* keys
    cdef int word_bits
    cdef int code_bits
    cdef int slot_bits
    # Places of a code's bits in an entry, and each code as a present PTE has it.
    cdef Part[MAX_PARTS] parts
    cdef Part[MAX_PARTS] swap_parts
    cdef int nr_parts
    cdef int nr_swap_parts
    cdef uint64_t* places
    cdef uint64_t swap_codes      # codes below it have a place in a swap entry

    cdef inline uint64_t slot_of(self, Py_ssize_t choice, uint64_t word) noexcept nogil:
        """Return where the word's code is, or would be."""
        cdef uint64_t first = <uint64_t>choice << self.slot_bits
        cdef uint64_t last = (<uint64_t>1 << self.slot_bits) - 1
        cdef uint64_t i
        if self.keys is NULL:
            return first | word
        i = word * 0x9e3779b97f4a7c15ULL >> (64 - self.slot_bits)
        # This ends, for at least half of the slots are free.
        while self.slots[first | i] != NO_CODE and self.keys[first | i] != word:
            i = (i + 1) & last
        return first | i

    cdef inline uint64_t code_of(self, Py_ssize_t choice, uint64_t word) noexcept nogil:
        """Return the code of a word, or NO_CODE."""
        if self.keys is NULL and word >> self.word_bits:
            return NO_CODE
        return self.slots[self.slot_of(choice, word)]

    cdef inline const uint64_t* words_of(self, Py_ssize_t choice) noexcept nogil:
        """Return the words by their code."""
        return self.words + (<uint64_t>choice << self.code_bits)

    cdef inline bint used(self, Py_ssize_t choice, uint64_t code) noexcept nogil:
        """Return whether some word has this code."""
        return self.code_of(choice, self.words_of(choice)[code]) == code

    cdef inline uint64_t code_after(
            self, Py_ssize_t choice, uint64_t code, const Write* w, Py_ssize_t i
            ) noexcept nogil:
        """Return a word's code after the i-th write of ``w``, or NO_CODE."""
        return self.code_of(
            choice, self.words_of(choice)[code] & w.keep[0] | w.add[i * w.step])

cdef class Spans:
    # [starts[i], starts[i + 1]) has the i-th choice, the last one all that follows.
    cdef readonly list starts
    cdef readonly list choices
    cdef tuple arrays             # the same for C
    cdef const uint64_t* first
    cdef const int32_t* chosen
    cdef Py_ssize_t n

    cdef list inside(self, first, stop)
    cdef Spans spliced(self, first, stop, pieces)

    cdef inline Py_ssize_t piece(
            self, uint64_t table_vpn, const Run* r, Py_ssize_t at, Run* p,
            Py_ssize_t* choice) noexcept nogil:
        """Fill ``p`` with the run's entries from ``at`` on that have one choice.

        Return their number.
        """
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
        return p.n

cdef struct Turns:
    # What codes turn to by the last `keep` and `add` that were written to many entries.
    uint16_t* code
    uint64_t* bits
    uint64_t keep
    uint64_t add
    Py_ssize_t choice
    bint illegal          # a code turns to NO_CODE
    bint lost             # a code turns to one without a place in swap entries

cdef struct Hits:
    # Which codes match the mask and value of the last scan, and the bits that tell
    # these codes from others, if any bits do.
    uint8_t* hit
    uint64_t mask
    uint64_t value
    Py_ssize_t choice
    uint64_t told
    uint64_t wanted
    bint by_bits
    bint any

cdef inline const uint64_t* some(
        const uint64_t* entry, const Run* r, Py_ssize_t at, Py_ssize_t n,
        Py_ssize_t last_entry, uint64_t* ptes) noexcept nogil:
    """Return n entries of the run from ``at`` on: in place, or in ``ptes``."""
    cdef Py_ssize_t i
    if r.vpns is NULL:
        return entry + r.first + at
    for i in range(n):
        ptes[i] = entry[entry_at(r, at + i, last_entry)]
    return ptes

cdef inline void codes_in(
        Book book, const PteLayout* a, const uint64_t* pte, Py_ssize_t n,
        uint64_t* codes) noexcept nogil:
    """Fill ``codes`` from n <= 64 entries."""
    cdef uint64_t left = swap_entries(pte, n, a)
    cdef int i
    gather_all(book.parts, book.nr_parts, pte, n, codes)
    while left:
        i = lowest(left)
        codes[i] = gather(book.swap_parts, book.nr_swap_parts, pte[i])
        left &= left - 1

cdef inline void look_up(
        const Part* parts, int nr_parts, const uint64_t* pte, Py_ssize_t n,
        const uint64_t* of_code, uint64_t* to) noexcept nogil:
    """Fill ``to`` with what the codes of n <= 64 present entries stand for."""
    cdef Part a = parts[0]
    cdef Part b = parts[1]
    cdef int shift_a = a.to - a.from_
    cdef int shift_b = b.to - b.from_
    cdef Py_ssize_t i
    if nr_parts <= 2:
        # x86-64 has at most two: one pass. A part that isn't there has no bits.
        for i in range(n):
            to[i] = pte[i] >> shift_a & a.mask | pte[i] >> shift_b & b.mask
    else:
        gather_all(parts, nr_parts, pte, n, to)
    for i in range(n):
        to[i] = of_code[to[i]]

cdef inline bint know_turns(
        Book book, Turns* t, Py_ssize_t choice, const Write* w, Py_ssize_t n
        ) noexcept nogil:
    """Find what codes turn to if ``w`` is written to n entries, if that pays."""
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
        t.bits[code] = book.places[after & code_mask]
        if book.used(choice, code):
            t.illegal |= after == NO_CODE
            t.lost |= after >= book.swap_codes and code < book.swap_codes
    return True

cdef inline void codes_after(
        Book book, const Turns* t, Py_ssize_t choice, const uint64_t* codes,
        Py_ssize_t n, const Write* w, uint64_t word_mask, Py_ssize_t at, uint64_t* after
        ) noexcept nogil:
    """Fill ``after`` with codes, or NO_CODE, once ``w`` from ``at`` on is written.

    ``t`` is NULL if it was not filled for ``w``. ``codes`` isn't read if ``w`` replaces
    whole words.
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
    """Find the codes whose words match, and whether some bits tell them."""
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

cdef inline Py_ssize_t tell(
        uint64_t* vpns, Py_ssize_t found, uint64_t vpn, uint64_t matches
        ) noexcept nogil:
    """Append the vpns whose bits are set, from ``vpn`` on; return how many now."""
    while matches:
        vpns[found] = vpn + <uint64_t>lowest(matches)
        found += 1
        matches &= matches - 1
    return found
