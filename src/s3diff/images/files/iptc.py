"""Read captions and keywords as IPTC (IIM 4.2), and Photoshop's image resources that carry them. No Pillow here."""

from __future__ import annotations

import struct
from collections.abc import Iterator

#: Resources that say something about the scene (Photoshop file formats, image resource IDs): IPTC, copyright flag and
#: address, the IPTC's digest. The others describe one file's pixels and windows.
_IPTC_ID = 0x0404
_DIGEST_ID = 0x0425
_DESCRIPTIVE_IDS = (_IPTC_ID, 0x040A, 0x040B, _DIGEST_ID)
#: Resources whose loss gets a remark.
_PATHS = range(0x07D0, 0x0BB8)
_SIGNATURES = (b"8BIM", b"PHUT", b"AgHg", b"DCSR", b"MeSa")
_DATASET_MARK, _LONG_LENGTH = 0x1C, 0x8000
#: Records of IIM: 3 describes the raster of one file, 2:200 to 2:202 hold a preview, 7 to 9 the object itself.
_NEWS_PHOTO, _APPLICATION, _PREVIEW, _OBJECT = 3, 2, (200, 201, 202), (7, 8, 9)


def descriptive_resources(data: bytes) -> tuple[bytes | None, list[str]]:
    """Return the resources that describe the scene, and the titles of others that are left out.

    Args:
        data: image resources, one after the other.
    """
    kept, lost = [], []
    is_changed = False
    for signature, identifier, name, stored in _resources(data):
        body = _without_pixels(stored) if identifier == _IPTC_ID else stored
        is_changed |= body != stored
        if identifier in _DESCRIPTIVE_IDS and body:
            kept.append((signature, identifier, name, body))
        elif identifier in _PATHS:
            lost.append("paths of Photoshop")
    return b"".join(_resource(*each) for each in kept if not is_changed or each[1] != _DIGEST_ID) or None, lost


def resources_of(iptc: bytes) -> bytes | None:
    """Return IPTC's datasets as an image resource."""
    iptc = _without_pixels(iptc)
    return _resource(b"8BIM", _IPTC_ID, b"\0\0", iptc) if iptc else None


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
