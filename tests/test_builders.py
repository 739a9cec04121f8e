"""``docs/builders.md``: sections whose examples need one another, or an extra; none has more than ten lines."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import documents
from command_runs import Command
from conftest import REPOSITORY
from s3diff import Restorer
from s3diff.evaluation import measures
from test_export import MAX_LEVELS, levels, picture

PAGE = REPOSITORY / "docs/builders.md"
GRAPH = "A graph without s3diff"
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
@pytest.mark.parametrize("title", sorted(sections().keys() - {GRAPH}))
def test_a_door(title: str, command: Command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_section(title, command, here, monkeypatch)


def test_a_graph_of_the_shipped_model_for_all_sizes(
    compact: Restorer, command: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_section(GRAPH, command, here, monkeypatch)
    import onnxruntime

    session = onnxruntime.InferenceSession("compact.onnx", providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["fingerprint"] == compact.model.fingerprint
    for height, width in ((13, 10), (5, 31), (1, 2), (24, 16)):
        low_quality = picture(height, width)
        restored, used = session.run(None, {"low_quality": low_quality})
        assert levels(restored, compact, low_quality) < MAX_LEVELS
        estimated = compact.restore_tensor(torch.from_numpy(low_quality)).degrees.numpy()
        assert np.abs(used - estimated).max() < 1e-4
    given = np.array([[0.9, -1]], np.float32)
    restored, used = session.run(None, {"low_quality": low_quality, "degrees": given})
    assert levels(restored, compact, low_quality, blur=0.9) < MAX_LEVELS
    assert used[0, 0] == np.float32(0.9)


def run_section(title: str, command: Command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a section's examples in an empty folder with a photograph and small sets."""
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
