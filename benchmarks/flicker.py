"""How much a restored video flickers: its warping error over bicubic's.

    OMP_NUM_THREADS=1 python benchmarks/flicker.py [--frames 8] [--model compact] [-o FILE]

Photographs are panned by whole pixels of the result, so that the true motion is known: frame t + 1, moved back, should
be frame t. The error is the mean absolute difference of the two, in levels of 255, inside both. Inputs are four times
smaller, clean, or with fresh noise and JPEG in every frame; those that stand still show noise only. ``steady`` and
``not steady`` went through ``restore_video`` in a lossless codec, ``one by one`` is the same frames restored as
pictures, each with its own degrees. ``psnr`` is to the truth, in dB, ``slope`` the mean difference of neighbours
across, in levels: what is smeared has less of it. In ``jumping`` a bright square moves over a photograph that stands
still, 12 pixels a frame; ``psnr_new`` counts only what it has just left.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from hardware import machine
from PIL import Image

from s3diff import Restorer
from s3diff.restoration.video import VideoOptions, restore_video

PHOTOS = Path(__file__).parents[1] / "assets/photos"
#: Pixels of the result that the picture moves to the left and up between frames; a quarter of each in the input.
STEP = (3, 2)
#: Photographs and the side of the part that is shown, in pixels of the result.
SIDES = {"kitten": 128, "budgerigar": 192}
#: Standard deviation of the noise in levels of 255, and the quality of JPEG; None for neither.
NOISE = (8.0, 60)
SQUARE_PX, JUMP_PX = 32, 12


class Clip(NamedTuple):
    """The truth, [side, side, 3] each, the pixels that it moves a frame, and how it is degraded."""

    truth: list[np.ndarray]
    step: tuple[int, int]
    noise: tuple[float, int] | None


def clips(num_frames: int) -> dict[str, Clip]:
    found = {}
    for name, side in SIDES.items():
        panned, still = shown(name, side, STEP, num_frames), shown(name, side, (0, 0), num_frames)
        found[f"{name}, panned, clean"] = Clip(panned, STEP, None)
        found[f"{name}, panned, noise 8, JPEG 60"] = Clip(panned, STEP, NOISE)
        found[f"{name}, still, noise 8, JPEG 60"] = Clip(still, (0, 0), NOISE)
    return found


def shown(name: str, side: int, step: tuple[int, int], num_frames: int) -> list[np.ndarray]:
    photo = Image.open(PHOTOS / f"{name}.jpg").convert("RGB")
    left, top = ((long - side - each * (num_frames - 1)) // 2 for long, each in zip(photo.size, step, strict=True))
    if min(left, top) < 0:
        raise SystemExit(f"{name}.jpg is too small for {num_frames} frames; give fewer")
    boxes = [(left + step[0] * index, top + step[1] * index) for index in range(num_frames)]
    return [np.asarray(photo.crop((x, y, x + side, y + side))) for x, y in boxes]


def with_square(frames: list[np.ndarray]) -> list[np.ndarray]:
    made = [each.copy() for each in frames]
    for index, each in enumerate(made):
        each[SQUARE_PX : 2 * SQUARE_PX, JUMP_PX * index : JUMP_PX * index + SQUARE_PX] = (240, 230, 60)
    return made


def degraded(truth: np.ndarray, noise: tuple[float, int] | None, random: np.random.Generator) -> np.ndarray:
    small = Image.fromarray(truth).resize((truth.shape[1] // 4, truth.shape[0] // 4), Image.Resampling.BOX)
    if noise is None:
        return np.asarray(small)
    noisy = np.asarray(small) + random.normal(0, noise[0], np.asarray(small).shape)
    file = io.BytesIO()
    Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=noise[1])
    return np.asarray(Image.open(file))


def enlarged(small: np.ndarray) -> np.ndarray:
    height, width = small.shape[:2]
    return np.asarray(Image.fromarray(small).resize((4 * width, 4 * height), Image.Resampling.BICUBIC))


def warping_error(frames: list[np.ndarray], step: tuple[int, int]) -> float:
    across, down = step
    height, width = frames[0].shape[:2]
    pairs = ((a[down:, across:], b[: height - down, : width - across]) for a, b in pairwise(frames))
    return float(np.mean([np.abs(a.astype(int) - b).mean() for a, b in pairs]))


def psnr(frames: list[np.ndarray], truth: list[np.ndarray], where: list[np.ndarray] | None = None) -> float:
    masks = where or [np.ones(each.shape[:2], bool) for each in truth]
    errors = [((a.astype(float) - b)[mask] ** 2).mean() for a, b, mask in zip(frames, truth, masks, strict=True)]
    return round(float(10 * np.log10(255**2 / np.mean(errors))), 2)


def slope(frames: list[np.ndarray]) -> float:
    return round(float(np.mean([np.abs(np.diff(each.astype(int), axis=1)).mean() for each in frames])), 2)


def as_video(restorer: Restorer, frames: list[np.ndarray], steady: float) -> list[np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.mkv"), Path(folder, "out.mkv")
        with av.open(str(source), "w") as container:
            stream: Any = container.add_stream("ffv1", rate=25)
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt, stream.codec_context.time_base = "yuv444p", Fraction(1, 25)
            for index, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv444p")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        options = VideoOptions(codec="ffv1", pixel_format="yuv444p", steady=steady)
        restore_video(restorer, source, target, None, options)
        with av.open(str(target)) as container:
            return [each.to_ndarray(format="rgb24") for each in container.decode(video=0)]


def in_words(rows: dict[str, Any]) -> str:
    """Write the sentences of docs/video.md."""
    panned = [row for name, row in rows.items() if "panned" in name]
    compared = [row for row in rows.values() if "bicubic" in row]

    def errors(what: str) -> str:
        found = [row[what]["over_bicubic"] for row in panned]
        return f"{np.mean(found):.2f} ({min(found):.2f} to {max(found):.2f})"

    gains = [row["steady"]["psnr"] - row["not steady"]["psnr"] for row in compared]
    slopes = [100 * (1 - row["steady"]["slope"] / row["not steady"]["slope"]) for row in compared]
    left = rows["jumping"]["not steady"]["psnr_new"] - rows["jumping"]["steady"]["psnr_new"]
    return (
        f"On panned photographs the warping error over bicubic's is {errors('steady')} with it, "
        f"{errors('not steady')} without. PSNR rises by {min(gains):.1f} to {max(gains):.1f} dB, slopes fall by "
        f"{min(slopes):.0f} to {max(slopes):.0f} %. Where a bright square has just moved away, PSNR falls by "
        f"{left:.1f} dB."
    )


def keep(made: dict[str, list[np.ndarray]], folder: Path | None, name: str) -> None:
    """Write the last frames side by side."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate([frames[-1] for frames in made.values()], axis=1)).save(folder / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--pictures", type=Path, help="folder for the last frames, to look at")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    restorer = Restorer.from_pretrained(arguments.model, device="cpu", precision="float32")
    share = VideoOptions.steady
    rows: dict[str, Any] = {}
    for name, clip in clips(arguments.frames).items():
        random = np.random.default_rng(0)
        low_quality = [degraded(each, clip.noise, random) for each in clip.truth]
        made = {
            "bicubic": [enlarged(each) for each in low_quality],
            "steady": as_video(restorer, low_quality, share),
            "not steady": as_video(restorer, low_quality, 0),
            "one by one": [restorer.restore(each).array for each in low_quality],
        }
        errors = {what: warping_error(frames, clip.step) for what, frames in made.items()}
        rows[name] = {
            what: {
                "levels": round(errors[what], 3),
                "over_bicubic": round(errors[what] / errors["bicubic"], 3),
                "psnr": psnr(frames, clip.truth),
                "slope": slope(frames),
            }
            for what, frames in made.items()
        }
        keep(made, arguments.pictures, name)
        print(name, rows[name], flush=True)
    still = shown("kitten", SIDES["kitten"], (0, 0), arguments.frames)
    truth = with_square(still)
    changed = [
        (a != b).any(axis=2) & (b == c).all(axis=2) for (a, b), c in zip(pairwise(truth), still[1:], strict=True)
    ]
    low_quality = [degraded(each, None, np.random.default_rng(0)) for each in truth]
    jumping = {what: as_video(restorer, low_quality, each) for what, each in (("steady", share), ("not steady", 0.0))}
    rows["jumping"] = {
        what: {"psnr": psnr(frames, truth), "psnr_new": psnr(frames[1:], truth[1:], changed)}
        for what, frames in jumping.items()
    }
    keep(jumping, arguments.pictures, "jumping")
    print("jumping", rows["jumping"])
    of_panned = [
        {what: row["over_bicubic"] for what, row in each.items()} for name, each in rows.items() if "panned" in name
    ]
    mean = {what: round(float(np.mean([each[what] for each in of_panned])), 3) for what in of_panned[0]}
    print("mean of those panned", mean)
    print(in_words(rows))
    report = {
        "command": f"python benchmarks/flicker.py --frames {arguments.frames} --model {arguments.model}",
        "machine": machine(torch.device("cpu")),
        "model": restorer.model.fingerprint,
        "steady": share,
        "mean_of_those_panned": mean,
        "in_words": in_words(rows),
        "rows": rows,
    }
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
