"""What the embedded model does and does not do: the figures and tables of docs/compact.md, in one run.

    python benchmarks/compact_report.py [--shared ../shared] [--only dial]... [--pictures FOLDER]
    python benchmarks/compact_report.py --tables

Parts: ``dial`` (degrees forced by hand on noisy and on blurred pictures, see ``dial.py``), ``guidance``,
``modulation`` (the estimated degrees against the same ones for all pictures), ``consistency`` (the result, reduced
again, against its input) and ``patterns`` (drawn pictures, see ``drawn_patterns.py``). Each writes its figures to
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
from dial import FLAT_NOISE_SIGMAS, NOISE_SIGMA, centre_crops, dial, mean, noisy
from dial import JPEG_QUALITY as DIAL_JPEG_QUALITY
from drawn_patterns import drawn_patterns
from enlargers import reduced, restored
from hardware import machine
from torch.nn import functional as F

from s3diff import Restorer
from s3diff.degradation.jpeg import compress_jpeg
from s3diff.evaluation.measures import load_measures
from s3diff.evaluation.psnr_ssim import psnr_y
from s3diff.images.files.reading import list_pictures, read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import from_array, to_tensor
from s3diff.images.resampling import enlarge, resample

REPOSITORY = Path(__file__).resolve().parent.parent
SCALE = 4
#: Side of the crops, not reduced, whose results are compared with them.
CONSISTENCY_CROP_PX = 128
GUIDANCES = (1.0, 1.07, 1.2, 1.5)
PAIR_STEP, NUM_PAIRS = 16, 6
MEASURES = ("psnr_y", "lpips_alex", "dists")
JPEG_QUALITY = 50
SMOOTH_PATTERNS = ("black", "white", "mid grey", "gradient")

#: A row of a table: figures by column.
Row = dict[str, Any]


def bicubic(image: torch.Tensor) -> torch.Tensor:
    return resample(image, SCALE * image.shape[-2], SCALE * image.shape[-1], "bicubic")


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
    """Low-quality pictures of every sixteenth real-camera pair."""
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
    return f"estimate ({row['degree']:.2f} in the mean)" if row["setting"] == "estimate" else f"{row['setting']:.2g}"


def tables(report: dict[str, Any]) -> dict[str, str]:
    """Markdown by the marker's name, of the parts that the report has."""
    made = {}
    if "dial" in report:
        noise, blur = report["dial"]["noise"], report["dial"]["blur"]
        # Reports made before the dial was judged at thirds have neither blocks nor pictures of their own size.
        blocks = [f"blocks of JPEG {DIAL_JPEG_QUALITY}"] if all("blocks" in row for row in noise) else []
        cells = [
            (
                setting_label(row),
                *(f"{value:.2f}" for value in (row["grain"], *row["flat"], row["psnr_y"])),
                *(f"{row['blocks']:.1f}" for _ in blocks),
            )
            for row in noise
        ]
        flat = [f"flat grey, sigma {sigma}" for sigma in FLAT_NOISE_SIGMAS]
        made["noise"] = table(" | ".join(["noise degree", "grain", *flat, "PSNR-Y", *blocks]), cells)
        own_size = ["not reduced, sharp input 100 %"] if all("own_size" in row for row in blur) else []
        cells = [
            (
                setting_label(row),
                f"{100 * row['edges']:.1f} %",
                f"{row['psnr_y']:.2f}",
                *(f"{100 * row['own_size']:.0f} %" for _ in own_size),
            )
            for row in blur
        ]
        made["blur"] = table(" | ".join(["blur degree", "gradient energy, truth 100 %", "PSNR-Y", *own_size]), cells)
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
    "dial": lambda restorer, data, _: dial(restorer, data),
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
