"""What the kernel's operations cost: measured, stored, and set beside our own.

The command in a process of its own, with pages enough to measure, takes most of the
time of this file.
"""

import dataclasses
import json
import os
import platform
import resource
import signal
import stat
import subprocess
import sys
import time

import pytest

from extmeta import cli
from extmeta.cost import instructions
from extmeta.cost.kernel import costs, guest, host, timed
from extmeta.cost.kernel.costs import Calibration, CalibrationError, Cost
from extmeta.reports import calibration as calibration_report
from extmeta.reports import comparison
from extmeta.rows import Counted, Cpu, Ram, Refused, Subject

HOST = Calibration(
    unit="ns",
    kernel="6.18.1",
    machine="x86_64",
    cpu="A Processor",
    date="2026-11-23T00:00:00Z",
    command="extmeta calibrate",
    small=4096,
    large=20480,
    rounds=30,
    costs=(
        Cost("fork", 50.0, 49.0, 51.0),
        Cost("uffd_wp_on", 20.0, 12.0, 28.0),
        Cost("munmap", 100.0, 99.0, 101.0),
    ),
    refused={"clear_refs": "this kernel has no soft-dirty (CONFIG_MEM_SOFT_DIRTY)"},
)
SIZES = {"small": 64, "large": 128}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nobody's own calibration is read, or written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "extmeta"


def error_line(capsys):
    lines = capsys.readouterr().err.splitlines()
    return next(line for line in lines if line.startswith("extmeta calibrate: "))


# -- clocks ------------------------------------------------------------------------


def test_every_operation_is_timed_or_refused_with_a_reason():
    shown = []
    found = host.measure(
        ["x"], rounds=5, progress=lambda *it: shown.append(it), **SIZES
    )
    measured = {cost.operation for cost in found.costs}
    assert measured | set(found.refused) == set(timed.operations())
    assert {"fork", "munmap", "mprotect", "mremap", "pagemap"} <= measured
    for cost in found.costs:
        assert cost.low <= cost.median <= cost.high
    assert all("\n" not in why and why for why in found.refused.values())
    assert found.kernel == platform.release()
    assert shown[0] == (0, 50, "fork")


def test_more_pages_take_longer():
    for operation in ("fork", "munmap", "pagemap"):
        few, many = (min(timed.rounds(operation, n, 5)) for n in (16, 4096))
        assert 0 < few < many, operation


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give it up")
def test_without_privileges_write_protection_is_still_measured():
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            timed.rounds("munmap", 64, 2)
            timed.rounds("uffd_wp_on", 64, 2)
        except OSError as error:
            # Not dumpable any more: nothing of /proc/self is its own.
            os._exit(0 if error.strerror.startswith("/proc/self") else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing", 1, 1), "no operation 'nothing'; there are"),
        (("fork", 0, 1), "0 pages, 1 rounds"),
        (("fork", 1, -1), "1 pages, -1 rounds"),
        (("fork", 1 << 24, 1), "16777216 pages"),
    ],
)
def test_what_can_not_be_timed_is_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        timed.rounds(*arguments)


def test_memory_that_can_not_be_had_is_an_error():
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))
        try:
            timed.rounds("munmap", 1 << 20, 1)
        except OSError as error:
            os._exit(0 if error.strerror == "mmap" else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# -- costs and their file ------------------------------------------------------------


def test_the_median_and_its_interval():
    assert costs.cost("x", [3.0, 1.0, 2.0]) == Cost("x", 2.0, 1.0, 3.0)
    # The 10th and the 21st of 30: what a binomial has within 95 %.
    assert costs.cost("x", range(30)) == Cost("x", 14.5, 9, 20)


def test_ticks_of_two_sizes_are_compared_round_by_round():
    lines = ["kernel 6.12", "- clear_refs 95 soft-dirty", "bye"]
    lines += [f"t fork {n} {k} {n * 7 + 1000 + k}" for n in (10, 30) for k in range(3)]
    assert costs.of_ticks("\n".join(lines), 10, 30) == [Cost("fork", 7.0, 7.0, 7.0)]


def test_it_is_read_as_it_was_written():
    parts = {"host": HOST, "guest": costs.shipped()}
    assert costs.from_json(costs.to_json(parts)) == parts


def test_what_ships_is_a_guest_with_its_provenance():
    found = costs.shipped()
    assert found.unit == "instructions"
    assert found.kernel.startswith("6.12.")
    assert found.command == "extmeta calibrate --guest"
    assert {cost.operation for cost in found.costs} == set(timed.operations())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"unit": "s"}, "host: unit is 's'"),
        ({"kernel": 6}, "host: kernel is '6'"),
        ({"rounds": True}, "host: rounds is 'True'"),
        ({"costs": 5}, "host: costs are '5'"),
        ({"costs": [{"operation": "fork"}]}, "host: a cost is"),
        (
            {
                "costs": [
                    {"operation": "f", "median": float("nan"), "low": 1, "high": 1}
                ]
            },
            "host: a cost is",
        ),
        ({"refused": {"fork": 1}}, "host: costs are"),
        ({"refused": None}, "host: costs are"),
    ],
)
def test_a_part_that_is_none_is_refused(change, said):
    document = {"format": costs.FORMAT, "host": dataclasses.asdict(HOST) | change}
    with pytest.raises(ValueError, match=said):
        costs.from_json(json.dumps(document))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "x"}', "[" * 100_000])
def test_a_file_that_is_none_is_refused(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(CalibrationError, match=r"a\.json: not "):
        costs.load(path)
    with pytest.raises(CalibrationError, match="Is a directory"):
        costs.load(tmp_path)
    assert costs.load(tmp_path / "none") == {}


def test_the_folder_is_as_xdg_has_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(costs.cache()) == "/somewhere/extmeta"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert costs.cache() == tmp_path / ".cache" / "extmeta"


def test_reasons_are_in_words():
    assert "needs root" in costs.refusal(1, "userfaultfd")
    assert costs.refusal(12, "mmap") == "mmap: Cannot allocate memory"


# -- the command ---------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Fewer pages."""
    measure = host.measure
    monkeypatch.setattr(host, "measure", lambda *a, **k: measure(*a, **{**k, **SIZES}))


def test_it_is_stored_where_compare_looks(cache, capsys, quick):
    assert cli.main(["calibrate", "--rounds", "5"]) == 0
    out = capsys.readouterr().out
    assert "ns per PTE" in out
    assert f"stored in {cache / costs.FILE}" in out
    found = costs.load(cache / costs.FILE)
    assert found["host"].command == "extmeta calibrate --rounds 5"
    assert os.listdir(cache) == [costs.FILE]


def test_the_other_part_is_kept(cache, quick, capsys):
    cache.mkdir(parents=True)
    (cache / costs.FILE).write_text(costs.to_json({"guest": costs.shipped()}))
    assert cli.main(["calibrate", "--rounds", "5"]) == 0
    assert set(costs.load(cache / costs.FILE)) == {"host", "guest"}


def test_a_damaged_file_is_replaced_only_where_it_is_ours(
    cache, quick, capsys, tmp_path
):
    cache.mkdir(parents=True)
    (cache / costs.FILE).write_text("x")
    assert cli.main(["calibrate", "--rounds", "5"]) == 0
    assert "not JSON" in error_line(capsys)
    assert set(costs.load(cache / costs.FILE)) == {"host"}
    other = tmp_path / "letter.txt"
    other.write_text("Dear")
    assert cli.main(["calibrate", "--rounds", "5", "-o", str(other)]) == 2
    assert "it is not replaced" in error_line(capsys)
    assert other.read_text() == "Dear"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rounds", "4"], "--rounds 4: 5 are needed"),
        (["-o", "/nowhere/file"], "there is no directory /nowhere"),
        (["-o", "/"], "is a directory"),
    ],
)
def test_bad_input(arguments, said, capsys):
    assert cli.main(["calibrate", *arguments]) == 2
    assert said in error_line(capsys)


def test_a_cache_that_can_not_be_made_is_said(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cli.main(["calibrate"]) == 1
    assert "Not a directory" in error_line(capsys)


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(old := costs.to_json({"host": HOST}))
    # -B: Python would not notice that its .pyc files were cut at the limit.
    command = [sys.executable, "-B", "-m", "extmeta", "calibrate", "--rounds", "5"]
    done = subprocess.run(
        [*command, "-o", path],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == f"extmeta calibrate: {path}: File too large"
    assert path.read_text() == old
    assert os.listdir(tmp_path) == [path.name]


def test_interrupted_nothing_is_stored(tmp_path):
    path = tmp_path / "calibration.json"
    command = [sys.executable, "-m", "extmeta", "calibrate", "--rounds", "100000"]
    with subprocess.Popen(
        [*command, "-o", path], stderr=subprocess.PIPE, text=True
    ) as process:
        assert "fork" in process.stderr.readline()
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert errors == "extmeta calibrate: interrupted; nothing is stored\n"
    assert os.listdir(tmp_path) == []


def test_nothing_measured_is_an_error(monkeypatch, capsys):
    none = dataclasses.replace(HOST, costs=(), refused={"fork": "fork: why not"})
    monkeypatch.setattr(host, "measure", lambda *_a, **_k: none)
    assert cli.main(["calibrate"]) == 1
    assert "fork: why not" in error_line(capsys)


# -- the guest: qemu, apt and dpkg are scripts ------------------------------------------

QEMU = """#!/bin/sh
[ "$1" = --version ] && { echo "QEMU emulator version 0"; exit; }
for argument; do
    case $argument in file:*answers) cat > "${argument#file:}" <<END
kernel 6.12.9
t fork 512 0 1000
t fork 2560 0 206000
- clear_refs 95 soft-dirty
bye
END
    esac
done
"""
BROKEN = """#!/bin/sh
[ "$1" = --version ] && exit
for argument; do
    case $argument in file:*console) echo "Kernel panic" > "${argument#file:}"; esac
done
echo "qemu: no" >&2
exit 1
"""
APT_CACHE = "#!/bin/sh\necho '  Depends: linux-image-6.12.9-cloud-amd64'\n"
APT_GET = "#!/bin/sh\ntouch kernel.deb\n"
DPKG_DEB = """#!/bin/sh
mkdir -p "$3/boot" "$3/lib/modules/6/kernel/drivers/block"
touch "$3/boot/vmlinuz-6.12.9" "$3/lib/modules/6/kernel/drivers/block/loop.ko"
"""


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """Give a callable that puts a script first on the PATH, and nothing else there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for name in ("sh", "cat", "mkdir", "touch", "cc", "as", "ld"):
        for place in ("/bin", "/usr/bin"):
            if os.path.exists(f"{place}/{name}") and not (folder / name).exists():
                (folder / name).symlink_to(f"{place}/{name}")

    def put(**texts):
        for name, text in texts.items():
            path = folder / name.replace("__", "-")
            path.unlink(missing_ok=True)
            path.write_text(text)
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return put


@pytest.fixture
def compiled(monkeypatch):
    """No compiler is needed."""
    monkeypatch.setattr(guest, "build", lambda _folder: b"init")


def test_a_guest_is_counted_and_stored(scripts, compiled, cache, capsys):
    scripts(
        qemu__system__x86_64=QEMU,
        apt__cache=APT_CACHE,
        apt__get=APT_GET,
        dpkg__deb=DPKG_DEB,
    )
    assert cli.main(["calibrate", "--guest"]) == 0
    found = costs.load(cache / costs.FILE)["guest"]
    assert found.kernel == "6.12.9"
    assert found.costs == (Cost("fork", 205000 / 2048, *[205000 / 2048] * 2),)
    assert "soft-dirty" in found.refused["clear_refs"]
    assert "instructions per PTE" in capsys.readouterr().out
    # The kernel is there now.
    scripts(apt__get="#!/bin/sh\nexit 1\n")
    assert cli.main(["calibrate", "--guest"]) == 0


@pytest.mark.parametrize(
    ("there", "status", "said"),
    [
        ({}, 2, "no qemu-system-x86_64 (apt install qemu-system-x86)"),
        ({"qemu": QEMU}, 2, "apt knows no linux-image-6.12-cloud-amd64"),
        ({"qemu": QEMU, "apt__cache": "#!/bin/sh\n"}, 2, "apt knows no linux-image-"),
        ({"qemu": QEMU, "apt__cache": APT_CACHE}, 2, "no dpkg-deb"),
        (
            {
                "qemu": QEMU,
                "apt__cache": APT_CACHE,
                "dpkg__deb": DPKG_DEB,
                "apt__get": "#!/bin/sh\necho E: unreachable >&2\nexit 100\n",
            },
            2,
            "can't be fetched: E: unreachable",
        ),
        (
            {
                "qemu": QEMU,
                "apt__cache": APT_CACHE,
                "apt__get": APT_GET,
                "dpkg__deb": "#!/bin/sh\nexit 1\n",
            },
            2,
            "can't be unpacked: no reason given",
        ),
        (
            {
                "qemu": QEMU,
                "apt__cache": APT_CACHE,
                "apt__get": APT_GET,
                "dpkg__deb": '#!/bin/sh\nmkdir -p "$3"\n',
            },
            2,
            "has no kernel with a loop module",
        ),
        (
            {
                "qemu": BROKEN,
                "apt__cache": APT_CACHE,
                "apt__get": APT_GET,
                "dpkg__deb": DPKG_DEB,
            },
            1,
            "the guest failed: Kernel panic",
        ),
    ],
)
def test_what_a_guest_lacks_is_said(
    scripts, compiled, cache, capsys, there, status, said
):
    scripts(**{n.replace("qemu", "qemu__system__x86_64"): t for n, t in there.items()})
    assert cli.main(["calibrate", "--guest"]) == status
    assert said in error_line(capsys)
    assert not (cache / costs.FILE).exists()


@pytest.mark.parametrize(
    ("compiler", "said"),
    [
        (None, "no C compiler (apt install gcc libc6-dev)"),
        ("#!/bin/sh\necho 'ld: cannot find -lc' >&2\nexit 1\n", "no static C library"),
        ("#!/bin/sh\necho 'strange' >&2\nexit 1\n", "does not compile /init: strange"),
    ],
)
def test_what_a_compiler_lacks_is_said(scripts, monkeypatch, capsys, compiler, said):
    scripts(qemu__system__x86_64=QEMU)
    monkeypatch.setenv("CC", "other-cc")
    if compiler:
        scripts(other__cc=compiler)
    assert cli.main(["calibrate", "--guest"]) == 2
    assert said in error_line(capsys)


def test_another_machine_has_no_guest(scripts, monkeypatch, capsys):
    scripts(qemu__system__x86_64=QEMU)
    monkeypatch.setattr(guest.platform, "machine", lambda: "s390x")
    assert cli.main(["calibrate", "--guest"]) == 2
    assert "not for s390x" in error_line(capsys)


def test_init_runs_outside_of_a_guest_too(tmp_path):
    try:
        (tmp_path / "run").write_bytes(guest.build(tmp_path))
    except guest.Missing as why:
        pytest.skip(str(why))
    (tmp_path / "run").chmod(0o755)

    def run(text):
        return subprocess.run(
            [tmp_path / "run"], input=text, capture_output=True, text=True, check=False
        )

    lines = run("time munmap 64 2\ntime mremap 64 1\n").stdout.splitlines()
    assert lines[0] == f"kernel {platform.release()}"
    assert [line.split()[:4] for line in lines[1:4]] == [
        ["t", "munmap", "64", "0"],
        ["t", "munmap", "64", "1"],
        ["t", "mremap", "64", "0"],
    ]
    assert lines[-1] == "bye"
    failed = run("time nothing 1 1\n")
    assert failed.returncode == 3
    assert failed.stdout.endswith("no operation 'nothing' to time\n")


# -- beside our own operations ---------------------------------------------------------

SUBJECT = Subject(
    name="numpy",
    sha256="c0ffee",
    arch="x86_64",
    nr_ptes=1000,
    nr_tables=2,
    nr_huge=0,
    present_bytes=1000 * 4096,
    fields={"age": 4},
    baseline_fields={"age": 4},
    baseline_lacks="",
    words="different",
)
ROWS = [
    SUBJECT,
    Ram("inpte", 1.0, "", 1000, 4096, 8192, 0, 0, 0, None),
    Cpu("linked", "load", 1.0, "", 1.5, 1.49, 1.51, 2.0, 60, 8),
    Cpu("linked", "update", 1.0, "", 2.0, 1.99, 2.01, 4.0, 60, 8),
    Cpu("linked", "fork", 1.0, "", 1.25, 1.24, 1.26, 2.0, 60, 8),
    Cpu("linked", "unmap", 1.0, "", 0.5, 0.4, 0.6, 1.0, 60, 8),
]
PROVENANCE = {"kernel": "6.18.1", "cpu": "A Processor"}
SHARES = """\
CPU, 100%: extra over inpte, of the kernel's
                     update        fork       unmap
                      wp on        fork      munmap
kernel, ns             20.0        50.0         100
linked              +20.0%?       +1.0%     -0.50%?
"""


def with_host(**changes):
    made = dataclasses.asdict(dataclasses.replace(HOST, **changes))
    return {**PROVENANCE, "calibration": {"host": made}}


def test_the_extra_is_a_share_of_the_kernels_operation():
    text = comparison.text(ROWS, with_host())
    # The intervals of wp on and of unmap are wide; load has no cost.
    assert SHARES in text
    assert "measured elsewhere" not in text
    assert "The extra is of our loop" in text.replace("\n", " ")


def test_of_another_machine_it_is_said():
    text = comparison.text(ROWS, with_host(kernel="6.1", cpu="Another"))
    assert "elsewhere: Linux 6.1, not 6.18.1; Another, not A Processor." in text


def test_without_a_calibration_it_says_how_to_make_one():
    assert "`extmeta calibrate` measures" in comparison.text(
        ROWS, {**PROVENANCE, "calibration": {}}
    )
    # Results from before there was any.
    assert "calibrate" not in comparison.text(ROWS, PROVENANCE)


def test_it_is_stored_with_the_rows():
    document = comparison.to_json(ROWS, with_host())
    rows, provenance = comparison.from_json(document)
    assert comparison.text(rows, provenance) == comparison.text(ROWS, with_host())
    for damaged in ({"host": {"unit": "ns"}}, {"host": 5}, 7, [1]):
        with pytest.raises(ValueError, match=r"host: |calibration is"):
            comparison.from_json(
                comparison.to_json(ROWS, {**PROVENANCE, "calibration": damaged})
            )


def test_compare_uses_what_is_stored(cache, capsys):
    arguments = [
        "compare",
        *["--quick", "--full", "--fractions", "1", "--encodings", "linked"],
    ]
    assert cli.main(arguments) == 0
    assert "`extmeta calibrate` measures" in capsys.readouterr().out
    cache.mkdir(parents=True)
    (cache / costs.FILE).write_text(costs.to_json({"host": HOST}))
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "CPU, 100%: extra over inpte, of the kernel's" in out
    assert "measured elsewhere: Linux 6.18.1, not" in out
    (cache / costs.FILE).write_text("x")
    assert cli.main(arguments) == 0
    assert "not JSON" in capsys.readouterr().err


def test_small_and_strange_numbers():
    cost = Cost("fork", 200.0, 199.0, 201.0)
    shares = [calibration_report.share(n, cost) for n in (0, 0.001, 1, 20, 300, -3)]
    assert shares == ["0%", "0%", "+0.50%", "+10.0%", "+150%", "-1.5%"]
    assert calibration_report.share(1, Cost("fork", 0.0, 0.0, 0.0)) == "-"
    assert calibration_report.wide(Cost("fork", -1.0, -3.0, 1.0))
    text = calibration_report.text(HOST)
    assert "fork                       50.0    49.0 to 51.0" in text
    assert "clear_refs                    -    this kernel has no soft-dirty" in text


# -- instructions ------------------------------------------------------------------------


def counts(name):
    if name == "tiny":
        raise ValueError("too small")
    extra = 0 if name == "inpte" else 2 * instructions.PTES
    return {0.5: {"fork": 3 * instructions.PTES + extra, "clear": instructions.PTES}}


def test_instructions_are_a_share_of_the_guests():
    shown = []
    found = list(
        instructions.counted(
            ["linked", "tiny", "inpte"],
            counts=counts,
            progress=lambda *it: shown.append(it),
        )
    )
    assert shown[0] == (0, 3, "instructions of inpte")
    assert Counted("linked", "fork", 0.5, 5.0) in found
    assert Refused("tiny", "too small") in found
    shipped = dataclasses.asdict(costs.shipped())
    provenance = {**PROVENANCE, "calibration": {"guest": shipped}}
    text = comparison.text(found, provenance)
    assert "instructions, 50%: extra over inpte, of the kernel's" in text
    (line,) = [x for x in text.splitlines() if x.startswith("linked ")]
    # 2 more of 201; clear is set beside two.
    assert line.split() == ["linked", "0%", "0%", "+0.99%"]
    assert "(ships with\nextmeta)" in text or "(ships with extmeta)" in text
    rows, _provenance = comparison.from_json(comparison.to_json(found, provenance))
    assert rows == found


def test_without_valgrind_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(instructions.shutil, "which", lambda _name: None)
    arguments = [
        "compare",
        *["--quick", "--full", "--fractions", "1", "--encodings", "linked"],
    ]
    assert cli.main([*arguments, "--instructions"]) == 0
    assert "apt install valgrind" in capsys.readouterr().err


def test_the_work_that_is_counted_is_done():
    for encoding in ("inpte", "linked:16"):
        instructions.work(encoding, 0.01)
