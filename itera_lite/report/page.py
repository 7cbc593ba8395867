"""The report as one HTML file that loads nothing: style and plots are inside."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markdown_it.token import Token


def to_html(markdown: str, images: Path) -> str:
    """Render the report.

    Args:
        markdown: The report. HTML inside it is shown as text, never run.
        images: Folder of the pictures that it names; they go into the page as data URIs.
    """
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("table_open", _table_open)
    parser.add_render_rule("table_close", _table_close)
    tokens = parser.parse(markdown)
    contents = _anchors(tokens)
    for token in tokens:
        for child in token.children or ():
            if child.type == "image":
                source = images / str(child.attrs["src"])
                data = base64.b64encode(source.read_bytes()).decode("ascii")
                child.attrs["src"] = f"data:image/png;base64,{data}"
    title = next((text for level, _, text in contents if level == "h1"), "Report")
    links = [(anchor, text) for level, anchor, text in contents if level == "h2"]
    page = Template(files("itera_lite.report").joinpath("template.html").read_text("utf-8"))
    return page.substitute(
        title=html.escape(title),
        contents="\n".join(
            f'<li><a href="#{anchor}">{html.escape(text)}</a></li>' for anchor, text in links
        ),
        body=parser.renderer.render(tokens, parser.options, {}),
    )


def _anchors(tokens: Sequence[Token]) -> list[tuple[str, str, str]]:
    """Give every heading an id; return (tag, id, text) of each."""
    headings = []
    for token, inline in pairwise(tokens):
        if token.type == "heading_open":
            text = "".join(c.content for c in inline.children or ())
            anchor = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
            token.attrSet("id", anchor)
            headings.append((token.tag, anchor, text))
    return headings


def _table_open(*_: Any) -> str:
    """A wide table scrolls by itself on a narrow screen; the page doesn't."""
    return '<div class="table" tabindex="0"><table>\n'


def _table_close(*_: Any) -> str:
    return "</table></div>\n"
