"""Writes that the present container has room for: no survey, and nothing is copied."""
from libc.stdint cimport int8_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from extmeta.encodings.adaptive cimport container, listed, ranked
from extmeta.encodings.adaptive.contents cimport place
from extmeta.encodings.adaptive.link cimport (
    DENSE, HANDLE_SHIFT, LISTED, SHARED, STALE, Geometry, class_of,
    count_of, kind_of, link_to, object_of, width_of)
from extmeta.encodings.packed cimport get, put
from extmeta.encodings.side cimport side_store
from extmeta.memory.frames cimport Ptdesc
from extmeta.memory.slabs cimport HANDLE_BITS, class_bytes
from extmeta.memory.sync cimport publish
from extmeta.table.encoding cimport Encoding, Write
from extmeta.table.pte cimport flag_of
from extmeta.table.vpns cimport Run, entry_at

cdef enum:
    # Each word that joins a list moves those behind it; more are cheaper to merge.
    JOIN_MOST = 8

cdef inline Py_ssize_t joining(
        const Geometry* g, const Ptdesc* t, const uint64_t* entry, const Run* r,
        const Write* w, Py_ssize_t promised) noexcept nogil:
    """Return how many words a write adds to the container, or -1 if they don't fit.

    Earlier runs of the operation were promised room for ``promised`` words.
    """
    cdef uint64_t link = t.link
    cdef int width = width_of(link)
    cdef uint64_t bits = 0
    cdef Py_ssize_t joins = 0
    cdef Py_ssize_t i, e, n
    if kind_of(link) < LISTED or link & STALE:
        return -1
    if kind_of(link) == DENSE and w.step and r.n == g.entries and (
            w.add[0] == w.add[1] and w.add[0] == w.add[r.n - 1]):
        # All words may become equal.
        return -1
    for i in range(r.n if w.step else 1):
        bits |= w.add[i]
    if width < 6 and bits >> (1 << width):
        return -1
    if kind_of(link) == DENSE:
        return 0
    for i in range(r.n if bits else 0):
        e = entry_at(r, i, g.entries - 1)
        joins += w.add[i * w.step] != 0 and entry[e] & flag_of(g.pte, entry[e]) == 0
        if joins > JOIN_MOST:
            return -1
    if joins == 0:
        return 0
    n = count_of(link) + promised + joins
    if kind_of(link) == LISTED:
        if n > listed.LISTED_MOST or listed.nbytes(n, width) > class_bytes(
                class_of(link)):
            return -1
    elif ranked.nbytes(g, n, width) > class_bytes(class_of(link)):
        return -1
    return joins

cdef inline void copy_object(const Geometry* g, Ptdesc* t, void* p) noexcept nogil:
    """Copy the table's object to ``p``, and link that instead."""
    cdef uint64_t handle = (<uint64_t>1 << HANDLE_BITS) - 1 << HANDLE_SHIFT
    memcpy(p, object_of(g, t.link), class_bytes(class_of(t.link)))
    t.link = t.link & ~(handle | SHARED) | link_to(g, p)

cdef inline void write_in_place(
        Encoding self, const Geometry* g, Ptdesc* t, uint64_t* entry, const Run* r,
        const Write* w) noexcept nogil:
    """Write words that fit, as `joining` says, into an object that may change."""
    cdef void* p = object_of(g, t.link)
    cdef int width = width_of(t.link)
    if kind_of(t.link) != DENSE:
        store_listed(g, t, entry, r, w)
    elif width == 6:
        side_store(self, <uint64_t*>p, 64, t, r, w)
    elif width == 5:
        side_store(self, <uint32_t*>p, 32, t, r, w)
    elif width == 4:
        side_store(self, <uint16_t*>p, 16, t, r, w)
    elif width == 3:
        side_store(self, <uint8_t*>p, 8, t, r, w)
    else:
        side_store(self, <int8_t*>p, 1 << width, t, r, w)

cdef inline void store_listed(
        const Geometry* g, Ptdesc* t, uint64_t* entry, const Run* r, const Write* w
        ) noexcept nogil:
    """Write words into LISTED or RANKED."""
    cdef Py_ssize_t i = 0
    while i < r.n:
        # Up to the first word that comes or goes, positions stay.
        i = change_listed(g, t, entry, r, w, i)
        if i < r.n:
            join_or_leave(g, t, entry, entry_at(r, i, g.entries - 1), w.add[i * w.step])
            i += 1

cdef inline Py_ssize_t change_listed(
        const Geometry* g, const Ptdesc* t, const uint64_t* entry, const Run* r,
        const Write* w, Py_ssize_t i) noexcept nogil:
    """Write from the ``i``-th on; return the index of a word that comes or goes."""
    cdef uint64_t link = t.link
    cdef bint is_listed = kind_of(link) == LISTED
    cdef int width = width_of(link)
    cdef Py_ssize_t n = count_of(link)
    cdef void* p = object_of(g, link)
    cdef char* words = <char*>p if is_listed else ranked.words_of(g, link)
    cdef const uint16_t* position = listed.positions(p, n, width)
    cdef const uint64_t* vpns = r.vpns
    cdef uint64_t last_entry = <uint64_t>g.entries - 1
    cdef uint64_t keep = w.keep[0]
    cdef uint64_t none = g.pte.none
    cdef uint64_t present = g.pte.present
    cdef uint64_t flag = g.pte.flag
    cdef uint64_t swap_flag = g.pte.swap_flag
    cdef uint64_t pte, word
    cdef Py_ssize_t e, at
    for i in range(i, r.n):
        e = <Py_ssize_t>(vpns[i] & last_entry) if vpns else r.first + i
        pte = entry[e]
        word = w.add[i * w.step]
        if pte & (flag if pte & present else swap_flag) == 0:
            if word and pte != none:
                return i
            continue
        at = place(position, n, e) if is_listed else ranked.index_of(g, link, e)
        word |= get(words, width, at) & keep
        if word == 0:
            return i
        put(words, width, at, word)
    return r.n

cdef inline void join_or_leave(
        const Geometry* g, Ptdesc* t, uint64_t* entry, Py_ssize_t e, uint64_t word
        ) noexcept nogil:
    cdef uint64_t flag = flag_of(g.pte, entry[e])
    # A reader that sees a flag must find a word.
    if entry[e] & flag:
        entry[e] &= ~flag
        t.flagged -= 1
        container.put_word(g, t, e, True, 0)
    else:
        container.put_word(g, t, e, False, word)
        publish(&entry[e], entry[e] | flag)
        t.flagged += 1
