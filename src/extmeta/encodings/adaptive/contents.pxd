"""What a table holds, apart from its container: lists of words, and a survey.

`Sparse` lists the entries that have a word. `Survey` has what decides the container.
"""
from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memmove

from extmeta.encodings.adaptive.link cimport MOST
from extmeta.table.encoding cimport Write
from extmeta.table.pte cimport ALL, PteLayout, count, equal, flag_of, lowest
from extmeta.table.vpns cimport Run, entry_at

cdef struct Sparse:
    # Positions in ascending order, and the words there.
    Py_ssize_t count
    uint16_t[MOST] position
    uint64_t[MOST] word

cdef struct Survey:
    Py_ssize_t count      # of words
    uint64_t bits         # those set in any word
    uint64_t word         # one of the words
    bint uniform          # all words are equal

cdef inline void survey_words(
        const uint64_t* words, Py_ssize_t n, Survey* s) noexcept nogil:
    """Describe the words that are not 0 among n."""
    cdef uint64_t bits = 0
    cdef uint64_t differ = 0
    cdef uint64_t word = 0
    cdef uint64_t live
    cdef Py_ssize_t at, i, k
    s.count = 0
    for at in range(0, n, 64):
        k = min(64, n - at)
        live = ALL >> (64 - k) & ~equal(words + at, k, ALL, 0)
        s.count += count(live)
        if live and word == 0:
            word = words[at + lowest(live)]
        if live == ALL:
            for i in range(at, at + 64):
                bits |= words[i]
                differ |= words[i] ^ word
            continue
        while live:
            i = at + lowest(live)
            live &= live - 1
            bits |= words[i]
            differ |= words[i] ^ word
    s.bits = bits
    s.word = word
    s.uniform = differ == 0

cdef inline void sift(const uint64_t* words, Py_ssize_t n, Sparse* s) noexcept nogil:
    """List the words that are not 0 among n."""
    cdef uint64_t live
    cdef Py_ssize_t at, i, k
    s.count = 0
    for at in range(0, n, 64):
        k = min(64, n - at)
        live = ALL >> (64 - k) & ~equal(words + at, k, ALL, 0)
        while live:
            i = at + lowest(live)
            live &= live - 1
            s.position[s.count] = <uint16_t>i
            s.word[s.count] = words[i]
            s.count += 1

cdef inline Py_ssize_t place(
        const uint16_t* position, Py_ssize_t n, Py_ssize_t entry) noexcept nogil:
    """Return how many of the ascending positions are below ``entry``."""
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t half
    # Halving without a branch avoids mispredictions.
    while n > 1:
        half = n >> 1
        at += half * (position[at + half - 1] < entry)
        n -= half
    return at + (n == 1 and position[at] < entry)

cdef inline void change_all(
        const uint64_t* entry, uint64_t none, const Run* r, const Write* w,
        Py_ssize_t last_entry, uint64_t* words) noexcept nogil:
    """Apply a write to all words of a table.

    An entry that is none can get a word of its own here: prepare() runs before PTEs
    move to the table.
    """
    cdef uint64_t keep = w.keep[0]
    cdef const uint64_t* add = w.add
    cdef uint64_t same
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

cdef inline void change_one(
        const uint64_t* entry, uint64_t none, Py_ssize_t e, const Write* w,
        Py_ssize_t i, Sparse* s) noexcept nogil:
    """Apply the ``i``-th write, which is of the entry ``e``, to a list of words."""
    cdef Py_ssize_t at = place(s.position, s.count, e)
    cdef bint there = at < s.count and s.position[at] == e
    cdef uint64_t word = (s.word[at] & w.keep[0] if there else 0) | w.add[i * w.step]
    if w.step == 0 and entry[e] == none:
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

cdef inline void change_some(
        const uint64_t* entry, uint64_t none, const Run* r, const Write* w,
        Py_ssize_t last_entry, Sparse* s) noexcept nogil:
    """Apply a write to the list of a table's words, one entry at a time."""
    cdef Py_ssize_t i
    for i in range(r.n):
        change_one(entry, none, entry_at(r, i, last_entry), w, i, s)

cdef inline bint lists(const Sparse* s, Py_ssize_t e) noexcept nogil:
    cdef Py_ssize_t at = place(s.position, s.count, e)
    return at < s.count and s.position[at] == e

cdef inline void survey_fill(
        const Sparse* s, Py_ssize_t used, const Write* w, Survey* v) noexcept nogil:
    """Describe a table of ``used`` entries after a write of one word to all.

    ``s`` lists the words before the write.
    """
    cdef uint64_t bits = 0
    cdef uint64_t differ = 0
    cdef uint64_t word
    cdef Py_ssize_t i
    v.count = used
    v.word = w.add[0]
    if s.count == used and used:
        v.word |= s.word[0] & w.keep[0]
    for i in range(s.count):
        word = s.word[i] & w.keep[0] | w.add[0]
        bits |= word
        differ |= word ^ v.word
    v.bits = bits | v.word
    v.uniform = differ == 0

cdef inline bint clear_bits(const Run* r, uint64_t keep, Sparse* s) noexcept nogil:
    """Keep only these bits of words in a range; return whether a word changed."""
    cdef bint changed = False
    cdef Py_ssize_t i
    for i in range(s.count):
        if r.first <= s.position[i] < r.first + r.n and s.word[i] & ~keep:
            s.word[i] &= keep
            changed = True
    return changed

cdef inline bint cut_words(
        const Run* r, uint64_t keep, uint64_t* entry, const PteLayout* a, Sparse* s,
        Survey* v) noexcept nogil:
    """Keep only these bits of words in a range; return whether a word changed.

    Entries whose word becomes 0 leave the list, and their flags are cleared. The rest
    is surveyed in the same pass.
    """
    cdef uint64_t bits = 0
    cdef uint64_t differ = 0
    cdef uint64_t changed = 0
    cdef Py_ssize_t n = 0
    cdef Py_ssize_t i, e
    cdef uint64_t word
    for i in range(s.count):
        e = s.position[i]
        word = s.word[i]
        if r.first <= e < r.first + r.n:
            changed |= word & ~keep
            word &= keep
        s.position[n] = <uint16_t>e
        s.word[n] = word
        if word:
            n += 1
            bits |= word
            differ |= word ^ s.word[0]
        else:
            entry[e] &= ~flag_of(a, entry[e])
    s.count = v.count = n
    v.bits = bits
    v.word = s.word[0] if n else 0
    v.uniform = differ == 0
    return changed != 0

cdef inline void drop_range(
        Py_ssize_t first, Py_ssize_t last, Sparse* s) noexcept nogil:
    """Remove the entries of [first, last) from the list."""
    cdef Py_ssize_t n = 0
    cdef Py_ssize_t i
    for i in range(s.count):
        s.position[n] = s.position[i]
        s.word[n] = s.word[i]
        n += not first <= s.position[i] < last
    s.count = n

cdef inline void keep_live(
        const uint64_t* entry, const PteLayout* a, Py_ssize_t first, Py_ssize_t last,
        bint stale, Sparse* s) noexcept nogil:
    """Keep the listed entries of [first, last), if ``stale`` only flagged ones."""
    cdef Py_ssize_t n = 0
    cdef Py_ssize_t i, at
    for i in range(s.count):
        at = s.position[i]
        s.position[n] = s.position[i]
        s.word[n] = s.word[i]
        n += first <= at < last and (
            not stale or entry[at] & flag_of(a, entry[at]) != 0)
    s.count = n
