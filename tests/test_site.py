"""The documentation site and the recording: every page is in, and what is shown was printed."""

import re
import subprocess
import tomllib
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from tools import recording, site

ROOT = Path(__file__).parents[1]


def test_every_page_is_in_the_navigation() -> None:
    project = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    pages = [page for entry in project["nav"] for page in entry.values()]
    assert len(set(pages)) == len(pages)
    assert {page for page in pages if page.startswith("docs/")} == {
        str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md")
    }
    copied = {str(path.relative_to(ROOT)) for path in site.files()}
    assert set(pages) - {"playground.html"} <= copied  # which `make site` makes
    assert "itera_lite/config.py" in copied  # to which a page links


def test_the_site_is_built_and_a_link_to_nowhere_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("zensical")
    for folder in ("docs", "itera_lite"):
        (tmp_path / folder).mkdir()
    (tmp_path / "README.md").write_text(
        "# Home\n\n[a page](docs/page.md#a-heading-of-q4_0)\n\n![it](docs/it.svg)\n"
    )
    page = tmp_path / "docs/page.md"
    page.write_text("# Page\n\n## A heading: of Q4_0\n\n[code](../itera_lite/code.py)\n")
    (tmp_path / "docs/it.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "itera_lite/code.py").write_text("print(1)\n")
    settings = (ROOT / "zensical.toml").read_text()
    nav = 'nav = [{"Home" = "README.md"}, {"Page" = "docs/page.md"}]'
    settings = re.sub(r"nav = \[\n.*?\n\]", nav, settings, flags=re.DOTALL)
    (tmp_path / "zensical.toml").write_text(settings)
    monkeypatch.setattr(site, "ROOT", tmp_path)
    monkeypatch.setattr(site, "PAGES", tmp_path / "build/pages")
    monkeypatch.setattr(site, "SITE", tmp_path / "build/site")
    site.build()
    built = tmp_path / "build/site"
    home, inner = (built / name for name in ("index.html", "docs/page.html"))
    assert 'href="docs/page.html#a-heading-of-q4_0"' in home.read_text()
    assert 'id="a-heading-of-q4_0"' in inner.read_text()
    assert 'href="../itera_lite/code.py"' in inner.read_text()
    assert (built / "itera_lite/code.py").is_file() and (built / "docs/it.svg").is_file()
    assert "https://fonts" not in home.read_text()
    for wrong in ("[x](none.md)", "[x](#no-such-heading)"):
        page.write_text(f"# Page\n\n## A heading: of Q4_0\n\n{wrong}\n")
        with pytest.raises(subprocess.CalledProcessError):
            site.build()


def test_a_recording_shows_what_was_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = "printf 'one\\n\\033[1mtwo\\033[0m <&>\\n10%%\\r90%%\\n'"
    command = f"{printed}; until [ -e read ]; do sleep 0.01; done; echo end"
    times = iter(range(100))

    def monotonic() -> float:
        """Half a second later each time; the second time, what is printed first has been read."""
        now = next(times) / 2
        if now:
            (tmp_path / "read").touch()
        return now

    monkeypatch.setattr(recording, "time", SimpleNamespace(monotonic=monotonic))
    lines = recording.run(command, tmp_path)
    assert [line for _, line in lines] == ["one", "two <&>", "90%", "end"]
    shown_at = [when for when, _ in lines]
    assert shown_at == sorted(shown_at) and shown_at[-1] - shown_at[0] >= 0.5
    picture = ElementTree.fromstring(recording.svg([(command, lines)]))
    shown = ["".join(text.itertext()) for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert shown == [f"$ {command}", "one", "two <&>", "90%", "end"]
    with pytest.raises(subprocess.CalledProcessError):
        recording.run("exit 3", tmp_path)


def test_the_committed_recording_is_of_the_commands_that_are_recorded() -> None:
    picture = ElementTree.parse(recording.OUTPUT)
    texts = ["".join(text.itertext()) for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert [text[2:] for text in texts if text.startswith("$ ")] == list(recording.COMMANDS)
    assert len(texts) > 2 * len(recording.COMMANDS)
