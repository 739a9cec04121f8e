"""Hold a picture as arrays, and convert it from and to tensors: no files, no Pillow.

Only the functions on tensors import torch: reading and writing pictures does not need it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from s3diff.errors import PictureError

if TYPE_CHECKING:
    import torch

    from s3diff.images.provenance import Provenance


class Text(NamedTuple):
    """Hold a keyword and its text, as in PNG; the comment of a JPEG or GIF has the keyword ``Comment``.

    Attributes:
        keyword: 1 to 79 characters of Latin-1.
        text: of any length.
        language: of the text, such as ``en``; empty where it is not stated.
        translated_keyword: the keyword in that language; empty where it is not stated.
    """

    keyword: str
    text: str
    language: str = ""
    translated_keyword: str = ""


#: A remark; of the pixels in one length, across and down.
NOT_SQUARE = "the pixels are not square ({:g} to {:g} in a length), which is left out"
#: Types of a picture's pixels.
_DEPTHS = (np.uint8, np.uint16, np.float32)


@dataclass(frozen=True, eq=False)
class Picture:
    """Hold one still picture, upright (EXIF orientation applied).

    Attributes:
        pixels: [H, W, 3] RGB or [H, W, 1] grey, at least 1 x 1; uint8, uint16, or float32 in [0, 1], from an array and
            rounded to 16 bits when written.
        alpha: opacity [H, W] of the pixels' depth, not premultiplied; None without transparency.
        icc_profile: the colour profile of ``pixels`` as stored in the file.
        exif: EXIF block beginning with ``Exif\\0\\0``; an orientation tag has the value for upright.
        xmp: XMP packet of the upright picture.
        dpi: pixels per inch, across and down.
        format: the name of one of :data:`s3diff.formats.FORMATS`; None for a picture that comes from no file.
        path: the file it was read from.
        notes: losses and omissions on reading, one sentence each.
        iptc: captions and keywords, as image resources of Photoshop.
        texts: keywords and texts of PNG, comments of JPEG and GIF.
        metadata_size: (width, height) that sizes and coordinates in ``exif`` and ``xmp`` refer to; that of ``pixels``
            unless given. It stays when pixels are replaced; writing adapts the metadata.
        metadata_cut: (left, top, width, height) of the part of that picture in ``pixels``, in its pixels; None for all.
        provenance: how the pixels were made, which a written file states in XMP; None states nothing.

    Raises:
        PictureError: the arrays have another shape or type.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    format: str | None = None
    path: Path | None = None
    notes: tuple[str, ...] = ()
    iptc: bytes | None = None
    texts: tuple[Text, ...] = ()
    metadata_size: tuple[int, int] | None = None
    metadata_cut: tuple[float, float, float, float] | None = None
    provenance: Provenance | None = None

    def __post_init__(self) -> None:
        shape, kind = self.pixels.shape, self.pixels.dtype
        if len(shape) != 3 or shape[2] not in (1, 3) or kind not in _DEPTHS:
            raise PictureError(f"pixels are {shape} {kind}; give [H, W, 3] or [H, W, 1] of uint8, uint16 or float32")
        if 0 in shape:
            raise PictureError(f"the picture is {shape[1]} x {shape[0]} pixels; give at least 1 x 1")
        if kind == np.float32 and not (self.pixels.min() >= 0 and self.pixels.max() <= 1):  # NaN fails as well
            raise PictureError("pixels are floats outside [0, 1]; give values from 0 to 1")
        if self.alpha is not None and (self.alpha.shape != shape[:2] or self.alpha.dtype != kind):
            raise PictureError(f"alpha is {self.alpha.shape} {self.alpha.dtype}; give {shape[:2]} {kind} as the pixels")
        if self.metadata_size is None:
            object.__setattr__(self, "metadata_size", (self.width, self.height))

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.pixels.shape[1])

    @property
    def is_grey(self) -> bool:
        """Whether the picture has one channel."""
        return self.pixels.shape[2] == 1

    @cached_property
    def is_neutral(self) -> bool:
        """Whether no pixel has colour: one channel, or three equal ones."""
        # Few pixels tell most pictures in colour.
        return self.is_grey or all(is_neutral(pixels) for pixels in (self.pixels[::16, ::16], self.pixels))

    def digest(self) -> str:
        """Return ``sha256:...`` of size, depth, pixels and opacity."""
        found = hashlib.sha256(f"{self.pixels.shape} {self.pixels.dtype.str}".encode())
        for plane in (self.pixels, self.alpha):
            if plane is not None:
                found.update(np.ascontiguousarray(plane).data)
        return f"sha256:{found.hexdigest()}"

    @property
    def is_transparent(self) -> bool:
        """Whether any pixel is less than fully opaque."""
        return self.alpha is not None and bool((self.alpha < full_scale(self.alpha.dtype)).any())


def is_neutral(pixels: np.ndarray) -> bool:
    """Check whether all channels of [H, W, C] are equal."""
    return bool((pixels == pixels[..., :1]).all())


def full_scale(depth: np.dtype[Any]) -> float:
    """Return the value that means 1: the largest of whole numbers, 1 of floats."""
    return 1.0 if depth.kind == "f" else float(np.iinfo(depth).max)


def in_whole_numbers(picture: Picture) -> Picture:
    """Round pixels that are floats to 16 bits, the finest depth that a file has; others stay as they are."""
    if picture.pixels.dtype.kind != "f":
        return picture
    pixels, alpha = (
        None if plane is None else np.rint(plane * full_scale(np.dtype(np.uint16))).astype(np.uint16)
        for plane in (picture.pixels, picture.alpha)
    )
    assert pixels is not None
    return replace(picture, pixels=pixels, alpha=alpha)


def from_array(array: np.ndarray) -> Picture:
    """Make a picture of an array, copied.

    Args:
        array: [H, W], [H, W, 1] grey, [H, W, 3] RGB or [H, W, 4] RGB and alpha; uint8, uint16 or float in [0, 1].
            Floats are kept in float32, and so is the result.

    Raises:
        PictureError: another shape or type, or floats outside [0, 1].
    """
    allowed = "give [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of uint8, uint16 or float in [0, 1]"
    array = np.asarray(array)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise PictureError(f"the array has shape {array.shape}; {allowed}")
    if np.issubdtype(array.dtype, np.floating):
        if array.size and not (array.min() >= 0 and array.max() <= 1):  # written so that NaN fails as well
            raise PictureError(f"the array holds values from {array.min()} to {array.max()}; {allowed}")
        array = array.astype(np.float32)
    if array.dtype not in _DEPTHS:
        raise PictureError(f"the array is of type {array.dtype}; {allowed}")
    pixels, alpha = split_alpha(array)
    return Picture(pixels, alpha)


def to_tensor(picture: Picture) -> torch.Tensor:
    """Convert the colours to [1, 3, H, W] float32 RGB in [0, 1]; grey is repeated. Alpha: ``alpha_to_tensor``."""
    return colors_to_tensor(picture.pixels)


def colors_to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """Convert [H, W, 3 or 1] of a picture's depth as :func:`to_tensor`."""
    return _plane_to_tensor(pixels).expand(-1, 3, -1, -1).contiguous()


def from_tensor(image: torch.Tensor, like: Picture) -> np.ndarray:
    """Convert to pixels of ``like``'s depth and channels and the tensor's size, rounded to the nearest level.

    Floats are clamped and not rounded.

    A grey picture gets the mean of the three channels: they are three estimates of one grey value, and the mean has the
    least noise. Luma weights describe how bright colours look; here they would let green's error count for more than
    half.

    Args:
        image: [1, 3, H, W] float RGB in [0, 1]; values outside are clamped. Any device.

    Returns:
        [H, W, 3] or [H, W, 1], uint8, uint16 or float32.

    Raises:
        PictureError: another shape, or values that are not finite.
    """
    if image.ndim != 4 or image.shape[:2] != (1, 3):
        raise PictureError(f"the image tensor has shape {tuple(image.shape)}; give [1, 3, H, W]")
    image = _on_cpu(image)
    if like.is_grey:
        image = image.mean(dim=1, keepdim=True)
    return _rounded(image, like.pixels.dtype)


def rgb_8_bits(picture: Picture) -> np.ndarray:
    """Convert to [H, W, 3] uint8: 16 bits rounded to the nearest of 8, grey repeated, transparency left out."""
    pixels = picture.pixels
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 = 255 * 257: exact rounding
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def alpha_to_tensor(picture: Picture) -> torch.Tensor:
    """Convert the opacity to [1, 1, H, W] float32 in [0, 1].

    Raises:
        PictureError: the picture has no transparency.
    """
    if picture.alpha is None:
        raise PictureError("the picture has no alpha; look at picture.alpha first")
    return _plane_to_tensor(picture.alpha[..., None])


def alpha_from_tensor(alpha: torch.Tensor, like: Picture) -> np.ndarray:
    """Convert [1, 1, H, W] float in [0, 1] to opacity [H, W] of ``like``'s depth, rounded to the nearest level.

    Raises:
        PictureError: another shape, or values that are not finite.
    """
    if alpha.ndim != 4 or alpha.shape[:2] != (1, 1):
        raise PictureError(f"the alpha tensor has shape {tuple(alpha.shape)}; give [1, 1, H, W]")
    return _rounded(_on_cpu(alpha), like.pixels.dtype)[..., 0]


def _on_cpu(image: torch.Tensor) -> torch.Tensor:
    import torch

    return image.detach().to("cpu", torch.promote_types(image.dtype, torch.float32))


def _plane_to_tensor(array: np.ndarray) -> torch.Tensor:
    """Convert [H, W, C] of a picture's depth to [1, C, H, W] float32 in [0, 1]."""
    import torch

    planes = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)[None]).astype(np.float32))
    return planes.div_(full_scale(array.dtype))


def _rounded(image: torch.Tensor, depth: np.dtype[Any]) -> np.ndarray:
    """Round [1, C, H, W] in [0, 1] to [H, W, C] of that depth."""
    if not bool(image.isfinite().all()):
        raise PictureError("the picture holds values that are no finite numbers; compute it in float32")
    levels = image.clamp(0, 1) * full_scale(depth)
    if depth.kind != "f":
        levels = levels.round()
    return np.ascontiguousarray(levels[0].permute(1, 2, 0).numpy().astype(depth))


def split_alpha(array: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Copy the colour [H, W, 1 or 3] and, of 2 or 4 channels, the last one [H, W]."""
    if array.ndim == 2:
        array = array[..., None]
    if array.shape[2] in (2, 4):
        return array[..., :-1].copy(), array[..., -1].copy()
    return array.copy(), None
