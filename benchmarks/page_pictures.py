"""The pictures of the web page in docs/images: the real service, driven in Chromium.

    python benchmarks/page_pictures.py docs/images

Needs the extra test and Chromium (Debian: apt-get install chromium; another path: S3DIFF_CHROMIUM).
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from page_server import page_server  # noqa: E402 - it lies beside the tests

PHOTOS = ROOT / "assets" / "photos"
QUALITY = 82
#: Seconds for one picture on a loaded machine.
PATIENCE_MS = 400_000


def main() -> None:
    """Write every picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    path = os.environ.get("S3DIFF_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with page_server() as (address, _), sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--headless", "--no-sandbox", "--disable-gpu"])
        desktop: dict[str, Any] = {"viewport": {"width": 1240, "height": 860}}
        phone: dict[str, Any] = {
            "viewport": {"width": 390, "height": 800},
            "device_scale_factor": 1.5,
            "is_mobile": True,
            "has_touch": True,
            "color_scheme": "dark",
        }
        for name, take, settings in (
            ("page_start", start, desktop),
            ("page_compare", compare, desktop),
            ("page_several", several, {"viewport": {"width": 1240, "height": 1040}, "color_scheme": "dark"}),
            ("page_error", error, desktop),
            ("page_phone", compare, phone),
        ):
            # Waiting for an expression makes functions of strings, which the page forbids.
            context = browser.new_context(bypass_csp=True, **settings)
            page = context.new_page()
            page.goto(address)
            page.wait_for_selector(".work[data-ready]")
            take(page)
            page.wait_for_timeout(500)
            with Image.open(io.BytesIO(page.screenshot())) as shot:
                shot.convert("RGB").save(folder / f"{name}.webp", quality=QUALITY, method=6)
            context.close()
        browser.close()


def start(page: Page) -> None:
    """As it opens."""
    page.wait_for_function("document.querySelector('.command code').textContent")


def compare(page: Page) -> None:
    """An example, restored."""
    page.click(".example >> nth=0")
    page.wait_for_selector(".download", state="visible", timeout=PATIENCE_MS)
    page.locator(".after").evaluate("image => image.decode()")


def several(page: Page) -> None:
    """Two pictures at work, in tiles."""
    page.set_input_files(".picker", [PHOTOS / "kitten.jpg", PHOTOS / "budgerigar.jpg"])
    page.wait_for_function("/blur [0-9]/.test(document.querySelector('.found p').textContent)")
    page.focus("#control-noise input[type=range]")
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    page.click("summary:has-text('Model, method and tiles')")
    page.fill("#control-tile input", "256")
    page.click("summary:has-text('Model, method and tiles')")
    page.click("#run")
    page.wait_for_function("/tile [0-9]{2}/.test(document.querySelector('.stage').textContent)", timeout=PATIENCE_MS)
    page.evaluate("scrollTo(0, 0)")


def error(page: Page) -> None:
    """A factor that is none."""
    compare(page)
    page.fill("#control-scale input", "0")
    page.wait_for_selector("#control-scale .control-error")


if __name__ == "__main__":
    main()
