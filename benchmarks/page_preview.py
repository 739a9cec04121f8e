"""How long the page's preview of a piece takes, from the click to the picture, with ``compact`` and in Chromium.

    python benchmarks/page_preview.py [--rounds 5] [--picture FILE]

The service runs in this process, so that its CPU time is known as well: on a machine that does something else, wall
time says little. Each round clicks another place and then turns the dial. Needs the extra test and Chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from hardware import machine
from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from page_server import page_server  # noqa: E402 - it lies beside the tests

PHOTO = ROOT / "assets" / "photos" / "budgerigar.jpg"
#: Of the picture that is clicked into: a photograph that takes half a minute as a whole.
SIZE = (1500, 1500)
PATIENCE_SECONDS = 300.0


def main() -> None:
    """Print the median seconds of a click, of a turned dial, and the size of the piece."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    path = os.environ.get("S3DIFF_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, page_server() as (address, _), sync_playwright() as driver:
        picture = given.picture or Path(folder) / "photo.jpg"
        if given.picture is None:
            with Image.open(PHOTO) as photo:
                photo.convert("RGB").resize(SIZE).save(picture, quality=92)
        browser = driver.chromium.launch(executable_path=path, args=["--headless", "--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1366, "height": 768})
        page.goto(address)
        page.wait_for_selector(".work[data-ready]")
        page.set_input_files(".picker", [picture])
        until(page, "/stimate/.test(document.querySelector('.found p').textContent)")
        until(page, "/about/.test(document.querySelector('.plan').textContent)")
        rounds = [one_round(page, number) for number in range(given.rounds + 1)][1:]
        browser.close()
    for name in ("click", "dial"):
        walls, cpus = zip(*(each[name] for each in rounds), strict=True)
        told = f"{statistics.median(walls):.2f} s ({min(walls):.2f} to {max(walls):.2f})"
        print(f"{name}: {told}, {statistics.median(cpus):.2f} s of CPU time, this driver's included")
    print(f"piece: {rounds[-1]['side']} px of the input")
    print(machine(torch.device("cpu")))


def one_round(page: Page, number: int) -> dict[str, Any]:
    """Click a place, and turn the dial."""
    box = page.locator(".pane-before").bounding_box()
    assert box is not None
    page.keyboard.press("0")
    page.wait_for_timeout(300)
    share = 0.3 + 0.08 * number
    found: dict[str, Any] = {
        "click": timed(page, lambda: page.mouse.click(box["x"] + box["width"] * share, box["y"] + box["height"] / 2)),
        "dial": timed(page, lambda: turned(page)),
    }
    found["side"] = page.locator(".patch").evaluate("image => image.decode().then(() => image.naturalWidth)") // 4
    return found


def turned(page: Page) -> None:
    page.focus("#control-noise input[type=range]")
    page.keyboard.press("ArrowRight")


def timed(page: Page, act: Any) -> tuple[float, float]:
    """Seconds until another piece is shown, and CPU seconds of this process meanwhile."""
    shown = page.locator(".patch").get_attribute("src") or ""
    started, cpu = time.perf_counter(), time.process_time()
    act()
    until(page, f"![{shown!r}, ''].includes(document.querySelector('.patch').getAttribute('src') ?? '')")
    page.locator(".patch").evaluate("image => image.decode()")
    return time.perf_counter() - started, time.process_time() - cpu


def until(page: Page, expression: str) -> None:
    """Wait; the page forbids functions made of strings, which Playwright's own way needs."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not page.evaluate(expression):
        if time.monotonic() > end:
            raise SystemExit(f"not within {PATIENCE_SECONDS:g} s: {expression}")
        time.sleep(0.02)


if __name__ == "__main__":
    main()
