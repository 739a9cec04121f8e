"""Convert draws to plain values that JSON keeps exactly, one record for each image, and back.

Whole numbers, truth values and float64 numbers survive JSON unchanged; kernel families, resizes and kinds of noise are
written by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from s3diff.degradation.application import MIN_SIDE_PX, NOISE_KINDS, DegradationDraw, StageDraw
from s3diff.degradation.kernels import KERNEL_FAMILIES, PADDED_SIDE_PX, KernelParameters
from s3diff.degradation.resize import RESIZE_MODES
from s3diff.degradation.settings import DegradationSettings
from s3diff.errors import OptionError

_LARGEST_SIDE_PX = 10**6
#: Two below the limit of torch's seeds: a stage's number is added.
_LARGEST_SEED = 2**63 - 3


class _Number(NamedTuple):
    """Describe the allowed values of one entry of a record."""

    dtype: torch.dtype
    low: float
    high: float
    allowed: str


def _whole(low: int, high: int) -> _Number:
    return _Number(torch.int64, low, high, f"a whole number from {low} to {high}")


def _real(low: float, high: float) -> _Number:
    return _Number(torch.float64, low, high, f"a number from {low:g} to {high:g}")


_SIDE_PX = _whole(MIN_SIDE_PX, _LARGEST_SIDE_PX)
_SEED = _whole(0, _LARGEST_SEED)
_TRUTH = _Number(torch.bool, 0, 1, "true or false")
_SIGMA_PX = _real(1e-3, 1e3)
_KERNEL_FIELDS: dict[str, _Number | tuple[str, ...]] = {
    "family": KERNEL_FAMILIES,
    "side_px": _whole(1, PADDED_SIDE_PX),
    "sigma_x_px": _SIGMA_PX,
    "sigma_y_px": _SIGMA_PX,
    "rotation": _real(-10, 10),
    "beta": _real(1e-3, 1e3),
    "cutoff": _real(1e-3, math.pi),
}
_STAGE_FIELDS: dict[str, _Number | tuple[str, ...]] = {
    "resize_mode": RESIZE_MODES,
    "noise_kind": NOISE_KINDS,
    "noise_strength": _real(0, 1e3),
    "noise_is_grey": _TRUTH,
    "jpeg_quality": _real(0, 100),
}
_FIELDS = (
    "ground_truth_size_px",
    "low_quality_size_px",
    "stages",
    "final_mode",
    "final_sinc",
    "jpeg_is_last",
    "noise_seed",
    "shared_noise_seed",
)


def to_records(drawn: DegradationDraw) -> list[dict[str, Any]]:
    """Return a record of plain values for each image of a draw; its settings are stored separately."""
    images = range(drawn.batch_size)
    return _by_image(
        {
            "ground_truth_size_px": [list(drawn.ground_truth_size_px) for _ in images],
            "low_quality_size_px": [list(drawn.low_quality_size_px) for _ in images],
            "stages": [list(both) for both in zip(*map(_stage_values, drawn.stages), strict=True)],
            "final_mode": _plain(drawn.final_mode, RESIZE_MODES),
            "final_sinc": _kernel_values(drawn.final_sinc),
            "jpeg_is_last": drawn.jpeg_is_last.tolist(),
            "noise_seed": drawn.noise_seeds.tolist(),
            "shared_noise_seed": [drawn.shared_noise_seed for _ in images],
        }
    )


def from_records(records: Sequence[Any], settings: DegradationSettings) -> DegradationDraw:
    """Rebuild the draw of ``to_records``: every field equal, so that ``apply`` gives equal bits.

    Args:
        records: one for each image, all of one size.
        settings: the ranges that the numbers were drawn from.

    Raises:
        OptionError: names the field that is missing, unknown, no such value or out of range.
    """
    if not records:
        raise OptionError("there are 0 records; give one for each image")
    found = [_require_fields(record, _FIELDS, "a record") for record in records]
    for name in ("ground_truth_size_px", "low_quality_size_px", "shared_noise_seed"):
        if any(record[name] != found[0][name] for record in found):
            raise OptionError(f"{name} differs between the records of one draw; give those of one batch")
    if any(not isinstance(record["stages"], list) or len(record["stages"]) != 2 for record in found):
        raise OptionError("stages is no list of 2; give the first and the second stage")
    return DegradationDraw(
        settings=settings,
        ground_truth_size_px=_size(found[0]["ground_truth_size_px"], "ground_truth_size_px"),
        low_quality_size_px=_size(found[0]["low_quality_size_px"], "low_quality_size_px"),
        stages=(
            _stage([record["stages"][0] for record in found], "stages[0]"),
            _stage([record["stages"][1] for record in found], "stages[1]"),
        ),
        final_mode=_column(found, "final_mode", RESIZE_MODES, ""),
        final_sinc=_kernels([record["final_sinc"] for record in found], "final_sinc"),
        jpeg_is_last=_column(found, "jpeg_is_last", _TRUTH, ""),
        noise_seeds=_column(found, "noise_seed", _SEED, ""),
        shared_noise_seed=int(_column(found[:1], "shared_noise_seed", _SEED, "")),
    )


def _stage_values(stage: StageDraw) -> list[dict[str, Any]]:
    columns = {"blur": _kernel_values(stage.blur), "size_px": stage.size_px.tolist()}
    columns |= {name: _plain(getattr(stage, name), kind) for name, kind in _STAGE_FIELDS.items()}
    return _by_image(columns)


def _kernel_values(parameters: KernelParameters) -> list[dict[str, Any]]:
    return _by_image({name: _plain(getattr(parameters, name), kind) for name, kind in _KERNEL_FIELDS.items()})


def _plain(values: Tensor, kind: _Number | tuple[str, ...]) -> list[Any]:
    return [kind[index] for index in values.tolist()] if not isinstance(kind, _Number) else values.tolist()


def _by_image(columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _stage(records: list[Any], where: str) -> StageDraw:
    found = [_require_fields(record, ("blur", "size_px", *_STAGE_FIELDS), where) for record in records]
    columns = {name: _column(found, name, kind, f"{where}.") for name, kind in _STAGE_FIELDS.items()}
    sizes = [_size(record["size_px"], f"{where}.size_px") for record in found]
    if any(0 < quality < 1 for quality in columns["jpeg_quality"].tolist()):
        raise OptionError(f"{where}.jpeg_quality is between 0 and 1; give 1 to 100, or 0 for no JPEG")
    blur = _kernels([record["blur"] for record in found], f"{where}.blur")
    return StageDraw(blur=blur, size_px=torch.tensor(sizes), **columns)


def _kernels(records: list[Any], where: str) -> KernelParameters:
    found = [_require_fields(record, tuple(_KERNEL_FIELDS), where) for record in records]
    columns = {name: _column(found, name, kind, f"{where}.") for name, kind in _KERNEL_FIELDS.items()}
    if bool((columns["side_px"] % 2 == 0).any()):
        raise OptionError(f"{where}.side_px is {columns['side_px'].tolist()}; give odd sides")
    return KernelParameters(**columns)


def _column(records: list[Mapping[str, Any]], name: str, kind: _Number | tuple[str, ...], where: str) -> Tensor:
    values = [record[name] for record in records]
    if not isinstance(kind, _Number):
        if unknown := [value for value in values if value not in kind]:
            raise OptionError(f"{where}{name} is {unknown[0]!r}; give one of {', '.join(kind)}")
        return torch.tensor([kind.index(value) for value in values])
    for value in values:
        _require_number(value, kind, f"{where}{name}")
    return torch.tensor(values, dtype=kind.dtype)


def _size(value: Any, where: str) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise OptionError(f"{where} is {value!r}; give height and width in pixels")
    for side in value:
        _require_number(side, _SIDE_PX, where)
    return value[0], value[1]


def _require_number(value: Any, kind: _Number, where: str) -> None:
    types = {torch.bool: (bool,), torch.int64: (int,), torch.float64: (int, float)}[kind.dtype]
    if type(value) not in types or not kind.low <= value <= kind.high:
        raise OptionError(f"{where} is {value!r}; give {kind.allowed}")


def _require_fields(record: Any, names: tuple[str, ...], where: str) -> Mapping[str, Any]:
    if not isinstance(record, Mapping):
        raise OptionError(f"{where} is {record!r}; give an object with the fields {', '.join(names)}")
    if missing := [name for name in names if name not in record]:
        raise OptionError(f"{where} lacks {', '.join(missing)}; give the record as it was written")
    if unknown := [str(name) for name in record if name not in names]:
        raise OptionError(f"{where} has the unknown field {', '.join(unknown)}; a newer s3diff may be needed")
    return record
