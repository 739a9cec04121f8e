"""The page without a server: Chromium runs the exported model, by onnxruntime-web, to the Restorer's numbers."""

from __future__ import annotations

import base64
import functools
import http.server
import io
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import REPOSITORY
from s3diff import Restorer
from s3diff.export.writing import export_model
from s3diff.restoration import runtimes

FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
PATIENCE_MS = 60_000


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address(few_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page with onnxruntime-web and a model of the shipped one's kind with few layers, put together as
    integrations/browser/README.md does; tests/test_builders.py exports the shipped one.
    """
    if not runtimes.is_installed("onnxruntime"):
        pytest.skip("the extra onnxruntime is not installed")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm, for onnxruntime-web")
    folder = tmp_path_factory.mktemp("browser") / "page"
    shutil.copytree(REPOSITORY / "integrations" / "browser", folder)
    fetched = subprocess.run([npm, "pack", "onnxruntime-web@1"], cwd=folder.parent, capture_output=True, text=True)
    if fetched.returncode:
        pytest.skip(f"npm could not fetch onnxruntime-web: {fetched.stderr.strip().splitlines()[-1]}")
    with tarfile.open(folder.parent / fetched.stdout.split()[-1]) as package:
        for name in FILES:
            member = package.extractfile(f"package/dist/{name}")
            assert member is not None
            (folder / name).write_bytes(member.read())
    export_model(few_layers, folder / "compact.onnx", half=True, need_degrees=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


def photograph(path: Path, width: int, height: int) -> np.ndarray:
    with Image.open(REPOSITORY / "assets" / "photos" / "kitten.jpg") as image:
        cut = image.convert("RGB").crop((0, 30, width, 30 + height))
    cut.save(path)
    return np.asarray(cut)


@pytest.mark.slow
def test_the_page_restores_without_a_server(address: str, browser: Any, few_layers: Path, tmp_path: Path) -> None:
    """One tile, and several with the middle's degrees: the Restorer's picture, within a level or three."""
    restorer = Restorer.from_pretrained(few_layers, device="cpu", precision="float32")
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for width, height in ((24, 17), (200, 12)):
        pixels = photograph(tmp_path / f"{width}.png", width, height)
        page.goto(address)
        page.set_input_files("input", tmp_path / f"{width}.png")
        page.wait_for_function(
            "size => document.querySelector('[role=status]').textContent.startsWith(size)"
            " && !document.querySelector('input').disabled",
            arg=f"{4 * width} x {4 * height} px", timeout=PATIENCE_MS,
        )  # fmt: skip
        sent = page.evaluate("document.querySelector('canvas').toDataURL()").split(",")[1]
        made = np.asarray(Image.open(io.BytesIO(base64.b64decode(sent))).convert("RGB"))
        part = pixels if width <= 192 else pixels[:, (width - 192) // 2 :][:, :192]
        blur, noise = restorer.estimate(part)
        expected = restorer.restore(pixels, blur=blur, noise=noise).array
        levels = np.abs(made.astype(int) - expected)
        assert levels.max() <= (1 if width <= 192 else 3)
        assert levels.mean() < 0.1
        assert page.is_visible("a[download]")
    assert all(url.startswith((address, "blob:", "data:")) for url in asked)
    page.set_input_files("input", {"name": "broken.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.wait_for_function("document.querySelector('[role=status]').textContent.includes('broken.png could not')")
    page.close()
