"""The documentation as a site: `make docs`."""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from sphinx.application import Sphinx

import extmeta

project = "extmeta"
copyright = "the authors of extmeta"
version = release = extmeta.__version__

extensions = [
    "figures.directives",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
]
exclude_patterns = ["build", "figures", "templates"]
templates_path = ["templates"]
# Links to headings of up to this level.
myst_heading_anchors = 3

autodoc_typehints = "none"
autosummary_generate = True
numpydoc_show_class_members = False

html_theme = "alabaster"
# Black on a light ground: the contrast of other styles is too low for some readers.
pygments_style = "bw"
html_theme_options = {
    "description": "Metadata words beside page-table entries: built, checked, measured",
    "fixed_sidebar": True,
    "page_width": "1080px",
    "show_powered_by": False,
}
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False


def link_outside(app: Sphinx, name: str, source: list[str]) -> None:
    """Make links to files beside the documents downloads; the site has no folders."""

    def made(found: re.Match[str]) -> str:
        text, path = found.groups()
        target = Path(app.env.doc2path(name)).parent / path
        return f"{{download}}`{text} <{path}>`" if target.is_file() else text

    source[0] = re.sub(r"\[([^\]]+)\]\((\.\./[^)#]+)\)", made, source[0])


def setup(app: Sphinx) -> None:
    app.connect("source-read", link_outside)
