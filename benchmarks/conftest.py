"""What the benchmarks share: tables by encoding and point, pairs, and the summary.

Every bench_*.py asks one question of one operation. pytest-benchmark times and
stores it; `extmeta.cost.measure.paired` compares it with the baseline in the same
breath. The ratios and the RAM go into extra_info, and at the end into a table.
"""

from functools import cache

import pytest

from extmeta.arch import arch_named
from extmeta.captures.capture import load_capture, shipped
from extmeta.commands.arguments import DEFAULT_FIELDS, fields_of
from extmeta.cost import machine, measure, origin, placement, sweep, tasks
from extmeta.cost.forms import default_forms, fitting, form, left_out
from extmeta.cost.placement import PLACEMENTS
from extmeta.cost.space import full_tables, space_of
from extmeta.cost.tasks import Filled
from extmeta.reports import comparison
from extmeta.rows import BASELINE, CONTROL, Refused

# 2**18 PTEs, 1 GiB of mapped memory: 2 MiB of PTE tables, in one go 0.2 to 2 ms.
NR_TABLES = 512

# What pytest-benchmark stores; the ratios have samples of their own.
ROUNDS = 10

# Of a ratio: what it is given of the minutes that all of them may take.
PAIRED = {"rounds": 60, "budget_ns": 300_000_000}
PAIRED_QUICK = {"rounds": 60, "budget_ns": 100_000_000, "narrow": 0.05}

POINTS = placement.points(sweep.FRACTIONS, PLACEMENTS)
POINTS_QUICK = placement.points((0.0, 0.01, 1.0), ("random",))
ENDS = placement.points((0.0, 1.0), ())


def pytest_addoption(parser):
    group = parser.getgroup("extmeta")
    group.addoption("--quick", action="store_true", help="fewer points, fewer pairs")
    group.addoption(
        "--fields", default=DEFAULT_FIELDS, help="of a word (default: %(default)s)"
    )
    group.addoption(
        "--space",
        help="a capture's file or shipped name, or a number of full tables "
        f"(default: {NR_TABLES})",
    )
    group.addoption("--seed", type=int, default=0)


def pytest_generate_tests(metafunc):
    names = metafunc.fixturenames
    if "encoding" in names:
        metafunc.parametrize("encoding", default_forms())
    if "point" in names:
        quick = metafunc.config.getoption("quick")
        chosen = POINTS_QUICK if quick else POINTS
        # By name, since pytest-benchmark writes parameters as JSON.
        metafunc.parametrize("point", [*map(point_id, chosen)], indirect=True)
    if "end" in names:
        metafunc.parametrize("end", [*map(point_id, ENDS)], indirect=True)
    if "shipped_name" in names:
        metafunc.parametrize("shipped_name", shipped())


def point_id(point):
    return str(point).replace(" ", "-")


def _point_named(request):
    return {point_id(p): p for p in (*POINTS, *POINTS_QUICK, *ENDS)}[request.param]


point = pytest.fixture(_point_named, name="point")
end = pytest.fixture(_point_named, name="end")


def pytest_configure(config):
    if config.getoption("numprocesses", None):
        raise pytest.UsageError("benchmarks are timed one at a time: leave out -n")


class Results:
    """Rows of the session, by what they are about; told at the end."""

    def __init__(self):
        self.heads = {}
        self.rows = {}
        self.notes = []

    def begin(self, space, fields, bare):
        """Have rows of this space told under its own head."""
        if space.name not in self.heads:
            head = (
                sweep.subject_of(space, fields, bare),
                machine.bound_of(bare.memory().pte),
            )
            self.heads[space.name] = head
            self.rows[space.name] = {}

    def add(self, space, row):
        # Once each: the same table serves several benchmarks.
        key = (type(row), row.encoding, getattr(row, "operation", None))
        if not isinstance(row, Refused):
            key += (row.fraction, row.placement)
        self.rows[space.name][key] = row

    def all(self):
        forms = [BASELINE, CONTROL, *default_forms()]

        def place(row):
            point = (getattr(row, "fraction", 0), getattr(row, "placement", ""))
            return (*point, forms.index(row.encoding))

        for name, head in self.heads.items():
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
    return lambda *pair: measure.paired(*pair, seed=seed, **options)


@pytest.fixture(scope="session")
def space(request):
    """What is mapped: full synthetic tables, or the capture asked for."""
    given = request.config.getoption("space") or str(NR_TABLES)
    if given.isdecimal():
        return full_tables(int(given))
    return space_of(load_capture(shipped().get(given, given)), given)


@pytest.fixture(scope="session")
def new_bench(fields, seed, paired, results):
    return lambda: Bench(fields, seed, paired, results)


@pytest.fixture(scope="session")
def bench(new_bench):
    return new_bench()


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
        return fitting(self.fields, arch_named(space.arch), space.has_swap)

    def _words(self, space, point):
        return tasks.point_words(
            space, self.fields, self.kept(space), point, self.seed, "different"
        )

    def _bare(self, space, encoding):
        if encoding == BASELINE:
            return space.bare(BASELINE, self.kept(space))
        return space.bare(form(encoding), self.fields)

    def _base(self, space, point):
        return Filled(self.bare(space, BASELINE), self.words(space, point)[0])

    def filled(self, space, encoding, point):
        """Return the baseline's table and the encoding's; skip if it can't be."""
        self.results.begin(space, self.fields, self.bare(space, BASELINE))
        base = self.base(space, point)
        self.results.add(space, base.ram(BASELINE, point))
        words = self.words(space, point)[encoding != BASELINE]
        try:
            bare = self.bare(space, encoding)
            # The baseline is compared with another table of itself.
            other = Filled(bare.copy(), words)
        except Exception as error:  # noqa: BLE001 (left_out raises ours)
            refused = left_out(encoding, error)
            self.results.add(space, refused)
            pytest.skip(refused.why)
        if encoding != BASELINE:
            self.results.add(space, other.ram(encoding, point))
        return base, other

    def time(
        self, benchmark, operation, space, encoding, point, task_of=None, nr_ptes=None
    ):
        """Time an operation, alone and by turns with the baseline's.

        Parameters
        ----------
        benchmark : BenchmarkFixture
        operation : str
        space : Space
        encoding : str
        point : Point
        task_of : callable, optional
            Makes the task of a Filled; by default the operation of that name.
        nr_ptes : int, optional
            PTEs that each run is about; by default all.

        Returns
        -------
        Cpu
        """
        task_of = task_of or tasks.OPERATIONS[operation]
        base, other = self.filled(space, encoding, point)
        pair = task_of(base), task_of(other)
        alone(benchmark, f"{operation}, {point} flagged", pair[1])
        row = sweep.cpu_of(
            CONTROL if encoding == BASELINE else encoding,
            operation,
            point,
            nr_ptes or len(space.vpns),
            self.paired(*pair),
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
        self.remember(benchmark, other, other.ram(encoding, point))
        return row

    @staticmethod
    def remember(benchmark, filled, row):
        """Have a row of RAM stored with the benchmark, and what the words are in."""
        containers = getattr(filled.table.encoding, "containers", None)
        if containers:
            benchmark.extra_info["containers"] = containers()
        benchmark.extra_info.update(
            flagged=row.flagged,
            side_bytes=row.side,
            index_bytes=row.index,
            slack_bytes=row.slack,
            table_bytes=row.pte + row.upper,
            repointings=row.repointings,
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
    pending = []

    def ready():
        pending.append(task.ready())
        return (pending[-1],), {}

    def done(state):
        # `check` asks the state, not what was returned.
        task.check(state, None)
        task.done(state)
        pending.clear()

    benchmark.pedantic(
        task.run, setup=ready, teardown=done, rounds=ROUNDS, iterations=1
    )
    # With --benchmark-disable it runs once, and nothing is torn down.
    for state in [*pending]:
        done(state)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config):
    found = config.stash.get(RESULTS, None)
    if found is None or not (found.heads or found.notes):
        return
    provenance = origin.provenance(
        ["pytest", *config.invocation_params.args], config.getoption("seed")
    )
    terminalreporter.section("extmeta: paired ratios and RAM")
    if found.heads:
        terminalreporter.write_line(comparison.text(found.all(), provenance))
    for note in found.notes:
        terminalreporter.write_line(note)
