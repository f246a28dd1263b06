"""What does it cost to drop PTEs and words over a range?"""


def bench_unmap(paired, benchmark, bench, space, encoding, point):
    bench.time(paired, benchmark, "unmap", space, encoding, point)
