"""What operations ask of a kernel beside time: exact counts, none where none is due."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import extmeta as em
from extmeta.arch import arch_named
from extmeta.cost.demands import OPERATIONS, demanded, demands
from extmeta.reports import comparison
from extmeta.rows import SET_ASIDE, Demand, Refused, Subject

FIELDS = em.Fields(uffd_wp=1, soft_dirty=1, age=14)
X86 = arch_named("x86_64")


def asked(encoding, fields=FIELDS, arch=X86):
    rows = list(demands(encoding, str(encoding), fields, arch))
    return {row.operation: (row.aside, row.repointings) for row in rows}


def test_linked_and_adaptive():
    linked, adaptive = asked("linked"), asked("adaptive")
    assert set(linked) == {SET_ASIDE, *OPERATIONS}
    assert {name for name, (aside, _) in linked.items() if aside} == {
        SET_ASIDE,
        "split",
        "first words",
    }
    assert linked[SET_ASIDE] == linked["split"] == linked["first words"] == (1024, 0)
    # A word for all is in the link; where they differ, or are shared, it has to pay.
    assert adaptive["split"] == (0, 0)
    assert adaptive[SET_ASIDE] == (1024 + 8, 0)
    for operation in ("first words", "clear half of one word", "clear after fork"):
        assert 0 < adaptive[operation][0] <= 1024 + 8
    for operation in ("set a bit", "clear a bit", "swap out", "swap in", "zap half"):
        assert adaptive[operation] == linked[operation] == (0, 0)
    assert adaptive["fork"] == adaptive["move"] == (None, 0)


def test_words_in_the_pte_ask_for_nothing():
    for encoding in ("inpte", "compact"):
        rows = asked(encoding, em.Fields(uffd_wp=1, soft_dirty=1, age=1))
        assert {aside for aside, _ in rows.values()} == {0, None}


def test_only_adjacent_when_needed_is_re_pointed():
    assert asked(em.Adjacent(when="needed"))["first words"] == (4096, 1)
    for encoding in (*em.encodings(), em.Adjacent(when="needed")):
        try:
            rows = asked(encoding)
        except ValueError:
            continue
        moved = {name for name, (_, repointings) in rows.items() if repointings}
        is_needed = isinstance(encoding, em.Adjacent)
        assert moved == ({"first words"} if is_needed else set())


def test_page_ext_can_not_tell():
    rows = asked("page_ext")
    assert {aside for aside, _ in rows.values()} == {None}
    # Words have no place in a swap entry there.
    assert set(OPERATIONS) - set(rows) == {"swap out", "swap in"}


@pytest.mark.parametrize("arch", ["arm64_64k", "s390x", "ppc64_radix_64k"])
def test_on_other_architectures(arch):
    of = arch_named(arch)
    rows = asked("linked", em.Fields(meta=8), of)
    assert rows["split"][0] >= of.ptrs_per_pte
    # The word is in the idle half of the PTE table's page.
    if arch == "s390x":
        assert asked("adjacent", em.Fields(meta=8), of)["split"] == (0, 0)


writes = st.lists(
    st.tuples(
        st.sampled_from(["store", "clear", "unmap", "map", "fork", "move"]),
        st.integers(0, 2047),
        st.integers(1, 700),
        st.integers(0, 3),
    ),
    max_size=12,
)


@given(writes)
@example([("map", 0, 1, 0), ("store", 1, 1, 1)])  # of a hole: once a table was moved
def test_re_pointings_are_those_of_tables_in_use_that_get_their_first_word(program):
    table = em.PageTable(em.Adjacent(when="needed"), em.Fields(a=2))
    expected = 0
    for what, first, n, word in program:
        vpns = np.arange(first, min(first + n, 2048), dtype=np.uint64)
        paired = {
            vpn for vpn in table.tables if table.flagged(slice(vpn, vpn + 512)).any()
        }
        used = set(table.tables)
        if what == "map":
            new = [v for v in vpns.tolist() if not is_mapped(table, v)]
            table.map(np.array(new, np.uint64))
        elif what == "unmap":
            table.unmap(slice(first, first + len(vpns)))
        elif what == "store":
            table.update(vpns, set=word)
        elif what == "clear":
            table.update(vpns, clear=word)
        elif what == "fork":
            assert table.fork().encoding.repointings == 0
        else:
            # To where nothing is: a new table can be a pair from the start.
            table.move(slice(first, first + len(vpns)), (1 << 20) + first)
            table.move(slice((1 << 20) + first, (1 << 20) + first + len(vpns)), first)
            continue
        now = {
            vpn for vpn in table.tables if table.flagged(slice(vpn, vpn + 512)).any()
        }
        expected += len((now - paired) & used)
        if what in ("map", "unmap", "fork"):
            assert now <= paired
        table.check()
    moves = sum(what == "move" for what, *_ in program)
    if not moves:
        assert table.encoding.repointings == expected
    else:
        assert table.encoding.repointings >= expected


def is_mapped(table, vpn):
    view = table.tables.get(vpn & ~511)
    return view is not None and view[vpn & 511] != 0


def test_a_comparison_has_them():
    rows = list(demanded(["linked", "inpte", "adaptive"], FIELDS, "x86_64"))
    assert [row.encoding for row in rows if row.operation == SET_ASIDE] == [
        "inpte",
        "linked",
        "adaptive",
    ]
    subject = Subject(
        name="x",
        sha256="",
        arch="x86_64",
        nr_ptes=1,
        nr_tables=1,
        nr_huge=0,
        present_bytes=1,
        fields=dict(FIELDS),
        baseline_fields={},
        baseline_lacks="",
        words="different",
    )
    again, _ = comparison.from_json(comparison.to_json([subject, *rows], {}))
    assert again == [subject, *rows]
    text = comparison.text(again, {})
    line = next(line for line in text.splitlines() if line.startswith("adaptive"))
    assert line.split()[1:5] == ["1.0", "KiB", "0", "B"]
    assert "No table is re-pointed" in text
    assert "tables re-pointed" not in text


def test_what_can_not_be_made_is_left_out():
    rows = list(demanded(["inpte:3", "compact"], em.Fields(meta=64), "x86_64"))
    assert [row.encoding for row in rows if isinstance(row, Refused)] == [
        "inpte:3",
        "compact",
    ]
    assert any(isinstance(row, Demand) for row in rows)


def test_memory_that_was_not_set_aside_is_no_lack_of_memory(monkeypatch):
    def allocates(_given):
        raise MemoryError

    operations = {"fill": (lambda _given: None, allocates, False)}
    monkeypatch.setattr("extmeta.cost.demands.OPERATIONS", operations)
    with pytest.raises(MemoryError, match="'fill' takes memory that was not set aside"):
        asked("linked")
