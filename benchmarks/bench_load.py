"""What does it cost to load every word, by an ascending array of vpns?"""


def bench_load(benchmark, bench, space, encoding, point):
    bench.time(benchmark, "load", space, encoding, point)
