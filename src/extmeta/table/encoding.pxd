"""The interface of an encoding: one way to keep the metadata words of PTE tables.

The page table calls it with a descriptor and a run of entries, never with one
entry at a time, so the loop is inside. A word is `lanes` uint64 long. An entry
that holds nothing (`pte.none`) has no word; whether an entry that holds
something has one is the encoding's to record.

What is written is always word = (word & keep) | add. `keep` is one word for the
whole run; `add` has a word for each entry, `step` = lanes apart, or one for all,
`step` = 0.

To add an encoding: see CONTRIBUTING.md; nothing outside its own file changes
but a line in encodings/__init__.py.
"""
from libc.stdint cimport uint64_t

from extmeta.memory.frames cimport Frames, Ptdesc
from extmeta.table.pte cimport PteLayout
from extmeta.table.vpns cimport Run

cdef enum:
    MAX_LANES = 8         # words of up to 512 bits

cdef enum:
    # When an encoding has to be asked whether entries can hold their words.
    NEVER, WHEN_ADDING, ALWAYS

cdef enum Reading:
    # How a lockless reader gets words: not at all, or `see` without a lock. Then its
    # count of changes tells whether a table stayed as it was; a clear flag alone tells
    # that there is no word; or the entry alone tells the word.
    LOCKED, COUNTED, FLAGGED, ALONE

cdef struct Write:
    const uint64_t* keep
    const uint64_t* add
    Py_ssize_t step

cdef class Encoding:
    cdef readonly int bits        # of a word
    cdef readonly int lanes       # uint64s of a word
    cdef readonly int order       # pages of a new PTE table: 2**order
    cdef int worded_order         # and of one that has words
    cdef readonly object fields
    cdef readonly object arch
    cdef PteLayout pte
    cdef Py_ssize_t entries       # of a PTE table
    cdef Frames frames            # of the page table that this one serves
    # A write that only clears may need memory too.
    cdef bint copies
    # NEVER, or before which writes, and swap-outs then, to ask first_unfit.
    cdef int asks
    # What `snapshot` does. To be set by hold().
    cdef Reading reading
    # Operations on different tables may be at work at a time: nothing that they
    # change is shared, or it has a lock. To be set by hold().
    cdef readonly bint parallel
    # How often an upper entry that led to a table in use was made to lead to another.
    cdef readonly size_t repointings
    # Words belong to pages: PTEs of the same pfn share one. Then `carry` is told of
    # every entry that is made, and `family` is the pthread_mutex_t of all page
    # tables that share pages, which takes the place of each one's own.
    cdef readonly bint by_page
    cdef void* family
    # What it may need later can be set aside: it defines set_aside. Off by default.
    cdef readonly bint reserves
    # A table with words has a link, or a count of flags, in its descriptor. On by
    # default. If tables share a page, the table charges a place for these.
    cdef bint uses_descriptor
    # An exception that C could not pass on: the page table raises it when the
    # operation is over. None in an encoding written in C.
    cdef object pending

    # Its methods run Python while the page table is locked, so they can be called again
    # by what they run. The page table refuses that.
    cdef readonly bint calls_python

    # A copy of a page table is made of `parent`, with which it may share memory if it
    # is a fork. begin_fork is called before the parent is locked and may make Python
    # objects; by default it calls `start`, which is called where there is no parent.
    # copy_all is called under the lock, and returns -1 where no memory can be had.
    # Then `fork` is called for each table, and end_fork in any case.
    cdef int begin_fork(self, Encoding parent, bint shared) except -1
    cdef int copy_all(self, Encoding parent) noexcept nogil
    cdef void end_fork(self) noexcept nogil

    # Return the index in the run of the first entry that can't hold what `w` would
    # make of its word, or its word itself once it is swapped out, where `w` is
    # NULL; -1 if there is none. What is refused is said by `unfit`.
    cdef Py_ssize_t first_unfit(
        self, const Ptdesc* t, const Run* r, const Write* w) noexcept nogil
    # May allocate: [dst, dst + n), where nothing is mapped, is about to take over
    # what [src, src + n) has. -1 where no memory can be had.
    cdef int follow(self, uint64_t src, uint64_t dst, uint64_t n) noexcept nogil

    # May allocate: make room for `w` to be stored. Called for every run of an
    # operation, perhaps several of one table, before the first store; room must
    # be left for them all. Returns the table, which may have moved, or NULL
    # where no memory can be had; then nothing has changed.
    cdef Ptdesc* prepare(
        self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil
    # May allocate: give `child`, a copy of the entries of `t` that `self` serves,
    # the words of `t`, which `parent` serves. -1 where no memory can be had.
    cdef int fork(
        self, Encoding parent, const Ptdesc* t, Ptdesc* child) noexcept nogil

    # May allocate: entries follow that map n pfns, from `first` on where `pfns` is
    # NULL. -1 where no memory can be had. Only asked if `by_page`.
    cdef int admit(
        self, const uint64_t* pfns, uint64_t first, Py_ssize_t n) noexcept nogil
    # The first of n pfns that are of no page yet; this page table has used those
    # below `next_`.
    cdef uint64_t fresh_pfns(self, uint64_t next_, uint64_t n) noexcept nogil

    # May allocate, and do without: an operation on [first, stop) follows, which has
    # at most `nr_ptes` entries; `dying`: all are zapped.
    cdef void begin(
        self, uint64_t first, uint64_t stop, uint64_t nr_ptes,
        bint dying) noexcept nogil
    # May allocate, and do without: an operation is over, done or failed; give back
    # what it needed and what words that are gone leave unused.
    cdef void end(self) noexcept nogil

    # From here on nothing fails and nothing is allocated: all of it may run
    # under the table's lock.
    cdef void load(
        self, const Ptdesc* t, const Run* r, uint64_t* words) noexcept nogil
    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil
    # Lockless: the words of the run's entries, as `ptes` has them; 0 where one is none.
    # The table and what its link leads to may change meanwhile: read each link once,
    # and stay in what it named. What can be seen is not freed. Return False where
    # what was found can't be of one moment; only the table's own count need not be
    # looked at. Only asked if `reading` is not LOCKED.
    cdef bint see(
        self, const Ptdesc* t, const Run* r, const uint64_t* ptes,
        uint64_t* words) noexcept nogil
    # Write the vpns of [first, last) where (word & mask) == value to `vpns`,
    # ascending; return how many they are. value & ~mask is 0.
    cdef Py_ssize_t scan(
        self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
        const uint64_t* mask, const uint64_t* value, uint64_t* vpns) noexcept nogil
    # Forget the words of [first, last); the entries are cleared next.
    cdef void zap(self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil
    # Give back what the table's words no longer need. A table whose `next` is not 0
    # or that has no flag left is settled before the operation ends.
    cdef void settle(self, Ptdesc* t) noexcept nogil
    # Return `to`, the entry without metadata that replaces `pte`, with what it
    # must carry: its flag, or its word. If `by_page`, `pte` may be none as well.
    cdef uint64_t carry(self, uint64_t pte, uint64_t to) noexcept nogil

    # May allocate: let the words have less memory, if that is worth it.
    cdef void trim(self, Ptdesc* t) noexcept nogil

    # May allocate: have set aside, PTE tables apart, what one operation on each of n
    # tables may need, for when no memory can be had; False where there is none for
    # that, and then as much as before. And how many bytes of side memory that is.
    cdef bint set_aside(self, size_t n) noexcept nogil
    cdef size_t aside_bytes(self) noexcept nogil

    # Whether other page tables use this one's side memory. If so, each table's share
    # of it is asked for, and before the page table goes it lets go of each table's,
    # and then of them all.
    cdef bint sharing(self) noexcept nogil
    cdef size_t table_bytes(self, const Ptdesc* t) noexcept nogil
    cdef void leave(self, Ptdesc* t) noexcept nogil
    cdef void retire(self) noexcept nogil

    # Free what no reader without a lock can see any more.
    cdef void reap(self) noexcept nogil
    # Bytes of side memory in use, and of the pages that hold it.
    cdef size_t side_bytes(self) noexcept nogil
    cdef size_t held_bytes(self) noexcept nogil
    # Bytes of what finds the words, where the page table does not.
    cdef size_t index_bytes(self) noexcept nogil
    # Return the broken invariant, or NULL.
    cdef const char* fault(self, const Ptdesc* t) noexcept nogil
