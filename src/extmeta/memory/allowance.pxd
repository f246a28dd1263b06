"""Whether memory may be allocated."""

# False in `no_allocation`, or if the limit of `fail_after` is reached. A build for
# tests aborts if the caller has a table locked.
cdef bint may_allocate() noexcept nogil

cdef extern from *:
    """
    #ifdef EXTMETA_DEBUG
    #define EXTMETA_IS_DEBUG 1
    #else
    #define EXTMETA_IS_DEBUG 0
    #endif
    """
    const bint IS_DEBUG "EXTMETA_IS_DEBUG"

cdef void note_locked(int more) noexcept nogil
