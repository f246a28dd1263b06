"""What memory allows, measured in the run, and how far operations are from it."""

from extmeta.reports.figures import nanoseconds, size
from extmeta.reports.layout import wrapped
from extmeta.reports.subjects import Comparison
from extmeta.rows import BASELINE, CONTROL, Bound, Cpu, Point, Ram

READ, WRITE, COPY = "near_bytes_per_s", "write_bytes_per_s", "copy_bytes_per_s"

# What each operation does to the memory that an encoding holds. An operation that finds
# what it needs in a part of it may take less time.
DOES = {
    "load": READ,
    "store": WRITE,
    "update": WRITE,
    "clear": READ,
    "scan": READ,
    "fork": COPY,
    "unmap": READ,
}


def bound_ns(bound: Bound | None, operation: str, held: Ram, nr_ptes: int) -> float:
    """Return the ns for each PTE that memory needs; 0 if that is not known.

    The PTE tables and the side memory are read, written or copied once.
    """
    if bound is None or not nr_ptes:
        return 0.0
    if operation == "random load":
        # A line of the PTE table, and one of the word if that is elsewhere.
        return bound.overlapped_ns * (2 if held.side + held.index else 1)
    does = DOES.get(operation, "")
    if operation == "clear" and held.flagged == nr_ptes:
        does = WRITE
    rate = float(getattr(bound, does, 0.0))
    nbytes = held.pte + held.side + held.index
    return 1e9 * nbytes / rate / nr_ptes if rate else 0.0


def times_bound(c: Comparison, row: Cpu) -> float:
    """Return an operation's time as a multiple of its bound; 0 if that is not known."""
    encoding = BASELINE if row.encoding == CONTROL else row.encoding
    held = c.ram.get((Point(row.fraction, row.placement), encoding))
    if held is None:
        return 0.0
    least = bound_ns(c.bound, row.operation, held, c.subject.nr_ptes)
    return row.ratio * row.baseline_ns / least if least else 0.0


def bound_line(c: Comparison) -> str:
    """Return what the bounds are, if operations were timed that have one."""
    bound = c.bound
    if not bound or not any(op in DOES for _p, _e, op in c.cpu):
        return ""
    tables = size(bound.table_bytes)
    said = f"bound: {tables} of PTE tables, "
    if bound.write_bytes_per_s:
        said += (
            f"read at {size(bound.near_bytes_per_s)}/s (load, clear, scan, unmap), "
            f"written at {size(bound.write_bytes_per_s)}/s (store, update; clear if all "
            f"are flagged) or copied at {size(bound.copy_bytes_per_s)}/s (fork). "
        )
    else:
        said += f"read at {size(bound.near_bytes_per_s)}/s. "
    said += (
        "An array of that size does so if it is used again and again; one of 64 MiB is "
        f"read at {size(bound.far_bytes_per_s)}/s."
    )
    if bound.miss_ns:
        said += (
            f" A read at random takes {nanoseconds(bound.miss_ns)} ns if it needs the one "
            f"before, and {nanoseconds(bound.overlapped_ns)} ns if 16 are under way."
        )
    return wrapped(said)
