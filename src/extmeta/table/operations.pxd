"""What is done to PTEs and their words, in C."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from extmeta.table.encoding cimport Encoding, Write
from extmeta.memory.frames cimport Ptdesc, entries, pthread_mutex_t
from extmeta.table.pte cimport equal, equal_in_pairs
from extmeta.table.radix cimport Radix
from extmeta.table.vpns cimport Run, Span

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_cond_t:
        pass
    int pthread_cond_init(pthread_cond_t*, void*)

cdef enum:
    # Operations at work on ranges of one page table at a time.
    NR_RANGES = 16

cdef enum:
    # Why an operation is refused; the first four are what first_unlike asks of entries.
    MAPPED, NONE, PRESENT, SWAPPED
    NO_MEMORY, UNFIT, IN_LEAF, IS_LEAF, CUT, NOT_FIRST

cdef int refuse_for(int why, uint64_t vpn) noexcept nogil
cdef int no_memory(size_t nbytes) noexcept nogil

cdef struct Found:
    # vpns that an operation finds under the lock; free() is the caller's.
    uint64_t* vpns
    Py_ssize_t n
    Py_ssize_t room

# See to it that there is room for as many more. -1 where no memory can be had.
cdef int room_for(Found* f, Py_ssize_t more) noexcept nogil

cdef struct Range:
    # vpns [first, stop); empty: nobody's.
    uint64_t first
    uint64_t stop
    bint writes

cdef class Operations(Radix):
    cdef readonly Encoding encoding
    cdef readonly object fields
    cdef uint64_t nr_ptes
    cdef uint64_t nr_leaves
    cdef uint64_t leaf_ptes           # that a huge page stands for
    cdef uint64_t next_pfn
    cdef pthread_mutex_t lock
    cdef pthread_mutex_t* mutex       # that is taken: `lock`, or the family's
    # Ranges that operations are at work on, which don't change the tree, where the
    # encoding is `parallel`. Whoever holds the mutex while there are none has all.
    cdef bint parallel
    # The encoding runs Python under the mutex, and the thread that it does so in.
    cdef bint calls_python
    cdef uint64_t owner
    cdef object __weakref__
    cdef Range[NR_RANGES] ranges
    cdef int nr_ranges
    cdef int nr_waiting               # for ranges to go
    cdef int nr_waiting_for_all
    cdef pthread_cond_t gone

    # A move is under way: odd. An entry may be seen without its word then.
    cdef uint32_t moves

    # All of the page table, for one operation.
    cdef int enter(self) except -1
    # The same for a short one, if nobody is at work on the PTE table of ``vpn``.
    cdef int enter_at(self, uint64_t vpn, bint writes) except -1
    # The PTE tables of a span. Return what leave_span takes.
    cdef int enter_span(self, const Span* s, bint writes) except -2
    cdef int leave_span(self, int range_) except -1
    cdef int free_range(
        self, uint64_t first, uint64_t stop, bint writes) noexcept nogil
    cdef int take_mutex(self) except -1
    cdef void give_mutex(self) noexcept nogil
    # Raises what went wrong in an encoding that is written in Python.
    cdef int leave(self) except -1
    cdef void abandon(self) noexcept nogil

    # The entry ``i`` of a PTE table.
    cdef inline uint64_t* pte_at(
            self, const Ptdesc* t, Py_ssize_t i) noexcept nogil:
        return entries(self.frames, t) + i * self.stride

    # A bit for each of n <= 64 entries from ``i`` on: (pte & mask) == value.
    cdef inline uint64_t like(
            self, const uint64_t* entry, Py_ssize_t i, Py_ssize_t n, uint64_t mask,
            uint64_t value) noexcept nogil:
        if self.stride == 1:
            return equal(entry + i, n, mask, value)
        return equal_in_pairs(entry + 2 * i, 0, n, mask, value)

    # The word of a PTE; 0 where there is none. Only the first lane.
    cdef uint64_t read_word(self, uint64_t vpn) noexcept nogil
    # Set the word of a mapped PTE, of one lane. -1 where the vpn isn't mapped,
    # memory can't be had or the entry can't hold the word; nothing has changed
    # then.
    cdef int write_word(self, uint64_t vpn, uint64_t word) noexcept nogil

    # Without a lock: the entry of a vpn, none where there is no table, and its word,
    # of all lanes. Both were there at one moment. Not if encoding.reading is LOCKED.
    cdef uint64_t see_one(self, uint64_t vpn, uint64_t* word) noexcept nogil
    cdef void see_all(
        self, const Span* s, uint64_t* ptes, uint64_t* words) noexcept nogil
    cdef bint see_run(
        self, const Ptdesc* t, const Run* r, uint64_t* ptes,
        uint64_t* words) noexcept nogil
    cdef bint see_entry(
        self, const Ptdesc* t, uint64_t vpn, uint64_t* pte,
        uint64_t* word) noexcept nogil
    cdef bint see_each(
        self, const Ptdesc* t, const Run* r, uint64_t* ptes,
        uint64_t* words) noexcept nogil
    cdef void copy_entries(
        self, const Ptdesc* t, const Run* r, uint64_t* ptes) noexcept nogil
    # The entries of a span, under the lock.
    cdef void read_ptes(self, const Span* s, uint64_t* ptes) noexcept nogil

    # The table of the span's ``at``-th vpn, and the run of it from there on; NULL
    # and a run of vpns that have no table.
    cdef Ptdesc* run_at(self, const Span* s, Py_ssize_t at, Run* r) noexcept nogil
    cdef int write(
        self, const Span* s, const Write* w, bint all_mapped) noexcept nogil
    # Find vpns whose word is as wanted, and the first vpns of the PTE tables.
    cdef int find_words(
        self, const Span* s, const uint64_t* mask, const uint64_t* value,
        Found* found) noexcept nogil
    cdef int find_tables(self, Found* found) noexcept nogil
    # First vpn and pfn of each leaf, and whether it has a deposited table.
    cdef int find_leaves(self, Found* found) noexcept nogil
    cdef int put_leaves(
        self, const Span* s, const uint64_t* pfns, bint deposit) noexcept nogil
    cdef void begin(self, const Span* s) noexcept nogil
    cdef void read(self, const Span* s, uint64_t* words) noexcept nogil
    # 1 where a PTE has a word; `flags` is 0.
    cdef void read_flags(self, const Span* s, uint8_t* flags) noexcept nogil
    cdef void settle(self, const Span* s, Py_ssize_t upto) noexcept nogil
    cdef int store_run(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil
    cdef int put(
        self, const Span* s, const uint64_t* pfns, uint64_t bits) noexcept nogil
    cdef uint64_t make_pages(
        self, uint64_t* entry, const Run* r, const uint64_t* pfns,
        uint64_t next_pfn, uint64_t bits) noexcept nogil
    # Let PTE tables map what the huge leaves of n vpns do, all with one word; pfns as
    # the leaves say where `pfns` is NULL.
    cdef int split(
        self, uint64_t first, uint64_t n, const uint64_t* pfns, const Write* w,
        uint64_t bits) noexcept nogil
    cdef Ptdesc* split_one(
        self, uint64_t vpn, uint64_t* slot, const uint64_t* pfns, const Write* w,
        uint64_t bits) noexcept nogil
    # Map a huge page at ``vpn``, where nothing is mapped or a huge page that was named
    # before; False if no memory can be had.
    cdef bint put_leaf(self, uint64_t vpn, uint64_t pfn, bint deposit) noexcept nogil
    cdef Ptdesc* new_table(self, int order) noexcept nogil
    cdef bint deposit_one(self, uint64_t* slot) noexcept nogil
    cdef void unmake(self, Ptdesc* t) noexcept nogil
    # Have set aside what one operation on each of n tables may need; see
    # Encoding.set_aside.
    cdef bint set_aside(self, size_t n) noexcept nogil
    cdef void drop_empty(self, const Span* s, Py_ssize_t upto) noexcept nogil
    # Drop what is mapped in [first, stop); no huge leaf may be cut.
    cdef void drop(self, uint64_t first, uint64_t stop) noexcept nogil
    cdef void clear(
        self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil
    cdef void clear_leaf(self, uint64_t* slot) noexcept nogil
    cdef bint in_leaf(self, uint64_t vpn) noexcept nogil
    cdef Py_ssize_t first_unlike(
        self, const Ptdesc* t, const Run* r, int wanted) noexcept nogil
    # These note why an operation is refused, and return -1. What they noted is raised
    # by raise_refusal when no lock is held any more.
    cdef int refuse(self, uint64_t vpn, int wanted) noexcept nogil
    cdef int refuse_word(
        self, uint64_t vpn, const Write* w, Py_ssize_t i) noexcept nogil
    # An edge inside a huge page; anything that is mapped in [first, end).
    cdef int cuts_leaf(self, uint64_t edge) noexcept nogil
    cdef int refuse_used(self, uint64_t first, uint64_t end) noexcept nogil
    cdef int raise_refusal(self) except -1
    cdef int exchange(
        self, const Span* s, const uint64_t* to, bint out) noexcept nogil
    cdef int graft(self, Operations parent) noexcept nogil
    # Move n PTEs; nothing may be mapped at ``dst``.
    cdef int carry_over(self, uint64_t src, uint64_t dst, uint64_t n) noexcept nogil
    cdef uint64_t next_moved(
        self, uint64_t at, uint64_t stop) noexcept nogil
    cdef uint64_t chunk(
        self, uint64_t src, uint64_t stop, uint64_t dst) noexcept nogil
    cdef int move_run(
        self, uint64_t src, uint64_t dst, Py_ssize_t n, bint prepare) noexcept nogil
    cdef void tidy(self, uint64_t first, uint64_t stop) noexcept nogil
