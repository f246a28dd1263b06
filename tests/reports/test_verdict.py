"""The verdict: it follows the rows, and claims nothing from uncertain ratios."""

import dataclasses

import pytest

from extmeta.reports import brief
from extmeta.reports.verdict import verdict
from extmeta.rows import (
    BASELINE,
    CONTROL,
    EACH,
    SET_ASIDE,
    Cpu,
    Demand,
    Point,
    Ram,
    Subject,
)

NAMES = ("adjacent", "linked", "adaptive", "wide", "page_ext", "xarray", "hash")
FEW, ALL = Point(0.01, "random"), Point(1.0, "")
SUBJECT = Subject(
    name="numpy",
    sha256="c0ffee",
    arch="x86_64",
    nr_ptes=20_000,
    nr_tables=200,
    nr_huge=0,
    present_bytes=80 << 20,
    fields={"uffd_wp": 1, "age": 8},
    baseline_fields={"uffd_wp": 1},
    baseline_lacks="8 free bits of a PTE are needed, x86_64 has 6",
    words="different",
)
FITS = dataclasses.replace(
    SUBJECT, fields={"age": 2}, baseline_fields={"age": 2}, baseline_lacks=""
)


def ram(encoding, point, side):
    flagged = round(20_000 * point.fraction)
    at = (encoding, point.fraction, point.placement, flagged)
    return Ram(*at, 7 << 12, 200 << 12, side, 0, 0, None)


def cpu(encoding, operation, point, ratio, reach=1.02):
    at = (encoding, operation, point.fraction, point.placement)
    return Cpu(*at, ratio, ratio / reach, ratio * reach, 1.5, 60, 8)


def rows_won_by(few, most, subject=SUBJECT):
    """Return rows in which one encoding needs least at 1 %, another at 100 %."""
    rows = [subject]
    for point, winner in ((FEW, few), (ALL, most)):
        rows.append(ram(BASELINE, point, 0))
        for name in NAMES:
            rows.append(ram(name, point, 4096 if name == winner else 1 << 20))
            rows.append(cpu(name, "fork", point, 1.25))
        rows.append(cpu(CONTROL, "fork", point, 1.0))
    return rows


def said(rows, provenance=None):
    return " ".join(verdict(rows, provenance))


@pytest.mark.parametrize("winner", NAMES)
def test_each_encoding_can_win(winner):
    text = said(rows_won_by(winner, winner))
    assert f"1% flagged at random, {winner} needs the least memory: 4.0 KiB" in text
    assert f"{winner} keeps the lead in memory at every measured fraction" in text
    assert f"CPU time of {winner} over in-PTE's" in text
    assert f"Against {winner}: its fork takes 1.25 times" in text


@pytest.mark.parametrize("other", [n for n in NAMES if n != "linked"])
def test_the_lead_changes_where_the_rows_say_so(other):
    text = said(rows_won_by("linked", other))
    assert f"goes from linked to {other} between 1% and 100% flagged" in text
    assert "where the latter needs 4.0 KiB" in text


def test_in_pte_words_win_if_the_fields_fit():
    rows = rows_won_by("hash", "hash", FITS)
    assert "age (2 bits a PTE) fits in a PTE on x86_64." in said(rows)
    assert "inpte needs the least memory: none beside the page tables" in said(rows)
    text = said(rows_won_by("hash", "hash"))
    assert "do not fit in a PTE: 8 free bits of a PTE are needed" in text
    assert "inpte needs" not in text


def test_an_uncertain_ratio_gives_no_more_than_a_bound():
    rows = [r for r in rows_won_by("hash", "hash") if not isinstance(r, Cpu)]
    wide = [*rows, cpu("hash", "scan", ALL, 1.5, reach=1.6)]
    assert "No ratio of hash is certain" in said(wide)
    far = said([*rows, cpu("hash", "scan", ALL, 20.0, reach=1.25)])
    assert "scan at least 16.0" in far
    assert "scan takes at least 16.0 times" in far
    floor = cpu(CONTROL, "scan", ALL, 1.0, reach=2.0)
    off = said([*rows, floor, cpu("hash", "scan", ALL, 1.5, reach=1.02)])
    assert "scan 1.50" in off
    shaky = dataclasses.replace(floor, ratio=1.5)
    off = said([*rows, shaky, cpu("hash", "scan", ALL, 1.5, reach=1.02)])
    assert "scan" not in off


def test_what_a_kernel_needs_speaks_against_the_winner():
    rows = [
        *rows_won_by("adjacent", "adjacent"),
        Demand("adjacent", SET_ASIDE, 4096.0, 0.0),
        Demand("adjacent", "first words", 4096.0, 1.0),
        Demand("linked", SET_ASIDE, 1024.0, 0.0),
    ]
    text = said(rows)
    assert "a kernel sets 4.0 KiB aside" in text
    assert "first words re-points a table, with one TLB flush more" in text
    assert "1.0 KiB" not in text


def test_shares_of_the_kernel_s_operations_are_of_this_machine_or_the_prototype():
    rows = rows_won_by("linked", "linked")
    assert "In a prototype of Linux 6.12.117 (shipped counts), linked adds" in said(
        rows
    )
    hashed = said(rows_won_by("hash", "hash"))
    assert "(shipped counts; it has no hash), linked adds" in hashed
    host = {
        "unit": "ns",
        "kernel": "6.12.1",
        "machine": "x86_64",
        "cpu": "A Processor",
        "date": "2026-11-23T00:00:00Z",
        "command": "extmeta calibrate",
        "small": 512,
        "large": 2560,
        "rounds": 9,
        "costs": [{"operation": "fork", "median": 50.0, "low": 49.0, "high": 51.0}],
        "refused": {},
    }
    # A quarter of 1.5 ns is 0.75 % of 50 ns.
    text = said(rows, {"calibration": {"host": host}})
    assert "on the calibrated machine that is +0.75% of fork, with every PTE" in text
    assert "prototype" not in text


def test_several_captures_are_counted_by_their_winners():
    second = dataclasses.replace(SUBJECT, name="redis", arch="arm64")
    rows = rows_won_by("linked", "linked") + rows_won_by("hash", "hash", second)
    text = said(rows)
    assert "linked needs the least memory in 1 of 2" in text
    assert "numpy on x86_64" in text
    assert "hash needs the least memory in 1 of 2" in text
    assert "redis on arm64" in text


@pytest.mark.parametrize("length", range(1, 36))
def test_rows_that_ended_early_have_a_verdict_or_none(length):
    rows = rows_won_by("linked", "hash")[:length]
    assert isinstance(verdict(rows), list)
    assert brief.text(rows, {})


def test_made_up_tables_do_not_speak_for_an_address_space():
    made_up = [
        dataclasses.replace(SUBJECT, name="full"),
        ram(BASELINE, Point(0.1, EACH), 0),
    ]
    made_up.append(ram("wide", Point(0.1, EACH), 4096))
    rows = rows_won_by("linked", "linked")
    assert verdict([*rows, *made_up]) == verdict(rows)
    assert "wide" in said(made_up)


@pytest.mark.parametrize("columns", [brief.COLUMNS, brief.LETTER_COLUMNS])
def test_the_brief_text_keeps_its_columns_and_is_short(columns):
    rows = rows_won_by("linked", "hash")
    rows += [
        cpu(n, op, p, 1.5) for n in NAMES for op in brief.OPERATIONS for p in (FEW, ALL)
    ]
    rows += [Demand(n, SET_ASIDE, 1024.0, 0.0) for n in NAMES]
    lines = brief.text(rows, {"kernel": "6.12.1"}, columns).splitlines()
    assert max(map(len, lines)) <= columns
    assert len(lines) <= 60


def test_a_letter_on_several_address_spaces_keeps_its_columns():
    other = dataclasses.replace(SUBJECT, name="redis")
    rows = rows_won_by("linked", "hash") + rows_won_by("linked", "hash", other)
    text = brief.text(rows, {}, brief.LETTER_COLUMNS)
    assert max(map(len, text.splitlines())) <= brief.LETTER_COLUMNS
    assert "numpy" in text
    assert "redis" in text


def test_a_form_equal_to_its_encoding_is_folded_away():
    form, rows = "adjacent:needed", rows_won_by("linked", "hash")
    rows += [ram(form, p, 1 << 20) for p in (FEW, ALL)]
    rows += [cpu(form, "fork", p, 1.25) for p in (FEW, ALL)]
    assert form not in brief.text(rows, {})
    rows[-1] = cpu(form, "fork", ALL, 2.5)
    assert brief.text(rows, {}).count(form) == 1
