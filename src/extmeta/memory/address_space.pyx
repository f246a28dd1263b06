"""Reserve address space, without memory yet, for mappings that grow in place."""
from libc.stdint cimport uint32_t, uintptr_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <sys/mman.h>
    #ifndef MAP_FIXED_NOREPLACE
    #define MAP_FIXED_NOREPLACE 0x100000 /* include/uapi/asm-generic/mman-common.h */
    #endif
    static uint32_t extmeta_next_place;
    #define extmeta_next_number() \\
        __atomic_fetch_add(&extmeta_next_place, 1, __ATOMIC_RELAXED)
    """
    uint32_t next_number "extmeta_next_number"() noexcept nogil
    const int MAP_FIXED_NOREPLACE

cdef enum:
    # Places for mappings, 1 GiB apart. They lie below programs and what mmap(NULL)
    # returns, and avoid the round addresses that tests like to use.
    PLACE_BITS = 15
    PLACE_SHIFT = 30
    PLACES_TRIED = 64
cdef uintptr_t FIRST_PLACE = <uintptr_t>0x2a8 << 36


cdef void* reserve(size_t nbytes) noexcept nogil:
    cdef void* p = mmap(
        NULL, nbytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    return NULL if p == MAP_FAILED else p


cdef void* reserve_apart(size_t nbytes) noexcept nogil:
    # A place is the bits of a counter in reverse: the first ones are terabytes apart.
    cdef uint32_t number, place
    cdef void* wanted
    cdef void* p
    cdef int bit, _
    for _ in range(PLACES_TRIED):
        number = next_number()
        place = 0
        for bit in range(PLACE_BITS):
            place = place << 1 | (number >> bit & 1)
        wanted = <void*>(FIRST_PLACE + (<uintptr_t>place << PLACE_SHIFT))
        p = mmap(wanted, nbytes, PROT_NONE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if p == wanted:
            return p
        if p != MAP_FAILED:
            munmap(p, nbytes)
    return NULL


cdef bint extend(char* end, size_t nbytes) noexcept nogil:
    """Reserve the addresses behind a mapping; False if they are not free."""
    cdef void* p = mmap(
        end, nbytes, PROT_NONE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0)
    if p == MAP_FAILED:
        return False
    if p != <void*>end:
        # Before Linux 4.17 the flag is ignored, and the address is a hint.
        munmap(p, nbytes)
        return False
    return True
