"""What notebooks show of objects: a line, HTML, pictures."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

import extmeta as em
from extmeta.arch import ARCHES, arch_named
from extmeta.edge import drawing

FIELDS = em.Fields(age=8)
HOSTILE = "<img src=x onerror=alert(1)>\n&"


def table_of(encoding="linked", arch="x86_64", fields=FIELDS):
    table = em.PageTable(encoding, fields, arch)
    size = table.huge_ptes()
    table.map(range(10))
    table.store([2, 3], [1, 1])
    table.swap_out([5], [7])
    table.map_huge([64 * size])
    return table


def objects():
    table = table_of()
    yield table
    yield table.memory()
    yield em.load_capture("redis")
    yield em.plan(FIELDS)
    yield em.plan(em.Fields(uffd_wp=1), arch="arm64")
    yield from map(arch_named, ARCHES)


@pytest.mark.parametrize("thing", [*objects()], ids=lambda thing: type(thing).__name__)
def test_each_object_has_a_line_and_html(thing):
    assert "\n" not in repr(thing)
    assert len(repr(thing)) < 200
    html = thing._repr_html_()
    assert html.startswith("<table>")
    assert html.count("<tr>") == html.count("</tr>") > 3


def test_html_has_the_figures():
    html = table_of()._repr_html_()
    for name, value in [("PTEs", 10), ("PTEs with a word", 2), ("PTE tables", 1)]:
        assert f">{name}</th>" in html
        assert f">{value}</td>" in html


def test_names_from_captures_are_escaped():
    capture = dataclasses.replace(
        em.load_capture("redis"), comm=HOSTILE, kernel=HOSTILE, about=HOSTILE
    )
    assert "<img" not in capture._repr_html_()
    assert "&lt;img" in capture._repr_html_()
    assert "\n" not in repr(capture)


def test_vmas_are_a_structured_array():
    capture = em.load_capture("redis")
    vmas = capture.vmas
    assert vmas.shape == capture.vma_start.shape
    for name in vmas.dtype.names:
        assert np.array_equal(vmas[name], getattr(capture, f"vma_{name}"))
    heap = vmas[vmas["name"] == "[heap]"]
    assert (heap["end"] > heap["start"]).all()
    vmas["start"] = 0
    assert capture.vma_start.any()


@pytest.mark.parametrize("arch", ["x86_64", "arm64_16k"])
@pytest.mark.parametrize("encoding", em.encodings())
def test_a_map_has_the_state_of_each_entry(encoding, arch):
    table = table_of(encoding, arch, em.Fields(tag=1))
    first, each, states = drawing.cells(table)
    assert each == 1
    assert first[0] == 0
    row = states[0]
    assert row[:10].tolist() == [2, 2, 3, 3, 2, 1, 2, 2, 2, 2]
    assert not row[10:].any()
    huge = (states == drawing.HUGE).sum()
    assert huge == table.huge_ptes()


def test_many_tables_share_rows(monkeypatch):
    monkeypatch.setattr(drawing, "MAX_ROWS", 4)
    table = em.PageTable("linked", FIELDS)
    table.map(range(0, 10 * 512, 512))
    table.store([9 * 512], age=1)
    first, each, states = drawing.cells(table)
    assert each == 4
    assert first.tolist() == [0, 4 * 512, 8 * 512]
    assert states[:, 0].tolist() == [drawing.PRESENT, drawing.PRESENT, drawing.WORD]


@pytest.fixture
def pyplot():
    mpl = pytest.importorskip("matplotlib")
    mpl.use("agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_table_is_drawn(pyplot):
    axes = table_of().plot()
    assert labels(axes) == ["no PTE", "swapped", "present", "with a word", "huge page"]
    _figure, mine = pyplot.subplots()
    assert table_of().plot(mine) is mine
    axes.figure.canvas.draw()


@pytest.mark.parametrize("words", [1, 100])
def test_tables_without_an_entry_or_of_wide_words_are_drawn(pyplot, words):
    table = em.PageTable("linked", em.Fields(tag=words))
    table.plot().figure.canvas.draw()
    table.map([1])
    table.store([1], 1 << (words - 1))
    assert labels(table.plot()) == ["no PTE", "with a word"]


def test_a_capture_is_drawn_with_its_name_as_text(pyplot):
    capture = dataclasses.replace(em.load_capture("redis"), comm="$x$<b>")
    axes = capture.plot()
    axes.figure.canvas.draw()
    assert axes.get_title() == "'$x$<b>': 33,049 PTEs"


def test_without_matplotlib_the_extra_is_named():
    code = """
import sys
sys.modules["matplotlib"] = None
import extmeta as em
for thing in (em.PageTable("linked"), em.load_capture("redis")):
    try:
        thing.plot()
    except ImportError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("pip install 'extmeta[report]'") == 2
