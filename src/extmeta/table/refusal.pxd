"""Why an operation is refused, and the vpns that one finds."""
from libc.stdint cimport uint64_t

cdef enum:
    # Why an operation is refused. The first four: an entry is not as `wanted`.
    MAPPED, NONE, PRESENT, SWAPPED
    NO_MEMORY, UNFIT, IN_LEAF, IS_LEAF, CUT, NOT_FIRST

cdef extern from *:
    """
    #include <stdint.h>
    #ifndef EXTMETA_NO
    #define EXTMETA_NO
    typedef struct { int why, swapped; uint64_t vpn, word; size_t nbytes; } extmeta_no;
    #endif
    """
    ctypedef struct Refusal "extmeta_no":
        int why
        bint swapped
        uint64_t vpn
        uint64_t word
        size_t nbytes

# The refusal of this thread's last operation that failed.
cdef Refusal* refusal() noexcept nogil
# Note a refusal, and return -1. `raise_refusal` raises it when no lock is held.
cdef int refuse_for(int why, uint64_t vpn) noexcept nogil
cdef int no_memory(size_t nbytes) noexcept nogil

cdef struct Found:
    # vpns that an operation finds under the lock; the caller calls free().
    uint64_t* vpns
    Py_ssize_t n
    Py_ssize_t room

# Make room for `more` vpns. -1 if no memory can be had.
cdef int room_for(Found* f, Py_ssize_t more) noexcept nogil
