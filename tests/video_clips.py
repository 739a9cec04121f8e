"""Write small videos for tests, and read them back with PyAV and ffprobe."""

from __future__ import annotations

import json
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

av = pytest.importorskip("av", reason="the extra video is not installed")
WIDTH, HEIGHT = 32, 24
#: Time stamps of a variable frame rate, in thousandths of a second.
TIMES = [0, 40, 80, 200, 240, 280, 320, 500, 540, 580]


def picture(index: int, scene: int = 0) -> np.ndarray:
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    grey = 90 + 60 * np.sin((x + index) / 5) + 40 * np.cos(y / 4)
    grey = (255 - grey) / 3 if scene else grey
    return np.stack([grey, grey * 0.8 + 20, 255 - grey], axis=2).clip(0, 255).astype(np.uint8)


def write_clip(
    path: Path,
    times: list[int] = TIMES,
    *,
    pixel_format: str = "yuv420p",
    cut: int = 10**9,
    with_sound: bool = False,
    with_text: bool = False,
    colors: tuple[int, int, int, int] = (1, 1, 1, 1),
    aspect: Fraction = Fraction(1),
    rotation: int = 0,
    states_length: bool = True,
) -> Path:
    with av.open(str(path), "w", options={} if states_length else {"live": "1"}) as container:
        container.metadata["title"] = "A title"
        stream = container.add_stream("libx265" if "10" in pixel_format else "libx264", rate=25)
        context: Any = stream.codec_context
        context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, pixel_format
        context.time_base, context.sample_aspect_ratio = Fraction(1, 1000), aspect
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = colors
        context.options = {"x265-params": "log-level=error:bframes=0"} if "10" in pixel_format else {}
        if rotation:
            stream.set_display_rotation(rotation)
        sounds = []
        if with_sound:
            for language in ("eng", "deu"):
                sound: Any = container.add_stream("aac", rate=48000)
                sound.layout = "mono"
                sound.metadata["language"] = language
                sounds.append(sound)
            container.set_chapters(
                [
                    {"id": 0, "start": 0, "end": 300, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}},
                    {"id": 1, "start": 300, "end": 620, "time_base": Fraction(1, 1000), "metadata": {"title": "Two"}},
                ]
            )
        text = None
        if with_text:
            is_movie = path.suffix in (".mp4", ".mov")
            text = container.add_mux_stream("mov_text" if is_movie else "subrip", time_base=Fraction(1, 1000))
            text.metadata["language"] = "fra"
            if not is_movie:
                container.add_attachment("notes.txt", "text/plain", b"notes")
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(index, int(index >= cut)), "rgb24")
            frame = frame.reformat(format=pixel_format, dst_colorspace=1)
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for number, sound in enumerate(sounds):
            for start in range(0, 28800, 1024):
                wave = 0.3 * np.sin(np.arange(start, start + 1024) / (9 + number))
                tone = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), "fltp", "mono")
                tone.sample_rate, tone.pts = 48000, start
                container.mux(sound.encode(tone))
            container.mux(sound.encode(None))
        if text is not None:
            words = "Grüße".encode()
            packet = av.Packet((len(words).to_bytes(2, "big") if is_movie else b"") + words)
            packet.pts = packet.dts = 100
            packet.duration, packet.time_base, packet.stream = 300, Fraction(1, 1000), text
            container.mux_one(packet)
    return path


def probed(path: Path) -> dict[str, Any]:
    if shutil.which("ffprobe") is None:
        pytest.skip("ffprobe is not installed")
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_streams", "-show_chapters", "-show_format"]
    return json.loads(subprocess.run([*command, str(path)], capture_output=True, check=True, text=True).stdout)


def frames(path: Path) -> tuple[list[int], list[np.ndarray]]:
    """Time stamps in thousandths of a second, and pictures."""
    with av.open(str(path)) as container:
        found = list(container.decode(video=0))
        return [round(each.time * 1000) for each in found], [each.to_ndarray(format="rgb24") for each in found]
