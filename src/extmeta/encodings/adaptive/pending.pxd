"""What an operation's passes tell each other about a table, in its descriptor.

`prepare` makes room and notes for which words, `store` uses the room, `settle` and
`trim` free the rest. Meanwhile the notes are in the descriptor's `next`, `prev` and
`spare`. If `next` is 0, there are no notes.
"""
from libc.stdint cimport uint32_t, uint64_t

from extmeta.encodings.adaptive.contents cimport Survey
from extmeta.encodings.adaptive.link cimport DENSE, Geometry, kind_of, width_of
from extmeta.encodings.packed cimport width_for
from extmeta.memory.frames cimport Ptdesc
from extmeta.memory.slabs cimport HANDLE_BITS
from extmeta.table.encoding cimport Write
from extmeta.table.pte cimport ALL, flag_of
from extmeta.table.vpns cimport Run, entry_at

cdef extern from *:
    """
    /* Lies over `next` and `prev`. */
    typedef struct __attribute__((__may_alias__)) {
        uint32_t prepared : 1;    /* room was made for `count` words of `width` */
        uint32_t surveyed : 1;    /* one write makes exactly these words */
        uint32_t uniform : 1;     /* all are the word in the descriptor's `spare` */
        uint32_t unsettled : 1;   /* settle() has something to do */
        uint32_t too_large : 1;   /* trim() has: the container is far too large */
        uint32_t width : 3;       /* log2 of bits */
        uint32_t count : 14;
        uint32_t has_object : 1;  /* an object of `size_class` is kept for the table */
        uint32_t size_class : 6;
        uint32_t handle_high : 1;
        uint32_t in_place : 1;    /* `count` more words are for the present container */
        uint32_t handle_low;
    } extmeta_pending;
    """
    ctypedef struct Pending "extmeta_pending":
        uint32_t prepared, surveyed, uniform, unsettled, too_large, width, count
        uint32_t has_object, size_class, handle_high, handle_low, in_place

cdef inline Pending* pending(Ptdesc* t) noexcept nogil:
    return <Pending*>&t.next

cdef inline void forget_write(Ptdesc* t) noexcept nogil:
    """Forget all but the kept object and the note for trim()."""
    cdef Pending* p = pending(t)
    p.prepared = p.surveyed = p.uniform = p.unsettled = p.in_place = 0
    p.width = p.count = 0

cdef inline void keep_too_large(Ptdesc* t) noexcept nogil:
    """Forget all but the note for trim()."""
    cdef uint32_t too_large = pending(t).too_large
    t.next = 0
    pending(t).too_large = too_large

cdef inline void expect(Ptdesc* t, const Survey* v, bint surveyed) noexcept nogil:
    """Note what room was made for; ``surveyed``: one write makes exactly that."""
    cdef Pending* p = pending(t)
    cdef bint fits = v.word >> 32 == 0
    forget_write(t)
    p.prepared = 1
    p.surveyed = surveyed and (fits or not v.uniform)
    # `spare` can't hold a wider word, so wider words are noted as if they differed.
    p.uniform = v.uniform and fits
    p.width = <uint32_t>width_for(v.bits)
    p.count = <uint32_t>v.count
    t.spare = <uint32_t>v.word

cdef inline void expected(const Ptdesc* t, Survey* v) noexcept nogil:
    """Describe the words that room was made for; of `bits` only the width is known."""
    cdef const Pending* p = <const Pending*>&t.next
    v.count = <Py_ssize_t>p.count
    v.bits = ALL >> (64 - (1 << p.width))
    v.uniform = p.uniform
    v.word = t.spare

cdef inline void keep_handle(Ptdesc* t, uint64_t handle, int size_class) noexcept nogil:
    """Keep an object for the writes of this operation."""
    cdef Pending* p = pending(t)
    p.has_object = 1
    p.size_class = <uint32_t>size_class
    p.handle_high = <uint32_t>(handle >> (HANDLE_BITS - 1))
    p.handle_low = <uint32_t>handle

cdef inline uint64_t take_handle(Ptdesc* t) noexcept nogil:
    """Return the kept object's handle; the object is not kept any more."""
    cdef Pending* p = pending(t)
    cdef uint64_t handle = <uint64_t>p.handle_high << (HANDLE_BITS - 1) | p.handle_low
    p.has_object = p.size_class = p.handle_high = 0
    return handle

cdef inline void survey_more(
        const Geometry* g, const Ptdesc* t, const uint64_t* entry, const Run* r,
        const Write* w, Survey* v) noexcept nogil:
    """Describe the most that earlier writes, not yet done, and this one make."""
    cdef uint64_t bits, word
    cdef Py_ssize_t i, e
    if (<const Pending*>&t.next).in_place:
        # DENSE has a place for each entry, so `count` leaves out words that join it.
        v.count = g.entries if kind_of(t.link) == DENSE else (
            <Py_ssize_t>(t.flagged + (<const Pending*>&t.next).count))
        v.bits = ALL >> (64 - (1 << width_of(t.link)))
        v.uniform = False
        v.word = 0
    else:
        expected(t, v)
    for i in range(r.n):
        e = entry_at(r, i, g.entries - 1)
        word = w.add[i * w.step]
        v.bits |= word
        v.count += word != 0 and entry[e] & flag_of(g.pte, entry[e]) == 0
        bits = v.word & w.keep[0] | word
        v.uniform &= bits == 0 or bits == v.word and (word == 0 or word == bits)
    v.count = min(v.count, g.entries)
