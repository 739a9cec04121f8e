"""What is compared, by name: ``bicubic``, ``real-esrgan``, or a model's name or folder; each enlarges by 4.

:func:`reduced` is the way back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import real_esrgan
import torch

from s3diff import RestoreOptions, Restorer
from s3diff.images.files.reading import read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import Picture, from_array, from_tensor, to_tensor
from s3diff.images.resampling import resample
from s3diff.restoration.result import Degrees

SCALE = 4
BICUBIC = "bicubic"
#: Pictures that never change are kept here between runs (git ignores the folder).
KEPT = Path("benchmark/kept")


class Enlarger:
    """A method of the comparison.

    Args:
        what: ``bicubic``, ``real-esrgan``, or a model's name or folder.
        kept: folder of Real-ESRGAN's pictures, by the digests of weights and input.

    Attributes:
        name: of the method in tables.
        identity: what else its pictures depend on: a digest of the weights.
        restorer: of a model, else None.

    Raises:
        SystemExit: Real-ESRGAN's packages are not installed.
        S3DiffError: the model cannot be loaded.
    """

    def __init__(self, what: str, kept: Path = KEPT) -> None:
        self.name, self.identity, self.kept = what, what, kept
        self.restorer: Restorer | None = None
        self._enlarge: Callable[[Picture], Picture] = _bicubic
        if what == real_esrgan.NAME:
            files = real_esrgan.model_files()
            if files is None:
                raise SystemExit("Real-ESRGAN is not installed; see benchmarks/real_esrgan.py, or leave it out")
            self.identity = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
            self._enlarge = real_esrgan.RealEsrgan(files, torch.get_num_threads())
        elif what != BICUBIC:
            self.restorer = restorer = Restorer.from_pretrained(what, device="cpu")
            self.name, self.identity = Path(what).name, restorer.model.fingerprint
            self._enlarge = lambda picture: restorer.restore(picture, RestoreOptions(scale=SCALE)).picture

    def __call__(self, picture: Picture) -> Picture:
        """The picture, 8 bits in RGB, four times as large."""
        if self.name != real_esrgan.NAME:
            return self._enlarge(picture)
        digest = hashlib.sha256(f"{picture.pixels.shape}".encode() + picture.pixels.tobytes()).hexdigest()
        place = self.kept / f"{self.name}-{self.identity[:16]}" / f"{digest}.png"
        if not place.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            write_picture(self._enlarge(picture), place)
        return read_picture(place)

    def enlarged(self, image: torch.Tensor) -> torch.Tensor:
        """The same for [1, 3, h, w] float, RGB in [0, 1] at multiples of 1/255."""
        return to_tensor(self(as_picture(image)))


def reduced(pictures: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W] -> [B, 3, H / 4, W / 4], by the mean of each square."""
    return torch.nn.functional.avg_pool2d(pictures, SCALE)


def restored(restorer: Restorer, image: torch.Tensor, **options: Any) -> tuple[torch.Tensor, Degrees]:
    """Restore [1, 3, h, w] in [0, 1], rounded to 8 bits as a file would be; gives [1, 3, 4 h, 4 w] and the degrees."""
    result = restorer.restore(as_picture(image), RestoreOptions(scale=SCALE, **options))
    return to_tensor(result.picture), result.degrees


def as_picture(image: torch.Tensor) -> Picture:
    """[1, 3, h, w] float in [0, 1] as a picture of 8 bits."""
    levels = (image[0].clamp(0, 1) * 255).round().to(torch.uint8)
    return from_array(levels.permute(1, 2, 0).contiguous().numpy())


def _bicubic(picture: Picture) -> Picture:
    image = resample(to_tensor(picture), SCALE * picture.height, SCALE * picture.width, "bicubic")
    return from_array(from_tensor(image, picture))
