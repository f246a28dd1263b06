"""How much memory this process may still get from the machine and its cgroups."""
from libc.stdint cimport int64_t

# In bytes; below 0 if it is unknown.
cdef int64_t available() noexcept nogil
# Whether nbytes more may be used. If so, they count as used from now on.
cdef bint affordable(size_t nbytes) noexcept nogil
