"""A page table's lock: one operation on all of it, or some on separate ranges."""
from cython cimport no_gc_clear
from libc.stdint cimport uint64_t

from extmeta.memory.frames cimport Ptdesc, pthread_mutex_t
from extmeta.table.refusal cimport (
    CUT, IN_LEAF, IS_LEAF, MAPPED, NONE, NOT_FIRST, NO_MEMORY, PRESENT, Refusal,
    SWAPPED, UNFIT, refusal,
)
from extmeta.table.vpns cimport Span

cdef extern from "pthread.h" nogil:
    int pthread_mutex_init(pthread_mutex_t*, void*)
    int pthread_mutex_destroy(pthread_mutex_t*)
    int pthread_mutex_lock(pthread_mutex_t*)
    int pthread_mutex_trylock(pthread_mutex_t*)
    int pthread_mutex_unlock(pthread_mutex_t*)
    int pthread_cond_destroy(pthread_cond_t*)
    int pthread_cond_wait(pthread_cond_t*, pthread_mutex_t*)
    int pthread_cond_broadcast(pthread_cond_t*)
    uint64_t this_thread "pthread_self"()


@no_gc_clear
cdef class Locking(Radix):

    def __cinit__(self):
        pthread_mutex_init(&self.lock, NULL)
        pthread_cond_init(&self.gone, NULL)
        self.mutex = &self.lock
        # Until __init__ is called: an encoding that keeps nothing.
        self.encoding = Encoding.__new__(Encoding)

    def __dealloc__(self):
        if self.encoding is not None and self.root is not NULL:
            self.abandon()
        pthread_cond_destroy(&self.gone)
        pthread_mutex_destroy(&self.lock)

    cdef void abandon(self) noexcept nogil:
        """Drop the references to side memory that other page tables use too."""
        cdef uint64_t at = 0
        cdef Ptdesc* t
        if not self.encoding.sharing():
            return
        self.encoding.set_aside(0)
        while (t := self.next_table(&at, self.nr_vpns)) is not NULL:
            self.encoding.unshare(t)
            at = t.vpn + <uint64_t>self.entries
        self.encoding.retire()

    cdef int refuse_unmade(self) except -1:
        raise RuntimeError(f"a {type(self).__name__} that __init__ was not called for")

    cdef int take_mutex(self) except -1:
        self.must_be_made()
        if pthread_mutex_trylock(self.mutex):
            if self.calls_python and self.owner == this_thread():
                raise RuntimeError(
                    f"{self.encoding!r} is at work on this page table, in this thread: "
                    "what it calls can't use the page table")
            # The owner may need the GIL.
            with nogil:
                pthread_mutex_lock(self.mutex)
        if self.calls_python:
            self.owner = this_thread()
        return 0

    cdef void give_mutex(self) noexcept nogil:
        self.owner = 0
        pthread_mutex_unlock(self.mutex)

    cdef int enter(self) except -1:
        self.take_mutex()
        if self.nr_ranges == 0:
            return 0
        with nogil:
            # No further range is locked meanwhile, so that this wait ends.
            self.nr_waiting_for_all += 1
            while self.nr_ranges:
                pthread_cond_wait(&self.gone, self.mutex)
            self.nr_waiting_for_all -= 1
        return 0

    cdef int enter_at(self, uint64_t vpn, bint writes) except -1:
        self.take_mutex()
        if self.nr_ranges == 0:
            return 0
        with nogil:
            self.nr_waiting += 1
            while self.free_range(vpn, vpn + 1, writes) < 0:
                pthread_cond_wait(&self.gone, self.mutex)
            self.nr_waiting -= 1
        return 0

    cdef int leave(self) except -1:
        cdef object error
        if self.nr_waiting:
            # Threads that want a range have waited for this operation, too.
            pthread_cond_broadcast(&self.gone)
        if self.encoding.pending is None:
            self.give_mutex()
            return 0
        error = self.encoding.pending
        self.encoding.pending = None
        self.give_mutex()
        # Keep its own cause: the operation may have failed with MemoryError since.
        raise error from error.__cause__

    cdef int leave_after(self, int failed) except -1:
        self.leave()
        return self.raise_refusal() if failed else 0

    cdef int enter_span(self, const Span* s, bint writes) except -2:
        cdef uint64_t first = s.first
        cdef uint64_t last = s.first + <uint64_t>s.n - 1
        cdef Py_ssize_t i
        cdef int range_
        if not self.parallel or s.n == 0:
            self.enter()
            return -1
        if s.vpns is not NULL:
            first = last = s.vpns[0]
            with nogil:
                for i in range(s.n):
                    first = min(first, s.vpns[i])
                    last = max(last, s.vpns[i])
        first = first >> self.table_bits << self.table_bits
        last = (last >> self.table_bits) + 1 << self.table_bits
        self.take_mutex()
        range_ = -1 if self.nr_waiting_for_all else self.free_range(
            first, last, writes)
        if range_ < 0:
            with nogil:
                self.nr_waiting += 1
                while range_ < 0:
                    pthread_cond_wait(&self.gone, self.mutex)
                    if self.nr_waiting_for_all == 0:
                        range_ = self.free_range(first, last, writes)
                self.nr_waiting -= 1
        self.ranges[range_].first = first
        self.ranges[range_].stop = last
        self.ranges[range_].writes = writes
        self.nr_ranges += 1
        self.give_mutex()
        return range_

    cdef int free_range(
            self, uint64_t first, uint64_t stop, bint writes) noexcept nogil:
        """Return the index of an unused range; -1 if there is none, or a conflict.

        Only reads may overlap.
        """
        cdef int found = -1
        cdef const Range* other
        cdef int i
        if self.nr_ranges == 0:
            return 0
        for i in range(NR_RANGES):
            other = &self.ranges[i]
            if other.stop == 0:
                found = i
            elif other.first < stop and first < other.stop and (
                    writes or other.writes):
                return -1
        return found

    cdef int leave_span(self, int range_, int failed) except -1:
        if range_ < 0:
            return self.leave_after(failed)
        self.take_mutex()
        self.ranges[range_].stop = 0
        self.nr_ranges -= 1
        if self.nr_waiting or self.nr_waiting_for_all:
            pthread_cond_broadcast(&self.gone)
        self.give_mutex()
        return self.raise_refusal() if failed else 0

    cdef int raise_refusal(self) except -1:
        """Raise the refusal that `refuse_for` noted. The caller holds no lock."""
        cdef Refusal r = refusal()[0]
        vpn = f"vpn {r.vpn:#x}"
        if r.why == NO_MEMORY:
            raise MemoryError(
                f"{r.nbytes} bytes for page tables or their side memory")
        if r.why == UNFIT:
            why = self.encoding.unfit(r.vpn, r.word, r.swapped)
            raise ValueError(f"{vpn}: {self.encoding!r}: {why}")
        raise ValueError(f"{vpn} " + {
            NONE: "is mapped already",
            MAPPED: "is not mapped",
            PRESENT: "is swapped out already",
            SWAPPED: "is present, not swapped out",
            IN_LEAF: "is mapped already, by a huge page",
            IS_LEAF: "is in a huge page",
            CUT: "is inside a huge page; unmap all of it",
            NOT_FIRST: "is not the first of a huge page",
        }[r.why])
