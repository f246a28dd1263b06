"""Table memory: frames of one reserved mapping, and a descriptor for each.

A frame is what the architecture's kernel allocates for a PTE table: a page, but
on ppc64 with 64K pages a fragment of one. The mapping grows in place, so a frame never
moves and a pointer to it stays valid. A buddy allocator hands out blocks of 2**order
frames aligned to their size, as the kernel's does; a freed block joins its buddy.

All fragments of a page are for tables of one kind: the page is taken for the first
and freed with the last, as ppc64's kernel does it. `held` counts whole pages.

A mapping without users is kept for the next one, with its pages, as the kernel keeps
freed pages. So a fork costs what its tables cost, zeroed and filled, without the
host's page faults. `IDLE` and `IDLE_BYTES` limit what is kept.

Like the kernel's direct map, the memory is backed by huge pages if the host allows
(all but the first 2 MiB, so that a small table stays small). Set EXTMETA_THP=0 for
4 KiB pages: random look-ups in `adjacent` then have TLB misses that a kernel has not.
"""
import os

from cpython.buffer cimport PyBUF_WRITABLE, Py_buffer
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint8_t, uint32_t, uintptr_t
from libc.string cimport memset

from extmeta.memory.address_space cimport (
    MADV_HUGEPAGE, PROT_READ, PROT_WRITE, extend, madvise, mprotect, munmap, reserve,
    reserve_apart,
)
from extmeta.memory.allowance cimport may_allocate
from extmeta.memory.epoch cimport any_reader, next_unseen, put_off, room_for_one
from extmeta.memory.limits cimport affordable

cdef extern from "pthread.h" nogil:
    int pthread_mutex_init(pthread_mutex_t*, void*)
    int pthread_mutex_destroy(pthread_mutex_t*)
    int pthread_mutex_lock(pthread_mutex_t*)
    int pthread_mutex_unlock(pthread_mutex_t*)

cdef extern from *:
    """
    #include <sys/mman.h>
    #ifndef MADV_POPULATE_WRITE
    #define MADV_POPULATE_WRITE 23 /* include/uapi/asm-generic/mman-common.h, v5.14 */
    #endif
    """
    const int MADV_POPULATE_WRITE

cdef enum:
    BLOCK = 1 << MAX_ORDER
    HUGE_BYTES = 2 << 20

# Address space, not memory. A mapping begins small, since a process may have thousands
# and ulimit -v counts them, and far from all others, so that it can grow.
cdef size_t FIRST_BYTES = <size_t>32 << 20
# If there is no such place (sanitizers use the addresses), a mapping can't grow. Then
# its size is the first that the host grants of RESERVE_BYTES (64 GiB of page tables map
# 32 TiB), half of that, and so on down to LEAST_BYTES.
cdef size_t RESERVE_BYTES = <size_t>64 << 30
cdef size_t LEAST_BYTES = <size_t>4 << 20

cdef enum:
    # Mappings kept without a user: a fork and its parent, a few times over.
    IDLE = 4
# A mapping that has more memory is not kept.
cdef size_t IDLE_BYTES = <size_t>128 << 20

cdef struct Mapping:
    char* base
    Ptdesc* desc
    uint32_t reserved
    uint32_t committed
    int frame_shift
    bint huge

cdef Mapping[IDLE] idle
cdef int nr_idle = 0
cdef pthread_mutex_t idle_lock
pthread_mutex_init(&idle_lock, NULL)


cdef class Frames:
    """Frames and their descriptors.

    Seen through the buffer protocol as a read-only (frames, frame_bytes / 8)
    array of uint64.

    Parameters
    ----------
    page_bytes : int
        A power of two from 4096 to 2 MiB.
    frame_bytes : int, optional
        A power of two from ``page_bytes`` / 256, at least 256, to ``page_bytes``,
        which is the default.

    Raises
    ------
    ValueError
        If either is something else.
    MemoryError
        If no address space can be reserved.
    """

    def __cinit__(self, size_t page_bytes=4096, size_t frame_bytes=0):
        cdef size_t nbytes = RESERVE_BYTES
        cdef int pool, order
        cdef char* p
        pthread_mutex_init(&self.lock, NULL)
        if not 4096 <= page_bytes <= HUGE_BYTES or page_bytes & (page_bytes - 1):
            raise ValueError(f"pages of {page_bytes} bytes; a power of two from 4096 "
                             f"to {HUGE_BYTES} is needed")
        frame_bytes = frame_bytes or page_bytes
        if not max(<size_t>256, page_bytes >> 8) <= frame_bytes <= page_bytes or (
                frame_bytes & (frame_bytes - 1)):
            raise ValueError(f"frames of {frame_bytes} bytes in pages of {page_bytes}")
        self.page_bytes = page_bytes
        self.frame_bytes = frame_bytes
        while (<size_t>1 << self.frame_shift) < frame_bytes:
            self.frame_shift += 1
        while frame_bytes << self.page_order < page_bytes:
            self.page_order += 1
        self.huge = os.environ.get("EXTMETA_THP") != "0"
        for pool in range(<int>NR_KINDS):
            for order in range(MAX_ORDER + 1):
                self.free_list[pool][order] = NO_FRAME
        if not may_allocate():
            raise MemoryError(f"{LEAST_BYTES} bytes of address space")
        if self.take_idle() or self.reserve_small():
            return
        # One block more, to align the base to it.
        while (p := <char*>reserve(nbytes + BLOCK * frame_bytes)) is NULL:
            nbytes >>= 1
            if nbytes < LEAST_BYTES:
                raise MemoryError(f"{2 * nbytes} bytes of address space")
        self.base = <char*>align(<uintptr_t>p, BLOCK * frame_bytes)
        munmap_if(p, self.base - p)
        munmap_if(self.base + nbytes, p + BLOCK * frame_bytes - self.base)
        self.reserved = <uint32_t>(nbytes >> self.frame_shift)
        self.desc = <Ptdesc*>reserve(self.reserved * sizeof(Ptdesc))
        if self.desc is NULL:
            raise MemoryError(
                f"{self.reserved * sizeof(Ptdesc)} bytes of address space")

    cdef bint reserve_small(self) noexcept nogil:
        """Reserve a small mapping that can grow; False if there is no place for it."""
        cdef size_t nbytes = max(FIRST_BYTES, 2 * BLOCK * self.frame_bytes)
        cdef size_t of_desc = (nbytes >> self.frame_shift) * sizeof(Ptdesc)
        cdef char* p = <char*>reserve_apart(nbytes)
        cdef char* desc
        if p is NULL:
            return False
        desc = <char*>reserve_apart(of_desc)
        if desc is NULL:
            munmap(p, nbytes)
            return False
        self.base = p
        self.desc = <Ptdesc*>desc
        self.reserved = <uint32_t>(nbytes >> self.frame_shift)
        return True

    cdef bint extend_to(self, uint32_t reserved) noexcept nogil:
        """Grow the address space to ``reserved`` frames in place; False if it can't."""
        cdef size_t more = <size_t>(reserved - self.reserved) << self.frame_shift
        cdef size_t of_desc = (reserved - self.reserved) * sizeof(Ptdesc)
        cdef char* end = self.base + (<size_t>self.reserved << self.frame_shift)
        if not extend(end, more):
            return False
        if not extend(<char*>&self.desc[self.reserved], of_desc):
            munmap(end, more)
            return False
        self.reserved = reserved
        return True

    def __dealloc__(self):
        if self.base is NULL or self.desc is NULL or not self.leave_idle():
            munmap_if(self.base, <size_t>self.reserved << self.frame_shift)
            munmap_if(<char*>self.desc, self.reserved * sizeof(Ptdesc))
        pthread_mutex_destroy(&self.lock)

    cdef bint take_idle(self) noexcept nogil:
        """Take over a mapping that is kept; False if none fits."""
        global nr_idle
        cdef bint found = False
        cdef Mapping m
        cdef int i
        pthread_mutex_lock(&idle_lock)
        for i in range(nr_idle):
            m = idle[i]
            found = m.frame_shift == self.frame_shift and m.huge == self.huge
            if found:
                nr_idle -= 1
                idle[i] = idle[nr_idle]
                break
        pthread_mutex_unlock(&idle_lock)
        if found:
            self.base = m.base
            self.desc = m.desc
            self.reserved = m.reserved
            self.free_from(0, m.committed)
            self.committed = m.committed
        return found

    cdef bint leave_idle(self) noexcept nogil:
        """Keep the mapping for a next user; False if it is large or enough are kept."""
        global nr_idle
        cdef bint kept
        cdef uint32_t frame
        if <size_t>self.committed << self.frame_shift > IDLE_BYTES:
            return False
        for frame in range(self.top):
            self.desc[frame].kind = FREE
        pthread_mutex_lock(&idle_lock)
        kept = nr_idle < IDLE
        if kept:
            idle[nr_idle] = Mapping(
                self.base, self.desc, self.reserved, self.committed, self.frame_shift,
                self.huge)
            nr_idle += 1
        pthread_mutex_unlock(&idle_lock)
        return kept

    cdef void free_from(self, uint32_t first, uint32_t stop) noexcept nogil:
        """Put the blocks of [first, stop) on the free list, the lowest in front."""
        while stop > first:
            stop -= BLOCK
            self.push(stop, MAX_ORDER, FREE)

    cdef int pool_of(self, int order, Kind kind) noexcept nogil:
        """Return the pool that a block of this kind is taken from."""
        if order >= self.page_order:
            return FREE
        return UPPER if kind == UPPER else PTE

    cdef size_t held(self, Kind kind) noexcept nogil:
        return (self.pages[<int>kind] + self.idle[<int>kind]) << self.frame_shift

    cdef Ptdesc* alloc(self, int order, Kind kind, bint zero) noexcept nogil:
        cdef Ptdesc* d
        if self.locked:
            pthread_mutex_lock(&self.lock)
        d = self.take(order, kind, zero)
        if d is NULL and self.nr_aside:
            d = self.from_aside(order, kind, zero)
        if self.locked:
            pthread_mutex_unlock(&self.lock)
        return d

    cdef Ptdesc* take(self, int order, Kind kind, bint zero) noexcept nogil:
        cdef int pool = self.pool_of(order, kind)
        cdef int have = order
        cdef uint32_t frame
        cdef Ptdesc* d
        cdef uint32_t i
        if not may_allocate():
            return NULL
        if self.limbo.count:
            self.reap()
        while have < self.page_order and self.free_list[pool][have] == NO_FRAME:
            have += 1
        if have >= self.page_order:
            # No fragment is free, or a whole page is wanted.
            while have <= MAX_ORDER and self.free_list[<int>FREE][have] == NO_FRAME:
                have += 1
        if have > MAX_ORDER:
            if not self.grow():
                return NULL
            have = MAX_ORDER
        frame = self.free_list[pool if have < self.page_order else <int>FREE][have]
        self.unlink(frame)
        self.top = max(self.top, frame + (<uint32_t>1 << order))
        while have > order:
            if have == self.page_order:
                self.idle[pool] += <size_t>1 << have
                self.desc[frame].index = 0
                self.desc[frame].users = 0
            have -= 1
            self.push(frame + (<uint32_t>1 << have), have,
                      pool if have < self.page_order else <int>FREE)
        if pool != FREE:
            self.idle[pool] -= <size_t>1 << order
        d = &self.desc[frame]
        for i in range(<uint32_t>1 << order):
            # The second frame of a pair is the PTE table's side page.
            d[i].kind = SIDE if i and kind == PTE else kind
            if zero and d[i].dirty and d[i].kind == kind:
                memset(self.base + (<size_t>(frame + i) << self.frame_shift), 0,
                       self.frame_bytes)
            d[i].dirty = 1
            self.pages[d[i].kind] += 1
        d.order = <uint8_t>order
        d.pool = <uint8_t>pool
        d.parent = NULL
        d.link = 0
        d.vpn = 0
        d.flagged = 0
        d.used = 0
        d.hint = 0
        d.next = 0
        d.level = 0
        d.reached = 0
        return d

    cdef bint set_aside(self, size_t n, int order, Kind kind) noexcept nogil:
        cdef size_t before = self.nr_aside
        cdef bint done = True
        cdef Ptdesc* d
        while self.nr_aside < n:
            d = self.take(order, kind, False)
            if d is NULL:
                done = False
                n = before
                break
            d.next = self.aside
            self.aside = <uint32_t>(d - self.desc)
            self.nr_aside += 1
        while self.nr_aside > n:
            self.free_now(self.from_aside(order, kind, False))
        return done

    cdef Ptdesc* from_aside(self, int order, Kind kind, bint zero) noexcept nogil:
        """Return a block that was set aside, or NULL if none fits."""
        cdef Ptdesc* d = &self.desc[self.aside]
        if self.nr_aside == 0 or d.kind != kind or d.order < order:
            return NULL
        self.aside = d.next
        self.nr_aside -= 1
        d.next = 0
        if d.order > order:
            self.free_now(self.halve(d))
        if zero:
            memset(entries(self, d), 0, self.frame_bytes)
        return d

    cdef void free(self, Ptdesc* d) noexcept nogil:
        cdef Ptdesc* old
        if self.locked:
            pthread_mutex_lock(&self.lock)
        if self.limbo.count:
            self.reap()
        if any_reader():
            old = <Ptdesc*>room_for_one(&self.limbo)
            if old is not NULL:
                self.free_now(old)
            put_off(&self.limbo, d)
        else:
            self.free_now(d)
        if self.locked:
            pthread_mutex_unlock(&self.lock)

    cdef void reap(self) noexcept nogil:
        cdef Ptdesc* d
        while (d := <Ptdesc*>next_unseen(&self.limbo)) is not NULL:
            self.free_now(d)

    cdef void free_now(self, Ptdesc* d) noexcept nogil:
        cdef uint32_t i
        for i in range(<uint32_t>1 << d.order):
            self.pages[d[i].kind] -= 1
            d[i].kind = FREE
        self.give_back(<uint32_t>(d - self.desc), d.order, d.pool)

    cdef void free_upper_half(self, Ptdesc* d) noexcept nogil:
        self.free(self.halve(d))

    cdef Ptdesc* halve(self, Ptdesc* d) noexcept nogil:
        d.order = 0
        # If a page has two frames, this whole page becomes two fragments.
        d.pool = <uint8_t>self.pool_of(0, <Kind>d.kind)
        d[1].order = 0
        d[1].pool = d.pool
        return &d[1]

    cdef void give_back(self, uint32_t frame, int order, int pool) noexcept nogil:
        if pool != FREE:
            self.idle[pool] += <size_t>1 << order
            frame = self.join(frame, &order, self.page_order)
            if order < self.page_order:
                self.push(frame, order, pool)
                return
            # The page's last fragment.
            self.idle[pool] -= <size_t>1 << order
        frame = self.join(frame, &order, MAX_ORDER)
        self.push(frame, order, FREE)

    cdef inline uint32_t join(
            self, uint32_t frame, int* order, int most) noexcept nogil:
        """Join a block with its free buddies, up to 2**most frames."""
        cdef uint32_t buddy
        while order[0] < most:
            buddy = frame ^ (<uint32_t>1 << order[0])
            if self.desc[buddy].kind != FREE or self.desc[buddy].order != order[0]:
                break
            self.unlink(buddy)
            frame &= ~(<uint32_t>1 << order[0])
            order[0] += 1
        return frame

    cdef void push(self, uint32_t frame, int order, int pool) noexcept nogil:
        cdef Ptdesc* d = &self.desc[frame]
        d.kind = FREE
        d.order = <uint8_t>order
        d.pool = <uint8_t>pool
        list_add(self.desc, &self.free_list[pool][order], d)

    cdef void unlink(self, uint32_t frame) noexcept nogil:
        cdef Ptdesc* d = &self.desc[frame]
        list_del(self.desc, &self.free_list[d.pool][d.order], d)
        # The frame may become part of a larger block: a buddy must not match it.
        d.order = MAX_ORDER + 1

    cdef bint grow(self) noexcept nogil:
        """Make more blocks usable: an eighth of what there is, at least one."""
        cdef uint32_t more = (self.committed >> 3) & ~<uint32_t>(BLOCK - 1)
        cdef uint32_t frame = self.committed
        cdef char* p = self.base + (<size_t>frame << self.frame_shift)
        cdef size_t from_desc = align(frame * sizeof(Ptdesc), 4096)
        cdef size_t to_desc
        more = max(more, <uint32_t>BLOCK)
        if more > self.reserved - frame and not (
                self.extend_to(2 * self.reserved) or self.extend_to(frame + more)):
            more = self.reserved - frame
        if more < BLOCK or not affordable(<size_t>more << self.frame_shift):
            return False
        to_desc = align((frame + more) * sizeof(Ptdesc), 4096)
        if mprotect(p, <size_t>more << self.frame_shift, PROT_READ | PROT_WRITE):
            return False
        if mprotect(<char*>self.desc + from_desc, to_desc - from_desc,
                    PROT_READ | PROT_WRITE):
            return False
        if self.huge and frame:
            # If this is refused the pages are small, nothing else.
            madvise(p, <size_t>more << self.frame_shift, MADV_HUGEPAGE)
        if frame:
            # Charge the cgroup now, so that the next call of `affordable` sees it: an
            # operation allocates all memory before it uses any. Linux before 5.14
            # refuses this advice.
            madvise(p, <size_t>more << self.frame_shift, MADV_POPULATE_WRITE)
        self.committed = frame + more
        self.free_from(frame, frame + more)
        return True

    cdef const char* fault(self) noexcept nogil:
        """Return the broken invariant of the free lists, or NULL."""
        cdef size_t free_frames = 0
        cdef size_t in_use = 0
        cdef size_t idle
        cdef uint32_t frame
        cdef int order, kind, pool
        for pool in range(<int>NR_KINDS):
            idle = 0
            for order in range(MAX_ORDER + 1):
                frame = self.free_list[pool][order]
                if frame != NO_FRAME and pool != FREE and order >= self.page_order:
                    return b"a free page on a list of fragments"
                while frame != NO_FRAME:
                    if self.desc[frame].kind != FREE or (
                            self.desc[frame].order != order):
                        return b"a block on a free list is not free at that order"
                    if self.desc[frame].pool != pool:
                        return b"a free block is on another kind's list"
                    if frame & ((<uint32_t>1 << order) - 1):
                        return b"a free block is not aligned to its size"
                    idle += <size_t>1 << order
                    frame = self.desc[frame].next
            if pool != FREE and idle != self.idle[pool]:
                return b"the count of idle fragments is stale"
            free_frames += idle
        for kind in range(<int>UPPER, <int>NR_KINDS):
            in_use += self.pages[kind]
        if free_frames + in_use != self.committed:
            return b"frames neither free nor in use"
        return NULL

    def __getbuffer__(self, Py_buffer* view, int flags):
        cdef Py_ssize_t* dims
        if flags & PyBUF_WRITABLE:
            raise BufferError("page tables are written through PageTable only")
        dims = <Py_ssize_t*>PyMem_Malloc(4 * sizeof(Py_ssize_t))
        if dims is NULL:
            raise MemoryError("32 bytes for a buffer's shape")
        dims[0] = self.committed
        dims[1] = <Py_ssize_t>(self.frame_bytes // 8)
        dims[2] = <Py_ssize_t>self.frame_bytes
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


cdef inline size_t align(size_t n, size_t to) noexcept nogil:
    return (n + to - 1) & ~(to - 1)


cdef inline void munmap_if(char* p, size_t nbytes) noexcept nogil:
    if p is not NULL and nbytes:
        munmap(p, nbytes)
