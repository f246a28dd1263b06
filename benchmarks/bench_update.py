"""What does it cost to set a bit of every word over a range (write-protect)?"""


def bench_update(paired, benchmark, bench, space, encoding, point):
    bench.time(paired, benchmark, "update", space, encoding, point)
