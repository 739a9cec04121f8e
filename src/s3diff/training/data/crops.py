"""Choose the order and the content of training crops.

**A crop is a pure function of (data set, seed, position)**; the position is the running number of the crop in the whole
run: step ``s``, row ``r`` of a global batch of ``n`` is position ``s * n + r``. So a run resumes from its step's
number, any number of workers gives the same bits, and two processes with batch ``n`` see the crops of one with ``2 n``.

Position ``p`` takes picture ``p % N`` of epoch ``p // N``; each epoch goes through all ``N`` pictures once. All random
numbers are raw output of the Philox counter generator (Salmon et al., SC 2011), keyed by seed and purpose with the
position as counter: numpy guarantees that stream across versions and platforms, which it does not for its
distributions, and a crop needs no state of the crops before it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from s3diff.errors import OptionError, PictureError
from s3diff.images.resampling import enlarge
from s3diff.messages import shown_path
from s3diff.training.data.collage import MAX_SHAPES, NUMBERS_PER_SHAPE, collage
from s3diff.training.data.sources import PictureSource

#: How often the place of a crop is drawn until it has enough detail.
MAX_PLACE_DRAWS = 4

#: Pictures tried for one crop until the data set counts as broken.
MAX_PICTURE_DRAWS = 100

#: Shards whose pictures are mixed with each other.
WINDOW_SHARDS = 8

DEFAULT_CACHE_BYTES = 1 << 30

#: The second half of Philox's key: the purpose of the numbers.
_FOR_ORDER, _FOR_PLACE, _FOR_REPLACEMENT, _FOR_COLLAGE, _FOR_OTHER_PLACE = 1, 2, 3, 4, 5
_WORD = (1 << 64) - 1


def _random_words(seed: int, purpose: int, number: int, part: int, num_words: int) -> np.ndarray:
    """Return [num_words] uint64 random words; each (seed, purpose, number, part) has its own stream."""
    key = np.array([seed & _WORD, purpose], dtype=np.uint64)
    counter = np.array([0, number, part, 0], dtype=np.uint64)  # Philox itself counts in the first word
    return np.random.Philox(key=key, counter=counter).random_raw(num_words)


def _below(bound: int, word: int) -> int:
    """Draw 0 to bound - 1 from 64 random bits; the chances differ by less than bound / 2^64."""
    return int(word) * bound >> 64


def epoch_order(group_sizes: Sequence[int], seed: int, epoch: int) -> np.ndarray:
    """Draw the order in which one epoch goes through the pictures: a permutation of their numbers.

    One group (a folder): all orders are equally likely. Several (shards): the shards are permuted, then the pictures
    within each window of ``WINDOW_SHARDS`` shards, so that reading stays within a few files at a time.

    Permutations come from sorting random words, which takes 0.2 s and 12 MB for a million pictures, once per epoch and
    process. A bijection by formula (affine, Feistel) would need neither, but an affine one is visibly regular and a
    Feistel one costs more per crop than the sorting.

    Args:
        group_sizes: numbers of pictures that lie together.
        epoch: from 0.

    Returns:
        [sum of group_sizes] int64.
    """
    sizes = np.asarray(group_sizes, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    groups = np.argsort(_random_words(seed, _FOR_ORDER, epoch, 0, len(sizes)), kind="stable")
    windows = []
    for number, first in enumerate(range(0, len(groups), WINDOW_SHARDS), start=1):
        chosen = groups[first : first + WINDOW_SHARDS]
        members = np.concatenate([np.arange(starts[group], starts[group] + sizes[group]) for group in chosen])
        words = _random_words(seed, _FOR_ORDER, epoch, number, len(members))
        windows.append(members[np.argsort(words, kind="stable")])
    return np.concatenate(windows)


@dataclass(frozen=True, eq=False)
class Crop:
    """Hold one training crop.

    Attributes:
        pixels: [3, crop_px, crop_px] uint8 RGB.
        skipped: one line for each picture that was passed over for this crop: its name and what is wrong with it. The
            line of a picture is always the same, so that it can be logged once.
    """

    pixels: Tensor
    skipped: tuple[str, ...]


class CropDataset(Dataset[Crop]):
    """Give random crops and horizontal flips; ``dataset[position]`` for any position from 0, without end.

    A picture that cannot be read or is smaller than the crop is replaced by another one, drawn for this position.
    Decoded pictures are kept, the least recently used dropped first, so that a small set is decoded once.

    Args:
        source: from :func:`open_source`.
        crop_px: side of the square crops.
        seed: of the run; a data set and a seed fix all crops.
        min_detail: the place is drawn again, four draws at most, while the mean absolute difference of neighbouring
            luma values is below this (levels of 255), before the window is enlarged.
        cache_bytes: bound of the decoded pictures kept in this process; :func:`crop_batches` divides it among workers.
        enlargement: lowest and highest factor, at least 1; a crop is a window of crop_px divided by a factor drawn from
            this range, enlarged bicubically.
        collage_probability: of shapes over the crop, filled from a picture drawn from the whole source, which is read
            for them (of remote shards, too); see :mod:`s3diff.training.data.collage`.

    Raises:
        OptionError: ``crop_px`` is below 1.
    """

    def __init__(
        self,
        source: PictureSource,
        crop_px: int,
        seed: int,
        min_detail: float = 0.0,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        enlargement: tuple[float, float] = (1.0, 1.0),
        collage_probability: float = 0.0,
    ) -> None:
        if crop_px < 1:
            raise OptionError(f"crop_px is {crop_px}; give at least 1")
        self.source = source
        self.crop_px = crop_px
        self.seed = seed
        self.min_detail = min_detail
        self.cache_bytes = cache_bytes
        self.enlargement = enlargement
        self.collage_probability = collage_probability
        self._forget()

    def _forget(self) -> None:
        self._pictures: OrderedDict[int, np.ndarray] = OrderedDict()
        self._unusable: dict[int, str] = {}
        self._order: tuple[int, np.ndarray] | None = None
        self.cached_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        names = ("source", "crop_px", "seed", "min_detail", "cache_bytes", "enlargement", "collage_probability")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def start_worker(self, cache_bytes: int) -> None:
        """Begin anew in a process that inherited this object: own files, nothing cached, another bound."""
        self.cache_bytes = cache_bytes
        self._forget()

    def __getitem__(self, position: int) -> Crop:
        """Cut the crop of a position.

        Raises:
            PictureError: too many pictures in a row cannot be used.
            TrainingError: a remote source cannot be reached.
        """
        index = self._picture_number(position)
        skipped: list[str] = []
        replacements: np.ndarray | None = None
        for attempt in range(MAX_PICTURE_DRAWS):
            pixels = self._usable_pixels(index)
            if isinstance(pixels, np.ndarray):
                crop = self._with_collage(self._crop(pixels, position, _FOR_PLACE), position)
                return Crop(
                    torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1))), tuple(dict.fromkeys(skipped))
                )
            skipped.append(pixels)
            if replacements is None:
                replacements = _random_words(self.seed, _FOR_REPLACEMENT, position, 0, MAX_PICTURE_DRAWS)
            index = _below(len(self.source), replacements[attempt])
        raise PictureError(
            f"{shown_path(self.source.location)}: {MAX_PICTURE_DRAWS} pictures in a row cannot be used "
            f"({'; '.join(list(dict.fromkeys(skipped))[:3])}); check the data set"
        )

    def _picture_number(self, position: int) -> int:
        epoch, place = divmod(position, len(self.source))
        if self._order is None or self._order[0] != epoch:
            numbers = epoch_order(self.source.group_sizes, self.seed, epoch)
            self._order = (epoch, numbers.astype(np.int32) if len(numbers) < 2**31 else numbers)
        return int(self._order[1][place])

    def _usable_pixels(self, index: int) -> np.ndarray | str:
        """Return [H, W, 3] uint8, or one line with the reason why not."""
        if index in self._unusable:
            return self._unusable[index]
        pixels = self._pictures.pop(index, None)
        if pixels is None:
            read = read_usable(self.source, index, self.crop_px)
            if isinstance(read, str):
                self._unusable[index] = read
                return read
            if read.nbytes > self.cache_bytes:
                return read
            pixels = read
            self.cached_bytes += pixels.nbytes
        self._pictures[index] = pixels
        while self.cached_bytes > self.cache_bytes:
            self.cached_bytes -= self._pictures.popitem(last=False)[1].nbytes
        return pixels

    def _with_collage(self, crop: np.ndarray, position: int) -> np.ndarray:
        if not self.collage_probability:
            return crop
        words = _random_words(self.seed, _FOR_COLLAGE, position, 0, 3 + MAX_SHAPES * NUMBERS_PER_SHAPE)
        if words[0] / 2**64 >= self.collage_probability:
            return crop
        pixels = self._usable_pixels(_below(len(self.source), words[1]))
        if isinstance(pixels, str):
            return crop
        shapes = words[3:].reshape(MAX_SHAPES, NUMBERS_PER_SHAPE)[: 1 + _below(MAX_SHAPES, words[2])]
        return collage(crop, self._crop(pixels, position, _FOR_OTHER_PLACE), (shapes >> np.uint64(11)) / 2.0**53)

    def _crop(self, pixels: np.ndarray, position: int, purpose: int) -> np.ndarray:
        """Cut [crop_px, crop_px, 3] uint8 out of this picture."""
        words = iter(_random_words(self.seed, purpose, position, 0, 2 + 2 * MAX_PLACE_DRAWS))
        flip = _below(2, next(words))
        places = [(next(words), next(words)) for _ in range(MAX_PLACE_DRAWS)]
        side = self._window_px(next(words))
        for down, across in places:
            top, left = _below(pixels.shape[0] - side + 1, down), _below(pixels.shape[1] - side + 1, across)
            crop = pixels[top : top + side, left : left + side]
            if self.min_detail <= 0 or _mean_difference(crop) >= self.min_detail:
                break
        if side < self.crop_px:
            crop = self._enlarged(crop)
        return crop[:, ::-1] if flip else crop

    def _enlarged(self, crop: np.ndarray) -> np.ndarray:
        planes = torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))[None].float() / 255
        enlarged = enlarge(planes, self.crop_px, self.crop_px, mode="bicubic")[0]
        return (enlarged * 255).round().to(torch.uint8).numpy().transpose(1, 2, 0)

    def _window_px(self, word: int) -> int:
        lowest, highest = self.enlargement
        return max(1, round(self.crop_px / (lowest + (highest - lowest) * (word / 2**64))))


def _mean_difference(crop: np.ndarray) -> float:
    """Compute the mean absolute difference of neighbouring luma values of [H, W, 3] uint8, in levels of 255.

    In whole numbers: a floating-point sum depends on the number of threads, and with it would the crops.
    """
    three_luma = crop.sum(axis=2, dtype=np.int16)
    means = [np.abs(np.diff(three_luma, axis=axis)).sum(dtype=np.int64) / 3 for axis in (0, 1)]
    return float(sum(means)) / 2 / max(1, crop.shape[0] * (crop.shape[0] - 1))


def read_usable(source: PictureSource, index: int, crop_px: int) -> np.ndarray | str:
    """Read one picture as [H, W, 3] uint8, or say in one line why it cannot be used.

    Raises:
        TrainingError: a remote source cannot be reached.
    """
    try:
        pixels = source.read(index)
    except PictureError as error:
        return str(error)
    height, width = pixels.shape[:2]
    if min(height, width) < crop_px:
        return f"{source.name(index)} has {width} x {height} px; a crop needs sides of {crop_px} px"
    return np.ascontiguousarray(pixels)


def check_usable(source: PictureSource, crop_px: int) -> None:
    """Read pictures in order until one can be used; for the start of a run.

    Raises:
        PictureError: none can be used.
        TrainingError: a remote source cannot be reached.
    """
    lines: list[str] = []
    for index in range(len(source)):
        found = read_usable(source, index, crop_px)
        if not isinstance(found, str):
            return
        lines.append(found)
    names = ", ".join(source.name(index) for index in range(min(3, len(source))))
    more = ", ..." if len(source) > 3 else ""
    raise PictureError(
        f"{shown_path(source.location)} holds no picture to train on ({len(source)} skipped: {names}{more}; the first: "
        f"{lines[0]}); give pictures with sides of at least {crop_px} px"
    )
