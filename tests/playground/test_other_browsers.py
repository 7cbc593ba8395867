"""The page in Firefox and WebKitGTK, where installed: writes, stops, scores, refuses a broken file.

Each is driven by commands of WebDriver: Firefox over its own socket (Marionette), WebKitGTK over
HTTP. Nothing is needed but the browsers; WebKitGTK wants a display, Xvfb gives one.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.playground.tab import LIMIT, MOST_TOKENS, READY, greedy

FINISHED = (
    "() => !document.querySelector('#run.running') && document.querySelector('.ending').textContent"
)
TEXT = "[...document.querySelectorAll('.written .token')].map((t) => t.textContent).join('')"
PROMPT = "Once upon a time"


def until(attempt: Any) -> Any:
    """What `attempt` gives as soon as it is true; errors of a program that only begins don't
    count."""
    end = time.monotonic() + LIMIT
    while True:
        try:
            if found := attempt():
                return found
        except (OSError, AssertionError):
            if time.monotonic() > end:
                raise
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.05)


class Marionette:
    """Firefox: a length, a colon and JSON, both ways."""

    def __init__(self, folder: Path) -> None:
        # Firefox takes a free port, and writes it to a file.
        preferences = {"marionette.port": 0, "browser.shell.checkDefaultBrowser": False}
        lines = (f"user_pref({json.dumps(k)}, {json.dumps(v)});\n" for k, v in preferences.items())
        (folder / "user.js").write_text("".join(lines))
        command = [str(shutil.which("firefox-esr")), "--headless", "--marionette", "--no-remote"]
        self.program = subprocess.Popen(
            [*command, "--profile", str(folder)],
            env={**os.environ, "HOME": str(folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = until(lambda: int((folder / "MarionetteActivePort").read_text() or 0))
            self.socket = until(lambda: socket.create_connection(("127.0.0.1", port)))
            self.stream = self.socket.makefile("rwb")
            self._read()  # who it is
            self.command("NewSession", {})
        except BaseException:
            self.close()
            raise

    def command(self, name: str, values: dict[str, Any]) -> Any:
        message = json.dumps([0, 1, f"WebDriver:{name}", values]).encode()
        self.stream.write(b"%d:%s" % (len(message), message))
        self.stream.flush()
        _, _, error, result = self._read()
        assert error is None, error
        return result and result.get("value")

    def _read(self) -> Any:
        length = b""
        while (byte := self.stream.read(1)) != b":":
            assert byte, "Firefox closed the connection"
            length += byte
        return json.loads(self.stream.read(int(length)))

    def open(self, url: str) -> None:
        self.command("Navigate", {"url": url})

    def run(self, script: str) -> Any:
        return self.command("ExecuteScript", {"script": script, "args": [], "sandbox": None})

    def close(self) -> None:
        self.program.terminate()
        self.program.wait(LIMIT)


class WebKit:
    """WebKitGTK's own browser, through WebKitWebDriver."""

    def __init__(self, folder: Path) -> None:
        self.programs: list[subprocess.Popen[bytes]] = []
        options = {"binary": str(mini_browser()), "args": ["--automation"]}
        wanted = {"alwaysMatch": {"webkitgtk:browserOptions": options}}
        try:
            screen = f":{self._start_screen()}"
            self.url = self._start_driver({**os.environ, "DISPLAY": screen, "HOME": str(folder)})
            session = until(lambda: self._post("/session", {"capabilities": wanted}))
            self.url += f"/session/{session['sessionId']}"
        except BaseException:
            self.close()
            raise

    def _start_screen(self) -> int:
        """Start Xvfb on a free screen; its number."""
        read, write = os.pipe()
        command = [str(shutil.which("Xvfb")), "-displayfd", str(write)]
        command += ["-screen", "0", "1200x900x24"]
        self.programs.append(subprocess.Popen(command, pass_fds=[write]))
        os.close(write)
        with open(read, "rb") as told:
            return int(told.readline())

    def _start_driver(self, environment: dict[str, str]) -> str:
        """Start WebKitWebDriver; its address. It can't choose a port itself, and ends where another
        program has taken the one that was free."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port = probe.getsockname()[1]
            command = [str(shutil.which("WebKitWebDriver")), f"--port={port}"]
            driver = subprocess.Popen(command, env=environment)
            self.programs.append(driver)
            while driver.poll() is None and time.monotonic() < end:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=LIMIT).close()
                except OSError:
                    time.sleep(0.05)
                else:
                    return f"http://127.0.0.1:{port}"
        raise AssertionError("WebKitWebDriver doesn't answer")

    def _post(self, path: str, values: dict[str, Any]) -> Any:
        request = urllib.request.Request(self.url + path, json.dumps(values).encode())
        with urllib.request.urlopen(request, timeout=LIMIT) as answer:
            return json.load(answer)["value"]

    def open(self, url: str) -> None:
        self._post("/url", {"url": url})

    def run(self, script: str) -> Any:
        return self._post("/execute/sync", {"script": script, "args": []})

    def close(self) -> None:
        for program in reversed(self.programs):
            program.terminate()
            program.wait(LIMIT)


def mini_browser() -> Path | None:
    return next(Path("/usr").glob("lib*/**/webkit2gtk-4.1/MiniBrowser"), None)


@pytest.fixture(params=["firefox", "webkit"])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Marionette | WebKit]:
    if request.param == "firefox":
        if not shutil.which("firefox-esr"):
            pytest.skip("no Firefox ESR on this machine")
        opened: Marionette | WebKit = Marionette(tmp_path)
    else:
        for program in ("WebKitWebDriver", "Xvfb"):
            if not shutil.which(program):
                pytest.skip(f"no {program} on this machine")
        if mini_browser() is None:
            pytest.skip("no MiniBrowser of WebKitGTK on this machine")
        opened = WebKit(tmp_path)
    yield opened
    opened.close()


def test_the_page_works(driver: Marionette | WebKit, page_file: Path, endless_file: Path) -> None:
    def wait(condition: str) -> None:
        until(lambda: driver.run(f"return !!({condition})()"))

    def write(tokens: int, temperature: float, prompt: str) -> None:
        driver.run(
            f"document.querySelector('#control-maxTokens').value = '{tokens}';"
            f"document.querySelector('#control-temperature').value = '{temperature}';"
            f"document.querySelector('#prompt').value = {json.dumps(prompt)};"
            "document.querySelector('#run').click()"
        )

    driver.open(page_file.as_uri())
    wait(READY)
    write(60, 0, PROMPT)
    wait(FINISHED)
    assert driver.run(f"return {TEXT}") == greedy(PROMPT, 60)

    driver.open(endless_file.as_uri())
    wait(READY)
    driver.run("document.querySelector('#control-presencePenalty').value = '-2'")
    write(MOST_TOKENS, 0, "ha ha ha ha ha ha")  # never ends by itself
    wait("() => document.querySelectorAll('.written .token').length > 20")
    driver.run("document.querySelector('#run').click()")
    wait(FINISHED)
    assert driver.run("return document.querySelector('.ending').textContent") == "Stopped."

    driver.run(
        "const files = new DataTransfer();"
        "files.items.add(new File(['GGUF, but no more'], 'broken.gguf'));"
        "const input = document.querySelector('input[type=file]');"
        "input.files = files.files; input.dispatchEvent(new Event('change'))"
    )
    wait("() => !document.querySelector('.error').hidden")
    told = driver.run("return document.querySelector('.reason').textContent")
    assert told.startswith("broken.gguf can’t be used: ") and told.endswith(" stays in use.")

    driver.run("document.querySelector('input[value=score]').click()")
    wait("() => parseFloat(document.querySelector('.of-score dd').textContent) > 0")
