"""Choose the tiles of a picture from its size, the model and the free memory.

Two kinds of models:

- one whose result depends only on the pixels nearby (:attr:`GeneratorConfig.is_local`, such as ``compact``): the whole
  walk runs tile by tile, each with a halo (``regions``);
- any other, such as SD-Turbo: the stages run one after the other on the whole picture, each in tiles of its own. The
  autoencoder in bands that exchange their edges (exact, with attention over the whole picture), or, with memory that
  does not grow with the picture, in tiles under fixed statistics of group norm (``autoencoder``); the UNet in
  blended tiles of about the size that it was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch

from s3diff.networks.one_step_generator import GeneratorConfig
from s3diff.options import RestoreOptions
from s3diff.restoration.device import autoencoder_dtypes
from s3diff.restoration.memory import free_bytes
from s3diff.tiling import HaloSpan, ReleasedTiles, halo_spans

#: ``whole``: at once; ``bands``: exact, about two fifths of the memory; ``tiles``: memory of one tile.
AutoencoderTiling = Literal["whole", "bands", "tiles"]

#: Halo of a local model's tile: pixels beyond it change nothing, or less than rounding (tests/test_tiles.py).
LOCAL_HALO_PX = 96
#: Default side of a local model's tile, halos included, where memory allows.
LOCAL_TILE_PX = 1536
#: Default side of a UNet tile in latents, the release's, and overlap of neighbours: at most 1.32 times the work.
UNET_TILE, UNET_OVERLAP = 96, 12
#: Default side of an autoencoder tile in latents, and its halo.
AUTOENCODER_TILE, AUTOENCODER_HALO = 128, 8
#: Side of the smallest tile, in pixels, tried when memory runs out.
SMALLEST_TILE_PX = 384
#: Share of the free memory that a plan may count on.
_USABLE = 0.6
#: Above it local models restore in tiles on a CPU, whatever is free; below it that would cost 1.2 times the work.
_LOCAL_BYTES_ON_CPU = 2 * 2**30
#: Feature maps of the finest level that exist at a time: at once, and in bands.
_MAPS_WHOLE, _MAPS_IN_BANDS = 4.0, 1.6


@dataclass(frozen=True, kw_only=True)
class TilePlan:
    """Describe how one picture of a given size is cut.

    Attributes:
        height: of the enlarged, padded picture, in pixels.
        multiple: divisor of the padded sides.
        tile_px: side of a tile in pixels, halos included; None for the whole picture at once.
        is_local: whether regions go through the whole walk, not through each stage.
        autoencoder: how the autoencoder runs, for models that are not local.
        released: whether to use the release's tiles instead.
    """

    height: int
    width: int
    multiple: int
    is_local: bool
    tile_px: int | None = None
    autoencoder: AutoencoderTiling = "whole"
    released: ReleasedTiles | None = None

    @cached_property
    def _spans(self) -> tuple[list[HaloSpan], list[HaloSpan]]:
        tile = self.tile_px if self.is_local and self.tile_px else max(self.height, self.width)
        rows, columns = (halo_spans(side, tile, LOCAL_HALO_PX, self.multiple) for side in (self.height, self.width))
        return rows, columns

    @cached_property
    def regions(self) -> list[tuple[HaloSpan, HaloSpan]]:
        """(rows, columns) of the regions in the order of the work, in padded pixels."""
        rows, columns = self._spans
        return [(row, column) for row in rows for column in columns]

    @property
    def num_regions(self) -> int:
        """How many regions there are, without a list of them, which may be larger than memory."""
        rows, columns = self._spans
        return len(rows) * len(columns)

    @property
    def is_whole(self) -> bool:
        """Whether the picture is not cut."""
        return self.tile_px is None and self.autoencoder == "whole" and self.released is None

    def smaller(self) -> TilePlan | None:
        """Return the plan for the next try after memory ran out: tiles of half the side; None if there is none."""
        side = self.tile_px or max(self.height, self.width)
        if self.released is not None or side <= SMALLEST_TILE_PX:
            return None
        return replace(self, tile_px=max(SMALLEST_TILE_PX, side // 2), autoencoder="tiles")


def plan_tiles(
    config: GeneratorConfig,
    height: int,
    width: int,
    options: RestoreOptions,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int = 1,
) -> TilePlan:
    """Choose the tiles of a picture.

    Args:
        height: of the enlarged, padded picture, in pixels.
        options: only ``tile`` and ``released_tiles`` count.
    """
    plan = TilePlan(
        height=height,
        width=width,
        multiple=config.pad_multiple,
        is_local=config.is_local,
        released=options.released_tiles,
    )
    if options.released_tiles is not None or options.tile == "off":
        return plan
    area, longest = height * width, max(height, width)
    if options.tile != "auto":
        fits = longest <= options.tile
        return plan if fits else replace(plan, tile_px=options.tile, autoencoder="tiles")
    per_pixel = _bytes_per_pixel(config, dtype)
    usable = _USABLE * free_bytes(device) / batch_size
    if config.is_local:
        limit = min(usable, _LOCAL_BYTES_ON_CPU) if device.type == "cpu" else usable
        whole = area * per_pixel * _MAPS_WHOLE
        if whole <= limit or longest <= SMALLEST_TILE_PX:
            return plan
        tile = LOCAL_TILE_PX
        while tile > SMALLEST_TILE_PX and tile**2 * per_pixel * _MAPS_WHOLE > limit:
            tile //= 2
        return replace(plan, tile_px=max(tile, SMALLEST_TILE_PX))
    unet_px = UNET_TILE * config.autoencoder.downscale
    tile_px = unet_px if longest > unet_px else None
    if area * per_pixel * _MAPS_WHOLE <= usable:
        return replace(plan, tile_px=tile_px)
    if area * per_pixel * _MAPS_IN_BANDS <= usable:
        return replace(plan, tile_px=tile_px, autoencoder="bands")
    return replace(plan, tile_px=unet_px, autoencoder="tiles")


def _bytes_per_pixel(config: GeneratorConfig, dtype: torch.dtype) -> float:
    """Estimate the bytes per pixel of one feature map at the most expensive level of the autoencoder or the UNet."""
    autoencoder = config.autoencoder
    widths = autoencoder.decoder_channels or autoencoder.block_out_channels
    maps = [
        (width + (widths[level + 1] if level + 1 < len(widths) else 0)) / (4**level * autoencoder.pixel_shuffle**2)
        for level, width in enumerate(widths)
    ]
    # The finest up block: its input, a skip and its output, for two prompts.
    maps.append(2 * 3 * config.unet.block_out_channels[0] / autoencoder.downscale**2)
    size = max(autoencoder_dtypes(dtype, config.schedule), key=lambda each: each.itemsize).itemsize
    return max(maps) * size + 3 * 4
