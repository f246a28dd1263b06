"""Lockless readers, and memory that is freed when they are gone."""
from libc.stdint cimport uint32_t, uint64_t

from extmeta.memory.sync cimport relax

cdef enum:
    # Objects that a ring holds. If it is full, a writer waits for readers.
    LIMBO = 64

# Between these two calls a reader may follow any pointer it finds: memory that is
# unlinked meanwhile is not freed. `enter_epoch` returns what `leave_epoch` takes.
cdef int enter_epoch() noexcept nogil
cdef void leave_epoch(int slot) noexcept nogil

# For the child of fork(2), which has none of the threads that were reading.
cdef void forget_readers() noexcept nogil

# Whether a reader may see memory that was unlinked before this call.
cdef bint any_reader() noexcept nogil
# Begin an epoch; return the one that ends, in which the caller unlinked memory.
cdef uint64_t unlinked_now() noexcept nogil
# Whether all readers that came up to this epoch are gone.
cdef bint readers_gone(uint64_t since) noexcept nogil
# free() memory of malloc() when no reader can see it any more.
cdef void free_unseen(void* p) noexcept nogil

cdef struct Limbo:
    # A ring of unlinked memory that readers may still see, the oldest first.
    void* what[LIMBO]
    uint64_t[LIMBO] since
    uint32_t first
    uint32_t count


cdef inline void* next_unseen(Limbo* l) noexcept nogil:
    """Take out the oldest, if no reader sees it any more; else return NULL."""
    cdef uint32_t first = l.first
    if l.count == 0 or not readers_gone(l.since[first]):
        return NULL
    l.first = (first + 1) % LIMBO
    l.count -= 1
    return l.what[first]


cdef inline void put_off(Limbo* l, void* p) noexcept nogil:
    """Add memory that was just unlinked; the ring must have room."""
    cdef uint32_t at = (l.first + l.count) % LIMBO
    l.what[at] = p
    l.since[at] = unlinked_now()
    l.count += 1


cdef inline void* room_for_one(Limbo* l) noexcept nogil:
    """If the ring is full, wait for the oldest's readers and take it out; else NULL."""
    cdef void* p = NULL
    cdef int turn = 0
    while l.count == LIMBO and (p := next_unseen(l)) is NULL:
        turn += 1
        relax(turn)
    return p
