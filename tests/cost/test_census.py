"""What decides an operation's instructions, counted by hand."""

import numpy as np
import pytest

from extmeta.cost import census

BITS = (9, 9, 9, 9)
FLAGGED, SWAPPED = census.MARKS["flagged"], census.MARKS["swapped"]


def u64(*parts):
    return np.concatenate([np.atleast_1d(part) for part in parts]).astype(np.uint64)


def runs(vpns, marks):
    found = census.runs(vpns, marks, BITS)
    return {n: v for n, v in zip(census.ARRAY_NAMES, found, strict=True) if v}


def tables(vpns, marks, leaves=(), deposited=0, bits=BITS):
    found = census.tables(vpns, marks, u64(leaves), deposited, bits)
    return {n: v for n, v in zip(census.WALK_NAMES, found, strict=True) if v}


def test_a_run_to_the_end_of_a_table_is_no_list():
    # 100 entries to the end of a table, then two runs in the next one.
    vpns = u64(np.arange(412, 512), np.arange(520, 530), np.arange(600, 603))
    marks = np.zeros(len(vpns), np.uint8)
    marks[:64] = FLAGGED
    found = runs(vpns, marks)
    assert found["run_3_t1"] == 1
    assert found["run_3_n1"] == 100
    assert found["run_3_k1"] == found["long5_k"] == 64
    assert found["chunks"] == 2
    assert found["full_chunks"] == 1
    assert found["run_listed_2_t0"] == found["chunks_listed"] == 1
    assert found["run_listed_2_n0"] == 13
    assert found["tails_listed"] == 1
    assert found["pmds"] == found["one"] == 1


def test_vpns_of_different_tables_are_looked_up_together():
    vpns = u64(np.arange(5) * 512, 5000)
    found = runs(vpns, np.full(6, FLAGGED, np.uint8))
    # All share the slots above their PMD table.
    assert found == {
        "one": 1,
        "groups": 1,
        "group_vpns": 6,
        "group_flagged": 6,
        "group_tables": 6,
        "pmds": 1,
        "group_steps": 2,
        "group_probed": 6,
        "any_runs": 1,
        "any_vpns": 6,
        "leaf_blocks": 6,
        # Two nodes of 4,096 vpns, and one of each of the eight levels above.
        "leaf_nodes": 2 + 8,
    }


def test_what_is_walked_is_counted_by_hand():
    bits = (2, 2, 2, 9)
    # In slot 1 of the root: slot 3 of PUD and PMD; in slot 2: slots 0, 2 and 0, 1.
    slots = np.array([0b01_11_11, 0b10_00_00, 0b10_10_01])
    vpns = u64(slots << 9)
    marks = np.array([0, FLAGGED, SWAPPED], np.uint8)
    found = tables(vpns, marks, bits=bits)
    assert found["tables"] == found["upper2"] == 3
    assert found["upper0"] == 2
    assert found["upper1"] == 3
    # From 0b100000: three more slots of its PMD table, slot 1 of PUD, one slot more.
    assert (found["empty1"], found["empty2"]) == (1, 4)
    # If the first PMD table is freed when its table is: PUD slots 0 and 1.
    assert (found["pruned1"], found["pruned2"]) == (2, 1)
    # The last lies in part in the range; one and four slots are gathered before it.
    assert found["gather_calls"] == 3
    assert found["gather_slots"] == 1 + 4
    assert found["gather_2"] == 1
    # Root slots 0 and 3, PUD slots 0 to 2, and 1 and 3, PMD slots before and behind.
    assert found["empty_all0"] == 2
    assert found["empty_all1"] == 3 + 1 + 1
    assert found["empty_all2"] == 3 + 3 + 1 + 2
    assert found["worded"] == found["flagged"] == found["swapped"] == 1


def test_leaves_are_empty_slots_in_used_tables():
    vpns = u64(0, 3 * 512)
    marks = np.zeros(2, np.uint8)
    plain = tables(vpns, marks)
    found = tables(vpns, marks, [512, 5 * 512], 1)
    assert found["leaves"] == 2
    assert found["deposited"] == found["leaves_within"] == 1
    assert found["empty2"] == plain["empty2"] == 2
    # A search for the last leaf passes both tables, a leaf and three empty slots.
    assert found["leaf_steps2"] == 2 + 1 + 3


def search(used, wanted, at, stop, steps):
    """Return the next wanted slot, as next_table() and next_leaf() find it, or None."""
    while at < stop:
        level = 0
        while level < 2 and any((slot ^ at) >> 4 - 2 * level == 0 for slot in used):
            level += 1
        if level == 2 and at in wanted:
            return at
        steps[level] += 1
        at = (at >> 4 - 2 * level) + 1 << 4 - 2 * level
    return None


@pytest.mark.parametrize("seed", range(200))
def test_searches_are_those_of_fork_and_unmap(seed):
    rng = np.random.default_rng(seed)
    slots = rng.permutation(64)[: rng.integers(1, 1 << rng.integers(1, 7))]
    nr_leaves = rng.integers(len(slots))
    leaves, held = {*slots[:nr_leaves].tolist()}, {*slots[nr_leaves:].tolist()}
    first, stop = min(held), max(held) + 1
    marks = np.zeros(len(held), np.uint8)
    found = tables(
        u64(np.sort([*held])) << np.uint64(9),
        marks,
        np.sort([*leaves]) * 512,
        bits=(2, 2, 2, 9),
    )

    def counted(name):
        return [found.get(f"{name}{level}", 0) for level in range(3)]

    fork, at = [0] * 3, 0
    while (at := search(held | leaves, held, at, 64, fork)) is not None:
        at += 1
    at = 0
    while (at := search(held | leaves, held, at, stop, fork)) is not None:
        at = (at >> 2) + 1 << 2
    assert counted("fork_steps") == fork
    pruned, at, left = [0] * 3, first, {*held}
    while (at := search(left | leaves, left, at, stop, pruned)) is not None:
        left.remove(at)
        at += 1
    assert counted("pruned") == pruned
    dropped, at, left = [0] * 3, first, {*leaves}
    while left and (at := search(left, left, at, stop, dropped)) is not None:
        left.remove(at)
    assert counted("drop_steps") == dropped
    assert found.get("leaves_within", 0) == len(leaves) - len(left)


def test_words_that_a_clear_makes_0():
    matched, zeroed = census.MARKS["matched"], census.MARKS["zeroed"]
    marks = np.full(6, FLAGGED, np.uint8)
    found = tables(u64(0, 1, 2, 512, 513, 1024), marks)
    assert "cut_tables" not in found
    assert "found" not in found
    marks[1] |= matched | zeroed
    found = tables(u64(0, 1, 2, 512, 513, 1024), marks)
    assert (found["zeroed"], found["cut_tables"], found["cut_words"]) == (1, 1, 3)
    assert found["found"] == 1


@pytest.mark.parametrize("seed", range(20))
def test_sums_do_not_depend_on_how_ptes_lie(seed):
    rng = np.random.default_rng(seed)
    vpns = np.sort(rng.permutation(4000)[: rng.integers(1, 4000)]).astype(np.uint64)
    marks = (rng.random(len(vpns)) < rng.random()).astype(np.uint8) * np.uint8(FLAGGED)
    found = tables(vpns, marks)
    flagged = int((marks != 0).sum())
    assert found.get("flagged", 0) == flagged
    assert found.get("unflagged", 0) == len(vpns) - flagged
    # The range ends at the last vpn; holes between tables are not entries.
    held = np.unique(vpns >> np.uint64(9))
    start = np.maximum(held << np.uint64(9), vpns[0])
    end = np.minimum(held + np.uint64(1) << np.uint64(9), vpns[-1] + np.uint64(1))
    assert found["entries"] == int((end - start).sum())
    assert found.get("none", 0) == found["entries"] - len(vpns)
    words = [v for n, v in found.items() if n.startswith("words") and n[-1] == "k"]
    assert sum(words) == flagged
    # Entries beside words: of the range, in tables and in blocks of 64.
    worded, blocks, nodes = (
        np.unique(vpns[marks != 0] >> np.uint64(bits)) for bits in (9, 6, 12)
    )
    within = np.isin(held, worded)
    part = (end - start < 512) & within
    assert found.get("worded_entries", 0) == int((end - start)[within].sum())
    assert found.get("part_worded_entries", 0) == int((end - start)[part].sum())
    bare = vpns[marks == 0]
    beside = np.isin(bare >> np.uint64(9), worded)
    assert found.get("beside", 0) == int(beside.sum())
    assert (
        found.get("part_beside", 0)
        == np.isin(bare[beside] >> np.uint64(9), held[part]).sum()
    )
    near = np.isin(bare >> np.uint64(6), blocks).sum()
    assert found.get("block_beside", 0) == near
    first = np.maximum(blocks << np.uint64(6), vpns[0])
    last = np.minimum(blocks + np.uint64(1) << np.uint64(6), vpns[-1] + np.uint64(1))
    assert found.get("block_none", 0) == int((last - first).sum()) - flagged - near
    assert found["blocks"] == len(np.unique(vpns >> np.uint64(6)))
    # All lie below 4,096, so there is one node of each of the nine levels above.
    assert found["nodes"] == 9
    assert found.get("flagged_nodes", 0) == 9 * len(nodes)
    assert found.get("any_mapped", 0) == (len(vpns) if flagged else 0)
