"""How sphinx builds the site from the saved notebooks, which are not executed; `python notebooks/make.py site` calls it."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

project, author = "facelab", "the authors of facelab"
release = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
default_role = "literal"

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath"]
suppress_warnings = ["mystnb.unknown_mime_type", "misc.highlighting_failure", "myst.xref_missing"]

html_theme = "furo"
html_title = f"facelab {release}"
html_css_files, html_js_files = ["site.css"], ["site.js"]
html_show_sourcelink = html_copy_source = False
mathjax_path = (
    "mathjax.js"  # one file of the npm package, copied when the site is built, so that a reader needs no network
)

autodoc_member_order = "bysource"
autodoc_typehints = "none"


def plain_text(app, what, name, obj, options, lines):
    """Docstrings are plain text: no markup by * and |, and an indented block is an equation, shown as it is."""
    text = re.sub(r"([*|\\])", r"\\\1", "\n".join(lines))
    equation = re.compile(r"\n\n((?: {4}.*\n?)+)")
    arguments = re.search(r"\n *(Args|Returns|Raises):\n", text)
    head, rest = (text[: arguments.start()], text[arguments.start() :]) if arguments else (text, "")
    lines[:] = (equation.sub(r"\n\n::\n\n\1\n", head) + rest).split("\n")


def setup(app):
    """Before napoleon reads the `Args:` of a docstring."""
    app.connect("autodoc-process-docstring", plain_text, priority=100)
