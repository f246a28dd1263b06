"""What is done to PTEs and their words, in C: from a span of vpns to whole tables.

An operation walks once per table and hands the encoding a run of entries. One
that may allocate has two passes: the first looks at everything that could be
refused and makes room, the second changes entries and can't fail. So an error
leaves the table as it was. Arguments are trusted: :mod:`extmeta.pagetable`
checks them.
"""
from cython cimport no_gc_clear
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy, memset

from extmeta.table.encoding cimport (
    ALONE, ALWAYS, FLAGGED, MAX_LANES, WHEN_ADDING, Write,
)
from extmeta.memory.epoch cimport enter_epoch, leave_epoch
from extmeta.memory.frames cimport (
    DEPOSITED,
    LEAF,
    PTE,
    TABLE_BITS,
    Ptdesc,
    entries,
    lock_table,
    unlock_table,
    upper_entry,
)
from extmeta.table.pte cimport ALL, PteLayout, count, flag_of, swap_entry
from extmeta.table.radix cimport Radix
from extmeta.memory.sync cimport (
    begin_change,
    begin_racy,
    count_of_changes,
    end_change,
    end_racy,
    fill_each,
    once,
    publish,
    relax,
    unchanged_since,
)
from extmeta.table.vpns cimport Run, Span, entry_at, next_run, vpn_at

cdef extern from "pthread.h" nogil:
    int pthread_mutex_init(pthread_mutex_t*, void*)
    int pthread_mutex_destroy(pthread_mutex_t*)
    int pthread_mutex_lock(pthread_mutex_t*)
    int pthread_mutex_trylock(pthread_mutex_t*)
    int pthread_mutex_unlock(pthread_mutex_t*)
    int pthread_cond_destroy(pthread_cond_t*)
    int pthread_cond_wait(pthread_cond_t*, pthread_mutex_t*)
    int pthread_cond_broadcast(pthread_cond_t*)
    uint64_t this_thread "pthread_self"()

cdef enum:
    # Words that lie on the stack at once.
    WORDS_AT_ONCE = 512
    # Entries that `move` handles at once; their words lie on the stack.
    MOVE_AT_ONCE = 512
    # Of one huge page: two, where `wide` halves a PTE table's entries.
    MOST_LEAVES = 2
    # Entries that a lockless reader looks at before it lets memory be freed again, as
    # many as take some microseconds; a table on the way counts as some. And how often
    # it tries before it does so.
    SEEN_AT_ONCE = 2048
    SEEN_FOR_A_TABLE = 16
    TRIES = 8
    # vpns that a first piece of memory has room for; a cache holds them.
    FOUND_AT_ONCE = 8192
    # Up to so many entries of a table are looked at one by one: where the entry tells
    # enough, the descriptor's cache line is not touched.
    FEW = 8

cdef extern from *:
    """
    #include <stdint.h>
    /* Why this thread's last operation was refused. */
    typedef struct { int why, swapped; uint64_t vpn, word; size_t nbytes; } extmeta_no;
    static __thread __attribute__((tls_model("initial-exec"))) extmeta_no extmeta_why;
    #define extmeta_refusal() (&extmeta_why)
    """
    ctypedef struct Refusal "extmeta_no":
        int why
        bint swapped
        uint64_t vpn
        uint64_t word
        size_t nbytes
    Refusal* refusal "extmeta_refusal"() noexcept nogil

cdef uint64_t[MAX_LANES] ZERO_WORD
memset(ZERO_WORD, 0, sizeof(ZERO_WORD))


cdef inline uint64_t make_present(
        uint64_t* entry, const Run* r, Py_ssize_t last_entry, uint64_t none,
        const uint64_t* pfns, uint64_t next_pfn, uint64_t pfn_mask, int shift,
        uint64_t bits, int stride) noexcept nogil:
    """Fill entries of a run; return how many were none."""
    cdef uint64_t made = 0
    cdef uint64_t* pte
    cdef uint64_t pfn
    cdef Py_ssize_t i
    for i in range(r.n):
        pfn = pfns[i] if pfns else (next_pfn + <uint64_t>i) & pfn_mask
        pte = &entry[entry_at(r, i, last_entry) * stride]
        # Not none: named twice, the last pfn wins.
        made += pte[0] == none
        pte[0] = pfn << shift | bits
    return made


cdef int refuse_for(int why, uint64_t vpn) noexcept nogil:
    """Note why the operation is refused; `raise_refusal` says so without a lock."""
    cdef Refusal* r = refusal()
    r.why = why
    r.vpn = vpn
    return -1


cdef int no_memory(size_t nbytes) noexcept nogil:
    refusal().nbytes = nbytes
    return refuse_for(NO_MEMORY, 0)


cdef int room_for(Found* f, Py_ssize_t more) noexcept nogil:
    cdef Py_ssize_t room
    cdef uint64_t* vpns
    if f.n + more <= f.room:
        return 0
    room = max(f.n + more, 2 * f.room, <Py_ssize_t>FOUND_AT_ONCE)
    vpns = <uint64_t*>realloc(f.vpns, room * sizeof(uint64_t))
    if vpns is NULL:
        return no_memory(room * sizeof(uint64_t))
    f.vpns = vpns
    f.room = room
    return 0


@no_gc_clear
cdef class Operations(Radix):
    """The operations of a page table that has an encoding."""

    def __cinit__(self):
        pthread_mutex_init(&self.lock, NULL)
        pthread_cond_init(&self.gone, NULL)
        self.mutex = &self.lock

    def __dealloc__(self):
        if self.encoding is not None and self.root is not NULL:
            self.abandon()
        pthread_cond_destroy(&self.gone)
        pthread_mutex_destroy(&self.lock)

    cdef void abandon(self) noexcept nogil:
        """Let go of side memory that other page tables use too."""
        cdef uint64_t at = 0
        cdef Ptdesc* t
        if not self.encoding.sharing():
            return
        self.encoding.set_aside(0)
        while True:
            t = self.next_table(&at, self.nr_vpns)
            if t is NULL:
                break
            self.encoding.leave(t)
            at = t.vpn + <uint64_t>self.encoding.entries
        self.encoding.retire()

    # -- who is at work -----------------------------------------------------------

    cdef int take_mutex(self) except -1:
        if pthread_mutex_trylock(self.mutex):
            if self.calls_python and self.owner == this_thread():
                raise RuntimeError(
                    f"{self.encoding!r} is at work on this page table, in this thread: "
                    "what it calls can't use the page table")
            # Whoever has it may need the GIL.
            with nogil:
                pthread_mutex_lock(self.mutex)
        if self.calls_python:
            self.owner = this_thread()
        return 0

    cdef void give_mutex(self) noexcept nogil:
        self.owner = 0
        pthread_mutex_unlock(self.mutex)

    cdef int enter(self) except -1:
        self.take_mutex()
        if self.nr_ranges == 0:
            return 0
        with nogil:
            # None is begun any more, so that this one's turn comes.
            self.nr_waiting_for_all += 1
            while self.nr_ranges:
                pthread_cond_wait(&self.gone, self.mutex)
            self.nr_waiting_for_all -= 1
        return 0

    cdef int enter_at(self, uint64_t vpn, bint writes) except -1:
        self.take_mutex()
        if self.nr_ranges == 0:
            return 0
        with nogil:
            self.nr_waiting += 1
            while self.free_range(vpn, vpn + 1, writes) < 0:
                pthread_cond_wait(&self.gone, self.mutex)
            self.nr_waiting -= 1
        return 0

    cdef int leave(self) except -1:
        cdef object error
        if self.nr_waiting:
            # They waited for all, too.
            pthread_cond_broadcast(&self.gone)
        if self.encoding.pending is None:
            self.give_mutex()
            return 0
        error = self.encoding.pending
        self.encoding.pending = None
        self.give_mutex()
        # Its own cause, and not the MemoryError that a NULL was taken for.
        raise error from error.__cause__

    cdef int enter_span(self, const Span* s, bint writes) except -2:
        cdef uint64_t first = s.first
        cdef uint64_t last = s.first + <uint64_t>s.n - 1
        cdef Py_ssize_t i
        cdef int range_
        if not self.parallel or s.n == 0:
            if self.enter() < 0:
                return -2
            return -1
        if s.vpns is not NULL:
            first = last = s.vpns[0]
            with nogil:
                for i in range(s.n):
                    first = min(first, s.vpns[i])
                    last = max(last, s.vpns[i])
        first = first >> self.table_bits << self.table_bits
        last = (last >> self.table_bits) + 1 << self.table_bits
        self.take_mutex()
        range_ = -1 if self.nr_waiting_for_all else self.free_range(
            first, last, writes)
        if range_ < 0:
            with nogil:
                self.nr_waiting += 1
                while range_ < 0:
                    pthread_cond_wait(&self.gone, self.mutex)
                    if self.nr_waiting_for_all == 0:
                        range_ = self.free_range(first, last, writes)
                self.nr_waiting -= 1
        self.ranges[range_].first = first
        self.ranges[range_].stop = last
        self.ranges[range_].writes = writes
        self.nr_ranges += 1
        self.give_mutex()
        return range_

    cdef int free_range(
            self, uint64_t first, uint64_t stop, bint writes) noexcept nogil:
        """Return an element of `ranges` that is free; -1 if it is too soon.

        Those who read may be many.
        """
        cdef int found = 0
        cdef const Range* other
        cdef int i
        if self.nr_ranges == 0:
            return 0
        found = -1
        for i in range(NR_RANGES):
            other = &self.ranges[i]
            if other.stop == 0:
                found = i
            elif other.first < stop and first < other.stop and (
                    writes or other.writes):
                return -1
        return found

    cdef int leave_span(self, int range_) except -1:
        if range_ < 0:
            return self.leave()
        self.take_mutex()
        self.ranges[range_].stop = 0
        self.nr_ranges -= 1
        if self.nr_waiting or self.nr_waiting_for_all:
            pthread_cond_broadcast(&self.gone)
        self.give_mutex()
        return 0

    # -- runs -----------------------------------------------------------------------

    cdef Ptdesc* run_at(self, const Span* s, Py_ssize_t at, Run* r) noexcept nogil:
        cdef uint64_t vpn = vpn_at(s, at)
        cdef Ptdesc* t = self.find(vpn)
        next_run(s, at, self.table_bits, r)
        if t is NULL and s.vpns is NULL:
            # All of the hole at once: ranges may be of the whole address space.
            self.next_table(&vpn, s.first + <uint64_t>s.n)
            r.n = min(<Py_ssize_t>(vpn - s.first), s.n) - at
        return t

    cdef int put(
            self, const Span* s, const uint64_t* pfns, uint64_t bits) noexcept nogil:
        cdef int shift = self.encoding.pte.pfn_shift
        cdef uint64_t pfn_mask = (<uint64_t>1 << self.encoding.pte.pfn_bits) - 1
        cdef Py_ssize_t last_entry = self.encoding.entries - 1
        cdef uint64_t none = self.encoding.pte.none
        cdef Py_ssize_t at = 0
        cdef const uint64_t* some
        cdef uint64_t* entry
        cdef uint64_t made
        cdef Py_ssize_t i
        cdef bint by_page = self.encoding.by_page
        cdef uint64_t first_pfn = self.next_pfn
        cdef Ptdesc* t
        cdef Run r
        if pfns is NULL:
            first_pfn = self.encoding.fresh_pfns(first_pfn, <uint64_t>s.n)
        while at < s.n:
            next_run(s, at, self.table_bits, &r)
            t = self.make(vpn_at(s, at), self.encoding.order)
            if t is NULL:
                self.drop_empty(s, at)
                if self.nr_leaves and self.in_leaf(vpn_at(s, at)):
                    return refuse_for(IN_LEAF, vpn_at(s, at))
                return no_memory(self.frames.frame_bytes)
            i = self.first_unlike(t, &r, NONE)
            if i >= 0:
                self.drop_empty(s, at + r.n)
                return self.refuse(vpn_at(s, at + i), NONE)
            at += r.n
        if by_page and self.encoding.admit(pfns, first_pfn, s.n):
            self.encoding.end()
            self.drop_empty(s, s.n)
            return no_memory(self.frames.page_bytes)
        at = 0
        while at < s.n:
            next_run(s, at, self.table_bits, &r)
            t = self.find(vpn_at(s, at))
            entry = entries(self.frames, t)
            lock_table(t)
            some = &pfns[at] if pfns is not NULL else NULL
            # Twice, so that each loop knows its stride.
            if by_page:
                made = self.make_pages(entry, &r, some, first_pfn + <uint64_t>at, bits)
            elif self.stride == 1:
                made = make_present(entry, &r, last_entry, none, some,
                                    first_pfn + <uint64_t>at, pfn_mask, shift,
                                    bits, 1)
            else:
                made = make_present(entry, &r, last_entry, none, some,
                                    first_pfn + <uint64_t>at, pfn_mask, shift,
                                    bits, 2)
            t.used += <unsigned int>made
            unlock_table(t)
            self.nr_ptes += made
            at += r.n
        if by_page:
            self.encoding.end()
        if pfns is NULL:
            self.next_pfn = first_pfn + <uint64_t>s.n
        return 0

    cdef uint64_t make_pages(
            self, uint64_t* entry, const Run* r, const uint64_t* pfns,
            uint64_t next_pfn, uint64_t bits) noexcept nogil:
        """The same as make_present, where the encoding is told of every page."""
        cdef const PteLayout* a = &self.encoding.pte
        cdef uint64_t made = 0
        cdef uint64_t pte
        cdef uint64_t* at
        cdef Py_ssize_t i
        for i in range(r.n):
            pte = pfns[i] if pfns else (
                next_pfn + <uint64_t>i) & ((<uint64_t>1 << a.pfn_bits) - 1)
            pte = pte << a.pfn_shift | bits
            at = &entry[entry_at(r, i, self.encoding.entries - 1)]
            made += at[0] == a.none
            self.encoding.carry(at[0], pte)
            at[0] = pte
        return made

    cdef int put_leaves(
            self, const Span* s, const uint64_t* pfns, bint deposit) noexcept nogil:
        cdef Py_ssize_t i, j
        cdef uint64_t pfn
        cdef uint64_t* slot
        for i in range(s.n):
            slot = self.leaf_slot(vpn_at(s, i), False)
            if slot is not NULL and slot[0]:
                return refuse_for(NONE, vpn_at(s, i))
        for i in range(s.n):
            pfn = pfns[i] if pfns is not NULL else self.next_pfn
            if not self.put_leaf(vpn_at(s, i), pfn, deposit):
                for j in range(i):
                    self.clear_leaf(self.leaf_slot(vpn_at(s, j), False))
                return no_memory(self.frames.frame_bytes)
            if pfns is NULL:
                self.next_pfn += <uint64_t>self.encoding.entries
        return 0

    cdef int split(
            self, uint64_t first, uint64_t n, const uint64_t* pfns, const Write* w,
            uint64_t bits) noexcept nogil:
        cdef uint64_t size = <uint64_t>self.encoding.entries
        cdef Ptdesc* made[MOST_LEAVES]
        cdef Ptdesc* unused
        cdef uint64_t* slot
        cdef uint64_t at = first
        cdef int nr = 0
        cdef int i
        while at < first + n:
            made[nr] = self.split_one(
                at, self.leaf_slot(at, False),
                pfns + (at - first) if pfns is not NULL else NULL, w, bits)
            if made[nr] is NULL:
                for i in range(nr):
                    self.unmake(made[i])
                self.encoding.end()
                return no_memory(self.frames.frame_bytes)
            nr += 1
            at += size
        # Readers without a lock see the leaf until they see a table with its words.
        for i in range(nr):
            slot = self.leaf_slot(made[i].vpn, False)
            unused = self.withdraw(slot)
            made[i].parent = slot
            publish(slot, upper_entry(self.frames, made[i]))
            if unused is not NULL:
                self.frames.free(unused)
        self.encoding.end()
        self.nr_leaves -= <uint64_t>nr
        self.nr_ptes += n
        return 0

    cdef Ptdesc* split_one(
            self, uint64_t vpn, uint64_t* slot, const uint64_t* pfns, const Write* w,
            uint64_t bits) noexcept nogil:
        """Return a PTE table for what a leaf maps, not hooked yet, or NULL."""
        cdef const PteLayout* a = &self.encoding.pte
        cdef Py_ssize_t last_entry = self.encoding.entries - 1
        cdef uint64_t pfn_mask = (<uint64_t>1 << a.pfn_bits) - 1
        cdef uint64_t pfn = slot[0] >> a.pfn_shift & pfn_mask
        cdef bint worded = False
        cdef uint64_t* entry
        cdef Ptdesc* t
        cdef Run r
        cdef int lane, order
        for lane in range(self.encoding.lanes):
            worded |= w.add[lane] != 0
        order = self.encoding.worded_order if worded else self.encoding.order
        t = self.withdraw(slot)
        if t is not NULL and t.order != order:
            self.deposit(slot, t)
            t = NULL
        if t is not NULL:
            # For `unmake`: where it belongs.
            t.parent = slot
        else:
            t = self.new_table(order)
        if t is NULL:
            return NULL
        t.vpn = vpn
        r.first = 0
        r.n = self.encoding.entries
        r.vpns = NULL
        entry = entries(self.frames, t)
        if self.encoding.by_page:
            if self.encoding.admit(pfns, pfn, r.n):
                self.unmake(t)
                return NULL
            self.make_pages(entry, &r, pfns, pfn, bits)
        else:
            make_present(entry, &r, last_entry, a.none, pfns, pfn, pfn_mask,
                         a.pfn_shift, bits, self.stride)
        t.used = <unsigned int>r.n
        if not worded:
            return t
        # As it is not hooked yet, it stays where it is.
        if self.encoding.prepare(t, &r, w) is not t:
            self.unmake(t)
            return NULL
        lock_table(t)
        self.encoding.store(t, &r, w)
        unlock_table(t)
        self.encoding.settle(t)
        if t.next:
            self.encoding.trim(t)
        return t

    cdef void unmake(self, Ptdesc* t) noexcept nogil:
        """Free a table that was not hooked, or deposit it again."""
        self.encoding.zap(t, 0, self.encoding.entries)
        self.encoding.settle(t)
        if t.parent is NULL:
            self.frames.free(t)
            return
        memset(entries(self.frames, t), 0, self.frames.frame_bytes)
        self.fill(t)
        t.used = 0
        self.deposit(t.parent, t)

    cdef Ptdesc* new_table(self, int order) noexcept nogil:
        """Return an empty PTE table, not hooked, or NULL."""
        cdef Ptdesc* t = self.frames.alloc(order, PTE, True)
        self.fill(t)
        return t

    cdef bint put_leaf(self, uint64_t vpn, uint64_t pfn, bint deposit) noexcept nogil:
        cdef uint64_t* slot = self.leaf_slot(vpn, True)
        cdef uint64_t kept = 0
        cdef Ptdesc* t
        if slot is NULL:
            return False
        t = self.holder(slot, self.levels - 2)
        if slot[0] == 0:
            if deposit and not self.deposit_one(slot):
                self.prune(t)
                return False
            self.nr_leaves += 1
            t.used += 1
        kept = slot[0] & DEPOSITED
        publish(slot, pfn << self.encoding.pte.pfn_shift | TABLE_BITS | LEAF | kept)
        return True

    cdef bint deposit_one(self, uint64_t* slot) noexcept nogil:
        """Deposit a new table; False if no memory can be had."""
        cdef Ptdesc* t = self.new_table(self.encoding.order)
        if t is not NULL:
            self.deposit(slot, t)
        return t is not NULL

    cdef bint set_aside(self, size_t n) noexcept nogil:
        cdef size_t before = self.frames.nr_aside
        if not self.frames.set_aside(n, self.encoding.worded_order, PTE):
            return False
        if not self.encoding.set_aside(n):
            self.frames.set_aside(before, self.encoding.worded_order, PTE)
            return False
        return True

    cdef void drop_empty(self, const Span* s, Py_ssize_t upto) noexcept nogil:
        """Free tables that the span's first ``upto`` vpns made and don't use."""
        cdef Py_ssize_t at = 0
        cdef Ptdesc* t
        cdef Run r
        while at < upto:
            t = self.run_at(s, at, &r)
            if t is not NULL:
                self.prune(t)
            at += r.n

    cdef Py_ssize_t first_unlike(
            self, const Ptdesc* t, const Run* r, int wanted) noexcept nogil:
        """Return the index in the run of the first entry not as ``wanted``, or -1."""
        cdef uint64_t none = self.encoding.pte.none
        cdef uint64_t present = self.encoding.pte.present
        cdef Py_ssize_t last_entry = self.encoding.entries - 1
        cdef Py_ssize_t stride = self.stride
        cdef const uint64_t* entry
        cdef uint64_t pte
        cdef Py_ssize_t i = 0
        if t is NULL:
            return -1 if wanted == NONE else 0
        entry = entries(self.frames, t)
        if r.vpns is NULL and wanted == MAPPED:
            # Usually all are: 64 at a time.
            while i < r.n and self.like(
                    entry, r.first + i, min(64, r.n - i), ALL, none) == 0:
                i += 64
        while i < r.n:
            pte = entry[entry_at(r, i, last_entry) * stride]
            if not (pte != none if wanted == MAPPED else
                    pte == none if wanted == NONE else
                    pte & present != 0 if wanted == PRESENT else
                    pte & present == 0 and pte != none):
                return i
            i += 1
        return -1

    cdef int refuse(self, uint64_t vpn, int wanted) noexcept nogil:
        """Refuse the operation: the entry of ``vpn`` is not as ``wanted``."""
        cdef Ptdesc* t = self.find(vpn)
        cdef bint mapped = t is not NULL and (
            self.pte_at(t, vpn - t.vpn)[0] != self.encoding.pte.none)
        return refuse_for(wanted if mapped or wanted == NONE else MAPPED, vpn)

    cdef bint in_leaf(self, uint64_t vpn) noexcept nogil:
        """Return whether ``vpn`` lies in a huge page."""
        cdef uint64_t at = vpn
        return self.next_leaf(&at, vpn + 1) is not NULL

    cdef int cuts_leaf(self, uint64_t edge) noexcept nogil:
        """Refuse an edge that is inside a huge page."""
        cdef uint64_t at = edge
        if self.nr_leaves and edge & (self.leaf_ptes - 1) and edge < self.nr_vpns and (
                self.next_leaf(&at, edge + 1) is not NULL):
            return refuse_for(CUT, edge)
        return 0

    cdef int refuse_used(self, uint64_t first, uint64_t end) noexcept nogil:
        """Refuse a range in which anything is mapped."""
        cdef uint64_t at = first
        cdef uint64_t leaf = first
        cdef Ptdesc* t
        cdef Py_ssize_t i
        if self.next_leaf(&leaf, end) is not NULL:
            return refuse_for(IN_LEAF, leaf)
        while True:
            t = self.next_table(&at, end)
            if t is NULL:
                return 0
            for i in range(<Py_ssize_t>(at - t.vpn), <Py_ssize_t>min(
                    end - t.vpn, <uint64_t>self.encoding.entries)):
                if self.pte_at(t, i)[0] != self.encoding.pte.none:
                    return refuse_for(NONE, t.vpn + <uint64_t>i)
            at = t.vpn + <uint64_t>self.encoding.entries

    cdef int raise_refusal(self) except -1:
        """Raise what `refuse_for` noted. The caller holds no lock."""
        cdef Refusal r = refusal()[0]
        vpn = f"vpn {r.vpn:#x}"
        if r.why == NO_MEMORY:
            raise MemoryError(
                f"{r.nbytes} bytes for page tables or their side memory")
        if r.why == UNFIT:
            why = self.encoding.unfit(r.vpn, r.word, r.swapped)
            raise ValueError(f"{vpn}: {self.encoding!r}: {why}")
        raise ValueError(f"{vpn} " + {
            NONE: "is mapped already",
            MAPPED: "is not mapped",
            PRESENT: "is swapped out already",
            SWAPPED: "is present, not swapped out",
            IN_LEAF: "is mapped already, by a huge page",
            IS_LEAF: "is in a huge page",
            CUT: "is inside a huge page; unmap all of it",
            NOT_FIRST: "is not the first of a huge page",
        }[r.why])

    cdef void drop(self, uint64_t first, uint64_t stop) noexcept nogil:
        cdef uint64_t at = first
        cdef uint64_t* slot
        cdef Ptdesc* t
        cdef Py_ssize_t i, end
        self.encoding.begin(first, stop, min(stop - first, self.nr_ptes), True)
        while True:
            t = self.next_table(&at, stop)
            if t is NULL:
                break
            i = <Py_ssize_t>(at - t.vpn)
            end = <Py_ssize_t>min(stop - t.vpn, <uint64_t>self.encoding.entries)
            at = t.vpn + <uint64_t>end
            lock_table(t)
            self.encoding.zap(t, i, end)
            self.clear(t, i, end)
            unlock_table(t)
            self.encoding.settle(t)
            if t.next:
                self.encoding.trim(t)
            self.prune(t)
        self.encoding.end()
        at = first
        while self.nr_leaves:
            slot = self.next_leaf(&at, stop)
            if slot is NULL:
                break
            self.clear_leaf(slot)

    cdef void clear(
            self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        """Empty entries [first, last) and count them out."""
        cdef uint64_t none = self.encoding.pte.none
        cdef uint64_t* entry = entries(self.frames, t)
        cdef uint64_t held = 0
        cdef Py_ssize_t i
        if last - first == self.encoding.entries:
            held = t.used
        else:
            for i in range(first, last, 64):
                held += <uint64_t>(min(64, last - i) - count(
                    self.like(entry, i, min(64, last - i), ALL, none)))
        if self.stride == 1:
            fill_each(entry + first, last - first, none)
        else:
            for i in range(first, last):
                entry[2 * i] = none
                entry[2 * i + 1] = 0
        t.used -= <unsigned int>held
        self.nr_ptes -= held

    cdef void clear_leaf(self, uint64_t* slot) noexcept nogil:
        cdef Ptdesc* t
        if slot is not NULL and slot[0] & LEAF:
            t = self.withdraw(slot)
            if t is not NULL:
                self.frames.free(t)
            t = self.holder(slot, self.levels - 2)
            publish(slot, 0)
            t.used -= 1
            self.nr_leaves -= 1
            self.prune(t)

    cdef int write(
            self, const Span* s, const Write* w, bint all_mapped) noexcept nogil:
        cdef bint may_grow = w.step != 0
        cdef bint asks
        cdef bint untidy = False
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t i
        cdef Ptdesc* t
        cdef Run r
        cdef Write part = w[0]
        cdef int lane
        for lane in range(self.encoding.lanes):
            may_grow |= w.add[lane] != 0
        asks = self.encoding.asks == ALWAYS or (
            self.encoding.asks == WHEN_ADDING and may_grow)
        may_grow |= self.encoding.copies
        self.begin(s)
        while at < s.n and (may_grow or all_mapped or asks):
            t = self.run_at(s, at, &r)
            if all_mapped:
                i = self.first_unlike(t, &r, MAPPED)
                if i >= 0:
                    self.settle(s, at)
                    self.encoding.end()
                    return self.refuse(vpn_at(s, at + i), MAPPED)
            part.add = w.add + at * w.step
            if asks and t is not NULL:
                i = self.encoding.first_unfit(t, &r, &part)
                if i >= 0:
                    self.settle(s, at)
                    self.encoding.end()
                    return self.refuse_word(vpn_at(s, at + i), &part, i)
            if may_grow and t is not NULL:
                if self.encoding.prepare(t, &r, &part) is NULL:
                    self.settle(s, at)
                    self.encoding.end()
                    return no_memory(self.frames.frame_bytes)
            at += r.n
        at = 0
        while at < s.n:
            t = self.run_at(s, at, &r)
            if t is not NULL:
                part.add = w.add + at * w.step
                lock_table(t)
                self.encoding.store(t, &r, &part)
                unlock_table(t)
                untidy |= t.flagged == 0 or t.next != 0
                # A later run may be of this table, and room was made for it.
                if s.vpns is NULL:
                    self.encoding.settle(t)
                    if t.next:
                        self.encoding.trim(t)
            at += r.n
        if untidy and s.vpns is not NULL:
            self.settle(s, s.n)
        self.encoding.end()
        return 0

    cdef void begin(self, const Span* s) noexcept nogil:
        """Tell the encoding of the span, unless its vpns lie in no order."""
        cdef uint64_t first, last
        if s.n == 0:
            return
        first = vpn_at(s, 0)
        last = vpn_at(s, s.n - 1)
        if first <= vpn_at(s, s.n >> 1) <= last:
            self.encoding.begin(
                first, last + 1, min(<uint64_t>s.n, self.nr_ptes), False)

    cdef void settle(self, const Span* s, Py_ssize_t upto) noexcept nogil:
        cdef Py_ssize_t at = 0
        cdef Ptdesc* t
        cdef Run r
        while at < upto:
            t = self.run_at(s, at, &r)
            if t is not NULL:
                self.encoding.settle(t)
                if t.next:
                    self.encoding.trim(t)
            at += r.n

    cdef void read(self, const Span* s, uint64_t* words) noexcept nogil:
        cdef Py_ssize_t lanes = self.encoding.lanes
        cdef Py_ssize_t at = 0
        cdef Ptdesc* t
        cdef Run r
        self.begin(s)
        while at < s.n:
            t = self.run_at(s, at, &r)
            if t is NULL:
                memset(words + at * lanes, 0, r.n * lanes * sizeof(uint64_t))
            else:
                self.encoding.load(t, &r, words + at * lanes)
            at += r.n
        self.encoding.end()

    cdef void read_flags(self, const Span* s, uint8_t* flags) noexcept nogil:
        cdef uint64_t[WORDS_AT_ONCE * MAX_LANES] words
        cdef Py_ssize_t lanes = self.encoding.lanes
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t i, n
        cdef Ptdesc* t
        cdef Run r
        self.begin(s)
        while at < s.n:
            t = self.run_at(s, at, &r)
            n = r.n
            if t is not NULL:
                n = min(n, WORDS_AT_ONCE)
                r.n = n
                self.encoding.load(t, &r, words)
                for i in range(n * lanes):
                    flags[at + i // lanes] |= words[i] != 0
            at += n
        self.encoding.end()

    cdef uint64_t read_word(self, uint64_t vpn) noexcept nogil:
        cdef uint64_t[MAX_LANES] word
        cdef Ptdesc* t = self.find(vpn)
        cdef Run r
        if t is NULL:
            return 0
        r.first = <Py_ssize_t>(vpn & <uint64_t>(self.encoding.entries - 1))
        r.n = 1
        r.vpns = NULL
        self.encoding.load(t, &r, word)
        return word[0]

    cdef int write_word(self, uint64_t vpn, uint64_t word) noexcept nogil:
        cdef Ptdesc* t = self.find(vpn)
        cdef Run r
        cdef Write w
        r.first = <Py_ssize_t>(vpn & <uint64_t>(self.encoding.entries - 1))
        r.n = 1
        r.vpns = NULL
        if t is NULL or self.pte_at(t, r.first)[0] == self.encoding.pte.none:
            return -1
        w.keep = ZERO_WORD
        w.add = &word
        w.step = 0
        if self.encoding.asks and self.encoding.first_unfit(t, &r, &w) >= 0:
            return -1
        return self.store_run(t, &r, &w)

    cdef int store_run(
            self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        t = self.encoding.prepare(t, r, w)
        if t is NULL:
            self.encoding.end()
            return -1
        lock_table(t)
        self.encoding.store(t, r, w)
        unlock_table(t)
        self.encoding.settle(t)
        if t.next:
            self.encoding.trim(t)
        self.encoding.end()
        return 0

    cdef int find_words(
            self, const Span* s, const uint64_t* mask, const uint64_t* value,
            Found* found) noexcept nogil:
        cdef Py_ssize_t size = self.encoding.entries
        cdef uint64_t edge = <uint64_t>size - 1
        cdef uint64_t at = s.first
        cdef uint64_t stop = s.first + <uint64_t>s.n
        cdef uint64_t* slot
        cdef Ptdesc* t
        cdef int failed = 0
        self.encoding.begin(at, stop, min(<uint64_t>s.n, self.nr_ptes), False)
        t = self.next_table(&at, stop)
        slot = t.parent if t is not NULL else NULL
        while t is not NULL:
            failed = room_for(found, size)
            if failed:
                break
            found.n += self.encoding.scan(
                t, <Py_ssize_t>(at & edge),
                <Py_ssize_t>min(stop - (at & ~edge), <uint64_t>size), mask, value,
                found.vpns + found.n)
            t = self.table_after(&slot, &at, stop)
        self.encoding.end()
        return failed

    cdef int find_tables(self, Found* found) noexcept nogil:
        cdef uint64_t at = 0
        cdef Ptdesc* t
        while True:
            t = self.next_table(&at, self.nr_vpns)
            if t is NULL:
                return 0
            if room_for(found, 1):
                return -1
            found.vpns[found.n] = t.vpn
            found.n += 1
            at = t.vpn + <uint64_t>self.encoding.entries

    cdef int find_leaves(self, Found* found) noexcept nogil:
        cdef uint64_t mask = (<uint64_t>1 << self.encoding.pte.pfn_bits) - 1
        cdef uint64_t at = 0
        cdef uint64_t* slot
        while self.nr_leaves:
            slot = self.next_leaf(&at, self.nr_vpns)
            if slot is NULL:
                break
            if room_for(found, 3):
                return -1
            found.vpns[found.n] = at
            found.vpns[found.n + 1] = slot[0] >> self.encoding.pte.pfn_shift & mask
            found.vpns[found.n + 2] = slot[0] & DEPOSITED != 0
            found.n += 3
            at = (at | <uint64_t>(self.encoding.entries - 1)) + 1
        return 0

    # -- without a lock ---------------------------------------------------------

    cdef uint64_t see_one(self, uint64_t vpn, uint64_t* word) noexcept nogil:
        cdef uint64_t pte = self.none
        cdef uint32_t moves
        cdef const Ptdesc* t
        cdef bint seen = False
        cdef int turn = 0
        cdef int slot
        while not seen:
            turn += 1
            slot = enter_epoch()
            moves = count_of_changes(&self.moves)
            begin_racy()
            t = self.see(vpn)
            if t is NULL:
                pte = self.none
                memset(word, 0, self.encoding.lanes * sizeof(uint64_t))
                seen = True
            else:
                seen = self.see_entry(t, vpn, &pte, word)
            seen = seen and moves & 1 == 0 and unchanged_since(&self.moves, moves)
            end_racy()
            leave_epoch(slot)
            if not seen:
                relax(turn)
        return pte

    cdef bint see_entry(
            self, const Ptdesc* t, uint64_t vpn, uint64_t* pte,
            uint64_t* word) noexcept nogil:
        """Read one entry and its word; False if they changed meanwhile."""
        cdef uint32_t before
        cdef Run r
        r.first = <Py_ssize_t>(vpn & <uint64_t>(self.encoding.entries - 1))
        r.n = 1
        r.vpns = NULL
        if self.encoding.reading >= FLAGGED:
            # No cache line of the descriptor, where the entry tells enough.
            pte[0] = once(self.pte_at(t, r.first))
            if self.encoding.reading == ALONE:
                return self.encoding.see(t, &r, pte, word)
            if pte[0] & flag_of(&self.encoding.pte, pte[0]) == 0:
                memset(word, 0, self.encoding.lanes * sizeof(uint64_t))
                return True
        before = count_of_changes(&t.seq)
        if before & 1:
            return False
        pte[0] = once(self.pte_at(t, r.first))
        return self.encoding.see(t, &r, pte, word) and unchanged_since(&t.seq, before)

    cdef void see_all(
            self, const Span* s, uint64_t* ptes, uint64_t* words) noexcept nogil:
        cdef Py_ssize_t lanes = self.encoding.lanes
        cdef Py_ssize_t done = 0
        cdef Py_ssize_t at, i, left
        cdef uint32_t moves
        cdef const Ptdesc* t
        cdef bint seen
        cdef int slot
        cdef int turn = 0
        cdef Run r
        while done < s.n:
            at = done
            slot = enter_epoch()
            moves = count_of_changes(&self.moves)
            begin_racy()
            seen = moves & 1 == 0
            left = SEEN_AT_ONCE
            while seen and at < s.n and left > 0:
                next_run(s, at, self.table_bits, &r)
                t = self.see(vpn_at(s, at))
                if t is not NULL:
                    seen = self.see_run(t, &r, ptes + at, words + at * lanes)
                else:
                    for i in range(r.n):
                        ptes[at + i] = self.none
                    memset(words + at * lanes, 0, r.n * lanes * sizeof(uint64_t))
                if seen:
                    at += r.n
                    left -= r.n + SEEN_FOR_A_TABLE
            # What was seen before another table's turn failed is good.
            if unchanged_since(&self.moves, moves) and moves & 1 == 0:
                done = at
            end_racy()
            leave_epoch(slot)
            if not seen:
                turn += 1
                relax(turn)

    cdef bint see_run(
            self, const Ptdesc* t, const Run* r, uint64_t* ptes,
            uint64_t* words) noexcept nogil:
        """Read entries of a table and their words; False if they keep changing."""
        cdef bint by_flags = self.encoding.reading == FLAGGED
        cdef uint32_t before
        cdef bint good
        cdef int turn
        if r.n <= FEW and self.encoding.reading >= FLAGGED:
            return self.see_each(t, r, ptes, words)
        for turn in range(TRIES):
            before = count_of_changes(&t.seq)
            if before & 1 == 0:
                self.copy_entries(t, r, ptes)
                good = True
                if by_flags and t.flagged == 0:
                    memset(words, 0, r.n * self.encoding.lanes * sizeof(uint64_t))
                else:
                    good = self.encoding.see(t, r, ptes, words)
                if good and unchanged_since(&t.seq, before):
                    return True
            relax(turn + 1)
        return self.see_each(t, r, ptes, words)

    cdef bint see_each(
            self, const Ptdesc* t, const Run* r, uint64_t* ptes,
            uint64_t* words) noexcept nogil:
        """Read entry by entry: there is time for one between two changes."""
        cdef Py_ssize_t lanes = self.encoding.lanes
        cdef Py_ssize_t i, e
        cdef int turn
        for i in range(r.n):
            e = entry_at(r, i, self.encoding.entries - 1)
            for turn in range(TRIES):
                if self.see_entry(t, <uint64_t>e, ptes + i, words + i * lanes):
                    break
                relax(turn + 1)
            else:
                return False
        return True

    cdef void copy_entries(
            self, const Ptdesc* t, const Run* r, uint64_t* ptes) noexcept nogil:
        cdef const uint64_t* entry = self.pte_at(t, r.first)
        cdef Py_ssize_t i
        if r.vpns is NULL and self.stride == 1:
            # In any pieces: the count tells if one changed.
            memcpy(ptes, entry, r.n * sizeof(uint64_t))
        elif r.vpns is NULL:
            for i in range(r.n):
                ptes[i] = entry[2 * i]
        else:
            for i in range(r.n):
                ptes[i] = self.pte_at(
                    t, entry_at(r, i, self.encoding.entries - 1))[0]

    cdef void read_ptes(self, const Span* s, uint64_t* ptes) noexcept nogil:
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t i
        cdef Ptdesc* t
        cdef Run r
        while at < s.n:
            t = self.run_at(s, at, &r)
            if t is not NULL:
                self.copy_entries(t, &r, ptes + at)
            else:
                for i in range(r.n):
                    ptes[at + i] = self.none
            at += r.n

    # -- all of a table -----------------------------------------------------------

    cdef int graft(self, Operations parent) noexcept nogil:
        """Copy all of ``parent`` into this table, which is empty."""
        cdef uint64_t at = 0
        cdef Ptdesc* t
        cdef Ptdesc* copy
        cdef uint64_t* slot
        cdef uint64_t* leaf
        t = parent.next_table(&at, parent.nr_vpns)
        slot = t.parent if t is not NULL else NULL
        while t is not NULL:
            copy = self.make(t.vpn, t.order)
            if copy is NULL:
                return no_memory(self.frames.frame_bytes << t.order)
            memcpy(entries(self.frames, copy), entries(parent.frames, t),
                   self.encoding.entries * self.stride * sizeof(uint64_t))
            copy.used = t.used
            if self.encoding.fork(parent.encoding, t, copy):
                return no_memory(self.frames.frame_bytes)
            t = parent.table_after(&slot, &at, parent.nr_vpns)
        self.encoding.end()
        at = 0
        while self.nr_leaves < parent.nr_leaves:
            leaf = parent.next_leaf(&at, parent.nr_vpns)
            slot = self.leaf_slot(at, True)
            if slot is NULL:
                return no_memory(self.frames.frame_bytes)
            slot[0] = leaf[0] & ~<uint64_t>DEPOSITED
            t = self.holder(slot, self.levels - 2)
            t.used += 1
            self.nr_leaves += 1
            # The kernel deposits a table of the child's own: copy_huge_pmd().
            if leaf[0] & DEPOSITED and not self.deposit_one(slot):
                return no_memory(self.frames.frame_bytes << self.encoding.order)
            at = (at | <uint64_t>(self.encoding.entries - 1)) + 1
        self.nr_ptes = parent.nr_ptes
        self.next_pfn = parent.next_pfn
        return 0

    cdef int carry_over(self, uint64_t src, uint64_t dst, uint64_t n) noexcept nogil:
        cdef uint64_t stop = src + n
        cdef uint64_t at = self.next_moved(src, stop)
        cdef uint64_t step
        while at < stop:
            step = self.chunk(at, stop, dst + (at - src))
            if self.move_run(at, dst + (at - src), <Py_ssize_t>step, True):
                self.tidy(dst, dst + n)
                self.encoding.end()
                return no_memory(self.frames.frame_bytes)
            at = self.next_moved(at + step, stop)
        if self.encoding.follow(src, dst, n):
            self.tidy(dst, dst + n)
            self.encoding.end()
            return no_memory(self.frames.frame_bytes)
        at = self.next_moved(src, stop)
        while at < stop:
            step = self.chunk(at, stop, dst + (at - src))
            self.move_run(at, dst + (at - src), <Py_ssize_t>step, False)
            at = self.next_moved(at + step, stop)
        # Not sooner: a table may be source and destination of several runs.
        self.tidy(dst, dst + n)
        self.tidy(src, stop)
        self.encoding.end()
        return 0

    cdef uint64_t next_moved(self, uint64_t at, uint64_t stop) noexcept nogil:
        """Return the first vpn from ``at`` on that has a table; at most ``stop``."""
        return at if self.next_table(&at, stop) is not NULL else stop

    cdef uint64_t chunk(
            self, uint64_t src, uint64_t stop, uint64_t dst) noexcept nogil:
        """Return how many vpns from ``src`` on stay in one table on both sides."""
        cdef uint64_t size = <uint64_t>self.encoding.entries
        cdef uint64_t n = min(stop - src, <uint64_t>MOVE_AT_ONCE)
        n = min(n, size - (src & (size - 1)))
        return min(n, size - (dst & (size - 1)))

    cdef int move_run(
            self, uint64_t src, uint64_t dst, Py_ssize_t n, bint prepare
            ) noexcept nogil:
        """Make room for a run at its destination, or move it there."""
        cdef uint64_t[MOVE_AT_ONCE * MAX_LANES] words
        cdef uint64_t none = self.encoding.pte.none
        cdef Ptdesc* t = self.find(src)
        cdef Ptdesc* to
        cdef Run here, there
        cdef Write w
        cdef uint64_t* source = self.pte_at(t, <Py_ssize_t>(src - t.vpn))
        cdef uint64_t* target
        cdef Py_ssize_t stride = self.stride
        cdef Py_ssize_t i
        cdef unsigned int moved = 0
        here.first = <Py_ssize_t>(src - t.vpn)
        here.n = there.n = n
        here.vpns = there.vpns = NULL
        for i in range(n):
            moved += source[i * stride] != none
        if moved == 0:
            return 0
        self.encoding.load(t, &here, words)
        w.keep = ZERO_WORD
        w.add = words
        w.step = self.encoding.lanes
        if prepare:
            to = self.make(dst, self.encoding.order)
            if to is NULL:
                return -1
            there.first = <Py_ssize_t>(dst - to.vpn)
            return 0 if self.encoding.prepare(to, &there, &w) is not NULL else -1
        to = self.find(dst)
        there.first = <Py_ssize_t>(dst - to.vpn)
        target = self.pte_at(to, there.first)
        w.add = ZERO_WORD
        w.step = 0
        begin_change(&self.moves)
        lock_table(t)
        if to is not t:
            lock_table(to)
        # Without its word an entry is bare, and moves as it is. A word that belongs to
        # the page is not touched.
        if not self.encoding.by_page:
            self.encoding.store(t, &here, &w)
        for i in range(n):
            target[i * stride] = source[i * stride]
            source[i * stride] = none
        to.used += moved
        t.used -= moved
        w.add = words
        w.step = self.encoding.lanes
        if not self.encoding.by_page:
            self.encoding.store(to, &there, &w)
        if to is not t:
            unlock_table(to)
        unlock_table(t)
        end_change(&self.moves)
        return 0

    cdef void tidy(self, uint64_t first, uint64_t stop) noexcept nogil:
        """Give back what the tables of [first, stop) hold and don't need."""
        cdef uint64_t at = first
        cdef Ptdesc* t
        while True:
            t = self.next_table(&at, stop)
            if t is NULL:
                break
            at = t.vpn + <uint64_t>self.encoding.entries
            self.encoding.settle(t)
            if t.next:
                self.encoding.trim(t)
            self.prune(t)

    cdef int exchange(
            self, const Span* s, const uint64_t* to, bint out) noexcept nogil:
        cdef const PteLayout* a = &self.encoding.pte
        cdef Py_ssize_t last_entry = self.encoding.entries - 1
        cdef int wanted = PRESENT if out else SWAPPED
        cdef uint64_t pte, bare
        cdef Py_ssize_t at = 0
        cdef uint64_t* entry
        cdef Py_ssize_t i
        cdef bint writable
        cdef Ptdesc* t
        cdef Run r
        while at < s.n:
            t = self.run_at(s, at, &r)
            i = self.first_unlike(t, &r, wanted)
            if i >= 0:
                return self.refuse(vpn_at(s, at + i), wanted)
            if out and self.encoding.asks:
                i = self.encoding.first_unfit(t, &r, NULL)
                if i >= 0:
                    return self.refuse_word(vpn_at(s, at + i), NULL, 0)
            at += r.n
        if self.encoding.by_page and not out and self.encoding.admit(to, 0, s.n):
            self.encoding.end()
            return no_memory(self.frames.page_bytes)
        at = 0
        while at < s.n:
            t = self.run_at(s, at, &r)
            lock_table(t)
            for i in range(r.n):
                entry = self.pte_at(t, entry_at(&r, i, last_entry))
                pte = entry[0]
                # Named twice, an entry is of the new kind at its second turn.
                writable = pte & (a.write if pte & a.present else a.swap_write) != 0
                if out:
                    bare = swap_entry(a, to[at + i])
                    bare |= a.swap_write if writable else 0
                else:
                    bare = to[at + i] << a.pfn_shift | a.base
                    bare |= a.writable if writable else a.readonly
                entry[0] = self.encoding.carry(pte, bare)
            unlock_table(t)
            at += r.n
        if self.encoding.by_page:
            self.encoding.end()
        return 0

    cdef int refuse_word(
            self, uint64_t vpn, const Write* w, Py_ssize_t i) noexcept nogil:
        """Refuse the operation: an entry can't hold the word that it would get."""
        cdef Refusal* r = refusal()
        cdef Ptdesc* t = self.find(vpn)
        cdef uint64_t pte = self.pte_at(t, <Py_ssize_t>(vpn - t.vpn))[0]
        r.swapped = w is NULL or pte & self.encoding.pte.present == 0
        r.word = self.read_word(vpn)
        if w is not NULL:
            r.word = r.word & w.keep[0] | w.add[i * w.step]
        return refuse_for(UNFIT, vpn)
