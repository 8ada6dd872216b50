# ruff: noqa: INP001 - a script of Sphinx's
"""How the documentation is built: `make docs`."""

from __future__ import annotations

import re
from typing import Any, Final

import apicas

project = "apicas"
author = "the apicas maintainers"
version = release = apicas.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
root_doc = "index"

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
# Links out of the documentation, to examples and results, are files of the repository: they are offered for download.
# The diagram of ADR 1 is text that code hosts draw; here docs/states.svg is shown.
suppress_warnings = ["myst.xref_missing", "misc.highlighting_failure"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"apicas {version}"
html_static_path: list[str] = []

_CODE: Final = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


def setup(app: Any) -> None:
    """Show code in docstrings as such: they are written as Markdown is."""
    app.connect("autodoc-process-docstring", _mark_code, priority=1)


def _mark_code(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    lines[:] = [_CODE.sub(r"``\1``", line) for line in lines]
