"""Write a run's findings as tables: CSV for each picture, Markdown for people, figures for the page."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import numpy as np

from s3diff.errors import PictureError
from s3diff.evaluation.measures import MEASURES
from s3diff.evaluation.scoring import Evaluation, as_array, transparency
from s3diff.evaluation.statistics import MEAN, MIN_PICTURES, Interval, PairedDifference, paired_difference
from s3diff.messages import counted

_BETTER = {"higher": "higher is better", "lower": "lower is better", "one": "1 is best"}


@dataclass(frozen=True)
class Row:
    """Hold one method's row of the table.

    Attributes:
        num_pictures: that were scored.
        figures: by measure; a missing one could not be computed.
        seconds: median over the pictures, None for results of others.
    """

    method: str
    num_pictures: int
    figures: dict[str, Interval]
    seconds: float | None


def table(evaluation: Evaluation) -> list[Row]:
    """Compute means with their intervals, in the order of the methods; a figure of a whole set has no interval."""
    rows = []
    for method in evaluation.methods:
        scores = evaluation.of(method)
        figures: dict[str, Interval] = {}
        for metric in evaluation.metrics:
            if MEASURES[metric].compares == "set":
                if (method, metric) in evaluation.of_sets:
                    figures[metric] = Interval(evaluation.of_sets[method, metric])
                continue
            values = as_array(scores, metric)
            if len(values):
                figures[metric] = MEASURES[metric].aggregate.interval(values)
        seconds = [score.seconds for score in scores if score.seconds is not None]
        rows.append(Row(method, len(scores), figures, float(np.median(seconds)) if seconds else None))
    return rows


def differences(evaluation: Evaluation, method: str, reference: str) -> dict[str, PairedDifference]:
    """Compare a method with another on the pictures that both have, for every measure that averages pictures."""
    mine, others = ({score.picture: score for score in evaluation.of(name)} for name in (method, reference))
    common = [picture for picture in mine if picture in others]
    found = {}
    for metric in evaluation.metrics:
        if MEASURES[metric].compares == "set" or MEASURES[metric].aggregate is not MEAN:
            continue
        both = [name for name in common if metric in mine[name].values and metric in others[name].values]
        if both:
            first, second = (np.array([rows[name].values[metric] for name in both]) for rows in (mine, others))
            found[metric] = paired_difference(first, second)
    return found


def markdown(evaluation: Evaluation) -> str:
    """Write the tables as Markdown: means with intervals, differences to the first method, gaps, the machine.

    Raises:
        PictureError: no picture was scored.
    """
    rows = table(evaluation)
    if not any(row.num_pictures for row in rows):
        raise PictureError("no picture could be scored, see above")
    has_seconds = any(row.seconds is not None for row in rows)
    heads = ["", "pictures", *(_head(metric) for metric in evaluation.metrics), *(["s"] if has_seconds else [])]
    lines = [f"Protocol {evaluation.protocol.title}; {_described(evaluation)}.", "", *_table_head(heads)]
    for row in rows:
        cells = [row.method, str(row.num_pictures)]
        cells += [_figure(row.figures.get(metric), metric) for metric in evaluation.metrics]
        cells += ([f"{row.seconds:.2f}" if row.seconds is not None else "-"]) if has_seconds else []
        lines.append(f"| {' | '.join(cells)} |")
    has_intervals = any(figure.low is not None for row in rows for figure in row.figures.values())
    brackets = "In brackets: 95 % confidence interval, bootstrap over pictures."
    lines += ["", brackets if has_intervals else f"Confidence intervals need {MIN_PICTURES} pictures or more."]
    reference = evaluation.methods[0]
    others = [(method, differences(evaluation, method, reference)) for method in evaluation.methods[1:]]
    metrics = [metric for metric in evaluation.metrics if any(metric in found for _, found in others)]
    if metrics:
        star = "; * where the interval leaves out 0" if has_intervals else ""
        lines += ["", f"Difference to {reference} on the same pictures{star}:", ""]
        lines += _table_head(["", *(MEASURES[metric].label for metric in metrics)])
        for method, found in others:
            cells = [_difference(found.get(metric), metric) for metric in metrics]
            lines.append(f"| {' | '.join([method, *cells])} |")
    transparent = [text for method in evaluation.methods if (text := transparency(evaluation.of(method)))]
    lines += [""] if transparent or evaluation.left_out or evaluation.failures else []
    lines += [_plain(f"- {text}") for text in transparent]
    lines += [_plain(f"- left out: {reason}") for reason in evaluation.left_out.values()]
    lines += [_plain(f"- failed: {method}, {picture}: {reason}") for method, picture, reason in evaluation.failures]
    made_with = ", ".join(f"{name} {value}" for name, value in evaluation.made_with.items())
    methods = ", ".join(
        f"{name} = {what}" for name, what in zip(evaluation.methods, evaluation.identities, strict=True)
    )
    return "\n".join([*lines, "", _plain(f"Methods: {methods}."), f"Made with {made_with}.", ""])


def csv_text(evaluation: Evaluation) -> str:
    """Write one row for each picture of each method."""
    metrics = [metric for metric in evaluation.metrics if MEASURES[metric].compares != "set"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "picture", "protocol", *metrics, "seconds", "blur", "noise", "width", "height"])
    for score in evaluation.scores:
        figures = [f"{score.values[metric]:.6f}" if metric in score.values else "" for metric in metrics]
        seconds = "" if score.seconds is None else f"{score.seconds:.3f}"
        degrees = ["", ""] if score.degrees is None else [f"{degree:.4f}" for degree in score.degrees]
        size = ["", ""] if score.size_px is None else list(map(str, score.size_px))
        writer.writerow([_cell(score.method), _cell(score.picture), score.protocol, *figures, seconds, *degrees, *size])
    return text.getvalue()


def set_title(evaluation: Evaluation) -> str:
    """Describe the set in a few words."""
    description = evaluation.set_description
    where = description.get("truth") or description.get("low_quality") or description.get("results") or ""
    how = (
        f", {description['preset']} x{description['scale']} seed {description['seed']}"
        if "preset" in description
        else ""
    )
    return _plain(f"{description['kind']}{f' {where}' if where else ''}{how}")


def _plain(text: str) -> str:
    """Replace characters that cannot be printed with question marks: names of files hold any bytes."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _cell(text: str) -> str:
    """Write a name for the CSV; an apostrophe keeps spreadsheets from running it as a formula."""
    plain = _plain(text)
    return f"'{plain}" if plain.startswith(("=", "+", "-", "@")) else plain


def _described(evaluation: Evaluation) -> str:
    return f"{counted(int(evaluation.set_description['num_pictures']), 'picture')}, {set_title(evaluation)}"


def _table_head(heads: list[str]) -> list[str]:
    return [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]


def _head(metric: str) -> str:
    return f"{MEASURES[metric].label} ({_BETTER[MEASURES[metric].better]})"


def _figure(interval: Interval | None, metric: str, *, sign: str = "", mark: str = "") -> str:
    if interval is None:
        return "-"
    form = f"{sign}.{MEASURES[metric].num_decimals}f"
    text = f"{interval.value:{form}}{mark}"
    return text if interval.low is None else f"{text} [{interval.low:{form}}, {interval.high:{form}}]"


def _difference(found: PairedDifference | None, metric: str) -> str:
    if found is None:
        return "-"
    return _figure(found.mean, metric, sign="+", mark="*" if found.mean.leaves_out_zero else "")
