"""TIFF of several pages: read, restored and written page by page."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from metadata_corpus import XMP
from s3diff.errors import OptionError, OutputError, PictureError
from s3diff.images.files.pages import Pages, TiffPages, open_pages, page_numbers, write_pages
from s3diff.images.files.reading import read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import Picture
from s3diff.options import RestoreOptions
from s3diff.restoration.restorer import Restorer

DRAW = np.random.default_rng(5)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def levels(shape: tuple[int, ...], kind: str) -> np.ndarray:
    return DRAW.integers(0, np.iinfo(kind).max, shape, dtype=kind, endpoint=True)


#: Of several sizes, depths and colours; the second one is what fax machines write.
PAGES = (
    Picture(levels((20, 30, 3), "u1"), icc_profile=SRGB, dpi=(300, 300)),
    Picture(levels((40, 16, 1), "u1"), dpi=(204, 98)),
    Picture(levels((12, 18, 3), "u2"), levels((12, 18), "u2")),
    Picture(levels((9, 11, 1), "u2"), xmp=XMP.encode()),
)  # fmt: skip


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    write_pages(PAGES, tmp_path / "scan.tif")
    return tmp_path / "scan.tif"


def fax(path: Path, turned: bool = False) -> Path:
    """As scanners write them: bilevel, Group 4, one page turned."""
    images = [Image.linear_gradient("L").resize((64, 48)).point(lambda v, t=t: 255 * (v > t), "1") for t in (60, 180)]
    images.append(images[0].rotate(90, expand=True))
    images[0].save(
        path, "TIFF", save_all=True, append_images=images[1:], compression="group4", dpi=(204, 196),
        tiffinfo={274: 6 if turned else 1},
    )  # fmt: skip
    return path


def same(one: Picture, other: Picture) -> bool:
    has_alpha = one.alpha is not None
    return np.array_equal(one.pixels, other.pixels) and has_alpha == (other.alpha is not None) and (
        not has_alpha or np.array_equal(one.alpha, other.alpha)  # type: ignore[arg-type]
    )  # fmt: skip


def test_pages_keep_their_depths_colors_and_metadata(scan: Path) -> None:
    pages = open_pages(scan)
    assert (pages.num_in_file, pages.numbers) == (4, (1, 2, 3, 4))
    assert pages.sizes == ((30, 20), (16, 40), (18, 12), (11, 9))
    read = list(pages.pictures())
    assert all(map(same, read, PAGES))
    assert [page.icc_profile for page in read] == [SRGB, None, None, None]
    assert [page.dpi for page in read[:2]] == [(300, 300), (204, 98)]
    assert read[3].xmp == PAGES[3].xmp
    assert all(page.notes == () for page in read)


def test_other_programs_read_the_pages(scan: Path) -> None:
    with Image.open(scan) as image:
        assert image.n_frames == 4  # type: ignore[attr-defined]
        for index in (0, 1):
            image.seek(index)
            assert np.array_equal(np.asarray(image), np.squeeze(PAGES[index].pixels))
            assert image.tag_v2[297] == (index, 4)  # type: ignore[attr-defined]
            assert image.tag_v2[254] == 2  # type: ignore[attr-defined]
    vips = pytest.importorskip("pyvips")
    assert vips.Image.new_from_file(str(scan)).get("n-pages") == 4
    assert np.array_equal(vips.Image.tiffload(str(scan), page=3).numpy(), PAGES[3].pixels[..., 0])


def test_a_result_beyond_4_gb_is_a_bigtiff(tmp_path: Path) -> None:
    written = {}
    for name, largest in {"small": 2**32, "big": 1000}.items():
        with open(tmp_path / f"{name}.tif", "wb") as file:
            pages = TiffPages(file, largest)
            for index, picture in enumerate(PAGES):
                exif = Image.Exif()
                exif[0x010E], exif[0x8769], exif[0x8825] = f"page {index}", {0x8827: 400}, {1: "N"}
                write_picture(Picture(picture.pixels, exif=b"Exif\0\0" + exif.tobytes()[6:]), tmp_path / "page.tif")
                pages.add((tmp_path / "page.tif").read_bytes())
            pages.finish()
        written[name] = (tmp_path / f"{name}.tif").read_bytes()
        read = list(open_pages(tmp_path / f"{name}.tif").pictures())
        assert all(np.array_equal(page.pixels, before.pixels) for page, before in zip(read, PAGES, strict=True))
        for index, page in enumerate(read):
            exif = Image.Exif()
            exif.load(page.exif)
            assert exif[0x010E] == f"page {index}"
            assert exif.get_ifd(0x8769)[0x8827] == 400
            assert exif.get_ifd(0x8825)[1] == "N"
    assert [struct.unpack_from("<H", each, 2)[0] for each in written.values()] == [42, 43]


@pytest.mark.parametrize("turned", [False, True])
def test_a_fax_is_read(tmp_path: Path, turned: bool) -> None:
    pages = open_pages(fax(tmp_path / "fax.tif", turned))
    assert pages.num_in_file == 3
    assert [page.pixels.shape[1::-1] for page in pages.pictures()] == list(pages.sizes)
    assert pages.sizes[0] == ((48, 64) if turned else (64, 48))


def test_which_pages() -> None:
    assert page_numbers("all", 3) == (1, 2, 3)
    assert page_numbers("2", 3) == (2,)
    assert page_numbers("3,1-2", 3) == (3, 1, 2)
    assert page_numbers("2-", 4) == (2, 3, 4)
    assert page_numbers("2-900000", 4) == (2, 3, 4, 5)  # and the fifth is missed
    assert RestoreOptions(pages=" 1, 3 - 5").pages == "1,3-5"
    assert RestoreOptions(pages="ALL").pages == "all"
    for wrong in ("", "0", "5-3", "1,,2", "-2", "first", "1;2", 3):
        with pytest.raises(OptionError, match="pages is"):
            RestoreOptions(pages=wrong)  # type: ignore[arg-type]


def test_a_page_that_is_not_there_or_damaged(scan: Path, tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"scan.tif has 4 pages, and no page 7"):
        open_pages(scan, "2,7")
    write_picture(PAGES[0], tmp_path / "one.png")
    with pytest.raises(PictureError, match=r"one page, and no page 2"):
        open_pages(tmp_path / "one.png", "2")
    data = bytearray(scan.read_bytes())
    with Image.open(io.BytesIO(data)) as image:
        image.seek(1)
        start, length = image.tag_v2[273][0], image.tag_v2[279][0]  # type: ignore[attr-defined]
    data[start : start + length] = bytes(length)
    scan.write_bytes(data)
    coming = open_pages(scan).pictures()
    assert same(next(coming), PAGES[0])
    with pytest.raises(PictureError, match=r"scan.tif: page 2 cannot be read .*damaged"):
        next(coming)


def test_every_page_is_restored(restorer: Restorer, scan: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    options = RestoreOptions(scale=2)
    result = restorer.restore_pages(scan, tmp_path / "out.tif", options, progress=lambda *each: told.append(each))
    assert (result.num_frames, result.size) == (4, (60, 40))
    assert told == [("pages", index, 4) for index in (1, 2, 3, 4)]
    read = list(open_pages(tmp_path / "out.tif").pictures())
    for page, before in zip(read, PAGES, strict=True):
        alone = restorer.restore(before, options).picture
        assert same(page, alone), "as if it had been a picture of its own"
    assert read[0].icc_profile == SRGB
    assert read[1].dpi == (204, 98)


def test_some_pages_are_restored(restorer: Restorer, scan: Path, tmp_path: Path) -> None:
    restorer.restore_pages(scan, tmp_path / "out.tif", RestoreOptions(scale=2, pages="4,2"))
    assert [page.pixels.shape for page in open_pages(tmp_path / "out.tif").pictures()] == [(18, 22, 1), (80, 32, 1)]
    assert restorer.restore(scan, RestoreOptions(scale=1, pages="4")).size == (11, 9)
    with pytest.raises(PictureError, match="a picture in memory is one page, and 2 are wanted"):
        restorer.restore(scan, RestoreOptions(pages="1,3"))


def test_a_run_keeps_all_pages_or_says_so(restorer: Restorer, scan: Path, tmp_path: Path) -> None:
    from s3diff.folders import restore_folder
    from s3diff.options import OutputOptions

    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "scan.tif").write_bytes(scan.read_bytes())
    seen: list[tuple[str, ...]] = []

    def run(name: str, form: str | None = None, pages: str = "all") -> Path:
        result = restore_folder(
            folder,
            tmp_path / name,
            RestoreOptions(scale=1, pages=pages),
            restorer=restorer,
            writing=OutputOptions(format=form),
            on_outcome=lambda each: seen.append(() if each.result is None else each.result.notes),
        )
        assert not result.failed, result.failed[0].reason
        return tmp_path / name / f"scan.{form or 'tif'}"

    assert open_pages(run("all")).num_in_file == 4
    assert seen.pop() == ()
    assert read_picture(run("png", "png")).width == 30
    assert any("4 pages; the first one is used" in note for note in seen.pop())
    assert read_picture(run("third", "png", "3")).width == 18
    assert seen.pop() == ()
    with pytest.raises(AssertionError, match=r"scan.png holds one picture, and 2 pages are wanted; write .tif"):
        run("two", "png", "1-2")


def test_nothing_is_left_of_a_run_that_ends(restorer: Restorer, scan: Path, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restorer.restore_pages(scan, tmp_path / "out" / "out.tif", RestoreOptions(scale=1), progress=stop)
    assert not (tmp_path / "out").exists()


def test_too_much_in_all(restorer: Restorer, scan: Path, tmp_path: Path) -> None:
    often = RestoreOptions(scale=9, max_output_pixels=60_000, pages=",".join(["2"] * 20))
    with pytest.raises(PictureError, match=r"20 pages of 1.04 megapixels in all; at most 0.96 are allowed"):
        restorer.restore_pages(scan, tmp_path / "out.tif", often)
    with pytest.raises(PictureError, match=r"page 2 of .*scan.tif would become"):
        restorer.restore_pages(scan, tmp_path / "out.tif", RestoreOptions(scale=9, max_output_pixels=50_000))


def test_a_name_that_holds_no_pages(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"PNG holds one picture; write .tif"):
        write_pages(PAGES, tmp_path / "a.png")
    assert isinstance(open_pages(write_single(tmp_path)), Pages)


def write_single(folder: Path) -> Path:
    write_pages(PAGES[:1], folder / "one.tif")
    assert same(read_picture(folder / "one.tif"), PAGES[0])
    return folder / "one.tif"
