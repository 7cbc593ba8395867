"""The HTML page: self-contained, safe, the same text as the Markdown."""

import base64
import html.parser
import re

import pytest

from itera_lite.report.page import to_html
from itera_lite.report.plots import PLOTS

# What a browser fetches by itself.
LOADING = {"src", "srcset", "poster", "data", "background"}


class Page(html.parser.HTMLParser):
    """Collects tags, loads and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def written(whole):
    return whole[1]


@pytest.fixture(scope="module")
def page(written):
    return Page(written["html"].read_text(encoding="utf-8"))


def test_page_loads_nothing(written, page):
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed"), tag
        for name in LOADING & attributes.keys():
            assert attributes[name].startswith("data:image/png;base64,"), (tag, name)
        if tag == "a":
            assert attributes["href"].startswith("#")
    style = re.search(r"<style>(.*?)</style>", written["html"].read_text(), re.S).group(1)
    assert "url(" not in style and "@import" not in style


def test_every_plot_is_in_the_page(written, page):
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(images) == len(PLOTS)
    inside = {base64.b64decode(source.partition(",")[2]) for source in images}
    assert inside == {written[name].read_bytes() for name in PLOTS}


def test_images_have_descriptions(page):
    assert all(a["alt"] for tag, a in page.tags if tag == "img")


def test_page_has_the_numbers_of_the_markdown(written, page):
    markdown = written["markdown"].read_text(encoding="utf-8")
    shown = "".join(page.text)
    body = re.sub(r"!\[.*?\]\(.*?\)|`|\*|\\|---:|:---", "", markdown)
    numbers = re.findall(r"\d[\d,.]*\d", body)
    assert len(numbers) > 300
    assert [n for n in numbers if n not in shown] == []


def test_contents_point_at_headings(page):
    ids = {a["id"] for _, a in page.tags if "id" in a}
    links = [a["href"][1:] for tag, a in page.tags if tag == "a"]
    assert len(links) == 13 and set(links) <= ids


def test_page_is_for_phones_and_both_themes(written):
    text = written["html"].read_text()
    assert 'name="viewport" content="width=device-width' in text
    assert "prefers-color-scheme: dark" in text
    assert text.count('<div class="table"') == text.count("<table>") > 10


def test_text_of_a_model_cannot_run(tmp_path):
    hostile = "# T\n\n<script>alert(1)</script> <img src=x onerror=y>\n\n[a](javascript:alert(1))\n"
    tags = {tag for tag, _ in Page(to_html(hostile, tmp_path)).tags}
    assert "script" not in tags and "img" not in tags
    assert "javascript:" not in str(Page(to_html(hostile, tmp_path)).tags)
    quoted = Page(to_html("# T\n\n```text\n</code></pre><script>x</script>\n```\n", tmp_path))
    assert "script" not in {tag for tag, _ in quoted.tags}


def test_dollars_in_the_text_stay(tmp_path):
    assert "costs $5 and $body" in to_html("# T\n\ncosts $5 and $body\n", tmp_path)
