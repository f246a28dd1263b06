"""What does it cost to load every word, by an ascending array of vpns?"""


def bench_load(paired, benchmark, bench, space, encoding, point):
    bench.time(paired, benchmark, "load", space, encoding, point)
