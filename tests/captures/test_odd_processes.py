"""Real processes that look odd in /proc: their names, threads, number of VMAs."""

import contextlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import extmeta as em
from extmeta.captures import procfs, ptrace, ranges, record, trackers
from extmeta.linux import pagemap_scan

SECONDS = 120
COMMAND = [sys.executable, "-m", "extmeta"]
START = """
import ctypes, mmap, os, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 5]
"""
WAIT = """
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def child():
    """Start Python's text in a process; it waits when it is ready."""
    with contextlib.ExitStack() as stack:

        def start(code, end=WAIT):
            process = subprocess.Popen(
                [sys.executable, "-c", START + code + end],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            assert process.stdout.readline() == b"ready\n"
            return process.pid

        yield start


def run(*arguments, **options):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        timeout=SECONDS,
        check=False,
        **options,
    )


# What Python takes for the end of a line, and what is no UTF-8.
ODD = [
    b"caf\xe9",
    b"\rSeccomp:\t2",
    b"a) R 1 2 3",
    b"x\nTgid:\t1",
    "\x0b\x0c\x1c\x85\u2028".encode(),
    b" (b ( c",
    b"",
    b"caf\xe9 \r) R",
]


@pytest.mark.parametrize("name", ODD, ids=repr)
def test_a_process_of_an_odd_name(name, child, tmp_path):
    path = tmp_path / "a.npz"
    pid = child(
        f"libc.prctl(15, ctypes.c_char_p({name!r}), 0, 0, 0)\n"
        # Its name is a mapping's, too.
        f"fd = os.memfd_create({name!r} + b' 7f0000000000-7f0000001000 rw-p')\n"
        "os.ftruncate(fd, 4096); m = mmap.mmap(fd, 4096); m[0] = 1\n"
    )
    found = em.capture(pid)
    assert any("7f0000000000-7f0000001000 rw-p" in x for x in found.vma_name.tolist())
    assert run("capture", pid, "-o", path).returncode == 0
    assert em.load_capture(path).comm == found.comm
    # A terminal that knows no other encoding than ASCII.
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = run("info", path, env=ascii_only)
    assert (done.returncode, done.stderr) == (0, b"")
    if name == ODD[-1]:
        quick = ("--quick", "--encodings", "inpte,linked", "--fractions", "0.01")
        done = run("compare", path, *quick, "--json", tmp_path / "a.json")
        assert done.returncode == 0, done.stderr
        json.loads((tmp_path / "a.json").read_text())


@pytest.mark.skipif(bool(ptrace.refusal(os.getpid())), reason="can't inject here")
@pytest.mark.parametrize("name", [b"caf\xe9", b"\rSeccomp:\t0", b"a) R 1"], ids=repr)
def test_a_trace_of_an_odd_name(name, child, tmp_path):
    pid = child(
        f"libc.prctl(15, ctypes.c_char_p({name!r}), 0, 0, 0)\nm = mmap.mmap(-1, 8192)\n"
    )
    rounds = ("--rounds", "1", "--interval", "0.01")
    done = run("trace", pid, "-o", tmp_path / "t.npz", *rounds)
    assert b"Traceback" not in done.stderr
    assert done.returncode == 0 or b"may not be traced" in done.stderr, done.stderr


@given(st.binary(max_size=15).filter(lambda b: b"\0" not in b), st.integers(1, 9**9))
def test_lines_are_bytes(name, number):
    """As Linux writes them: fs/proc/array.c escapes a name's \\n in status only."""
    stat = b"%d (%s) S 1 %d 3\n" % (number, name, number)
    status = b"Name:\t%s\nTgid:\t%d\n" % (name.replace(b"\n", rb"\n"), number)
    files = {"stat": stat, "status": status}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(procfs, "slurp", lambda _where, file: files[file])
        assert procfs.stat(5)[:4] == [b"S", b"1", b"%d" % number, b"3"]
        assert procfs.status_lines(5)[b"Tgid"] == b"%d" % number


@pytest.mark.parametrize("number", [10, 237, 23700, 1000000])
def test_a_tracers_number_is_read_as_one(number, monkeypatch):
    monkeypatch.setattr(
        procfs, "status_lines", lambda _where: {b"TracerPid": b"%d" % number}
    )
    assert ptrace._not_permitted(5, 5, 0).endswith(f"by process {number}")


LEADER_ENDS = """
def rest():
    m = mmap.mmap(-1, 1 << 20); m[0] = 1
    while open(f"/proc/{os.getpid()}/stat", "rb").read().rpartition(b")")[2][1:2] != b"Z":
        time.sleep(0.001)
    print("ready", flush=True)
    while True:
        m[4096] = 1
        time.sleep(0.001)
threading.Thread(target=rest).start()
libc.syscall(60, 0)
"""


def test_a_process_whose_first_thread_has_ended(child, tmp_path):
    pid = child(LEADER_ENDS, end="")
    found = em.capture(pid)
    assert found.nr_present > 100
    assert len(found.build()) == len(found.vpn)
    assert em.capture(pid, stop=True).settled
    if not ptrace.refusal(pid):
        rounds = ("--rounds", "2", "--interval", "0.05")
        done = run("trace", pid, "-o", tmp_path / "t.npz", *rounds)
        assert done.returncode == 0 or b"may not be traced" in done.stderr, done.stderr


def test_a_zombie_has_exited(tmp_path):
    child = os.fork()
    if child == 0:
        os._exit(0)
    try:
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        with pytest.raises(em.CaptureError, match=f"process {child} has ended"):
            em.capture(child)
        with pytest.raises(trackers.TraceError, match=f"process {child} has ended"):
            record.Recorder(child, 1)
    finally:
        os.waitpid(child, 0)


def mounted(script):
    """Run a shell's text in a mount namespace of its own."""
    # The place of Python's is told, since /proc may not tell it.
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(done.stderr.strip())
    return done


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
@pytest.mark.parametrize("verb", ["capture", "trace"])
def test_no_proc_is_said_as_such(verb, tmp_path):
    command = f"{sys.executable} -m extmeta {verb} $$ -o {tmp_path}/a.npz"
    done = mounted(f"mount -t tmpfs none /proc && {command}")
    assert done.returncode == 2
    assert "can't be read: /proc is not mounted" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_a_hidden_process_is_said_as_such():
    code = (
        "import os, extmeta as em; from extmeta.captures.record import Recorder\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for ask in (em.capture, lambda pid: Recorder(pid, 1)):\n"
        "    try: ask(1)\n"
        "    except Exception as error: print(error)\n"
    )
    done = mounted(
        f"mount -t proc -o hidepid=2 none /proc && {sys.executable} -c '{code}'"
    )
    line = "process 1 is hidden: /proc is mounted with hidepid\n"
    assert done.stdout == 2 * line, done.stderr


MANY = """
for i in range({n}):
    a = libc.mmap(0x200000000000 + i * 8192, 4096, 3, 0x100022, -1 & (1 << 64) - 1, 0)
    ctypes.c_ubyte.from_address(a).value = 1
"""


class Steps:
    """Counts calls of the functions that a round's cost is made of."""

    def __init__(self, monkeypatch):
        self.n = 0
        for owner, name in (
            (pagemap_scan, "pagemap_scan"),
            (ranges.Ranges, "cover"),
            (ranges.Ranges, "touch"),
        ):
            monkeypatch.setattr(owner, name, self.counted(getattr(owner, name)))

    def counted(self, really):
        def call(*arguments, **options):
            self.n += 1
            return really(*arguments, **options)

        return call


@pytest.mark.skipif(bool(ptrace.refusal(os.getpid())), reason="can't inject here")
def test_a_round_takes_steps_by_the_number_of_vmas(child, monkeypatch):
    taken = []
    for n in (500, 2000):
        pid = child(MANY.format(n=n))
        try:
            recorder = record.Recorder(pid, 0)
        except trackers.TraceError as error:
            pytest.skip(str(error))
        try:
            with monkeypatch.context() as patch:
                steps = Steps(patch)
                assert recorder.record(1) == ""
                taken.append(steps.n)
        finally:
            recorder.close()
    assert taken[0] >= 500
    assert taken[1] < 5 * taken[0]


def test_sixty_thousand_vmas(child):
    pid = child(MANY.format(n=60_000))
    found = em.capture(pid)
    assert len(found.vma_start) > 60_000
    assert np.isin(np.arange(60_000) * 2 + 0x200000000, found.vpn).all()
