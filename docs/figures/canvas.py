"""Draws boxes, entries and bits as SVG, in colours for light and dark pages."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from extmeta.reports.document import charts

WIDTH = 720
BIT = 11  # pixels of a bit: 64 of them fit


# A row of a table: for each cell its label and its colour.
Cells = tuple[tuple[str, str], ...]


class Part(NamedTuple):
    """Neighbouring bits of 64, from ``first`` to ``last``, and what they hold."""

    first: int
    last: int
    label: str
    colour: str = "band"


class Canvas:
    """A drawing with a title and a description, which is its alt text.

    Colours are names of `charts.PALETTE`. They only help: each part has a label.
    """

    def __init__(self, name: str, title: str, alt: str, height: int) -> None:
        self.name = name
        self.title = title
        self.alt = alt
        self.height = height
        self.parts: list[str] = []

    def text(
        self, x: float, y: float, text: str, anchor: str = "start", size: int = 13
    ) -> None:
        """Write a line of text whose baseline is at ``y``."""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" '
            f'fill="var(--ink)">{escape(text)}</text>'
        )

    def box(
        self, x: float, y: float, wide: float, high: float, label: str, colour: str
    ) -> None:
        """Draw a box with a label in its middle."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{wide:g}" height="{high:g}" '
            f'fill="var(--{colour})" fill-opacity="0.3" stroke="var(--soft)"/>'
        )
        self.text(x + wide / 2, y + high / 2 + 4, label, "middle", 12)

    def table(
        self, x: float, y: float, wide: float, title: str, rows: Sequence[Cells]
    ) -> None:
        """Draw rows of cells, each a label and a colour, below a title."""
        self.text(x, y - 8, title)
        for at, row in enumerate(rows):
            each = wide / len(row)
            for column, (label, colour) in enumerate(row):
                self.box(x + column * each, y + 24 * at, each, 24, label, colour)

    def bits(self, x: float, y: float, parts: Sequence[Part], bit: float = BIT) -> None:
        """Draw 64 bits, the highest left.

        A label that is too long for its bits gets a number in them, and a line below.
        """
        notes = []
        for part in sorted(parts, reverse=True):
            wide = bit * (part.last - part.first + 1)
            fits = 6.6 * len(part.label) < wide - 4
            if not fits:
                ends = dict.fromkeys(map(str, (part.last, part.first)))
                notes.append(f"{'-'.join(ends)}: {part.label}")
            label = part.label if fits else ""
            left = x + bit * (63 - part.last)
            self.box(left, y, wide, 24, label, part.colour)
        if notes:
            self.text(x, y + 40, "; ".join(notes), size=11)

    def arrow(self, *points: tuple[float, float]) -> None:
        """Draw a line through the points, with a head at the last one."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="var(--ink)" '
            f'stroke-width="1.4" marker-end="url(#{self.name}-head)"/>'
        )

    def svg(self) -> str:
        """Return the drawing."""
        head = (
            f'<marker id="{self.name}-head" viewBox="0 0 8 8" refX="7" refY="4" '
            'markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0,0 8,4 0,8z" fill="var(--ink)"/></marker>'
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-2 0 '
            f'{WIDTH + 4} {self.height}" width="{WIDTH + 4}" height="{self.height}" '
            f'role="img" '
            f'aria-labelledby="{self.name}-title {self.name}-desc" '
            'font-family="sans-serif">'
            f'<title id="{self.name}-title">{escape(self.title)}</title>'
            f'<desc id="{self.name}-desc">{escape(self.alt)}</desc>'
            f"<style>{charts.variables()}</style><defs>{head}</defs>"
            f"{''.join(self.parts)}</svg>"
        )
