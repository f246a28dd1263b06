"""How much memory this process may still get from the machine and its cgroups."""
from libc.stdint cimport int64_t

# Bytes; below 0 where nothing tells.
cdef int64_t available() noexcept nogil
# Whether so much more may be used. It is taken as used from then on.
cdef bint affordable(size_t nbytes) noexcept nogil
