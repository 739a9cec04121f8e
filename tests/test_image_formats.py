"""The table of formats: what a new one touches."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import s3diff

ROW = """
    Format(
        name="PPM", title="PPM", codec="ppm", extensions=(".ppm",), media_type="image/x-portable-pixmap",
        has_alpha=False, has_profile=False, has_exif=False, has_xmp=False, dpi="no", is_shown_by_browsers=False,
    ),
"""
MODULE = """
from PIL import PpmImagePlugin

from s3diff.images.files.codec import Codec


class PpmCodec(Codec):
    def recognises(self, head):
        return head.startswith((b"P5", b"P6"))

    def header(self, file):
        return PpmImagePlugin.PpmImageFile(file)


CODEC = PpmCodec
"""


def test_a_new_format_is_one_file_and_one_row(tmp_path: Path) -> None:
    """Read, written, in the help, in the options' schema, on the page and in the document."""
    package = tmp_path / "s3diff"
    # The weights are large; a link will do.
    shutil.copytree(Path(s3diff.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "models"))
    (package / "models").symlink_to(Path(s3diff.__file__).parent / "models", target_is_directory=True)
    table = package / "formats.py"
    text = table.read_text(encoding="utf-8")
    table.write_text(text.replace("FORMATS = (", f"FORMATS = ({ROW}", 1), encoding="utf-8")
    (package / "images" / "files" / "ppm.py").write_text(MODULE, encoding="utf-8")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.ppm")

    def run(*words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"}
        command = [sys.executable, *words]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("-m", "s3diff", "restore", "a.ppm", "-o", "b.ppm", "--scale", "2", "--device", "cpu")
    with Image.open(tmp_path / "b.ppm") as result:
        assert (result.format, result.size) == ("PPM", (24, 16))
    assert "ppm|" in run("-m", "s3diff", "restore", "--help")
    assert "| PPM | .ppm |" in run("-m", "s3diff.images.files.preservation")
    shown = run(
        "-c",
        "from s3diff.option_texts import option_schemas; print(option_schemas()['format']['enum'])\n"
        "from s3diff.serving.page.controls import page_controls\n"
        "print([each.choices for each in page_controls(['compact'], 'compact') if each.field == 'format'])",
    )
    assert "'ppm'" in shown
    assert "('PPM', 'ppm')" in shown
