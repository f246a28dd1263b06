"""What does it cost to store a word in every PTE of tables that have none?"""


def bench_store(paired, benchmark, bench, space, encoding, point):
    bench.time(paired, benchmark, "store", space, encoding, point)
