"""Side memory: objects of a few sizes, packed into pages, perhaps shared."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from extmeta.memory.epoch cimport Limbo
from extmeta.memory.frames cimport Frames, Ptdesc
from extmeta.memory.sync cimport give_back, relax, try_take

cdef enum:
    NR_CLASSES = 32
    LARGEST = 4096        # bytes; above it, whole pages
    LARGEST_EIGHTHS = 512
    # Bits of a handle: 64 GiB of side memory in units of 8 bytes.
    HANDLE_BITS = 33

cdef struct Aside:
    # Objects set aside for when no memory can be had, all of one size: a list. Each
    # one begins with a pointer to the next.
    void* first
    size_t n

cdef class Slabs:
    cdef readonly Frames pages
    cdef readonly size_t object_bytes   # in use, rounded up to their class
    cdef readonly size_t count_bytes    # of the arrays that count references
    cdef readonly int users             # page tables
    cdef uint32_t[NR_CLASSES] partial   # slabs with room, by size
    cdef uint8_t[LARGEST_EIGHTHS + 1] class_of
    cdef uint32_t[NR_CLASSES] per_slab  # objects
    cdef uint8_t[NR_CLASSES] order      # frames of a slab: 2**order
    cdef uint16_t[NR_CLASSES] nbytes    # of an object
    cdef uint32_t lock                  # a spinlock, taken by each call
    cdef Limbo limbo                    # objects that readers may still see

    # NULL if no memory can be had. The object is not zeroed.
    cdef void* alloc(self, size_t nbytes) noexcept nogil
    # Set n objects aside. False if no memory can be had; then as many are set aside as
    # before.
    cdef bint set_aside(self, Aside* a, size_t n, size_t nbytes) noexcept nogil
    # Allocate; if no memory can be had, use an object that was set aside.
    cdef inline void* alloc_or(self, Aside* a, size_t nbytes) noexcept nogil:
        cdef void* p = self.alloc(nbytes)
        return p if p is not NULL else from_aside(a)
    # Drop a reference. The object of the last one is freed when no lockless reader can
    # see it any more.
    cdef void free(self, void* p) noexcept nogil
    # Free the objects that no reader can see any more.
    cdef void reap(self) noexcept nogil
    # Bytes of the pages that hold the objects.
    cdef size_t page_bytes(self) noexcept nogil
    # The size class that holds nbytes, in 6 bits.
    cdef int class_for(self, size_t nbytes) noexcept nogil

    # One page table more uses these slabs, or one less.
    cdef void join(self) noexcept nogil
    cdef void part(self) noexcept nogil
    # Keep other threads from allocating, freeing and sharing.
    cdef inline void take_lock(self) noexcept nogil:
        cdef int turn = 0
        while not try_take(&self.lock):
            turn += 1
            relax(turn)

    cdef inline void give_lock(self) noexcept nogil:
        give_back(&self.lock)

    # Add a reference, for another user. False if no memory can be had for the count.
    cdef bint share(self, const void* p) noexcept nogil
    # Whether several page tables use these slabs.
    cdef bint is_shared(self) noexcept nogil
    # References beside the caller's own.
    cdef uint32_t others(self, const void* p) noexcept nogil
    # The object's bytes, divided by the number of its references.
    cdef size_t proportion(self, const void* p) noexcept nogil

    cdef void move_bytes(self, int size_class, bint to_counts) noexcept nogil
    cdef void* take(self, size_t nbytes) noexcept nogil
    cdef void give(self, void* p) noexcept nogil
    cdef bint drop_share(self, void* p) noexcept nogil
    cdef bint share_held(self, const void* p) noexcept nogil
    cdef void reap_held(self) noexcept nogil
    cdef Ptdesc* slab_of(self, const void* p) noexcept nogil
    cdef bint is_object(self, int size_class) noexcept nogil
    cdef uint32_t* count_of(self, Ptdesc* d, const void* p) noexcept nogil


cdef inline void* from_aside(Aside* a) noexcept nogil:
    """Return an object that was set aside, or NULL."""
    cdef void* p = a.first
    if p is not NULL:
        a.first = (<void**>p)[0]
        a.n -= 1
    return p


cdef inline size_t class_bytes(int size_class) noexcept nogil:
    """Return the bytes that an object of this class gets."""
    if size_class < 4:
        return <size_t>(size_class + 1) << 3
    if size_class < NR_CLASSES:
        return <size_t>(5 + (size_class & 3)) << (2 + (size_class >> 2))
    return <size_t>LARGEST << (size_class - NR_CLASSES + 1)


cdef inline uint64_t handle_of(Slabs s, const void* p) noexcept nogil:
    """Return where the object is, in HANDLE_BITS bits."""
    return <uint64_t>((<const char*>p - s.pages.base) >> 3)


cdef inline void* at_handle(Slabs s, uint64_t handle) noexcept nogil:
    return s.pages.base + (handle << 3)
