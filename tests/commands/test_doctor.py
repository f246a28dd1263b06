"""`extmeta doctor`."""

import json
import os
import shutil

from extmeta import cli


def told(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    return {each["name"]: each["lacks"] for each in json.loads(capsys.readouterr().out)}


def test_what_is_there_is_found(capsys):
    found = told(capsys)
    assert (found["root"] == "") == (os.geteuid() == 0)
    assert (found["compiler"] == "no cc") == (shutil.which("cc") is None)


def test_a_program_that_is_missing_or_fails_is_told(capsys, monkeypatch, tmp_path):
    broken = tmp_path / "valgrind"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = told(capsys)
    assert found["compiler"] == "no cc"
    assert found["valgrind"] == "valgrind --version ends with 3"


def test_each_line_says_what_it_is_needed_for(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.count("needed for:") == len(told(capsys))
    assert max(map(len, out.splitlines())) <= 80
