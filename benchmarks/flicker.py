"""How much a restored video flickers: its warping error over bicubic's.

    OMP_NUM_THREADS=1 python benchmarks/flicker.py [--frames 8] [-o FILE]

A photograph is panned by whole pixels of the result, so that the true motion is known: frame t + 1, moved back, should
be frame t. The error is the mean absolute difference of the two, in levels of 255, inside both. Inputs are four times
smaller, clean, or with fresh noise and JPEG in every frame. ``video`` went through ``restore_video`` in a
lossless codec; ``one by one`` is the same frames restored as pictures, each with its own degrees.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from hardware import machine
from PIL import Image

from s3diff import Restorer
from s3diff.restoration.video import VideoOptions, restore_video

PHOTO = Path(__file__).parents[1] / "assets/photos/kitten.jpg"
#: Pixels of the result that the picture moves to the left and up between frames; a quarter of each in the input.
STEP = (3, 2)
SIDE = 192
#: Standard deviation of the noise in levels of 255, and the quality of JPEG; None for neither.
INPUTS: dict[str, tuple[float, int] | None] = {"clean": None, "noise 8, JPEG 60": (8.0, 60)}


def panned(num_frames: int) -> list[np.ndarray]:
    """The frames of the truth, [SIDE, SIDE, 3]."""
    photo = Image.open(PHOTO).convert("RGB")
    left, top = ((side - SIDE) // 3 for side in photo.size)
    boxes = [(left + STEP[0] * index, top + STEP[1] * index) for index in range(num_frames)]
    return [np.asarray(photo.crop((x, y, x + SIDE, y + SIDE))) for x, y in boxes]


def degraded(truth: np.ndarray, how: tuple[float, int] | None, random: np.random.Generator) -> np.ndarray:
    small = Image.fromarray(truth).resize((SIDE // 4, SIDE // 4), Image.Resampling.BOX)
    if how is None:
        return np.asarray(small)
    noisy = np.asarray(small) + random.normal(0, how[0], (SIDE // 4, SIDE // 4, 3))
    file = io.BytesIO()
    Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=how[1])
    return np.asarray(Image.open(file))


def warping_error(frames: list[np.ndarray]) -> float:
    across, down = STEP
    pairs = pairwise(frames)
    return float(np.mean([np.abs(a[down:, across:].astype(int) - b[:-down, :-across]).mean() for a, b in pairs]))


def as_video(restorer: Restorer, frames: list[np.ndarray]) -> list[np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.mkv"), Path(folder, "out.mkv")
        with av.open(str(source), "w") as container:
            stream: Any = container.add_stream("ffv1", rate=25)
            stream.width = stream.height = SIDE // 4
            stream.pix_fmt, stream.codec_context.time_base = "yuv444p", Fraction(1, 25)
            for index, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv444p")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        restore_video(restorer, source, target, None, VideoOptions(codec="ffv1", pixel_format="yuv444p"))
        with av.open(str(target)) as container:
            return [each.to_ndarray(format="rgb24") for each in container.decode(video=0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    restorer = Restorer.from_pretrained("compact", device="cpu", precision="float32")
    rows: dict[str, Any] = {}
    truth = panned(arguments.frames)
    for name, how in INPUTS.items():
        random = np.random.default_rng(0)
        low_quality = [degraded(each, how, random) for each in truth]
        errors = {
            "bicubic": warping_error(
                [
                    np.asarray(Image.fromarray(each).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
                    for each in low_quality
                ]
            ),
            "video": warping_error(as_video(restorer, low_quality)),
            "one by one": warping_error([restorer.restore(each).array for each in low_quality]),
        }
        rows[name] = {
            what: {"levels": round(error, 3), "over_bicubic": round(error / errors["bicubic"], 3)}
            for what, error in errors.items()
        }
        print(name, rows[name])
    report = {
        "command": f"python benchmarks/flicker.py --frames {arguments.frames}",
        "machine": machine(torch.device("cpu")),
        "model": restorer.model.fingerprint,
        "rows": rows,
    }
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
