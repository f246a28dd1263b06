"""What a report shows, apart from how it is drawn: sections, charts and tables."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """A table of text; each row has as many cells as the head."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Value:
    """A value with its interval; both ends are equal to it if it has none."""

    at: float
    low: float
    high: float


@dataclass(frozen=True)
class Dots:
    """Values of several series, side by side in rows.

    Attributes
    ----------
    axis : str
        What the values are, with their unit.
    rows : tuple of str
        Labels, from the top.
    series : dict of str to tuple of (Value or None)
        By its name: a value for each row.
    scale : {"ratio", "bytes", "percent"}
        Ratios and bytes are on a logarithmic axis; 0 bytes have a place of their own.
        Percent may be negative: the axis is linear up to 1 % and logarithmic beyond.
    floor : tuple of (Value or None)
        The noise floor of each row; empty if there is none.
    encodings : bool
        The series are encodings, which look alike in all charts.
    """

    axis: str
    rows: tuple[str, ...]
    series: dict[str, tuple[Value | None, ...]]
    scale: str
    floor: tuple[Value | None, ...] = ()
    encodings: bool = True


@dataclass(frozen=True)
class Curves:
    """Bytes for each flagged PTE, by the number of flagged PTEs in a table.

    Attributes
    ----------
    curves : dict of str to tuple of (int, float)
        By encoding: flagged PTEs in a table, and bytes for each of them.
    shares : dict of str to tuple of float
        By point of a real address space: the share of its PTE tables that have no
        flagged PTE, one, 2 to 3, 4 to 7, and so on.
    """

    curves: dict[str, tuple[tuple[int, float], ...]]
    shares: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Cell:
    """A part of an address space.

    ``mapped`` is the share of its PTEs that are there, ``flagged`` the number of those
    with a word in a PTE table. ``gap`` tells that the part before it is left out.
    """

    address: int
    mapped: float
    flagged: float
    gap: bool


@dataclass(frozen=True)
class Strip:
    """Cells of an address space by address.

    ``most`` is the number of a PTE table's entries; ``scale`` says what a cell is.
    """

    cells: tuple[Cell, ...]
    most: int
    scale: str


@dataclass(frozen=True)
class Chart:
    """A picture, and its data as a table.

    Attributes
    ----------
    name : str
        Part of a file's name: lower case letters, digits and "-".
    title : str
    alt : str
        What a reader sees in it, in sentences.
    picture : Dots, Curves or Strip
    table : Table
    """

    name: str
    title: str
    alt: str
    picture: Dots | Curves | Strip
    table: Table


@dataclass(frozen=True)
class Section:
    """A part of a report; its sentences come first.

    ``reading`` says how to read its charts, which not every format has.
    """

    title: str
    sentences: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: dict[str, Table] = field(default_factory=dict)
    reading: str = ""


@dataclass(frozen=True)
class Document:
    """A report: its title and its sections.

    ``encodings`` are all that charts show, in the order in which they get their looks.
    """

    title: str
    sections: tuple[Section, ...]
    encodings: tuple[str, ...]

    @property
    def charts(self) -> list[Chart]:
        """All charts, in order."""
        return [chart for section in self.sections for chart in section.charts]


def short_tables(section: Section, most: int) -> dict[str, Table]:
    """Return the tables of a section and of its charts up to ``most`` lines."""
    tables = {chart.title: chart.table for chart in section.charts} | section.tables
    return {title: table for title, table in tables.items() if len(table.rows) <= most}
