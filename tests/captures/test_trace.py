"""Real processes that write pages we know, recorded from outside.

The processes are Python's, each with a thread beside: starting them takes most of
the time of this file.
"""

import ctypes
import errno
import itertools
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extmeta import cli
from extmeta.captures import ptrace, ranges, record, trackers
from extmeta.captures.trace import load_trace

PAGES = 1024

WRITER = f"""
import ctypes, mmap, os, sys, threading, time
ticks = [0]
def tick():
    while True:
        ticks[0] += 1
        time.sleep(0.001)
threading.Thread(target=tick, daemon=True).start()
PAGES, PAGE = {PAGES}, 4096
private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
def mapped():
    made = mmap.mmap(-1, PAGES * PAGE, private)
    made.madvise(15)  # MADV_NOHUGEPAGE
    return made, ctypes.addressof(ctypes.c_char.from_buffer(made))
memory, start = mapped()
for page in range(PAGES // 2):
    memory[page * PAGE] = 1
print(start // PAGE, flush=True)
maps = []
for line in sys.stdin:
    what, *pages = line.split()
    pages = [int(page) for page in pages]
    if what == "write":
        for page in pages:
            memory[page * PAGE] = 2
    elif what == "read":
        sum(memory[page * PAGE] for page in pages)
    elif what == "kernel":  # which writes by itself
        with open("/dev/zero", "rb", buffering=0) as zero:
            for page in pages:
                zero.readinto(memoryview(memory)[page * PAGE:][:PAGE])
    elif what == "drop":
        for page in pages:
            memory.madvise(mmap.MADV_DONTNEED, page * PAGE, PAGE)
    elif what == "map":
        maps.append(mapped())
        for page in pages:
            maps[-1][0][page * PAGE] = 3
        print(maps[-1][1] // PAGE, flush=True)
        continue
    elif what == "fork":
        if not os.fork():
            time.sleep(0.5)
            os._exit(0)
    elif what == "fds":
        print(*sorted(os.listdir("/proc/self/fd")), flush=True)
        continue
    elif what == "exec":
        os.execv("/bin/sleep", ["sleep", "60"])
    elif what == "sleep":
        before = time.monotonic()
        time.sleep(0.3)
        print(time.monotonic() - before, ticks[0], flush=True)
        continue
    print("done", flush=True)
"""


class Writer:
    """A process that writes the pages it is told to."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        self.first = int(self.process.stdout.readline())

    def send(self, what, *pages):
        print(what, *pages, file=self.process.stdin, flush=True)

    def do(self, what, *pages):
        self.send(what, *pages)
        return self.process.stdout.readline()

    def stop(self):
        self.process.kill()
        self.process.communicate()

    def pages(self, vpns, first=None):
        """Return which of its pages are among vpns, from 0 on."""
        first = self.first if first is None else first
        return [int(v) - first for v in vpns if first <= v < first + PAGES]


def why_not():
    """Return why nothing can be recorded here, or ""."""
    if why := ptrace.refusal(os.getpid()):
        return why
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        time.sleep(0.05)
        record.Recorder(sleeper.pid, 0).close()
    except trackers.TraceError as error:
        return str(error)
    finally:
        sleeper.kill()
        sleeper.wait()
    return ""


needs_tracing = pytest.mark.skipif(bool(why_not()), reason=why_not())
only_wp_async = pytest.mark.skipif(
    trackers.has_soft_dirty(), reason="by soft-dirty here"
)


@pytest.fixture
def writer():
    made = Writer()
    yield made
    made.stop()


@pytest.fixture
def recorder(writer):
    made = record.Recorder(writer.pid, 0)
    yield made
    made.close()


def said_in_a_child(function):
    """Return what TraceError a function raises in a child of this process."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            function()
        except trackers.TraceError as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read()
    os.waitpid(child, 0)
    return said


def next_round(recorder):
    assert recorder.record(len(recorder.rounds) + 1) == ""
    return recorder.rounds[-1]


@needs_tracing
class TestRounds:
    def test_exactly_the_pages_that_were_written(self, writer, recorder):
        rng = np.random.default_rng(1)
        for _ in range(8):
            pages = np.flatnonzero(rng.random(PAGES) < 0.05).tolist()
            writer.do("write", *pages)
            assert writer.pages(next_round(recorder)) == pages
        # Nothing written: but for what reads the commands.
        assert writer.pages(next_round(recorder)) == []

    def test_more_regions_than_the_kernel_returns_at_once(self, writer, recorder):
        pages = [*range(0, PAGES - 1, 2), PAGES - 1]
        writer.do("write", *pages)
        assert writer.pages(next_round(recorder)) == pages
        assert writer.pages(next_round(recorder)) == []

    def test_reading_is_not_writing(self, writer, recorder):
        # The second half was never touched: reading maps the zero page.
        writer.do("read", *range(PAGES))
        assert writer.pages(next_round(recorder)) == []
        writer.do("write", PAGES - 2)
        assert writer.pages(next_round(recorder)) == [PAGES - 2]

    def test_the_kernels_own_writes_count(self, writer, recorder):
        writer.do("kernel", 3, PAGES - 3)
        assert writer.pages(next_round(recorder)) == [3, PAGES - 3]

    @only_wp_async
    def test_dropped_pages_count_when_written_again(self, writer, recorder):
        writer.do("drop", 5, 6)
        assert writer.pages(next_round(recorder)) == []
        writer.do("write", 6)
        assert writer.pages(next_round(recorder)) == [6]

    def test_memory_that_is_mapped_meanwhile(self, writer, recorder):
        first = int(writer.do("map", 1, 2, 700))
        assert writer.pages(next_round(recorder), first) == [1, 2, 700]
        writer.do("write", 9)
        vpns = next_round(recorder)
        assert writer.pages(vpns, first) == []
        assert writer.pages(vpns) == [9]

    def test_a_fork_is_not_a_write(self, writer, recorder):
        writer.do("fork")
        assert writer.pages(next_round(recorder)) == []
        writer.do("write", 1)
        assert writer.pages(next_round(recorder)) == [1]

    def test_the_trace_is_all_of_it(self, writer, recorder, tmp_path):
        for pages in ([1, 2], [2, 3], []):
            writer.do("write", *pages)
            next_round(recorder)
        recorder.trace().save(tmp_path / "trace.npz")
        found = load_trace(tmp_path / "trace.npz")
        assert found.nr_rounds == 3
        for number, pages in enumerate(([1, 2], [2, 3], [])):
            assert writer.pages(found.round(number)) == pages
        assert found.comm == recorder.comm
        assert found.release == platform.release()


@needs_tracing
@only_wp_async
class TestTheProcessGoesOn:
    def test_as_it_was(self, writer):
        before = writer.do("fds")
        recorder = record.Recorder(writer.pid, 0)
        assert writer.do("fds") != before
        assert recorder.close() == ""
        assert writer.do("fds") == before
        with open(f"/proc/{writer.pid}/smaps") as file:
            assert " uw" not in file.read()

    def test_a_child_that_has_the_file_does_not_keep_it(self, writer):
        recorder = record.Recorder(writer.pid, 0)
        writer.do("fork")
        recorder.close()
        with open(f"/proc/{writer.pid}/smaps") as file:
            assert " uw" not in file.read()

    def test_its_sleep_is_as_long_and_its_threads_run(self, writer):
        writer.send("sleep")
        for _ in range(5):
            time.sleep(0.03)
            with ptrace.stopped(writer.pid) as thread:
                assert thread.call(39) == writer.pid  # getpid
        slept, ticks = map(float, writer.process.stdout.readline().split())
        assert slept >= 0.3
        assert ticks > 10
        # No signal or EINTR came of it.
        assert writer.process.poll() is None

    def test_registers_memory_and_mask_are_restored(self, writer):
        time.sleep(0.1)  # until it waits for a command
        with ptrace.stopped(writer.pid) as thread:
            regs, mask = thread._regs, thread._mask.value
            maps = ranges.vmas(writer.pid)
            with thread.scratch() as page:
                thread.write(page, b"scratch")
                assert thread.read(page, 7) == b"scratch"
            with pytest.raises(OSError, match="Bad file descriptor"):
                thread.call(3, 999)
        assert ranges.vmas(writer.pid) == maps
        with ptrace.stopped(writer.pid) as thread:
            # In the same system call again, or still.
            same = (ptrace._RIP, ptrace._ORIG_RAX, 19)  # rsp
            assert [thread._regs[i] for i in same] == [regs[i] for i in same]
            assert thread._mask.value == mask

    def test_one_that_is_stopped_stays_so(self, writer):
        os.kill(writer.pid, signal.SIGSTOP)
        recorder = record.Recorder(writer.pid, 0)
        recorder.close()
        time.sleep(0.05)
        with open(f"/proc/{writer.pid}/stat") as file:
            assert file.read().rpartition(")")[2].split()[0] == "T"
        os.kill(writer.pid, signal.SIGCONT)
        assert writer.do("write", 1) == "done\n"

    def test_signals_that_come_meanwhile_are_not_lost(self):
        program = (
            "import signal, time\n"
            "got = []\n"
            "signal.signal(signal.SIGUSR1, lambda *_: got.append(1))\n"
            "print('ready', flush=True)\n"
            "while not got: time.sleep(0.05)\n"
            "print('got', flush=True)"
        )
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            with ptrace.stopped(process.pid) as thread:
                process.send_signal(signal.SIGUSR1)
                thread.call(39)
            assert process.stdout.readline() == "got\n"


@needs_tracing
class TestTheEnd:
    def test_what_was_recorded_stays_when_it_dies(self, writer, recorder):
        next_round(recorder)
        writer.stop()
        assert "has ended" in recorder.record(9)
        assert recorder.trace().nr_rounds == 1

    @only_wp_async
    def test_and_when_it_becomes_another_program(self, writer, recorder):
        next_round(recorder)
        writer.send("exec")
        time.sleep(0.2)
        assert "another program" in recorder.record(9)
        assert recorder.trace().nr_rounds == 1

    def test_no_round_no_trace(self, recorder):
        assert recorder.trace() is None


class TestRefused:
    def refused(self, pid, capsys, tmp_path):
        output = tmp_path / "trace.npz"
        assert cli.main(["trace", str(pid), "-o", str(output)]) == 2
        assert not output.exists()
        (line,) = [
            line
            for line in capsys.readouterr().err.splitlines()
            if line.startswith("extmeta trace: ")
        ]
        return line

    def test_no_such_process(self, capsys, tmp_path):
        assert "process 4194305 does not exist" in self.refused(
            4194305, capsys, tmp_path
        )

    def test_itself(self, capsys, tmp_path):
        assert "this process itself" in self.refused(os.getpid(), capsys, tmp_path)

    def test_a_thread(self, writer, capsys, tmp_path):
        tid = max(map(int, os.listdir(f"/proc/{writer.pid}/task")))
        line = self.refused(tid, capsys, tmp_path)
        assert f"a thread of process {writer.pid}" in line

    def test_a_kernel_thread(self, capsys, tmp_path):
        with open("/proc/2/comm") as file:
            if file.read() != "kthreadd\n":
                pytest.skip("no kernel thread to be seen")
        assert "kernel thread" in self.refused(2, capsys, tmp_path)

    def test_a_zombie(self, capsys, tmp_path):
        process = subprocess.Popen(["true"])
        time.sleep(0.1)
        assert "has ended" in self.refused(process.pid, capsys, tmp_path)
        process.wait()

    @needs_tracing
    @only_wp_async
    def test_one_that_is_traced_already(self, writer):
        ptrace._ptrace(ptrace._SEIZE, writer.pid)
        said = said_in_a_child(lambda: record.Recorder(writer.pid, 0))
        assert f"traced already, by process {os.getpid()}" in said

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give it up")
    def test_anothers_process(self, writer):
        def without_privileges():
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            record.Recorder(writer.pid, 0)

        assert "ermission denied" in said_in_a_child(without_privileges)

    @needs_tracing
    @only_wp_async
    @pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
    def test_a_32_bit_process(self, capsys, tmp_path):
        # sigprocmask is not needed: it waits in pause() for ever.
        code = 'void _start(void){for(;;)__asm__ volatile("int $0x80"::"a"(29));}'
        (tmp_path / "a.c").write_text(code)
        flags = ["-m32", "-nostdlib", "-static", "-o", tmp_path / "a"]
        made = subprocess.run(
            ["cc", *flags, tmp_path / "a.c"], capture_output=True, check=False
        )
        if made.returncode:
            pytest.skip("the compiler makes no 32-bit programs")
        try:
            process = subprocess.Popen([tmp_path / "a"])
        except OSError:
            pytest.skip("this kernel runs no 32-bit programs")
        time.sleep(0.05)
        assert "32-bit" in self.refused(process.pid, capsys, tmp_path)
        process.kill()
        process.wait()

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["1", "-o", "/nowhere/at/all"], "there is no directory /nowhere/at"),
            (["1", "-o", "x", "--rounds", "0"], "'0' is not above 0"),
            (["1", "-o", "x", "--interval", "0"], "'0' is not above 0"),
            (["1", "-o", "x", "--interval", "nan"], "'nan' is not in [0, 86400]"),
            (["1", "-o", "x", "--interval", "soon"], "'soon' is no number"),
            (["me", "-o", "x"], "'me' is no number"),
        ],
    )
    def test_bad_input(self, capsys, arguments, said):
        assert cli.main(["trace", *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


@needs_tracing
@only_wp_async
def test_memory_that_another_userfaultfd_has_is_left_alone_and_said(writer):
    start = writer.first << 12
    with ptrace.stopped(writer.pid) as thread, thread.scratch() as page:
        fd = thread.call(trackers._USERFAULTFD, trackers._FLAGS)
        thread.write(page, struct.pack("=3Q", trackers._UFFD_API, 1, 0))
        thread.call(trackers._IOCTL, fd, trackers._UFFDIO_API, page)
        thread.write(page, struct.pack("=4Q", start, 16 << 12, 2, 0))
        thread.call(trackers._IOCTL, fd, trackers._UFFDIO_REGISTER, page)
    recorder = record.Recorder(writer.pid, 0)
    (line,) = recorder.said()
    assert line == f"not tracked: {start:#x}-{start + (16 << 12):#x}: " + (
        "another userfaultfd has it"
    )
    writer.do("write", 3, 100)
    assert writer.pages(next_round(recorder)) == [100]
    recorder.close()


@needs_tracing
@only_wp_async
def test_under_a_seccomp_filter_it_lives(tmp_path):
    """Its filter kills for any system call but those it makes; ours are not seen."""
    # A filter of one instruction: kill for userfaultfd, else allow.
    program = f"""
import ctypes, struct, sys
code = b"".join(struct.pack("=HBBI", *row) for row in (
    (0x20, 0, 0, 0), (0x15, 0, 1, {trackers._USERFAULTFD}),
    (0x06, 0, 0, 0x80000000), (0x06, 0, 0, 0x7FFF0000)))
buffer = ctypes.create_string_buffer(code)
prog = ctypes.create_string_buffer(struct.pack("=H6xQ", 4, ctypes.addressof(buffer)))
libc = ctypes.CDLL(None)
assert not libc.prctl(38, 1, 0, 0, 0) and not libc.prctl(22, 2, prog, 0, 0)
print("ready", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        if os.geteuid():
            with pytest.raises(trackers.TraceError, match="seccomp filter"):
                record.Recorder(process.pid, 0)
        else:
            recorder = record.Recorder(process.pid, 0)
            assert recorder.record(1) == ""
            assert recorder.close() == ""
        time.sleep(0.05)
        assert process.poll() is None


@needs_tracing
class TestCommand:
    def run(self, writer, *arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "extmeta", "trace", str(writer.pid), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def test_it_writes_a_trace(self, writer, tmp_path, capsys):
        path = tmp_path / "trace.npz"
        command = ["trace", str(writer.pid), "-o", str(path), "--rounds", "2"]
        assert cli.main([*command, "--interval", "0.01"]) == 0
        assert "2 rounds of 0.01 s" in capsys.readouterr().out
        assert load_trace(path).nr_rounds == 2
        assert cli.main(command) == 2
        assert "exists; --force" in capsys.readouterr().err

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_interrupted_it_keeps_what_there_is(self, writer, tmp_path, number):
        path = tmp_path / "trace.npz"
        asked = ("-o", str(path), "--rounds", "10000", "--interval", "0.01")
        with self.run(writer, *asked) as process:
            for line in process.stderr:
                if "rounds" in line:
                    break
            time.sleep(0.3)
            process.send_signal(number)
            _, errors = process.communicate(timeout=30)
        assert process.returncode == 130
        kept = load_trace(path).nr_rounds
        assert f"interrupted after {kept} of 10000 rounds, which are kept" in errors
        assert writer.do("write", 1) == "done\n"
        with open(f"/proc/{writer.pid}/smaps") as file:
            assert " uw" not in file.read()

    def test_a_full_disk_is_said(self, writer, capsys):
        command = ["trace", str(writer.pid), "--rounds", "1", "--interval", "0.01"]
        assert cli.main([*command, "-o", "/dev/full", "--force"]) == 1
        assert os.strerror(errno.ENOSPC) in capsys.readouterr().err


RANGES = st.lists(
    st.integers(0, 60).flatmap(lambda a: st.tuples(st.just(a), st.integers(a + 1, 64))),
    max_size=8,
)


@given(RANGES, RANGES)
def test_ranges_are_sets_of_bytes(some, others):
    found = ranges.Ranges(some).add(others)
    held = {byte for start, end in some + others for byte in range(start, end)}
    assert {byte for start, end in found.all for byte in range(start, end)} == held
    assert all(a[1] < b[0] for a, b in itertools.pairwise(found.all))
    for start, end in itertools.combinations(range(0, 64, 3), 2):
        assert found.cover(start, end) == (held >= set(range(start, end)))
        assert found.touch(start, end) == bool(held & set(range(start, end)))


class TestSoftDirty:
    """By words of a pagemap that are made up, where the kernel has no such bit."""

    def test_what_is_dirty_counts(self, writer, monkeypatch):
        dirty = {writer.first + 2, writer.first + 5}

        def pagemap(fd, ranges, progress):
            spans = [
                np.arange(*span, dtype=np.uint64) for span in (ranges >> 12).tolist()
            ]
            vpns = np.concatenate([np.empty(0, np.uint64), *spans])
            bit = np.isin(vpns, np.array(sorted(dirty), np.uint64))
            return vpns, bit.astype(np.uint64) << np.uint64(55) | np.uint64(1 << 63)

        monkeypatch.setattr(record, "has_soft_dirty", lambda: True)
        monkeypatch.setattr(record.procfs, "pagemap", pagemap)
        recorder = record.Recorder(writer.pid, 0)
        assert writer.pages(next_round(recorder)) == [2, 5]
        assert recorder.trace().how == trackers.SOFT_DIRTY
        # It goes on.
        assert writer.do("write", 1) == "done\n"
        recorder.close()
        writer.stop()
        assert "has ended" in recorder.record(2)

    def test_the_kernel_is_asked(self):
        assert trackers.has_soft_dirty() in (True, False)


def test_a_word_of_ptrace_is_an_error():
    with pytest.raises(ProcessLookupError):
        ptrace._ptrace(ptrace._CONT, 4194305)
    assert ctypes.get_errno() == errno.ESRCH
