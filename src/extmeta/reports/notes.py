"""The end of a comparison: how to read it, what it leaves out, its provenance."""

from collections.abc import Sequence
from typing import Any

from extmeta.reports.figures import size, trust_note
from extmeta.reports.layout import plain, wrapped
from extmeta.reports.subjects import Comparison
from extmeta.rows import BASELINE, CALL, CONTROL, LIVES, LOOPS

NOT_MODELLED = (
    "Not in the model, and so in none of these numbers: the TLB and the hardware "
    "walker, waiting for locks, the kernel's page allocator (ours has its pages at hand, "
    "and zeroes only tables), and, but entry by entry, references to struct page and "
    "write-protecting at fork."
)
LOOPS_SAY = (
    "Entry by entry, as in the kernel's loops, under the lock: each entry is tested, its "
    "page counted, and itself written. loop: a table's words are copied at once, shared, "
    "set or forgotten by one call of the encoding. each: each entry's flag is tested and "
    "its word copied alone. Left out: swap counts, large folios, the TLB, rmap, memory "
    "cgroups, the freeing of pages."
)
LIVES_SAY = (
    "Fork, write, exit: the child changes words and unmaps everything. tables: one word "
    "in that share of the tables; PTEs: that share of all words. Left out: the page fault "
    "before each write, and the copy of the page."
)
NO_HUGE = "Nor are huge pages, which have no word: there are none here."
HUGE = "Huge pages have no PTE, and so no word in any encoding."

UNMARKED = (
    "Huge pages have no PTE, and so no word in any encoding; the capture does not say "
    "which PTEs are in fact parts of them."
)


def notes_text(found: Sequence[Comparison]) -> str:
    """Return `notes`, broken to 100 columns."""
    return "\n".join(wrapped(line) for line in notes(found))


def notes(found: Sequence[Comparison]) -> list[str]:
    """Return how to read a comparison, and what it leaves out."""
    lines = []
    if any(c.cpu for c in found):
        processes = {row.processes for c in found for row in c.cpu.values()}
        lines.append(
            f"Ratios are of paired runs, median ± the longer side of the 95% interval "
            f"{_over(processes)}; below 1 is faster than {BASELINE}. {CONTROL}: "
            "another table of it, the noise floor."
        )
    if any(encoding == CALL for c in found for _point, encoding, _op in c.cpu):
        lines.append(
            f"{CALL}: the share of {BASELINE}'s time that it takes on a table of one PTE. "
            "Every encoding has about that time in common, so with c for this share and r "
            "for a ratio, (r - c) / (1 - c) is the ratio without it."
        )
    timed = {operation for c in found for _point, _encoding, operation in c.cpu}
    lines += [LOOPS_SAY] * (not timed.isdisjoint(LOOPS))
    lines += [LIVES_SAY] * (not timed.isdisjoint(map(str, LIVES)))
    lines += trust_note(
        (row, c.cpu.get((point, CONTROL, operation)))
        for c in found
        for (point, _encoding, operation), row in c.cpu.items()
    )
    slack = max((row.slack for c in found for row in c.ram.values()), default=0)
    if slack:
        lines.append(
            "Beside the tables: bytes of the objects that hold words, each rounded up to "
            "a size class. In pages, alone: bytes of the pages that these objects lie in, "
            f"if no other process uses them; up to {size(slack)} of that is free for more "
            "objects. On a machine, processes share these pages if they share a slab "
            "allocator: `python benchmarks/machine.py`."
        )
    huge = NO_HUGE
    if any(c.subject.nr_unmarked for c in found):
        huge = UNMARKED
    if any(c.subject.nr_huge or c.subject.nr_unplaced for c in found):
        huge = HUGE
    return [*lines, f"{NOT_MODELLED} {huge}"]


def _over(numbers: set[int]) -> str:
    """Return over how many processes intervals are."""
    least, most = min(numbers), max(numbers)
    if most == 1:
        return "over one process, from which others may differ by more"
    return f"over {least if least == most else f'{least} to {most}'} processes"


def made_line(provenance: dict[str, Any]) -> str:
    """Return `made`, broken to 100 columns."""
    return wrapped(made(provenance))


def made(provenance: dict[str, Any]) -> str:
    """Return the provenance of results in a line."""
    p = {key: plain(str(value)) for key, value in provenance.items()}
    commit = f" ({p['commit']})" if p.get("commit") else ""
    return (
        f"extmeta {p.get('extmeta')}{commit}, Linux {p.get('kernel')}, {p.get('cpu')}, "
        f"{p.get('cpus')} CPUs, Python {p.get('python')}, numpy {p.get('numpy')}, "
        f"seed {p.get('seed')}, {p.get('date')}"
    )
