"""Writes the pictures of docs/images from the playground itself: `python -m tools.screenshots`.

Chromium opens the page from the disk and a model writes and scores; nothing is drawn by hand.
Needs the extra `clients` and a Chromium, or --browser with another one's path.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright

from itera_lite.engine.find import BOX
from itera_lite.playground import page

IMAGES = Path(__file__).resolve().parents[1] / "docs/images"
MOST_BYTES = 200_000


def main() -> None:
    """Take the pictures anew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--into", type=Path, default=IMAGES, help="folder of the pictures")
    parser.add_argument("--browser", default=shutil.which("chromium"), help="path of a Chromium")
    given = parser.parse_args()
    given.into.mkdir(parents=True, exist_ok=True)
    (model,) = BOX.glob("*.gguf")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "playground.html"
        file.write_bytes(page(model.read_bytes(), model.name))
        browser = playwright.chromium.launch(
            executable_path=given.browser, args=["--no-sandbox", "--hide-scrollbars"]
        )
        write(opened(browser, file, "light"), given.into / "playground.png")
        score(opened(browser, file, "dark"), given.into / "playground-score.png")
        browser.close()


def opened(browser: Browser, file: Path, scheme: Literal["light", "dark"]) -> Page:
    """The page with its model loaded."""
    tab = browser.new_page(color_scheme=scheme, viewport={"width": 1100, "height": 860})
    tab.goto(file.as_uri())
    tab.wait_for_selector("#run:enabled")
    return tab


def write(tab: Page, path: Path) -> None:
    """A text with what was likely at one of its tokens."""
    tab.fill("#control-seed", "2")
    tab.fill("#control-maxTokens", "110")
    tab.click("#run")
    tab.wait_for_selector("#run:not(.running)")
    tab.wait_for_function("() => document.querySelector('.ending').textContent")
    surprising = tab.locator(".written .token[data-level='3']").nth(1)
    surprising.click()
    picture(tab, path)


def score(tab: Page, path: Path) -> None:
    """A text that is scored, with what was likely at one of its tokens."""
    tab.check("input[value=score]", force=True)
    tab.wait_for_selector(".scored .token")
    tab.locator(".scored .token").nth(12).click()
    picture(tab, path)


def picture(tab: Page, path: Path) -> None:
    tab.evaluate("scrollTo(0, 0)")
    tab.screenshot(path=path)
    size = path.stat().st_size
    print(f"{path}: {size:,} bytes")
    assert size <= MOST_BYTES, f"{path} is too large for the repository"


if __name__ == "__main__":
    main()
