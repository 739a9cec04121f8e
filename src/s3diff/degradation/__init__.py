"""Degrade ground truth: the synthesis of arXiv 2409.17058, section 4 and the Real-ESRGAN paper."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3diff.lazy_names import lazy_names

if TYPE_CHECKING:
    from s3diff.degradation.application import apply
    from s3diff.degradation.degrade import Degrade
    from s3diff.degradation.drawn import DegradationDraw
    from s3diff.degradation.settings import PRESETS, DegradationSettings, StageSettings
    from s3diff.degradation.synthesis import draw

__all__ = ["PRESETS", "DegradationDraw", "DegradationSettings", "Degrade", "StageSettings", "apply", "draw"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "PRESETS": "s3diff.degradation.settings",
        "DegradationDraw": "s3diff.degradation.drawn",
        "DegradationSettings": "s3diff.degradation.settings",
        "Degrade": "s3diff.degradation.degrade",
        "StageSettings": "s3diff.degradation.settings",
        "apply": "s3diff.degradation.application",
        "draw": "s3diff.degradation.synthesis",
    },
)
