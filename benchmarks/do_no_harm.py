"""Is any picture made worse than by plain enlargement? Measures over the do-no-harm set, with bicubic's.

    python benchmarks/do_no_harm.py [MODEL ...] [--quick] [--only "jpeg 12"]... [--category sky]... [--check]

MODEL is a model's name or folder, or ``real-esrgan``; ``compact`` where none is given. The set is that of
``do_no_harm_set.py``. ``--quick`` takes clean and mild inputs and leaves out DISTS and NIQE. Every figure of every
picture is kept in ``--work``: what was measured of the same weights is not measured again, so that an interrupted run
goes on. With ``--pictures FOLDER`` all is restored again, and FOLDER gets a strip of each picture to be looked at:
input, results, truth. ``--check`` ends with exit code 1 where a target is missed. Needs the weights of the measures
(``python -m s3diff.evaluation.perceptual_weights``).
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from do_no_harm_set import CLEAN_AND_MILD, DEGRADATIONS, SCENES, Scene, scenes
from enlargers import BICUBIC, SCALE, Enlarger, as_picture, reduced
from hardware import machine
from picture_measures import blockiness, chroma, comb, gradient_energy, spectrum_slope
from targets import Target, all_reached, at_least, at_most

from s3diff.errors import PictureError, S3DiffError
from s3diff.evaluation.niqe import NIQE
from s3diff.evaluation.perceptual import DISTS, LPIPS
from s3diff.evaluation.psnr_ssim import psnr_y
from s3diff.images.files.writing import write_picture

#: Networks' measures, and the one that decides which picture is harmed.
SLOW, DECIDING = ("dists", "niqe"), "lpips"
#: Columns of the tables: figure, heading, number of decimals.
COLUMNS = (
    ("lpips", "LPIPS", 3),
    ("dists", "DISTS", 3),
    ("niqe", "NIQE", 1),
    ("kept", "kept, dB", 1),
    ("blockiness", "blocks", 1),
    ("gradient", "gradient", 2),
    ("slope", "slope", 1),
    ("comb", "comb", 3),
    ("chroma_max", "chroma", 1),
)
#: The targets: LPIPS above bicubic's; the reduced result against a clean input in dB, mean and worst; a grey input's
#: chroma in levels; blockiness at JPEG quality 12 over bicubic's.
HARM, KEPT_MEAN_DB, KEPT_WORST_DB, GREY_CHROMA, BLOCKS_SHARE = 0.01, 34.0, 28.0, 2.0, 0.5

#: Figures of one picture by measure, with its scene, category and degradation.
Row = dict[str, Any]


class Judge:
    """The measures of one result after the other; a truth's features are computed once for a scene."""

    def __init__(self, quick: bool) -> None:
        self._lpips = LPIPS("alex")
        self._dists = None if quick else DISTS()
        self._niqe = None if quick else NIQE()
        self.names = {"lpips", *(() if quick else SLOW)}
        self._scene: Scene | None = None

    def measure(self, scene: Scene, given: torch.Tensor, result: torch.Tensor, bicubic: torch.Tensor) -> Row:
        """``given`` is the input, ``bicubic`` its bicubic enlargement; all [1, 3, ., .] float in [0, 1]."""
        if scene is not self._scene:
            self._scene = scene
            self._lpips_truth = self._lpips.features(2 * scene.truth - 1)
            self._dists_truth = self._dists.features(scene.truth) if self._dists else []
            self._gradient, self._slope = gradient_energy(scene.truth), spectrum_slope(scene.truth)
        row: Row = {
            "lpips": float(self._lpips.distance(self._lpips.features(2 * result - 1), self._lpips_truth)),
            "kept": float(psnr_y(reduced(result), given)),
            "blockiness": blockiness(result),
            "gradient": gradient_energy(result) / self._gradient,
            "slope": spectrum_slope(result) - self._slope,
            "comb": comb(result, bicubic),
        }
        if chroma(given)[0] == 0:
            row["chroma_max"], row["chroma_mean"] = chroma(result)
        if self._dists is not None:
            row["dists"] = float(self._dists.distance(self._dists.features(result), self._dists_truth))
        if self._niqe is not None:
            row["niqe"] = _niqe(self._niqe, result)
        return {name: None if figure is None else round(figure, 4) for name, figure in row.items()}


def _niqe(measure: NIQE, image: torch.Tensor) -> float | None:
    """None for pictures that are too flat for it."""
    try:
        return float(measure(image))
    except PictureError:
        return None


class Kept:
    """What was measured of one method, a line of JSON for each picture."""

    def __init__(self, folder: Path, method: Enlarger) -> None:
        self.path = folder / f"{method.name}-{hashlib.sha256(method.identity.encode()).hexdigest()[:16]}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text("utf-8").splitlines() if self.path.is_file() else []
        self._rows = {(row["truth"], row["degradation"]): row for row in map(json.loads, lines)}

    def find(self, truth: str, degradation: str, names: Iterable[str]) -> Row | None:
        row = self._rows.get((truth, degradation))
        return row if row is not None and set(names) <= set(row) else None

    def add(self, row: Row) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def judge(
    methods: Sequence[Enlarger],
    found: Iterable[Scene],
    degradations: Sequence[str],
    work: Path,
    *,
    quick: bool,
    pictures: Path | None = None,
) -> dict[str, list[Row]]:
    """The rows of each method by its name; the first is bicubic."""
    measures, kept = Judge(quick), {method.name: Kept(work, method) for method in methods}
    rows: dict[str, list[Row]] = {method.name: [] for method in methods}
    for scene in found:
        truth = hashlib.sha256(f"{scene.name} ".encode() + scene.truth.numpy().tobytes()).hexdigest()[:16]
        for degradation in degradations:
            known = [kept[method.name].find(truth, degradation, measures.names) for method in methods]
            if pictures is None and None not in known:
                for method, row in zip(methods, known, strict=True):
                    rows[method.name].append(row)
                continue
            given = scene.degraded(degradation)
            strip = [given.repeat_interleave(SCALE, -1).repeat_interleave(SCALE, -2)]
            bicubic = methods[0].enlarged(given)
            for method, row in zip(methods, known, strict=True):
                if row is None or pictures is not None:
                    strip.append(bicubic if method is methods[0] else method.enlarged(given))
                if row is None:
                    place = {"category": scene.category, "scene": scene.name, "degradation": degradation}
                    row = place | {"truth": truth} | measures.measure(scene, given, strip[-1], bicubic)
                    kept[method.name].add(row)
                rows[method.name].append(row)
            if pictures is not None:
                name = f"{scene.category} {scene.name} {degradation}".replace(" ", "_")
                write_picture(as_picture(torch.cat([*strip, scene.truth], dim=3)), pictures / f"{name}.png")
    return rows


def mixed(found: Iterable[Scene]) -> list[Scene]:
    """The first scene of every category, then the second of each, so that an unfinished run has seen all."""
    by_category = [list(group) for _, group in itertools.groupby(found, key=lambda scene: scene.category)]
    layers = itertools.zip_longest(*by_category)
    return [scene for layer in layers for scene in layer if scene is not None]


# What the figures say.


def means(rows: Iterable[Row], keys: Sequence[str]) -> list[Row]:
    """Means of all figures over the rows that agree in ``keys``, in the order in which these appear."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    found = []
    for key, group in groups.items():
        mean: Row = dict(zip(keys, key, strict=True))
        for name, _, _ in (*COLUMNS, ("chroma_mean", "", 0)):
            if figures := [row[name] for row in group if row.get(name) is not None]:
                mean[name] = round(max(figures) if name == "chroma_max" else statistics.mean(figures), 4)
        found.append(mean)
    return found


def harmed(rows: Sequence[Row], bicubic: Sequence[Row]) -> list[Row]:
    """Clean and mild inputs whose result is further from the truth than bicubic's, the worst first."""
    pairs = ((row, plain) for row, plain in zip(rows, bicubic, strict=True) if row["degradation"] in CLEAN_AND_MILD)
    worse = [
        {
            **{key: row[key] for key in ("category", "scene", "degradation")},
            "lpips": row[DECIDING],
            "bicubic": plain[DECIDING],
        }
        for row, plain in pairs
        if row[DECIDING] > plain[DECIDING] + HARM
    ]
    return sorted(worse, key=lambda row: row["bicubic"] - row["lpips"])


def targets(rows: Sequence[Row], bicubic: Sequence[Row]) -> list[Target]:
    """What is asked of a model on this set."""

    def figures(name: str, of: Sequence[Row], *degradations: str) -> list[float]:
        taken = (row for row in of if row["degradation"] in degradations)
        return [row[name] for row in taken if row.get(name) is not None]

    kept, grey = figures("kept", rows, "clean"), figures("chroma_max", rows, *DEGRADATIONS)
    found = [at_most(f"clean and mild pictures with LPIPS {HARM} above bicubic's", len(harmed(rows, bicubic)), 0)]
    if grey:
        found.append(at_most("chroma of grey inputs, levels", max(grey), GREY_CHROMA))
    if kept:
        found.append(at_least("reduced result against a clean input, mean, dB", statistics.mean(kept), KEPT_MEAN_DB))
        found.append(at_least("the same, worst, dB", min(kept), KEPT_WORST_DB))
    if blocks := figures("blockiness", rows, "jpeg 12"):
        share = statistics.mean(blocks) / statistics.mean(figures("blockiness", bicubic, "jpeg 12"))
        found.append(at_most("blockiness at JPEG 12 over bicubic's", share, BLOCKS_SHARE))
    return found


def table(key: str, by_method: dict[str, list[Row]]) -> Iterator[str]:
    """Markdown: a row for each value of ``key``, bicubic's figure and each method's in a cell."""
    found = {name: {row[key]: row for row in means(rows, [key])} for name, rows in by_method.items()}
    first = next(iter(found.values()))
    shown = [column for column in COLUMNS if any(column[0] in row for row in first.values())]
    yield f"| {key} | {' | '.join(heading for _, heading, _ in shown)} |"
    yield "|---" * (1 + len(shown)) + "|"
    for value in first:
        cells = []
        for name, _, decimals in shown:
            figures = [rows[value].get(name) for rows in found.values()]
            cells.append(" / ".join("-" if figure is None else f"{figure:.{decimals}f}" for figure in figures))
        yield f"| {value} | {' | '.join(cells)} |"


def report(given: argparse.Namespace) -> bool:
    """Measure, print and write; whether every target is reached."""
    methods = [Enlarger(what) for what in (BICUBIC, *given.models)]
    degradations = given.only or (CLEAN_AND_MILD if given.quick else DEGRADATIONS)
    with torch.inference_mode():
        found_scenes = mixed(scenes(given.shared, tuple(given.category or SCENES)))
        rows = judge(methods, found_scenes, degradations, given.work, quick=given.quick, pictures=given.pictures)
    print(f"Cells: {' / '.join(rows)}; kept: reduced result against the input; gradient: energy over the truth's;")
    print("slope of the spectrum less the truth's, dB per octave; chroma: the largest of grey inputs, levels.\n")
    mild = {name: [row for row in found if row["degradation"] in CLEAN_AND_MILD] for name, found in rows.items()}
    print("\n".join([*table("degradation", rows), "", "Clean and mild inputs:", "", *table("category", mild)]))
    written: dict[str, Any] = {"machine": machine(torch.device("cpu")), "methods": {}}
    is_good = True
    for method in methods:
        name = method.name
        found = {"identity": method.identity, "means": means(rows[name], ["category", "degradation"])}
        if name != BICUBIC:
            found["harmed"], asked = harmed(rows[name], rows[BICUBIC]), targets(rows[name], rows[BICUBIC])
            found["targets"] = [target._asdict() for target in asked]
            print(f"\n{name}")
            is_good &= all_reached(asked)
            for row in found["harmed"]:
                where = f"{row['category']}, {row['scene']}, {row['degradation']}"
                print(f"harmed   {where}: LPIPS {row['lpips']:.3f}, bicubic {row['bicubic']:.3f}")
        written["methods"][name] = found
    if given.json:
        given.json.write_text(_json(written), "utf-8")
    return is_good


def _json(written: dict[str, Any]) -> str:
    """Indented, with a line for each object that holds no other."""
    text = json.dumps(written, indent=1)
    return re.sub(r"\{[^{}\[\]]*\}", lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--quick", action="store_true", help="clean and mild inputs, without DISTS and NIQE")
    parser.add_argument("--only", action="append", choices=DEGRADATIONS, help="one degradation; may be given again")
    parser.add_argument("--category", action="append", choices=list(SCENES), help="one category; may be given again")
    parser.add_argument("--pictures", type=Path, help="folder for strips of input, results and truth")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder that holds data/")
    parser.add_argument("--work", type=Path, default=Path("benchmark/do-no-harm"), help="figures that are kept")
    parser.add_argument("--json", type=Path, help="also write means, targets and harmed pictures to this file")
    parser.add_argument("--check", action="store_true", help="exit code 1 where a target is missed")
    given = parser.parse_args()
    given.models = given.models or ["compact"]
    if given.pictures is not None:
        given.pictures.mkdir(parents=True, exist_ok=True)
    try:
        is_good = report(given)
    except S3DiffError as error:
        raise SystemExit(f"error: {error}") from error
    if given.check and not is_good:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
