"""How sure a mean is: bootstrap over pictures, and differences between two methods picture by picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from s3diff.errors import PictureError

#: Resamples of the bootstrap, its seed, and the share of them that an interval holds.
NUM_RESAMPLES = 2000
_SEED = 20240925
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure with its bootstrap confidence interval (percentiles, 95 %)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """One method less another on the same pictures.

    Attributes:
        mean: of the differences, with its interval; an interval without 0 is a difference beyond chance.
        share_higher: of the pictures on which the first method's figure is the higher one; a tie is half.
        num_pictures: that both have.
    """

    mean: Interval
    share_higher: float
    num_pictures: int


def mean_interval(values: np.ndarray) -> Interval:
    """The mean of [N] values with its interval; of one value the interval is that value.

    Raises:
        PictureError: there are no values.
    """
    return _interval(values[:, None], lambda means: means[..., 0])


def grid_interval(contrasts: np.ndarray) -> Interval:
    """The grid measure of [N, 6] contrasts: the largest of six geometric means, see ``spectrum``."""
    return _interval(np.log(contrasts), lambda means: np.exp(means.max(axis=-1)))


def paired_difference(first: np.ndarray, second: np.ndarray) -> PairedDifference:
    """Of [N] values each, picture by picture.

    Raises:
        PictureError: there are no values.
    """
    difference = first - second
    higher = float(((difference > 0) + 0.5 * (difference == 0)).mean()) if len(difference) else 0.0
    return PairedDifference(mean_interval(difference), higher, len(difference))


def _interval(values: np.ndarray, finish: Callable[[np.ndarray], Any]) -> Interval:
    """Of [N, C] values: the means over N of each resample, finished to one figure."""
    if len(values) == 0:
        raise PictureError("there are no scores to average; score at least one picture")
    generator = np.random.default_rng(_SEED)
    # How often each picture is drawn, so that one product gives all means: [resamples, N] @ [N, C].
    counts = generator.multinomial(len(values), np.full(len(values), 1 / len(values)), size=NUM_RESAMPLES)
    resampled = finish(counts @ values / len(values))
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(finish(values.mean(axis=0))), float(low), float(high))
