"""Place and blend a picture's tiles: geometry in pixels or latents, no torch.

A *tile* is computed at once. Two ways to join tiles:

- *blended* (:func:`blended_spans`): tiles overlap, and where they do each fades into the next one. For networks whose
  result at a place depends on everything in the tile (attention, group norm).
- *with a halo* (:func:`halo_spans`): a tile reads more than it owns, and only what it owns is kept. For networks that
  look a limited way around: with a halo as wide as that way the result is that of the whole picture.

Both cut an axis into equal tiles, as few as possible, so that the work stays bounded.

The last part reproduces the tiles of the released S3Diff code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from s3diff.options import ReleasedTiles


class Span(NamedTuple):
    """Hold a part of an axis, ``start`` included, ``stop`` not."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of positions."""
        return self.stop - self.start


class HaloSpan(NamedTuple):
    """Hold the part of an axis that a tile reads, and the part that it keeps."""

    read: Span
    kept: Span

    @property
    def kept_in_read(self) -> slice:
        """``kept`` counted from the start of ``read``."""
        return slice(self.kept.start - self.read.start, self.kept.stop - self.read.start)


def blended_spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Cover an axis with equal tiles, as few as ``tile`` allows, each sharing at least ``overlap`` with the next.

    Args:
        length: of the axis, at least 1.
        tile: largest side of a tile.
        overlap: of neighbours, at most half of ``tile``.

    Raises:
        ValueError: a value is not allowed.
    """
    if length < 1 or overlap < 0 or tile < 1 or 2 * overlap > tile:
        raise ValueError(
            f"length {length}, tile {tile}, overlap {overlap}; allowed: 1 or more, overlap at most half the tile"
        )
    if length <= tile:
        return [Span(0, length)]
    number = math.ceil((length - overlap) / (tile - overlap))
    side = math.ceil((length + (number - 1) * overlap) / number)
    starts = [index * (length - side) // (number - 1) for index in range(number)]
    return [Span(start, start + side) for start in starts]


def blend_weights(spans: Sequence[Span]) -> list[np.ndarray]:
    """Compute a weight for each position of each span: 1, falling linearly to 0 where it meets a neighbour.

    At every position the weights of all spans sum to 1, and the mirrored axis has the mirrored weights.
    """
    weights = [np.ones(span.length) for span in spans]
    for index in range(len(spans) - 1):
        shared = spans[index].stop - spans[index + 1].start
        if shared > 0:
            rising = (np.arange(shared) + 0.5) / shared
            weights[index][-shared:] *= 1 - rising
            weights[index + 1][:shared] *= rising
    total = np.zeros(spans[-1].stop)  # 1, except where tiles are so short that three of them meet
    for span, weight in zip(spans, weights, strict=True):
        total[slice(*span)] += weight
    return [weight / total[slice(*span)] for span, weight in zip(spans, weights, strict=True)]


def halo_spans(length: int, tile: int, halo: int, multiple: int = 1) -> list[HaloSpan]:
    """Cover an axis with tiles of at most ``tile``, halo included, that keep equal parts; none reads beyond its ends.

    Args:
        length: of the axis, at least 1.
        tile: largest side of a tile as read, more than two halos.
        halo: margin that an inner tile reads and does not keep, on each side.
        multiple: every boundary is a multiple of this (the ends of the axis apart).

    Raises:
        ValueError: the tile has no room for its halos.
    """
    if length < 1 or halo < 0 or multiple < 1:
        raise ValueError(f"length {length}, halo {halo}, multiple {multiple}; allowed: 1 or more, halo 0 or more")
    if length <= tile:
        return [HaloSpan(Span(0, length), Span(0, length))]
    halo = -(-halo // multiple) * multiple
    room = (tile - 2 * halo) // multiple * multiple
    if room < 1:
        raise ValueError(f"a tile of {tile} has no room for two halos of {halo} and a part of {multiple}")
    number = math.ceil(length / room)
    kept = -(-math.ceil(length / number) // multiple) * multiple
    spans = []
    for start in range(0, length, kept):
        stop = min(start + kept, length)
        spans.append(HaloSpan(Span(max(0, start - halo), min(length, stop + halo)), Span(start, stop)))
    return spans


# ------------------------------------------------------------------------------------------------ as released


#: Padding of the release's encoder tiles (pixels) and decoder tiles (latents).
RELEASED_ENCODER_PADDING_PX, RELEASED_DECODER_PADDING = 32, 11
#: Variance of the release's blend weights, in units of the squared side of a tile.
_RELEASED_VARIANCE = 0.01


def released_latent_spans(height: int, width: int, tiles: ReleasedTiles) -> list[tuple[Span, Span]]:
    """List (rows, columns) of the release's UNet tiles, in its order: columns outside, rows inside."""
    side = min(tiles.latent, height, width)
    overlap = tiles.latent_overlap if tiles.latent_overlap < side else side // 2

    def starts(length: int) -> list[int]:
        step = side - overlap
        number = max(1, math.ceil((length - side) / step) + 1)
        return [index * step for index in range(number - 1)] + [length - side]

    return [(Span(top, top + side), Span(left, left + side)) for left in starts(width) for top in starts(height)]


def released_blend_weights(side: int) -> np.ndarray:
    """Compute a [side, side] Gaussian; its centre is half a position below the middle, as in the release."""
    positions = np.arange(side)

    def bell(centre: float) -> np.ndarray:
        density = np.exp(-((positions - centre) ** 2) / side**2 / (2 * _RELEASED_VARIANCE))
        return density / math.sqrt(2 * math.pi * _RELEASED_VARIANCE)

    return np.outer(bell(side / 2), bell((side - 1) / 2))


class ReleasedBox(NamedTuple):
    """Hold a tile of the release's autoencoder: the part it reads, and the part of the result it writes."""

    read: tuple[Span, Span]
    written: tuple[Span, Span]


def released_autoencoder_boxes(
    height: int, width: int, tile: int, padding: int, factor: float
) -> list[ReleasedBox] | None:
    """List the release's autoencoder tiles over the input, row by row; None where it would not tile.

    Args:
        height: of the input, in its pixels or latents.
        tile: side without padding.
        padding: added on all sides, except at the picture's edges.
        factor: output side over input side, 8 for the decoder and 1/8 for the encoder.
    """
    if max(height, width) <= tile + 2 * padding:
        return None
    rows = _released_spans(height, tile, padding, factor)
    columns = _released_spans(width, tile, padding, factor)
    return [
        ReleasedBox((read_rows, read_columns), (written_rows, written_columns))
        for read_rows, written_rows in rows
        for read_columns, written_columns in columns
    ]


def _released_spans(length: int, tile: int, padding: int, factor: float) -> list[tuple[Span, Span]]:
    inner = length - 2 * padding
    number = max(1, math.ceil(inner / tile))
    side = _released_side(math.ceil(inner / number), tile)
    spans = []
    for index in range(number):
        start, stop = padding + index * side, min(padding + (index + 1) * side, length)
        written = (start if start > padding else 0, stop if stop < length - padding else length)
        read = Span(max(0, start - padding), min(length, stop + padding))
        spans.append((read, Span(int(written[0] * factor), int(written[1] * factor))))
    return spans


def _released_side(smallest: int, largest: int) -> int:
    """Return the side from ``smallest`` to ``largest`` that is a multiple of the highest power of two up to 32."""
    for divisor in (32, 16, 8, 4, 2):
        candidate = -(-smallest // divisor) * divisor
        if candidate == smallest or candidate <= largest:
            return candidate
    return smallest
