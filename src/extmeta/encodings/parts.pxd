"""Bits of a number scattered over an entry, and gathered from it.

An encoding in the PTE keeps a word or a code in the bits that the architecture leaves
to software. These bits lie in runs; one shift moves a run.
"""
from libc.stdint cimport uint64_t
from libc.string cimport memset

from extmeta.encodings.side cimport append_vpns
from extmeta.table.pte cimport ALL, PteLayout, equal, lowest, match
from extmeta.table.vpns cimport Run, entry_at

cdef enum:
    MAX_PARTS = 64

cdef struct Part:
    # `mask` of the number, shifted right by `from_`, is shifted left by `to`.
    uint64_t mask
    int from_
    int to

cdef struct NumberLayout:
    # Where a present PTE and a swap entry hold a number.
    Part[MAX_PARTS] parts
    Part[MAX_PARTS] swap_parts
    int nr_parts
    int nr_swap_parts
    uint64_t pte_bits         # bits of a present PTE that hold the number
    uint64_t swap_pte_bits
    uint64_t swap_bits        # bits of the number that have a place in a swap entry


cdef inline uint64_t scatter(const Part* parts, int n, uint64_t number) noexcept nogil:
    cdef uint64_t pte = 0
    cdef int i
    for i in range(n):
        pte |= (number & parts[i].mask) >> parts[i].from_ << parts[i].to
    return pte


cdef inline uint64_t gather(const Part* parts, int n, uint64_t pte) noexcept nogil:
    cdef uint64_t number = 0
    cdef int i
    for i in range(n):
        number |= pte >> parts[i].to << parts[i].from_ & parts[i].mask
    return number


cdef inline uint64_t number_in(
        const NumberLayout* l, uint64_t present, uint64_t pte) noexcept nogil:
    """Return the number that an entry holds; ``present`` is the mask of that bit."""
    if pte & present:
        return gather(l.parts, l.nr_parts, pte)
    return gather(l.swap_parts, l.nr_swap_parts, pte)


cdef inline uint64_t bits_for(
        const NumberLayout* l, uint64_t present, uint64_t pte, uint64_t number
        ) noexcept nogil:
    """Return the bits that hold a number in an entry like ``pte``."""
    if pte & present:
        return scatter(l.parts, l.nr_parts, number)
    return scatter(l.swap_parts, l.nr_swap_parts, number)


cdef inline void scatter_all(
        const NumberLayout* l, const uint64_t* numbers, Py_ssize_t n, uint64_t* ptes
        ) noexcept nogil:
    """Fill ``ptes`` with the bits of n numbers, one part at a time for SIMD."""
    cdef uint64_t mask
    cdef int to, from_, part
    cdef Py_ssize_t i
    for part in range(l.nr_parts):
        mask = l.parts[part].mask
        to = l.parts[part].to
        from_ = l.parts[part].from_
        if part == 0:
            for i in range(n):
                ptes[i] = (numbers[i] & mask) >> from_ << to
        else:
            for i in range(n):
                ptes[i] |= (numbers[i] & mask) >> from_ << to


cdef inline void gather_all(
        const NumberLayout* l, const uint64_t* ptes, Py_ssize_t n, uint64_t* numbers
        ) noexcept nogil:
    """Fill ``numbers`` with what n present PTEs hold, one part at a time."""
    cdef uint64_t mask
    cdef int to, from_, part
    cdef Py_ssize_t i
    for part in range(l.nr_parts):
        mask = l.parts[part].mask
        to = l.parts[part].to
        from_ = l.parts[part].from_
        if part == 0:
            for i in range(n):
                numbers[i] = ptes[i] >> to << from_ & mask
        else:
            for i in range(n):
                numbers[i] |= ptes[i] >> to << from_ & mask


cdef inline uint64_t swap_entries(
        const uint64_t* pte, Py_ssize_t n, const PteLayout* a) noexcept nogil:
    """Return a bit for each entry neither present nor none. n <= 64."""
    cdef uint64_t held = equal(pte, n, a.present, a.present)
    cdef uint64_t every = ALL >> (64 - n)
    if held != every:
        held |= equal(pte, n, ALL, a.none)
    return every & ~held


cdef inline void numbers_in(
        const NumberLayout* l, const PteLayout* a, const uint64_t* pte, Py_ssize_t n,
        uint64_t* numbers) noexcept nogil:
    """Fill ``numbers`` with what n <= 64 entries hold."""
    cdef uint64_t swapped = swap_entries(pte, n, a)
    cdef Py_ssize_t i
    gather_all(l, pte, n, numbers)
    while swapped:
        i = lowest(swapped)
        numbers[i] = gather(l.swap_parts, l.nr_swap_parts, pte[i])
        swapped &= swapped - 1


cdef inline const uint64_t* ptes_of(
        const uint64_t* entry, const Run* r, Py_ssize_t at, Py_ssize_t n,
        Py_ssize_t last_entry, uint64_t* ptes) noexcept nogil:
    """Return n entries of the run from ``at`` on: in place, or copied to ``ptes``."""
    cdef Py_ssize_t i
    if r.vpns is NULL:
        return entry + r.first + at
    for i in range(n):
        ptes[i] = entry[entry_at(r, at + i, last_entry)]
    return ptes


cdef inline void put_present(
        uint64_t* pte, Py_ssize_t n, uint64_t present, uint64_t keep,
        const uint64_t* bits) noexcept nogil:
    """Write bits into n entries in a row, but only into present ones."""
    cdef int shift = lowest(present)
    cdef uint64_t old, here
    cdef Py_ssize_t i
    for i in range(n):
        old = pte[i]
        # All ones if the entry is present: a choice without a branch.
        here = 0 - (old >> shift & 1)
        pte[i] = old ^ (old ^ (old & keep | bits[i])) & here


cdef inline Py_ssize_t scan_numbers(
        const NumberLayout* l, const PteLayout* a, const uint64_t* entry,
        Py_ssize_t first, Py_ssize_t last, uint64_t mask, uint64_t value, uint64_t vpn,
        uint64_t* vpns) noexcept nogil:
    """Write vpn + the entries of [first, last) with number & mask == value."""
    cdef uint64_t present = a.present
    cdef uint64_t present_mask = present | scatter(l.parts, l.nr_parts, mask)
    cdef uint64_t present_value = present | scatter(l.parts, l.nr_parts, value)
    cdef uint64_t swap_mask = present | scatter(l.swap_parts, l.nr_swap_parts, mask)
    cdef uint64_t swap_value = scatter(l.swap_parts, l.nr_swap_parts, value)
    cdef uint64_t[8] bits
    cdef uint64_t matches
    cdef Py_ssize_t found = 0
    cdef Py_ssize_t start, at
    if value & ~l.swap_bits:
        # No swap entry can hold the value, so none matches.
        swap_value = ALL
    for start in range(first, last, 512):
        match(entry + start, min(512, last - start), present,
              present_mask, present_value, swap_mask, swap_value, bits)
        for at in range(start, min(start + 512, last), 64):
            matches = bits[at - start >> 6]
            if matches and swap_value == 0:
                # An entry that is none looks like a swap entry without a word.
                matches &= ~equal(entry + at, min(64, last - at), ALL, a.none)
            found = append_vpns(vpns, found, vpn + <uint64_t>at, matches)
    return found


cdef inline int fill_parts(Part* parts, bits) except -1:
    """Turn a list of PTE bits, one for each bit of a number, into runs of bits.

    None is for a bit of the number without a place. Return the number of runs.
    """
    cdef int n = 0
    memset(parts, 0, MAX_PARTS * sizeof(Part))
    for i, bit in enumerate(bits):
        if bit is None:
            continue
        if n and i and bits[i - 1] is not None and bits[i - 1] + 1 == bit:
            parts[n - 1].mask |= <uint64_t>1 << <int>i
        else:
            parts[n].mask = <uint64_t>1 << <int>i
            parts[n].from_ = i
            parts[n].to = bit
            n += 1
    return n


cdef inline int fill_layout(NumberLayout* l, present, swap) except -1:
    """Fill the layout from the bits of a present PTE and of a swap entry."""
    l.nr_parts = fill_parts(l.parts, present)
    l.nr_swap_parts = fill_parts(l.swap_parts, swap)
    l.pte_bits = scatter(l.parts, l.nr_parts, ALL)
    l.swap_pte_bits = scatter(l.swap_parts, l.nr_swap_parts, ALL)
    l.swap_bits = gather(l.swap_parts, l.nr_swap_parts, ALL)
    return 0
