"""The collector: all processes, within a budget, without a write to any."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import extmeta as em
from extmeta import cli
from extmeta.captures import collect, procfs
from extmeta.linux import pagemap_scan


@pytest.fixture
def cats():
    """Three processes at rest."""
    pipe = subprocess.PIPE
    made = [subprocess.Popen(["cat"], stdin=pipe, stdout=pipe) for _ in range(3)]
    for one in made:
        one.stdin.write(b"line\n")
        one.stdin.flush()
        assert one.stdout.readline()
    yield made
    for one in made:
        one.kill()
        one.communicate()


@pytest.fixture
def only(cats, monkeypatch):
    """Make them all the processes that there are; return their ids."""
    pids = sorted(one.pid for one in cats)
    monkeypatch.setattr(collect, "processes", lambda: pids)
    return pids


def captures(folder):
    return {int(path.stem.split("-")[0]): path for path in folder.iterdir()}


def test_each_process_has_a_file(only, tmp_path):
    done = collect.collect(tmp_path)
    assert (done.new, done.there, done.left) == (3, 0, 0)
    assert not done.refused
    files = captures(tmp_path)
    assert sorted(files) == only
    assert done.nbytes == sum(path.stat().st_size for path in files.values())
    for pid, path in files.items():
        cap = em.load_capture(path)
        assert cap.comm == "cat"
        assert cap.vpn.tolist() == em.capture(pid).vpn.tolist()
        assert not cap.has_pfns
        assert cap.empty_tables == em.capture(pid).empty_tables


def test_what_is_there_is_not_read_again(only, tmp_path, monkeypatch):
    collect.collect(tmp_path)
    path = captures(tmp_path)[only[1]]
    path.unlink()
    read = []
    monkeypatch.setattr(
        collect, "capture", lambda pid, **how: read.append(pid) or em.capture(pid)
    )
    done = collect.collect(tmp_path)
    assert read == [only[1]]
    assert (done.new, done.there) == (1, 2)
    assert path.exists()


def test_it_goes_on_after_sigkill(tmp_path):
    """Whenever it is killed, each file is whole, and the next run adds the others."""
    program = "import sys; from extmeta.captures import collect"
    program += "; collect.collect(sys.argv[1])"
    command = [sys.executable, "-c", program, str(tmp_path)]
    for nr in (1, 3):
        with subprocess.Popen(command) as collector:
            while len(list(tmp_path.glob("*.npz"))) < nr and collector.poll() is None:
                time.sleep(0.001)
            collector.send_signal(signal.SIGKILL)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npz")}
    assert len(before) >= 3
    for path in before:
        em.load_capture(path)
    done = collect.collect(tmp_path)
    assert done.there >= 1
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


def test_the_time_is_kept(only, tmp_path, monkeypatch):
    now = iter([0.0, 0.0, 0.5, 1.0, 1.0, 9.0, 9.0])
    monkeypatch.setattr(collect.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(collect.time, "sleep", lambda _seconds: None)
    done = collect.collect(tmp_path, seconds=5)
    assert 0 < done.new < 3
    assert done.new + done.left == 3


def test_it_sleeps_for_its_share(only, tmp_path, monkeypatch):
    """The clocks stand still but for 1 s of work a process."""
    clock = {"real": 0.0, "cpu": 0.0}
    slept = []

    def work(pid, **how):
        clock["real"] += 1
        clock["cpu"] += 1
        return em.capture(pid)

    def sleep(seconds):
        slept.append(seconds)
        clock["real"] += seconds

    monkeypatch.setattr(collect, "capture", work)
    monkeypatch.setattr(collect.time, "monotonic", lambda: clock["real"])
    monkeypatch.setattr(collect.time, "process_time", lambda: clock["cpu"])
    monkeypatch.setattr(collect.time, "sleep", sleep)
    collect.collect(tmp_path, cpu=0.25)
    assert slept == [3, 3, 3]


def test_kernel_threads_and_ended_processes_are_counted(tmp_path, monkeypatch, cats):
    cats[0].kill()
    cats[0].wait()
    monkeypatch.setattr(collect, "processes", lambda: [2, cats[0].pid, cats[1].pid])
    done = collect.collect(tmp_path)
    assert done.new == 1
    assert done.refused["ended"] == 1
    assert sum(done.refused.values()) == 2


def test_a_full_disk_keeps_what_is_there(only, tmp_path, monkeypatch):
    save, saved = em.Capture.save, []

    def full(self, path, pfns=False):
        if saved:
            raise OSError(28, "No space left on device")
        saved.append(path)
        save(self, path, pfns)

    monkeypatch.setattr(em.Capture, "save", full)
    with pytest.raises(OSError, match="No space"):
        collect.collect(tmp_path)
    assert len(captures(tmp_path)) == 1


def test_nothing_is_written_to_a_process(only, tmp_path, monkeypatch):
    """Files of /proc are opened for reading only; no signal, no ptrace, no WP scan."""
    opened = []
    real_open, real_scan = os.open, pagemap_scan.pagemap_scan

    def opener(path, flags, *rest, **more):
        opened.append((os.fsdecode(path), flags))
        return real_open(path, flags, *rest, **more)

    def scan(*given, flags=0, **more):
        assert flags == 0
        return real_scan(*given, **more)

    def never(*given, **_more):
        raise AssertionError(given)

    monkeypatch.setattr(os, "open", opener)
    monkeypatch.setattr(pagemap_scan, "pagemap_scan", scan)
    for module, name in ((os, "kill"), (signal, "pidfd_send_signal")):
        monkeypatch.setattr(module, name, never)
    monkeypatch.setattr(procfs, "stopped", never)
    assert collect.collect(tmp_path).new == 3
    of_proc = [(path, flags) for path, flags in opened if path.startswith("/proc/")]
    assert len(of_proc) > 9
    assert all(flags & os.O_ACCMODE == os.O_RDONLY for _path, flags in of_proc)
    assert not any(path.endswith(("/mem", "clear_refs")) for path, _flags in of_proc)


def test_a_gentle_reading_needs_no_smaps(cats, monkeypatch):
    if not has_scan(cats[0].pid):
        pytest.skip("needs PAGEMAP_SCAN")
    whole = em.capture(cats[0].pid)
    slurp = procfs.slurp
    read = []
    monkeypatch.setattr(
        procfs, "slurp", lambda where, name: read.append(name) or slurp(where, name)
    )
    gentle = em.capture(cats[0].pid, gentle=True)
    assert "smaps" not in read
    for key in ("vma_start", "vma_end", "vma_perms", "vma_name", "vpn", "entry"):
        assert getattr(gentle, key).tolist() == getattr(whole, key).tolist()
    assert gentle.empty_tables == whole.empty_tables
    assert not "".join(gentle.vma_flags)


def has_scan(pid):
    with open(f"/proc/{pid}/pagemap", "rb") as pagemap:
        return procfs.populated(pagemap.fileno(), smaps_of(pid)) is not None


def smaps_of(pid):
    return procfs.parse_smaps(procfs.slurp(pid, "smaps"))


def test_a_gentle_reading_of_hugetlb_or_an_old_kernel_reads_smaps(cats, monkeypatch):
    pid, slurp, read = cats[0].pid, procfs.slurp, []
    lines = procfs.status_lines

    def with_hugetlb(where):
        return lines(where) | {b"HugetlbPages": b"    2048 kB"}

    monkeypatch.setattr(
        procfs, "slurp", lambda where, name: read.append(name) or slurp(where, name)
    )
    monkeypatch.setattr(procfs, "status_lines", with_hugetlb)
    em.capture(pid, gentle=True)
    assert "smaps" in read
    monkeypatch.setattr(procfs, "status_lines", lines)
    monkeypatch.setattr(procfs, "populated", lambda *_given: None)
    read.clear()
    cap = em.capture(pid, gentle=True)
    assert "smaps" in read
    assert "".join(cap.vma_flags)


@pytest.mark.parametrize("most", [4096, 3 << 12, 1 << 20, 1 << 63])
def test_spans_have_all_pages_of_the_vmas(cats, most):
    vmas = smaps_of(cats[0].pid)
    spans = list(procfs._spans(vmas, most))
    user = vmas.only(vmas.user)
    pages = [np.arange(a, b, 4096) for a, b in zip(user.start, user.end, strict=True)]
    pages = np.concatenate(pages)
    inside = [pages[(pages >= a) & (pages < b)] for a, b in spans]
    assert np.concatenate(inside).tolist() == pages.tolist()
    assert all(len(one) * 4096 <= most for one in inside)
    assert all(one.size for one in inside)


# --- the command ------------------------------------------------------------------


def test_the_command_collects_and_goes_on(only, tmp_path, capsys):
    folder = str(tmp_path / "machine")
    assert cli.main(["capture", "--all", "--cpu", "1", "-o", folder]) == 0
    assert "3 new captures" in capsys.readouterr().out
    assert cli.main(["capture", "--all", "-o", folder]) == 0
    out = capsys.readouterr().out
    assert "0 new captures" in out
    assert "3 were there" in out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--all", "1", "-o", "x"], "one of them is needed"),
        (["--all", "-o", "-"], "--all needs a directory"),
        (["--all", "--stop", "-o", "x"], "--stop: only with PID"),
        (["1", "--cpu", "0.5", "-o", "x"], "--cpu 0.5: only with --all"),
        (["1", "--seconds", "5", "-o", "x"], "--seconds 5: only with --all"),
        (["--all", "--cpu", "0", "-o", "x"], "'0' is not above 0"),
        (["--all", "-o", "/dev/null"], "/dev/null: File exists"),
    ],
)
def test_bad_arguments(arguments, part, capsys):
    assert cli.main(["capture", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert part in err


def test_a_folder_that_can_t_be_written_to(only, tmp_path, monkeypatch, capsys):
    def fail(*_given, **_more):
        raise OSError(30, "Read-only file system", str(tmp_path))

    monkeypatch.setattr(em.Capture, "save", fail)
    assert cli.main(["capture", "--all", "-o", str(tmp_path)]) == 1
    assert "Read-only file system" in capsys.readouterr().err
