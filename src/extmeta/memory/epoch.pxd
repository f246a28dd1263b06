"""Readers without a lock, and what waits until they are gone."""
from libc.stdint cimport uint32_t, uint64_t

from extmeta.memory.sync cimport relax

cdef enum:
    # Pieces of memory that may wait in one place; then a writer waits.
    LIMBO = 64

# Between them a reader may follow any pointer it finds; what is unlinked meanwhile is
# not freed. `enter_epoch` returns what `leave_epoch` takes. Short, and never blocks.
cdef int enter_epoch() noexcept nogil
cdef void leave_epoch(int slot) noexcept nogil

# In the child of a fork(2), where the threads that were reading are not.
cdef void forget_readers() noexcept nogil

# Whether a reader may see what was unlinked before this call.
cdef bint any_reader() noexcept nogil
# The epoch of what is unlinked before this call.
cdef uint64_t unlinked_now() noexcept nogil
# Whether all readers of that time are gone.
cdef bint readers_gone(uint64_t since) noexcept nogil
# free() what malloc() gave, at once or when no reader can see it any more.
cdef void free_unseen(void* p) noexcept nogil

cdef struct Limbo:
    # What is unlinked and may still be seen: a ring, the oldest first.
    void* what[LIMBO]
    uint64_t[LIMBO] since
    uint32_t first
    uint32_t count


cdef inline void* next_unseen(Limbo* l) noexcept nogil:
    """Take out the oldest if nobody sees it any more; else NULL."""
    cdef uint32_t first = l.first
    if l.count == 0 or not readers_gone(l.since[first]):
        return NULL
    l.first = (first + 1) % LIMBO
    l.count -= 1
    return l.what[first]


cdef inline void put_off(Limbo* l, void* p) noexcept nogil:
    """Add what was just unlinked; there must be room."""
    cdef uint32_t at = (l.first + l.count) % LIMBO
    l.what[at] = p
    l.since[at] = unlinked_now()
    l.count += 1


cdef inline void* room_for_one(Limbo* l) noexcept nogil:
    """Return the oldest, waiting for its readers, if the ring is full; else NULL."""
    cdef void* p
    cdef int turn = 0
    if l.count < LIMBO:
        return NULL
    while True:
        p = next_unseen(l)
        if p is not NULL:
            return p
        turn += 1
        relax(turn)
