"""The waist: the interface between a page table and an encoding of its words.

The page table owns PTEs, descriptors and places for links; an encoding owns words. It
is called with a descriptor and a run of entries, so that the loop is in the encoding. A
word is `lanes` uint64 long. An entry that is `pte.none` has no word.

A write is always word = (word & keep) | add. `keep` is one word for the whole run.
`add` has a word for each entry, `step` = lanes apart, or one for all with `step` = 0.

`configure`, `prepare`, `load`, `store` and `side_bytes` are required. The defaults of
the next methods are right for every encoding that has these five; most are slow. Then
come capabilities, each off by default. CONTRIBUTING.md leads through the stages.
"""
from libc.stdint cimport uint64_t

from extmeta.memory.frames cimport Frames, Ptdesc
from extmeta.memory.slabs cimport Slabs
from extmeta.table.pte cimport PteLayout
from extmeta.table.vpns cimport Run

cdef enum:
    # Vpns in no order that are looked up together, so that their cache misses overlap;
    # a bit each in 64. Of 16, 32 and 64, the last was fastest: a random load of linked
    # over 32 GiB took 56, 47 and 42 ns (benchmarks/scale.py).
    TOGETHER = 64

cdef enum:
    MAX_LANES = 8         # words of up to 512 bits

cdef enum:
    # Which writes need a question whether entries can hold their words.
    NEVER, WHEN_ADDING, ALWAYS

cdef enum Reading:
    # How a lockless reader gets words. LOCKED: not at all. The others: by `see`.
    # COUNTED: the table's count of changes must be equal before and after. FLAGGED: as
    # COUNTED, but a clear flag is enough to say that there is no word. ALONE: the entry
    # is enough.
    LOCKED, COUNTED, FLAGGED, ALONE

cdef extern from *:
    """
    #include <stdint.h>
    /* MAX_LANES long. */
    static const uint64_t extmeta_zero_word[8] __attribute__((unused));
    """
    const uint64_t* ZERO_WORD "extmeta_zero_word"

cdef struct Write:
    const uint64_t* keep
    const uint64_t* add
    Py_ssize_t step

cdef struct Lookups:
    # Vpns in no order, n of them, that were looked up together.
    const uint64_t* vpns
    Py_ssize_t n
    Ptdesc* tables[TOGETHER]      # NULL if there is none
    uint64_t* entry[TOGETHER]     # of `nothing` if there is no table
    uint64_t[TOGETHER] ptes       # what the entries hold, as `read_each` gets it
    uint64_t[2] nothing           # an entry that is none, of up to 16 bytes

cdef class Encoding:
    cdef readonly int bits        # of a word
    cdef readonly int lanes       # uint64s of a word
    cdef readonly object fields
    cdef readonly object arch
    cdef PteLayout pte
    cdef Py_ssize_t entries       # of a PTE table
    cdef Frames frames            # of the page table that this one serves
    # Side memory. If configure() makes it, each table's link is NULL or an object of
    # it, which the default `settle` frees once the table has no word.
    cdef Slabs objects
    # An exception of an encoding in Python, else None. The page table raises it when
    # the operation is over.
    cdef object pending

    # -- required --------------------------------------------------------------
    # `configure`, in Python: refuse fields that don't fit, and set sizes.

    # May allocate: make room for `w`. Called for every run of an operation before the
    # first store. Several runs may be of one table: there must be room for all. Returns
    # the table, which may have moved, or NULL if no memory can be had; then nothing has
    # changed.
    cdef Ptdesc* prepare(
        self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil
    # These two run under the table's lock: they can't fail, and allocate nothing. If
    # the encoding uses links or flags, `store` keeps the number of entries with a word
    # in `t.flagged`.
    cdef void load(
        self, const Ptdesc* t, const Run* r, uint64_t* words) noexcept nogil
    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil
    # Bytes of side memory in use.
    cdef size_t side_bytes(self) noexcept nogil

    # -- defaults that are right -------------------------------------------------

    # A table with words has a link, or a count of flags, in its descriptor. On by
    # default. If tables share a page, the page table accounts for a place for these.
    cdef readonly bint uses_descriptor
    # A write that only clears bits may need memory too, so `prepare` is called for it.
    cdef bint copies
    # Pages of a new PTE table, 2**order, and of one that has words.
    cdef readonly int order
    cdef int worded_order
    # How often an upper entry of a table in use was changed to point to another table.
    cdef readonly size_t repointings
    # Free memory that the table's words no longer need. Called before the operation
    # ends for each table whose `next` is not 0, or that has no word left.
    cdef void settle(self, Ptdesc* t) noexcept nogil
    # May allocate: compact the words, if that is worth it, or `fully`: to what a new
    # table with these words takes. Called after `settle` if `next` is not 0.
    cdef void trim(self, Ptdesc* t, bint fully) noexcept nogil
    # Forget the words of [first, last); the entries are cleared next.
    cdef void zap(self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil
    # Write the vpns of [first, last) with (word & mask) == value to `vpns`, ascending;
    # return their number. value & ~mask is 0. PAST vpns behind them may be overwritten.
    cdef Py_ssize_t scan(
        self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
        const uint64_t* mask, const uint64_t* value, uint64_t* vpns) noexcept nogil
    # As `scan` of n whole tables in turn. If `value` is not 0 and `uses_descriptor`,
    # each has a word.
    cdef Py_ssize_t scan_tables(
        self, Ptdesc** tables, Py_ssize_t n, const uint64_t* mask,
        const uint64_t* value, uint64_t* vpns) noexcept nogil
    # Whether (word & mask) == value for all entries, if that is known without a look at
    # them: of a table without an entry that is none. `value` is not 0.
    cdef bint all_have(
        self, const Ptdesc* t, const uint64_t* mask,
        const uint64_t* value) noexcept nogil
    # May allocate: copy the words of `t`, a table of `parent`, to `child`, a table of
    # `self` that has a copy of the entries. -1 if no memory can be had.
    cdef int fork(
        self, Encoding parent, const Ptdesc* t, Ptdesc* child) noexcept nogil
    # Return `to`, the entry without metadata that replaces `pte`, with the flag or the
    # word of `pte`. If `by_page`, `pte` may be none as well.
    cdef uint64_t carry(self, uint64_t pte, uint64_t to) noexcept nogil
    # Ask for the cache lines of words that `load` or `store` of vpns[i] in tables[i]
    # will use; n is at most TOGETHER. A table may be NULL. The entries were asked for
    # already. The caller may hold no lock. Called before `prepare`, too, unless the
    # encoding `uses_descriptor`: then room is made without a look at most words.
    cdef void fetch(
        self, Ptdesc** tables, const uint64_t* vpns, Py_ssize_t n) noexcept nogil
    # Read the words of vpns that were looked up together, whose entries hold l.ptes:
    # as `load` does if the page table is ``locked``, else as `see` does. Nothing was
    # asked for by `fetch`. By default, calls `fetch` and then these one by one.
    cdef bint read_each(
        self, Lookups* l, bint locked, uint64_t* words) noexcept nogil
    # Free the memory that no lockless reader can see any more.
    cdef void reap(self) noexcept nogil
    # Bytes of the pages that side memory lies in, and of the index that finds the words
    # if the page table does not.
    cdef size_t held_bytes(self) noexcept nogil
    cdef size_t index_bytes(self) noexcept nogil
    # Return the broken invariant, or NULL. The page table itself checks entries, links
    # and the count of words.
    cdef const char* fault(self, const Ptdesc* t) noexcept nogil

    # -- lockless readers, and operations side by side -----------------------------

    # How `snapshot` reads words. Set it in configure().
    cdef Reading reading
    # Read the words of the run's entries, whose values are `ptes`; 0 if an entry is
    # none. The table and the memory behind its link may change meanwhile: read each
    # link once, and stay in the memory that it points to, which is not freed. Return
    # False if the words can't be of one moment; the page table checks `t.seq`. Only
    # called if `reading` is not LOCKED.
    cdef bint see(
        self, const Ptdesc* t, const Run* r, const uint64_t* ptes,
        uint64_t* words) noexcept nogil
    # Operations on different tables may run side by side: they change no shared memory,
    # or lock it. Set it in configure().
    cdef readonly bint parallel

    # -- words that not every entry can hold ---------------------------------------

    # Which writes call first_unfit before; unless NEVER, swap-outs do so too.
    cdef int asks
    # Return the index in the run of the first entry that can't hold the word that `w`
    # would make or, if `w` is NULL, can't hold its word once it is swapped out; -1 if
    # all can. `unfit`, in Python, returns the reason.
    cdef Py_ssize_t first_unfit(
        self, const Ptdesc* t, const Run* r, const Write* w) noexcept nogil

    # -- batched: work for an operation as a whole ------------------------------------

    # May allocate, but must not need to: an operation on [first, stop) follows, which
    # has at most `nr_ptes` entries. `dying`: all of them are zapped.
    cdef void begin(
        self, uint64_t first, uint64_t stop, uint64_t nr_ptes,
        bint dying) noexcept nogil
    # May allocate, but must not need to: an operation is over, done or failed. Free the
    # memory that it used, and memory that no word uses any more.
    cdef void end(self) noexcept nogil
    # May allocate: the words of [src, src + n) are about to move to [dst, dst + n),
    # where nothing is mapped. -1 if no memory can be had.
    cdef int follow(self, uint64_t src, uint64_t dst, uint64_t n) noexcept nogil

    # -- reservable: memory set aside for when none can be had ---------------------

    # Whether set_aside is defined.
    cdef readonly bint reserves
    # May allocate: preallocate side memory for one operation on each of n tables. PTE
    # tables are reserved separately. False if no memory can be had; then as much is set
    # aside as before.
    cdef bint set_aside(self, size_t n) noexcept nogil
    cdef size_t aside_bytes(self) noexcept nogil

    # -- shared on fork ------------------------------------------------------------

    # For a copy of `parent`'s page table; `shared`: it may share memory. begin_fork is
    # called before the parent is locked and may make Python objects; by default it
    # calls `start`, as a page table without parent does. copy_all is called under the
    # lock, and returns -1 if no memory can be had. Then `fork` is called for each
    # table, and end_fork in any case.
    cdef int begin_fork(self, Encoding parent, bint shared) except -1
    cdef int copy_all(self, Encoding parent) noexcept nogil
    cdef void end_fork(self) noexcept nogil
    # Whether other page tables use this one's side memory. If so, table_bytes returns a
    # table's share of it. When the page table is freed, `unshare` drops each table's
    # references, and then `retire` the page table's own.
    cdef bint sharing(self) noexcept nogil
    cdef size_t table_bytes(self, const Ptdesc* t) noexcept nogil
    cdef void unshare(self, Ptdesc* t) noexcept nogil
    cdef void retire(self) noexcept nogil

    # -- words that belong to pages ---------------------------------------------------

    # PTEs of one pfn share a word. Then `carry` is called for every entry that is made,
    # and all page tables that share pages use one pthread_mutex_t, `family`, instead of
    # their own.
    cdef readonly bint by_page
    cdef void* family
    # May allocate: n entries follow that map `pfns`, or [first, first + n) if it is
    # NULL. -1 if no memory can be had.
    cdef int admit(
        self, const uint64_t* pfns, uint64_t first, Py_ssize_t n) noexcept nogil
    # The first of n pfns that no page table has used; this one has used those below
    # `next_`.
    cdef uint64_t fresh_pfns(self, uint64_t next_, uint64_t n) noexcept nogil

    # -- written in Python -----------------------------------------------------------

    # Its methods run Python while the page table is locked. That Python code can't use
    # the page table, which raises RuntimeError.
    cdef readonly bint calls_python
