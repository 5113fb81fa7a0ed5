"""The site: `sphinx-build -W -c docs . build/site`.

The source is the whole repository, so that a link is the same here and on GitHub. Pages are plain Markdown. A page says
with a comment, `<!-- commands -->`, where generated text goes, and the lists of links in index.md are the sidebar.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # generated.py, and this checkout's packages

import generated  # noqa: E402

project = "dasgm"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["*.md", "cluster/*.md", "docs/**.md"]
exclude_patterns = [".venv", "build", "runs"]
highlight_language = "none"
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # names in signatures: torch's, and types for checkers alone
default_role = "code"  # docstrings write `name` as Markdown does
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # torch's are not of this project
myst_heading_anchors = 4
myst_fence_as_directive = ["math"]  # GitHub's fence of a formula
html_theme = "furo"
html_title = "dasgm"
html_math_renderer = "mathml"
html_extra_path = ["site"]
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False


def sidebar(page: str) -> str:
    """The lists of links below each heading, as Sphinx's table of contents."""
    sections = re.split(r"^## (.+)$", page, flags=re.MULTILINE)[1:]
    trees = []
    for caption, text in zip(sections[::2], sections[1::2], strict=True):
        links = re.findall(r"^- \[(.*?)\]\((.*?)\)", text, re.MULTILINE)
        pages = "\n".join(f"{title} </docs/{page}>" for title, page in links)
        trees.append(f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{pages}\n```\n")
    return "\n".join(trees)


def complete(app: Sphinx, name: str, source: list[str]) -> None:
    """Generated text in place of its comment."""
    source[0] = re.sub(r"^<!-- (\w+) -->$", lambda found: getattr(generated, found[1])(), source[0], flags=re.MULTILINE)
    if name == app.config.root_doc:
        source[0] += "\n" + sidebar(source[0])


def formula(writer: Any, node: nodes.math | nodes.math_block) -> None:
    """MathML, which browsers draw without a script."""
    block = isinstance(node, nodes.math_block)
    mathml = latex2mathml.tex2mathml(node.astext(), as_block=block)
    writer.body.append(f'<div style="overflow-x: auto">{mathml}</div>' if block else mathml)
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.connect("source-read", complete)
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
