"""Side memory: objects of a few sizes, packed into pages, perhaps shared.

As the kernel's slab allocator: a slab holds objects of one size class, four classes
to each doubling, so rounding up costs at most a fifth of an object. A slab has as many
frames as it takes to waste at most an eighth of them, and is freed with its last
object. An object above 4 KiB is a block of whole pages. docs/method.md has what other
classes and frames would hold.

A frame is a page, or a fragment of one: then small slabs of several classes share it.

After a fork two page tables use the same slabs, and an object may have several
references. Only then are they counted: a slab has an array of counts while one of its
objects is shared.

`object_bytes` counts objects as rounded up; `page_bytes` counts the pages that
hold them. The difference is room for more objects.
"""
from cython cimport no_gc_clear
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uintptr_t
from libc.string cimport memset

from extmeta.memory.allowance cimport may_allocate
from extmeta.memory.epoch cimport any_reader, next_unseen, put_off, room_for_one
from extmeta.memory.frames cimport (
    MAX_ORDER, NO_FRAME, PTE, SIDE, Frames, Ptdesc, entries, frame_of, list_add,
    list_del,
)
from extmeta.memory.page cimport PAGE

cdef enum:
    # At most 1/MOST_WASTE of a slab holds no object. With 16, a slab for objects of
    # 3,584 bytes has eight pages; with 8, one. docs/method.md has what that saves.
    MOST_WASTE = 8


# Else the garbage collector would clear `pages` before the last object is freed.
@no_gc_clear
cdef class Slabs:
    """Objects of side memory.

    Parameters
    ----------
    frame_bytes : int, optional
        Bytes of the smallest slab, a power of two from 256 to 4096, the default.
    own_class : int, optional
        Bytes of objects that get a class of their own, as from a kmem_cache. It takes
        the place of the next larger one.

    Attributes
    ----------
    object_bytes : int
        Bytes of the objects in use.
    count_bytes : int
        Bytes of the arrays that count references.
    users : int
        Page tables that use these slabs.
    """

    def __cinit__(self, size_t frame_bytes=PAGE, size_t own_class=0):
        cdef int size_class = 0
        cdef int order
        cdef Py_ssize_t eighths
        cdef size_t nbytes, slab
        self.pages = Frames(PAGE, frame_bytes)
        self.users = 1
        for size_class in range(NR_CLASSES):
            self.nbytes[size_class] = <uint16_t>class_bytes(size_class)
        if own_class:
            size_class = 0
            while self.nbytes[size_class] < own_class:
                size_class += 1
            self.nbytes[size_class] = <uint16_t>own_class
        size_class = 0
        for eighths in range(LARGEST_EIGHTHS + 1):
            if <size_t>eighths * 8 > self.nbytes[size_class]:
                size_class += 1
            self.class_of[eighths] = <uint8_t>size_class
        for size_class in range(NR_CLASSES):
            self.partial[size_class] = NO_FRAME
            nbytes = self.nbytes[size_class]
            order = 0
            slab = frame_bytes
            while slab < nbytes or slab % nbytes > slab / MOST_WASTE:
                order += 1
                slab <<= 1
            self.order[size_class] = <uint8_t>order
            self.per_slab[size_class] = <uint32_t>(slab / nbytes)

    cdef size_t page_bytes(self) noexcept nogil:
        # Fragments that no slab uses are idle in the pool of PTE tables.
        return self.pages.held(SIDE) + self.pages.held(PTE)

    cdef int class_for(self, size_t nbytes) noexcept nogil:
        cdef int order = 1
        if nbytes <= LARGEST:
            return self.class_of[(nbytes + 7) >> 3]
        while (<size_t>PAGE << order) < nbytes:
            order += 1
        return NR_CLASSES + order - 1

    # -- objects --------------------------------------------------------------

    cdef void* alloc(self, size_t nbytes) noexcept nogil:
        cdef void* p
        if not may_allocate():
            return NULL
        self.take_lock()
        if self.limbo.count:
            self.reap_held()
        p = self.take(nbytes)
        self.give_lock()
        return p

    cdef bint set_aside(self, Aside* a, size_t n, size_t nbytes) noexcept nogil:
        cdef size_t before = a.n
        cdef bint done = True
        cdef void* p
        while a.n < n:
            p = self.alloc(nbytes)
            if p is NULL:
                done = False
                n = before
                break
            (<void**>p)[0] = a.first
            a.first = p
            a.n += 1
        while a.n > n:
            self.free(from_aside(a))
        return done

    cdef void free(self, void* p) noexcept nogil:
        cdef void* old
        self.take_lock()
        if self.limbo.count:
            self.reap_held()
        if not self.drop_share(p):
            if any_reader():
                old = room_for_one(&self.limbo)
                if old is not NULL:
                    self.give(old)
                put_off(&self.limbo, p)
            else:
                self.give(p)
        self.give_lock()

    cdef void reap(self) noexcept nogil:
        self.take_lock()
        self.reap_held()
        self.give_lock()

    cdef void reap_held(self) noexcept nogil:
        cdef void* p
        while (p := next_unseen(&self.limbo)) is not NULL:
            self.give(p)

    cdef void* take(self, size_t nbytes) noexcept nogil:
        cdef int size_class, order, i
        cdef Ptdesc* d
        cdef char* p
        if nbytes > LARGEST:
            order = 0
            while (<size_t>PAGE << order) < nbytes:
                order += 1
            order += self.pages.page_order
            d = self.pages.alloc(order, SIDE, False) if order <= MAX_ORDER else NULL
            if d is NULL:
                return NULL
            d.level = NR_CLASSES
            d.index = d.users = 0
            self.object_bytes += self.pages.frame_bytes << order
            return entries(self.pages, d)
        size_class = self.class_of[(nbytes + 7) >> 3]
        if self.partial[size_class] != NO_FRAME:
            d = &self.pages.desc[self.partial[size_class]]
        else:
            order = self.order[size_class]
            d = self.pages.alloc(order, SIDE, False)
            if d is NULL:
                return NULL
            for i in range(1 << order):
                d[i].level = <uint8_t>size_class
            d.index = d.users = 0
            list_add(self.pages.desc, &self.partial[size_class], d)
        p = <char*>d.link
        if p is not NULL:
            d.link = (<uintptr_t*>p)[0]
        else:
            p = <char*>entries(self.pages, d) + d.flagged * self.nbytes[size_class]
            d.flagged += 1
        d.used += 1
        if d.used == self.per_slab[size_class]:
            list_del(self.pages.desc, &self.partial[size_class], d)
        self.object_bytes += self.nbytes[size_class]
        return p

    cdef bint drop_share(self, void* p) noexcept nogil:
        """Drop a reference; False if it is the last."""
        cdef Ptdesc* d = self.slab_of(p)
        cdef uint32_t* shared = self.count_of(d, p)
        if shared is NULL or shared[0] == 0:
            return False
        shared[0] -= 1
        if not self.is_object(d.level):
            d.users -= 1
            if d.users == 0:
                self.move_bytes(d.level, False)
                shared = <uint32_t*>d.index
                d.index = 0
                self.give(shared)
        return True

    cdef void give(self, void* p) noexcept nogil:
        """Free an object without references, at once."""
        cdef Ptdesc* d = self.slab_of(p)
        cdef int size_class = d.level
        if size_class == NR_CLASSES:
            self.object_bytes -= self.pages.frame_bytes << d.order
            self.pages.free_now(d)
            return
        if d.used == self.per_slab[size_class]:
            list_add(self.pages.desc, &self.partial[size_class], d)
        (<uintptr_t*>p)[0] = d.link
        d.link = <uintptr_t>p
        d.used -= 1
        self.object_bytes -= self.nbytes[size_class]
        if d.used == 0:
            list_del(self.pages.desc, &self.partial[size_class], d)
            self.pages.free_now(d)

    cdef Ptdesc* slab_of(self, const void* p) noexcept nogil:
        cdef uint32_t frame = frame_of(self.pages, p)
        cdef int size_class = self.pages.desc[frame].level
        if size_class < NR_CLASSES:
            frame &= ~((<uint32_t>1 << self.order[size_class]) - 1)
        return &self.pages.desc[frame]

    # -- sharing --------------------------------------------------------------

    cdef void join(self) noexcept nogil:
        self.take_lock()
        self.users += 1
        self.give_lock()

    cdef void part(self) noexcept nogil:
        self.take_lock()
        self.users -= 1
        self.give_lock()

    cdef bint is_object(self, int size_class) noexcept nogil:
        """Return whether a slab of this class is one object."""
        return size_class == NR_CLASSES or self.per_slab[size_class] == 1

    cdef uint32_t* count_of(self, Ptdesc* d, const void* p) noexcept nogil:
        """Return where the object's further references are counted, or NULL.

        If a slab is one object, `users` is the count. Else `index` is an array with a
        count for each object, and `users` is their sum.
        """
        cdef size_t offset
        if self.is_object(d.level):
            return &d.users
        if d.index == 0:
            return NULL
        offset = <size_t>(<const char*>p - <const char*>entries(self.pages, d))
        return <uint32_t*>d.index + offset / self.nbytes[d.level]

    cdef void move_bytes(self, int size_class, bint to_counts) noexcept nogil:
        """Move the bytes of an array of counts from `object_bytes`, or back."""
        cdef size_t nbytes = self.nbytes[self.class_for(
            self.per_slab[size_class] * sizeof(uint32_t))]
        self.count_bytes += nbytes if to_counts else 0 - nbytes
        self.object_bytes += 0 - nbytes if to_counts else nbytes

    cdef bint share(self, const void* p) noexcept nogil:
        cdef bint shared
        self.take_lock()
        shared = self.share_held(p)
        self.give_lock()
        return shared

    cdef bint share_held(self, const void* p) noexcept nogil:
        cdef Ptdesc* d = self.slab_of(p)
        cdef uint32_t* shared = self.count_of(d, p)
        cdef size_t nbytes
        if shared is NULL:
            nbytes = self.per_slab[d.level] * sizeof(uint32_t)
            shared = <uint32_t*>self.take(nbytes) if may_allocate() else NULL
            if shared is NULL:
                return False
            memset(shared, 0, nbytes)
            self.move_bytes(d.level, True)
            d.index = <uintptr_t>shared
            shared = self.count_of(d, p)
        shared[0] += 1
        if not self.is_object(d.level):
            d.users += 1
        return True

    cdef uint32_t others(self, const void* p) noexcept nogil:
        cdef uint32_t* shared
        cdef uint32_t n = 0
        self.take_lock()
        # If there is one user, each reference is the caller's own.
        if self.users > 1:
            shared = self.count_of(self.slab_of(p), p)
            n = shared[0] if shared is not NULL else 0
        self.give_lock()
        return n

    cdef bint is_shared(self) noexcept nogil:
        cdef bint shared
        self.take_lock()
        shared = self.users > 1
        self.give_lock()
        return shared

    cdef size_t proportion(self, const void* p) noexcept nogil:
        cdef Ptdesc* d = self.slab_of(p)
        cdef uint32_t* shared
        cdef size_t nbytes = self.pages.frame_bytes << d.order
        if d.level < NR_CLASSES:
            nbytes = self.nbytes[d.level]
        self.take_lock()
        shared = self.count_of(d, p)
        if shared is not NULL:
            nbytes /= 1 + shared[0]
        self.give_lock()
        return nbytes
