"""Videos of services that share their jobs: another one goes on from the finished segments of one that has died."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conftest import REPOSITORY
from s3diff import RestoreOptions, Restorer
from s3diff.client import Client, RemoteJob
from s3diff.folders.stores import open_store
from s3diff.options import OutputOptions
from s3diff.restoration import video
from s3diff.restoration.video import restore_video
from s3diff.serving import shared_jobs
from s3diff.serving.job_records import JobRecords, SharedWork
from s3diff.serving.jobs import Job, JobStatus
from s3diff.serving.limits import ServiceLimits, ServiceSettings
from s3diff.serving.service import RestorationService
from video_clips import write_clip

SECONDS = 300
#: The frames of a segment of the services that are killed, and of their video.
SEGMENT, FRAMES = 8, 80
#: The command, which takes another service for dead sooner and keeps shorter segments.
SERVING = f"""
from s3diff.restoration import video
from s3diff.serving import shared_jobs
shared_jobs._LOOK_SECONDS, shared_jobs._DEAD_SECONDS = 0.05, 3
video.SEGMENT_FRAMES = {SEGMENT}
from s3diff.apps.__main__ import main
main()
"""


@contextmanager
def serving(model: Path, folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    folder.mkdir()
    words = ["serve", "--port", "0", "-m", str(model), "--device", "cpu", "--precision", "float32", "--no-page"]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVING, *words, "--folder", str(folder), "--job-store", str(folder.parent / "jobs")],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=REPOSITORY,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1], process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_killed_in_the_middle(small: Path, restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 of a process: the result of the one that goes on is that of a run that nobody killed, to the byte."""
    source = write_clip(tmp_path / "film.mkv", list(range(0, 40 * FRAMES, 40)), with_sound=True)
    jobs = tmp_path / "jobs"
    with serving(small, tmp_path / "first") as (address, process), Client(address) as client:
        job = client.submit(source, scale=1)
        until = time.monotonic() + SECONDS
        while len(list(jobs.glob("work/*/*.nut"))) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert not list(jobs.glob("kept/*.end")), "the first service was too fast for this test"
    with serving(small, tmp_path / "second") as (address, _), Client(address) as client:
        made = RemoteJob(client, job.id).result()
        made.save(tmp_path / "made.mkv")
    monkeypatch.setattr(video, "SEGMENT_FRAMES", SEGMENT)
    restore_video(restorer, source, tmp_path / "expected.mkv", RestoreOptions(scale=1))
    assert (tmp_path / "made.mkv").read_bytes() == (tmp_path / "expected.mkv").read_bytes()
    (note,) = (each for each in made.notes if "frames were there from an earlier run" in each)
    assert 2 * SEGMENT <= int(note.split()[0]) < FRAMES
    assert not list(jobs.glob("work/*")), "nothing of it stays"


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_service_that_is_ended_leaves_its_segments(
    kind: str, small: Path, restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    monkeypatch.setattr(video, "SEGMENT_FRAMES", 3)
    monkeypatch.setattr(shared_jobs, "_LOOK_SECONDS", 0.1)
    source = write_clip(tmp_path / "clip.mkv")
    place = f"{request.getfixturevalue('s3')}/jobs" if kind == "s3" else str(tmp_path / "jobs")

    def service() -> RestorationService:
        return RestorationService(
            ServiceSettings(
                models=[small],
                device="cpu",
                precision="float32",
                limits=ServiceLimits(),
                folder=tmp_path,
                job_store=place,
            )
        )

    with service() as first:
        job = first.submit(source, "clip.mkv", RestoreOptions(scale=1))

        def hold(status: JobStatus) -> None:
            until = time.monotonic() + SECONDS
            while status.stage == "restoring" and status.tile == 7 and not job.is_cancelled:
                assert time.monotonic() < until
                time.sleep(0.01)

        job.subscribe(hold)
        until = time.monotonic() + SECONDS
        while job.status.tile < 7 or job.status.stage != "restoring":
            assert time.monotonic() < until
            time.sleep(0.01)
    store = open_store(place)
    assert {entry.key.rpartition("/")[2] for entry in store.entries("work")} == {
        "course.json", "segments.json", "000000.nut", "000001.nut", "000000.npy", "000001.npy"
    }  # fmt: skip
    with service() as second:
        result = second.job(job.id).wait(SECONDS).result
        assert result is not None
        restore_video(restorer, source, tmp_path / "expected.mkv", RestoreOptions(scale=1))
        assert result.path.read_bytes() == (tmp_path / "expected.mkv").read_bytes()
        assert "6 of 10 frames were there from an earlier run" in result.notes
    assert not list(store.entries("work"))


def test_segments_of_two_services_are_never_mixed(tmp_path: Path) -> None:
    """The second one, on another device, starts again: the segments of the first one go with the first new header."""
    records = JobRecords(open_store(str(tmp_path / "jobs")))
    plain: dict[str, Any] = {"options": RestoreOptions(), "writing": OutputOptions(), "model": "m", "owner": None}
    first, second = (Job(name="a.mkv", folder=tmp_path / name, job_id="j" * 32, **plain) for name in ("1", "2"))
    here, there = SharedWork(records, "first"), SharedWork(records, "second")

    def write(job: Job, files: dict[str, str]) -> None:
        job.work.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (job.work / name).write_text(content)

    def kept() -> dict[str, str]:
        return {path.name: path.read_text() for path in (tmp_path / "jobs/work" / first.id).iterdir()}

    old = {"course.json": "of the first", "segments.json": "{}", "0.nut": "a", "1.nut": "b", "1.npy": "c"}
    records.claim(first.id, 0, "first")
    write(first, {**old, "whole.mkv": "unfinished"})
    here.keep([first])
    assert kept() == old
    records.claim(first.id, 1, "second")
    there.fetch(second)
    shutil.rmtree(second.work)
    there.keep([second])
    assert kept() == old, "until the second one has some of its own"
    new = {"course.json": "of the second one", "segments.json": "{}"}
    write(second, new)
    there.keep([second])
    write(first, {"2.nut": "of one that was taken for dead"})
    here.keep([first])
    assert kept() == new
    write(second, {"0.nut": "new"})
    there.keep([second])
    assert kept() == {**new, "0.nut": "new"}
    records.clear(first.id)
    assert not list((tmp_path / "jobs").rglob("*.*"))
