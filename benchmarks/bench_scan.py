"""What does it cost to find the words that have a bit, and what must it cost?

The bound is the time of reading all PTE tables, measured in the same run: in
extra_info, and as a row of the summary. Only who need not read them is below.
"""

from extmeta import report


def bench_scan(benchmark, bench, results, space, encoding, point):
    row = bench.time(benchmark, "scan", space, encoding, point)
    subject, bound = results.heads[space.name]
    bound_ns = report.bound_ns(bound, subject)
    benchmark.extra_info.update(
        read_bound_ns_per_pte=bound_ns,
        times_read_bound=row.ratio * row.baseline_ns / bound_ns,
    )
