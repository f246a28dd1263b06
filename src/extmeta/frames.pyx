"""Table memory: pages of one reserved mapping, and a descriptor for each.

The mapping is reserved whole and made usable as it grows, so a page never
moves and a pointer to it stays valid. A buddy allocator hands out blocks of
2**order pages aligned to their size, as the kernel's does; what is freed joins
its buddy and can be had again at any order.

A mapping whose last user is gone is kept for the next one, with the pages it has,
as the kernel's freed pages are: so a fork's cost is that of its tables, zeroed
and filled, and not of the host's page faults. `IDLE` and `IDLE_BYTES` bound what is
kept.

Like the kernel's direct map, the memory is backed by huge pages where the host
allows (all but the first 2 MiB, so that a small table stays small). Set
EXTMETA_THP=0 for 4 KiB pages: random look-ups in `adjacent` then pay TLB misses
that a kernel would not have.
"""
import os

from cpython.buffer cimport PyBUF_WRITABLE, Py_buffer
from libc.stdint cimport int64_t, uint8_t, uint32_t, uintptr_t
from libc.string cimport memset

cdef extern from "sys/mman.h" nogil:
    void* mmap(void*, size_t, int, int, int, long)
    int munmap(void*, size_t)
    int mprotect(void*, size_t, int)
    int madvise(void*, size_t, int)
    const int PROT_NONE, PROT_READ, PROT_WRITE
    const int MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE
    const int MADV_HUGEPAGE
    void* MAP_FAILED

cdef enum:
    BLOCK = 1 << MAX_ORDER
    HUGE_BYTES = 2 << 20

# Address space, not memory: 64 GiB of page tables map 32 TiB. Where the host
# grants less (ulimit -v, valgrind), halves of it are tried.
cdef size_t RESERVE_BYTES = <size_t>64 << 30
cdef size_t LEAST_BYTES = <size_t>4 << 20

cdef enum:
    # Mappings kept without a user: a fork and its parent, a few times over.
    IDLE = 4
# The most pages of one that is kept.
cdef size_t IDLE_BYTES = <size_t>128 << 20

cdef struct Mapping:
    char* base
    Ptdesc* desc
    uint32_t reserved
    uint32_t committed
    int page_shift
    bint huge

cdef Mapping[IDLE] idle
cdef int nr_idle = 0

cdef extern from *:
    """
    #include <pthread.h>
    static pthread_mutex_t extmeta_idle = PTHREAD_MUTEX_INITIALIZER;
    #define lock_idle() pthread_mutex_lock(&extmeta_idle)
    #define unlock_idle() pthread_mutex_unlock(&extmeta_idle)
    """
    void lock_idle() nogil
    void unlock_idle() nogil

# Allocations that still succeed; below 0 there is no limit.
cdef int64_t allowance = -1


def fail_after(n=None):
    """Let the next ``n`` allocations succeed and all later ones fail.

    For tests of what happens when memory runs out. ``None`` lifts the limit.
    Counts blocks of table memory and objects of side memory.
    """
    global allowance
    allowance = -1 if n is None else n


cdef bint may_allocate() noexcept nogil:
    global allowance
    if allowance < 0:
        return True
    if allowance == 0:
        return False
    allowance -= 1
    return True


cdef int raise_nomem(size_t nbytes) except -1 nogil:
    with gil:
        raise MemoryError(f"{nbytes} bytes for page tables or their side memory")


cdef void* reserve(size_t nbytes) noexcept nogil:
    cdef void* p = mmap(
        NULL, nbytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    return NULL if p == MAP_FAILED else p


cdef class Frames:
    """Pages and their descriptors.

    Seen through the buffer protocol as a read-only (pages, page_bytes / 8)
    array of uint64.

    Parameters
    ----------
    page_bytes : int
        A power of two from 4096 to 2 MiB.

    Raises
    ------
    ValueError
        If ``page_bytes`` is something else.
    MemoryError
        If no address space can be reserved.
    """

    def __cinit__(self, size_t page_bytes=4096):
        cdef size_t nbytes = RESERVE_BYTES
        cdef char* p
        if not 4096 <= page_bytes <= HUGE_BYTES or page_bytes & (page_bytes - 1):
            raise ValueError(f"pages of {page_bytes} bytes; a power of two from 4096 "
                             f"to {HUGE_BYTES} is needed")
        self.page_bytes = page_bytes
        while (1 << self.page_shift) < <Py_ssize_t>page_bytes:
            self.page_shift += 1
        self.huge = os.environ.get("EXTMETA_THP") != "0"
        for order in range(MAX_ORDER + 1):
            self.free_list[order] = NO_FRAME
        if self.take_idle():
            return
        while True:
            # One block more, to align the base to it.
            p = <char*>reserve(nbytes + BLOCK * page_bytes)
            if p is not NULL:
                break
            nbytes >>= 1
            if nbytes < LEAST_BYTES:
                raise MemoryError(f"{2 * nbytes} bytes of address space")
        self.base = <char*>align(<uintptr_t>p, BLOCK * page_bytes)
        munmap_if(p, self.base - p)
        munmap_if(self.base + nbytes, p + BLOCK * page_bytes - self.base)
        self.reserved = <uint32_t>(nbytes >> self.page_shift)
        self.desc = <Ptdesc*>reserve(self.reserved * sizeof(Ptdesc))
        if self.desc is NULL:
            raise MemoryError(
                f"{self.reserved * sizeof(Ptdesc)} bytes of address space")

    def __dealloc__(self):
        if self.base is NULL or self.desc is NULL or not self.leave_idle():
            munmap_if(self.base, <size_t>self.reserved << self.page_shift)
            munmap_if(<char*>self.desc, self.reserved * sizeof(Ptdesc))

    cdef bint take_idle(self) noexcept nogil:
        """Take over a mapping that is kept; False if there is none that fits."""
        global nr_idle
        cdef bint found = False
        cdef Mapping m
        cdef int i
        lock_idle()
        for i in range(nr_idle):
            m = idle[i]
            found = m.page_shift == self.page_shift and m.huge == self.huge
            if found:
                nr_idle -= 1
                idle[i] = idle[nr_idle]
                break
        unlock_idle()
        if found:
            self.base = m.base
            self.desc = m.desc
            self.reserved = m.reserved
            self.free_from(0, m.committed)
            self.committed = m.committed
        return found

    cdef bint leave_idle(self) noexcept nogil:
        """Keep the mapping for another; False if it is too large or one too many."""
        global nr_idle
        cdef bint kept = False
        cdef uint32_t frame
        if <size_t>self.committed << self.page_shift > IDLE_BYTES:
            return False
        for frame in range(self.top):
            self.desc[frame].kind = FREE
        lock_idle()
        if nr_idle < IDLE:
            idle[nr_idle].base = self.base
            idle[nr_idle].desc = self.desc
            idle[nr_idle].reserved = self.reserved
            idle[nr_idle].committed = self.committed
            idle[nr_idle].page_shift = self.page_shift
            idle[nr_idle].huge = self.huge
            nr_idle += 1
            kept = True
        unlock_idle()
        return kept

    cdef void free_from(self, uint32_t first, uint32_t stop) noexcept nogil:
        """Put the blocks of [first, stop) on the free list, the lowest in front."""
        while stop > first:
            stop -= BLOCK
            self.push(stop, MAX_ORDER)

    cdef Ptdesc* alloc(self, int order, Kind kind, bint zero) noexcept nogil:
        cdef int have = order
        cdef uint32_t frame
        cdef Ptdesc* d
        cdef uint32_t i
        if not may_allocate():
            return NULL
        while have <= MAX_ORDER and self.free_list[have] == NO_FRAME:
            have += 1
        if have > MAX_ORDER:
            if not self.grow():
                return NULL
            have = MAX_ORDER
        frame = self.free_list[have]
        self.unlink(frame)
        self.top = max(self.top, frame + (<uint32_t>1 << order))
        while have > order:
            have -= 1
            self.push(frame + (<uint32_t>1 << have), have)
        d = &self.desc[frame]
        for i in range(<uint32_t>1 << order):
            # The second page of a pair is the PTE table's side page.
            d[i].kind = SIDE if i and kind == PTE else kind
            if zero and d[i].dirty and d[i].kind == kind:
                memset(self.base + (<size_t>(frame + i) << self.page_shift), 0,
                       self.page_bytes)
            d[i].dirty = 1
            self.pages[d[i].kind] += 1
        d.order = <uint8_t>order
        d.parent = NULL
        d.link = 0
        d.vpn = 0
        d.flagged = 0
        d.used = 0
        d.next = 0
        d.level = 0
        d.spare[0] = 0
        return d

    cdef void free(self, Ptdesc* d) noexcept nogil:
        cdef uint32_t i
        for i in range(<uint32_t>1 << d.order):
            self.pages[d[i].kind] -= 1
            d[i].kind = FREE
        self.give_back(<uint32_t>(d - self.desc), d.order)

    cdef void free_upper_half(self, Ptdesc* d) noexcept nogil:
        self.pages[d[1].kind] -= 1
        d.order = 0
        d[1].kind = FREE
        self.give_back(<uint32_t>(d - self.desc) + 1, 0)

    cdef void give_back(self, uint32_t frame, int order) noexcept nogil:
        cdef uint32_t buddy
        while order < MAX_ORDER:
            buddy = frame ^ (<uint32_t>1 << order)
            if self.desc[buddy].kind != FREE or self.desc[buddy].order != order:
                break
            self.unlink(buddy)
            frame &= ~(<uint32_t>1 << order)
            order += 1
        self.push(frame, order)

    cdef void push(self, uint32_t frame, int order) noexcept nogil:
        cdef Ptdesc* d = &self.desc[frame]
        cdef uint32_t head = self.free_list[order]
        d.kind = FREE
        d.order = <uint8_t>order
        d.prev = NO_FRAME
        d.next = head
        if head != NO_FRAME:
            self.desc[head].prev = frame
        self.free_list[order] = frame

    cdef void unlink(self, uint32_t frame) noexcept nogil:
        cdef Ptdesc* d = &self.desc[frame]
        if d.next != NO_FRAME:
            self.desc[d.next].prev = d.prev
        if d.prev != NO_FRAME:
            self.desc[d.prev].next = d.next
        else:
            self.free_list[d.order] = d.next
        # Inside a larger block this is no head: a buddy must not match it.
        d.order = MAX_ORDER + 1

    cdef bint grow(self) noexcept nogil:
        """Make more blocks usable: an eighth of what there is, at least one."""
        cdef uint32_t more = (self.committed >> 3) & ~<uint32_t>(BLOCK - 1)
        cdef uint32_t frame = self.committed
        cdef char* p = self.base + (<size_t>frame << self.page_shift)
        cdef size_t from_desc = align(frame * sizeof(Ptdesc), 4096)
        cdef size_t to_desc
        more = min(max(more, <uint32_t>BLOCK), self.reserved - frame)
        if more < BLOCK:
            return False
        to_desc = align((frame + more) * sizeof(Ptdesc), 4096)
        if mprotect(p, <size_t>more << self.page_shift, PROT_READ | PROT_WRITE):
            return False
        if mprotect(<char*>self.desc + from_desc, to_desc - from_desc,
                    PROT_READ | PROT_WRITE):
            return False
        if self.huge and frame:
            # Advice: where it is refused the pages are small, nothing else.
            madvise(p, <size_t>more << self.page_shift, MADV_HUGEPAGE)
        self.committed = frame + more
        self.free_from(frame, frame + more)
        return True

    cdef const char* fault(self) noexcept nogil:
        """Return what is wrong with the free lists, or NULL."""
        cdef size_t free_pages = 0
        cdef size_t in_use = 0
        cdef uint32_t frame
        cdef int order, kind
        for order in range(MAX_ORDER + 1):
            frame = self.free_list[order]
            while frame != NO_FRAME:
                if self.desc[frame].kind != FREE or self.desc[frame].order != order:
                    return b"a block on a free list is not free at that order"
                if frame & ((<uint32_t>1 << order) - 1):
                    return b"a free block is not aligned to its size"
                free_pages += <size_t>1 << order
                frame = self.desc[frame].next
        for kind in range(<int>UPPER, <int>NR_KINDS):
            in_use += self.pages[kind]
        if free_pages + in_use != self.committed:
            return b"pages neither free nor in use"
        return NULL

    def __getbuffer__(self, Py_buffer* view, int flags):
        cdef Py_ssize_t* dims
        if flags & PyBUF_WRITABLE:
            raise BufferError("page tables are written through PageTable only")
        dims = <Py_ssize_t*>PyMem_Malloc(4 * sizeof(Py_ssize_t))
        if dims is NULL:
            raise MemoryError("32 bytes for a buffer's shape")
        dims[0] = self.committed
        dims[1] = <Py_ssize_t>(self.page_bytes // 8)
        dims[2] = <Py_ssize_t>self.page_bytes
        dims[3] = 8
        view.obj = self
        view.buf = self.base
        view.len = dims[0] * dims[2]
        view.itemsize = 8
        view.readonly = 1
        view.ndim = 2
        view.format = b"Q"
        view.shape = dims
        view.strides = dims + 2
        view.suboffsets = NULL
        view.internal = dims

    def __releasebuffer__(self, Py_buffer* view):
        PyMem_Free(view.internal)


cdef extern from "Python.h":
    void* PyMem_Malloc(size_t)
    void PyMem_Free(void*)


cdef inline size_t align(size_t n, size_t to) noexcept nogil:
    return (n + to - 1) & ~(to - 1)


cdef inline void munmap_if(char* p, size_t nbytes) noexcept nogil:
    if p is not NULL and nbytes:
        munmap(p, nbytes)
