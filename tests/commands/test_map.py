"""`extmeta map`."""

import json
import os

import pytest

import extmeta as em
from extmeta import cli
from extmeta.captures.capture import shipped
from extmeta.reports import vma_map


@pytest.mark.parametrize("columns", ["40", "80"])
def test_each_vma_has_a_line_within_the_columns(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    assert cli.main(["map", "redis"]) == 0
    text = capsys.readouterr().out
    _what, _legend, *lines = text.splitlines()
    found = em.load_capture(shipped()["redis"])
    assert len(lines) == len(found.vma_start)
    assert max(map(len, lines)) <= int(columns)
    assert "".join(lines).isascii()


def test_the_shades_tell_how_full_a_part_is():
    import numpy as np

    none = np.empty(0, np.uint64)
    assert vma_map._strip(none, 100, 10) == " " * 10
    assert vma_map._strip(np.arange(100, dtype=np.uint64), 100, 10) == "@" * 10
    half = np.arange(0, 50, dtype=np.uint64)
    assert vma_map._strip(half, 100, 10) == "@" * 5 + " " * 5
    one = np.array([99], np.uint64)
    assert vma_map._strip(one, 100, 10) == " " * 9 + "."
    all_but_one = np.arange(1, 100, dtype=np.uint64)
    assert vma_map._strip(all_but_one, 100, 1) == vma_map.SHADES[-2]


def test_json_has_the_pages_of_each_vma(capsys):
    assert cli.main(["map", "redis", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    capture = em.load_capture(shipped()["redis"])
    for vma in found:
        first, stop = vma["start"] >> 12, vma["end"] >> 12
        inside = (capture.vpn >= first) & (capture.vpn < stop)
        assert vma["pages"] == inside.sum()
    assert sum(vma["pages"] for vma in found) == 33_049
    assert [vma["start"] for vma in found] == capture.vma_start.tolist()


def test_a_running_process_has_a_map(capsys):
    assert cli.main(["map", str(os.getpid())]) == 0
    assert "[stack]" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["nothing.npz", "99999999", "/etc/hostname"])
def test_what_has_no_map_is_named(what, capsys):
    assert cli.main(["map", what]) == 2
    assert what in capsys.readouterr().err
