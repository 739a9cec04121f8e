"""List every measure by name. A name states everything its figure depends on: colour, border, network, checkpoint.

A new measure is a file that computes it and a row of ``MEASURES``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from s3diff.errors import DownloadError, MissingExtraError, ModelError, OptionError
from s3diff.evaluation.fid import load_fid
from s3diff.evaluation.iqa_extra import NoReferenceMeasure
from s3diff.evaluation.niqe import NIQE
from s3diff.evaluation.perceptual import DISTS, LPIPS
from s3diff.evaluation.psnr_ssim import psnr_rgb, psnr_y, ssim_rgb, ssim_y
from s3diff.evaluation.spectrum import GRID_OF_SET, grid_parts
from s3diff.evaluation.statistics import MEAN, Aggregate
from s3diff.user_code import told_in_one_line

#: Takes results and truths, [B, 3, H, W] float RGB in [0, 1] each (the truths None where there are none); gives [B], or
#: [B, C] where a picture's figure is made of C parts.
ScoreBatch = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
#: Takes batches of all results and of their truths; gives one figure.
ScoreSet = Callable[[Iterable[torch.Tensor], Iterable[torch.Tensor]], float]


@dataclass(frozen=True)
class Measure:
    """Describe a measure without loading anything.

    Attributes:
        name: in options, protocols and result files.
        label: in tables.
        better: ``higher``, ``lower``, or ``one``: 1 is best.
        compares: ``pair``: result with truth; ``single``: only the result; ``set``: all results with all truths.
        num_decimals: in tables.
        definition: one sentence.
        load: for a device, a function of results and truths (``pair``), of results (``single``), or of their batches
            (``set``). Raises MissingExtraError, DownloadError or ModelError where it cannot be had.
        aggregate: how pictures' figures become the set's; a ``set`` measure needs none.
        parts: name, in score files, of the parts of a picture's figure; empty where it is one number.
    """

    name: str
    label: str
    better: Literal["higher", "lower", "one"]
    compares: Literal["pair", "single", "set"]
    num_decimals: int
    definition: str
    load: Callable[[torch.device], Callable[..., Any]]
    aggregate: Aggregate = MEAN
    parts: str = ""


def _plain(measure: Callable[..., torch.Tensor], **given: Any) -> Callable[[torch.device], Callable[..., torch.Tensor]]:
    return lambda device: partial(measure, **given)


def _lpips(net: Literal["alex", "vgg"], device: torch.device) -> Callable[..., torch.Tensor]:
    """Wrap LPIPS, which takes [-1, 1]."""
    lpips = LPIPS(net).to(device)
    return lambda result, truth: lpips(2 * result - 1, 2 * truth - 1)


# fmt: off
MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure("psnr_y", "PSNR-Y", "higher", "pair", 2, "dB, BT.601 studio-range luma, peak 1, no border cropped",
                _plain(psnr_y)),
        Measure("ssim_y", "SSIM-Y", "higher", "pair", 4, "BT.601 studio-range luma in whole 255ths, 11 x 11 Gaussian",
                _plain(ssim_y)),
        Measure("psnr_rgb", "PSNR-RGB", "higher", "pair", 2, "dB, over the three channels, no border cropped",
                _plain(psnr_rgb)),
        Measure("ssim_rgb", "SSIM-RGB", "higher", "pair", 4, "mean of the three channels, 11 x 11 Gaussian",
                _plain(ssim_rgb)),
        Measure("psnr_y_border4", "PSNR-Y b4", "higher", "pair", 2, "psnr_y without 4 px along each edge",
                _plain(psnr_y, border_px=4)),
        Measure("psnr_rgb_border4", "PSNR-RGB b4", "higher", "pair", 2, "psnr_rgb without 4 px along each edge",
                _plain(psnr_rgb, border_px=4)),
        Measure("lpips_alex", "LPIPS", "lower", "pair", 4, "LPIPS 0.1 on AlexNet",
                partial(_lpips, "alex")),
        Measure("lpips_vgg", "LPIPS-VGG", "lower", "pair", 4, "LPIPS 0.1 on VGG16",
                partial(_lpips, "vgg")),
        Measure("dists", "DISTS", "lower", "pair", 4, "DISTS on VGG16, pictures at their own size",
                lambda device: DISTS().to(device)),
        Measure("niqe", "NIQE", "lower", "single", 2, "luma of YIQ in whole 255ths, as pyiqa",
                lambda device: NIQE("yiq").to(device)),
        Measure("niqe_bt601", "NIQE (BT.601)", "lower", "single", 2, "BT.601 studio-range luma, as BasicSR",
                lambda device: NIQE("bt601").to(device)),
        Measure("musiq", "MUSIQ", "higher", "single", 2, "pyiqa's musiq (KonIQ checkpoint)",
                partial(NoReferenceMeasure, "musiq")),
        Measure("maniqa_koniq", "MANIQA-KonIQ", "higher", "single", 4, "pyiqa's maniqa (KonIQ checkpoint)",
                partial(NoReferenceMeasure, "maniqa_koniq")),
        Measure("maniqa_pipal", "MANIQA-PIPAL", "higher", "single", 4, "pyiqa's maniqa-pipal (PIPAL checkpoint)",
                partial(NoReferenceMeasure, "maniqa_pipal")),
        Measure("clipiqa", "CLIPIQA", "higher", "single", 4, "pyiqa's clipiqa",
                partial(NoReferenceMeasure, "clipiqa")),
        Measure("fid", "FID", "lower", "set", 2, "Inception-v3 of 2015, resized as clean-fid, results against truths",
                load_fid),
        Measure("grid", "grid", "one", "single", 2, "power at periods of 2, 4 and 8 px over its surroundings",
                _plain(grid_parts), GRID_OF_SET, "grid_contrasts"),
    )
}
# fmt: on
#: Names of measures that came by :func:`register_measure`.
_registered: set[str] = set()


def register_measure(measure: Measure) -> Measure:
    """Add a user's measure, which ``--metrics``, protocols, tables and reports then know by name; return it.

    Args:
        measure: with a ``load`` that gives, for a device, a function of results and truths ([B, 3, H, W] float RGB in
            [0, 1] each; only of results for ``single``) to [B].

    Raises:
        OptionError: it is no Measure, the name is taken, or a field has a value that is not allowed.
    """
    if not isinstance(measure, Measure):
        raise OptionError(f"the measure is {measure!r}; give a Measure, see s3diff.evaluation.Measure")
    if measure.name in MEASURES:
        raise OptionError(f"the measure {measure.name!r} is there already; give yours another name")
    if not isinstance(measure.name, str) or not re.fullmatch("[a-z][a-z0-9_]*", measure.name):
        raise OptionError(f"a measure's name is {measure.name!r}; give small letters, digits and _, such as my_metric")
    for field, allowed in (("better", ("higher", "lower", "one")), ("compares", ("pair", "single", "set"))):
        if getattr(measure, field) not in allowed:
            given = getattr(measure, field)
            raise OptionError(f"{field} of the measure {measure.name} is {given!r}; give one of {', '.join(allowed)}")
    if not callable(measure.load):
        raise OptionError(f"load of the measure {measure.name} is {measure.load!r}; give a function of a torch.device")
    MEASURES[measure.name] = measure
    _registered.add(measure.name)
    return measure


def is_registered(name: str) -> bool:
    """Check whether a measure is a user's own, which may compute something else in the next run."""
    return name in _registered


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """Check names of measures, and leave repetitions out.

    Raises:
        OptionError: one does not exist, or there is none.
    """
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        given = f"{unknown[0]!r} does not exist" if unknown else "none is given"
        raise OptionError(f"metrics: {given}; give one or more of {', '.join(MEASURES)}")
    return tuple(dict.fromkeys(names))


def load_measures(names: Sequence[str], device: torch.device) -> tuple[dict[str, ScoreBatch], dict[str, str]]:
    """Load the measures of pictures, each once; :func:`load_set_measures` has those of sets.

    Args:
        names: of ``MEASURES``.

    Returns:
        The measures that can be computed, and why not for each of the others.
    """
    loaded, left_out = _loaded([name for name in names if MEASURES[name].compares != "set"], device)
    return {name: _score_batch(MEASURES[name], measure) for name, measure in loaded.items()}, left_out


def load_set_measures(names: Sequence[str], device: torch.device) -> tuple[dict[str, ScoreSet], dict[str, str]]:
    """Load the measures of whole sets; see :func:`load_measures`."""
    loaded, left_out = _loaded([name for name in names if MEASURES[name].compares == "set"], device)
    return {name: _score_set(name, measure) for name, measure in loaded.items()}, left_out


def _loaded(names: Sequence[str], device: torch.device) -> tuple[dict[str, Any], dict[str, str]]:
    loaded: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name in names:
        try:
            with of_user(name):
                loaded[name] = MEASURES[name].load(device)
            if not callable(loaded[name]):
                raise OptionError(f"load of the measure {name} gave {loaded[name]!r}; give a function")
        except (MissingExtraError, DownloadError, ModelError) as error:
            left_out[name] = str(error)
    return loaded, left_out


def of_user(name: str) -> AbstractContextManager[None]:
    """Turn any exception of a user's own measure into one line that names it; ours pass as they are."""
    return told_in_one_line("measure", f"the measure {name}") if is_registered(name) else nullcontext()


def _score_set(name: str, measure: ScoreSet) -> ScoreSet:
    def score(results: Iterable[torch.Tensor], truths: Iterable[torch.Tensor]) -> float:
        with of_user(name):
            return float(measure(results, truths))

    return score


def _score_batch(row: Measure, measure: Callable[..., torch.Tensor]) -> ScoreBatch:
    def score(result: torch.Tensor, truth: torch.Tensor | None) -> torch.Tensor:
        with of_user(row.name):
            if row.compares == "single":
                scores = measure(result)
            else:
                assert truth is not None, "a pair measure is asked for where there is a truth"
                scores = measure(result, truth)
        if not isinstance(scores, torch.Tensor) or scores.ndim == 0 or len(scores) != len(result):
            given = list(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
            raise OptionError(f"the measure {row.name} gave {given} for {len(result)} pictures; give [{len(result)}]")
        return scores

    return score
