"""What searches for PTE tables and huge leaves pass in the upper tables, by level.

The loops of an operation take time for each empty slot that they pass. A search starts
again at the root, so what it passes follows from where tables and leaves lie.
"""
from libc.stdint cimport uint8_t, uint64_t

from extmeta.table.words cimport TABLES_TOGETHER

cdef enum:
    MAX_LEVELS = 6

cdef struct Tree:
    int levels
    int[MAX_LEVELS] shift        # log2 of the vpns below a slot, the root first


cdef struct Slots:
    # What the upper tables refer to, ascending: PTE tables and huge leaves.
    Py_ssize_t n
    const uint64_t* start
    const uint8_t* kind          # LEAF_SLOT, BARE_SLOT, WORDED_SLOT


cdef enum:
    LEAF_SLOT, BARE_SLOT, WORDED_SLOT


cdef inline void step(
        const Tree* tree, uint64_t before, uint64_t to, bint passed, double* steps
        ) noexcept nogil:
    """Count the empty slots that a search passes from ``before`` to the used ``to``.

    If ``passed``, the entry before ``before`` is used.
    """
    cdef int level
    cdef uint64_t at = before
    while at < to:
        level = 0
        while level < tree.levels - 2 and (
                at >> tree.shift[level] == to >> tree.shift[level]
                or passed and at >> tree.shift[level] == (
                    before - 1) >> tree.shift[level]):
            level += 1
        steps[level] += 1
        at = ((at >> tree.shift[level]) + 1) << tree.shift[level]


cdef inline void seek(
        const Tree* tree, const Slots* s, Py_ssize_t* i, uint64_t at, uint64_t to,
        double* steps) noexcept nogil:
    """Count what next_table() passes from ``at`` to ``to``; s.start[i[0]] >= at."""
    cdef uint64_t size = <uint64_t>1 << tree.shift[tree.levels - 2]
    while i[0] < s.n and s.start[i[0]] < to:
        step(tree, at, s.start[i[0]], i[0] > 0, steps)
        steps[tree.levels - 2] += 1
        at = s.start[i[0]] + size
        i[0] += 1
    step(tree, at, to, i[0] > 0, steps)


cdef inline bint together(
        const Tree* tree, const Slots* s, int level, uint64_t at, Py_ssize_t i
        ) noexcept nogil:
    """Return whether slot ``i``, if there is one, lies below the same entry."""
    return 0 <= i < s.n and at >> tree.shift[level] == s.start[i] >> tree.shift[level]


cdef inline void pass_kept(
        const Tree* tree, const Slots* s, uint64_t at, uint64_t to, Py_ssize_t i,
        Py_ssize_t* before, Py_ssize_t* after, double* steps) noexcept nogil:
    """Count what a search passes from ``at`` to ``to``, where tables have been freed.

    Slot ``i`` is what it finds. ``before`` and ``after`` are the nearest leaves, which
    keep the tables above them, and move with ``at``. Slots may be -1 or s.n.
    """
    cdef int level
    while at < to:
        while after[0] < s.n and (
                s.kind[after[0]] != LEAF_SLOT or s.start[after[0]] < at):
            if s.kind[after[0]] == LEAF_SLOT:
                before[0] = after[0]
            after[0] += 1
        level = 0
        while level < tree.levels - 2 and (
                together(tree, s, level, at, i)
                or together(tree, s, level, at, before[0])
                or together(tree, s, level, at, after[0])):
            level += 1
        steps[level] += 1
        at = ((at >> tree.shift[level]) + 1) << tree.shift[level]


cdef inline Py_ssize_t dropped(
        const Tree* tree, const Slots* s, uint64_t first, uint64_t stop,
        double* pruned, double* steps) noexcept nogil:
    """Count what an unmap passes: drop() frees all tables, and then the leaves.

    ``pruned`` are the steps to the tables, ``steps`` those to the leaves. Returns the
    number of leaves in the range.
    """
    cdef uint64_t size = <uint64_t>1 << tree.shift[tree.levels - 2]
    cdef uint64_t at = first
    cdef Py_ssize_t i, before = -1, after = 0, outside = -1, within = 0
    for i in range(s.n):
        if s.kind[i] != LEAF_SLOT:
            pass_kept(tree, s, at, s.start[i], i, &before, &after, pruned)
            at = s.start[i] + size
        elif s.start[i] < first:
            outside = i
    at = first
    # The leaves within the range keep no table longer than themselves.
    after = s.n
    i = 0
    while i < s.n and s.start[i] < stop:
        if s.kind[i] == LEAF_SLOT and s.start[i] >= first:
            within += 1
            pass_kept(tree, s, at, s.start[i], i, &outside, &after, steps)
            at = s.start[i]
        i += 1
    while i < s.n and s.kind[i] != LEAF_SLOT:
        i += 1
    if outside >= 0 or i < s.n:
        pass_kept(tree, s, at, stop, i, &outside, &after, steps)
    return within


cdef inline void counted(
        const Tree* tree, const Slots* s, double* steps) noexcept nogil:
    """Count what copy_counts() passes: to the first PTE table below each PMD table."""
    cdef uint64_t size = <uint64_t>1 << tree.shift[tree.levels - 2]
    cdef int pmd_shift = tree.shift[tree.levels - 3]
    cdef uint64_t at = 0
    cdef Py_ssize_t last = s.n - 1, i
    while last >= 0 and s.kind[last] == LEAF_SLOT:
        last -= 1
    for i in range(last + 1):
        if s.start[i] < at:
            continue
        step(tree, at, s.start[i], at > 0, steps)
        if s.kind[i] == LEAF_SLOT:
            steps[tree.levels - 2] += 1
            at = s.start[i] + size
        else:
            at = ((s.start[i] >> pmd_shift) + 1) << pmd_shift


cdef inline void gathered(
        const Tree* tree, const Slots* s, uint64_t first, uint64_t stop,
        bint only_worded, double* f) noexcept nogil:
    """Count what next_tables() passes: calls, slots of gather(), steps by level."""
    cdef uint64_t at = first
    cdef uint64_t size = <uint64_t>1 << tree.shift[tree.levels - 2]
    cdef int pmd_shift = tree.shift[tree.levels - 3]
    cdef uint64_t end
    cdef Py_ssize_t i = 0, next, listed, j
    cdef bint any_word
    while i < s.n and s.start[i] + size <= first:
        i += 1
    while True:
        next = i
        while next < s.n and s.kind[next] == LEAF_SLOT:
            next += 1
        if next == s.n or s.start[next] >= stop:
            return
        if s.start[next] > at:
            seek(tree, s, &i, at, s.start[next], f + 3)
            at = s.start[next]
        f[0] += 1
        if at & (size - 1) or stop - at < size:
            at = s.start[i] + size
            i += 1
            continue
        end = min(((at >> pmd_shift) + 1) << pmd_shift,
                  at + (stop - at) // size * size)
        if only_worded:
            any_word = False
            j = i
            while j >= 0 and s.start[j] >> pmd_shift == at >> pmd_shift:
                any_word |= s.kind[j] == WORDED_SLOT
                j -= 1
            j = i
            while j < s.n and s.start[j] >> pmd_shift == at >> pmd_shift:
                any_word |= s.kind[j] == WORDED_SLOT
                j += 1
            if not any_word:
                while i < s.n and s.start[i] < end:
                    i += 1
                at = end
                continue
        listed = 0
        while at < end and listed < TABLES_TOGETHER:
            f[1] += 1
            if i < s.n and s.start[i] == at:
                if s.kind[i] != LEAF_SLOT:
                    f[2] += 1
                    listed += 1 if not only_worded or s.kind[i] == WORDED_SLOT else 0
                i += 1
            at += size
