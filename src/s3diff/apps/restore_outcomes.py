"""Print what ``s3diff restore`` says of finished pictures: one line each, and a table of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3diff.apps.terminal import on_one_line, remark
from s3diff.formats import holds_pages

if TYPE_CHECKING:
    from s3diff.apps.replay import Replay
    from s3diff.folders.restore import FolderResult
    from s3diff.folders.run import Outcome

#: Failed pictures that the final table repeats; the report has all of them.
_FAILURES_SHOWN = 20


def show_sums(result: FolderResult) -> None:
    """Show the table at the end."""
    rows = [("done", result.num_done, f"in {result.seconds:.1f} s")]
    rows += [("skipped", count, reason) for reason, count in result.skipped.items()]
    rows += [("left out", count, what) for count, what in result.left_out.lines()]
    if result.failed:
        rows.append(("failed", len(result.failed), "see above" if len(result.failed) <= 1 else "namely"))
    width = max(len(str(count)) for _, count, _ in rows)
    for state, count, text in rows:
        remark(f"{state:8} {count:{width}}  {text}")
    if len(result.failed) > 1:
        for outcome in result.failed[:_FAILURES_SHOWN]:
            remark(f"  {outcome.reason}")
        if len(result.failed) > _FAILURES_SHOWN:
            remark(f"  and {len(result.failed) - _FAILURES_SHOWN} more, all of them in --report")


def show_outcome(outcome: Outcome, quiet: bool, replay: Replay | None = None) -> None:
    """Print one picture; for a ``replay`` also how its result differs from the stated one."""
    if outcome.state == "skipped":
        return
    if outcome.state == "failed":
        remark(f"s3diff: {outcome.reason}")
        return
    if not quiet:
        print(on_one_line(_line(outcome)), flush=True)
        for note in outcome.result.notes if outcome.result else ():
            remark(f"{outcome.job.source}: {note}")
    for note in replay.strangeness(outcome.result) if replay is not None and outcome.result is not None else ():
        remark(f"{outcome.job.source}: {note}")


def _line(outcome: Outcome) -> str:
    """Print one picture on stdout; if a degree was set or shifted by hand, add the estimate."""
    facts = outcome.result.facts if outcome.result else {}
    degrees = []
    for name in ("blur", "noise"):
        used, estimated = facts[name], facts[f"estimated_{name}"]
        degrees.append(f"{name} {used:.3f}" + (f" (estimated {estimated:.3f})" if used != estimated else ""))
    several = "pages" if holds_pages(outcome.job.target) else "frames"
    size = f"{facts['width']}x{facts['height']}" + (f", {facts['frames']} {several}" if "frames" in facts else "")
    return "  ".join([str(outcome.job.target), size, *degrees, f"{facts['seconds']:.2f} s"])
