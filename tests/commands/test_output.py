"""Results are not lost on the way out: closed pipes, full disks, signals."""

import contextlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading

import pytest

import extmeta as em
from extmeta import cli
from extmeta.commands import calibrate, inputs, output
from extmeta.cost import measure, sweep, workers
from extmeta.cost.kernel import costs
from extmeta.reports import missing
from extmeta.reports.missing import WHOLE, Stage
from extmeta.rows import DEMANDS, Cpu, Demand, Point, Ram, Subject
from extmeta.workloads import comparison

COMMAND = [sys.executable, "-m", "extmeta"]
SHORT = ["compare", "--quick", "--fractions", "0,1", "--encodings", "linked"]


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Nobody looks at the times."""
    monkeypatch.setattr(measure, "QUICK_ROUNDS", measure.MIN_ROUNDS)
    monkeypatch.setattr(measure, "QUICK_BUDGET_NS", 1)
    monkeypatch.setattr(workers, "QUICK_PROCESSES", 1)


@contextlib.contextmanager
def cat():
    """Run a process that waits for input."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(["cat"], **pipes) as process:
        # It has answered, so it is `cat` and no fork of this process any more.
        process.stdin.write(b"x\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"x\n"
        yield process.pid
        process.kill()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A capture of some hundred PTEs."""
    path = tmp_path_factory.mktemp("small") / "small.npz"
    with cat() as pid:
        em.capture(pid, stop=True).save(path)
    return str(path)


@pytest.fixture
def gone(monkeypatch):
    """Have a stdout, or a stderr, whose reader has gone."""
    made = []

    def gone(name):
        reader, writer = os.pipe()
        os.close(reader)
        made.append(os.fdopen(writer, "w", buffering=1))
        monkeypatch.setattr(sys, name, made[-1])

    yield gone
    for stream in made:
        output.discard(stream)
        stream.close()


# Every command, and the file that it writes.
EVERY = {
    "help": ["--help"],
    "version": ["--version"],
    "help of a verb": ["plan", "--help"],
    "compare": [*SHORT, "--json", "out", "small"],
    "compare --json -": [*SHORT, "--json", "-", "small"],
    "compare --workload": ["compare", "--quick", "--workload", "ages:intervals=1",
                           "--encodings", "linked", "--json", "out"],
    "compare --workload list": ["compare", "--workload", "list"],
    "compare --crossover": ["compare", "--crossover", "--words", "one",
                            "--encodings", "linked", "--json", "out"],
    "report": ["report", "--encodings", "linked", "small", "-o", "out"],
    "report -o -": ["report", "--encodings", "linked", "small"],
    "capture": ["capture", "PID", "-o", "out"],
    "capture -o -": ["capture", "PID", "-o", "-"],
    "info": ["info", "small"],
    "info --json": ["info", "--json", "small"],
    "arch": ["arch"],
    "arch NAME": ["arch", "s390x"],
    "arch --json": ["arch", "--json"],
    "plan": ["plan", "age=6"],
    "trace": ["trace", "PID", "--rounds", "1", "--interval", "0.01", "-o", "out"],
    "calibrate": ["calibrate", "-o", "out"],
}  # fmt: skip


@pytest.fixture
def given(tmp_path, small, monkeypatch):
    """Return a command's arguments by its key in EVERY, and its file's path."""
    calibration = costs.shipped()
    monkeypatch.setattr(calibrate, "_calibrated", lambda _args: calibration)
    with cat() as pid:
        out = str(tmp_path / "out")
        named = {"small": small, "out": out, "PID": str(pid)}
        yield lambda key: ([named.get(text, text) for text in EVERY[key]], out)


@pytest.mark.parametrize("key", EVERY)
def test_a_reader_that_has_gone_costs_no_file_and_no_words(key, given, gone, capsys):
    arguments, out = given(key)
    gone("stdout")
    assert cli.main(arguments) == 141
    err = capsys.readouterr().err
    assert "pipe" not in err.lower()
    assert "Traceback" not in err
    assert os.path.exists(out) == (out in arguments)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("key", EVERY)
def test_a_full_stdout_costs_no_file_and_is_told(key, given, monkeypatch, capsys):
    arguments, out = given(key)
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.main(arguments) == 1
        output.discard(full)
    err = capsys.readouterr().err
    assert err.endswith("extmeta: stdout: No space left on device\n")
    assert "Traceback" not in err
    assert os.path.exists(out) == (out in arguments)


def test_head_closes_both_pipes(small, tmp_path):
    """As in ``extmeta compare ... 2>&1 | head -1``."""
    path = tmp_path / "rows.json"
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        command = [*COMMAND, *SHORT, "--json", str(path), small]
        done = subprocess.run(command, stdout=closed, stderr=closed, check=False)
    assert done.returncode == 141
    assert json.loads(path.read_text())["complete"]


def test_nobody_reads_stderr(small, tmp_path, gone, capsys):
    path = tmp_path / "rows.json"
    gone("stderr")
    assert cli.main([*SHORT, "--json", str(path), small]) == 0
    assert capsys.readouterr().out.startswith("small.npz: ")
    assert json.loads(path.read_text())["complete"]
    assert cli.main(["info", "/nowhere"]) == 2
    sys.stderr = None
    assert cli.main(["info", "/nowhere"]) == 2
    assert capsys.readouterr().out == ""


def test_without_a_disk_for_the_json_the_text_is_printed(small, tmp_path, capsys):
    def full(_path, _text):
        raise output.CannotWriteError("rows.json: No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "write", full)
        status = cli.main([*SHORT, "--json", str(tmp_path / "rows.json"), small])
    out, err = capsys.readouterr()
    assert status == 1
    assert out.startswith("small.npz: ")
    assert err.endswith("extmeta compare: rows.json: No space left on device\n")
    assert err.count("No space") == 1


# -- ended early -------------------------------------------------------------------


def ending(monkeypatch, error, after):
    """Have a sweep end by ``error`` once it has given so many rows."""
    whole = sweep.sweep

    def swept(*args, **options):
        for number, row in enumerate(whole(*args, **options)):
            if number == after:
                raise error
            yield row

    monkeypatch.setattr(sweep, "sweep", swept)


def test_what_was_measured_before_an_error_is_kept(
    small, tmp_path, monkeypatch, capsys
):
    path = tmp_path / "rows.json"
    ending(monkeypatch, MemoryError(), after=5)
    assert cli.main([*SHORT, "--json", str(path), small]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("INCOMPLETE: ")
    assert err.endswith("extmeta compare: out of memory\n")
    assert len(json.loads(path.read_text())["rows"]) == 5


def test_an_incomplete_file_says_so_first(small, tmp_path, monkeypatch, capsys):
    path, again = tmp_path / "rows.json", tmp_path / "again.json"
    ending(monkeypatch, KeyboardInterrupt(), after=5)
    assert cli.main([*SHORT, "--json", str(path), small, "redis"]) == 130
    out = capsys.readouterr().out
    head = " ".join(out.partition("\n\n")[0].split())
    assert head == (
        "INCOMPLETE: stopped before the end. Missing: small.npz: the rest of 0%, 100%; "
        f"redis: 0%, 100%; full tables: {DEMANDS}."
    )
    assert cli.main(["compare", "--from", str(path), "--json", str(again)]) == 0
    assert capsys.readouterr().out == out
    # It does not become complete by being copied.
    assert json.loads(again.read_text()) == json.loads(path.read_text())
    # As a file of extmeta 0.1 has it.
    document = json.loads(path.read_text())
    del document["missing"]
    path.write_text(json.dumps(document))
    assert cli.main(["compare", "--from", str(path)]) == 0
    assert "the file does not say what" in capsys.readouterr().out.partition("\n\n")[0]
    for wrong in ({"complete": 1}, {"missing": [1]}):
        path.write_text(json.dumps({**document, **wrong}))
        assert cli.main(["compare", "--from", str(path)]) == 2
        assert "does not say whether it is complete" in capsys.readouterr().err


def test_a_workload_that_was_stopped_says_what_is_missing(
    tmp_path, monkeypatch, capsys
):
    path = tmp_path / "rows.json"
    whole = comparison.compare

    def compared(*args, **options):
        for row in whole(*args, **options):
            if getattr(row, "encoding", "") == "linked":
                raise KeyboardInterrupt
            yield row

    monkeypatch.setattr(comparison, "compare", compared)
    given = ["--workload", "ages:intervals=1", "--encodings", "linked,hash"]
    assert cli.main(["compare", "--quick", *given, "--json", str(path)]) == 130
    out = capsys.readouterr().out
    assert "the rest of inpte again" in out.partition("\n\n")[0]
    assert "linked, hash" in out.partition("\n\n")[0]
    assert cli.main(["compare", "--from", str(path)]) == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_ends_the_work_and_not_the_writing(
    number, small, tmp_path, monkeypatch, capsys
):
    """A second one comes while the file is written: the user is impatient."""
    path = tmp_path / "rows.json"
    whole, writes = sweep.sweep, output.write

    def swept(*args, **options):
        for at, row in enumerate(whole(*args, **options)):
            if at == 3:
                signal.raise_signal(number)
            yield row

    def write(path, text):
        signal.raise_signal(number)
        writes(path, text)

    monkeypatch.setattr(sweep, "sweep", swept)
    monkeypatch.setattr(output, "write", write)
    before = signal.getsignal(number)
    assert cli.main([*SHORT, "--json", str(path), small]) == 128 + number
    assert signal.getsignal(number) is before
    assert json.loads(path.read_text())["complete"] is False
    out, err = capsys.readouterr()
    assert out.startswith("INCOMPLETE: ")
    assert err.endswith("interrupted; this is not all\n")


def test_a_capture_that_is_ended_lets_its_process_go_on(given, tmp_path, monkeypatch):
    arguments, out = given("capture")
    whole = inputs.capture

    def capture(pid, **options):
        def progress(_done, _total):
            signal.raise_signal(signal.SIGTERM)

        return whole(pid, **{**options, "progress": progress})

    monkeypatch.setattr(inputs, "capture", capture)
    assert cli.main([*arguments, "--stop"]) == 128 + signal.SIGTERM
    assert not os.path.exists(out)
    with open(f"/proc/{arguments[1]}/stat") as stat:
        assert stat.read().rpartition(")")[2].split()[0] != "T"


def test_a_stop_lets_the_third_signal_through():
    with output.Stop() as stop:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        stop.spare()
        signal.raise_signal(signal.SIGINT)
    # And elsewhere than in the main thread there is nothing to stop.
    seen = []
    thread = threading.Thread(target=lambda: seen.append(output.Stop().__enter__()))
    thread.start()
    thread.join()
    assert seen[0].signal == 0


def test_what_is_missing_follows_from_the_rows():
    points = [Point(0.0, ""), Point(0.5, "random")]
    stages = [
        *(Stage(0, "a", point) for point in points),
        Stage(0, "full tables", DEMANDS),
        Stage(1, "instructions", WHOLE),
    ]
    subject = Subject("a", "", "x86_64", 1, 1, 0, 0, {}, {}, "", "one")
    ram = Ram("linked", 0.5, "random", 1, 1, 1, 1, 1, 1, None)
    cpu = Cpu("linked", "load", 0.5, "random", 1.0, 1.0, 1.0, 1.0, 1, 1)
    none = [f"a: {points[0]}, {points[1]}", f"full tables: {DEMANDS}"]
    counted = "instructions: all"
    assert missing.missing([], stages) == [*none, counted]
    assert missing.missing([subject], stages) == [*none, counted]
    rows = [subject, ram, cpu]
    rest = [f"a: the rest of {points[1]}", none[1], counted]
    assert missing.missing(rows, stages) == rest
    rows.append(Demand("linked", "fork", None, 0.0))
    rest = [f"full tables: the rest of {DEMANDS}", counted]
    assert missing.missing(rows, stages) == rest
    rows.append(subject)
    assert missing.missing(rows, stages) == ["instructions: the rest of all"]


# -- "-" ---------------------------------------------------------------------------


class Stream(io.TextIOWrapper):
    def __init__(self, data=b""):
        super().__init__(io.BytesIO(data))


def test_a_capture_goes_to_stdout_and_comes_from_stdin(
    given, small, tmp_path, monkeypatch, capsys
):
    arguments, _out = given("capture -o -")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", Stream())
    assert cli.main(arguments) == 0
    made = sys.stdout.buffer.getvalue()
    monkeypatch.undo()
    err = capsys.readouterr().err
    assert "extmeta capture: Capture of 'cat'" in err
    assert os.listdir(tmp_path) == []
    path = tmp_path / "made.npz"
    path.write_bytes(made)
    assert em.load_capture(path).comm == "cat"
    for command in (["info", "-"], [*SHORT, "-"], ["compare", "--quick", "--workload",
                    "ages:intervals=1", "--encodings", "linked", "-"]):  # fmt: skip
        monkeypatch.setattr(sys, "stdin", Stream(made))
        assert cli.main(command) == 0
        assert "stdin" in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", Stream(b"text"))
    assert cli.main(["info", "-"]) == 2
    assert capsys.readouterr().err.startswith("extmeta info: -: ")


def test_rows_come_from_stdin(small, monkeypatch, capsys):
    assert cli.main([*SHORT, "--json", "-", small]) == 0
    document = capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", Stream(document.encode()))
    assert cli.main(["compare", "--from", "-"]) == 0
    assert capsys.readouterr().out.startswith("small.npz: ")


def test_other_files_go_to_stdout(given, monkeypatch, capsys):
    for key in ("trace", "calibrate"):
        arguments, _out = given(key)
        monkeypatch.setattr(sys, "stdout", Stream())
        assert cli.main([*arguments[:-1], "-"]) == 0
        made = sys.stdout.buffer.getvalue()
        assert made[:2] == (b"PK" if key == "trace" else b"{\n")
        assert made.endswith(b"}\n") or key == "trace"
    assert "Trace of 'cat'" in capsys.readouterr().err


def test_a_terminal_gets_no_archive_and_gives_none(given, small, monkeypatch, capsys):
    leader, follower = pty.openpty()
    with open(follower, "w") as out, open(os.dup(follower)) as into:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stdin", into)
        assert cli.main(given("capture -o -")[0]) == 2
        assert capsys.readouterr().err.endswith("-: stdout is a terminal; redirect it "
                                                "to a file or a pipe\n")  # fmt: skip
        assert cli.main(["info", "-"]) == 2
        assert "nothing is piped into stdin" in capsys.readouterr().err
    os.close(leader)
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(given("capture -o -")[0]) == 2
    assert "stdout is closed" in capsys.readouterr().err


# -- progress ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terminal", "environment", "bar", "colours"),
    [
        (True, {"TERM": "xterm"}, True, True),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        (True, {"TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "20"}, True, False),
        (True, {"TERM": "dumb"}, False, False),
        (False, {"TERM": "xterm", "FORCE_COLOR": "1"}, False, False),
    ],
)
def test_progress_is_a_bar_or_lines(terminal, environment, bar, colours, monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stderr = io.StringIO()
    stderr.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stderr)
    with output.progress() as shown:
        shown(1, 2, "[red] \x1b[2J: linked")
    text = stderr.getvalue()
    assert "\x1b[2J" not in text
    assert "[red] ?[2J" in text or environment.get("COLUMNS") == "20"
    assert (text == "1 of 2: [red] ?[2J\n") is not bar
    assert ("\x1b[2K" in text) is bar
    assert bool(re.search(r"\x1b\[[\d;]+m", text)) is colours
