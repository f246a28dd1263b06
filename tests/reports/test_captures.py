"""The tables over several captures."""

from extmeta.reports import comparison
from extmeta.rows import BASELINE, CONTROL, Cpu, Ram, Subject

HALF = 0.5, "random"


def rows(name, side, load):
    yield Subject(name, name, "x86_64", 100, 1, 0, 0, {"a": 1}, {"a": 1}, "", "one")
    for encoding, held in ((BASELINE, 0), ("linked", side)):
        yield Ram(encoding, *HALF, 50, 500, 500, held, 0, 0, None)
    for encoding, ratio in ((CONTROL, 1.0), ("linked", load)):
        yield Cpu(encoding, "load", *HALF, ratio, ratio, ratio, 1.0, 8, 1)


def text(*several):
    return comparison.text([row for each in several for row in rows(*each)], {})


def test_median_and_worst_are_named():
    out = text(("a", 100, 1.5), ("longer-than-that", 300, 1.25), ("c", 120, 3.0))
    table = out[out.index("over 3 captures") :].splitlines()
    lines = {line.split("  ")[0] or line.strip(): line.split() for line in table}
    assert lines["linked, median"][2:] == ["12.0%", "1.50"]
    at = table.index(next(line for line in table if "linked, median" in line))
    assert table[at + 1].split() == ["worst", "30.0%", "3.00"]
    assert table[at + 2].split() == ["worst", "is", "longer-t", "c"]
    assert max(map(len, out.splitlines())) <= 100


def test_few_captures_have_no_table_of_their_own():
    assert "captures:" not in text(("a", 100, 1.5), ("b", 300, 1.25))
    again = ("a", 100, 1.5)
    assert "captures:" not in text(again, again, again)
