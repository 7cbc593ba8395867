"""A browser's tab with the page, and what the native engine gives for the same model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from itera_lite.engine.find import BOX

(BOX_FILE,) = BOX.glob("*.gguf")
READY = "() => !document.querySelector('#run').disabled"


class Tab:
    """A tab with the page. At its end, nothing may have been asked from anywhere else, nor may
    the console have an error."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._on_console)
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.url = file.as_uri()
        self.page.goto(self.url)

    def _on_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def ready(self) -> Any:
        """The page, once its model is loaded."""
        self.page.wait_for_function(READY)
        return self.page

    def close(self) -> None:
        self.context.close()
        assert self.errors == []
        left = [url for url in self.requests if url != self.url]
        assert [url for url in left if not url.startswith(("blob:null/", "data:"))] == []


def portable(code: str, *arguments: str) -> Any:
    """What Python code prints as JSON, run with the engine's portable kernels."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "ITERA_ISA": "portable"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def greedy(prompt: str, tokens: int) -> str:
    """The native engine's greedy text of the model in the box, with its portable kernels."""
    code = (
        "import json, sys; from itera_lite.engine import Model\n"
        "model = Model.load(sys.argv[1])\n"
        "options = {'max_tokens': int(sys.argv[3]), 'temperature': 0}\n"
        "print(json.dumps(model.generate(sys.argv[2], **options).text))"
    )
    return str(portable(code, str(BOX_FILE), prompt, str(tokens)))
