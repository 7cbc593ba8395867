"""The example for a page of one's own, as the documentation has it, in Chromium."""

import functools
import http.server
import re
import shutil
import threading
from pathlib import Path
from typing import Any

from tests.playground.node import FOLDER, WASM, run_portable
from tests.playground.tab import BOX_FILE, LIMIT

DOCS = Path(__file__).parents[2] / "docs" / "playground.md"


def test_the_example_writes_and_scores(browser: Any, tmp_path: Path) -> None:
    (html,) = re.findall(r"```html\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "index.html").write_text(f"<!doctype html><meta charset=utf-8>{html}")
    for source, name in (
        (FOLDER / "itera.js", "itera.js"),
        (WASM, "itera.wasm"),
        (BOX_FILE, "model.gguf"),
    ):
        shutil.copy(source, tmp_path / name)
    handler = functools.partial(Quiet, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_page()
    page.set_default_timeout(1000 * LIMIT)
    try:
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
        page.wait_for_function("document.title")
        title, text = page.title(), page.text_content("#text")
    finally:
        page.close()
        server.shutdown()
        server.server_close()
    native = """
model = Model.load(given["path"])
text = model.generate("Once upon a time", max_tokens=60, temperature=0).text
result = [text, f"{model.score('Once upon a time')[0].bits_per_byte:.2f} bits per byte"]
"""
    assert [text, title] == run_portable(native, path=str(BOX_FILE))


class Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = {
        ".html": "text/html",
        ".js": "text/javascript",
        ".wasm": "application/wasm",
        "": "application/octet-stream",
    }

    def log_message(self, format: str, *arguments: Any) -> None:
        pass
