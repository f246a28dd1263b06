"""The directives `drawing` and `plot`: a figure of the site by its name.

A figure is an inline SVG with a title and a description, so a page loads nothing. Below
a plot is the table of its data.
"""

from html import escape

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from extmeta.reports.document import charts
from extmeta.reports.document.pictures import Table
from figures.layouts import DRAWINGS
from figures.plots import ENCODINGS, PLOTS


class Drawing(Directive):
    """A drawing of `layouts.DRAWINGS`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        return figure(DRAWINGS[self.arguments[0]]().svg())


class Plot(Directive):
    """A plot of `plots.PLOTS`, and its data."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        chart = PLOTS[self.arguments[0]]()
        data = f"<details><summary>Data</summary>{table(chart.table)}</details>"
        return figure(charts.svg(chart, ENCODINGS) + data)


def figure(html: str) -> list[nodes.Node]:
    shown = f'<figure class="figure" tabindex="0">{html}</figure>'
    return [nodes.raw("", shown, format="html")]


def table(of: Table) -> str:
    """Return a table of text as HTML."""
    head, *rows = (
        "".join(f"<{cell}>{escape(text)}</{cell}>" for text in line)
        for cell, lines in (("th", [of.head]), ("td", of.rows))
        for line in lines
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<table class="docutils"><tr>{head}</tr>{body}</table>'


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("drawing", Drawing)
    app.add_directive("plot", Plot)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
