"""Text and JSON from fixed rows, and what an edited file can do to them."""

import copy
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import extmeta as em
from extmeta.cost.kernel import prototype
from extmeta.reports import (
    bounds,
    brief,
    comparison,
    figures,
    layout,
    notes,
    summary,
)
from extmeta.reports.document import letter, sections
from extmeta.rows import (
    CALL,
    CONTROL,
    EACH,
    LIVES,
    OPERATIONS,
    Bound,
    Cpu,
    Locked,
    Ram,
    Refused,
    Split,
    Spread,
    Subject,
)

SUBJECT = Subject(
    name="numpy",
    sha256="c0ffee",
    arch="x86_64",
    nr_ptes=20_000,
    nr_tables=176,
    nr_huge=0,
    present_bytes=80 << 20,
    fields={"uffd_wp": 1, "soft_dirty": 1, "age": 8},
    baseline_fields={"uffd_wp": 1, "soft_dirty": 1},
    baseline_lacks="8 free bits of a PTE are needed, x86_64 has 6",
    words="different",
)
BOUND = Bound(176 * 4096, 80e9, 25e9)
PROVENANCE = {
    "extmeta": "0.1.0",
    "commit": "0123456789ab",
    "kernel": "6.12.1",
    "machine": "x86_64",
    "cpu": "A Processor",
    "cpus": 2,
    "python": "3.11.7",
    "numpy": "2.4.6",
    "thp": True,
    "seed": 1,
    "command": ["extmeta", "compare"],
    "date": "2026-11-23T00:00:00Z",
}


def ram(encoding, fraction, placement, flagged, side=0, **more):
    held = {"index": 0, "slack": 0, "repointings": None, **more}
    return Ram(
        encoding=encoding,
        fraction=fraction,
        placement=placement,
        flagged=flagged,
        upper=7 * 4096,
        pte=176 * 4096,
        side=side,
        **held,
    )


def cpu(encoding, operation, fraction, placement, ratio, low, high, ns=1.5):
    return Cpu(encoding, operation, fraction, placement, ratio, low, high, ns, 60, 8)


ROWS = [
    SUBJECT,
    BOUND,
    Refused("tiny", "Tiny() holds 1 bit a PTE on x86_64; Fields(...) needs 10"),
    ram("inpte", 0.0, "", 0),
    cpu("inpte again", "load", 0.0, "", 1.0, 0.998, 1.004, 1.619),
    cpu("inpte again", "scan", 0.0, "", 0.93, 0.84, 0.96, 123.4),
    ram("adjacent:needed", 0.0, "", 0, repointings=0),
    cpu("adjacent:needed", "load", 0.0, "", 0.5432, 0.54, 0.55),
    cpu("adjacent:needed", "scan", 0.0, "", 12.34, 12.3, 12.5),
    ram("inpte", 0.01, "random", 200),
    cpu("inpte again", "load", 0.01, "random", 1.2, 1.19, 1.21, 15.55),
    ram("adjacent:needed", 0.01, "random", 200, 82 * 4096, repointings=82),
    cpu("adjacent:needed", "load", 0.01, "random", 1.001, 0.99, 1.02),
    cpu("adjacent:needed", "fork", 0.01, "random", 0.0456, 0.045, 0.046),
    ram("linked", 0.01, "random", 200, 82 * 1024, slack=2048),
]

TEXT = """\
numpy: 20,000 PTEs in 176 PTE tables (114 a table), 732 KiB of page tables, 80 MiB present; x86_64
Words of uffd_wp=1, soft_dirty=1, age=8 (10 bits), as different as their bits allow.
inpte can't hold them: 8 free bits of a PTE are needed, x86_64 has 6. As denominator it has
  uffd_wp=1, soft_dirty=1 (2 bits). The same PTEs are flagged. Their words are cut to these bits,
  none to 0.
tiny is left out: Tiny() holds 1 bit a PTE on x86_64; Fields(...) needs 10.

                                   1%
RAM                      0%    random
PTEs flagged              0       200
beside the tables
  inpte                 0 B       0 B
  adjacent:needed       0 B   328 KiB
  linked                       82 KiB
in pages, alone
  adjacent:needed       0 B   328 KiB
  linked                       84 KiB
% of page tables
  adjacent:needed        0%     44.8%
  linked                        11.2%
% of present RAM
  adjacent:needed        0%     0.40%
  linked                        0.10%
bytes/flagged PTE
  adjacent:needed         -   1,679.4
  linked                        419.8
tables re-pointed
  adjacent:needed         0        82

CPU, 0%: 0 of 20,000 PTEs flagged; ratio to inpte and its interval
                       load        scan
inpte, ns/PTE          1.62         123
bound, ns/PTE          0.45        0.45
inpte again        1.00 ±1%   0.93 ±11%
adjacent:needed    0.54 ±2%    12.3 ±2%

CPU, 1% random: 200 of 20,000 PTEs flagged; ratio to inpte and its interval
                       load        fork
inpte, ns/PTE          15.6        1.50
bound, ns/PTE          0.45
inpte again        1.20 ±1%
adjacent:needed    1.00 ±2%   0.046 ±2%

bound: 704 KiB of PTE tables, read at 75 GiB/s. An array of that size does so if it is used again
and again; one of 64 MiB is read at 23 GiB/s.

Ratios are of paired runs, median ± the longer side of the 95% interval over one process, from which
others may differ by more; below 1 is faster than inpte. inpte again: another table of it, the noise
floor.
3 of 7 ratios are uncertain: the interval reaches more than 10% from the ratio, or inpte differs
from itself by as much.
Beside the tables: bytes of the objects that hold words, each rounded up to a size class. In pages,
alone: bytes of the pages that these objects lie in, if no other process uses them; up to 2.0 KiB of
that is free for more objects. On a machine, processes share these pages if they share a slab
allocator: `python benchmarks/machine.py`.
Not in the model, and so in none of these numbers: the TLB and the hardware walker, waiting for
locks, the kernel's page allocator (ours has its pages at hand, and zeroes only tables), and, but
entry by entry, references to struct page and write-protecting at fork. Nor are huge pages, which
have no word: there are none here.

extmeta 0.1.0 (0123456789ab), Linux 6.12.1, A Processor, 2 CPUs, Python 3.11.7, numpy 2.4.6, seed 1,
2026-11-23T00:00:00Z"""


def test_golden_text(monkeypatch):
    # What the environment says of terminals does not matter.
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert comparison.text(ROWS, PROVENANCE) == TEXT
    assert max(map(len, TEXT.splitlines())) <= layout.COLUMNS


def words_of(rows, **provenance):
    """Return a comparison's text, with one space between words."""
    return " ".join(comparison.text(rows, PROVENANCE | provenance).split())


def test_links_are_charged_on_demand():
    rows = [SUBJECT, ram("inpte", 0.01, "random", 200)]
    rows.append(ram("linked", 0.01, "random", 200, 82 * 1024, links=176 * 8))
    assert "linked 82 KiB" in words_of(rows)
    text = words_of(rows, charge_links=True)
    assert "Each PTE table is charged 8 bytes for its link and count." in text
    assert "linked 83 KiB" in text


def test_what_splits_take_is_shown():
    subject = dataclasses.replace(SUBJECT, nr_huge=3, nr_deposited=2)
    rows = [subject, *(ram(name, 0.01, "random", 200) for name in ("inpte", "linked"))]
    assert "split" not in brief.text(rows, PROVENANCE)
    rows += [Split("inpte", 1, 0), Split("linked", 1, 4096)]
    assert "linked 4.0 KiB 8.0 KiB" in words_of(rows)
    text = brief.text(rows, PROVENANCE)
    assert "PTEs of 2 anonymous huge pages" in " ".join(text.split())
    (line,) = (line for line in text.splitlines() if line.startswith("linked "))
    assert line.endswith("8.0 KiB")


def test_the_json_prints_the_same_again():
    document = comparison.to_json(ROWS, PROVENANCE)
    rows, provenance = comparison.from_json(document)
    assert rows == ROWS
    assert comparison.text(rows, provenance) == TEXT
    assert json.loads(document)["complete"] is True
    assert json.loads(comparison.to_json(ROWS, {}, complete=False))["complete"] is False


@pytest.mark.parametrize("rows", range(1, len(ROWS)))
def test_whatever_an_interrupted_sweep_has_is_printed(rows):
    text = comparison.text(ROWS[:rows], PROVENANCE)
    assert text.startswith("numpy: 20,000 PTEs")
    assert "Not in the model" in text


def test_many_points_and_operations_stay_within_the_columns():
    rows = [SUBJECT]
    for i in range(11):
        rows.append(ram("inpte", i / 16, "clustered", 10**8 * i))
        rows.append(ram("a name that is far too long", i / 16, "clustered", 1, 1 << 50))
    operations = [*OPERATIONS, "map", "random load"]
    rows += [cpu("linked", op, 0.0, "clustered", 1234.5, 1, 5000) for op in operations]
    text = comparison.text(rows, PROVENANCE)
    assert max(map(len, text.splitlines())) <= layout.COLUMNS
    assert text.count("\nRAM ") == 2
    assert text.count("CPU, 0% clustered") == 2
    assert "random load" in text


CROSSED = [
    dataclasses.replace(
        SUBJECT,
        name="100 full tables",
        nr_ptes=51_200,
        nr_tables=100,
        fields={"meta": 64},
        baseline_fields={"meta": 6},
        words="one",
    ),
    Refused("tiny", "too wide"),
    *(
        ram(name, each / 512, EACH, 100 * each, side)
        for each, sides in (
            (1, (0, 409_600, 1_000)),
            (2, (0, 409_600, 1_000)),
            (300, (0, 409_600, 409_600)),
            (512, (0, 409_600, 600_000)),
        )
        for name, side in zip(("inpte", "adjacent:needed", "hash"), sides, strict=True)
    ),
]

CROSSOVER_TEXT = """\
bytes/flagged PTE; * the smallest
                adjacent
flagged/table    :needed       hash
            1   4,096.00     10.00*
            2   2,048.00      5.00*
          300     13.65*     13.65*
          512      8.00*      11.72

bytes of whole pages/flagged PTE; * the smallest
                adjacent
flagged/table    :needed       hash
            1   4,096.00     10.00*
            2   2,048.00      5.00*
          300     13.65*     13.65*
          512      8.00*      11.72

the smallest, from 1 to 512 flagged PTEs in each table (log scale)
  hash                     1 on        |###########################################     |
  adjacent:needed          512         |                                           #####|
"""


def test_golden_crossover():
    text = comparison.text(CROSSED, PROVENANCE)
    assert CROSSOVER_TEXT in text
    assert text.startswith("100 full tables: 51,200 PTEs")
    assert "tiny is left out: too wide." in text
    assert "CPU, " not in text
    assert max(map(len, text.splitlines())) <= layout.COLUMNS
    rows, provenance = comparison.from_json(comparison.to_json(CROSSED, PROVENANCE))
    assert comparison.text(rows, provenance) == text
    # As much of it as there is.
    for stop in range(1, len(CROSSED)):
        assert comparison.text(CROSSED[:stop], PROVENANCE)


def of_arch(arch, note, side):
    subject = dataclasses.replace(SUBJECT, arch=arch, note=note)
    return [
        subject,
        Refused("tiny", f"no bit on {arch}"),
        ram("inpte", 0.01, "random", 200),
        ram("linked", 0.01, "random", 200, side),
        ram("xarray", 0.01, "random", 200),
    ]


def test_golden_architectures():
    rows = [
        *of_arch("x86_64", "", 82 * 1024),
        *of_arch("s390x", "ported; cut", 0),
        *of_arch("riscv64_sv57_svrsw60t59b", "ported", 1 << 20),
    ]
    text = comparison.text(rows, PROVENANCE)
    assert text.startswith(
        """\
numpy, on 3 architectures: RAM beyond inpte's
Words of uffd_wp=1, soft_dirty=1, age=8 (10 bits), as different as their bits allow.
All but x86_64: ported.
On s390x: cut.
All: on x86_64, for example, tiny is left out: no bit on x86_64.

RAM, 1% random              linked   xarray
% of page tables, pages
 x86_64                      11.2%       0%
 s390x                          0%       0%
 riscv64_sv57_svrsw60t59b     140%       0%
bytes/flagged PTE
 x86_64                      419.8      0.0
 s390x                         0.0      0.0
 riscv64_sv57_svrsw60t59b  5,242.9      0.0
"""
    )
    # One that was timed is told on its own.
    text = comparison.text([*rows, SUBJECT, BOUND, *rows[2:5]], PROVENANCE)
    assert text.count("numpy: 20,000 PTEs") == 1


def test_many_encodings_go_side_by_side_in_several_tables():
    names = ["inpte", *(f"encoding:{i}" for i in range(19))]
    for placement in ("random", EACH):
        rows = []
        for arch in ("x86_64", "s390x")[: 1 + (placement == "random")]:
            rows.append(dataclasses.replace(SUBJECT, arch=arch))
            rows += [ram(name, 0.5, placement, 10**6, 1 << 50) for name in names]
        text = comparison.text(rows, {})
        assert max(map(len, text.splitlines())) <= layout.COLUMNS
        # The crossover has a table of bytes and one of whole pages.
        assert text.count(":18") == 1 + (placement == EACH)


def test_a_note_and_a_tracker_instead_are_told():
    subject = dataclasses.replace(
        SUBJECT, note="from a capture of x86_64", baseline_fields={"young": 1}
    )
    text = " ".join(comparison.text([subject], PROVENANCE).split())
    assert "From a capture of x86_64." in text
    assert "it has young=1 (1 bit). It is a tracker that Linux owns there" in text


def test_json_from_before_notes_is_read():
    document = json.loads(comparison.to_json(ROWS, PROVENANCE))
    del document["rows"][0]["note"]
    assert comparison.from_json(json.dumps(document))[0] == ROWS


def test_several_subjects_share_the_notes():
    other = dataclasses.replace(SUBJECT, name="huge", nr_huge=3, baseline_lacks="")
    text = comparison.text([*ROWS, other, ram("inpte", 1.0, "", 20_000)], PROVENANCE)
    text = " ".join(text.split())
    assert "80 MiB present (3 huge pages)" in text
    assert text.count("Not in the model") == 1
    assert notes.HUGE in text


def test_what_would_steer_a_terminal_is_not_printed():
    evil = "\x1b[2Jx\ny\r\x07"
    rows = [
        dataclasses.replace(SUBJECT, name=evil, arch=evil, fields={evil: 3}),
        Refused(evil, evil),
        ram("inpte", 0.5, evil, 1),
        ram(evil, 0.5, evil, 1),
        cpu(evil, "load", 0.5, evil, 1, 1, 1),
    ]
    text = comparison.text(rows, {"kernel": evil})
    assert "\x1b" not in text
    assert "\r" not in text
    assert "?[2Jx?y" in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1.0 KiB"),
        (10 << 10, "10 KiB"),
        (3 << 29, "1.5 GiB"),
        (5 << 50, "5,120 TiB"),
    ],
)
def test_sizes_are_binary(value, shown):
    assert figures.size(value) == shown


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        (0, "0%"),
        (0.004, "<0.01%"),
        (0.196, "0.20%"),
        (4.56, "4.6%"),
        (44.84, "44.8%"),
        (99.6, "100%"),
        (123456, "123,456%"),
    ],
)
def test_shares_have_two_digits_or_more(part, shown):
    assert figures.share(part, 100) == shown
    assert figures.share(part, 0) == "-"


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [
        (0.00456, "0.0046 ±1%"),
        (0.0456, "0.046 ±1%"),
        (0.456, "0.46 ±1%"),
        (4.56, "4.56 ±1%"),
        (45.6, "45.6 ±1%"),
        (4567.0, "4,567 ±1%"),
    ],
)
def test_ratios_have_two_digits_or_more(ratio, shown):
    row = cpu("linked", "load", 0, "", ratio, ratio / 1.001, ratio * 1.002)
    assert figures.ratio(row) == shown


def test_unstable_is_wide_or_on_a_floor_that_is_off():
    def row(ratio, low, high):
        return cpu("linked", "load", 0, "", ratio, low, high)

    good = row(1, 0.99, 1.01)
    assert not figures.unstable(row(2, 1.9, 2.1), good)
    assert not figures.unstable(row(2, 1.9, 2.1), None)
    assert figures.unstable(row(2, 1.8, 2.1), good)
    assert figures.unstable(row(2, 1.9, 2.21), good)
    assert figures.unstable(row(2, 1.9, 2.1), row(0.9, 0.89, 0.91))
    assert figures.unstable(row(2, 1.9, 2.1), row(1.11, 1.1, 1.12))


FULL_BOUND = Bound(1 << 20, 64e9, 25e9, 32e9, 16e9, 100.0, 8.0)
TABLES = 1 << 20


@pytest.mark.parametrize(
    ("operation", "flagged", "side", "ns"),
    [
        ("load", 0, 0, 16.384),
        ("scan", 1000, TABLES, 32.768),
        ("clear", 999, 0, 16.384),
        ("clear", 1000, 0, 32.768),
        ("store", 0, 0, 32.768),
        ("fork", 0, TABLES, 131.072),
        ("random load", 0, 0, 8),
        ("random load", 1, 64, 16),
        ("map", 0, 0, 0),
    ],
)
def test_the_bound_is_what_is_held_over_the_speed(operation, flagged, side, ns):
    held = dataclasses.replace(
        ram("linked", 0.0, "", flagged, side), pte=TABLES, upper=0
    )
    found = bounds.bound_ns(FULL_BOUND, operation, held, 1000)
    assert found == pytest.approx(ns)
    assert bounds.bound_ns(None, operation, held, 1000) == 0


def test_the_json_has_times_over_the_bound():
    rows = [SUBJECT, FULL_BOUND, *ROWS[2:]]
    document = comparison.to_json(rows, PROVENANCE)
    times = [
        f"{row['times_bound']:.3g}"
        for row in json.loads(document)["rows"]
        if row["row"] == "Cpu" and row["encoding"] == CONTROL and not row["fraction"]
    ]
    # As the text has them.
    assert times == ["2.87", "204"]
    assert comparison.from_json(document)[0] == rows
    assert "times_bound" not in comparison.to_json([SUBJECT, *ROWS[2:]], PROVENANCE)


def test_times_over_the_bound_are_printed_if_asked_for():
    rows = [SUBJECT, FULL_BOUND, *ROWS[2:]]
    said = comparison.text(rows, PROVENANCE)
    assert "time over the bound" not in said
    assert "16 are under way" in said
    said = comparison.text(rows, {**PROVENANCE, "bounds": True})
    table = said.split("CPU, 0%: time over the bound of what is held\n")[1]
    _head, inpte, needed, *_rest = table.splitlines()
    # 704 KiB at 64 GB/s are 0.563 ns for each of 20,000 PTEs.
    assert inpte.split() == ["inpte", "2.87", "x", "204", "x"]
    assert needed.split()[0] == "adjacent:needed"
    assert max(map(len, said.splitlines())) <= layout.COLUMNS


def test_a_busy_machine_and_uncertain_ratios_are_said_once():
    good = cpu("linked", "load", 0, "", 1, 0.99, 1.01)
    wide = cpu("linked", "load", 0, "", 1, 0.5, 1.01)
    busy = dataclasses.replace(good, waited=0.5)
    assert figures.trust_note([]) == []
    assert figures.trust_note([(good, good)] * 9) == []
    assert figures.trust_note([(good, good), (good, good), (busy, good)]) == []
    (said,) = figures.trust_note([(busy, good)] * 9)
    assert said.startswith("The machine is busy: other programs had the processor 50%")
    assert "uncertain" not in said
    (said,) = figures.trust_note([(wide, good), (good, wide), (good, None)])
    assert said.startswith("1 of 3 ratios are uncertain")
    (said,) = figures.trust_note([(busy, good), (wide, good), (busy, good)])
    assert "is busy" in said
    assert "1 of 3" in said


MAPPED = [
    *ROWS,
    Spread(0.01, "random", [175, 1], 1, [512], [20], [3]),
    Split("linked", 1, 4096),
]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d.update(format="x"), "not an extmeta comparison"),
        (lambda d: d.update(rows=3), "lacks rows"),
        (lambda d: d.pop("provenance"), "lacks rows"),
        (lambda d: d["rows"].pop(0), "before the subject"),
        (lambda d: d["rows"].append(7), "row 17 is of no known kind"),
        (lambda d: d["rows"][1].update(row="Bond"), "row 1 is of no known kind"),
        (lambda d: d["rows"][3].pop("side"), "row 3, a Ram: side is None"),
        (lambda d: d["rows"][3].update(side=-4), "side is -4"),
        (lambda d: d["rows"][3].update(side=True), "side is True"),
        (lambda d: d["rows"][3].update(side=2**70), "side is 1180591620717411303424"),
        (lambda d: d["rows"][4].update(low="1"), "low is '1'"),
        (lambda d: d["rows"][4].update(low=float("nan")), "low is nan"),
        (lambda d: d["rows"][4].update(low=1e308), r"low is 1e\+308"),
        (lambda d: d["rows"][4].update(low=0), "a ratio of 0"),
        (lambda d: d["rows"][0].update(fields=[1]), r"fields is \[1\]"),
        (lambda d: d["rows"][0].update(fields={}), "row 0, a Subject: no field"),
        (lambda d: d["rows"][0].update(arch="vax"), "Subject: .*named 'vax'"),
        (lambda d: d["rows"][15].update(cell_tables=0), "row 15, a Spread: cell"),
        (lambda d: d["rows"][15].update(ptes=[]), "row 15, a Spread: cell"),
        (lambda d: d["rows"][-1].update(leaves=0), "row 16, a Split: no huge page"),
    ],
)
def test_an_edited_file_is_refused_by_value(change, told):
    document = json.loads(comparison.to_json(MAPPED, PROVENANCE))
    change(document)
    with pytest.raises(ValueError, match=told):
        comparison.from_json(json.dumps(document))


@pytest.mark.parametrize("document", ["", "{", "[]", "3", "[" * 10**5])
def test_what_is_no_comparison_is_refused(document):
    with pytest.raises(ValueError, match=r"not JSON|not an extmeta"):
        comparison.from_json(document)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)


@given(st.integers(0, len(MAPPED) - 1), st.integers(0, 12), JSON)
def test_any_edit_is_refused_or_printed(number, field, value):
    document = json.loads(comparison.to_json(MAPPED, PROVENANCE))
    row = copy.copy(document["rows"][number])
    row[list(row)[field % len(row)]] = value
    document["rows"][number] = row
    try:
        rows, provenance = comparison.from_json(json.dumps(document))
    except ValueError:
        return
    assert comparison.text(rows, provenance)
    assert brief.text(rows, provenance)
    assert letter.text(sections.document(rows, provenance))


def test_rows_without_the_baseline_are_printed():
    rows = [row for row in ROWS if not isinstance(row, Ram) or row.encoding != "inpte"]
    assert brief.text(rows, PROVENANCE).startswith("numpy: 20,000 PTEs")


# -- what a capture holds ----------------------------------------------------------


def test_summary_adds_up_for_what_is_shipped():
    for name, path in em.shipped().items():
        capture = em.load_capture(path)
        s = summary.summary(capture, name)
        assert s.present + s.swapped + s.markers == len(capture.vpn)
        assert sum(v.entries for v in s.vmas) == len(capture.vpn)
        assert sum(v.count for v in s.vmas) == len(capture.vma_start)
        assert sum(s.occupancy) + s.deposited == s.tables["pte"]
        text = summary.text(s)
        assert text.isascii()
        assert capture.sha256 in text
        assert f"{len(capture.vpn):,}" in text
        assert json.loads(summary.to_json(s))["occupancy"] == list(s.occupancy)


def test_summary_golden_text():
    occupancy = np.zeros(513, int)
    occupancy[[1, 32, 33, 512]] = [3, 1, 1, 500]
    s = summary.Summary(
        name="mine.npz",
        comm="evil\x1b",
        kernel="6.12.1",
        sha256="c0ffee",
        settled=False,
        has_pfns=True,
        vmas=(
            summary.Vmas("", 2, 3 << 20, 700),
            summary.Vmas("9 more names", 12, 1 << 20, 9),
        ),
        present=700,
        swapped=8,
        markers=1,
        leaves=3,
        deposited=2,
        unplaced=4 << 20,
        unmarked=5,
        tables={"pte": 505, "pmd": 2, "pud": 1, "p4d": 0},
        vmpte_bytes=509 * 4096,
        empty_tables=1,
        occupancy=tuple(occupancy.tolist()),
    )
    rows = [f"{32 * i + 1}-{32 * i + 32}" for i in range(16)]
    assert summary.text(s) == "\n".join(
        [
            "mine.npz: evil?, Linux 6.12.1",
            "  VMAs      14, 4.0 MiB of address space",
            "  entries   709: 700 present, 8 swapped, 1 markers; 2.7 MiB present",
            (
                "  leaves    3 of 2 MiB: 2 anonymous, 1 of files, shmem or hugetlb, "
                "and 4.0 MiB more at places unknown, and perhaps up to 5 more, which "
                "are not marked"
            ),
            "  split     of all anonymous: 1,024 PTEs, in the deposited tables",
            "  tables    505 PTE, 2 PMD, 1 PUD, and the root; 2 PTE deposited",
            "  VmPTE     2.0 MiB, 1 of its tables empty",
            "  PFNs      kept",
            "  settled   no: it changed while it was read",
            "  sha256    c0ffee",
            "",
            "  VMAs by name                    VMAs        size       entries",
            "  (anonymous)                        2     3.0 MiB           700",
            "  9 more names                      12     1.0 MiB             9",
            "",
            "  entries of a PTE table: mean 507 of 512",
            f"  {rows[0]:>9} {'#':<50} 4",
            f"  {rows[1]:>9} {'#':<50} 1",
            *(f"  {row:>9} {'':<50} 0" for row in rows[2:15]),
            f"  {rows[15]:>9} {'#' * 50} 500",
        ]
    )


def test_summary_without_a_table_says_so():
    capture = em.Capture(
        vma_start=np.array([4096], np.uint64),
        vma_end=np.array([8192], np.uint64),
        vma_perms=np.array(["rw-p"]),
        vma_flags=np.array(["rd wr"]),
        vma_name=np.array([""]),
        vpn=np.empty(0, np.uint64),
        entry=np.empty(0, np.uint64),
        vmpte_kb=0,
        vmrss_kb=0,
        kernel="6.12.1",
        comm="none",
    )
    text = summary.text(summary.summary(capture, "none"))
    assert text.endswith("  no PTE table")
    assert "tables    none, and the root" in text


def test_what_an_encoding_lacks_is_said_once_and_where():
    rows = [
        SUBJECT,
        Refused("bare", "no bit"),
        Refused("bare", "no bit", "what operations ask of a kernel"),
        Refused("some", "out of memory", "0%"),
        Refused("some", "out of memory", "1% random, load"),
        Refused("some", "too slow", "1% random, load"),
        ram("inpte", 0.01, "random", 200),
        ram("some", 0.01, "random", 200),
    ]
    text = comparison.text(rows, PROVENANCE)
    assert text.count("bare ") == 1
    assert "bare is left out: no bit." in text
    assert "some lacks figures for 0%; 1% random, load: out of memory." in text
    assert "some lacks figures for 1% random, load: too slow." in text
    assert comparison.from_json(comparison.to_json(rows, {}))[0] == rows
    # As a file of extmeta 0.1 has it.
    document = json.loads(comparison.to_json(rows[:2], {}))
    del document["rows"][1]["where"]
    assert comparison.from_json(json.dumps(document))[0] == rows[:2]


def test_the_kernel_s_own_counts_come_before_the_loops():
    loops = [
        cpu(name, "fork loop", 0.0, "", 1.01, 1.0, 1.02)
        for name in (CONTROL, CALL, "linked")
    ]
    rows = [SUBJECT, ram("inpte", 0.0, "", 0), ram("linked", 0.0, "", 0), *loops]
    text = comparison.text(rows, PROVENANCE)
    first, loop = text.index("In a kernel: Linux 6.12.117"), text.index("fork loop")
    assert first < text.index("CPU entry by entry, 0%") < loop
    row = text[text.index("linked, each word copied in the loop") :].splitlines()[0]
    kernel, form = prototype.shipped(), "linked, each word copied in the loop"
    assert row.split()[7:10] == [
        f"{kernel.extra(fork, form):+.1%}"
        for fork in ("fork_1st", "fork_2nd", "fork_3rd")
    ]
    assert "a call alone: the share" in text
    assert "In a kernel" not in comparison.text(ROWS, PROVENANCE)
    assert max(map(len, text.splitlines())) <= 100


def test_the_lives_of_forks_are_tables_of_their_own():
    lives = [cpu("linked", str(life), 1.0, "", 1.5, 1.4, 1.6) for life in LIVES]
    rows = [SUBJECT, ram("inpte", 1.0, "", 20_000), ram("linked", 1.0, "", 20_000)]
    text = comparison.text([*rows, *lives], PROVENANCE)
    tables = text[text.index("CPU, fork, write to tables, exit, 100%") :].splitlines()
    assert tables[1].split() == ["0%", "1%", "10%", "50%", "100%"]
    assert "CPU, fork, write to PTEs, exit, 100%" in text
    assert "CPU, 100%" not in text
    assert "Left out: the page fault before each write" in text
    assert max(map(len, text.splitlines())) <= 100


def test_distinct_words_are_counted_not_called_all_different():
    subject = dataclasses.replace(SUBJECT, nr_distinct=1023)
    text = comparison.text([subject, *ROWS[1:]], PROVENANCE)
    said = " ".join(text.split("\n\n")[0].split())
    assert "1,023 distinct ones if all 20,000 PTEs have one." in said


def test_the_longest_section_and_a_changed_descriptor_are_marked():
    rows = [
        SUBJECT,
        Locked("inpte", "first words", 22_574.0, 22_574, 48.0, 48, 0.0),
        Locked("hash", "first words", 257_982.0, 816_315, 6254.5, 6521, 1.0),
    ]
    text = comparison.text(rows, PROVENANCE)
    under = text[text.index("under the lock  ") :].splitlines()
    assert under[1].split() == ["inpte", "22.6"]
    assert under[2].split() == ["hash", "258/816*"]
    before = text[text.index("before the lock  ") :].splitlines()
    assert before[2].split() == ["hash", "6.25"]
    assert max(map(len, text.splitlines())) <= 100
    document = comparison.to_json(rows, PROVENANCE)
    assert comparison.from_json(document)[0] == rows
