"""Measure how good restored pictures are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3diff.lazy_names import lazy_names

if TYPE_CHECKING:
    from s3diff.evaluation.measures import MEASURES, Measure, register_measure
    from s3diff.evaluation.methods import Method
    from s3diff.evaluation.protocols import PROTOCOLS, Protocol, register_protocol
    from s3diff.evaluation.scoring import Evaluation, evaluate

__all__ = [
    "MEASURES",
    "PROTOCOLS",
    "Evaluation",
    "Measure",
    "Method",
    "Protocol",
    "evaluate",
    "register_measure",
    "register_protocol",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "s3diff.evaluation.measures": ("MEASURES", "Measure", "register_measure"),
        "s3diff.evaluation.methods": ("Method",),
        "s3diff.evaluation.protocols": ("PROTOCOLS", "Protocol", "register_protocol"),
        "s3diff.evaluation.scoring": ("Evaluation", "evaluate"),
    },
)
