"""A browser's tab with the page, and what the native engine gives for the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from itera_lite.engine.find import BOX
from tests.playground.node import run_portable

(BOX_FILE,) = BOX.glob("*.gguf")
READY = "() => !document.querySelector('#run').disabled"
LIMIT = 300  # seconds after which a test gives up: far more than a busy machine takes
# A prompt, with controls, after which this model writes on and on.
ENDLESS = {"prompt": "ha ha ha ha ha ha", "temperature": 0, "presencePenalty": -2}
MOST_TOKENS = 8000  # of a text, by the context of the model


class Tab:
    """A tab with the page. At its end, nothing may have been asked from anywhere else, nor may
    the console have an error."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(1000 * LIMIT)
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


def greedy(prompt: str, tokens: int) -> str:
    """The native engine's greedy text of the model in the box, with its portable kernels."""
    script = """
model = Model.load(given["path"])
result = model.generate(given["prompt"], max_tokens=given["tokens"], temperature=0).text
"""
    return str(run_portable(script, path=str(BOX_FILE), prompt=prompt, tokens=tokens))


def slowed(page: str) -> str:
    """The page with a worker that waits after each token or two: a text of `MOST_TOKENS` takes
    minutes, so it isn't at its end while a test looks at it, or stops it."""
    changes = {
        "REPORT_MS = 16;": "REPORT_MS = 0.001;",
        "await messages();": "await messages(); await new Promise((go) => setTimeout(go, 20));",
    }
    for plain, slow in changes.items():
        assert page.count(plain) == 1
        page = page.replace(plain, slow)
    return page
