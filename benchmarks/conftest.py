"""What the benchmarks share: tables by encoding and point, pairs, and the summary.

Every bench_*.py asks one question of one operation. The fixture `paired` of
`extmeta.pytest_plugin` compares it with the baseline, and has pytest-benchmark time
and store it. The ratios and the RAM go into extra_info, and at the end into a table.
"""

from functools import cache, partial
from pathlib import Path

import pytest
from options import capture, from_0, from_1

from extmeta.arch import arch_named
from extmeta.captures.capture import shipped
from extmeta.commands.arguments import DEFAULT_FIELDS, fields_of, refusing
from extmeta.cost import machine, origin, placement, sweep, tasks
from extmeta.cost.forms import default_forms, fitting, form, left_out
from extmeta.cost.placement import PLACEMENTS
from extmeta.cost.space import full_tables, space_of
from extmeta.cost.tasks import Filled
from extmeta.reports import comparison, cpu, head, notes, subjects
from extmeta.reports.figures import size
from extmeta.reports.layout import add_row, new_table, rendered
from extmeta.rows import BASELINE, CONTROL, Refused

# 2**18 PTEs, 1 GiB of mapped memory: 2 MiB of PTE tables.
NR_TABLES = 512

# Rounds and time of each ratio, so that all of them take some minutes.
PAIRED = {"rounds": 60, "budget_ns": 300_000_000}
PAIRED_QUICK = {"rounds": 60, "budget_ns": 55_000_000, "narrow": 0.05}

# What pytest-benchmark spends on a test that leaves the number of rounds to it.
QUICK_SECONDS = 0.1

POINTS = placement.points(sweep.FRACTIONS, PLACEMENTS)
POINTS_QUICK = placement.points((0.0, 0.01, 1.0), ("random",))
ENDS = placement.points((0.0, 1.0), ())

# A report of more lines goes into the file, and only a part of it to the terminal.
SHORT = 100
REPORT = Path(".benchmarks", "report.txt")


def pytest_addoption(parser):
    group = parser.getgroup("extmeta")
    group.addoption("--quick", action="store_true", help="fewer points, fewer pairs")
    group.addoption(
        "--fields",
        type=refusing(fields_of),
        default=DEFAULT_FIELDS,
        help="of a word (default: %(default)s)",
    )
    group.addoption(
        "--space",
        type=space_given,
        default=str(NR_TABLES),
        help="a capture's file or shipped name, or a number of full tables "
        "(default: %(default)s)",
    )
    group.addoption("--seed", type=from_0, default=0)
    group.addoption(
        "--full", action="store_true", help=f"print all that {REPORT} would have"
    )


def space_given(text):
    """Return what is mapped: full synthetic tables, or the capture asked for."""
    return full_tables(from_1(text)) if text.isdecimal() else space_of(*capture(text))


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


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    option = config.option
    # pytest-benchmark's tables are 235 columns wide and have no ratio.
    asked = (
        option.benchmark_columns,
        option.benchmark_compare,
        option.benchmark_histogram,
    )
    option.benchmark_quiet = not (option.benchmark_verbose or any(asked))
    option.no_header = not option.verbose
    if option.quick:
        option.benchmark_max_time = QUICK_SECONDS
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

        for name, rows in self.heads.items():
            yield from rows
            yield from sorted(self.rows[name].values(), key=place)


@pytest.fixture(scope="session")
def results(request):
    found = Results()
    request.config.stash[RESULTS] = found
    return found


RESULTS = pytest.StashKey[Results]()


@pytest.fixture(scope="session")
def fields(request):
    return request.config.getoption("fields")


@pytest.fixture(scope="session")
def seed(request):
    return request.config.getoption("seed")


@pytest.fixture
def paired(request, paired, benchmark, seed):
    """The plugin's fixture, in less time; pytest-benchmark stores what it finds."""
    options = PAIRED_QUICK if request.config.getoption("quick") else PAIRED
    return partial(paired, floor=False, seed=seed, **options)


@pytest.fixture(scope="session")
def space(request):
    return request.config.getoption("space")


@pytest.fixture(scope="session")
def new_bench(fields, seed, results):
    return lambda: Bench(fields, seed, results)


@pytest.fixture(scope="session")
def bench(new_bench):
    return new_bench()


class Bench:
    """Runs operations on tables, and keeps what the session can use again."""

    def __init__(self, fields, seed, results):
        self.fields = fields
        self.seed = seed
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
            pytest.skip(
                f"{encoding} can't hold the words or can't do it: see the report"
            )
        if encoding != BASELINE:
            self.results.add(space, other.ram(encoding, point))
        return base, other

    def time(
        self,
        paired,
        benchmark,
        operation,
        space,
        encoding,
        point,
        task_of=None,
        nr_ptes=None,
    ):
        """Time an operation, alone and by turns with the baseline's.

        Parameters
        ----------
        paired, benchmark
            The fixtures.
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
        found = paired(
            task_of(base),
            task_of(other),
            name=encoding,
            baseline_name=BASELINE,
            group=f"{operation}, {point} flagged",
            table=False,
        )
        name = CONTROL if encoding == BASELINE else encoding
        row = sweep.cpu_of(name, operation, point, nr_ptes or len(space.vpns), found)
        self.results.add(space, row)
        benchmark.extra_info.update(baseline_ns_per_pte=row.baseline_ns)
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


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config):
    found = config.stash.get(RESULTS, None)
    if found is None or not (found.heads or found.notes):
        return
    provenance = origin.provenance(
        ["pytest", *config.invocation_params.args], config.getoption("seed")
    )
    report = [comparison.text(found.all(), provenance)] if found.heads else []
    text = "\n".join([*report, *found.notes])
    if config.getoption("full") or not report or text.count("\n") < SHORT:
        terminalreporter.section("extmeta: paired ratios and RAM")
        terminalreporter.write_line(text)
        return
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(f"{text}\n")
    terminalreporter.section("extmeta: paired ratios and RAM, in short")
    terminalreporter.write_line(short(subjects.by_subject(found.all()), provenance))
    terminalreporter.write_line(f"\n{REPORT} has all points, tables and workloads.")


def short(found, provenance):
    """Return the most important of some comparisons: the first space, a few points."""
    first, *_others = found
    first.ram = {key: r for key, r in first.ram.items() if key[0] in POINTS_QUICK}
    first.cpu = {
        key: row
        for key, row in first.cpu.items()
        if key[0] in POINTS_QUICK and key[2] in tasks.OPERATIONS
    }
    parts = [head.head(first), ram_table(first), *cpu.cpu_tables(first)]
    return "\n\n".join([*parts, notes.notes_text(found), notes.made_line(provenance)])


def ram_table(found):
    """Return what each encoding holds beyond the baseline's page tables."""
    table = new_table(f"RAM beyond {BASELINE}", [*map(str, found.points)], 17, 11)
    for name in found.encodings:
        held = [found.extra(point, name) for point in found.points]
        add_row(table, name, ["" if n is None else size(n) for n in held])
    return rendered(table)
