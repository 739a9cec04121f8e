"""Every measure by name. The name says all that its figure depends on: colour, border, network, checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from s3diff.errors import DownloadError, MissingExtraError, ModelError, OptionError
from s3diff.evaluation.iqa_extra import PYIQA_NAMES, NoReferenceMeasure
from s3diff.evaluation.metrics import psnr_rgb, psnr_y, ssim_rgb, ssim_y
from s3diff.evaluation.niqe import NIQE
from s3diff.evaluation.perceptual import DISTS, LPIPS
from s3diff.evaluation.spectrum import grid_contrasts, grid_measure

#: Takes results and truths, [B, 3, H, W] float RGB in [0, 1] each (the truths None where there are none); gives [B].
ScoreBatch = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


@dataclass(frozen=True)
class Measure:
    """What is known of a measure without loading anything.

    Attributes:
        name: what options, protocols and result files call it.
        label: what tables call it.
        better: ``higher``, ``lower``, or ``one``: 1 is best.
        compares: ``pair``: result with truth; ``single``: the result alone; ``set``: all results with all truths.
        num_decimals: in tables.
        definition: one sentence.
    """

    name: str
    label: str
    better: Literal["higher", "lower", "one"]
    compares: Literal["pair", "single", "set"]
    num_decimals: int
    definition: str


MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure("psnr_y", "PSNR-Y", "higher", "pair", 2, "dB, BT.601 studio-range luma, peak 1, no border cropped"),
        Measure("ssim_y", "SSIM-Y", "higher", "pair", 4, "BT.601 studio-range luma in whole 255ths, 11 x 11 Gaussian"),
        Measure("psnr_rgb", "PSNR-RGB", "higher", "pair", 2, "dB, over the three channels, no border cropped"),
        Measure("ssim_rgb", "SSIM-RGB", "higher", "pair", 4, "mean of the three channels, 11 x 11 Gaussian"),
        Measure("psnr_y_border4", "PSNR-Y b4", "higher", "pair", 2, "psnr_y without 4 px along each edge"),
        Measure("psnr_rgb_border4", "PSNR-RGB b4", "higher", "pair", 2, "psnr_rgb without 4 px along each edge"),
        Measure("lpips_alex", "LPIPS", "lower", "pair", 4, "LPIPS 0.1 on AlexNet"),
        Measure("lpips_vgg", "LPIPS-VGG", "lower", "pair", 4, "LPIPS 0.1 on VGG16"),
        Measure("dists", "DISTS", "lower", "pair", 4, "DISTS on VGG16, pictures at their own size"),
        Measure("niqe", "NIQE", "lower", "single", 2, "luma of YIQ in whole 255ths, as pyiqa"),
        Measure("niqe_bt601", "NIQE (BT.601)", "lower", "single", 2, "BT.601 studio-range luma, as BasicSR"),
        Measure("musiq", "MUSIQ", "higher", "single", 2, "pyiqa's musiq (KonIQ checkpoint)"),
        Measure("maniqa_koniq", "MANIQA-KonIQ", "higher", "single", 4, "pyiqa's maniqa (KonIQ checkpoint)"),
        Measure("maniqa_pipal", "MANIQA-PIPAL", "higher", "single", 4, "pyiqa's maniqa-pipal (PIPAL checkpoint)"),
        Measure("clipiqa", "CLIPIQA", "higher", "single", 4, "pyiqa's clipiqa"),
        Measure("fid", "FID", "lower", "set", 2, "Inception-v3 of 2015, resized as clean-fid, results against truths"),
        Measure("grid", "grid", "one", "single", 2, "power at periods of 2, 4 and 8 px over its surroundings"),
    )
}


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names without repetitions.

    Raises:
        OptionError: one does not exist, or there is none.
    """
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        given = f"{unknown[0]!r} does not exist" if unknown else "none is given"
        raise OptionError(f"metrics: {given}; give one or more of {', '.join(MEASURES)}")
    return tuple(dict.fromkeys(names))


def load_measures(names: Sequence[str], device: torch.device) -> tuple[dict[str, ScoreBatch], dict[str, str]]:
    """Load what the measures need, each once; ``set`` measures are left to :mod:`s3diff.evaluation.fid`.

    Args:
        names: of ``MEASURES``.
        device: where their networks run.

    Returns:
        The measures that can be computed, and why not for each of the others.
    """
    loaded: dict[str, ScoreBatch] = {}
    left_out: dict[str, str] = {}
    for name in names:
        if MEASURES[name].compares == "set":
            continue
        try:
            loaded[name] = _load(name, device)
        except (MissingExtraError, DownloadError, ModelError) as error:
            left_out[name] = str(error)
    return loaded, left_out


def _load(name: str, device: torch.device) -> ScoreBatch:
    pair: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
        "psnr_y": psnr_y,
        "ssim_y": ssim_y,
        "psnr_rgb": psnr_rgb,
        "ssim_rgb": ssim_rgb,
        "psnr_y_border4": partial(psnr_y, border_px=4),
        "psnr_rgb_border4": partial(psnr_rgb, border_px=4),
    }
    if name in pair:
        return _comparing(pair[name])
    if name in ("lpips_alex", "lpips_vgg"):
        lpips = LPIPS("alex" if name == "lpips_alex" else "vgg").to(device)
        return _comparing(lambda result, truth: lpips(2 * result - 1, 2 * truth - 1))
    if name == "dists":
        return _comparing(DISTS().to(device))
    if name in PYIQA_NAMES:
        return _looking(NoReferenceMeasure(name, device))
    if name == "grid":
        return _looking(lambda result: torch.tensor([grid_measure([c[None]]).contrast for c in grid_contrasts(result)]))
    return _looking(NIQE("bt601" if name == "niqe_bt601" else "yiq").to(device))


def _comparing(measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> ScoreBatch:
    def score(result: torch.Tensor, truth: torch.Tensor | None) -> torch.Tensor:
        assert truth is not None, "a pair measure is asked for where there is a truth"
        return measure(result, truth)

    return score


def _looking(measure: Callable[[torch.Tensor], torch.Tensor]) -> ScoreBatch:
    return lambda result, truth: measure(result)
