"""What a frame of a video costs alone and in batches: processor time of ``restore_video`` with several ``--batch``.

    OMP_NUM_THREADS=1 python benchmarks/video_batch.py [--batch 1 4] [--frames 24] [--rounds 3] [--device cpu]

A photograph is panned, 64 px a side, and becomes 256 px. Batches take turns, round after round, so that other work on
the machine meets all of them; the fewest seconds of a frame count. On a GPU the time by the clock is what counts:
its work takes no processor's time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import av
import numpy as np
from hardware import machine
from PIL import Image

from s3diff import Restorer
from s3diff.restoration.video import VideoOptions, restore_video

PHOTO = Path(__file__).parents[1] / "assets/photos/kitten.jpg"
SIDE_PX = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="frames that go together")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    restorer = Restorer.from_pretrained(arguments.model, device=arguments.device)
    about = machine(restorer.device)
    taken: dict[int, list[tuple[float, float]]] = {batch: [] for batch in arguments.batch}
    with tempfile.TemporaryDirectory() as folder:
        source = write_clip(Path(folder) / "clip.mkv", arguments.frames)
        for turn in range(arguments.rounds + 1):
            for batch in arguments.batch:
                started = time.perf_counter(), time.process_time()
                restore_video(restorer, source, Path(folder) / "out.mkv", None, VideoOptions(batch=batch))
                spent = time.perf_counter() - started[0], time.process_time() - started[1]
                if turn:  # the first one warms up
                    taken[batch].append(spent)
    rows = {}
    for batch, rounds in taken.items():
        clock, processor = (round(min(times) / arguments.frames, 3) for times in zip(*rounds, strict=True))
        rows[batch] = {"processor_seconds_a_frame": processor, "seconds_a_frame": clock}
    print(json.dumps({"machine": about, "model": restorer.model.name, "frames": arguments.frames, "batches": rows}))


def write_clip(path: Path, num_frames: int) -> Path:
    """Pan a part of the photograph, lossless."""
    with Image.open(PHOTO) as opened:
        photo = np.asarray(opened.convert("RGB").resize((SIDE_PX + num_frames, SIDE_PX), Image.Resampling.LANCZOS))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width = stream.height = SIDE_PX
        stream.pix_fmt = "yuv444p"
        for index in range(num_frames):
            pixels = np.ascontiguousarray(photo[:, index : index + SIDE_PX])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))
    return path


if __name__ == "__main__":
    main()
