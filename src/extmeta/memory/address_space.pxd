"""Reserve address space for mappings; the system calls for that."""

cdef extern from "sys/mman.h" nogil:
    void* mmap(void*, size_t, int, int, int, long)
    int munmap(void*, size_t)
    int mprotect(void*, size_t, int)
    int madvise(void*, size_t, int)
    const int PROT_NONE, PROT_READ, PROT_WRITE
    const int MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE
    const int MADV_HUGEPAGE
    void* MAP_FAILED

# Reserve address space; NULL if there is none. What `reserve_apart` returns has free
# addresses behind it, so that `extend` can make it grow.
cdef void* reserve(size_t nbytes) noexcept nogil
cdef void* reserve_apart(size_t nbytes) noexcept nogil
cdef bint extend(char* end, size_t nbytes) noexcept nogil
