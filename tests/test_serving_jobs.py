"""The service without HTTP: jobs, limits, cancelling, batches, the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s3diff import RestoreOptions, Restorer
from s3diff.errors import (
    JobNotFoundError,
    OptionError,
    PictureError,
    PictureTooLargeError,
    QueueFullError,
    ServiceClosedError,
)
from s3diff.images.files.reading import read_picture
from s3diff.options import OutputOptions
from s3diff.serving.jobs import JobStatus, safe_name
from s3diff.serving.limits import ServiceLimits, ServiceSettings
from s3diff.serving.progress import TimeEstimator
from s3diff.serving.service import RestorationService
from serving_pictures import deep_grey, jpeg_with_metadata, photo, png_claiming, transparent
from tiny_models import one_line

SECONDS = 120


Make = Callable[..., RestorationService]


def test_a_result_is_what_the_library_makes(make: Make, small: Path) -> None:
    service, options = make(), RestoreOptions(scale=2, noise=0.3)
    job = service.submit(photo(40, 30), "folder/kitten.png", options)
    status = job.wait(SECONDS)
    assert (status.state, status.fraction, status.stage) == ("done", 1.0, "ended")
    assert status.result is not None
    assert status.result.name == "kitten.png"
    assert status.result.media_type == "image/png"
    assert status.result.facts["noise"] == 0.3
    source = service.store.folder / "again.png"
    source.write_bytes(photo(40, 30))
    expected = Restorer.from_pretrained(small, device="cpu", precision="float32").restore(source, options)
    assert np.array_equal(read_picture(status.result.path).pixels, expected.array)
    assert not job.source.exists(), "the picture is no longer needed and must not stay"


@pytest.mark.parametrize("kind", ["jpeg", "deep", "transparent"])
def test_what_the_command_keeps_is_kept(make: Make, kind: str) -> None:
    content, name = {
        "jpeg": (jpeg_with_metadata(), "a.jpg"),
        "deep": (deep_grey(), "a.png"),
        "transparent": (transparent(), "a.png"),
    }[kind]
    result = make().submit(content, name, RestoreOptions(scale=2)).wait(SECONDS).result
    assert result is not None
    picture = read_picture(result.path)
    if kind == "jpeg":
        assert Image.open(result.path).getexif()[0x0110] == "Camera"
        assert picture.dpi == (300, 300)
    if kind == "deep":
        assert picture.pixels.dtype == np.uint16
        assert picture.is_grey
    if kind == "transparent":
        assert picture.is_transparent


def test_a_name_and_a_format_by_option(make: Make) -> None:
    writing = OutputOptions(name="{stem}-{model}-{scale}", format="webp")
    result = make().submit(photo(), "a.b.png", RestoreOptions(scale=2), writing=writing).wait(SECONDS).result
    assert result is not None
    assert (result.name, result.media_type) == ("a.b-small-2.webp", "image/webp")


def test_a_picture_without_extension_keeps_its_format(make: Make) -> None:
    result = make().submit(jpeg_with_metadata(), "blob", RestoreOptions(scale=1)).wait(SECONDS).result
    assert result is not None
    assert result.name == "blob.jpg"


def test_an_animation_is_restored_frame_by_frame(make: Make, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (24, 20), (80 * index, 90, 200)) for index in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    result = make().submit(tmp_path / "a.gif", "a.gif", RestoreOptions(scale=2)).wait(SECONDS).result
    assert result is not None
    assert result.facts["frames"] == 3
    assert Image.open(result.path).n_frames == 3


@pytest.mark.parametrize("extension", ["gif", "webp", "png"])
def test_progress_of_an_animation_counts_frames(make: Make, tmp_path: Path, extension: str) -> None:
    frames = [Image.new("RGB", (24, 20), (80 * index, 90, 200)) for index in range(3)]
    path = tmp_path / f"a.{extension}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    service, seen = make(started=False), []
    job = service.submit(path, path.name, RestoreOptions(scale=2))
    job.subscribe(seen.append)
    service.start()
    assert job.wait(SECONDS).state == "done"
    assert {status.part for status in seen if status.num_tiles == 3} == {"frame"}


def test_progress_goes_forward_to_the_end(make: Make) -> None:
    service, seen = make(), []
    job = service.submit(photo(160, 160), "a.png", RestoreOptions(tile=256))
    unsubscribe = job.subscribe(seen.append)
    job.wait(SECONDS)
    unsubscribe()
    stages = [status.stage for status in seen]
    assert [stage for index, stage in enumerate(stages) if stage not in stages[:index]][-3:] == [
        "restoring",
        "writing",
        "ended",
    ]
    assert max(status.num_tiles for status in seen) > 1
    fractions = [status.fraction for status in seen]
    assert fractions == sorted(fractions)
    assert any(status.seconds_left is not None for status in seen)


def test_the_first_picture_replaces_what_the_warm_up_took() -> None:
    times = TimeEstimator()
    assert times.expected("small", 10**6) is None
    times.add("small", 128 * 128, 4.0)  # mostly what no picture pays for again
    times.add("small", 800 * 600, 9.6)
    assert times.expected("small", 800 * 600) == pytest.approx(12.1, abs=0.1)
    for _ in range(10):
        times.add("small", 800 * 600, 2.0)  # the machine has become free
    assert times.expected("small", 800 * 600) == pytest.approx(2.0, abs=0.3)
    assert times.expected("another", 1) is None


def test_a_running_job_is_really_stopped(make: Make) -> None:
    service = make()
    job = service.submit(photo(700, 700), "a.png", RestoreOptions(tile=256))
    while job.status.stage != "restoring":
        time.sleep(0.01)
    asked = time.monotonic()
    service.cancel(job.id)
    assert job.wait(SECONDS).state == "cancelled"
    assert time.monotonic() - asked < 10
    assert not job.folder.exists()
    # The networks are free again, and what follows is right.
    assert service.submit(photo(), "b.png", RestoreOptions(scale=2)).wait(SECONDS).state == "done"


def test_a_waiting_job_ends_at_once(make: Make) -> None:
    service = make(started=False)
    first, second = (service.submit(photo(), "a.png") for _ in range(2))
    assert (service.position(first), service.position(second)) == (0, 1)
    service.cancel(first.id)
    assert first.status.state == "cancelled"
    assert (service.position(first), service.position(second)) == (None, 0)


def test_a_full_queue_says_when_to_come_back(make: Make) -> None:
    service = make(started=False, queue_length=2)
    for _ in range(2):
        service.submit(photo(), "a.png")
    with pytest.raises(QueueFullError) as full:
        service.submit(photo(), "a.png")
    assert full.value.retry_after_seconds >= 1
    one_line(full)
    assert len(list(service.store.folder.iterdir())) == 2, "a refused picture leaves no file"


def test_other_owners_see_nothing(make: Make) -> None:
    service = make(started=False)
    job = service.submit(photo(), "a.png", owner="one")
    for owner in ("other", None):
        for ask in (service.job, service.cancel, service.remove):
            with pytest.raises(JobNotFoundError):
                ask(job.id, owner)
    assert service.job(job.id, "one") is job


@pytest.mark.parametrize(
    ("content", "name", "limits", "error"),
    [
        (b"no picture", "a.png", {}, PictureError),
        (b"", "a.png", {}, PictureError),
        (png_claiming(60000, 60000), "a.png", {}, PictureTooLargeError),
        (photo(40, 40), "a.png", {"input_pixels": 40 * 40 - 1}, PictureTooLargeError),
        (photo(40, 40), "a.png", {"output_pixels": 160 * 160 - 1}, PictureTooLargeError),
        (photo(40, 40), "a.png", {"upload_bytes": 100}, PictureTooLargeError),
    ],
)
def test_what_is_refused_at_the_door(
    make: Make, content: bytes, name: str, limits: dict[str, int], error: type[Exception]
) -> None:
    service = make(started=False, **limits)
    with pytest.raises(error) as refused:
        service.submit(content, name)
    assert str(service.store.folder) not in one_line(refused)
    assert list(service.store.folder.iterdir()) == []


def test_a_bad_picture_costs_only_itself(make: Make) -> None:
    service = make()
    damaged = photo(64, 64)[:-40]
    bad = service.submit(damaged, "secret name.png")
    status = bad.wait(SECONDS)
    assert (status.state, status.cause) == ("failed", "picture")
    assert status.error is not None
    assert status.error.startswith("secret name.png")
    assert str(service.store.folder) not in status.error
    assert service.submit(photo(), "b.png").wait(SECONDS).state == "done"


def test_a_result_that_its_format_cannot_hold(make: Make) -> None:
    status = make().submit(transparent(), "a.png", writing=OutputOptions(format="jpg")).wait(SECONDS)
    assert (status.state, status.cause) == ("failed", "output")


def test_a_prompt_that_the_model_cannot_read(make: Make) -> None:
    service = make()
    for field in ("positive_prompt", "negative_prompt"):
        options = RestoreOptions(**{field: "sharp"}, guidance=1.5)
        status = service.submit(photo(), "a.png", options).wait(SECONDS)
        assert (status.state, status.cause, status.field) == ("failed", "option", field)


def test_work_that_takes_too_long(make: Make) -> None:
    status = make(job_seconds=1e-3).submit(photo(64, 64), "a.png").wait(SECONDS)
    assert (status.state, status.cause) == ("failed", "time")


def test_results_are_kept_for_a_time_and_in_a_space(make: Make) -> None:
    service = make(result_seconds=0.2)
    job = service.submit(photo(), "a.png")
    job.wait(SECONDS)
    time.sleep(0.3)
    with pytest.raises(JobNotFoundError):
        service.job(job.id)
    assert not job.folder.exists()

    service = make(result_bytes=1)
    jobs = [service.submit(photo(), "a.png") for _ in range(3)]
    assert all(job.wait(SECONDS).state == "done" for job in jobs)
    assert service.job(jobs[-1].id) is jobs[-1], "the newest result stays, whatever its size"
    with pytest.raises(JobNotFoundError):
        service.job(jobs[0].id)
    until = time.monotonic() + SECONDS
    while (left := [folder.name for folder in service.store.folder.iterdir()]) != [jobs[-1].id]:
        assert time.monotonic() < until, left  # the thread that ended the last job is still removing


def test_a_batch_makes_the_very_pictures_that_one_by_one_makes(make: Make) -> None:
    contents = [photo(32, 24, seed) for seed in range(6)]

    def results(service: RestorationService) -> list[np.ndarray]:
        for content in contents:
            service.submit(content, "a.png", RestoreOptions(scale=2))
        jobs = service.store.jobs()
        service.start()
        statuses = [job.wait(SECONDS) for job in jobs]
        return [read_picture(status.result.path).pixels for status in statuses if status.result]

    sizes: list[int] = []
    together = make(started=False, place="compact", batch_size=3, batch_wait_seconds=0.5)
    original = Restorer.restore_batch

    def counted(self: Restorer, sources: list[object], *arguments: object, **options: object) -> object:
        sizes.append(len(sources))
        return original(self, sources, *arguments, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Restorer, "restore_batch", counted)
        batched = results(together)
    assert max(sizes) > 1
    alone = results(make(started=False, place="compact", batch_size=1))
    assert len(batched) == len(alone) == 6
    assert all(np.array_equal(one, other) for one, other in zip(batched, alone, strict=True))


def test_an_estimate_is_what_restoring_finds(make: Make) -> None:
    service = make()
    size, degrees, num_frames = service.estimate(photo(50, 40), "a.png")
    assert num_frames is None
    facts = service.submit(photo(50, 40), "a.png").wait(SECONDS).result.facts  # type: ignore[union-attr]
    assert size == (50, 40)
    assert [round(value, 4) for value in degrees] == [facts["estimated_blur"], facts["estimated_noise"]]
    assert not any(folder.name.startswith("estimate") for folder in service.store.folder.iterdir())


def test_an_estimate_does_not_wait_for_a_picture(make: Make) -> None:
    service = make()
    job = service.submit(photo(700, 700), "a.png", RestoreOptions(tile=256))
    while job.status.stage != "restoring":
        time.sleep(0.01)
    service.estimate(photo(), "b.png")
    assert not job.status.is_final
    service.cancel(job.id)


def test_the_end_finishes_what_was_taken(make: Make) -> None:
    service = make()
    jobs = [service.submit(photo(48, 48, seed), "a.png") for seed in range(4)]
    seen: list[JobStatus] = []
    for job in jobs:
        job.subscribe(seen.append)
    closing = threading.Thread(target=service.close, args=(SECONDS,))
    closing.start()
    while service.is_ready:
        time.sleep(0.01)
    with pytest.raises(ServiceClosedError):
        service.submit(photo(), "a.png")
    closing.join(SECONDS)
    assert [job.status.state for job in jobs] == ["done"] * 4
    assert not service.store.folder.exists()


def test_the_end_without_grace_stops_the_work(make: Make) -> None:
    service = make()
    job = service.submit(photo(700, 700), "a.png", RestoreOptions(tile=256))
    while job.status.stage != "restoring":
        time.sleep(0.01)
    started = time.monotonic()
    service.close(0)
    assert job.status.state == "cancelled"
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("photo.jpg", "photo.jpg"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\photo.jpg", "photo.jpg"),
        ("..", "picture"),
        ("", "picture"),
        ("/", "picture"),
        ("a\0b\n.png", "a_b_.png"),
        ("con.png", "picture-con.png"),
        ("Ünï çödé 😀.png", "Ünï çödé 😀.png"),
        (".png", "png"),
        ('a"<>:|?*.png', "a_______.png"),
        ("trailing. ", "trailing"),
    ],
)
def test_names_stay_names(given: str, kept: str) -> None:
    assert safe_name(given) == kept


def test_long_names_are_cut_for_the_file_system() -> None:
    name = safe_name("ü" * 400 + ".jpeg")
    assert len(name.encode()) <= 120
    assert name.endswith(".jpeg")


@pytest.mark.parametrize(
    "limits", [{"queue_length": 0}, {"job_seconds": -1.0}, {"batch_size": 1.5}, {"upload_bytes": "1"}]
)
def test_limits_are_checked(limits: dict[str, object]) -> None:
    with pytest.raises(OptionError) as wrong:
        ServiceLimits(**limits)  # type: ignore[arg-type]
    one_line(wrong)


def test_models_are_named_not_addressed(make: Make, small: Path) -> None:
    service = make(started=False)
    with pytest.raises(OptionError, match="this service offers small"):
        service.submit(photo(), "a.png", model=str(small))
    with pytest.raises(OptionError, match="each name once"):
        RestorationService(ServiceSettings(models=[small, small]))
    with pytest.raises(OptionError):
        RestorationService(ServiceSettings(models=[]))
