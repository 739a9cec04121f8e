"""Declare the restore options as keyword arguments, for type checkers."""

from __future__ import annotations

from typing import Literal, TypedDict

from s3diff.options import Alpha, ColorMatch, Decoder, Grey, Latent, ReleasedTiles, RestoreAt, SizeMode, Upsampling


class RestoreChanges(TypedDict, total=False):
    """Declare the fields of :class:`RestoreOptions` as keyword arguments; a type checker finds misspelt ones."""

    scale: float
    size: tuple[int, int] | None
    size_mode: SizeMode
    long_side: int | None
    megapixels: float | None
    restore_at: RestoreAt
    guidance: float | None
    positive_prompt: str | None
    negative_prompt: str | None
    color_match: ColorMatch
    blur: float | str | None
    noise: float | str | None
    strength: float
    lora_scale: float
    latent: Latent
    seed: int
    upsampling: Upsampling | None
    grey: Grey
    tile: int | Literal["auto", "off"]
    released_tiles: ReleasedTiles | None
    decoder: Decoder
    alpha: Alpha
    pages: str
    max_output_pixels: int
    max_input_pixels: int
    max_file_bytes: int
