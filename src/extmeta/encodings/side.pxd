"""Words in an array beside the table, valid if the entry's flag is set.

`adjacent` and `linked` share this. The array has one of the widths below. An element
without a flag is undefined, so a new array needs no clearing; one that loses its flag
becomes 0, as `adaptive` needs it. Helpers that other encodings use too come first.
"""
from libc.stdint cimport int8_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from extmeta.table.encoding cimport Encoding, Lookups, Write
from extmeta.memory.frames cimport PTE, Frames, Ptdesc, entries
from extmeta.table.pte cimport (
    ALL, PteLayout, count, equal, flag_of, flags, lowest, many_flags)
from extmeta.memory.sync cimport once, prefetch, publish
from extmeta.table.simd cimport AVX512, simd, vpns_of_bits
from extmeta.table.vpns cimport Run, entry_at

ctypedef fused side_t:
    int8_t      # stands for words of 1, 2 or 4 bits, packed
    uint8_t
    uint16_t
    uint32_t
    uint64_t

cdef enum:
    # From this many flags in 64 entries on, comparing all words by SIMD is cheaper than
    # visiting the flagged ones: tried 4 to 65, `pytest benchmarks/bench_scan.py
    # --fields meta=64`. Narrower words have no SIMD compare. There, visiting won with
    # up to half of the PTEs flagged.
    DENSE_FROM = 8
    # If fewer than one entry of SPARSE has a word, all words are asked for before the
    # first is read. Otherwise a clear took 4 % more time with 1 % flagged, 7 % with 6 %
    # and 1 % with 12 % (`python benchmarks/tunables.py SPARSE 1000000`). If all PTEs
    # are flagged, these requests were half of a clear's instructions.
    SPARSE = 8
    # Up to this many entries are read without a look at the descriptor, whose cache
    # line a random lookup does not have.
    FEW = 8

cdef inline bint adds_nothing(const Write* w, int lanes) noexcept nogil:
    """Return whether the write can only clear bits."""
    cdef int lane
    if w.step:
        return False
    for lane in range(lanes):
        if w.add[lane]:
            return False
    return True


cdef inline bint makes_a_word(const Write* w, Py_ssize_t n, int lanes) noexcept nogil:
    """Return whether the write gives any of its n entries a bit."""
    cdef uint64_t bits = 0
    cdef Py_ssize_t i
    for i in range(n * lanes if w.step else lanes):
        bits |= w.add[i]
    return bits != 0


cdef inline uint64_t vpn_in(const Ptdesc* t, const Run* r, Py_ssize_t i) noexcept nogil:
    """Return the vpn that ``r`` names as its ``i``-th."""
    return r.vpns[i] if r.vpns else t.vpn + <uint64_t>(r.first + i)


cdef inline size_t nr_flagged(Frames frames) noexcept nogil:
    """Return the sum of `flagged` over all PTE tables."""
    cdef size_t flagged = 0
    cdef uint32_t frame
    for frame in range(frames.top):
        if frames.desc[frame].kind == PTE:
            flagged += frames.desc[frame].flagged
    return flagged


cdef inline Py_ssize_t append_vpns(
        uint64_t* vpns, Py_ssize_t found, uint64_t vpn, uint64_t bits) noexcept nogil:
    """Write vpn + i for each bit i to ``vpns[found]`` and on; return the new count."""
    cdef uint64_t some
    if bits == ALL or simd == AVX512:
        # A copy, so that the loop below has `bits` in a register.
        some = bits
        return found + vpns_of_bits(vpns + found, vpn, &some, 1)
    while bits:
        vpns[found] = vpn + <uint64_t>lowest(bits)
        found += 1
        bits &= bits - 1
    return found


cdef inline uint64_t get(const side_t* side, int bits, Py_ssize_t e) noexcept nogil:
    if side_t is int8_t:
        return ((<const uint8_t*>side)[e * bits >> 3] >> (e * bits & 7)) & (
            (<uint64_t>1 << bits) - 1)
    else:
        return side[e]


cdef inline void put(
        side_t* side, int bits, Py_ssize_t e, uint64_t word) noexcept nogil:
    cdef int shift
    cdef uint8_t* byte
    if side_t is int8_t:
        shift = <int>(e * bits & 7)
        byte = <uint8_t*>side + (e * bits >> 3)
        byte[0] = <uint8_t>(
            (byte[0] & ~(((1 << bits) - 1) << shift)) | <int>(word << shift))
    else:
        side[e] = <side_t>word


cdef inline uint64_t flagged_of(
        Encoding self, Ptdesc** tables, const uint64_t* vpns, Py_ssize_t n
        ) noexcept nogil:
    """Return a bit for each of n <= 64 vpns: whether its entry's flag is set."""
    cdef uint64_t last_entry = <uint64_t>self.entries - 1
    cdef uint64_t some = 0
    cdef uint64_t pte
    cdef Py_ssize_t i
    for i in range(n):
        if tables[i] is not NULL:
            pte = once(entries(self.frames, tables[i]) + (vpns[i] & last_entry))
            some |= <uint64_t>(pte & flag_of(&self.pte, pte) != 0) << i
    return some


cdef inline void read_flagged(
        Lookups* l, const char** word, uint64_t some, int bits,
        Py_ssize_t last_entry, uint64_t* words) noexcept nogil:
    """Read words of ``bits`` bits, whose first byte is at word[i]; others are 0.

    ``some`` has a bit for each of the lookups that has a word.
    """
    cdef Py_ssize_t i
    memset(words, 0, l.n * sizeof(uint64_t))
    while some:
        i = lowest(some)
        some &= some - 1
        if bits == 64:
            words[i] = (<const uint64_t*>word[i])[0]
        elif bits == 32:
            words[i] = (<const uint32_t*>word[i])[0]
        elif bits == 16:
            words[i] = (<const uint16_t*>word[i])[0]
        else:
            words[i] = (<const uint8_t*>word[i])[0] >> (
                (l.vpns[i] & <uint64_t>last_entry) * <uint64_t>bits & 7) & (
                (<uint64_t>1 << bits) - 1)


cdef inline void side_load(
        Encoding self, const side_t* side, int bits, const Ptdesc* t, const Run* r,
        uint64_t* words) noexcept nogil:
    cdef const PteLayout* a = &self.pte
    cdef const uint64_t* entry = entries(self.frames, t)
    cdef Py_ssize_t last_entry = self.entries - 1
    cdef uint64_t present = a.present
    cdef uint64_t flag = a.flag
    cdef uint64_t swap_flag = a.swap_flag
    cdef uint64_t pte, flagged
    cdef Py_ssize_t first, n, i, e
    # The flags of a few entries are read faster than the descriptor.
    if r.n > FEW and t.flagged == 0:
        memset(words, 0, r.n * sizeof(uint64_t))
        return
    if r.vpns:
        for i in range(r.n):
            e = entry_at(r, i, last_entry)
            pte = entry[e]
            words[i] = (get(side, bits, e)
                        if pte & (flag if pte & present else swap_flag) else 0)
        return
    for first in range(r.first, r.first + r.n, 64):
        n = min(64, r.first + r.n - first)
        flagged = flags(entry + first, n, a)
        if flagged == ALL:
            for i in range(64):
                words[i] = get(side, bits, first + i)
        else:
            memset(words, 0, n * sizeof(uint64_t))
            while flagged:
                i = lowest(flagged)
                words[i] = get(side, bits, first + i)
                flagged &= flagged - 1
        words += n


cdef inline void side_see(
        Encoding self, const side_t* side, int bits, const Run* r,
        const uint64_t* ptes, uint64_t* words) noexcept nogil:
    """Read words without a lock; ``ptes`` are copies of the entries."""
    cdef const PteLayout* a = &self.pte
    cdef Py_ssize_t last_entry = self.entries - 1
    cdef uint64_t flagged
    cdef Py_ssize_t at, n, i, e
    if r.n <= FEW:
        # One at a time: a SIMD load that spans recent narrow stores would wait until
        # they reach the cache.
        for i in range(r.n):
            words[i] = (get(side, bits, entry_at(r, i, last_entry))
                        if side is not NULL and ptes[i] & flag_of(a, ptes[i]) else 0)
        return
    for at in range(0, r.n, 64):
        n = min(64, r.n - at)
        flagged = flags(ptes + at, n, a) if side is not NULL else 0
        if flagged == ALL and r.vpns is NULL:
            e = r.first + at
            for i in range(64):
                words[at + i] = get(side, bits, e + i)
            continue
        memset(words + at, 0, n * sizeof(uint64_t))
        while flagged:
            i = at + lowest(flagged)
            words[i] = get(side, bits, entry_at(r, i, last_entry))
            flagged &= flagged - 1


cdef inline void side_clear(
        Encoding self, side_t* side, int bits, Ptdesc* t, const Run* r,
        uint64_t keep) noexcept nogil:
    """Store word & keep: only flagged entries can change."""
    cdef const PteLayout* a = &self.pte
    cdef uint64_t* entry = entries(self.frames, t)
    cdef bint sparse = t.flagged * SPARSE < self.entries
    cdef uint64_t[8] marks
    cdef uint64_t flagged, word
    cdef Py_ssize_t last = r.first + r.n
    cdef Py_ssize_t at, first, e
    for at in range(r.first, last, 512):
        for first in range(at, min(at + 512, last), 64):
            flagged = flags(entry + first, min(64, last - first), a)
            marks[first - at >> 6] = flagged
            if side_t is not int8_t:
                # Words that are not packed lie far apart: let their misses overlap.
                while sparse and flagged:
                    prefetch(&side[first + lowest(flagged)])
                    flagged &= flagged - 1
        for first in range(at, min(at + 512, last), 64):
            flagged = marks[first - at >> 6]
            while flagged:
                e = first + lowest(flagged)
                flagged &= flagged - 1
                word = get(side, bits, e) & keep
                put(side, bits, e, word)
                if word == 0:
                    entry[e] &= ~flag_of(a, entry[e])
                    t.flagged -= 1


cdef inline void side_store(
        Encoding self, side_t* side, int bits, Ptdesc* t, const Run* r,
        const Write* w) noexcept nogil:
    cdef const PteLayout* a = &self.pte
    cdef uint64_t* entry = entries(self.frames, t)
    cdef Py_ssize_t last_entry = self.entries - 1
    cdef uint64_t keep = w.keep[0]
    cdef const uint64_t* add = w.add
    cdef Py_ssize_t step = w.step
    cdef uint64_t none = a.none
    cdef uint64_t pte, flag, word
    cdef uint32_t flagged = t.flagged
    cdef Py_ssize_t i, e
    if t.flagged == 0 and not makes_a_word(w, r.n, 1):
        return
    if adds_nothing(w, 1) and r.vpns is NULL:
        side_clear(self, side, bits, t, r, keep)
        return
    for i in range(r.n):
        e = entry_at(r, i, last_entry)
        pte = entry[e]
        if pte == none:
            continue
        flag = flag_of(a, pte)
        word = add[i * step]
        if pte & flag:
            word |= get(side, bits, e) & keep
            put(side, bits, e, word)
            if word == 0:
                entry[e] = pte & ~flag
                flagged -= 1
        elif word:
            put(side, bits, e, word)
            # Word before flag: a reader that sees the flag must find the word.
            publish(&entry[e], pte | flag)
            flagged += 1
    t.flagged = flagged


cdef inline Py_ssize_t side_scan(
        Encoding self, const side_t* side, int bits, const Ptdesc* t, Py_ssize_t first,
        Py_ssize_t last, uint64_t mask, uint64_t value, uint64_t* vpns) noexcept nogil:
    cdef const PteLayout* a = &self.pte
    cdef const uint64_t* entry = entries(self.frames, t)
    cdef uint64_t[8] marks
    cdef uint64_t matches, flagged
    cdef Py_ssize_t found = 0
    cdef Py_ssize_t at, n, i, k
    if value and t.flagged == 0:
        return 0
    for at in range(first, last, 64):
        n = min(64, last - at)
        k = at - first >> 6 & 7
        if k == 0:
            many_flags(entry + at, min(512, last - at), a, marks)
        flagged = marks[k]
        matches = 0
        if value == 0:
            # An entry without a word matches too, unless it is none.
            matches = ALL >> (64 - n) & ~(equal(entry + at, n, ALL, a.none) | flagged)
        if side_t is uint64_t and count(flagged) >= DENSE_FROM:
            matches |= equal(<const uint64_t*>side + at, n, mask, value) & flagged
        else:
            while flagged:
                i = lowest(flagged)
                if get(side, bits, at + i) & mask == value:
                    matches |= <uint64_t>1 << i
                flagged &= flagged - 1
        marks[k] = matches
        if k == 7 or at + 64 >= last:
            found += vpns_of_bits(
                vpns + found, t.vpn + <uint64_t>(at - 64 * k), marks, k + 1)
    return found


cdef inline void side_zap(
        Encoding self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Subtract the flags from the count; the caller clears the entries."""
    cdef const PteLayout* a = &self.pte
    cdef Py_ssize_t at
    if last - first == self.entries:
        t.flagged = 0
    elif t.flagged:
        for at in range(first, last, 64):
            t.flagged -= count(flags(
                entries(self.frames, t) + at, min(64, last - at), a))


cdef inline uint32_t count_flags(Encoding self, const Ptdesc* t) noexcept nogil:
    """Return how many entries have their flag set."""
    cdef const PteLayout* a = &self.pte
    cdef const uint64_t* entry = entries(self.frames, t)
    cdef uint32_t flagged = 0
    cdef Py_ssize_t i
    for i in range(self.entries):
        flagged += (entry[i] & flag_of(a, entry[i])) != 0
    return flagged
