"""The page as `itera playground` writes it, in Chromium, opened from the disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from itera_lite import cli
from tests.playground.tab import LIMIT, Tab, slowed


@pytest.fixture(scope="session")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page with the model in the box."""
    file = tmp_path_factory.mktemp("page") / "page.html"
    assert cli.main(["playground", "--out", str(file)]) == 0
    return file


@pytest.fixture(scope="session")
def endless_file(page_file: Path) -> Path:
    """The page where a long text takes longer than any test."""
    file = page_file.with_name("endless.html")
    file.write_text(slowed(page_file.read_text()))
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
        browser = started.chromium.launch(
            executable_path=program, args=arguments, timeout=1000 * LIMIT
        )
        yield browser
        browser.close()


@pytest.fixture
def tab(browser: Any, page_file: Path) -> Iterator[Any]:
    """The page with its model loaded."""
    opened = Tab(browser, page_file)
    yield opened.ready()
    opened.close()


@pytest.fixture
def endless(browser: Any, endless_file: Path) -> Iterator[Any]:
    """The page where a long text takes longer than any test, with its model loaded."""
    opened = Tab(browser, endless_file)
    yield opened.ready()
    opened.close()
