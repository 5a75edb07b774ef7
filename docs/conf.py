"""How Sphinx builds the site: ``sphinx-build -W docs docs/_build``.

The pages are Markdown that is also read where it lies, beside the code. Links that lead out of
``docs`` are therefore written as relative paths; here they become the page that shows that file.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import plotly
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

from merge_optuna import __version__

sys.path.insert(0, str(Path(__file__).parent))
import _commands as commands

os.environ.setdefault("HF_HUB_OFFLINE", "1")

project = "merge_optuna"
author = "merge_optuna maintainers"
copyright = "merge_optuna maintainers, MIT licence"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery", "sg_execution_times.rst", "*/sg_execution_times.rst"]

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # parts of CONTRIBUTING.md are pages of their own

default_role = "code"
smartquotes = False  # --option stays what it is
autodoc_typehints = "none"  # docstrings say what is taken; pydantic's are unreadable
autodoc_member_order = "bysource"
autodoc_default_options = {"show-inheritance": True}
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "pydata_sphinx_theme"
html_title = "merge_optuna"
PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"  # for the gallery
html_static_path = ["_static", str(PLOTLY)]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_sidebars = {name: [] for name in ("index", "choose", "scorecard")}
html_show_sourcelink = False
html_theme_options = {
    "show_toc_level": 2,
    "header_links_before_dropdown": 7,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_examples",
    "ignore_pattern": r"^_",
    "abort_on_example_error": True,
    "min_reported_time": 1e9,
    "show_signature": False,
    "remove_config_comments": True,
}

PAGES = {
    r"(?:\.\./)+CONTRIBUTING\.md": "/contributing.md",
    r"(?:\.\./)+README\.md": "/index.md",
    r"(?:\.\./)*(?:docs/)(?=\w+\.md)": "/",
    r"(?:\.\./)+studies/(\w+)/\w+\.md": r"/studies/\1.md",
}
"""Links that lead out of ``docs``, as patterns, and the pages that show what is there."""


def led_to_pages(text: str) -> str:
    """A page of Markdown whose links out of ``docs`` lead to pages of the site."""
    for pattern, page in PAGES.items():
        text = re.sub(rf"(?<=\]\(){pattern}", page, text)
    return text


def on_source(app: Sphinx, name: str, source: list[str]) -> None:
    """Each page, as it is read."""
    source[0] = led_to_pages(source[0])
    if name == "reference/cli":
        source[0] += commands.markdown()


def on_include(app: Sphinx, path: object, parent: str, source: list[str]) -> None:
    """Each file that a page includes, as it is read."""
    source[0] = led_to_pages(source[0])


def on_docstring(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Each docstring: in |θ| bars are bars, not the name of a substitution."""
    lines[:] = [re.sub(r"(``.*?``)|\|", lambda m: m[1] or r"\|", line) for line in lines]


def mathml(display: str) -> Callable[[HTML5Translator, nodes.math], None]:
    """What writes an equation, inline or as a block of its own, so that browsers draw it alone."""

    def visit(self: HTML5Translator, node: nodes.math) -> None:
        self.body.append(convert(node.astext(), display=display))
        raise nodes.SkipNode

    return visit


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (mathml("inline"), None), (mathml("block"), None))
    app.connect("source-read", on_source)
    app.connect("include-read", on_include)
    app.connect("autodoc-process-docstring", on_docstring)
