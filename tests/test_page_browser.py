"""The page in a real browser (Debian's Chromium through Playwright): what people do there, from drop to download."""

from __future__ import annotations

import io
import os
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from conftest import REPOSITORY
from metadata_probes import EMPTY_PACKET
from page_server import KeptWindow, page_for_browsers, page_server

pytest.importorskip("fastapi", reason="needs the extra web")
pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra test)")

PHOTOS = REPOSITORY / "assets" / "photos"
TOKEN = "a-token-for-tests-in-a-browser"
#: Seconds that a picture may take on a loaded machine.
PATIENCE_MS = 90_000


@pytest.fixture(scope="module")
def server(small: Path) -> Iterator[tuple[str, Any]]:
    """The service with its page and a tiny model: the page is looked at here, not what the model makes."""
    with page_for_browsers(small) as (address, service):
        yield address, service


def inside(server: tuple[str, Any]) -> Any:
    """The service's object, for tests that ask how many pictures it works on."""
    if server[1] is None:
        pytest.skip("looks into the service, which runs elsewhere")
    return server[1]


class Seen:
    """A page that is open, with all that it asked for and complained of."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._note)
        page.goto(address)
        page.wait_for_selector(".work[data-ready]")
        self.until("document.querySelector('.command code').textContent")

    def until(self, expression: str, timeout: float = 30_000) -> None:
        """Wait until an expression holds. Playwright's own way makes functions of strings, which the page forbids."""
        end = time.monotonic() + timeout / 1000
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, f"not within {timeout / 1000:g} s: {expression}"
            time.sleep(0.05)

    def _note(self, message: Any) -> None:
        # A refused setting is an answer with status 422, which a browser writes down as well.
        if message.type == "error" and "422" not in message.text:
            self.complaints.append(message.text)

    def give(self, *files: Path | dict[str, Any]) -> None:
        self.page.set_input_files(".picker", list(files))
        self.page.wait_for_selector(".view", state="visible")

    def found(self) -> tuple[float, float]:
        """Wait for the estimate; where the dial stands then."""
        self.until(
            """() => {
                 const told = /stimate.*noise ([0-9.]+)[.]$/.exec(document.querySelector('.found p').textContent);
                 const dial = document.querySelector('#control-noise input[type=number]').value;
                 return told && dial && Number(told[1]) === Number(dial);
               }"""
        )
        return self.dial("blur"), self.dial("noise")

    def dial(self, field: str) -> float:
        return float(self.page.input_value(f"#control-{field} input[type=number]"))

    def turn(self, field: str, steps: int) -> None:
        """With the keyboard, one hundredth a step."""
        self.page.focus(f"#control-{field} input[type=range]")
        for _ in range(abs(steps)):
            self.page.keyboard.press("ArrowRight" if steps > 0 else "ArrowLeft")

    def restore(self) -> None:
        self.page.click("#run")
        self.ended()

    def ended(self) -> None:
        """Wait for the end of the run."""
        self.page.wait_for_selector(".work[data-busy=false]", timeout=PATIENCE_MS)

    def download(self, selector: str = ".download") -> tuple[str, bytes]:
        with self.page.expect_download() as waiting:
            self.page.click(selector)
        return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()

    def command(self) -> str:
        return str(self.page.text_content(".command code"))

    def open_settings(self, words: str) -> None:
        self.page.click(f"summary:has-text('{words}')")


@pytest.fixture
def seen(kept_windows: Callable[..., KeptWindow], server: tuple[str, Any]) -> Iterator[Seen]:
    window = kept_windows()
    opened = Seen(window.page(server[0], 1280, 900), server[0])
    yield opened
    window.leave()
    outside = [url for url in opened.asked if not url.startswith((server[0], "blob:", "data:"))]
    assert outside == [], "the page asked other hosts"
    assert opened.complaints == []


def photograph(path: Path, size: tuple[int, int] = (96, 64)) -> Path:
    """A JPEG with all that a camera writes."""
    with Image.open(PHOTOS / "kitten.jpg") as image:
        exif = Image.Exif()
        exif[0x010F], exif[0x0110], exif[0x8298] = "Maker", "Camera 1", "Somebody"
        exif.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
        exif.get_ifd(0x8825)[0x0001] = "N"
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        small = image.convert("RGB").resize(size)
        small.save(path, quality=92, exif=exif, icc_profile=profile, dpi=(300, 300), xmp=EMPTY_PACKET)
    return path


def kept(data: bytes | Path) -> dict[str, Any]:
    """What has to come through."""
    with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
        exif = image.getexif()
        return {
            "format": image.format,
            "camera": [exif.get(tag) for tag in (0x010F, 0x0110, 0x8298)],
            "taken": exif.get_ifd(0x8769).get(0x9003),
            "place": exif.get_ifd(0x8825).get(0x0001),
            "profile": image.info.get("icc_profile"),
            "dpi": tuple(round(float(value)) for value in image.info.get("dpi", ())),
            "xmp": b"xmpmeta" in image.info.get("xmp", b""),
        }


def test_an_example_is_one_click_away(seen: Seen) -> None:
    started = time.monotonic()
    seen.page.click(".example >> nth=0")
    seen.page.wait_for_selector(".download", state="visible", timeout=PATIENCE_MS)
    print(f"an example took {time.monotonic() - started:.1f} s from click to result")
    assert "960 \u00d7 960 px" in str(seen.page.text_content(".caption"))
    after = seen.page.locator(".after")
    assert after.evaluate("image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])") == [960, 960]


def test_a_photograph_comes_back_with_its_metadata(seen: Seen, tmp_path: Path) -> None:
    source = photograph(tmp_path / "holiday photo.jpg")
    seen.give(source)
    seen.found()
    seen.restore()
    name, data = seen.download()
    assert name == "holiday photo-restored.jpg"
    assert kept(data) == kept(source)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (384, 256)
    assert seen.command() == "s3diff restore 'holiday photo.jpg' -o 'holiday photo-restored.jpg' --model small"


def test_what_comes_back_is_what_the_command_writes(seen: Seen, small: Path, tmp_path: Path) -> None:
    import shlex

    from s3diff.apps.cli import app

    source = photograph(tmp_path / "photo.jpg")
    seen.give(source)
    seen.found()
    seen.page.fill("#control-scale input", "2.5")
    seen.turn("strength", -20)
    seen.until("document.querySelector('.command code').textContent.includes('--strength 0.8')")
    seen.restore()
    _, data = seen.download()
    words = shlex.split(seen.command())
    assert words[4:] == ["photo-restored.jpg", "--model", "small", "--scale", "2.5", "--strength", "0.8"]
    shutil.copytree(small, tmp_path / "small")
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        app(words[1:], standalone_mode=False)
    finally:
        os.chdir(before)
    assert (tmp_path / "photo-restored.jpg").read_bytes() == data


def test_sixteen_bits_and_transparency_come_back(seen: Seen, tmp_path: Path) -> None:
    deep = tmp_path / "deep.png"
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    Image.fromarray(ramp).save(deep)
    seen.give(deep)
    seen.found()
    seen.restore()
    name, data = seen.download()
    with Image.open(io.BytesIO(data)) as image:
        assert (name, image.mode, image.size) == ("deep-restored.png", "I;16", (256, 192))
        assert len(np.unique(np.asarray(image))) > 1000
    seen.page.click(".clear")
    clear = tmp_path / "clear.png"
    pixels = np.full((48, 64, 4), 200, np.uint8)
    pixels[:, :32, 3] = 0
    pixels[:, 32:, 3] = 255
    Image.fromarray(pixels).save(clear)
    seen.give(clear)
    seen.found()
    seen.restore()
    _, data = seen.download()
    with Image.open(io.BytesIO(data)) as image:
        opacity = np.asarray(image)[..., 3]
        assert (image.mode, opacity[:, :100].max(), opacity[:, 156:].min()) == ("RGBA", 0, 255)


def test_an_animation_stays_one(seen: Seen, tmp_path: Path) -> None:
    place = tmp_path / "moving.gif"
    with Image.open(PHOTOS / "kitten.jpg") as image:
        frames = [image.resize((64, 48)).rotate(angle) for angle in (0, 5, 10)]
    frames[0].save(place, save_all=True, append_images=frames[1:], duration=120, loop=0)
    seen.give(place)
    seen.found()
    seen.restore()
    name, data = seen.download()
    with Image.open(io.BytesIO(data)) as image:
        assert (name, image.n_frames, image.size) == ("moving-restored.gif", 3, (256, 192))
        assert image.info["duration"] == 120


def test_a_tiff_that_no_browser_shows_is_compared_all_the_same(seen: Seen, tmp_path: Path) -> None:
    place = tmp_path / "scan.tif"
    with Image.open(PHOTOS / "kitten.jpg") as image:
        image.resize((80, 60)).save(place)
    seen.give(place)
    seen.found()
    seen.restore()
    shown = "image => image.decode().then(() => image.naturalWidth)"
    assert seen.page.locator(".before").evaluate(shown) == 80
    assert seen.page.locator(".after").evaluate(shown) == 320
    assert seen.download()[0] == "scan-restored.tif"


def test_the_dial_starts_from_the_estimate_turns_and_goes_back(seen: Seen) -> None:
    seen.give(PHOTOS / "kitten.jpg")
    blur, noise = seen.found()
    words = str(seen.page.text_content(".found p"))
    assert re.fullmatch(rf"Looks [a-z ]+, [a-z ]+\. Estimated: blur {blur:.2f}, noise {noise:.2f}\.", words)
    assert noise > 0.1
    assert seen.page.is_disabled(".follow")
    seen.page.fill("#control-scale input", "1")
    seen.turn("noise", 12)
    assert seen.dial("noise") == pytest.approx(noise + 0.12)
    seen.until("document.querySelector('.found p').textContent.startsWith('Set by hand; estimated')")
    seen.until("document.querySelector('.command code').textContent.includes('--noise')")
    seen.page.fill("#control-noise input[type=number]", "0.9")
    seen.page.keyboard.press("Tab")
    seen.until("document.querySelector('.command code').textContent.includes('--noise 0.9')")
    seen.restore()
    assert f"noise {0.9:.2f}" in str(seen.page.text_content(".caption"))
    assert "--noise 0.9" in seen.command()
    first = seen.download()[1]
    seen.page.click(".follow")
    assert seen.found()[1] == pytest.approx(noise)
    seen.restore()
    assert "--noise" not in seen.command()
    assert seen.download()[1] != first


def test_progress_is_told_tile_by_tile(seen: Seen, tmp_path: Path) -> None:
    source = photograph(tmp_path / "large.jpg", (320, 32))
    seen.give(source)
    seen.found()
    seen.open_settings("Model, method and tiles")
    seen.page.fill("#control-tile input", "256")
    seen.page.evaluate(
        """() => { window.told = []; new MutationObserver(() => {
             const meter = document.querySelector('.meter');
             told.push([document.querySelector('.stage').textContent, Number(meter.getAttribute('aria-valuenow')),
                        document.querySelector('.left').textContent]);
           }).observe(document.querySelector('.progress'), {subtree: true, childList: true, attributes: true}); }"""
    )
    seen.restore()
    told = seen.page.evaluate("told")
    tiles = [re.search(r"tile (\d+) of (\d+)", words) for words, _, _ in told]
    numbers = [int(each[1]) for each in tiles if each]
    assert len(set(numbers)) >= 2, told  # a quick machine does several between two looks
    assert numbers == sorted(numbers)
    shares = [share for _, share, _ in told]
    assert shares == sorted(shares)
    assert 0 < shares[len(shares) // 2] < 100
    assert any("left" in left for _, _, left in told)
    assert str(seen.page.text_content(".announce")).startswith("Restored in")


def test_cancel_stops_the_work(seen: Seen, server: tuple[str, Any], tmp_path: Path) -> None:
    service = inside(server)
    before = dict(service.counts)
    source = photograph(tmp_path / "huge.jpg", (800, 640))
    seen.give(source)
    seen.found()
    seen.page.click("#run")
    seen.until("document.querySelector('.stage').textContent.startsWith('Restoring')", timeout=30_000)
    started = time.monotonic()
    seen.page.click(".cancel")
    seen.ended()
    assert str(seen.page.text_content(".announce")) == "Cancelled"
    while service.num_running and time.monotonic() - started < 20:
        time.sleep(0.05)
    assert service.num_running == 0, "the work goes on after it was cancelled"
    print(f"the work had ended {time.monotonic() - started:.2f} s after the click")
    assert service.counts["cancelled"] == before["cancelled"] + 1
    assert service.counts["done"] == before["done"]
    assert not seen.page.is_visible(".download")
    seen.page.click(".clear")
    seen.give(photograph(tmp_path / "small.jpg"))
    seen.found()
    seen.restore()
    assert seen.page.is_visible(".download")


def test_cancel_holds_from_the_first_moment(seen: Seen, server: tuple[str, Any], tmp_path: Path) -> None:
    service = inside(server)
    seen.give(photograph(tmp_path / "huge.jpg", (800, 640)))
    seen.found()
    for pause_ms in (0, 20, 60, 150):
        seen.page.evaluate(
            """(pause) => {
                 document.querySelector('#run').click();
                 new MutationObserver((_, watch) => {
                   if (document.querySelector('.progress').hidden) return;
                   watch.disconnect();
                   setTimeout(() => document.querySelector('.cancel').click(), pause);
                 }).observe(document.querySelector('.work'), {subtree: true, attributes: true});
               }""",
            pause_ms,
        )
        seen.page.wait_for_selector(".work[data-busy=true]", timeout=5000, state="attached")
        seen.ended()
        until = time.monotonic() + 20
        while (service.num_running or service.num_waiting) and time.monotonic() < until:
            time.sleep(0.05)
        assert (service.num_running, service.num_waiting) == (0, 0), f"cancelled after {pause_ms} ms"
        assert not seen.page.is_visible(".download")


def test_before_and_after_are_compared_by_mouse_and_keyboard(seen: Seen) -> None:
    seen.page.click(".example >> nth=1")
    seen.page.wait_for_selector(".download", state="visible", timeout=PATIENCE_MS)
    page, divider = seen.page, seen.page.locator(".divider")

    def at() -> int:
        return int(str(divider.get_attribute("aria-valuenow")))

    assert (at(), divider.get_attribute("role")) == (50, "slider")
    divider.focus()
    page.keyboard.press("ArrowLeft")
    assert at() == 48
    page.keyboard.press("Home")
    assert at() == 0
    page.keyboard.press("End")
    assert at() == 100
    box = page.locator(".frame").bounding_box()
    picture = page.locator(".after").bounding_box()
    page.mouse.move(picture["x"] + 300, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(picture["x"] + picture["width"] * 0.25, box["y"] + 100, steps=4)
    page.mouse.up()
    assert at() == 25
    clips = [page.locator(each).evaluate("pane => pane.style.clipPath") for each in (".pane-before", ".pane-after")]
    edges = [max(map(float, re.findall(r"([\d.]+)px", clip))) for clip in clips]
    assert edges[0] == edges[1], "each pixel is shown by one of the two"
    page.mouse.click(picture["x"] + picture["width"] * 0.75, box["y"] + 100)
    assert at() == 75, "a click brings the divider"
    page.focus(".frame")
    page.keyboard.press("1")
    assert page.text_content(".zoom-level") == "100 %"
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert page.text_content(".zoom-level") == "225 %"
    left = page.locator(".after").evaluate("image => new DOMMatrix(getComputedStyle(image).transform).e")
    page.keyboard.press("ArrowRight")
    assert page.locator(".after").evaluate("image => new DOMMatrix(getComputedStyle(image).transform).e") < left
    page.click("[data-zoom=fit]")
    fitted = page.locator(".after").bounding_box()
    assert fitted["width"] == pytest.approx(picture["width"], abs=1)
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -400)
    page.keyboard.up("Control")
    assert "is-zoomed" in str(page.locator(".frame").get_attribute("class"))


def test_errors_stand_beside_the_control_that_caused_them(seen: Seen) -> None:
    seen.give(PHOTOS / "kitten.jpg")
    seen.found()
    seen.page.click("#control-size_by label:has-text('Exact size')")
    seen.page.wait_for_timeout(600)
    assert seen.page.locator(".control-error").count() == 0, "nothing scolds before a key is pressed"
    seen.page.click("#run")
    error, field = seen.page.locator("#control-size .control-error"), "#control-size input >> nth=0"
    error.wait_for()
    assert str(error.text_content()).startswith("Give a value here")
    assert error.get_attribute("role") == "alert"
    assert seen.page.get_attribute(field, "aria-invalid") == "true"
    assert seen.page.get_attribute(field, "aria-describedby") == error.get_attribute("id")
    seen.page.fill(field, "300")
    error.wait_for(state="detached")
    assert seen.page.input_value("#control-size input >> nth=1") == "225", "the lock keeps the proportions"
    seen.page.click("#control-size_by label:has-text('Factor')")
    seen.page.fill("#control-scale input", "0")
    error = seen.page.locator("#control-scale .control-error")
    error.wait_for()
    assert error.text_content() == "Scale is 0.0; give a number above 0, such as 4 or 2.5."
    seen.page.fill("#control-scale input", "4")
    error.wait_for(state="detached")
    seen.open_settings("Model, method and tiles")
    seen.page.fill("#control-tile input", "12")
    seen.page.locator("#control-tile .control-error").wait_for()
    seen.page.click("#defaults")
    seen.page.locator(".control-error").wait_for(state="detached")
    assert seen.page.input_value("#control-tile input") == "auto"


def test_errors_of_the_work_stand_beside_their_control_as_well(seen: Seen, tmp_path: Path) -> None:
    clear = tmp_path / "clear.png"
    Image.new("RGBA", (48, 32), (200, 100, 50, 128)).save(clear)
    seen.give(clear)
    seen.found()
    seen.open_settings("Format of the result")
    seen.page.select_option("#control-format select", "jpg")
    seen.restore()
    assert "transparency" in str(seen.page.locator("#control-format .control-error").text_content())
    seen.open_settings("Model, method and tiles")
    assert not seen.page.is_visible("#control-positive_prompt"), "this model has no text encoder"


def test_a_result_that_would_be_too_large_is_refused_before_it_is_sent(seen: Seen) -> None:
    seen.give(PHOTOS / "kitten.jpg")
    seen.found()
    seen.page.fill("#control-scale input", "100")
    seen.page.click("#run")
    error = seen.page.locator("#control-scale .control-error")
    error.wait_for()
    assert str(error.text_content()).endswith("the largest here is 81.64.")
    assert not [url for url in seen.asked if url.endswith("/api/v1/jobs")]


def test_the_service_forgets_what_the_page_leaves(seen: Seen, server: tuple[str, Any], tmp_path: Path) -> None:
    service = inside(server)
    jobs = service.store.num_jobs
    seen.give(photograph(tmp_path / "small.jpg"))
    seen.found()
    seen.restore()
    assert service.store.num_jobs == jobs + 1
    seen.restore()  # takes the place of the first result
    until = time.monotonic() + 10
    while service.store.num_jobs != jobs + 1 and time.monotonic() < until:
        time.sleep(0.05)
    assert service.store.num_jobs == jobs + 1
    seen.page.click(".clear")
    while service.store.num_jobs != jobs and time.monotonic() < until:
        time.sleep(0.05)
    assert service.store.num_jobs == jobs
    seen.give(photograph(tmp_path / "huge.jpg", (800, 640)))
    seen.found()
    seen.page.click("#run")
    seen.until("document.querySelector('.stage').textContent.startsWith('Restoring')", timeout=30_000)
    seen.page.goto("about:blank")
    until = time.monotonic() + 90
    while service.num_running and time.monotonic() < until:
        time.sleep(0.05)
    assert service.num_running == 0, "work goes on for a page that is closed"


def test_a_file_that_is_no_picture_is_refused_in_plain_words(seen: Seen, tmp_path: Path) -> None:
    bad = tmp_path / "notes.jpg"
    bad.write_bytes(b"these are only words")
    held: list[Any] = []
    seen.page.route("**/api/v1/estimate", lambda route: held.append(route))
    with seen.page.expect_request("**/api/v1/estimate"):
        seen.give(bad)
    assert seen.page.is_disabled("#run"), "nobody knows yet what it is"
    held[0].continue_()
    seen.page.wait_for_selector(".frame .broken", state="visible")
    words = str(seen.page.text_content(".broken"))
    assert "notes.jpg" in words
    assert "/" not in words.replace("notes.jpg", "")
    assert seen.page.get_attribute(".broken", "role") == "alert"
    assert seen.page.is_disabled("#run"), "it is not sent again"
    seen.page.click(".clear")
    assert not seen.page.is_visible(".broken")
    assert seen.page.is_disabled("#run"), "there is no picture"


def test_several_pictures_a_gallery_and_a_zip(seen: Seen, tmp_path: Path) -> None:
    sources = [photograph(tmp_path / f"{name}.jpg", (64, 48)) for name in ("one", "two", "three")]
    seen.give(*sources)
    assert seen.page.locator(".strip li").count() == 3
    _, noise = seen.found()
    seen.turn("noise", -10)
    seen.until("document.querySelector('.found p').textContent.includes('Noise -0.10')")
    seen.page.click(".strip .pick >> nth=1")
    seen.until("document.querySelector('.caption').textContent.startsWith('two.jpg')")
    seen.restore()
    assert seen.page.locator(".strip .state").all_text_contents() == ["Restored"] * 3
    assert "--noise=-0.1" in seen.command()
    assert f"noise {noise - 0.1:.2f}" in str(seen.page.text_content(".caption"))
    name, data = seen.download(".zip")
    assert name == "restored.zip"
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == [f"{each}-restored.jpg" for each in ("one", "two", "three")]
        assert kept(archive.read("two-restored.jpg")) == kept(sources[1])
    seen.page.click("[aria-label='Remove two.jpg']")
    assert seen.page.locator(".strip li").count() == 2


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_pictures_are_pasted_and_dropped(seen: Seen, way: str) -> None:
    data = list((PHOTOS / "kitten.jpg").read_bytes())
    seen.page.evaluate(
        """([way, data]) => {
             const carried = new DataTransfer();
             carried.items.add(new File([new Uint8Array(data)], 'given.jpg', {type: 'image/jpeg'}));
             const about = {bubbles: true, cancelable: true};
             const pasting = {...about, clipboardData: carried};
             if (way === 'paste') document.dispatchEvent(new ClipboardEvent('paste', pasting));
             else for (const name of ['dragenter', 'dragover', 'drop'])
               document.body.dispatchEvent(new DragEvent(name, {...about, dataTransfer: carried}));
           }""",
        [way, data],
    )
    seen.page.wait_for_selector(".view", state="visible")
    seen.found()
    assert str(seen.page.text_content(".caption")) == "given.jpg, 200 \u00d7 150 px"
    assert "is-dropping" not in str(seen.page.get_attribute(".work", "class"))


def test_the_page_fits_a_phone_in_the_dark(browser: Any, server: tuple[str, Any]) -> None:
    context = browser.new_context(
        viewport={"width": 375, "height": 740},
        device_scale_factor=2,
        color_scheme="dark",
        is_mobile=True,
        has_touch=True,
    )
    phone = Seen(context.new_page(), server[0])
    page = phone.page
    page.tap(".example >> nth=1")
    page.wait_for_selector(".download", state="visible", timeout=PATIENCE_MS)
    for words in ("Model, method and tiles", "Colour and transparency", "Format of the result"):
        phone.open_settings(words)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    button = page.locator(".download").bounding_box()
    assert 640 < button["y"] + button["height"] <= 740, "the download is within reach of the thumb"
    assert not page.is_visible("#run")
    page.fill("#control-scale input", "2")
    page.wait_for_selector("#run", state="visible")
    button = page.locator("#run").bounding_box()
    assert 640 < button["y"] + button["height"] <= 740, "so is the button to restore once something has changed"
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(value) for value in re.findall(r"\d+", background)[:3]) < 60
    page.tap(".theme")  # as the system -> light
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert min(int(value) for value in re.findall(r"\d+", background)[:3]) > 200
    assert phone.complaints == []
    context.close()


def test_every_control_has_a_name_and_is_reached_by_the_keyboard(seen: Seen) -> None:
    seen.give(PHOTOS / "kitten.jpg")
    seen.found()
    for words in ("Model, method and tiles", "Colour and transparency", "Format of the result"):
        seen.open_settings(words)
    nameless = seen.page.evaluate(
        """() => [...document.querySelectorAll('#panel, .work').values()]
              .flatMap((part) => [...part.querySelectorAll('input, select, button, a, [role=slider]')])
              .filter((each) => each.checkVisibility() && !each.ariaHidden && !each.labels?.length && !each.ariaLabel
                                && !each.textContent.trim() && !each.title)
              .map((each) => each.outerHTML)"""
    )
    assert nameless == []
    seen.page.locator("body").press("Tab")
    reached = set()
    for _ in range(70):
        reached.add(seen.page.evaluate("document.activeElement.closest('[id^=control-], #run')?.id"))
        seen.page.keyboard.press("Tab")
    wanted = ("scale", "blur", "noise", "strength", "guidance", "model", "tile")
    assert {"run", *(f"control-{name}" for name in wanted)} <= reached


def test_a_browser_signs_in_with_the_token(browser: Any, small: Path) -> None:
    with page_server(tokens=[TOKEN], model=small) as (address, _):
        context = browser.new_context(accept_downloads=True)
        page = context.new_page()
        page.goto(address)
        assert page.url == f"{address}login"
        page.fill("input[name=token]", "something else entirely")
        page.click("button")
        assert "not the token" in str(page.text_content("[role=alert]"))
        page.fill("input[name=token]", TOKEN)
        page.click("button")
        page.wait_for_selector(".work[data-ready]")
        assert page.evaluate("document.cookie") == ""  # scripts cannot read it
        page.click(".example >> nth=1")
        page.wait_for_selector(".download", state="visible", timeout=PATIENCE_MS)
        with page.expect_download() as waiting:
            page.click(".download")
        assert waiting.value.suggested_filename == "kitten-restored.jpg"
        page.click("text=Sign out")
        page.wait_for_url(f"{address}login")
        page.goto(address)
        assert page.url == f"{address}login"
        context.close()
