"""Captures of real processes, and the tables built from them."""

import contextlib
import ctypes
import dataclasses
import errno
import hashlib
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import extmeta as em
from extmeta.captures import procfs
from extmeta.captures.capture import Capture, CaptureError, load_capture, shipped
from extmeta.captures.process import capture
from extmeta.linux import pagemap_scan, pagewords
from extmeta.linux.pagemap_scan import PageIs

PAGE = mmap.PAGESIZE
LEAF = 512
NOBODY = 65534

# Captures made elsewhere, where a checkout has them beside it.
OTHERS = sorted((Path(__file__).parents[3] / "shared" / "captures").glob("*.npz"))

# The two libc calls that the mmap module has no constants for, and the address.
PREAMBLE = """
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
NORESERVE = 0x4000
def address(m):
    return ctypes.addressof(ctypes.c_char.from_buffer(m))
def advise(start, pages, advice):
    return libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(pages * 4096), advice)
def say(*words):
    print(*words, flush=True)
def wait():
    return sys.stdin.readline()
"""


class Child:
    """A process that runs some Python and then waits to be told to end."""

    def __init__(self, code):
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"{PREAMBLE}\n{code}\nwait()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid

    def hear(self):
        """Return the numbers of the next line it says, once it waits."""
        numbers = [int(word) for word in self.process.stdout.readline().split()]
        self.wait_for("S")
        return numbers

    def tell(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def state(self):
        status = Path(f"/proc/{self.pid}/status").read_text()
        return status.split("State:\t")[1][0]

    def wait_for(self, *states):
        deadline = time.monotonic() + 30
        while self.state() not in states:
            assert time.monotonic() < deadline, self.state()
            time.sleep(0.001)

    def end(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def child():
    """Start children; all are killed afterwards."""
    started = []

    def start(code):
        started.append(Child(code))
        return started[-1]

    yield start
    for each in started:
        each.end()


@pytest.fixture
def sleeper(child):
    """A child that says "ready", then does nothing."""
    started = child("say(1)")
    assert started.hear() == [1]
    return started


@pytest.fixture
def no_pagemap_scan(monkeypatch):
    """A kernel before 6.7."""

    def refuse(*_args, **_options):
        raise OSError(errno.ENOTTY, "no such ioctl")

    monkeypatch.setattr(pagemap_scan, "pagemap_scan", refuse)


def has_pagemap_scan():
    with open("/proc/self/pagemap", "rb") as file:
        try:
            pagemap_scan.pagemap_scan(
                file.fileno(), 0, PAGE, anyof=PageIs.PRESENT, returned=PageIs.FILE
            )
        except OSError:
            return False
    return True


needs_pagemap_scan = pytest.mark.skipif(
    not has_pagemap_scan(), reason="needs PAGEMAP_SCAN (Linux 6.7)"
)


def has_pfns():
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        first = ctypes.addressof(ctypes.c_char.from_buffer(bytearray(1))) >> 12
        file.seek(first * 8)
        return int.from_bytes(file.read(8), "little") & pagewords.PFN_MASK != 0


needs_pfns = pytest.mark.skipif(not has_pfns(), reason="needs CAP_SYS_ADMIN for PFNs")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@contextlib.contextmanager
def unprivileged():
    """Give up root's rights for a while."""
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def words(cap):
    """Return a capture's pagemap words by vpn."""
    return dict(zip(cap.vpn.tolist(), cap.entry.tolist(), strict=True))


def table_bytes(cap):
    """Return what page tables take by the kernel's own count, with the root."""
    return (cap.vmpte_kb + 4) * 1024


def model_bytes(table):
    memory = table.memory()
    return memory.pte + memory.upper


# --- reading -------------------------------------------------------------


SOME_PAGES = """
m = mmap.mmap(-1, 16 * 4096, flags=PRIVATE)
m[0] = m[3 * 4096] = 1          # written
m[5 * 4096]                     # the zero page
say(address(m) >> 12)
"""


@pytest.mark.parametrize("scan", [True, False], ids=["scan", "no scan"])
def test_has_the_pages_that_are_there(child, request, scan):
    if not scan:
        request.getfixturevalue("no_pagemap_scan")
    process = child(SOME_PAGES)
    (first,) = process.hear()
    seen = words(capture(process.pid))
    pages = [seen.get(first + i, 0) for i in range(16)]
    assert [i for i in range(16) if pages[i] >> 63] == [0, 3, 5]
    assert [i for i in range(16) if pages[i] >> 56 & 1] == [0, 3]


@needs_pagemap_scan
def test_scan_and_plain_reading_agree(child, request):
    process = child(SOME_PAGES)
    process.hear()
    scanned = capture(process.pid)
    request.getfixturevalue("no_pagemap_scan")
    plain = capture(process.pid)
    assert scanned.settled
    assert plain.vpn.tolist() == scanned.vpn.tolist()
    # Whether others map a file's page too may have changed.
    assert not ((plain.entry ^ scanned.entry) & ~np.uint64(1 << 56)).any()


def test_tables_needed_are_vmpte(sleeper):
    cap = capture(sleeper.pid)
    assert cap.settled
    assert cap.empty_tables == 0
    assert cap.vmpte_kb == 4 * sum(cap.tables_needed())
    assert cap.nr_present == len(cap.vpn)
    assert cap.nr_swapped == cap.nr_markers == 0


def test_zapped_pages_leave_empty_tables(child):
    process = child("""
m = mmap.mmap(-1, 16 << 20, flags=PRIVATE)
start = (address(m) + (2 << 20) - 1) >> 21 << 21
for i in range(start, start + (8 << 20), 4096):
    ctypes.c_char.from_address(i).value = b"x"
say(1)
wait()
for i in range(start, start + (8 << 20), 4096):     # 2 MiB at once would free them
    advise(i, 1, mmap.MADV_DONTNEED)
say(1)
""")
    process.hear()
    full = capture(process.pid)
    process.tell()
    process.hear()
    zapped = capture(process.pid)
    assert full.empty_tables == 0
    assert zapped.vmpte_kb == full.vmpte_kb
    before, after = full.tables_needed(), zapped.tables_needed()
    assert before.pte - after.pte == 4
    # The PMD table too is empty, if nothing else is in that GiB.
    assert zapped.empty_tables == sum(before) - sum(after)
    agree(zapped)


def test_names_have_no_folder(child, tmp_path):
    path = tmp_path / "a file"
    path.write_bytes(b"x" * PAGE)
    process = child(f"""
f = open({str(path)!r}, "rb")
m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
say(m[0])
""")
    process.hear()
    cap = capture(process.pid)
    names = cap.vma_name.tolist()
    assert "a file" in names
    assert "[heap]" in names
    assert not any("/" in name and not name.startswith("[") for name in names)
    assert cap.vma_perms[names.index("a file")] == "r--s"


def test_says_what_ran(sleeper):
    cap = capture(sleeper.pid)
    assert cap.comm == Path(f"/proc/{sleeper.pid}/comm").read_text().strip()
    assert os.uname().release.startswith(cap.kernel)
    assert cap.vmrss_kb > 0
    assert repr(cap) == (
        f"<Capture of {cap.comm!r}: {len(cap.vpn):,} entries in "
        f"{cap.tables_needed().pte:,} PTE tables, VmPTE {cap.vmpte_kb:,} KiB, "
        f"Linux {cap.kernel}>"
    )


@needs_pagemap_scan
def test_reservation_of_20_tib_is_not_read(child):
    process = child("""
m = mmap.mmap(-1, 20 << 40, flags=PRIVATE | NORESERVE, prot=0)
say(1)
""")
    process.hear()
    seen = []
    cap = capture(process.pid, progress=lambda *now: seen.append(now))
    assert (cap.vma_end - cap.vma_start).max() == 20 << 40
    # 40 GiB of words; what lies around the pages that are there is read.
    assert seen[-1][1] < 8 << 20


@pytest.mark.usefixtures("no_pagemap_scan")
def test_unpopulated_gib_without_scan(child):
    process = child("""
m = mmap.mmap(-1, 1 << 30, flags=PRIVATE | NORESERVE)
m[(1 << 30) - 1] = 1
say(address(m) + (1 << 30) - 4096 >> 12)
""")
    (last,) = process.hear()
    seen = []
    cap = capture(process.pid, progress=lambda *now: seen.append(now))
    assert last in words(cap)
    assert seen[-1][1] >= 1 << 21


def test_progress_rises_to_the_total(child):
    process = child("m = mmap.mmap(-1, 1 << 20, flags=PRIVATE); m[0] = 1; say(1)")
    process.hear()
    seen = []
    assert capture(process.pid, progress=lambda *now: seen.append(now)).settled
    done = [now for now, _ in seen]
    assert done == sorted(done)
    assert done[0] == 0
    assert seen[-1][0] == seen[-1][1] > 0
    assert len({total for _, total in seen}) == 1


GUARDED = """
m = mmap.mmap(-1, 16 * 4096, flags=PRIVATE)
m[0] = 1
if advise(address(m) + 8 * 4096, 2, 102):     # MADV_GUARD_INSTALL
    say(0)
else:
    say(address(m) >> 12)
"""


@pytest.mark.parametrize("scan", [True, False], ids=["scan", "no scan"])
def test_guard_pages_are_markers(child, request, scan):
    if not scan:
        request.getfixturevalue("no_pagemap_scan")
    process = child(GUARDED)
    (first,) = process.hear()
    if not first:
        pytest.skip("needs MADV_GUARD_INSTALL (Linux 6.13)")
    cap = capture(process.pid)
    assert cap.nr_markers == 2
    assert cap.nr_swapped == 0
    assert {first, first + 8, first + 9} <= set(words(cap))
    assert first + 7 not in words(cap)
    table = cap.build()
    assert len(table) == len(cap.vpn) - 512 * len(cap.huge_vpn)
    assert model_bytes(table) == table_bytes(cap)


HUGE_FILE = """
f = open({path!r}, "wb+")
f.truncate(8 << 20)
m = mmap.mmap(f.fileno(), 8 << 20, flags=mmap.MAP_SHARED)
m.madvise(14)                                 # MADV_HUGEPAGE
sum(m[i] for i in range(0, 8 << 20, 4096))
mapped = sum(int(line.split()[1]) for line in open("/proc/self/smaps")
             if line.startswith(("FilePmdMapped", "ShmemPmdMapped")))
say(address(m) >> 12, mapped)
"""


@pytest.fixture
def huge_file(child, tmp_path):
    """A child with a file mapped by PMDs: it, its first vpn, KiB so mapped."""
    process = child(HUGE_FILE.format(path=str(tmp_path / "file")))
    first, mapped_kb = process.hear()
    if not mapped_kb:
        pytest.skip("needs a file system with PMD-sized folios under tmp_path")
    return process, first, mapped_kb


@needs_pagemap_scan
def test_file_leaves_have_no_pte_table(huge_file):
    process, first, mapped_kb = huge_file
    cap = capture(process.pid)
    assert len(cap.huge_vpn) == mapped_kb // 2048
    assert set(cap.huge_vpn.tolist()) <= set(range(first, first + 2048, LEAF))
    assert cap.empty_tables == 0
    assert not cap.vma_unlocated_kb.any()
    table = cap.build()
    assert model_bytes(table) == table_bytes(cap)
    assert not set(cap.huge_vpn.tolist()) & set(table.tables)


@pytest.mark.usefixtures("no_pagemap_scan")
def test_file_leaves_are_placed_where_nothing_else_can_be(huge_file):
    process, first, mapped_kb = huge_file
    if mapped_kb != 8192:
        pytest.skip("needs all of the file to be mapped by PMDs")
    cap = capture(process.pid)
    assert cap.huge_vpn.tolist() == list(range(first, first + 2048, LEAF))
    assert not cap.vma_unlocated_kb.any()
    assert cap.empty_tables == 0
    assert model_bytes(cap.build()) == table_bytes(cap)


def test_hugetlb_is_known_by_its_flag(child):
    free = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
    if not free.exists() or int(free.read_text()) < 2:
        pytest.skip("needs two free 2 MiB hugetlb pages")
    process = child("""
m = mmap.mmap(-1, 4 << 20, flags=PRIVATE | 0x40000)
m[0] = m[2 << 20] = 1
say(address(m) >> 12)
""")
    (first,) = process.hear()
    cap = capture(process.pid)
    assert cap.huge_vpn.tolist() == [first, first + LEAF]
    # Anonymous to pagemap, but no table is deposited with them.
    assert len(cap.deposited_vpn) == 0
    assert cap.empty_tables == 0
    assert model_bytes(cap.build()) == table_bytes(cap)


# --- refusing ------------------------------------------------------------


@pytest.mark.parametrize("pid", ["1", 1.0, None, True, [1]])
def test_pid_must_be_an_integer(pid):
    with pytest.raises(TypeError, match=r"^pid: .*is not an integer$"):
        capture(pid)


@pytest.mark.parametrize("pid", [0, -1])
def test_pid_must_be_positive(pid):
    with pytest.raises(ValueError, match=f"^pid: {pid} is not positive$"):
        capture(pid)


def test_pid_may_be_numpys(sleeper):
    assert capture(np.int64(sleeper.pid)).settled


@pytest.mark.parametrize("pid", [2**22 + 1, 10**15])
def test_no_such_process(pid):
    with pytest.raises(CaptureError, match=f"^process {pid} does not exist$"):
        capture(pid)


def test_zombie(sleeper):
    sleeper.process.kill()
    sleeper.wait_for("Z")
    with pytest.raises(CaptureError, match=f"^process {sleeper.pid} has ended$"):
        capture(sleeper.pid)


def test_kernel_thread():
    try:
        kthread = "kthreadd" in Path("/proc/2/comm").read_text()
    except OSError:
        kthread = False
    if not kthread:
        pytest.skip("needs to see kernel threads")
    with pytest.raises(CaptureError, match=r"^process 2 is a kernel thread and has"):
        capture(2, stop=True)


@needs_root
def test_no_permission(sleeper):
    for stop in (False, True):
        with (
            unprivileged(),
            pytest.raises(CaptureError, match=f"^process {sleeper.pid} may be read by"),
        ):
            capture(sleeper.pid, stop=stop)
    sleeper.wait_for("S")


@needs_root
@needs_pfns
def test_pfns_hidden_from_its_owner():
    process = subprocess.Popen(["sleep", "60"], user=NOBODY, group=NOBODY)
    try:
        time.sleep(0.05)
        with unprivileged():
            cap = capture(process.pid)
        seen = capture(process.pid)
    finally:
        process.kill()
        process.wait()
    assert cap.comm == "sleep"
    assert not cap.has_pfns
    assert seen.has_pfns
    assert cap.vpn.tolist() == seen.vpn.tolist()


def test_exit_while_read(sleeper):
    def kill(_done, _total):
        sleeper.process.kill()
        sleeper.process.wait()

    with pytest.raises(CaptureError, match=f"^process {sleeper.pid} exited while"):
        capture(sleeper.pid, progress=kill)


@pytest.mark.parametrize("name", ["pagemap", "smaps", "maps", "status"])
def test_exit_before_a_file_is_opened(sleeper, monkeypatch, name):
    really = procfs.open_file

    def vanish(pid, wanted):
        if wanted == name and "status" in capturing:
            sleeper.process.kill()
            sleeper.process.wait()
        capturing.append(wanted)
        return really(pid, wanted)

    capturing = []
    monkeypatch.setattr(procfs, "open_file", vanish)
    with pytest.raises(CaptureError, match=f"^process {sleeper.pid} exited while"):
        capture(sleeper.pid)


def test_zombie_while_read(sleeper):
    def kill(_done, _total):
        sleeper.process.kill()
        sleeper.wait_for("Z")

    with pytest.raises(CaptureError, match=f"^process {sleeper.pid} exited while"):
        capture(sleeper.pid, progress=kill)


def test_exit_between_scan_and_words(sleeper, monkeypatch):
    # Nothing is populated any more: no word is asked for, no read ends early.
    monkeypatch.setattr(
        pagemap_scan,
        "pagemap_scan",
        lambda *_a, **_o: (sleeper.end(), np.empty((0, 3), np.uint64))[1],
    )
    with pytest.raises(CaptureError, match=f"^process {sleeper.pid} exited while"):
        capture(sleeper.pid)


def test_exec_while_read_is_read_again(child):
    process = child("say(1); wait(); os.execvp('sleep', ['sleep', '60'])")
    process.hear()

    def replace(_done, _total):
        with contextlib.suppress(BrokenPipeError):
            process.tell()
        while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
            time.sleep(0.001)

    cap = capture(process.pid, progress=replace)
    assert cap.comm == "sleep"
    assert cap.settled
    assert cap.empty_tables == 0


def test_address_space_that_never_stays(sleeper, monkeypatch):
    tried = []

    def gone(pid, _progress, _gentle):
        tried.append(pid)
        raise procfs.GoneError

    monkeypatch.setattr(procfs, "read", gone)
    with pytest.raises(CaptureError, match=f"^process {sleeper.pid} exited while"):
        capture(sleeper.pid)
    assert len(tried) == 4


def test_kernel_without_pagemap(sleeper, monkeypatch):
    really = procfs.open_file

    def without(pid, name, *flags):
        if name == "pagemap":
            raise FileNotFoundError(errno.ENOENT, "none", f"/proc/{pid}/pagemap")
        return really(pid, name, *flags)

    monkeypatch.setattr(procfs, "open_file", without)
    with pytest.raises(CaptureError, match=r"pagemap is not: .*PROC_PAGE_MONITOR$"):
        capture(sleeper.pid)


def test_other_page_sizes(monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda _name: 65536)
    with pytest.raises(CaptureError, match=r"^pages of 65536 bytes"):
        capture(os.getpid())


def test_other_errors_pass(sleeper, monkeypatch):
    def fail(*_args, **_options):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(pagemap_scan, "pagemap_scan", fail)
    with pytest.raises(OSError, match="broken"):
        capture(sleeper.pid)


# --- a process that moves ------------------------------------------------


MAPPING = """
kept = []
say(1)
while wait():
    kept.append(mmap.mmap(-1, 4096 * 4, flags=PRIVATE))
    kept[-1][0] = 1
    say(1)
"""


class Prod:
    """A progress callback that has a child act at the start of a reading."""

    def __init__(self, process, times=10**6):
        self.process, self.left, self.readings = process, times, 0

    def __call__(self, done, _total):
        if done == 0:
            self.readings += 1
            if self.left:
                self.left -= 1
                self.process.tell()
                self.process.hear()


def test_mapping_while_read_is_not_settled(child):
    process = child(MAPPING)
    process.hear()
    prod = Prod(process)
    cap = capture(process.pid, progress=prod)
    assert prod.readings == 4
    assert not cap.settled
    cap.build().check()


def test_settles_when_the_mapping_ends(child):
    process = child(MAPPING)
    process.hear()
    prod = Prod(process, times=2)
    cap = capture(process.pid, progress=prod)
    assert prod.readings == 3
    assert cap.settled
    assert cap.empty_tables == 0


def test_unmapping_while_read(child):
    process = child("""
kept = [mmap.mmap(-1, 64 * 4096, flags=PRIVATE) for _ in range(8)]
for m in kept:
    for i in range(0, 64 * 4096, 4096): m[i] = 1
say(1)
while wait():
    kept.pop().close()
    say(1)
""")
    process.hear()
    cap = capture(process.pid, progress=Prod(process))
    assert not cap.settled
    cap.build().check()


def test_pages_of_vmas_that_came_later_are_dropped(child):
    # New VMAs in a hole that is read because both of its sides are.
    process = child("""
libc.mmap.restype = ctypes.c_void_p
m = mmap.mmap(-1, 64 * 4096, flags=PRIVATE)
start = address(m)
m[0] = m[63 * 4096] = 1
libc.munmap(ctypes.c_void_p(start + 8 * 4096), ctypes.c_size_t(32 * 4096))
say(start >> 12)
for page in range(9, 40, 2):
    wait()
    at = libc.mmap(ctypes.c_void_p(start + page * 4096), ctypes.c_size_t(4096), 3,
                   PRIVATE | 0x10, -1, ctypes.c_long(0))
    ctypes.c_char.from_address(at).value = b"x"
    say(page)
""")
    (first,) = process.hear()
    cap = capture(process.pid, progress=Prod(process))
    assert not cap.settled
    came = [page for page in range(64) if first + page in words(cap)]
    assert came == [0, 9, 11, 13, 63]


def test_new_tables_while_read_are_not_settled(child):
    process = child("""
m = mmap.mmap(-1, 1 << 30, flags=PRIVATE | NORESERVE)
say(1)
for at in range(0, 1 << 30, 2 << 20):
    wait()
    m[at] = 1
    say(1)
""")
    process.hear()
    prod = Prod(process)
    assert not capture(process.pid, progress=prod).settled
    assert prod.readings == 4


@needs_pagemap_scan
def test_leaves_gone_since_the_scan_are_dropped(sleeper, monkeypatch):
    really = procfs.populated

    def stale(fd, vmas, most):
        ranges, _ = really(fd, vmas, most)
        return ranges, np.array([0, 1 << 30], np.uint64)

    monkeypatch.setattr(procfs, "populated", stale)
    assert len(capture(sleeper.pid).huge_vpn) == 0


def test_this_process():
    cap = capture(os.getpid())
    assert len(cap.vpn) > 1000
    cap.build().check()


# --- stopping ------------------------------------------------------------


def test_stop_holds_it_and_lets_it_go(sleeper):
    states = []
    cap = capture(
        sleeper.pid, stop=True, progress=lambda *_: states.append(sleeper.state())
    )
    assert set(states) == {"T"}
    assert cap.settled
    sleeper.wait_for("S", "R")


def test_stop_holds_every_thread(child):
    process = child("""
import threading
def spin():
    while True: pass
for _ in range(3): threading.Thread(target=spin, daemon=True).start()
say(1)
""")
    process.hear()

    def all_stopped(_done, _total):
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            assert (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"

    capture(process.pid, stop=True, progress=all_stopped)
    process.wait_for("S", "R")


def test_stop_leaves_a_stopped_one_stopped(sleeper):
    sleeper.process.send_signal(signal.SIGSTOP)
    sleeper.wait_for("T")
    assert capture(sleeper.pid, stop=True).settled
    assert sleeper.state() == "T"


def test_stop_lets_go_after_an_error(sleeper):
    def fail(_done, _total):
        assert sleeper.state() == "T"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture(sleeper.pid, stop=True, progress=fail)
    sleeper.wait_for("S", "R")


def test_killed_while_stopped(sleeper):
    def kill(_done, _total):
        sleeper.process.kill()
        sleeper.process.wait()

    with pytest.raises(CaptureError, match=f"^process {sleeper.pid} exited while"):
        capture(sleeper.pid, stop=True, progress=kill)


def test_stop_of_this_process():
    with pytest.raises(ValueError, match=f"pid {os.getpid()} is this process"):
        capture(os.getpid(), stop=True)


def test_process_that_does_not_stop(sleeper, monkeypatch):
    monkeypatch.setattr(procfs, "STOP_SECONDS", 0.01)
    monkeypatch.setattr(procfs, "_running", lambda _pid: True)
    with pytest.raises(CaptureError, match=r"did not stop within 0\.01 s$"):
        capture(sleeper.pid, stop=True)
    sleeper.wait_for("S", "R")


def test_thread_that_ends_while_looked_at(sleeper, monkeypatch):
    def gone(where):
        raise FileNotFoundError(errno.ENOENT, "gone", where)

    assert procfs._running(os.getpid())
    monkeypatch.setattr(procfs, "stat", gone)
    assert not procfs._running(sleeper.pid)


# --- /proc's text, and the ioctl -----------------------------------------


def smaps(*rows):
    """Return smaps text of VMAs (start, end)."""
    return b"".join(
        b"%x-%x rw-p 00000000 00:00 0 %s\nKernelPageSize:        4 kB\n"
        b"ShmemPmdMapped:     0 kB\nFilePmdMapped:   2048 kB\nVmFlags: rd wr \n"
        % (start, end, b"/some/f\\012\xff")
        for start, end in rows
    )


def test_smaps_text():
    vmas = procfs.parse_smaps(smaps((0x1000, 0x3000), (0x5000, 0x6000)))
    assert vmas.start.tolist() == [0x1000, 0x5000]
    assert vmas.end.tolist() == [0x3000, 0x6000]
    assert vmas.flags.tolist() == ["rd wr"] * 2
    assert vmas.name.tolist() == ["f\\012\\xff"] * 2
    assert vmas.pmd_mapped_kb.tolist() == [2048, 2048]


def test_smaps_tells_anonymous_huge_pages():
    text = smaps((0x1000, 0x3000), (0x5000, 0x6000))
    assert procfs.parse_smaps(text).anon_huge_kb.tolist() == [0, 0]
    line = b"AnonHugePages:   %d kB\nShmemPmd"
    first, second = text.split(b"ShmemPmd", 1)
    told = first + line % 2048 + second.replace(b"ShmemPmd", line % 4096)
    assert procfs.parse_smaps(told).anon_huge_kb.tolist() == [2048, 4096]
    # Told of one VMA only: the other is cut short.
    with pytest.raises(procfs.GoneError):
        procfs.parse_smaps(first + line % 2048 + second)


def test_smaps_of_old_kernels_has_no_pmd_lines():
    text = smaps((0x1000, 0x3000)).replace(b"FilePmd", b"Other")
    assert procfs.parse_smaps(text).pmd_mapped_kb.tolist() == [0]


def test_smaps_lists_a_growing_vma_twice():
    text = smaps((0x1000, 0x3000), (0x2000, 0x5000), (0x4000, 0x5000))
    vmas = procfs.parse_smaps(text)
    assert vmas.start.tolist() == [0x1000, 0x3000]
    assert vmas.end.tolist() == [0x3000, 0x5000]


@pytest.mark.parametrize("cut", [0, 30, 150])
def test_smaps_cut_short(cut):
    with pytest.raises(procfs.GoneError):
        procfs.parse_smaps(smaps((0x1000, 0x3000), (0x5000, 0x6000))[: -cut or 0])


def test_nothing_but_the_vsyscall_page():
    vmas = procfs.parse_smaps(smaps((0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000)))
    ranges, huge = procfs.populated(-1, vmas)
    assert len(ranges) == len(huge) == 0
    assert [len(part) for part in procfs.pagemap(-1, ranges, None)] == [0, 0]


def test_gib_leaves_are_left_out():
    text = smaps((0x40000000, 0x80000000)).replace(b"      4 kB", b"1048576 kB")
    vmas = procfs.parse_smaps(text)
    inside = procfs.within_vmas(np.array([0x40000], np.uint64), vmas)
    assert inside.tolist() == [False]


@needs_pagemap_scan
def test_scan_of_more_regions_than_fit_a_call(child):
    pages = 3 * pagemap_scan.VEC_LEN
    process = child(f"""
m = mmap.mmap(-1, {2 * pages} * 4096, flags=PRIVATE)
for i in range(0, {2 * pages}, 2): m[i * 4096] = 1
say(address(m))
""")
    (start,) = process.hear()
    with open(f"/proc/{process.pid}/pagemap", "rb") as file:
        found = pagemap_scan.pagemap_scan(
            file.fileno(),
            start,
            start + 2 * pages * PAGE,
            anyof=PageIs.PRESENT,
            returned=PageIs.PRESENT | PageIs.FILE,
        )
    firsts = np.arange(start, start + 2 * pages * PAGE, 2 * PAGE, dtype=np.uint64)
    assert (found[:, 0] == firsts).all()
    assert (found[:, 1] == firsts + np.uint64(PAGE)).all()
    assert (found[:, 2] == PageIs.PRESENT).all()


def test_scan_resumes_after_the_last_region(monkeypatch):
    # walk_end is before the end of the region returned: seen on Linux 6.18.
    calls = []

    def ioctl(_fd, _request, arg, _mutate):
        fields = pagemap_scan._ARG.unpack(arg)
        calls.append(fields[2])
        region = (ctypes.c_uint64 * 3).from_address(fields[5])
        region[:] = [fields[2], fields[2] + 0x4000, PageIs.HUGE]
        pagemap_scan._ARG.pack_into(
            arg, 0, *fields[:4], fields[2] + 0x1000, *fields[5:]
        )
        return 1

    monkeypatch.setattr(pagemap_scan.fcntl, "ioctl", ioctl)
    found = pagemap_scan.pagemap_scan(
        0, 0x1000, 0x9000, anyof=PageIs.PRESENT, returned=PageIs.HUGE
    )
    assert calls == [0x1000, 0x5000]
    assert found.tolist() == [[0x1000, 0x5000, 64], [0x5000, 0x9000, 64]]


def test_scan_that_stands_still(monkeypatch):
    monkeypatch.setattr(pagemap_scan.fcntl, "ioctl", lambda *_: 0)
    with pytest.raises(OSError, match="PAGEMAP_SCAN stays at 0x1000"):
        pagemap_scan.pagemap_scan(
            0, 0x1000, 0x9000, anyof=PageIs.PRESENT, returned=PageIs.HUGE
        )


def test_scan_of_nothing():
    found = pagemap_scan.pagemap_scan(
        -1, 0x1000, 0x1000, anyof=PageIs.PRESENT, returned=PageIs.HUGE
    )
    assert found.shape == (0, 3)


# --- made by hand --------------------------------------------------------

FIRST = 0x7F0000000  # a vpn, 2 MiB-aligned
PRESENT = 1 << 63
MARKER = 1 << 62 | 31


def made(entries, **changes):
    """Return a capture with words by place in its one writable VMA of 8 MiB."""
    places = sorted(entries)
    start = changes.pop("first", FIRST)
    row = {
        "vma_start": np.array([start << 12], np.uint64),
        "vma_end": np.array([start + 4 * LEAF << 12], np.uint64),
        "vma_perms": np.array(["rw-p"]),
        "vma_flags": np.array(["rd wr"]),
        "vma_name": np.array([""]),
        "vpn": np.array([start + place for place in places], np.uint64),
        "entry": np.array([entries[place] for place in places], np.uint64),
        "vmpte_kb": 12,
        "vmrss_kb": 4,
        "kernel": "6.18.44",
        "comm": "made",
    }
    return Capture(**{**row, **changes})


def leaf(place=0, bits=0):
    return {place + i: PRESENT | 1 << 61 | bits for i in range(LEAF)}


def test_is_read_only():
    cap = made({0: PRESENT | 1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        cap.comm = "other"
    with pytest.raises(ValueError, match="read-only"):
        cap.vpn[0] = 1
    mine = np.array([FIRST], np.uint64)
    assert made({0: PRESENT}, vpn=mine).vpn[0] == FIRST
    mine[0] = 7


def test_occupancy():
    cap = made({0: PRESENT, 1: PRESENT, LEAF: PRESENT, 2 * LEAF + 5: MARKER})
    counts = cap.occupancy()
    assert counts.shape == (513,)
    assert counts.dtype == np.int64
    assert np.flatnonzero(counts).tolist() == [1, 2]
    assert counts[1] == 2
    full = made(leaf(LEAF), huge_vpn=np.array([FIRST + LEAF], np.uint64))
    assert full.occupancy().sum() == 0
    assert made(leaf()).occupancy()[512] == 1


def test_tables_needed():
    cap = made({0: PRESENT, LEAF: PRESENT})
    assert cap.tables_needed() == (2, 1, 1, 0)
    assert cap.empty_tables == 3 - 4
    assert made({}).tables_needed() == (0, 0, 0, 0)
    assert made({}).empty_tables == 3


def test_five_levels():
    cap = made({0: PRESENT, LEAF: PRESENT}, first=1 << 40)
    assert cap.arch == "x86_64_la57"
    assert cap.tables_needed() == (2, 1, 1, 1)
    assert cap.empty_tables == -1
    # VmPTE has no P4D table in it.
    assert model_bytes(cap.build()) == (2 + 1 + 1 + 1 + 1) * 4096
    with pytest.raises(ValueError, match="x86_64"):
        cap.build(arch="x86_64")


def test_vsyscall_does_not_make_it_five_levels():
    bounds = np.array([FIRST << 12, 0xFFFFFFFFFF600000], np.uint64)
    cap = made(
        {0: PRESENT},
        vma_start=bounds,
        vma_end=bounds + np.uint64(4096),
        vma_perms=np.array(["rw-p", "--xp"]),
        vma_flags=np.array(["rd wr", "ex"]),
        vma_name=np.array(["", "[vsyscall]"]),
    )
    assert cap.arch == "x86_64"


def test_soft_dirty_holes_are_no_entries():
    cap = made({0: PRESENT, 1: 1 << 55})
    assert cap.nr_present == 1
    assert cap.nr_swapped == cap.nr_markers == 0
    assert len(cap.build()) == 1


def test_swapped_and_markers():
    swapped, guard = 1 << 62 | 5 << 5 | 1, MARKER | 4 << 5 | 1 << 58
    uffd_wp = MARKER | 1 << 5 | 1 << 57
    cap = made({0: PRESENT, 1: swapped, 2: guard, 3: uffd_wp})
    assert (cap.nr_present, cap.nr_swapped, cap.nr_markers) == (1, 1, 2)
    assert pagewords.slots(cap.entry[1:]).tolist() == [
        1 << 50 | 5,
        31 << 50 | 4,
        31 << 50 | 1,
    ]
    table = cap.build()
    table.check()
    assert len(table) == 4


def test_hidden_slots_are_invented():
    hidden = 1 << 62
    cap = made({0: hidden, 1: hidden | 1 << 58, 2: hidden})
    assert cap.nr_markers == 1
    assert pagewords.slots(cap.entry).tolist() == [1, 2, 3]
    assert len(cap.build()) == 3


def test_words_of_uffd_wp_and_soft_dirty():
    cap = made(
        {
            0: PRESENT | 1 << 57,
            1: PRESENT | 1 << 55,
            2: PRESENT | 1 << 55 | 1 << 57,
            3: PRESENT,
            4: MARKER | 1 << 5 | 1 << 57,
        }
    )
    fields = em.Fields(age=3, uffd_wp=1, soft_dirty=2)
    table = cap.build("linked", fields)
    assert table.load(cap.vpn, "uffd_wp").tolist() == [1, 0, 1, 0, 1]
    assert table.load(cap.vpn, "soft_dirty").tolist() == [0, 1, 1, 0, 0]
    assert not table.load(cap.vpn, "age").any()
    assert not cap.build("linked", em.Fields(age=3)).load(cap.vpn).any()


@pytest.mark.parametrize("pfns", [True, False])
def test_pfns_and_write_permission(pfns):
    # The zero page twice: two PTEs may have one PFN.
    numbers = [7, 7, 9] if pfns else [0, 0, 0]
    half = np.array([FIRST << 12, FIRST + 2 << 12], np.uint64)
    cap = made(
        {i: PRESENT | number for i, number in enumerate(numbers)},
        vma_start=half,
        vma_end=np.array([FIRST + 2 << 12, FIRST + 4 << 12], np.uint64),
        vma_perms=np.array(["r--p", "rw-s"]),
        vma_flags=np.array(["rd", "rd wr"]),
        vma_name=np.array(["", ""]),
    )
    assert cap.has_pfns == pfns
    (ptes,) = cap.build().tables.values()
    got = [int(pte) >> 12 & (1 << 40) - 1 for pte in ptes[:3]]
    assert got == numbers if pfns else len(set(got)) == 3
    assert [int(pte) >> 1 & 1 for pte in ptes[:3]] == [0, 0, 1]


def test_leaves_of_hugetlb():
    cap = made(
        leaf() | leaf(2 * LEAF) | {3 * LEAF: PRESENT},
        vma_flags=np.array(["rd wr mr mw me ht"]),
        vmpte_kb=12,
    )
    # The last is torn: only one of its pages was seen.
    assert cap.huge_vpn.tolist() == [FIRST, FIRST + 2 * LEAF]
    assert cap.tables_needed() == (1, 1, 1, 0)
    table = cap.build()
    assert model_bytes(table) == table_bytes(cap)
    assert list(table.tables) == [FIRST + 3 * LEAF]


def test_leaf_that_a_hugetlb_vma_has_half_of_is_none():
    half = np.array([FIRST, FIRST + LEAF // 2], np.uint64) << np.uint64(12)
    cap = made(
        leaf(),
        vma_start=half,
        vma_end=half + np.uint64(LEAF // 2 << 12),
        vma_perms=np.array(["rw-p", "rw-p"]),
        vma_flags=np.array(["rd wr ht", "rd wr"]),
        vma_name=np.array(["", ""]),
    )
    assert len(cap.huge_vpn) == 0
    assert cap.tables_needed().pte == 1


def test_leaf_alone_has_upper_tables():
    cap = made(
        leaf(),
        huge_vpn=np.array([FIRST], np.uint64),
        vma_name=np.array(["file"]),
        vmpte_kb=8,
    )
    assert cap.tables_needed() == (0, 1, 1, 0)
    assert model_bytes(cap.build()) == table_bytes(cap)


def test_permissions_left_empty_are_told_by_flags():
    cap = made({0: PRESENT}, vma_perms=np.array([""]), vma_flags=np.array(["rd wr ms"]))
    assert cap.vma_perms.tolist() == ["rw-s"]
    with pytest.raises(CaptureError, match="has permissions ''"):
        made({0: PRESENT}, vma_perms=np.array([""]), vma_flags=np.array([""]))


def test_sha256_is_of_the_content():
    cap = made({0: PRESENT | 1})
    assert cap.sha256 == made({0: PRESENT | 1}).sha256
    assert len(cap.sha256) == 2 * hashlib.sha256().digest_size
    wide = made({0: PRESENT | 1}, vma_name=np.array([""], "U40"))
    assert wide.sha256 == cap.sha256
    assert made({0: PRESENT | 2}).sha256 != cap.sha256
    assert made({0: PRESENT | 1}, settled=False).sha256 != cap.sha256
    assert made({0: PRESENT | 1}, comm="other").sha256 != cap.sha256


# --- captures in files ---------------------------------------------------


@pytest.fixture(params=list(shipped()))
def shipped_capture(request):
    return load_capture(shipped()[request.param])


def test_shipped_captures():
    assert next(iter(shipped())) == "numpy-sparse"
    assert {"node", "redis"} < set(shipped())
    assert len(shipped()) == 12
    assert sum(path.stat().st_size for path in shipped().values()) < 1_500_000
    readme = (shipped()["redis"].parent / "README.md").read_text()
    for name, path in shipped().items():
        cap = load_capture(path)
        assert f"{cap.sha256}  {name}\n" in readme
        assert cap.about.endswith(f"; python benchmarks/make_captures.py {name}")
        assert cap.about.rpartition("; ")[0] in readme


def test_shipped_captures_differ_in_what_page_tables_can_have():
    caps = {name: load_capture(path) for name, path in shipped().items()}
    assert [name for name, cap in caps.items() if cap.nr_swapped] == ["swapped"]
    assert [n for n, cap in caps.items() if len(cap.deposited_vpn)] == ["ml", "qemu"]


def test_what_a_capture_is_about_is_no_content(tmp_path):
    plain, about = made({0: PRESENT}), made({0: PRESENT}, about="what ran")
    assert plain.about == ""
    assert about.sha256 == plain.sha256
    about.save(tmp_path / "a.npz")
    assert load_capture(tmp_path / "a.npz").about == "what ran"


def test_shipped_captures_are_sound(shipped_capture):
    assert shipped_capture.settled
    assert not shipped_capture.has_pfns
    assert shipped_capture.empty_tables >= 0


def agree(cap):
    """Build a capture and hold the table against what the kernel said."""
    table = cap.build()
    table.check()
    assert model_bytes(table) == table_bytes(cap) - 4096 * cap.empty_tables
    assert len(table) == len(cap.vpn) - 512 * len(cap.huge_vpn)
    assert (cap.occupancy() * np.arange(513)).sum() == len(table)
    assert cap.occupancy().sum() == len(table.tables)


def test_shipped_captures_build(shipped_capture):
    agree(shipped_capture)


@pytest.mark.skipif(not OTHERS, reason="needs captures beside the checkout")
@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_captures_made_elsewhere(path, tmp_path):
    cap = load_capture(path)
    agree(cap)
    assert cap.empty_tables == (28 if path.stem == "javaG1-after" else 0)
    assert cap.has_pfns
    cap.save(tmp_path / "again", pfns=True)
    assert load_capture(tmp_path / "again").sha256 == cap.sha256
    built = cap.build("linked", em.Fields(uffd_wp=1))
    flagged = cap.vpn[cap.entry >> 57 & 1 != 0]
    assert (built.scan(slice(0, 1 << 36), 1) == flagged).all()


@pytest.mark.parametrize("pfns", [True, False])
def test_saved_and_loaded(sleeper, tmp_path, pfns):
    cap = capture(sleeper.pid)
    path = tmp_path / "a.capture"
    cap.save(path, pfns=pfns)
    again = load_capture(str(path))
    assert again.vpn.tolist() == cap.vpn.tolist()
    assert again.has_pfns == (pfns and cap.has_pfns)
    assert (again.sha256 == cap.sha256) == (pfns or not cap.has_pfns)
    assert again.empty_tables == cap.empty_tables
    assert again.settled
