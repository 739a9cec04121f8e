"""Scores of a folder of restored pictures against the true ones.

On the command line: ``python -m s3diff.evaluation.benchmarks RESULTS --truth FOLDER``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from s3diff.errors import OptionError, PictureError, S3DiffError
from s3diff.evaluation.metrics import psnr_y, ssim_y
from s3diff.evaluation.perceptual import DISTS, LPIPS
from s3diff.evaluation.spectrum import grid_contrasts, grid_measure
from s3diff.images.codecs import list_pictures, read_picture, to_tensor

Metric = Literal["psnr_y", "ssim_y", "lpips_alex", "dists", "grid"]
#: All metrics, in the order of the table.
METRICS: tuple[Metric, ...] = get_args(Metric)
#: Whether larger is better; the grid has a best value of 1.
_BETTER: dict[Metric, str] = {"psnr_y": "higher", "ssim_y": "higher", "lpips_alex": "lower", "dists": "lower"}

_PairMeasure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class PictureScores:
    """The scores of one picture.

    Attributes:
        name: file name of the result.
        values: one number for each metric asked for.
        grid_contrasts: [1, 2, 3] of the result and of the truth, None where ``grid`` was not asked for.
    """

    name: str
    values: dict[Metric, float]
    grid_contrasts: tuple[torch.Tensor, torch.Tensor] | None = None


def score_folder(
    results: str | os.PathLike[str],
    truth: str | os.PathLike[str],
    metrics: Sequence[Metric] = METRICS,
    device: str | torch.device = "cpu",
) -> list[PictureScores]:
    """Score every picture in ``results`` against the one of the same name in ``truth``, sorted by name.

    The extension may differ where the rest of the name leaves no doubt. True pictures without a result are left out.

    Args:
        results: folder of restored pictures.
        truth: folder of true pictures, each as large as its result.
        metrics: which of ``METRICS``.
        device: where the perceptual networks run.

    Raises:
        OptionError: a metric or the device does not exist.
        PictureError: a folder is empty or unreadable, a result has no partner or one of another size.
        MissingExtraError: weights of a perceptual metric were not fetched yet.
    """
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown or not metrics:
        given = f"{unknown[0]!r} does not exist" if unknown else "none is given"
        raise OptionError(f"metrics: {given}; give one or more of {', '.join(METRICS)}")
    pairs = pair_by_name(results, truth)  # before the networks are loaded: a wrong folder is told at once
    measures = _pair_measures(metrics, _usable(device))
    return [_score_pair(result, true, metrics, measures) for result, true in pairs]


def pair_by_name(results: str | os.PathLike[str], truth: str | os.PathLike[str]) -> list[tuple[Path, Path]]:
    """Each picture in ``results`` with its partner in ``truth``; pairing goes by name, never by order.

    Raises:
        PictureError: a folder is empty or unreadable; a result has no partner, or more than one.
    """
    result_paths, truth_paths = list_pictures(results), list_pictures(truth)
    for folder, found in ((results, result_paths), (truth, truth_paths)):
        if not found:
            raise PictureError(f"{os.fspath(folder)} holds no pictures; give a folder of pictures")
    by_name = {path.name: path for path in truth_paths}
    by_stem: dict[str, list[Path]] = {}
    for path in truth_paths:
        by_stem.setdefault(path.stem, []).append(path)
    pairs, missing = [], []
    for path in result_paths:
        partners = [by_name[path.name]] if path.name in by_name else by_stem.get(path.stem, [])
        if len(partners) > 1:
            names = " and ".join(partner.name for partner in partners)
            raise PictureError(f"{path.name} could be compared with {names}; leave one of them in {os.fspath(truth)}")
        if partners:
            pairs.append((path, partners[0]))
        else:
            missing.append(path.name)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise PictureError(
            f"{len(missing)} of {len(result_paths)} results have no partner in {os.fspath(truth)}: "
            f"{', '.join(missing[:3])}{more}; name them alike"
        )
    return pairs


def mean_scores(rows: Sequence[PictureScores]) -> dict[Metric, float]:
    """The mean of each metric; of ``grid`` the measure of the whole set, which is not the mean of the single ones.

    Raises:
        PictureError: there are no rows.
    """
    if not rows:
        raise PictureError("there are no scores to average; score at least one picture")
    means = {metric: sum(row.values[metric] for row in rows) / len(rows) for metric in rows[0].values}
    if "grid" in means:
        means["grid"] = grid_measure(row.grid_contrasts[0] for row in rows if row.grid_contrasts is not None).contrast
    return means


def _usable(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's three ways of saying no
        raise OptionError(
            f"device is {str(device)!r}, which cannot be used here; give cpu or an available one"
        ) from error


def _pair_measures(metrics: Sequence[Metric], device: torch.device) -> dict[Metric, _PairMeasure]:
    measures: dict[Metric, _PairMeasure] = {}
    if "psnr_y" in metrics:
        measures["psnr_y"] = psnr_y
    if "ssim_y" in metrics:
        measures["ssim_y"] = ssim_y
    if "lpips_alex" in metrics:
        lpips = LPIPS("alex").to(device)
        measures["lpips_alex"] = lambda result, true: lpips(2 * result.to(device) - 1, 2 * true.to(device) - 1)
    if "dists" in metrics:
        dists = DISTS().to(device)
        measures["dists"] = lambda result, true: dists(result.to(device), true.to(device))
    return measures


@torch.inference_mode()
def _score_pair(
    result_path: Path, truth_path: Path, metrics: Sequence[Metric], measures: dict[Metric, _PairMeasure]
) -> PictureScores:
    result, true = to_tensor(read_picture(result_path)), to_tensor(read_picture(truth_path))
    if result.shape != true.shape:
        sizes = [f"{image.shape[3]} x {image.shape[2]}" for image in (result, true)]
        raise PictureError(
            f"{result_path.name} is {sizes[0]} pixels, the truth {truth_path} is {sizes[1]}; give results of its size"
        )
    values: dict[Metric, float] = {}
    contrasts = None
    try:
        for metric in metrics:
            if metric == "grid":
                contrasts = grid_contrasts(result), grid_contrasts(true)
                values[metric] = grid_measure(contrasts[:1]).contrast
            else:
                values[metric] = float(measures[metric](result, true))
    except PictureError as error:
        raise PictureError(f"{result_path.name}: {error}") from error
    return PictureScores(result_path.name, values, contrasts)


def _table(rows: Sequence[PictureScores], each: bool) -> str:
    """The mean table as text; with ``each`` every picture above it."""
    means = mean_scores(rows)
    lines = [(row.name, row.values) for row in rows] if each else []
    lines.append((f"mean of {len(rows)}", means))
    width = max(len(name) for name, _ in lines)
    text = [" ".join([" " * width, *(f"{metric:>10}" for metric in means)])]
    text.append(" ".join([" " * width, *(f"{_BETTER.get(metric, '1 is none'):>10}" for metric in means)]))
    text += [
        " ".join([f"{name:<{width}}", *(f"{value:>10.4f}" for value in values.values())]) for name, values in lines
    ]
    contrasts = [row.grid_contrasts for row in rows if row.grid_contrasts is not None]
    for which, name in enumerate(("results", "truth")):
        if contrasts:
            grid = grid_measure(pair[which] for pair in contrasts)
            text.append(f"grid of the {name}: {grid.contrast:.3f}, {grid.direction}, every {grid.period_px} px")
    return "\n".join(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m s3diff.evaluation.benchmarks``; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m s3diff.evaluation.benchmarks", description="Score restored pictures against the true ones."
    )
    parser.add_argument("results", help="folder of restored pictures")
    parser.add_argument("--truth", required=True, help="folder of true pictures with the same names")
    parser.add_argument("--metrics", default=",".join(METRICS), help="comma-separated (default %(default)s)")
    parser.add_argument("--device", default="cpu", help="where the perceptual networks run (default %(default)s)")
    parser.add_argument("--each", action="store_true", help="print every picture, not only the mean")
    given = parser.parse_args(arguments)
    try:
        wanted = [name.strip() for name in given.metrics.split(",") if name.strip()]
        print(_table(score_folder(given.results, given.truth, wanted, given.device), given.each))
    except S3DiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
