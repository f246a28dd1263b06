"""The head of a comparison: what was compared, and which encodings lack figures."""

from collections.abc import Iterator, Sequence

from extmeta.reports.figures import size
from extmeta.reports.layout import plain, wrapped
from extmeta.reports.subjects import Comparison
from extmeta.rows import BASELINE, Refused, Subject

# What `placement.words` calls kinds of words.
WORDS = {
    "one": "the same word for all PTEs",
    "few": "one of eight words for each PTE",
    "byte": "random words of 8 bits",
    "different": "as different as their bits allow",
}


def head(c: Comparison) -> str:
    """Return `head_lines`, broken to 100 columns."""
    return "\n".join(wrapped(line, indent=2) for line in head_lines(c))


def head_lines(c: Comparison) -> list[str]:
    """Return what was compared, its words, and which encodings lack figures."""
    s = c.subject
    base = next((row for (_p, name), row in c.ram.items() if name == BASELINE), None)
    tables = "" if base is None else f", {size(base.total)} of page tables"
    huge = f" ({s.nr_huge:,} huge pages)" if s.nr_huge else ""
    if s.nr_deposited:
        huge = f" ({s.nr_huge:,} huge pages, {s.nr_deposited:,} of them anonymous)"
    what = (
        f"{plain(s.name)}: {s.nr_ptes:,} PTEs in {s.nr_tables:,} PTE tables "
        f"({s.nr_ptes / s.nr_tables if s.nr_tables else 0:.0f} a table){tables}, "
        f"{size(s.present_bytes)} present{huge}; {plain(s.arch)}"
    )
    lines = [what, words_line(s)]
    if s.note:
        lines.append(f"{plain(s.note)[:1].upper()}{plain(s.note)[1:]}.")
    if s.nr_unplaced:
        lines.append(
            f"{s.nr_unplaced:,} huge pages are counted as 512 PTEs each: the kernel did "
            "not tell where they are."
        )
    if s.nr_unmarked:
        lines.append(
            f"Up to {s.nr_unmarked:,} anonymous huge pages may be counted as 512 PTEs "
            "each: this capture was made before they were marked. A new one tells."
        )
    if s.baseline_lacks:
        instead = (
            "The same PTEs are flagged. Their words are cut to these bits, none to 0"
            if s.baseline_fields.keys() <= s.fields.keys()
            else "It is a tracker that Linux owns there, set if a PTE is flagged"
        )
        lines.append(
            f"{BASELINE} can't hold them: {plain(s.baseline_lacks)}. As denominator it "
            f"has {fields_text(s.baseline_fields)}. {instead}."
        )
    if s.cleared:
        lines.append(
            f"mprotect clears bits of a present PTE ({plain(s.cleared)}) in which "
            f"{BASELINE} has words or other encodings have the flag. A kernel that uses "
            "them has to add them to _PAGE_CHG_MASK, which is one line."
        )
    return [*lines, *refused_lines(c.refused)]


def refused_lines(rows: Sequence[Refused]) -> Iterator[str]:
    """Yield a sentence for each encoding and reason."""
    whole = {row.encoding for row in rows if not row.where}
    places: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if not row.where or row.encoding not in whole:
            places.setdefault((row.encoding, row.why), []).append(row.where)
    for (name, why), where in places.items():
        lacks = "is left out"
        if all(where):
            lacks = f"lacks figures for {'; '.join(map(plain, dict.fromkeys(where)))}"
        yield f"{plain(name)} {lacks}: {plain(why)}."


def words_line(s: Subject) -> str:
    """Return a sentence on the words."""
    distinct = (
        f": {s.nr_distinct:,} distinct ones if all {s.nr_ptes:,} PTEs have one"
        if s.nr_distinct
        else ""
    )
    kind = WORDS.get(s.words, plain(s.words))
    return f"Words of {fields_text(s.fields)}, {kind}{distinct}."


def fields_text(fields: dict[str, int]) -> str:
    """Return fields with their widths."""
    bits = sum(fields.values())
    named = ", ".join(f"{plain(name)}={width}" for name, width in fields.items())
    return f"{named} ({bits} bit{'s' if bits > 1 else ''})"
