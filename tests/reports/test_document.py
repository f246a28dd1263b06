"""Reports with charts: what each shows of the rows, in every format."""

import csv
import dataclasses
import io
import json
import re
import xml.etree.ElementTree as ET

import pytest

import extmeta as em
from extmeta.cost import crossover, demands, measure, sweep
from extmeta.cost.kernel import costs, prototype
from extmeta.cost.space import sparse_tables
from extmeta.reports import comparison
from extmeta.reports.document import flat, letter, markdown, sections
from extmeta.reports.document.letter import COLUMNS
from extmeta.reports.document.pictures import Dots
from extmeta.rows import BASELINE, CALL, CONTROL, Counted, Cpu, Point, Ram, Spread

pytest.importorskip("matplotlib")

from extmeta.reports.document import charts, html

FIELDS = em.Fields(uffd_wp=1, soft_dirty=1, age=8)
FORMS = ["linked", "adaptive", "hash"]
POINTS = [Point(0.0, ""), Point(0.1, "random"), Point(1.0, "")]
PROVENANCE = {
    "extmeta": "0.1.0",
    "kernel": "6.12.1",
    "cpu": "A Processor",
    "seed": 7,
    "command": ["extmeta", "report"],
    "calibration": {"guest": dataclasses.asdict(costs.shipped())},
}


@pytest.fixture(scope="module")
def rows():
    """Rows of every kind that a report on x86-64 shows."""
    space = sparse_tables(30, 50, seed=1)
    hasty = {"rounds": measure.MIN_ROUNDS, "budget_ns": 0}
    found = [*sweep.sweep(space, FORMS, FIELDS, POINTS, **hasty)]
    found += demands.demanded(FORMS, FIELDS, "x86_64")
    found += [
        Counted(n, "fork", 0.01, 10.0 + at) for at, n in enumerate(["inpte", "linked"])
    ]
    return [*found, *crossover.crossover(FORMS, FIELDS, nr_tables=8)]


@pytest.fixture(scope="module")
def document(rows):
    return sections.document(rows, PROVENANCE)


@pytest.fixture(scope="module")
def page(document):
    return html.page(document)


def edited(rows, kind, **changes):
    return [
        dataclasses.replace(row, **changes) if isinstance(row, kind) else row
        for row in rows
    ]


def test_there_is_a_chart_for_everything_measured(document):
    names = [chart.name for chart in document.charts]
    cpu = ["cpu-0", "cpu-10-random", "cpu-100"]
    bound = [name.replace("cpu", "bound") for name in cpu]
    counted = ["instructions-1", "share-of-instructions-1"]
    assert names == ["crossover", "ram", "map", *cpu, *bound, *counted, "in-a-kernel"]


def test_the_prototype_s_chart_has_its_counts(document):
    (chart,) = [chart for chart in document.charts if chart.name == "in-a-kernel"]
    p = prototype.shipped()
    assert len(chart.picture.rows) == len(p.forms) - 1
    for row, form in enumerate(p.forms[1:]):
        extra = 100 * p.extra("fork_1st", form)
        assert chart.picture.series["fork 1st"][row].at == extra
        assert chart.table.rows[row][1] == f"{extra:+.1f}%"


def test_a_chart_and_its_table_hold_each_ratio(rows, document):
    (chart,) = [chart for chart in document.charts if chart.name == "cpu-10-random"]
    assert isinstance(chart.picture, Dots)
    found = [r for r in rows if isinstance(r, Cpu) and r.fraction == 0.1]
    for row in (r for r in found if r.encoding != CALL):
        at = chart.picture.rows.index(row.operation)
        if row.encoding == CONTROL:
            value = chart.picture.floor[at]
        else:
            value = chart.picture.series[row.encoding][at]
        assert (value.at, value.low, value.high) == (row.ratio, row.low, row.high)
    assert [line[0] for line in chart.table.rows] == [CONTROL, *FORMS]
    assert all(len(line) == len(chart.table.head) for line in chart.table.rows)


def test_the_words_for_a_picture_name_both_ends(rows, document):
    (chart,) = [chart for chart in document.charts if chart.name == "ram"]
    held = {
        r.encoding: r.total
        for r in rows
        if isinstance(r, Ram) and r.fraction == 1 and not r.placement
    }
    del held[BASELINE]
    said = chart.alt.partition("100%: ")[2]
    assert f"({min(held, key=held.get)})" in said
    assert f"({max(held, key=held.get)})" in said


def test_the_map_has_each_cell_and_its_gaps(rows):
    (row,) = [r for r in rows if isinstance(r, Spread) and r.fraction == 0.1]
    far = [*row.first_vpns[:-1], row.first_vpns[-1] + 512 * 100]
    found = edited(rows, Spread, first_vpns=far)
    (chart,) = [c for c in sections.document(found, {}).charts if c.name == "map"]
    cells = chart.picture.cells
    assert [cell.address for cell in cells] == [vpn * 4096 for vpn in far]
    assert [cell.gap for cell in cells] == [False] * (len(far) - 1) + [True]
    assert cells[0].mapped == 50 / 512
    assert "1 gap " in chart.alt


def test_the_page_is_whole_and_asks_for_nothing(document, page):
    assert page.count("<svg") == len(document.charts) == page.count("<details>")
    assert len(page) < 1_500_000
    names = set(re.findall(r"https?://[^\s\"'<]+", page))
    # Names of XML, which no browser fetches.
    assert names <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    for loader in ("<script", "<img", "@import", "url(http", "<iframe", "<object"):
        assert loader not in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    referred = re.findall(r'(?:href="#|url\(#)([^")]+)', page)
    assert set(referred) <= set(ids)


def test_colours_are_the_page_s(page):
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", drawn))
    assert {colour for colour in colours if colour[:4] != "var("} <= {"none"}
    for name in re.findall(r"var\((--\w+)\)", drawn):
        assert page.count(f"{name}:#") == 2


def contrast(one, other):
    """Return the contrast of two colours, as WCAG 2 defines it."""

    def luminance(colour):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [
            p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
        ]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_marks_and_text_can_be_seen(theme):
    paper = charts.PALETTE["paper"][theme]
    for name, both in charts.PALETTE.items():
        if name in charts.COLOURS:
            assert contrast(both[theme], paper) >= 3, name
    for name in ("ink", "soft", "c1"):
        assert contrast(charts.PALETTE[name][theme], paper) >= 4.5, name


def test_series_differ_without_colour():
    names = [f"encoding {at}" for at in range(12)]
    looks = [charts._look(name, names) for name in names]
    assert len({look["marker"] for look in looks}) == len(looks)


def test_svg_files_are_valid_and_titled(document):
    for chart in document.charts:
        for inline in (False, True):
            root = ET.fromstring(charts.svg(chart, document.encodings, inline))
            ns = "{http://www.w3.org/2000/svg}"
            assert root.get("role") == "img"
            assert root.find(f"{ns}title").text == chart.title
            assert root.find(f"{ns}desc").text == chart.alt


def test_what_axes_show_is_within_their_picture(document):
    for chart in document.charts:
        figure = charts.drawing(chart, document.encodings)
        figure.draw_without_rendering()
        for axes in figure.axes:
            box = axes.xaxis.label.get_window_extent()
            assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, chart.name


def test_pictures_repeat_to_the_byte(document):
    chart = document.charts[0]
    for draw in (charts.svg, charts.png):
        assert draw(chart, document.encodings) == draw(chart, document.encodings)
    assert charts.png(chart, document.encodings)[:4] == b"\x89PNG"


HOSTILE = "<script>$x$ --></svg>\"'&\x1b[31m\x00\ud800|\n#"


def test_names_can_do_no_harm(rows):
    found = [
        dataclasses.replace(row, name=HOSTILE)
        if hasattr(row, "sha256")
        else dataclasses.replace(row, encoding=HOSTILE)
        if getattr(row, "encoding", "") == "linked"
        else row
        for row in rows
    ]
    made = sections.document(found, {**PROVENANCE, "cpu": HOSTILE})
    page = html.page(made)
    assert "<script" not in page
    page.encode()
    for drawn in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(drawn)
    for text in (letter.text(made), markdown.text(made), flat.to_csv(found)):
        assert not re.search(r"[\x00\x1b\ud800]", text)
    lines = markdown.text(made).splitlines()
    tables = [line for line in lines if line.startswith("| ")]
    assert tables
    assert "<script" not in markdown.text(made).replace("\\<", "")


def test_a_name_is_drawn_as_it_is(rows):
    name = "#fefefe #id 1.23456"
    found = [
        dataclasses.replace(row, encoding=name)
        if getattr(row, "encoding", "") == "linked"
        else row
        for row in rows
    ]
    made = sections.document(found, {})
    for chart in made.charts:
        root = ET.fromstring(charts.svg(chart, made.encodings))
        texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
        assert (name in texts) == (chart.name not in ("map", "in-a-kernel"))


def test_text_is_72_columns_wide_and_has_the_ratios(rows, document):
    text = letter.text(document)
    assert max(map(len, text.splitlines())) <= COLUMNS
    assert "The grey band" not in text
    (chart,) = [chart for chart in document.charts if chart.name == "cpu-10-random"]
    assert all(cell in text for line in chart.table.rows for cell in line)


def test_csv_has_each_figure(rows):
    found = [*csv.DictReader(io.StringIO(flat.to_csv(rows)))]
    ratios = [float(f["value"]) for f in found if f["figure"] == "ratio"]
    assert ratios == [row.ratio for row in rows if isinstance(row, Cpu)]
    sides = [int(float(f["value"])) for f in found if f["figure"] == "side"]
    assert sides == [row.side for row in rows if isinstance(row, Ram)]


def test_parquet_has_what_csv_has(rows):
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(io.BytesIO(flat.to_parquet(rows, PROVENANCE)))
    assert [flat.Figure(**line) for line in table.to_pylist()] == [*flat.figures(rows)]
    stored = json.loads(table.schema.metadata[b"extmeta"])
    assert stored["seed"] == 7


def test_rows_come_back_from_json(rows):
    document = comparison.to_json(rows, PROVENANCE)
    assert comparison.from_json(document)[0] == rows


def test_rows_of_an_older_version_have_no_map_and_it_is_said(rows):
    older = [row for row in rows if not isinstance(row, Spread)]
    made = sections.document(older, PROVENANCE)
    assert "map" not in [chart.name for chart in made.charts]
    assert "no map" in letter.text(made).replace("\n", " ")


def test_what_was_interrupted_says_so_first(rows):
    made = sections.document(rows[:8], PROVENANCE, ["x: the rest"])
    assert made.sections[0].sentences[0].startswith("INCOMPLETE")


def test_a_subject_alone_is_a_report(rows):
    page = html.page(sections.document(rows[:1], {}))
    assert "<svg" not in page


def test_shares_of_the_kernel_s_time_have_intervals(rows):
    cost = costs.Cost("fork", 50.0, 49.0, 51.0)
    host = dataclasses.replace(costs.shipped(), unit="ns", costs=(cost,))
    calibration = {"host": dataclasses.asdict(host)}
    made = sections.document(rows, {**PROVENANCE, "calibration": calibration})
    (chart,) = [c for c in made.charts if c.name == "share-100"]
    (row,) = [
        r
        for r in rows
        if isinstance(r, Cpu)
        and (r.encoding, r.operation, r.fraction) == ("linked", "fork", 1)
    ]
    (value,) = chart.picture.series["linked"]
    for found, ratio in zip(
        (value.low, value.at, value.high), (row.low, row.ratio, row.high), strict=True
    ):
        assert found == pytest.approx(100 * (ratio - 1) * row.baseline_ns / 50)
