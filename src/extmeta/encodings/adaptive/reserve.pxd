"""Objects set aside for when allocation fails: words for each PTE, or one word."""
from extmeta.encodings.adaptive.link cimport BOXED
from extmeta.encodings.adaptive.shape cimport Shape, place_in
from extmeta.memory.slabs cimport Aside, Slabs, class_bytes, from_aside

cdef struct Reserve:
    Aside dense
    Aside boxes
    size_t dense_bytes    # of an object that holds any words

cdef inline bint fill(
        Reserve* r, Slabs slabs, size_t dense, size_t boxes) noexcept nogil:
    """Set these numbers of objects aside; return False if there is no memory."""
    return slabs.set_aside(&r.dense, dense, r.dense_bytes) and (
        slabs.set_aside(&r.boxes, boxes, sizeof(void*)))

cdef inline void* take(Reserve* r, Slabs slabs, Shape* shape) noexcept nogil:
    """Return an object for the shape, which may become larger, or NULL."""
    if shape.kind == BOXED and r.boxes.n:
        return from_aside(&r.boxes)
    place_in(slabs, shape, r.dense_bytes)
    return from_aside(&r.dense)

cdef inline size_t nbytes(const Reserve* r, Slabs slabs) noexcept nogil:
    return (r.dense.n * class_bytes(slabs.class_for(r.dense_bytes))
            + r.boxes.n * sizeof(void*))
