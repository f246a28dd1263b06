"""Which container a table's words get, from a survey of them.

A table takes the smallest container. docs/design.md says what each is taken for; the
limits of a container are in its own file.
"""
from libc.stdint cimport uint64_t

from extmeta.encodings.adaptive cimport dense, few, listed, ranked, uniform
from extmeta.encodings.adaptive.contents cimport Survey
from extmeta.encodings.adaptive.link cimport (
    BOXED, DENSE, EMPTY, FEW, INLINE, LISTED, RANKED, UNIFORM, Geometry, Kind,
    class_of, kind_of, width_of)
from extmeta.encodings.packed cimport width_for
from extmeta.memory.slabs cimport Slabs, class_bytes

cdef enum:
    # A table moves to a smaller container if that has 1/SHRINK of the size. With 1, a
    # table that gains and loses one word in turn would copy its words each time.
    SHRINK = 2
    # From this many entries in no order on, a load reads the whole table once. On
    # numpy-sparse with all PTEs flagged, a load fell from 3.0 to 1.3 times that of
    # inpte (`extmeta compare --quick`).
    FROM_FULL = 32
    # Bytes of the smallest slab, so that slabs of small objects share pages. With 4096,
    # 32 processes hold more pages (`python benchmarks/machine.py`, docs/method.md).
    SLAB_FRAME = 512

cdef struct Shape:
    Kind kind
    int width             # log2 of the bits of a word in the object
    int size_class        # of the object
    size_t nbytes         # of the object, rounded up to its class; 0: there is none

cdef inline void place_in(Slabs slabs, Shape* shape, size_t nbytes) noexcept nogil:
    shape.size_class = slabs.class_for(nbytes)
    shape.nbytes = class_bytes(shape.size_class)

cdef inline void choose_uniform(
        const Geometry* g, Slabs slabs, const Survey* v, Shape* shape) noexcept nogil:
    """Choose the smallest container for equal words."""
    cdef size_t n = <size_t>v.count
    cdef int wide = max(shape.width, 3)
    if few.fits_inline(g, n, v.word):
        shape.kind = INLINE
    elif few.fits(g, n, v.word):
        shape.kind = FEW
        place_in(slabs, shape, few.FEW_BYTES)
    elif listed.nbytes(n, wide) <= few.FEW_BYTES:
        shape.kind = LISTED
        shape.width = wide
        place_in(slabs, shape, listed.nbytes(n, wide))
    elif uniform.fits(v.word):
        shape.kind = UNIFORM
    else:
        shape.kind = BOXED
        place_in(slabs, shape, sizeof(uint64_t))

cdef inline void choose(
        const Geometry* g, Slabs slabs, const Survey* v, Shape* shape) noexcept nogil:
    """Choose the smallest container for words that a survey describes."""
    cdef size_t n = <size_t>v.count
    cdef int width = width_for(v.bits)
    cdef int wide = max(width, 3)
    cdef size_t nbytes
    shape.nbytes = 0
    shape.width = width
    shape.size_class = 0
    shape.kind = EMPTY
    if n == 0:
        return
    if v.uniform:
        choose_uniform(g, slabs, v, shape)
        return
    nbytes = ranked.nbytes(g, n, wide)
    shape.kind = RANKED
    if n <= listed.LISTED_MOST and listed.nbytes(n, wide) <= nbytes:
        shape.kind = LISTED
        nbytes = listed.nbytes(n, wide)
    shape.width = wide
    place_in(slabs, shape, nbytes)
    nbytes = dense.nbytes(g, width)
    if nbytes <= shape.nbytes:
        shape.kind = DENSE
        shape.width = width
        place_in(slabs, shape, nbytes)

cdef inline bint holds(
        const Geometry* g, uint64_t link, const Survey* v) noexcept nogil:
    """Return whether the link's object, if it may change, has room for the words."""
    cdef size_t n = <size_t>v.count
    cdef int width = width_of(link)
    cdef size_t room = class_bytes(class_of(link))
    if kind_of(link) < LISTED or width_for(v.bits) > width:
        return False
    if kind_of(link) == LISTED:
        return n <= listed.LISTED_MOST and listed.nbytes(n, width) <= room
    return kind_of(link) == DENSE or ranked.nbytes(g, n, width) <= room

cdef inline bint serves(const Shape* shape, int size_class) noexcept nogil:
    """Return whether an object of that class is right for the shape."""
    if shape.kind >= LISTED:
        return size_class >= shape.size_class
    return size_class == shape.size_class

cdef inline bint too_large(uint64_t link, const Shape* shape) noexcept nogil:
    return shape.nbytes * SHRINK <= class_bytes(class_of(link))
