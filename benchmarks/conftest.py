"""What the benchmarks share: tables by encoding and point, pairs, and the summary.

Every bench_*.py asks one question of one operation. pytest-benchmark times and
stores it; `extmeta.measure.paired` compares it with the baseline in the same
breath. The ratios and the RAM go into extra_info, and at the end into a table.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from extmeta import compare, measure, report, tasks, workload
from extmeta.arch import arch_named
from extmeta.capture import load_capture, shipped
from extmeta.cli import DEFAULT_FIELDS, fields_of
from extmeta.compare import BASELINE, CONTROL
from extmeta.measure import Bound, Cpu, Ram, Refused, Subject, Task
from extmeta.pagetable import PageTable
from extmeta.tasks import Filled
from extmeta.workload import PLACEMENTS, Point, Space

# 2**18 PTEs, 1 GiB of mapped memory: 2 MiB of PTE tables, in one go 0.2 to 2 ms.
NR_TABLES = 512

# What pytest-benchmark stores; the ratios have samples of their own.
ROUNDS = 10

# Of a ratio: what it is given of the minutes that all of them may take.
PAIRED = {"rounds": 15, "budget_ns": 300_000_000}
PAIRED_QUICK = {"rounds": 10, "budget_ns": 60_000_000}

POINTS = workload.points(compare.FRACTIONS, PLACEMENTS)
POINTS_QUICK = workload.points((0.0, 0.01, 1.0), ("random",))
ENDS = workload.points((0.0, 1.0), ())


def pytest_addoption(parser):
    group = parser.getgroup("extmeta")
    group.addoption("--quick", action="store_true", help="fewer points, fewer pairs")
    group.addoption(
        "--fields", default=DEFAULT_FIELDS, help="of a word (default: %(default)s)"
    )
    group.addoption(
        "--capture",
        help="a capture's file or shipped name, instead of synthetic full tables",
    )
    group.addoption("--seed", type=int, default=0)


def pytest_generate_tests(metafunc):
    names = metafunc.fixturenames
    if "encoding" in names:
        metafunc.parametrize("encoding", compare.default_forms())
    if "point" in names:
        quick = metafunc.config.getoption("quick")
        chosen = POINTS_QUICK if quick else POINTS
        metafunc.parametrize("point", chosen, ids=point_id)
    if "end" in names:
        metafunc.parametrize("end", ENDS, ids=point_id)
    if "shipped_name" in names:
        metafunc.parametrize("shipped_name", shipped())


def point_id(point):
    return str(point).replace(" ", "-")


class Results:
    """Rows of the session, by what they are about; told at the end."""

    def __init__(self):
        self.subjects = {}
        self.rows = {}

    def subject(self, space, fields, kept, lacks):
        """Have rows of this space told under this head."""
        if space.name in self.subjects:
            return
        base = space.bare(BASELINE, kept)
        subject = Subject(
            name=space.name,
            sha256=space.sha256,
            arch=space.arch,
            nr_ptes=len(space.vpns),
            nr_tables=len(base.tables),
            nr_huge=space.nr_huge,
            present_bytes=space.present_bytes,
            fields=dict(fields),
            baseline_fields=dict(kept),
            baseline_lacks=lacks,
            words="different",
        )
        table_bytes = base.memory().pte
        self.subjects[space.name] = (
            subject,
            Bound(table_bytes, measure.bandwidth(table_bytes), measure.bandwidth()),
        )
        self.rows[space.name] = {}

    def add(self, space, row):
        # Once each: the same table serves several benchmarks.
        key = (type(row), row.encoding, getattr(row, "operation", None))
        if not isinstance(row, Refused):
            key += (row.fraction, row.placement)
        self.rows[space.name][key] = row

    def all(self):
        forms = [BASELINE, CONTROL, *compare.default_forms()]

        def place(row):
            point = (getattr(row, "fraction", 0), getattr(row, "placement", ""))
            return (*point, forms.index(row.encoding))

        for name, head in self.subjects.items():
            yield from head
            yield from sorted(self.rows[name].values(), key=place)


@pytest.fixture(scope="session")
def results(request):
    found = Results()
    request.config.stash[RESULTS] = found
    return found


RESULTS = pytest.StashKey[Results]()


@pytest.fixture(scope="session")
def fields(request):
    return fields_of(request.config.getoption("fields"))


@pytest.fixture(scope="session")
def seed(request):
    return request.config.getoption("seed")


@pytest.fixture(scope="session")
def paired(request, seed):
    options = PAIRED_QUICK if request.config.getoption("quick") else PAIRED
    return lambda *tasks: measure.paired(*tasks, seed=seed, **options)


@pytest.fixture(scope="session")
def space(request):
    """What is mapped: full synthetic tables, or the capture asked for."""
    given = request.config.getoption("capture")
    if given is None:
        return workload.full_tables(NR_TABLES)
    return workload.captured(load_capture(shipped().get(given, given)), given)


@pytest.fixture(scope="session")
def bench(fields, seed, paired, results):
    return Bench(fields, seed, paired, results)


class Bench:
    """Runs operations on tables, and keeps what the session can use again."""

    def __init__(self, fields, seed, paired, results):
        self.fields = fields
        self.seed = seed
        self.paired = paired
        self.results = results
        self.words = cache(self._words)
        self.base = cache(self._base)
        self.bare = cache(self._bare)

    def kept(self, space):
        return compare.fitting(self.fields, arch_named(space.arch), space.has_swap)

    def begin(self, space):
        lacks = compare.lack(self.fields, arch_named(space.arch), space.has_swap)
        self.results.subject(space, self.fields, self.kept(space), lacks)

    def _words(self, space, point):
        return tasks.workloads(
            space, self.fields, self.kept(space), point, self.seed, "different"
        )

    def _bare(self, space, encoding):
        if encoding == BASELINE:
            return space.bare(BASELINE, self.kept(space))
        return space.bare(compare.form(encoding), self.fields)

    def _base(self, space, point):
        return Filled(self.bare(space, BASELINE), self.words(space, point)[0])

    def filled(self, space, encoding, point):
        """Return the baseline's table and the encoding's; skip if it can't be."""
        self.begin(space)
        base = self.base(space, point)
        self.results.add(space, base.ram(BASELINE, point))
        words = self.words(space, point)[encoding != BASELINE]
        try:
            bare = self.bare(space, encoding)
            # The baseline is compared with another table of itself.
            other = Filled(bare.fork(), words)
        except ValueError as error:
            self.results.add(space, Refused(encoding, str(error)))
            pytest.skip(str(error))
        if encoding != BASELINE:
            self.results.add(space, other.ram(encoding, point))
        return base, other

    def time(self, benchmark, operation, space, encoding, point, task_of=None):
        """Time an operation, alone and beside the baseline.

        Parameters
        ----------
        benchmark : BenchmarkFixture
        operation : str
        space : Space
        encoding : str
        point : Point
        task_of : callable, optional
            Makes the task of a Filled; by default the operation of that name.
        """
        task_of = task_of or tasks.OPERATIONS[operation]
        base, other = self.filled(space, encoding, point)
        self.compare(
            benchmark,
            operation,
            space,
            encoding,
            point,
            (task_of(base), task_of(other)),
            len(space.vpns),
        )
        remember_ram(benchmark, other.ram(encoding, point))

    def compare(self, benchmark, operation, space, encoding, point, pair, nr_ptes):
        """Time the second of two tasks, and both by turns.

        Parameters
        ----------
        benchmark, operation, space, encoding, point
            See `time`.
        pair : tuple of Task
            The baseline's, and the encoding's.
        nr_ptes : int
            PTEs that each run is about.
        """
        alone(benchmark, f"{operation}, {point} flagged", pair[1])
        found = self.paired(*pair)
        row = Cpu(
            encoding=CONTROL if encoding == BASELINE else encoding,
            operation=operation,
            fraction=point.fraction,
            placement=point.placement,
            ratio=found.ratio,
            low=found.low,
            high=found.high,
            baseline_ns=found.baseline_ns / nr_ptes,
            pairs=found.pairs,
            repeat=found.repeat,
        )
        self.results.add(space, row)
        benchmark.extra_info.update(
            encoding=encoding,
            point=str(point),
            ratio=row.ratio,
            low=row.low,
            high=row.high,
            baseline_ns_per_pte=row.baseline_ns,
            pairs=row.pairs,
        )


def alone(benchmark, group, task):
    """Have pytest-benchmark time a task, and check its result."""
    benchmark.group = group
    if not task.each:
        state = task.ready()
        repeat = measure.calibrate(task)
        result = benchmark.pedantic(
            task.run, (state,), rounds=ROUNDS, iterations=repeat
        )
        task.check(state, result)
        task.done(state)
        return
    checked = []

    def ready():
        return (task.ready(),), {}

    def done(state):
        # The last run's too: `check` asks the state, not what was returned.
        if not checked:
            task.check(state, None)
            checked.append(True)
        task.done(state)

    benchmark.pedantic(
        task.run, setup=ready, teardown=done, rounds=ROUNDS, iterations=1
    )
    assert checked


def remember_ram(benchmark, row):
    benchmark.extra_info.update(
        flagged=row.flagged,
        side_bytes=row.side,
        index_bytes=row.index,
        slack_bytes=row.slack,
        table_bytes=row.pte + row.upper,
        repointings=row.repointings,
    )


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config):
    found = config.stash.get(RESULTS, None)
    if found is None or not found.subjects:
        return
    provenance = measure.provenance(
        ["pytest", *config.invocation_params.args], config.getoption("seed")
    )
    terminalreporter.section("extmeta: paired ratios and RAM")
    terminalreporter.write_line(report.text(found.all(), provenance))
