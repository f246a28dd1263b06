"""What does it cost to store a word in every PTE of tables that have none?"""


def bench_store(benchmark, bench, space, encoding, point):
    bench.time(benchmark, "store", space, encoding, point)
