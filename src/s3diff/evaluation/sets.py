"""Find the pictures of an evaluation: pairs, truths that are degraded on the spot, or pictures without truth.

Pairing is by name: the path inside the folder without its extension, in Unicode's composed form, which file systems
keep or take apart as they like. Folders inside are looked into as ``s3diff restore -r`` does.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s3diff.degradation.application import MIN_SIDE_PX, apply
from s3diff.degradation.settings import PRESETS, DegradeOptions
from s3diff.degradation.synthesis import draw_by_name
from s3diff.errors import OptionError, PictureError
from s3diff.images.files.reading import list_pictures, read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import Picture, to_tensor

#: Published sets that ``--set`` takes by name, and what they hold. Their pictures are not shipped: they are looked for
#: in the folder of that name inside ``S3DIFF_SETS``.
NAMED_SETS = {
    "realsr": "the 100 crops of RealSR, lr 128 px, hr 512 px",
    "drealsr": "the 93 crops of DRealSR, lr 128 px, hr 512 px",
    "div2k-val": "the 3000 degraded crops of DIV2K-Val, lr 128 px, hr 512 px",
    "reallr200": "200 pictures without truth",
    "reallq250": "250 pictures without truth",
    "realset65": "65 pictures without truth",
}
#: The environment variable with the folder of named sets.
SETS_VARIABLE = "S3DIFF_SETS"
#: Names of the two folders of a set of pairs, in any case.
LOW_QUALITY_NAMES = ("lr", "lq", "low_quality", "test_lr")
TRUTH_NAMES = ("hr", "gt", "hq", "truth", "test_hr")
_SHOWN_NAMES = 3


@dataclass(frozen=True)
class SetItem:
    """Describe one picture of a set.

    Attributes:
        name: the path inside the set's folder, with ``/`` and without extension; results are paired by it.
        low_quality: the input; None where only results are scored.
        truth: the true picture, None where there is none.
    """

    name: str
    low_quality: Path | None
    truth: Path | None


@dataclass(frozen=True)
class EvaluationSet:
    """Hold the pictures to evaluate on, in the order of their names.

    Attributes:
        items: at least one picture.
        description: facts for reports: the set's kind, folders and, of a degraded one, preset, scale and seed.
    """

    items: tuple[SetItem, ...]
    description: dict[str, Any]

    @property
    def has_truth(self) -> bool:
        """Whether measures that compare can be computed."""
        return all(item.truth is not None for item in self.items)

    def limited(self, num_pictures: int | None) -> EvaluationSet:
        """Take the first pictures only; None for all.

        Raises:
            OptionError: not a number above 0.
        """
        if num_pictures is None or num_pictures >= len(self.items):
            return self
        if num_pictures < 1:
            raise OptionError(f"limit is {num_pictures}; give a whole number of at least 1")
        return EvaluationSet(self.items[:num_pictures], {**self.description, "limit": num_pictures})


# ---------------------------------------------------------------------------------------------- the kinds of sets


def find_set(
    name: str, truth: str | os.PathLike[str] | None = None, degradation: DegradeOptions | None = None, *, work: Path
) -> EvaluationSet:
    """Find the set that ``--set`` means.

    Args:
        name: a folder, or a name of ``NAMED_SETS``. A folder with two folders named as in ``LOW_QUALITY_NAMES`` and
            ``TRUTH_NAMES`` is a set of pairs; one of pictures has no truth unless ``truth`` or ``degradation`` is
            given.
        truth: folder of the truths of the pictures in ``name``.
        degradation: the pictures in ``name`` are truths; their inputs are made this way, as ``s3diff degrade`` makes
            them, byte for byte.
        work: folder for such inputs, and for truths cropped to whole multiples of the scale.

    Raises:
        OptionError: the set is neither a folder nor known, or the options contradict each other.
        PictureError: a folder holds no pictures, or pictures are missing their partner.
        OutputError: inputs cannot be written.
    """
    folder = _set_folder(name)
    if degradation is not None:
        if truth is not None:
            raise OptionError(
                "--preset makes the inputs of truths, so --set is the folder of truths; leave out --truth"
            )
        return _degraded_set(folder, degradation, work)
    if truth is not None:
        return _pairs(folder, Path(truth))
    inner = {child.name.lower(): child for child in sorted(folder.iterdir()) if child.is_dir()}
    low_quality = [inner[known] for known in LOW_QUALITY_NAMES if known in inner]
    truths = [inner[known] for known in TRUTH_NAMES if known in inner]
    if low_quality and truths:
        return _pairs(low_quality[0], truths[0])
    if truths or low_quality:
        half = (truths or low_quality)[0]
        raise PictureError(
            f"{folder} has {half.name} but not its counterpart; a set of pairs has a folder named "
            f"{LOW_QUALITY_NAMES[0]} and one named {TRUTH_NAMES[0]}; give {half} itself for a set without truth"
        )
    paths = _named_pictures(folder, without=work)
    items = tuple(SetItem(stem, path, None) for stem, path in paths.items())
    return EvaluationSet(items, {"kind": "without truth", "low_quality": str(folder)})


def results_set(truth: str | os.PathLike[str] | None, results: Sequence[Path]) -> EvaluationSet:
    """Make the set that only scores results: the truths, or without them the pictures of the first folder.

    Raises:
        PictureError: a folder holds no pictures.
    """
    if truth is None:
        found = _named_pictures(results[0])
        return EvaluationSet(
            tuple(SetItem(stem, None, None) for stem in found), {"kind": "results alone", "results": str(results[0])}
        )
    found = _named_pictures(Path(truth))
    items = tuple(SetItem(stem, None, path) for stem, path in found.items())
    return EvaluationSet(items, {"kind": "truths", "truth": os.fspath(truth)})


def match_results(folder: Path, items: Sequence[SetItem], *, partial: bool) -> dict[str, Path]:
    """Find the result of each picture by its name; an extension may differ.

    Args:
        partial: take only pictures that are on both sides, instead of refusing the rest.

    Raises:
        PictureError: the folder holds no pictures, a result belongs to no picture, or pictures have no result; with
            ``partial``, no name is on both sides.
    """
    found = _named_pictures(folder)
    wanted = {item.name: item for item in items}
    foreign = [_shown(path, folder) for name, path in found.items() if name not in wanted]
    if foreign and (not partial or len(foreign) == len(found)):
        raise PictureError(
            f"{len(foreign)} of {len(found)} results in {folder} have no partner in the set: {_listed(foreign)}; "
            "name them alike, or compare only what both have with --partial"
        )
    missing = [name for name in wanted if name not in found]
    if missing and not partial:
        raise PictureError(
            f"{len(missing)} of {len(wanted)} pictures have no result in {folder}: {_listed(missing)}; add them, or "
            "compare only what both have with --partial (published means are over all)"
        )
    return {stem: path for stem, path in found.items() if stem in wanted}


def _set_folder(name: str) -> Path:
    if not name:
        raise OptionError("the set's name is empty; give a folder or a name")
    folder = Path(name)
    if folder.is_dir():
        return folder
    if name not in NAMED_SETS:
        raise OptionError(
            f"set {name!r} is no folder and no known name; give a folder or one of {', '.join(NAMED_SETS)}"
        )
    root = os.environ.get(SETS_VARIABLE)
    if not root or not (Path(root) / name).is_dir():
        place = str(Path(root) / name) if root else f"$S3DIFF_SETS/{name}, and {SETS_VARIABLE} is not set"
        raise OptionError(
            f"set {name} ({NAMED_SETS[name]}) is not at {place}; get it from its authors, put it there (pairs as lr/ "
            "and hr/), or give its folder"
        )
    return Path(root) / name


def _pairs(low_quality: Path, truth: Path) -> EvaluationSet:
    inputs, truths = _named_pictures(low_quality), _named_pictures(truth)
    for paths, others, folder in ((inputs, truths, truth), (truths, inputs, low_quality)):
        if missing := [name + path.suffix for name, path in paths.items() if name not in others]:
            raise PictureError(
                f"{len(missing)} of {len(paths)} pictures have no partner in {folder}: {_listed(missing)}; "
                "name them alike"
            )
    items = tuple(SetItem(stem, path, truths[stem]) for stem, path in inputs.items())
    return EvaluationSet(items, {"kind": "pairs", "low_quality": str(low_quality), "truth": str(truth)})


def _degraded_set(folder: Path, degradation: DegradeOptions, work: Path) -> EvaluationSet:
    """Make every input anew, which is quick, and write those that are missing or differ."""
    items = []
    for stem, path in _named_pictures(folder, without=work).items():
        low_quality, truth = degraded(path, degradation, path.relative_to(folder).as_posix())
        places = work / "low_quality" / f"{stem}.png", work / "truth" / f"{stem}.png"
        for picture, place in zip((low_quality, truth), places, strict=True):
            if not place.is_file() or not np.array_equal(read_picture(place).pixels, picture.pixels):
                write_picture(picture, place)
        items.append(SetItem(stem, *places))
    description = {
        "kind": "degraded truths",
        "truth": str(folder),
        "preset": degradation.preset,
        "scale": degradation.scale,
        "seed": degradation.seed,
    }
    return EvaluationSet(tuple(items), description)


def degraded(path: Path, degradation: DegradeOptions, name: str) -> tuple[Picture, Picture]:
    """Make the input and the truth, cropped to a multiple of the scale, of one true picture; both RGB of 8 bits.

    Args:
        name: the path inside the set's folder, which the draw depends on besides the seed.

    Raises:
        PictureError: it cannot be read, or is too small for the scale.
    """
    picture = read_picture(path)
    height, width = (side - side % degradation.scale for side in (picture.height, picture.width))
    if min(height, width) < MIN_SIDE_PX * degradation.scale:
        raise PictureError(
            f"{path} is {picture.width} x {picture.height} px; scale {degradation.scale} needs at least "
            f"{MIN_SIDE_PX * degradation.scale} px a side; take it out of the set or give a smaller scale"
        )
    drawn = draw_by_name(PRESETS[degradation.preset], height, width, degradation.scale, degradation.seed, name)
    truth = (to_tensor(picture)[:, :, :height, :width] * 255).round() / 255
    return _as_picture(apply(truth, drawn)), _as_picture(truth)


def _as_picture(image: torch.Tensor) -> Picture:
    levels = (image[0] * 255).round().to(torch.uint8)
    return Picture(np.ascontiguousarray(levels.permute(1, 2, 0).numpy()))


def _named_pictures(folder: Path, *, without: Path | None = None) -> dict[str, Path]:
    """Find the pictures of a folder and of those inside it, by ``SetItem.name``.

    Args:
        without: a folder that may lie inside and whose pictures are no part of the set.
    """
    paths = list_pictures(folder, recursive=True)
    if without is not None:
        work = without.resolve()
        paths = [path for path in paths if work not in path.resolve().parents or work == folder.resolve()]
    if not paths:
        raise PictureError(f"{folder} holds no pictures; give a folder of pictures")
    found: dict[str, Path] = {}
    for path in paths:
        name = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
        if (first := found.setdefault(name, path)) is not path:
            names = " and ".join(_shown(each, folder) for each in (first, path))
            raise PictureError(f"{names} have one name in {folder}; take one of them away")
    return found


def _shown(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return f"{', '.join(names[:_SHOWN_NAMES])}{more}"
