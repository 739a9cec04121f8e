"""Hold a restoration's result: one type for pictures in memory, files, animations, jobs and reports; name its file."""

from __future__ import annotations

import statistics
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from s3diff.errors import PictureError
from s3diff.formats import VIDEO_TYPES, format_of_extension, media_type
from s3diff.images.files.writing import can_be_written
from s3diff.options import OutputOptions, RestoreOptions

if TYPE_CHECKING:
    import numpy as np

    from s3diff.images.files.content_credentials import ResultSigner
    from s3diff.images.picture import Picture
    from s3diff.images.provenance import Provenance


class Degrees(NamedTuple):
    """Hold how degraded the input is: blur and noise, each in [0, 1]."""

    blur: float
    noise: float

    @classmethod
    def median(cls, found: Iterable[Degrees]) -> Degrees:
        """Compute the medians of blur and of noise."""
        return cls(*(statistics.median(values) for values in zip(*found, strict=True)))

    def under(self, options: RestoreOptions) -> Degrees:
        """Replace or shift an estimate by the degrees that the options give."""
        return Degrees(options.degree("blur", self.blur), options.degree("noise", self.noise))


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """Hold a restored picture, in memory or in a file, and how it was made.

    Attributes:
        size: (width, height) in pixels, of every frame; of pages that of the first one.
        degrees: those that were used: the estimate or the override; one value for all frames, the median of pages.
        estimated: the estimate; the median of some frames of an animation, or of all pages.
        seconds: wall-clock time by stage: prepare (enlarging the input), estimate, fold, encode, predict, decode,
            color, finish (only where size, colours, transparency or strength ask for more); and total, their sum.
            Reading and writing files, encoding a new prompt and rounding to the picture's depth are in none. A batch
            shares its time evenly; an animation's frames are added up; a resumed file counts only this run.
        options: the options, with the filter that enlarged the input filled in.
        notes: remarks on losses and on anything unusual, one sentence each.
        num_frames: frames of an animation or pages of a TIFF; None for a still picture.
        in_memory: the picture, if its pixels are in memory; see :attr:`picture`.
        in_file: the written file; see :attr:`path`.
        size_bytes: size of that file, if the service keeps it.
        num_tiles: tiles of a picture that was restored part by part.
        num_resumed: number of these tiles that an earlier run finished.
        provenance: statement that a file of the result carries; None for a service's result.
    """

    size: tuple[int, int]
    degrees: Degrees
    estimated: Degrees
    seconds: Mapping[str, float]
    options: RestoreOptions
    notes: tuple[str, ...] = ()
    num_frames: int | None = None
    in_memory: Picture | None = field(default=None, repr=False)
    in_file: Path | None = None
    size_bytes: int = 0
    num_tiles: int = 0
    num_resumed: int = 0
    provenance: Provenance | None = field(default=None, repr=False)

    @property
    def width(self) -> int:
        """In pixels."""
        return self.size[0]

    @property
    def height(self) -> int:
        """In pixels."""
        return self.size[1]

    @property
    def picture(self) -> Picture:
        """Pixels, transparency, profile and metadata, in the depth of the input.

        Raises:
            PictureError: the pixels are in a file.
        """
        if self.in_memory is None:
            raise PictureError(f"the result is in {self.in_file} and not in memory; read it from there")
        return self.in_memory

    @property
    def image(self) -> Any:
        """The picture as a ``PIL.Image.Image``."""
        from s3diff.images.files.pillow_pictures import to_pil

        return to_pil(self.picture)

    @property
    def array(self) -> np.ndarray:
        """Pixels [H, W, 3] or [H, W, 1], uint8 or uint16; of an array of floats, float32."""
        return self.picture.pixels

    @property
    def path(self) -> Path:
        """The written file.

        Raises:
            PictureError: the result is not written yet.
        """
        if self.in_file is None:
            raise PictureError("the result is in memory and in no file; save it first")
        return self.in_file

    @property
    def name(self) -> str:
        """The file's name without folders."""
        return self.path.name

    @property
    def media_type(self) -> str:
        """The media type of the file, such as ``image/jpeg``."""
        return media_type(self.name)

    @property
    def facts(self) -> dict[str, Any]:
        """The facts for a report's line and an HTTP answer, rounded."""
        facts = {
            "width": self.width,
            "height": self.height,
            "blur": round(self.degrees.blur, 4),
            "noise": round(self.degrees.noise, 4),
            "estimated_blur": round(self.estimated.blur, 4),
            "estimated_noise": round(self.estimated.noise, 4),
            "seconds": round(self.seconds["total"], 4),
        }
        return facts if self.num_frames is None else {**facts, "frames": self.num_frames}

    def save(
        self,
        path: str | Path,
        *,
        quality: int = 95,
        overwrite: bool = True,
        provenance: bool = True,
        signer: ResultSigner | None = None,
    ) -> tuple[str, ...]:
        """Write the picture in the format of the extension; return notes on losses that the format causes.

        Args:
            quality: 1 to 100, of formats that lose something.
            provenance: whether the file states in XMP how it was made.
            signer: signs the file as Content Credentials (C2PA).

        Raises:
            OutputError: it cannot be written there, or something is there that may not be replaced; nothing is left
                half written.
        """
        from s3diff.images.files.writing import write_picture

        picture = self.picture if provenance else replace(self.picture, provenance=None)
        return write_picture(picture, path, quality=quality, overwrite=overwrite, signer=signer)


def add_seconds(total: dict[str, float], seconds: Mapping[str, float]) -> None:
    """Add one picture's seconds of each stage to those of a series."""
    for stage, value in seconds.items():
        total[stage] = total.get(stage, 0.0) + value


#: The name under which :mod:`s3diff` offers it.
Restored = Result


#: Extension for pictures of formats that are only read.
FALLBACK_EXTENSION = ".png"
#: Extension for videos whose own container is only read.
FALLBACK_VIDEO_EXTENSION = ".mp4"


def result_extension(extension: str, writing: OutputOptions) -> str:
    """Return the extension with its dot: the requested format's, or the input's if that has the same format."""
    if writing.format is not None:
        wanted = f".{writing.format}"
        return extension if format_of_extension(extension) == format_of_extension(wanted) else wanted
    return extension if can_be_written(extension) else FALLBACK_EXTENSION


def video_extension(extension: str) -> str:
    """Return the extension with its dot of a restored video: its own, if that container is written."""
    return extension if extension.lower() in VIDEO_TYPES else FALLBACK_VIDEO_EXTENSION


def result_stem(writing: OutputOptions, values: Mapping[str, str]) -> str:
    """Make a result's name without extension; ``values``: the template's fields (see :class:`OutputOptions`)."""
    parts = string.Formatter().parse(writing.name)
    return "".join(text + (values[field] if field is not None else "") for text, field, _, _ in parts)
