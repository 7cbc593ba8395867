"""The file that `itera playground` writes: one, safe, with everything inside; its errors."""

import base64
import gzip
import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from itera_lite import cli
from itera_lite import playground as room
from itera_lite.errors import ModelFileError
from tests.playground.tab import BOX_FILE

SOURCES = Path(room.__file__).parent
TSC = Path(__file__).parent / "node_modules/typescript/bin/tsc"
MODULES = sorted(path for path in SOURCES.glob("*.js") if path.name != "itera.js")


def block(page: str, id: str) -> str:
    found = re.search(rf'<script type="text/plain" id="{id}"[^>]*>(.*?)</script>', page, re.S)
    assert found
    return found[1]


def test_everything_is_inside(page_file: Path) -> None:
    page = page_file.read_text()
    engine = gzip.decompress(base64.b64decode(block(page, "engine")))
    assert engine == (SOURCES / "itera.wasm").read_bytes()
    model = base64.b64decode(block(page, "model"))
    assert len(model) <= BOX_FILE.stat().st_size
    if model[:2] == b"\x1f\x8b":
        model = gzip.decompress(model)
    assert model == BOX_FILE.read_bytes()
    (script,) = re.findall(r'<script type="module">(.*?)</script>', page, re.S)
    assert not re.search(r"^(import|export)\b", script + block(page, "worker"), re.M)


def test_nothing_is_loaded_and_only_this_script_runs(page_file: Path) -> None:
    page = page_file.read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    directives = {name: rest for name, *rest in (part.split() for part in policy.split(";"))}
    assert directives["default-src"] == ["'none'"]
    assert "unsafe-inline" not in policy and "'unsafe-eval'" not in policy
    for tag, name in (('script type="module"', "script-src"), ("style", "style-src")):
        end = tag.partition(" ")[0]
        (text,) = re.findall(rf"<{tag}>(.*?)</{end}>", page, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in directives[name]
    assert not re.findall(r'\b(?:src|href)="(?!data:|#)', page.partition('id="engine"')[0])
    assert not re.search(r"\sstyle=|\son\w+=", page.partition('id="engine"')[0])


def test_texts_go_in_as_text() -> None:
    """No source parses HTML or code from a string."""
    risky = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(|new Function"
    )
    for path in MODULES:
        assert not re.search(risky, path.read_text()), path.name


def test_every_word_is_in_strings_js() -> None:
    """Names in index.html and in the modules are those of the object, and all of them are used."""
    source = (SOURCES / "strings.js").read_text()
    body = source[source.index("export const strings") :]
    defined = set(re.findall(r"^  (\w+):", body, re.M))
    html = (SOURCES / "index.html").read_text()
    used = set(re.findall(r'data-(?:text|label)="(\w+)"', html))
    for path in MODULES:
        if path.name != "strings.js":
            used |= set(re.findall(r"\bstrings\.(\w+)", path.read_text()))
    assert used - defined == {"js"}  # of the import
    assert defined - used == set()
    shown = re.sub(r"<(title|noscript)>.*?</\1>", "", html.partition("<body")[2])
    assert re.findall(r">\s*([A-Za-z][^<$]*)<", shown) == []


@pytest.mark.skipif(not TSC.exists(), reason="needs typescript: make programs")
def test_the_types_in_comments_are_right() -> None:
    """Those of JSDoc, and itera.js as itera.d.ts describes it."""
    options = "--noEmit --allowJs --checkJs --strict --noImplicitAny false --target es2022"
    command = ["node", str(TSC), *options.split(), "--lib", "dom,dom.iterable,es2022"]
    entries = [str(SOURCES / name) for name in ("page.js", "worker.js")]
    done = subprocess.run([*command, *entries], capture_output=True, text=True, timeout=600)
    assert done.stdout == "" and done.returncode == 0


def test_a_module_of_another_form_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {
        "one.js": b'import { two } from "./two.js";\nexport const one = two;\n',
        "two.js": b"export default 2;\n",
    }
    monkeypatch.setattr(room, "_binary", modules.__getitem__)
    with pytest.raises(room.IteraError, match=r"two\.js: 'export default 2;' can't be joined"):
        room.bundle("one.js")
    modules["two.js"] = b'export const two = "</script>";\n'
    with pytest.raises(room.IteraError, match=r"two\.js holds text that would end"):
        room.bundle("one.js")
    modules["two.js"] = b"export const two = 2;\n"
    assert room.bundle("one.js") == "\nconst two = 2;\n\nconst one = two;\n"


def test_a_name_is_no_markup() -> None:
    page = room.page(BOX_FILE.read_bytes(), '"><script>.gguf').decode()
    assert 'data-name="&quot;&gt;&lt;script&gt;.gguf"' in page


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ModelFileError, match=r"'x\.bin' is no GGUF file: expected one"):
        room.page(b"nothing", "x.bin")


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes are printed; a file that is there is kept, one that is no model refused."""
    out = tmp_path / "page.html"
    arguments = ["playground", str(BOX_FILE), "--out", str(out)]
    assert cli.main(arguments) == 0
    written = capsys.readouterr().out
    assert f"{out.stat().st_size:,} bytes" in written
    assert f"{BOX_FILE.stat().st_size:,} bytes" in written
    assert BOX_FILE.name in written

    out.write_text("mine")
    assert cli.main(arguments) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert cli.main([*arguments, "--overwrite"]) == 0
    assert out.stat().st_size > 1_000_000

    bad = tmp_path / "bad.gguf"
    bad.write_bytes(BOX_FILE.read_bytes()[:10_000])
    for given, code, told in (
        (tmp_path / "missing.gguf", 1, "no model at"),
        (bad, 1, "bad.gguf"),
        (tmp_path, 2, "is a folder: expected a GGUF file"),
    ):
        assert cli.main(["playground", str(given), "--out", str(tmp_path / "new.html")]) == code
        assert told in capsys.readouterr().err
        assert not (tmp_path / "new.html").exists()
