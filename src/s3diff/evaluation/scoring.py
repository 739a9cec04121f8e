"""Restore and score a set with several methods; reuse earlier scores.

Everything lies in one folder: ``results/METHOD/PICTURE.png``, ``scores.jsonl`` (one line for each picture of each
method, added to while the run goes on), and for a degraded set ``low_quality/`` and ``truth/``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s3diff.errors import OptionError, PictureError, S3DiffError
from s3diff.evaluation.measures import (
    MEASURES,
    ScoreBatch,
    ScoreSet,
    is_registered,
    load_measures,
    load_set_measures,
    of_user,
)
from s3diff.evaluation.methods import Method, describe_machine
from s3diff.evaluation.protocols import Protocol, computable_metrics
from s3diff.evaluation.scorebook import Score, ScoreBook
from s3diff.evaluation.sets import EvaluationSet, SetItem
from s3diff.images.files.reading import read_picture
from s3diff.images.picture import to_tensor
from s3diff.messages import reason_of
from s3diff.restoration.device import choose_device
from s3diff.version import __version__

RESULTS_NAME = "results"
#: Called with one line for everything that is left out or has failed.
Remark = Callable[[str], None]
#: Called with (pictures done, pictures in all, the last piece of work).
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Evaluation:
    """Hold all scores of a run and how they were made.

    Attributes:
        protocol: name and version stand in every report.
        metrics: those of the protocol that could be computed.
        methods: names, in the order of the table.
        identities: description of each method: a model's fingerprint and precision, a program's command.
        scores: of every picture of every method that has them.
        of_sets: the figures of measures that compare whole sets, by method and measure.
        left_out: why a measure of the protocol is not there.
        failures: (method, picture or "the set", why).
        set_description: see ``EvaluationSet``.
        made_with: versions, device, threads.
        result_paths: by method and picture.
    """

    protocol: Protocol
    metrics: tuple[str, ...]
    methods: tuple[str, ...]
    identities: tuple[str, ...]
    scores: tuple[Score, ...]
    of_sets: dict[tuple[str, str], float]
    left_out: dict[str, str]
    failures: tuple[tuple[str, str, str], ...]
    set_description: dict[str, Any]
    made_with: dict[str, str]
    items: tuple[SetItem, ...]
    result_paths: dict[tuple[str, str], Path]

    def of(self, method: str) -> list[Score]:
        """Collect the scores of one method, by the pictures' order."""
        return [score for score in self.scores if score.method == method]


def evaluate(
    evaluation_set: EvaluationSet,
    methods: Sequence[Method],
    protocol: Protocol,
    *,
    folder: Path | None,
    device: str = "auto",
    scale: float = 4.0,
    batch_size: int = 1,
    remark: Remark = lambda text: None,
    progress: Progress = lambda done, total, text: None,
) -> Evaluation:
    """Restore every picture with every method, and score it.

    A picture that cannot be restored or scored, also by a user's own measure, is a failure and costs only itself; a
    measure that cannot be loaded is left out with the reason.

    Args:
        folder: of the run; None only where nothing is restored and nothing is kept.
        device: where measures run: ``auto`` or a torch device.
        scale: result side over input side, where there is no truth to tell it.
        batch_size: results of one size that are measured together.

    Raises:
        OptionError: no measure can be computed on such a set, a user's own cannot be loaded, or the batch size is below
            1.
        OutputError: the folder cannot be written.
    """
    if batch_size < 1:
        raise OptionError(f"batch size is {batch_size}; give a whole number of at least 1")
    names, left_out = computable_metrics(protocol, has_truth=evaluation_set.has_truth)
    chosen = choose_device(device)
    measures, not_loaded = load_measures(names, chosen)
    left_out.update(not_loaded)
    set_measures, not_loaded = load_set_measures(names, chosen)
    left_out.update(not_loaded)
    for text in left_out.values():
        remark(f"left out: {text}")
    if not measures and not set_measures:
        raise OptionError(f"none of {', '.join(names)} can be computed here, see above; choose others with --metrics")
    work = _Work(evaluation_set, measures, chosen, scale, batch_size, ScoreBook(folder), folder, remark, progress)
    of_sets = {}
    for number, method in enumerate(methods):
        work.offset, work.total = number * len(evaluation_set.items), len(methods) * len(evaluation_set.items)
        paths = work.restore_all(method)
        work.score_all(method, paths)
        for name, measure in set_measures.items():
            found = work.score_set(method, paths, name, measure)
            of_sets.update({} if found is None else {(method.name, name): found})
    return _finished(work, methods, protocol, tuple(name for name in names if name not in left_out), of_sets, left_out)


def _finished(
    work: _Work,
    methods: Sequence[Method],
    protocol: Protocol,
    metrics: tuple[str, ...],
    of_sets: dict[tuple[str, str], float],
    left_out: dict[str, str],
) -> Evaluation:
    items = work.evaluation_set.items
    kept = [
        replace(score, protocol=protocol.title)
        for method in methods
        for item in items
        if (score := work.finished.get((method.name, item.name))) is not None
    ]
    work.book.rewrite(kept)
    return Evaluation(
        protocol=protocol,
        metrics=metrics,
        methods=tuple(method.name for method in methods),
        identities=tuple(method.identity for method in methods),
        scores=tuple(kept),
        of_sets=of_sets,
        left_out=left_out,
        failures=tuple(work.failures),
        set_description={**work.evaluation_set.description, "num_pictures": len(items)},
        made_with={"s3diff": __version__, **describe_machine(work.device)},
        items=items,
        result_paths=work.paths,
    )


@dataclass
class _Work:
    """Hold the state of one run of :func:`evaluate` between pictures."""

    evaluation_set: EvaluationSet
    measures: dict[str, ScoreBatch]
    device: torch.device
    scale: float
    batch_size: int
    book: ScoreBook
    folder: Path | None
    remark: Remark
    progress: Progress
    offset: int = 0
    total: int = 0
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    finished: dict[tuple[str, str], Score] = field(default_factory=dict)
    paths: dict[tuple[str, str], Path] = field(default_factory=dict)

    def restore_all(self, method: Method) -> dict[str, Path]:
        """Make missing results; return each picture's result."""
        paths = {}
        results = (self.folder or Path()) / RESULTS_NAME
        for number, item in enumerate(self.evaluation_set.items):
            path = method.result_path(item, results)
            if path is None:
                continue
            try:
                if method.needs_input and not self._is_made(method, item, path):
                    size = _result_size(item, self.scale)
                    made = method.restore(item, path, size)
                    self.book.add(replace(made, sha256=_hashes(item, path)))
                    self.progress(self.offset + number, self.total, f"{method.name}: {item.name} restored")
            except S3DiffError as error:
                self._fail(method, item.name, error)
                continue
            paths[item.name] = self.paths[method.name, item.name] = path
        return paths

    def score_all(self, method: Method, paths: dict[str, Path]) -> None:
        """Compute the scores that the book lacks, results of one size together."""
        items = {item.name: item for item in self.evaluation_set.items}
        waiting: list[tuple[Score, torch.Tensor, torch.Tensor | None]] = []
        for done, (name, path) in enumerate(paths.items(), start=1):
            try:
                hashes = _hashes(items[name], path)
                known = self.book.scores.get((method.name, name), Score(method.name, name))
                if known.made_by != method.identity or known.sha256 != hashes:
                    known = Score(method.name, name, made_by=method.identity, sha256=hashes)
                # A user's own measure may compute something else today.
                kept = {measure: value for measure, value in known.values.items() if not is_registered(measure)}
                known = replace(known, values=kept)
                if known.size_px is not None and all(measure in known.values for measure in self.measures):
                    self.finished[method.name, name] = known
                    continue
                result, truth, has_alpha = _read_pair(path, items[name].truth)
            except S3DiffError as error:
                self._fail(method, name, error)
                continue
            known = replace(known, size_px=(result.shape[3], result.shape[2]), has_alpha=has_alpha)
            if waiting and waiting[0][1].shape != result.shape:
                self._score(method, waiting)
                waiting = []
            waiting.append((known, result, truth))
            if len(waiting) == self.batch_size:
                self._score(method, waiting)
                waiting = []
            self.progress(self.offset + done, self.total, f"{method.name}: {name}")
        self._score(method, waiting)
        if text := transparency([score for (name, _), score in self.finished.items() if name == method.name]):
            self.remark(text)

    @torch.inference_mode()
    def _score(self, method: Method, batch: list[tuple[Score, torch.Tensor, torch.Tensor | None]]) -> None:
        if not batch:
            return
        results = torch.cat([result for _, result, _ in batch]).to(self.device)
        truths = (
            torch.cat([truth for _, _, truth in batch if truth is not None]).to(self.device)
            if batch[0][2] is not None
            else None
        )
        found: list[dict[str, float]] = [dict(score.values) for score, _, _ in batch]
        parts: list[dict[str, tuple[float, ...]]] = [dict(score.parts) for score, _, _ in batch]
        failed = False
        for name, measure in self.measures.items():
            if all(name in values for values in found):
                continue
            row = MEASURES[name]
            try:
                scores = measure(results, truths)
                with of_user(name):
                    computed = scores.double().cpu().numpy()
                    numbers = [row.aggregate.of_one(one.reshape(-1)) for one in computed]
            except (PictureError, OptionError) as error:  # of the picture, or of a user's own measure
                if len(batch) > 1:  # one by one, so that only the guilty picture is named
                    for one in batch:
                        self._score(method, [one])
                    return
                told = PictureError(f"{name}: {error}") if isinstance(error, PictureError) else error
                self._fail(method, batch[0][0].picture, told)
                failed = True
                continue
            for (score, _, _), values, of_parts, one, number in zip(
                batch, found, parts, computed, numbers, strict=True
            ):
                if math.isfinite(number):
                    values[name] = number
                    of_parts.update({row.parts: tuple(one.tolist())} if row.parts else {})
                else:
                    failed = True
                    self._fail(method, score.picture, PictureError(f"{name} is {number}, no finite number"))
        for (score, _, _), values, of_parts in zip(batch, found, parts, strict=True):
            scored = replace(score, values=values, parts=of_parts)
            self.book.add(scored)
            if values or not failed:
                self.finished[score.method, score.picture] = scored

    def score_set(self, method: Method, paths: dict[str, Path], name: str, measure: ScoreSet) -> float | None:
        """Compare the results that are there with the truths of the same pictures; None where that cannot be done."""

        def images(files: Sequence[Path]) -> Iterator[torch.Tensor]:
            return (to_tensor(read_picture(path)).to(self.device) for path in files)

        items = self.evaluation_set.items
        truths = [item.truth for item in items if item.name in paths and item.truth is not None]
        try:
            return measure(images(list(paths.values())), images(truths))
        except PictureError as error:
            self.remark(f"{method.name}: {name} is left out: {error}")
        except OptionError as error:  # of a user's own measure
            self._fail(method, "the set", error)
        return None

    def _is_made(self, method: Method, item: SetItem, path: Path) -> bool:
        known = self.book.scores.get((method.name, item.name))
        return known is not None and known.made_by == method.identity and known.sha256 == _hashes(item, path)

    def _fail(self, method: Method, picture: str, error: S3DiffError) -> None:
        self.failures.append((method.name, picture, str(error)))
        self.remark(f"{method.name}: {picture}: {error}")


def transparency(scores: Sequence[Score]) -> str:
    """Name in one line the results of one method that have transparency; empty where there are none."""
    found = [score.picture for score in scores if score.has_alpha]
    if not found:
        return ""
    number = "1 result has" if len(found) == 1 else f"{len(found)} results have"
    return f"{scores[0].method}: {number} transparency, which no measure looks at, such as {found[0]}"


def _read_pair(path: Path, truth_path: Path | None) -> tuple[torch.Tensor, torch.Tensor | None, bool]:
    """Read the result and the truth; return also whether the result has transparency."""
    picture = read_picture(path)
    result, has_alpha = to_tensor(picture), picture.alpha is not None
    if truth_path is None:
        return result, None, has_alpha
    truth = to_tensor(read_picture(truth_path))
    if result.shape != truth.shape:
        sizes = [f"{image.shape[3]} x {image.shape[2]}" for image in (result, truth)]
        raise PictureError(
            f"{path} is {sizes[0]} pixels, the truth {truth_path} is {sizes[1]}; give results of its size"
        )
    return result, truth, has_alpha


def _result_size(item: SetItem, scale: float) -> tuple[int, int]:
    """Return (width, height) of the truth, or of the enlarged input."""
    picture = read_picture(item.truth or item.low_quality)  # type: ignore[arg-type]
    if item.truth is not None:
        return picture.width, picture.height
    return max(1, round(picture.width * scale)), max(1, round(picture.height * scale))


def _hashes(item: SetItem, result: Path) -> dict[str, str]:
    files = {"low_quality": item.low_quality, "truth": item.truth, "result": result}
    try:
        return {
            name: hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in files.items()
            if path is not None and (name != "result" or path.is_file())
        }
    except OSError as error:
        raise PictureError(f"{error.filename} cannot be read ({reason_of(error)}); check the file") from error


def as_array(scores: Sequence[Score], metric: str) -> np.ndarray:
    """Collect [N, C] values of a measure, C of which make a picture's figure, of the scores that have it."""
    parts = MEASURES[metric].parts
    rows = [score.parts.get(parts) if parts else [score.values[metric]] for score in scores if metric in score.values]
    return np.array([row for row in rows if row is not None])
