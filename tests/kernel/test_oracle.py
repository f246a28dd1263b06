"""The oracle: programs, their comparison with a model, and that it can fail."""

import contextlib
import errno
import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import answers
import guest
import mutants
import native
import numpy as np
import oracle
import pytest
from comparison import Refusal, compare
from directed import DIRECTED
from hypothesis import HealthCheck, find, given, settings
from programs import (
    HUGE,
    PAGE,
    PAGES,
    Operation,
    Program,
    make,
    programs,
    random_programs,
    smaller,
)
from rich.console import Console

import extmeta as em

needs_native = pytest.mark.skipif(bool(native.missing()), reason=native.missing() or "")
PRESENT, EXCLUSIVE = 1 << 63, 1 << 56
SIMPLE = PAGES.without(
    *("uffd_register", "uffd_unregister", "uffd_writeprotect", "clear_refs"),
    *("pagemap_scan", "fork", "exit", "mremap", "mprotect", "madvise"),
)


class Anonymous:
    """Private anonymous memory of one process, without userfaultfd.

    What is left of an address space when everything that can be wrong with ours
    is taken out: it shows that the comparison itself is right.
    """

    def __init__(self):
        self.pages = {}  # vpn: prot and pagemap word

    def mmap(self, addr, length, prot, flags):
        for vpn in range(addr // PAGE, (addr + length) // PAGE):
            self.pages[vpn] = [prot, 0]

    def munmap(self, addr, length):
        for vpn in range(addr // PAGE, (addr + length) // PAGE):
            self.pages.pop(vpn, None)

    def touch(self, addr, length, write):
        for vpn in range(addr // PAGE, (addr + length - 1) // PAGE + 1):
            page = self.pages.get(vpn)
            if page is None or (write and "w" not in page[0]):
                raise OSError(errno.EFAULT, f"{vpn * PAGE:#x}")
            if write:
                page[1] = PRESENT | EXCLUSIVE
            else:
                page[1] = page[1] or PRESENT

    def read(self, addr, length=1):
        self.touch(addr, length, write=False)

    def write(self, addr, length=1):
        self.touch(addr, length, write=True)

    def pagemap(self, addr, length):
        vpns = range(addr // PAGE, (addr + length) // PAGE)
        return np.array([self.pages.get(v, ("", 0))[1] for v in vpns], np.uint64)


class ZeroPageExclusive(Anonymous):
    """A planted bug: the zero page counts as mapped once."""

    def read(self, addr, length=1):
        super().read(addr, length)
        for vpn in range(addr // PAGE, (addr + length - 1) // PAGE + 1):
            self.pages[vpn][1] |= EXCLUSIVE


class MunmapForgetsTheLast(Anonymous):
    """A planted bug: of several pages the last one stays."""

    def munmap(self, addr, length):
        super().munmap(addr, length - PAGE if length > PAGE else length)


def simple(seed, count=300):
    """Programs that `Anonymous` can do: no shared memory."""
    rng = random.Random(seed)
    menu = SIMPLE
    made = (make(rng.choice, menu) for _ in itertools.count())
    private = (p for p in made if "shared" not in p.text())
    return list(itertools.islice(private, count))


# ---- programs ----


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(programs(PAGES) | programs(HUGE))
def test_a_program_comes_back_from_its_text(program):
    assert Program.parse(program.text("name")) == program


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=20)
@given(programs(PAGES))
def test_what_is_smaller_is_a_program_and_smaller(program):
    for less in smaller(program):
        assert Program.parse(less.text()) == less
        assert len(less.text()) < len(program.text()) or pages_of(less) <= pages_of(
            program
        )


def pages_of(program):
    return sum(int(o.arguments[1]) for o in program.operations if len(o.arguments) > 1)


def test_without_its_fork_a_child_does_nothing():
    whole = Program.parse("0 fork\n0 fork\n1 fork\n2 write 0 1\n3 write 0 1\n1 exit")
    shown = {"; ".join(map(str, p.operations)) for p in smaller(whole)}
    # Without the first fork: its child's fork and the grandchild go too, and
    # the second child is the first.
    assert "0 fork; 1 write 0x0 0x1" in shown


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 frob", "no operation 'frob'"),
        ("0 munmap 1", "2 arguments expected"),
        ("0 munmap x 1", "invalid literal"),
        ("1 fork", "no process 1"),
        ("0 fork\n1 exit\n1 fork", "no process 1"),
    ],
)
def test_a_text_that_is_no_program_is_refused(line, message):
    with pytest.raises(ValueError, match=message):
        Program.parse(line)


def test_an_operation_has_its_arguments():
    with pytest.raises(ValueError, match="munmap has 2 arguments, not 1"):
        Operation(0, "munmap", (1,))
    with pytest.raises(ValueError, match="addr is a number, not 'r'"):
        Operation(0, "munmap", ("r", 1))


def test_a_seed_makes_the_same_programs():
    a, b, c = (list(itertools.islice(random_programs(s), 50)) for s in (1, 1, 2))
    assert a == b != c


def test_programs_contain_every_operation():
    names = {
        o.name for p in itertools.islice(random_programs(1), 500) for o in p.operations
    }
    assert names >= set(PAGES.weights)


# ---- comparing ----


@needs_native
class TestComparison:
    def test_a_right_model_agrees(self):
        batch = simple(seed=1)
        found = oracle.check(batch, answers.run_native, lambda kernel: Anonymous())
        assert found == [None] * len(batch)

    @pytest.mark.parametrize(
        ("bug", "small"),
        [
            (ZeroPageExclusive, ["mmap", "read"]),
            (MunmapForgetsTheLast, ["mmap", "write", "munmap"]),
        ],
    )
    def test_a_wrong_model_is_found_and_the_program_made_small(self, bug, small):
        batch = simple(seed=2)

        def model(kernel):
            return bug()

        found = oracle.check(batch, answers.run_native, model)
        at, mismatch = next((i, m) for i, m in enumerate(found) if m)
        program, mismatch = oracle.shrink(
            batch[at], mismatch, answers.run_native, model
        )
        names = [o.name for o in program.operations]
        assert names == small or names == [small[0], "read", *small[2:]]
        assert len(program.operations) == mismatch.step + 1
        text = oracle.report(program, mismatch, "none", "6.0")
        assert Program.parse(text) == program
        assert oracle.check([program], answers.run_native, model) == [mismatch]

    def test_hypothesis_finds_the_smallest_program(self):
        def differs(program):
            if "shared" in program.text():
                return False
            kernel, (given,) = answers.run_native([program])
            return bool(compare(program, given, ZeroPageExclusive(), kernel))

        program = find(
            programs(SIMPLE),
            differs,
            settings=settings(max_examples=300, deadline=None),
        )
        assert [o.name for o in program.operations] == ["mmap", "read"]

    def agree(self, text, model=None):
        program = Program.parse(f"watch 0x3fffc000 0x4000\n{text}")
        kernel, (given,) = answers.run_native([program])
        return compare(program, given, model or Anonymous(), kernel, (LookupError,))

    def test_each_kind_of_difference_has_its_name(self):
        start = "0 mmap 0x3fffc000 0x4000 rw private|anonymous\n"
        scan = "0 pagemap_scan 0x3fffc000 0x40000000 - - PRESENT - PRESENT 0 9"
        wrong = Anonymous()
        wrong.pagemap_scan = lambda **args: ([(0, PAGE, 8)], 0x40000000)
        found = self.agree(f"{start}0 write 0x3fffc000 1\n{scan}", wrong)
        assert found.kind == "scan"
        assert "[0x3fffc000, 0x3fffd000) 0x8" in found.kernel
        assert "[0x0, 0x1000) 0x8" in found.model

        right = Anonymous()
        right.pagemap_scan = lambda **args: ([(0x3FFFC000, 0x3FFFD000, 8)], 0x40000000)
        assert self.agree(f"{start}0 write 0x3fffc000 1\n{scan}", right) is None

        lax = Anonymous()
        lax.touch = lambda *args, **kwargs: None
        found = self.agree("0 read 0x3fffc000 1", lax)
        assert (found.kind, found.kernel, found.model) == ("error", "SIGSEGV", "none")

        words = Anonymous()
        shown = words.pagemap
        words.pagemap = lambda a, n: shown(a, n) | np.uint64(1 << 57)
        found = self.agree(f"{start}0 pagemap 0x3fffc000 0x1000", words)
        assert found.kind == "word"
        found = self.agree("0 fork", Anonymous())
        assert found.kind == "exception"
        assert "has no attribute 'fork'" in found.model

    def test_a_refusal_is_not_a_mismatch(self):
        mux = Anonymous()

        def refuse():
            raise LookupError("the bit is soft_dirty's")

        mux.clear_refs = refuse
        found = self.agree("0 clear_refs\n0 read 0 1", mux)
        assert isinstance(found, Refusal)
        assert (found.step, found.reason) == (0, "the bit is soft_dirty's")

    def test_a_synchronous_fault_is_resolved_as_the_conductor_does(self):
        class Fault(Exception):
            address = 0x3FFFD000

        space, resolved, wp = Anonymous(), [], np.uint64(1 << 57)
        shown, touch = space.pagemap, space.touch

        def write(addr, length=1):
            if not resolved:
                raise Fault
            touch(addr, length, write=True)

        def pagemap(addr, length):
            words = shown(addr, length)
            if protected and not resolved:
                words[1] |= wp
            return words

        protected = []
        space.pagemap = pagemap
        space.write = write
        space.uffd_register = lambda **args: None
        space.uffd_writeprotect = lambda addr, length, on: (
            protected if on else resolved
        ).append(addr)
        start, page = (
            "0 mmap 0x3fffc000 0x4000 rw private|anonymous",
            "0x3fffd000 0x1000",
        )
        text = f"{start}\n0 read {page}\n0 uffd_register 0x3fffc000 0x4000 - WP\n"
        protect = f"0 uffd_writeprotect {page} 1\n"
        assert self.agree(text + protect + f"0 write {page}", space) is None
        assert resolved == [0x3FFFD000]

    def test_programs_are_repeatable(self):
        with native.swap():
            batch = list(itertools.islice(random_programs(3), 400))
            kernel, first = answers.run_native(batch)
            assert (kernel, first) == answers.run_native(batch)
        assert [len(a) for a in first] == [len(p.operations) for p in batch]


# ---- campaigns ----


@needs_native
class TestCampaign:
    def campaign(self, directory, model, batch=20):
        state = oracle.State.load(directory / "state.json") or oracle.State(
            "native", 7, ["plain"]
        )
        menu = SIMPLE.__class__(**{**SIMPLE.__dict__, "maps": ("private|anonymous",)})
        console = Console(file=io.StringIO(), width=100)
        return oracle.Campaign(
            *(state, directory, answers.run_native),
            *({"plain": lambda kernel: model()}, console, batch, (menu,)),
        )

    def test_it_goes_on_where_it_was_stopped(self, tmp_path):
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        for directory in (whole, parts):
            directory.mkdir()
        self.campaign(whole, Anonymous).go_on(600)
        stopped = self.campaign(parts, Anonymous)
        stopped.go_on(200)

        def interrupted(programs):
            raise KeyboardInterrupt

        stopped.run = interrupted
        with pytest.raises(KeyboardInterrupt):
            stopped.go_on(600)
        self.campaign(parts, Anonymous).go_on(600)
        states = [json.loads((d / "state.json").read_text()) for d in (whole, parts)]
        assert states[0] == states[1]
        assert states[0]["operations"] >= 600
        assert not states[0]["mismatches"]

    def test_a_mismatch_is_saved_as_a_program(self, tmp_path):
        campaign = self.campaign(tmp_path, ZeroPageExclusive, batch=60)
        campaign.next_batch()
        assert campaign.state.mismatches["plain"] > oracle.SHRUNK_OF_A_KIND
        saved = sorted(tmp_path.glob("mismatch-*.txt"))
        program = Program.parse(saved[0].read_text())
        assert [o.name for o in program.operations] == ["mmap", "read"]
        assert "kernel present, model present|exclusive" in saved[0].read_text()
        assert native.run(saved[0].read_text()).endswith("bye\n")
        assert "mismatches" in oracle.summary(campaign.state)

    def test_what_does_not_repeat_is_unsteady_and_blames_no_one(self, tmp_path):
        campaign = self.campaign(tmp_path, Anonymous, batch=4)
        run, runs = campaign.run, []

        def once_wrong(programs):
            kernel, given = run(programs)
            runs.append(len(programs))
            if len(runs) == 1:
                given[2] = (replace(given[2][0], error="EAGAIN"), *given[2][1:])
            return kernel, given

        campaign.run = once_wrong
        campaign.next_batch()
        assert runs == [4, 1]
        assert campaign.state.unsteady == 1
        assert not campaign.state.mismatches
        assert len(list(tmp_path.glob("unsteady-*.txt"))) == 1


@needs_native
class TestCommand:
    @pytest.fixture(autouse=True)
    def address_space(self, monkeypatch):
        """In the place of ours: one that knows next to nothing."""
        monkeypatch.setattr(
            em,
            "AddressSpace",
            lambda *args, **kwargs: Anonymous(),
            raising=False,
        )

    def test_a_campaign_that_finds_something_says_so(self, tmp_path, capsys):
        command = ["--operations", "1", "--encodings", "inpte", "--directory"]
        assert oracle.main([*command, str(tmp_path)]) == 1
        printed = capsys.readouterr()
        assert "inpte" in printed.out
        assert "has no attribute" in printed.err
        assert list(tmp_path.glob("mismatch-*.txt"))

    def test_a_directory_is_of_one_campaign(self, tmp_path, capsys):
        oracle.State("native", 1, ["linked"]).save(tmp_path / "state.json")
        command = ["--encodings", "inpte", "--directory", str(tmp_path)]
        assert oracle.main(command) == 2
        assert "is of linked" in capsys.readouterr().err

    def test_a_program_is_run_on_both(self, tmp_path, capsys):
        path = tmp_path / "program.txt"
        path.write_text(
            "# a comment\nwatch 0x40000000 0x1000\n"
            "0 mmap 0x40000000 0x1000 rw private|anonymous\n0 read 0x50000000 1\n"
        )
        assert oracle.main(["--program", str(path), "--encodings", "inpte"]) == 0
        said = capsys.readouterr().out
        assert "read 0x50000000 0x1: -1 SIGSEGV" in said
        assert "inpte       agrees" in said

    def test_it_can_be_stopped(self, tmp_path, monkeypatch, capsys):
        def stop(*args):
            raise KeyboardInterrupt

        monkeypatch.setattr(oracle.Campaign, "next_batch", stop)
        assert oracle.main(["--directory", str(tmp_path)]) == 130
        assert "the same command goes on" in capsys.readouterr().err


# ---- swap ----


@pytest.mark.skipif(os.geteuid() != 0, reason="swapon needs root")
class TestSwapFile:
    HOLD = (
        "import sys, time, pathlib; sys.path.insert(0, sys.argv[1]); import native\n"
        "native.places = lambda: [pathlib.Path(sys.argv[2])]\n"
        "with native.swap() as no:\n"
        "    print(no, flush=True)\n"
        "    time.sleep(60)\n"
    )

    def files(self):
        return {
            line.split()[0]
            for line in Path("/proc/swaps").read_text().splitlines()
            if native.SWAP_NAME in line
        }

    @pytest.fixture(autouse=True)
    def elsewhere(self, monkeypatch):
        """Swap files of this test only: other runs may have theirs."""
        self.place = Path(tempfile.mkdtemp(prefix="extmeta-swap-", dir="/var/tmp"))
        monkeypatch.setenv("TMPDIR", str(self.place))
        monkeypatch.setattr(native, "places", lambda: [self.place])
        monkeypatch.setattr(native.tempfile, "tempdir", str(self.place))
        yield
        assert not list(self.place.glob("*.swap"))
        shutil.rmtree(self.place)

    @contextlib.contextmanager
    def holder(self):
        """A process with a swap file."""
        command = [sys.executable, "-c", self.HOLD, str(native.HERE), str(self.place)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                if (said := process.stdout.readline().strip()) != "None":
                    pytest.skip(said)
                (path,) = self.place.glob("*.swap")
                assert str(path) in self.files()
                yield process, path
            finally:
                process.kill()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_it_goes_with_a_signal(self, number):
        with self.holder() as (process, path):
            process.send_signal(number)
            process.wait(30)
            assert str(path) not in self.files()
            assert not path.exists()

    def test_after_a_kill_the_next_start_removes_it(self):
        with self.holder() as (process, path):
            assert native.remove_leftovers() == [], "its maker lives"
            process.kill()
            process.wait(30)
            assert path.exists()
            assert native.remove_leftovers() == [path]
            assert str(path) not in self.files()

    def test_two_share_one_and_the_last_removes_it(self):
        with self.holder() as (process, path):
            with native.swap() as reason:
                assert reason is None
                assert list(self.place.glob("*.swap")) == [path]
                process.terminate()
                process.wait(30)
                assert str(path) in self.files()
            assert str(path) not in self.files()

    def test_it_goes_after_an_exception(self):
        with pytest.raises(ZeroDivisionError), native.swap():
            raise ZeroDivisionError(len(list(self.place.glob("*.swap"))))


def test_without_root_there_is_no_swap(monkeypatch):
    monkeypatch.setattr(native.os, "geteuid", lambda: 1000)
    with native.swap() as reason:
        assert reason == "swapon needs root"


# ---- our address space ----

needs_address_space = pytest.mark.skipif(
    not hasattr(em, "AddressSpace"), reason="this extmeta has no AddressSpace"
)
OPERATIONS = 20_000
# A word for each page, not each PTE: two that map it can't differ.
BY_PAGE = ("page_ext",)


# These run all programs, the others every fourth: little depends on the encoding.
RUN_ALL = ("inpte", "linked", "adaptive")


def share_of(encoding, programs, kernel, answers):
    """Return the programs that an encoding is held against, and their answers."""
    step = 1 if encoding in RUN_ALL else 4
    return programs[::step], kernel, answers[::step]


@pytest.fixture(scope="module")
def answered():
    """CI's share of a campaign: programs, and what this kernel did."""
    if reason := native.missing():
        pytest.skip(reason)
    with native.swap() as no_swap:
        menus = [m.without("PAGEOUT") if no_swap else m for m in oracle.MENUS]
        made = [] if no_swap else list(DIRECTED)
        for program in random_programs(1, menus):
            made.append(program)
            if sum(len(p.operations) for p in made) >= OPERATIONS:
                break
        return made, *answers.run_native(made)


@needs_address_space
@pytest.mark.slow
def test_address_space_is_linux(answered, encoding):
    """`make oracle` runs longer ones, and makes what it finds small."""
    found = list(oracle.mismatches(*share_of(encoding, *answered), encoding))
    if encoding in BY_PAGE:
        assert {mismatch.operation.name for _, mismatch in found} >= {"fork"}
        return
    assert not found, f"{len(found)} programs; make oracle\n" + oracle.report(
        *found[0], encoding, answered[1].release
    )


def test_ci_ran_the_oracle():
    """Where everything was installed for it, nothing may be missing."""
    if os.environ.get("EXTMETA_ORACLE") != "required":
        pytest.skip("EXTMETA_ORACLE is not set to required")
    assert native.missing() is None
    assert guest.missing() is None
    with native.swap() as reason:
        assert reason is None


@pytest.mark.parametrize("mutant", mutants.NATIVE + mutants.GUEST, ids=lambda m: m.name)
def test_the_text_that_a_mutant_replaces_is_there_once(mutant):
    path = Path(em.__file__).parent / "linux" / mutant.file
    assert path.read_text().count(mutant.sound) == 1
