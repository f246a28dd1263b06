"""Charts of RAM: by point, and bytes a flagged PTE by the flags of a table."""

from collections.abc import Iterator, Sequence

from extmeta.reports.crossover import leads
from extmeta.reports.document.dots import dots_chart
from extmeta.reports.document.pictures import Chart, Curves, Section, Table, Value
from extmeta.reports.figures import count, for_each, share, size
from extmeta.reports.head import WORDS
from extmeta.reports.layout import plain
from extmeta.reports.subjects import Comparison
from extmeta.rows import BASELINE


def crossover_section(
    crossovers: Sequence[Comparison], spaces: Sequence[Comparison]
) -> Section:
    """Return bytes a flagged PTE, with how many flags the spaces' tables have."""
    sentences = []
    charts = []
    for c in crossovers:
        s = c.subject
        of = f"{plain(s.arch)}, words: {WORDS.get(s.words, plain(s.words))}"
        led = [
            f"{plain(lead)} {'at' if first == last else f'from {first:,} to'} {last:,}"
            for lead, first, last in leads(c)
            if lead
        ]
        if led:
            sentences.append(
                f"Smallest by the number of flagged PTEs in a table ({of}): "
                f"{'; '.join(led)}."
            )
        charts.append(_crossover_chart(c, of, spaces))
    reading = "Both axes are logarithmic, so 0 bytes are not drawn."
    if charts and any(c.spreads for c in spaces):
        names = ", ".join(plain(c.subject.name) for c in spaces if c.spreads)
        reading += (
            f" The upper panel shows how many flagged PTEs the PTE tables of {names} "
            "have."
        )
    title = "Where the lead changes"
    return Section(title, tuple(sentences), tuple(charts), reading=reading)


def _crossover_chart(c: Comparison, of: str, spaces: Sequence[Comparison]) -> Chart:
    flagged = {point: c.ram[point, BASELINE].flagged for point in c.points}
    nr_tables = c.subject.nr_tables or 1
    curves: dict[str, tuple[tuple[int, float], ...]] = {}
    for name in c.encodings:
        extra = {point: c.extra(point, name) for point in c.points}
        curves[plain(name)] = tuple(
            (flagged[point] // nr_tables, nbytes / flagged[point])
            for point, nbytes in extra.items()
            if nbytes is not None and flagged[point]
        )
    shares = {}
    for space in spaces:
        for point, spread in space.spreads.items():
            # Unflagged tables are no part of the question.
            if point.fraction:
                name = f"{space.subject.name}, {point}" if spaces[1:] else str(point)
                all_ = sum(spread.tables) or 1
                shares[plain(name)] = tuple(n / all_ for n in spread.tables)
    heads = ("flagged a table", *curves)
    at = [dict(curve) for curve in curves.values()]
    lines = tuple(
        (f"{each:,}", *(f"{of[each]:,.2f}" if each in of else "-" for of in at))
        for each in sorted({each for curve in at for each in curve})
    )
    ends = "; ".join(
        f"{name} from {curve[0][1]:,.1f} to {curve[-1][1]:,.1f}"
        for name, curve in curves.items()
        if curve
    )
    alt = (
        "Lines of bytes a flagged PTE against flagged PTEs in a table. From the least "
        f"flags to the most: {ends}."
    )
    title = f"Bytes a flagged PTE ({of})"
    return Chart("crossover", title, alt, Curves(curves, shares), Table(heads, lines))


def ram_charts(c: Comparison) -> Iterator[Chart]:
    """Yield the chart of what each encoding holds beside the page tables."""
    cells = {}
    texts = {}
    points = [plain(str(point)) for point in c.points]
    for point in c.points:
        for name in c.encodings:
            nbytes = c.extra(point, name)
            if nbytes is not None:
                at = plain(name), plain(str(point))
                cells[at] = Value(nbytes, nbytes, nbytes)
                base = c.ram[point, BASELINE]
                texts[at] = f"{size(nbytes)} ({share(nbytes, base.total)})"
    if cells:
        yield dots_chart(
            "ram",
            f"RAM beside the page tables of {plain(c.subject.name)}",
            "Bytes beside the page tables",
            "bytes",
            [plain(name) for name in c.encodings],
            points,
            cells,
            lambda row, point: texts[row, point],
            encodings=False,
        )


def each_table(c: Comparison) -> Table:
    """Return bytes for each flagged PTE, by encoding and point."""
    points = [point for point in c.points if c.ram[point, BASELINE].flagged]
    lines = [("PTEs flagged", *(count(c.ram[p, BASELINE].flagged) for p in points))]
    for name in c.encodings:
        extras = [c.extra(point, name) for point in points]
        cells = [
            "-" if extra is None else for_each(extra, c.ram[point, BASELINE].flagged)
            for point, extra in zip(points, extras, strict=True)
        ]
        lines.append((plain(name), *cells))
    return Table(("encoding", *(plain(str(p)) for p in points)), tuple(lines))
