"""The command, as it is called: what it prints where, and how it ends."""

import contextlib
import json
import os
import pty
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest

import extmeta as em
from extmeta import cli
from extmeta.arch import ARCHES
from extmeta.commands import capture as capture_verb
from extmeta.commands import compare as compare_verb
from extmeta.commands import output
from extmeta.comparing import engine
from extmeta.cost import sweep
from extmeta.cost.forms import default_forms
from extmeta.reports import head
from extmeta.rows import CONTROL, OPERATIONS

COMMAND = [sys.executable, "-m", "extmeta"]

# One point, few encodings: half a second.
SHORT = ["compare", "--quick", "--fractions", "0.5", "--encodings", "linked"]
# Which of several processes measures is a matter of tests/cost/test_workers.py.
SHORT += ["--processes", "1"]


def call(command, **options):
    """Run a program to its end."""
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.run(command, check=False, timeout=300, **{**given, **options})


def run(*arguments, **options):
    """Run the command to its end."""
    return call([*COMMAND, *map(str, arguments)], **options)


def one_line(text, *parts):
    """Assert that ``text`` is one line with these parts, and no traceback."""
    assert text.endswith("\n")
    assert text.count("\n") == 1, text
    for part in parts:
        assert part in text


def capture_of(present, swapped=0):
    """Return a capture of some pages, all soft-dirty, in two VMAs."""
    vpn = np.concatenate((np.arange(16, 16 + present), 1 << 20 | np.arange(swapped)))
    slots = np.arange(1, 1 + swapped, dtype=np.uint64) << np.uint64(5)
    start = np.array([16, 1 << 20], np.uint64) << np.uint64(12)
    size = np.array([present + 1, swapped + 1], np.uint64) << np.uint64(12)
    return em.Capture(
        vma_start=start,
        vma_end=start + size,
        vma_perms=np.array(["rw-p", "rw-p"]),
        vma_flags=np.array(["rd wr", "rd wr"]),
        vma_name=np.array(["", "[heap]"]),
        vpn=vpn.astype(np.uint64),
        entry=np.concatenate(
            (
                np.full(present, 1 << 63 | 1 << 55, np.uint64),
                slots | np.uint64(1 << 62),
            )
        ),
        vmpte_kb=24,
        vmrss_kb=4 * present,
        kernel="6.12.1",
        comm="mine",
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A capture file of 3,000 PTEs."""
    path = tmp_path_factory.mktemp("small") / "small.npz"
    capture_of(3000).save(path)
    return str(path)


@pytest.fixture
def sleeper():
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


# -- compare -----------------------------------------------------------------------


def test_quick_compares_all_encodings_and_exits_0(small):
    done = run("compare", "--quick", "--full", small)
    assert done.returncode == 0
    assert "\nsmall.npz: 3,000 PTEs" in done.stdout
    for name in (*default_forms(), CONTROL):
        assert f"\n{name}" in done.stdout or f"\n  {name}" in done.stdout
    for operation in OPERATIONS:
        assert operation in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert done.stdout.isprintable() or "\x1b" not in done.stdout
    # What is measured, to be seen meanwhile.
    assert done.stderr.splitlines()[-1].endswith(": done")


def test_by_default_the_verdict_comes_first_and_is_short(small, tmp_path, capsys):
    path = str(tmp_path / "rows.json")
    assert cli.main([*SHORT, "--json", path, small]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("small.npz: 3,000 PTEs")
    assert next(line for line in lines[1:] if line[:2] == "* ").startswith("* uffd_wp")
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 80
    stored = ["compare", "--from", path, "--format"]
    assert cli.main([*stored, "lkml"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 72
    for how, starts in (("csv", "subject,"), ("markdown", "# What"), ("json", "{")):
        assert cli.main([*stored, how]) == 0
        assert capsys.readouterr().out.startswith(starts)


def test_rows_are_stored_with_where_they_are_from(small, tmp_path, capsys):
    path = tmp_path / "rows.json"
    arguments = [*SHORT, "--seed", "3", "--json", str(path), small]
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    document = json.loads(path.read_text())
    assert document["complete"]
    assert document["provenance"]["command"] == ["extmeta", *arguments]
    assert document["provenance"]["seed"] == 3
    subject = document["rows"][0]
    assert subject["sha256"] == em.load_capture(small).sha256
    assert subject["nr_ptes"] == 3000
    assert os.listdir(tmp_path) == ["rows.json"]
    # And print the same again.
    assert cli.main(["compare", "--from", str(path)]) == 0
    assert capsys.readouterr().out == text
    # The same file is replaced.
    path.write_text("x" * 10**6)
    assert cli.main([*SHORT, "--json", str(path), small]) == 0
    assert json.loads(path.read_text())["complete"]


def test_json_on_stdout_is_all_there_is_on_stdout(small):
    done = run(*SHORT, "--json", "-", small)
    rows = json.loads(done.stdout)["rows"]
    assert {row["row"] for row in rows} == {
        *("Subject", "Bound", "Spread", "Ram", "Cpu", "Demand")
    }
    at = [row["fraction"] for row in rows[2:] if row["row"] != "Demand"]
    assert set(at) == {0.5}


def test_interrupted_it_prints_what_it_has_and_exits_130(small, tmp_path):
    path = tmp_path / "rows.json"
    with subprocess.Popen(
        [*COMMAND, "compare", "--quick", "--full", small, "--json", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stderr:
            if "1% random" in line:
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.startswith("INCOMPLETE: stopped before the end. Missing: small.npz: ")
    assert "CPU, 0%" in out
    assert "CPU, 100%" not in out
    assert "Traceback" not in err
    assert err.endswith("interrupted; this is not all\n")
    assert json.loads(path.read_text())["complete"] is False


def test_interrupted_before_there_is_anything_it_prints_nothing(
    small, monkeypatch, capsys
):
    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "sweep", interrupted)
    assert cli.main(["compare", small]) == 130
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(compare_verb, "spaces_of", interrupted)
    assert cli.main(["compare", small]) == 130


def test_a_running_process_is_compared(sleeper, capsys):
    assert cli.main([*SHORT, str(sleeper.pid)]) == 0
    assert capsys.readouterr().out.startswith(f"process {sleeper.pid}, sleep: ")


def test_several_are_compared_one_after_the_other(small):
    done = run(*SHORT, small, "redis")
    assert "small.npz: 3,000 PTEs" in done.stdout
    assert "\nredis: " in done.stdout
    assert done.stdout.count("Not in the model") == 1


def test_without_a_name_the_default_capture_is_taken(capsys):
    assert cli.main([*SHORT, "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows[0]["name"] == "numpy-sparse"


def test_kinds_of_words_are_compared_one_after_the_other(small, capsys):
    assert cli.main([*SHORT, "--words", "few,one", "--json", "-", small]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    subjects = [row["words"] for row in rows if row["row"] == "Subject"]
    assert subjects == ["few", "one"]


def test_a_capture_is_compared_as_another_architecture_has_it(small, capsys):
    assert cli.main([*SHORT, "--arch", "arm64_64k", small]) == 0
    out = capsys.readouterr().out
    assert out.startswith("small.npz: 188 PTEs in 1 PTE tables")
    assert "arm64_64k" in out
    assert "a page is mapped where one of its 4 KiB parts is" in out


def test_all_architectures_are_one_table_and_nothing_is_timed(small, capsys):
    assert cli.main(["compare", "--arch", "all", small]) == 0
    out = capsys.readouterr().out
    assert out.startswith("* In-PTE words can't hold the fields in 16 of 16")
    assert "\nsmall.npz, on 16 architectures" in out
    for arch in ARCHES:
        assert out.count(f"\n {arch} ") == 2
    assert "CPU," not in out
    assert "1% random" in out
    assert max(map(len, out.splitlines())) <= 100
    given = ["--arch", "all", "--fractions", "0,0.5", "--placement", "tables"]
    assert cli.main(["compare", *given, "--json", "-", small]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["row"] for row in rows} == {"Subject", "Refused", "Ram", "Blocks"}
    assert {row.get("fraction", 0) for row in rows} == {0, 0.5}


def test_the_crossover_is_printed_and_stored(tmp_path, capsys):
    path = tmp_path / "rows.json"
    assert cli.main(["compare", "--crossover", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.count("* the smallest") == 6
    for kind in engine.CROSSOVER_KINDS:
        assert head.WORDS[kind] in " ".join(out.split())
    assert "\n          512 " in out
    assert max(map(len, out.splitlines())) <= 100
    assert cli.main(["compare", "--from", str(path)]) == 0
    assert capsys.readouterr().out == out
    given = ["--crossover", "--words", "byte", "--arch", "s390x", "--fields", "a=16"]
    assert cli.main(["compare", *given, "--encodings", "linked,adaptive"]) == 0
    out = capsys.readouterr().out
    assert out.count("* the smallest") == 2
    assert "\n          256 " in out
    assert "a tracker that Linux owns there" in " ".join(out.split())


@pytest.mark.parametrize(
    "given", [["redis"], ["--fractions", "0.5"], ["--placement", "random"]]
)
def test_the_crossover_has_points_and_tables_of_its_own(given, capsys):
    assert cli.main(["compare", "--crossover", *given]) == 2
    one_line(capsys.readouterr().err, "--crossover and", given[-1], "one of them")


@pytest.mark.parametrize("given", [["--crossover"], ["--arch", "all"]])
def test_what_is_done_under_the_lock_is_not_counted_with_ram_alone(given, capsys):
    assert cli.main(["compare", "--lock", *given]) == 2
    one_line(capsys.readouterr().err, "--lock and", given[0], "one of them")


def test_a_registered_encoding_appears_by_itself(small):
    code = (
        "import sys, extmeta as em; from extmeta.cli import main;"
        "em.register('mine', em.Linked);"
        f"sys.exit(main(['compare', '--quick', '--fractions', '1', {small!r}]))"
    )
    done = call([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
    assert "\nmine " in done.stdout


def test_progress_is_a_bar_on_a_terminal(small):
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    done = run(*SHORT, small, stderr=follower, env=environment)
    os.close(follower)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: its other end is closed
        while piece := os.read(leader, 1 << 16):
            shown += piece
    os.close(leader)
    assert done.returncode == 0
    assert b"\x1b[" in shown
    assert b"linked scan" in shown
    assert "\x1b" not in done.stdout


def test_progress_lines_are_one_a_stage(capsys):
    shown = output._lines()
    for done, what in enumerate(["a: x", "a: y", "b: x", "a: x"]):
        shown(done, 4, what)
    assert capsys.readouterr().err == "0 of 4: a\n2 of 4: b\n3 of 4: a\n"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["nowhere.npz"], ["nowhere.npz", "No such file"]),
        (["4194999"], ["process 4194999 does not exist"]),
        (["0"], ["0 is not positive"]),
        (["--fields", "age=x"], ["--fields", "'age=x' is not NAME or NAME=BITS"]),
        (["--fields", "a-b=1"], ["'a-b=1' is not NAME or NAME=BITS"]),
        (["--fields", "age=8,age=9"], ["'age' is there twice"]),
        (["--fields", "age=0"], ["'age'", "below 1"]),
        (["--fields", "age=600"], ["600 bits"]),
        (["--fields", "words=6"], ["'words'"]),
        (["--fractions", "1.5"], ["'1.5' is not in [0, 1]"]),
        (["--fractions", "nan"], ["'nan'"]),
        (["--fractions", "0,,1"], ["'' is no fraction"]),
        (["--placement", "spiral"], ["'spiral'", "random"]),
        (["--words", "prime"], ["'prime'", "different"]),
        (["--arch", "vax"], ["'vax'", "s390x"]),
        (["--encodings", "inpte,magic"], ["'magic'", "linked"]),
        (["--encodings", "linked:wide"], ["'linked:wide'"]),
        (["--encodings", "linked:513"], ["513"]),
        (["--encodings", "adjacent:never"], ["'never'"]),
        (["--encodings", "hash:3"], ["'hash:3'", "no argument"]),
        (["--seed", "-1"], ["'-1'"]),
        (["--seed", "1e3"], ["'1e3'"]),
        (["--json", "/nowhere/x.json"], ["/nowhere/x.json", "no directory"]),
        (["--json", "/"], ["/: is a directory"]),
        (["--from", "nowhere.json"], ["nowhere.json", "No such file"]),
        (["--from", "rows.json", "redis"], ["rows.json", "redis"]),
        (["--from", "rows.json", "--seed", "1"], ["rows.json", "--seed"]),
        (["--from", "rows.json", "--processes", "2"], ["--processes"]),
        (["--from", "rows.json", "--fields", "age=2"], ["rows.json", "--fields"]),
        (["--from", __file__], ["not JSON"]),
        ([__file__], ["test_cli.py", "of no known format"]),
        (["--bogus"], ["--bogus"]),
        (["x\x1b[2J\n"], ["x?[2J?"]),
    ],
)
def test_bad_input_is_one_line_and_2(arguments, parts, capsys):
    assert cli.main(["compare", *arguments]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    one_line(found.err, "extmeta", *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["compare|report|", "capture|info|map|plan"]),
        (["explain"], ["explain"]),
        (["info"], ["FILE"]),
        (["info", "nowhere"], ["nowhere", "No such file"]),
        (["info", "/"], ["/: of no known format"]),
        (["capture", "x1", "-o", "x"], ["'x1'"]),
        (["capture", "0", "-o", "x"], ["'0' is no number above 0"]),
        (["trace", "-1", "-o", "x"], ["'-1' is no number above 0"]),
        (["capture", "1", "-o", ""], ["'' is no file name"]),
        (["info", "redi"], ["redi: No such file", "did you mean redis?"]),
        (["compare", "--encodings", "linkd"], ["'linkd'", "did you mean linked?"]),
        (["capture", "1"], ["-o"]),
        (["capture", "4194999", "-o", "x"], ["4194999 does not exist"]),
        (["capture", "1", "-o", "/nowhere/x"], ["/nowhere"]),
    ],
)
def test_bad_input_to_others_is_one_line_and_2(arguments, parts):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    one_line(done.stderr, *parts)


def test_no_permission_is_one_line_and_2(tmp_path, monkeypatch, capsys):
    def refuse(*_arguments):
        return False

    monkeypatch.setattr(os, "access", refuse)
    assert cli.main([*SHORT, "--json", str(tmp_path / "x")]) == 2
    one_line(capsys.readouterr().err, str(tmp_path / "x"), "permission denied")


def test_a_capture_without_ptes_is_refused(tmp_path, capsys):
    path = tmp_path / "none.npz"
    capture_of(0).save(path)
    assert cli.main(["compare", str(path)]) == 2
    one_line(capsys.readouterr().err, "none.npz", "no PTE")


def test_memory_that_can_not_be_had_is_one_line_and_1(small, monkeypatch, capsys):
    def exhausted(*_arguments, **_options):
        raise MemoryError

    monkeypatch.setattr(sweep, "sweep", exhausted)
    assert cli.main(["compare", small]) == 1
    one_line(capsys.readouterr().err, "out of memory")


def test_version_and_help():
    done = run("--version")
    assert done.stdout == f"extmeta {em.__version__}\n"
    assert done.returncode == 0
    for verb in cli.VERBS:
        done = run(verb, "--help")
        assert done.returncode == 0
        assert done.stdout.startswith(f"usage: extmeta {verb}")
        assert f": extmeta {verb}" in done.stdout, "no example"


@pytest.mark.parametrize(
    ("typed", "follows"),
    [("extmeta ca", {"capture", "calibrate"}), ("extmeta map --j", {"--json"})],
)
def test_the_shell_is_told_what_can_follow(tmp_path, typed, follows):
    pytest.importorskip("argcomplete")
    path = tmp_path / "words"
    path.touch()
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(path),
        "COMP_LINE": typed,
        "COMP_POINT": str(len(typed)),
        "COMP_TYPE": "9",
    }
    assert run(env=os.environ | asked).returncode == 0
    assert {word.strip() for word in path.read_text().splitlines()} == follows


# -- where output goes ---------------------------------------------------------------


def test_a_closed_pipe_is_no_error(small):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = run("info", small, stdout=closed)
    assert done.returncode == 141
    assert done.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_line_and_1(small, sleeper):
    with open("/dev/full", "w") as full:
        done = run("info", small, stdout=full)
    assert done.returncode == 1
    one_line(done.stderr, "stdout", "No space left")
    done = run("capture", sleeper.pid, "-o", "/dev/full")
    assert done.returncode == 1
    one_line(done.stderr.partition("\n")[2], "/dev/full", "No space left")
    done = run(*SHORT, small, "--json", "/dev/full")
    assert done.returncode == 1
    assert done.stdout.startswith("small.npz")
    one_line(done.stderr.splitlines(keepends=True)[-1], "/dev/full", "No space left")


class Broken:
    """A stdout that is no good any more."""

    encoding = "ascii"

    def __init__(self, error):
        self.error = error

    def write(self, text):
        assert text.isascii()
        raise self.error

    def fileno(self):
        raise OSError("none")


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (BrokenPipeError(), 141, ""),
        (OSError(28, "No space"), 1, "extmeta: stdout: No space\n"),
    ],
)
def test_a_broken_stdout_ends_it(small, error, status, told, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Broken(error))
    assert cli.main([*SHORT, small]) == status
    assert capsys.readouterr().err.endswith(told)


def test_what_can_not_be_saved_is_one_line_and_1(sleeper, monkeypatch, capsys):
    def save(_capture, _path, pfns):
        raise OSError(28, "No space")

    monkeypatch.setattr(em.Capture, "save", save)
    assert cli.main(["capture", str(sleeper.pid), "-o", "x"]) == 1
    assert capsys.readouterr().err.endswith("extmeta capture: x: No space\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_device_is_written_to_and_not_replaced():
    with pytest.raises(output.CannotWriteError, match="/dev/full: No space"):
        output.write("/dev/full", "text")
    assert not os.path.isfile("/dev/full")


def short_of_space():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def test_a_file_that_does_not_fit_is_not_left_half(small, sleeper, tmp_path):
    for arguments in (
        ["capture", sleeper.pid, "-o", tmp_path / "a.npz"],
        [*SHORT, small, "--json", tmp_path / "b.json"],
    ):
        # Python would not notice that its .pyc files were cut at the limit.
        env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
        done = run(*arguments, preexec_fn=short_of_space, env=env)
        assert done.returncode == 1
        one_line(
            done.stderr.splitlines(keepends=True)[-1],
            str(arguments[-1]),
            "File too large",
        )
    assert os.listdir(tmp_path) == []


def test_a_terminal_without_the_sign_gets_another(small):
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = run(*SHORT, "--full", small, env=ascii_only)
    assert done.returncode == 0
    assert " +-" in done.stdout


# -- capture and info --------------------------------------------------------------


def test_a_capture_is_saved_and_told(sleeper, tmp_path):
    path = tmp_path / "s.npz"
    done = run("capture", sleeper.pid, "--stop", "-o", path)
    assert done.returncode == 0, done.stderr
    one_line(done.stdout, f"{path}: Capture of 'sleep'")
    found = em.load_capture(path)
    assert found.comm == "sleep"
    assert not found.has_pfns
    told = run("info", path)
    assert told.stdout.startswith("s.npz: sleep, Linux ")
    assert found.sha256 in told.stdout
    assert told.stderr == ""
    stored = json.loads(run("info", path, "--json").stdout)
    assert stored["present"] == found.nr_present


def test_a_file_is_replaced_by_force_only(sleeper, tmp_path):
    path = tmp_path / "s.npz"
    path.write_text("mine")
    done = run("capture", sleeper.pid, "-o", path)
    assert done.returncode == 2
    one_line(done.stderr, str(path), "--force")
    assert path.read_text() == "mine"
    assert cli.main(["capture", str(sleeper.pid), "-o", str(path)]) == 2
    assert run("capture", sleeper.pid, "--force", "-o", path).returncode == 0
    assert em.load_capture(path).comm == "sleep"


def test_pfns_are_kept_on_request(sleeper, tmp_path, monkeypatch):
    kept = []

    def save(_capture, path, pfns=False):
        kept.append((path, pfns))

    monkeypatch.setattr(em.Capture, "save", save)
    path = str(tmp_path / "s.npz")
    assert cli.main(["capture", str(sleeper.pid), "--pfns", "-o", path]) == 0
    assert cli.main(["capture", str(sleeper.pid), "-o", path]) == 0
    assert kept == [(path, True), (path, False)]


def test_a_process_that_moved_is_said_to_have(sleeper, tmp_path, monkeypatch, capsys):
    moved = em.Capture(
        **{
            **{k: getattr(capture_of(9), k) for k in capture_of(9).__dict__},
            "settled": False,
        }
    )
    monkeypatch.setattr(capture_verb, "captured", lambda _pid, _stop: moved)
    assert cli.main(["capture", "7", "-o", str(tmp_path / "m.npz")]) == 0
    one_line(capsys.readouterr().err, "process 7 changed", "--stop")


def test_interrupted_a_capture_leaves_nothing(tmp_path, monkeypatch, capsys):
    def interrupted(_pid, _stop):
        raise KeyboardInterrupt

    monkeypatch.setattr(capture_verb, "captured", interrupted)
    assert cli.main(["capture", "7", "-o", str(tmp_path / "m.npz")]) == 130
    assert os.listdir(tmp_path) == []
    assert capsys.readouterr().err == ""


def test_shipped_names_are_known_to_info(capsys):
    assert cli.main(["info", "redis"]) == 0
    assert capsys.readouterr().out.startswith("redis: redis-server, Linux ")
