"""The map of an address space: how full its parts are, and what is flagged there."""

from collections.abc import Iterator

from extmeta.arch import arch_named
from extmeta.reports.document.pictures import Cell, Chart, Strip, Table
from extmeta.reports.figures import share, size
from extmeta.reports.layout import plain
from extmeta.reports.subjects import Comparison
from extmeta.rows import Point, Spread


def strip_charts(c: Comparison) -> Iterator[Chart]:
    """Yield a map with the flags of one point: the first with some but not all."""
    if not c.spreads:
        return
    point = next((p for p in c.spreads if 0 < p.fraction < 1), [*c.spreads][-1])
    yield _chart(c, point, c.spreads[point])


def _chart(c: Comparison, point: Point, spread: Spread) -> Chart:
    arch = arch_named(c.subject.arch)
    most = arch.ptrs_per_pte
    span = most * spread.cell_tables
    cells = []
    lines = []
    after = None
    for vpn, ptes, flagged in zip(
        spread.first_vpns, spread.ptes, spread.flagged, strict=True
    ):
        address = vpn << arch.page_shift
        cells.append(
            Cell(
                address,
                ptes / span,
                flagged / spread.cell_tables,
                gap=after is not None and vpn != after,
            )
        )
        after = vpn + span
        lines.append((f"{address:#x}", f"{ptes:,}", share(ptes, span), f"{flagged:,}"))
    gaps = sum(cell.gap for cell in cells)
    full = sum(cell.mapped > 0.9 for cell in cells)
    with_flags = sum(cell.flagged > 0 for cell in cells)
    what = (
        "a PTE table"
        if spread.cell_tables == 1
        else f"{spread.cell_tables:,} neighbouring PTE tables"
    )
    scale = f"{what}, {size(span << arch.page_shift)} of address space"
    alt = (
        f"{len(cells):,} cells in the order of their addresses, from "
        f"{lines[0][0] if lines else '0x0'} to {lines[-1][0] if lines else '0x0'}, with "
        f"{gaps:,} gap{'s' * (gaps != 1)} left out. Each is {scale}. "
        f"{full:,} are more than 90% mapped, {with_flags:,} have flagged "
        "PTEs."
    )
    table = Table(("address", "PTEs", "of all entries", "flagged"), tuple(lines))
    title = f"Address space of {plain(c.subject.name)}, {plain(str(point))} flagged"
    return Chart("map", title, alt, Strip(tuple(cells), most, scale), table)
