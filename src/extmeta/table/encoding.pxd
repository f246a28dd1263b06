"""The waist: what an encoding of the words of PTE tables promises the page table.

The table owns PTEs, descriptors and places for links; an encoding owns words. The table
calls it with a descriptor and a run of entries, so that the loop is inside. A word is
`lanes` uint64 long. An entry that holds nothing (`pte.none`) has no word.

A write is always word = (word & keep) | add. `keep` is one word for the whole run.
`add` has a word for each entry, `step` = lanes apart, or one for all with `step` = 0.

Required are `configure`, `prepare`, `load`, `store` and `side_bytes`. The defaults of
what follows them are right for every encoding that has these; most are slow. Then come
capabilities, each off by default. CONTRIBUTING.md leads through the stages.
"""
from libc.stdint cimport uint64_t

from extmeta.memory.frames cimport Frames, Ptdesc
from extmeta.memory.slabs cimport Slabs
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
    cdef readonly object fields
    cdef readonly object arch
    cdef PteLayout pte
    cdef Py_ssize_t entries       # of a PTE table
    cdef Frames frames            # of the page table that this one serves
    # Side memory. If configure() makes it, each table's link is NULL or an object of it,
    # which the default `settle` frees once the table has no word.
    cdef Slabs objects
    # An exception that C could not pass on: the page table raises it when the operation
    # is over. None in an encoding written in C.
    cdef object pending

    # -- required --------------------------------------------------------------
    # `configure`, in Python: refuse fields that don't fit, and size what holds words.

    # May allocate: make room for `w` to be stored. Called for every run of an
    # operation, perhaps several of one table, before the first store; room must be left
    # for them all. Returns the table, which may have moved, or NULL if no memory can be
    # had; then nothing has changed.
    cdef Ptdesc* prepare(
        self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil
    # These two run under the table's lock: they don't fail, and allocate nothing. If a
    # table with words has a link or sets flags, `store` counts the entries that have a
    # word in `t.flagged`.
    cdef void load(
        self, const Ptdesc* t, const Run* r, uint64_t* words) noexcept nogil
    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil
    # Bytes of side memory in use.
    cdef size_t side_bytes(self) noexcept nogil

    # -- defaults that are right -------------------------------------------------

    # A table with words has a link, or a count of flags, in its descriptor. On by
    # default. If tables share a page, the table charges a place for these.
    cdef bint uses_descriptor
    # A write that only clears may need memory too, so `prepare` is called for it.
    cdef bint copies
    # Pages of a new PTE table, 2**order, and of one that has words.
    cdef readonly int order
    cdef int worded_order
    # How often an upper entry that led to a table in use was made to lead to another.
    cdef readonly size_t repointings
    # Give back what the table's words no longer need. A table whose `next` is not 0, or
    # that has no word left, is settled before the operation ends.
    cdef void settle(self, Ptdesc* t) noexcept nogil
    # May allocate: let the words have less memory, if that is worth it. Called after
    # `settle` if `next` is not 0.
    cdef void trim(self, Ptdesc* t) noexcept nogil
    # Forget the words of [first, last); the entries are cleared next.
    cdef void zap(self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil
    # Write the vpns of [first, last) with (word & mask) == value to `vpns`, ascending;
    # return how many they are. value & ~mask is 0.
    cdef Py_ssize_t scan(
        self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
        const uint64_t* mask, const uint64_t* value, uint64_t* vpns) noexcept nogil
    # May allocate: give `child`, a copy of the entries of `t` that `self` serves, the
    # words of `t`, which `parent` serves. -1 if no memory can be had.
    cdef int fork(
        self, Encoding parent, const Ptdesc* t, Ptdesc* child) noexcept nogil
    # Return `to`, the entry without metadata that replaces `pte`, with what it must
    # carry: its flag, or its word. If `by_page`, `pte` may be none as well.
    cdef uint64_t carry(self, uint64_t pte, uint64_t to) noexcept nogil
    # Ask for the cache lines that `load` and `store` of vpns[i] will read of tables[i],
    # or of none if that is NULL: lines of the words; the entries are on their way.
    cdef void fetch(
        self, Ptdesc** tables, const uint64_t* vpns, Py_ssize_t n) noexcept nogil
    # Free what no reader without a lock can see any more.
    cdef void reap(self) noexcept nogil
    # Bytes of the pages that side memory lies in, and of what finds the words if the
    # page table does not.
    cdef size_t held_bytes(self) noexcept nogil
    cdef size_t index_bytes(self) noexcept nogil
    # Return the broken invariant, or NULL. The table checks its own: entries, links,
    # and the count of words.
    cdef const char* fault(self, const Ptdesc* t) noexcept nogil

    # -- lockless readers, and operations side by side -----------------------------

    # What `snapshot` does. To be set by configure().
    cdef Reading reading
    # The words of the run's entries, as `ptes` has them; 0 if an entry is none. The
    # table and what its link leads to may change meanwhile: read each link once, and
    # stay in what it named. What can be seen is not freed. Return False if what was
    # found can't be of one moment; only the table's own count need not be looked at.
    # Only asked if `reading` is not LOCKED.
    cdef bint see(
        self, const Ptdesc* t, const Run* r, const uint64_t* ptes,
        uint64_t* words) noexcept nogil
    # Operations on different tables may be at work at a time: nothing that they change
    # is shared, or it has a lock. To be set by configure().
    cdef readonly bint parallel

    # -- words that not every entry can hold ---------------------------------------

    # NEVER, or before which writes, and swap-outs then, to ask first_unfit.
    cdef int asks
    # Return the index in the run of the first entry that can't hold what `w` would make
    # of its word, or its word itself once it is swapped out if `w` is NULL; -1 if there
    # is none. What is refused is said by `unfit`, in Python.
    cdef Py_ssize_t first_unfit(
        self, const Ptdesc* t, const Run* r, const Write* w) noexcept nogil

    # -- batched: work for an operation as a whole ------------------------------------

    # May allocate, and do without: an operation on [first, stop) follows, which has at
    # most `nr_ptes` entries; `dying`: all are zapped.
    cdef void begin(
        self, uint64_t first, uint64_t stop, uint64_t nr_ptes,
        bint dying) noexcept nogil
    # May allocate, and do without: an operation is over, done or failed; give back what
    # it needed and what words that are gone leave unused.
    cdef void end(self) noexcept nogil
    # May allocate: [dst, dst + n), where nothing is mapped, is about to take over what
    # [src, src + n) has. -1 if no memory can be had.
    cdef int follow(self, uint64_t src, uint64_t dst, uint64_t n) noexcept nogil

    # -- reservable: memory set aside for when none can be had ---------------------

    # It defines set_aside.
    cdef readonly bint reserves
    # May allocate: set aside, PTE tables apart, what one operation on each of n tables
    # may need; False if there is no memory for that, and then as much as before.
    cdef bint set_aside(self, size_t n) noexcept nogil
    cdef size_t aside_bytes(self) noexcept nogil

    # -- shared on fork ------------------------------------------------------------

    # A copy of a page table is made of `parent`, with which it may share memory if it
    # is a fork. begin_fork is called before the parent is locked and may make Python
    # objects; by default it calls `start`, which is called if there is no parent.
    # copy_all is called under the lock, and returns -1 if no memory can be had. Then
    # `fork` is called for each table, and end_fork in any case.
    cdef int begin_fork(self, Encoding parent, bint shared) except -1
    cdef int copy_all(self, Encoding parent) noexcept nogil
    cdef void end_fork(self) noexcept nogil
    # Whether other page tables use this one's side memory. If so, each table's share of
    # it is asked for, and before the page table goes it gives up each table's, and then
    # all.
    cdef bint sharing(self) noexcept nogil
    cdef size_t table_bytes(self, const Ptdesc* t) noexcept nogil
    cdef void unshare(self, Ptdesc* t) noexcept nogil
    cdef void retire(self) noexcept nogil

    # -- words that belong to pages ---------------------------------------------------

    # PTEs of the same pfn share one. Then `carry` is told of every entry that is made,
    # and `family` is the pthread_mutex_t of all page tables that share pages, which
    # takes the place of each one's own.
    cdef readonly bint by_page
    cdef void* family
    # May allocate: entries follow that map n pfns, from `first` on if `pfns` is NULL.
    # -1 if no memory can be had.
    cdef int admit(
        self, const uint64_t* pfns, uint64_t first, Py_ssize_t n) noexcept nogil
    # The first of n pfns that are of no page yet; this page table has used those below
    # `next_`.
    cdef uint64_t fresh_pfns(self, uint64_t next_, uint64_t n) noexcept nogil

    # -- written in Python -----------------------------------------------------------

    # Its methods run Python while the page table is locked, so they can be called again
    # by what they run. The page table refuses that.
    cdef readonly bint calls_python
