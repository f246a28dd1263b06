"""PageTable, for Cython callers.

The interface is `read_word` and `write_word` for words of one lane, and `find` and
`next_table` of `Radix`. Call them between `enter` and `leave`, which lock, if other
threads use the page table. `see_one` and `see_all`, a snapshot, need no lock;
`lock_table` and `unlock_table` of `frames` lock a PTE table. A consumer must be
compiled against the version of extmeta that it runs with: the layout of the classes may
change between minor versions.
"""
from extmeta.edge.words cimport WordMethods
from extmeta.table.vpns cimport Vpns

cdef class PageTable(WordMethods):
    cdef int bind_encoding(self, encoding, fields) except -1
    cdef PageTable empty_child(self, bint shared)
    cdef PageTable copied(self, bint shared)
    cdef pfns_of(self, pfns, Vpns v)
    cdef int swap_all(self, Vpns v, values, bint out) except -1
