"""Operations as the kernel does them: entry by entry, under the lock of the table.

`PageTable.fork` copies a table by one memcpy, so a test or a copy inside the kernel's
loop over PTEs can't show there. These forms do for each entry what copy_pte_range(),
change_pte_range() and zap_pte_range() do (Linux 6.12, mm/memory.c and mm/mprotect.c):
they test whether it is none and whether it is present, change its page's reference and
map counts by locked additions (fork, unmap), write-protect it (fork, update), and write
it. The flag needs no instruction of its own, since it is among the bits that a changed
entry keeps.

Words move in one of two ways. By default the encoding is called once for the table's
run, as `Encoding` offers it: a side page is copied at once, or shared. With `each` the
loop tests the flag of each entry and calls the encoding for one entry at a time, as
Roberts' and our first prototype did. If the words are in the entries, or belong to
pages, there is nothing to do for an entry, and both ways are the same.

Left out: large folios, which the kernel handles in batches; swap counts; TLB flushes;
the check for a pending reschedule; rmap, memory cgroups and the freeing of pages.
"""
from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from extmeta.memory.frames cimport Ptdesc, entries, lock_table, unlock_table
from extmeta.pagetable cimport PageTable
from extmeta.table.encoding cimport (
    ALONE, FLAGGED, MAX_LANES, NEVER, ZERO_WORD, Write)
from extmeta.table.pte cimport PteLayout, flag_of
from extmeta.table.refusal cimport no_memory
from extmeta.table.vpns cimport Run, run_of
from extmeta.table.words cimport Above

cdef extern from "stdlib.h" nogil:
    void* aligned_alloc(size_t alignment, size_t nbytes)

cdef extern from *:
    # From sync.pxd, for integers of another size.
    void add_count "extmeta_add"(int32_t* p, int by) noexcept nogil

cdef enum:
    PAGE_LINE = 64        # bytes of struct page on x86-64, which is one cache line
    MOST = 2048           # entries of a PTE table: arm64 with 16K pages

cdef struct Page:
    # The parts of the kernel's struct page that the loops change.
    int32_t refs
    int32_t maps
    char[PAGE_LINE - 8] rest


cdef inline bint may_have_word(
        const PteLayout* a, uint64_t pte, bint by_flag, bint any_word) noexcept nogil:
    """Test an entry's flag; without flags, ``any_word`` tells it of the whole table."""
    if by_flag:
        return pte & flag_of(a, pte) != 0
    return any_word


cdef inline bint has_words(PageTable table, const Ptdesc* t) noexcept nogil:
    """Return whether a table may have words: not every encoding counts them."""
    return t.flagged != 0 or not table.encoding.uses_descriptor


cdef class Loops:
    """The kernel's loops, with the struct pages that they count in.

    Parameters
    ----------
    nr_pages : int
        At least so many struct pages are made, as a power of 2. A pfn's is found by its
        lowest bits.
    each : bool, default False
        Whether the encoding is called for one entry at a time.

    Attributes
    ----------
    nr_locked : int
        How often a PTE table was locked.
    nr_described : int
        How often the link or the count in its descriptor changed meanwhile.
    """

    cdef Page* pages
    cdef uint64_t last_page
    cdef readonly bint each
    cdef readonly size_t nr_locked
    cdef readonly size_t nr_described

    def __cinit__(self, nr_pages, each=False):
        cdef size_t n = 1 << max(0, nr_pages - 1).bit_length()
        self.each = each
        self.last_page = n - 1
        self.pages = <Page*>aligned_alloc(PAGE_LINE, n * sizeof(Page))
        if self.pages is NULL:
            raise MemoryError(f"{n} struct pages")
        memset(self.pages, 0, n * sizeof(Page))

    def __dealloc__(self):
        free(self.pages)

    def counts(self, pfn):
        """Return the reference count and the map count of a page, as two ints."""
        cdef Page* page = &self.pages[<uint64_t>pfn & self.last_page]
        return page.refs, page.maps

    cdef Page* page_of(self, const PteLayout* a, uint64_t pte) noexcept nogil:
        return &self.pages[pte >> a.pfn_shift & self.last_page]

    cdef bint one_by_one(self, PageTable table) noexcept nogil:
        """Return whether the encoding is called for each entry."""
        cdef bint in_entries = table.stride == 2 or table.encoding.reading == ALONE
        return self.each and not in_entries and not table.encoding.by_page

    # -- fork -----------------------------------------------------------------

    def fork(self, PageTable parent not None):
        """Return a PageTable with equal words and write-protected PTEs.

        The parent's PTEs become write-protected too.

        Raises
        ------
        MemoryError
            If memory can't be had; nothing is left of the child.
        """
        cdef PageTable child = parent.empty_child(True)
        cdef bint each = self.one_by_one(parent)
        cdef int failed = 0
        parent.enter()
        with nogil:
            if not each and child.encoding.copy_all(parent.encoding):
                failed = no_memory(parent.encoding.held_bytes())
            if not failed:
                failed = self.copy_tables(parent, child, each)
            child.encoding.end_fork()
        parent.leave()
        if failed:
            child.raise_refusal()
        return child

    cdef int copy_tables(
            self, PageTable parent, PageTable child, bint each) noexcept nogil:
        cdef uint64_t at = 0
        cdef uint64_t end = 0
        cdef uint64_t[MOST] worded
        cdef Py_ssize_t n
        cdef Ptdesc* t
        cdef Ptdesc* copy
        while (t := parent.next_table(&at, parent.nr_vpns)) is not NULL:
            at = t.vpn + <uint64_t>parent.entries
            copy = child.make(t.vpn, child.encoding.order if each else t.order)
            if copy is NULL:
                return no_memory(child.frames.frame_bytes << t.order)
            n = self.copy_entries(parent, t, child, copy, worded if each else NULL)
            if each:
                copy = self.make_room_for_each(parent, t, child, copy, worded, n)
                if copy is NULL:
                    return no_memory(child.frames.frame_bytes)
                self.copy_words(parent, t, child, copy, worded, n)
                child.settle(copy)
            elif not self.fork_words(parent, t, child, copy):
                return no_memory(child.frames.frame_bytes)
            end = t.vpn + 1
        child.encoding.end()
        if end:
            child.copy_counts(parent, end)
        return child.copy_leaves(parent)

    cdef Py_ssize_t copy_entries(
            self, PageTable parent, Ptdesc* t, PageTable child, Ptdesc* copy,
            uint64_t* worded) noexcept nogil:
        """Copy a table's entries under both locks.

        If ``worded`` is not NULL, the vpns of entries that may have a word are written
        there, and the copies have no flag. Return their number.
        """
        cdef const PteLayout* a = &parent.pte
        cdef uint64_t* source = entries(parent.frames, t)
        cdef uint64_t* target = entries(child.frames, copy)
        cdef Py_ssize_t stride = parent.stride
        cdef bint by_flag = parent.encoding.reading == FLAGGED
        cdef bint any_word = worded is not NULL and has_words(parent, t)
        cdef unsigned int used = 0
        cdef Py_ssize_t n = 0
        cdef Py_ssize_t i
        cdef uint64_t pte
        cdef Page* page
        self.lock(t)
        lock_table(copy)
        for i in range(parent.entries):
            pte = source[i * stride]
            if pte == a.none:
                continue
            if pte & a.present:
                page = self.page_of(a, pte)
                add_count(&page.refs, 1)
                add_count(&page.maps, 1)
                if pte & a.write:
                    pte = pte & ~a.writable | a.readonly
                    source[i * stride] = pte
            if worded is not NULL and may_have_word(a, pte, by_flag, any_word):
                worded[n] = t.vpn + <uint64_t>i
                n += 1
                # The flag comes with the word; encodings without flags never set it.
                pte &= ~flag_of(a, pte)
            target[i * stride] = pte
            if stride == 2:
                target[2 * i + 1] = source[2 * i + 1]
            used += 1
        copy.used = <uint16_t>used
        unlock_table(copy)
        unlock_table(t)
        return n

    cdef bint fork_words(
            self, PageTable parent, const Ptdesc* t, PageTable child, Ptdesc* copy
            ) noexcept nogil:
        """Copy or share a table's words at once; False if no memory can be had."""
        return child.encoding.fork(parent.encoding, t, copy) == 0 and (
            not t.reached or child.reach(copy))

    cdef Ptdesc* make_room_for_each(
            self, PageTable parent, const Ptdesc* t, PageTable child, Ptdesc* copy,
            const uint64_t* worded, Py_ssize_t n) noexcept nogil:
        """Prepare the child's table for n words, one at a time; NULL if it can't be."""
        cdef uint64_t[MAX_LANES] word
        cdef Write w = Write(ZERO_WORD, &word[0], parent.encoding.lanes)
        cdef Py_ssize_t i
        cdef Run r
        for i in range(n):
            r = run_of(<Py_ssize_t>(worded[i] - t.vpn), 1)
            parent.encoding.load(t, &r, word)
            copy = child.prepare(copy, &r, &w)
            if copy is NULL:
                return NULL
        return copy

    cdef void copy_words(
            self, PageTable parent, const Ptdesc* t, PageTable child, Ptdesc* copy,
            const uint64_t* worded, Py_ssize_t n) noexcept nogil:
        """Copy n words, one at a time, under the lock of the child's table."""
        cdef uint64_t[MAX_LANES] word
        cdef Write w = Write(ZERO_WORD, &word[0], parent.encoding.lanes)
        cdef Py_ssize_t i
        cdef Run r
        self.lock(copy)
        for i in range(n):
            r = run_of(<Py_ssize_t>(worded[i] - t.vpn), 1)
            parent.encoding.load(t, &r, word)
            child.encoding.store(copy, &r, &w)
        unlock_table(copy)

    # -- update ---------------------------------------------------------------

    def write(
            self, PageTable table not None, vpns, const uint64_t[::1] keep not None,
            const uint64_t[::1] add not None):
        """Write-protect the PTEs of a range; set word = (word & keep) | add.

        Parameters
        ----------
        table : PageTable
        vpns : range
            Those not mapped are ignored.
        keep : (lanes,) uint64 ndarray
        add : (lanes,) or (len(vpns) * lanes,) uint64 ndarray
            One word for all, or one for each vpn: 0 if it is not mapped.

        Raises
        ------
        ValueError
            If an array has another length, or an entry can't hold its word.
        MemoryError
            If memory can't be had. In each case some words may be changed.
        """
        cdef Py_ssize_t lanes = table.encoding.lanes
        cdef uint64_t first = vpns.start
        cdef uint64_t stop = vpns.stop
        cdef Write w
        cdef int failed
        if keep.shape[0] != lanes or add.shape[0] not in (lanes, len(vpns) * lanes):
            raise ValueError(f"{keep.shape[0]} and {add.shape[0]} uint64s of keep and "
                             f"add, for {len(vpns)} vpns and words of {lanes}")
        w.keep = &keep[0]
        w.add = &add[0]
        w.step = 0 if add.shape[0] == lanes else lanes
        table.enter()
        with nogil:
            failed = self.write_tables(table, first, stop, &w)
        table.leave_after(failed)

    cdef int write_tables(
            self, PageTable table, uint64_t first, uint64_t stop, const Write* w
            ) noexcept nogil:
        cdef uint64_t at = first
        cdef Py_ssize_t i
        cdef uint32_t before
        cdef Above above
        cdef Ptdesc* t
        cdef Write part = w[0]
        cdef Run r
        while (t := table.next_table(&at, stop)) is not NULL:
            r = run_of(<Py_ssize_t>(at - t.vpn), <Py_ssize_t>(
                min(stop - t.vpn, <uint64_t>table.entries) - (at - t.vpn)))
            part.add = w.add + <Py_ssize_t>(at - first) * w.step
            at = t.vpn + <uint64_t>table.entries
            if table.encoding.asks != NEVER:
                i = table.encoding.first_unfit(t, &r, &part)
                if i >= 0:
                    return table.refuse_word(
                        t.vpn + <uint64_t>(r.first + i), &part, i)
            t = self.make_room(table, t, &r, &part)
            if t is NULL:
                return no_memory(table.frames.frame_bytes)
            before = t.flagged
            self.change_entries(table, t, &r, &part)
            above = Above(NULL, 0)
            table.note_words(t, before, &above)
            table.settle(t)
        table.encoding.end()
        return 0

    cdef Ptdesc* make_room(
            self, PageTable table, Ptdesc* t, const Run* r, const Write* w
            ) noexcept nogil:
        """Prepare a run, before the table is locked; NULL if it can't be."""
        cdef Write part = w[0]
        cdef Run one
        cdef Py_ssize_t i
        if not self.one_by_one(table):
            return table.prepare(t, r, w)
        for i in range(r.n):
            one = run_of(r.first + i, 1)
            part.add = w.add + i * w.step
            if table.pte_at(t, one.first)[0] != table.pte.none:
                t = table.prepare(t, &one, &part)
                if t is NULL:
                    return NULL
        return t

    cdef void change_entries(
            self, PageTable table, Ptdesc* t, const Run* r, const Write* w
            ) noexcept nogil:
        """Write-protect the entries of a run and change their words, under the lock."""
        cdef const PteLayout* a = &table.pte
        cdef bint each = self.one_by_one(table)
        cdef uint64_t link = t.link
        cdef uint32_t flagged = t.flagged
        cdef Write part = w[0]
        cdef uint64_t* entry
        cdef Py_ssize_t i
        cdef Run one
        self.lock(t)
        for i in range(r.n):
            entry = table.pte_at(t, r.first + i)
            if entry[0] == a.none:
                continue
            if entry[0] & a.present:
                entry[0] = entry[0] & ~a.writable | a.readonly
            if each:
                one = run_of(r.first + i, 1)
                part.add = w.add + i * w.step
                table.encoding.store(t, &one, &part)
        if not each:
            table.encoding.store(t, r, w)
        unlock_table(t)
        self.nr_described += t.link != link or t.flagged != flagged

    # -- unmap ----------------------------------------------------------------

    def unmap(self, PageTable table not None, vpns):
        """Unmap the PTEs of a range, and drop their words; huge pages stay.

        Parameters
        ----------
        table : PageTable
        vpns : range
        """
        cdef uint64_t at = vpns.start
        cdef uint64_t stop = vpns.stop
        cdef Ptdesc* t
        cdef uint32_t before
        cdef Py_ssize_t first
        cdef Above above
        table.enter()
        with nogil:
            while (t := table.next_table(&at, stop)) is not NULL:
                first = <Py_ssize_t>(at - t.vpn)
                at = t.vpn + <uint64_t>table.entries
                before = t.flagged
                self.zap_entries(table, t, first, <Py_ssize_t>min(
                    stop - t.vpn, <uint64_t>table.entries))
                above = Above(NULL, 0)
                table.note_words(t, before, &above)
                table.settle(t)
                table.prune(t)
            table.encoding.end()
        table.leave()

    cdef void zap_entries(
            self, PageTable table, Ptdesc* t, Py_ssize_t first, Py_ssize_t last
            ) noexcept nogil:
        """Clear the entries [first, last) under the lock, after their words."""
        cdef const PteLayout* a = &table.pte
        cdef bint each = self.one_by_one(table)
        cdef bint by_flag = table.encoding.reading == FLAGGED
        cdef uint64_t link = t.link
        cdef uint32_t flagged = t.flagged
        cdef unsigned int held = 0
        cdef uint64_t* entry
        cdef uint64_t pte
        cdef Page* page
        cdef Py_ssize_t i
        self.lock(t)
        if not each:
            table.encoding.zap(t, first, last)
        for i in range(first, last):
            entry = table.pte_at(t, i)
            pte = entry[0]
            if pte == a.none:
                continue
            if each and may_have_word(a, pte, by_flag, has_words(table, t)):
                table.encoding.zap(t, i, i + 1)
            if pte & a.present:
                page = self.page_of(a, pte)
                add_count(&page.maps, -1)
                add_count(&page.refs, -1)
            entry[0] = a.none
            if table.stride == 2:
                entry[1] = 0
            held += 1
        t.used -= held
        table.nr_ptes -= held
        unlock_table(t)
        self.nr_described += t.link != link or t.flagged != flagged

    cdef void lock(self, Ptdesc* t) noexcept nogil:
        self.nr_locked += 1
        lock_table(t)
