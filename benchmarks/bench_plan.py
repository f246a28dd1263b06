"""How long does the planner take, and what do codes cost against the same bits?

The planner is timed by pytest-benchmark, alone. `compact` is timed by turns with
`inpte`, on words of 8 bits, two of which exclude each other: `inpte` holds the bits,
`compact` a code. Fields that only `compact` can hold have no ratio.
"""

import dataclasses
from functools import cache

import numpy as np
import pytest

import extmeta as em
from extmeta.cost import sweep, tasks
from extmeta.cost.space import full_tables
from extmeta.rows import BASELINE, CONTROL, OPERATIONS, Point

FIELDS = em.Fields(uffd_wp=1, soft_dirty=1, age=6)
EXCLUDES = [("uffd_wp", "soft_dirty")]
POINT = Point(1.0, "")
NR_TABLES = 512


def problem(nr_fields, nr_constraints):
    """Return random fields, and constraints that leave each of them of use."""
    rng = np.random.default_rng(1)
    fields = em.Fields(**{f"f{i}": 1 + i % 2 for i in range(nr_fields)})
    names = np.array(list(fields))
    given = {"excludes": [], "implies": [], "per_vma": [("f0", "f1")]}
    nr = 1
    while nr < nr_constraints:
        kind = "implies" if nr % 3 == 0 else "excludes"
        pair = [str(name) for name in rng.choice(names, 2, replace=False)]
        given[kind].append(pair)
        try:
            em.plan(fields, **given)
            nr += 1
        except em.PlanConflict:
            given[kind].pop()
    return fields, given


@pytest.mark.parametrize(
    ("nr_fields", "nr_constraints"), [(12, 20), (40, 40), (120, 90)]
)
def bench_plan(benchmark, nr_fields, nr_constraints):
    fields, given = problem(nr_fields, nr_constraints)
    benchmark.group = "plan"
    found = benchmark(em.plan, fields, **given)
    benchmark.extra_info.update(combinations=str(found.combinations), bits=found.bits)


@cache
def filled():
    """Return tables with the same legal words: the baseline's, another, compact's."""
    space = dataclasses.replace(
        full_tables(NR_TABLES),
        name=f"{NR_TABLES} full tables, {' and '.join(EXCLUDES[0])} excluding each other",
    )
    codes = em.plan(FIELDS, excludes=EXCLUDES).codes()
    some = np.array([word for word in codes if word], np.uint64)
    words = np.random.default_rng(0).choice(some, len(space.vpns))
    # A bit that every word may have.
    bit = 1 << FIELDS.shift("age")
    load = tasks.PointWords(space, FIELDS, words, space.vpns, words, bit, bit)
    compact = space.build(em.Compact(excludes=EXCLUDES), FIELDS)
    bare = space.build(BASELINE, FIELDS)
    return space, bare, *(tasks.Filled(t, load) for t in (bare, bare.fork(), compact))


@pytest.mark.parametrize("operation", OPERATIONS)
def bench_codes(paired, results, operation):
    space, bare, base, again, compact = filled()
    results.begin(space, FIELDS, bare)
    task_of = tasks.OPERATIONS[operation]
    for name, other in (("compact", compact), (CONTROL, again)):
        found = paired(
            task_of(base),
            task_of(other),
            name=name,
            baseline_name=BASELINE,
            group=f"{operation} of codes",
            table=False,
        )
        row = sweep.cpu_of(name, operation, POINT, len(space.vpns), found)
        results.add(space, row)
    results.add(space, base.ram(BASELINE, POINT))
    results.add(space, compact.ram("compact", POINT))
