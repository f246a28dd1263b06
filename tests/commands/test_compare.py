"""The sweep: its rows, what it leaves out, and what the baseline is given."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

import extmeta as em
from extmeta.arch import ARCHES, arch_named
from extmeta.commands import compare
from extmeta.cost import crossover, measure, placement
from extmeta.cost import sweep as sweeps
from extmeta.cost.forms import default_forms, fitting, form, lack
from extmeta.cost.space import Space, full_tables, space_of, sparse_tables
from extmeta.encodings import inpte
from extmeta.rows import (
    CALL,
    CONTROL,
    EACH,
    LOOPS,
    OPERATIONS,
    Bound,
    Cpu,
    Point,
    Ram,
    Refused,
    Spread,
    Subject,
    smallest,
)


def sweep(space, forms, fields, points, **options):
    options = {"rounds": measure.MIN_ROUNDS, "budget_ns": 0, **options}
    return sweeps.sweep(space, forms, fields, points, **options)


SPACE = sparse_tables(3, 50, seed=1)
HALF = Point(0.5, "random")
DEFAULT = em.Fields(uffd_wp=1, soft_dirty=1, age=8)


def test_a_sweep_has_a_row_for_everything():
    points = [Point(0.0, ""), HALF]
    told = []
    rows = list(
        sweep(
            SPACE,
            default_forms(),
            DEFAULT,
            points,
            progress=lambda *what: told.append(what),
        )
    )
    assert [type(row) for row in rows[:2]] == [Subject, Bound]
    refused = [row.encoding for row in rows if isinstance(row, Refused)]
    # Without constraints its words need as many bits as the fields have.
    assert refused == ["compact"]
    others = [n for n in default_forms() if n not in ("inpte", *refused)]
    rams = [(r.encoding, r.fraction) for r in rows if isinstance(r, Ram)]
    assert rams == [(n, p.fraction) for p in points for n in ("inpte", *others)]
    cpus = {(r.encoding, r.operation, r.fraction) for r in rows if isinstance(r, Cpu)}
    names = (CONTROL, CALL, *others)
    timed = [sweeps.operations_at(p, n) for p in points for n in names]
    assert len(cpus) == sum(map(len, timed))
    flagged = {r.flagged for r in rows if isinstance(r, Ram) and r.fraction}
    assert flagged == {75}
    done = [done for done, _total, _what in told]
    assert done == list(range(len(cpus) + 1))
    assert told[0][1] == len(cpus)
    assert told[0][2] == "0% flagged: inpte again load"


def test_the_baseline_is_measured_whether_named_or_not():
    for forms in (["linked"], ["inpte", "linked"]):
        rows = list(sweep(SPACE, forms, DEFAULT, [HALF]))
        assert [r.encoding for r in rows if isinstance(r, Ram)] == ["inpte", "linked"]


def test_an_encoding_that_can_not_hold_the_fields_is_left_out():
    fields = em.Fields(site=100)
    rows = list(sweep(SPACE, ["adjacent", "linked"], fields, [HALF]))
    (refused,) = [row for row in rows if isinstance(row, Refused)]
    assert refused.encoding == "adjacent"
    assert "64 bits" in refused.why
    assert "100" in refused.why
    assert rows[0].baseline_fields == {"site": 6}
    assert "100 free bits" in rows[0].baseline_lacks
    timed = {r.encoding for r in rows if isinstance(r, Cpu)}
    assert timed == {CONTROL, CALL, "linked"}


class Picky:
    """Stands for an encoding that can't hold some word of some entry."""

    def __init__(self, table):
        self.table = table

    def copy(self):
        return self

    def store(self, vpns, words):
        raise ValueError("vpn 0x10: no place for bits 0x4 in a swap entry")


def test_an_encoding_that_can_not_hold_a_word_is_left_out_at_that_point(monkeypatch):
    bare = Space.bare

    def some_picky(space, encoding, fields):
        table = bare(space, encoding, fields)
        return Picky(table) if encoding == "linked" else table

    monkeypatch.setattr(Space, "bare", some_picky)
    told = []
    rows = list(
        sweep(SPACE, ["linked"], DEFAULT, [HALF], progress=lambda *w: told.append(w))
    )
    (refused,) = [row for row in rows if isinstance(row, Refused)]
    assert refused.why == "vpn 0x10: no place for bits 0x4 in a swap entry"
    assert refused.where == "50% random"
    assert told[-1][0] == told[-1][1]


def test_swap_entries_have_few_bits_and_the_baseline_those_alone():
    def build(encoding, fields):
        table = SPACE.build(encoding, fields)
        table.swap_out(SPACE.vpns[:40], range(1, 41))
        return table

    space = dataclasses.replace(SPACE, has_swap=True, build=build)
    rows = list(sweep(space, ["linked"], em.Fields(age=4), [Point(1.0, "")]))
    assert rows[0].baseline_fields == {"age": 1}
    assert "swap entries: 4 free bits" in rows[0].baseline_lacks
    assert [r.flagged for r in rows if isinstance(r, Ram)] == [150, 150]
    fits = list(sweep(space, ["linked"], em.Fields(uffd_wp=1), [Point(1.0, "")]))
    assert fits[0].baseline_lacks == ""
    assert fits[0].baseline_fields == {"uffd_wp": 1}


X86 = arch_named("x86_64")
WIDTHS = st.dictionaries(
    st.sampled_from(["uffd_wp", "soft_dirty", "a", "b", "c", "d"]),
    st.integers(1, 8),
    min_size=1,
)


def places_all(widths, has_swap):
    present, swap = inpte.places(em.Fields(**widths), X86)
    return None not in present and not (has_swap and None in swap)


@given(WIDTHS, st.booleans())
def test_the_denominator_is_the_largest_set_that_fits(widths, has_swap):
    fields = em.Fields(**widths)
    kept = fitting(fields, X86, has_swap)
    names = list(widths)
    subsets = [
        {n: widths[n] for i, n in enumerate(names) if mask >> i & 1}
        for mask in range(1, 1 << len(names))
    ]
    fit = [s for s in subsets if places_all(s, has_swap)]
    if fit:
        assert dict(kept) in fit
        assert kept.bits == max(sum(s.values()) for s in fit)
        assert list(kept) == [name for name in names if name in kept]
    else:
        (name,) = kept
        assert widths[name] == max(widths.values())
        assert places_all(dict(kept), has_swap)
    lacks = lack(fields, X86, has_swap)
    assert (not lacks) == places_all(widths, has_swap)
    if None in inpte.places(fields, X86)[0]:
        with pytest.raises(ValueError, match=f"there are {len(X86.free)}"):
            em.PageTable("inpte", fields)
    else:
        assert em.PageTable("inpte", fields).fields == fields


def test_an_architecture_without_a_bit_is_refused():
    class NoBits:
        name = "none"
        free = ()
        owned: dict = {}  # noqa: RUF012
        swap = X86.swap

    with pytest.raises(ValueError, match="none has no bit"):
        fitting(em.Fields(age=8), NoBits, has_swap=False)


def test_forms_are_names_or_made():
    assert form("linked") == "linked"
    assert repr(form("linked:16")) == "Linked(bits=16)"
    assert repr(form("adjacent:needed")) == "Adjacent(when='needed')"
    names = default_forms()
    assert names[0] == "inpte"
    assert names.index("adjacent:needed") == names.index("adjacent") + 1


@pytest.mark.parametrize("arch", ARCHES)
def test_every_architecture_has_a_row_of_every_encoding_or_why_not(arch):
    capture = em.load_capture(em.shipped()["node"])
    space = space_of(capture, "node", arch)
    rows = list(sweeps.ram(space, default_forms(), DEFAULT, [HALF]))
    subject = rows[0]
    assert subject.arch == arch
    assert subject.nr_ptes == len(space.vpns)
    told = [r.encoding for r in rows if isinstance(r, Ram | Refused)]
    assert sorted(told) == sorted(default_forms())
    refused = [r.encoding for r in rows if isinstance(r, Refused)]
    assert refused == ["compact"]
    flagged = {r.flagged for r in rows if isinstance(r, Ram)}
    assert flagged == {round(len(space.vpns) / 2)}


def test_where_no_bit_is_free_the_baseline_sets_a_tracker_of_its_own():
    space = sparse_tables(3, 50, seed=1, arch="s390x")
    fields = em.Fields(age=4)
    assert fitting(fields, arch_named("s390x"), False) == em.Fields(soft_dirty=1)
    rows = list(sweep(space, ["linked"], fields, [HALF]))
    assert rows[0].baseline_fields == {"soft_dirty": 1}
    assert "s390x has 0" in rows[0].baseline_lacks
    assert [r.flagged for r in rows if isinstance(r, Ram)] == [75, 75]
    # Every operation was checked against what it has to find.
    cpus = {r.operation for r in rows if isinstance(r, Cpu) and r.encoding == "linked"}
    assert cpus == {*OPERATIONS, *LOOPS}


def test_nothing_is_timed_for_ram_alone_and_it_is_the_sweep_s():
    forms = ["adaptive", "hash", "compact"]
    alone = list(sweeps.ram(SPACE, forms, DEFAULT, [HALF]))
    swept = list(sweep(SPACE, forms, DEFAULT, [HALF]))
    assert alone == [r for r in swept if not isinstance(r, Bound | Cpu | Spread)]


def test_an_encoding_that_lacks_memory_stops_no_other(monkeypatch):
    bare = Space.bare

    def short(space, encoding, fields):
        if encoding == "linked":
            raise MemoryError
        return bare(space, encoding, fields)

    monkeypatch.setattr(Space, "bare", short)
    rows = list(sweeps.ram(SPACE, ["linked", "hash"], DEFAULT, [HALF]))
    assert rows[1] == Refused("linked", "out of memory")
    assert [r.encoding for r in rows if isinstance(r, Ram)] == ["inpte", "hash"]


def crossed(forms, fields, kind, **options):
    rows = crossover.crossover(forms, fields, kind=kind, nr_tables=16, **options)
    head, *rows = rows
    found = {}
    for row in rows:
        found.setdefault(row.flagged // 16, {})[row.encoding] = row
    return head, found


def test_the_crossover_has_powers_of_two_and_where_another_leads():
    fields = em.Fields(meta=64)
    forms = ["linked", "adaptive", "hash", "wide"]
    head, found = crossed(forms, fields, "different")
    assert head.nr_tables == 16
    assert {1 << i for i in range(10)} <= {*found}
    assert list(found) == sorted(found)
    leads = {each: smallest([*rows.values()]) for each, rows in found.items()}
    for each in {*found} - {1 << i for i in range(10)}:
        before = [n for n in found if n < each][-1]
        assert leads[before] != leads[each]
        # At one less it was not yet so.
        less = Point((each - 1) / 512, EACH)
        held = sweeps.Held(full_tables(16), forms, fields, seed=0, kind="different")
        assert smallest(held.at(less)) == leads[before]
    for each, rows in found.items():
        assert list(rows) == ["inpte", *forms]
        # A page of words is a page however few there are; 16-byte entries too.
        assert rows["linked"].side == 16 * 4096
        extra = rows["wide"].total - rows["inpte"].total
        assert extra >= 16 * 4096
        assert {r.flagged for r in rows.values()} == {16 * each}


def test_the_crossover_is_by_the_words_and_by_the_architecture():
    fields = em.Fields(meta=64)
    side = {}
    for kind in placement.WORDS:
        _head, found = crossed(["adaptive"], fields, kind)
        side[kind] = found[256]["adaptive"].side
    assert side["one"] < side["byte"] < side["different"]
    assert side["one"] < side["few"] <= side["different"]
    head, found = crossed(["linked"], em.Fields(soft_dirty=1), "one", arch="s390x")
    assert head.arch == "s390x"
    assert max(found) == 256


def test_all_stands_for_every_shipped_capture_unless_it_is_a_file(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert compare._named("all") == [*em.shipped()]
    (tmp_path / "all").touch()
    assert compare._named("all") == ["all"]
    assert compare._named("redis") == ["redis"]


def test_the_subject_counts_the_distinct_words():
    for kind, distinct in (("one", 1), ("few", 8), ("different", 15)):
        head = sweeps.Held(full_tables(1), [], em.Fields(age=4), kind=kind).head
        assert head[0].nr_distinct == distinct
