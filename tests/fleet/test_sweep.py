"""Sweeps over many captures: their rows, and that none is lost or double."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

import extmeta as em
from extmeta import cli
from extmeta.arch import arch_named
from extmeta.cost import placement, sweep
from extmeta.cost.space import space_of
from extmeta.fields import Fields
from extmeta.fleet import job, measure, run
from extmeta.rows import Ram

pq = pytest.importorskip("pyarrow.parquet")

FRACTIONS = (0.0, 0.1, 1.0)
FORMS = ("inpte", "linked", "adaptive", "compact")

# The command with one capture a part, so that a few captures are many parts.
SMALL_PARTS = (
    "import sys; from extmeta import cli; from extmeta.fleet import job\n"
    "if __name__ == '__main__':\n"
    "    job.CAPTURES = 1; sys.exit(cli.main(sys.argv[1:]))"
)


def capture_of(nr_pages, seed=0, swapped=0):
    rng = np.random.default_rng(seed)
    vpn = np.sort(rng.permutation(4 * nr_pages)[:nr_pages]).astype(np.uint64)
    entry = np.full(nr_pages, 1 << 63 | 1 << 55, np.uint64)
    entry |= np.arange(1, 1 + nr_pages, dtype=np.uint64)
    if swapped:
        slots = np.arange(1, 1 + swapped, dtype=np.uint64) << np.uint64(5)
        entry[:swapped] = slots | np.uint64(1 << 62)
    return em.Capture(
        vma_start=np.array([0x1000], np.uint64) << np.uint64(12),
        vma_end=np.array([0x1000 + 4 * nr_pages], np.uint64) << np.uint64(12),
        vma_perms=np.array(["rw-p"]),
        vma_flags=np.array(["rd wr"]),
        vma_name=np.array(["[heap]"]),
        vpn=vpn + np.uint64(0x1000),
        entry=entry,
        vmpte_kb=400,
        vmrss_kb=4 * nr_pages,
        kernel="6.18.1",
        comm=f"program {seed % 2}",
        settled=False,
    )


@pytest.fixture(scope="module")
def captures(tmp_path_factory):
    """A folder of 6 captures of 2 machines, and a damaged file."""
    folder = tmp_path_factory.mktemp("captures")
    for i in range(6):
        machine = folder / f"host{i % 2}"
        machine.mkdir(exist_ok=True)
        found = capture_of(300 + 100 * i, seed=i, swapped=50 * (i == 3))
        found.save(machine / f"{i}.npz", pfns=i == 2)
    (folder / "host1" / "bad.npz").write_bytes(b"PK\3\4 no archive")
    (folder / "README").write_text("no capture")
    return folder


def command(captures, out, *more):
    fractions = ",".join(map(str, FRACTIONS))
    return [
        *("sweep", str(captures), "-o", str(out), "--encodings", ",".join(FORMS)),
        *("--fractions", fractions, "--workers", "1"),
        *([] if "--instructions" in more else ["--ram-only"]),
        *(part for part in more if part != "--instructions"),
    ]


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", SMALL_PARTS, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def swept(*arguments):
    """Sweep to the end, and return what was said on stderr."""
    process = start(*arguments)
    _said, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    return told


def files(out):
    """Return a digest of each result, by its path."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*.parquet"))
    }


def rows(out):
    table = pq.read_table(out, partitioning="hive").to_pylist()
    keys = ("arch", "fields", "machine", "capture", "encoding", "fraction", "placement")
    return {tuple(row[key] for key in keys): row for row in table}


@pytest.fixture(scope="module")
def whole(captures, tmp_path_factory):
    """What an undisturbed sweep of one capture a part has written."""
    out = tmp_path_factory.mktemp("whole")
    process = start(*command(captures, out, *FIELDS))
    said, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert said.endswith(": 6 captures in 14 files, 1 skipped\n")
    assert "extmeta sweep: skipped: host1/bad.npz: not a whole .npz archive" in told
    return out


FIELDS = ("--fields", "uffd_wp,age=4", "--fields", "meta=64")


def test_each_row_is_what_a_comparison_finds(captures, whole):
    found = rows(whole)
    nr_files = 2 * 7
    assert len(files(whole)) == nr_files
    expected = 0
    for i in range(6):
        name = f"host{i % 2}/{i}.npz"
        space = space_of(em.load_capture(captures / name), name)
        for text, fields in (
            ("uffd_wp:1,age:4", Fields(uffd_wp=1, age=4)),
            ("meta:64", Fields(meta=64)),
        ):
            points = placement.points(FRACTIONS, ("random",))
            for ram in sweep.ram(space, FORMS, fields, points):
                if not isinstance(ram, Ram):
                    continue
                expected += 1
                key = ("own", text, f"host{i % 2}", name)
                row = found[(*key, ram.encoding, ram.fraction, ram.placement)]
                for column in (*measure.BYTES, "total"):
                    assert row[column] == getattr(ram, column)
                assert row["nr_ptes"] == len(space.vpns)
    assert sum(row["total"] is not None for row in found.values()) == expected


def test_what_an_encoding_refuses_has_a_row_that_says_why(captures, whole):
    space = space_of(em.load_capture(captures / "host0" / "0.npz"), "")
    _subject, never = sweep.Held(space, ["compact"], Fields(meta=64)).head
    refused = [row for row in rows(whole).values() if row["why"]]
    assert {row["encoding"] for row in refused} == {"compact"}
    assert all(row["total"] is None for row in refused)
    for row in refused:
        if row["fields"] == "meta:64":
            assert row["why"] == never.why
        else:
            # Only swap entries have too few bits for these fields.
            assert row["capture"] == "host1/3.npz"
            assert row["why"].startswith(("10% random: ", "100%: "))
    assert len([row for row in refused if row["fields"] == "meta:64"]) == 6


@pytest.mark.parametrize("workers", ["2", pytest.param("3", marks=pytest.mark.slow)])
def test_the_files_do_not_depend_on_the_number_of_workers(
    captures, whole, tmp_path, workers
):
    swept(*command(captures, tmp_path, *FIELDS, "--workers", workers))
    assert files(tmp_path) == files(whole)


def until(holds, process=None):
    """Wait for something to be so, while a process lives."""
    for _ in range(6000):
        if holds():
            return
        assert process is None or process.poll() is None, "it has ended"
        time.sleep(0.01)
    raise AssertionError("it never came")


@pytest.mark.parametrize(
    "after", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 5, 9))]
)
def test_a_sweep_that_is_killed_goes_on(captures, whole, tmp_path, after):
    process = start(*command(captures, tmp_path, *FIELDS))
    until(lambda: len(files(tmp_path)) >= after and (tmp_path / "_sweep.json").exists())
    process.kill()
    process.communicate()
    there = files(tmp_path)
    assert there.items() <= files(whole).items()
    told = swept(*command(captures, tmp_path, *FIELDS))
    assert files(tmp_path) == files(whole)
    # The list at the end is of all of it, not of what was left to do.
    assert "host1/bad.npz" in told


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def is_worker(pid):
    with open(f"/proc/{pid}/cmdline") as file:
        return "spawn_main" in file.read()


def test_a_worker_that_is_killed_loses_nothing(captures, whole, tmp_path):
    process = start(*command(captures, tmp_path, *FIELDS, "--workers", "2"))
    until(lambda: files(tmp_path), process)
    workers = [pid for pid in children(process.pid) if is_worker(pid)]
    os.kill(workers[0], signal.SIGKILL)
    _said, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert files(tmp_path) == files(whole)


def test_workers_end_with_the_sweep(captures, tmp_path):
    process = start(*command(captures, tmp_path, *FIELDS, "--workers", "2"))
    until(lambda: files(tmp_path), process)
    workers = [pid for pid in children(process.pid) if is_worker(pid)]
    assert workers
    process.kill()
    process.communicate()
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers))


def test_ctrl_c_ends_with_130_and_the_rest_can_be_done_later(captures, whole, tmp_path):
    process = start(*command(captures, tmp_path, *FIELDS))
    until(lambda: files(tmp_path), process)
    process.send_signal(signal.SIGINT)
    _said, told = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "the same command goes on" in told
    swept(*command(captures, tmp_path, *FIELDS))
    assert files(tmp_path) == files(whole)


def test_shards_together_are_the_whole(captures, whole, tmp_path):
    shares = []
    for i in (1, 2):
        before = set(files(tmp_path))
        swept(*command(captures, tmp_path, *FIELDS, "--shard", f"{i}/2"))
        shares.append(set(files(tmp_path)) - before)
    assert all(shares)
    assert files(tmp_path) == files(whole)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--seed", "1"), "seed 0 and not 1"),
        (("--fractions", "0.5"), "fractions [0.0, 0.1, 1.0] and not [0.5]"),
        (("--drop", "names"), "drop [] and not ['names']"),
    ],
)
def test_another_sweep_is_not_mixed_with_one(captures, tmp_path, capsys, option, says):
    assert cli.main(command(captures, tmp_path)) == 0
    assert cli.main(command(captures, tmp_path, *option)) == 2
    assert says in capsys.readouterr().err


def test_captures_that_are_new_make_another_sweep(captures, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(captures, copy)
    assert cli.main(command(copy, tmp_path / "out")) == 0
    capture_of(100).save(copy / "new.npz")
    assert cli.main(command(copy, tmp_path / "out")) == 2
    assert "captures 7 and not 8" in capsys.readouterr().err


def test_a_tar_and_a_url_are_read_as_their_folder(captures, tmp_path):
    pytest.importorskip("fsspec")
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(captures, ".")
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as tar:
        for path in sorted(captures.rglob("*.npz")):
            tar.add(path, path.relative_to(captures))
    assert cli.main(command(captures, tmp_path / "folder")) == 0
    expected = files(tmp_path / "folder")
    for name, given in (
        ("tar", tmp_path / "all.tar.gz"),
        ("url", f"file://{captures}"),
        ("packed", tmp_path / "all.tar"),
    ):
        assert cli.main(command(given, tmp_path / name)) == 0
        assert files(tmp_path / name) == expected, name


def test_names_are_dropped_from_all_that_is_written(captures, tmp_path, capfd):
    assert cli.main(command(captures, tmp_path, "--drop", "names")) == 0
    told = capfd.readouterr().err
    assert "capture 6: CaptureError" in told
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    # Values may be compressed.
    written += json.dumps(list(rows(tmp_path).values())).encode() + told.encode()
    for secret in (b"host0", b"program", b"6.18.1", b"3.npz", b"bad.npz"):
        assert secret not in written
    machines = {row["machine"] for row in rows(tmp_path).values()}
    assert machines == {"machine 0", "machine 1"}


def test_pfns_are_dropped_before_anything_is_built(captures, tmp_path):
    of = captures / "host0" / "2.npz"
    assert em.load_capture(of).has_pfns
    out, forms = tmp_path / "out", ("--encodings", "page_ext")
    assert cli.main(command(of, out, *forms, "--drop", "pfns")) == 0
    hidden = tmp_path / "2.npz"
    em.load_capture(of).save(hidden, pfns=False)
    assert cli.main(command(hidden, tmp_path / "hidden", *forms)) == 0

    def totals(folder):
        return [row["total"] for row in rows(folder).values()]

    assert totals(out) == totals(tmp_path / "hidden")


def test_arches_are_swept_side_by_side(captures, tmp_path):
    arch = arch_named("arm64").name
    assert cli.main(command(captures, tmp_path, "--arch", arch)) == 0
    assert {key[0] for key in rows(tmp_path)} == {arch}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere/"], "nowhere/: No such file or directory"),
        (["{empty}"], "there is no capture"),
        (["{captures}", "{captures}"], "two captures have this name"),
        (["{captures}", "--shard", "3/2"], "'3/2' is not I/N"),
        (["{captures}", "--scheduler", "host"], "'host' is no address as tcp://"),
        (["{captures}", "--scheduler", "tcp://h:0"], "'tcp://h:0' is no address"),
        (["{captures}", "--drop", "words"], "no thing to drop 'words'"),
        (["nosuch://bucket/all"], "nosuch"),
    ],
)
def test_bad_input_is_one_line_and_2(captures, tmp_path, capsys, arguments, says):
    (tmp_path / "empty").mkdir()
    given = [a.format(captures=captures, empty=tmp_path / "empty") for a in arguments]
    more = ["-o", str(tmp_path / "out"), "--ram-only"]
    assert cli.main(["sweep", *given, *more]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1


def test_a_target_that_can_not_be_made_is_one_line_and_1(captures, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main(command(captures, tmp_path / "file" / "out")) == 1
    assert "Not a directory" in capsys.readouterr().err


def mounted(script, *arguments):
    """Run a script with mounts of its own, or skip."""
    unshare = ["unshare", "--mount", "sh", "-ec", script, "sh", *map(str, arguments)]
    if subprocess.run(
        [*unshare[:2], "true"], check=False, capture_output=True
    ).returncode:
        pytest.skip("no mounts can be made here")
    return subprocess.run(unshare, check=False, capture_output=True, text=True)


@pytest.mark.slow
def test_a_full_disk_ends_the_sweep_and_space_lets_it_go_on(captures, whole, tmp_path):
    sweep_it = [
        sys.executable,
        "-c",
        SMALL_PARTS,
        *command(captures, tmp_path, *FIELDS),
    ]
    done = mounted(
        'mount -t tmpfs -o size=64k none "$1"; dd if=/dev/zero of="$1/fill" bs=4k '
        "count=9 2>/dev/null; folder=$1; shift; "
        '"$@" && exit 99; echo "status $?"; rm "$folder/fill"; mount -o '
        'remount,size=4m "$folder"; "$@"; cd "$folder"; find . -name "*.parquet" '
        "-exec sha256sum {} +; find . -name '*.tmp'",
        tmp_path,
        *sweep_it,
    )
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "status 1" in done.stdout
    lines = [line.split() for line in done.stdout.splitlines() if ".parquet" in line]
    assert {path[2:]: digest for digest, path in lines} == files(whole)
    assert ".tmp" not in done.stdout


def test_a_target_that_is_read_only_is_one_line_and_1(captures, tmp_path):
    sweep_it = [sys.executable, "-c", SMALL_PARTS, *command(captures, tmp_path)]
    done = mounted(
        'mount -t tmpfs -o ro none "$1"; shift; "$@" && exit 99; exit $?',
        tmp_path,
        *sweep_it,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Read-only file system" in done.stderr


def test_workers_that_die_on_a_part_end_the_sweep(captures, tmp_path):
    """A part that kills each worker is given up, and said so."""
    wanted = job.Job(("own",), ("age:8",), FORMS, (1.0,), (), "one", 0, (), False)
    parts = [job.Part(0, str(tmp_path / "x.parquet"), "own", "age:8", 0, _Deadly())]
    with pytest.raises(run.LostError, match="no part finished"):
        run.locally(wanted, str(tmp_path), parts, 1, lambda _nr: None)


class _Deadly:
    """Kills the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (1,)


# -- a dask cluster ------------------------------------------------------------------


def free_port():
    """Return a free port that the kernel gives to no client.

    A client that tries to reconnect from the port it connects to would connect to
    itself, and the next scheduler would find the port in use.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(first // 2, first), 100):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise AssertionError("none of 100 ports is free")


@pytest.fixture
def cluster(tmp_path):
    """Start and end the programs of a cluster; all that is left is killed."""
    pytest.importorskip("distributed")
    address = f"127.0.0.1:{free_port()}"
    started = []

    def begin(*program):
        with open(tmp_path / f"log{len(started)}", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli." + program[0], *program[1:]],
                cwd=tmp_path,
                stdout=log,
                stderr=log,
            )
        started.append(process)
        return process

    def scheduler():
        host, port = address.split(":")
        given = ("--host", host, "--port", port, "--no-dashboard")
        return begin("dask_scheduler", *given)

    def worker():
        return begin(
            "dask_worker",
            address,
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
            "--death-timeout",
            "120",
        )

    yield f"tcp://{address}", scheduler, worker
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_cluster_loses_nothing_if_a_worker_and_the_scheduler_die(
    captures, whole, tmp_path, cluster
):
    address, scheduler, worker = cluster
    first = scheduler()
    workers = [worker(), worker()]
    out = tmp_path / "out"
    given = command(captures, out, *FIELDS, "--scheduler", address)
    process = start(*given)
    until(lambda: files(out), process)
    workers[0].kill()
    nr_files = len(files(out))
    until(lambda: len(files(out)) > nr_files or process.poll() is not None)
    first.kill()
    first.wait()
    scheduler()
    worker()
    _said, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert files(out) == files(whole)
