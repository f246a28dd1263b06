"""Setting and clearing the flags of many PTEs."""
from libc.stdint cimport uint64_t

from extmeta.encodings.adaptive.contents cimport Sparse, lists
from extmeta.memory.frames cimport Ptdesc
from extmeta.memory.sync cimport release_fence
from extmeta.table.pte cimport ALL, PteLayout, count, equal, flag_of, flags, lowest
from extmeta.table.vpns cimport Run, entry_at

cdef inline void mark(
        uint64_t* entry, const PteLayout* a, uint64_t which, bint on) noexcept nogil:
    """Set or clear the flags of some of 64 entries."""
    cdef uint64_t present = a.present
    cdef uint64_t flag = a.flag
    cdef uint64_t swap_flag = a.swap_flag
    cdef Py_ssize_t i
    if which == ALL and on:
        for i in range(64):
            entry[i] |= flag if entry[i] & present else swap_flag
        return
    while which:
        i = lowest(which)
        which &= which - 1
        if on:
            entry[i] |= flag_of(a, entry[i])
        else:
            entry[i] &= ~flag_of(a, entry[i])

cdef inline void match_words(
        uint64_t* entry, const PteLayout* a, const uint64_t* words, Py_ssize_t size,
        bint on) noexcept nogil:
    """Set the flags of entries with a word, or clear those of entries without one."""
    cdef uint64_t flagged, zero, every
    cdef Py_ssize_t at, n
    if on:
        release_fence()
    for at in range(0, size, 64):
        n = min(64, size - at)
        flagged = flags(entry + at, n, a)
        zero = equal(words + at, n, ALL, 0)
        every = ALL >> (64 - n)
        if not on:
            mark(entry + at, a, flagged & zero, False)
        elif flagged != every:
            # If all have a word, set all: that is faster than to set most.
            mark(entry + at, a,
                 every & ~(flagged | zero) if zero else every, True)

cdef inline void match_list(
        uint64_t* entry, const PteLayout* a, const Run* r, Py_ssize_t last_entry,
        const Sparse* s, bint on) noexcept nogil:
    """Set the flags of a run's entries that are listed, or clear those of others."""
    cdef Py_ssize_t i, e
    if on:
        release_fence()
    for i in range(r.n):
        e = entry_at(r, i, last_entry)
        if lists(s, e) and on:
            entry[e] |= flag_of(a, entry[e])
        elif not (lists(s, e) or on):
            entry[e] &= ~flag_of(a, entry[e])

cdef inline void flag_run(
        Ptdesc* t, uint64_t* entry, const PteLayout* a, const Run* r,
        Py_ssize_t last_entry) noexcept nogil:
    """Set the flags of a run's entries that hold something."""
    cdef uint64_t none = a.none
    cdef uint64_t fresh
    cdef Py_ssize_t at, n, i, e
    release_fence()
    if r.vpns:
        for i in range(r.n):
            e = entry_at(r, i, last_entry)
            if entry[e] != none and entry[e] & flag_of(a, entry[e]) == 0:
                entry[e] |= flag_of(a, entry[e])
                t.flagged += 1
        return
    for at in range(r.first, r.first + r.n, 64):
        n = min(64, r.first + r.n - at)
        fresh = ALL >> (64 - n) & ~(
            flags(entry + at, n, a) | equal(entry + at, n, ALL, none))
        mark(entry + at, a, fresh, True)
        t.flagged += count(fresh)

cdef inline void unflag_run(
        Ptdesc* t, uint64_t* entry, const PteLayout* a, const Run* r,
        Py_ssize_t last_entry) noexcept nogil:
    """Clear the flags of a run's entries."""
    cdef uint64_t flagged
    cdef Py_ssize_t at, n, i, e
    if r.vpns:
        for i in range(r.n):
            e = entry_at(r, i, last_entry)
            t.flagged -= entry[e] & flag_of(a, entry[e]) != 0
            entry[e] &= ~flag_of(a, entry[e])
        return
    for at in range(r.first, r.first + r.n, 64):
        n = min(64, r.first + r.n - at)
        flagged = flags(entry + at, n, a)
        mark(entry + at, a, flagged, False)
        t.flagged -= count(flagged)
