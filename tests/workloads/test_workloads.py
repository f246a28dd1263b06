"""Workloads: each round is the plain set's, in every encoding; and how they are told."""

import doctest
import json
import os
import pty
import signal
import subprocess
import sys
from dataclasses import replace

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import extmeta as em
from extmeta import cli, workloads
from extmeta.commands import status
from extmeta.cost import forms
from extmeta.linux import AddressSpace
from extmeta.reports import workloads as workload_report
from extmeta.rows import ALL_PHASES, CONTROL, Load, Peak
from extmeta.workloads import WORKLOADS, Ages, ForkServer, Precopy, Predump, play
from extmeta.workloads.ages import blocks
from extmeta.workloads.comparison import compare as compared
from extmeta.workloads.play import MismatchError, Stage, must_be
from extmeta.workloads.process import HOLE
from extmeta.workloads.recording import Replay
from extmeta.workloads.trackers import SoftDirty, WpAsync

SMALL = workloads.synthetic(700, 3)

# Every workload in every way, a few rounds of it.
LOADS = [
    ("predump", "rounds=2"),
    ("predump", "rounds=2,how=soft-dirty,placement=random"),
    ("predump-beside-uffd", "rounds=2"),
    ("precopy", "threshold=20"),
    ("write-barrier", "collections=2"),
    ("write-barrier", "collections=2,how=handler"),
    ("ages", "intervals=4,limit=2,bits=4"),
    ("epochs", "snapshots=6,back=2,bits=4,first=13"),
    ("epochs", "snapshots=4,back=2,bits=3,trackers=2"),
    ("epochs", "snapshots=4,back=3,how=WP_ASYNC"),
    ("epochs", "snapshots=4,back=3,how=soft-dirty"),
    ("fork-server", "inputs=2,dirty=0.02"),
    ("deferred-flush", "rounds=2,dirty=0.2,bits=4"),
    ("fork-server", "inputs=2,dirty=0.02,how=WP_ASYNC"),
    ("fork-server", "inputs=2,dirty=0.02,how=soft-dirty"),
]


def made(name, text=""):
    return WORKLOADS[name].of_text(text)


@pytest.mark.parametrize(("name", "text"), LOADS)
def test_every_encoding_comes_to_the_same(name, text):
    load = made(name, text)
    first = play(load, SMALL, "inpte")
    assert first.complete
    assert len(first.rounds) <= load.nr_rounds(SMALL)
    for form in forms.default_forms():
        found = play(load, SMALL, forms.form(form))
        assert found.rounds == first.rounds, form
        assert found.same(first), form
        # And so do bare tables that are asked the same.
        replay = Replay(first.recording, forms.form(form), first.fields, "x86_64")
        held = replay.verify()
        changing = [
            op
            for op in replay._operations
            if op.name not in ("scan", "scan_since", "load", "flagged")
        ]
        assert len(held) == len(changing) + 1
        assert set(replay.once()) == set(first.recording.ptes)


# -- what is counted ---------------------------------------------------------------


@pytest.mark.parametrize("how", ["WP_ASYNC", "soft-dirty"])
def test_a_pre_dump_has_what_was_written(how):
    load = Predump(rounds=3, dirty=0.1, how=how, seed=4)
    written = [len(SMALL.writes(i, 0.1, "clustered", 4)) for i in range(3)]
    found = play(load, SMALL)
    assert found.counts() == {"dumped": (700, *written)}
    # Each page written was protected, or clean.
    assert found.faults == sum(written) == 210


def test_the_same_seed_gives_the_same():
    load = ForkServer(inputs=3, dirty=0.01)
    again = [SMALL.writes(n, 0.5, "random", 7) for n in (0, 0, 1)]
    assert again[0].tolist() == again[1].tolist() != again[2].tolist()
    assert play(load, SMALL).same(play(load, SMALL))


def test_pre_copy_sends_less_and_less_until_the_guest_is_stopped():
    found = play(Precopy(rate=0.5, threshold=50), SMALL).counts()
    assert found == {
        "sent": (700, 350, 175, 88),
        "written": (350, 175, 88, 44),
        "sent while stopped": (44,),
    }


def test_pre_copy_that_does_not_converge_ends():
    found = play(Precopy(rate=1.0, rounds=3, threshold=0), SMALL).counts()
    assert found["sent"] == (700,) * 3
    assert found["sent while stopped"] == (700,)


def test_pages_demoted_are_those_not_accessed_for_long():
    found = play(Ages(intervals=4, limit=2, hot=0.0, busy=0.0), SMALL).counts()
    # Nothing is accessed: all are old at once, and stay where they are.
    assert found == {"demoted": (0, 700, 0, 0), "promoted": (0, 0, 0, 0)}
    found = play(Ages(intervals=30, bits=2, limit=3), SMALL)
    demoted, promoted = (np.cumsum(found.counts()[n]) for n in ("demoted", "promoted"))
    assert (promoted <= demoted).all()
    assert promoted[-1] > 0


@hypothesis.given(
    bits=st.integers(1, 10), end=st.integers(0, 10), least=st.integers(1, 1023)
)
def test_blocks_are_the_ages_of_a_range_each_once(bits, end, least):
    stop = 1 << min(end, bits)
    hits = [
        value
        for value in range(1 << bits)
        for mask, wanted in blocks(least, stop, bits)
        if value & mask == wanted
    ]
    assert hits == list(range(least, stop))


@hypothesis.settings(max_examples=15)
@hypothesis.given(
    pages=st.integers(1, 90),
    nr_vmas=st.integers(1, 3),
    dirty=st.floats(0, 1),
    how=st.sampled_from(["WP_ASYNC", "soft-dirty"]),
    placement=st.sampled_from(["random", "clustered", "tables"]),
    encoding=st.sampled_from(em.encodings()),
)
def test_any_pre_dump(pages, nr_vmas, dirty, how, placement, encoding):
    process = workloads.synthetic(pages, min(nr_vmas, pages))
    load = Predump(rounds=2, dirty=dirty, how=how, placement=placement)
    found = play(load, process, encoding).counts()["dumped"]
    assert found[0] == pages
    assert found[1:] == tuple(
        len(process.writes(n, dirty, placement, 0)) for n in range(2)
    )


# -- two trackers at once ------------------------------------------------------------


def test_both_trackers_are_right_where_there_are_two_bits():
    load = made("predump-beside-uffd", "rounds=4,dirty=0.3,protected=1")
    found = play(load, SMALL, "compact").counts()
    assert all(0 < n <= 210 for n in found["handled"][1:])
    assert found["dumped"] == (700, 210, 210, 210, 210)


@pytest.mark.parametrize("form", WORKLOADS["predump-beside-uffd"].forms)
def test_one_bit_is_refused_by_the_tracker_that_has_it(form):
    load = made("predump-beside-uffd")
    with pytest.raises(em.Refused) as refused:
        play(load, SMALL, load.forms[form])
    assert "uffd_wp" in str(refused.value)
    assert "soft_dirty" in str(refused.value)


def test_a_second_userfaultfd_is_refused_so_criu_needs_soft_dirty():
    space = em.AddressSpace(em.Fields(uffd_wp=1))
    space.mmap(1 << 30, 1 << 20)
    space.uffd_register(1 << 30, 1 << 20, ("PAGEFAULT_FLAG_WP",))
    with pytest.raises(OSError, match="has another userfaultfd"):
        WpAsync(space, [(1 << 18, (1 << 18) + 256)])


# -- mismatches are errors -----------------------------------------------------------


def test_a_mismatch_names_a_page():
    with pytest.raises(MismatchError, match="here: 1 too many, first vpn 0x9; 2 missi"):
        must_be("here", np.array([1, 9], np.uint64), np.array([1, 2, 3], np.uint64))
    with pytest.raises(MismatchError, match="1 pages are reported twice"):
        must_be("here", np.array([1, 1], np.uint64), np.array([1], np.uint64))


@pytest.mark.parametrize(
    ("name", "text"),
    [load for load in LOADS if load[0] not in ("ages", "deferred-flush")],
)
@pytest.mark.parametrize("wrong", ["misses", "makes up"])
def test_a_tracker_that_lies_is_caught(name, text, wrong, monkeypatch):
    def lies(collect):
        def collected(self):
            found = collect(self)
            if wrong == "misses":
                return found[1:]
            return np.append(found, found[-1:] + np.uint64(1 << 20))

        return collected

    for tracker in (SoftDirty, WpAsync, workloads.write_barrier.Handled):
        monkeypatch.setattr(tracker, "collect", lies(tracker.collect))
    since = workloads.epochs.Tracker.since
    monkeypatch.setattr(
        workloads.epochs.Tracker,
        "since",
        lambda self, back: lies(lambda _self: since(self, back))(self),
    )
    with pytest.raises(MismatchError, match="first vpn 0x"):
        play(made(name, text), SMALL)


def test_a_scan_that_misses_an_age_is_caught(monkeypatch):
    monkeypatch.setattr(workloads.ages, "blocks", lambda *_: [(0, 0)])
    with pytest.raises(MismatchError, match="interval 0: 700 too many"):
        play(made("ages"), SMALL)


def test_a_child_that_writes_to_its_parent_is_caught(monkeypatch):
    def leaks(self):
        first = int(SMALL.pages[0]) << 12
        self.write(first)
        self.madvise(first, 4096, "DONTNEED")
        exits(self)

    exits = AddressSpace.exit
    fork = AddressSpace.fork

    def forks(self):
        child = fork(self)
        child.exit = lambda: leaks(self)
        return child

    monkeypatch.setattr(AddressSpace, "fork", forks)
    with pytest.raises(MismatchError, match="parent is not intact"):
        play(ForkServer(inputs=1), SMALL)


def test_a_replay_that_answers_otherwise_is_caught():
    found = play(Predump(rounds=1), SMALL, "linked")
    operations = found.recording.operations
    at = next(i for i, op in enumerate(operations) if op.name == "load")
    operations[at] = operations[at]._replace(answer=operations[at].answer ^ 1)
    replay = Replay(found.recording, "inpte", found.fields, "x86_64")
    with pytest.raises(AssertionError, match="load in phase 'collect': 0 at 0, not 1"):
        replay.verify()


def test_examples():
    for module in (workloads, workloads.ages):
        found = doctest.testmod(module)
        assert (found.attempted > 0, found.failed) == (True, 0)


# -- what is noted ---------------------------------------------------------------------


def test_operations_are_noted_by_phase_with_what_they_were_about():
    stage = Stage(SMALL, "linked", em.Fields(soft_dirty=1))
    space = stage.space()
    noted = stage.recording
    assert (noted.calls(), noted.ptes.total(), noted.words_made) == ({}, 0, 0)
    with stage.during("clear"):
        space.clear_refs()
    assert noted.calls() == {"clear": 1}
    # All pages, though the range is all of the address space.
    assert dict(noted.ptes) == {"clear": 700}
    with stage.during("fork"):
        child = space.fork()
    stage.write(child, SMALL.pages[:5])
    assert noted.words_made == 5
    assert stage.faults == 5
    assert {op.table for op in noted.operations} == {0, 1}
    assert noted.phase == "set up"
    # The table answers what it did, by its own name.
    assert len(space.table) == 700
    assert repr(space.table).startswith("<PageTable")


def test_a_child_counts_as_long_as_it_is_there():
    found = play(ForkServer(inputs=3, dirty=0.02), SMALL, "linked")
    replay = Replay(found.recording, "linked", found.fields, "x86_64")
    held = replay.verify()
    assert held.max() > held[0]
    # Not one child after the other.
    assert held.max() < 3 * held[0]


# -- where it is played --------------------------------------------------------------


def test_a_capture_is_played_on_its_private_writable_pages():
    cap = em.load_capture(em.shipped()["redis"])
    process = workloads.of_capture(cap, "redis")
    assert len(process.pages) == 30543
    assert process.sha256 == cap.sha256
    found = play(Predump(rounds=1, dirty=0.01), process, "adaptive")
    assert found.counts()["dumped"] == (30543, 305)


def test_a_capture_without_such_pages_is_refused():
    cap = em.load_capture(em.shipped()["redis"])
    perms = np.full(len(cap.vma_perms), "r--p")
    with pytest.raises(em.CaptureError, match="bare: no private writable page"):
        workloads.of_capture(replace(cap, vma_perms=perms), "bare")


def test_large_holes_are_not_looked_into():
    pages = np.array([100, 101, 200 + HOLE, 201 + HOLE, 1 << 30], np.uint64)
    process = workloads.Process("holes", ((99, 1 << 31),), pages)
    assert process.ranges(pages) == [
        (100, 102),
        (200 + HOLE, 202 + HOLE),
        (1 << 30, (1 << 30) + 1),
    ]
    for how in ("WP_ASYNC", "soft-dirty"):
        found = play(Predump(rounds=1, dirty=0.5, how=how), process)
        assert found.counts()["dumped"] == (5, 2)


def test_made_up_memory_has_a_page_in_each_vma():
    assert [stop - first for first, stop in workloads.synthetic(10, 3).vmas] == [
        3,
        3,
        4,
    ]
    for wrong in ((2, 3), (0, 1), (5, 0)):
        with pytest.raises(ValueError, match=f"{wrong[0]} pages in {wrong[1]} VMAs"):
            workloads.synthetic(*wrong)


# -- traces ----------------------------------------------------------------------------


def trace(first=0x7F0000000, **changes):
    rounds = [[0, 1, 5], [], [5, 99], [1]]
    given = {
        "vpns": np.array([first + n for one in rounds for n in one], np.uint64),
        "rounds": np.cumsum([0, *map(len, rounds)]),
        "vmas": np.array([[first, first + 50], [first + 60, first + 100]], np.uint64),
        "interval": 0.1,
        "comm": "traced",
        "release": "6.18.44",
        "how": "WP_ASYNC",
    }
    return em.Trace(**{**given, **changes})


def test_a_trace_is_played_as_it_was_recorded():
    for how in ("WP_ASYNC", "soft-dirty"):
        found = workloads.replay(trace(), Predump(rounds=99, dirty=1.0, how=how))
        assert found.counts() == {"dumped": (4, 3, 0, 2, 1)}
    found = workloads.replay(trace(), Precopy(threshold=0), "hash")
    # Nothing left after the second round.
    assert found.counts()["sent"] == (4, 3)
    for name in WORKLOADS:
        assert workloads.replay(trace(), made(name)).complete


@pytest.mark.parametrize("first", [0, (1 << 44) - 100])
def test_a_trace_of_where_no_memory_is_is_refused(first):
    with pytest.raises(em.CaptureError, match="traced: a VMA of vpns"):
        workloads.replay(trace(first), Predump())


def test_a_trace_of_five_levels():
    assert workloads.replay(trace(1 << 40), Predump()).counts()["dumped"][0] == 4


def test_a_trace_without_a_page_is_refused():
    none = trace(vpns=np.empty(0, np.uint64), rounds=np.zeros(2, np.int64))
    with pytest.raises(em.CaptureError, match="traced: no page was written"):
        workloads.replay(none, Predump())


# -- parameters ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("predump", "dirty=2", r"dirty: 2.0 is not in \[0, 1\]"),
        ("predump", "dirty=nan", "dirty: nan is not"),
        ("predump", "rounds=-1", "rounds: -1 is not in"),
        ("predump", "rounds=x", "rounds: 'x' is no int"),
        ("predump", "how=magic", "how: 'magic' is none of WP_ASYNC, soft-dirty"),
        ("predump", "placement=here", "placement: 'here' is none of random"),
        ("predump", "speed=1", "no parameter 'speed'; there are seed, rounds"),
        ("predump", "dirty", "'dirty' is not PARAMETER=VALUE"),
        ("ages", "bits=0", "bits: 0 is not in"),
        ("ages", "bits=3,limit=8", r"limit: 8 is not in \[1, 2\*\*3\)"),
    ],
)
def test_wrong_parameters_are_named(name, text, why):
    with pytest.raises(ValueError, match=why):
        made(name, text)


def test_parameters_of_another_type():
    with pytest.raises(TypeError, match=r"rounds: 1\.5 is no int"):
        Predump(rounds=1.5)
    with pytest.raises(TypeError, match="dirty: True is no float"):
        Predump(dirty=True)
    assert Predump(dirty=1).dirty == 1


# -- interrupted -----------------------------------------------------------------------


def interrupting(at):
    """Return progress that interrupts at the n-th call."""
    calls = []

    def progress(*args):
        calls.append(args)
        if len(calls) == at:
            raise KeyboardInterrupt

    return progress


def test_interrupted_it_has_the_rounds_it_has_played():
    found = play(Predump(rounds=5, dirty=0.1), SMALL, progress=interrupting(3))
    assert not found.complete
    assert found.counts() == {"dumped": (700, 70)}


def kept(rows, yielded):
    """Keep rows as they come."""
    for row in yielded:
        rows.append(row)


def test_interrupted_a_comparison_has_the_rows_it_has_yielded():
    load = Predump(rounds=2)
    # In the baseline's own play, and in the second encoding's.
    timed = ["Cpu"] * 3
    given = ("predump", load, SMALL, ["linked", "hash"])
    for at, kinds in ((3, ["Load"]), (10, ["Load", *timed, "Peak", *timed])):
        rows = []
        with pytest.raises(KeyboardInterrupt):
            kept(rows, compared(*given, progress=interrupting(at)))
        assert [type(row).__name__ for row in rows] == kinds
        # What is there can be told.
        assert "pre-dump" in workload_report.text(rows, {})


# -- compared, and told ------------------------------------------------------------------


def rows_of(load, forms, **options):
    name = next(n for n, kind in WORKLOADS.items() if kind is type(load))
    options = {"rounds": 1, "budget_ns": 0, **options}
    return list(compared(name, load, SMALL, forms, **options))


def test_a_comparison_has_each_phase_of_each_encoding():
    load = ForkServer(inputs=2)
    head, *rows = rows_of(load, ["inpte", "linked", "wide"])
    assert isinstance(head, Load)
    assert head.baseline_lacks == ""
    assert head.counts == {"written": [1, 1]}
    assert sum(head.phase_ptes.values()) == head.ptes
    peaks = [row.encoding for row in rows if isinstance(row, Peak)]
    assert peaks == ["linked", "wide"]
    times = [(row.encoding, row.operation) for row in rows if hasattr(row, "ratio")]
    phases = [*head.phase_ptes, ALL_PHASES]
    names = (CONTROL, "linked", "wide")
    assert sorted(times) == sorted((name, p) for name in names for p in phases)
    assert all(row.ratio > 0 for row in rows if hasattr(row, "ratio"))


def test_a_narrower_baseline_is_said_so():
    head, *rows = rows_of(Ages(intervals=2, limit=1), ["compact", "adaptive"])
    assert "2 missing" in head.baseline_lacks
    assert head.fields == {"uffd_wp": 1, "age": 8}
    assert head.baseline_fields == {"uffd_wp": 1, "age": 6}
    (refused,) = (row for row in rows if hasattr(row, "why"))
    assert refused.encoding == "compact"
    text = workload_report.text([head, *rows], {})
    assert "inpte can't play it" in text
    assert "compact refuses: Compact() on x86_64" in text
    # No age of so many intervals fits.
    with pytest.raises(ValueError, match="free bits"):
        rows_of(Ages(intervals=2, limit=100), [])


def test_an_encoding_that_answers_otherwise_is_an_error(monkeypatch):
    true = workloads.comparison.play

    def lies(load, process, encoding, progress=None):
        found = true(load, process, encoding, progress)
        return replace(found, rounds=()) if encoding == "hash" else found

    monkeypatch.setattr(workloads.comparison, "play", lies)
    with pytest.raises(MismatchError, match="hash: "):
        rows_of(Predump(rounds=1), ["hash"])


def test_rows_survive_json_and_are_told_in_100_columns():
    load = made("predump-beside-uffd", "rounds=2")
    rows = rows_of(load, ["linked", *load.forms])
    again, provenance = workload_report.from_json(
        workload_report.to_json(rows, {"seed": 0})
    )
    assert again == rows
    text = workload_report.text(again, provenance)
    assert max(map(len, text.splitlines())) <= 100
    assert text.count(" refuses: ") == 2
    for part in ("dumped: 700 35 35; as", "handled: 0 ", "inpte again", "RAM, peak"):
        assert part in text
    with pytest.raises(ValueError, match="rows before the workload"):
        workload_report.text(rows[1:], {})
    with pytest.raises(ValueError, match="not an extmeta workload 1"):
        workload_report.from_json("{}")


# -- the command -------------------------------------------------------------------------

SHORT = ["compare", "--quick", "--encodings", "linked", "--workload"]


def test_the_command_lists_what_there_is(capsys):
    assert cli.main(["compare", "--workload", "list"]) == 0
    told = capsys.readouterr().out
    for name, kind in WORKLOADS.items():
        assert f"{name}: {kind.question}" in told
    assert "how=WP_ASYNC (of" in told


def test_the_command_prints_stores_and_prints_again(tmp_path, capsys):
    path = tmp_path / "rows.json"
    given = ["predump:rounds=1,dirty=0.25", "--seed", "3", "--json", str(path)]
    assert cli.main([*SHORT, *given]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("predump: CRIU's pre-dump")
    assert "seed=3, rounds=1, dirty=0.25" in told.out
    assert "dumped: 2,048 512; as" in told.out
    # Nothing there unless somebody looks.
    assert told.err == ""
    assert json.loads(path.read_text())["complete"]
    asked = ["compare", "--from", str(path), "--format", "csv"]
    assert cli.main(asked) == status.BAD_INPUT
    assert "--format csv: a workload has text" in capsys.readouterr().err
    assert cli.main(["compare", "--from", str(path)]) == 0
    assert capsys.readouterr().out == told.out
    assert cli.main([*SHORT, "predump:rounds=1", "--mib", "2"]) == 0
    assert "On made-up memory, 512 pages" in capsys.readouterr().out
    assert cli.main([*SHORT, "predump:rounds=1", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "extmeta workload 1"


def test_the_command_plays_captures_and_traces(tmp_path, capsys):
    path = tmp_path / "trace.npz"
    trace().save(path)
    assert cli.main([*SHORT, "predump:rounds=1", "--trace", str(path)]) == 0
    told = capsys.readouterr().out
    assert "On trace.npz, 4 pages in 2 VMAs" in told
    assert "rounds and writes as recorded" in " ".join(told.split())
    assert "dumped: 4 3 0 2 1; as" in told
    assert cli.main([*SHORT, "ages:intervals=1", "node"]) == 0
    assert "On node, 21,028 pages" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["--workload", "nothing"], "no workload 'nothing'; there are predump, "),
        (["--workload", "ages:bits=99"], "workload ages: bits: 99 is not in"),
        (["--workload", "ages:bit=1"], "no parameter 'bit'; there are seed, "),
        (["--workload", "ages:bits=1,bits=2"], "parameter 'bits' is there twice"),
        (["--workload", "ages", "--seed", "3000000000"], "seed: 3000000000 is not"),
        (["--workload", "ages", "--arch", "s390x"], "takes no --arch"),
        (["--workload", "ages", "--crossover"], "takes no --crossover"),
        (["--workload", "ages", "--fields", "a=1"], "takes no --fields"),
        (["--workload", "ages", "--mib", "0"], "'0' is not from 1 to 1,048,576"),
        (["--workload", "ages", "--mib", "2e3"], "'2e3'"),
        (["--workload", "ages", "--mib", "5", "redis"], "--mib 5 and redis: one of"),
        (["--mib", "5"], "--mib 5: a --workload is needed too"),
        (["--workload", "ages", "--lock"], "takes no --lock"),
        (["--workload", "ages", "--charge-links"], "takes no --charge-links"),
        (["--workload", "ages", "--processes", "2"], "takes no --processes"),
        (["--workload", "ages", "--format", "csv"], "--format csv: a workload has"),
        (["--workload", "ages", "--trace", "/none"], "/none: No such file"),
        (["--workload", "ages", "--trace", "REDIS"], "not a write trace"),
        (["--workload", "ages", "/none"], "/none: No such file"),
        (["--trace", "/none"], "a --workload is needed too"),
    ],
)
def test_the_command_refuses_in_a_line(given, why, capsys):
    redis = str(em.shipped()["redis"])
    given = [redis if text == "REDIS" else text for text in given]
    assert cli.main(["compare", *given]) == status.BAD_INPUT
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert why in told.err


def test_interrupted_the_command_prints_what_it_has(tmp_path):
    path = tmp_path / "rows.json"
    leader, follower = pty.openpty()
    given = ["compare", "--quick", "--workload", "fork-server", "--json", str(path)]
    with subprocess.Popen(
        [sys.executable, "-m", "extmeta", *given],
        stdout=subprocess.PIPE,
        stderr=follower,
        text=True,
    ) as process:
        os.close(follower)
        seen = ""
        # The second encoding is being played: the first one's rows are there.
        while "adjacent" not in seen:
            seen += os.read(leader, 4096).decode(errors="replace")
        process.send_signal(signal.SIGINT)
        told = process.stdout.read()
        while "this is not all" not in seen:
            seen += os.read(leader, 4096).decode(errors="replace")
    os.close(leader)
    assert process.returncode == status.INTERRUPTED
    head, _, text = told.partition("\n\n")
    assert head.startswith("INCOMPLETE: ")
    assert "adjacent, " in head
    assert text.startswith("fork-server: ")
    assert "\ncompact " in told
    assert not json.loads(path.read_text())["complete"]
