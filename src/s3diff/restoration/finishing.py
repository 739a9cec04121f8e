"""Convert a picture for the networks, and their result to the picture's size, colours, depth and transparency."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from s3diff.images.color_profiles import ColorSpace, color_space
from s3diff.images.icc_profiles import fits_channels, fitting_profile
from s3diff.images.opacity import enlarge_alpha_guided, without_hidden_colors
from s3diff.images.picture import Picture, alpha_from_tensor, alpha_to_tensor, from_tensor, to_tensor
from s3diff.images.resampling import crop_middle, enlarge
from s3diff.options import RestoreOptions, Upsampling
from s3diff.restoration.regions import Canvas
from s3diff.restoration.sizes import Sizes

#: Proportions further apart than this get a remark when a picture is stretched; rounding to whole pixels is below it.
_STRETCH_TOLD = 0.02
#: Mean distance of the channels from their mean, in [0, 1], up to which the result of a grey picture counts as grey:
#: eight levels of 255, several times what a trained model adds.
MAX_CHROMA_OF_GREY = 8 / 255
COLORED_NOTE = "a grey picture, written in colour because the model coloured it; grey=keep (--grey keep) forbids it"


def to_networks(picture: Picture) -> torch.Tensor:
    """Convert a picture to opaque sRGB: [1, 3, h, w] float in [0, 1]."""
    return _seen(_visible_colors(picture), _space_of(picture))


def _seen(colors: torch.Tensor, space: ColorSpace | None) -> torch.Tensor:
    """Convert a picture's own colours to opaque sRGB."""
    return colors if space is None else _in_srgb(colors, space).clamp(0, 1)


def _visible_colors(picture: Picture) -> torch.Tensor:
    """Convert a picture to [1, C, h, w] float in [0, 1], with hidden colours replaced."""
    colors = to_tensor(picture)
    return colors if picture.alpha is None else without_hidden_colors(colors, alpha_to_tensor(picture))


def is_finished_by_rounding(picture: Picture, sizes: Sizes, options: RestoreOptions) -> bool:
    """Check whether the networks' result is final: opaque sRGB at the output's size, with full strength."""
    return (
        picture.alpha is None
        and options.strength == 1
        and sizes.working == sizes.output
        and _space_of(picture) is None
        and not _stretched(sizes, options)
    )


def finish(
    result: torch.Tensor | Canvas, picture: Picture, sizes: Sizes, options: RestoreOptions, *, is_final: bool
) -> Picture:
    """Convert the networks' result to the output's size and to the colours, depth and transparency of ``picture``.

    Args:
        result: the networks' result: [1, 3, H, W] in [0, 1] at the working size, or the canvas of a picture restored in
            parts.
        options: with the filter that enlarged the input.
        is_final: from :func:`is_finished_by_rounding`.
    """
    in_grey = picture.is_neutral and not becomes_color(result, options)
    like = in_color(picture, options) if picture.is_grey and not in_grey else picture
    if is_final:
        if not isinstance(result, Canvas):
            return replace(like, pixels=from_tensor(_in_grey(result) if in_grey else result, like))
        pixels = result.finished(in_grey=in_grey)
        return replace(like, pixels=np.repeat(pixels, like.pixels.shape[2] // pixels.shape[2], axis=2))
    colors = _resampled(_plain_colors(result, in_grey=in_grey), sizes)
    upsampling = options.upsampling
    assert upsampling is not None, "for_model fills it in"
    space = _space_of(picture)
    if space is not None or options.strength < 1:
        own = _visible_colors(picture)
        base = _enlarged(own, sizes, upsampling)
        if space is not None:  # colours outside sRGB bypass the networks
            outside = _in_srgb(base, space) - _enlarged(_seen(own, space), sizes, upsampling)
            colors = _as_tensor(space.from_srgb(_as_array(colors + outside)))
        if options.strength < 1:
            colors = _weakened(colors, base, options)
    if in_grey:  # whose channels the profile's curves may have rounded apart
        colors = _in_grey(colors)
    return replace(
        like,
        pixels=from_tensor(colors, like),
        alpha=None if picture.alpha is None else alpha_from_tensor(_alpha(picture, colors, sizes, options), picture),
        metadata_cut=_kept_part(picture, sizes),
        notes=(*like.notes, *_stretched(sizes, options)),
    )


def finish_colors(
    result: torch.Tensor, low_quality: torch.Tensor, sizes: Sizes, options: RestoreOptions
) -> torch.Tensor:
    """Convert tensors of opaque sRGB pictures to the output's size and the requested strength.

    Args:
        result: [B, 3, H, W] in [0, 1] at the working size.
        low_quality: [B, 3, h, w] in [0, 1].
        options: with the filter that enlarged the input.
    """
    colors = _resampled(result, sizes)
    if options.strength == 1:
        return colors
    assert options.upsampling is not None, "for_model fills it in"
    return _weakened(colors, _enlarged(low_quality, sizes, options.upsampling), options)


def _weakened(colors: torch.Tensor, base: torch.Tensor, options: RestoreOptions) -> torch.Tensor:
    return base + options.strength * (colors - base)


def becomes_color(result: torch.Tensor | Canvas, options: RestoreOptions) -> bool:
    """Check whether a grey picture's result is written in colour; ``result``: [1, 3, H, W] in [0, 1], or a canvas."""
    if options.grey != "auto":
        return options.grey == "color"
    if isinstance(result, Canvas):
        return result.chroma() > MAX_CHROMA_OF_GREY
    chroma = (result - result.mean(dim=1, keepdim=True)).abs().mean()
    return float(chroma) > MAX_CHROMA_OF_GREY


def in_color(picture: Picture, options: RestoreOptions) -> Picture:
    """Convert a grey picture to three channels; replace a grey profile by one with its curve."""
    profile, notes = in_color_profile(picture.icc_profile), (*picture.notes, *colored_notes(options))
    return replace(picture, pixels=np.repeat(picture.pixels, 3, axis=2), icc_profile=profile, notes=notes)


def colored_notes(options: RestoreOptions) -> tuple[str, ...]:
    """Return the remark on a grey picture that becomes a colour picture, unless colour was requested."""
    return () if options.grey == "color" else (COLORED_NOTE,)


def in_color_profile(profile: bytes | None) -> bytes | None:
    """Return the profile of a grey picture that becomes a colour picture."""
    if profile is None or fits_channels(profile, 3):
        return profile
    return fitting_profile(profile, 3)


def _plain_colors(result: torch.Tensor | Canvas, *, in_grey: bool) -> torch.Tensor:
    """Return [1, 3, H, W] float32 in [0, 1] on the CPU; three equal channels if the result is grey."""
    if isinstance(result, Canvas):
        return to_tensor(Picture(result.finished(in_grey=in_grey)))
    colors = result.to("cpu", torch.float32).clamp(0, 1)
    return _in_grey(colors) if in_grey else colors


def _in_grey(colors: torch.Tensor) -> torch.Tensor:
    """Replace the channels of [1, 3, H, W] by their mean."""
    return colors.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1).contiguous()


def _space_of(picture: Picture) -> ColorSpace | None:
    return None if picture.is_grey else color_space(picture.icc_profile)


def _in_srgb(colors: torch.Tensor, space: ColorSpace) -> torch.Tensor:
    """Convert colours to sRGB, with values outside [0, 1] where needed."""
    return _as_tensor(space.to_srgb(_as_array(colors)))


def _enlarged(colors: torch.Tensor, sizes: Sizes, mode: Upsampling) -> torch.Tensor:
    """Resample the input's colours to the output's size, [1, C, H, W]."""
    width, height = sizes.uncut
    return _cut(enlarge(colors, height, width, mode=mode), sizes)


def _resampled(image: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """Resample [1, C, H, W] to the output's size; bicubic, filtered against aliasing when shrinking."""
    return _cut(image, sizes) if sizes.working == sizes.uncut else _enlarged(image, sizes, "bicubic")


def _cut(image: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """Cut out the middle part of the output's size."""
    return crop_middle(image, *reversed(sizes.output))


def _kept_part(picture: Picture, sizes: Sizes) -> tuple[float, float, float, float] | None:
    """Return (left, top, width, height) of the part that :func:`_cut` keeps, in the metadata's pixels."""
    uncut, size = sizes.uncut, sizes.output
    if uncut == size:
        return picture.metadata_cut
    left, top, width, height = picture.metadata_cut or (0, 0, *(picture.metadata_size or uncut))
    across, down = width / uncut[0], height / uncut[1]
    x, y = (uncut[0] - size[0]) // 2, (uncut[1] - size[1]) // 2
    return left + x * across, top + y * down, size[0] * across, size[1] * down


def _alpha(picture: Picture, colors: torch.Tensor, sizes: Sizes, options: RestoreOptions) -> torch.Tensor:
    alpha = alpha_to_tensor(picture)
    if options.alpha == "bicubic":
        return _enlarged(alpha, sizes, "bicubic")
    if sizes.uncut == sizes.output:
        return enlarge_alpha_guided(alpha, colors)
    # No colours exist for the part that was cut off: those of the border replace them.
    missing = (sizes.uncut[1] - colors.shape[-2], sizes.uncut[0] - colors.shape[-1])
    padding = (missing[1] // 2, missing[1] - missing[1] // 2, missing[0] // 2, missing[0] - missing[0] // 2)
    whole = torch.nn.functional.pad(colors, padding, mode="replicate")
    return _cut(enlarge_alpha_guided(alpha, whole), sizes)


def _stretched(sizes: Sizes, options: RestoreOptions) -> tuple[str, ...]:
    if options.size is None or options.size_mode != "stretch":
        return ()
    (width, height), (to_width, to_height) = sizes.input, sizes.output
    change = (to_width / width) / (to_height / height)
    if abs(change - 1) <= _STRETCH_TOLD:
        return ()
    return (
        f"stretched from {width} x {height} to {to_width} x {to_height}, which changes "
        "the proportions; size_mode fit or fill (--size-mode) keeps them",
    )


def _as_array(image: torch.Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).numpy()


def _as_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).permute(2, 0, 1)[None].contiguous()
