"""Whether memory may be allocated: not in `no_allocation`, nor after `fail_after`.

In a build for tests an allocation under the lock of a page table aborts.
"""
from contextlib import contextmanager

from libc.stdint cimport int64_t, uint64_t

from extmeta.memory.sync cimport one_of, publish

cdef extern from *:
    """
    #include <stdio.h>
    #include <stdlib.h>
    /* Else a thread's first access allocates it, which ThreadSanitizer reports. */
    #define OF_A_THREAD static __thread __attribute__((tls_model("initial-exec")))
    /* Tables that this thread has locked. */
    OF_A_THREAD int extmeta_locked;
    #define note_locked_here(more) (extmeta_locked += (more))
    /* How many `no_allocation` blocks it is in. */
    OF_A_THREAD int extmeta_forbidden;
    #define forbid_here(more) (extmeta_forbidden += (more))
    #define is_forbidden() (extmeta_forbidden != 0)
    static void abort_if_locked(void)
    {
        if (extmeta_locked) {
            fputs("extmeta: allocation under the lock of a page table\\n", stderr);
            abort();
        }
    }
    """
    void note_locked_here(int more) noexcept nogil
    void abort_if_locked() noexcept nogil
    void forbid_here(int more) noexcept nogil
    bint is_forbidden() noexcept nogil


cdef void note_locked(int more) noexcept nogil:
    note_locked_here(more)


# Allocations that still succeed; below 0 there is no limit.
cdef int64_t allowance = -1


def fail_after(n=None):
    """Let the next ``n`` allocations succeed and all later ones fail.

    For tests of what happens when memory runs out. ``None`` lifts the limit.
    Counts blocks of table memory and objects of side memory, of all threads.
    """
    cdef int64_t left = -1 if n is None else n
    publish(<uint64_t*>&allowance, <uint64_t>left)


@contextmanager
def no_allocation():
    """Forbid this thread's operations on page tables to allocate.

    As under the kernel's page-table lock. They use the memory that
    :meth:`PageTable.reserve` has set aside. If it is too little they raise
    MemoryError, and the table is as it was. Compacting, which is optional, is put off.
    """
    forbid_here(1)
    try:
        yield
    finally:
        forbid_here(-1)


cdef bint may_allocate() noexcept nogil:
    if is_forbidden():
        return False
    if IS_DEBUG:
        abort_if_locked()
    return one_of(&allowance)
