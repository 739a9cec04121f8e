"""Degrade ground truth: the synthesis of arXiv 2409.17058, section 4 and the Real-ESRGAN paper."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3diff.lazy_names import lazy_names

if TYPE_CHECKING:
    from s3diff.degradation.application import DegradationDraw, apply
    from s3diff.degradation.settings import PRESETS, DegradationSettings, StageSettings
    from s3diff.degradation.synthesis import Degrade, draw

__all__ = ["PRESETS", "DegradationDraw", "DegradationSettings", "Degrade", "StageSettings", "apply", "draw"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "s3diff.degradation.application": ("DegradationDraw", "apply"),
        "s3diff.degradation.settings": ("PRESETS", "DegradationSettings", "StageSettings"),
        "s3diff.degradation.synthesis": ("Degrade", "draw"),
    },
)
