"""Jobs that several services share: any of them answers, and goes on with those of a dead one. No Ray is needed."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s3diff import RestoreOptions
from s3diff.errors import JobNotFoundError, StoreError
from s3diff.folders.stores import open_store
from s3diff.option_texts import texts_of_options
from s3diff.options import OutputOptions
from s3diff.serving import shared_jobs
from s3diff.serving.jobs import Job
from s3diff.serving.service import RestorationService
from serving_pictures import photo

SECONDS = 120


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services that look more often, and take another one sooner for dead."""
    for name, seconds in {"BEAT": 0.1, "LOOK": 0.1, "DEAD": 5}.items():
        monkeypatch.setattr(shared_jobs, f"_{name}_SECONDS", seconds)


Make = Callable[..., RestorationService]


@pytest.fixture
def make(make: Make, tmp_path: Path) -> Make:
    """A service that shares the jobs of ``tmp_path / "jobs"``. One that is not started leaves everything waiting."""

    def new(*, started: bool = True, place: Path | str = tmp_path / "jobs", **limits: object) -> RestorationService:
        service = make(started=started, job_store=str(place), **limits)
        if not started:
            service.store.start(service._pipeline)  # it shares, and never works
        return service

    return new


def die(service: RestorationService) -> None:
    """End as after kill -9: the threads stop, and nothing is said to anybody."""
    service.store._is_over.set()  # type: ignore[attr-defined]


def until(holds: Callable[[], Any], seconds: float = SECONDS) -> Any:
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.05)
    return found


def keys(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_any_service_answers_for_any_job(make: Make) -> None:
    here, there = make(), make()
    options, writing = RestoreOptions(scale=2, noise=0.3), OutputOptions(name="{stem}-new")
    job = here.submit(photo(40, 30), "kitten.png", options, writing=writing, owner="anna")
    seen = there.job(job.id, "anna")
    assert (seen.name, seen.model, seen.writing) == (job.name, job.model, job.writing)
    assert texts_of_options(seen.options) == texts_of_options(job.options) == {"scale": "2", "noise": "0.3"}
    status, own = seen.wait(SECONDS), job.wait(SECONDS)
    assert status.state == own.state == "done"
    assert status.result is not None
    assert own.result is not None
    assert status.result.path != own.result.path
    assert status.result.path.read_bytes() == own.result.path.read_bytes()
    assert status.result.facts == own.result.facts
    assert (status.result.name, status.result.notes) == (own.result.name, own.result.notes)
    assert status.result.size_bytes == own.result.size_bytes
    for stranger in (None, "bert"):
        with pytest.raises(JobNotFoundError):
            there.job(job.id, stranger)
    for name in ("no-such-job-of-anybody", "../" + job.id, ""):
        with pytest.raises(JobNotFoundError):
            there.job(name, "anna")


def test_a_result_is_there_when_another_service_has_told_the_end(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own service writes the end down, and has it a moment later."""
    here, there = make(), make()
    is_written, go_on, update = threading.Event(), threading.Event(), Job.update

    def late(job: Job, **changes: Any) -> bool:
        if type(job) is Job and changes.get("state") == "done":  # its own, not the other service's picture of it
            is_written.set()
            assert go_on.wait(SECONDS)
        return update(job, **changes)

    monkeypatch.setattr(Job, "update", late)
    job = here.submit(photo(40, 30), "kitten.png", RestoreOptions(scale=1))
    assert is_written.wait(SECONDS)
    until(lambda: there.job(job.id).status.state == "done")
    assert here.job(job.id).status.state == "running"
    timer = threading.Timer(0.5, go_on.set)
    timer.start()
    assert here.job_with_result(job.id).status.state == "done"
    timer.join()


def test_all_services_tell_the_same_of_a_job(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks now one and now another one sees no step back, though only one service knows the last step."""
    monkeypatch.setattr(shared_jobs, "_LOOK_SECONDS", SECONDS)
    here, there = make(started=False), make(started=False)
    job = here.submit(photo(40, 30), "kitten.png")
    told = [(0.0, "queued"), (0.25, "running"), (0.5, "running")]
    for step, (fraction, state) in enumerate(told):
        if step:
            here.store._records.write_progress(job)  # type: ignore[attr-defined]
        for _ in range(2):
            for service in (here, there):
                status = service.store.told(service.job(job.id))
                assert (status.fraction, status.state) == (fraction, state)
            job.update(state="running", stage="restoring", tile=step + 1, num_tiles=4, fraction=(step + 1) / 4)
    monkeypatch.setattr(here.store._records, "read_progress", away)  # type: ignore[attr-defined]
    assert here.store.told(job).fraction == 0.75


def away(*_: Any) -> Any:
    raise StoreError("away")


def test_a_failure_is_the_same_everywhere(make: Make, tmp_path: Path) -> None:
    here, there = make(), make()
    content = photo(40, 30)
    job = here.submit(content[: len(content) // 2], "torn.png")
    assert job.wait(SECONDS).state == "failed"
    seen = there.job(job.id).status
    assert (seen.state, seen.error, seen.cause, seen.field) == ("failed", job.status.error, "picture", None)
    assert str(tmp_path) not in (seen.error or "")


def test_jobs_of_a_dead_service_are_taken_over(make: Make, tmp_path: Path) -> None:
    dead = make(started=False)
    jobs = [dead.submit(photo(40, 30), f"{index}.png", RestoreOptions(scale=2)) for index in range(3)]
    living = [make(), make()]
    seen = [living[index % 2].job(job.id) for index, job in enumerate(jobs)]
    assert {each.status.state for each in seen} == {"queued"}
    die(dead)
    assert [each.wait(SECONDS).state for each in seen] == ["done"] * 3
    until(lambda: not list((tmp_path / "jobs" / "live").iterdir()))
    # The end of a job is written down before its service counts it.
    until(lambda: sum(service.counts["done"] for service in living) >= 3)
    assert sum(service.counts["done"] for service in living) == 3, "each once"
    assert [key.rpartition(".")[2] for key in keys(tmp_path / "jobs" / "kept")] == ["end", "job", "result"] * 3


def test_a_service_that_ends_leaves_its_jobs_to_others(make: Make) -> None:
    ending, other = make(started=False), make()
    job = ending.submit(photo(40, 30), "a.png")
    seen = other.job(job.id)
    ending.close(0)
    assert seen.wait(SECONDS).state == "done"


def test_a_result_outlives_its_service(make: Make) -> None:
    here = make()
    job = here.submit(photo(40, 30), "a.png")
    job.wait(SECONDS)
    here.drain()
    assert not here.owes, "others can be asked for it"
    here.close(0)
    result = make().job(job.id).status.result
    assert result is not None
    assert result.path.stat().st_size == result.size_bytes


def test_a_picture_that_kills_every_service_is_given_up(make: Make) -> None:
    first = make(started=False)
    job = first.submit(photo(40, 30), "deadly.png")
    die(first)
    for number in range(1, 3):
        next_one = make(started=False)
        next_one._pipeline.has_room = lambda model: True  # type: ignore[method-assign]
        until(lambda number=number: first.store._records.claimant(job.id, number))  # type: ignore[attr-defined]
        die(next_one)
    status = make().job(job.id).wait(SECONDS)
    assert status.state == "failed"
    assert "every service" in (status.error or "")


def test_the_end_of_a_job_may_be_asked_for_anywhere(make: Make, tmp_path: Path) -> None:
    here, there = make(started=False), make(started=False)
    job = here.submit(photo(40, 30), "a.png")
    there.cancel(job.id)
    assert job.wait(SECONDS).state == "cancelled"
    assert there.job(job.id).wait(SECONDS).state == "cancelled"
    another = here.submit(photo(40, 30), "b.png")
    there.remove(another.id)
    assert another.wait(SECONDS).state == "cancelled"
    until(lambda: not [key for key in keys(tmp_path / "jobs") if another.id in key])
    for service in (here, there):
        with pytest.raises(JobNotFoundError):
            service.job(another.id)


def test_what_is_removed_at_one_service_is_gone_at_all(make: Make, tmp_path: Path) -> None:
    here, there = make(), make()
    job = here.submit(photo(40, 30), "a.png")
    there.job(job.id).wait(SECONDS)
    there.remove(job.id)
    for service in (here, there):
        with pytest.raises(JobNotFoundError):
            service.job(job.id)
    assert not [key for key in keys(tmp_path / "jobs") if job.id in key]
    assert not [path for path in tmp_path.rglob("*") if job.id in path.name]


def test_results_go_when_they_are_old(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_jobs, "_SWEEP_SECONDS", 0.1)
    here = make(job_records=2)
    jobs = [here.submit(photo(20, 20), f"{index}.png") for index in range(4)]
    for job in jobs:
        assert job.wait(SECONDS).state == "done"
    until(lambda: len({key.split(".")[0] for key in keys(tmp_path / "jobs" / "kept")}) == 2)
    assert make().job(jobs[-1].id).status.result is not None


def test_what_a_killed_service_left_unfinished_goes_when_it_is_old(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_jobs, "_SWEEP_SECONDS", 0.1)
    here = make()
    assert here.submit(photo(20, 20), "a.png").wait(SECONDS).state == "done"
    old, new = (tmp_path / "jobs" / "kept" / f".s3diff-12345678-{name}.part" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half a picture")
    os.utime(old, (time.time() - 3600,) * 2)
    until(lambda: not old.exists())
    assert new.exists(), "somebody may be writing it"


def test_a_place_that_is_away_harms_no_job(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = make(), make()
    place, is_away = here.store._records._store, threading.Event()  # type: ignore[attr-defined]
    write = place.write

    def write_or_not(key: str, *given: Any, **named: Any) -> None:
        if is_away.is_set():
            raise StoreError("away")
        write(key, *given, **named)
        if key.endswith(".0"):  # the last word about a job that is taken in
            is_away.set()

    monkeypatch.setattr(place, "write", write_or_not)
    job = here.submit(photo(20, 20), "a.png")
    assert job.wait(SECONDS).state == "done", "whoever asks here gets it"
    with pytest.raises(StoreError):
        here.submit(photo(20, 20), "b.png")
    until(lambda: not here.is_ready, 30)
    is_away.clear()
    assert there.job(job.id).wait(SECONDS).state == "done"
    until(lambda: here.is_ready, 30)


def test_a_picture_that_is_the_answer_itself_is_not_shared(make: Make, tmp_path: Path) -> None:
    service = make()
    job = service.submit(photo(20, 20), "a.png", is_shared=False)
    assert job.wait(SECONDS).state == "done"
    service.store.remove(job)
    assert not [key for key in keys(tmp_path / "jobs") if job.id in key]


def test_only_one_of_many_gets_a_claim(tmp_path: Path) -> None:
    store, barrier, got = open_store(str(tmp_path)), threading.Barrier(8), []

    def take(name: int) -> None:
        barrier.wait()
        got.append(shared_jobs.JobRecords(store).claim("a" * 32, 0, str(name)))

    for _ in range(20):
        threads = [threading.Thread(target=take, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(got) == 1
        got.clear()
        shutil.rmtree(tmp_path / "live")


def test_jobs_in_an_object_store(make: Make, s3: str) -> None:
    dead, living = make(started=False, place=f"{s3}/jobs"), make(place=f"{s3}/jobs")
    job = dead.submit(photo(40, 30), "käse & brot.png")
    seen: Job = living.job(job.id)
    die(dead)
    status = seen.wait(SECONDS)
    assert status.state == "done"
    assert status.result is not None
    assert status.result.path.stat().st_size == status.result.size_bytes
    living.remove(job.id)
    # Its end is written down a moment before the service itself sees it, and forgets the job.
    until(lambda: not [entry.key for entry in open_store(f"{s3}/jobs").entries() if job.id in entry.key])


def test_a_job_that_is_to_be_forgotten_leaves_nothing(make: Make, tmp_path: Path) -> None:
    """Also where it was asked for so late that the job ends meanwhile, or by a service that has died since."""
    service = make(started=False)
    job = service.submit(photo(8, 8), "a.png")
    records = service.store._records  # type: ignore[attr-defined]
    job.is_forgotten = True
    records.ask_for_end(job)
    records.write_end(job.id, job.status)
    assert not [key for key in keys(tmp_path / "jobs") if job.id in key]
    with pytest.raises(JobNotFoundError):
        make(started=False).job(job.id)


def test_how_long_a_look_takes_says_nothing_of_the_others(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that stalls takes nobody for dead, and one whose looks are far apart finds the dead all the same."""
    here, there = make(started=False), make(started=False)
    store: Any = here.store
    other = there.store.id  # type: ignore[attr-defined]
    for service in (here, there):
        die(service)  # the test looks in its place
    clock = [time.monotonic() + 100]
    monkeypatch.setattr(shared_jobs.time, "monotonic", lambda: clock[0])
    store._look_at_services()
    clock[0] += 1000
    assert not store._is_dead(other)
    store._look_at_services()
    assert not store._is_dead(other), "the place may have been away"
    clock[0] += 10
    store._look_at_services()
    assert store._is_dead(other)
