"""Hold ranges and probabilities of the degradation synthesis, as frozen values that are checked when they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from s3diff.degradation.resize import RESIZE_MODES
from s3diff.errors import OptionError
from s3diff.options import as_whole

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """Describe one stage: blur, resize, noise, JPEG. Ranges are (lowest, highest) and drawn from evenly.

    Attributes:
        blur_probability: of a blur at all.
        blur_sigma_px: standard deviation of the kernels along each axis, in pixels.
        sinc_probability: that a blur is a circular low-pass sinc and none of the six families.
        resize_probabilities: of enlarging, reducing and keeping the size; their sum is 1.
        resize_factor: smallest and largest factor, 1 within them; in the second stage relative to 1 / scale.
        noise_probability: of noise at all.
        gaussian_probability: that noise is Gaussian and not Poisson.
        gaussian_sigma: standard deviation of Gaussian noise on the scale of 0 to 255.
        poisson_scale: factor on Poisson noise.
        grey_probability: that noise is the same in all channels.
        jpeg_probability: of JPEG at all.
        jpeg_quality: quality, 1 to 100.
    """

    blur_probability: float = 1.0
    blur_sigma_px: Range
    sinc_probability: float = 0.1
    resize_probabilities: tuple[float, float, float]
    resize_factor: Range
    noise_probability: float = 1.0
    gaussian_probability: float = 0.5
    gaussian_sigma: Range
    poisson_scale: Range
    grey_probability: float = 0.4
    jpeg_probability: float = 1.0
    jpeg_quality: Range

    def __post_init__(self) -> None:
        _check_probabilities(self)
        _require_sum_of_one("resize_probabilities", self.resize_probabilities, 3)
        _require_range("blur_sigma_px", self.blur_sigma_px, low=0.05, high=20)
        _require_range("resize_factor", self.resize_factor, low=0.01, high=10)
        if not self.resize_factor[0] <= 1 <= self.resize_factor[1]:
            raise OptionError(f"resize_factor is {self.resize_factor}; give a range that holds 1, such as (0.3, 1.5)")
        _require_range("gaussian_sigma", self.gaussian_sigma, low=0, high=255)
        _require_range("poisson_scale", self.poisson_scale, low=0, high=100)
        _require_range("jpeg_quality", self.jpeg_quality, low=1, high=100)


@dataclass(frozen=True, kw_only=True)
class DegradationSettings:
    """Describe the whole degradation: two stages, the reduction to the low-quality size with a sinc, the last JPEG.

    Attributes:
        first: the stage at the size of the ground truth.
        second: the stage that resizes toward the low-quality size.
        kernel_probabilities: of isotropic, anisotropic, generalised isotropic, generalised anisotropic, plateau
            isotropic and plateau anisotropic kernels; their sum is 1.
        generalised_beta: shape of the generalised Gaussians; drawn below 1 as often as above.
        plateau_beta: shape of the plateau kernels; drawn in the same way.
        resize_modes: resizes drawn from, each as often as the next.
        final_sinc_probability: of the sinc filter at the end.
        sharpening_probability: that the filter at the end is the unsharp mask of a camera instead.
        sharpening_amount: how much of the difference from the blurred picture is added.
        sharpening_sigma_px: standard deviation of that blur, in pixels.
        clean_probability: of an image that is reduced and nothing else.
        clean_modes: resizes drawn from for those images.
        like_release: repeat the faults of the S3Diff release: resize, kind of noise, second blur and order of the
            last steps drawn once for the batch, the same grey noise in all its images, Poisson noise without a lower
            bound on the photons, and JPEG as in ``compress_jpeg(convention="release")``.
    """

    first: StageSettings
    second: StageSettings
    kernel_probabilities: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    generalised_beta: Range = (0.5, 2.0)
    plateau_beta: Range = (1.0, 1.5)
    resize_modes: tuple[str, ...] = ("area", "bilinear", "bicubic")
    final_sinc_probability: float = 0.8
    sharpening_probability: float = 0.0
    sharpening_amount: Range = (0.2, 2.0)
    sharpening_sigma_px: Range = (0.4, 1.3)
    clean_probability: float = 0.01
    clean_modes: tuple[str, ...] = ("area", "bicubic_antialiased")
    like_release: bool = False

    def __post_init__(self) -> None:
        _check_probabilities(self)
        _require_sum_of_one("kernel_probabilities", self.kernel_probabilities, 6)
        for name in ("generalised_beta", "plateau_beta"):
            value = getattr(self, name)
            _require_range(name, value, low=0.05, high=10)
            if not value[0] <= 1 <= value[1]:
                raise OptionError(f"{name} is {value}; give a range that holds 1, such as (0.5, 2)")
        _require_range("sharpening_amount", self.sharpening_amount, low=0.01, high=10)
        _require_range("sharpening_sigma_px", self.sharpening_sigma_px, low=0.05, high=20)
        for name in ("resize_modes", "clean_modes"):
            modes = getattr(self, name)
            if not modes or any(mode not in RESIZE_MODES for mode in modes):
                raise OptionError(f"{name} is {modes!r}; give one or more of {', '.join(RESIZE_MODES)}")


def _check_probabilities(settings: Any) -> None:
    for name in (item.name for item in fields(settings) if item.name.endswith("_probability")):
        value = getattr(settings, name)
        if not _is_number(value) or not 0 <= value <= 1:
            raise OptionError(f"{name} is {value!r}; give a probability from 0 to 1")


def _require_sum_of_one(name: str, values: Any, count: int) -> None:
    ok = isinstance(values, tuple) and len(values) == count
    ok = ok and all(_is_number(value) and value >= 0 for value in values)
    if not ok or not math.isclose(sum(values), 1, abs_tol=1e-6):
        raise OptionError(f"{name} is {values!r}; give {count} probabilities whose sum is 1")


def _require_range(name: str, value: Any, *, low: float, high: float) -> None:
    ok = isinstance(value, tuple) and len(value) == 2 and all(_is_number(end) for end in value)
    if not ok or not low <= value[0] <= value[1] <= high:
        raise OptionError(f"{name} is {value!r}; give a lowest and a highest value from {low} to {high}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


#: ``s3diff``: what S3Diff was trained with (arXiv 2409.17058, its released configuration). ``realesrgan``: the harder
#: ranges of Real-ESRGAN (arXiv 2107.10833), with the same order of steps. ``mild``: ours, for pictures of a recent
#: camera or a fair web page. ``camera``: ours, mostly optical blur. ``sharpened``: the same, half of it with the
#: camera's own sharpening, which leaves rims at edges, as in RealSR's pairs. ``processed``: ours, what a camera's whole
#: processing leaves: stronger blur, noise that has spread over neighbouring pixels, and sharpening nearly always.
#: ``grainy``: ours, the noise of a sensor at high sensitivity, which nothing smooths. ``bicubic``: the clean bicubic
#: reduction of the benchmarks.
PRESETS: dict[str, DegradationSettings] = {
    "s3diff": DegradationSettings(
        first=StageSettings(
            blur_sigma_px=(0.2, 1.5),
            resize_probabilities=(0.2, 0.7, 0.1),
            resize_factor=(0.3, 1.5),
            gaussian_sigma=(1, 15),
            poisson_scale=(0.05, 2),
            jpeg_quality=(60, 95),
        ),
        second=StageSettings(
            blur_probability=0.5,
            blur_sigma_px=(0.2, 1.0),
            resize_probabilities=(0.3, 0.4, 0.3),
            resize_factor=(0.6, 1.2),
            gaussian_sigma=(1, 12),
            poisson_scale=(0.05, 1),
            jpeg_quality=(60, 100),
        ),
    ),
    "realesrgan": DegradationSettings(
        first=StageSettings(
            blur_sigma_px=(0.2, 3.0),
            resize_probabilities=(0.2, 0.7, 0.1),
            resize_factor=(0.15, 1.5),
            gaussian_sigma=(1, 30),
            poisson_scale=(0.05, 3),
            jpeg_quality=(30, 95),
        ),
        second=StageSettings(
            blur_probability=0.8,
            blur_sigma_px=(0.2, 1.5),
            resize_probabilities=(0.3, 0.4, 0.3),
            resize_factor=(0.3, 1.2),
            gaussian_sigma=(1, 25),
            poisson_scale=(0.05, 2.5),
            jpeg_quality=(30, 95),
        ),
        generalised_beta=(0.5, 4.0),
        plateau_beta=(1.0, 2.0),
        clean_probability=0.0,
    ),
    "mild": DegradationSettings(
        first=StageSettings(
            blur_probability=0.7,
            blur_sigma_px=(0.2, 1.0),
            sinc_probability=0.05,
            resize_probabilities=(0.1, 0.4, 0.5),
            resize_factor=(0.7, 1.2),
            noise_probability=0.6,
            gaussian_sigma=(0.5, 6),
            poisson_scale=(0.05, 0.6),
            jpeg_probability=0.7,
            jpeg_quality=(75, 98),
        ),
        second=StageSettings(
            blur_probability=0.2,
            blur_sigma_px=(0.2, 0.6),
            sinc_probability=0.05,
            resize_probabilities=(0.1, 0.2, 0.7),
            resize_factor=(0.8, 1.2),
            noise_probability=0.3,
            gaussian_sigma=(0.5, 4),
            poisson_scale=(0.05, 0.4),
            jpeg_probability=0.7,
            jpeg_quality=(80, 100),
        ),
        final_sinc_probability=0.3,
        clean_probability=0.05,
    ),
}
PRESETS["camera"] = DegradationSettings(
    first=StageSettings(
        blur_sigma_px=(1.0, 4.0),
        sinc_probability=0.05,
        resize_probabilities=(0.1, 0.3, 0.6),
        resize_factor=(0.6, 1.2),
        noise_probability=0.8,
        gaussian_sigma=(0.3, 5),
        poisson_scale=(0.05, 0.5),
        jpeg_probability=0.3,
        jpeg_quality=(80, 98),
    ),
    second=StageSettings(
        blur_probability=0.4,
        blur_sigma_px=(0.2, 1.0),
        sinc_probability=0.05,
        resize_probabilities=(0.1, 0.2, 0.7),
        resize_factor=(0.8, 1.2),
        noise_probability=0.4,
        gaussian_sigma=(0.3, 3),
        poisson_scale=(0.05, 0.5),
        jpeg_probability=0.4,
        jpeg_quality=(80, 100),
    ),
    final_sinc_probability=0.3,
    clean_probability=0.02,
)
PRESETS["sharpened"] = replace(PRESETS["camera"], sharpening_probability=0.5)
PRESETS["processed"] = replace(
    PRESETS["camera"],
    first=replace(
        PRESETS["camera"].first,
        blur_sigma_px=(2.5, 5.0),
        resize_probabilities=(0.0, 1.0, 0.0),
        resize_factor=(0.2, 1.0),
        noise_probability=0.9,
        poisson_scale=(0.05, 0.6),
    ),
    second=replace(
        PRESETS["camera"].second,
        blur_probability=0.7,
        blur_sigma_px=(0.4, 0.8),
        resize_probabilities=(0.8, 0.0, 0.2),
        resize_factor=(1.0, 1.5),
        noise_probability=0.2,
    ),
    sharpening_probability=0.97,
    sharpening_amount=(0.5, 2.0),
    sharpening_sigma_px=(0.8, 2.5),
)
PRESETS["grainy"] = DegradationSettings(
    first=StageSettings(
        blur_probability=0.8,
        blur_sigma_px=(0.2, 2.0),
        sinc_probability=0.05,
        resize_probabilities=(0.1, 0.3, 0.6),
        resize_factor=(0.6, 1.2),
        noise_probability=0.3,
        gaussian_sigma=(0.5, 8),
        poisson_scale=(0.05, 0.8),
        jpeg_probability=0.2,
        jpeg_quality=(80, 98),
    ),
    second=StageSettings(
        blur_probability=0.1,
        blur_sigma_px=(0.2, 0.6),
        sinc_probability=0.05,
        resize_probabilities=(0.0, 0.2, 0.8),
        resize_factor=(0.8, 1.2),
        gaussian_probability=0.7,
        gaussian_sigma=(2, 25),
        poisson_scale=(0.2, 2.5),
        grey_probability=0.3,
        jpeg_probability=0.3,
        jpeg_quality=(80, 100),
    ),
    final_sinc_probability=0.1,
    clean_probability=0.02,
)
PRESETS["bicubic"] = DegradationSettings(
    first=PRESETS["mild"].first,
    second=PRESETS["mild"].second,
    clean_probability=1.0,
    clean_modes=("bicubic_antialiased",),
)

#: Seeds that a torch.Generator takes.
_LOWEST_SEED, _HIGHEST_SEED = -(2**63), 2**64 - 1


@dataclass(frozen=True)
class DegradeOptions:
    """Hold the options of a set of degraded pictures.

    Attributes:
        preset: a name of ``PRESETS``.
        scale: ground truth side over low-quality side.
        seed: of all draws.

    Raises:
        OptionError: an option has a value that is not allowed.
    """

    preset: str = "s3diff"
    scale: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise OptionError(f"preset is {self.preset!r}; give one of {', '.join(PRESETS)}")
        scale = as_whole(self.scale)
        if scale is None or not 1 <= scale <= 64:
            raise OptionError(f"scale is {self.scale!r}; give a whole number from 1 to 64")
        checked_seed(self.seed)


def checked_seed(seed: Any) -> int:
    """Check a seed of a ``torch.Generator``.

    Raises:
        OptionError: no whole number, or one outside -2^63 to 2^64 - 1.
    """
    whole = as_whole(seed)
    if whole is None or not _LOWEST_SEED <= whole <= _HIGHEST_SEED:
        raise OptionError(f"seed is {seed!r}; give a whole number from -2^63 to 2^64 - 1")
    return whole
