"""Compute confidence intervals: bootstrap over pictures, and differences between two methods picture by picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from s3diff.errors import PictureError

#: Resamples of the bootstrap, its seed, and the share of them that an interval holds.
NUM_RESAMPLES = 2000
_SEED = 20240925
CONFIDENCE = 0.95
#: Fewer pictures say nothing about others: five that all differ in one direction do so by chance once in 16 times.
MIN_PICTURES = 6


@dataclass(frozen=True)
class Interval:
    """Hold a figure with its bootstrap confidence interval (percentiles, 95 %).

    Attributes:
        low: lower end; None where there are fewer pictures than ``MIN_PICTURES``, or one figure of a whole set.
        high: the same for the upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def leaves_out_zero(self) -> bool:
        """Whether there is an interval and 0 lies outside of it."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class PairedDifference:
    """Hold the difference of two methods on the same pictures.

    Attributes:
        mean: of the differences, with its interval; an interval without 0 is a difference beyond chance.
        share_higher: of the pictures on which the first method's figure is the higher one; a tie is half.
    """

    mean: Interval
    share_higher: float


@dataclass(frozen=True)
class Aggregate:
    """Compute a set's figure from its pictures': ``finish(mean over pictures of prepare(values))``.

    Attributes:
        prepare: takes and gives [..., C] values.
        finish: takes [..., C] means, gives [...] figures.
    """

    prepare: Callable[[np.ndarray], np.ndarray]
    finish: Callable[[np.ndarray], np.ndarray]

    def of_one(self, values: np.ndarray) -> float:
        """Compute the figure of one picture's [C] values."""
        return float(self.finish(self.prepare(values)))

    def interval(self, values: np.ndarray) -> Interval:
        """Compute the figure of [N, C] values with its interval, where there are pictures enough.

        Raises:
            PictureError: there are no values.
        """
        if len(values) == 0:
            raise PictureError("there are no scores to average; score at least one picture")
        prepared = self.prepare(values)
        value = float(self.finish(prepared.mean(axis=0)))
        if len(values) < MIN_PICTURES:
            return Interval(value)
        generator = np.random.default_rng(_SEED)
        # How often each picture is drawn, so that one product gives all means: [resamples, N] @ [N, C].
        counts = generator.multinomial(len(values), np.full(len(values), 1 / len(values)), size=NUM_RESAMPLES)
        resampled = self.finish(counts @ prepared / len(values))
        low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Interval(value, float(low), float(high))


#: Of one value for each picture, C = 1.
MEAN = Aggregate(lambda values: values, lambda means: means[..., 0])


def paired_difference(first: np.ndarray, second: np.ndarray) -> PairedDifference:
    """Compare [N] values each, picture by picture.

    Raises:
        PictureError: there are no values.
    """
    difference = first - second
    higher = float(((difference > 0) + 0.5 * (difference == 0)).mean()) if len(difference) else 0.0
    return PairedDifference(MEAN.interval(difference[:, None]), higher)
