"""What does it cost to clear a bit of every word over a range (clear_refs)?"""


def bench_clear(paired, benchmark, bench, space, encoding, point):
    bench.time(paired, benchmark, "clear", space, encoding, point)
