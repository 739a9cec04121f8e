"""Make the README's pictures: inputs enlarged as a viewer would (bicubic), and restored.

python benchmarks/readme_pictures.py [--shared ../shared] [--output docs/images]

``before_after.jpg``: a photograph that the embedded model was not trained on. ``good_for.jpg`` and ``not_for.jpg``:
squares of scenes of the do-no-harm set that may be shown (Kodak24, or drawn: ``do_no_harm_set.py``), enlarged above,
restored below.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from do_no_harm_set import Scene, scenes
from enlargers import SCALE, as_picture, restored

from s3diff.images.files.reading import read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import to_tensor
from s3diff.images.resampling import enlarge
from s3diff.restoration.restorer import Restorer

PHOTOGRAPH = Path(__file__).parent.parent / "assets/photos/budgerigar.jpg"
#: White lines between the pictures.
GAP_PX = 8
#: Of the input that a square shows.
SQUARE_PX = 80
JPEG_QUALITY = 88


class Square(NamedTuple):
    """Where a square lies: kind and name of the scene, its degradation, and the place in the input."""

    category: str
    scene: str
    degradation: str
    left_px: int
    top_px: int


GOOD_FOR = (
    Square("large faces", "kodak24-kodim15-10-10", "clean", 38, 0),
    Square("large faces", "kodak24-kodim04-10-10", "noise 10", 20, 15),
    Square("brick", "kodak24-kodim01-10-10", "noise 10", 30, 35),
)
NOT_FOR = (
    Square("grey text", "page", "clean", 8, 46),
    Square("small faces", "kodak24-kodim14-10-10", "clean", 15, 20),
    Square("foliage", "kodak24-kodim13-10-10", "noise 10", 10, 15),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    given = parser.parse_args()
    restorer = Restorer.from_pretrained(given.model, device="cpu")
    photograph = to_tensor(read_picture(PHOTOGRAPH))
    save(joined(before_and_after(restorer, photograph), across=True), given.output / "before_after.jpg")
    categories = tuple(dict.fromkeys(square.category for square in (*GOOD_FOR, *NOT_FOR)))
    known = {(scene.category, scene.name): scene for scene in scenes(given.shared, categories)}
    for name, squares in (("good_for", GOOD_FOR), ("not_for", NOT_FOR)):
        columns = [joined(shown(restorer, known[square[:2]], square), across=False) for square in squares]
        save(joined(columns, across=True), given.output / f"{name}.jpg")


def before_and_after(restorer: Restorer, image: torch.Tensor) -> list[torch.Tensor]:
    """Two pictures [1, 3, 4 h, 4 w] of [1, 3, h, w], in [0, 1]."""
    after = restored(restorer, image)[0]
    return [enlarge(image, after.shape[2], after.shape[3], mode="bicubic").clamp(0, 1), after]


def shown(restorer: Restorer, scene: Scene, square: Square) -> list[torch.Tensor]:
    """The square, enlarged and restored; the networks see the whole scene."""
    top, left, side = (SCALE * px for px in (square.top_px, square.left_px, SQUARE_PX))
    pictures = before_and_after(restorer, scene.degraded(square.degradation))
    return [picture[..., top : top + side, left : left + side] for picture in pictures]


def joined(pictures: list[torch.Tensor], *, across: bool) -> torch.Tensor:
    """Pictures beside or below each other, with white lines between them."""
    first = pictures[0]
    gap = first.new_ones(1, 3, first.shape[2], GAP_PX) if across else first.new_ones(1, 3, GAP_PX, first.shape[3])
    lined = [part for picture in pictures for part in (gap, picture)][1:]
    return torch.cat(lined, dim=3 if across else 2)


def save(image: torch.Tensor, path: Path) -> None:
    """Write as JPEG, without metadata."""
    write_picture(as_picture(image), path, quality=JPEG_QUALITY)


if __name__ == "__main__":
    main()
