"""What a restoration returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from s3diff.images.codecs import Picture, to_pil, write_picture
from s3diff.options import RestoreOptions


class Degrees(NamedTuple):
    """How degraded the input is, each in [0, 1]."""

    blur: float
    noise: float


class Walked(NamedTuple):
    """What the walk made.

    Attributes:
        result: [B, 3, H, W] in [0, 1]; None where a canvas took it.
        degrees: used, of each picture.
        estimated: by the estimator, of each picture.
        seconds: as of :class:`Restored`.
    """

    result: Any
    degrees: list[Degrees]
    estimated: list[Degrees]
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Restored:
    """A restored picture and how it came about.

    Attributes:
        picture: pixels, transparency, profile and metadata, in the depth of the input.
        degrees: what the matrices were made for: the estimate, or the override.
        estimated: what the estimator found.
        seconds: wall-clock time by stage: prepare (enlarging the input), estimate, fold, encode, predict, decode,
            color, finish (only where size, colours, transparency or strength ask for more); and total, their sum.
            Reading and writing files, encoding a new prompt and rounding to the picture's depth are in none. A batch
            shares its time evenly.
        options: the options, with the filter that enlarged the input filled in.
        notes: what was unusual about the restoration, one sentence each.
    """

    picture: Picture
    degrees: Degrees
    estimated: Degrees
    seconds: Mapping[str, float]
    options: RestoreOptions
    notes: tuple[str, ...] = ()

    @property
    def image(self) -> Any:
        """The picture as a ``PIL.Image.Image``."""
        return to_pil(self.picture)

    @property
    def array(self) -> np.ndarray:
        """Pixels [H, W, 3] or [H, W, 1], uint8 or uint16."""
        return self.picture.pixels

    def save(self, path: str | Path, *, quality: int = 95, overwrite: bool = True) -> tuple[str, ...]:
        """Write the picture; the format follows the extension. Returns notes on what the format cannot hold.

        Raises:
            OutputError: it cannot be written there, or something is there that may not be replaced; nothing is left
                half written.
        """
        return write_picture(self.picture, path, quality=quality, overwrite=overwrite)
