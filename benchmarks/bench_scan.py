"""What does it cost to find the words that have a bit, and what must it cost?

The bound is the time of reading all PTE tables, measured in the same run: in
extra_info, and as a row of the summary. Only an encoding that need not read all
tables can be faster. The baseline is also timed by turns with reading an array of
that size, so that both find the caches alike.
"""

from extmeta.cost import tasks
from extmeta.cost.machine import reading
from extmeta.reports.bounds import bound_ns
from extmeta.rows import BASELINE, Ram


def bench_scan(paired, benchmark, bench, results, space, encoding, point):
    row = bench.time(paired, benchmark, "scan", space, encoding, point)
    subject, bound = results.heads[space.name]
    held = results.rows[space.name][Ram, BASELINE, None, row.fraction, row.placement]
    least = bound_ns(bound, "scan", held, subject.nr_ptes)
    benchmark.extra_info.update(
        read_bound_ns_per_pte=least,
        times_read_bound=row.ratio * row.baseline_ns / least,
    )
    if encoding == BASELINE:
        base, _ = bench.filled(space, encoding, point)
        paired(
            reading(bound.table_bytes),
            tasks.scan(base),
            name=f"{point} flagged",
            baseline_name="reading as many bytes",
            group=f"scan by {BASELINE}, {space.name}",
        )
