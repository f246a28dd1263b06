"""What does it cost to drop PTEs and words over a range?"""


def bench_unmap(benchmark, bench, space, encoding, point):
    bench.time(benchmark, "unmap", space, encoding, point)
