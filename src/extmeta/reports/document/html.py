"""A report as one HTML page, which asks the network for nothing and runs no script."""

from collections.abc import Iterator
from html import escape

from extmeta.reports.document import charts
from extmeta.reports.document.pictures import Chart, Document, Section, Table

# Nothing may be loaded, whatever a capture's names hold.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

STYLE = """
*{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%}
body{margin:0 auto;padding:1rem;max-width:72rem;background:var(--paper);color:var(--ink);
font:1rem/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;line-height:1.25}
h2{margin:2.5rem 0 .5rem;padding-top:.75rem;border-top:1px solid var(--grid);
font-size:1.25rem}
p,ul{max-width:44rem}
a{color:var(--c1)}
nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1rem;padding:0;list-style:none}
.verdict{padding-left:1rem;border-left:4px solid var(--c1);font-size:1.1rem}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));
gap:1.5rem;align-items:start}
figure{margin:0}.charts>*{min-width:0}
figcaption,h3{margin:.5rem 0;font-size:1rem;font-weight:600;overflow-wrap:anywhere}
svg{display:block;width:100%;max-width:34rem;height:auto}
summary{cursor:pointer;padding:.25rem 0;color:var(--c1)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{padding:.2rem .6rem;border-bottom:1px solid var(--grid);text-align:right;
white-space:nowrap}
th:first-child,.origin :is(th,td){text-align:left}
.origin td{white-space:normal;overflow-wrap:anywhere}
@media print{body{max-width:none;padding:0;font-size:10pt}nav{display:none}
.charts{grid-template-columns:1fr 1fr}.charts>div{grid-column:1/-1}figure,table{break-inside:avoid}
h2,h3{break-after:avoid}.scroll{overflow:visible}}
"""


def page(document: Document) -> str:
    """Return the page, with each chart as an inline SVG and its data as a table."""
    title = escape(document.title)
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<link rel="icon" href="data:,">',
            f"<title>{title}</title>",
            f"<style>{charts.variables()}{STYLE}</style>\n</head>\n<body>",
            f"<header><h1>{title}</h1>\n{_contents(document)}</header>\n<main>",
            *(
                _section(section, at, document)
                for at, section in enumerate(document.sections)
            ),
            "</main>\n</body>\n</html>\n",
        ]
    )


def _contents(document: Document) -> str:
    items = "".join(
        f'<li><a href="#section-{at}">{escape(section.title)}</a></li>'
        for at, section in enumerate(document.sections)
    )
    return f'<nav aria-label="Contents"><ul>{items}</ul></nav>'


def _section(section: Section, at: int, document: Document) -> str:
    parts = [
        f'<section id="section-{at}" aria-labelledby="heading-{at}">',
        f'<h2 id="heading-{at}">{escape(section.title)}</h2>',
        *_sentences(section, first=at == 0),
    ]
    shown = [_figure(chart, document) for chart in section.charts]
    shown += [
        f"<div><h3>{escape(title)}</h3>{_table(table, title)}</div>"
        for title, table in section.tables.items()
    ]
    if section.charts:
        shown = ['<div class="charts">', *shown, "</div>"]
    return "\n".join([*parts, *shown, "</section>"])


def _sentences(section: Section, first: bool) -> Iterator[str]:
    about = ' class="verdict"' if first else ""
    yield from (f"<p{about}>{escape(line)}</p>" for line in section.sentences)
    if section.reading:
        yield f"<p>{escape(section.reading)}</p>"


def _figure(chart: Chart, document: Document) -> str:
    title = escape(chart.title)
    return (
        f"<figure><figcaption>{title}</figcaption>"
        f"{charts.svg(chart, document.encodings, inline=True)}"
        f"<details><summary>Data: {title}</summary>"
        f"{_table(chart.table, f'Data: {chart.title}')}</details></figure>"
    )


def _table(table: Table, title: str) -> str:
    """Return a table in a region that can be scrolled, by keyboard too."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.head)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>\n"
        for name, *cells in table.rows
    )
    about = " origin" if table.head == ("what", "value") else ""
    return (
        f'<div class="scroll{about}" role="region" tabindex="0" '
        f'aria-label="{escape(title)}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
