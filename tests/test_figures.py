"""The site's drawings and plots say what the code does."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from figures import layouts, plots
from figures.layouts import ARCH, CONTAINERS, DRAWINGS, FIRST, link_parts, pte_bits
from figures.plots import ENCODINGS, PLOTS

import extmeta as em
from extmeta.encodings import built_in
from extmeta.encodings.inpte import places
from extmeta.reports.document import charts

DOCS = Path(__file__).parents[1] / "docs"
SVG = "{http://www.w3.org/2000/svg}"


def said(svg):
    """Return the title, the description and all labels of an SVG."""
    tree = ElementTree.fromstring(svg)
    title, desc = tree.find(f"{SVG}title"), tree.find(f"{SVG}desc")
    assert tree.get("role") == "img"
    assert tree.get("aria-labelledby").split() == [title.get("id"), desc.get("id")]
    return (
        title.text,
        desc.text,
        ["".join(t.itertext()) for t in tree.iter(f"{SVG}text")],
    )


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_has_words_and_stays_inside(name):
    canvas = DRAWINGS[name]()
    title, alt, labels = said(canvas.svg())
    assert title.startswith(f"{name}: ")
    assert len(alt) > 50
    assert labels
    for box in ElementTree.fromstring(canvas.svg()).iter(f"{SVG}rect"):
        x, y, wide, high = (float(box.get(of)) for of in ("x", "y", "width", "height"))
        assert x >= 0
        assert x + wide <= 720
        assert y >= 0
        assert y + high <= canvas.height


def test_each_encoding_has_a_drawing():
    assert set(DRAWINGS) == {name for name in em.encodings() if built_in(name)}


@pytest.mark.parametrize(
    ("directive", "page", "names"),
    [("drawing", "layouts.md", DRAWINGS), ("plot", "objections.md", PLOTS)],
)
def test_each_figure_is_shown_once(directive, page, names):
    text = (DOCS / page).read_text()
    assert re.findall(rf"```{{{directive}}} (.*)\n```", text) == list(names)


def changed_bits(encoding, fields, words):
    """Return the bits of a PTE that storing any of the words changes."""
    table = em.PageTable(encoding, fields)
    table.map(FIRST)
    entry = FIRST % ARCH.ptrs_per_pte
    (vpn,) = table.tables
    before = int(table.tables[vpn][entry])
    found = 0
    for word in words:
        table.store(FIRST, word)
        found |= before ^ int(table.tables[vpn][entry])
    return {bit for bit in range(64) if found >> bit & 1}


def drawn(parts, label):
    return {
        bit for p in parts if p.label == label for bit in range(p.first, p.last + 1)
    }


def test_words_are_drawn_in_the_bits_that_a_store_changes():
    fields = em.Fields(uffd_wp=1, soft_dirty=1, age=5)
    bits = pte_bits(places(fields, ARCH)[0], "word", flag=False)
    changed = changed_bits("inpte", fields, [(1 << fields.bits) - 1])
    assert drawn(bits, "word") == changed


def test_the_flag_is_drawn_in_the_bit_that_a_store_changes():
    assert drawn(pte_bits([], "", flag=True), "flag") == (
        changed_bits("linked", em.Fields(age=8), [5])
    )


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_parts_of_a_link_do_not_overlap(container):
    parts = sorted(link_parts(container))
    assert all(part.first <= part.last for part in parts)
    ends = [part.last for part in parts]
    starts = [part.first for part in parts]
    assert all(end < start for end, start in zip(ends, starts[1:], strict=False))
    assert (starts[0], max(ends) < 64) == (0, True)


def test_a_drawing_follows_what_page_tables_hold(monkeypatch):
    monkeypatch.setattr(layouts, "FIELDS", em.Fields(age=3))
    assert "256 B" in said(DRAWINGS["linked"]().svg())[1]


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_has_words_and_data(name):
    chart = PLOTS[name]()
    title, alt, labels = said(charts.svg(chart, ENCODINGS))
    assert title == chart.title
    assert alt == chart.alt
    assert chart.table.rows
    # Two ticks at least, or nobody can read a value.
    ticks = [
        text for text in labels if re.fullmatch(r"[+-]?[\d.,]+ ?(%|B|.?iB)?", text)
    ]
    assert len(ticks) >= 2


def cells(chart):
    """Return the cells of a plot's data: the text by row and column."""
    return {
        (row[0], column): text
        for row in chart.table.rows
        for column, text in zip(chart.table.head[1:], row[1:], strict=True)
    }


def test_look_ups_are_as_the_documents_say():
    found = {at: float(text) for at, text in cells(plots.look_up()).items()}
    text = (DOCS / "performance.md").read_text()
    (row, *_) = re.findall(r"^\| 8 \|(.*)\|$", text, re.MULTILINE)
    inpte, _compact, linked = (float(cell) for cell in row.split("|")[:3])
    assert found["linked", "8 GiB"] == pytest.approx(linked / inpte, abs=0.005)
    said = " ".join((DOCS / "objections.md").read_text().split())
    for name in ("linked", "adaptive"):
        ratios = [ratio for (each, _gib), ratio in found.items() if each == name]
        times = re.search(rf"`{name}`(?: takes)? ([\d.]+) to ([\d.]+) times", said)
        assert times is not None
        assert [float(text) for text in times.groups()] == pytest.approx(
            [min(ratios), max(ratios)], abs=0.051
        )
    for (name, gib), ratio in found.items():
        if name in ("linked", "adaptive", "adjacent"):
            assert ratio < min(found["hash", gib], found["xarray", gib])


def test_re_pointings_are_as_the_objections_say():
    found = cells(plots.repointing())
    # "Nearly nine of ten."
    assert 85 <= int(found["1% flagged", "random"].removesuffix("%")) < 90


def test_memory_is_as_the_objections_say():
    aside = cells(plots.set_aside())
    assert aside["adaptive", "split"] == "0 B"
    first = cells(plots.corner_case())
    assert float(first["1", "adaptive"]) <= 16
    assert float(first["1", "linked"].replace(",", "")) == 4096
