"""Reading, changing and filling a table's words, whatever container it has."""
from libc.stdint cimport uint64_t
from libc.string cimport memset

from extmeta.encodings.adaptive cimport dense, few, listed, ranked, uniform
from extmeta.encodings.adaptive.contents cimport (
    Sparse, Survey, change_all, change_some, clear_bits, keep_live, sift, survey_fill,
    survey_words)
from extmeta.encodings.adaptive.link cimport (
    BOXED, CLASS_SHIFT, DENSE, EMPTY, FEW, INLINE, LISTED, MOST, RANKED, STALE,
    UNIFORM, WIDTH_SHIFT, Geometry, Kind, class_of, count_of, is_stale, is_uniform,
    kind_of, link_to, object_of, width_of, with_count)
from extmeta.encodings.packed cimport get, put, widen
from extmeta.encodings.adaptive.shape cimport FROM_FULL, Shape
from extmeta.encodings.side cimport adds_nothing, append_vpns
from extmeta.memory.frames cimport Ptdesc
from extmeta.memory.slabs cimport class_bytes
from extmeta.memory.sync cimport prefetch
from extmeta.table.encoding cimport TOGETHER, Write
from extmeta.table.pte cimport ALL, equal, flag_of, flags, lowest
from extmeta.table.vpns cimport Run, entry_at

cdef inline uint64_t shared_word(const Geometry* g, uint64_t link) noexcept nogil:
    """Return the word that all flagged PTEs have, of a kind below LISTED."""
    return uniform.word_at(g, link) if is_uniform(link) else few.word_at(g, link)

cdef inline uint64_t word_at(
        const Geometry* g, uint64_t link, Py_ssize_t e) noexcept nogil:
    """Return the word of an entry whose flag is set."""
    cdef Kind kind = kind_of(link)
    if kind == DENSE:
        return dense.word_at(g, link, e)
    if kind == LISTED:
        return listed.word_at(g, link, e)
    if kind == RANKED:
        return ranked.word_at(g, link, e)
    return shared_word(g, link)

cdef inline void fetch(
        const Geometry* g, uint64_t link, Py_ssize_t e) noexcept nogil:
    """Prefetch what `word_at` reads."""
    cdef const char* p = <const char*>object_of(g, link)
    if kind_of(link) == DENSE:
        prefetch(p + (e << width_of(link) >> 3))
    elif kind_of(link) >= BOXED:
        # LISTED ends with the positions, which are searched first.
        prefetch(p)
        prefetch(p + class_bytes(class_of(link)) - 1)

cdef inline void list_words(
        const Geometry* g, uint64_t link, const uint64_t* entry, Py_ssize_t first,
        Py_ssize_t last, Sparse* s) noexcept nogil:
    """Read the flagged entries of [first, last) and their words."""
    cdef Kind kind = kind_of(link)
    cdef bint stale = is_stale(link)
    if kind == EMPTY:
        s.count = 0
        return
    if is_uniform(link):
        uniform.list_words(shared_word(g, link), entry, g.pte, first, last, s)
        return
    if kind == DENSE:
        dense.list_words(g, link, first, last, s)
    elif kind == LISTED:
        listed.list_words(g, link, s)
    elif kind == RANKED:
        ranked.list_words(g, link, s)
    else:
        few.list_words(g, link, s)
    if stale or first > 0 or last < g.entries:
        keep_live(entry, g.pte, first, last, stale, s)

cdef inline void read(
        const Geometry* g, uint64_t link, const uint64_t* entry, Py_ssize_t first,
        Py_ssize_t last, uint64_t* words) noexcept nogil:
    """Read the words of [first, last), 0 for an entry without a word."""
    cdef Sparse s
    cdef Py_ssize_t i
    if kind_of(link) == DENSE:
        dense.read(g, link, entry, g.pte, first, last, words)
    elif is_uniform(link):
        uniform.read(shared_word(g, link), entry, g.pte, first, last, words)
    else:
        memset(words, 0, <size_t>(last - first) * sizeof(uint64_t))
        list_words(g, link, entry, first, last, &s)
        for i in range(s.count):
            words[s.position[i] - first] = s.word[i]

cdef inline void pick(
        const Geometry* g, uint64_t link, const uint64_t* entry, const Run* r,
        uint64_t* words) noexcept nogil:
    """Read the words of a run from those of the whole table."""
    cdef uint64_t[MOST] every
    cdef Py_ssize_t i
    read(g, link, entry, 0, g.entries, every)
    for i in range(r.n):
        words[i] = every[entry_at(r, i, g.entries - 1)]

cdef inline void survey_write(
        const Geometry* g, const Ptdesc* t, const uint64_t* entry, const Run* r,
        const Write* w, Survey* v) noexcept nogil:
    """Describe the table's words as they will be after the write."""
    cdef bint clears_range = r.vpns is NULL and adds_nothing(w, 1)
    cdef uint64_t[MOST] words
    cdef Sparse s
    if not (clears_range and kind_of(t.link) != DENSE or fills(g, t.link, r, w)
            or is_short(t.link, r)):
        survey_words(words_after(g, t, entry, r, w, words), g.entries, v)
        return
    list_words(g, t.link, entry, 0, g.entries, &s)
    if clears_range:
        clear_bits(r, w.keep[0], &s)
    elif is_short(t.link, r):
        change_some(entry, g.pte.none, r, w, g.entries - 1, &s)
    else:
        survey_fill(&s, t.used, w, v)
        return
    survey_words(s.word, s.count, v)

cdef inline bint is_short(uint64_t link, const Run* r) noexcept nogil:
    """Return whether it is faster to change a list of words than all of them."""
    return r.n <= FROM_FULL and kind_of(link) != DENSE

cdef inline bint fills(
        const Geometry* g, uint64_t link, const Run* r, const Write* w) noexcept nogil:
    """Return whether a write gives all entries one word, but for those listed."""
    # A list of UNIFORM's or DENSE's words takes longer than the words.
    return w.step == 0 and w.add[0] and r.vpns is NULL and r.n == g.entries and (
        kind_of(link) != DENSE and not is_uniform(link))

cdef inline const uint64_t* words_after(
        const Geometry* g, const Ptdesc* t, const uint64_t* entry, const Run* r,
        const Write* w, uint64_t* words) noexcept nogil:
    """Return all words as they will be after the write: those of `w`, or in `words`."""
    cdef uint64_t none = g.pte.none
    cdef uint64_t add = w.add[0]
    cdef Py_ssize_t i
    cdef Sparse s
    if t.flagged == 0 and w.step and r.vpns is NULL and r.n == g.entries:
        return w.add
    if not fills(g, t.link, r, w):
        read(g, t.link, entry, 0, g.entries, words)
        change_all(entry, none, r, w, g.entries - 1, words)
        return words
    list_words(g, t.link, entry, 0, g.entries, &s)
    for i in range(g.entries):
        words[i] = add if entry[i] != none else 0
    for i in range(s.count):
        words[s.position[i]] = s.word[i] & w.keep[0] | add
    return words

cdef inline uint64_t fill(
        const Geometry* g, const Shape* shape, void* p, const Survey* v,
        const uint64_t* words, const Sparse* s) noexcept nogil:
    """Write words into the object ``p``; return the link that leads there."""
    cdef Sparse some
    cdef uint64_t link = <uint64_t>shape.kind
    if shape.kind == EMPTY:
        return link
    if shape.kind == UNIFORM:
        return uniform.link_with(v.word)
    if p is not NULL:
        link |= link_to(g, p)
    if shape.kind == BOXED:
        (<uint64_t*>p)[0] = v.word
        return link
    if shape.kind >= LISTED:
        link |= (<uint64_t>shape.width << WIDTH_SHIFT
                 | <uint64_t>shape.size_class << CLASS_SHIFT)
    if shape.kind == DENSE:
        dense.fill(g, p, shape.width, words, s)
        return link
    if s is NULL:
        sift(words, g.entries, &some)
        s = &some
    if shape.kind == INLINE:
        return link | few.fill_inline(g, s, v.word)
    if shape.kind == FEW:
        return link | few.fill(p, s, v.word)
    if shape.kind == LISTED:
        listed.fill(p, shape.width, s)
    else:
        ranked.fill(g, p, shape.width, s)
    return with_count(link, s.count)

cdef inline bint stays_uniform(
        const Geometry* g, const Ptdesc* t, const Run* r, const Write* w
        ) noexcept nogil:
    """Return whether a write of one word leaves all words equal, in the link."""
    cdef uint64_t add = w.add[0]
    cdef uint64_t word
    if r.n <= few.FEW_MOST or add == 0 or not uniform.fits(add):
        return False
    if t.flagged == 0:
        return True
    if kind_of(t.link) != UNIFORM:
        return False
    word = shared_word(g, t.link)
    return word & w.keep[0] | add == add and (
        word == add or r.vpns is NULL and r.n == g.entries)

cdef inline bint shrinks_in_place(
        const Geometry* g, const Ptdesc* t, const Run* r, uint64_t keep, bint owned
        ) noexcept nogil:
    """Return whether clearing bits needs no new object."""
    if kind_of(t.link) >= LISTED:
        return owned
    if shared_word(g, t.link) & ~keep == 0:
        return True
    return r.vpns is NULL and r.n == g.entries and (kind_of(t.link) != BOXED or owned)

cdef inline bint can_put(uint64_t link, uint64_t word) noexcept nogil:
    """Return whether the object may have room for the word, if it may change."""
    return kind_of(link) >= LISTED and link & STALE == 0 and (
        width_of(link) == 6 or word >> (1 << width_of(link)) == 0)

cdef inline bint put_word(
        const Geometry* g, Ptdesc* t, Py_ssize_t e, bint there, uint64_t word
        ) noexcept nogil:
    """Change, add or remove one word in the object; False if it is too small."""
    cdef uint64_t link = t.link
    cdef size_t room = class_bytes(class_of(link))
    if kind_of(link) == DENSE:
        put(object_of(g, link), width_of(link), e, word)
        return True
    if kind_of(link) == LISTED:
        if not listed.put_word(g, &link, e, there, word, room):
            return False
    elif not ranked.put_word(g, &link, e, there, word, room):
        return False
    t.link = link
    return True

cdef inline bint clear(
        const Geometry* g, Ptdesc* t, uint64_t* entry, uint64_t keep) noexcept nogil:
    """Keep only these bits of all words; False if LISTED or RANKED would list a 0."""
    cdef uint64_t[few.FEW_MOST] position
    cdef Py_ssize_t i, n
    if kind_of(t.link) == LISTED:
        return listed.clear(g, t.link, keep)
    if kind_of(t.link) == RANKED:
        return ranked.clear(g, t.link, keep)
    if shared_word(g, t.link) & keep:
        t.link = few.clear(g, t.link, keep)
        return True
    n = few.positions(g, t.link, 0, position)
    for i in range(n):
        entry[position[i]] &= ~flag_of(g.pte, entry[position[i]])
    t.flagged = 0
    return True

cdef inline const char* fault_in(
        const Geometry* g, uint64_t link, const uint64_t* entry) noexcept nogil:
    """Return what is wrong in the container, or NULL."""
    cdef uint64_t[MOST] words
    cdef Survey v
    cdef Py_ssize_t e
    words[0] = 0
    read(g, link, entry, 0, g.entries, words)
    for e in range(g.entries):
        if (words[e] != 0) != (entry[e] & flag_of(g.pte, entry[e]) != 0):
            return b"flag and word differ"
    survey_words(words, g.entries, &v)
    if kind_of(link) >= LISTED and link & STALE == 0:
        if kind_of(link) != DENSE and count_of(link) != v.count:
            return b"count of listed entries is stale"
        if width_of(link) < 6 and v.bits >> (1 << width_of(link)):
            return b"a word is wider than its container"
    return NULL

cdef inline Py_ssize_t find(
        const Geometry* g, uint64_t link, Py_ssize_t e) noexcept nogil:
    """Return which word of a LISTED, RANKED or DENSE object is the entry's, or -1."""
    cdef Kind kind = kind_of(link)
    if kind == LISTED:
        return listed.find(g, link, e)
    return ranked.find(g, link, e) if kind == RANKED else e

cdef inline const char* words_of(const Geometry* g, uint64_t link) noexcept nogil:
    """Return where a LISTED, RANKED or DENSE object has its words."""
    return <const char*>object_of(g, link) + (
        g.map_bytes if kind_of(link) == RANKED else 0)

cdef inline uint64_t found(
        const Geometry* g, uint64_t link, Py_ssize_t at) noexcept nogil:
    """Return the word that `find` has found, or 0."""
    return get(words_of(g, link), width_of(link), at) if at >= 0 else 0

cdef inline void see_each(
        const Geometry* g, const uint64_t* link, const Py_ssize_t* entry,
        uint64_t flagged, uint64_t in_listed, uint64_t in_ranked, uint64_t* words
        ) noexcept nogil:
    """Read the words of entries of several tables, as see() does.

    The caller has fetched their containers. What a step reads was asked for by the step
    before, for all entries.
    """
    cdef uint64_t left = in_listed
    cdef Py_ssize_t[TOGETHER] at
    cdef Py_ssize_t i
    while left:
        i = lowest(left)
        left &= left - 1
        at[i] = listed.find(g, link[i], entry[i])
        prefetch(<const char*>object_of(g, link[i]) + (at[i] << width_of(link[i]) >> 3))
    left = in_ranked
    while left:
        i = lowest(left)
        left &= left - 1
        at[i] = ranked.find(g, link[i], entry[i])
        prefetch(ranked.words_of(g, link[i]) + (at[i] << width_of(link[i]) >> 3))
    left = flagged & ~(in_listed | in_ranked)
    while left:
        i = lowest(left)
        left &= left - 1
        words[i] = see_word(g, link[i], entry[i])
    left = in_listed | in_ranked
    while left:
        i = lowest(left)
        left &= left - 1
        words[i] = found(g, link[i], at[i])

cdef inline uint64_t see_word(
        const Geometry* g, uint64_t link, Py_ssize_t e) noexcept nogil:
    """Read the word of an entry of a container that is not LISTED or RANKED."""
    if kind_of(link) == DENSE:
        return dense.word_at(g, link, e)
    return shared_word(g, link) if kind_of(link) != EMPTY else 0

cdef inline void see(
        const Geometry* g, uint64_t link, const Run* r, const uint64_t* ptes,
        uint64_t* words) noexcept nogil:
    """Read the words of a run without a lock, from a link that was read once.

    The link gives the size of the object. The object may be changing, so no count or
    position in it is trusted.
    """
    cdef uint64_t[MOST] every
    cdef Kind kind = kind_of(link)
    cdef uint64_t flagged
    cdef Py_ssize_t at, n, i, e
    cdef void* p = object_of(g, link)
    if kind == DENSE and r.vpns is NULL and link & STALE == 0:
        # Entries without a word have 0 there.
        widen(p, width_of(link), r.first, r.n, words)
        return
    if kind < LISTED:
        uniform.see(
            shared_word(g, link) if kind != EMPTY else 0, ptes, r.n, g.pte, words)
        return
    every[0] = 0
    if r.n > FROM_FULL and (kind == LISTED or kind == RANKED):
        memset(every, 0, <size_t>g.entries * sizeof(uint64_t))
        if kind == LISTED:
            listed.see_all(g, link, every)
        else:
            ranked.see_all(g, link, every)
    for at in range(0, r.n, 64):
        n = min(64, r.n - at)
        flagged = flags(ptes + at, n, g.pte)
        memset(words + at, 0, n * sizeof(uint64_t))
        while flagged:
            i = at + lowest(flagged)
            flagged &= flagged - 1
            e = entry_at(r, i, g.entries - 1)
            if kind == DENSE:
                words[i] = get(p, width_of(link), e)
            elif r.n > FROM_FULL:
                words[i] = every[e]
            else:
                words[i] = found(g, link, find(g, link, e))

cdef inline Py_ssize_t scan(
        const Geometry* g, uint64_t link, const uint64_t* entry, Py_ssize_t first,
        Py_ssize_t last, uint64_t mask, uint64_t value, uint64_t vpn, uint64_t* vpns
        ) noexcept nogil:
    """Write vpn + the entries of [first, last) with (word & mask) == value.

    If value is not 0, the container is not EMPTY, UNIFORM or BOXED.
    """
    cdef Kind kind = kind_of(link)
    if value == 0 or kind == DENSE:
        return scan_all(g, link, entry, first, last, mask, value, vpn, vpns)
    if is_stale(link) or last - first < g.entries:
        return scan_list(g, link, entry, first, last, mask, value, vpn, vpns)
    if kind == LISTED:
        return listed.scan(g, link, mask, value, vpn, vpns)
    if kind == RANKED:
        return ranked.scan(g, link, mask, value, vpn, vpns)
    return few.scan(g, link, mask, value, vpn, vpns)

cdef inline Py_ssize_t scan_all(
        const Geometry* g, uint64_t link, const uint64_t* entry, Py_ssize_t first,
        Py_ssize_t last, uint64_t mask, uint64_t value, uint64_t vpn, uint64_t* vpns
        ) noexcept nogil:
    """Scan all entries: if ``value`` is 0, those without a word match too."""
    cdef uint64_t[64] words
    cdef Py_ssize_t found = 0
    cdef Py_ssize_t at, n
    cdef uint64_t matches
    for at in range(first, last, 64):
        n = min(64, last - at)
        read(g, link, entry, at, at + n, words)
        matches = equal(words, n, mask, value)
        if value == 0:
            matches &= ~equal(entry + at, n, ALL, g.pte.none)
        found = append_vpns(vpns, found, vpn + <uint64_t>at, matches)
    return found

cdef inline Py_ssize_t scan_list(
        const Geometry* g, uint64_t link, const uint64_t* entry, Py_ssize_t first,
        Py_ssize_t last, uint64_t mask, uint64_t value, uint64_t vpn, uint64_t* vpns
        ) noexcept nogil:
    """Scan a list of the words in any container."""
    cdef Py_ssize_t found = 0
    cdef Py_ssize_t i
    cdef Sparse s
    list_words(g, link, entry, first, last, &s)
    for i in range(s.count):
        vpns[found] = vpn + s.position[i]
        found += s.word[i] & mask == value
    return found
