"""The page as `itera playground` writes it, in Chromium, opened from the disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from itera_lite import cli
from tests.playground.tab import Tab


@pytest.fixture(scope="session")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page with the model in the box."""
    file = tmp_path_factory.mktemp("page") / "page.html"
    assert cli.main(["playground", "--out", str(file)]) == 0
    return file


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra `clients`")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as started:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = started.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def tab(browser: Any, page_file: Path) -> Iterator[Any]:
    """The page with its model loaded."""
    opened = Tab(browser, page_file)
    yield opened.ready()
    opened.close()
