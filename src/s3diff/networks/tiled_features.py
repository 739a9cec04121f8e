"""Run the autoencoder's own modules layer by layer on a feature map in pieces, with less memory than on the whole.

:class:`TiledFeatures` stands where a tensor stands: ``decoder(TiledFeatures.in_bands(latent))``. It follows torch's
``__torch_function__`` protocol for the few functions that the autoencoder uses; anything else is an error, never a
silent copy. Two layouts:

- *bands*, horizontal and side by side: before every convolution a band gets its neighbours' edge rows, so the result
  is that of the whole picture, attention included;
- *independent* pieces, which know nothing of each other but the statistics of group norm, as in the released code.

Group norm is what ties the pieces of a picture together. Where its statistics come from is the ``statistics`` of the
map: :func:`whole_statistics`, :func:`released_statistics`, or ones recorded elsewhere (:class:`Recorded`).

Norms and activations are not computed where they stand but inside the next convolution, piece by piece: a normalised
copy of the whole map never exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

#: What attention makes of its context, keys and values.
Prepared = TypeVar("Prepared")
#: Mean and variance, [B, groups, 1] in float32, of a map whose pieces the first argument makes one by one.
Statistics = Callable[[Iterator[Tensor]], tuple[Tensor, Tensor]]
#: A band holds about this many positions: large enough for fast convolutions, small compared with the whole map.
BAND_POSITIONS = 512 * 512


def whole_statistics(pieces: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Merge the pieces' statistics to those of all positions: the variance between their means counts."""
    means, variances, shares = _per_piece(pieces)
    mean = (shares * means).sum(0)
    return mean, (shares * (variances + (means - mean).square())).sum(0)


def released_statistics(pieces: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Average the pieces' means and variances, by size, as the released code does."""
    means, variances, shares = _per_piece(pieces)
    return (shares * means).sum(0), (shares * variances).sum(0)


def _per_piece(pieces: Iterator[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Compute means and variances [pieces, B, groups, 1], and each piece's share of the positions [pieces, 1, 1, 1]."""
    means, variances, sizes = [], [], []
    for piece in pieces:  # [B, groups, positions]
        variance, mean = torch.var_mean(piece.to(torch.float32), dim=2, correction=0, keepdim=True)
        means.append(mean)
        variances.append(variance)
        sizes.append(piece.shape[2])
    shares = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
    return torch.stack(means), torch.stack(variances), shares.to(means[0])[:, None, None, None]


class Recorded:
    """Statistics of one run over a network, norm by norm, used again in others.

    Make it with the statistics to record; after that run call :meth:`replay` before each run that uses them.
    """

    def __init__(self, source: Statistics) -> None:
        self._source: Statistics | None = source
        self._values: list[tuple[Tensor, Tensor]] = []
        self._next = 0

    def replay(self) -> Recorded:
        """Begin again with the network's first norm."""
        self._source, self._next = None, 0
        return self

    def __call__(self, pieces: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
        if self._source is not None:
            self._values.append(self._source(pieces))
            return self._values[-1]
        self._next += 1
        return self._values[self._next - 1]


class TiledFeatures:
    """Hold a picture's features in pieces; see the module. Make them with :meth:`in_bands` or :meth:`independent`.

    Attributes:
        pieces: [B, C, h, w] each.
    """

    def __init__(
        self,
        pieces: Sequence[Tensor],
        statistics: Statistics,
        *,
        neighbours: bool,
        margin: float = 0.0,
        pending: tuple[Callable[[Tensor], Tensor], ...] = (),
    ) -> None:
        self.pieces = list(pieces)
        self._statistics, self._neighbours, self._margin, self._pending = statistics, neighbours, margin, pending

    @classmethod
    def in_bands(cls, features: Tensor, *, multiple: int, statistics: Statistics = whole_statistics) -> TiledFeatures:
        """Cut [B, C, h, w] into horizontal bands whose heights are multiples of ``multiple`` (the last one's too)."""
        height, width = features.shape[2:]
        rows = max(1, BAND_POSITIONS // (width * multiple)) * multiple
        bands = [features[:, :, top : top + rows] for top in range(0, height, rows)]
        return cls(bands, statistics, neighbours=True)

    @classmethod
    def independent(cls, pieces: Sequence[Tensor], statistics: Statistics, margin: float = 0.0) -> TiledFeatures:
        """Make pieces that are each a picture of its own for every convolution.

        Args:
            pieces: [B, C, h, w] each, of any sizes.
            statistics: of group norm.
            margin: share of a piece's side that the statistics leave out at each edge.
        """
        return cls(pieces, statistics, neighbours=False, margin=margin)

    def whole(self) -> Tensor:
        """Join the bands to [B, C, h, w]; the list of pieces is emptied on the way."""
        values = self.values()
        self.pieces.clear()
        return torch.cat(values, dim=2)

    def values(self) -> list[Tensor]:
        """Compute all pieces, pending functions included."""
        return [self._value(index) for index in range(len(self.pieces))]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Handle torch's functions for an object that stands for a tensor."""
        handler = _HANDLERS.get(func)
        if handler is None:
            raise NotImplementedError(f"{getattr(func, '__name__', func)} is not defined for features in tiles")
        return handler(*args, **(kwargs or {}))

    def __add__(self, other: TiledFeatures) -> TiledFeatures:
        return self._like([self._value(index) + other._value(index) for index in range(len(self.pieces))])

    def attended(
        self, prepare: Callable[[Tensor], Prepared], attend: Callable[[Tensor, Prepared], Tensor]
    ) -> TiledFeatures:
        """Attend: ``attend(queries, prepare(context))`` on tokens [B, n, C]. Bands see the whole map, others
        themselves.
        """
        tokens = [value.flatten(2).transpose(1, 2) for value in self.values()]
        context = prepare(torch.cat(tokens, dim=1)) if self._neighbours else None
        results = []
        for piece, own in zip(self.pieces, tokens, strict=True):
            attended = attend(own, prepare(own) if context is None else context)
            results.append(attended.transpose(1, 2).unflatten(2, piece.shape[2:]))
        return self._like(results)

    def _like(self, pieces: Sequence[Tensor], pending: tuple[Callable[[Tensor], Tensor], ...] = ()) -> TiledFeatures:
        return TiledFeatures(
            pieces, self._statistics, neighbours=self._neighbours, margin=self._margin, pending=pending
        )

    def _then(self, function: Callable[[Tensor], Tensor]) -> TiledFeatures:
        """Return the same pieces with one more pending function of single positions."""
        return self._like(self.pieces, (*self._pending, function))

    def _value(self, index: int, rows: slice = slice(None)) -> Tensor:
        value = self.pieces[index][:, :, rows]
        for function in self._pending:
            value = function(value)
        return value

    def _with_neighbours(self, index: int, above: int, below: int) -> Tensor:
        """Return a band with rows of its neighbours; zeros beyond the picture. Bands are higher than any kernel's
        reach.
        """
        parts = [self._value(index)]
        if above:
            outside = torch.zeros_like(parts[0][:, :, :above])
            parts.insert(0, self._value(index - 1, slice(-above, None)) if index else outside)
        if below:
            outside = torch.zeros_like(parts[-1][:, :, :below])
            last = index == len(self.pieces) - 1
            parts.append(outside if last else self._value(index + 1, slice(0, below)))
        return torch.cat(parts, dim=2)

    def _counted(self, num_groups: int) -> Iterator[Tensor]:
        """Yield the values for the statistics, [B, groups, positions], piece by piece."""
        for index in range(len(self.pieces)):
            value = self._value(index)
            rows, columns = (round(self._margin * side) for side in value.shape[2:])
            value = value[:, :, rows : value.shape[2] - rows, columns : value.shape[3] - columns]
            yield value.reshape(value.shape[0], num_groups, -1)


def _group_norm(
    features: TiledFeatures,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> TiledFeatures:
    mean, variance = features._statistics(features._counted(num_groups))
    channels = features.pieces[0].shape[1]
    scale = torch.rsqrt(variance + eps).repeat_interleave(channels // num_groups, dim=1)
    mean = mean.repeat_interleave(channels // num_groups, dim=1)
    if weight is not None:
        scale = scale * weight.to(torch.float32)[:, None]
    shift = -mean * scale
    if bias is not None:
        shift = shift + bias.to(torch.float32)[:, None]
    scale, shift = scale[..., None], shift[..., None]  # [B, C, 1, 1]
    return features._then(lambda value: torch.addcmul(shift, value.to(torch.float32), scale).to(value.dtype))


def _conv2d(
    features: TiledFeatures,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> TiledFeatures:
    rows, columns = (padding, padding) if isinstance(padding, int) else padding
    results = []
    for index in range(len(features.pieces)):
        if features._neighbours and rows:
            value, outside = features._with_neighbours(index, rows, rows), (0, columns)
        else:
            value, outside = features._value(index), (rows, columns)
        results.append(F.conv2d(value, weight, bias, stride, outside, dilation, groups))
    return features._like(results)


def _pad(features: TiledFeatures, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """Pad a picture with zeros, and a band with the rows of its neighbours, which the next convolution needs."""
    left, right, top, bottom = pad
    results = []
    for index in range(len(features.pieces)):
        if features._neighbours:
            taken, pad_here = features._with_neighbours(index, top, bottom), (left, right, 0, 0)
        else:
            taken, pad_here = features._value(index), (left, right, top, bottom)
        results.append(F.pad(taken, pad_here, mode, value))
    return features._like(results)


def _interpolate(
    features: TiledFeatures,
    size: None = None,
    scale_factor: float = 2.0,
    mode: str = "nearest",
    align_corners: bool | None = None,
    **others: Any,
) -> TiledFeatures:
    """Enlarge; a band takes one row of each neighbour along and drops the rows that come of them."""
    if size is not None or any(others.values()):
        raise NotImplementedError("features in tiles are enlarged by a whole factor, not to a size")
    factor, results = int(scale_factor), []
    count = len(features.pieces)
    for index in range(count):
        above, below = (int(index > 0), int(index < count - 1)) if features._neighbours else (0, 0)
        value = features._with_neighbours(index, above, below)
        enlarged = F.interpolate(value, scale_factor=factor, mode=mode, align_corners=align_corners)
        results.append(enlarged[:, :, above * factor : enlarged.shape[2] - below * factor])
    return features._like(results)


_HANDLERS: dict[Any, Callable[..., TiledFeatures]] = {
    torch.conv2d: _conv2d,
    F.group_norm: _group_norm,
    F.silu: lambda features, inplace=False: features._then(F.silu),
    F.pad: _pad,
    F.interpolate: _interpolate,
}
