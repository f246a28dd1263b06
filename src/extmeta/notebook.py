"""HTML that notebooks show of objects: a caption and a small table."""

from collections.abc import Mapping


def table_html(caption: str, values: Mapping[str, object]) -> str:
    """Return a table of two columns; numbers get separators, and all text is escaped."""
    import html  # its list of entities would slow down `import extmeta`

    lines = "".join(
        f'<tr><th style="text-align:left">{html.escape(name)}</th>'
        f'<td style="text-align:right">{html.escape(_text(value))}</td></tr>'
        for name, value in values.items()
    )
    return f"<table><caption>{html.escape(caption)}</caption>{lines}</table>"


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
