"""Words in the smallest container that holds them, found from the descriptor.

Like `linked`, but what the link leads to follows what the table holds: nothing
where all flagged PTEs share a word, a list of positions and words where few are
flagged, a bitmap and the words where more are, a word for each PTE where most are;
each as narrow as its widest word. `containers.pxd` has the layouts. A container
that knows its positions is scanned without a look at the PTEs.

A table grows into a larger container when it has to, at its exact size, and shrinks
when another would take half of what it has. After a fork both tables have the same
container; whoever writes first, on either side, makes one of its own.

The flag in the PTE says that there is a word, as in `linked`: a reader of one PTE
without a word touches nothing else.

In a kernel the link would be a pointer with tags; here it has a place in 64 GiB of
side memory, which leaves room for the count. Without that, the count is two bytes
more in each object.
"""
from cython cimport final, no_gc_clear
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from extmeta.table.encoding cimport FLAGGED, Encoding, Write
from extmeta.encodings.containers cimport (
    BOXED,
    CLASS_SHIFT,
    COUNT_SHIFT,
    DENSE,
    EMPTY,
    FEW,
    FEW_BYTES,
    FEW_COUNT_SHIFT,
    FEW_MOST,
    FEW_WORD_BITS,
    FEW_WORD_SHIFT,
    HANDLE_SHIFT,
    INLINE,
    INLINE_COUNT_SHIFT,
    INLINE_MOST,
    INLINE_SHIFT,
    LISTED,
    LISTED_MOST,
    MOST,
    RANKED,
    SHARED,
    STALE,
    UNIFORM,
    UNIFORM_BITS,
    WIDTH_SHIFT,
    Kind,
    Shape,
    Sparse,
    Survey,
    class_of,
    count_of,
    get,
    has_object,
    kept,
    kind_of,
    listed_bytes,
    listed_where,
    narrow,
    place,
    positions,
    put,
    rank,
    ranked_where,
    sift,
    survey_words,
    widen,
    width_for,
    width_of,
)
from extmeta.encodings.side cimport FEW as FEW_ENTRIES
from extmeta.encodings.side cimport adds_nothing, count_flags, makes_a_word, side_zap
from extmeta.memory.frames cimport PTE, Ptdesc, entries, lock_table, unlock_table
from extmeta.table.pte cimport (
    ALL,
    PteLayout,
    count,
    equal,
    flag_of,
    flags,
    lowest,
)
from extmeta.memory.slabs cimport (
    HANDLE_BITS,
    Aside,
    Slabs,
    class_bytes,
    from_aside,
    handle_of,
)
from extmeta.memory.sync cimport once, publish, release_fence
from extmeta.table.vpns cimport Run, entry_at

# In the order of Kind.
NAMES = ("empty", "uniform", "inline", "boxed", "few", "listed", "ranked", "dense")

# `next` of a table's descriptor, between the passes of an operation: room was made
# for so many words, of that width, perhaps all the one in `spare`; an object is
# kept for it, of that class, `prev` being its handle but for the highest bit; the
# container is too large by far.
cdef enum:
    PREPARED = 1 << 31
    ALL_ONE = 1 << 30
    TOO_LARGE = 1 << 29
    UNSETTLED = 1 << 28
    KEPT = 1 << 27
    KEPT_HIGH_SHIFT = 26
    KEPT_CLASS_SHIFT = 20
    EXPECTED_WIDTH_SHIFT = 16
    EXPECTED_COUNT = 0xffff
    # From so many entries of a table on, in no order, all of it is read once rather
    # than each looked up.
    FROM_FULL = 32
    KEPT_BITS = KEPT | 1 << KEPT_HIGH_SHIFT | 63 << KEPT_CLASS_SHIFT


# Else the collector would take `slabs` away before the page table lets go of objects.
@no_gc_clear
@final
cdef class Adaptive(Encoding):
    """Keep each table's words in the smallest container that holds them."""

    cdef Slabs slabs
    cdef char* base       # of the slabs' memory
    cdef int position_bits
    # For when no memory can be had: a word for each PTE, and one alone.
    cdef Aside dense
    cdef Aside boxes

    def hold(self):
        self.refuse_above(64)
        self.reading = FLAGGED
        self.parallel = True
        if self.entries > MOST:
            raise ValueError(f"{self!r} on {self.arch.name}: tables of {self.entries} "
                             f"entries; {MOST} at most")
        self.position_bits = self.entries.bit_length() - 1
        self.copies = True

    def containers(self):
        """Return how many PTE tables have which container.

        Returns
        -------
        dict of str to int
            "empty", "uniform", "inline", "boxed", "few", "listed", "ranked" and
            "dense"; the modules ``adaptive`` and ``containers`` say what they are.
        """
        cdef uint32_t frame
        found = [0] * len(NAMES)
        for frame in range(self.frames.top):
            if self.frames.desc[frame].kind == PTE:
                found[<int>kind_of(self.frames.desc[frame].link)] += 1
        return dict(zip(NAMES, found, strict=True))

    def start(self):
        self.slabs = Slabs()
        self.base = self.slabs.pages.base

    # -- what a link leads to -------------------------------------------------

    cdef void* object_of(self, uint64_t link) noexcept nogil:
        return self.base + (
            (link >> HANDLE_SHIFT & ((<uint64_t>1 << HANDLE_BITS) - 1)) << 3)

    cdef size_t map_bytes(self) noexcept nogil:
        """Return the size of a RANKED object's bitmap."""
        return (<size_t>self.entries + 63) // 64 * 8

    cdef uint64_t shared_word(self, uint64_t link) noexcept nogil:
        """Return the word that all flagged PTEs of the table have."""
        if kind_of(link) == UNIFORM:
            return link >> (64 - UNIFORM_BITS)
        if kind_of(link) == BOXED:
            return (<uint64_t*>self.object_of(link))[0]
        if kind_of(link) == FEW:
            return link >> FEW_WORD_SHIFT
        return link >> (INLINE_SHIFT + count_of(link) * self.position_bits)

    cdef bint owns(self, Ptdesc* t) noexcept nogil:
        """Return whether the table's object, if it has one, may be changed."""
        if not has_object(t.link) or t.link & SHARED == 0:
            return True
        if self.slabs.others(self.object_of(t.link)):
            return False
        t.link &= ~<uint64_t>SHARED
        return True

    cdef uint64_t word_at(self, const Ptdesc* t, Py_ssize_t e) noexcept nogil:
        """Return the word of an entry whose flag is set."""
        cdef uint64_t link = t.link
        cdef Kind kind = kind_of(link)
        cdef int width
        cdef char* p
        cdef const uint16_t* position
        if kind == DENSE:
            return get(self.object_of(link), width_of(link), e)
        if kind == LISTED:
            width = width_of(link)
            p = <char*>self.object_of(link)
            position = positions(p, count_of(link), width)
            return get(p, width, place(position, count_of(link), e))
        if kind == RANKED:
            p = <char*>self.object_of(link)
            return get(p + self.map_bytes(), width_of(link),
                       rank(<const uint64_t*>p, <int>self.map_bytes() // 8, <int>e))
        return self.shared_word(link)

    cdef Py_ssize_t few(
            self, uint64_t link, uint64_t vpn, uint64_t* vpns) noexcept nogil:
        """Write vpn + position of the entries that an INLINE or FEW link lists.

        Beyond those it writes up to FEW_MOST: a loop that always turns as often is
        predicted, and so twice as fast.
        """
        cdef uint64_t mask = <uint64_t>self.entries - 1
        cdef int bits = self.position_bits
        cdef const uint8_t* low
        cdef uint64_t high
        cdef int i
        if kind_of(link) == INLINE:
            for i in range(INLINE_MOST):
                # The last ones may reach into the word, and past it.
                vpns[i] = vpn + (link >> min(INLINE_SHIFT + i * bits, 63) & mask)
        else:
            low = <const uint8_t*>self.object_of(link)
            high = (<const uint16_t*>low)[FEW_MOST // 2]
            for i in range(FEW_MOST):
                vpns[i] = vpn + (low[i] | (high >> i & 1) << 8)
        return count_of(link)

    cdef Py_ssize_t listed(self, uint64_t link, uint16_t* position) noexcept nogil:
        """Read the positions that an INLINE, FEW, LISTED or RANKED link lists."""
        cdef Py_ssize_t n = count_of(link)
        cdef uint64_t[FEW_MOST] some
        cdef const uint64_t* map
        cdef uint64_t bits
        cdef char* p
        cdef Py_ssize_t i, at
        if kind_of(link) < LISTED:
            self.few(link, 0, some)
            for i in range(n):
                position[i] = <uint16_t>some[i]
            return n
        p = <char*>self.object_of(link)
        if kind_of(link) == LISTED:
            memcpy(position, positions(p, n, width_of(link)), n * 2)
        else:
            map = <const uint64_t*>p
            n = 0
            for at in range(0, self.entries, 64):
                bits = map[at >> 6]
                while bits:
                    position[n] = <uint16_t>(at + lowest(bits))
                    n += 1
                    bits &= bits - 1
        return n

    cdef void sparse(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last, Sparse* s
            ) noexcept nogil:
        """Read the flagged entries of [first, last) and their words."""
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef const PteLayout* a = &self.pte
        cdef uint64_t link = t.link
        cdef Kind kind = kind_of(link)
        cdef uint64_t word, marked
        cdef Py_ssize_t at, i, n
        cdef char* p
        s.count = 0
        if kind == EMPTY:
            return
        if kind == DENSE:
            for i in range(first, last):
                word = get(self.object_of(link), width_of(link), i)
                s.position[s.count] = <uint16_t>i
                s.word[s.count] = word
                s.count += word != 0
        elif kind == UNIFORM or kind == BOXED:
            word = self.shared_word(link)
            for at in range(first, last, 64):
                marked = flags(entry + at, min(64, last - at), a)
                while marked:
                    s.position[s.count] = <uint16_t>(at + lowest(marked))
                    s.word[s.count] = word
                    s.count += 1
                    marked &= marked - 1
            return
        else:
            s.count = self.listed(link, s.position)
            if kind == LISTED or kind == RANKED:
                p = <char*>self.object_of(link)
                widen(p + (self.map_bytes() if kind == RANKED else 0), width_of(link),
                      0, s.count, s.word)
            else:
                word = self.shared_word(link)
                for i in range(s.count):
                    s.word[i] = word
        if link & STALE or first > 0 or last < self.entries:
            n = 0
            for i in range(s.count):
                at = s.position[i]
                s.position[n] = s.position[i]
                s.word[n] = s.word[i]
                n += first <= at < last and (
                    link & STALE == 0 or entry[at] & flag_of(a, entry[at]) != 0)
            s.count = n

    cdef void full(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last, uint64_t* words
            ) noexcept nogil:
        """Read the words of [first, last), 0 where there is none."""
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef const PteLayout* a = &self.pte
        cdef Kind kind = kind_of(t.link)
        cdef uint64_t word
        cdef Sparse s
        cdef Py_ssize_t i
        if kind == DENSE:
            widen(self.object_of(t.link), width_of(t.link), first, last - first, words)
            if t.link & STALE:
                for i in range(first, last):
                    if entry[i] & flag_of(a, entry[i]) == 0:
                        words[i - first] = 0
        elif kind == UNIFORM or kind == BOXED:
            word = self.shared_word(t.link)
            for i in range(first, last):
                words[i - first] = word if entry[i] & flag_of(a, entry[i]) else 0
        else:
            memset(words, 0, <size_t>(last - first) * sizeof(uint64_t))
            self.sparse(t, first, last, &s)
            for i in range(s.count):
                words[s.position[i] - first] = s.word[i]

    # -- which container ------------------------------------------------------

    cdef void shape_for(self, const Survey* v, Shape* shape) noexcept nogil:
        """Choose the smallest container for such words."""
        cdef size_t n = <size_t>v.count
        cdef int width = width_for(v.bits)
        cdef int wide = max(width, 3)
        cdef int inline_bits = INLINE_SHIFT + <int>n * self.position_bits
        cdef size_t nbytes
        shape.nbytes = 0
        shape.width = width
        shape.size_class = 0
        shape.kind = EMPTY
        if n == 0:
            return
        if v.uniform:
            if n <= INLINE_MOST and inline_bits < 64 and (
                    v.word >> (64 - inline_bits) == 0):
                shape.kind = INLINE
                return
            if n <= FEW_MOST and v.word >> FEW_WORD_BITS == 0 and self.entries <= 512:
                shape.kind = FEW
                self.place_in(shape, FEW_BYTES)
                return
            if listed_bytes(n, wide) <= FEW_BYTES:
                shape.kind = LISTED
                shape.width = wide
                self.place_in(shape, listed_bytes(n, wide))
                return
            if v.word >> UNIFORM_BITS == 0:
                shape.kind = UNIFORM
                return
            shape.kind = BOXED
            self.place_in(shape, sizeof(uint64_t))
            return
        nbytes = (n << (wide - 3)) + self.map_bytes()
        shape.kind = RANKED
        if n <= LISTED_MOST and listed_bytes(n, wide) <= nbytes:
            shape.kind = LISTED
            nbytes = listed_bytes(n, wide)
        shape.width = wide
        self.place_in(shape, nbytes)
        nbytes = <size_t>self.entries << width >> 3
        if nbytes <= shape.nbytes:
            shape.kind = DENSE
            shape.width = width
            self.place_in(shape, nbytes)

    cdef void place_in(self, Shape* shape, size_t nbytes) noexcept nogil:
        shape.size_class = self.slabs.class_for(nbytes)
        shape.nbytes = class_bytes(shape.size_class)

    cdef bint can_stay(self, Ptdesc* t, const Survey* v) noexcept nogil:
        """Return whether the container that the table has holds such words too."""
        cdef uint64_t link = t.link
        cdef size_t n = <size_t>v.count
        cdef size_t nbytes = class_bytes(class_of(link))
        if kind_of(link) < LISTED or width_for(v.bits) > width_of(link):
            return False
        if kind_of(link) == LISTED and (
                n > LISTED_MOST or listed_bytes(n, width_of(link)) > nbytes):
            return False
        if kind_of(link) == RANKED and (
                self.map_bytes() + (n << (width_of(link) - 3)) > nbytes):
            return False
        return self.owns(t)

    cdef bint serves(
            self, const Shape* shape, int size_class) noexcept nogil:
        """Return whether an object of that class is right for the shape."""
        if shape.kind >= LISTED:
            return size_class >= shape.size_class
        return size_class == shape.size_class

    # -- making room ----------------------------------------------------------

    cdef Ptdesc* prepare(
            self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef Survey v
        if adds_nothing(w, 1):
            if t.flagged == 0 or w.keep[0] == 0 or self.shrinks_in_place(t, r, w):
                return t
        elif t.flagged == 0 and not makes_a_word(w, r.n, 1):
            return t
        if t.next & PREPARED:
            self.expect_more(t, r, w, &v)
        elif w.step == 0 and self.stays_uniform(t, r, w.keep[0], w.add[0]):
            v.count = self.entries
            v.bits = v.word = w.add[0]
            v.uniform = True
        else:
            self.expect(t, r, w, &v)
        if not self.make_room(t, &v):
            return NULL
        # What `spare` can't hold is not remembered to be all one.
        t.spare = <uint32_t>v.word
        t.next = t.next & KEPT_BITS | <uint32_t>(
            PREPARED | (ALL_ONE if v.uniform and v.word >> 32 == 0 else 0)
            | width_for(v.bits) << EXPECTED_WIDTH_SHIFT | v.count)
        return t

    cdef bint make_room(self, Ptdesc* t, const Survey* v) noexcept nogil:
        """See to it that the table has an object for such words; False if it can't.

        The object it makes for that is kept until a write takes it.
        """
        cdef Shape shape
        cdef void* p
        if self.frames.page_order and not self.reach(t):
            return False
        self.shape_for(v, &shape)
        if shape.nbytes == 0 or shape.kind >= LISTED and self.can_stay(t, v):
            return True
        if has_object(t.link) and self.serves(&shape, class_of(t.link)) and (
                self.owns(t)):
            return True
        if t.next & KEPT and self.serves(&shape, kept_class(t)):
            return True
        p = self.slabs.alloc(shape.nbytes)
        if p is NULL and (v.uniform and v.word >> UNIFORM_BITS == 0 or
                          t.next & KEPT and self.holds_all(kept_class(t))):
            # Room enough, if not the best.
            return True
        if p is NULL:
            p = self.take_aside(&shape)
        if p is NULL:
            if t.reached and t.flagged == 0 and t.next & PREPARED == 0:
                self.unreach(t)
            return False
        if t.next & KEPT:
            self.slabs.free(self.take_kept(t))
        self.keep_object(t, p, shape.size_class)
        return True

    cdef size_t dense_bytes(self) noexcept nogil:
        return <size_t>self.entries << width_for(ALL >> (64 - self.bits)) >> 3

    cdef bint holds_all(self, int size_class) noexcept nogil:
        """Return whether an object of that class holds whatever words there are."""
        return class_bytes(size_class) >= self.dense_bytes()

    cdef void* take_aside(self, Shape* shape) noexcept nogil:
        """Return an object for the shape, or for any, that was set aside, or NULL."""
        if shape.kind == BOXED and self.boxes.n:
            return from_aside(&self.boxes)
        self.place_in(shape, self.dense_bytes())
        return from_aside(&self.dense)

    cdef bint set_aside(self, size_t n) noexcept nogil:
        cdef size_t dense = self.dense.n
        cdef size_t boxes = self.boxes.n
        if self.slabs.set_aside(&self.dense, n, self.dense_bytes()) and (
                self.slabs.set_aside(&self.boxes, n, sizeof(uint64_t)) and (
                Encoding.set_aside(self, n))):
            return True
        self.slabs.set_aside(&self.dense, dense, self.dense_bytes())
        self.slabs.set_aside(&self.boxes, boxes, sizeof(uint64_t))
        return False

    cdef size_t aside_bytes(self) noexcept nogil:
        return (self.dense.n * class_bytes(self.slabs.class_for(self.dense_bytes()))
                + self.boxes.n * sizeof(uint64_t))

    cdef void keep_object(
            self, Ptdesc* t, const void* p, int size_class) noexcept nogil:
        """Have an object at hand for this operation's writes."""
        cdef uint64_t handle = handle_of(self.slabs, p)
        t.prev = <uint32_t>handle
        t.next = t.next & ~<uint32_t>KEPT_BITS | <uint32_t>(
            KEPT | handle >> 32 << KEPT_HIGH_SHIFT | size_class << KEPT_CLASS_SHIFT)

    cdef void* take_kept(self, Ptdesc* t) noexcept nogil:
        """Return that object, which is not at hand any more."""
        cdef uint64_t handle = t.prev | <uint64_t>(
            t.next >> KEPT_HIGH_SHIFT & 1) << 32
        t.next &= ~<uint32_t>KEPT_BITS
        return self.base + (handle << 3)

    cdef bint shrinks_in_place(
            self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        """Return whether clearing bits needs no other object."""
        cdef Kind kind = kind_of(t.link)
        if kind >= LISTED:
            return self.owns(t)
        if self.shared_word(t.link) & ~w.keep[0] == 0:
            return True
        if r.vpns or r.n < self.entries:
            return False
        return kind != BOXED or self.owns(t)

    cdef bint stays_uniform(
            self, const Ptdesc* t, const Run* r, uint64_t keep, uint64_t add
            ) noexcept nogil:
        """Return whether all words are ``add`` once the run is written, and the link
        alone can say so."""
        cdef uint64_t word
        if r.n <= FEW_MOST or add == 0 or add >> UNIFORM_BITS:
            return False
        if t.flagged == 0:
            return True
        if kind_of(t.link) != UNIFORM:
            return False
        word = self.shared_word(t.link)
        return word & keep | add == add and (
            word == add or r.vpns is NULL and r.n == self.entries)

    cdef void expect(
            self, const Ptdesc* t, const Run* r, const Write* w, Survey* v
            ) noexcept nogil:
        """Describe the table's words as they will be after the write."""
        cdef uint64_t[MOST] words
        cdef Sparse s
        cdef Py_ssize_t i
        if r.vpns is NULL and adds_nothing(w, 1) and kind_of(t.link) != DENSE:
            self.sparse(t, 0, self.entries, &s)
            for i in range(s.count):
                if r.first <= s.position[i] < r.first + r.n:
                    s.word[i] &= w.keep[0]
            survey_words(s.word, s.count, v)
        elif r.n == 1 and kind_of(t.link) != DENSE:
            self.sparse(t, 0, self.entries, &s)
            self.change_one(t, r, w, &s)
            survey_words(s.word, s.count, v)
        else:
            self.full(t, 0, self.entries, words)
            self.change(t, r, w, words)
            survey_words(words, self.entries, v)

    cdef void expect_more(
            self, const Ptdesc* t, const Run* r, const Write* w, Survey* v
            ) noexcept nogil:
        """Describe the most that earlier writes, not yet done, and this one make."""
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef const PteLayout* a = &self.pte
        cdef int width = <int>(t.next >> EXPECTED_WIDTH_SHIFT & 7)
        cdef uint64_t bits, word
        cdef Py_ssize_t i, e
        v.count = t.next & EXPECTED_COUNT
        v.bits = ALL >> (64 - (1 << width))
        v.uniform = t.next & ALL_ONE != 0
        v.word = t.spare
        for i in range(r.n):
            e = entry_at(r, i, self.entries - 1)
            word = w.add[i * w.step]
            v.bits |= word
            v.count += word != 0 and entry[e] & flag_of(a, entry[e]) == 0
            bits = v.word & w.keep[0] | word
            v.uniform &= bits == 0 or bits == v.word and (word == 0 or word == bits)
        v.count = min(v.count, self.entries)

    # -- writing --------------------------------------------------------------

    cdef void change(
            self, const Ptdesc* t, const Run* r, const Write* w, uint64_t* words
            ) noexcept nogil:
        """Do to all the table's words what the write says.

        An entry that gets a word of its own holds something, or is about to: room
        is made before a PTE moves in.
        """
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef uint64_t keep = w.keep[0]
        cdef uint64_t none = self.pte.none
        cdef const uint64_t* add = w.add
        cdef uint64_t same
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef Py_ssize_t i, e
        if r.vpns:
            for i in range(r.n):
                e = entry_at(r, i, last_entry)
                if w.step or entry[e] != none:
                    words[e] = words[e] & keep | add[i * w.step]
            return
        entry += r.first
        words += r.first
        if w.step:
            for i in range(r.n):
                words[i] = words[i] & keep | add[i]
        else:
            same = add[0]
            for i in range(r.n):
                words[i] = (words[i] & keep | same) if entry[i] != none else 0

    cdef void change_one(
            self, const Ptdesc* t, const Run* r, const Write* w, Sparse* s
            ) noexcept nogil:
        """The same for a run of one entry."""
        cdef Py_ssize_t e = entry_at(r, 0, self.entries - 1)
        cdef Py_ssize_t at = place(s.position, s.count, e)
        cdef bint there = at < s.count and s.position[at] == e
        cdef uint64_t word = (s.word[at] & w.keep[0] if there else 0) | w.add[0]
        if w.step == 0 and entries(self.frames, t)[e] == self.pte.none:
            return
        if word and not there:
            memmove(s.position + at + 1, s.position + at, (s.count - at) * 2)
            memmove(s.word + at + 1, s.word + at, (s.count - at) * sizeof(uint64_t))
            s.position[at] = <uint16_t>e
            s.count += 1
        if word:
            s.word[at] = word
        elif there:
            s.count -= 1
            memmove(s.position + at, s.position + at + 1, (s.count - at) * 2)
            memmove(s.word + at, s.word + at + 1, (s.count - at) * sizeof(uint64_t))

    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef uint32_t flagged = t.flagged
        t.next &= KEPT_BITS
        if flagged == 0 and not makes_a_word(w, r.n, 1):
            return
        if adds_nothing(w, 1):
            if self.clear(t, r, w.keep[0]):
                if t.flagged != flagged or t.next & KEPT:
                    self.remember(t)
                return
        elif w.step == 0 and self.stays_uniform(t, r, w.keep[0], w.add[0]):
            if has_object(t.link):
                self.replace_object(t)
            t.link = w.add[0] << (64 - UNIFORM_BITS) | UNIFORM
            self.flag_run(t, r)
            self.remember(t)
            return
        if r.n == 1:
            self.store_one(t, r, w)
        else:
            self.store_all(t, r, w)
        self.remember(t)

    cdef void store_all(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef uint64_t[MOST] words
        cdef Survey v
        self.full(t, 0, self.entries, words)
        self.change(t, r, w, words)
        survey_words(words, self.entries, &v)
        # Flags go before words, and come after them.
        self.unflag(t, words)
        self.write_back(t, &v, words, NULL, True)
        self.flag(t, words)
        t.flagged = <uint32_t>v.count

    cdef void remember(self, Ptdesc* t) noexcept nogil:
        """Leave a mark if there is something for settle or trim."""
        cdef uint64_t link = t.link
        cdef Survey v
        cdef Shape shape
        if t.next & KEPT or t.flagged == 0:
            t.next |= UNSETTLED
        elif kind_of(link) >= LISTED and link & SHARED == 0:
            v.count = t.flagged
            v.bits = ALL >> (64 - (1 << width_of(link)))
            v.uniform = False
            self.shape_for(&v, &shape)
            if shape.nbytes * 2 <= class_bytes(class_of(link)):
                t.next |= TOO_LARGE

    cdef void store_one(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t e = entry_at(r, 0, self.entries - 1)
        cdef uint64_t pte = entry[e]
        cdef uint64_t flag = flag_of(&self.pte, pte)
        cdef bint there = pte & flag != 0
        cdef uint64_t old = self.word_at(t, e) if there else 0
        cdef uint64_t word = old & w.keep[0] | w.add[0]
        cdef Survey v
        cdef Sparse s
        if pte == self.pte.none or word == old:
            return
        if word == 0:
            entry[e] = pte & ~flag
            t.flagged -= 1
            if kind_of(t.link) == UNIFORM or kind_of(t.link) == BOXED:
                return
            if not self.owns(t):
                t.link |= STALE
                return
        elif kind_of(t.link) != UNIFORM or word != self.shared_word(t.link):
            if not self.put_in_place(t, e, there, word):
                self.sparse(t, 0, self.entries, &s)
                self.change_one(t, r, w, &s)
                survey_words(s.word, s.count, &v)
                self.write_back(t, &v, NULL, &s, True)
        if word == 0:
            if not self.put_in_place(t, e, True, 0):
                self.sparse(t, 0, self.entries, &s)
                self.change_one(t, r, w, &s)
                survey_words(s.word, s.count, &v)
                self.write_back(t, &v, NULL, &s, True)
        elif not there:
            # Word before flag: a reader that sees the flag must find the word.
            publish(&entry[e], pte | flag)
            t.flagged += 1

    cdef bint put_in_place(
            self, Ptdesc* t, Py_ssize_t e, bint there, uint64_t word) noexcept nogil:
        """Change one word of the table's object, if that is all there is to do."""
        cdef uint64_t link = t.link
        cdef Kind kind = kind_of(link)
        cdef int width = width_of(link)
        cdef Py_ssize_t n = count_of(link)
        cdef size_t nbytes
        cdef uint64_t* map
        cdef uint16_t* position = NULL
        cdef uint16_t* moved
        cdef char* p
        cdef Py_ssize_t at
        if kind < LISTED or link & STALE or width < 6 and word >> (1 << width) or (
                not self.owns(t)):
            return False
        p = <char*>self.object_of(link)
        if kind == DENSE:
            put(p, width, e, word)
            return True
        nbytes = class_bytes(class_of(link))
        if kind == LISTED:
            position = positions(p, n, width)
            at = place(position, n, e)
            if not there:
                if n >= LISTED_MOST or listed_bytes(n + 1, width) > nbytes:
                    return False
                # Out of the way of the words, which grow.
                moved = positions(p, n + 1, width)
                memmove(moved + at + 1, position + at, (n - at) * 2)
                memmove(moved, position, at * 2)
                moved[at] = <uint16_t>e
        else:
            map = <uint64_t*>p
            p += self.map_bytes()
            at = rank(map, <int>self.map_bytes() // 8, <int>e)
            if not there and self.map_bytes() + (
                    <size_t>(n + 1) << (width - 3)) > nbytes:
                return False
            if word:
                map[e >> 6] |= <uint64_t>1 << (e & 63)
            else:
                map[e >> 6] &= ~(<uint64_t>1 << (e & 63))
        shift(p, width, at, n, 1 if not there else -1 if word == 0 else 0)
        if word:
            put(p, width, at, word)
        elif kind == LISTED:
            moved = positions(p, n - 1, width)
            memmove(moved, position, at * 2)
            memmove(moved + at, position + at + 1, (n - at - 1) * 2)
        n += 1 if not there else -1 if word == 0 else 0
        t.link = t.link & ~(<uint64_t>0x3fff << COUNT_SHIFT) | (
            <uint64_t>n << COUNT_SHIFT)
        return True

    cdef bint clear(self, Ptdesc* t, const Run* r, uint64_t keep) noexcept nogil:
        """Keep these bits only in the words of a run; False if it isn't so simple."""
        cdef uint64_t word
        cdef Kind kind = kind_of(t.link)
        cdef bint changed = False
        cdef Survey v
        cdef Sparse s
        cdef Py_ssize_t i
        if kind == UNIFORM or kind == BOXED:
            word = self.shared_word(t.link)
            if word & keep == word:
                return True
            if word & keep == 0:
                self.unflag_run(t, r)
                return True
            if r.vpns or r.n < self.entries or not self.owns(t):
                return False
            if kind == BOXED:
                (<uint64_t*>self.object_of(t.link))[0] = word & keep
            else:
                t.link = (word & keep) << (64 - UNIFORM_BITS) | UNIFORM
            return True
        if keep == 0 and not self.owns(t):
            self.unflag_run(t, r)
            t.link |= STALE
            return True
        if kind == DENSE or r.vpns:
            return False
        if kind < LISTED and r.n == self.entries and t.link & STALE == 0:
            self.clear_few(t, keep)
            return True
        if kind >= LISTED and r.n == self.entries and t.link & STALE == 0 and (
                self.owns(t) and self.keep_listed(t, keep)):
            return True
        self.sparse(t, 0, self.entries, &s)
        for i in range(s.count):
            if r.first <= s.position[i] < r.first + r.n and s.word[i] & ~keep:
                s.word[i] &= keep
                changed = True
        if changed:
            self.drop_zeros(t, &s)
            survey_words(s.word, s.count, &v)
            self.write_back(t, &v, NULL, &s, True)
            t.flagged = <uint32_t>v.count
        return True

    cdef void clear_few(self, Ptdesc* t, uint64_t keep) noexcept nogil:
        """Keep these bits of the word of a whole table that is INLINE or FEW.

        The word is in the link, so that an object may be shared.
        """
        cdef uint64_t[FEW_MOST] position
        cdef uint64_t* entry = entries(self.frames, t)
        cdef uint64_t word = self.shared_word(t.link)
        cdef int shift = FEW_WORD_SHIFT
        cdef Py_ssize_t i, n
        if word & keep:
            if kind_of(t.link) == INLINE:
                shift = INLINE_SHIFT + <int>count_of(t.link) * self.position_bits
            t.link &= ~(word << shift) | keep << shift
            return
        n = self.few(t.link, 0, position)
        for i in range(n):
            entry[position[i]] &= ~flag_of(&self.pte, entry[position[i]])
        t.flagged = 0

    cdef bint keep_listed(self, Ptdesc* t, uint64_t keep) noexcept nogil:
        """Clear bits of all words that are LISTED or RANKED, unless one would be 0."""
        cdef int width = width_of(t.link)
        cdef char* p = <char*>self.object_of(t.link)
        if kind_of(t.link) == RANKED:
            p += self.map_bytes()
        if width == 6:
            return kept(<uint64_t*>p, count_of(t.link), keep)
        if width == 5:
            return kept(<uint32_t*>p, count_of(t.link), keep)
        if width == 4:
            return kept(<uint16_t*>p, count_of(t.link), keep)
        return kept(<uint8_t*>p, count_of(t.link), keep)

    cdef void drop_zeros(self, Ptdesc* t, Sparse* s) noexcept nogil:
        """Take entries whose word has become 0 from the list, and their flags."""
        cdef uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t n = 0
        cdef Py_ssize_t i, e
        for i in range(s.count):
            e = s.position[i]
            s.position[n] = s.position[i]
            s.word[n] = s.word[i]
            if s.word[i]:
                n += 1
            else:
                entry[e] &= ~flag_of(&self.pte, entry[e])
        s.count = n

    cdef void write_back(
            self, Ptdesc* t, const Survey* v, const uint64_t* words, Sparse* s,
            bint may_stay) noexcept nogil:
        """Put words, given in full or as a list, into the container they call for.

        Room was made for it. The container there is remains if it can, and
        ``may_stay``.
        """
        cdef uint64_t old = t.link
        cdef void* p = NULL
        cdef Shape shape
        cdef Survey apart
        self.shape_for(v, &shape)
        if may_stay and shape.kind >= LISTED and self.can_stay(t, v):
            shape.kind = kind_of(old)
            shape.width = width_of(old)
            shape.size_class = class_of(old)
            p = self.object_of(old)
        elif shape.nbytes:
            p = self.object_for(t, &shape, may_stay)
            if p is NULL and v.uniform and v.word >> UNIFORM_BITS == 0:
                # Less to look through is no reason to be without memory.
                shape.kind = UNIFORM
            elif p is NULL and shape.kind == LISTED:
                shape.kind = BOXED
                self.place_in(&shape, sizeof(uint64_t))
                p = self.object_for(t, &shape, may_stay)
            if p is NULL and shape.kind != UNIFORM:
                # One word, too wide for the link, where room was made for many.
                apart = v[0]
                apart.uniform = False
                self.write_back(t, &apart, words, s, may_stay)
                return
        if has_object(old) and self.object_of(old) is not p:
            self.replace_object(t)
        self.fill(t, &shape, p, v, words, s)

    cdef void* object_for(
            self, Ptdesc* t, Shape* shape, bint may_stay) noexcept nogil:
        """Return an object for the shape, the table's own or the one made for it."""
        cdef uint64_t link = t.link
        cdef void* p = NULL
        if may_stay and has_object(link) and (
                self.serves(shape, class_of(link)) and self.owns(t)):
            shape.size_class = class_of(link)
            return self.object_of(link)
        if t.next & KEPT and self.serves(shape, kept_class(t)):
            shape.size_class = kept_class(t)
            p = self.take_kept(t)
        return p

    cdef void fill(
            self, Ptdesc* t, const Shape* shape, void* p, const Survey* v,
            const uint64_t* words, const Sparse* s) noexcept nogil:
        """Write words into the object ``p``, and make the link that leads there."""
        cdef Sparse some
        cdef uint64_t link = <uint64_t>shape.kind
        cdef uint64_t* map
        cdef Py_ssize_t i
        cdef int high = 0
        if p is not NULL:
            link |= handle_of(self.slabs, p) << HANDLE_SHIFT
        if shape.kind == UNIFORM:
            link |= v.word << (64 - UNIFORM_BITS)
        elif shape.kind == BOXED:
            (<uint64_t*>p)[0] = v.word
        elif shape.kind == DENSE:
            if words is NULL:
                memset(p, 0, <size_t>self.entries << shape.width >> 3)
                for i in range(s.count):
                    put(p, shape.width, s.position[i], s.word[i])
            else:
                narrow(words, self.entries, shape.width, p)
        elif shape.kind != EMPTY and s is NULL:
            sift(words, self.entries, &some)
            s = &some
        if shape.kind == INLINE:
            link |= <uint64_t>s.count << INLINE_COUNT_SHIFT
            for i in range(s.count):
                link |= <uint64_t>s.position[i] << (
                    INLINE_SHIFT + i * self.position_bits)
            link |= v.word << (INLINE_SHIFT + s.count * self.position_bits)
        elif shape.kind == FEW:
            link |= <uint64_t>s.count << FEW_COUNT_SHIFT | v.word << FEW_WORD_SHIFT
            for i in range(s.count):
                (<uint8_t*>p)[i] = <uint8_t>s.position[i]
                high |= (s.position[i] >> 8) << i
            (<uint16_t*>p)[FEW_MOST // 2] = <uint16_t>high
        elif shape.kind == LISTED:
            narrow(s.word, s.count, shape.width, p)
            memcpy(positions(p, s.count, shape.width), s.position, s.count * 2)
        elif shape.kind == RANKED:
            map = <uint64_t*>p
            memset(map, 0, self.map_bytes())
            for i in range(s.count):
                map[s.position[i] >> 6] |= <uint64_t>1 << (s.position[i] & 63)
            narrow(s.word, s.count, shape.width, <char*>p + self.map_bytes())
        if shape.kind >= LISTED:
            link |= (<uint64_t>shape.width << WIDTH_SHIFT
                     | <uint64_t>shape.size_class << CLASS_SHIFT)
        if shape.kind == LISTED or shape.kind == RANKED:
            link |= <uint64_t>s.count << COUNT_SHIFT
        t.link = link

    cdef void replace_object(self, Ptdesc* t) noexcept nogil:
        """Do without the table's object, but leave it for a later run if it was the
        room made for that."""
        if t.next & KEPT == 0 and self.owns(t):
            self.keep_object(t, self.object_of(t.link), class_of(t.link))
        else:
            self.slabs.free(self.object_of(t.link))
        t.link = 0

    cdef void drop_object(self, Ptdesc* t) noexcept nogil:
        if has_object(t.link):
            self.slabs.free(self.object_of(t.link))
        t.link = 0

    # -- flags ----------------------------------------------------------------

    cdef void mark(
            self, uint64_t* entry, uint64_t which, bint on) noexcept nogil:
        """Set or clear the flags of some of 64 entries."""
        cdef uint64_t present = self.pte.present
        cdef uint64_t flag = self.pte.flag
        cdef uint64_t swap_flag = self.pte.swap_flag
        cdef Py_ssize_t i
        if which == ALL and on:
            for i in range(64):
                entry[i] |= flag if entry[i] & present else swap_flag
            return
        while which:
            i = lowest(which)
            which &= which - 1
            if on:
                entry[i] |= flag_of(&self.pte, entry[i])
            else:
                entry[i] &= ~flag_of(&self.pte, entry[i])

    cdef void unflag(self, Ptdesc* t, const uint64_t* words) noexcept nogil:
        """Clear the flags of entries whose word is 0."""
        cdef uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t at, n
        if t.flagged:
            for at in range(0, self.entries, 64):
                n = min(64, self.entries - at)
                self.mark(entry + at, flags(entry + at, n, &self.pte)
                          & equal(words + at, n, ALL, 0), False)

    cdef void flag(self, Ptdesc* t, const uint64_t* words) noexcept nogil:
        """Set the flags of entries whose word is not 0."""
        cdef uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t at, n
        release_fence()
        for at in range(0, self.entries, 64):
            n = min(64, self.entries - at)
            self.mark(entry + at, ALL >> (64 - n) & ~(
                flags(entry + at, n, &self.pte) | equal(words + at, n, ALL, 0)), True)

    cdef void flag_run(self, Ptdesc* t, const Run* r) noexcept nogil:
        """Set the flags of a run's entries that hold something."""
        cdef uint64_t* entry = entries(self.frames, t)
        cdef uint64_t none = self.pte.none
        cdef uint64_t fresh
        cdef Py_ssize_t at, n, i, e
        release_fence()
        if r.vpns:
            for i in range(r.n):
                e = entry_at(r, i, self.entries - 1)
                if entry[e] != none and entry[e] & flag_of(&self.pte, entry[e]) == 0:
                    entry[e] |= flag_of(&self.pte, entry[e])
                    t.flagged += 1
            return
        for at in range(r.first, r.first + r.n, 64):
            n = min(64, r.first + r.n - at)
            fresh = ALL >> (64 - n) & ~(
                flags(entry + at, n, &self.pte) | equal(entry + at, n, ALL, none))
            self.mark(entry + at, fresh, True)
            t.flagged += count(fresh)

    cdef void unflag_run(self, Ptdesc* t, const Run* r) noexcept nogil:
        """Clear the flags of a run's entries."""
        cdef uint64_t* entry = entries(self.frames, t)
        cdef uint64_t flagged
        cdef Py_ssize_t at, n, i, e
        if r.vpns:
            for i in range(r.n):
                e = entry_at(r, i, self.entries - 1)
                t.flagged -= entry[e] & flag_of(&self.pte, entry[e]) != 0
                entry[e] &= ~flag_of(&self.pte, entry[e])
            return
        for at in range(r.first, r.first + r.n, 64):
            n = min(64, r.first + r.n - at)
            flagged = flags(entry + at, n, &self.pte)
            self.mark(entry + at, flagged, False)
            t.flagged -= count(flagged)

    # -- reading --------------------------------------------------------------

    cdef void load(
            self, const Ptdesc* t, const Run* r, uint64_t* words) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t i, e
        # A few entries of a table tell their flags sooner than its descriptor.
        if r.n > FEW_ENTRIES:
            if t.flagged == 0:
                memset(words, 0, r.n * sizeof(uint64_t))
                return
            if r.vpns is NULL:
                self.full(t, r.first, r.first + r.n, words)
                return
            if r.n > FROM_FULL and kind_of(t.link) >= LISTED:
                self.load_many(t, r, words)
                return
        for i in range(r.n):
            e = entry_at(r, i, self.entries - 1)
            words[i] = 0
            if entry[e] & flag_of(&self.pte, entry[e]):
                words[i] = self.word_at(t, e)

    # Below, the link is read once, and says how large the object is that it names;
    # what is in the object may be in the midst of a change, so no count or position
    # found there is trusted.

    cdef bint see(
            self, const Ptdesc* t, const Run* r, const uint64_t* ptes,
            uint64_t* words) noexcept nogil:
        cdef uint64_t[MOST] every
        cdef uint64_t link = once(<const uint64_t*>&t.link)
        cdef Kind kind = kind_of(link)
        cdef uint64_t flagged, word
        cdef Py_ssize_t at, n, i
        cdef void* p = self.object_of(link)
        if kind == DENSE and r.vpns is NULL and link & STALE == 0:
            # Those without a word are 0 there.
            widen(p, width_of(link), r.first, r.n, words)
            return True
        if kind >= LISTED and kind != DENSE and r.n > FROM_FULL:
            self.see_every(link, every)
        else:
            every[0] = 0
        word = self.shared_word(link) if kind < LISTED and kind != EMPTY else 0
        for at in range(0, r.n, 64):
            n = min(64, r.n - at)
            flagged = flags(ptes + at, n, &self.pte) if kind != EMPTY else 0
            if flagged == ALL and kind < LISTED:
                for i in range(at, at + 64):
                    words[i] = word
                continue
            memset(words + at, 0, n * sizeof(uint64_t))
            while flagged:
                i = at + lowest(flagged)
                flagged &= flagged - 1
                if kind < LISTED:
                    words[i] = word
                elif kind == DENSE:
                    words[i] = get(
                        p, width_of(link), entry_at(r, i, self.entries - 1))
                elif r.n > FROM_FULL:
                    words[i] = every[entry_at(r, i, self.entries - 1)]
                else:
                    words[i] = self.see_one(link, entry_at(r, i, self.entries - 1))
        return True

    cdef uint64_t see_one(self, uint64_t link, Py_ssize_t e) noexcept nogil:
        """Return the word of an entry where they are LISTED or RANKED."""
        cdef Py_ssize_t n = count_of(link)
        cdef int width = width_of(link)
        cdef const char* p = <const char*>self.object_of(link)
        cdef const uint16_t* position
        cdef Py_ssize_t at
        if kind_of(link) == LISTED:
            position = positions(<void*>p, n, width)
            at = place(position, n, e)
            return get(p, width, at) if at < n and position[at] == e else 0
        at = rank(<const uint64_t*>p, <int>self.map_bytes() // 8, <int>e)
        return get(p + self.map_bytes(), width, at) if at < n else 0

    cdef void see_every(self, uint64_t link, uint64_t* every) noexcept nogil:
        """Read the words of all entries where they are LISTED or RANKED."""
        cdef Py_ssize_t n = count_of(link)
        cdef Py_ssize_t nth = 0
        cdef int width = width_of(link)
        cdef const char* p = <const char*>self.object_of(link)
        cdef const uint16_t* position
        cdef uint64_t bits
        cdef Py_ssize_t at, i
        memset(every, 0, <size_t>self.entries * sizeof(uint64_t))
        if kind_of(link) == LISTED:
            position = positions(<void*>p, n, width)
            for i in range(n):
                every[position[i] & (self.entries - 1)] = get(p, width, i)
            return
        for at in range(0, self.entries, 64):
            bits = once(<const uint64_t*>p + (at >> 6))
            while bits and nth < n:
                every[at + lowest(bits)] = get(p + self.map_bytes(), width, nth)
                nth += 1
                bits &= bits - 1

    cdef void load_many(
            self, const Ptdesc* t, const Run* r, uint64_t* words) noexcept nogil:
        cdef uint64_t[MOST] every
        cdef Py_ssize_t i
        self.full(t, 0, self.entries, every)
        for i in range(r.n):
            words[i] = every[entry_at(r, i, self.entries - 1)]

    cdef Py_ssize_t scan(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
            const uint64_t* mask, const uint64_t* value,
            uint64_t* vpns) noexcept nogil:
        cdef uint64_t link = t.link
        cdef Kind kind = kind_of(link)
        if value[0] == 0 or kind == DENSE:
            return self.scan_all(t, first, last, mask[0], value[0], vpns)
        if link & STALE == 0 and last - first == self.entries:
            if kind == LISTED:
                return self.scan_listed(link, mask[0], value[0], t.vpn, vpns)
            if kind == RANKED:
                return self.scan_ranked(link, mask[0], value[0], t.vpn, vpns)
            if kind == INLINE or kind == FEW:
                return self.scan_few(t, mask[0], value[0], vpns)
        if kind == EMPTY:
            return 0
        if kind == UNIFORM or kind == BOXED:
            if self.shared_word(link) & mask[0] != value[0]:
                return 0
            return self.scan_uniform(t, first, last, vpns)
        return self.scan_flagged(t, first, last, mask[0], value[0], vpns)

    cdef Py_ssize_t scan_all(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
            uint64_t mask, uint64_t value, uint64_t* vpns) noexcept nogil:
        """Scan entry by entry: those without a word match, or most have one."""
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef uint64_t[64] words
        cdef Py_ssize_t found = 0
        cdef Py_ssize_t at, n
        cdef uint64_t matches
        for at in range(first, last, 64):
            n = min(64, last - at)
            self.full(t, at, at + n, words)
            matches = equal(words, n, mask, value)
            if value == 0:
                matches &= ~equal(entry + at, n, ALL, self.pte.none)
            while matches:
                vpns[found] = t.vpn + <uint64_t>(at + lowest(matches))
                found += 1
                matches &= matches - 1
        return found

    cdef Py_ssize_t scan_flagged(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
            uint64_t mask, uint64_t value, uint64_t* vpns) noexcept nogil:
        """Scan the words there are, in any container."""
        cdef Py_ssize_t found = 0
        cdef Py_ssize_t i
        cdef Sparse s
        self.sparse(t, first, last, &s)
        for i in range(s.count):
            vpns[found] = t.vpn + s.position[i]
            found += s.word[i] & mask == value
        return found

    cdef Py_ssize_t scan_uniform(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last, uint64_t* vpns
            ) noexcept nogil:
        """Return the flagged entries' vpns: the word they share matches."""
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t found = 0
        cdef Py_ssize_t at
        cdef uint64_t flagged
        for at in range(first, last, 64):
            flagged = flags(entry + at, min(64, last - at), &self.pte)
            while flagged:
                vpns[found] = t.vpn + <uint64_t>(at + lowest(flagged))
                found += 1
                flagged &= flagged - 1
        return found

    cdef Py_ssize_t scan_few(
            self, const Ptdesc* t, uint64_t mask, uint64_t value, uint64_t* vpns
            ) noexcept nogil:
        """Scan the whole of a table whose words are INLINE or FEW."""
        if self.shared_word(t.link) & mask != value:
            return 0
        return self.few(t.link, t.vpn, vpns)

    cdef Py_ssize_t scan_listed(
            self, uint64_t link, uint64_t mask, uint64_t value, uint64_t vpn,
            uint64_t* vpns) noexcept nogil:
        """Scan the whole of a table, from ``vpn`` on, whose words are LISTED."""
        cdef Py_ssize_t n = count_of(link)
        cdef int width = width_of(link)
        cdef char* p = <char*>self.object_of(link)
        cdef const uint16_t* position = positions(p, n, width)
        if width == 6:
            return listed_where(
                <const uint64_t*>p, position, n, mask, value, vpn, vpns)
        if width == 5:
            return listed_where(
                <const uint32_t*>p, position, n, mask, value, vpn, vpns)
        if width == 4:
            return listed_where(
                <const uint16_t*>p, position, n, mask, value, vpn, vpns)
        return listed_where(<const uint8_t*>p, position, n, mask, value, vpn, vpns)

    cdef Py_ssize_t scan_ranked(
            self, uint64_t link, uint64_t mask, uint64_t value, uint64_t vpn,
            uint64_t* vpns) noexcept nogil:
        """The same where they are RANKED."""
        cdef int width = width_of(link)
        cdef const uint64_t* map = <const uint64_t*>self.object_of(link)
        cdef const char* p = <const char*>map + self.map_bytes()
        cdef Py_ssize_t n = self.entries
        if width == 6:
            return ranked_where(<const uint64_t*>p, map, n, mask, value, vpn, vpns)
        if width == 5:
            return ranked_where(<const uint32_t*>p, map, n, mask, value, vpn, vpns)
        if width == 4:
            return ranked_where(<const uint16_t*>p, map, n, mask, value, vpn, vpns)
        return ranked_where(<const uint8_t*>p, map, n, mask, value, vpn, vpns)

    # -- giving back ----------------------------------------------------------

    cdef void zap(
            self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        cdef uint32_t flagged = t.flagged
        cdef Survey v
        cdef Sparse s
        cdef Py_ssize_t i, n
        if flagged == 0:
            return
        side_zap(self, t, first, last)
        if t.flagged == flagged or t.flagged == 0 or (
                kind_of(t.link) == UNIFORM or kind_of(t.link) == BOXED):
            return
        if not self.owns(t):
            t.link |= STALE
            return
        if kind_of(t.link) == DENSE:
            for i in range(first, last):
                put(self.object_of(t.link), width_of(t.link), i, 0)
        else:
            self.sparse(t, 0, self.entries, &s)
            n = 0
            for i in range(s.count):
                s.position[n] = s.position[i]
                s.word[n] = s.word[i]
                n += not first <= s.position[i] < last
            s.count = n
            survey_words(s.word, n, &v)
            self.write_back(t, &v, NULL, &s, True)
        t.next &= KEPT_BITS
        self.remember(t)

    cdef void settle(self, Ptdesc* t) noexcept nogil:
        if t.next & KEPT:
            self.slabs.free(self.take_kept(t))
        t.next &= TOO_LARGE
        if t.flagged == 0:
            self.drop_object(t)
            t.next = 0
            if t.reached:
                self.unreach(t)

    cdef void trim(self, Ptdesc* t) noexcept nogil:
        cdef uint64_t[MOST] words
        cdef Survey v
        cdef Shape shape
        cdef void* p
        if t.next & TOO_LARGE == 0:
            return
        t.next = 0
        self.full(t, 0, self.entries, words)
        survey_words(words, self.entries, &v)
        self.shape_for(&v, &shape)
        if shape.nbytes:
            p = self.slabs.alloc(shape.nbytes)
            if p is NULL:
                return
            self.keep_object(t, p, shape.size_class)
        lock_table(t)
        self.write_back(t, &v, words, NULL, False)
        unlock_table(t)
        self.settle(t)

    # -- fork -----------------------------------------------------------------

    cdef int begin_fork(self, Encoding parent, bint shared) except -1:
        if not shared:
            self.start()
            return 0
        self.slabs = (<Adaptive>parent).slabs
        self.base = self.slabs.pages.base
        self.slabs.join()
        return 0

    cdef int fork(
            self, Encoding parent, const Ptdesc* t, Ptdesc* child) noexcept nogil:
        cdef Ptdesc* whole = <Ptdesc*>t
        if t.flagged and self.frames.page_order and not self.reach(child):
            return -1
        if has_object(t.link) and self.slabs is not (<Adaptive>parent).slabs:
            return self.copy_words(<Adaptive>parent, t, child)
        if has_object(t.link):
            if not self.slabs.share(self.object_of(t.link)):
                return -1
            whole.link |= SHARED
        child.link = t.link
        child.flagged = t.flagged
        return 0

    cdef int copy_words(
            self, Adaptive parent, const Ptdesc* t, Ptdesc* child) noexcept nogil:
        cdef uint64_t[MOST] words
        cdef Survey v
        parent.full(t, 0, self.entries, words)
        survey_words(words, self.entries, &v)
        if not self.make_room(child, &v):
            return -1
        self.write_back(child, &v, words, NULL, False)
        child.flagged = t.flagged
        return 0

    cdef bint sharing(self) noexcept nogil:
        return self.slabs is not None and self.slabs.is_shared()

    cdef void leave(self, Ptdesc* t) noexcept nogil:
        self.drop_object(t)

    cdef void retire(self) noexcept nogil:
        self.slabs.part()

    # -- what is held ---------------------------------------------------------

    cdef void reap(self) noexcept nogil:
        Encoding.reap(self)
        self.slabs.reap()

    cdef size_t side_bytes(self) noexcept nogil:
        return self.slabs.object_bytes

    cdef size_t table_bytes(self, const Ptdesc* t) noexcept nogil:
        if not has_object(t.link):
            return 0
        return self.slabs.proportion(self.object_of(t.link))

    cdef size_t held_bytes(self) noexcept nogil:
        cdef size_t nbytes
        self.slabs.hold()
        nbytes = self.slabs.object_bytes + (
            self.slabs.page_bytes() - self.slabs.object_bytes
            - self.slabs.count_bytes) // <size_t>self.slabs.users
        self.slabs.let_go()
        return nbytes

    cdef size_t index_bytes(self) noexcept nogil:
        cdef size_t nbytes
        self.slabs.hold()
        nbytes = self.slabs.count_bytes // <size_t>self.slabs.users
        self.slabs.let_go()
        return Encoding.index_bytes(self) + nbytes

    cdef const char* fault(self, const Ptdesc* t) noexcept nogil:
        cdef uint64_t[MOST] words
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef Survey v
        cdef Py_ssize_t e
        if count_flags(self, t) != t.flagged:
            return b"count of flagged entries is stale"
        if t.next:
            return b"room made for words was not given back"
        if t.flagged == 0:
            if t.link:
                return b"a container without a flagged entry"
            return NULL
        self.full(t, 0, self.entries, words)
        for e in range(self.entries):
            if (words[e] != 0) != (entry[e] & flag_of(&self.pte, entry[e]) != 0):
                return b"flag and word differ"
        survey_words(words, self.entries, &v)
        if kind_of(t.link) >= LISTED and t.link & STALE == 0:
            if kind_of(t.link) != DENSE and count_of(t.link) != v.count:
                return b"count of listed entries is stale"
            if width_of(t.link) < 6 and v.bits >> (1 << width_of(t.link)):
                return b"a word is wider than its container"
        return NULL


cdef inline int kept_class(const Ptdesc* t) noexcept nogil:
    """Return the size class of the object that is at hand."""
    return <int>(t.next >> KEPT_CLASS_SHIFT & 63)


cdef inline void shift(
        void* words, int width, Py_ssize_t at, Py_ssize_t n, int by) noexcept nogil:
    """Make (by 1) or close (by -1) a gap at the ``at``-th of n words."""
    cdef size_t size = <size_t>1 << (width - 3)
    cdef char* p = <char*>words + at * size
    if by > 0:
        memmove(p + size, p, (n - at) * size)
    elif by < 0:
        memmove(p, p + size, (n - at - 1) * size)
