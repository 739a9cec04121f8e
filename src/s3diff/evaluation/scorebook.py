"""Store the scores of a run: one line of JSON for each picture of each method, appended during the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from s3diff.atomic_write import write_atomically
from s3diff.checkpoints.config_json import from_json
from s3diff.errors import ModelError, OutputError
from s3diff.json_lines import AppendedLines, encode_line, read_lines
from s3diff.messages import reason_of

SCORES_NAME = "scores.jsonl"


@dataclass(frozen=True)
class Score:
    """Hold the scores of one picture of one method.

    Attributes:
        picture: the picture's name without extension.
        protocol: name and version.
        values: a number for each measure that was computed.
        seconds: of restoring, None for results of others.
        degrees: (blur, noise) of the method's own models, else None.
        size_px: (width, height) of the result.
        has_alpha: whether the result has transparency, which no measure looks at.
        parts: parts of figures that sets do not simply average, by the name that their measure gives them
            (``grid_contrasts``: six numbers); members of the line.
        made_by: the method's identity.
        sha256: of the files it depends on: ``result``, and where there are any ``low_quality`` and ``truth``.
    """

    method: str
    picture: str
    protocol: str = ""
    values: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    degrees: tuple[float, float] | None = None
    size_px: tuple[int, int] | None = None
    has_alpha: bool = False
    parts: dict[str, tuple[float, ...]] = field(default_factory=dict)
    made_by: str = ""
    sha256: dict[str, str] = field(default_factory=dict)


class ScoreBook:
    """Read and append ``scores.jsonl``: a picture's last line counts; a line that was cut off is passed over."""

    def __init__(self, folder: Path | None) -> None:
        self.path = None if folder is None else folder / SCORES_NAME
        self.scores: dict[tuple[str, str], Score] = {}
        if self.path is None:
            return
        self._lines = AppendedLines(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lines = list(read_lines(self.path))
        except OSError as error:
            raise OutputError(f"{self.path} cannot be used ({error}); choose another --output") from error
        for number, line in enumerate(lines, start=1):
            score = _parsed(line.value)
            if score is not None:
                self.scores[score.method, score.picture] = score
            elif number < len(lines) or not line.is_cut:
                raise OutputError(
                    f"{self.path}: line {number} is no score; move the file away or choose another --output"
                )
        if lines and _parsed(lines[-1].value) is None:
            self.rewrite(list(self.scores.values()))

    def add(self, score: Score) -> None:
        """Keep a score, at once on the disk."""
        self.scores[score.method, score.picture] = score
        if self.path is None:
            return
        try:
            self._lines.append([_line(score)])
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written ({reason_of(error)}); choose another --output") from error

    def rewrite(self, scores: Sequence[Score]) -> None:
        """Write the file anew: these lines first, then those of methods that are not part of this run."""
        if self.path is None:
            return
        self._lines.close()  # the file is replaced, and nothing may be appended to the old one
        methods = {score.method for score in scores}
        others = [score for score in self.scores.values() if score.method not in methods]
        write_atomically(b"".join(encode_line(_line(score)) for score in (*scores, *others)), self.path)


def _line(score: Score) -> dict[str, Any]:
    line = asdict(score)
    return line | line.pop("parts")


def _parsed(content: Any) -> Score | None:
    if not isinstance(content, dict):
        return None
    known = {name: value for name, value in content.items() if name in Score.__dataclass_fields__}
    others = {name: value for name, value in content.items() if name not in known and value is not None}
    try:
        return from_json(Score, {**known, "parts": others}, "a score")
    except ModelError:
        return None
