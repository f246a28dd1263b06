"""What do fork, update and unmap cost entry by entry, and a fork that writes and exits?

`compare` times these on a capture. Here tables are full; the command asks for 64,
with wide words:
`pytest benchmarks/bench_loops.py --space 64 --fields meta=64`.
"""

import pytest

from extmeta.cost import forks, loop_tasks
from extmeta.rows import Point

EVERY = Point(1.0, "")


@pytest.mark.parametrize("operation", loop_tasks.TASKS)
def bench_loops(paired, benchmark, bench, space, encoding, end, operation):
    task_of = loop_tasks.TASKS[operation]
    bench.time(paired, benchmark, operation, space, encoding, end, task_of)


@pytest.mark.parametrize("life", forks.TASKS)
def bench_lives(paired, benchmark, bench, space, encoding, life):
    bench.time(paired, benchmark, life, space, encoding, EVERY, forks.TASKS[life])
