"""Ratios of synthetic tasks on a synthetic clock, and the tasks that are real."""

import gc
import itertools

import numpy as np
import pytest

import extmeta as em
from extmeta.cost import measure, origin, tasks
from extmeta.cost.forms import fitting, form
from extmeta.cost.measure import Task
from extmeta.cost.space import sparse_tables
from extmeta.cost.tasks import OPERATIONS, Filled
from extmeta.rows import Point, Ram


class Clock:
    """A clock that stands still but when a task runs."""

    def __init__(self):
        self.now = 0
        self.log = []

    def __call__(self):
        return self.now

    def task(self, name, ns, **options):
        """Return a task that takes ``ns``, a number or called for one."""

        def run(_state):
            self.log.append(name)
            self.now += ns() if callable(ns) else ns

        return Task(
            ready=lambda: None, run=run, check=lambda _state, _result: None, **options
        )


@pytest.fixture
def clock():
    return Clock()


def paired(clock, a, b, **options):
    return measure.paired(a, b, clock=clock, **{"narrow": 0, **options})


def test_the_ratio_is_of_the_second_to_the_first(clock):
    found = paired(clock, clock.task("a", 1000), clock.task("b", 1500))
    assert found.ratio == found.low == found.high == pytest.approx(1.5)
    assert found.baseline_ns == 1000
    assert found.repeat == measure.SAMPLE_NS / 1000
    assert found.pairs == 2 * measure.ROUNDS


def test_samples_go_a_b_b_a(clock):
    paired(clock, clock.task("a", 10**6), clock.task("b", 10**6), rounds=6)
    # Verified first, a and b, then calibrated, twice a.
    assert clock.log[:4] == ["a", "b", "a", "a"]
    assert "".join(clock.log[4:]) == "abba" * 6


def test_a_machine_that_slows_down_slows_both(clock):
    slower = (1_000_000 + 5000 * n for n in itertools.count())

    def ns():
        return next(slower)

    found = paired(clock, clock.task("a", ns), clock.task("b", ns))
    assert found.ratio == pytest.approx(1, abs=1e-4)


def test_what_comes_second_gains_nothing_in_the_ratio(clock):
    def ns(name):
        return lambda: 1_000_000 if clock.log[-2:] == [name] * 2 else 900_000

    found = paired(clock, clock.task("a", ns("a")), clock.task("b", ns("b")))
    assert found.ratio == pytest.approx(1)


def test_an_interruption_now_and_then_does_not_count(clock):
    rng = np.random.default_rng(1)

    def ns(base):
        return lambda: base * (100 if rng.random() < 0.05 else rng.normal(1, 0.01))

    found = paired(clock, clock.task("a", ns(10**6)), clock.task("b", ns(2 * 10**6)))
    assert found.low < 2 < found.high
    assert found.high / found.low < 1.02


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(7)
    held = 0
    for seed in range(200):
        ratios = 1.3 * np.exp(rng.normal(0, 0.05, 30))
        median, low, high = measure.interval(ratios, seed)
        assert low <= median <= high
        held += low <= 1.3 <= high
    assert 0.88 * 200 <= held <= 200


def test_the_interval_of_the_inverse_is_the_inverse():
    ratios = np.random.default_rng(2).uniform(0.5, 3, 21)
    median, low, high = measure.interval(ratios, seed=1)
    inverse = measure.interval(1 / ratios, seed=1)
    assert inverse == pytest.approx((1 / median, 1 / high, 1 / low))
    assert measure.interval(ratios, seed=1) == (median, low, high)


@pytest.mark.parametrize("ns", [3, 700, 90_000, 10**9])
def test_samples_last_as_long_as_asked(clock, ns):
    repeat = measure.calibrate(clock.task("a", ns), 250_000, clock)
    assert repeat == min(measure.MAX_REPEAT, max(1, -(-250_000 // ns)))


def test_a_task_that_takes_nothing_comes_to_an_end(clock):
    found = paired(clock, clock.task("a", 0), clock.task("b", 0), rounds=5)
    assert found.repeat == measure.MAX_REPEAT
    assert found.ratio == 1


def test_a_spent_budget_leaves_the_fewest_rounds(clock):
    a, b = clock.task("a", 10**6), clock.task("b", 10**6)
    assert paired(clock, a, b, budget_ns=0).pairs == 2 * measure.MIN_ROUNDS
    assert paired(clock, a, b, budget_ns=40 * 10**6).pairs == 22


def test_a_narrow_interval_ends_it_and_a_wide_one_does_not(clock):
    rng = np.random.default_rng(3)
    a, steady = clock.task("a", 10**6), clock.task("b", 10**6)
    noisy = clock.task("b", lambda: int(10**6 * rng.uniform(0.5, 2)))
    assert paired(clock, a, steady, narrow=0.05).pairs == 2 * measure.LOOK_ROUNDS
    found = paired(clock, a, noisy, narrow=0.05)
    assert found.pairs == 2 * measure.ROUNDS
    assert found.reach > 0.05
    found = paired(clock, a, noisy, rounds=10_000, narrow=0.05)
    assert 2 * measure.LOOK_ROUNDS < found.pairs < 20_000
    assert found.reach < 0.05


def test_ratios_that_stop_when_narrow_hold_the_truth_nearly_as_often(clock):
    rng = np.random.default_rng(11)
    held = 0
    for seed in range(200):
        a, b = (
            clock.task("", lambda ns=ns: int(ns * np.exp(rng.normal(0, 0.1))))
            for ns in (10**6, 13 * 10**5)
        )
        found = paired(clock, a, b, rounds=measure.QUICK_ROUNDS, narrow=0.05, seed=seed)
        held += found.low <= 1.3 <= found.high
    assert 0.88 * 200 <= held <= 200


def test_a_thread_that_gets_no_processor_has_waited():
    # The clock stands still while the wall's goes on.
    still = itertools.count()
    task = Clock().task("a", 1)
    found = measure.paired(task, task, clock=lambda: next(still), rounds=5)
    assert 0.9 < found.waited <= 1
    # A clock that outruns the wall's has not waited less than nothing.
    fast = itertools.count(0, 10**9)
    found = measure.paired(task, task, clock=lambda: next(fast), rounds=5)
    assert found.waited == 0


@pytest.mark.parametrize("each", [True, False])
def test_what_is_around_a_run_is_not_timed(clock, each):
    log = []

    def run(state):
        log.append(state)
        clock.now += 1000

    def ready():
        log.append("ready")
        clock.now += 10**9
        return "run"

    def done(state):
        assert state == "run"
        log.append("done")
        clock.now += 10**9

    task = Task(ready, run, lambda _s, _r: None, done, each=each)
    assert measure.sample(task, 3, clock) == 3000
    once = ["ready", "run", "done"]
    assert log == (once * 3 if each else ["ready", "run", "run", "run", "done"])


def test_garbage_waits_until_all_is_timed(clock):
    seen = set()

    def ns():
        seen.add(gc.isenabled())
        return 10**6

    assert gc.isenabled()
    paired(clock, clock.task("a", ns), clock.task("b", ns), rounds=5)
    assert seen == {False}
    assert gc.isenabled()
    gc.disable()
    try:
        paired(clock, clock.task("a", ns), clock.task("b", ns), rounds=5)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_task_that_does_not_do_its_work_is_not_timed(clock):
    def check(_state, result):
        assert result == 5

    lazy = Task(lambda: None, lambda _state: 4, check)
    with pytest.raises(AssertionError):
        paired(clock, clock.task("a", 10), lazy)
    assert clock.log == ["a"]
    assert gc.isenabled()


def test_total_is_of_all_that_counts():
    row = Ram("x", 0.1, "random", 1, 1, 20, 300, 4000, 50000, None)
    assert row.total == 4321


def test_provenance_says_where_and_how():
    found = origin.provenance(["extmeta", "compare"], seed=3)
    assert found["command"] == ["extmeta", "compare"]
    assert found["seed"] == 3
    assert found["extmeta"]
    assert found["kernel"]
    assert found["date"].endswith("Z")


def test_a_checkout_names_its_commit_and_nothing_else_does(tmp_path, monkeypatch):
    assert origin.commit(tmp_path) == ""
    (tmp_path / ".git").mkdir()
    (tmp_path / "src" / "extmeta").mkdir(parents=True)
    # No repository, for all that it looks like one.
    assert origin.commit(tmp_path) == ""
    monkeypatch.setenv("PATH", "")
    assert origin.commit(tmp_path) == ""


def test_a_processor_without_a_name_has_none(tmp_path):
    listed = tmp_path / "cpuinfo"
    listed.write_text("processor : 0\n")
    assert origin.cpu_model(str(listed)) == ""
    listed.write_text("flags : x\nmodel name\t: A: B\n")
    assert origin.cpu_model(str(listed)) == "A: B"
    assert origin.cpu_model(str(tmp_path / "none")) == ""


# -- the tasks that are compared ------------------------------------------------

FORMS = [*em.encodings(), "adjacent:needed", "linked:16"]
SMALL = em.Fields(uffd_wp=1, soft_dirty=1, age=1)


def filled(text, fraction=0.5, fields=SMALL):
    space = sparse_tables(6, 100, seed=1)
    point = Point(fraction, "random")
    kept = fitting(fields, em.PageTable().arch, has_swap=False)
    _kept, load = tasks.point_words(space, fields, kept, point, 1, "different")
    return Filled(space.bare(form(text), fields), load)


def content(table):
    vpns = table.scan(slice(0, 1 << 36), 0)
    return vpns.tolist(), table.load(vpns).tolist(), table.memory()


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("text", FORMS)
@pytest.mark.parametrize("fraction", [0, 0.2, 1])
def test_every_operation_does_its_work_and_leaves_no_trace(text, operation, fraction):
    f = filled(text, fraction)
    before = content(f.table), content(f.bare)
    task = OPERATIONS[operation](f)
    for _ in range(2):
        measure.verify(task)
    # As the next run finds it.
    if operation in ("update", "clear"):
        assert content(task.ready())[:2] == before[0][:2]
        assert task.ready().memory().side == before[0][2].side
    if operation == "store":
        assert content(task.ready())[:2] == before[1][:2]
        assert task.ready().memory().side == before[1][2].side
    assert (content(f.table), content(f.bare)) == before
    f.table.check()


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("text", FORMS)
def test_less_work_than_asked_is_noticed(text, operation):
    task = OPERATIONS[operation](filled(text))
    lazy = Task(task.ready, lambda _state: None, task.check, task.done, task.each)
    with pytest.raises(AssertionError):
        measure.verify(lazy)


def test_words_of_several_lanes_are_timed_alike():
    fields = em.Fields(uffd_wp=1, site=90, soft_dirty=1)
    f = filled("linked", fields=fields)
    assert f.load.words.shape == (600, 2)
    for operation in OPERATIONS.values():
        measure.verify(operation(f))


def test_ram_is_what_the_table_holds():
    f = filled("adjacent:needed")
    held = f.table.memory()
    row = f.ram("adjacent:needed", Point(0.5, "random"))
    assert (row.upper, row.pte, row.side) == (held.upper, held.pte, held.side)
    assert row.flagged == 300
    assert row.repointings == 6
    # A pair from the start is moved by nobody.
    assert filled("adjacent").ram("adjacent", Point(0.5, "random")).repointings is None
    assert filled("linked").ram("linked", Point(0.5, "random")).repointings is None
