"""What does it cost to copy PTEs and words to a second table?"""


def bench_fork(benchmark, bench, space, encoding, point):
    bench.time(benchmark, "fork", space, encoding, point)
