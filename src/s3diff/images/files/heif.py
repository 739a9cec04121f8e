"""Read and write HEIC, the format of many telephones. Only this module imports pillow-heif (extra ``heif``) and
pi-heif, the same library without an encoder, which serves for reading if the other one is missing.
"""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from s3diff.errors import OutputError, PictureError
from s3diff.images.files.codec import Codec
from s3diff.images.files.coordinates import QUARTER_TURNS
from s3diff.images.files.dropped_contents import attachments
from s3diff.images.files.exif_block import EXIF_PREFIX, states_adobe_rgb
from s3diff.images.files.iso_boxes import aspect_notes
from s3diff.images.files.metadata import Metadata, take_orientation, upright
from s3diff.images.icc_profiles import adobe_rgb_profile, profile_of_code_points
from s3diff.images.picture import Picture, split_alpha
from s3diff.messages import install_command, too_many_pixels

#: Brands of files of HEVC pictures, first or among the compatible ones.
_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"}
_HOW = install_command("heif")
#: Bits per channel of deep pictures when written: readers of HEIC support no more.
_WRITTEN_BITS = 10


class HeifCodec(Codec):
    """Read and write HEIC, without colour subsampling; read more than 8 bits as 16, write ``_WRITTEN_BITS``.

    Raises:
        PictureError: by all that reads: neither library is installed.
    """

    def recognises(self, head: bytes) -> bool:
        if head[4:8] != b"ftyp":
            return False
        size = min(int.from_bytes(head[:4], "big"), len(head))
        brands = {head[8:12], *(head[start : start + 4] for start in range(16, size - 3, 4))}
        return bool(brands & _BRANDS) and not brands & {b"avif", b"avis"}

    def size(self, file: BinaryIO) -> tuple[int, int]:
        """See :meth:`Codec.size`; of the primary picture."""
        opened = _opened_heif(file)
        width, height = opened[opened.primary_index].size
        return width, height

    def read(self, file: BinaryIO, path: Path, limit: int) -> Picture:
        """See :meth:`Codec.read`; of the primary picture."""
        opened = _opened_heif(file)
        image, notes = opened[opened.primary_index], []
        width, height = image.size
        if width * height > limit:
            raise PictureError(too_many_pixels(path, (width, height), limit))
        if len(opened) > 1:
            notes.append(f"the file holds {len(opened)} pictures; the primary one is used")
        notes += aspect_notes(file)
        pixels, alpha = _pixels(image)
        exif, orientation = image.info.get("exif") or None, 1
        if exif is not None:
            # The decoder turns the picture (ISO/IEC 23008-12, section 6.5.10) and leaves the tag.
            orientation, exif = take_orientation(EXIF_PREFIX + exif.removeprefix(EXIF_PREFIX))
        stored_size = (height, width) if orientation in QUARTER_TURNS else (width, height)
        found = Metadata(exif, image.info.get("xmp") or None)
        metadata, more = upright(found, stored_size, orientation, attachments(file))
        notes += more
        profile = image.info.get("icc_profile") or None
        nclx = image.info.get("nclx_profile")
        if profile is None and nclx:
            stated = nclx["color_primaries"], nclx["transfer_characteristics"]
            profile = profile_of_code_points(*map(int, stated), is_grey=pixels.shape[2] == 1)
        elif profile is None and pixels.shape[2] == 3 and states_adobe_rgb(exif):
            profile = adobe_rgb_profile()
        return Picture(pixels, alpha, profile, metadata.exif, metadata.xmp, None, "HEIF", path, tuple(notes))

    def xmp(self, file: BinaryIO, path: Path) -> bytes | None:
        opened = _opened_heif(file)
        return opened[opened.primary_index].info.get("xmp") or None

    def num_channels(self, picture: Picture) -> int:
        return 1 if picture.is_grey and picture.alpha is None else 3

    @property
    def can_write(self) -> bool:
        return find_spec("pillow_heif") is not None

    def require_encoder(self) -> None:
        if not self.can_write:
            raise OutputError(f"HEIC is written with the extra heif; {_HOW}, or write .png or .avif")

    def encode(self, picture: Picture, settings: dict[str, Any]) -> tuple[bytes, tuple[str, ...]]:
        import pillow_heif

        pixels, alpha = picture.pixels, picture.alpha
        if picture.is_grey and alpha is not None:  # which would be read back in colour
            pixels = np.repeat(pixels, 3, axis=2)
        array = pixels if alpha is None else np.dstack([pixels, alpha])
        mode = {1: "L", 3: "RGB", 4: "RGBA"}[array.shape[2]]
        if array.dtype == np.uint16:
            mode = "I;16" if mode == "L" else f"{mode};16"
            levels = (array.astype(np.uint32) * (2**_WRITTEN_BITS - 1) + 32767) // 65535
            array = (levels << (16 - _WRITTEN_BITS)).astype(np.uint16)
        heif = pillow_heif.from_bytes(mode, (picture.width, picture.height), array.tobytes())
        if "icc_profile" in settings:
            heif[0].info["icc_profile"] = settings["icc_profile"]
        data = io.BytesIO()
        heif.save(
            data, quality=settings["quality"], chroma=444, exif=settings.get("exif"), xmp=settings.get("xmp"),
        )  # fmt: skip
        return data.getvalue(), ()


def _opened_heif(file: BinaryIO) -> Any:
    library = _library()
    if library is None:
        raise PictureError(f"the file is a HEIC picture, which is read with the extra heif; {_HOW}")
    return library.open_heif(file, convert_hdr_to_8bit=False)


def _library() -> Any:
    try:
        import pillow_heif
    except ImportError:
        try:
            import pi_heif
        except ImportError:
            return None
        return pi_heif
    return pillow_heif


def _pixels(image: Any) -> tuple[np.ndarray, np.ndarray | None]:
    array = np.asarray(image)
    if array.dtype == np.uint16:
        # The library shifts 10 and 12 bits up, so that white is less than 65535.
        bits = image.info["bit_depth"]
        levels = (array >> (16 - bits)).astype(np.uint32)
        array = ((levels * 65535 + (2**bits - 1) // 2) // (2**bits - 1)).astype(np.uint16)
    pixels, alpha = split_alpha(array)
    if alpha is not None and image.mode.startswith("RGBa"):
        opaque = np.iinfo(array.dtype).max
        divided = pixels.astype(np.uint64) * opaque // np.maximum(alpha[..., None], 1)
        pixels = np.minimum(divided, opaque).astype(array.dtype)
    return pixels, alpha


CODEC = HeifCodec
