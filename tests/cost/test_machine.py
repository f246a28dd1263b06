"""Loops that bounds are measured with, and that all of them do their work."""

import numpy as np
import pytest

from extmeta.checks import CheckError
from extmeta.cost import bounds, machine, measure
from extmeta.cost.measure import Task

SIZE = machine.LEAST_BYTES

TASKS = {
    "read": lambda: machine.reading(SIZE),
    "write": lambda: machine.writing(SIZE),
    "copy": lambda: machine.copying(SIZE),
    "miss": lambda: machine.missing(SIZE, bounds.follow, 1),
    "overlapped": lambda: machine.missing(SIZE, bounds.follow_together, bounds.CHAINS),
}


@pytest.mark.parametrize("name", TASKS)
def test_every_loop_does_its_work_and_less_is_noticed(name):
    measure.verify(TASKS[name]())
    task = TASKS[name]()
    lazy = Task(task.ready, lambda _state: 0, task.check)
    with pytest.raises(CheckError):
        measure.verify(lazy)


def test_chains_reach_every_line_once():
    order = []
    at = np.zeros(1, np.uint64)

    def follow(chain, _at, _steps):
        for _ in range(len(chain) // machine.LINE_WORDS):
            bounds.follow(chain, at, 1)
            order.append(int(at[0]))

    task = machine.missing(1 << 16, follow, 1)
    task.run(task.ready())
    assert sorted(order) == [*range(0, (1 << 16) // 8, machine.LINE_WORDS)]


def test_chains_together_go_where_each_goes_alone():
    rng = np.random.default_rng(1)
    chain = rng.permutation(1000).astype(np.uint64)
    at = rng.integers(1000, size=bounds.CHAINS).astype(np.uint64)
    alone = [at[i : i + 1].copy() for i in range(bounds.CHAINS)]
    bounds.follow_together(chain, at, 77)
    for one in alone:
        bounds.follow(chain, one, 77)
    assert at.tolist() == [int(one[0]) for one in alone]
    with pytest.raises(ValueError, match="3 chains, not 16"):
        bounds.follow_together(chain, at[:3].copy(), 1)


def test_bounds_are_of_this_world():
    found = machine.bound_of(0)
    assert found.table_bytes == 0
    for rate in (
        found.near_bytes_per_s,
        found.far_bytes_per_s,
        found.write_bytes_per_s,
        found.copy_bytes_per_s,
    ):
        # From an old bus to ten times what caches give.
        assert 1e7 < rate < 1e13
    assert found.overlapped_ns > 0
    assert 0 < found.miss_ns < 1e6
