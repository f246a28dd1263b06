"""The objects behind the links: making room for words, and writing them there."""
from libc.stdint cimport uint64_t

from extmeta.encodings.adaptive cimport container, excess, reserve, uniform
from extmeta.encodings.adaptive.contents cimport Sparse, Survey, survey_words
from extmeta.encodings.adaptive.link cimport (
    BOXED, LISTED, SHARED, UNIFORM, Geometry, class_of, has_object, kind_of, object_of,
    width_of)
from extmeta.encodings.adaptive.pending cimport keep_handle, pending, take_handle
from extmeta.encodings.adaptive.reserve cimport Reserve
from extmeta.encodings.adaptive.shape cimport (
    Shape, choose, holds, place_in, serves, too_large)
from extmeta.memory.frames cimport Ptdesc, lock_table, unlock_table
from extmeta.memory.slabs cimport Slabs, class_bytes, handle_of

cdef inline bint owns(Slabs slabs, const Geometry* g, Ptdesc* t) noexcept nogil:
    """Return whether the table's object, if it has one, may be changed."""
    if not has_object(t.link) or t.link & SHARED == 0:
        return True
    if slabs.others(object_of(g, t.link)):
        return False
    t.link &= ~<uint64_t>SHARED
    return True

cdef inline void* take_kept(const Geometry* g, Ptdesc* t) noexcept nogil:
    """Return the object kept for this operation, and stop keeping it."""
    return g.base + (take_handle(t) << 3)

cdef inline bint make_room(
        const Geometry* g, Slabs slabs, Reserve* r, Ptdesc* t, const Survey* v
        ) noexcept nogil:
    """Make sure that the table has an object for these words; False if it can't.

    An object that this allocates is kept until a write takes it.
    """
    cdef Shape shape
    cdef void* p
    choose(g, slabs, v, &shape)
    if shape.nbytes == 0 or shape.kind >= LISTED and (
            holds(g, t.link, v) and owns(slabs, g, t)):
        return True
    if has_object(t.link) and serves(&shape, class_of(t.link)) and owns(slabs, g, t):
        return True
    if pending(t).has_object and serves(&shape, <int>pending(t).size_class):
        return True
    p = slabs.alloc(shape.nbytes)
    if p is NULL and (
            v.uniform and uniform.fits(v.word) or pending(t).has_object
            and class_bytes(<int>pending(t).size_class) >= r.dense_bytes):
        # A UNIFORM link or the kept object has room too.
        return True
    if p is NULL:
        p = reserve.take(r, slabs, &shape)
    if p is NULL:
        return False
    if pending(t).has_object:
        slabs.free(take_kept(g, t))
    keep_handle(t, handle_of(slabs, p), shape.size_class)
    return True

cdef inline void write_back(
        const Geometry* g, Slabs slabs, Ptdesc* t, const Survey* v,
        const uint64_t* words, Sparse* s, bint may_stay) noexcept nogil:
    """Write words, given in full or as a list, into the container they need.

    Room was made for it. If ``may_stay``, the present container remains if it can.
    """
    cdef uint64_t old = t.link
    cdef void* p = NULL
    cdef Shape least, shape
    cdef Survey apart
    choose(g, slabs, v, &least)
    shape = least
    if may_stay and shape.kind >= LISTED and holds(g, old, v) and owns(slabs, g, t):
        shape.kind = kind_of(old)
        shape.width = width_of(old)
        shape.size_class = class_of(old)
        p = object_of(g, old)
    elif shape.nbytes:
        p = object_for(g, slabs, t, &shape, may_stay)
        if p is NULL and v.uniform and uniform.fits(v.word):
            # make_room() found no memory for a container that scans faster.
            shape.kind = UNIFORM
        elif p is NULL and shape.kind == LISTED:
            shape.kind = BOXED
            place_in(slabs, &shape, sizeof(uint64_t))
            p = object_for(g, slabs, t, &shape, may_stay)
        if p is NULL and shape.kind != UNIFORM:
            # Room was made for many words. Only one came, too wide for the link.
            apart = v[0]
            apart.uniform = False
            write_back(g, slabs, t, &apart, words, s, may_stay)
            return
    if has_object(old) and object_of(g, old) is not p:
        replace_object(g, slabs, t)
    t.link = container.fill(g, &shape, p, v, words, s)
    excess.forget_limit(t)
    if has_object(t.link) and too_large(t.link, &least):
        pending(t).too_large = 1

cdef inline void* object_for(
        const Geometry* g, Slabs slabs, Ptdesc* t, Shape* shape, bint may_stay
        ) noexcept nogil:
    """Return the table's own object, or the one made for it, or NULL."""
    if may_stay and has_object(t.link) and (
            serves(shape, class_of(t.link)) and owns(slabs, g, t)):
        shape.size_class = class_of(t.link)
        return object_of(g, t.link)
    if pending(t).has_object and serves(shape, <int>pending(t).size_class):
        shape.size_class = <int>pending(t).size_class
        return take_kept(g, t)
    return NULL

cdef inline void replace_object(
        const Geometry* g, Slabs slabs, Ptdesc* t) noexcept nogil:
    """Unlink the table's object. Keep it for a later run if none is kept yet."""
    cdef void* p = object_of(g, t.link)
    if not pending(t).has_object and owns(slabs, g, t):
        keep_handle(t, handle_of(slabs, p), class_of(t.link))
    else:
        slabs.free(p)
    t.link = 0

cdef inline bint compact(
        const Geometry* g, Slabs slabs, Ptdesc* t, const uint64_t* entry, bint fully
        ) noexcept nogil:
    """Move the words to the smallest container; False if that isn't worth it."""
    cdef Survey v
    cdef Shape shape
    cdef Sparse s
    cdef void* p
    if not has_object(t.link) or not owns(slabs, g, t):
        return False
    container.list_words(g, t.link, entry, 0, g.entries, &s)
    survey_words(s.word, s.count, &v)
    choose(g, slabs, &v, &shape)
    if shape.nbytes >= class_bytes(class_of(t.link)) or (
            not fully and not too_large(t.link, &shape)):
        return False
    if shape.nbytes:
        # Compacting is optional: if allocation fails, keep the larger container.
        p = slabs.alloc(shape.nbytes)
        if p is NULL:
            return False
        keep_handle(t, handle_of(slabs, p), shape.size_class)
    lock_table(t)
    write_back(g, slabs, t, &v, NULL, &s, False)
    unlock_table(t)
    return True
