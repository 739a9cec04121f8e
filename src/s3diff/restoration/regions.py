"""Read and write a picture in parts: enlarge a tile's input on demand, round its result at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from s3diff.images.color_match import VARIANCE_FLOOR, match_color
from s3diff.images.picture import full_scale
from s3diff.images.resampling import enlarge_region, mirrored_span, to_network_range
from s3diff.networks.degradation_estimator import REACH_PX, DegradationEstimator
from s3diff.options import ColorMatch, Upsampling
from s3diff.tiling import HaloSpan, Span, halo_spans

#: A numpy array [H, W, C], or an object on disk that is indexed like one.
Pixels = Any
#: Returns rows and columns of the low-quality picture, [B, 3, h, w] float in [0, 1].
Reader = Callable[[Span, Span], Tensor]
#: Low-quality pictures with longer sides are estimated in tiles of this side.
ESTIMATE_TILE_PX = 1024
#: Pixels whose colours are finished at a time.
_STRIP_PIXELS = 2**18


class LowQuality(NamedTuple):
    """Hold low-quality pictures of one size.

    Attributes:
        read: returns rows and columns, [num_pictures, 3, h, w] float RGB in [0, 1].
        size: (height, width) of each picture.
    """

    read: Reader
    size: tuple[int, int]
    num_pictures: int = 1


def estimate_in_tiles(
    estimator: DegradationEstimator, read: Reader, size: tuple[int, int], device: torch.device
) -> Tensor:
    """Estimate the degrees of the whole picture: average the map over tiles whose halos cover its reach.

    Args:
        estimator: on ``device``.
        read: the low-quality picture.
        size: its (height, width).

    Returns:
        [B, 2], as :meth:`DegradationEstimator.forward` of the whole up to rounding.
    """
    rows, columns = (halo_spans(length, ESTIMATE_TILE_PX, REACH_PX, multiple=2) for length in size)
    sums: list[Tensor] | None = None
    for row in rows:
        for column in columns:
            tile = read(row.read, column.read).to(device)
            down, across = (_halved(span.kept_in_read) for span in (row, column))
            kept = [
                features[:, :, down, across].sum(dim=(2, 3), dtype=torch.float64)
                for features in estimator.features(tile)
            ]
            sums = kept if sums is None else [total + part for total, part in zip(sums, kept, strict=True)]
    assert sums is not None  # a picture has a tile
    count = -(-size[0] // 2) * -(-size[1] // 2)
    return estimator.degrees_from([(total / count).to(torch.float32) for total in sums])


def enlarged_part(
    low_quality: LowQuality, size: tuple[int, int], mode: Upsampling, rows: Span, columns: Span, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Compute (base, image) of a part of the enlarged, padded picture.

    Args:
        size: (height, width) of the enlarged picture.
        rows: of the picture as :func:`pad_to_multiple` continues it.

    Returns:
        The enlarged input in [0, 1] and in the networks' [-1, 1], both [B, 3, rows.length, columns.length].
    """
    needed, index = zip(
        *(mirrored_span(side, span) for side, span in zip(size, (rows, columns), strict=True)), strict=True
    )
    base = enlarge_region(low_quality.read, low_quality.size, size, needed[0], needed[1], mode)
    base = base.index_select(2, index[0]).index_select(3, index[1]).to(device)
    return base, to_network_range(base)


def kept_depth(depth: np.dtype, color_match: ColorMatch, *, in_grey: bool) -> np.dtype:
    """Choose the type in which a :class:`Canvas` keeps its pixels until all parts are written."""
    is_coarse = np.dtype(depth).kind != "f" and (in_grey or color_match == "adain")
    return np.dtype(np.uint16) if is_coarse else np.dtype(depth)


class PartCanvas(ABC):
    """Collect the parts of pictures that are restored part by part."""

    def holds(self, rows: HaloSpan, columns: HaloSpan) -> bool:
        """Check whether an earlier run has finished this part."""
        return False

    @abstractmethod
    def write(self, result: Tensor, base: Tensor, rows: HaloSpan, columns: HaloSpan) -> None:
        """Match the colours of one part and keep it without its halo.

        Args:
            result: [B, 3, h, w] in [0, 1], the part as it was read, halo included.
            base: the enlarged input of the same part.
            rows: of the part, cut at the picture's edge.
        """


class Canvas(PartCanvas):
    """Collect the result of a picture that is restored in several parts, in its own depth.

    ``adain`` needs the means and deviations of the whole picture, so it is applied after the last part. Until then,
    and for grey pictures, whose channels are averaged at the end, values are kept in 16 bits.

    Args:
        size: (height, width).
        depth: uint8, uint16, or float32 in [0, 1].
        color_match: how colours are taken from the enlarged input.
        in_grey: whether the channels may be averaged at the end.
        pixels: an array of the result's shape and type to write to, such as one on disk; None creates one.
    """

    def __init__(
        self,
        size: tuple[int, int],
        depth: np.dtype,
        color_match: ColorMatch,
        *,
        in_grey: bool,
        pixels: Pixels | None = None,
    ) -> None:
        self._color_match, self._depth = color_match, np.dtype(depth)
        kept_in = kept_depth(self._depth, color_match, in_grey=in_grey)
        self._pixels: Pixels = np.empty((*size, 3), kept_in) if pixels is None else pixels
        self._moments = np.zeros((2, 2, 3))  # of result and base: sums and sums of squares, by channel

    def write(self, result: Tensor, base: Tensor, rows: HaloSpan, columns: HaloSpan) -> None:
        """See :class:`PartCanvas`; of one picture."""
        inside = (..., rows.kept_in_read, columns.kept_in_read)
        if self._color_match != "adain":
            kept = match_color(result, base, self._color_match)[inside].clamp(0, 1)
        else:
            kept = result[inside]
            for moments, part in zip(self._moments, (kept, base[inside]), strict=True):
                values = part[0].to(torch.float64)
                moments += np.stack([values.sum((1, 2)).cpu().numpy(), values.square().sum((1, 2)).cpu().numpy()])
        place = (slice(*rows.kept), slice(*columns.kept))
        colors = kept[0].to("cpu", torch.float32).permute(1, 2, 0).numpy()
        self._pixels[place] = _levels(colors, self._pixels.dtype)

    def chroma(self) -> float:
        """Compute the mean distance of the channels from their mean, in [0, 1]."""
        total = sum(float(np.abs(part - part.mean(axis=2, keepdims=True)).sum()) for part in self._matched())
        return total / self._pixels.size

    def finished(self, *, in_grey: bool, pixels: Pixels | None = None) -> Pixels:
        """Return [H, W, 3], or [H, W, 1] the mean of the channels, in the picture's depth.

        Args:
            in_grey: whether to average the channels.
            pixels: an array of that shape and type to write to; None creates one. With three channels it gets the mean
                in each. Not used, and not returned, if nothing is left to compute.
        """
        if self.is_finished(in_grey=in_grey):
            return self._pixels
        height, width, _ = self._pixels.shape
        finished = np.empty((height, width, 1 if in_grey else 3), self._depth) if pixels is None else pixels
        top = 0
        for part in self._matched():
            values = part.mean(axis=2, keepdims=True) if in_grey else part
            levels = _levels(values, self._depth)
            finished[top : top + len(part)] = np.broadcast_to(levels, (len(part), width, finished.shape[2]))
            top += len(part)
        return finished

    def is_finished(self, *, in_grey: bool) -> bool:
        """Check whether the written pixels are the result."""
        return self._color_match != "adain" and not in_grey and self._pixels.dtype == self._depth

    def _matched(self) -> Iterator[np.ndarray]:
        """Yield the picture in strips, float in [0, 1], with the colours of the enlarged input."""
        scale, shift = self._adain() if self._color_match == "adain" else (np.ones(3), np.zeros(3))
        levels = full_scale(self._pixels.dtype)
        height, width, _ = self._pixels.shape
        strip = max(1, _STRIP_PIXELS // width)
        for top in range(0, height, strip):
            yield (self._pixels[top : top + strip] / levels * scale + shift).clip(0, 1)

    def _adain(self) -> tuple[np.ndarray, np.ndarray]:
        """Return factor and summand of each channel; see :func:`s3diff.images.color_match.adain_color_match`."""
        count = self._pixels.shape[0] * self._pixels.shape[1]
        means = self._moments[:, 0] / count
        variances = (self._moments[:, 1] - count * means**2).clip(min=0) / max(1, count - 1)
        deviations = np.sqrt(variances + VARIANCE_FLOOR)
        factor = deviations[1] / deviations[0]
        return factor, means[1] - factor * means[0]


def _levels(values: np.ndarray, depth: np.dtype) -> np.ndarray:
    """Convert values in [0, 1] to a picture's depth; floats are not rounded."""
    return values.astype(depth) if depth.kind == "f" else np.rint(values * full_scale(depth)).astype(depth)


def cut_at_edge(span: HaloSpan, length: int) -> HaloSpan:
    """Cut a span at the picture's ``length``, which removes the padding."""
    return HaloSpan(
        Span(span.read.start, min(span.read.stop, length)), Span(span.kept.start, min(span.kept.stop, length))
    )


def _halved(part: slice) -> slice:
    return slice(part.start // 2, -(-part.stop // 2))


def tensor_reader(low_quality: Tensor) -> Reader:
    """Make a reader of pictures in memory, [B, 3, h, w]."""
    return lambda rows, columns: low_quality[:, :, rows.start : rows.stop, columns.start : columns.stop]
