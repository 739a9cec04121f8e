"""Videos at the service: what the command makes of them, limits, progress, turns with pictures, parts of the result."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from command_runs import Command
from page_server import page_server
from s3diff import RestoreOptions, Restorer
from s3diff.client import Client, Progress
from s3diff.option_texts import form_options, texts_of_options
from s3diff.restoration.video import restore_video
from s3diff.serving.http.api import create_app
from s3diff.serving.jobs import JobStatus
from s3diff.serving.limits import ServiceLimits, ServiceSettings
from s3diff.serving.service import RestorationService
from s3diff.video_options import VideoOptions
from serving_pictures import photo
from video_clips import HEIGHT, TIMES, WIDTH, frames, probed, write_clip

JOBS = "/api/v1/jobs"
SECONDS = 300
Make = Callable[..., RestorationService]


@pytest.fixture(scope="module")
def client(small: Path) -> Iterator[TestClient]:
    """A service that takes short and small videos only, and leaves them in the queue."""
    limits = ServiceLimits(video_frames=len(TIMES), video_pixels=10_000, input_pixels=50_000)
    service = RestorationService(ServiceSettings(models=[small], device="cpu", precision="float32", limits=limits))
    with TestClient(create_app(service)) as client:
        yield client


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", with_sound=True)


def sent(client: TestClient, path: Path, as_name: str = "", **fields: str) -> httpx.Response:
    return client.post(JOBS, files={"picture": (as_name or path.name, path.read_bytes())}, data=fields)


def ended(client: TestClient, job: dict[str, Any]) -> dict[str, Any]:
    until = time.monotonic() + SECONDS
    while job["state"] not in ("done", "failed", "cancelled") and time.monotonic() < until:
        job = client.get(f"{JOBS}/{job['id']}", params={"wait": 20}).json()
    return job


def test_a_video_is_what_the_command_makes(make: Make, restorer: Restorer, clip: Path, tmp_path: Path) -> None:
    options = RestoreOptions(scale=2, noise=0.3)
    expected = tmp_path / "expected.mp4"
    restore_video(restorer, clip, expected, options, VideoOptions(codec="h264", steady=0.2, quality=60))
    with TestClient(create_app(make())) as client:
        fields = {"scale": "2", "noise": "0.3", "codec": "h264", "steady": "0.2", "quality": "60"}
        answer = sent(client, clip, "holiday.mp4", **fields, name="{stem}-{scale}x")
        assert answer.status_code == 202, answer.text
        job = ended(client, answer.json())
        assert (job["state"], job["part"], job["tile"], job["num_tiles"]) == ("done", "frame", len(TIMES), len(TIMES))
        made = job["result"]
        assert (made["name"], made["media_type"]) == ("holiday-2x.mp4", "video/mp4")
        assert (made["width"], made["height"], made["frames"], made["noise"]) == (2 * WIDTH, 2 * HEIGHT, 10, 0.3)
        whole = client.get(f"{JOBS}/{job['id']}/result")
        assert whole.content == expected.read_bytes()
        assert json.loads(whole.headers["S3Diff-Result"])["frames"] == len(TIMES)
        assert_parts(client, f"{JOBS}/{job['id']}/result", whole.content)


def assert_parts(client: TestClient, address: str, content: bytes) -> None:
    """Players ask for parts of a file."""
    size = len(content)
    parts = {"bytes=0-99": (0, 100), "bytes=100-": (100, size), "bytes=-50": (size - 50, size)}
    for wanted, (start, end) in {**parts, f"bytes=7-{size * 2}": (7, size)}.items():
        part = client.get(address, headers={"Range": wanted})
        assert (part.status_code, part.headers["Content-Range"]) == (206, f"bytes {start}-{end - 1}/{size}"), wanted
        assert (part.content, part.headers["Content-Length"]) == (content[start:end], str(end - start)), wanted
    assert client.get(address).headers["Accept-Ranges"] == "bytes"
    assert client.get(address, headers={"Range": f"bytes={size}-"}).status_code == 416


def test_progress_frame_by_frame(make: Make, clip: Path) -> None:
    service = make(started=False)
    job = service.submit(clip, "clip.mp4", RestoreOptions(scale=1))
    seen: list[JobStatus] = []
    job.subscribe(seen.append)
    service.start()
    assert job.wait(SECONDS).state == "done"
    assert all(each.part == "frame" for each in seen[1:-1])
    looked = [each.tile for each in seen if each.stage == "estimating" and each.num_tiles]
    assert looked == [0, *range(1, len(TIMES) + 1)]
    restored = [each.tile for each in seen if each.stage == "restoring"]
    assert [each for each in restored if each] == [*range(1, len(TIMES))]
    shares = [each.fraction for each in seen]
    assert shares == sorted(shares)
    assert next(each for each in seen if each.stage == "restoring" and each.tile == 5).seconds_left is not None
    assert [each.stage for each in seen[-2:]] == ["writing", "ended"]


@pytest.mark.parametrize(
    ("fields", "status", "code", "field", "words"),
    [
        ({}, 413, "too_large", None, "clip.mp4 would become 128 x 96 px, at most 0.01 megapixels a frame are allowed"),
        ({"scale": "2", "codec": "divx"}, 422, "option", "codec", "codec is 'divx'; give one of auto, h264, h265"),
        ({"scale": "2", "pixel_format": "rgb"}, 422, "option", "pixel_format", "pixel_format is 'rgb'; h264 takes"),
        ({"scale": "2", "steady": "1"}, 422, "option", "steady", "steady is 1.0; give a share from 0 to 0.9"),
        ({"scale": "2", "format": "png"}, 422, "option", "format", "format is 'png', and clip.mp4 is a video"),
    ],
)
def test_refused_in_words(
    client: TestClient, clip: Path, fields: dict[str, str], status: int, code: str, field: str | None, words: str
) -> None:
    answer = sent(client, clip, **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (status, code, field)
    assert error["message"].startswith(words)


def test_too_long_or_too_large(client: TestClient, tmp_path: Path, clip: Path) -> None:
    long = write_clip(tmp_path / "long.mp4", [*TIMES, 600, 640])
    error = sent(client, long, scale="2").json()["error"]
    assert error["message"] == "long.mp4 has at least 12 frames, at most 10 are allowed; cut it shorter"
    assert error["code"] == "too_large"
    assert sent(client, clip, scale="2").status_code == 202
    stream = sent(client, clip, scale="2", codec="ffv1").json()["error"]
    assert (stream["field"], stream["message"]) == ("codec", "codec is 'ffv1', which does not go into .mp4; write .mkv")


def test_a_length_that_the_file_does_not_state(make: Make, tmp_path: Path) -> None:
    unstated = write_clip(tmp_path / "live.mkv", states_length=False)
    job = make(video_frames=5).submit(unstated, "live.mkv", RestoreOptions(scale=1))
    status = job.wait(SECONDS)
    assert (status.state, status.cause) == ("failed", "too_large")
    assert status.error == "live.mkv has at least 6 frames, at most 5 are allowed; cut it shorter"


def test_frames_larger_than_any_picture_are_not_decoded(make: Make, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "clip.mp4")
    with TestClient(create_app(make(started=False, input_pixels=WIDTH * HEIGHT - 1))) as client:
        answer = sent(client, source, scale="2")
    assert answer.status_code == 413
    assert "clip.mp4 has frames of 32 x 24 pixels, at most 767 are allowed" in answer.json()["error"]["message"]


@pytest.mark.parametrize("content", ["ffconcat version 1.0\nfile other.mp4\n", "#EXTM3U\n#EXTINF:1,\nother.mp4\n", "x"])
def test_a_file_that_names_others_is_no_video(client: TestClient, tmp_path: Path, content: str) -> None:
    write_clip(tmp_path / "other.mp4")
    playlist = tmp_path / "list.mp4"
    playlist.write_text(content)
    answer = sent(client, playlist)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "picture")
    assert "list.mp4 cannot be read as a video" in answer.json()["error"]["message"]


def test_without_the_extra(client: TestClient, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    answer = sent(client, clip)
    message = answer.json()["error"]["message"]
    assert answer.status_code == 422
    assert message.startswith("clip.mp4 is a video, and this service has not installed what reads videos")
    assert 'pip install -c constraints.txt ".[video]"' in message
    assert "\n" not in message


def test_an_estimate_is_that_of_the_first_frame(client: TestClient, clip: Path) -> None:
    found = client.post("/api/v1/estimate", files={"picture": ("clip.mp4", clip.read_bytes())}).json()
    assert (found["width"], found["height"], found["frames"]) == (WIDTH, HEIGHT, len(TIMES))
    refused = client.post("/api/v1/inspect", files={"picture": ("clip.mp4", clip.read_bytes())})
    assert refused.json()["error"]["message"] == "clip.mp4 is a video; only pictures are inspected"


def test_cancelled_between_two_frames(make: Make, clip: Path) -> None:
    service = make()
    job = service.submit(clip, "clip.mp4", RestoreOptions(scale=1))

    def cancel(status: JobStatus) -> None:
        if status.stage == "restoring" and status.tile == 3:
            job.cancel()

    job.subscribe(cancel)
    assert job.wait(SECONDS).state == "cancelled"
    assert job.status.tile < len(TIMES)
    assert not job.folder.exists(), "nothing of it may stay, segments either"
    assert service.submit(photo(), "a.png").wait(SECONDS).state == "done"


def test_time_is_limited(make: Make, clip: Path) -> None:
    status = make(video_seconds=1e-6).submit(clip, "clip.mp4").wait(SECONDS)
    assert (status.state, status.cause) == ("failed", "time")
    assert str(status.error).startswith("the video took longer than the 1e-06 seconds")


def test_room_is_limited(make: Make, tmp_path: Path) -> None:
    long = write_clip(tmp_path / "long.mkv", list(range(0, 40 * 100, 40)))
    service = make(result_bytes=50_000)
    job = service.submit(long, "long.mkv", RestoreOptions(scale=1), video_options=VideoOptions(codec="ffv1", steady=0))
    status = job.wait(SECONDS)
    assert (status.state, status.cause) == ("failed", "too_large")
    assert str(status.error).startswith("the result of long.mkv has more than 50000 bytes")
    assert not job.folder.exists()


def test_pictures_do_not_wait_for_videos(make: Make, clip: Path) -> None:
    """A picture goes first after the next frame, whatever number of videos stands before it in the queue."""
    service = make(started=False)
    videos = [service.submit(clip, f"{number}.mp4", RestoreOptions(scale=1)) for number in range(4)]
    pictures = [service.submit(photo(40 + 8 * number, 40), f"{number}.png") for number in range(3)]
    at_end: list[str] = []
    for job in (*videos, *pictures):
        job.subscribe(lambda status, name=job.name: at_end.append(name) if status.is_final else None)
    service.start()
    assert all(job.wait(SECONDS).state == "done" for job in (*videos, *pictures))
    assert at_end == ["0.png", "1.png", "2.png", "0.mp4", "1.mp4", "2.mp4", "3.mp4"]
    times, _ = frames(videos[3].status.result.path)  # type: ignore[union-attr]
    assert times == TIMES


def test_waiting_videos_are_counted_and_leave_the_queue(make: Make, clip: Path) -> None:
    service = make(queue_length=3)
    first = service.submit(clip, "first.mkv", RestoreOptions(scale=2))
    while first.status.stage == "waiting":
        time.sleep(0.01)
    second, third = (service.submit(clip, f"{name}.mkv", RestoreOptions(scale=1)) for name in ("second", "third"))
    until = time.monotonic() + SECONDS
    while (service.position(second), service.position(third)) != (0, 1) and not first.status.is_final:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert second.status.state == "queued"
    service.cancel(second.id)
    assert second.wait(SECONDS).state == "cancelled"
    assert [job.wait(SECONDS).state for job in (first, third)] == ["done", "done"]


def test_a_cancelled_video_does_not_end_the_picture_in_between(make: Make, clip: Path) -> None:
    service = make()
    video = service.submit(clip, "clip.mp4", RestoreOptions(scale=1))
    picture = None

    def hand_in(status: JobStatus) -> None:
        nonlocal picture
        if status.stage == "restoring" and picture is None:
            picture = service.submit(photo(), "a.png")
            picture.subscribe(lambda now: video.cancel() if now.stage == "restoring" else None)

    video.subscribe(hand_in)
    assert video.wait(SECONDS).state in ("cancelled", "done")
    assert picture is not None
    assert picture.wait(SECONDS).state == "done"


def test_options_of_videos_survive_as_texts() -> None:
    options = VideoOptions(codec="h265", pixel_format="yuv420p10le", steady=0.25)
    texts = texts_of_options(RestoreOptions(scale=2), None, options)
    assert texts == {"scale": "2", "codec": "h265", "pixel_format": "yuv420p10le", "steady": "0.25"}
    assert form_options(texts)[0] == RestoreOptions(scale=2)
    assert form_options(texts)[2] == options


@pytest.fixture(scope="module")
def address(small: Path) -> Iterator[str]:
    with page_server(model=small, limits=ServiceLimits(video_frames=len(TIMES))) as (address, _):
        yield address


def test_the_command_at_a_service(address: str, clip: Path, here: Path, command: Command, restorer: Restorer) -> None:
    """The result is the one that is made here, in the container that its name asks for; torch stays out."""
    options = RestoreOptions(scale=2)
    restore_video(restorer, clip, here / "expected.mp4", options, VideoOptions(steady=0))
    flags = ["--server", address, "--scale", "2", "--steady", "0"]
    done = command(clip, "-o", "made.mp4", *flags, "--report", "report.jsonl")
    assert done.code == 0, done.error
    assert (here / "made.mp4").read_bytes() == (here / "expected.mp4").read_bytes()
    told = json.loads((here / "report.jsonl").read_text())
    assert (told["state"], told["frames"], told["width"]) == ("done", len(TIMES), 2 * WIDTH)
    assert command(clip, "-o", "made.mkv", *flags, "--quiet").code == 0
    assert probed(here / "made.mkv")["format"]["format_name"].startswith("matroska")
    assert "made.mp4 is already there" in command(clip, "-o", "made.mp4", *flags).error


def test_the_command_without_torch(address: str, clip: Path, here: Path) -> None:
    code = "import sys; from s3diff.apps.cli import main\ntry: main()\nexcept SystemExit as end: print(end.code)\n"
    line = [sys.executable, "-c", f"{code}print('torch' in sys.modules, 'av' in sys.modules)"]
    run = subprocess.run(
        [*line, "restore", str(clip), "--scale", "1", "--server", address, "-q"], capture_output=True, text=True
    )
    assert run.stdout.split() == ["0", "False", "False"], run.stderr
    assert (clip.parent / "clip_restored.mp4").is_file()


def test_the_command_is_told_why(address: str, here: Path, command: Command) -> None:
    write_clip(here / "long.mp4", [*TIMES, 600, 640])
    done = command("long.mp4", "-o", "out.mkv", "--server", address)
    assert done.code == 1
    assert "long.mp4 has at least 12 frames, at most 10 are allowed; cut it shorter" in done.error
    assert not (here / "out.mkv").exists()
    assert "steady" in command("long.mp4", "-o", "out.mp4", "--server", address, "--steady", "2").error


def test_the_client(address: str, clip: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    with Client(address) as client:
        made = client.restore(clip, scale=2, video_options=VideoOptions(codec="vp9"), progress=seen.append)
        assert client.estimate(clip)["frames"] == len(TIMES)
    made.save(tmp_path / made.name)
    assert (made.name, made.media_type, made.facts["frames"]) == ("clip.mp4", "video/mp4", len(TIMES))
    assert probed(tmp_path / "clip.mp4")["streams"][0]["codec_name"] == "vp9"
    assert {each.part for each in seen if each.stage == "restoring"} <= {"frame"}
