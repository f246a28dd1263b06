"""Side memory: objects of a few sizes, packed into pages."""
from libc.stdint cimport uint8_t, uint32_t

from extmeta.frames cimport Frames

cdef enum:
    NR_CLASSES = 25
    LARGEST_EIGHTHS = 256
    LARGEST = 2048        # bytes; above it, whole pages

cdef class Slabs:
    cdef readonly Frames pages
    cdef readonly size_t object_bytes   # in use, rounded up to the sizes there are
    cdef uint32_t[NR_CLASSES] partial   # pages with room, by size
    cdef uint8_t[LARGEST_EIGHTHS + 1] class_of

    # NULL where no memory can be had. What the object holds is undefined.
    cdef void* alloc(self, size_t nbytes) noexcept nogil
    cdef void free(self, void* p) noexcept nogil
    # Bytes of the pages that hold the objects.
    cdef size_t page_bytes(self) noexcept nogil
    cdef void list_page(self, uint32_t frame, int size_class) noexcept nogil
    cdef void unlist_page(self, uint32_t frame, int size_class) noexcept nogil
