"""``docs/extending.md``: its diffs are applied to a copy of the sources, and what they add is used."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import s3diff
from conftest import REPOSITORY

SOURCES = Path(s3diff.__file__).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("git") is None, reason="diffs are applied by git"),
    pytest.mark.skipif(not (REPOSITORY / "docs").is_dir(), reason="needs the documents of the repository"),
]


def diffs_of(section: str) -> list[str]:
    """The diffs of a section of the document."""
    text = (REPOSITORY / "docs/extending.md").read_text("utf-8")
    found = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, section
    return re.findall(r"```diff\n(.*?)```", found[1], re.DOTALL)


def extended(folder: Path, *sections: str) -> Path:
    """A copy of the sources with the diffs of these sections."""
    shutil.copytree(SOURCES, folder / "src/s3diff", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    for section in sections:
        for diff in diffs_of(section):
            applied = subprocess.run(["git", "apply", "-p1", "-"], cwd=folder, input=diff.encode(), capture_output=True)
            assert applied.returncode == 0, applied.stderr.decode()
    return folder / "src"


def run(sources: Path, *arguments: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(sources), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_metrics_are_one_file_and_one_row(tmp_path: Path) -> None:
    sources = extended(tmp_path, "A metric of pictures", "A metric of sets")
    changed = {path.name for path in (sources / "s3diff/evaluation").glob("*.py")} - {
        path.name for path in (SOURCES / "evaluation").glob("*.py")
    }
    assert changed == {"mae.py", "worst.py"}
    for name, value in (("truth", 100), ("results", 103)):
        (tmp_path / name).mkdir()
        for index in range(7):
            pixels = np.full((16, 16, 3), value, np.uint8)
            pixels[0, 0] += index * (name == "results")
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    table = run(
        sources,
        *("-m", "s3diff.apps.cli", "evaluate", "results", "--truth", "truth", "--metrics", "mae_rgb,worst,psnr_rgb"),
        *("-o", "report", "-q"),
        cwd=tmp_path,
    )
    assert "MAE (lower is better) | worst (lower is better) | PSNR-RGB" in table
    row = next(line for line in table.splitlines() if line.startswith("| results "))
    mae, worst = re.findall(r"\| (\d+\.\d+) \[", row)[:2]
    assert float(mae) == pytest.approx(3, abs=0.02)
    assert float(worst) == pytest.approx(9, abs=0.5), "not the mean of the pictures' 3 to 9"
    assert '"mae_rgb"' in (tmp_path / "report/report.html").read_text("utf-8")


def test_a_format_is_one_file_and_one_row(tmp_path: Path) -> None:
    """Read, written, in the help, in the options' schema, on the page and in the document."""
    sources = extended(tmp_path, "A picture format")
    added = {path.name for path in (sources / "s3diff/images/files").glob("*.py")} - {
        path.name for path in (SOURCES / "images/files").glob("*.py")
    }
    assert added == {"ppm.py"}
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.ppm")
    shown = run(
        sources,
        "-c",
        "from s3diff.images.files.reading import list_pictures, read_picture\n"
        "from s3diff.images.files.writing import write_picture\n"
        "print([path.name for path in list_pictures('.')])\n"
        "write_picture(read_picture('a.ppm'), 'b.ppm')\n"
        "from s3diff.option_texts import option_schemas; print(option_schemas()['format']['enum'])\n"
        "from s3diff.serving.page.controls import page_controls\n"
        "print([each.choices for each in page_controls(['compact'], 'compact') if each.field == 'format'])",
        cwd=tmp_path,
    )
    assert "['a.ppm']" in shown
    assert "'ppm'" in shown
    assert "'heic', 'ppm')]" in shown
    with Image.open(tmp_path / "b.ppm") as written:
        assert written.format == "PPM"
        assert np.array_equal(np.asarray(written), pixels)
    assert "heic|ppm" in run(sources, "-m", "s3diff", "restore", "--help", cwd=tmp_path)
    assert "| PPM | .ppm |" in run(sources, str(REPOSITORY / "docs/picture_tables.py"), "--print", cwd=tmp_path)
