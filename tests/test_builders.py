"""``docs/builders.md``: sections whose examples need one another, or an extra; none has more than ten lines."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import documents
from command_runs import Command
from conftest import REPOSITORY
from s3diff.evaluation import measures

PAGE = REPOSITORY / "docs/builders.md"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PAGE.is_file(), reason="needs the documents of the repository"),
]


def sections() -> dict[str, list[tuple[str, str]]]:
    """(language, text) of the examples, by section."""
    text = PAGE.read_text("utf-8") if PAGE.is_file() else ""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    found = {
        title: re.findall(r"```(python|bash)\n(.*?)```", body, re.DOTALL)
        for title, body in zip(parts[::2], parts[1::2], strict=True)
        if "not run: tests/test_builders.py" in body
    }
    return {title: examples for title, examples in found.items() if examples}


def test_no_example_is_long() -> None:
    for block in documents.blocks():
        if block.document == "docs/builders.md":
            assert len(block.text.splitlines()) <= 10, block.place


@pytest.fixture
def registered() -> Iterator[None]:
    """What a page registers is gone afterwards."""
    yield
    for name in measures._registered:
        del measures.MEASURES[name]
    measures._registered.clear()


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("title", sections())
def test_a_door(title: str, command: Command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in re.findall(r"import (onnxruntime)|integrations\.(diffusers)", str(sections()[title])):
        pytest.importorskip("".join(package), reason="an extra that is not installed")
    monkeypatch.setenv("S3DIFF_CACHE", str(here / "cache"))
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.jpg")
    for folder, side in (("results", 32), ("truth", 32), ("set/lr", 8), ("set/hr", 32)):
        Path(folder).mkdir(parents=True)
        Image.fromarray(pixels).resize((side, side)).save(f"{folder}/a.png")
    for language, text in sections()[title]:
        lines = text.splitlines()
        if language == "bash":
            for words in map(shlex.split, lines):
                outcome = command(*words[1:])
                assert outcome.code == 0, outcome.err
        elif lines[0].startswith("# "):
            Path(lines[0][2:]).write_text(text, "utf-8")
        else:
            exec(compile(text, f"docs/builders.md, {title}", "exec"), {})  # the page's own lines
