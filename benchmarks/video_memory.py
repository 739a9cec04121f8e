"""Peak memory of ``restore_video`` for a short and a long video.

    OMP_NUM_THREADS=1 python benchmarks/video_memory.py [--frames 100 1000] [-o FILE]

A photograph is panned, 64 x 48 px a frame, with a tone, and restored at its size. Each video has a process of its own,
which first restores ten frames, so that what the first frames allocate once is there; then it counts anew: resident
memory, weights included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from hardware import forget_peak_memory, machine, peak_memory_gib
from PIL import Image

from s3diff import RestoreOptions, Restorer
from s3diff.restoration.video import restore_video

PHOTO = Path(__file__).parents[1] / "assets/photos/kitten.jpg"
WIDTH, HEIGHT, RATE, SOUND_RATE = 64, 48, 25, 48000
WARM_UP = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--model", default="compact")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        print(json.dumps(peak(given.model, given.child)))
        return
    rows = {}
    for frames in given.frames:
        words = [sys.executable, __file__, "--model", given.model, "--child", str(frames)]
        rows[frames] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        print(f"{frames} frames: {rows[frames]}", flush=True)
    peaks = [row["peak_mib"] for row in rows.values()]
    report = {
        "command": f"python benchmarks/video_memory.py --frames {' '.join(map(str, given.frames))}",
        "machine": machine(torch.device("cpu")),
        "model": given.model,
        "rows": rows,
        "in_words": f"{peaks[0]} MiB for {given.frames[0]} frames, {peaks[-1]} MiB for {given.frames[-1]}",
    }
    print(report["in_words"])
    if given.output is not None:
        given.output.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


def peak(model: str, num_frames: int) -> dict[str, Any]:
    """Restore a clip, and return the peak of this process's memory meanwhile."""
    restorer, cpu = Restorer.from_pretrained(model, device="cpu"), torch.device("cpu")
    options = RestoreOptions(scale=1)
    with tempfile.TemporaryDirectory() as folder:
        for frames in (WARM_UP, num_frames):
            source = write_clip(Path(folder) / f"{frames}.mp4", frames)
            forget_peak_memory(cpu)
            made = restore_video(restorer, source, Path(folder) / f"{frames}_restored.mp4", options)
            assert made.num_frames == frames
    gib = peak_memory_gib(cpu)
    return {"peak_mib": None if gib is None else round(gib * 1024)}


def write_clip(path: Path, num_frames: int) -> Path:
    """Pan a part of the photograph to and fro, with a tone."""
    with Image.open(PHOTO) as opened:
        photo = np.asarray(opened.convert("RGB").resize((4 * WIDTH, HEIGHT), Image.Resampling.LANCZOS))
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound: Any = container.add_stream("aac", rate=SOUND_RATE)
        sound.layout = "mono"
        samples = SOUND_RATE // RATE
        for index in range(num_frames):
            left = abs((index + 150) % 300 - 150)
            pixels = np.ascontiguousarray(photo[:, left : left + WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            tone = 0.3 * np.sin(np.arange(index * samples, (index + 1) * samples) / 20)[None].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
            frame.sample_rate, frame.pts = SOUND_RATE, index * samples
            container.mux(sound.encode(frame))
        container.mux([*stream.encode(None), *sound.encode(None)])
    return path


if __name__ == "__main__":
    main()
