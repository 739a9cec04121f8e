"""What stands around the networks' walk: the colours and the size they are given, and the way back to the user's.

``Restorer`` calls :func:`for_networks` before its walk and :func:`finished` after it. Where a picture needs neither
(sRGB, opaque, restored at its output's size with full strength) both hand on what they got.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch

from s3diff.images.codecs import Picture, alpha_from_tensor, alpha_to_tensor, from_tensor, to_tensor
from s3diff.images.color_profiles import ColorSpace, color_space
from s3diff.images.resampling import enlarge
from s3diff.images.transparency import enlarge_alpha_guided, without_hidden_colors
from s3diff.options import RestoreOptions, Upsampling
from s3diff.restoration.restored import Restored

#: Proportions further apart than this are told when a picture is stretched; rounding to whole pixels is below it.
_STRETCH_TOLD = 0.02


def working_options(picture: Picture, options: RestoreOptions) -> RestoreOptions:
    """The options with the size at which the networks work as the size of their output."""
    size = options.working_size(picture.width, picture.height)
    if size == options.output_size(picture.width, picture.height):
        return options
    largest = max(options.max_output_pixels, size[0] * size[1])
    return replace(options, size=size, size_mode="stretch", long_side=None, megapixels=None, max_output_pixels=largest)


def for_networks(picture: Picture, options: RestoreOptions) -> Picture:
    """The picture as the networks are to see it: sRGB, opaque, and with 16 bits where more is computed afterwards."""
    if _is_plain(picture, options):
        return picture
    colors = to_tensor(picture)
    if picture.alpha is not None:
        colors = without_hidden_colors(colors, alpha_to_tensor(picture))
    if (space := _space_of(picture)) is not None:
        colors = _as_tensor(space.to_srgb(_as_array(colors)))
    depth = np.zeros((1, 1, picture.pixels.shape[2]), np.uint16)
    pixels = from_tensor(colors, Picture(depth))
    return replace(picture, pixels=pixels, alpha=None, icc_profile=picture.icc_profile if picture.is_grey else None)


def finished(restored: Restored, picture: Picture, options: RestoreOptions, upsampling: Upsampling) -> Restored:
    """The restored picture at its output's size, in the colours, depth and transparency of ``picture``.

    Args:
        restored: what the networks made of :func:`for_networks`'s picture.
        picture: the picture as it was read.
        options: as the user gave them.
        upsampling: the filter that enlarged the input.
    """
    if _is_plain(picture, options):
        return replace(restored, options=options)
    started = time.perf_counter()
    result = _resampled(to_tensor(restored.picture), picture, options)
    if (space := _space_of(picture)) is not None:
        seen = for_networks(replace(picture, alpha=None), options)
        outside = _base(picture, options, upsampling, space) - _base(seen, options, upsampling)
        result = _as_tensor(space.from_srgb(_as_array(result + outside)))
    if options.strength < 1:
        base = _base(picture, options, upsampling)
        result = base + options.strength * (result - base)
    in_color = picture.is_grey and not restored.picture.is_grey
    like = replace(picture, pixels=np.repeat(picture.pixels, 3, axis=2)) if in_color else picture
    finished_picture = replace(
        restored.picture,
        pixels=from_tensor(result, like),
        alpha=None if picture.alpha is None else alpha_from_tensor(_alpha(picture, result, options), picture),
        icc_profile=None if in_color else picture.icc_profile,
        metadata_cut=_kept_part(picture, options),
        notes=(*restored.picture.notes, *_stretched(picture, options)),
    )
    seconds = {name: value for name, value in restored.seconds.items() if name != "total"}
    seconds["finish"] = time.perf_counter() - started
    total = {**seconds, "total": sum(seconds.values())}
    return replace(restored, picture=finished_picture, options=options, seconds=total)


def _is_plain(picture: Picture, options: RestoreOptions) -> bool:
    size = (picture.width, picture.height)
    return (
        picture.alpha is None
        and options.strength == 1
        and options.working_size(*size) == options.output_size(*size)
        and _space_of(picture) is None
        and not _stretched(picture, options)
    )


def _space_of(picture: Picture) -> ColorSpace | None:
    return None if picture.is_grey else color_space(picture.icc_profile)


def _base(
    picture: Picture, options: RestoreOptions, upsampling: Upsampling, space: ColorSpace | None = None
) -> torch.Tensor:
    """The input at the output's size, [1, 3, H, W]; with a space in sRGB, where it may leave [0, 1]."""
    width, height = options.uncut_size(picture.width, picture.height)
    base = _cut(enlarge(to_tensor(picture), height, width, mode=upsampling), picture, options)
    return base if space is None else _as_tensor(space.to_srgb(_as_array(base)))


def _resampled(image: torch.Tensor, picture: Picture, options: RestoreOptions) -> torch.Tensor:
    """[1, C, H, W] at the output's size; bicubic, filtered against aliasing where it shrinks."""
    width, height = options.uncut_size(picture.width, picture.height)
    if image.shape[-2:] != (height, width):
        image = enlarge(image, height, width, mode="bicubic")
    return _cut(image, picture, options)


def _cut(image: torch.Tensor, picture: Picture, options: RestoreOptions) -> torch.Tensor:
    """The middle of the output's size."""
    width, height = options.output_size(picture.width, picture.height)
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    return image[..., top : top + height, left : left + width]


def _kept_part(picture: Picture, options: RestoreOptions) -> tuple[float, float, float, float] | None:
    """(left, top, width, height) of what :func:`_cut` leaves, in the pixels that the metadata counts in."""
    uncut, size = (method(picture.width, picture.height) for method in (options.uncut_size, options.output_size))
    if uncut == size:
        return picture.metadata_cut
    left, top, width, height = picture.metadata_cut or (0, 0, *(picture.metadata_size or uncut))
    across, down = width / uncut[0], height / uncut[1]
    x, y = (uncut[0] - size[0]) // 2, (uncut[1] - size[1]) // 2
    return left + x * across, top + y * down, size[0] * across, size[1] * down


def _alpha(picture: Picture, colors: torch.Tensor, options: RestoreOptions) -> torch.Tensor:
    alpha = alpha_to_tensor(picture)
    width, height = options.uncut_size(picture.width, picture.height)
    if options.alpha == "bicubic":
        return _cut(enlarge(alpha, height, width, mode="bicubic"), picture, options)
    if (width, height) == options.output_size(picture.width, picture.height):
        return enlarge_alpha_guided(alpha, colors)
    # What was cut off is no guide: mirrored colours stand in for it.
    missing = (height - colors.shape[-2], width - colors.shape[-1])
    padding = (missing[1] // 2, missing[1] - missing[1] // 2, missing[0] // 2, missing[0] - missing[0] // 2)
    whole = torch.nn.functional.pad(colors, padding, mode="replicate")
    return _cut(enlarge_alpha_guided(alpha, whole), picture, options)


def _stretched(picture: Picture, options: RestoreOptions) -> tuple[str, ...]:
    if options.size is None or options.size_mode != "stretch":
        return ()
    change = (options.size[0] / picture.width) / (options.size[1] / picture.height)
    if abs(change - 1) <= _STRETCH_TOLD:
        return ()
    return (
        f"stretched from {picture.width} x {picture.height} to {options.size[0]} x {options.size[1]}, which changes "
        "the proportions; size_mode fit or fill (--size-mode) keeps them",
    )


def _as_array(image: torch.Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).numpy()


def _as_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).permute(2, 0, 1)[None].contiguous()
