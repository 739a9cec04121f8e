"""The corpus of colours and pixels into every format: what is shown stays, or a remark names what is lost."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from metadata_probes import enlarged
from picture_corpus import PICTURES, SIDE, PictureCase
from s3diff.errors import OutputError, PictureError
from s3diff.formats import format_of
from s3diff.images.files.reading import decode_picture, read_picture
from s3diff.images.files.writing import write_picture

READ = [case for case in PICTURES if case.shown is not None]
#: Formats and how far colours may be off, in 255ths.
TARGETS = {".png": 1, ".tif": 1, ".jpg": 4, ".webp": 5, ".bmp": 1, ".gif": 1}
#: By (kind of loss) what a remark says of it.
ROUNDED, NO_PROFILE, GREY_PROFILE = "16 bits were rounded to 8", "holds no colour profile", "profile; it was left out"
#: Of a field that is compared, in pixels.
MARGIN = 4


def test_the_corpus_is_large_enough() -> None:
    assert len({case.name for case in PICTURES}) == len(PICTURES) >= 60


def as_shown(path: Path) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Colours [H, W, 3] as sRGB by Pillow and littlecms, opacity, both in [0, 1], and bits per channel as stored."""
    bits = path.read_bytes()[24] if path.suffix == ".png" else 8
    if path.suffix == ".tif" and (picture := read_picture(path)).pixels.dtype == np.uint16:
        # Pillow has no mode for it; test_pages and test_tiff_samples have other readers.
        colors, bits, profile = (
            Image.fromarray((picture.pixels // 257).astype(np.uint8).squeeze()),
            16,
            picture.icc_profile,
        )
        alpha = None if picture.alpha is None else picture.alpha / 65535
    else:
        with Image.open(path) as image:
            profile, alpha = image.info.get("icc_profile"), None
            if image.mode.startswith("I"):
                colors = Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8))
            else:
                plain = image.convert("RGBA") if image.has_transparency_data else image
                alpha = np.asarray(plain.getchannel("A")) / 255 if "A" in plain.mode else None
                colors = plain.convert("L" if image.mode in ("L", "LA", "1") else "RGB")
    if profile:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(colors, opened, ImageCms.createProfile("sRGB"), outputMode="RGB")
        assert converted is not None
        colors = converted
    return np.asarray(colors.convert("RGB")) / 255, alpha, bits


@pytest.mark.parametrize("case", [case for case in PICTURES if case.shown is None], ids=lambda case: case.name)
def test_what_cannot_be_kept_is_refused_by_name(case: PictureCase) -> None:
    with pytest.raises(PictureError) as error:
        decode_picture(case.content, f"a{case.extension}")
    assert all(word in str(error.value) for word in case.words)


@pytest.mark.parametrize("case", READ, ids=lambda case: case.name)
def test_what_is_shown_stays_or_a_remark_names_what_is_lost(tmp_path: Path, case: PictureCase) -> None:
    picture = decode_picture(case.content, f"a{case.extension}")
    assert picture.pixels.dtype.itemsize * 8 == case.bits
    assert picture.is_grey == (case.shown.shape[2] == 1)
    for extension, tolerance in TARGETS.items():
        form, target = format_of(f"a{extension}"), tmp_path / f"a{extension}"
        assert form is not None
        if picture.is_transparent and not form.has_alpha:
            with pytest.raises(OutputError, match="transparen"):
                write_picture(picture, target)
            continue
        notes = (*picture.notes, *write_picture(enlarged(picture, 2, 2), target))
        colors, alpha, bits = as_shown(target)
        expected = case.shown.repeat(2, 0).repeat(2, 1)
        # Away from the fields' borders, where lossy formats mix colours.
        inside = np.minimum(np.arange(len(expected)) % SIDE, -np.arange(1, 1 + len(expected)) % SIDE) >= MARGIN
        visible = inside[:, None] & inside
        if case.alpha is not None:
            wanted = case.alpha.repeat(2, 0).repeat(2, 1)
            wanted = np.round(wanted) if extension == ".gif" else wanted
            assert alpha is not None, (extension, notes)
            assert np.abs(alpha - wanted).max() <= 2 / 255, extension
            visible &= wanted > 0
        if not any(GREY_PROFILE in note for note in notes):
            off = 255 * float(np.abs(colors - expected)[visible].max())
            assert off <= tolerance + case.tolerance, (extension, notes)
        unsaid = set(notes)
        allowed = list(case.words)
        if case.bits == 16 and 16 not in form.bits:
            allowed.append(ROUNDED)
        else:
            assert bits == case.bits, extension
        if picture.icc_profile is not None and not form.has_profile:
            allowed.append(NO_PROFILE)
        if picture.exif is not None and not form.has_exif:
            allowed.append("holds no EXIF")
        if extension == ".gif" and case.alpha is not None:
            allowed.append("half transparency")
        if extension == ".webp" and picture.is_grey:
            allowed.append("not one for RGB")
        for word in allowed:
            unsaid -= {note for note in notes if word in note}
        assert unsaid == set(), extension
        assert all(any(word in note for note in notes) for word in case.words if "not one for" not in word), notes
