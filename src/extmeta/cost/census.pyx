"""Counts what decides how many instructions an operation takes, in one pass.

`runs` describes an ascending array of vpns as the loops of a load and a store see it;
`tables` describes page tables as the loops over a range see them. Both return numbers
that an operation's cost is nearly linear in.
"""
from libc.stdint cimport uint8_t, uint64_t

import numpy as np

from extmeta.cost.searches cimport (
    BARE_SLOT,
    LEAF_SLOT,
    MAX_LEVELS,
    WORDED_SLOT,
    Slots,
    Tree,
    counted,
    dropped,
    gathered,
    step,
)
from extmeta.encodings.adaptive.few cimport FEW_MOST, INLINE_MOST
from extmeta.encodings.adaptive.listed cimport LISTED_MOST
from extmeta.encodings.adaptive.shape cimport FROM_FULL
from extmeta.encodings.side cimport FEW
from extmeta.encodings.vpnhash cimport DIGIT, LISTED
from extmeta.encodings.xarray_tree cimport SLOT_BITS, SLOTS
from extmeta.table.encoding cimport TOGETHER

cdef enum:
    FLAGGED = 1
    MATCHED = 2
    ZEROED = 4
    SWAPPED = 8
    # Classes of tables by the number of their words or entries: see fill_limits().
    CLASSES = 9
    # The classes that a short run can have.
    SHORTS = 4

# What a vpn's mark says: it has a word, scan finds that word, clear makes it 0, its PTE
# is a swap entry.
MARKS = {"flagged": FLAGGED, "matched": MATCHED, "zeroed": ZEROED, "swapped": SWAPPED}

cdef struct Limits:
    Py_ssize_t most[CLASSES]

cdef void fill_limits(Limits* l, Py_ssize_t size) noexcept nogil:
    """Fill in the most words of each class: where `adaptive` changes its container."""
    cdef Py_ssize_t[CLASSES] most = [
        1, INLINE_MOST, FEW_MOST, FROM_FULL, LISTED_MOST, 3 * size // 4,
        7 * size // 8, size - 1, size]
    cdef int i
    for i in range(CLASSES):
        l.most[i] = most[i]
        if i and l.most[i] < l.most[i - 1]:
            l.most[i] = l.most[i - 1]

cdef inline int class_of(const Limits* l, Py_ssize_t n) noexcept nogil:
    cdef int i = 0
    while i < CLASSES - 1 and n > l.most[i]:
        i += 1
    return i

cdef inline int length_class(Py_ssize_t n) noexcept nogil:
    return 0 if n == 1 else 1 if n <= FEW else 2 if n <= FROM_FULL else 3

cdef inline int nodes_above(uint64_t vpn, uint64_t before) noexcept nogil:
    """Return how many upper nodes of an XArray have ``vpn`` and not ``before``."""
    cdef int shift = 2 * SLOT_BITS, n = 0
    while shift < 64 and vpn >> shift != before >> shift:
        n += 1
        shift += SLOT_BITS
    return n

cdef inline int passes(uint64_t most) noexcept nogil:
    """Return the passes in which `hash` sorts vpns up to ``most``."""
    cdef int shift = 0
    while shift < 64 and most >> shift:
        shift += DIGIT
    return shift // DIGIT

# -- arrays ------------------------------------------------------------------------

cdef enum:
    A_ONE
    A_GROUPS
    A_GROUP_VPNS
    A_GROUP_STEPS
    A_GROUP_FLAGGED
    A_GROUP_TABLES                         # that the group's vpns lie in
    A_PMDS
    # As `hash` sees it: the passes, if it sorts its words first; words moved in them;
    # words; vpns of runs with words. If it does not sort, it looks up each of those.
    A_SORTS
    A_SORT_MOVES
    A_SORTED
    A_SORTED_VPNS
    A_PROBED
    A_FEW_PROBED                           # in short runs, if there are words
    A_GROUP_PROBED
    # As `xarray` sees it: leaves with a vpn, nodes above, leaves that runs look up.
    A_LEAVES
    A_NODES
    A_PIECES
    A_PIECES_LISTED
    # If there are words anywhere, as `page_ext` sees it: runs and groups; their vpns.
    A_ANY_RUNS
    A_ANY_VPNS
    A_CHUNKS                               # and of lists
    A_TAILS = A_CHUNKS + 2
    A_SWAP_CHUNKS = A_TAILS + 2
    A_SWAPPED = A_SWAP_CHUNKS + 2
    A_FULL_CHUNKS = A_SWAPPED + 2
    A_FLAGGED_BESIDE = A_FULL_CHUNKS + 1
    A_RUNS = A_FLAGGED_BESIDE + 1          # 2 x 4 x 5
    A_SHORT = A_RUNS + 40                  # 4 x 2
    A_LONG = A_SHORT + 2 * SHORTS          # CLASSES x 2
    A_ALL = A_LONG + 2 * CLASSES

ARRAY_NAMES = (
    "one groups group_vpns group_steps group_flagged group_tables pmds sorts "
    "sort_moves sorted sorted_vpns probed few_probed group_probed "
    "leaf_blocks leaf_nodes pieces pieces_listed any_runs any_vpns".split()
    + [f"{what}{kind}" for what in ("chunks", "tails", "swap_chunks", "swapped")
       for kind in ("", "_listed")]
    + ["full_chunks", "flagged_beside"]
    + [f"run{kind}_{length}_{what}" for kind in ("", "_listed") for length in range(4)
       for what in ("t0", "n0", "t1", "n1", "k1")]
    + [f"short{i}_{what}" for i in range(SHORTS) for what in "tk"]
    + [f"long{i}_{what}" for i in range(CLASSES) for what in "tk"])


def runs(const uint64_t[::1] vpns, const uint8_t[::1] marks, level_bits):
    """Describe an ascending array of vpns, as a load and a store see it.

    Parameters
    ----------
    vpns : (n,) uint64 ndarray
        Ascending.
    marks : (n,) uint8 ndarray
        Of each vpn, some of MARKS or-ed.
    level_bits : sequence of int
        As `Arch.level_bits`.

    Returns
    -------
    (len(ARRAY_NAMES),) float64 ndarray
    """
    out = np.zeros(A_ALL)
    cdef double[::1] f = out
    cdef int bits = level_bits[len(level_bits) - 1]
    cdef Py_ssize_t size = <Py_ssize_t>1 << bits
    cdef int pmd_shift = bits + level_bits[len(level_bits) - 2]
    cdef int[MAX_LEVELS] shifts
    cdef int nr_levels = len(level_bits)
    cdef Py_ssize_t n = vpns.shape[0]
    cdef Py_ssize_t at = 0, i, j, k, m, last, kind, length, chunk, chunk_k, chunk_s
    cdef uint64_t differ, pmd = <uint64_t>-1
    cdef double* r
    cdef Limits limits
    cdef int level, cls
    cdef Py_ssize_t words = 0
    cdef int sorts = 0
    fill_limits(&limits, size)
    for i in range(n):
        words += marks[i] & FLAGGED != 0
    if 0 < words * LISTED <= n:
        sorts = passes(vpns[n - 1] - vpns[0])
        f[A_SORTED] = words
    f[A_SORTS] = sorts
    f[A_SORT_MOVES] = sorts * words
    j = 0
    for level in range(nr_levels - 1, 0, -1):
        j += level_bits[level]
        shifts[level - 1] = j
    f[A_ONE] = 1
    f[A_ANY_VPNS] = n if words else 0
    for i in range(n):
        if vpns[i] >> pmd_shift != pmd:
            pmd = vpns[i] >> pmd_shift
            f[A_PMDS] += 1
        f[A_LEAVES] += i == 0 or (vpns[i] ^ vpns[i - 1]) >> SLOT_BITS != 0
        f[A_NODES] += nodes_above(vpns[i], vpns[i - 1] if i else ~vpns[i])
    while at < n:
        if at + 1 < n and (vpns[at] ^ vpns[at + 1]) >> bits and (
                at + 2 == n or (vpns[at + 1] ^ vpns[at + 2]) >> bits):
            m = min(TOGETHER, n - at)
            differ = 0
            f[A_GROUPS] += 1
            f[A_GROUP_VPNS] += m
            f[A_GROUP_PROBED] += m if words else 0
            f[A_ANY_RUNS] += words != 0
            for i in range(at, at + m):
                differ |= vpns[i] ^ vpns[at]
                f[A_GROUP_FLAGGED] += marks[i] & FLAGGED != 0
                f[A_GROUP_TABLES] += i == at or (vpns[i] ^ vpns[i - 1]) >> bits != 0
            for level in range(nr_levels - 2):
                # A step is shared if no vpn differs above the level's tables.
                if differ >> shifts[level]:
                    f[A_GROUP_STEPS] += m
                else:
                    f[A_GROUP_STEPS] += 1
            at += m
            continue
        last = at
        while last + 1 < n and vpns[last + 1] >> bits == vpns[at] >> bits:
            last += 1
        m = last + 1 - at
        # Contiguous to the end of the table, or of the array.
        i = min(size - <Py_ssize_t>(vpns[at] & <uint64_t>(size - 1)), n - at)
        kind = 0 if vpns[at + i - 1] - vpns[at] == <uint64_t>(i - 1) else 1
        k = 0
        chunk = at
        while chunk <= last:
            j = min(64, last + 1 - chunk)
            chunk_k = chunk_s = 0
            for i in range(chunk, chunk + j):
                chunk_k += marks[i] & FLAGGED != 0
                chunk_s += marks[i] & SWAPPED != 0
            k += chunk_k
            f[A_CHUNKS + kind] += 1
            f[A_TAILS + kind] += j & 3
            f[A_SWAP_CHUNKS + kind] += chunk_s != 0
            f[A_SWAPPED + kind] += chunk_s
            if kind == 0:
                if chunk_k == 64:
                    f[A_FULL_CHUNKS] += 1
                else:
                    f[A_FLAGGED_BESIDE] += chunk_k
            chunk += j
        length = length_class(m)
        f[A_ANY_RUNS] += words != 0
        f[A_FEW_PROBED] += m if words and m <= FEW else 0
        if words and (k or m <= SLOTS):
            for i in range(at, last + 1):
                f[A_PIECES + kind] += (
                    i == at or (vpns[i] ^ vpns[i - 1]) >> SLOT_BITS != 0)
        r = &f[A_RUNS + 5 * (4 * kind + length)]
        if k == 0:
            r[0] += 1
            r[1] += m
        else:
            r[2] += 1
            r[3] += m
            r[4] += k
            if sorts and kind == 0:
                f[A_SORTED_VPNS] += m
            else:
                f[A_PROBED] += m
            cls = class_of(&limits, k)
            r = &f[A_SHORT + 2 * min(cls, SHORTS - 1)] if length < 3 else (
                &f[A_LONG + 2 * cls])
            r[0] += 1
            r[1] += k
        at += m
    return out


# -- tables ------------------------------------------------------------------------

cdef enum:
    W_ONE
    W_TABLES
    W_WORDED
    W_HOLES
    W_AFTER                                # tables not found beside the one before
    W_UPPER                                # by level
    W_EMPTY = W_UPPER + MAX_LEVELS         # in the range, by level
    W_EMPTY_ALL = W_EMPTY + MAX_LEVELS     # in the whole page table
    W_GATHER = W_EMPTY_ALL + MAX_LEVELS    # calls, slots, steps by level
    W_GATHER_WORDED = W_GATHER + 3 + MAX_LEVELS
    W_BLOCKS = W_GATHER_WORDED + 3 + MAX_LEVELS
    W_NODES                                # of an XArray above these blocks
    W_FLAGGED_NODES                        # of those with a word
    W_FULL_BLOCKS
    W_SWAP_BLOCKS
    W_FLAGGED_BLOCKS
    W_ALL_FLAGGED
    W_FLAGGED_BESIDE
    W_BOTH_BLOCKS                          # some flagged, some mapped without
    # Entries of the range in blocks with a word: mapped without one, and not mapped.
    W_BLOCK_BESIDE
    W_BLOCK_NONE
    W_MATCHED_BLOCKS
    W_ALL_MATCHED
    W_MATCHED_BESIDE
    W_FOUND                                # 1 if any is matched
    W_SWAPPED
    W_FLAGGED
    W_SWAPPED_FLAGGED
    W_ZEROED
    W_CUT_TABLES                           # with a word that becomes 0; their words
    W_CUT_WORDS
    W_PART
    W_PART_WORDED
    W_PART_ENTRIES
    W_PART_WORDS
    W_PART_BLOCKS                          # with a word
    # Entries of the range, of tables with a word: all, and those mapped without; the
    # same of tables that are not whole in it.
    W_WORDED_ENTRIES
    W_BESIDE
    W_PART_WORDED_ENTRIES
    W_PART_BESIDE
    # As `hash` sees it: see A_SORTS. Probed are entries of tables with a word: all,
    # those with a word, those mapped without.
    W_SORTS
    W_SORT_MOVES
    W_SORTED
    W_PROBED
    W_PROBED_WORDS
    W_PROBED_BESIDE
    # If there are words anywhere, as `page_ext` sees it: 1; tables, entries of the
    # range, those mapped.
    W_ANY
    W_ANY_TABLES
    W_ANY_ENTRIES
    W_ANY_MAPPED
    W_WORDS                                # CLASSES x 2
    W_HELD = W_WORDS + 2 * CLASSES         # CLASSES x 2, tables with a word
    W_BARE = W_HELD + 2 * CLASSES          # CLASSES x 2, tables without
    W_LEAVES = W_BARE + 2 * CLASSES
    W_DEPOSITED
    W_LEAVES_WITHIN
    W_LEAF_STEPS                           # of fork's search, by level
    W_DROP_STEPS = W_LEAF_STEPS + MAX_LEVELS
    W_PRUNED = W_DROP_STEPS + MAX_LEVELS   # as W_EMPTY, if tables passed are freed
    W_FORK_STEPS = W_PRUNED + MAX_LEVELS   # of fork's two searches for tables, by level
    W_WHOLE = W_FORK_STEPS + MAX_LEVELS    # tables that lie whole in the range
    W_WHOLE_WORDED
    W_ENTRIES                              # of the range, in tables
    W_NONE                                 # of these, not mapped
    W_UNFLAGGED
    W_ALL

WALK_NAMES = (
    "one tables worded holes after".split()
    + [f"upper{i}" for i in range(MAX_LEVELS)]
    + [f"empty{i}" for i in range(MAX_LEVELS)]
    + [f"empty_all{i}" for i in range(MAX_LEVELS)]
    + [f"gather_{what}" for what in ("calls", "slots", "found", *range(MAX_LEVELS))]
    + [f"gatherw_{what}" for what in ("calls", "slots", "found", *range(MAX_LEVELS))]
    + ("blocks nodes flagged_nodes full_blocks swap_blocks flagged_blocks "
       "all_flagged flagged_beside both_blocks block_beside block_none "
       "matched_blocks all_matched matched_beside found swapped flagged "
       "swapped_flagged zeroed cut_tables cut_words part part_worded "
       "part_entries part_words part_blocks worded_entries beside "
       "part_worded_entries part_beside sorts sort_moves sorted probed "
       "probed_words probed_beside any any_tables any_entries any_mapped").split()
    + [f"words{i}_{what}" for i in range(CLASSES) for what in "tk"]
    + [f"held{i}_{what}" for i in range(CLASSES) for what in "tn"]
    + [f"bare{i}_{what}" for i in range(CLASSES) for what in "tn"]
    + "leaves deposited leaves_within".split()
    + [f"leaf_steps{i}" for i in range(MAX_LEVELS)]
    + [f"drop_steps{i}" for i in range(MAX_LEVELS)]
    + [f"pruned{i}" for i in range(MAX_LEVELS)]
    + [f"fork_steps{i}" for i in range(MAX_LEVELS)]
    + "whole whole_worded entries none unflagged".split())


def tables(
        const uint64_t[::1] vpns, const uint8_t[::1] marks,
        const uint64_t[::1] leaves, nr_deposited, level_bits):
    """Describe the page table that ascending vpns lie in, as a walk sees it.

    Parameters
    ----------
    vpns : (n,) uint64 ndarray
        Ascending; at least one. Operations go from the first to the last.
    marks : (n,) uint8 ndarray
        Of each vpn, some of MARKS or-ed.
    leaves : (m,) uint64 ndarray
        First vpns of huge leaves, ascending.
    nr_deposited : int
        Leaves with a deposited PTE table.
    level_bits : sequence of int
        As `Arch.level_bits`.

    Returns
    -------
    (len(WALK_NAMES),) float64 ndarray
    """
    out = np.zeros(W_ALL)
    cdef double[::1] f = out
    cdef int bits = level_bits[len(level_bits) - 1]
    cdef Py_ssize_t size = <Py_ssize_t>1 << bits
    cdef Py_ssize_t n = vpns.shape[0]
    cdef Tree tree
    cdef Limits limits
    cdef Py_ssize_t at = 0, j, k, m, last, block, bk, bm, bs, bn, z, blocks, nr = 0
    cdef uint64_t first = vpns[0], stop = vpns[n - 1] + 1
    cdef int level, cls
    cdef uint64_t start
    cdef bint part
    cdef double entries
    cdef uint64_t before = ~vpns[0], flagged_before = before
    fill_limits(&limits, size)
    tree.levels = len(level_bits)
    j = 0
    for level in range(tree.levels - 1, -1, -1):
        tree.shift[level] = j
        j += level_bits[level]
    starts = np.empty(n + leaves.shape[0], np.uint64)
    kinds = np.empty(n + leaves.shape[0], np.uint8)
    cdef uint64_t[::1] slot = starts
    cdef uint8_t[::1] kind = kinds
    cdef Py_ssize_t leaf = 0
    cdef Slots s
    f[W_ONE] = 1
    while at < n:
        start = vpns[at] >> bits << bits
        last = at
        k = z = blocks = 0
        while last < n and vpns[last] >> bits == start >> bits:
            block = vpns[last] >> 6
            bk = bm = bs = bn = 0
            while last < n and vpns[last] >> 6 == <uint64_t>block:
                bn += 1
                bk += marks[last] & FLAGGED != 0
                bm += marks[last] & MATCHED != 0
                z += marks[last] & ZEROED != 0
                bs += marks[last] & SWAPPED != 0
                f[W_SWAPPED_FLAGGED] += marks[last] & (SWAPPED | FLAGGED) == (
                    SWAPPED | FLAGGED)
                last += 1
            k += bk
            blocks += bk != 0
            f[W_BLOCKS] += 1
            f[W_NODES] += nodes_above(block << 6, before)
            before = <uint64_t>block << 6
            if bk:
                f[W_FLAGGED_NODES] += nodes_above(before, flagged_before)
                flagged_before = before
                f[W_BLOCK_BESIDE] += bn - bk
                f[W_BLOCK_NONE] += <double>(
                    min(stop, before + 64) - max(first, before)) - bn
            f[W_FULL_BLOCKS] += bn == 64
            f[W_SWAP_BLOCKS] += bs != 0
            f[W_FLAGGED_BLOCKS] += bk != 0
            f[W_ALL_FLAGGED] += bk == 64
            f[W_FLAGGED_BESIDE] += bk if bk != 64 else 0
            f[W_BOTH_BLOCKS] += bk != 0 and bn != bk
            f[W_MATCHED_BLOCKS] += bm != 0
            f[W_ALL_MATCHED] += bm == 64
            f[W_MATCHED_BESIDE] += bm if bm != 64 else 0
            f[W_SWAPPED] += bs
        m = last - at
        f[W_FLAGGED] += k
        f[W_ZEROED] += z
        f[W_CUT_TABLES] += z != 0
        f[W_CUT_WORDS] += k if z else 0
        f[W_TABLES] += 1
        f[W_WORDED] += k != 0
        f[W_BESIDE] += m - k if k else 0
        part = start < first or start + <uint64_t>size > stop
        if part:
            f[W_PART] += 1
            f[W_PART_WORDED] += k != 0
            f[W_PART_WORDS] += k
            f[W_PART_BLOCKS] += blocks
            entries = <double>(
                min(stop, start + <uint64_t>size) - max(start, first))
            f[W_PART_ENTRIES] += entries
            f[W_PART_WORDED_ENTRIES] += entries if k else 0
            f[W_PART_BESIDE] += m - k if k else 0
        cls = class_of(&limits, m)
        if k:
            f[W_WORDS + 2 * class_of(&limits, k)] += 1
            f[W_WORDS + 2 * class_of(&limits, k) + 1] += k
            f[W_HELD + 2 * cls] += 1
            f[W_HELD + 2 * cls + 1] += m
        else:
            f[W_BARE + 2 * cls] += 1
            f[W_BARE + 2 * cls + 1] += m
        while leaf < leaves.shape[0] and leaves[leaf] < start:
            slot[nr] = leaves[leaf]
            kind[nr] = LEAF_SLOT
            leaf += 1
            nr += 1
        slot[nr] = start
        kind[nr] = WORDED_SLOT if k else BARE_SLOT
        nr += 1
        at = last
    while leaf < leaves.shape[0]:
        slot[nr] = leaves[leaf]
        kind[nr] = LEAF_SLOT
        leaf += 1
        nr += 1
    f[W_FOUND] = f[W_MATCHED_BLOCKS] != 0
    f[W_WHOLE] = f[W_TABLES] - f[W_PART]
    f[W_WHOLE_WORDED] = f[W_WORDED] - f[W_PART_WORDED]
    f[W_ENTRIES] = size * f[W_WHOLE] + f[W_PART_ENTRIES]
    f[W_WORDED_ENTRIES] = size * f[W_WHOLE_WORDED] + f[W_PART_WORDED_ENTRIES]
    f[W_NONE] = f[W_ENTRIES] - n
    f[W_UNFLAGGED] = n - f[W_FLAGGED]
    if f[W_FLAGGED]:
        f[W_ANY] = 1
        f[W_ANY_TABLES] = f[W_TABLES]
        f[W_ANY_ENTRIES] = f[W_ENTRIES]
        f[W_ANY_MAPPED] = n
    if 0 < f[W_FLAGGED] * LISTED <= n:
        f[W_SORTS] = passes(stop - 1 - first)
        f[W_SORT_MOVES] = f[W_SORTS] * f[W_FLAGGED]
        f[W_SORTED] = f[W_FLAGGED]
    else:
        f[W_PROBED] = f[W_WORDED_ENTRIES]
        f[W_PROBED_WORDS] = f[W_FLAGGED]
        f[W_PROBED_BESIDE] = f[W_BESIDE]
    s = Slots(nr, &slot[0], &kind[0])
    f[W_LEAVES] = leaves.shape[0]
    f[W_DEPOSITED] = nr_deposited
    above(&tree, &s, first, stop, <uint64_t>1 << j, f)
    gathered(&tree, &s, first, stop, False, &f[W_GATHER])
    gathered(&tree, &s, first, stop, True, &f[W_GATHER_WORDED])
    return out


cdef void above(
        const Tree* tree, const Slots* s, uint64_t first, uint64_t stop,
        uint64_t end, double[::1] f) noexcept nogil:
    """Count the upper tables, and the steps of searches that pass their slots."""
    cdef uint64_t size = <uint64_t>1 << tree.shift[tree.levels - 2]
    cdef uint64_t at = 0, table = 0
    cdef int last = tree.levels - 2, level
    cdef Py_ssize_t i, passed = 0
    cdef double* steps
    for i in range(s.n):
        for level in range(tree.levels - 1):
            f[W_UPPER + level] += i == 0 or (
                s.start[i] >> tree.shift[level] != s.start[i - 1] >> tree.shift[level])
        steps = &f[W_EMPTY if first < s.start[i] < stop else W_EMPTY_ALL]
        step(tree, at, s.start[i], i > 0, steps)
        at = s.start[i] + size
        if s.kind[i] == LEAF_SLOT:
            steps[last] += 1
            # To the last leaf a search passes all that was counted so far.
            for level in range(tree.levels - 1):
                f[W_LEAF_STEPS + level] = f[W_EMPTY + level] + f[W_EMPTY_ALL + level]
            f[W_LEAF_STEPS + last] += passed
            continue
        passed += 1
        if table and s.start[i] != table:
            f[W_HOLES] += 1
        if table and (s.start[i] != table or s.start[i] >> tree.shift[last - 1] != (
                table - 1) >> tree.shift[last - 1]):
            f[W_AFTER] += 1
        table = at
    for level in range(tree.levels - 1):
        f[W_EMPTY_ALL + level] += f[W_EMPTY + level]
    step(tree, at, end, True, &f[W_EMPTY_ALL])
    f[W_LEAVES_WITHIN] = dropped(
        tree, s, first, stop, &f[W_PRUNED], &f[W_DROP_STEPS])
    counted(tree, s, &f[W_FORK_STEPS])
    for level in range(tree.levels - 1):
        f[W_FORK_STEPS + level] += f[W_EMPTY_ALL + level]
