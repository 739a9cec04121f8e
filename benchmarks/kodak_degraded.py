"""Kodak24 with the paper's degradations: bicubic, models and Real-ESRGAN in one run.

    python benchmarks/kodak_degraded.py [MODEL ...] [--shared ../shared] [--output FOLDER] [--limit N] [--check]

MODEL is a model's name or folder, ``compact`` where none is given. Centre crops of 384 px; their inputs are those of
``s3diff degrade --preset s3diff --seed 7``. Real-ESRGAN takes part where its two packages are installed (see
``real_esrgan.py``). FOLDER gets the reports of ``s3diff benchmark`` and can be gone on with: what was restored from the
same files by the same weights is not restored again. ``--check`` ends with exit code 1 where a model is behind
Real-ESRGAN or takes more than a third of its time. Needs the weights of the measures (``python -m
s3diff.evaluation.perceptual_weights``).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import real_esrgan
import torch
from dial import cut_centre
from enlargers import as_picture
from quality import OfRealEsrgan
from targets import Target, all_reached, at_least, at_most

from s3diff.degradation.settings import DegradeOptions
from s3diff.errors import S3DiffError
from s3diff.evaluation.methods import Method, parse_methods
from s3diff.evaluation.protocols import choose_protocol
from s3diff.evaluation.report import Row, markdown, table
from s3diff.evaluation.report_page import write_reports
from s3diff.evaluation.scoring import Evaluation, evaluate
from s3diff.evaluation.sets import EvaluationSet, find_set
from s3diff.images.files.reading import list_pictures, read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import to_tensor

CROP_PX = 384
DEGRADATION = DegradeOptions("s3diff", scale=4, seed=7)
METRICS = ("psnr_y", "lpips_alex", "dists", "niqe")
#: A model's share of Real-ESRGAN's time, at most.
TIME_SHARE = 1 / 3


def cropped(folder: Path, target: Path) -> Path:
    """Centre crops of all pictures, written to ``target`` under their names, which the degradations are drawn from."""
    target.mkdir(parents=True, exist_ok=True)
    for path in list_pictures(folder):
        place = target / f"{path.stem}.png"
        if not place.is_file():
            write_picture(as_picture(cut_centre(to_tensor(read_picture(path)), CROP_PX)), place)
    return target


def degraded_set(kodak: Path, output: Path) -> EvaluationSet:
    """The crops with their inputs; the crops lie in a folder beside ``output``, for a set leaves out its own run."""
    crops = cropped(kodak, output.with_name(f"{output.name}-crops"))
    return find_set(str(crops), degradation=DEGRADATION, work=output)


def measured(models: list[str], kodak: Path, output: Path, limit: int | None) -> Evaluation:
    """Restore and score; bicubic first, Real-ESRGAN last."""
    whole = degraded_set(kodak, output)
    methods: list[Method] = [*parse_methods(["bicubic", *models], whole.items, device="cpu")]
    if (files := real_esrgan.model_files()) is not None:
        methods.append(OfRealEsrgan(real_esrgan.RealEsrgan(files, torch.get_num_threads()), files))
    protocol = choose_protocol("", METRICS)
    return evaluate(
        whole.limited(limit), methods, protocol, folder=output, device="cpu", remark=print, scale=DEGRADATION.scale
    )


def targets(rows: list[Row]) -> list[Target]:
    """What is asked of every model, where Real-ESRGAN took part."""
    by_name = {row.method: row for row in rows}
    rival = by_name.pop(real_esrgan.NAME, None)
    asked: list[Target] = []
    for name, row in by_name.items():
        if rival is None or name == "bicubic":
            continue
        for metric in ("lpips_alex", "dists"):
            asked.append(at_most(f"{name}, {metric}", row.figures[metric].value, rival.figures[metric].value))
        asked.append(at_least(f"{name}, psnr_y", row.figures["psnr_y"].value, rival.figures["psnr_y"].value))
        if row.seconds is not None and rival.seconds is not None:
            asked.append(at_most(f"{name}, time over Real-ESRGAN's", row.seconds / rival.seconds, TIME_SHARE))
    return asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder that holds data/")
    parser.add_argument("--output", type=Path, default=Path("benchmark/kodak-degraded"), help="folder of the run")
    parser.add_argument("--limit", type=int, help="only the first N pictures")
    parser.add_argument("--check", action="store_true", help="exit code 1 where a target is missed")
    given = parser.parse_args()
    kodak = given.shared / "data/benchmarks/kodak24"
    if given.check and real_esrgan.model_files() is None:
        parser.error("--check needs Real-ESRGAN; see benchmarks/real_esrgan.py")
    try:
        found = measured(given.models or ["compact"], kodak, given.output, given.limit)
        print(markdown(found))
        write_reports(found, given.output)
    except S3DiffError as error:
        raise SystemExit(f"error: {error}") from error
    if not all_reached(targets(table(found))) and given.check:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
