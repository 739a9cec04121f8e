"""Make low-quality pictures, record the random draws, and make the same pictures again from a record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from s3diff.atomic_write import write_atomically
from s3diff.checkpoints.config_json import from_json, to_json
from s3diff.degradation.application import MIN_SIDE_PX, DegradationDraw, apply
from s3diff.degradation.records import from_records, to_records
from s3diff.degradation.settings import PRESETS, DegradationSettings, DegradeOptions
from s3diff.degradation.synthesis import draw_by_name
from s3diff.errors import OptionError, OutputError, PictureError
from s3diff.folders.plan import RestoreJob, distinct_jobs, is_earlier_result, place_of, plan_jobs
from s3diff.images.files.reading import read_picture
from s3diff.images.files.writing import check_writable, write_picture
from s3diff.images.picture import Picture, rgb_8_bits
from s3diff.messages import reason_of
from s3diff.version import __version__

#: Name of the record in an output folder; the record of a single picture is its name with .json.
RECORD_NAME = "degradations.json"
_FORMAT, _FORMAT_VERSION = "s3diff-degradations", 1
_TEXTS = ("name", "source", "source_sha256", "low_quality_sha256")
_ENTRY_FIELDS = (*_TEXTS, "source_bytes", "crop_px", "degradation")


@dataclass(frozen=True)
class DegradeJob:
    """Hold the paths of one picture to degrade.

    Attributes:
        source: the ground truth's file.
        target: the low-quality picture to write.
        source_name: the source's path relative to the input, with "/"; the draw depends on it.
        name: the target's path relative to the output, with "/".
        truth: path of the cropped ground truth; None writes none.
        recorded: the picture's entry in a record, where it is made again.
    """

    source: Path
    target: Path
    source_name: str
    name: str
    truth: Path | None = None
    recorded: Recorded | None = None


@dataclass(frozen=True)
class Recorded:
    """Hold one picture's validated entry of a record; ``source``: the bytes and SHA-256 of its ground truth."""

    name: str
    source_name: str
    source: dict[str, Any]
    low_quality_sha256: str
    drawn: DegradationDraw
    made_with: str


def degrade_pictures(
    jobs: Sequence[DegradeJob], options: DegradeOptions | None, record: Path | None = None
) -> Generator[tuple[DegradeJob, Sequence[str], PictureError | OutputError | None], None, None]:
    """Make every picture; yield each job with its notes, or with the error of a picture that cannot be made.

    Args:
        options: for every picture; None makes pictures again by their records.
        record: file of the drawn parameters, which is written at the end, also when the caller stops early.
    """
    entries: list[dict[str, Any]] = []
    try:
        for job in jobs:
            try:
                if options is None:
                    notes = rebuild_picture(job)
                else:
                    entry, notes = degrade_picture(job, options)
                    entries.append(entry)
            except (PictureError, OutputError) as error:
                yield job, (), error
            else:
                yield job, notes, None
    finally:
        if record is not None and options is not None and entries:
            write_record(record, options, entries)


# ---------------------------------------------------------------------------------------------- planning


def plan_degrading(source: str, output: str, truth: str | None, *, recursive: bool) -> tuple[list[DegradeJob], Path]:
    """Pair every ground truth with its low-quality picture, and choose the record's path.

    Args:
        source: a picture or a folder.
        output: a .png file for one picture, otherwise a folder, in which a picture keeps its relative path except
            for the extension.
        truth: folder for the cropped ground truths, under the names of the low-quality pictures.
        recursive: descend into folders, the output and the truth folder excepted.

    Raises:
        PictureError: the input does not exist or holds no picture.
        OutputError: an output is an input or another's output, or cannot be written.
    """
    planned = plan_jobs([source], output, recursive=recursive).jobs
    root, folder = Path(source), Path(output)
    is_file = len(planned) == 1 and planned[0].target == folder
    if truth is not None and root.is_dir():
        planned = [job for job in planned if not is_earlier_result(job.source, root, Path(truth))]
    jobs = []
    for job in planned:
        relative = job.source.relative_to(root) if root.is_dir() else Path(job.source.name)
        name = Path(folder.name) if is_file else relative.with_suffix(".png")
        jobs.append(DegradeJob(job.source, folder if is_file else folder / name, relative.as_posix(), name.as_posix()))
    if not jobs:
        raise PictureError(f"{source} holds no pictures but those of {truth}; give another folder")
    record = folder.with_suffix(".json") if is_file else folder / RECORD_NAME
    return _with_truth(jobs, truth), _free_record(record)


def plan_rebuilding(source: str, output: str, truth: str | None, record: str) -> list[DegradeJob]:
    """List the jobs that make the pictures of a record again; only the record is read.

    Raises:
        OptionError: the file is no record, or lists several pictures although the output is one file.
        OutputError: an output is an input or another's output, or cannot be written.
    """
    recorded, root, folder = read_record(Path(record)), Path(source), Path(output)
    if not source or not output:
        raise OptionError("a name is empty; give INPUT and OUTPUT, the second one may be new")
    if not root.is_dir():
        if len(recorded) > 1:
            raise OptionError(f"{record} is of {len(recorded)} pictures, but {source} is no folder; give their folder")
        target = folder if folder.suffix.lower() == ".png" and not folder.is_dir() else folder / recorded[0].name
        jobs = [DegradeJob(root, target, recorded[0].source_name, recorded[0].name, recorded=recorded[0])]
    else:
        jobs = [
            DegradeJob(root / one.source_name, folder / one.name, one.source_name, one.name, recorded=one)
            for one in recorded
        ]
    return _with_truth(jobs, truth)


def _with_truth(jobs: list[DegradeJob], truth: str | None) -> list[DegradeJob]:
    """Add the ground truths' paths to the jobs, and check all paths."""
    if truth is not None:
        jobs = [replace(job, truth=Path(truth) / job.name) for job in jobs]
    low_quality = [job.target for job in jobs]
    truths = [job.truth for job in jobs if job.truth is not None]
    firsts: dict[object, DegradeJob] = {}
    for job in jobs:
        if (first := firsts.setdefault(place_of(job.target), job)) is not job:
            raise OutputError(
                f"{first.source} and {job.source} would both be written to {job.target}; "
                "rename one of them, or degrade them into different folders"
            )
    for targets in filter(None, (low_quality, truths)):
        distinct_jobs([RestoreJob(job.source, target) for job, target in zip(jobs, targets, strict=True)])
        for target in targets:
            if target.suffix.lower() != ".png":
                raise OutputError(f"{target}: low-quality pictures are written only as PNG; end the name in .png")
            check_writable(target)
    if taken := {place_of(path) for path in low_quality} & {place_of(path) for path in truths}:
        raise OutputError(f"{truth} is where the low-quality pictures go ({len(taken)} alike); give --truth another")
    return jobs


def _free_record(path: Path) -> Path:
    """Return the record's path; refuse to replace a file that is no record."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder, but the drawn parameters go there; remove it or choose another output")
    if path.exists():
        try:
            _read_format(path)
        except OptionError as error:
            raise OutputError(f"{path} is in the way of the drawn parameters and is no record; move it") from error
    return path


# ---------------------------------------------------------------------------------------------- the work


def degrade_picture(job: DegradeJob, options: DegradeOptions) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Make one low-quality picture; the draw depends only on the seed and the picture's relative path.

    Returns:
        Its entry in the record, and notes on omissions.

    Raises:
        PictureError: it cannot be read, or is too small.
        OutputError: it cannot be written.
    """
    picture, identity = _read(job.source)
    height, width = (side - side % options.scale for side in (picture.height, picture.width))
    if min(height, width) < MIN_SIDE_PX * options.scale:
        raise PictureError(
            f"{job.source} is {picture.width} x {picture.height} px; scale {options.scale} needs at least "
            f"{MIN_SIDE_PX * options.scale} px a side; give a larger picture or a smaller scale"
        )
    drawn = draw_by_name(PRESETS[options.preset], height, width, options.scale, options.seed, job.source_name)
    made_sha256 = _make(job, picture, drawn)
    entry = {
        "name": job.name,
        "source": job.source_name,
        **identity,
        "crop_px": {"top": 0, "left": 0, "height": height, "width": width},
        "low_quality_sha256": made_sha256,
        "degradation": to_records(drawn)[0],
    }
    return entry, _notes(picture)


def rebuild_picture(job: DegradeJob) -> tuple[str, ...]:
    """Make one low-quality picture again from its record; return notes on omissions.

    Raises:
        PictureError: the source is missing or changed, or the result's pixels differ from the recorded ones.
        OutputError: it cannot be written.
    """
    recorded = job.recorded
    assert recorded is not None, "a job of plan_rebuilding"
    if not job.source.exists():
        raise PictureError(f"{job.source} is missing; put back the picture that the record was made of")
    picture, identity = _read(job.source)
    height, width = recorded.drawn.ground_truth_size_px
    if identity != recorded.source or height > picture.height or width > picture.width:
        raise PictureError(f"{job.source} has changed since the record was made; put back the picture it was made of")
    if _make(job, picture, recorded.drawn) != recorded.low_quality_sha256:
        raise PictureError(
            f"{job.target} is made, but has other pixels than when recorded ({recorded.made_with}, "
            f"now {_made_with(_versions())}); use those versions for an exact copy"
        )
    return _notes(picture)


def _make(job: DegradeJob, picture: Picture, drawn: DegradationDraw) -> str:
    """Write the low-quality picture and, if wanted, the truth; return the SHA-256 of the former's pixels."""
    height, width = drawn.ground_truth_size_px
    truth = rgb_8_bits(picture)[:height, :width]
    image = torch.from_numpy(np.ascontiguousarray(truth.transpose(2, 0, 1)))[None].float() / 255
    levels = (apply(image, drawn)[0] * 255).round().to(torch.uint8)
    pixels = np.ascontiguousarray(levels.permute(1, 2, 0).numpy())
    profile = None if picture.is_grey else picture.icc_profile
    if job.truth is not None:
        write_picture(Picture(truth, icc_profile=profile), job.truth)
    write_picture(Picture(pixels, icc_profile=profile), job.target)
    return hashlib.sha256(pixels.data).hexdigest()


def _read(path: Path) -> tuple[Picture, dict[str, Any]]:
    picture = read_picture(path)
    data = path.read_bytes()
    return picture, {"source_bytes": len(data), "source_sha256": hashlib.sha256(data).hexdigest()}


def _notes(picture: Picture) -> tuple[str, ...]:
    return (*picture.notes, *(["transparency was left out"] if picture.is_transparent else []))


# ---------------------------------------------------------------------------------------------- the record


def write_record(path: Path, options: DegradeOptions, entries: Iterable[dict[str, Any]]) -> None:
    """Write the record of the draws, whole or not at all.

    Raises:
        OutputError: it cannot be written there.
    """
    record = {
        "format": _FORMAT,
        "version": _FORMAT_VERSION,
        "preset": options.preset,
        "scale": options.scale,
        "seed": options.seed,
        "versions": _versions(),
        "settings": to_json(PRESETS[options.preset]),
        "pictures": list(entries),
    }
    write_atomically(json.dumps(record, indent=1, allow_nan=False) + "\n", path)


def read_record(path: Path) -> list[Recorded]:
    """Read the pictures of a record, and validate every value.

    Raises:
        OptionError: the file cannot be read, is no record, or one of its values is missing or not allowed.
        ModelError: a value of its settings is not allowed.
    """
    record = _read_format(path)
    settings = from_json(DegradationSettings, record.get("settings"), f"{path}: settings")
    entries, made_with = record.get("pictures"), _made_with(record.get("versions"))
    if not isinstance(entries, list) or not entries:
        raise OptionError(f"{path} names no pictures; give a record that `s3diff degrade` wrote")
    found = []
    for number, entry in enumerate(entries):
        try:
            found.append(_recorded(entry, settings, made_with))
        except OptionError as error:
            raise OptionError(f"{path}: pictures[{number}]: {error}") from error
    return found


def _recorded(entry: Any, settings: DegradationSettings, made_with: str) -> Recorded:
    if not isinstance(entry, dict) or any(name not in entry for name in _ENTRY_FIELDS):
        raise OptionError(f"an entry needs {', '.join(_ENTRY_FIELDS)}; give the record as it was written")
    if wrong := [name for name in _TEXTS if not isinstance(entry[name], str)]:
        raise OptionError(f"{wrong[0]} is {entry[wrong[0]]!r}; a text is needed")
    for name in (entry["name"], entry["source"]):
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or "\0" in name or Path(name).is_absolute() or Path(name).drive:
            raise OptionError(f"{name!r} is no name inside the folder; give the record as it was written")
    drawn = from_records([entry["degradation"]], settings)
    height, width = drawn.ground_truth_size_px
    if entry["crop_px"] != {"top": 0, "left": 0, "height": height, "width": width}:
        raise OptionError(f"crop_px is {entry['crop_px']!r} for a draw of {height} x {width} px; both must agree")
    return Recorded(
        name=entry["name"],
        source_name=entry["source"],
        source={name: entry[name] for name in ("source_bytes", "source_sha256")},
        low_quality_sha256=entry["low_quality_sha256"],
        drawn=drawn,
        made_with=made_with,
    )


def _read_format(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise OptionError(
            f"{path} cannot be read ({reason_of(error)}); give a record that `s3diff degrade` wrote"
        ) from error
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path} is no JSON; give a record that `s3diff degrade` wrote") from error
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise OptionError(f"{path} is no record of degradations; give one that `s3diff degrade` wrote")
    if record.get("version") != _FORMAT_VERSION:
        given = record.get("version")
        raise OptionError(f"{path} is of version {given!r}, known is {_FORMAT_VERSION}; a newer s3diff may be needed")
    return record


def _versions() -> dict[str, str]:
    return {"s3diff": __version__, "torch": torch.__version__}


def _made_with(versions: Any) -> str:
    known = versions if isinstance(versions, dict) else {}
    return ", ".join(f"{name} {known.get(name, 'unknown')}" for name in ("s3diff", "torch"))
