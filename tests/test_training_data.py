"""Training data: crops that depend on their position alone, whatever the source, the workers and the broken files."""

from __future__ import annotations

import io
import itertools
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from s3diff.errors import MissingExtraError, OptionError, PictureError, TrainingError
from s3diff.images.files.pillow_pictures import to_pil
from s3diff.images.picture import from_array
from s3diff.training.data import crops, storage
from s3diff.training.data.batches import CropBatch, crop_batches
from s3diff.training.data.collage import NUMBERS_PER_SHAPE, collage
from s3diff.training.data.crops import CropDataset, check_usable, epoch_order
from s3diff.training.data.sources import ShardSource, names_digest, open_source
from s3diff.training.validation import named_pictures

NUM_PICTURES = 12


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3DIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "RETRY_WAITS_SECONDS", (0.0, 0.0))


def noise(seed: int, height: int = 40, width: int = 48, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def flat(number: int) -> np.ndarray:
    """A picture that every crop of it tells apart from the others."""
    return np.full((32, 32, 3), (number, 100, 255 - number), dtype=np.uint8)


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    """A picture file; without ``write_picture``, which waits for the disk."""
    data = io.BytesIO()
    to_pil(from_array(pixels)).save(data, form)
    return data.getvalue()


def write_folder(folder: Path, pictures: dict[str, np.ndarray]) -> Path:
    forms = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}
    for name, pixels in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(pixels, forms[Path(name).suffix]))
    return folder


def write_tar(path: Path, files: Iterable[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> None:
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def write_shards(folder: Path, num_shards: int, per_shard: int) -> Path:
    """Shards of flat pictures numbered through, with captions between them."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = iter(range(num_shards * per_shard))
    for shard in range(num_shards):
        files: list[tuple[str, bytes]] = []
        for number in itertools.islice(numbers, per_shard):
            files += [(f"{number:05d}.png", encoded(flat(number))), (f"{number:05d}.txt", b"a caption")]
        write_tar(folder / f"train-{shard:06d}.tar", files)
    return folder


@pytest.fixture(scope="module")
def mixed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of all kinds, two of them useless."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    write_folder(folder, {f"{i:02d}.png": noise(i) for i in range(NUM_PICTURES - 4)})
    write_folder(folder / "deep" / "er", {"grey.png": noise(50, channels=1), "photo.jpg": noise(51, 64, 64)})
    write_folder(folder, {"small.png": noise(52, 8, 90)})
    (folder / "broken.jpg").write_bytes(encoded(noise(51), "JPEG")[:-500])
    return folder


def take(dataset: CropDataset, num: int, **given: object) -> list[CropBatch]:
    options: dict = {"first_step": 0, "rows": range(4), "global_batch_size": 4, **given}
    batches = crop_batches(dataset, **options)
    taken = list(itertools.islice(batches, num))
    batches.close()
    return taken


def assert_same(ours: list[CropBatch], theirs: list[CropBatch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert one.skipped == other.skipped


# ---------------------------------------------------------------------------------------------- positions


def test_any_number_of_workers_gives_the_same_bits(mixed_folder: Path) -> None:
    dataset = CropDataset(open_source(str(mixed_folder)), 24, seed=3, min_detail=60.0)
    alone = take(dataset, 8)
    assert alone[0].pixels.dtype == torch.uint8
    assert alone[0].pixels.shape == (4, 3, 24, 24)
    assert len(torch.stack([batch.pixels for batch in alone]).flatten(0, 1).unique(dim=0)) == 32
    assert {line.split("/")[-1].split(" ")[0].rstrip(":") for batch in alone for line in batch.skipped} == {
        "broken.jpg",
        "small.png",
    }
    for num_workers in (1, 2):
        assert_same(take(dataset, 8, num_workers=num_workers), alone)


def test_spawned_workers_give_the_same_bits_from_shards(tmp_path: Path) -> None:
    source = open_source(str(write_shards(tmp_path / "shards", 2, 3)))
    dataset = CropDataset(source, 16, seed=1)
    alone = take(dataset, 2)
    assert source._reader._open  # type: ignore[attr-defined]  # the parent's handles must not matter
    assert_same(take(dataset, 2, num_workers=1, start_method="spawn"), alone)
    assert_same(take(dataset, 2, num_workers=2), alone)


def test_rows_of_two_processes_make_up_the_whole(mixed_folder: Path) -> None:
    dataset = CropDataset(open_source(str(mixed_folder)), 24, seed=3)
    whole = take(dataset, 3)
    first = take(dataset, 3, rows=range(2))
    second = take(dataset, 3, rows=range(2, 4))
    for step in range(3):
        assert torch.equal(torch.cat([first[step].pixels, second[step].pixels]), whole[step].pixels)


def test_going_on_at_a_step_equals_the_rest(mixed_folder: Path) -> None:
    source = open_source(str(mixed_folder))
    whole = take(CropDataset(source, 24, seed=3), 9)
    assert_same(take(CropDataset(source, 24, seed=3), 4, first_step=5), whole[5:])
    other = take(CropDataset(source, 24, seed=4), 1)
    assert not torch.equal(other[0].pixels, whole[0].pixels)


def test_the_crops_of_a_seed_stay_what_they_are() -> None:
    """Written down once: a change would make old runs go on with other crops."""
    assert epoch_order([10], seed=5, epoch=0).tolist() == [6, 5, 0, 4, 2, 8, 1, 9, 3, 7]
    assert epoch_order([3, 2, 4], seed=5, epoch=1).tolist() == [4, 1, 0, 3, 5, 7, 8, 6, 2]
    assert crops._random_words(5, crops._FOR_PLACE, 7, 0, 2).tolist() == [5557167554418800572, 3847910012381283002]


def test_torchs_random_state_is_untouched(mixed_folder: Path) -> None:
    before = torch.get_rng_state()
    for num_workers in (0, 1):
        take(CropDataset(open_source(str(mixed_folder)), 24, seed=3), 2, num_workers=num_workers)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("error")
def test_batches_are_pinned_where_there_is_a_device(mixed_folder: Path) -> None:
    dataset = CropDataset(open_source(str(mixed_folder)), 24, seed=3)
    (batch,) = take(dataset, 1, pin_memory=True)
    assert batch.pixels.is_pinned() == torch.cuda.is_available()
    assert_same([batch], take(dataset, 1))


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=40).filter(lambda sizes: sum(sizes) > 0),
    seed=st.integers(-(2**70), 2**70),
    epoch=st.integers(0, 2**40),
)
def test_an_epoch_is_a_permutation_and_stays_within_windows(sizes: list[int], seed: int, epoch: int) -> None:
    order = epoch_order(sizes, seed, epoch)
    assert np.array_equal(np.sort(order), np.arange(sum(sizes)))
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    last_seen = {shard: place for place, shard in enumerate(shard_of[order])}
    first_seen = {shard: place for place, shard in reversed(list(enumerate(shard_of[order])))}
    open_at_once = max(
        sum(first_seen[shard] <= place <= last_seen[shard] for shard in last_seen) for place in range(len(order))
    )
    assert open_at_once <= crops.WINDOW_SHARDS


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(epoch_order([50], seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    first_places = [int(epoch_order([4], 0, epoch)[0]) for epoch in range(2000)]
    assert np.bincount(first_places).min() > 430  # 500 expected, standard deviation 19


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_every_picture_comes_once_per_epoch(tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        place = write_folder(tmp_path / "flat", {f"{i:03d}.png": flat(i) for i in range(30)})
    else:
        place = write_shards(tmp_path / "flat", 10, 3)
    dataset = CropDataset(open_source(str(place)), 16, seed=9)
    for epoch in range(3):
        seen = [int(dataset[epoch * 30 + place].pixels[0, 0, 0]) for place in range(30)]
        assert sorted(seen) == list(range(30))
        assert seen != sorted(seen)


# ---------------------------------------------------------------------------------------------- pictures


def test_crops_are_pieces_of_the_picture_and_half_are_mirrored(tmp_path: Path) -> None:
    pixels = noise(1, 20, 24)
    dataset = CropDataset(open_source(str(write_folder(tmp_path / "p", {"a.png": pixels}))), 16, seed=0)
    pieces = {pixels[top : top + 16, left : left + 16].tobytes(): (top, left) for top in range(5) for left in range(9)}
    mirrored, places = 0, set()
    for position in range(400):
        crop = dataset[position].pixels.permute(1, 2, 0).numpy()
        plain, turned = crop.tobytes(), crop[:, ::-1].tobytes()
        assert (plain in pieces) != (turned in pieces)
        mirrored += turned in pieces
        places.add(pieces.get(plain) or pieces[turned])
    assert 160 < mirrored < 240
    assert len(places) == 45


def test_enlarged_crops_show_a_smaller_window(tmp_path: Path) -> None:
    """A slope of 8 levels a pixel becomes one of 8 / factor; without enlargement the crops stay what they were."""
    pixels = np.repeat(np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))[:, :, None], 3, axis=2)
    source = open_source(str(write_folder(tmp_path / "p", {"a.png": pixels})))
    dataset = pickle.loads(pickle.dumps(CropDataset(source, 24, seed=0, enlargement=(1.5, 3.0))))
    slopes = []
    for position in range(60):
        crop = dataset[position].pixels.float()
        assert crop.shape == (3, 24, 24)
        slopes.append(float(crop[0, :, 4:20].diff(dim=1).mean().abs()))
    assert 8 / 3 - 0.2 < min(slopes) < 3.2 < 4.8 < max(slopes) < 8 / 1.5 + 0.3
    plain, written_out = CropDataset(source, 24, seed=0), CropDataset(source, 24, seed=0, enlargement=(1.0, 1.0))
    assert all(torch.equal(plain[position].pixels, written_out[position].pixels) for position in range(20))


def test_collages_lay_shapes_of_another_picture_over_a_share_of_the_crops(tmp_path: Path) -> None:
    black, white = (np.full((40, 40, 3), level, np.uint8) for level in (0, 255))
    source = open_source(str(write_folder(tmp_path / "p", {"a.png": black, "b.png": white})))
    dataset = CropDataset(source, 24, seed=0, collage_probability=0.5)
    again = pickle.loads(pickle.dumps(dataset))
    mixed = 0
    for position in range(200):
        pixels = dataset[position].pixels
        assert pixels.shape == (3, 24, 24)
        assert torch.equal(again[position].pixels, pixels)
        shares = [(pixels == level).float().mean() for level in (0, 255)]
        assert sum(shares) > 0.5  # all but the smoothed outlines
        mixed += min(shares) > 0
    assert 30 < mixed < 60  # half of the crops have shapes, half of these from the other picture


def test_upright_edges_occur_in_collages_both_ways() -> None:
    crop, other = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 200, np.uint8)
    directions = set()
    for seed in range(60):
        shapes = np.random.default_rng(seed).random((1, NUMBERS_PER_SHAPE))
        shapes[0, 3:6] = 0, shapes[0, 4], 0  # a half plane, upright
        made = collage(crop, other, shapes)[..., 0].astype(int)
        steps = [int(np.abs(np.diff(made, axis=axis)).sum()) for axis in (0, 1)]
        if max(steps) > 20 * (1 + min(steps)):  # nearly all change along one axis: within 3 degrees of it
            directions.add(steps.index(max(steps)))
    assert directions == {0, 1}


def test_outlines_of_a_collage_are_smoothed_over_one_pixel() -> None:
    crop, other = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 200, np.uint8)
    for kind in range(4):
        seen = 0
        for seed in range(20):
            shapes = np.random.default_rng(seed).random((1, NUMBERS_PER_SHAPE))
            shapes[0, 3] = (kind + 0.5) / 4
            made = collage(crop, other, shapes)[..., 0].astype(int)
            between = (made > 0) & (made < 200)
            assert between.mean() < 0.3
            inner = made[1:-1, 1:-1]
            around = [made[1 + y : 63 + y, 1 + x : 63 + x] for y in (-1, 0, 1) for x in (-1, 0, 1)]
            half = (inner > 40) & (inner < 160)
            seen += bool(half.any())
            assert (np.ptp(np.stack(around), axis=0)[half] > 40).all()  # nowhere a plateau of half a shape
        assert seen >= 8


def test_crops_with_detail_are_preferred(tmp_path: Path) -> None:
    pixels = np.full((64, 256, 3), 128, np.uint8)
    pixels[:, 192:] = noise(0, 64, 64)
    source = open_source(str(write_folder(tmp_path / "p", {"a.png": pixels})))

    def share(min_detail: float) -> float:
        dataset = CropDataset(source, 32, seed=0, min_detail=min_detail)
        return float(np.mean([dataset[position].pixels.float().std() > 1 for position in range(200)]))

    assert 0.2 < share(0.0) < 0.36  # 64 of 225 places reach into the noise
    assert share(5.0) > 0.65


def test_detail_is_the_mean_of_both_gradients_of_the_luma() -> None:
    crop = noise(4, 24, 24)
    luma = torch.from_numpy(crop).double().mean(-1)
    expected = (luma.diff(dim=0).abs().mean() + luma.diff(dim=1).abs().mean()) / 2
    assert crops._mean_difference(crop) == pytest.approx(float(expected), rel=1e-12)
    assert crops._mean_difference(crop[:1, :1]) == 0


def test_grey_16_bit_and_transparent_pictures_become_8_bit_rgb(tmp_path: Path) -> None:
    deep = np.arange(40 * 40, dtype=np.uint16).reshape(40, 40, 1) * 40
    clear = np.concatenate([noise(1, 40, 40), np.zeros((40, 40, 1), np.uint8)], axis=2)
    folder = write_folder(
        tmp_path / "p", {"a16.png": deep, "b.png": noise(2, 40, 40, 1), "c.webp": noise(3, 40, 40), "d.png": clear}
    )
    source = open_source(str(folder))
    assert [source.name(i) for i in range(4)] == ["a16.png", "b.png", "c.webp", "d.png"]
    read = [source.read(i) for i in range(4)]
    assert all(pixels.dtype == np.uint8 and pixels.shape == (40, 40, 3) for pixels in read)
    assert np.array_equal(read[0], np.repeat(np.rint(deep / 257).astype(np.uint8), 3, axis=2))
    assert np.array_equal(read[1], np.repeat(noise(2, 40, 40, 1), 3, axis=2))
    assert np.array_equal(read[3], clear[..., :3])


# ---------------------------------------------------------------------------------------------- what goes wrong


def test_useless_pictures_are_replaced_and_named(mixed_folder: Path) -> None:
    dataset = CropDataset(open_source(str(mixed_folder)), 24, seed=0)
    epoch = [dataset[position] for position in range(len(dataset.source))]
    lines = {line for crop in epoch for line in crop.skipped}
    assert sum(bool(crop.skipped) for crop in epoch) >= 2
    assert len(lines) == 2
    assert any("small.png has 90 x 8 px; a crop needs sides of 24 px" in line for line in lines)
    assert any("broken.jpg" in line and "cut off" in line for line in lines)
    again = CropDataset(open_source(str(mixed_folder)), 24, seed=0)
    for position in reversed(range(len(dataset.source))):  # what was met before must not matter
        assert torch.equal(again[position].pixels, epoch[position].pixels)
        assert again[position].skipped == epoch[position].skipped


def test_a_set_without_a_usable_picture_ends_at_the_start(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "p", {f"{i}.png": noise(i, 9, 9) for i in range(5)})
    with pytest.raises(PictureError) as caught:
        check_usable(open_source(str(folder)), 16)
    message = str(caught.value)
    assert f"{folder} holds no picture to train on (5 skipped: 0.png, 1.png, 2.png, ...; the first: 0.png" in message
    assert "sides of at least 16 px" in message
    assert "\n" not in message
    write_folder(folder, {"3b.png": noise(1)})
    check_usable(open_source(str(folder)), 16)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_set_that_breaks_later_ends_with_one_line(tmp_path: Path, num_workers: int) -> None:
    folder = write_folder(tmp_path / "p", {f"{i}.png": noise(i) for i in range(5)})
    source = open_source(str(folder))
    check_usable(source, 16)
    for path in folder.iterdir():
        path.write_bytes(b"gone")
    with pytest.raises(PictureError, match="100 pictures in a row cannot be used") as caught:
        take(CropDataset(source, 16, seed=0), 1, num_workers=num_workers)
    assert not multiprocessing.active_children()
    assert "\n" not in str(caught.value)
    assert "check the data set" in str(caught.value)


def test_what_is_no_training_set_is_said_in_one_line(tmp_path: Path) -> None:
    picture = write_folder(tmp_path / "one", {"a.png": noise(0)}) / "a.png"
    (tmp_path / "empty").mkdir()
    (tmp_path / "packed.tar.gz").write_bytes(b"x")
    cases = {
        str(tmp_path / "nowhere"): "does not exist",
        str(tmp_path / "nowhere.tar"): "does not exist",
        str(tmp_path / "s-{0..3}.tar"): "s-0.tar does not exist",
        str(tmp_path / "*.tar"): "matches no file",
        str(tmp_path / "empty"): "holds no picture",
        str(picture): "is one file",
        str(tmp_path / "packed.tar.gz"): "uncompressed",
        "memory://nowhere": "does not exist",
        "nonsense://bucket/a.tar": "unknown protocol",
        str(tmp_path / "{0..99999999}.tar"): "more than",
    }
    for given_path, expected in cases.items():
        with pytest.raises(PictureError, match=expected) as caught:
            open_source(given_path)
        assert "\n" not in str(caught.value)
    with pytest.raises(PictureError, match="are held out"):
        open_source(str(tmp_path / "one"), held_out=("a.png",))


def test_numbers_that_fit_no_batch_are_refused_at_once(mixed_folder: Path) -> None:
    dataset = CropDataset(open_source(str(mixed_folder)), 24, seed=0)
    for wrong in ({"rows": range(0)}, {"rows": range(2, 6)}, {"first_step": -1}, {"num_workers": -1}):
        with pytest.raises(OptionError):
            crop_batches(dataset, **{"first_step": 0, "rows": range(4), "global_batch_size": 4, **wrong})  # type: ignore[arg-type]
    with pytest.raises(OptionError):
        CropDataset(dataset.source, 0, seed=0)


def test_held_out_names_are_compared_in_one_form_of_unicode(tmp_path: Path) -> None:
    composed, apart = "caf\u00e9.png", "cafe\u0301.png"
    place = write_folder(tmp_path / "p", {apart: noise(0), "n/b.png": noise(1), "c.png": noise(2)})
    source = open_source(str(place), held_out=(composed, "n/b.png"))
    assert [source.name(index) for index in range(len(source))] == ["c.png"]
    whole = open_source(str(place))
    assert [whole.name(index) for index in named_pictures(whole, (composed, "n/b.png"))] == [apart, "n/b.png"]


def test_held_out_pictures_are_left_out(mixed_folder: Path, tmp_path: Path) -> None:
    source = open_source(str(mixed_folder), held_out=("00.png", "photo.jpg", "er/grey.png"))
    names = [source.name(i) for i in range(len(source))]
    assert len(names) == NUM_PICTURES - 2
    assert "deep/er/grey.png" in names  # neither its name nor its whole path was given
    place = write_shards(tmp_path / "shards", 2, 3)
    source = open_source(str(place), held_out=("00001.png", "00004.png"))
    assert [int(source.read(i)[0, 0, 0]) for i in range(len(source))] == [0, 2, 3, 5]
    assert list(source.group_sizes) == [2, 2]


# ---------------------------------------------------------------------------------------------- memory


def test_decoded_pictures_are_kept_within_the_bound(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "p", {f"{i}.png": noise(i) for i in range(6)})
    one = noise(0).nbytes
    dataset = CropDataset(open_source(str(folder)), 16, seed=0, cache_bytes=3 * one + 5)
    reference = [dataset[position].pixels for position in range(30)]
    assert dataset.cached_bytes == 3 * one == sum(pixels.nbytes for pixels in dataset._pictures.values())
    for cache_bytes in (0, 100 * one):
        other = CropDataset(open_source(str(folder)), 16, seed=0, cache_bytes=cache_bytes)
        assert all(torch.equal(other[position].pixels, reference[position]) for position in range(30))
        assert other.cached_bytes == min(cache_bytes, 6 * one)
    for path in folder.iterdir():  # with everything kept no file is read again
        path.unlink()
    assert torch.equal(other[2].pixels, reference[2])


def test_a_data_set_is_pickled_without_pictures_and_files(tmp_path: Path) -> None:
    dataset = CropDataset(open_source(str(write_shards(tmp_path / "s", 2, 4))), 16, seed=0)
    expected = [dataset[position].pixels for position in range(8)]
    data = pickle.dumps(dataset)
    assert len(data) < 4000
    copy = pickle.loads(data)
    assert copy.cached_bytes == 0
    assert all(torch.equal(copy[position].pixels, expected[position]) for position in range(8))


def test_few_shards_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "MAX_OPEN_FILES", 2)
    source = open_source(str(write_shards(tmp_path / "s", 5, 1)))
    assert isinstance(source, ShardSource)
    assert [int(source.read(i)[0, 0, 0]) for i in (0, 1, 2, 3, 4, 0, 4)] == [0, 1, 2, 3, 4, 0, 4]
    assert len(source._reader._open) == 2


# ---------------------------------------------------------------------------------------------- shards


def test_a_folder_and_its_tar_hold_the_same_pictures(tmp_path: Path) -> None:
    names = {f"{i}.png": noise(i, 16, 16) for i in range(5)}
    folder = write_folder(tmp_path / "p", {**names, "x.jpg": noise(8, 16, 16), "deep/y.webp": noise(9, 16, 16)})
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(folder, arcname=".")
    seen = []
    for place in (folder, tmp_path / "all.tar"):
        dataset = CropDataset(open_source(str(place)), 16, seed=0)
        epoch = [dataset[position].pixels for position in range(7)]
        seen.append({min(crop.numpy().tobytes(), crop.flip(-1).numpy().tobytes()) for crop in epoch})
    assert seen[0] == seen[1]
    assert len(seen[0]) == 7


@pytest.mark.parametrize(
    "pattern", ["", "train-{000000..000002}.tar", "train-{2..0}.tar", "*.tar", "train-00000[0-2].tar", "**/*-*.tar"]
)
def test_patterns_name_shards(tmp_path: Path, pattern: str) -> None:
    folder = write_shards(tmp_path / "a {shards}", 3, 2)
    for number in range(3):
        os.link(folder / f"train-{number:06d}.tar", folder / f"train-{number}.tar")
    if pattern in ("", "*.tar", "**/*-*.tar"):
        for number in range(3):
            (folder / f"train-{number}.tar").unlink()
    source = open_source(f"{folder}/{pattern}" if pattern else str(folder))
    assert sorted(int(source.read(i)[0, 0, 0]) for i in range(len(source))) == list(range(6))
    assert "train-" in source.name(0)


def test_braces_are_expanded() -> None:
    assert list(storage._expand_braces("s3://b/{x,y}-{08..10}.tar")) == [
        f"s3://b/{letter}-{number}.tar" for letter in "xy" for number in ("08", "09", "10")
    ]
    assert list(storage._expand_braces("a{b}{0..1}{}")) == ["a{b}0{}", "a{b}1{}"]
    assert storage.local_path("file:///tmp/a%20b") == "/tmp/a b"


def test_other_members_are_left_alone(tmp_path: Path) -> None:
    data = encoded(noise(0))
    pictures = [("k.JPG", data), ("n/k.png", data)]
    others = [("k.json", b"{}"), ("k.txt", b"x"), ("._k.jpg", b"resource fork"), (".git/k.png", data)]
    write_tar(tmp_path / "a.tar", others + pictures)
    source = open_source(str(tmp_path / "a.tar"))
    assert [source.name(i).removeprefix(f"{tmp_path}/") for i in range(len(source))] == ["a.tar/k.JPG", "a.tar/n/k.png"]


def test_long_and_foreign_names_are_found(tmp_path: Path) -> None:
    data = encoded(flat(7))
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = tmp_path / f"{form}.tar"
        write_tar(path, [("ä" * 120 + ".png", data), ("line\nbreak.png", data)], form)
        for _ in range(2):  # scanned, then from the saved index
            source = open_source(str(path))
            assert [int(source.read(i)[0, 0, 0]) for i in range(2)] == [7, 7]
            assert source.name(1).endswith("line\\nbreak.png")


def test_links_in_a_shard_are_the_pictures_that_they_lead_to(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Hard ones, as tar writes for the second name of a file, and symbolic ones; to any member, before or behind."""
    links = [
        ("./n/hard.png", tarfile.LNKTYPE, "./n/a.png"),
        ("./n/soft.png", tarfile.SYMTYPE, "a.png"),
        ("./up.png", tarfile.SYMTYPE, "n/../blobs/0123"),
        ("./chain.png", tarfile.SYMTYPE, "./n/soft.png"),
        ("./round.png", tarfile.SYMTYPE, "round.png"),
        ("./away.png", tarfile.SYMTYPE, "/home/somebody/away.png"),
        ("./.hidden.png", tarfile.LNKTYPE, "./n/a.png"),
    ]
    pictures = [noise(0), noise(1)]
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind, target in links[1:]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
        for name, pixels in zip(("./n/a.png", "./blobs/0123"), pictures, strict=True):
            member, data = tarfile.TarInfo(name), encoded(pixels)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        member = tarfile.TarInfo(links[0][0])
        member.type, member.linkname = links[0][1:]
        archive.addfile(member)
    wanted = {"soft": 0, "up": 1, "chain": 0, "a": 0, "hard": 0}
    for _ in range(2):  # and from the index
        caplog.clear()
        source = open_source(str(tmp_path / "a.tar"))
        assert [Path(source.name(index)).stem for index in range(len(source))] == list(wanted)
        for index, picture in enumerate(wanted.values()):
            assert np.array_equal(source.read(index), pictures[picture])
        assert "holds 2 links that lead to none of its files, such as ./round.png" in caplog.text


def test_a_set_is_the_same_however_its_path_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = write_shards(tmp_path / "shards", 2, 3)
    pictures = write_folder(tmp_path / "pictures", {"a.png": noise(0), "n/b.png": noise(1)})
    monkeypatch.chdir(tmp_path)
    written = {
        shards: ("shards", "./shards/", "shards/../shards", "shards/*.tar", "shards/train-{000000..000001}.tar"),
        pictures: ("pictures", "pictures/", "./pictures"),
    }
    digests = {}
    for folder, others in written.items():
        digests[folder] = names_digest(open_source(str(folder)))
        assert {names_digest(open_source(other)) for other in (*others, folder.as_uri())} == {digests[folder]}
        folder.rename(tmp_path / "moved")
        assert names_digest(open_source("moved")) == digests[folder]
        (tmp_path / "moved").rename(folder)
    assert digests[shards] != digests[pictures]
    (shards / "train-000001.tar").rename(shards / "train-000002.tar")
    assert names_digest(open_source("shards")) != digests[shards]


def test_bad_shards_are_named_in_one_line(tmp_path: Path) -> None:
    write_tar(tmp_path / "twice.tar", [("a.png", encoded(noise(0)))] * 2)
    write_tar(tmp_path / "texts.tar", [("a.txt", b"x")])
    write_tar(tmp_path / "nothing.tar", [])
    (tmp_path / "zero.tar").write_bytes(b"")
    (tmp_path / "page.tar").write_bytes(b"<html>" * 1000)
    cases = {
        "twice": "two members named a.png",
        "texts": "no picture among its 1 members",
        "nothing": "no picture among its 0 members",
        "zero": "no uncompressed tar",
        "page": "no uncompressed tar",
    }
    for name, expected in cases.items():
        with pytest.raises(PictureError, match=expected) as caught:
            open_source(str(tmp_path / f"{name}.tar"))
        assert "\n" not in str(caught.value)
        assert f"{name}.tar" in str(caught.value)


@pytest.mark.parametrize("cut", ["in a picture", "between members", "in a header", "noise in a header"])
def test_of_a_cut_shard_the_readable_pictures_are_used(
    tmp_path: Path, cut: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_shards(tmp_path, 1, 6) / "train-000000.tar"
    with tarfile.open(path) as archive:
        third = archive.getmember("00003.png")
    data = path.read_bytes()
    end = {"in a picture": third.offset_data + 10, "between members": third.offset, "in a header": third.offset + 99}
    path.write_bytes(data[: end.get(cut, 0)] or data[: third.offset] + os.urandom(512) + data[third.offset + 512 :])
    for _ in range(2):  # scanned, then from the saved index: warned of each time
        with caplog.at_level(logging.WARNING):
            source = open_source(str(path))
        assert [int(source.read(i)[0, 0, 0]) for i in range(len(source))] == [0, 1, 2]
        assert "train-000000.tar is cut off or damaged; its first 3 pictures are used" in caplog.text
        caplog.clear()


def test_the_index_is_read_again_when_a_shard_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = write_shards(tmp_path / "shards", 2, 3)
    caplog.set_level(logging.INFO)

    def scanned() -> int:
        caplog.clear()
        open_source(str(place))
        return caplog.text.count("reading the headers")

    assert [scanned(), scanned()] == [2, 0]
    write_tar(place / "train-000001.tar", [("new.png", encoded(flat(99)))])
    assert [scanned(), scanned()] == [1, 0]
    saved = sorted((tmp_path / "cache" / "shard-index").iterdir())
    assert len(saved) == 3
    for path in saved:
        path.write_text(path.read_text()[:50])
    assert [scanned(), scanned()] == [2, 0]
    assert [path for path in saved[0].parent.iterdir() if path.suffix == ".part"] == []


def test_an_index_that_cannot_be_saved_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("S3DIFF_CACHE", str(tmp_path / "file"))
    assert len(open_source(str(write_shards(tmp_path / "shards", 1, 3)))) == 3


# ---------------------------------------------------------------------------------------------- remote


class FlakyFileSystem(MemoryFileSystem):
    """A store that refuses the next few reads."""

    protocol = "flaky"
    failures = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("flaky://", "memory://"))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **given: object) -> bytes:
        if FlakyFileSystem.failures:
            FlakyFileSystem.failures -= 1
            raise ConnectionError("the store\nis tired")
        return super().cat_file(path, start=start, end=end, **given)


fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryFileSystem]:
    files = fsspec.filesystem("memory")
    for path in sorted(write_shards(tmp_path / "local", 3, 2).iterdir()):
        files.pipe(f"/bucket/shards/{path.name}", path.read_bytes())
    yield files
    files.rm("/bucket", recursive=True)


@pytest.mark.parametrize("pattern", ["train-{000000..000002}.tar", "*.tar", "train-00000?.tar", ""])
def test_remote_shards_give_the_crops_of_local_ones(store: MemoryFileSystem, tmp_path: Path, pattern: str) -> None:
    remote = open_source(f"memory://bucket/shards/{pattern}")
    assert remote.is_remote
    assert remote.name(0) in ("memory://bucket/shards/train-000000.tar/00000.png",) or not pattern.startswith("train-{")
    local = CropDataset(open_source(str(tmp_path / "local")), 16, seed=2)
    dataset = CropDataset(remote, 16, seed=2)
    assert all(torch.equal(dataset[p].pixels, local[p].pixels) for p in range(12))


def test_a_remote_folder_of_loose_pictures(store: MemoryFileSystem) -> None:
    store.pipe("/bucket/loose/deep/a.png", encoded(flat(3)))
    store.pipe("/bucket/loose/b.png", encoded(flat(4)))
    store.pipe("/bucket/loose/.hidden/c.png", b"x")
    store.pipe("/bucket/loose/notes.txt", b"x")
    source = open_source("memory://bucket/loose/")
    assert [(source.name(i), int(source.read(i)[0, 0, 0])) for i in range(2)] == [("b.png", 4), ("deep/a.png", 3)]
    assert len(source) == 2


def test_a_store_that_fails_for_a_moment_changes_nothing(store: MemoryFileSystem) -> None:
    dataset = CropDataset(open_source("flaky://bucket/shards/train-000000.tar"), 16, seed=0)
    FlakyFileSystem.failures = 2
    crop = dataset[0]
    assert FlakyFileSystem.failures == 0
    assert crop.skipped == ()
    FlakyFileSystem.failures = 100  # a store that stays away is no broken picture: the run must stop
    try:
        with pytest.raises(TrainingError, match=r"flaky://bucket/shards/train-000000\.tar cannot be read") as caught:
            dataset[1]
        assert "\n" not in str(caught.value)
    finally:
        FlakyFileSystem.failures = 0
    assert dataset[1].skipped == ()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.registry import known_implementations

    entry = {"class": "no_such_package_s3diff.FileSystem", "err": "Install it"}
    monkeypatch.setitem(known_implementations, "oss", entry)
    monkeypatch.setitem(known_implementations, "s3difftest", entry)
    with pytest.raises(MissingExtraError, match=r"oss://b/a\.tar: .*pip install ossfs$"):
        open_source("oss://b/a.tar")
    with pytest.raises(MissingExtraError, match=r"pip install 'fsspec\[s3difftest\]'"):
        open_source("s3difftest://b/shards/*.tar")
    for protocol, package in (("s3", "s3fs"), ("gs", "gcsfs"), ("https", "aiohttp requests")):
        assert storage._PACKAGES[protocol] == package


# ---------------------------------------------------------------------------------------------- workers

_GROUP = """
import signal, sys, time
from s3diff.training.data.batches import crop_batches
from s3diff.training.data.crops import CropDataset
from s3diff.training.data.sources import open_source
if __name__ == "__main__":
    asked = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: asked.append(number))
    dataset = CropDataset(open_source(sys.argv[1]), 16, seed=0)
    batches = crop_batches(dataset, first_step=0, rows=range(2), global_batch_size=2, num_workers=2)
    next(batches)
    print("started", flush=True)
    while not asked:
        time.sleep(0.01)
    for _ in range(20):  # a step that was begun is ended, with workers that are still there
        next(batches)
    if asked == [signal.SIGINT]:
        batches.close()
    print("ended", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_a_stop_signal_to_all_processes_leaves_the_workers_to_the_trainer(
    mixed_folder: Path, tmp_path: Path, number: int
) -> None:
    """Also where the trainer leaves without closing (SIGTERM)."""
    script = tmp_path / "group.py"
    script.write_text(_GROUP)
    process = subprocess.Popen(
        [sys.executable, str(script), str(mixed_folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    os.killpg(process.pid, number)
    output, errors = process.communicate(timeout=60)
    assert (output, process.returncode) == ("ended\n", 0), errors
    assert "Traceback" not in errors


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_worker_that_dies_is_said_in_one_line(tmp_path: Path) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a DataLoader of another test leaves its handler
    dataset = CropDataset(open_source(str(write_folder(tmp_path / "p", {"a.png": noise(0)}))), 16, seed=0)
    batches = crop_batches(dataset, first_step=0, rows=range(2), global_batch_size=2, num_workers=1)
    next(batches)
    for worker in multiprocessing.active_children():
        os.kill(worker.pid or 0, signal.SIGKILL)
    until = time.monotonic() + 2
    while time.monotonic() < until:  # in the midst of anything else nothing is raised
        sum(range(1000))
    with pytest.raises(TrainingError, match="a data worker ended unexpectedly") as caught:
        list(itertools.islice(batches, 1000))
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()
