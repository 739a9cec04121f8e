"""Quality and speed of bicubic, a model, Real-ESRGAN and anyone's results on a folder of pairs, in one run.

    python benchmarks/quality.py LR TRUTH [--model compact] [--results NAME=FOLDER]... [--limit N] [--output FOLDER]
    python benchmarks/quality.py LR TRUTH --check FIGURES.json

Quality is what ``s3diff benchmark`` prints with the measures of the README's table; FOLDER gets its reports and can be
gone on with: what was restored from the same files by the same weights is not restored again. Then the seconds that 128
-> 512 and 256 -> 1024 px take on this CPU. Real-ESRGAN takes part where its two packages are installed (see
``real_esrgan.py``). ``--check`` compares the figures with recorded ones and ends with exit code 1 where they differ by
more than ``ROUNDING``. Needs the weights of the measures (``python -m s3diff.evaluation.perceptual_weights``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import real_esrgan
import torch

from s3diff import Restorer
from s3diff.errors import PictureError
from s3diff.evaluation.methods import Method, parse_methods
from s3diff.evaluation.protocols import choose_protocol
from s3diff.evaluation.report import Row, markdown, table
from s3diff.evaluation.report_page import write_reports
from s3diff.evaluation.scorebook import Score
from s3diff.evaluation.scoring import evaluate
from s3diff.evaluation.sets import SetItem, find_set
from s3diff.images.files.reading import list_pictures, read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import Picture, from_tensor, to_tensor
from s3diff.images.resampling import resample

SCALE = 4
METRICS = ("psnr_y", "lpips_alex", "dists", "grid")
#: Sides of the inputs that are timed.
TIMED_PX = (128, 256)
TIMED_RUNS = 5
#: How far other processors and versions of torch may move the means over the pairs, by measure.
ROUNDING = {"psnr_y": 0.02, "lpips_alex": 0.001, "dists": 0.001, "grid": 0.05}


class OfRealEsrgan(Method):
    """Real-ESRGAN as a column of the table."""

    def __init__(self, network: Callable[[Picture], Picture], files: Iterable[Path]) -> None:
        self.name, self.network = real_esrgan.NAME, network
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
        self.identity = f"{real_esrgan.NAME} sha256:{digest}"

    def result_path(self, item: SetItem, folder: Path) -> Path:
        return folder / self.name / f"{item.name}.png"

    def restore(self, item: SetItem, target: Path, size: tuple[int, int]) -> Score:
        if item.low_quality is None:
            raise PictureError(f"{item.name} has no low-quality picture; give the folder that holds it")
        picture = read_picture(item.low_quality)
        started = time.perf_counter()
        restored = self.network(picture)
        seconds = time.perf_counter() - started
        write_picture(restored if (restored.width, restored.height) == size else resized(restored, *size), target)
        return self.made(item, seconds)


def resized(picture: Picture, width_px: int, height_px: int) -> Picture:
    """The picture at another size, by bicubic interpolation."""
    image = resample(to_tensor(picture), height_px, width_px, "bicubic")
    return replace(picture, pixels=from_tensor(image, picture))


def median_seconds(method: Callable[[Picture], Picture], picture: Picture) -> float:
    """Of one picture, after one that warms up."""
    seconds = []
    for _ in range(1 + TIMED_RUNS):
        started = time.perf_counter()
        method(picture)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def differing(rows: Iterable[Row], recorded: dict[str, dict[str, float]]) -> list[str]:
    """Name each figure that is further from the recorded one than rounding goes."""
    return [
        f"{row.method} {name}: {row.figures[name].value:.4f}, recorded {recorded[row.method][name]}"
        for row in rows
        if row.method in recorded
        for name, tolerance in ROUNDING.items()
        if abs(row.figures[name].value - recorded[row.method][name]) > tolerance
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("low_quality", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--results", action="append", default=[], metavar="NAME=FOLDER", help="results of others")
    parser.add_argument("--limit", type=int, help="only the first N pictures")
    parser.add_argument("--output", type=Path, default=Path("benchmark"), help="folder of the run (default benchmark)")
    parser.add_argument("--check", type=Path, metavar="FILE", help="recorded figures to compare with")
    given = parser.parse_args()
    whole = find_set(str(given.low_quality), given.truth, work=given.output)
    pictures = whole.limited(given.limit)
    restorer = Restorer.from_pretrained(given.model, device="cpu")
    timed: dict[str, Callable[[Picture], Picture]] = {
        "bicubic": lambda picture: resized(picture, SCALE * picture.width, SCALE * picture.height),
        Path(given.model).name: lambda picture: restorer.restore(picture).picture,
    }
    methods, others = ["bicubic", given.model, *given.results], list[Method]()
    if (files := real_esrgan.model_files()) is not None:
        timed[real_esrgan.NAME] = network = real_esrgan.RealEsrgan(files, torch.get_num_threads())
        others.append(OfRealEsrgan(network, files))
    compared = parse_methods(methods, whole.items, device="cpu", partial=given.limit is not None)
    found = evaluate(
        pictures,
        [*compared, *others],
        choose_protocol("", METRICS),
        folder=given.output,
        device="cpu",
        remark=print,
        scale=SCALE,
    )
    print(markdown(found))
    write_reports(found, given.output)
    if given.check is not None:
        if wrong := differing(table(found), json.loads(given.check.read_text("utf-8"))["results"]):
            raise SystemExit("\n".join(wrong))
        print(f"as recorded in {given.check}")
        return
    first = read_picture(list_pictures(given.low_quality)[0])
    for side in TIMED_PX:
        for name, method in timed.items():
            seconds = median_seconds(method, resized(first, side, side))
            print(f"{name:12} {side} -> {SCALE * side} px: {seconds:.3f} s", flush=True)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
