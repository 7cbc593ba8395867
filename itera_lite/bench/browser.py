"""Measures decoding in a browser, beside wllama: what `itera bench playground` does.

wllama is llama.cpp as WebAssembly. Both get the same file and prompt and decode greedily, on one
thread each, in turns; each has a page of one Chromium. Ours is measured from JavaScript, wllama by
its own clock, which leaves out what its messages between threads cost.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itera_lite.bench.runtimes import OURS
from itera_lite.bench.turns import Entry, measure_in_turns, speed_ratios
from itera_lite.engine import Model
from itera_lite.errors import IteraError
from itera_lite.files import cache_folder
from itera_lite.machine.provenance import Provenance
from itera_lite.records import BrowserDecoding, RuntimeDecoding
from itera_lite.stats.comparison import Measurement, Metric
from itera_lite.stats.samples import Stat
from itera_lite.stats.targets import Target, ratio

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WLLAMA = "wllama"
WLLAMA_VERSION = "3.13.0"
PROMPT = "Once upon a time"
TURN_SECONDS = 0.5  # a turn is as many passes as begin in this time
SPEED = Metric("decode", "Decoding in a browser", "tokens/s", "higher", "timing", "speed")
TARGET = Target("wllama", "Decoding in a browser, against wllama", "at least", 3)
SOURCES = Path(__file__).parents[1] / "playground"
TYPES = {".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm"}

_PAGE = "<!doctype html><meta charset=utf-8><title>bench</title>"
_OURS = """async ({ prompt, tokens }) => {
  const { loadEngine } = await import("/itera.js");
  const [wasm, file] = await Promise.all(
    ["/itera.wasm", "/model.gguf"].map(async (path) => (await fetch(path)).arrayBuffer()),
  );
  const begin = performance.now();
  const engine = await loadEngine(wasm);
  const compiled = performance.now();
  const model = engine.load(new Uint8Array(file));
  const loaded = performance.now();
  self.decode = () => {
    const text = model.start(prompt, { temperature: 0, maxTokens: tokens + 1 });
    text.next(); // reads the prompt
    const begin = performance.now();
    let done = 0;
    while (text.next()) done++;
    return [(performance.now() - begin) / 1e3, done];
  };
  return { kernels: engine.kernels, engine: compiled - begin, model: loaded - compiled };
}"""
_WLLAMA = """async ({ prompt, tokens }) => {
  const { Wllama, LoggerWithoutDebug } = await import("/wllama/index.js");
  const peer = new Wllama({ default: "/wllama/wasm/wllama.wasm" }, { logger: LoggerWithoutDebug });
  const file = await (await fetch("/model.gguf")).blob();
  await peer.loadModel([file], { n_threads: 1, n_gpu_layers: 0, n_ctx: 512, n_parallel: 1 });
  if (peer.isMultithread()) throw new Error("wllama has several threads");
  self.decode = async () => {
    const { timings } = await peer.createCompletion({
      prompt, max_tokens: tokens + 1, temperature: 0, cache_prompt: false,
    });
    return [timings.predicted_ms / 1e3, timings.predicted_n];
  };
  return {};
}"""

_TURN = """async (milliseconds) => {
  let [seconds, tokens, last] = [0, 0, 0];
  for (const end = performance.now() + milliseconds; performance.now() < end; ) {
    const [spent, done] = await decode();
    [seconds, tokens, last] = [seconds + spent, tokens + done, done];
  }
  return [seconds, tokens, last];
}"""


@dataclass(kw_only=True)
class Tab(Entry[float]):
    """A page with a runtime; its samples are tokens/s."""

    page: Page
    tokens: int = 0  # decoded a pass

    def measure(self) -> float:
        seconds, tokens, self.tokens = self.page.evaluate(_TURN, 1e3 * TURN_SECONDS)
        if self.tokens < 1:
            raise IteraError(f"{self.name} wrote nothing: there is nothing to measure")
        return tokens / seconds

    def record(self) -> RuntimeDecoding:
        return RuntimeDecoding(
            tokens_per_second=Stat.of(self.samples),
            microseconds_per_token=Stat.of([1e6 / speed for speed in self.samples]),
            tokens_per_pass=self.tokens,
        )


def measure_browser(
    model: Path, wllama: Path, *, repeats: int, tokens: int, loads: int
) -> BrowserDecoding:
    """Let our engine and wllama decode one file in turns.

    Args:
        model: a GGUF file.
        wllama: the folder of the package @wllama/wllama.
        repeats: turns of each.
        tokens: of a pass; a text that ends earlier gives fewer.
        loads: times that the engine and the model are loaded, each in a page of its own.
    """
    about = Model.load(model)
    given = {"prompt": PROMPT, "tokens": tokens}
    with _served(model, wllama) as address, _chromium() as browser:

        def page(script: str) -> tuple[Page, Any]:
            opened = browser.new_page()
            opened.goto(address)
            return opened, opened.evaluate(script, given)

        loaded = []
        for _ in range(loads):
            opened, found = page(_OURS)
            loaded.append(found)
            opened.close()
        ours = Tab(name=OURS, page=page(_OURS)[0])
        peer = Tab(name=WLLAMA, page=page(_WLLAMA)[0])
        rounds = measure_in_turns("bench playground", [ours, peer], repeats)
        version = browser.version
    origin = Provenance.now(
        seed=0,
        versions={"chromium": version, "wllama": _wllama_version(wllama)},
        engine_isa=loaded[0]["kernels"],
        checkpoints={model.name: hashlib.sha256(model.read_bytes()).hexdigest()},
        prompt=PROMPT,
        load_by_others=rounds.load.by_others,
    )
    kind = model.suffix.removeprefix(".")
    speeds = {(kind, tab.name): tab.samples for tab in (ours, peer)}
    against = ratio(*(Measurement.of_samples(tab.samples) for tab in (ours, peer)))
    return BrowserDecoding(
        file=model.name,
        file_bytes=model.stat().st_size,
        parameters=about.parameters,
        wasm_bytes=(SOURCES / "itera.wasm").stat().st_size,
        engine_ms=Stat.of([one["engine"] for one in loaded]),
        model_ms=Stat.of([one["model"] for one in loaded]),
        runtimes={tab.name: tab.record() for tab in (ours, peer)},
        ratios=speed_ratios(SPEED, [kind], speeds, OURS, origin.load),
        targets=[TARGET.judged(against, load=origin.load)],
        repeated_rounds=rounds.repeated,
        provenance=origin,
    )


def find_wllama(given: Path | None) -> Path:
    """The folder of @wllama/wllama: the given one, or one in the cache, which npm fetches.

    Raises:
        IteraError: it isn't there, or can't be fetched.
    """
    if given is not None:
        if not (given / "esm" / "index.js").is_file():
            raise IteraError(
                f"no wllama in '{given}': expected the folder of the package @wllama/wllama, with "
                "esm/index.js"
            )
        return given
    into = cache_folder() / f"wllama-{WLLAMA_VERSION}"
    found = into / "node_modules" / "@wllama" / "wllama"
    if not (found / "esm" / "index.js").is_file():
        npm = _program("npm", ["npm"], "npm, or give --wllama FOLDER")
        into.mkdir(parents=True, exist_ok=True)
        package = f"@wllama/wllama@{WLLAMA_VERSION}"
        (into / "package.json").write_text('{"private": true}\n')  # or npm looks above this folder
        run = subprocess.run(
            [npm, "install", package],
            cwd=into,
            env={**os.environ, "npm_config_ignore_scripts": "true", "npm_config_audit": "false"},
            capture_output=True,
            text=True,
        )
        if run.returncode:
            last = (run.stderr.strip().splitlines() or ["no message"])[-1]
            raise IteraError(f"npm can't fetch {package}: {last}. Give its folder with --wllama")
    return found


def _wllama_version(folder: Path) -> str:
    return str(json.loads((folder / "package.json").read_text())["version"])


def _program(package: str, names: list[str], remedy: str) -> str:
    for name in names:
        if path := shutil.which(name):
            return path
    raise IteraError(f"{package} isn't installed: expected {' or '.join(names)}. Install {remedy}")


@contextmanager
def _chromium() -> Iterator[Browser]:
    """The system's Chromium, without a window."""
    path = _program("Chromium", ["chromium", "chromium-browser", "google-chrome"], "chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise IteraError(
            "the Python package playwright isn't installed: pip install 'itera-lite[clients]'"
        ) from None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def _served(model: Path, wllama: Path) -> Iterator[str]:
    """The files on loopback; gives the address of an empty page."""
    paths = {
        "/itera.js": SOURCES / "itera.js",
        "/itera.wasm": SOURCES / "itera.wasm",
        "/model.gguf": model,
        **{f"/wllama/{name}": wllama / "esm" / name for name in ("index.js", "wasm/wllama.wasm")},
    }
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Handler, paths=paths)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves an empty page, and the files in ``paths``."""

    def __init__(self, *arguments: Any, paths: dict[str, Path]) -> None:
        self.paths = paths
        super().__init__(*arguments)

    def do_GET(self) -> None:
        path = self.paths.get(self.path)
        if path is None and self.path != "/":
            self.send_error(404)
            return
        data = path.read_bytes() if path else _PAGE.encode()
        self.send_response(200)
        kind = TYPES.get(path.suffix if path else ".html", "application/octet-stream")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass
