"""What is known about a page: a row of `physical.Physical.pages`."""
from libc.stdint cimport uint8_t, uint32_t

# `physical.PAGE` says what each means.
cdef struct Page:
    uint32_t mapcount
    uint32_t head
    uint32_t slot
    uint8_t file
    uint8_t written
    uint8_t exclusive
    uint8_t lazy
    uint32_t writes

cdef inline bint is_alone(const Page* page) noexcept nogil:
    return page.mapcount == 1 and page.head == 0 and (
        page.slot == 0 and not page.file)
