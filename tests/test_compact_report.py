"""The report on the embedded model: its tables belong to the model that is shipped, and its measures measure."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from conftest import REPOSITORY
from s3diff.checkpoints.model_folder import load_model
from s3diff.checkpoints.registry import model_folder

FIGURES = REPOSITORY / "benchmarks" / "results" / "compact-report.json"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks are scripts that import their neighbours."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")


def test_the_document_shows_the_figures_of_the_shipped_model() -> None:
    from compact_report import PARTS, tables, with_tables

    report = json.loads(FIGURES.read_text("utf-8"))
    document = (REPOSITORY / "docs" / "compact.md").read_text("utf-8")
    assert set(PARTS) <= set(report)
    assert with_tables(document, tables(report)) == document
    assert report["model"] == load_model(model_folder("compact")).fingerprint


def test_a_document_without_the_marker_is_refused() -> None:
    from compact_report import with_tables

    with pytest.raises(SystemExit, match="no marker <!-- table noise -->"):
        with_tables("# A document\n", {"noise": "| a |"})


def test_overshoot_counts_what_leaves_the_range_of_the_neighbours() -> None:
    from compact_report import overshoot

    given = torch.full((1, 3, 8, 8), 0.5)
    given[..., 4:] = 0.7
    result = given.repeat_interleave(4, -1).repeat_interleave(4, -2)
    assert overshoot(result, given) == 0
    result[0, 1, 9, 14] = 0.7  # next to the edge this value is at home
    assert overshoot(result, given) == 0
    result[0, 1, 9, 14] = 0.75
    assert overshoot(result, given) == pytest.approx(0.05, abs=1e-6)
    result[0, 1, 9, 2] = 0.4
    assert overshoot(result, given) == pytest.approx(0.1, abs=1e-6)


def test_deviations_of_a_perfect_and_of_a_tinted_result() -> None:
    from compact_report import deviations
    from drawn_patterns import drawn_patterns

    given = torch.from_numpy(drawn_patterns()["mid grey"][:16, :16]).permute(2, 0, 1)[None] / 255
    result = given.repeat_interleave(4, -1).repeat_interleave(4, -2)
    assert max(value for value in deviations(result, given, smooth=True).values()) < 1e-3
    result[:, 0] += 2 / 255
    found = deviations(result, given, smooth=True)
    for name in ("reduced_largest", "overshoot", "colour", "enlarged_largest"):
        assert found[name] == pytest.approx(2, abs=1e-3)
    assert found["reduced_mean"] == pytest.approx(2 / 3, abs=1e-3)


def test_noise_has_the_strength_that_it_claims() -> None:
    from compact_report import noisy

    grey = torch.full((1, 3, 64, 64), 0.5)
    assert 255 * float(noisy(grey, torch.Generator().manual_seed(0)).std()) == pytest.approx(10, rel=0.05)


def test_patterns_with_edges_leave_room_for_overshoot() -> None:
    from drawn_patterns import SIDE_PX, drawn_patterns

    drawn = drawn_patterns()
    assert {pattern.shape for pattern in drawn.values()} == {(SIDE_PX, SIDE_PX, 3)}
    assert {pattern.dtype for pattern in drawn.values()} == {np.dtype(np.uint8)}
    for name in ("checkerboard, 8 px", "checkerboard, 1 px", "line drawing", "screenshot"):
        assert drawn[name].min() >= 60
        assert drawn[name].max() <= 195
