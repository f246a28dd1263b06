"""The result types, and the points of a sweep: data without behaviour.

Rows are frozen dataclasses in base units: bytes, nanoseconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

BASELINE = "inpte"

# The baseline with a count of words for each table, which side encodings have too.
INDEXED = f"{BASELINE}:indexed"

# A second table of the baseline, compared with the first: the noise floor.
CONTROL = f"{BASELINE} again"

# The baseline's operation on a table of one PTE: the part of its time that a call takes
# however few PTEs there are.
CALL = "a call alone"

# The operations that a sweep times, in the order of the report.
OPERATIONS = ("load", "store", "update", "clear", "scan", "fork", "unmap")

# Operations that are also timed as the kernel's loops do them; see `cost.loop_tasks`.
LOOPS = ("fork loop", "fork each", "update loop", "unmap loop")

# The placement of the crossover: an equal number of random PTEs in every PTE table.
EACH = "in each table"

# The stage that yields Demand rows.
DEMANDS = "what operations ask of a kernel"

# The operation of the Demand that says what to set aside before any operation.
SET_ASIDE = "set aside"

# The operation of a Cpu that is the sum of a workload's phases.
ALL_PHASES = "all"


@dataclass(frozen=True)
class Point:
    """How many PTEs are flagged, and how they lie.

    Attributes
    ----------
    fraction : float
        Share of all PTEs, in [0, 1].
    placement : str
        One of `PLACEMENTS`, or `EACH`; "" at 0 and 1, where it makes no difference.
    """

    fraction: float
    placement: str

    def __str__(self) -> str:
        return f"{100 * self.fraction:g}% {self.placement}".rstrip()


@dataclass(frozen=True)
class Life:
    """What a forked child does before it exits.

    Attributes
    ----------
    share : float
        In [0, 1].
    of : {"tables", "PTEs"}
        It writes one PTE in that share of the tables, or that share of all PTEs.
    """

    share: float
    of: str

    def __str__(self) -> str:
        return f"fork, write {100 * self.share:g}% of {self.of}, exit"


# Timed where every PTE has a word; see `cost.forks`. A share of 0 of the PTEs would be
# the same as one of the tables.
LIVES = (
    *(Life(share, "tables") for share in (0.0, 0.01, 0.1, 0.5, 1.0)),
    *(Life(share, "PTEs") for share in (0.01, 0.1, 0.5, 1.0)),
)


@dataclass(frozen=True)
class Subject:
    """What was compared: the first row of each comparison.

    Attributes
    ----------
    name, sha256, arch : str
        Of the capture; no sha256 if the tables are synthetic.
    nr_ptes, nr_tables : int
        PTEs, swap entries included; PTE tables.
    nr_huge : int
        2 MiB leaves, which have no PTE and so no word.
    present_bytes : int
        Huge pages included.
    fields, baseline_fields : dict of str to int
        Bits of each field, for all and for the baseline.
    baseline_lacks : str
        Why the baseline can't hold `fields`; empty if it can.
    words : str
        The kind of words: see `placement.words`.
    note : str
        How the address space differs from the captured one; empty if it does not.
    cleared : str
        Bits of the baseline's words and the flag that mprotect clears, as in "52-57".
    nr_deposited : int
        The anonymous ones among `nr_huge`, each with a deposited PTE table.
    nr_unplaced, nr_unmarked : int
        See `space.Space`.
    nr_distinct : int
        Different words if every PTE has one; 0 if that was not counted.
    """

    name: str
    sha256: str
    arch: str
    nr_ptes: int
    nr_tables: int
    nr_huge: int
    present_bytes: int
    fields: dict[str, int]
    baseline_fields: dict[str, int]
    baseline_lacks: str
    words: str
    note: str = ""
    cleared: str = ""
    nr_deposited: int = 0
    nr_unplaced: int = 0
    nr_unmarked: int = 0
    nr_distinct: int = 0


@dataclass(frozen=True)
class Bound:
    """What this machine's memory can do, a bound for what reads or writes all PTEs.

    Speeds are of repeated runs over an array as large as the tables, at least 1 MiB.

    Attributes
    ----------
    table_bytes : int
        PTE tables, all of which a scan has to read.
    near_bytes_per_s, write_bytes_per_s, copy_bytes_per_s : float
        Speed of reads, writes and copies; 0 if an older run did not measure it.
    far_bytes_per_s : float
        Speed of reads of an array of `machine.FAR_BYTES`.
    miss_ns, overlapped_ns : float
        Time of a read at random: of one that needs the one before, and of one of 16
        that are under way together.
    """

    table_bytes: int
    near_bytes_per_s: float
    far_bytes_per_s: float
    write_bytes_per_s: float = 0.0
    copy_bytes_per_s: float = 0.0
    miss_ns: float = 0.0
    overlapped_ns: float = 0.0


@dataclass(frozen=True)
class Refused:
    """An encoding that has no figures, or lacks some.

    Attributes
    ----------
    encoding : str
    why : str
        One line.
    where : str
        The figures it lacks, as in "1% random, load"; empty if it lacks all.
    """

    encoding: str
    why: str
    where: str = ""


@dataclass(frozen=True)
class Ram:
    """What an encoding holds at one point, in bytes.

    Attributes
    ----------
    encoding : str
    fraction : float
    placement : str
    flagged : int
        PTEs that have a word.
    upper, pte, side, index, slack : int
        As in `extmeta.Memory`.
    repointings : int or None
        How often a table in use had to move; None if the encoding never moves one.
    links : int
        Bytes of the tables' links and counts, 8 a table; not in `total`, since words of
        struct ptdesc that are idle hold them.
    """

    encoding: str
    fraction: float
    placement: str
    flagged: int
    upper: int
    pte: int
    side: int
    index: int
    slack: int
    repointings: int | None
    links: int = 0

    @property
    def total(self) -> int:
        """upper + pte + side + index."""
        return self.upper + self.pte + self.side + self.index

    @property
    def pages(self) -> int:
        """Whole pages that all of this lies in: `total` and `slack`."""
        return self.total + self.slack


@dataclass(frozen=True)
class Cpu:
    """What an operation costs in one encoding, as a multiple of the baseline.

    Attributes
    ----------
    encoding, operation : str
    fraction : float
    placement : str
    ratio, low, high : float
        Median of the pairs' ratios and its 95 % interval.
    baseline_ns : float
        Time of one PTE in the baseline: the median sample.
    pairs, repeat : int
        Pairs of samples; operations in each sample.
    waited : float
        Share of the time in which the thread that measured had no processor.
    processes : int
        How many processes measured the pairs. If there are several, the interval says
        what others would measure.
    """

    encoding: str
    operation: str
    fraction: float
    placement: str
    ratio: float
    low: float
    high: float
    baseline_ns: float
    pairs: int
    repeat: int
    waited: float = 0.0
    processes: int = 1


@dataclass(frozen=True)
class Counted:
    """The instructions of an operation for each PTE; ``fraction`` flagged at random."""

    encoding: str
    operation: str
    fraction: float
    instructions: float


@dataclass(frozen=True)
class Demand:
    """What an operation needs from a kernel beside time, for each PTE table.

    Attributes
    ----------
    encoding, operation : str
    aside : float or None
        Bytes it takes of the memory set aside, because a kernel can't allocate under
        the page-table lock; None if it may allocate, or the encoding can't tell.
    repointings : float
        Upper entries re-pointed from a table in use to another one, each with a TLB
        flush beyond those of the operation itself.
    """

    encoding: str
    operation: str
    aside: float | None
    repointings: float


@dataclass(frozen=True)
class Locked:
    """What a loop of the kernel does to a full PTE table under its lock.

    Attributes
    ----------
    encoding, operation : str
    held, held_most : float
        Instructions between lock and unlock: of a table on average, and the most that
        one locked section took.
    before, before_most : float
        Instructions of making room before the lock is taken, and of a fork's words.
    described : float
        Share of the locks under which the link or the count in the descriptor changes.
    """

    encoding: str
    operation: str
    held: float
    held_most: float
    before: float
    before_most: float
    described: float


@dataclass(frozen=True)
class Blocks:
    """The contiguous blocks of arm64 that words leave whole.

    Attributes
    ----------
    encoding : str
    fraction : float
    placement : str
    size : int
        PTEs of a block.
    without, whole : int
        Blocks there would be without words, and with them.
    known_by : str
        "PFNs", or "alignment" if these are not known: then both are upper bounds.
    """

    encoding: str
    fraction: float
    placement: str
    size: int
    without: int
    whole: int
    known_by: str

    @property
    def broken(self) -> int:
        """Blocks that words break."""
        return self.without - self.whole


@dataclass(frozen=True)
class Split:
    """What the split of anonymous huge pages takes; all PTEs of each get its word.

    Attributes
    ----------
    encoding : str
    leaves : int
        Huge pages that were split.
    nbytes : int
        Growth of the page table, which uses the deposited PTE tables.
    """

    encoding: str
    leaves: int
    nbytes: int

    def all(self, leaves: int) -> float:
        """Return the bytes that the split of so many huge pages takes."""
        return self.nbytes / self.leaves * leaves


@dataclass(frozen=True)
class Spread:
    """How the PTEs of an address space lie, and those that are flagged at one point.

    A cell is a PTE table, or several neighbours in a large address space. Cells without
    a PTE are left out.

    Attributes
    ----------
    fraction : float
    placement : str
    tables : list of int
        Number of PTE tables by flagged PTEs: with none, with 1, with 2 to 3, with 4 to
        7, and so on.
    cell_tables : int
        PTE tables that a cell spans.
    first_vpns : list of int
        First vpn that each cell can map, ascending.
    ptes, flagged : list of int
        PTEs of each cell, and those among them that have a word.
    """

    fraction: float
    placement: str
    tables: list[int]
    cell_tables: int
    first_vpns: list[int]
    ptes: list[int]
    flagged: list[int]


Row = (
    Subject
    | Bound
    | Refused
    | Ram
    | Cpu
    | Counted
    | Demand
    | Locked
    | Blocks
    | Split
    | Spread
)


@dataclass(frozen=True)
class Load:
    """What was played: the first row of each comparison.

    Attributes
    ----------
    name, question, parameters : str
    process, sha256, arch : str
    nr_pages, nr_vmas : int
    counts : dict of str to list of int
        The count of each round that has it.
    calls, ptes, words_made, faults : int
        See `play.Result`.
    phase_calls, phase_ptes : dict of str to int
        `calls` and `ptes` by phase.
    fields, baseline_fields : dict of str to int
    baseline_lacks : str
        Why the baseline can't hold `fields`; empty if it can.
    """

    name: str
    question: str
    parameters: str
    process: str
    sha256: str
    arch: str
    nr_pages: int
    nr_vmas: int
    counts: dict[str, list[int]]
    calls: int
    ptes: int
    words_made: int
    faults: int
    phase_calls: dict[str, int]
    phase_ptes: dict[str, int]
    fields: dict[str, int]
    baseline_fields: dict[str, int]
    baseline_lacks: str


@dataclass(frozen=True)
class Peak:
    """The most bytes that an encoding held beyond the baseline, at any time."""

    encoding: str
    extra_bytes: int


PlayedRow = Load | Peak | Refused | Cpu


def smallest(rows: Sequence[Row], before: str = "") -> str:
    """Return the smallest encoding beside the PTEs; "" if there is none.

    If several are equally small, ``before`` is preferred.
    """
    rams = [
        row
        for row in rows
        if isinstance(row, Ram) and row.encoding not in (BASELINE, INDEXED)
    ]
    least = min((row.total for row in rams), default=0)
    names = [row.encoding for row in rams if row.total == least]
    return before if before in names else names[0] if names else ""
