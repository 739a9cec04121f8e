"""Picture files, tensors, resampling and colour matching: exactness where it is promised, and every named error."""

from __future__ import annotations

import io
import os
import shutil
import struct
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile, PngImagePlugin, features

from command_runs import files_up_to
from conftest import goldens_path
from metadata_probes import EMPTY_PACKET
from s3diff.errors import OptionError, OutputError, PictureError, S3DiffError
from s3diff.images.color_match import (
    adain_color_match,
    match_color,
    wavelet_color_match,
    wavelet_color_match_readable,
)
from s3diff.images.files.metadata import without_orientation
from s3diff.images.files.pillow_pictures import from_pil, to_pil
from s3diff.images.files.reading import list_pictures, read_picture
from s3diff.images.files.writing import check_writable, write_picture
from s3diff.images.icc_profiles import srgb_profile
from s3diff.images.picture import Picture, alpha_from_tensor, alpha_to_tensor, from_array, from_tensor, to_tensor
from s3diff.images.resampling import crop, enlarge, from_network_range, pad_to_multiple, to_network_range

GREY_PROFILE = srgb_profile(is_grey=True)
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ORIENTATION = 0x0112

sides = st.integers(1, 9)


def noise(*shape: int, kind: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(kind).max + 1, shape, dtype=kind)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], -1).astype(np.uint8)


def exif_block(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "A camera maker"
    exif[ORIENTATION] = orientation
    exif[0x8769] = {0x9003: "2024:01:02 03:04:05", 0x927C: b"maker note \x00\x01\x02"}
    return exif.tobytes()


def tags(exif: bytes | None) -> Image.Exif:
    assert exif is not None
    loaded = Image.Exif()
    loaded.load(exif)
    return loaded


def golden(case: str) -> dict[str, torch.Tensor]:
    with np.load(goldens_path(f"{case}.npz")) as arrays:
        wanted = ("lr", "up", "x_pad", "output", "wavelet", "adain", "wavelet_u8", "adain_u8", "lr_u8")
        return {name: torch.from_numpy(arrays[name]) for name in wanted if name in arrays.files}


@contextmanager
def ordinary_user() -> Iterator[Path]:
    """An open folder, used without the rights of root (which ignores permissions)."""
    if not hasattr(os, "geteuid"):
        pytest.skip("permissions are tested on POSIX only")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    is_root = os.geteuid() == 0
    try:
        if is_root:
            os.setresuid(65534, 65534, 0)
        yield folder
    finally:
        if is_root:
            os.setresuid(0, 0, 0)
        for inside in folder.rglob("*"):
            inside.chmod(0o700)
        shutil.rmtree(folder)


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert ";" in text, f"does not say what to do: {text}"
    return text


# ------------------------------------------------------------------------------------ resampling


@pytest.mark.parametrize("case", ["case_small_mode", "case_main_mode"])
def test_enlarge_and_pad_give_the_released_input(case: str) -> None:
    expected = golden(case)
    low_quality = to_tensor(from_array(expected["lr_u8"].numpy()))
    up = enlarge(low_quality, *expected["up"].shape[-2:])
    # Within the rounding of float32: whether torch fuses multiply and add depends on the processor.
    torch.testing.assert_close(up, expected["up"], rtol=0, atol=1e-6)
    torch.testing.assert_close(pad_to_multiple(to_network_range(up), 64), expected["x_pad"], rtol=0, atol=1e-6)


def test_enlarge_filters_only_the_sides_that_shrink() -> None:
    image = torch.rand(1, 3, 12, 10, generator=torch.Generator().manual_seed(1))
    plain = F.interpolate(image, size=(30, 25), mode="bicubic", align_corners=False).clamp(0, 1)
    assert torch.equal(enlarge(image, 30, 25, "bicubic"), plain)
    shrunk = F.interpolate(image, size=(5, 4), mode="bilinear", align_corners=False, antialias=True)
    assert torch.equal(enlarge(image, 5, 4), shrunk)
    rows = F.interpolate(image, size=(5, 10), mode="bicubic", align_corners=False, antialias=True)
    mixed = F.interpolate(rows, size=(5, 40), mode="bicubic", align_corners=False).clamp(0, 1)
    assert torch.equal(enlarge(image, 5, 40, "bicubic"), mixed)
    assert torch.equal(enlarge(image, 12, 10, "bicubic"), image)


def test_bicubic_is_clamped() -> None:
    edge = (torch.arange(8) >= 4).float().expand(1, 3, 8, 8)
    assert F.interpolate(edge, scale_factor=4, mode="bicubic").max() > 1
    enlarged = enlarge(edge, 32, 32, "bicubic")
    assert enlarged.min() == 0
    assert enlarged.max() == 1


@given(sides, sides, st.integers(1, 40))
@settings(deadline=None)
def test_padding_mirrors_without_repeating_the_edge(height: int, width: int, multiple: int) -> None:
    image = torch.arange(height * width).reshape(1, 1, height, width)
    padded = pad_to_multiple(image, multiple)
    below, right = -height % multiple, -width % multiple
    assert padded.shape == (1, 1, height + below, width + right)
    assert torch.equal(crop(padded, height, width), image)
    walk = {side: list(range(side)) + list(range(side - 2, 0, -1)) for side in (height, width)}
    for y in range(height + below):
        for x in range(width + right):
            source = image[0, 0, walk[height][y % len(walk[height])], walk[width][x % len(walk[width])]]
            assert padded[0, 0, y, x] == source


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
@settings(deadline=None)
def test_padding_equals_torch_where_torch_can(height: int, width: int, multiple: int) -> None:
    below, right = -height % multiple, -width % multiple
    if below < height and right < width:
        image = torch.rand(2, 3, height, width)
        assert torch.equal(pad_to_multiple(image, multiple), F.pad(image, (0, right, 0, below), mode="reflect"))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 500), (500, 3), (64, 128)])
def test_padding_of_any_size(height: int, width: int) -> None:
    image = torch.rand(1, 3, height, width)
    padded = pad_to_multiple(image, 64)
    assert padded.shape[-2] % 64 == padded.shape[-1] % 64 == 0
    assert torch.equal(padded.amax(dim=(2, 3)), image.amax(dim=(2, 3)))


def test_ranges() -> None:
    values = torch.tensor([-0.5, 0.0, 0.25, 1.0, 1.5])
    assert to_network_range(values).tolist() == [-1, -1, -0.5, 1, 1]
    assert from_network_range(to_network_range(values)).tolist() == [0, 0, 0.25, 1, 1]


def test_resampling_refuses_what_makes_no_sense() -> None:
    image = torch.rand(1, 3, 4, 4)
    for call in (
        lambda: enlarge(image, 8, 8, "lanczos"),  # type: ignore[arg-type]
        lambda: enlarge(image, 0, 8),
        lambda: pad_to_multiple(image, 0),
        lambda: crop(image, 5, 4),
    ):
        with pytest.raises(OptionError) as error:
            call()
        one_line(error)


# ------------------------------------------------------------------------------------ colour


@pytest.mark.parametrize("how", ["wavelet", "adain"])
@pytest.mark.parametrize("case", ["case_small_mode", "case_main_mode"])
def test_colour_match_gives_the_released_values(case: str, how: str) -> None:
    expected = golden(case)
    base = expected["up"]
    result = crop(from_network_range(expected["output"]), *base.shape[-2:])
    matched = match_color(result, base, how)  # type: ignore[arg-type]
    assert (matched - expected[how]).abs().max() < 1e-6
    # The release truncates to 8 bits before it matches and again after; we round once.
    like = from_array(expected["lr_u8"].numpy())
    levels = from_tensor(matched, like).astype(int) - expected[f"{how}_u8"].numpy()
    assert abs(levels).max() <= 2


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_fast_wavelet_equals_its_readable_twin(height: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    result, base = torch.rand(2, 2, 3, height, width, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        wavelet_color_match(result, base), wavelet_color_match_readable(result, base), rtol=0, atol=1e-13
    )


def test_fast_wavelet_has_the_gradients_of_its_twin() -> None:
    result, base = torch.rand(2, 1, 3, 9, 11, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weights = torch.rand(1, 3, 9, 11, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    gradients = []
    for match in (wavelet_color_match, wavelet_color_match_readable):
        leaves = [result.clone().requires_grad_(), base.clone().requires_grad_()]
        gradients.append(torch.autograd.grad((match(*leaves) * weights).sum(), leaves))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_wavelet_takes_a_colour_cast_away_and_keeps_detail() -> None:
    base = torch.rand(1, 3, 1, 1).expand(1, 3, 70, 70)
    detail = torch.rand(1, 3, 70, 70, generator=torch.Generator().manual_seed(5)) * 0.1
    without_cast, with_cast = wavelet_color_match(base + detail, base), wavelet_color_match(base + detail + 0.2, base)
    torch.testing.assert_close(without_cast, with_cast)


def test_adain_takes_mean_and_deviation_of_the_base() -> None:
    result, base = torch.rand(2, 2, 3, 30, 40, generator=torch.Generator().manual_seed(6))
    matched = adain_color_match(result * 0.3, base)
    torch.testing.assert_close(matched.mean((2, 3)), base.mean((2, 3)))
    torch.testing.assert_close(matched.std((2, 3)), base.std((2, 3)), rtol=2e-3, atol=0)


@pytest.mark.parametrize("how", ["wavelet", "adain"])
def test_colour_match_of_one_pixel_is_the_base(how: str) -> None:
    result, base = torch.full((1, 3, 1, 1), 0.9), torch.tensor([0.1, 0.5, 0.7]).reshape(1, 3, 1, 1)
    torch.testing.assert_close(match_color(result, base, how), base)  # type: ignore[arg-type]


def test_colour_match_dispatch_precision_and_errors() -> None:
    result, base = torch.rand(2, 1, 3, 5, 6)
    assert match_color(result, base, "none") is result
    assert match_color(result.bfloat16(), base.bfloat16(), "wavelet").dtype == torch.float32
    with pytest.raises(OptionError) as unknown:
        match_color(result, base, "histogram")  # type: ignore[arg-type]
    one_line(unknown)
    with pytest.raises(PictureError) as shapes:
        match_color(result, base[..., :5], "adain")
    one_line(shapes)


# ------------------------------------------------------------------------------------ arrays and tensors


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_level_survives_the_tensor(kind: type, channels: int) -> None:
    levels = np.arange(np.iinfo(kind).max + 1, dtype=kind).reshape(16, -1, 1).repeat(channels, axis=2)
    picture = from_array(levels)
    tensor = to_tensor(picture)
    assert tensor.shape == (1, 3, 16, levels.shape[1])
    assert tensor.dtype == torch.float32
    assert (tensor.min(), tensor.max()) == (0, 1)
    assert np.array_equal(from_tensor(tensor, picture), levels)


def test_tensors_are_rounded_to_the_nearest_level_never_truncated() -> None:
    picture = from_array(noise(2, 2, 3))
    values = torch.tensor([[0.6 / 255, 254.4 / 255], [-3.0, 3.0]]).expand(1, 3, 2, 2)
    assert from_tensor(values, picture)[..., 0].tolist() == [[1, 254], [0, 255]]
    deep = from_array(noise(2, 2, kind=np.uint16))
    assert from_tensor(values.double(), deep)[..., 0].tolist() == [[round(0.6 * 257), round(254.4 * 257)], [0, 65535]]


def test_grey_pictures_get_the_mean_of_the_channels() -> None:
    grey = from_array(noise(1, 1))
    assert from_tensor(torch.tensor([30.0, 60.0, 96.0]).div(255).reshape(1, 3, 1, 1), grey).tolist() == [[[62]]]


def test_alpha_survives_the_tensor_and_is_resized_by_the_caller() -> None:
    picture = from_array(noise(5, 4, 4))
    assert np.array_equal(alpha_from_tensor(alpha_to_tensor(picture), picture), picture.alpha)
    assert alpha_from_tensor(enlarge(alpha_to_tensor(picture), 20, 16, "bicubic"), picture).shape == (20, 16)
    opaque = from_array(np.full((5, 7, 4), 255, np.uint8))
    assert (alpha_from_tensor(enlarge(alpha_to_tensor(opaque), 13, 31, "bicubic"), opaque) == 255).all()


def test_arrays_of_every_accepted_kind() -> None:
    assert from_array(noise(3, 4)).is_grey
    assert from_array(noise(3, 4, 1)).pixels.shape == (3, 4, 1)
    assert from_array(noise(3, 4, 4)).alpha is not None
    floats = from_array(np.array([[0.0, 0.5, 1.0]], dtype=np.float16))
    assert (floats.pixels.dtype, floats.pixels.ravel().tolist()) == (np.float32, [0, 0.5, 1])
    source = noise(3, 4, 3)
    copied = from_array(source)
    source[:] = 0
    assert copied.pixels.any()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((0, 8, 3), np.float32),
        np.zeros(8, np.uint8),
        np.zeros((8, 8, 3), np.int64),
        np.zeros((8, 8), bool),
        np.full((8, 8, 3), 255.0),
        np.full((8, 8, 3), np.nan),
    ],
)
def test_arrays_that_are_no_pictures(array: np.ndarray) -> None:
    with pytest.raises(PictureError) as error:
        from_array(array)
    one_line(error)


def test_tensors_that_are_no_pictures() -> None:
    picture = from_array(noise(2, 2, 3))
    for call in (
        lambda: from_tensor(torch.rand(3, 2, 2), picture),
        lambda: from_tensor(torch.full((1, 3, 2, 2), torch.nan), picture),
        lambda: alpha_from_tensor(torch.rand(1, 3, 2, 2), picture),
        lambda: alpha_to_tensor(picture),
        lambda: Picture(picture.pixels, alpha=noise(3, 2)),
        lambda: Picture(picture.pixels.astype(np.float32)),
    ):
        with pytest.raises(PictureError) as error:
            call()
        one_line(error)


# ------------------------------------------------------------------------------------ files, both ways


@given(sides, sides, st.sampled_from([1, 3]), st.booleans(), st.sampled_from([".png", ".tif"]), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_lossless_round_trip(
    height: int, width: int, channels: int, with_alpha: bool, extension: str, seed: int
) -> None:
    alpha = noise(height, width, seed=seed + 1) if with_alpha else None
    profile = GREY_PROFILE if channels == 1 else SRGB_PROFILE
    picture = Picture(noise(height, width, channels, seed=seed), alpha, profile, exif_block())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"a{extension}")
        assert write_picture(picture, path) == ()
        back = read_picture(path)
    assert np.array_equal(back.pixels, picture.pixels)
    assert (back.alpha is None) == (alpha is None)
    assert alpha is None or np.array_equal(back.alpha, alpha)
    assert back.icc_profile == profile
    assert tags(back.exif)[0x010F] == "A camera maker"
    assert back.notes == ()


@pytest.mark.parametrize("extension", [".png", ".tif", ".tiff", ".PNG"])
def test_16_bit_grey_is_kept(tmp_path: Path, extension: str) -> None:
    picture = Picture(noise(7, 5, 1, kind=np.uint16), icc_profile=GREY_PROFILE, exif=exif_block())
    path = tmp_path / f"deep{extension}"
    write_picture(picture, path)
    back = read_picture(path)
    assert back.pixels.dtype == np.uint16
    assert np.array_equal(back.pixels, picture.pixels)
    assert back.icc_profile == GREY_PROFILE


@pytest.mark.parametrize(("order", "zero_is_white"), [(">", False), ("<", False), ("<", True)])
def test_16_bit_tiff_of_other_programs(tmp_path: Path, order: str, zero_is_white: bool) -> None:
    values = noise(4, 3, kind=np.uint16)
    photometric = 0 if zero_is_white else 1
    shorts = {256: 3, 257: 4, 258: 16, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 4, 279: values.nbytes}
    directory = struct.pack(f"{order}H", len(shorts))
    directory += b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in shorts.items())
    head = struct.pack(f"{order}2sHI", b"MM" if order == ">" else b"II", 42, 8 + values.nbytes)
    (tmp_path / "a.tif").write_bytes(head + values.astype(f"{order}u2").tobytes() + directory + bytes(4))
    back = read_picture(tmp_path / "a.tif")
    assert back.pixels.dtype == np.dtype("uint16")
    assert back.pixels.dtype.isnative
    assert np.array_equal(back.pixels[..., 0], 65535 - values if zero_is_white else values)


def test_16_bit_grey_is_rounded_where_the_format_has_8(tmp_path: Path) -> None:
    picture = from_array(np.full((16, 16), 200 * 257 + 200, np.uint16))  # 200.78 levels of 8 bits
    for extension in (".jpg", ".webp"):
        write_picture(picture, tmp_path / f"a{extension}", quality=100)
        assert abs(read_picture(tmp_path / f"a{extension}").pixels.astype(int) - 201).max() <= 1
    (note,) = write_picture(Picture(noise(2, 2, 3, kind=np.uint16)), tmp_path / "a.webp")
    assert "16 bits were rounded to 8" in note
    assert read_picture(tmp_path / "a.webp").pixels.dtype == np.uint8
    assert to_pil(picture).mode == "I;16"
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1).repeat(3, axis=2)
    assert np.array_equal(np.asarray(to_pil(Picture(levels))), np.rint(levels / 257))


@pytest.mark.parametrize("extension", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_keep_profile_and_exif(tmp_path: Path, extension: str) -> None:
    picture = Picture(smooth(40, 60), icc_profile=SRGB_PROFILE, exif=exif_block())
    path = tmp_path / f"a{extension}"
    write_picture(picture, path)
    back = read_picture(path)
    assert abs(back.pixels.astype(int) - picture.pixels).mean() < 2
    assert back.icc_profile == SRGB_PROFILE
    assert back.exif == picture.exif
    assert back.format == ("WEBP" if extension == ".webp" else "JPEG")


def test_jpeg_is_written_without_colour_subsampling(tmp_path: Path) -> None:
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 255
    write_picture(from_array(stripes), tmp_path / "a.jpg")
    assert abs(read_picture(tmp_path / "a.jpg").pixels.astype(int) - stripes).mean() < 10
    write_picture(from_array(noise(8, 8)), tmp_path / "grey.jpg")
    assert read_picture(tmp_path / "grey.jpg").is_grey


def test_tiff_keeps_exif_groups_and_drops_storage_tags(tmp_path: Path) -> None:
    exif = tags(exif_block())
    exif[259] = 7  # a compression that the pixels do not have
    exif[273] = 12345
    write_picture(Picture(noise(4, 4, 3), exif=exif.tobytes()), tmp_path / "a.tif")
    back = read_picture(tmp_path / "a.tif")
    assert tags(back.exif).get_ifd(0x8769)[0x9003] == "2024:01:02 03:04:05"
    assert 273 not in tags(back.exif)
    write_picture(back, tmp_path / "a.jpg")
    assert tags(read_picture(tmp_path / "a.jpg").exif)[0x010F] == "A camera maker"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_metadata_that_does_not_fit_is_reported_and_costs_no_picture(tmp_path: Path) -> None:
    long = Picture(noise(4, 4, 3), exif=exif_block() + bytes(70000))
    for extension in (".jpg", ".png"):  # a JPEG in two segments
        assert write_picture(long, tmp_path / f"a{extension}") == ()
        assert read_picture(tmp_path / f"a{extension}").exif == long.exif
    # One property is longer than all of a packet's first part, and cannot be taken apart.
    described = Picture(noise(4, 4, 3), xmp=EMPTY_PACKET.replace(b"<rdf:D", b"<!--" + b"x" * 70000 + b"--><rdf:D"))
    (note,) = write_picture(described, tmp_path / "a.jpg")
    assert "XMP" in note
    assert read_picture(tmp_path / "a.jpg").xmp is None
    Image.fromarray(noise(4, 4, 3)).save(tmp_path / "b.png", exif=b"Exif\0\0nonsense")
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", "\n\n\nno hexadecimal digits")
    Image.fromarray(noise(4, 4, 3)).save(tmp_path / "c.png", pnginfo=text)
    for name in ("b.png", "c.png"):
        damaged = read_picture(tmp_path / name)
        assert damaged.exif is None
        assert "EXIF" in damaged.notes[0]
    broken = Picture(noise(4, 4, 3), exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x0f\x01")
    for extension in (".tif", ".png", ".jpg", ".webp"):
        write_picture(broken, tmp_path / f"d{extension}")
        assert read_picture(tmp_path / f"d{extension}").pixels.shape == (4, 4, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "tif"])
def test_orientation_is_applied_and_reset(tmp_path: Path, orientation: int, extension: str) -> None:
    upright = smooth(16, 24)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's names of the transposition that stores it so
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(undo[orientation]))
    path = tmp_path / f"a.{extension}"
    stored_dpi, dpi = (300, 150), (150, 300) if orientation >= 5 else (300, 150)
    stored.save(path, exif=exif_block(orientation), quality=100, dpi=stored_dpi)
    for picture in (read_picture(path), from_pil(Image.open(path))):
        assert picture.pixels.shape == upright.shape
        assert picture.dpi is None if extension == "webp" else picture.dpi == pytest.approx(dpi, abs=0.1)
        assert abs(picture.pixels.astype(int) - upright).max() < 12
        assert tags(picture.exif).get(ORIENTATION, 1) == 1
        assert tags(picture.exif).get_ifd(0x8769)[0x927C] == b"maker note \x00\x01\x02"
    write_picture(read_picture(path), tmp_path / "again.png")
    assert np.array_equal(read_picture(tmp_path / "again.png").pixels, read_picture(path).pixels)


def test_resolution_of_a_turned_cmyk_tiff_turns_and_of_a_reduced_image_does_not(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(smooth(24, 16)).convert("CMYK").save(path, exif=exif_block(6), dpi=(300, 150))
    turned = read_picture(path)
    assert (turned.width, turned.height) == (24, 16)
    assert turned.dpi == pytest.approx((150, 300), abs=0.1)
    Image.fromarray(smooth(24, 16)).save(path, dpi=(300, 150))
    image = Image.open(path)
    image.thumbnail((8, 8))
    assert from_pil(image).dpi == pytest.approx((300, 150), abs=0.1)


def test_orientation_changes_no_other_byte_of_the_exif() -> None:
    image = Image.fromarray(noise(4, 6, 3))
    image.info["exif"] = exif_block(6)
    picture = from_pil(image)
    assert picture.pixels.shape == (6, 4, 3)
    assert picture.exif == exif_block(1)


def test_a_block_without_orientation_keeps_all_else() -> None:
    for order in (b"II", b"MM"):
        exif = Image.Exif()
        exif.endian = "<" if order == b"II" else ">"
        exif[0x010F], exif[ORIENTATION], exif[0x013B] = "A camera maker", 6, "Anna"
        exif[0x8769] = {0x9003: "2024:01:02 03:04:05"}
        whole = exif.tobytes()
        assert whole[6:8] == order
        less = without_orientation(whole)
        assert len(less) == len(whole)
        found = tags(less)
        assert dict(found) == {tag: value for tag, value in dict(tags(whole)).items() if tag != ORIENTATION}
        assert found.get_ifd(0x8769) == tags(whole).get_ifd(0x8769)
        assert without_orientation(less) == less
        for length in range(6, len(whole)):
            without_orientation(whole[:length])  # raises nothing


def test_alpha_is_turned_with_the_picture() -> None:
    image = Image.fromarray(noise(4, 6, 4))
    expected = np.rot90(np.asarray(image), -1)
    image.info["exif"] = exif_block(6)
    picture = from_pil(image)
    assert np.array_equal(picture.pixels, expected[..., :3])
    assert np.array_equal(picture.alpha, expected[..., 3])


# ------------------------------------------------------------------------------------ what files can hold


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_modes_are_brought_to_grey_or_rgb(tmp_path: Path) -> None:
    colour, grey = noise(6, 5, 3), noise(6, 5)
    palette = Image.fromarray(colour).quantize(4)
    rgb = np.asarray(palette.convert("RGB"))
    assert np.array_equal(read_picture(save(tmp_path / "p.png", palette)).pixels, rgb)
    bits = Image.fromarray(grey > 127)
    read_bits = read_picture(save(tmp_path / "1.png", bits))
    assert np.array_equal(read_bits.pixels[..., 0], (grey > 127) * np.uint8(255))
    transparent = read_picture(save(tmp_path / "pt.png", palette, transparency=0))
    assert np.array_equal(transparent.alpha == 0, np.asarray(palette) == 0)
    two = np.stack([grey, grey.T.reshape(6, 5)], -1)
    grey_alpha = read_picture(save(tmp_path / "la.png", Image.fromarray(two)))
    assert grey_alpha.is_grey
    assert np.array_equal(grey_alpha.alpha, two[..., 1])
    rgba = noise(6, 5, 4)
    for extension, options in (("png", {}), ("tif", {}), ("tiff", {"compression": "tiff_lzw"})):
        back = read_picture(save(tmp_path / f"rgba.{extension}", Image.fromarray(rgba), **options))
        assert np.array_equal(np.dstack([back.pixels, back.alpha]), rgba)
    lossless = read_picture(save(tmp_path / "rgba.webp", Image.fromarray(rgba), lossless=True, exact=True))
    assert np.array_equal(np.dstack([lossless.pixels, lossless.alpha]), rgba)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "I;16"])
def test_one_transparent_colour_becomes_alpha(tmp_path: Path, mode: str) -> None:
    image = {
        "1": Image.fromarray(noise(6, 5) > 127),
        "L": Image.fromarray(noise(6, 5) // 64),
        "RGB": Image.fromarray(noise(6, 5, 3) // 200),
        "I;16": Image.fromarray(noise(6, 5, kind=np.uint16) // 20000),
    }[mode]
    values = np.asarray(image)
    clear = values[0, 0]
    option = tuple(int(value) for value in clear) if mode == "RGB" else int(clear) * (255 if mode == "1" else 1)
    picture = read_picture(save(tmp_path / "a.png", image, transparency=option))
    expected = (values == clear).all(-1) if mode == "RGB" else values == clear
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha == 0, expected)
    assert set(np.unique(picture.alpha)) <= {0, np.iinfo(picture.alpha.dtype).max}


def test_cmyk_is_converted(tmp_path: Path) -> None:
    cmyk = Image.fromarray(smooth(16, 16)).convert("CMYK")
    for name in ("a.jpg", "a.tif"):
        picture = read_picture(save(tmp_path / name, cmyk, icc_profile=SRGB_PROFILE))
        assert picture.pixels.shape == (16, 16, 3)
        assert picture.icc_profile is None
        assert "CMYK" in picture.notes[0]
        assert abs(picture.pixels.astype(int) - smooth(16, 16)).mean() < 5


def test_extension_does_not_matter(tmp_path: Path) -> None:
    wrong = save(tmp_path / "a.png", Image.fromarray(smooth(8, 8)), format="JPEG")
    assert read_picture(wrong).format == "JPEG"


def png16(array: np.ndarray) -> bytes:
    """A 16-bit RGB PNG, which Pillow cannot write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@given(sides, sides, st.integers(1, 4), st.sampled_from([".png", ".tif"]), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_lossless_round_trip_of_16_bits(height: int, width: int, channels: int, extension: str, seed: int) -> None:
    values = noise(height, width, channels, kind=np.uint16, seed=seed)
    pixels, alpha = (values, None) if channels in (1, 3) else (values[..., :-1], values[..., -1])
    profile = GREY_PROFILE if channels < 3 else SRGB_PROFILE
    picture = Picture(pixels, alpha, profile, exif_block(), EMPTY_PACKET, (300, 200))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"a{extension}")
        assert write_picture(picture, path) == ()
        back = read_picture(path)
    assert np.array_equal(all_channels(back), values)
    assert (back.icc_profile, back.xmp, back.notes) == (profile, EMPTY_PACKET, ())
    assert back.dpi == pytest.approx((300, 200), rel=1e-3)
    assert tags(back.exif).get_ifd(0x8769)[0x9003] == "2024:01:02 03:04:05"


def all_channels(picture: Picture) -> np.ndarray:
    return picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])


FILES_OF_16_BITS = [
    ("a.png", {}),
    ("interlaced.png", {"interlace": True}),
    ("a.tif", {}),
    ("lzw.tif", {"compression": "lzw"}),
    ("predicted.tif", {"compression": "deflate", "predictor": "horizontal"}),
    ("tiled.tif", {"tile": True, "tile_width": 16, "tile_height": 16}),
    ("big.tif", {"bigtiff": True}),
]


@pytest.mark.parametrize(("name", "options"), FILES_OF_16_BITS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_to_and_from_another_library(
    tmp_path: Path, name: str, options: dict[str, object], channels: int
) -> None:
    pyvips = pytest.importorskip("pyvips")
    values = noise(37, 29, channels, kind=np.uint16)
    kind = "grey16" if channels < 3 else "rgb16"
    image = pyvips.Image.new_from_memory(values.tobytes(), 29, 37, channels, "ushort").copy(interpretation=kind)
    image.write_to_file(str(tmp_path / name), **options)
    back = read_picture(tmp_path / name)
    assert back.pixels.dtype == np.uint16
    assert np.array_equal(all_channels(back), values)
    assert back.notes == ()
    ours = tmp_path / f"ours{Path(name).suffix}"
    write_picture(back, ours)
    again = pyvips.Image.new_from_file(str(ours), revalidate=True)
    assert np.array_equal(np.frombuffer(again.write_to_memory(), np.uint16).reshape(values.shape), values)


def test_premultiplied_16_bits_are_divided(tmp_path: Path) -> None:
    pyvips = pytest.importorskip("pyvips")
    values = noise(20, 20, 4, kind=np.uint16)
    values[..., 3] |= 0x8000
    image = pyvips.Image.new_from_memory(values.tobytes(), 20, 20, 4, "ushort").copy(interpretation="rgb16")
    image.tiffsave(str(tmp_path / "a.tif"), premultiply=True)
    assert abs(all_channels(read_picture(tmp_path / "a.tif")).astype(int) - values).max() <= 3


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("channels", [3, 4])
def test_uncompressed_planes_of_16_bits(tmp_path: Path, order: str, channels: int) -> None:
    """Planes one after the other, which Pillow by itself takes for planes of bytes."""
    values = noise(4, 3, channels, kind=np.uint16)
    planes = np.moveaxis(values, -1, 0).astype(f"{order}u2").tobytes()
    num_tags = 9 + (channels == 4)
    arrays_at = 8 + 2 + 12 * num_tags + 4
    data_at = arrays_at + 2 * channels + 8 * channels
    entries = [
        (256, 3, 1, 3), (257, 3, 1, 4), (258, 3, channels, arrays_at), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, channels, arrays_at + 2 * channels), (277, 3, 1, channels),
        (279, 4, channels, arrays_at + 6 * channels), (284, 3, 1, 2), (338, 3, 1, 2),
    ]  # fmt: skip
    data = struct.pack(f"{order}2sHIH", b"MM" if order == ">" else b"II", 42, 8, num_tags)
    for tag, kind, count, value in entries[:num_tags]:
        data += struct.pack(f"{order}HHI" + ("HH" if kind == 3 and count == 1 else "I"), tag, kind, count, value,
                            *([0] if kind == 3 and count == 1 else []))  # fmt: skip
    data += bytes(4) + struct.pack(f"{order}{channels}H", *[16] * channels)
    data += struct.pack(f"{order}{channels}I", *(data_at + 24 * index for index in range(channels)))
    data += struct.pack(f"{order}{channels}I", *[24] * channels)
    (tmp_path / "a.tif").write_bytes(data + planes)
    assert np.array_equal(all_channels(read_picture(tmp_path / "a.tif")), values)


def test_one_transparent_colour_of_16_bits(tmp_path: Path) -> None:
    values = noise(4, 5, 3, kind=np.uint16)
    values[1, 2] = values[0, 0] ^ 1  # differs in the lower byte only
    data = png16(values)
    body = values[0, 0].astype(">u2").tobytes()
    sum_ = struct.pack(">I", zlib.crc32(b"tRNS" + body))
    (tmp_path / "a.png").write_bytes(data[:33] + struct.pack(">I", 6) + b"tRNS" + body + sum_ + data[33:])
    picture = read_picture(tmp_path / "a.png")
    assert picture.alpha is not None
    assert np.argwhere(picture.alpha == 0).tolist() == [[0, 0]]


def test_cmyk_of_16_bits_is_read_with_8_and_says_so(tmp_path: Path) -> None:
    pyvips = pytest.importorskip("pyvips")
    values = noise(6, 5, 4, kind=np.uint16)
    image = pyvips.Image.new_from_memory(values.tobytes(), 5, 6, 4, "ushort").copy(interpretation="cmyk")
    image.tiffsave(str(tmp_path / "a.tif"))
    assert any("16 bits" in note for note in read_picture(tmp_path / "a.tif").notes)


@pytest.mark.parametrize("extension", ["png", "webp", "tif", "jpg"])
def test_first_of_several_frames(tmp_path: Path, extension: str) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (20, 220)]
    kind = {"jpg": "MPO"}.get(extension)
    path = save(tmp_path / f"a.{extension}", frames[0], save_all=True, append_images=frames[1:], format=kind)
    picture = read_picture(path)
    assert abs(picture.pixels.astype(int) - 20).max() <= 3
    notes = {
        "jpg": "left out: a further picture",
        "tif": "the file holds 2 pages; the first one is used (all of them go into a .tif)",
    }
    assert picture.notes == (notes.get(extension, "the file holds 2 frames; the first one is used"),)
    assert picture.format in ("PNG", "WEBP", "TIFF", "JPEG")


def test_list_pictures(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg", ".hidden.png", "note.txt", "sub/c.Tif", ".cache/d.png", "sub/x.png/e.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in list_pictures(tmp_path)] == ["a.jpeg", "b.PNG"]
    found = [path.relative_to(tmp_path).as_posix() for path in list_pictures(tmp_path, recursive=True)]
    assert found == ["a.jpeg", "b.PNG", "sub/c.Tif", "sub/x.png/e.webp"]
    for folder in (tmp_path / "absent", tmp_path / "a.jpeg"):
        with pytest.raises(PictureError) as error:
            list_pictures(folder)
        one_line(error)


# ------------------------------------------------------------------------------------ files that cannot be read


def encoded(form: str, **options: object) -> bytes:
    data = io.BytesIO()
    Image.fromarray(noise(24, 32, 3)).save(data, form, **options)
    return data.getvalue()


def test_reading_errors(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("this is no picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "zero.png").write_bytes(png16(np.zeros((0, 0, 3), np.uint16)))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        os.symlink("loop.png", tmp_path / "loop.png")
    cases = {
        "absent.png": "no such file",
        "text.png": "is not a PNG",
        "empty.png": "is empty",
        "zero.png": r"has 0 pixels \(0 x 0\)",
        "pipe.png": "not a regular file" if hasattr(os, "mkfifo") else "no such file",
        "loop.png": "leads back to itself" if hasattr(os, "mkfifo") else "no such file",
        "two\nlines.png": "no such file",
        "nul\0l.png": "null",
    }
    for name, message in cases.items():
        with pytest.raises(PictureError, match=message) as error:
            read_picture(tmp_path / name)
        one_line(error)
    with pytest.raises(PictureError, match="is a folder") as folder:
        read_picture(tmp_path)
    one_line(folder)
    with pytest.raises(PictureError, match="no finite numbers") as floats:
        read_picture(save(tmp_path / "float.tif", Image.fromarray(np.full((3, 3), np.nan, np.float32))))
    one_line(floats)


def test_reading_without_permission() -> None:
    with ordinary_user() as folder:
        path = folder / "a.png"
        Image.fromarray(noise(3, 3)).save(path)
        path.chmod(0)
        with pytest.raises(PictureError, match="permission") as error:
            read_picture(path)
        one_line(error)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_cut_off_file_is_never_half_a_picture(tmp_path: Path, form: str, options: dict[str, bool]) -> None:
    data, path = encoded(form, **options), tmp_path / "cut"
    path.write_bytes(data)
    whole = read_picture(path).pixels
    num_errors = 0
    for length in range(1, len(data), 13):
        path.write_bytes(data[:length])
        try:
            pixels = read_picture(path).pixels
        except PictureError:
            num_errors += 1
        else:  # only what stands behind the last pixel may be missing
            assert np.array_equal(pixels, whole), f"{length} of {len(data)} bytes"
            assert form != "JPEG"
            assert length > len(data) - 250
    assert num_errors > 0.8 * len(range(1, len(data), 13))


def test_a_jpeg_whose_rest_is_zeros_is_an_error(tmp_path: Path) -> None:
    data = encoded("JPEG", quality=95)
    kept = len(data) * 3 // 4
    (tmp_path / "a.jpg").write_bytes(data[:kept] + bytes(len(data) - kept))
    assert Image.open(tmp_path / "a.jpg").load() is not None, "Pillow takes it for whole"
    with pytest.raises(PictureError, match="cut off") as error:
        read_picture(tmp_path / "a.jpg")
    one_line(error)


def test_half_pictures_are_not_let_through_by_a_pillow_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(noise(4, 4)))
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(PictureError, match="LOAD_TRUNCATED_IMAGES") as error:
        read_picture(path)
    one_line(error)


damages = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6)


FUZZED = ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", *(["AVIF"] if features.check("avif") else [])]


@given(st.sampled_from(FUZZED), damages)
@settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_give_a_picture_or_one_error(form: str, changes: list[tuple[float, int]]) -> None:
    data = bytearray(encoded(form, exif=exif_block(6), icc_profile=SRGB_PROFILE[:64]))
    for place, value in changes:
        data[int(place**3 * (len(data) - 1))] = value  # mostly in the header
    message = ""
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        file.write(data)
        file.flush()
        try:
            read_picture(file.name, max_pixels=10**6)
        except PictureError as error:
            message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_pixel_limit_is_judged_by_the_header(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(form)[:-300])  # decoding would fail: the limit must come first
    if form != "WEBP":  # whose header is read only from a whole file
        with pytest.raises(PictureError, match="limit is 767 pixels") as error:
            read_picture(path, max_pixels=767)
        one_line(error)
    path.write_bytes(encoded(form))
    assert read_picture(path, max_pixels=768).width == 32
    for pillow_limit in (700, 300):  # where Pillow itself would warn, or raise
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow_limit)
        with pytest.raises(PictureError, match="limit") as error:
            read_picture(path)
        one_line(error)


def test_a_header_that_claims_billions_of_pixels(tmp_path: Path) -> None:
    data = bytearray(png16(noise(2, 2, 3, kind=np.uint16)))
    data[16:24] = struct.pack(">II", 2**30, 2**30)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(PictureError, match="1073741824 x 1073741824") as error:
        read_picture(tmp_path / "bomb.png")
    one_line(error)


# ------------------------------------------------------------------------------------ files that cannot be written


def test_writing_errors(tmp_path: Path) -> None:
    picture, clear = from_array(noise(4, 4, 3)), from_array(noise(4, 4, 4))
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "there.png").write_bytes(b"old")
    before = sorted(tmp_path.rglob("*"))
    cases = [
        (picture, "a.xcf", {}, "extension"),
        (picture, "a", {}, "extension"),
        (clear, "a.jpg", {}, "transparency; write .png"),
        (picture, "folder.png", {}, "is a folder"),
        (picture, "file/a.png", {}, "cannot be written"),
        (picture, "nul\0l.png", {}, "null"),
        (picture, "x" * 300 + ".png", {}, "name too long"),
        (picture, "there.png", {"overwrite": False}, "already there"),
        (from_array(noise(1, 16384)), "a.webp", {}, "at most 16383"),
        (from_array(noise(1, 65501)), "a.jpg", {}, "at most 65500"),
    ]
    for given_picture, name, options, message in cases:
        with pytest.raises(OutputError, match=message) as error:
            write_picture(given_picture, tmp_path / name, **options)
        one_line(error)
        size, transparent = (given_picture.width, given_picture.height), given_picture.is_transparent
        with pytest.raises(OutputError, match=message):
            check_writable(tmp_path / name, size=size, transparent=transparent, **options)
    with pytest.raises(OptionError):
        write_picture(picture, tmp_path / "a.jpg", quality=0)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "there.png").read_bytes() == b"old"


def test_opaque_alpha_may_go_into_a_jpeg(tmp_path: Path) -> None:
    write_picture(Picture(noise(4, 4, 3), alpha=np.full((4, 4), 255, np.uint8)), tmp_path / "a.jpg")
    assert read_picture(tmp_path / "a.jpg").alpha is None


def test_folders_are_made_and_checking_makes_none(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "a.png"
    check_writable(path)
    assert list(tmp_path.iterdir()) == []
    write_picture(from_array(noise(2, 2)), path)
    assert path.exists()
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_new_files_have_the_usual_permissions_and_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    (tmp_path / "link.png").symlink_to(tmp_path / "real")
    write_picture(from_array(noise(2, 2)), tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "real").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert read_picture(tmp_path / "link.png").format == "PNG"


def test_writing_without_permission() -> None:
    with ordinary_user() as folder:
        (folder / "closed").mkdir(mode=0o500)
        (folder / "old.png").write_bytes(b"old")
        (folder / "old.png").chmod(0o400)
        picture = from_array(noise(2, 2))
        cases = {"closed/a.png": "permission", "closed/new/a.png": "permission", "old.png": "write-protected"}
        for name, message in cases.items():
            with pytest.raises(OutputError, match=message) as error:
                check_writable(folder / name)
            one_line(error)
            with pytest.raises(OutputError, match=message) as error:
                write_picture(picture, folder / name)
            one_line(error)
        assert (folder / "old.png").read_bytes() == b"old"


def test_a_write_that_fails_midway_leaves_the_old_file_whole(tmp_path: Path) -> None:
    """A real failure: the process may not write more than 4 KiB into a file, the picture has 30."""
    path = tmp_path / "a.png"
    write_picture(from_array(noise(4, 4)), path)
    old = path.read_bytes()
    for target in (path, tmp_path / "new" / "b.png"):
        with files_up_to(4096), pytest.raises(OutputError, match="file too large") as error:
            write_picture(from_array(noise(100, 100, 3)), target)
        one_line(error)
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.rglob("*")] == ["a.png"]


def test_an_interruption_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    seen = []

    def interrupt(_descriptor: int) -> None:
        seen.extend(file.name for file in tmp_path.iterdir())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_picture(from_array(noise(4, 4)), path)
    assert len(seen) == 2, "the data was on its way into a second file"
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == b"old"


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    path, pictures = tmp_path / "a.png", [from_array(np.full((64, 64), level, np.uint8)) for level in (0, 255)]
    write_picture(pictures[0], path)
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            for picture in pictures:
                write_picture(picture, path)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(100):
            assert len(np.unique(read_picture(path).pixels)) == 1
    finally:
        stop.set()
        writer.join()


def test_all_errors_share_one_root() -> None:
    for kind in (PictureError, OutputError, OptionError):
        assert issubclass(kind, S3DiffError)
