"""Videos on the page, in a real browser: dropped, restored frame by frame, played beside the original, downloaded."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from page_server import KeptWindow, page_server
from s3diff.serving.limits import ServiceLimits
from test_page_browser import PHOTOS, Seen
from test_page_features import require_accessible
from video_clips import frames, probed, write_clip

#: Time stamps of 20 frames, in thousandths of a second: six seconds, so that a slow machine looks before the end.
LONG = list(range(0, 6000, 300))
Open = Callable[..., Seen]
_TIMES = "[...document.querySelectorAll('.frame video')].map((each) => each.currentTime)"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", LONG)


def plays(seen: Seen, side: str) -> bool:
    return bool(seen.page.evaluate(f"document.querySelector('.{side}-video').videoWidth > 0"))


def visible(page: Any, *selectors: str) -> list[bool]:
    return [page.is_visible(selector) for selector in selectors]


def given(page_of: Open, clip: Path, **about: Any) -> Seen:
    seen = page_of(**about)
    seen.give(clip)
    seen.found()
    seen.page.fill("#control-scale input", "1")
    return seen


def test_before_and_after_play_together(page_of: Open, clip: Path, tmp_path: Path) -> None:
    seen = given(page_of, clip)
    page = seen.page
    assert plays(seen, "before")
    assert (page.is_visible(".player"), page.is_visible(".after-video"), page.is_visible(".about")) == (
        True,
        False,
        False,
    )
    seen.until("document.querySelector('.command code').textContent.includes('--scale 1')")
    assert seen.command().startswith("s3diff restore clip.mp4 -o clip-restored.mp4 ")
    require_accessible(page)
    answers: list[tuple[str, int]] = []
    page.on("response", lambda answer: answers.append((answer.url, answer.status)))
    page.evaluate(
        """() => { window.told = []; new MutationObserver(() => told.push(document.querySelector('.stage').textContent))
             .observe(document.querySelector('.progress'), {subtree: true, childList: true}); }"""
    )
    seen.restore()
    told = page.evaluate("told")
    assert any(words.startswith("Restoring, frame ") and words.endswith(f" of {len(LONG)}") for words in told), told
    seen.until("document.querySelector('.after-video').readyState >= 2")
    assert plays(seen, "after")
    assert 206 in [status for url, status in answers if url.endswith("/result")], "it is asked for in parts"
    assert page.evaluate("[...document.querySelectorAll('.frame video')].map((each) => each.muted)") == [True, False]

    page.click(".player .play")
    assert page.text_content(".player .play") == "Pause"
    seen.until("document.querySelector('.after-video').currentTime > 0.3")
    before, after = page.evaluate(_TIMES)
    assert abs(before - after) < 0.3
    page.keyboard.press("k")
    seen.until(f"(() => {{ const [before, after] = {_TIMES}; return before === after; }})()")
    assert page.text_content(".player .play") == "Play"
    shown = page.evaluate(_TIMES)[1]
    page.keyboard.press(".")
    assert page.evaluate(_TIMES) == pytest.approx([shown + 0.3] * 2, abs=0.005)
    page.focus(".player .seek")
    page.keyboard.press("Home")
    assert page.evaluate(_TIMES) == [0, 0]

    page.click("[data-mode=side]")
    boxes = [page.locator(f".{side}-video").bounding_box() for side in ("before", "after")]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"] + 1
    require_accessible(page)
    name, both = seen.download(".export")
    with Image.open(io.BytesIO(both)) as image:
        assert (name, image.width >= 2 * image.height) == ("clip-before-after.jpg", True)
    name, made = seen.download()
    assert name == "clip-restored.mp4"
    (tmp_path / name).write_bytes(made)
    assert frames(tmp_path / name)[0] == LONG


def test_a_click_previews_a_piece_of_the_frame_that_is_shown(page_of: Open, clip: Path) -> None:
    seen = given(page_of, clip)
    seen.until("!document.querySelector('.preview').disabled")
    seen.page.click(".preview")
    seen.page.wait_for_selector(".patch", state="visible")
    seen.page.click(".player .play")
    seen.page.wait_for_selector(".patch", state="hidden")


def test_a_result_that_the_browser_does_not_play(page_of: Open, clip: Path, tmp_path: Path) -> None:
    seen = given(page_of, clip)
    page = seen.page
    seen.open_settings("Codec and steadiness of a video")
    page.select_option("#control-codec select", "h265")
    page.fill("#control-pixel_format input", "yuv420p10le")
    seen.until(
        "document.querySelector('.command code').textContent.includes('--codec h265 --pixel-format yuv420p10le')"
    )
    seen.restore()
    page.wait_for_selector(".unplayable", state="visible")
    assert "This browser does not play the result's kind of video" in str(page.text_content(".unplayable"))
    assert visible(page, ".before-video", ".after-video", ".export") == [True, False, False]
    require_accessible(page)
    name, made = seen.download()
    (tmp_path / name).write_bytes(made)
    assert probed(tmp_path / name)["streams"][0]["pix_fmt"] == "yuv420p10le"


def test_a_video_that_the_browser_does_not_play(page_of: Open, tmp_path: Path) -> None:
    """It is shown by its first frame; its result is seen alone."""
    seen = given(page_of, write_clip(tmp_path / "deep.mkv", LONG[:6], pixel_format="yuv420p10le"))
    page = seen.page
    assert (page.is_visible(".before"), page.is_visible(".before-video"), page.is_visible(".player")) == (
        True,
        False,
        False,
    )
    assert page.is_disabled(".preview")
    seen.open_settings("Codec and steadiness of a video")
    page.select_option("#control-codec select", "h264")
    page.fill("#control-pixel_format input", "yuv420p")
    seen.restore()
    seen.until("document.querySelector('.before-video').videoWidth > 0")
    assert (page.is_visible(".player"), page.is_visible(".unplayable"), page.is_visible(".modes")) == (
        True,
        False,
        False,
    )


def test_too_long_a_video_is_refused_in_words(browser: Any, small: Path, clip: Path) -> None:
    with page_server(model=small, limits=ServiceLimits(video_frames=19)) as (address, _):
        context = browser.new_context(locale="de-DE")
        seen = Seen(context.new_page(), address)
        assert "Auch Videos, bis zu 19 Einzelbilder lang." in str(seen.page.text_content(".formats"))
        seen.give(clip)
        seen.page.wait_for_selector(".broken", state="visible")
        assert str(seen.page.text_content(".broken")).endswith(
            "clip.mp4 has at least 20 frames, at most 19 are allowed; cut it shorter."
        )
        context.close()


def test_a_network_that_is_away_for_a_moment_ends_no_work(
    kept_windows: Callable[..., KeptWindow], address: str, clip: Path
) -> None:
    window = kept_windows()
    seen = Seen(window.page(address, 1366, 768), address)
    seen.give(clip)
    seen.found()
    broken: list[str] = []

    def answer(route: Any) -> None:
        if len(broken) < 2:
            broken.append(route.request.url)
            route.abort()
        else:
            route.continue_()

    seen.page.route("**/api/v1/jobs/*wait=*", answer)
    seen.restore()
    assert len(broken) == 2
    assert seen.page.is_visible(".download")
    window.leave()


def test_pictures_and_videos_together(page_of: Open, clip: Path, tmp_path: Path) -> None:
    """Each keeps its own format; a reload brings both back, the video with nothing to compare it with."""
    seen = page_of()
    photo = tmp_path / "kitten.png"
    with Image.open(PHOTOS / "kitten.jpg") as image:
        image.resize((48, 32)).save(photo)
    seen.give(photo, clip)
    seen.page.fill("#control-scale input", "1")
    seen.open_settings("Format of the result")
    seen.page.select_option("#control-format select", "webp")
    seen.until("document.querySelector('.command code').textContent.includes('kitten-restored.webp')")
    assert [line.partition(" --")[0] for line in seen.command().splitlines()] == [
        "s3diff restore kitten.png -o kitten-restored.webp",
        "s3diff restore clip.mp4 -o clip-restored.mp4",
    ]
    seen.restore()
    assert [each.text_content() for each in seen.page.query_selector_all(".strip .state")] == ["Restored", "Restored"]
    seen.page.on("dialog", lambda dialog: dialog.accept())
    seen.page.reload()
    seen.page.wait_for_selector(".work[data-ready]")
    seen.page.click(".strip .pick >> nth=1")
    seen.until("document.querySelector('.before-video').videoWidth > 0")
    assert seen.page.text_content(".download") == "Download clip-restored.mp4"
