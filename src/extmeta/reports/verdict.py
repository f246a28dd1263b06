"""The verdict of a comparison: a few sentences with figures, from rows alone."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from extmeta.cost.kernel import prototype
from extmeta.reports import calibration as real
from extmeta.reports.figures import share, size, unstable
from extmeta.reports.kernel_shares import calibrations
from extmeta.reports.layout import plain
from extmeta.reports.subjects import Comparison, by_subject
from extmeta.rows import (
    BASELINE,
    CONTROL,
    EACH,
    INDEXED,
    SET_ASIDE,
    Cpu,
    Point,
    Row,
)

# The fraction of flagged PTEs at which the winner is chosen: few, but some.
FEW = 0.01

# Operations that sentences name, in their order.
TIMED = ("fork", "load", "store", "update", "scan")

# What operations are called in a sentence, if not by their name.
SAID = {"fork each": "fork, word by word,"}

# What a figure of RAM or CPU does not show.
CAVEATS = {
    "page_ext": "Words of page_ext belong to pages: PTEs of a page and forks share "
    "one, and a swapped page has none.",
    "wide": "wide needs hardware with entries of 16 bytes.",
    "compact": "compact refuses words that its constraints exclude.",
}

# In-PTE words, which take no memory.
IN_PTE = (BASELINE, INDEXED, "compact")


def verdict(rows: Iterable[Row], provenance: dict[str, Any] | None = None) -> list[str]:
    """Return what a comparison says, in at most five sentences or groups of them.

    An uncertain ratio gives no more than a bound; see `claims`.

    Parameters
    ----------
    rows : iterable of Row
        Those that one or more calls of `sweep.sweep` yield; they may end early.
    provenance : dict, optional
        What `origin.provenance` returns; its calibration of this machine's kernel is
        used.

    Returns
    -------
    list of str
        Empty if no PTE is flagged at any point, or nothing is compared.

    Raises
    ------
    ValueError
        If the first row is no Subject, or the calibration is malformed.
    """
    found = [c for c in by_subject(rows) if _flagged(c)]
    # Made-up tables say little about an address space that is there too.
    found = [c for c in found if not _made_up(c)] or found
    if len(found) > 1:
        return [*_of_several(found)]
    return [line for c in found for line in _of_one(c, provenance or {}) if line]


def rivals(c: Comparison) -> list[str]:
    """Return the encodings that can hold the fields, the baseline among them if so."""
    names = [BASELINE, *c.encodings]
    lacks = bool(c.subject.baseline_lacks)
    return [n for n in names if not (lacks and n in (BASELINE, INDEXED))]


def leaders(c: Comparison, point: Point) -> list[str]:
    """Return encodings by the pages they hold at a point, the fewest first.

    Among equals those with fewer bytes come first, then those named first.
    """
    held = {
        name: (extra, c.ram[point, name].total)
        for name in rivals(c)
        if (extra := c.extra_pages(point, name)) is not None
    }
    return sorted(held, key=held.__getitem__)


def headline(c: Comparison) -> Point | None:
    """Return the point nearest to 1 % at which PTEs are flagged, if there is one."""
    return min(_flagged(c), key=lambda at: abs(at.fraction - FEW), default=None)


def _headline(c: Comparison) -> Point:
    found = headline(c)
    if found is None:
        raise ValueError(f"{c.subject.name}: no PTE is flagged at any point")
    return found


def certain(c: Comparison, point: Point, encoding: str) -> dict[str, Cpu]:
    """Return the ratios of an encoding at a point that are not uncertain."""
    return {
        op: row
        for (at, name, op), row in c.cpu.items()
        if (at, name) == (point, encoding)
        and not unstable(row, c.cpu.get((point, CONTROL, op)))
    }


def claims(c: Comparison, point: Point, encoding: str) -> dict[str, str]:
    """Return what can be said of each operation's ratio, as in "at least 1.20".

    An uncertain ratio gives a bound if its interval, widened by the noise floor, leaves
    1 out.
    """
    sure = certain(c, point, encoding)
    said = {}
    for op in TIMED:
        row = c.cpu.get((point, encoding, op))
        if row is None:
            continue
        low, high = _bounds(c, row)
        if op in sure:
            said[op] = _times(row.ratio)
        elif low > 1:
            said[op] = f"at least {_times(low)}"
        elif high < 1:
            said[op] = f"at most {_times(high)}"
    return said


def _bounds(c: Comparison, row: Cpu) -> tuple[float, float]:
    """Return a ratio's interval, widened by what the baseline is off from itself."""
    floor = c.cpu.get((Point(row.fraction, row.placement), CONTROL, row.operation))
    off = 1.0 if floor is None else max(floor.high, 1 / floor.low, 1.0)
    return row.low / off, row.high * off


def _made_up(c: Comparison) -> bool:
    return any(point.placement == EACH for point in c.points)


def _flagged(c: Comparison) -> list[Point]:
    return [p for p in c.points if c.ram[p, BASELINE].flagged and leaders(c, p)]


def _of_one(c: Comparison, provenance: dict[str, Any]) -> Iterator[str]:
    point = _headline(c)
    winner = leaders(c, point)[0]
    yield _fit(c)
    yield _ram(c, point)
    yield _cpu(c, winner, provenance)
    yield _lead(c, point)
    yield _against(c, winner)


def _fit(c: Comparison) -> str:
    """Say whether the fields fit in the PTE."""
    s = c.subject
    names, bits = _listed([*map(plain, s.fields)]), sum(s.fields.values())
    what = f"{names} ({bits} bit{'s' * (bits > 1)} a PTE)"
    fit = "fits" if len(s.fields) == 1 else "fit"
    if not s.baseline_lacks:
        return f"{what} {fit} in a PTE on {plain(s.arch)}."
    but = f"{what} {'does' if fit == 'fits' else 'do'} not fit in a PTE"
    said = f"{but}: {plain(s.baseline_lacks)}."
    if s.baseline_fields != s.fields:
        has = ", ".join(f"{plain(n)}={w}" for n, w in s.baseline_fields.items())
        said += f" Every ratio is to in-PTE words of what fits: {has}."
    return said


def _ram(c: Comparison, point: Point) -> str:
    """Say what the winner holds where few and where most PTEs are flagged."""
    winner, *others = leaders(c, point)
    s, most = c.subject, max(_flagged(c), key=lambda at: at.fraction)
    full = f"{s.nr_ptes / s.nr_tables if s.nr_tables else 0:.0f} PTEs a table"
    said = f"With {full} and {_flags(point)}, {winner} needs the least memory: "
    if winner in IN_PTE:
        said += "none beside the page tables"
    else:
        said += _held(c, point, winner)
    outside = [name for name in others if name not in IN_PTE]
    if outside:
        equal = c.extra_pages(point, outside[0]) == c.extra_pages(point, winner)
        said += f"; {outside[0]} "
        said += "as much" if equal else f"follows with {_bytes(c, point, outside[0])}"
        # max() returns the first of equals.
        most_held = max(outside, key=lambda name: c.extra_pages(point, name) or 0)
        if most_held != outside[0]:
            said += f", and {most_held} needs most, {_bytes(c, point, most_held)}"
    said += "."
    shown = winner if winner not in IN_PTE else outside[0] if outside else ""
    if shown and most != point and (most, shown) in c.ram:
        said += f" With {_flags(most)}, {shown} needs {_held(c, most, shown)}."
    return said


def _bytes(c: Comparison, point: Point, encoding: str) -> str:
    return size(c.extra_pages(point, encoding) or 0)


def _held(c: Comparison, point: Point, encoding: str) -> str:
    """Return what an encoding holds in pages, also in percent of the page tables."""
    extra = c.extra_pages(point, encoding) or 0
    of = share(extra, c.ram[point, BASELINE].pages)
    return f"{size(extra)} in whole pages, {of} of the page tables"


def _cpu(c: Comparison, winner: str, provenance: dict[str, Any]) -> str:
    """Say what the winner costs operations, and the kernel's own."""
    if not c.cpu:
        return ""
    beside = winner
    if winner == BASELINE:
        others = [n for n in leaders(c, _headline(c)) if n not in IN_PTE]
        beside = others[0] if others else ""
    if not beside:
        return ""
    said = []
    for point in dict.fromkeys((_headline(c), _flagged(c)[-1])):
        if parts := claims(c, point, beside):
            told = _listed([f"{op} {text}" for op, text in parts.items()])
            said.append(f"with {_flags(point)}, {told}")
    if not said:
        text = f"No ratio of {beside} is certain on this machine, so none is claimed."
    else:
        text = f"CPU time of {beside} over in-PTE's: {'; '.join(said)}."
    return f"{text} {_in_a_kernel(c, beside, provenance)}".rstrip()


def _in_a_kernel(c: Comparison, encoding: str, provenance: dict[str, Any]) -> str:
    """Say what that adds to a kernel's operations, as measured here or as shipped."""
    host = calibrations(provenance).get("host")
    point = _flagged(c)[-1]
    parts = []
    if host:
        for ours, theirs, label in real.ALIKE:
            cost, row = host.cost(theirs), certain(c, point, encoding).get(ours)
            if cost and row and not real.wide(cost) and ours in TIMED:
                extra = (row.ratio - 1) * row.baseline_ns
                parts.append(f"{real.share(extra, cost)} of {label}")
    if parts:
        return (
            f"Of the kernel's own operations on the calibrated machine that is "
            f"{_listed(parts)}, with {_flags(point)}."
        )
    p = prototype.shipped()
    name = encoding.partition(":")[0]
    forms = [f for f in p.forms if f.startswith(f"{name},")]
    lacks = "" if forms else f"; it has no {name}"
    name = name if forms else "linked"
    added = {f: p.extra("fork_1st", f) for f in p.forms if f.startswith(f"{name},")}
    without = added.pop(f"{name}, no word")
    return (
        f"In a prototype of Linux {p.kernel.split(',')[0]} (shipped counts{lacks}), "
        f"{name} adds {min(added.values()):.1%} to {max(added.values()):.1%} to fork's "
        f"instructions, by how words are copied; with no word it takes {without:+.1%}."
    )


def _lead(c: Comparison, point: Point) -> str:
    """Say where another encoding becomes the one that needs the least memory."""
    along = sorted(
        (p for p in _flagged(c) if p.placement in ("", point.placement)),
        key=lambda p: p.fraction,
    )
    if len(along) < 2:
        return ""
    firsts = [leaders(c, p)[0] for p in along]
    changes = [i for i in range(1, len(along)) if firsts[i] != firsts[i - 1]]
    if not changes:
        return (
            f"{firsts[0]} keeps the lead in memory at every measured fraction, from "
            f"{100 * along[0].fraction:.3g}% to {100 * along[-1].fraction:.3g}%."
        )
    said = [
        f"from {firsts[i - 1]} to {firsts[i]} between {100 * along[i - 1].fraction:.3g}% "
        f"and {100 * along[i].fraction:.3g}% flagged"
        for i in changes
    ]
    last = along[changes[-1]]
    held = _bytes(c, last, firsts[changes[-1]])
    lead = f"The lead in memory goes {_listed(said)}, where the latter needs {held}."
    return f"{lead} {CAVEATS.get(firsts[changes[-1]], '')}".rstrip()


def _against(c: Comparison, winner: str) -> str:
    """Say what speaks against the winner."""
    said = []
    # A lower bound also holds for a ratio that is uncertain.
    ratios = [
        (row.ratio, "", op, at)
        if op in sure
        else (_bounds(c, row)[0], "at least ", op, at)
        for at in c.points
        for sure in (certain(c, at, winner),)
        for (point, name, op), row in c.cpu.items()
        if (point, name) == (at, winner)
    ]
    ratio, least, op, at = max(ratios, key=lambda r: r[0], default=(0, "", "", None))
    if at and ratio > 1:
        said.append(
            f"its {SAID.get(op, op)} takes {least}{_times(ratio)} times in-PTE's with {_flags(at)}"
        )
    if winner == BASELINE:
        said += _faster(c)
    aside = c.demands.get((winner, SET_ASIDE))
    if aside and aside.aside:
        said.append(
            f"a kernel sets {size(aside.aside)} aside before it works on a table under "
            "its lock"
        )
    moved = [
        op
        for (name, op), row in c.demands.items()
        if name == winner and row.repointings
    ]
    if moved:
        said.append(f"{_listed(moved)} re-points a table, with one TLB flush more")
    held = {op: row.held for (name, op), row in c.locked.items() if name == winner}
    if held:
        op = max(held, key=held.__getitem__)
        said.append(f"{op} holds the lock for {held[op]:,.0f} instructions a table")
    text = f"Against {winner}: {'; '.join(said)}." if said else ""
    return f"{text} {CAVEATS.get(winner, '')}".strip()


def _faster(c: Comparison) -> list[str]:
    """Say what is fastest in comparison with the baseline."""
    found = [
        (row.ratio, name, op, point)
        for point in _flagged(c)
        for name in rivals(c)
        for op, row in certain(c, point, name).items()
        if row.ratio < 1 and op in TIMED
    ]
    if not found:
        return []
    ratio, name, op, point = min(found, key=lambda f: f[0])
    return [
        f"{name} takes {_times(ratio)} of the time of its {op} with {_flags(point)}"
    ]


def _of_several(found: Sequence[Comparison]) -> Iterator[str]:
    """Say in how many comparisons each winner wins, and name them."""
    firsts = {id(c): leaders(c, _headline(c))[0] for c in found}
    wins = Counter(firsts.values())
    lacking = [c for c in found if c.subject.baseline_lacks]
    yield (
        f"In-PTE words can't hold the fields in {len(lacking)} of {len(found)} "
        "comparisons."
    )
    for name, times in wins.most_common():
        where = [c for c in found if firsts[id(c)] == name]
        held = [c.extra_pages(_headline(c), name) or 0 for c in where]
        calls = [_called(c, found) for c in where]
        of = f": {_among(calls, [_called(c, found) for c in found])}" * (
            times < len(found)
        )
        span = size(min(held))
        span += f" to {size(max(held))}" if max(held) > min(held) else ""
        yield (
            f"{name} needs the least memory in {times} of {len(found)}, {span} in whole "
            f"pages with {_flags(_headline(where[0]))}{of}."
        )


def _called(c: Comparison, found: Sequence[Comparison]) -> str:
    """Return what tells a comparison from the others: its name, its architecture."""
    name, arch = plain(c.subject.name), plain(c.subject.arch)
    if len({other.subject.name for other in found}) == 1:
        return arch
    return name if len({o.subject.arch for o in found}) == 1 else f"{name} on {arch}"


def _among(some: Sequence[str], there: Sequence[str]) -> str:
    """Return a list, or "all but" a shorter one."""
    others = [one for one in dict.fromkeys(there) if one not in some]
    if others and len(others) < len(set(some)):
        return f"all but {_listed(others)}"
    return _listed(list(dict.fromkeys(some)))


def _flags(point: Point) -> str:
    """Return how many PTEs are flagged, in words."""
    if point.fraction in (0, 1):
        return "every PTE flagged" if point.fraction else "no PTE flagged"
    how = {"random": "at random", "": ""}.get(point.placement, f"in {point.placement}")
    how = point.placement if point.placement == EACH else how
    return f"{100 * point.fraction:.3g}% flagged {how}".rstrip()


def _times(ratio: float) -> str:
    return f"{ratio:.{1 if ratio >= 9.95 else 2}f}"


def _listed(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
