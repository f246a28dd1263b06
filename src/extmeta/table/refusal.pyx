"""Refusals: noted without the GIL, raised when no lock is held."""
from libc.stdint cimport uint64_t
from libc.stdlib cimport realloc

cdef extern from *:
    """
    static __thread __attribute__((tls_model("initial-exec"))) extmeta_no extmeta_why;
    #define extmeta_refusal() (&extmeta_why)
    """
    Refusal* why_of_this_thread "extmeta_refusal"() noexcept nogil

cdef enum:
    # vpns that the first allocation has room for: 64 KiB, which a cache holds.
    FOUND_AT_ONCE = 8192


cdef Refusal* refusal() noexcept nogil:
    return why_of_this_thread()


cdef int refuse_for(int why, uint64_t vpn) noexcept nogil:
    cdef Refusal* r = refusal()
    r.why = why
    r.vpn = vpn
    return -1


cdef int no_memory(size_t nbytes) noexcept nogil:
    refusal().nbytes = nbytes
    return refuse_for(NO_MEMORY, 0)


cdef int room_for(Found* f, Py_ssize_t more) noexcept nogil:
    cdef Py_ssize_t room
    cdef uint64_t* vpns
    if f.n + more <= f.room:
        return 0
    room = max(f.n + more, 2 * f.room, <Py_ssize_t>FOUND_AT_ONCE)
    vpns = <uint64_t*>realloc(f.vpns, room * sizeof(uint64_t))
    if vpns is NULL:
        return no_memory(room * sizeof(uint64_t))
    f.vpns = vpns
    f.room = room
    return 0
