"""What the embedded model does and does not do: the figures and tables of docs/compact.md, in one run.

    python benchmarks/compact_report.py [--shared ../shared] [--only dial]... [--pictures FOLDER]
    python benchmarks/compact_report.py --tables

Parts: ``dial`` (degrees forced by hand on noisy and on blurred pictures), ``guidance``, ``modulation`` (the estimated
degrees against the same ones for all pictures), ``consistency`` (the result, reduced again, against its input) and
``patterns`` (drawn pictures, see ``drawn_patterns.py``). Each writes its figures to
benchmarks/results/compact-report.json, from which the tables between the markers of docs/compact.md are made;
``--tables`` makes them again and measures nothing. What the file holds of another model is dropped. FOLDER gets the
restored patterns. ``guidance`` and ``modulation`` need the weights of the measures (``python -m
s3diff.evaluation.perceptual_weights``).
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from degrees import reduced
from drawn_patterns import drawn_patterns
from hardware import machine
from picture_measures import gradient_energy
from torch.nn import functional as F

from s3diff import RestoreOptions, Restorer
from s3diff.degradation.jpeg import compress_jpeg
from s3diff.degradation.kernels import filter_per_image, gaussian_kernels
from s3diff.degradation.noise import gaussian_noise
from s3diff.evaluation.measures import load_measures
from s3diff.evaluation.metrics import psnr_y
from s3diff.images.codecs import from_array, list_pictures, read_picture, to_tensor, write_picture
from s3diff.images.resampling import enlarge, resample
from s3diff.restoration.restored import Degrees

REPOSITORY = Path(__file__).resolve().parent.parent
SCALE = 4
#: The dial is turned on crops of this side, reduced by 4; consistency is measured on crops that are not reduced.
DIAL_CROP_PX, CONSISTENCY_CROP_PX = 256, 128
#: Kodak's pictures take part in turn, to keep the run at ten minutes of one core.
PICTURE_STEP = 2
FORCED = (0.0, 0.5, 1.0)
#: Levels of 255, added to the reduced picture; and to a flat one.
NOISE_SIGMA = 10
FLAT_NOISE_SIGMAS = (3, 10, 25)
#: Pixels of the picture before it is reduced; in the middle of what real cameras of RealSR do.
BLUR_SIGMA_PX, KERNEL_SIDE_PX = 2.6, 21
GUIDANCES = (1.0, 1.07, 1.2, 1.5)
PAIR_STEP, NUM_PAIRS = 4, 24
MEASURES = ("psnr_y", "lpips_alex", "dists")
JPEG_QUALITY = 50
SMOOTH_PATTERNS = ("black", "white", "mid grey", "gradient")

#: A row of a table: figures by column.
Row = dict[str, Any]


def restored(restorer: Restorer, image: torch.Tensor, **options: Any) -> tuple[torch.Tensor, Degrees]:
    """Restore [1, 3, h, w] in [0, 1], rounded to 8 bits as a file would be; gives [1, 3, 4 h, 4 w] and the degrees."""
    pixels = (image[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    result = restorer.restore(from_array(pixels), RestoreOptions(scale=SCALE, **options))
    return to_tensor(result.picture), result.degrees


def bicubic(image: torch.Tensor) -> torch.Tensor:
    return resample(image, SCALE * image.shape[-2], SCALE * image.shape[-1], "bicubic")


def centre_crops(folder: Path, side_px: int) -> list[torch.Tensor]:
    """[1, 3, side_px, side_px] of every second picture."""
    crops = []
    for path in list_pictures(folder)[::PICTURE_STEP]:
        image = to_tensor(read_picture(path))
        top, left = ((side - side_px) // 2 for side in image.shape[-2:])
        crops.append(image[..., top : top + side_px, left : left + side_px])
    return crops


def noisy(image: torch.Tensor, generator: torch.Generator, sigma: float = NOISE_SIGMA) -> torch.Tensor:
    noise = gaussian_noise(image, torch.tensor([float(sigma)]), torch.zeros(1, dtype=torch.bool), generator)
    return (image + noise).clamp(0, 1)


def mean(values: Iterable[Any]) -> float:
    numbers = [float(value) for value in values]
    return sum(numbers) / len(numbers)


# The dial.


def dial(restorer: Restorer, data: Path, _: Path | None) -> dict[str, list[Row]]:
    """Degrees by hand: 0, 0.5, 1 and the estimate, on noisy and on blurred pictures; bicubic beside them."""
    truths = centre_crops(data / "benchmarks/kodak24", DIAL_CROP_PX)
    return {"noise": noise_dial(restorer, truths), "blur": blur_dial(restorer, truths)}


def noise_dial(restorer: Restorer, truths: Sequence[torch.Tensor]) -> list[Row]:
    """Grain in levels: standard deviation of the noisy picture's result minus the clean one's, at equal settings.

    ``flat`` is that of grey squares with noise of several strengths, where nothing but the noise can change.
    """
    generator = torch.Generator().manual_seed(0)
    pairs = [(reduced(truth), noisy(reduced(truth), generator)) for truth in truths]
    squares = [noisy(torch.full_like(pairs[0][0], 0.5), generator, sigma) for sigma in FLAT_NOISE_SIGMAS]
    rows = []
    for setting in ("bicubic", *FORCED, "estimate"):
        grain, quality, used = [], [], []
        for truth, (clean, grainy) in zip(truths, pairs, strict=True):
            if setting == "bicubic":
                without, result = bicubic(clean), bicubic(grainy)
            else:
                without, _ = restored(restorer, clean, **forced("noise", setting))
                result, degrees = restored(restorer, grainy, **forced("noise", setting))
                used.append(degrees.noise)
            grain.append(255 * (result - without).std())
            quality.append(psnr_y(result, truth))
        rows.append({"setting": setting, "degree": mean(used) if used else None, "grain": mean(grain)})
        flat = [
            bicubic(square) if setting == "bicubic" else restored(restorer, square, **forced("noise", setting))[0]
            for square in squares
        ]
        rows[-1] |= {"flat": [255 * float(result.std()) for result in flat], "psnr_y": mean(quality)}
    return rows


def forced(name: str, setting: float | str) -> dict[str, Any]:
    """Options that force a degree, or leave it to the estimate."""
    return {} if setting == "estimate" else {name: setting}


def blur_dial(restorer: Restorer, truths: Sequence[torch.Tensor]) -> list[Row]:
    """Edges: mean squared difference of neighbouring luma, as a share of the truth's."""
    kernel = gaussian_kernels(KERNEL_SIDE_PX, torch.tensor([BLUR_SIGMA_PX], dtype=torch.float64)).to(torch.float32)
    rows = []
    for setting in ("bicubic", *FORCED, "estimate"):
        edges, quality, used = [], [], []
        for truth in truths:
            soft = reduced(filter_per_image(truth, kernel)).clamp(0, 1)
            if setting == "bicubic":
                result = bicubic(soft)
            else:
                result, degrees = restored(restorer, soft, **forced("blur", setting))
                used.append(degrees.blur)
            edges.append(gradient_energy(result) / gradient_energy(truth))
            quality.append(psnr_y(result, truth))
        rows.append({"setting": setting, "degree": mean(used) if used else None, "edges": mean(edges)})
        rows[-1]["psnr_y"] = mean(quality)
    return rows


# Guidance and modulation.


def guidance(restorer: Restorer, data: Path, _: Path | None) -> list[Row]:
    """PSNR-Y, LPIPS and DISTS by guidance."""
    found = scored(restorer, data, {f"{weight:g}": {"guidance": weight} for weight in GUIDANCES})
    return [{"guidance": float(name), **figures} for name, figures in found.items()]


def modulation(restorer: Restorer, data: Path, _: Path | None) -> list[Row]:
    """The same with every picture's own matrices, and with the same matrices for all: plain LoRA, at use."""
    degrees = [restorer.restore(path).degrees for path in chosen_pairs(data)]
    means = {name: mean(getattr(each, name) for each in degrees) for name in ("blur", "noise")}
    settings: dict[str, dict[str, float]] = {
        "estimated for each picture": {},
        f"the mean for all, blur {means['blur']:.2f} and noise {means['noise']:.2f}": means,
        "0 for all": {"blur": 0.0, "noise": 0.0},
        "1 for all": {"blur": 1.0, "noise": 1.0},
    }
    return [{"degrees": name, **figures} for name, figures in scored(restorer, data, settings).items()]


def chosen_pairs(data: Path) -> list[Path]:
    """Low-quality pictures of every fourth real-camera pair."""
    return list_pictures(data / "realsr_pairs/lr")[::PAIR_STEP][:NUM_PAIRS]


def scored(restorer: Restorer, data: Path, settings: dict[str, dict[str, float]]) -> dict[str, Row]:
    """Mean figures on :func:`chosen_pairs` by the name of the options."""
    measures, missing = load_measures(MEASURES, torch.device("cpu"))
    if missing:
        raise SystemExit(next(iter(missing.values())))
    scores: dict[str, list[list[float]]] = {name: [] for name in settings}
    with torch.inference_mode():
        for path in chosen_pairs(data):
            low_quality, truth = (to_tensor(read_picture(data / "realsr_pairs" / s / path.name)) for s in ("lr", "hr"))
            for name, options in settings.items():
                result, _degrees = restored(restorer, low_quality, **options)
                scores[name].append([float(measure(result, truth)) for measure in measures.values()])
    return {
        name: dict(zip(measures, map(mean, zip(*found, strict=True)), strict=True)) for name, found in scores.items()
    }


# Robustness.


def consistency(restorer: Restorer, data: Path, _: Path | None) -> list[Row]:
    """The result, reduced by 4 by the mean of each square, against its input and against the clean picture."""
    generator = torch.Generator().manual_seed(0)
    damages: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "clean": lambda image: image,
        f"noise, sigma {NOISE_SIGMA}": lambda image: noisy(image, generator),
        f"JPEG, quality {JPEG_QUALITY}": lambda image: compress_jpeg(image, JPEG_QUALITY),
    }
    crops = centre_crops(data / "benchmarks/kodak24", CONSISTENCY_CROP_PX)
    rows = []
    for name, damage in damages.items():
        found = []
        for clean in crops:
            given = (damage(clean) * 255).round() / 255
            again = reduced(restored(restorer, given)[0])
            plain = reduced(bicubic(given))
            pairs = ((again, given), (plain, given), (again, clean), (plain, clean), (given, clean))
            found.append([float(psnr_y(first, second)) for first, second in pairs])
        names = ("to_input", "bicubic_to_input", "to_clean", "bicubic_to_clean", "input_to_clean")
        means = dict(zip(names, map(mean, zip(*found, strict=True)), strict=True))
        rows.append({"input": name, "lowest": min(row[0] for row in found), **means})
    return rows


def patterns(restorer: Restorer, _: Path, pictures: Path | None) -> list[Row]:
    """Deviations in levels of 255 on drawn pictures."""
    rows = []
    for name, pixels in drawn_patterns().items():
        image = to_tensor(from_array(pixels))
        result, degrees = restored(restorer, image)
        rows.append({"pattern": name, **deviations(result, image, smooth=name in SMOOTH_PATTERNS)})
        rows[-1] |= {"blur": degrees.blur, "noise": degrees.noise}
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            shown = torch.cat([image.repeat_interleave(SCALE, -1).repeat_interleave(SCALE, -2), result], dim=3)
            levels = (shown[0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
            write_picture(from_array(levels), pictures / f"{re.sub('[^a-z0-9]+', '_', name)}.png")
    return rows


def deviations(result: torch.Tensor, given: torch.Tensor, *, smooth: bool) -> Row:
    """How far the reduced result is from the input, values from those nearby, and the mean colour from the input's.

    What is smooth is also compared with its bilinear enlargement.
    """
    reduced_error = (reduced(result) - given).abs()
    expected = enlarge(given, SCALE * given.shape[-2], SCALE * given.shape[-1])
    return {
        "reduced_largest": 255 * float(reduced_error.max()),
        "reduced_mean": 255 * float(reduced_error.mean()),
        "overshoot": 255 * overshoot(result, given),
        "overshoot_of_bicubic": 255 * overshoot(bicubic(given), given),
        "colour": 255 * float((result.mean((2, 3)) - given.mean((2, 3))).abs().max()),
        "enlarged_largest": 255 * float((result - expected).abs().max()) if smooth else None,
    }


def overshoot(result: torch.Tensor, given: torch.Tensor) -> float:
    """How far the result leaves the range of the 3 x 3 input pixels around it, at most."""
    highest = F.max_pool2d(given, 3, stride=1, padding=1)
    lowest = -F.max_pool2d(-given, 3, stride=1, padding=1)
    above, below = (side.repeat_interleave(SCALE, -1).repeat_interleave(SCALE, -2) for side in (highest, lowest))
    return max(float((result - above).max()), float((below - result).max()), 0.0)


# Tables.


def table(header: str, rows: Iterable[Sequence[str]]) -> str:
    columns = header.split("|")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.strip() for cell in line)} |" for line in lines)


def setting_label(row: Row) -> str:
    if row["setting"] == "bicubic":
        return "bicubic"
    return f"estimate ({row['degree']:.2f} in the mean)" if row["setting"] == "estimate" else f"{row['setting']:g}"


def tables(report: dict[str, Any]) -> dict[str, str]:
    """Markdown by the marker's name, of the parts that the report has."""
    made = {}
    if "dial" in report:
        noise, blur = report["dial"]["noise"], report["dial"]["blur"]
        cells = [
            (setting_label(row), *(f"{value:.2f}" for value in (row["grain"], *row["flat"], row["psnr_y"])))
            for row in noise
        ]
        flat = " | ".join(f"flat grey, sigma {sigma}" for sigma in FLAT_NOISE_SIGMAS)
        made["noise"] = table(f"noise degree | grain | {flat} | PSNR-Y", cells)
        cells = [(setting_label(row), f"{100 * row['edges']:.1f} %", f"{row['psnr_y']:.2f}") for row in blur]
        made["blur"] = table("blur degree | gradient energy, truth 100 % | PSNR-Y", cells)
    formats = dict(zip(MEASURES, (".2f", ".4f", ".4f"), strict=True))
    for part, first in (("guidance", "guidance"), ("modulation", "degrees")):
        if part in report:
            cells = [
                (f"{row[first]}", *(format(row[name], style) for name, style in formats.items()))
                for row in report[part]
            ]
            made[part] = table(f"{first} | PSNR-Y | LPIPS (AlexNet) | DISTS", cells)
    if "consistency" in report:
        keys = ("to_input", "lowest", "bicubic_to_input", "to_clean", "bicubic_to_clean", "input_to_clean")
        cells = [(row["input"], *(f"{row[key]:.1f}" for key in keys)) for row in report["consistency"]]
        header = "input | to the input | lowest | bicubic's | to the clean one | bicubic's | the input itself"
        made["consistency"] = table(header, cells)
    if "patterns" in report:
        keys = ("reduced_largest", "reduced_mean", "overshoot", "overshoot_of_bicubic", "colour", "enlarged_largest")
        cells = [
            (row["pattern"], *("" if row[key] is None else f"{row[key]:.1f}" for key in keys))
            for row in report["patterns"]
        ]
        header = "pattern | reduced: largest | reduced: mean | overshoot | bicubic's | mean colour | smooth: largest"
        made["patterns"] = table(header, cells)
    return made


def with_tables(text: str, made: dict[str, str]) -> str:
    """The document with what stands between ``<!-- table NAME -->`` and ``<!-- end -->`` replaced."""
    for name, body in made.items():
        begin, end = f"<!-- table {name} -->\n", "\n<!-- end -->"
        head, found, rest = text.partition(begin)
        _, ended, tail = rest.partition(end)
        if not found or not ended:
            raise SystemExit(f"the document has no marker {begin.strip()} followed by {end.strip()}; add them")
        text = head + begin + body + end + tail
    return text


PARTS: dict[str, Callable[[Restorer, Path, Path | None], Any]] = {
    "patterns": patterns,
    "dial": dial,
    "consistency": consistency,
    "guidance": guidance,
    "modulation": modulation,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--model", default="compact")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="one part; may be given again")
    parser.add_argument("--tables", action="store_true", help="measure nothing, make the tables again")
    parser.add_argument("--pictures", type=Path, help="folder for the restored patterns")
    parser.add_argument("--json", type=Path, default=REPOSITORY / "benchmarks/results/compact-report.json")
    parser.add_argument("--document", type=Path, default=REPOSITORY / "docs/compact.md")
    given = parser.parse_args()
    if given.tables and not given.json.is_file():
        parser.error(f"--tables: there is no {given.json}; measure first, without --tables")
    report = json.loads(given.json.read_text("utf-8")) if given.json.is_file() else {}
    if not given.tables:
        restorer = Restorer.from_pretrained(given.model, device="cpu")
        if report.get("model") != restorer.model.fingerprint:  # one model's figures in one report
            report = {"model": restorer.model.fingerprint}
        report["machine"] = machine(restorer.device) | {"precision": restorer.precision}
        for part in given.only or PARTS:
            report[part] = PARTS[part](restorer, given.shared / "data", given.pictures)
            given.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
            print(f"{part}: {json.dumps(report[part])}", flush=True)
    given.document.write_text(with_tables(given.document.read_text("utf-8"), tables(report)), "utf-8")


if __name__ == "__main__":
    main()
