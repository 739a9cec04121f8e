"""Animated files: frames as viewers show them, durations, plays, transparency, and the restoration of all of them."""

from __future__ import annotations

import io
import os
import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from command_runs import Command, files_up_to
from metadata_probes import EMPTY_PACKET
from s3diff.errors import OutputError, PictureError
from s3diff.images.files.animations import Animation, Frame, is_animated, open_animation, write_animation
from s3diff.images.files.gif_blocks import is_whole
from s3diff.images.files.reading import read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import Picture
from s3diff.options import RestoreOptions
from s3diff.restoration.restorer import Restorer

FORMATS = ["gif", "png", "webp", *(["avif"] if features.check("avif") else [])]
DURATIONS = (50, 100, 200, 330)


def frames(*, transparent: bool = False, count: int = 4) -> list[np.ndarray]:
    """A disc that moves over few colours, or over nothing."""
    y, x = np.mgrid[0:20, 0:28]
    result = []
    for index in range(count):
        disc = (x - 5 - 5 * (index % 4)) ** 2 + (y - 10) ** 2 < 30
        pixels = np.where(disc[..., None], (200, (40 + 40 * index) % 256, 30), (30, 60, 90)).astype(np.uint8)
        result.append(np.dstack([pixels, disc * np.uint8(255)]) if transparent else pixels)
    return result


def saved(path: Path, arrays: list[np.ndarray], durations: tuple[int, ...] = DURATIONS, **options: object) -> Path:
    first, *others = (Image.fromarray(array) for array in arrays)
    if path.suffix == ".webp":
        options = {"lossless": True, **options}
    if path.suffix == ".gif":
        options = {"disposal": 2, **options}
    first.save(path, save_all=True, append_images=others, duration=list(durations), **options)
    return path


def arrays_of(animation: Animation) -> list[np.ndarray]:
    pictures = [frame.picture for frame in animation.frames()]
    return [each.pixels if each.alpha is None else np.dstack([each.pixels, each.alpha]) for each in pictures]


def visible(array: np.ndarray) -> np.ndarray:
    """With black where nothing is seen."""
    return array * (array[..., 3:] > 0) if array.shape[2] == 4 else array


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_from_every_format_to_every_other(tmp_path: Path, source: str, target: str, transparent: bool) -> None:
    path = saved(tmp_path / f"in.{source}", frames(transparent=transparent), loop=2)
    animation = open_animation(path)
    plays = {"gif": 3, "avif": 0}.get(source, 2)  # a GIF stores repetitions, Pillow writes none for AVIF
    assert (animation.num_frames, animation.num_plays, animation.milliseconds) == (4, plays, DURATIONS)
    assert (animation.width, animation.height, animation.is_transparent) == (28, 20, transparent)
    for array, truth in zip(arrays_of(animation), frames(transparent=transparent), strict=True):
        assert abs(visible(array).astype(int) - visible(truth)).mean() < (6 if source == "avif" else 1e-6)
    notes = write_animation(animation.frames(), animation, tmp_path / f"out.{target}", quality=100)
    again = open_animation(tmp_path / f"out.{target}")
    assert again.milliseconds == DURATIONS
    assert again.num_plays == (0 if target == "avif" else plays)
    assert any("for ever" in note for note in notes) == (target == "avif" and plays != 0)
    assert again.is_transparent == transparent
    exact = target in ("png", "gif") and source != "avif"
    assert not (exact and notes), "few colours are all kept"
    for array, truth in zip(arrays_of(again), arrays_of(animation), strict=True):
        assert abs(visible(array).astype(int) - visible(truth)).mean() < (1e-6 if exact else 6)


@pytest.mark.parametrize(("stored", "plays"), [(None, 1), (0, 0), (1, 2), (5, 6)])
def test_plays_of_a_gif(tmp_path: Path, stored: int | None, plays: int) -> None:
    path = saved(tmp_path / "a.gif", frames(), **({} if stored is None else {"loop": stored}))
    animation = open_animation(path)
    assert animation.num_plays == plays
    write_animation(animation.frames(), animation, tmp_path / "b.gif")
    assert Image.open(tmp_path / "b.gif").info.get("loop") == stored
    write_animation(animation.frames(), animation, tmp_path / "b.webp")
    assert open_animation(tmp_path / "b.webp").num_plays == plays


@pytest.mark.parametrize("disposal", [0, 1, 2, 3])
@pytest.mark.parametrize("extension", ["gif", "png"])
def test_frames_that_change_a_part_are_whole(tmp_path: Path, extension: str, disposal: int) -> None:
    """Small frames over what stands: composed as another program does it (Pillow, frame by frame)."""
    if extension == "png" and disposal == 3:
        pytest.skip("APNG has three disposals")
    path = saved(tmp_path / f"a.{extension}", frames(transparent=True), disposal=disposal)
    expected = []
    with Image.open(path) as image:
        for index in range(image.n_frames):
            image.seek(index)
            expected.append(np.asarray(image.convert("RGBA")))
    for array, truth in zip(arrays_of(open_animation(path)), expected, strict=True):
        assert np.array_equal(visible(array), visible(truth))


def test_a_frame_that_stands_over_is_cut(tmp_path: Path) -> None:
    data = bytearray(saved(tmp_path / "a.gif", frames(), optimize=False).read_bytes())
    second = [at for at in range(len(data)) if data[at : at + 1] == b"," and data[at + 5 : at + 9] == b"\x1c\0\x14\0"][
        1
    ]
    data[second + 1] = 10  # ten pixels to the right
    (tmp_path / "a.gif").write_bytes(data)
    animation = open_animation(tmp_path / "a.gif")
    assert (animation.width, animation.height) == (28, 20)
    assert np.array_equal(arrays_of(animation)[1][:, 10:, :3], frames()[1][:, :18])


def test_gif_durations_do_not_drift(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.webp", frames() * 5, durations=(33,) * 20)
    animation = open_animation(path)
    write_animation(animation.frames(), animation, tmp_path / "a.gif")
    durations = open_animation(tmp_path / "a.gif").milliseconds
    assert set(durations) == {30, 40}
    assert sum(durations) == 660


def test_odd_durations_in_apng(tmp_path: Path) -> None:
    animation = open_animation(saved(tmp_path / "a.gif", frames(), durations=(0, 10, 655350, 40)))
    write_animation(animation.frames(), animation, tmp_path / "a.png")
    assert open_animation(tmp_path / "a.png").milliseconds == pytest.approx(animation.milliseconds)


def test_the_picture_for_other_viewers_is_no_frame(tmp_path: Path) -> None:
    arrays = [np.full((20, 28, 3), 7, np.uint8), *frames()]
    path = saved(tmp_path / "a.png", arrays, default_image=True)
    animation = open_animation(path)
    assert animation.num_frames == 4
    assert "viewers" in animation.notes[0]
    assert np.array_equal(arrays_of(animation)[0], frames()[0])
    assert (read_picture(path).pixels == 7).all()
    single = saved(tmp_path / "b.png", arrays[:2], durations=(50,), default_image=True)
    assert not is_animated(single)


def test_grey_animations_are_grey(tmp_path: Path, restorer: Restorer) -> None:
    arrays = [np.repeat(each[..., 1:2], 3, axis=2) for each in frames()]
    path = saved(tmp_path / "a.webp", arrays)
    animation = open_animation(path)
    assert animation.is_grey
    assert arrays_of(animation)[0].shape == (20, 28, 1)
    restorer.restore_animation(path, tmp_path / "b.png", RestoreOptions(scale=2, grey="keep"))
    assert open_animation(tmp_path / "b.png").is_grey
    write_animation(animation.frames(), animation, tmp_path / "c.gif")
    assert open_animation(tmp_path / "c.gif").is_grey


def test_metadata_is_kept(tmp_path: Path, restorer: Restorer) -> None:
    exif = Image.Exif()
    exif[0x013B], exif[0x0112] = "Anna", 6
    path = saved(tmp_path / "a.webp", frames(), exif=exif.tobytes(), xmp=EMPTY_PACKET)
    restored = restorer.restore_animation(path, tmp_path / "b.png", RestoreOptions(scale=2), provenance=False)
    assert (restored.width, restored.height) == (40, 56), "turned upright"
    first = read_picture(tmp_path / "b.png")
    tags = Image.Exif()
    tags.load(first.exif)
    assert tags[0x013B] == "Anna"
    assert tags.get(0x0112, 1) == 1
    assert first.xmp == EMPTY_PACKET


def test_all_frames_share_their_degrees_and_seed(tmp_path: Path) -> None:
    """Frames that are equal stay equal; and each is what its picture gives with these degrees, not with its own."""
    restorer = Restorer.from_pretrained("compact", device="cpu", precision="float32")
    noise = np.random.default_rng(0).integers(0, 256, (20, 28, 3), dtype=np.uint8)
    arrays = [frames()[0], noise, frames()[0], frames()[2]]
    path = saved(tmp_path / "a.png", arrays)
    told = []
    options = RestoreOptions(scale=2, latent="sample", seed=5)
    restored = restorer.restore_animation(path, tmp_path / "b.png", options, progress=lambda *what: told.append(what))
    assert told == [("frames", done, 4) for done in (1, 2, 3, 4)]
    results = arrays_of(open_animation(tmp_path / "b.png"))
    assert np.array_equal(results[0], results[2])
    estimates = [restorer.estimate(Picture(array)) for array in arrays]
    assert restored.estimated.blur == pytest.approx(np.median([each.blur for each in estimates]))
    assert restored.degrees == restored.estimated
    by_hand = replace(options, blur=restored.degrees.blur, noise=restored.degrees.noise)
    assert np.array_equal(results[1], restorer.restore(Picture(noise), by_hand).array)
    assert not np.array_equal(results[1], restorer.restore(Picture(noise), options).array)
    moved = restorer.restore_animation(path, tmp_path / "c.png", RestoreOptions(scale=2, blur="+0.1", noise=0.3))
    assert moved.degrees.noise == 0.3
    assert moved.degrees.blur == pytest.approx(min(1, moved.estimated.blur + 0.1))


def test_what_stops_the_work_leaves_no_file(tmp_path: Path, restorer: Restorer) -> None:
    path = saved(tmp_path / "a.gif", frames())

    for kind in (KeyboardInterrupt, RuntimeError):

        def stop(stage: str, done: int, total: int, kind: type[BaseException] = kind) -> None:
            if done == 2:
                raise kind("enough")

        for extension in FORMATS:
            with pytest.raises(kind, match="enough"):
                restorer.restore_animation(
                    path, tmp_path / f"out/b.{extension}", RestoreOptions(scale=2), progress=stop
                )
    assert [each.name for each in tmp_path.iterdir()] == ["a.gif"]


@pytest.mark.parametrize("extension", FORMATS)
def test_a_full_disk_leaves_no_file(tmp_path: Path, extension: str) -> None:
    """A real failure: the process may not write more than 2 KiB into a file."""
    arrays = [np.random.default_rng(index).integers(0, 256, (60, 60, 3), dtype=np.uint8) for index in range(3)]
    animation = Animation(tmp_path, 60, 60, (40.0,) * 3, 0, False, False)
    with files_up_to(2048), pytest.raises(OutputError, match="file too large"):
        write_animation((Frame(Picture(array), 40.0) for array in arrays), animation, tmp_path / f"a.{extension}")
    assert list(tmp_path.iterdir()) == []


def test_limits(tmp_path: Path, restorer: Restorer) -> None:
    path = saved(tmp_path / "a.gif", frames())
    with pytest.raises(PictureError, match="limit is 100 pixels"):
        open_animation(path, max_pixels=100)
    with pytest.raises(PictureError, match=r"the limit is 99 bytes|has \d+ bytes, the limit is 99"):
        open_animation(path, max_bytes=99)
    frame_px = 56 * 40
    for allowed, count in ((frame_px - 1, 1), (frame_px // 8, 1)):
        with pytest.raises(PictureError, match=f"{count} or more frames of 56 x 40") as error:
            restorer.restore_animation(path, tmp_path / "b.gif", RestoreOptions(scale=2, max_output_pixels=allowed))
        assert "\n" not in str(error.value)
    restorer.restore_animation(path, tmp_path / "b.gif", RestoreOptions(scale=2, max_output_pixels=frame_px))
    many = saved(tmp_path / "many.gif", frames(count=17), durations=(20,) * 17)
    with pytest.raises(PictureError, match="17 or more frames"):
        restorer.restore_animation(many, tmp_path / "b.gif", RestoreOptions(scale=2, max_output_pixels=frame_px))
    with pytest.raises(OutputError, match="JPEG holds one picture"):
        restorer.restore_animation(path, tmp_path / "b.jpg", RestoreOptions(scale=2))


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.filterwarnings("ignore")
def test_cut_off_animations_are_errors(tmp_path: Path, extension: str) -> None:
    path = saved(tmp_path / f"a.{extension}", frames())
    data, whole, num_errors = path.read_bytes(), arrays_of(open_animation(path)), 0
    for length in range(10, len(data), 29):
        path.write_bytes(data[:length])
        try:
            arrays = arrays_of(open_animation(path))
        except PictureError:
            num_errors += 1
        else:  # only what stands behind the last pixel may be missing
            assert all(np.array_equal(array, truth) for array, truth in zip(arrays, whole, strict=True))
    assert num_errors >= len(range(10, len(data), 29)) - 1


def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    """Of the arrays, which numpy reports; 40 frames of 0.27 MB would be 11 MB."""
    rng = np.random.default_rng(0)

    def made(count: int) -> Iterator[Frame]:
        for _ in range(count):
            yield Frame(Picture(rng.integers(0, 4, (300, 300, 3), dtype=np.uint8) * np.uint8(60)), 40)

    peaks = []
    for count in (4, 40):
        animation = Animation(Path("none"), 300, 300, (40.0,) * count, 0, False, False)
        for extension in ("gif", "png"):
            tracemalloc.start()
            write_animation(made(count), animation, tmp_path / f"a.{extension}")
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert max(peaks[2:]) < 1.2 * max(peaks[:2])


def test_colours_of_a_still_background_do_not_flicker(tmp_path: Path) -> None:
    """Noise in one corner; the rest is a gradient whose reduced colours stay what they were."""
    y, x = np.mgrid[0:64, 0:64]
    base = np.stack([x * 4, y * 4, (x + y) * 2], axis=-1).astype(np.uint8)
    rng = np.random.default_rng(1)
    arrays = []
    for _ in range(4):
        array = base.copy()
        array[-16:, -16:] = rng.integers(0, 256, (16, 16, 3))
        arrays.append(array)
    animation = open_animation(saved(tmp_path / "a.png", arrays))
    write_animation(animation.frames(), animation, tmp_path / "a.gif")
    results = arrays_of(open_animation(tmp_path / "a.gif"))
    assert all(np.array_equal(results[0][:48], each[:48]) for each in results[1:])


def test_the_command_restores_all_frames_or_says_that_it_takes_one(tmp_path: Path, command: Command) -> None:
    (tmp_path / "in").mkdir()
    source = saved(tmp_path / "in" / "a.gif", frames())
    Image.fromarray(frames()[0]).save(tmp_path / "in" / "still.gif")
    done = command("restore", tmp_path / "in", "-o", tmp_path / "out", "--scale", 2)
    assert done.code == 0, done.err
    assert "a.gif  56x40, 4 frames" in done.out
    assert open_animation(tmp_path / "out/a.gif").milliseconds == DURATIONS
    assert not is_animated(tmp_path / "out/still.gif")
    again = command("restore", tmp_path / "in", "-o", tmp_path / "out", "--scale", 2)
    assert again.code == 0
    assert re.search(r"skipped +2", again.err)
    other = command("restore", tmp_path / "in", "-o", tmp_path / "other", "--scale", 2, "--format", "webp")
    assert other.code == 0, other.err
    assert open_animation(tmp_path / "other/a.webp").num_frames == 4
    still = command("restore", source, "-o", tmp_path / "a.jpg", "--scale", 2)
    assert still.code == 0, still.err
    assert "4 frames; the first one is used" in still.err
    too_large = command("restore", source, "-o", tmp_path / "b.gif", "--max-megapixels", 0.0005)
    assert too_large.code == 1
    assert "1 or more frames of 112 x 80 px" in too_large.err
    assert not (tmp_path / "b.gif").exists()


def test_16_bits_of_an_apng_are_said_to_be_lost(tmp_path: Path) -> None:
    animation = Animation(tmp_path, 28, 20, (40.0, 40.0), 0, False, False)
    deep = [Frame(Picture(array.astype(np.uint16) * 257 + 3), 40.0) for array in frames()[:2]]
    assert write_animation(deep, animation, tmp_path / "a.png") == ()
    opened = open_animation(tmp_path / "a.png")
    assert "16 bits" in opened.notes[0]
    assert all(np.array_equal(*pair) for pair in zip(arrays_of(opened), frames()[:2], strict=True))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are tested on POSIX only")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.gif")
    assert not is_animated(tmp_path / "a.gif")
    with pytest.raises(PictureError, match="not a regular file"):
        open_animation(tmp_path / "a.gif")


@pytest.mark.parametrize("num_clear", [0, 1, 200])
def test_a_still_gif_of_many_colours(tmp_path: Path, num_clear: int) -> None:
    """255 colours and a clear one fill the table to its end."""
    values = np.arange(256)
    pixels = np.stack([values, 255 - values, values // 2], axis=-1).astype(np.uint8).reshape(16, 16, 3)
    alpha = np.where(values < num_clear, 0, 255).astype(np.uint8).reshape(16, 16)
    assert write_picture(Picture(pixels, alpha), tmp_path / "a.gif") == ()
    with open(tmp_path / "a.gif", "rb") as file:
        assert is_whole(file)
    back = read_picture(tmp_path / "a.gif")
    assert back.is_transparent == (num_clear > 0)
    assert np.array_equal(back.pixels[alpha > 0], pixels[alpha > 0])
    assert back.alpha is None or np.array_equal(back.alpha, alpha)


def test_still_gif(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.fromarray(frames(transparent=True)[0]).save(data, "GIF")
    (tmp_path / "a.gif").write_bytes(data.getvalue())
    picture = read_picture(tmp_path / "a.gif")
    assert picture.is_transparent
    assert not is_animated(tmp_path / "a.gif")
    with pytest.raises(PictureError, match="not animated"):
        open_animation(tmp_path / "a.gif")
