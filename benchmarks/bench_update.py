"""What does it cost to set a bit of every word over a range (write-protect)?"""


def bench_update(benchmark, bench, space, encoding, point):
    bench.time(benchmark, "update", space, encoding, point)
