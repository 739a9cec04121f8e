"""Convert metadata and DPI from and to Pillow's form."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from PIL import GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, TiffTags

from s3diff.formats import Format
from s3diff.images.files import geotiff
from s3diff.images.files.dropped_contents import CREDENTIALS, left_out_note
from s3diff.images.files.exif_block import EXIF_PREFIX, MAKER_NOTE, MAKER_NOTE_TITLE, can_move
from s3diff.images.files.iptc import descriptive_resources, resources_of, split_resources, titles_of
from s3diff.images.files.jpeg_segments import has_second_packet, joined_exif, joined_photoshop, joined_xmp
from s3diff.images.files.metadata import Metadata
from s3diff.images.files.png_chunks import XMP_KEYWORD, ReadChunks, decoded_texts, iptc_text, sorted_texts
from s3diff.images.icc_profiles import DAMAGED_PROFILE
from s3diff.images.picture import NOT_SQUARE, Text

#: TIFF tags about the scene: software, description, maker, resolution, times, names, Windows' tags.
_DESCRIPTIVE_TAGS = (
    0x000B, 0x010D, 0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x011D, 0x0128, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746,
    0x4749, 0x8298, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F, *geotiff.TAGS,
)  # fmt: skip
_TIFF_XMP, _TIFF_IPTC, _TIFF_PHOTOSHOP, _TIFF_PROFILE = 0x02BC, 0x83BB, 0x8649, 0x8773
_EXIF_GROUP, _GPS_GROUP, _INTEROPERABILITY_GROUP = 0x8769, 0x8825, 0xA005
#: TIFF tags that a decoder needs to find and understand one file's pixels (TIFF 6.0 and its supplements).
_STORAGE_TAGS = (
    *range(0x00FE, 0x010D), 0x0111, *range(0x0115, 0x0118), 0x011C, 0x0120, 0x0121, 0x0124, 0x0125, 0x013D, 0x0140,
    *range(0x0142, 0x0146), 0x014A, 0x014C, 0x014E, 0x014F, 0x0152, 0x0153, 0x015A, 0x015B, *range(0x0200, 0x0206),
    *range(0x0207, 0x020A), *range(0x0211, 0x0214),
)  # fmt: skip
_BITS, _ORIENTATION, _WHITE_POINT, _PRIMARIES = 0x0102, 0x0112, 0x013E, 0x013F
_SMALLEST, _LARGEST, _PAGE_NUMBER, _BLACK_AND_WHITE = 0x0118, 0x0119, 0x0129, 0x0214
_RESOLUTION, _RESOLUTION_UNIT = 0x011A, 0x0128
_TIFF_CREDENTIALS = 0xCD41
_NAMED_TAGS = {0x935C: "Photoshop's layers", _TIFF_CREDENTIALS: CREDENTIALS}
_NAMED_TAGS |= {0xA480: "GDAL's metadata", 0xA481: "GDAL's value for no data"}
_COMMENT, _PROFILE = "Comment", b"ICC_PROFILE\0"
_IPTC_START = b"\x1c"
#: Length from which texts of PNG are compressed, as the specification advises (section 11.3.3.1).
_COMPRESSED_TEXT = 1024


class _StoredText(str):
    """Keep a tag's text as stored, mostly UTF-8: Pillow would read Latin-1 and write ? beyond ASCII."""

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        return str.encode(self, "latin-1")


def _as_stored(value: Any) -> Any:
    if isinstance(value, dict):
        return {tag: _as_stored(entry) for tag, entry in value.items()}
    return _StoredText(value) if isinstance(value, str) else value


def metadata_of(image: Image.Image) -> tuple[Metadata, list[str], tuple[str, ...]]:
    """Return the metadata of a loaded image as stored, the titles of contents left out, and remarks."""
    exif, xmp, iptc = None, None, None
    notes: tuple[str, ...] = ()
    texts: tuple[Text, ...] = ()
    lost: list[str] = []
    is_damaged = False
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        payloads = {marker: [data for name, data in image.applist if name == marker] for marker, _ in image.applist}
        exif, has_more_exif = joined_exif(payloads.get("APP1", []))
        xmp, is_damaged = joined_xmp(payloads.get("APP1", []))
        lost += ["a second block of EXIF"] if has_more_exif else []
        lost += ["a second packet of XMP"] if has_second_packet(payloads.get("APP1", [])) else []
        if not image.info.get("icc_profile") and any(data.startswith(_PROFILE) for data in payloads.get("APP2", [])):
            notes += (DAMAGED_PROFILE,)
        iptc = joined_photoshop(payloads.get("APP13", []))
        comments = [_comment(data).text for data in payloads.get("COM", [])]
        texts = (Text(_COMMENT, "\n".join(comments)),) if comments else ()
    elif isinstance(image, PngImagePlugin.PngImageFile):
        exif, xmp, iptc, texts, lost = _of_png(image)
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        iptc = _iptc_of_tiff(image)
        bits = getattr(image, "stored_bits", 0) or max(image.tag_v2.get(_BITS, (1,)))
        lost = _lost_tags(image.tag_v2, getattr(image, "place_among_pages", (0, 1)), bits)
        with suppress(Exception):  # tags of any content must not cost the picture
            lost += _lost_parts(image.getexif())
    elif isinstance(image, GifImagePlugin.GifImageFile) and image.info.get("comment"):
        texts = (_comment(image.info["comment"]),)
    notes += _aspect_note(image.info)
    if is_damaged:
        notes += ("a part of the XMP packet is missing or damaged and was left out",)
    if iptc:
        iptc, more = descriptive_resources(iptc)
        lost += more
    exif, is_damaged = _exif_of(image, exif)
    if is_damaged:
        notes += ("the EXIF block is damaged and was left out",)
    return Metadata(exif, xmp or xmp_of(image), iptc or None, texts), lost, notes


def _of_png(
    image: PngImagePlugin.PngImageFile,
) -> tuple[bytes | None, bytes | None, bytes | None, tuple[Text, ...], list[str]]:
    """Read EXIF, XMP, IPTC and the other texts; name the fields that are left behind."""
    chunks: ReadChunks | None = getattr(image, "chunks", None)
    lost: list[str] = []
    if chunks is None:  # opened by Pillow
        plain = [_text(keyword, text) for keyword, text in image.text.items()]
    else:
        plain, lost = decoded_texts(chunks.texts)
    found = sorted_texts(plain)
    lost += found.lost
    blocks = [EXIF_PREFIX + each.removeprefix(EXIF_PREFIX) for each in chunks.exif] if chunks is not None else []
    blocks += [found.exif] if found.exif is not None else []  # the chunk is stronger
    if len(set(blocks)) > 1:
        lost.append("a second block of EXIF in the PNG")
    return blocks[0] if blocks else None, found.xmp, found.iptc, found.texts, lost


def _exif_of(image: Image.Image, found: bytes | None) -> tuple[bytes | None, bool]:
    """Return the EXIF block with its prefix, and whether a block was too damaged; ``found``: one from elsewhere."""
    try:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            return descriptive_exif(image.getexif()), False
        raw = found or image.info.get("exif")
        if raw is None:
            kept = image.getexif()
            raw = kept.tobytes() if len(kept) else None
    except Exception:  # noqa: BLE001 - tags of any content must not cost the picture; the loss is reported
        return None, True
    if not raw:
        return None, False
    body = raw.removeprefix(EXIF_PREFIX)
    damaged = not body.startswith((b"II*\0", b"MM\0*"))
    return (None, True) if damaged else (EXIF_PREFIX + body, False)


def _comment(data: bytes) -> Text:
    try:
        return Text(_COMMENT, data.decode())
    except UnicodeError:
        return Text(_COMMENT, data.decode("latin-1"))


def _text(keyword: str, text: str) -> Text:
    return Text(keyword, str(text), _said(getattr(text, "lang", "")), _said(getattr(text, "tkey", "")))


def _said(value: str | bytes | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""


def _iptc_of_tiff(image: TiffImagePlugin.TiffImageFile) -> bytes | None:
    """Return image resources; IPTC's own tag has priority over IPTC among the resources."""
    resources, datasets = (_tag_bytes(image, tag) for tag in (_TIFF_PHOTOSHOP, _TIFF_IPTC))
    if not datasets:
        return resources
    return (resources_of(datasets) or b"") + split_resources(resources)[1]


def _tag_bytes(image: TiffImagePlugin.TiffImageFile, tag: int) -> bytes:
    """Return a tag's bytes as stored: of bytes marked as whole numbers of four, Pillow returns only the first."""
    data = bytes(image.tag.tagdata.get(tag, b""))
    is_swapped = data[:1] != _IPTC_START and data[3:4] == _IPTC_START  # as the writer did with such numbers
    if tag == _TIFF_IPTC and is_swapped:
        data = b"".join(data[start : start + 4][::-1] for start in range(0, len(data), 4))
    return data


def _lost_parts(exif: Image.Exif) -> list[str]:
    """Return the titles of the parts that a block written anew does not hold."""
    group = exif.get_ifd(_EXIF_GROUP)
    titles = [] if _can_move_notes(group) else [MAKER_NOTE_TITLE]
    more = set(exif.get_ifd(_INTEROPERABILITY_GROUP)) - {1, 2} if _INTEROPERABILITY_GROUP in group else set()
    return titles + (["EXIF's interoperability directory (RelatedImageWidth ..)"] if more else [])


def _can_move_notes(group: Mapping[int, Any]) -> bool:
    note = group.get(MAKER_NOTE, b"")
    return not isinstance(note, bytes) or can_move(note)


def _says_the_usual(tag: int, value: Any, page: tuple[int, int], bits: int) -> bool:
    """Check whether a tag states its default; see :func:`_lost_tags`."""
    white = 2**bits - 1
    usual: dict[int, tuple[tuple[int, ...], ...]] = {
        _SMALLEST: ((0,),),
        _LARGEST: ((white,),),
        _PAGE_NUMBER: (page, (page[0], 0), (0, 0)),
        _BLACK_AND_WHITE: ((0, white) * 3, (0, white, *(white // 2 + 1, white) * 2)),  # of RGB, of YCbCr
    }
    try:
        values = tuple(map(float, value if isinstance(value, tuple) else (value,)))
    except (TypeError, ValueError, ArithmeticError):
        return False
    values = values[:1] if tag in (_SMALLEST, _LARGEST) and len(set(values)) == 1 else values
    return values in usual.get(tag, ())


def _lost_tags(tags: Mapping[int, Any], page: tuple[int, int] | None = None, bits: int = 8) -> list[str]:
    """Return the titles of tags of a TIFF's page, or of an EXIF block's IFD0, that no result has.

    Args:
        tags: their values.
        page: the page's number, from 0, and the number of pages; None for a block. The white point and primaries of a
            page are read elsewhere.
        bits: per channel of the page.
    """
    kept = {*_DESCRIPTIVE_TAGS, *_STORAGE_TAGS, _TIFF_XMP, _TIFF_IPTC, _TIFF_PHOTOSHOP, _TIFF_PROFILE, _ORIENTATION}
    kept |= {_EXIF_GROUP, _GPS_GROUP} | ({_WHITE_POINT, _PRIMARIES} if page is not None else set())
    unkept = sorted(tag for tag in tags if tag not in kept)
    lost = [tag for tag in unkept if not _says_the_usual(tag, tags[tag], page or (0, 1), bits)]
    named = [_NAMED_TAGS[tag] for tag in lost if tag in _NAMED_TAGS]
    titles = {tag: TiffTags.lookup(tag).name for tag in lost if tag not in _NAMED_TAGS}
    others = [str(tag) if title == "unknown" else title for tag, title in titles.items()]
    return named + ([f"TIFF tags ({', '.join(others)})"] if others else [])


def descriptive_exif(exif: Image.Exif) -> bytes | None:
    """Remove the tags that describe one TIFF file's storage of pixels, which are wrong in any other file."""
    kept = Image.Exif()
    for tag in _DESCRIPTIVE_TAGS:
        if tag in exif:
            kept[tag] = _as_stored(exif[tag])
    for group in (_EXIF_GROUP, _GPS_GROUP):
        entries = dict(exif.get_ifd(group))
        entries.pop(_INTEROPERABILITY_GROUP, None)  # Pillow writes a wrong offset of it
        if not _can_move_notes(entries):
            del entries[MAKER_NOTE]
        if entries:
            kept[group] = _as_stored(entries)
    return kept.tobytes() if len(kept) else None


def xmp_of(image: Image.Image) -> bytes | None:
    """Return the packet that Pillow has found so far, as stored."""
    xmp = image.info.get("xmp") or image.info.get(XMP_KEYWORD)
    if isinstance(xmp, str):
        xmp = xmp.encode("utf-8", "surrogateescape")
    return xmp if isinstance(xmp, bytes) and xmp else None


def _aspect_note(info: dict[Any, Any]) -> tuple[str, ...]:
    """Note that pixels are not square, if a file states only that and no pixels per inch."""
    stated: Any = info.get("aspect") or info.get("resolution")
    if info.get("jfif_unit") == 0:
        stated = info.get("jfif_density")
    try:
        across, down = (float(value) for value in stated)
    except (TypeError, ValueError, ZeroDivisionError):
        return ()
    if across == down or not (across > 0 and down > 0):
        return ()
    return (NOT_SQUARE.format(across, down),)


def _has_assumed_dpi(image: Image.Image) -> bool:
    """Check whether a JPEG states no resolution, where Pillow says 72 if there is EXIF."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or image.info.get("jfif_unit") in (1, 2):
        return False
    try:
        return not {_RESOLUTION, _RESOLUTION_UNIT} <= set(image.getexif())
    except Exception:  # noqa: BLE001 - tags of any content must not cost the picture
        return True


def dpi_of(image: Image.Image) -> tuple[float, float] | None:
    if _has_assumed_dpi(image):
        return None
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    if across == down == 1:  # what Pillow says of a TIFF or JPEG that gives no unit
        return None
    return (across, down) if 0 < across < 1e6 and 0 < down < 1e6 else None


def held_by(form: Format, metadata: Metadata) -> tuple[Metadata, tuple[str, ...]]:
    """Return the metadata that a format can hold, and notes on the rest."""
    notes: tuple[str, ...] = ()
    exif = metadata.exif if form.has_exif else None
    if metadata.exif is not None and exif is None:
        notes += (f"{form.title} holds no EXIF; it was left out",)
    xmp, iptc = metadata.xmp if form.has_xmp else None, metadata.iptc if form.has_iptc else None
    texts = tuple(text for text in metadata.texts if form.has_texts or (form.has_comment and text.keyword == _COMMENT))
    if metadata.xmp is not None and xmp is None:
        notes += (f"{form.title} holds no XMP; it was left out",)
    if metadata.iptc is not None and iptc is None:
        notes += (f"{form.title} holds no IPTC; left out: {', '.join(titles_of(metadata.iptc))}",)
    lost = dict.fromkeys(text.keyword for text in metadata.texts if text not in texts)
    if lost:
        notes += (f"{form.title} holds no texts as PNG does; left out: {', '.join(lost)}",)
    return Metadata(exif, xmp, iptc, texts), notes


def tiff_exif(exif: bytes) -> tuple[bytes | None, tuple[str, ...]]:
    """Return the EXIF block as a TIFF can hold it, and notes on losses."""
    tags = Image.Exif()
    try:
        tags.load(exif)
        return descriptive_exif(tags), left_out_note([*_lost_tags(tags), *_lost_parts(tags)])
    except Exception:  # noqa: BLE001 - as in reading
        return None, ("the EXIF block is damaged and was left out",)


def png_info(metadata: Metadata) -> PngImagePlugin.PngInfo:
    """Make PNG chunks of XMP, IPTC and texts."""
    chunks = PngImagePlugin.PngInfo()
    texts = list(metadata.texts)
    if metadata.iptc is not None:
        texts.append(iptc_text(metadata.iptc))
    if metadata.xmp is not None:
        texts.append(Text(XMP_KEYWORD, metadata.xmp.decode("utf-8", "replace")))
    for text in texts:
        is_long = len(text.text) > _COMPRESSED_TEXT and text.keyword != XMP_KEYWORD
        is_international = text.keyword == XMP_KEYWORD or text.language or text.translated_keyword
        if is_international or any(ord(sign) > 255 for sign in text.text):
            chunks.add_itxt(text.keyword, text.text, text.language, text.translated_keyword, zip=is_long)
        else:
            chunks.add_text(text.keyword, text.text, zip=is_long)
    return chunks


def tiff_tags(exif: bytes | None, xmp: bytes | None, iptc: bytes | None) -> Image.Exif:
    """Make the tags of a TIFF that describe its picture."""
    tags = Image.Exif()
    if exif is not None:
        tags.load(exif)
        for tag in list(tags):
            if tag in (_EXIF_GROUP, _GPS_GROUP):
                group = tags.get_ifd(tag)  # kept and written by Pillow as it is now
                group.update(_as_stored(group))
            else:
                tags[tag] = _as_stored(tags[tag])
    if xmp is not None:
        tags[_TIFF_XMP] = xmp
    if iptc is not None:
        for tag, data in zip((_TIFF_IPTC, _TIFF_PHOTOSHOP), split_resources(iptc), strict=True):
            if data:
                tags[tag] = data
    return tags
