"""Run the generator's stages on a picture in tiles: same inputs and outputs as the generator's own.

The plan decides the tiles (:mod:`s3diff.restoration.tile_plan`). With a plan of one tile every stage is the
generator's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from s3diff.networks.attention import KeysAndValues
from s3diff.networks.modulated_lora import Adaptation, call_adapted
from s3diff.networks.one_step_generator import OneStepGenerator, dtype_of
from s3diff.networks.tiled_features import Recorded, TiledFeatures, released_statistics, whole_statistics
from s3diff.networks.tiny_decoder import RECEPTIVE_LATENTS, TinyDecoder
from s3diff.restoration.stage_events import OnShare, shares_reported
from s3diff.restoration.tile_plan import AUTOENCODER_HALO, AUTOENCODER_TILE, UNET_OVERLAP, TilePlan
from s3diff.tiling import (
    RELEASED_DECODER_PADDING,
    RELEASED_ENCODER_PADDING_PX,
    ReleasedBox,
    Span,
    blend_weights,
    blended_spans,
    halo_spans,
    released_autoencoder_boxes,
    released_blend_weights,
    released_latent_spans,
)

#: Called with (finished tiles, all tiles) of a stage.
Progress = Callable[[int, int], None]
#: UNet tiles that run together on a GPU; on a CPU one after the other is as fast and needs less memory.
TILES_PER_BATCH_ON_GPU = 4
#: The statistics of an autoencoder in tiles come from this many of them on each side, spread over the picture.
_SAMPLES_PER_SIDE = 2
#: Share of a sample's side left out of the statistics at each edge, where its neighbours are missing.
_SAMPLE_MARGIN = 0.15


class TiledStages:
    """Run a generator's ``encode``, ``predict_guided`` and ``decode`` under a plan.

    Args:
        progress: called after every tile.
        tiny_decoder: decodes in place of the generator's decoder; in tiles with its receptive field around them, so
            that they do not show.
        on_share: called after every block with the stage's finished share.
        in_turn: decode one picture after the other, since a batch may round sums differently.
    """

    def __init__(
        self,
        generator: OneStepGenerator,
        plan: TilePlan,
        progress: Progress | None = None,
        tiny_decoder: TinyDecoder | None = None,
        on_share: OnShare | None = None,
        *,
        in_turn: bool = False,
    ) -> None:
        self.generator, self.plan, self._progress, self._tiny_decoder = generator, plan, progress, tiny_decoder
        self._on_share, self._in_turn = on_share, in_turn
        self._num_done, self._num_tiles = 0, 1.0
        self.config = generator.config
        self._downscale = generator.config.autoencoder.downscale

    def encode(self, image: Tensor, adaptation: Adaptation, noise: Tensor | None = None) -> Tensor:
        generator, released, downscale = self.generator, self.plan.released, self._downscale
        encoder = partial(call_adapted, generator.autoencoder.encoder, adaptation)
        image, boxes = image.to(dtype_of(generator.autoencoder)), None
        height, width = image.shape[2:]
        if released is not None:
            padding = RELEASED_ENCODER_PADDING_PX
            boxes = released_autoencoder_boxes(height, width, released.encoder_px, padding, 1 / downscale)
        in_tiles = self._in_tiles(image, downscale)
        tile = self._autoencoder_tile * downscale if in_tiles else None
        with self._shares(generator.autoencoder.encoder, image, tile):
            if boxes is not None:
                moments = self._as_released(encoder, image, boxes)
            elif self._in_bands:
                moments = encoder(TiledFeatures.in_bands(image, multiple=downscale)).whole()
            elif in_tiles:
                moments = self._with_fixed_statistics(encoder, image, unit=downscale, scale=1 / downscale)
            else:
                return generator.encode(image, adaptation, noise)
            return generator.latent_from(moments, noise)

    def predict_guided(
        self, latent: Tensor, positive: Tensor, negative: Tensor, guidance: float, adaptation: Adaptation
    ) -> Tensor:
        context = self.generator.guidance_context(positive, negative, guidance, adaptation)
        predict = partial(self._predict, context=context, guidance=guidance, adaptation=adaptation)
        tile_px, released = self.plan.tile_px, self.plan.released
        tile = max(latent.shape[2:]) if tile_px is None or self.plan.is_local else tile_px // self._downscale
        with self._shares(self.generator.unet, latent, tile if released is None else released.latent):
            return self._predict_in_tiles(predict, latent, tile)

    def _predict_in_tiles(self, predict: Callable[[Tensor], Tensor], latent: Tensor, tile: int) -> Tensor:
        height, width = latent.shape[2:]
        released = self.plan.released
        if released is not None:
            if height * width <= released.latent**2:
                return predict(latent)
            spans = released_latent_spans(height, width, released)
            weights = torch.from_numpy(released_blend_weights(spans[0][0].length))
            # Like the release, in float32: sums of weights and their order are part of its result.
            return self._blended(predict, latent, [(*span, weights.to(torch.float32)) for span in spans])
        if tile >= max(height, width):
            return predict(latent)
        overlap = min(UNET_OVERLAP, tile // 2)
        rows, columns = (blended_spans(length, tile, overlap) for length in (height, width))
        row_weights, column_weights = (
            [torch.from_numpy(weight) for weight in blend_weights(spans)] for spans in (rows, columns)
        )
        tiles = [
            (row, column, torch.outer(row_weight, column_weight).to(torch.float32))
            for row, row_weight in zip(rows, row_weights, strict=True)
            for column, column_weight in zip(columns, column_weights, strict=True)
        ]
        return self._blended(predict, latent, tiles)

    def decode(self, latent: Tensor, image: Tensor) -> Tensor:
        if self._in_turn and len(latent) > 1:
            # Copied, as one picture's own tensors lie: another alignment may mean another kernel.
            pairs = zip(latent.split(1), image.split(1), strict=True)
            return torch.cat([self.decode(*(each.clone() for each in pair)) for pair in pairs])
        if self._tiny_decoder is not None:
            return self._with_tiny_decoder(self._tiny_decoder, latent, image)
        generator, released, boxes = self.generator, self.plan.released, None
        autoencoder, (height, width) = generator.autoencoder, latent.shape[2:]
        if released is not None:
            padding = RELEASED_DECODER_PADDING
            boxes = released_autoencoder_boxes(height, width, released.decoder, padding, self._downscale)
        in_tiles = self._in_tiles(latent, 1)
        with self._shares(autoencoder.decoder, latent, self._autoencoder_tile if in_tiles else None):
            if boxes is None and not self._in_bands and not in_tiles:
                return generator.decode(latent, image)
            features = autoencoder.before_decoder(latent.to(dtype_of(autoencoder)))
            if boxes is not None:
                decoded = self._as_released(autoencoder.decoder, features, boxes)
            elif self._in_bands:
                decoded = autoencoder.decoder(TiledFeatures.in_bands(features, multiple=1)).whole()
            else:
                decoded = self._with_fixed_statistics(autoencoder.decoder, features, unit=1, scale=self._downscale)
            return generator.picture_from(decoded, image)

    def _with_tiny_decoder(self, decoder: TinyDecoder, latent: Tensor, image: Tensor) -> Tensor:
        latent = latent.to(dtype_of(decoder))
        height, width = latent.shape[2:]
        tile = max(height, width) if self.plan.is_whole else self._autoencoder_tile
        tile = max(tile, 4 * RECEPTIVE_LATENTS)
        rows, columns = (halo_spans(length, tile, RECEPTIVE_LATENTS, 1) for length in (height, width))
        down: list[Tensor] = []
        for row in rows:
            across: list[Tensor] = []
            for column in columns:
                piece = latent[:, :, row.read.start : row.read.stop, column.read.start : column.read.stop]
                kept = (..., *(_scaled(span.kept_in_read, self._downscale) for span in (row, column)))
                across.append(decoder(piece)[kept])
                self._report(len(down) * len(columns) + len(across), len(rows) * len(columns))
            down.append(torch.cat(across, dim=3))
        return self.generator.picture_from(torch.cat(down, dim=2), image)

    @property
    def _in_bands(self) -> bool:
        return not self.plan.is_local and self.plan.autoencoder == "bands"

    def _in_tiles(self, features: Tensor, scale: int) -> bool:
        if self.plan.is_local or self.plan.autoencoder != "tiles":
            return False
        return max(features.shape[2:]) > self._autoencoder_tile * scale

    @property
    def _autoencoder_tile(self) -> int:
        """Return the tile's side in latents, larger than the UNet's since its halo is computed twice."""
        if self.plan.tile_px is None:
            return AUTOENCODER_TILE
        return max(4 * AUTOENCODER_HALO, AUTOENCODER_TILE * self.plan.tile_px // (96 * self._downscale))

    def _predict(
        self, tiles: Tensor, context: Tensor | tuple[KeysAndValues, ...], guidance: float, adaptation: Adaptation
    ) -> Tensor:
        """Predict ``tiles``: [N, C, h, w] of one picture, or the latents of a batch of pictures."""
        if isinstance(adaptation, Tensor) and len(tiles) != len(adaptation):  # tiles of one picture
            adaptation = adaptation.expand(len(tiles), -1, -1, -1)
        return self.generator.predict_in_context(tiles, context, guidance, adaptation)

    def _blended(
        self, predict: Callable[[Tensor], Tensor], latent: Tensor, tiles: list[tuple[Span, Span, Tensor]]
    ) -> Tensor:
        """Return the weighted mean of the tiles' predictions, in float32; tiles of one size run in batches."""
        total = torch.zeros_like(latent, dtype=torch.float32)
        weight_sum = torch.zeros(latent.shape[2:], dtype=torch.float32, device=latent.device)
        self._num_tiles = len(tiles)
        per_batch = 1 if latent.device.type == "cpu" else TILES_PER_BATCH_ON_GPU
        for start in range(0, len(tiles), per_batch):
            part = tiles[start : start + per_batch]
            batch = torch.cat([latent[:, :, r.start : r.stop, c.start : c.stop] for r, c, _ in part])
            for prediction, (rows, columns, weights) in zip(predict(batch), part, strict=True):
                down, across = slice(*rows), slice(*columns)
                weights = weights.to(latent.device)
                total[0, :, down, across] += prediction * weights
                weight_sum[down, across] += weights
            self._report(start + len(part), len(tiles))
        return total / weight_sum

    def _with_fixed_statistics(
        self, network: Callable[[TiledFeatures], TiledFeatures], features: Tensor, *, unit: int, scale: float
    ) -> Tensor:
        """Run tile by tile with the statistics of a sample of the picture: memory of one tile, no seams.

        Attention looks only at its tile here. ``unit``: input positions of a latent; ``scale``: output over input side.
        """
        tile, halo = self._autoencoder_tile * unit, AUTOENCODER_HALO * unit
        rows, columns = (halo_spans(length, tile, halo, unit) for length in features.shape[2:])
        recorded = Recorded(whole_statistics)
        self._num_tiles = math.inf  # the sample is no share of the stage
        network(TiledFeatures.independent(list(_samples(features, tile, unit)), recorded, _SAMPLE_MARGIN))
        self._num_tiles = len(rows) * len(columns)
        height, width = (round(length * scale) for length in features.shape[2:])
        result: Tensor | None = None
        for index, (row, column) in enumerate((row, column) for row in rows for column in columns):
            piece = features[:, :, row.read.start : row.read.stop, column.read.start : column.read.stop]
            # In bands of no neighbours but their own tile: less memory than a tile at once.
            computed = network(TiledFeatures.in_bands(piece, multiple=unit, statistics=recorded.replay())).whole()
            if result is None:
                result = computed.new_empty((*computed.shape[:2], height, width))
            inside = (..., _scaled(row.kept_in_read, scale), _scaled(column.kept_in_read, scale))
            place = (..., _scaled(slice(*row.kept), scale), _scaled(slice(*column.kept), scale))
            result[place] = computed[inside]
            self._report(index + 1, len(rows) * len(columns))
        assert result is not None  # a picture has a tile
        return result

    def _as_released(
        self, network: Callable[[TiledFeatures], TiledFeatures], features: Tensor, boxes: list[ReleasedBox]
    ) -> Tensor:
        """Run the release's tiles: averaged statistics, attention per tile, overlaps cut off."""
        pieces = [features[:, :, r.start : r.stop, c.start : c.stop] for (r, c), _ in boxes]
        computed = network(TiledFeatures.independent(pieces, released_statistics)).values()
        scale = computed[0].shape[2] / pieces[0].shape[2]
        height, width = (max(written[axis].stop for _, written in boxes) for axis in (0, 1))
        result = computed[0].new_empty((*computed[0].shape[:2], height, width))
        for value, ((read_rows, read_columns), (rows, columns)) in zip(computed, boxes, strict=True):
            top, left = (int(start * scale) for start in (read_rows.start, read_columns.start))
            own = value[:, :, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
            result[:, :, rows.start : rows.stop, columns.start : columns.stop] = own
        return result

    def _shares(self, network: nn.Module, features: Tensor, tile: int | None) -> AbstractContextManager[None]:
        """Report the stage's finished share after every block of a network.

        Args:
            features: what the network gets.
            tile: side of the tiles that they are cut into; None for the whole.
        """
        on_share = self._on_share
        self._num_done, self._num_tiles = 0, 1.0
        if on_share is None:
            return nullcontext()
        positions = math.prod(min(side, tile or side) for side in features.shape[2:])
        return shares_reported(network, positions, lambda share: on_share((self._num_done + share) / self._num_tiles))

    def _report(self, done: int, total: int) -> None:
        self._num_done = done
        if self._progress is not None:
            self._progress(done, total)


def _samples(features: Tensor, tile: int, unit: int) -> Iterator[Tensor]:
    """Return square parts at equal distances, together as large as one tile; sides in multiples of ``unit``."""
    side = max(1, math.ceil(tile / _SAMPLES_PER_SIDE / unit)) * unit
    starts = []
    for length in features.shape[2:]:
        free = max(0, length - side)
        starts.append(
            [free * (2 * index + 1) // (2 * _SAMPLES_PER_SIDE) // unit * unit for index in range(_SAMPLES_PER_SIDE)]
        )
    for top in starts[0]:
        for left in starts[1]:
            yield features[:, :, top : top + side, left : left + side]


def _scaled(part: slice, scale: float) -> slice:
    return slice(round(part.start * scale), round(part.stop * scale))
