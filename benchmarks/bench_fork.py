"""What does it cost to copy PTEs and words to a second table?"""


def bench_fork(paired, benchmark, bench, space, encoding, point):
    bench.time(paired, benchmark, "fork", space, encoding, point)
