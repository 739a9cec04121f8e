"""A blind vote between two methods: sheets with random sides to be looked at, a key, and the count.

    python benchmarks/blind_votes.py make NAME FIRST SECOND [--pictures ../shared/data/final] [--rows 66] [--seed 0]
    python benchmarks/blind_votes.py count NAME

FIRST and SECOND are ``bicubic``, ``real-esrgan``, or a model's name or folder. ``make`` cuts squares from the pictures,
chosen by the seed, restores them by both methods and draws sheets of rows: input, left, right. Inputs are of three
kinds: reduced by 4 and mildly degraded (every second one), reduced alone, and as they are, at their own size. All is
kept in benchmarks/results/blind/NAME: ``sheet_01.jpg`` and on, ``key.csv`` with the sides, ``vote.json`` with methods
and seed. Each judge, who sees the sheets and neither key nor code, gives ``votes_JUDGE.csv`` in that folder: lines of
``row,left``, ``row,right`` or ``row,same``. ``count`` prints who was preferred and writes ``count.json``.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from do_no_harm_set import defocused
from enlargers import SCALE, Enlarger, as_picture, reduced
from picture_measures import gradient_energy
from PIL import Image, ImageDraw, ImageFont
from targets import wilson_interval

from s3diff.degradation.jpeg import compress_jpeg
from s3diff.degradation.noise import gaussian_noise
from s3diff.errors import S3DiffError
from s3diff.images.files.pillow_pictures import to_pil
from s3diff.images.files.reading import list_pictures, read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import Picture, from_array, to_tensor

RESULTS = Path(__file__).resolve().parent / "results" / "blind"
MILD, REDUCED, OWN_SIZE = "mild", "reduced", "own size"
#: In turn, so that every picture gives every kind.
KINDS = (MILD, REDUCED, MILD, OWN_SIZE)
#: Side of an input, and of the middle of its result that is shown, at twice its size.
INPUT_PX, SHOWN_PX, ZOOM = 96, 192, 2
#: Squares drawn for each row; the one with most detail is taken, so that few rows show sky.
NUM_DRAWN = 6
#: The mild degradation: blur in px of the truth, noise in levels of 255, JPEG quality; each uniform in its range.
BLUR_PX, NOISE_SIGMA, JPEG_QUALITY = (0.5, 2.0), (0.0, 5.0), (70, 95)
ROWS_ON_A_SHEET, GAP_PX, SHEET_QUALITY = 5, 6, 80
ANSWERS = ("left", "right", "same")


class Row(NamedTuple):
    """A line of the key: what is shown, and which method is on the left."""

    row: int
    picture: str
    kind: str
    left_px: int
    top_px: int
    left: str


def chosen(
    paths: Sequence[Path], num_rows: int, seed: int, names: tuple[str, str]
) -> Iterator[tuple[Row, torch.Tensor]]:
    """The rows with their inputs, [1, 3, 96, 96] in [0, 1] at multiples of 1/255; decided by the seed alone."""
    generator = random.Random(seed)
    taken: dict[str, list[tuple[int, int]]] = {}
    for number in range(num_rows):
        path = paths[number % len(paths)]
        kind = KINDS[(number % len(paths) + number // len(paths)) % len(KINDS)]
        image = to_tensor(read_picture(path)).expand(1, 3, -1, -1)
        side = INPUT_PX if kind == OWN_SIZE else SCALE * INPUT_PX
        if min(image.shape[2:]) < side:
            raise SystemExit(
                f"{path} is smaller than {side} px; give pictures of at least {SCALE * INPUT_PX} px a side"
            )
        corners = [
            (generator.randint(0, image.shape[3] - side), generator.randint(0, image.shape[2] - side))
            for _ in range(NUM_DRAWN)
        ]
        centres = taken.setdefault(path.name, [])
        fresh = [corner for corner in corners if not any(_is_near(corner, side, centre) for centre in centres)]
        left_px, top_px = max(fresh or corners, key=lambda corner: _detail(image, corner, side))
        centres.append((left_px + side // 2, top_px + side // 2))
        cut = image[..., top_px : top_px + side, left_px : left_px + side]
        row = Row(number + 1, path.name, kind, left_px, top_px, generator.choice(names))
        yield row, given(cut, kind, generator)


def _is_near(corner: tuple[int, int], side: int, centre: tuple[int, int]) -> bool:
    """Whether the middle of this square would show much of what an earlier one shows."""
    return all(abs(start + side // 2 - middle) < side // 4 for start, middle in zip(corner, centre, strict=True))


def _detail(image: torch.Tensor, corner: tuple[int, int], side: int) -> float:
    return gradient_energy(image[..., corner[1] : corner[1] + side, corner[0] : corner[0] + side])


def given(cut: torch.Tensor, kind: str, generator: random.Random) -> torch.Tensor:
    """The input of this kind that a square of the picture gives."""
    if kind == OWN_SIZE:
        return cut
    if kind == REDUCED:
        return (reduced(cut) * 255).round() / 255
    blur_px, sigma = generator.uniform(*BLUR_PX), generator.uniform(*NOISE_SIGMA)
    quality, seed = generator.randint(*JPEG_QUALITY), generator.getrandbits(32)
    image = reduced(defocused(cut, blur_px))
    noise = gaussian_noise(
        image, torch.tensor([sigma]), torch.zeros(1, dtype=torch.bool), torch.Generator().manual_seed(seed)
    )
    return compress_jpeg(image + noise, float(quality))


def middle(picture: Picture) -> Image.Image:
    """What is shown of an input, or of a result: the same part, at the same size."""
    share = SHOWN_PX / (SCALE * INPUT_PX)
    size_px = round(share * picture.width)
    left_px = (picture.width - size_px) // 2
    box = (left_px, left_px, left_px + size_px, left_px + size_px)
    kernel = Image.Resampling.NEAREST if picture.width == INPUT_PX else Image.Resampling.BICUBIC
    return to_pil(picture).crop(box).resize((ZOOM * SHOWN_PX, ZOOM * SHOWN_PX), kernel)


def sheet(rows: Sequence[tuple[int, Sequence[Picture]]]) -> Picture:
    """A line for each row: input, left, right."""
    cell_px = ZOOM * SHOWN_PX + GAP_PX
    image = Image.new("RGB", (3 * cell_px - GAP_PX, len(rows) * cell_px - GAP_PX), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=24)
    for line, (number, pictures) in enumerate(rows):
        for column, picture in enumerate(pictures):
            image.paste(middle(picture), (column * cell_px, line * cell_px))
        draw.text((6, line * cell_px + 2), str(number), fill="red", stroke_width=2, stroke_fill="white", font=font)
    return from_array(np.asarray(image))


def make(options: argparse.Namespace) -> None:
    folder: Path = options.results / options.name
    if (folder / "key.csv").exists():
        raise SystemExit(f"{folder} holds a vote already; give another name")
    methods = [Enlarger(what) for what in (options.first, options.second)]
    by_name = {method.name: method for method in methods}
    if len(by_name) != len(methods):
        raise SystemExit(f"both methods are called {methods[0].name}; give folders of different names")
    if options.rows < 1:
        raise SystemExit(f"--rows is {options.rows}; give at least 1, and 60 or more for a claim")
    paths = list_pictures(options.pictures)
    if not paths:
        raise SystemExit(f"{options.pictures} holds no pictures")
    folder.mkdir(parents=True, exist_ok=True)
    key, shown = [], []
    for row, image in chosen(paths, options.rows, options.seed, (methods[0].name, methods[1].name)):
        results = {name: method(as_picture(image)) for name, method in by_name.items()}
        right = next(name for name in by_name if name != row.left)
        key.append(row)
        shown.append((row.row, (as_picture(image), results[row.left], results[right])))
        if len(shown) == ROWS_ON_A_SHEET or row.row == options.rows:
            number = math.ceil(row.row / ROWS_ON_A_SHEET)
            write_picture(sheet(shown), folder / f"sheet_{number:02d}.jpg", quality=SHEET_QUALITY)
            shown = []
            print(f"sheet {number}, {row.row} of {options.rows} rows", flush=True)
    about = {
        "methods": {method.name: method.identity for method in methods},
        "pictures": [path.name for path in paths],
        "seed": options.seed,
    }
    (folder / "vote.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    with (folder / "key.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([Row._fields, *key])


# The count.


def read_votes(path: Path, rows: set[int]) -> dict[int, str]:
    """One judge's answers by row."""
    votes: dict[int, str] = {}
    for line in csv.reader(path.read_text("utf-8").splitlines()):
        cells = [cell.strip() for cell in line]
        if not any(cells) or cells[0] == "row":
            continue
        if len(cells) < 2 or not cells[0].isdecimal() or int(cells[0]) not in rows or cells[1] not in ANSWERS:
            raise SystemExit(f"{path}: {','.join(line)!r} is no vote; give a row of the sheets and left, right or same")
        if votes.setdefault(int(cells[0]), cells[1]) != cells[1]:
            raise SystemExit(f"{path}: row {cells[0]} has two answers; keep one")
    return votes


def counted(key: dict[int, str], names: tuple[str, str], judges: Sequence[dict[int, str]]) -> dict[str, Any]:
    """Votes, and rows by the majority of their judges: rows are independent of each other, votes on one row are not.

    Args:
        key: the method on the left by row.
        names: of both methods; shares are the first one's.
        judges: answers by row.
    """

    def preferred(row: int, answer: str) -> str:
        if answer == "same":
            return answer
        other = next(name for name in names if name != key[row])
        return key[row] if answer == "left" else other

    votes: Counter[str] = Counter()
    verdicts: Counter[str] = Counter()
    for row in key:
        answers = Counter(preferred(row, judge[row]) for judge in judges if row in judge)
        votes += answers
        if answers:
            first, second = (answers[name] for name in names)
            verdicts[names[0] if first > second else names[1] if second > first else "same"] += 1
    decided = verdicts[names[0]] + verdicts[names[1]]
    low, high = wilson_interval(verdicts[names[0]], decided)
    return {
        "judges": len(judges),
        "votes": {name: votes[name] for name in (*names, "same")},
        "rows": {name: verdicts[name] for name in (*names, "same")},
        "share_of_decided_rows": verdicts[names[0]] / decided if decided else None,
        "interval": [low, high],
    }


def count(options: argparse.Namespace) -> None:
    folder: Path = options.results / options.name
    try:
        about = json.loads((folder / "vote.json").read_text("utf-8"))
        lines = list(csv.DictReader((folder / "key.csv").read_text("utf-8").splitlines()))
    except OSError as error:
        raise SystemExit(f"{folder} holds no vote ({error}); make it first") from error
    key = {int(line["row"]): line["left"] for line in lines}
    files = sorted(folder.glob("votes_*.csv"))
    if not files:
        raise SystemExit(f"{folder} has no votes_JUDGE.csv; let the sheets be judged first")
    first, second = about["methods"]
    judges = [read_votes(path, set(key)) for path in files]
    kinds = {kind: {int(line["row"]) for line in lines if line["kind"] == kind} for kind in KINDS}
    found = counted(key, (first, second), judges)
    found["by_kind"] = {
        kind: counted({row: key[row] for row in rows}, (first, second), judges)["rows"] for kind, rows in kinds.items()
    }
    found["not_voted"] = {path.stem: len(key) - len(judge) for path, judge in zip(files, judges, strict=True)}
    (folder / "count.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    for unit in ("votes", "rows"):
        print(f"{unit}: " + ", ".join(f"{name} {number}" for name, number in found[unit].items()))
    if found["share_of_decided_rows"] is not None:
        low, high = found["interval"]
        share = found["share_of_decided_rows"]
        print(f"{first} preferred in {share:.0%} of the decided rows, 95 % interval {low:.0%} to {high:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    making = commands.add_parser("make", help="restore and draw the sheets")
    making.add_argument("name")
    making.add_argument("first")
    making.add_argument("second")
    making.add_argument("--pictures", type=Path, default=Path("../shared/data/final"))
    making.add_argument("--rows", type=int, default=66)
    making.add_argument("--seed", type=int, default=0)
    making.set_defaults(run=make)
    counting = commands.add_parser("count", help="count the votes in the folder")
    counting.add_argument("name")
    counting.set_defaults(run=count)
    for command in (making, counting):
        command.add_argument("--results", type=Path, default=RESULTS, help="folder of all votes")
    options = parser.parse_args()
    try:
        options.run(options)
    except S3DiffError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
