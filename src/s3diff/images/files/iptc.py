"""Read captions and keywords as IPTC (IIM 4.2), and Photoshop's image resources that carry them. No Pillow here."""

from __future__ import annotations

import struct
from collections.abc import Iterator

#: Resources by their numbers (Photoshop file formats, image resource IDs).
_IPTC_ID = 0x0404
_DIGEST_ID = 0x0425
#: Resources that are kept: they describe the scene, or how the picture is shown and printed at any size.
_KEPT = {
    0x03F0: "Caption", 0x03F3: "PrintFlags", 0x03F4: "GreyHalftoning", 0x03F5: "ColorHalftoning",
    0x03F7: "GreyTransferFunction", 0x03F8: "ColorTransferFunction", _IPTC_ID: "IPTC", 0x040A: "CopyrightFlag",
    0x040B: "URL", 0x040D: "GlobalAngle", 0x0410: "Watermark", 0x0411: "ICC_Untagged", 0x0419: "GlobalAltitude",
    0x041E: "URL_List", _DIGEST_ID: "IPTCDigest", 0x043A: "PrintInfo", 0x043B: "PrintStyle", 0x2710: "PrintFlagsInfo",
}  # fmt: skip
#: Resources that concern only this file, or repeat facts that are read elsewhere: resolution, quality, thumbnails,
#: profile, seed of layers' numbers, version, EXIF, XMP.
_OF_ONE_FILE = (0x03ED, 0x0406, 0x0409, 0x040C, 0x040F, 0x0414, 0x0421, 0x0422, 0x0423, 0x0424)
#: Names of resources that are left out: they are in pixels of this file, or about its layers and channels. Resources of
#: other numbers are left out, too.
_LEFT_OUT = {
    0x03EE: "AlphaChannelNames", 0x03F1: "Border", 0x03F2: "BackgroundColor", 0x03F9: "DuotoneTransferFunction",
    0x03FA: "DuotoneInformation", 0x03FD: "QuickMask", 0x0400: "LayerState", 0x0402: "LayerGroups",
    0x0408: "GridAndGuides", 0x0413: "SpotHalftone", 0x0415: "UnicodeAlphaNames", 0x0416: "IndexedColorTableCount",
    0x0417: "TransparentIndex", 0x041A: "Slices", 0x041D: "AlphaIdentifiers", 0x0426: "PrintScale",
    0x0428: "PixelAspectRatio", 0x0429: "LayerComps", 0x042B: "AlternateSpotColors", 0x042D: "LayerSelection",
    0x0430: "LayerGroupsEnabled", 0x0432: "Measurements", 0x0433: "Counts", 0x0435: "SheetDisclosure",
    0x043C: "PrintInformation", 0x0BB7: "ClippingPathName", 0x0C1A: "OriginPaths",
}  # fmt: skip
_PATHS = range(0x07D0, 0x0BB7)
_SIGNATURES = (b"8BIM", b"PHUT", b"AgHg", b"DCSR", b"MeSa")
_DATASET_MARK, _LONG_LENGTH = 0x1C, 0x8000
#: Records of IIM: 3 describes the raster of one file, 2:200 to 2:202 hold a preview, 7 to 9 the object itself.
_NEWS_PHOTO, _APPLICATION, _PREVIEW, _OBJECT = 3, 2, (200, 201, 202), (7, 8, 9)
_LAYOUT = 131


def descriptive_resources(data: bytes) -> tuple[bytes | None, list[str]]:
    """Return the image resources that describe the scene, and the titles of others that are left out."""
    kept, lost, names = [], [], []
    is_changed = False
    end = 0
    for signature, identifier, name, stored in _resources(data):
        end += len(_resource(signature, identifier, name, stored))
        if identifier == _IPTC_ID and stored[sum(len(dataset) for *_, dataset in _datasets(stored)) :].strip(b"\0"):
            lost.append("a damaged part of IPTC")
        body = _without_pixels(stored) if identifier == _IPTC_ID else stored
        is_changed |= body != stored
        if identifier in _KEPT and body:
            kept.append((signature, identifier, name, body))
        elif identifier in _PATHS:
            lost.append("paths of Photoshop")
        elif identifier not in (*_OF_ONE_FILE, *_KEPT):
            names.append(_LEFT_OUT.get(identifier, f"0x{identifier:04X}"))
    if data[end:].strip(b"\0"):
        lost.append("damaged resources of Photoshop")
    if names:
        lost.append(f"resources of Photoshop ({', '.join(dict.fromkeys(names))})")
    return b"".join(_resource(*each) for each in kept if not is_changed or each[1] != _DIGEST_ID) or None, lost


def titles_of(resources: bytes) -> list[str]:
    """Return what kept resources hold, for a remark where a format holds none of them."""
    found = [_KEPT.get(identifier, f"0x{identifier:04X}") for _, identifier, _, _ in _resources(resources)]
    named = [name for name in dict.fromkeys(found) if name not in ("IPTC", "IPTCDigest")]
    titles = ["captions and keywords"] if "IPTC" in found else []
    return titles + ([f"resources of Photoshop ({', '.join(named)})"] if named else [])


def resources_of(iptc: bytes) -> bytes | None:
    """Return IPTC's datasets as an image resource."""
    return _resource(b"8BIM", _IPTC_ID, b"\0\0", iptc) if iptc else None


def with_layout(resources: bytes, size: tuple[int, int]) -> bytes:
    """Set the letter (dataset 2:131), where it is stated, to the result's: landscape, portrait or square."""
    width, height = size
    letter = b"L" if width > height else b"P" if width < height else b"S"
    found = list(_resources(resources))
    changed = [
        (signature, identifier, name, _with_letter(body, letter) if identifier == _IPTC_ID else body)
        for signature, identifier, name, body in found
    ]
    if changed == found:
        return resources
    return b"".join(_resource(*each) for each in changed if each[1] != _DIGEST_ID)


def _with_letter(iptc: bytes, letter: bytes) -> bytes:
    parts, place = [], 0
    for record, number, dataset in _datasets(iptc):
        place += len(dataset)
        is_layout = (record, number) == (_APPLICATION, _LAYOUT) and dataset[-1:] in (b"L", b"P", b"S")
        parts.append(dataset[:-1] + letter if is_layout else dataset)
    return b"".join(parts) + iptc[place:]


def split_resources(resources: bytes) -> tuple[bytes, bytes]:
    """Return IPTC's datasets, and the resources without them."""
    found = list(_resources(resources))
    datasets = b"".join(body for _, identifier, _, body in found if identifier == _IPTC_ID)
    return datasets, b"".join(_resource(*each) for each in found if each[1] != _IPTC_ID)


def _resources(data: bytes) -> Iterator[tuple[bytes, int, bytes, bytes]]:
    """Yield signature, identifier, name as stored and content, up to the first damaged one."""
    place = 0
    while data[place : place + 4] in _SIGNATURES and place + 12 <= len(data):
        signature, identifier = data[place : place + 4], int.from_bytes(data[place + 4 : place + 6], "big")
        name_end = place + 6 + 1 + data[place + 6]
        name_end += (name_end - place) % 2
        body = name_end + 4
        size = int.from_bytes(data[name_end:body], "big")
        if body + size > len(data):
            return
        yield signature, identifier, data[place + 6 : name_end], data[body : body + size]
        place = body + size + size % 2


def _resource(signature: bytes, identifier: int, name: bytes, body: bytes) -> bytes:
    return signature + struct.pack(">H", identifier) + name + struct.pack(">I", len(body)) + body + bytes(len(body) % 2)


def _without_pixels(iptc: bytes) -> bytes:
    """Return the datasets without those about one file's raster and preview; empty if none can be read."""
    kept = []
    for record, number, dataset in _datasets(iptc):
        is_preview = record == _APPLICATION and number in _PREVIEW
        if record not in (_NEWS_PHOTO, *_OBJECT) and not is_preview:
            kept.append(dataset)
    return b"".join(kept)


def _datasets(iptc: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield record, number and the whole dataset, up to the first damaged one."""
    place = 0
    while place + 5 <= len(iptc) and iptc[place] == _DATASET_MARK:
        size, begin = int.from_bytes(iptc[place + 3 : place + 5], "big"), place + 5
        if size & _LONG_LENGTH:
            num_bytes = size & ~_LONG_LENGTH
            size, begin = int.from_bytes(iptc[begin : begin + num_bytes], "big"), begin + num_bytes
        if begin + size > len(iptc):
            return
        yield iptc[place + 1], iptc[place + 2], iptc[place : begin + size]
        place = begin + size
