"""Which PTEs have a word, and which: counts, shapes, seeds."""

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import extmeta as em
from extmeta.arch import ARCHES
from extmeta.cost import placement as placements
from extmeta.cost import tasks
from extmeta.cost.forms import fitting
from extmeta.cost.placement import PLACEMENTS
from extmeta.cost.space import full_tables, ported, space_of, sparse_tables
from extmeta.rows import EACH, Point

SEEDS = st.integers(0, 2**32)
FRACTIONS = st.floats(0, 1)
VPNS = st.lists(st.integers(0, 2**20), min_size=1, max_size=2000, unique=True).map(
    lambda vpns: np.array(sorted(vpns), np.uint64)
)


def runs(flagged):
    """Return the lengths of the runs that are set."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flagged, [False]))))
    return edges[1::2] - edges[::2]


@given(VPNS, FRACTIONS, st.sampled_from(PLACEMENTS), SEEDS)
def test_as_many_are_flagged_as_asked(vpns, fraction, placement, seed):
    point = Point(fraction, placement)
    flagged = placements.flags(vpns, point, seed)
    wanted = min(len(vpns), max(round(fraction * len(vpns)), int(fraction > 0)))
    assert flagged.shape == vpns.shape
    if placement != "tables":
        assert flagged.sum() == wanted
    else:
        # No choice of whole tables in that order is nearer.
        sizes = np.unique(vpns // 512, return_counts=True)[1]
        assert abs(flagged.sum() - wanted) <= max(sizes)
        assert (flagged.sum() > 0) == (wanted > 0)
    assert (placements.flags(vpns, point, seed) == flagged).all()


@given(VPNS, st.floats(0.01, 0.99), SEEDS)
def test_tables_are_flagged_whole(vpns, fraction, seed):
    flagged = placements.flags(vpns, Point(fraction, "tables"), seed)
    assume(round(fraction * len(vpns)) not in (0, len(vpns)))
    for table in np.unique(vpns // 512):
        assert len(set(flagged[vpns // 512 == table].tolist())) == 1


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_runs_are_of_the_mean_length_and_apart(fraction):
    vpns = full_tables(512).vpns
    lengths = runs(placements.flags(vpns, Point(fraction, "clustered"), seed=3))
    assert placements.MEAN_RUN * 0.8 < lengths.mean() < placements.MEAN_RUN * 1.25
    # Geometric: as wide as long.
    assert 0.7 < lengths.std() / lengths.mean() < 1.3


def test_random_ones_are_independent_of_their_neighbours():
    vpns = full_tables(512).vpns
    flagged = placements.flags(vpns, Point(0.5, "random"), seed=3)
    assert abs((flagged[1:] & flagged[:-1]).mean() - 0.25) < 0.01
    by_table = flagged.reshape(-1, 512).sum(axis=1)
    assert 0.8 * np.sqrt(128) < by_table.std() < 1.2 * np.sqrt(128)


def test_placements_and_fractions_are_seeded_apart():
    vpns = full_tables(16).vpns
    chosen = [
        placements.flags(vpns, Point(fraction, placement), seed).tobytes()
        for fraction in (0.25, 0.5)
        for placement in PLACEMENTS
        for seed in (1, 2)
    ]
    assert len(set(chosen)) == len(chosen)


def test_more_runs_than_gaps_still_flag_as_many():
    vpns = np.arange(20000, dtype=np.uint64)
    flagged = placements.flags(vpns, Point(0.999, "clustered"), seed=1)
    assert flagged.sum() == 19980


def test_an_unknown_placement_is_named():
    with pytest.raises(ValueError, match="no placement 'diagonal'"):
        placements.flags(np.arange(9, dtype=np.uint64), Point(0.5, "diagonal"), 0)


def test_points_have_the_ends_once():
    points = placements.points([0, 0.01, 1], PLACEMENTS)
    assert [str(p) for p in points] == [
        "0%",
        "1% random",
        "1% clustered",
        "1% tables",
        "100%",
    ]


FIELDS = st.dictionaries(
    st.sampled_from(["uffd_wp", "soft_dirty", "age", "key", "site"]),
    st.integers(1, 90),
    min_size=1,
).map(lambda widths: em.Fields(**widths))


@given(FIELDS, st.sampled_from(placements.WORDS), SEEDS, st.data())
def test_words_fit_and_keep_a_bit_of_the_core(fields, kind, seed, data):
    core = data.draw(st.integers(1, (1 << fields.bits) - 1))
    words = placements.words(50, fields, core, kind, seed)
    lanes = (fields.bits + 63) // 64
    assert words.shape == ((50,) if lanes == 1 else (50, lanes))
    values = [
        sum(int(lane) << 64 * i for i, lane in enumerate(row))
        for row in words.reshape(50, lanes)
    ]
    assert all(value >> fields.bits == 0 and value & core for value in values)
    if kind == "one":
        assert len(set(values)) == 1
    if kind == "few":
        assert len(set(values)) <= placements.NR_FEW
    if kind == "byte":
        assert all(value < 256 or value & ~0xFF == core & -core for value in values)
    if kind == "different" and fields.bits > 40:
        assert len(set(values)) == 50
    assert (placements.words(50, fields, core, kind, seed) == words).all()


def test_an_unknown_kind_of_words_is_named():
    with pytest.raises(ValueError, match="no kind of words 'prime'"):
        placements.words(1, em.Fields(age=8), 1, "prime", 0)


@given(FIELDS, SEEDS, st.data())
def test_cut_words_have_the_same_fields(fields, seed, data):
    kept = {}
    room = 64
    for name, width in fields.items():
        if room and data.draw(st.booleans()):
            kept[name] = data.draw(st.integers(1, min(width, room)))
            room -= kept[name]
    assume(kept)
    kept = em.Fields(**kept)
    core = placements.core_bits(fields, kept)
    words = placements.words(20, fields, core, "different", seed)
    cut = placements.cut(words, fields, kept)
    assert cut.shape == (20,)
    assert (cut != 0).all()
    for full, short in zip(words.reshape(20, -1).tolist(), cut.tolist(), strict=True):
        whole = fields.unpack(sum(lane << 64 * i for i, lane in enumerate(full)))
        for name, value in kept.unpack(short).items():
            assert value == whole[name] & ((1 << kept[name]) - 1)


@given(FIELDS, st.floats(0, 1), st.sampled_from(PLACEMENTS), SEEDS)
def test_both_sides_flag_and_match_alike(fields, fraction, placement, seed):
    space = sparse_tables(4, 60, seed=1)
    kept = fitting(fields, em.PageTable().arch, has_swap=False)
    point = Point(fraction, placement)
    ours, theirs = tasks.point_words(space, fields, kept, point, seed, "different")
    assert ours.fields == kept
    assert theirs.fields == fields
    assert (ours.flagged_vpns == theirs.flagged_vpns).all()
    flagged = np.isin(space.vpns, ours.flagged_vpns)
    for load in (ours, theirs):
        words = load.words.reshape(len(space.vpns), -1)
        assert ((words != 0).any(axis=1) == flagged).all()
        assert np.array_equal(load.words[flagged], load.flagged_words)
    for mask in ("set_bit", "clear_bit"):
        found = [load.having(getattr(load, mask)) for load in (ours, theirs)]
        assert np.array_equal(*found)


def test_full_and_sparse_tables_are_as_they_say():
    full = full_tables(3)
    assert full.name == "3 full tables"
    assert full_tables(1).name == "1 full table"
    sparse = sparse_tables(5, 7, seed=1)
    for space, tables, each in ((full, 3, 512), (sparse, 5, 7)):
        assert (np.diff(space.vpns.astype(np.int64)) > 0).all()
        built = space.build("linked", em.Fields(age=8))
        assert len(built) == tables * each == space.present_bytes // 4096
        assert len(built.tables) == tables
        assert {np.count_nonzero(t) for t in built.tables.values()} == {each}
    other = sparse_tables(5, 7, seed=2)
    assert not np.array_equal(sparse.vpns, other.vpns)


def entries(present, swapped):
    """Return a capture of some pages from vpn 16 on."""
    words = [1 << 63 | 1 << 55] * present
    words += [1 << 62 | (slot + 1) << 5 for slot in range(swapped)]
    n = len(words)
    return em.Capture(
        vma_start=np.array([16 << 12], np.uint64),
        vma_end=np.array([(17 + n) << 12], np.uint64),
        vma_perms=np.array(["rw-p"]),
        vma_flags=np.array(["rd wr"]),
        vma_name=np.array([""]),
        vpn=np.arange(16, 16 + n, dtype=np.uint64),
        entry=np.array(words, np.uint64),
        vmpte_kb=12,
        vmrss_kb=4 * present,
        kernel="6.18",
        comm="mine",
    )


def test_a_captured_space_is_bare_of_the_capture_s_own_words():
    fields = em.Fields(soft_dirty=1, age=8)
    found = entries(present=40, swapped=3)
    space = space_of(found, "mine")
    assert (space.vpns == found.vpn).all()
    assert space.has_swap
    assert space.present_bytes == 40 * 4096
    assert space.sha256 == found.sha256
    assert space.build("linked", fields).flagged(space.vpns).sum() == 40
    bare = space.bare("linked", fields)
    assert len(bare) == 43
    assert bare.memory().side == 0
    assert bare.flagged(space.vpns).sum() == 0


def test_a_capture_without_ptes_is_refused():
    with pytest.raises(em.CaptureError, match="mine: no PTE"):
        space_of(entries(0, 0), "mine")


@given(VPNS, st.integers(0, 512), SEEDS)
def test_each_table_has_as_many_or_all_it_has(vpns, each, seed):
    flagged = placements.flags(vpns, Point(each / 512, EACH), seed)
    tables, held = np.unique(vpns // 512, return_counts=True)
    for table, count in zip(tables, held, strict=True):
        assert flagged[vpns // 512 == table].sum() == min(each, count)


def test_of_a_larger_fraction_are_those_of_a_smaller():
    vpns = full_tables(8).vpns
    few, more = (placements.flags(vpns, Point(each / 512, EACH), 3) for each in (7, 90))
    assert few.sum() == 8 * 7
    assert (more[few]).all()
    other = placements.flags(vpns, Point(7 / 512, EACH), 4)
    assert (other != few).any()


@pytest.mark.parametrize("name", ARCHES)
def test_synthetic_tables_are_as_many_on_every_architecture(name):
    arch = ARCHES[name]
    for space in (
        full_tables(3, name),
        sparse_tables(3, 7, seed=1, arch=name),
    ):
        built = space.build("linked", em.Fields(soft_dirty=1))
        assert len(built.tables) == 3
        assert space.arch == name
        assert space.present_bytes == len(space.vpns) * arch.page_bytes
    tables = placements.flags(space.vpns, Point(0.34, "tables"), 1, name)
    assert tables.sum() == 7


@pytest.mark.parametrize("name", [n for n in ARCHES if n != "x86_64"])
@pytest.mark.parametrize("given", ["node", "redis"])
def test_a_ported_capture_has_the_same_pages(name, given):
    arch = ARCHES[name]
    capture = em.load_capture(em.shipped()[given])
    own = space_of(capture, given)
    space = space_of(capture, given, name)
    # A page for each that has a part: by number where nothing has moved.
    shift = np.uint64(arch.page_shift - 12)
    pages = np.unique(own.vpns >> shift)
    assert len(space.vpns) == len(pages)
    assert (np.diff(space.vpns.astype(np.int64)) > 0).all()
    assert int(space.vpns[-1]) < arch.nr_vpns
    size, span = arch.ptrs_per_pte, 1 << arch.level_bits[-2]
    if int(pages[-1]) < arch.nr_vpns:
        assert (space.vpns == pages).all()
    else:
        assert "holes are cut" in space.note
        # Its place in the PTE table, and that table's in the one above.
        assert (space.vpns % (size * span) == pages % (size * span)).all()
        tables = [np.unique(v // size) for v in (pages, space.vpns)]
        assert len(tables[0]) == len(tables[1])
        above = [np.unique(v // (size * span)) for v in (pages, space.vpns)]
        assert len(above[0]) == len(above[1])
    built = space.bare("linked", em.Fields(soft_dirty=1))
    assert len(built) == len(pages)
    assert built.arch.name == name
    built.check()


def test_a_larger_page_is_present_where_a_part_is_and_writable_where_one_may_be():
    words = {16: 1 << 62 | 1 << 5, 17: 1 << 63, 20: 1 << 62 | 2 << 5, 28: 1 << 63}
    capture = em.Capture(
        vma_start=np.array([16, 20, 28], np.uint64) << np.uint64(12),
        vma_end=np.array([20, 24, 29], np.uint64) << np.uint64(12),
        vma_perms=np.array(["rw-p", "rw-p", "r--p"]),
        vma_flags=np.array(["rd wr", "rd wr", "rd"]),
        vma_name=np.array(["", "", ""]),
        vpn=np.array([*words], np.uint64),
        entry=np.array([*words.values()], np.uint64),
        vmpte_kb=12,
        vmrss_kb=8,
        kernel="6.18",
        comm="mine",
    )
    space = space_of(capture, "mine", "arm64_16k")
    assert space.vpns.tolist() == [4, 5, 7]
    assert space.has_swap
    assert space.present_bytes == 2 << 14
    assert "4 KiB parts" in space.note
    table = space.build("inpte", em.Fields(uffd_wp=1))
    arch = ARCHES["arm64_16k"]
    ptes = [int(p) for p in table.table_at(0)[[4, 5, 7]]]
    assert [pte >> arch.present & 1 for pte in ptes] == [1, 0, 1]
    assert ptes[0] >> arch.write & 1
    assert not ptes[2] >> arch.write & 1


def test_what_no_address_holds_is_refused():
    small = dataclasses.replace(ARCHES["riscv64_sv39"], level_bits=(1, 1, 9))
    with pytest.raises(em.CaptureError, match=r"node: too large .* riscv64_sv39"):
        ported(em.load_capture(em.shipped()["node"]), "node", small)
    with pytest.raises(em.CaptureError, match="mine: no PTE"):
        space_of(entries(0, 0), "mine", "s390x")
