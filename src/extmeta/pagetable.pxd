"""PageTable, for Cython callers.

What is promised here: `read_word` and `write_word` for words of one lane, and the
walk of `Radix`, find and next_table. Hold the lock around them, by `enter` and
`leave`, if other threads use the same table. `see_one` and `see_all`, a snapshot, need
none; `lock_table` and `unlock_table` of `frames` are a PTE table's own. A consumer
must be compiled against the version of extmeta that it runs with: the layout of the
classes may change between minor versions.
"""
from extmeta.edge.words cimport WordMethods
from extmeta.table.vpns cimport Vpns

cdef class PageTable(WordMethods):
    cdef int bind_encoding(self, encoding, fields) except -1
    cdef PageTable copied(self, bint shared)
    cdef int swap_all(self, Vpns v, values, bint out) except -1
