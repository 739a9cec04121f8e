"""Write the report of a run as one HTML page: figures, plots and pictures, with nothing to fetch.

The page itself is ``report_page.html``; only data is put into it, so names of files cannot become markup.
"""

from __future__ import annotations

import base64
import html
import json
import re
import tempfile
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from s3diff.atomic_write import write_atomically
from s3diff.evaluation.measures import MEASURES
from s3diff.evaluation.report import csv_text, differences, markdown, set_title, table
from s3diff.evaluation.scorebook import Score
from s3diff.evaluation.scoring import Evaluation, transparency
from s3diff.images.files.reading import read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import Picture, from_tensor, to_tensor
from s3diff.images.resampling import resample
from s3diff.messages import counted

CSV_NAME, MARKDOWN_NAME, PAGE_NAME = "scores.csv", "report.md", "report.html"
#: Pictures whose pixels the page holds: the extremes of every measure first.
MAX_STORED_PICTURES = 24
#: Larger pictures are cropped to their middle, so that the page stays small and shows details at full size.
MAX_STORED_PX = 1024
#: Cases shown at each end of a ranking, and the side of their thumbnails.
NUM_CASES = 4
_THUMBNAIL_PX = 160
#: Of WebP: little is lost, and the figures come from the files themselves.
_QUALITY = 90
#: Fields of a measure that the page needs.
_SHOWN_OF_MEASURES = ("name", "label", "better", "compares", "num_decimals", "definition")
#: Names of the low-quality picture and the truth in the list of methods.
INPUT_LAYER, TRUTH_LAYER = "input", "truth"


def page(evaluation: Evaluation) -> str:
    """Write the whole page as text.

    Raises:
        PictureError: no picture was scored, or one that is to be shown cannot be read again.
    """
    title = f"{', '.join(evaluation.methods)}: {evaluation.protocol.title}"
    # "<" would let a name of a file end the script. ASCII, because such a name need not be Unicode.
    data = json.dumps(_content(evaluation, title), allow_nan=False).replace("<", "\\u003c")
    template = files("s3diff.evaluation").joinpath("report_page.html").read_text("utf-8")
    parts = {"__TITLE__": html.escape(title), "__MARKDOWN__": html.escape(markdown(evaluation)), "__DATA__": data}
    # In one pass: a name may be written as one of the marks, and what was put in is not looked at again.
    return re.sub("|".join(parts), lambda mark: parts[mark[0]], template)


def _content(evaluation: Evaluation, title: str) -> dict[str, Any]:
    by_picture: dict[str, dict[str, Score]] = {item.name: {} for item in evaluation.items}
    for score in evaluation.scores:
        by_picture[score.picture][score.method] = score
    scored = {name: scores for name, scores in by_picture.items() if scores}
    protocol = evaluation.protocol
    how = [
        ("Protocol", f"{protocol.title}: {protocol.source}"),
        *((MEASURES[metric].label, f"{metric}: {MEASURES[metric].definition}") for metric in evaluation.metrics),
        *zip(evaluation.methods, evaluation.identities, strict=True),
        *(("Transparency", text) for method in evaluation.methods if (text := transparency(evaluation.of(method)))),
        *(("Left out", reason) for reason in evaluation.left_out.values()),
        *((f"Failed: {method}", f"{picture}: {reason}") for method, picture, reason in evaluation.failures),
        *((name, value) for name, value in evaluation.made_with.items()),
        ("Set", ", ".join(f"{key} {value}" for key, value in evaluation.set_description.items())),
    ]
    return {
        "title": title,
        "what": f"{counted(len(scored), 'picture')}, {set_title(evaluation)}",
        "caution": protocol.caution,
        "metrics": [
            {name: getattr(MEASURES[metric], name) for name in _SHOWN_OF_MEASURES} for metric in evaluation.metrics
        ],
        "methods": list(evaluation.methods),
        "rows": [
            {**asdict(row), "figures": {name: [f.value, f.low, f.high] for name, f in row.figures.items()}}
            for row in table(evaluation)
        ],
        "paired": _paired(evaluation),
        "pictures": [
            {
                "name": name,
                "scores": {
                    method: {"values": score.values, "seconds": score.seconds, "degrees": score.degrees}
                    for method, score in scores.items()
                },
            }
            for name, scores in scored.items()
        ],
        "num_cases": NUM_CASES,
        "thumbnails": _thumbnails(evaluation, scored),
        "images": _images(evaluation, _stored_names(evaluation, scored)),
        "how": how,
    }


def _paired(evaluation: Evaluation) -> dict[str, dict[str, dict[str, list[float | None]]]]:
    """Compare every method with every other one."""
    return {
        reference: {
            method: {
                metric: [found.mean.value, found.mean.low, found.mean.high, found.share_higher]
                for metric, found in differences(evaluation, method, reference).items()
            }
            for method in evaluation.methods
            if method != reference
        }
        for reference in evaluation.methods
    }


def _rankings(evaluation: Evaluation, scored: dict[str, dict[str, Score]]) -> list[tuple[str, list[str]]]:
    """List (method, pictures by one of its measures), the last methods first."""
    rankings = []
    for method in reversed(evaluation.methods):
        for metric in evaluation.metrics:
            found = sorted(
                (scores[method].values[metric], name)
                for name, scores in scored.items()
                if method in scores and metric in scores[method].values
            )
            rankings.append((method, [name for _, name in found]))
    return rankings


def _stored_names(evaluation: Evaluation, scored: dict[str, dict[str, Score]]) -> list[str]:
    """Choose the pictures to store: both ends of every ranking, in turn."""
    rankings = [names for _, names in _rankings(evaluation, scored)]
    rankings += [names[::-1] for names in rankings]
    chosen: dict[str, None] = {}
    for place in range(len(scored)):
        for ranked in rankings:
            if place < len(ranked) and len(chosen) < MAX_STORED_PICTURES:
                chosen.setdefault(ranked[place])
    return [name for name in scored if name in chosen]


def _thumbnails(evaluation: Evaluation, scored: dict[str, dict[str, Score]]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {method: {} for method in evaluation.methods}
    with tempfile.TemporaryDirectory(prefix="s3diff-page-") as scratch:
        for method, ranked in _rankings(evaluation, scored):
            for name in {*ranked[:NUM_CASES], *ranked[-NUM_CASES:]} - found[method].keys():
                path = evaluation.result_paths[method, name]
                picture = read_picture(path)
                factor = min(1.0, _THUMBNAIL_PX / min(picture.width, picture.height))
                image = resample(
                    to_tensor(picture),
                    max(1, round(picture.height * factor)),
                    max(1, round(picture.width * factor)),
                    "bicubic",
                )
                small = replace(picture, pixels=from_tensor(image, picture), alpha=None, exif=None)
                found[method][name] = _data_address(small, Path(scratch) / "picture.webp")
    return found


def _images(evaluation: Evaluation, names: list[str]) -> dict[str, Any]:
    items = {item.name: item for item in evaluation.items}
    stored = {}
    with tempfile.TemporaryDirectory(prefix="s3diff-page-") as scratch:
        for name in names:
            item, layers, size = items[name], {}, (0, 0)
            paths = {method: evaluation.result_paths.get((method, name)) for method in evaluation.methods}
            for layer, path in {**paths, TRUTH_LAYER: item.truth}.items():
                if path is not None and path.is_file():
                    picture = _middle(read_picture(path), 1.0)
                    size = (picture.width, picture.height)
                    layers[layer] = _data_address(picture, Path(scratch) / "picture.webp")
            if item.low_quality is not None and layers:
                whole = read_picture(next(path for path in paths.values() if path is not None))
                picture = read_picture(item.low_quality)
                cropped = _middle(picture, whole.width / picture.width)
                layers = {INPUT_LAYER: _data_address(cropped, Path(scratch) / "picture.png"), **layers}
            if layers:
                stored[name] = {"width": size[0], "height": size[1], "layers": layers}
    return stored


def _middle(picture: Picture, scale: float) -> Picture:
    """Cut out the middle of a picture that covers ``MAX_STORED_PX`` of its result, ``scale`` times as large."""
    limit = max(1, round(MAX_STORED_PX / scale))
    top, left = (max(0, (side - limit) // 2) for side in (picture.height, picture.width))
    pixels = picture.pixels[top : top + limit, left : left + limit]
    return Picture(pixels, icc_profile=picture.icc_profile)


def _data_address(picture: Picture, scratch: Path) -> str:
    write_picture(picture, scratch, quality=_QUALITY)
    kind = scratch.suffix.removeprefix(".")
    return f"data:image/{kind};base64,{base64.b64encode(scratch.read_bytes()).decode('ascii')}"


def write_reports(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write the CSV, the Markdown and the page into the folder of the run; returns their paths.

    Raises:
        PictureError: no picture was scored.
        OutputError: the folder cannot be written.
    """
    contents = {
        CSV_NAME: csv_text(evaluation),
        MARKDOWN_NAME: markdown(evaluation),
        PAGE_NAME: page(evaluation),
    }
    for name, content in contents.items():
        write_atomically(content, folder / name)
    return [folder / name for name in contents]
