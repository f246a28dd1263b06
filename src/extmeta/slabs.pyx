"""Side memory: objects of a few sizes, packed into pages.

As the kernel's slab allocator: a page holds objects of one size, four sizes to
each doubling, so rounding up costs at most a quarter. An object above 2 KiB is
a block of whole pages. A page goes back with its last object.

`object_bytes` counts objects as rounded up; `page_bytes` counts the pages that
hold them. The difference is room for more objects.
"""
from libc.stdint cimport uint32_t, uintptr_t

from extmeta.frames cimport MAX_ORDER, NO_FRAME, SIDE, Frames, Ptdesc, entries, frame_of

cdef size_t[NR_CLASSES] SIZES
SIZES[:] = [
    8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256,
    320, 384, 448, 512, 640, 800, 1024, 1360, 2048,
]


cdef class Slabs:
    """Objects of side memory.

    Attributes
    ----------
    object_bytes : int
        Bytes of the objects in use.
    """

    def __cinit__(self):
        cdef int size_class = 0
        cdef Py_ssize_t eighths
        self.pages = Frames(4096)
        for eighths in range(LARGEST_EIGHTHS + 1):
            if <size_t>eighths * 8 > SIZES[size_class]:
                size_class += 1
            self.class_of[eighths] = <unsigned char>size_class
        for size_class in range(NR_CLASSES):
            self.partial[size_class] = NO_FRAME

    cdef size_t page_bytes(self) noexcept nogil:
        return self.pages.pages[<int>SIDE] * self.pages.page_bytes

    cdef void* alloc(self, size_t nbytes) noexcept nogil:
        cdef int size_class, order
        cdef Ptdesc* d
        cdef char* p
        if nbytes > LARGEST:
            order = 0
            while (<size_t>4096 << order) < nbytes:
                order += 1
            d = self.pages.alloc(order, SIDE, False) if order <= MAX_ORDER else NULL
            if d is NULL:
                return NULL
            d.level = NR_CLASSES
            self.object_bytes += <size_t>4096 << order
            return entries(self.pages, d)
        size_class = self.class_of[(nbytes + 7) >> 3]
        if self.partial[size_class] != NO_FRAME:
            d = &self.pages.desc[self.partial[size_class]]
        else:
            d = self.pages.alloc(0, SIDE, False)
            if d is NULL:
                return NULL
            d.level = <unsigned char>size_class
            self.list_page(<uint32_t>(d - self.pages.desc), size_class)
        p = <char*>d.link
        if p is not NULL:
            d.link = (<uintptr_t*>p)[0]
        else:
            # `flagged` of a slab's page: objects that were ever handed out.
            p = <char*>entries(self.pages, d) + d.flagged * SIZES[size_class]
            d.flagged += 1
        d.used += 1
        if d.used == 4096 // SIZES[size_class]:
            self.unlist_page(<uint32_t>(d - self.pages.desc), size_class)
        self.object_bytes += SIZES[size_class]
        return p

    cdef void free(self, void* p) noexcept nogil:
        cdef uint32_t frame = frame_of(self.pages, p)
        cdef Ptdesc* d = &self.pages.desc[frame]
        cdef int size_class = d.level
        if size_class == NR_CLASSES:
            self.object_bytes -= <size_t>4096 << d.order
            self.pages.free(d)
            return
        if d.used == 4096 // SIZES[size_class]:
            self.list_page(frame, size_class)
        (<uintptr_t*>p)[0] = d.link
        d.link = <uintptr_t>p
        d.used -= 1
        self.object_bytes -= SIZES[size_class]
        if d.used == 0:
            self.unlist_page(frame, size_class)
            self.pages.free(d)

    cdef void list_page(self, uint32_t frame, int size_class) noexcept nogil:
        cdef uint32_t head = self.partial[size_class]
        self.pages.desc[frame].prev = NO_FRAME
        self.pages.desc[frame].next = head
        if head != NO_FRAME:
            self.pages.desc[head].prev = frame
        self.partial[size_class] = frame

    cdef void unlist_page(self, uint32_t frame, int size_class) noexcept nogil:
        cdef Ptdesc* d = &self.pages.desc[frame]
        if d.next != NO_FRAME:
            self.pages.desc[d.next].prev = d.prev
        if d.prev != NO_FRAME:
            self.pages.desc[d.prev].next = d.next
        else:
            self.partial[size_class] = d.next
