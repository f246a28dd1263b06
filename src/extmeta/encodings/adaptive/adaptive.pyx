"""Words in the smallest container that holds them, found from the descriptor.

As in `linked`, a link leads to the words, and the flag in the PTE says that there is
one: a reader of a PTE without a word touches nothing else. But the container follows
what the table holds. There is none if all flagged PTEs share a word; there is a list of
positions and words for few, a bitmap and the words for more, and a word for each PTE
for most. Each is as narrow as its widest word. A container that knows its positions is
scanned without a look at the PTEs.

A table grows into a larger container when it has to, at its exact size. It shrinks when
another would take half of what it has. After a fork both tables have the same
container; the first to write, on either side, makes its own.

In a kernel the link would be a pointer with tags. Here it is a place in 64 GiB of side
memory, which leaves room for the count. Without that, the count is two bytes more in
each object.

This file dispatches by the kind of container. `link.pxd` has the link's bits; a file
for each kind reads and writes it; `shape.pxd` chooses one; `pending.pxd` is what passes
between the passes of an operation.
"""
from cython cimport final, no_gc_clear
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.string cimport memset

from extmeta.encodings.adaptive cimport container, dense, excess, few, listed
from extmeta.encodings.adaptive cimport marks, reserve, uniform
from extmeta.encodings.adaptive.contents cimport (
    Sparse, Survey, change_some, cut_words, drop_range, survey_words)
from extmeta.encodings.adaptive.in_place cimport (
    copy_object, joining, write_in_place)
from extmeta.encodings.adaptive.link cimport (
    DENSE, EMPTY, FEW, LISTED, MOST, RANKED, SHARED, STALE, UNIFORM, Geometry, class_of,
    count_of, has_object, is_stale, is_uniform, kind_of, object_of)
from extmeta.encodings.packed cimport width_for
from extmeta.encodings.adaptive.pending cimport (
    expect, expected, forget_write, keep_handle, keep_too_large, pending, survey_more)
from extmeta.encodings.adaptive.reserve cimport Reserve
from extmeta.encodings.adaptive.room cimport (
    compact, make_room, owns, replace_object, take_kept, write_back)
from extmeta.encodings.adaptive.shape cimport FROM_FULL, SLAB_FRAME
from extmeta.encodings.side cimport FEW as LOOKED_AT
from extmeta.encodings.side cimport (
    adds_nothing, count_flags, flagged_of, makes_a_word, side_zap)
from extmeta.memory.frames cimport PTE, Ptdesc, entries
from extmeta.memory.slabs cimport Slabs, class_bytes, handle_of
from extmeta.memory.sync cimport once, prefetch, publish
from extmeta.table.encoding cimport FLAGGED, TOGETHER, Encoding, Lookups, Write
from extmeta.table.pte cimport ALL, flag_of, flags, lowest
from extmeta.table.vpns cimport Run, entry_at, run_of

# In the order of Kind.
NAMES = ("empty", "uniform", "inline", "boxed", "few", "listed", "ranked", "dense")


# The page table frees objects in `slabs` when it dies, so the collector must not clear
# `slabs` before.
@no_gc_clear
@final
cdef class Adaptive(Encoding):
    """Keep each table's words in the smallest container that holds them."""

    cdef Slabs slabs
    cdef Geometry g
    cdef Reserve reserve

    def configure(self):
        self.refuse_above(64)
        self.reserves = True
        self.reading = FLAGGED
        self.parallel = True
        if self.entries > MOST:
            raise ValueError(f"{self!r} on {self.arch.name}: tables of {self.entries} "
                             f"entries; {MOST} at most")
        self.g.pte = &self.pte
        self.g.entries = self.entries
        self.g.map_bytes = (<size_t>self.entries + 63) // 64 * 8
        self.g.position_bits = self.entries.bit_length() - 1
        self.reserve.dense_bytes = dense.nbytes(
            &self.g, width_for(ALL >> (64 - self.bits)))
        self.copies = True

    def containers(self):
        """Return how many PTE tables have which container.

        Returns
        -------
        dict of str to int
            The keys are `NAMES`; ``adaptive/link.pxd`` describes them.
        """
        cdef uint32_t frame
        found = [0] * len(NAMES)
        for frame in range(self.frames.top):
            if self.frames.desc[frame].kind == PTE:
                found[<int>kind_of(self.frames.desc[frame].link)] += 1
        return dict(zip(NAMES, found, strict=True))

    cdef void use(self, Slabs slabs):
        self.slabs = slabs
        self.g.base = slabs.pages.base

    def start(self):
        self.use(Slabs(SLAB_FRAME))

    # -- making room ----------------------------------------------------------

    cdef Ptdesc* prepare(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        if t.flagged == 0 and not makes_a_word(w, r.n, 1):
            return t
        if adds_nothing(w, 1) and (w.keep[0] == 0 or container.shrinks_in_place(
                &self.g, t, r, w.keep[0],
                not has_object(t.link) or owns(self.slabs, &self.g, t))):
            return t
        if self.fits(t, r, w) or self.prepare_room(t, r, w):
            return t
        return NULL

    cdef bint fits(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        """Promise room in the present container, or in a copy of it if it is shared."""
        cdef Py_ssize_t joins
        cdef void* p
        if pending(t).prepared or w.step == 0 and container.stays_uniform(
                &self.g, t, r, w):
            return False
        joins = joining(
            &self.g, t, entries(self.frames, t), r, w, pending(t).count)
        if joins < 0:
            return False
        if not owns(self.slabs, &self.g, t) and not pending(t).has_object:
            p = self.slabs.alloc(class_bytes(class_of(t.link)))
            if p is NULL:
                return False
            keep_handle(t, handle_of(self.slabs, p), class_of(t.link))
        pending(t).in_place = 1
        pending(t).count += <uint32_t>joins
        return True

    cdef bint prepare_room(
            self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef bint surveyed = False
        cdef Survey v
        if pending(t).prepared or pending(t).in_place:
            survey_more(&self.g, t, entry, r, w, &v)
        elif w.step == 0 and container.stays_uniform(&self.g, t, r, w):
            v.count = self.entries
            v.bits = v.word = w.add[0]
            v.uniform = True
        else:
            container.survey_write(&self.g, t, entry, r, w, &v)
            # A move clears the words at the source before it stores here.
            surveyed = not adds_nothing(w, 1)
        if not make_room(&self.g, self.slabs, &self.reserve, t, &v):
            return False
        expect(t, &v, surveyed)
        return True

    # -- writing --------------------------------------------------------------

    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef uint32_t flagged = t.flagged
        if flagged == 0 and not pending(t).prepared and not makes_a_word(w, r.n, 1):
            forget_write(t)
            return
        if not (w.step == 0 and container.stays_uniform(&self.g, t, r, w)) and (
                self.store_in_place(t, r, w)):
            excess.note(&self.g, self.slabs, t, r, flagged)
            self.note_leftovers(t)
            return
        if adds_nothing(w, 1):
            forget_write(t)
            if self.clear(t, r, w.keep[0]):
                if kind_of(t.link) >= LISTED:
                    excess.note(&self.g, self.slabs, t, r, flagged)
                self.note_leftovers(t)
                return
        elif w.step == 0 and container.stays_uniform(&self.g, t, r, w):
            self.store_uniform(t, r, w.add[0])
            self.note_leftovers(t)
            return
        if r.n == 1:
            self.store_one(t, r, w)
        elif container.is_short(t.link, r):
            self.store_some(t, r, w)
        else:
            self.store_all(t, r, w)
        self.note_leftovers(t)

    cdef bint store_in_place(
            self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        """Write into the present container, or a copy of it; False if it can't be."""
        cdef uint64_t* entry = entries(self.frames, t)
        cdef void* shared
        if adds_nothing(w, 1) and r.vpns is NULL and kind_of(t.link) != DENSE:
            return False
        # After the first run of several the promise is forgotten.
        if not pending(t).in_place and (
                joining(&self.g, t, entry, r, w, 0) < 0):
            return False
        if not owns(self.slabs, &self.g, t):
            if not pending(t).has_object or (
                    <int>pending(t).size_class != class_of(t.link)):
                return False
            shared = object_of(&self.g, t.link)
            copy_object(&self.g, t, take_kept(&self.g, t))
            self.slabs.free(shared)
        forget_write(t)
        write_in_place(self, &self.g, t, entry, r, w)
        return True

    cdef void store_uniform(
            self, Ptdesc* t, const Run* r, uint64_t word) noexcept nogil:
        forget_write(t)
        if has_object(t.link):
            replace_object(&self.g, self.slabs, t)
        t.link = uniform.link_with(word)
        marks.flag_run(t, entries(self.frames, t), &self.pte, r, self.entries - 1)

    cdef void store_all(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef uint64_t* entry = entries(self.frames, t)
        cdef bint surveyed = pending(t).surveyed != 0
        cdef uint64_t[MOST] filled
        cdef const uint64_t* words
        cdef Survey v
        if surveyed:
            expected(t, &v)
        forget_write(t)
        words = container.words_after(&self.g, t, entry, r, w, filled)
        if not surveyed:
            survey_words(words, self.entries, &v)
        # A reader that sees a flag must find a word: clear flags before words go, and
        # set them after words come.
        if t.flagged:
            marks.match_words(entry, &self.pte, words, self.entries, False)
        write_back(&self.g, self.slabs, t, &v, words, NULL, True)
        marks.match_words(entry, &self.pte, words, self.entries, True)
        t.flagged = <uint32_t>v.count

    cdef void store_one(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t e = entry_at(r, 0, self.entries - 1)
        cdef uint64_t pte = entry[e]
        cdef uint64_t flag = flag_of(&self.pte, pte)
        cdef bint there = pte & flag != 0
        cdef bint changed_in_place = False
        cdef uint64_t old = container.word_at(&self.g, t.link, e) if there else 0
        cdef uint64_t word = old & w.keep[0] | w.add[0]
        forget_write(t)
        if pte == self.pte.none or word == old:
            return
        if word == 0:
            entry[e] = pte & ~flag
            t.flagged -= 1
            if is_uniform(t.link):
                return
            if not owns(self.slabs, &self.g, t):
                t.link |= STALE
                return
        if kind_of(t.link) != UNIFORM or word != container.shared_word(&self.g, t.link):
            if not (container.can_put(t.link, word) and owns(self.slabs, &self.g, t)
                    and container.put_word(&self.g, t, e, there, word)):
                self.store_some(t, r, w)
                return
            changed_in_place = True
        if word and not there:
            # Word before flag: a reader that sees the flag must find the word.
            publish(&entry[e], pte | flag)
            t.flagged += 1
        if changed_in_place:
            excess.note(&self.g, self.slabs, t, r, t.flagged + (word == 0))

    cdef void store_some(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        """Write few words by writing the whole container again."""
        cdef uint64_t* entry = entries(self.frames, t)
        cdef Survey v
        cdef Sparse s
        forget_write(t)
        container.list_words(&self.g, t.link, entry, 0, self.entries, &s)
        change_some(entry, self.pte.none, r, w, self.entries - 1, &s)
        survey_words(s.word, s.count, &v)
        # Flags as in store_all().
        marks.match_list(entry, &self.pte, r, self.entries - 1, &s, False)
        write_back(&self.g, self.slabs, t, &v, NULL, &s, True)
        marks.match_list(entry, &self.pte, r, self.entries - 1, &s, True)
        t.flagged = <uint32_t>v.count

    cdef bint clear(self, Ptdesc* t, const Run* r, uint64_t keep) noexcept nogil:
        """Keep only these bits in a run's words; False if store() has to do it."""
        cdef uint64_t* entry = entries(self.frames, t)
        cdef uint64_t word
        if is_uniform(t.link):
            word = container.shared_word(&self.g, t.link)
            if word & keep == 0:
                marks.unflag_run(t, entry, &self.pte, r, self.entries - 1)
            elif word & keep != word:
                if r.vpns or r.n < self.entries or (
                        has_object(t.link) and not owns(self.slabs, &self.g, t)):
                    return False
                t.link = uniform.with_word(&self.g, t.link, word & keep)
                if has_object(t.link) and uniform.fits(word & keep):
                    pending(t).too_large = 1
            return True
        if keep == 0 and not owns(self.slabs, &self.g, t):
            marks.unflag_run(t, entry, &self.pte, r, self.entries - 1)
            t.link |= STALE
            return True
        if kind_of(t.link) == DENSE or r.vpns:
            return False
        if r.n == self.entries and not is_stale(t.link) and (
                kind_of(t.link) < LISTED or owns(self.slabs, &self.g, t)) and (
                container.clear(&self.g, t, entry, keep)):
            if kind_of(t.link) == FEW and few.fits_inline(
                    &self.g, <size_t>count_of(t.link), few.word_at(&self.g, t.link)):
                pending(t).too_large = 1
            return True
        self.clear_listed(t, r, keep)
        return True

    cdef void clear_listed(self, Ptdesc* t, const Run* r, uint64_t keep) noexcept nogil:
        cdef uint64_t* entry = entries(self.frames, t)
        cdef Survey v
        cdef Sparse s
        container.list_words(&self.g, t.link, entry, 0, self.entries, &s)
        if cut_words(r, keep, entry, &self.pte, &s, &v):
            write_back(&self.g, self.slabs, t, &v, NULL, &s, True)
            t.flagged = <uint32_t>v.count

    cdef void drop_object(self, Ptdesc* t) noexcept nogil:
        if has_object(t.link):
            self.slabs.free(object_of(&self.g, t.link))
        t.link = 0

    # -- reading --------------------------------------------------------------

    cdef void load(self, const Ptdesc* t, const Run* r, uint64_t* words) noexcept nogil:
        # The flags of a few entries are read faster than the descriptor.
        if r.n > LOOKED_AT and t.flagged == 0:
            memset(words, 0, r.n * sizeof(uint64_t))
        elif r.n > LOOKED_AT and r.vpns is NULL:
            container.read(&self.g, t.link, entries(self.frames, t), r.first,
                           r.first + r.n, words)
        else:
            self.load_each(t, r, words)

    cdef void load_each(
            self, const Ptdesc* t, const Run* r, uint64_t* words) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t i, e
        if r.n > FROM_FULL and kind_of(t.link) >= LISTED:
            container.pick(&self.g, t.link, entry, r, words)
            return
        for i in range(r.n):
            e = entry_at(r, i, self.entries - 1)
            words[i] = 0
            if entry[e] & flag_of(&self.pte, entry[e]):
                words[i] = container.word_at(&self.g, t.link, e)

    cdef void fetch(
            self, Ptdesc** tables, const uint64_t* vpns, Py_ssize_t n) noexcept nogil:
        cdef uint64_t some = flagged_of(self, tables, vpns, n)
        cdef Py_ssize_t i
        while some:
            i = lowest(some)
            some &= some - 1
            container.fetch(&self.g, once(<const uint64_t*>&tables[i].link),
                            <Py_ssize_t>(vpns[i] & <uint64_t>(self.entries - 1)))

    cdef bint read_each(
            self, Lookups* l, bint locked, uint64_t* words) noexcept nogil:
        cdef uint64_t[TOGETHER] link
        cdef Py_ssize_t[TOGETHER] entry
        cdef uint64_t flagged = flags(l.ptes, l.n, &self.pte)
        cdef uint64_t in_listed = 0
        cdef uint64_t in_ranked = 0
        cdef uint64_t left = flagged
        cdef uint64_t bit
        cdef Py_ssize_t i
        memset(words, 0, l.n * sizeof(uint64_t))
        while left:
            i = lowest(left)
            bit = left & -left
            left ^= bit
            link[i] = once(<const uint64_t*>&l.tables[i].link)
            entry[i] = <Py_ssize_t>(l.vpns[i] & <uint64_t>(self.entries - 1))
            # Nothing predicts which kind comes next, so no branch asks for it.
            in_listed |= bit & -<uint64_t>(kind_of(link[i]) == LISTED)
            in_ranked |= bit & -<uint64_t>(kind_of(link[i]) == RANKED)
            container.fetch(&self.g, link[i], entry[i])
        container.see_each(
            &self.g, link, entry, flagged, in_listed, in_ranked, words)
        return True

    cdef bint see(
            self, const Ptdesc* t, const Run* r, const uint64_t* ptes,
            uint64_t* words) noexcept nogil:
        container.see(&self.g, once(<const uint64_t*>&t.link), r, ptes, words)
        return True

    cdef Py_ssize_t scan(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
            const uint64_t* mask, const uint64_t* value, uint64_t* vpns) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        if value[0] and kind_of(t.link) == EMPTY:
            return 0
        if value[0] and is_uniform(t.link):
            if container.shared_word(&self.g, t.link) & mask[0] != value[0]:
                return 0
            return uniform.scan(entry, &self.pte, first, last, t.vpn, vpns)
        return container.scan(&self.g, t.link, entry, first, last, mask[0], value[0],
                              t.vpn, vpns)

    cdef Py_ssize_t scan_tables(
            self, Ptdesc** tables, Py_ssize_t n, const uint64_t* mask,
            const uint64_t* value, uint64_t* vpns) noexcept nogil:
        cdef const Geometry* g = &self.g
        cdef Py_ssize_t found = 0
        cdef Py_ssize_t i
        cdef uint64_t link
        for i in range(n):
            link = tables[i].link
            prefetch(<const void*><uintptr_t>few.either(
                has_object(link), <uintptr_t>object_of(g, link), <uintptr_t>g.pte))
        for i in range(n):
            link = tables[i].link
            if value[0] == 0 or is_stale(link):
                found += self.scan(
                    tables[i], 0, self.entries, mask, value, vpns + found)
            elif kind_of(link) == LISTED:
                found += listed.scan(
                    g, link, mask[0], value[0], tables[i].vpn, vpns + found)
            elif few.is_few(link):
                found += few.scan(
                    g, link, mask[0], value[0], tables[i].vpn, vpns + found)
            else:
                found += self.scan(
                    tables[i], 0, self.entries, mask, value, vpns + found)
        return found

    cdef bint all_have(
            self, const Ptdesc* t, const uint64_t* mask,
            const uint64_t* value) noexcept nogil:
        return t.flagged == self.entries and is_uniform(t.link) and (
            container.shared_word(&self.g, t.link) & mask[0] == value[0])

    # -- giving back ----------------------------------------------------------

    cdef void zap(self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        if t.flagged:
            self.zap_words(t, first, last)

    cdef void zap_words(
            self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        cdef uint32_t flagged = t.flagged
        cdef Run r = run_of(first, last - first)
        cdef Survey v
        cdef Sparse s
        pending(t).surveyed = 0
        side_zap(self, t, first, last)
        if t.flagged == flagged or t.flagged == 0 or is_uniform(t.link):
            return
        if not owns(self.slabs, &self.g, t):
            t.link |= STALE
            return
        if kind_of(t.link) == DENSE:
            dense.clear(&self.g, t.link, first, last)
            excess.note(&self.g, self.slabs, t, &r, flagged)
        else:
            container.list_words(
                &self.g, t.link, entries(self.frames, t), 0, self.entries, &s)
            drop_range(first, last, &s)
            survey_words(s.word, s.count, &v)
            write_back(&self.g, self.slabs, t, &v, NULL, &s, True)
        forget_write(t)
        self.note_leftovers(t)

    cdef inline void note_leftovers(self, Ptdesc* t) noexcept nogil:
        """Set a mark if settle has something to do."""
        if pending(t).has_object or t.flagged == 0:
            pending(t).unsettled = 1

    cdef void settle(self, Ptdesc* t) noexcept nogil:
        if t.next:
            if pending(t).has_object:
                self.slabs.free(take_kept(&self.g, t))
            keep_too_large(t)
        if t.flagged == 0:
            self.drop_object(t)
            t.next = 0

    cdef void trim(self, Ptdesc* t, bint fully) noexcept nogil:
        if not fully and not pending(t).too_large:
            return
        t.next = 0
        if compact(&self.g, self.slabs, t, entries(self.frames, t), fully):
            self.settle(t)
            t.next = 0

    # -- fork -----------------------------------------------------------------

    cdef int begin_fork(self, Encoding parent, bint shared) except -1:
        if not shared:
            self.start()
            return 0
        self.use((<Adaptive>parent).slabs)
        self.slabs.join()
        return 0

    cdef int fork(self, Encoding parent, const Ptdesc* t, Ptdesc* child) noexcept nogil:
        cdef Ptdesc* whole = <Ptdesc*>t
        if has_object(t.link) and self.slabs is not (<Adaptive>parent).slabs:
            return self.copy_words(<Adaptive>parent, t, child)
        if has_object(t.link):
            if not self.slabs.share(object_of(&self.g, t.link)):
                return -1
            if t.link & SHARED == 0:
                whole.link |= SHARED
        child.link = t.link
        child.flagged = t.flagged
        return 0

    cdef int copy_words(
            self, Adaptive parent, const Ptdesc* t, Ptdesc* child) noexcept nogil:
        cdef uint64_t[MOST] words
        cdef Survey v
        container.read(
            &parent.g, t.link, entries(parent.frames, t), 0, self.entries, words)
        survey_words(words, self.entries, &v)
        if not make_room(&self.g, self.slabs, &self.reserve, child, &v):
            return -1
        write_back(&self.g, self.slabs, child, &v, words, NULL, False)
        child.flagged = t.flagged
        return 0

    cdef bint sharing(self) noexcept nogil:
        return self.slabs is not None and self.slabs.is_shared()

    cdef void unshare(self, Ptdesc* t) noexcept nogil:
        self.drop_object(t)

    cdef void retire(self) noexcept nogil:
        self.slabs.part()

    # -- what is held ---------------------------------------------------------

    cdef void reap(self) noexcept nogil:
        self.slabs.reap()

    cdef bint set_aside(self, size_t n) noexcept nogil:
        cdef Reserve before = self.reserve
        if reserve.fill(&self.reserve, self.slabs, n, n):
            return True
        reserve.fill(&self.reserve, self.slabs, before.dense.n, before.boxes.n)
        return False

    cdef size_t aside_bytes(self) noexcept nogil:
        return reserve.nbytes(&self.reserve, self.slabs)

    cdef size_t side_bytes(self) noexcept nogil:
        return self.slabs.object_bytes

    cdef size_t table_bytes(self, const Ptdesc* t) noexcept nogil:
        if not has_object(t.link):
            return 0
        return self.slabs.proportion(object_of(&self.g, t.link))

    cdef size_t held_bytes(self) noexcept nogil:
        cdef size_t nbytes
        self.slabs.take_lock()
        nbytes = self.slabs.object_bytes + (
            self.slabs.page_bytes() - self.slabs.object_bytes
            - self.slabs.count_bytes) // <size_t>self.slabs.users
        self.slabs.give_lock()
        return nbytes

    cdef size_t index_bytes(self) noexcept nogil:
        cdef size_t nbytes
        self.slabs.take_lock()
        nbytes = self.slabs.count_bytes // <size_t>self.slabs.users
        self.slabs.give_lock()
        return nbytes

    cdef const char* fault(self, const Ptdesc* t) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        if count_flags(self, t) != t.flagged:
            return b"count of flagged entries is stale"
        if t.next:
            return b"room made for words was not given back"
        if t.link and t.flagged == 0:
            return b"a container without a flagged entry"
        return container.fault_in(&self.g, t.link, entry)
