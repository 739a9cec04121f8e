"""EXIF, XMP and DPI as Pillow has them, both ways."""

from __future__ import annotations

from PIL import Image, TiffImagePlugin

from s3diff.images.formats import Format
from s3diff.images.metadata import EXIF_PREFIX

_MAX_JPEG_EXIF_BYTES = 65533
#: TIFF tags that say something about the scene; the others describe how this one file stores its pixels.
_DESCRIPTIVE_TAGS = (0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x8298)
_EXIF_GROUP, _GPS_GROUP, _INTEROPERABILITY_GROUP = 0x8769, 0x8825, 0xA005


def exif_of(image: Image.Image) -> tuple[bytes | None, bool]:
    """The EXIF block with its prefix, and whether there was one too damaged to keep."""
    try:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            return descriptive_exif(image.getexif()), False
        raw = image.info.get("exif")
        if raw is None:  # ImageMagick writes it into PNG texts instead
            kept = image.getexif()
            raw = kept.tobytes() if len(kept) else None
    except Exception:  # noqa: BLE001 - tags of any content must not cost the picture; the loss is reported
        return None, True
    if not raw:
        return None, False
    body = raw.removeprefix(EXIF_PREFIX)
    damaged = not body.startswith((b"II*\0", b"MM\0*"))
    return (None, True) if damaged else (EXIF_PREFIX + body, False)


def descriptive_exif(exif: Image.Exif) -> bytes | None:
    """Without the tags that describe the storage of pixels in one TIFF file, which are wrong in any other file."""
    kept = Image.Exif()
    for tag in _DESCRIPTIVE_TAGS:
        if tag in exif:
            kept[tag] = exif[tag]
    for group in (_EXIF_GROUP, _GPS_GROUP):
        entries = {tag: value for tag, value in exif.get_ifd(group).items() if tag != _INTEROPERABILITY_GROUP}
        if entries:
            kept[group] = entries
    return kept.tobytes() if len(kept) else None


def xmp_of(image: Image.Image) -> bytes | None:
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode("utf-8", "surrogateescape")
    return xmp if isinstance(xmp, bytes) and xmp else None


def dpi_of(image: Image.Image) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across < 1e6 and 0 < down < 1e6 else None


def exif_for(form: Format, exif: bytes | None) -> tuple[bytes | None, tuple[str, ...]]:
    """The EXIF block as this format can hold it, and what to say if it cannot."""
    if exif is None:
        return None, ()
    if form.name == "JPEG" and len(exif) > _MAX_JPEG_EXIF_BYTES:
        return None, (f"the EXIF block of {len(exif)} bytes is too long for a JPEG file and was left out",)
    if form.name != "TIFF":
        return exif, ()
    tags = Image.Exif()
    try:
        tags.load(exif)
        return descriptive_exif(tags), ()
    except Exception:  # noqa: BLE001 - as in reading
        return None, ("the EXIF block is damaged and was left out",)
