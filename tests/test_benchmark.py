"""``s3diff evaluate`` and ``s3diff benchmark`` on tiny pictures: pairing, resuming, programs, reports, errors."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from s3diff.apps.cli import app
from s3diff.degradation.settings import DegradeOptions
from s3diff.errors import OptionError, PictureError
from s3diff.evaluation.measures import MEASURES, checked_names, load_measures
from s3diff.evaluation.methods import Model
from s3diff.evaluation.protocols import PROTOCOLS, choose_protocol, computable_metrics
from s3diff.evaluation.sets import find_set, match_results, results_set
from s3diff.evaluation.spectrum import GRID_OF_SET
from s3diff.evaluation.statistics import MEAN, paired_difference
from s3diff.images.picture import Picture
from s3diff.images.resampling import resample
from s3diff.options import RestoreOptions
from tiny_models import save_compact

RUNNER = CliRunner()


def write_picture_file(path: Path, seed: int, width: int, height: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Three pairs, 20 x 16 to 80 x 64 px."""
    for seed, name in enumerate(("a", "b", "c")):
        write_picture_file(tmp_path / "set" / "lr" / f"{name}.png", seed, 20, 16)
        write_picture_file(tmp_path / "set" / "hr" / f"{name}.png", seed, 80, 64)
    return tmp_path / "set"


def run(*arguments: object, code: int = 0) -> str:
    done = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done.output


def error_line(*arguments: object) -> str:
    """The one line of a user's mistake: of a wrong picture or folder (1), or of an option that cannot be (2)."""
    done = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code in (1, 2), done.output
    lines = done.output.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def scores(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "scores.jsonl").read_text("utf-8").splitlines()]


def page_data(folder: Path) -> dict:
    text = (folder / "report.html").read_text("utf-8")
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


# --- benchmark --------------------------------------------------------------------------------------------------------


def test_baselines_a_model_a_program_and_a_folder_in_one_run(pairs: Path, tmp_path: Path) -> None:
    save_compact(tmp_path / "tiny")
    program = tmp_path / "enlarge.py"
    program.write_text(
        "import sys\nfrom PIL import Image\n"
        "with Image.open(sys.argv[1]) as image:\n    image.resize((80, 64), 0).save(sys.argv[2])\n"
    )
    command = f'nearest="{sys.executable}" "{program}" {{input}} {{output}}'
    given = ("bicubic", "lanczos", tmp_path / "tiny", command, f"truth={pairs / 'hr'}")
    arguments = ("benchmark", *given, "--set", pairs, "--metrics", "psnr_y,ssim_y", "-o", tmp_path / "run", "-q")
    arguments += ("--precision", "float32")
    printed = run(*arguments)
    rows = scores(tmp_path / "run")
    assert [(row["method"], row["picture"]) for row in rows] == [
        (method, picture) for method in ("bicubic", "lanczos", "tiny", "nearest", "truth") for picture in "abc"
    ]
    by_method = {row["method"]: row for row in rows if row["picture"] == "b"}
    assert by_method["truth"]["values"] == pytest.approx({"psnr_y": 80.0, "ssim_y": 1.0})
    assert by_method["bicubic"]["values"]["psnr_y"] > by_method["nearest"]["values"]["psnr_y"] > 15
    assert by_method["tiny"]["degrees"] is not None
    assert by_method["nearest"]["seconds"] > 0
    assert by_method["truth"]["seconds"] is None
    assert all(row["protocol"] == "custom v1" and row["size_px"] == [80, 64] for row in rows)
    assert "| lanczos | 3 |" in printed
    assert "Difference to bicubic" in printed
    assert re.search(r"Methods: bicubic = baseline bicubic, .*tiny = model sha256:\w+ float32", printed)
    with open(tmp_path / "run" / "scores.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 15
    assert float(table[0]["psnr_y"]) == pytest.approx(rows[0]["values"]["psnr_y"], abs=1e-6)
    data = page_data(tmp_path / "run")
    assert set(data["images"]["a"]["layers"]) == {"input", "bicubic", "lanczos", "tiny", "nearest", "truth"}
    assert data["paired"]["bicubic"]["truth"]["psnr_y"][0] == pytest.approx(
        np.mean([80 - row["values"]["psnr_y"] for row in rows if row["method"] == "bicubic"]), abs=1e-3
    )


def test_a_run_goes_on_and_does_again_only_what_changed(pairs: Path, tmp_path: Path) -> None:
    arguments = ("benchmark", "bicubic", "lanczos", "--set", pairs, "-o", tmp_path / "run", "-q", "--metrics")
    run(*arguments, "psnr_y")
    book, results = tmp_path / "run" / "scores.jsonl", tmp_path / "run" / "results"
    lines = book.read_text().splitlines()
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*.png")}
    seconds = [row["seconds"] for row in scores(tmp_path / "run")]
    # As if ended while the last line was written, with the last but one not yet there.
    book.write_text("\n".join(lines[:4]) + "\n" + lines[5][:40])
    run(*arguments, "psnr_y,ssim_y")
    again = {path: path.stat().st_mtime_ns for path in results.rglob("*.png")}
    assert {path.relative_to(results).as_posix() for path in before if before[path] != again[path]} == {
        "lanczos/b.png",
        "lanczos/c.png",
    }
    assert [row["seconds"] for row in scores(tmp_path / "run")][:4] == seconds[:4]
    assert all(set(row["values"]) == {"psnr_y", "ssim_y"} for row in scores(tmp_path / "run"))
    # A truth that changed: its scores are computed again. Another method leaves the others' lines alone.
    write_picture_file(pairs / "hr" / "a.png", 9, 80, 64)
    old = scores(tmp_path / "run")
    run("benchmark", "bicubic", "--set", pairs, "-o", tmp_path / "run", "-q", "--metrics", "psnr_y")
    new = scores(tmp_path / "run")
    assert len(new) == 6
    assert new[0]["values"]["psnr_y"] != old[0]["values"]["psnr_y"]
    assert new[1:] == [{**row} for row in old[1:]]
    book.write_text("nonsense\n" + lines[0] + "\n")
    assert "line 1 is no score" in error_line(*arguments, "psnr_y")


def test_a_failing_program_and_a_misshapen_result_cost_only_themselves(pairs: Path, tmp_path: Path) -> None:
    program = tmp_path / "fails.py"
    program.write_text(
        "import sys\nfrom PIL import Image\n"
        "if sys.argv[1].endswith('b.png'): sys.exit('out of luck')\n"
        "side = 8 if sys.argv[1].endswith('c.png') else 64\n"
        "Image.new('RGB', (80, side)).save(sys.argv[2])\n"
    )
    command = f'mine="{sys.executable}" "{program}" {{input}} {{output}}'
    printed = run("benchmark", command, "--set", pairs, "-o", tmp_path / "run", "-q", "--metrics", "psnr_y", code=1)
    assert "mine ended with 1 on b: out of luck" in printed
    assert "c.png is 80 x 8 pixels, the truth" in printed
    assert "2 failed, see above" in printed
    assert "| mine | 1 |" in printed
    assert not list((tmp_path / "run" / "results").rglob("unfinished*"))


def test_truths_are_degraded_exactly_as_the_degrade_command_does(pairs: Path, tmp_path: Path) -> None:
    run("degrade", pairs / "hr", tmp_path / "made", "--preset", "realesrgan", "--seed", 3, "-q")
    arguments = ("benchmark", "bicubic", "--set", pairs / "hr", "--metrics", "psnr_y", "-q")
    run(*arguments, "--preset", "realesrgan", "--seed", 3, "-o", tmp_path / "run")
    for name in ("a", "b", "c"):
        found, wanted = (tmp_path / place / f"{name}.png" for place in ("run/low_quality", "made"))
        assert np.array_equal(np.asarray(Image.open(found)), np.asarray(Image.open(wanted)))
    first = scores(tmp_path / "run")
    run(*arguments, "--preset", "realesrgan", "--seed", 4, "-o", tmp_path / "run")
    assert scores(tmp_path / "run")[0]["values"] != first[0]["values"]
    assert "preset is 'rough'; give one of" in error_line(*arguments, "--preset", "rough", "-o", tmp_path / "x")


def test_a_set_without_truth(pairs: Path, tmp_path: Path) -> None:
    arguments = ("benchmark", "bicubic", "--set", pairs / "lr", "-o", tmp_path / "run", "-q", "--metrics")
    assert "needs a truth, which this set does not have" in error_line(*arguments, "psnr_y")
    printed = run(*arguments, "grid,psnr_y", "--scale", 5)
    assert "left out: psnr_y needs a truth" in printed
    assert scores(tmp_path / "run")[0]["size_px"] == [100, 80]
    assert "truth" not in page_data(tmp_path / "run")["images"]["a"]["layers"]


def test_limits_and_names_of_methods(pairs: Path, tmp_path: Path) -> None:
    arguments = ("--set", pairs, "-o", tmp_path / "run", "-q", "--metrics", "psnr_y")
    run("benchmark", "x=bicubic", "bicubic", *arguments, "--limit", 2)
    assert {(row["method"], row["picture"]) for row in scores(tmp_path / "run")} == {
        (method, picture) for method in ("x", "bicubic") for picture in "ab"
    }
    assert "'bicubic' is the name of two methods" in error_line("benchmark", "bicubic", "bicubic", *arguments)
    assert "is nothing to compare; give bicubic, lanczos, compact, s3diff" in error_line(
        "benchmark", "esrgan", *arguments
    )
    assert "needs both {input} and {output}" in error_line("benchmark", "run.sh {input}", *arguments)
    assert "'.x' is no name" in error_line("benchmark", ".x=bicubic", *arguments)


# --- evaluate ---------------------------------------------------------------------------------------------------------


def test_folders_of_results_are_scored_by_name(pairs: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    for name in ("c.png", "a.tif", "b.png"):  # in a sorted list with the truths no order would pair them
        write_picture_file(results / name, {"a": 0, "b": 1, "c": 2}[name[0]], 80, 64)
    printed = run("evaluate", results, "--truth", pairs / "hr", "--metrics", "psnr_y,psnr_rgb_border4", "-q")
    assert "Protocol custom v1; 3 pictures" in printed
    row = next(line for line in printed.splitlines() if line.startswith("| results | 3 |"))
    assert float(row.split("|")[3].split()[0]) > 50
    assert set(tmp_path.iterdir()) == {pairs, results}  # nothing is written unless asked for
    run(
        "evaluate",
        results,
        f"same={pairs / 'hr'}",
        "--truth",
        pairs / "hr",
        "--metrics",
        "psnr_y",
        "-o",
        tmp_path / "o",
    )
    assert {path.name for path in (tmp_path / "o").iterdir()} == {
        "scores.jsonl",
        "scores.csv",
        "report.md",
        "report.html",
    }


def test_every_mismatch_is_one_clear_line(pairs: Path, tmp_path: Path) -> None:
    results, truth, empty = tmp_path / "results", pairs / "hr", tmp_path / "empty"
    empty.mkdir()
    arguments = ("--truth", truth, "--metrics", "psnr_y", "-q")
    write_picture_file(results / "a.png", 0, 80, 64)
    assert re.search(
        r"2 of 3 pictures have no result in .*results: b, c; add them", error_line("evaluate", results, *arguments)
    )
    assert "| results | 1 |" in run("evaluate", results, *arguments, "--partial")
    write_picture_file(results / "d.png", 0, 80, 64)
    assert "have no partner in the set: d.png" in error_line("evaluate", results, *arguments)
    (results / "a.png").rename(results / "e.png")
    assert "2 of 2 results in" in error_line("evaluate", results, *arguments, "--partial")
    assert "empty holds no pictures; give a folder" in error_line("evaluate", empty, *arguments)
    assert "empty holds no pictures" in error_line("evaluate", results, "--truth", empty, "-q")
    assert "nowhere" in error_line("evaluate", tmp_path / "nowhere", *arguments)
    assert "psnr_y: each needs a truth" in error_line("evaluate", truth, "--metrics", "psnr_y", "-q")
    assert "'psnr' does not exist; give one or more of psnr_y" in error_line("evaluate", truth, "--metrics", "psnr")
    assert "give one of s3diff-paper, osediff-paper, realesrgan" in error_line("evaluate", truth, "--protocol", "mine")
    assert "device" in error_line("evaluate", truth, *arguments, "--device", "nowhere")
    write_picture_file(truth / "a.webp", 0, 80, 64)
    assert "a.png and a.webp have one name" in error_line("evaluate", truth, *arguments)
    (truth / "a.webp").unlink()
    (truth / "b.png").write_bytes(b"no picture")
    printed = run("evaluate", truth, *arguments, code=1)
    assert re.search(r"hr: b: .*b\.png", printed)
    assert "Traceback" not in printed


def test_pairs_need_both_halves(pairs: Path, tmp_path: Path) -> None:
    write_picture_file(pairs / "lr" / "d.png", 0, 20, 16)
    with pytest.raises(PictureError, match=r"1 of 4 pictures have no partner in .*hr: d\.png"):
        find_set(str(pairs), work=tmp_path)
    (pairs / "lr" / "d.png").rename(pairs / "hr" / "d.png")
    with pytest.raises(PictureError, match=r"1 of 4 pictures have no partner in .*lr: d\.png"):
        find_set(str(pairs / "lr"), pairs / "hr", work=tmp_path)
    (pairs / "lr").rename(pairs / "other")
    with pytest.raises(PictureError, match="has hr but not its counterpart"):
        find_set(str(pairs), work=tmp_path)
    with pytest.raises(OptionError, match="no folder and no known name; give a folder or one of realsr"):
        find_set("set5", work=tmp_path)
    with pytest.raises(OptionError, match="leave out --truth"):
        find_set(str(pairs / "hr"), pairs / "hr", DegradeOptions("s3diff"), work=tmp_path)
    items = results_set(pairs / "hr", []).items
    assert list(match_results(pairs / "hr", items, partial=False)) == ["a", "b", "c", "d"]


def test_named_sets_are_looked_for_in_one_folder(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("S3DIFF_SETS", raising=False)
    with pytest.raises(OptionError, match=r"set realsr .* S3DIFF_SETS is not set; get it from its authors"):
        find_set("realsr", work=tmp_path)
    monkeypatch.setenv("S3DIFF_SETS", str(tmp_path / "sets"))
    with pytest.raises(OptionError, match=r"is not at .*sets.realsr"):
        find_set("realsr", work=tmp_path)
    (tmp_path / "sets").mkdir()
    pairs.rename(tmp_path / "sets" / "realsr")
    assert len(find_set("realsr", work=tmp_path).items) == 3


# --- protocols and measures -------------------------------------------------------------------------------------------


def test_protocols_name_real_measures_and_their_version_is_in_every_result(pairs: Path, tmp_path: Path) -> None:
    for protocol in PROTOCOLS.values():
        assert checked_names(protocol.metrics) == protocol.metrics
        assert protocol.title == f"{protocol.name} v{protocol.version}"
    assert "maniqa_koniq" in choose_protocol("s3diff-paper").metrics
    assert "maniqa_pipal" in choose_protocol("osediff-paper").metrics
    kept, left_out = computable_metrics(choose_protocol("realesrgan"), has_truth=False)
    assert (kept, list(left_out)) == (("niqe_bt601",), ["psnr_rgb_border4"])
    # NIQE needs larger pictures: it fails picture by picture and PSNR stays.
    printed = run(
        "evaluate", pairs / "hr", "--truth", pairs / "hr", "--protocol", "realesrgan", "-o", tmp_path / "o", code=1
    )
    assert "Protocol realesrgan v1" in printed
    assert all(row["protocol"] == "realesrgan v1" for row in scores(tmp_path / "o"))


def test_measures_that_cannot_be_loaded_are_named_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3DIFF_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    loaded, left_out = load_measures(list(MEASURES), torch.device("cpu"))
    assert set(loaded) == {"psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "psnr_y_border4", "psnr_rgb_border4", "grid"}
    assert set(left_out) == set(MEASURES) - set(loaded) - {"fid"}
    assert "perceptual_weights" in left_out["niqe"]
    assert '".[iqa]"' in left_out["maniqa_pipal"]


# --- statistics and the page ------------------------------------------------------------------------------------------


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    generator = np.random.default_rng(1)
    found = [MEAN.interval(generator.normal(3.0, 2.0, (60, 1))) for _ in range(100)]
    assert 85 <= sum(interval.low <= 3.0 <= interval.high for interval in found) <= 100
    widths = np.array([interval.high - interval.low for interval in found])
    assert widths.mean() == pytest.approx(2 * 1.96 * 2 / np.sqrt(60), rel=0.1)
    few, enough = (MEAN.interval(np.arange(number)[:, None] + 3.0) for number in (5, 6))
    assert (few.value, few.low, few.high) == (5.0, None, None), "too few to say anything about others"
    assert enough.leaves_out_zero
    assert not few.leaves_out_zero
    with pytest.raises(PictureError, match="no scores"):
        MEAN.interval(np.empty((0, 1)))


def test_paired_differences_and_the_grid_of_a_set() -> None:
    common = np.random.default_rng(2).normal(0, 10, 50)  # pictures differ far more than methods do
    difference = paired_difference(common + 0.5, common)
    assert difference.mean.low == pytest.approx(0.5)
    assert difference.share_higher == 1
    assert paired_difference(common, common).share_higher == 0.5
    grid = GRID_OF_SET.interval(np.array([[1.0, 1, 1, 1, 1, 4], [1.0, 1, 1, 1, 1, 1]] * 3))
    assert grid.value == pytest.approx(2.0)  # geometric
    assert grid.low is not None
    assert grid.high is not None
    assert 1 <= grid.low < 2 < grid.high <= 4


def test_names_of_files_stay_data_in_the_page(tmp_path: Path) -> None:
    names = ["a&b__DATA__"] if sys.platform == "win32" else ["<\u2215script><script>alert(1)<\u2215script>__DATA__"]
    names += [os.fsdecode(b"no\xffunicode")] if sys.platform == "linux" else []
    for name in names:
        write_picture_file(tmp_path / "hr" / f"{name}.png", 0, 80, 64)
        write_picture_file(tmp_path / "x" / f"{name}.png", 1, 80, 64)
    run("evaluate", tmp_path / "x", "--truth", tmp_path / "hr", "--metrics", "psnr_y", "-o", tmp_path / "o", "-q")
    data = page_data(tmp_path / "o")
    assert [picture["name"] for picture in data["pictures"]] == sorted(names)
    assert {row["picture"] for row in scores(tmp_path / "o")} == set(names)
    text = (tmp_path / "o" / "report.html").read_text("utf-8")
    assert "<script>alert" not in text
    assert not re.search(r'(?:src|href)\s*=\s*"?https?:', text)  # nothing is fetched


def test_names_are_compared_in_one_form_of_unicode(tmp_path: Path) -> None:
    """macOS takes an accented letter apart where Linux and Windows keep it."""
    composed, apart = "caf\u00e9", "cafe\u0301"
    write_picture_file(tmp_path / "hr" / f"{composed}.png", 0, 80, 64)
    write_picture_file(tmp_path / "x" / f"{apart}.png", 1, 80, 64)
    items = results_set(tmp_path / "hr", []).items
    assert [item.name for item in items] == [composed]
    assert list(match_results(tmp_path / "x", items, partial=False)) == [composed]
    assert find_set(str(tmp_path / "x"), tmp_path / "hr", work=tmp_path / "o").items[0].name == composed
    write_picture_file(tmp_path / "x" / f"{composed}.png", 1, 80, 64)
    if len(list((tmp_path / "x").iterdir())) == 2:  # not on a file system that takes them for one
        with pytest.raises(PictureError, match="have one name in"):
            match_results(tmp_path / "x", items, partial=False)


def test_trees_of_results_are_scored(tmp_path: Path) -> None:
    """As ``s3diff restore -r`` writes them: the path inside the folder is the name."""
    names = ["a", "day/a", "day/deep/b"]
    for number, name in enumerate(names):
        write_picture_file(tmp_path / "set" / f"{name}.png", number, 80, 64)
        write_picture_file(tmp_path / "x" / f"{name}.webp", number, 80, 64)
    output = tmp_path / "set" / "scores"
    for _ in range(2):  # what the run itself writes into the set's folder is no part of the set
        run(
            *("benchmark", "bicubic", tmp_path / "x", "--set", tmp_path / "set", "--preset", "mild", "--scale", "2"),
            *("--metrics", "psnr_y", "-o", output, "-q"),
        )
        assert {row["picture"] for row in scores(output)} == set(names)
    assert (output / "results" / "bicubic" / "day" / "deep" / "b.png").is_file()
    (tmp_path / "x" / "day" / "a.webp").unlink()
    with pytest.raises(PictureError, match=r"1 of 3 pictures have no result in .*: day/a;"):
        match_results(tmp_path / "x", results_set(output / "truth", []).items, partial=False)


def test_marks_of_the_page_formulas_and_transparency_in_names_and_results(tmp_path: Path) -> None:
    names = ["=1+1", "-2", "@SUM(A1)", "plain"]
    for number, name in enumerate(names):
        write_picture_file(tmp_path / "hr" / f"{name}.png", number, 80, 64)
        write_picture_file(tmp_path / "__DATA__" / f"{name}.png", number + 1, 80, 64)
    with Image.open(tmp_path / "__DATA__" / "plain.png") as image:
        image.putalpha(128)
        image.save(tmp_path / "__DATA__" / "plain.png")
    arguments = ("evaluate", tmp_path / "__DATA__", "--truth", tmp_path / "hr", "--metrics", "psnr_y")
    for _ in range(2):  # also from the scores on disk
        printed = run(*arguments, "-o", tmp_path / "o")
        assert "__DATA__: 1 result has transparency, which no measure looks at, such as plain" in printed
        assert page_data(tmp_path / "o")["methods"] == ["__DATA__"]
    with open(tmp_path / "o" / "scores.csv", newline="", encoding="utf-8") as file:
        assert {row["picture"] for row in csv.DictReader(file)} == {"'=1+1", "'-2", "'@SUM(A1)", "plain"}
    assert "[" not in "".join(line for line in printed.splitlines() if line.startswith("| __DATA__"))
    assert "Confidence intervals need 6 pictures or more." in printed


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("values", {"psnr_y": "high"}),
        ("values", [1]),
        ("seconds", "1"),
        ("degrees", [1]),
        ("size_px", 3),
        ("method", 1),
    ],
)
def test_a_line_of_scores_edited_by_hand_is_one_message(tmp_path: Path, field: str, value: object) -> None:
    for name in ("a", "b"):
        write_picture_file(tmp_path / "hr" / f"{name}.png", 0, 80, 64)
    arguments = ("evaluate", tmp_path / "hr", "--truth", tmp_path / "hr", "--metrics", "psnr_y", "-o", tmp_path / "o")
    run(*arguments, "-q")
    path = tmp_path / "o" / "scores.jsonl"
    first, *rest = path.read_text("utf-8").splitlines()
    edited = json.dumps({**json.loads(first), field: value})
    for number, lines in ((1, [edited, *rest]), (3, [first, *rest, edited])):
        path.write_text("\n".join(lines) + "\n", "utf-8")
        assert re.search(rf"scores\.jsonl: line {number} is no score; move the file away", error_line(*arguments))


def test_warming_up_is_no_part_of_a_models_seconds(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_compact(tmp_path / "tiny")
    method = Model("tiny", str(tmp_path / "tiny"), "cpu")
    restored: list[tuple[int, int]] = []
    real = method.restorer.restore

    def slow_at_first(picture: Picture, options: RestoreOptions) -> Any:
        restored.append((picture.width, picture.height))
        if len(restored) == 1:
            time.sleep(3)
        return real(picture, options)

    monkeypatch.setattr(method.restorer, "restore", slow_at_first)
    item = find_set(str(pairs), work=tmp_path / "o").items[0]
    found = [method.restore(item, tmp_path / "a.png", (80, 64)) for _ in range(2)]
    assert len(restored) == 3
    assert all(made.seconds is not None and made.seconds < 3 for made in found)


# --- the baselines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(64, 80), (9, 31), (16, 7)])
def test_baselines_equal_pillows(kernel: str, size: tuple[int, int]) -> None:
    plane = torch.rand(1, 1, 16, 20, generator=torch.Generator().manual_seed(0))
    filters = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
    wanted = Image.fromarray(plane[0, 0].numpy()).resize((size[1], size[0]), filters[kernel])
    found = resample(plane, size[0], size[1], kernel)
    np.testing.assert_allclose(found[0, 0].numpy(), np.clip(np.asarray(wanted), 0, 1), atol=2e-6)
    with pytest.raises(OptionError, match="bicubic, lanczos"):
        resample(plane, 4, 4, "nearest")
