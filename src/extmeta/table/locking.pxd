"""A page table's lock: one operation on all of it, or some on separate ranges."""
from libc.stdint cimport uint32_t, uint64_t

from extmeta.memory.frames cimport pthread_mutex_t
from extmeta.table.encoding cimport Encoding
from extmeta.table.pte cimport PteLayout
from extmeta.table.radix cimport Radix
from extmeta.table.vpns cimport Span

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_cond_t:
        pass
    int pthread_cond_init(pthread_cond_t*, void*)

cdef enum:
    # Operations on ranges of one page table that can run side by side.
    NR_RANGES = 16

cdef struct Range:
    # vpns [first, stop) that an operation has locked; unused if `stop` is 0.
    uint64_t first
    uint64_t stop
    bint writes

cdef class Locking(Radix):
    cdef readonly Encoding encoding
    cdef readonly object fields
    cdef PteLayout pte
    cdef Py_ssize_t entries           # of a PTE table
    cdef uint64_t nr_ptes
    cdef uint64_t nr_leaves
    cdef uint64_t leaf_ptes           # that a huge page stands for
    cdef uint64_t next_pfn
    cdef pthread_mutex_t lock
    cdef pthread_mutex_t* mutex       # the one in use: `lock`, or the family's
    # If the encoding is `parallel`: operations that don't change the tree lock ranges.
    # A thread that holds the mutex while there are no ranges has all.
    cdef bint parallel
    # The encoding runs Python under the mutex, in the thread `owner`.
    cdef bint calls_python
    cdef uint64_t owner
    cdef object __weakref__
    cdef Range[NR_RANGES] ranges
    cdef int nr_ranges
    cdef int nr_waiting               # for ranges to be unlocked
    cdef int nr_waiting_for_all
    cdef pthread_cond_t gone
    # Odd during a move: a lockless reader may see an entry without its word.
    cdef uint32_t moves
    cdef void abandon(self) noexcept nogil
    # Raises RuntimeError if __init__ has not been called.
    cdef inline int must_be_made(self) except -1:
        return self.refuse_unmade() if self.root is NULL else 0

    cdef int refuse_unmade(self) except -1
    cdef int take_mutex(self) except -1
    cdef void give_mutex(self) noexcept nogil
    # Lock all of the page table, for one operation.
    cdef int enter(self) except -1
    # For a short one: wait only for operations on the PTE table of ``vpn``.
    cdef int enter_at(self, uint64_t vpn, bint writes) except -1
    # Unlock, and raise the exception of an encoding in Python.
    cdef int leave(self) except -1
    # Unlock; if the operation failed, raise its refusal.
    cdef int leave_after(self, int failed) except -1
    # Lock the PTE tables of a span; return an argument for leave_span.
    cdef int enter_span(self, const Span* s, bint writes) except -2
    cdef int free_range(
        self, uint64_t first, uint64_t stop, bint writes) noexcept nogil
    cdef int leave_span(self, int range_, int failed) except -1
    cdef int raise_refusal(self) except -1
