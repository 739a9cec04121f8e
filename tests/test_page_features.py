"""What the page does beyond restoring one picture, in a real browser: previews, comparisons, history, reload,
languages, presets, window sizes, accessibility.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from s3diff.serving.page.mounting import STATIC
from test_page_browser import PATIENCE_MS, PHOTOS, Seen, photograph

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra test")

KITTEN = PHOTOS / "kitten.jpg"
#: Name, width and height of a window, and whether it is a phone's.
WINDOWS = [("wide", 1440, 900, False), ("laptop", 1366, 640, False), ("phone", 390, 844, True)]
Open = Callable[..., Seen]


@pytest.fixture(scope="module")
def small_kitten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kitten of half the size, whose result browser and service make in a quarter of the time. Read only."""
    return photograph(tmp_path_factory.mktemp("pictures") / KITTEN.name, (100, 75))


@pytest.fixture
def seen(page_of: Open, small_kitten: Path) -> Seen:
    """The page with the kitten, looked at and not yet restored."""
    page = page_of()
    page.give(small_kitten)
    page.found()
    return page


def test_a_click_restores_a_piece_and_a_turned_dial_restores_it_again(page_of: Open) -> None:
    seen = page_of()
    seen.give(KITTEN)
    seen.found()
    page, patch = seen.page, seen.page.locator(".patch")
    picture = page.locator(".before").bounding_box()
    page.mouse.click(picture["x"] + picture["width"] / 4, picture["y"] + picture["height"] / 2)
    patch.wait_for(state="visible", timeout=PATIENCE_MS)
    # Of the kitten's 200 x 150 pixels a square of 96 or more, as far as the service gets in about a second.
    width, height = patch.evaluate("image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])")
    assert 4 * 96 <= width <= 4 * 200
    assert height == min(width, 4 * 150)
    first = patch.get_attribute("src")
    seen.turn("noise", 30)
    seen.until(f"document.querySelector('.patch').src !== {first!r}", PATIENCE_MS)
    assert not page.is_visible(".download"), "nothing is restored but the piece"
    assert page.get_attribute(".patch", "alt")


def test_a_preview_sends_a_piece_and_no_picture_twice(page_of: Open, tmp_path: Path) -> None:
    """Also of a picture that no browser reads, whose pieces are cut by the service."""
    seen = page_of()
    page, patch = seen.page, seen.page.locator(".patch")
    seen.give(photograph(tmp_path / "scan.tif", (600, 450)))
    seen.found()
    seen.until("document.querySelector('.before').naturalWidth > 0", PATIENCE_MS)
    seen.asked.clear()
    picture = page.locator(".before").bounding_box()
    shown = ""
    for place in (0.45, 0.5, 0.55):
        page.mouse.click(picture["x"] + picture["width"] * place, picture["y"] + picture["height"] * place)
        seen.until(
            f"![{shown!r}, ''].includes(document.querySelector('.patch').getAttribute('src') ?? '')", PATIENCE_MS
        )
        shown = str(patch.get_attribute("src"))
    asked = [url.split("/", 3)[3] for url in seen.asked if not url.startswith("blob:")]
    assert [path for path in asked if path == "page/preview"] == ["page/preview"]
    assert asked.count("api/v1/restore") == 3
    assert not [path for path in asked if path.startswith("api/v1/jobs")], "one answer holds the piece"


def test_a_file_says_how_it_was_made(seen: Seen) -> None:
    page, dialog = seen.page, seen.page.locator("dialog.origin")
    page.click(".about")
    dialog.wait_for(state="visible")
    assert (page.is_visible("dialog.origin .nothing"), page.locator("dialog.origin dd").count()) == (True, 0)
    require_accessible(page)
    page.keyboard.press("Escape")
    seen.restore()
    name, data = seen.download()
    seen.give({"name": name, "mimeType": "image/jpeg", "buffer": data})
    seen.until(f"document.querySelector('.caption').textContent.startsWith({name!r})")
    page.click(".about")
    dialog.wait_for(state="visible")
    words = dict(
        zip(*(page.locator(f"dialog.origin {each}").all_text_contents() for each in ("dt", "dd")), strict=True)
    )
    assert words["Made with"] == words["Restored"].split(",")[0]
    assert re.fullmatch(r"s3diff [\d.]+, model tiny-compact", words["Restored"])
    assert (words["Times as wide and high"], words["Strength"]) == ("4", "1.00")
    require_accessible(page)


def test_size_and_time_are_told_and_the_result_grows_old(seen: Seen) -> None:
    page = seen.page
    seen.until("/400 . 300 px .0.12 megapixels., about/.test(document.querySelector('.plan').textContent)")
    assert page.get_attribute("body", "data-phase") == "ready"
    seen.restore()
    assert (page.get_attribute("body", "data-phase"), page.is_visible(".old")) == ("done", False)
    page.fill("#control-scale input", "2")
    page.wait_for_selector(".old", state="visible")
    assert page.get_attribute("body", "data-phase") == "ready"
    page.fill("#control-scale input", "4")
    page.wait_for_selector(".old", state="hidden")


def test_results_of_a_visit_are_compared_with_each_other(seen: Seen) -> None:
    page = seen.page
    seen.restore()
    seen.turn("strength", -60)
    seen.restore()
    assert page.locator(".history li").count() == 2
    page.select_option(".against select", label="Result 1")
    assert page.locator(".tag").all_text_contents() == ["Result 1", "Result 2"]
    sources = [page.get_attribute(each, "src") for each in (".before", ".after")]
    assert sources[0] != sources[1]
    assert all("/result" in str(each) for each in sources)
    page.click(".history button >> nth=0")
    assert page.get_attribute(".after", "src") == sources[0]
    assert "--strength" not in str(page.get_attribute(".history button >> nth=0", "title"))


def test_ways_to_compare(seen: Seen) -> None:
    page = seen.page
    seen.restore()
    page.locator(".after").evaluate("image => image.decode()")
    page.keyboard.press("s")
    halves = [page.locator(each).bounding_box() for each in (".pane-before", ".pane-after")]
    assert halves[0]["x"] + halves[0]["width"] < halves[1]["x"]
    with page.expect_download() as waiting:
        page.click(".export")
    assert waiting.value.suggested_filename == "kitten-before-after.jpg"
    with Image.open(waiting.value.path()) as both:
        assert both.size == (800, 300)
    page.keyboard.press("s")
    page.keyboard.down("b")
    assert not page.is_visible(".pane-after")
    page.keyboard.up("b")
    assert page.is_visible(".pane-after")
    page.keyboard.press("l")
    frame = page.locator(".frame").bounding_box()
    page.mouse.move(frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2)
    page.wait_for_selector(".loupe", state="visible")
    page.keyboard.press("l")
    page.keyboard.press("f")
    seen.until("document.querySelector('.compare').getBoundingClientRect().height >= innerHeight")
    page.keyboard.press("f")
    seen.until("document.querySelector('.compare').getBoundingClientRect().height < innerHeight")
    page.keyboard.press("?")
    assert page.locator("dialog.keys dt").count() >= 14
    page.keyboard.press("Escape")
    assert not page.is_visible("dialog.keys")
    divider = page.locator(".divider")
    divider.focus()
    page.keyboard.press("End")
    place = divider.locator(".grip").bounding_box()
    assert place["x"] + place["width"] <= frame["x"] + frame["width"], "the handle stays in sight"


def test_a_result_does_not_move_what_is_looked_at(seen: Seen) -> None:
    page = seen.page
    for _ in range(4):
        page.keyboard.press("+")
    before = page.locator(".before").bounding_box()
    seen.restore()
    after = page.locator(".after").bounding_box()
    for side in ("x", "y", "width", "height"):
        assert after[side] == pytest.approx(before[side], abs=1)


def test_results_come_back_after_a_reload_and_leaving_asks(seen: Seen) -> None:
    page = seen.page
    asks = "() => !window.dispatchEvent(new Event('beforeunload', {cancelable: true}))"
    assert not page.evaluate(asks)
    seen.restore()
    assert page.evaluate(asks)
    name, data = seen.download()
    assert not page.evaluate(asks), "what was downloaded is not lost"
    caption = page.text_content(".caption")
    page.reload()
    page.wait_for_selector(".download", state="visible")
    assert (page.text_content(".caption"), page.is_visible(".before")) == (caption, True)
    assert seen.download() == (name, data)
    assert page.is_disabled("#run"), "the file itself is not kept"
    page.click(".clear")
    page.reload()
    page.wait_for_selector(".work[data-ready]")
    assert page.is_visible(".target")


def test_a_folder_is_dropped(page_of: Open, tmp_path: Path) -> None:
    seen = page_of()
    seen.page.evaluate(
        """(data) => {
             const bytes = new Uint8Array(data);
             const file = (name) => ({isFile: true, name, file: (give) => give(new File([bytes], name))});
             const folder = (name, entries) => ({isFile: false, name, createReader: () => {
               let left = [entries, []];
               return {readEntries: (give) => give(left.shift())};
             }});
             const inside = [file('b10.jpg'), folder('more', [file('c.JPG'), file('notes.txt')]), file('b9.jpg')];
             const event = new Event('drop', {cancelable: true});
             const items = [{webkitGetAsEntry: () => folder('all', inside)}];
             event.dataTransfer = {types: ['Files'], items, files: []};
             window.dispatchEvent(event);
           }""",
        list(KITTEN.read_bytes()),
    )
    seen.until("document.querySelectorAll('.strip li').length === 3")
    assert seen.page.locator(".strip .name").all_text_contents() == ["b9.jpg", "b10.jpg", "c.JPG"]
    assert str(seen.page.text_content(".problem")).endswith("left out: 1.")


def test_presets_set_what_they_name(seen: Seen) -> None:
    page = seen.page
    assert page.get_attribute(".presets button >> nth=0", "aria-pressed") == "true"
    page.click(".presets button:has-text('Denoise')")
    seen.until("document.querySelector('.command code').textContent.includes('--noise +0.3')")
    assert "--scale 1 " in seen.command()
    assert page.input_value("#control-scale input") == "1"
    assert "Noise +0.30" in str(page.text_content(".found p"))
    page.fill("#control-scale input", "2")
    assert page.locator(".presets [aria-pressed=true]").count() == 0
    page.fill("#control-scale input", "1")
    assert page.get_attribute(".presets button >> nth=1", "aria-pressed") == "true", "its settings, by hand"
    page.click(".follow")
    assert page.locator(".presets [aria-pressed=true]").count() == 0, "its noise has gone"
    page.click("#defaults")
    seen.until("!document.querySelector('.command code').textContent.includes('--noise')")
    assert page.get_attribute(".presets button >> nth=0", "aria-pressed") == "true"


def test_the_page_speaks_german(page_of: Open) -> None:
    seen = page_of(locale="de-DE")
    page = seen.page
    assert page.get_attribute("html", "lang") == "de"
    assert page.text_content("#run") == "Restaurieren"
    seen.give(KITTEN)
    seen.until("document.querySelector('.found p').textContent.startsWith('Wirkt')")
    page.select_option(".language", "en")
    assert page.text_content("#run") == "Restore"
    assert str(page.text_content(".found p")).startswith("Looks")
    page.reload()
    seen.until("document.querySelector('#run').textContent === 'Restore'")


def test_remarks_are_german_on_the_german_page(page_of: Open) -> None:
    page = page_of(locale="de-DE").page
    remarked = (
        "async note => (await import(document.querySelector('script[type=module]').src.replace('page.js', 'words.js')))"
        ".remarked(note)"
    )
    assert page.evaluate(remarked, "left out: MakerNote, the gain map (HDR), JPEG segments (APP3, APP9)") == {
        "text": "Weggelassen: MakerNote, die Gain Map (HDR), JPEG-Segmente (APP3, APP9).",
        "lang": "de",
    }
    assert page.evaluate(remarked, "the file holds 3 pages; the first one is used") == {
        "text": "Die Datei enth\u00e4lt 3 Seiten; genommen wird die erste.",
        "lang": "de",
    }
    for words in ("what nobody has translated", "left out: MakerNote, what nobody has translated"):
        assert page.evaluate(remarked, words) == {"text": f"{words[0].upper()}{words[1:]}.", "lang": "en"}, "all of it"
    german = json.loads((STATIC / "texts.json").read_text(encoding="utf-8"))["de"]
    for name, text in german.items():
        kind, _, part = name.partition(".")
        if kind == "part":
            part, text = ("tIME".join(re.split(r"{\w+}", each)) for each in (part, text))
            made = page.evaluate(remarked, f"left out: {part}, the sound, {part}")
            assert made == {"text": f"Weggelassen: {text}, der Ton, {text}.", "lang": "de"}, part


def test_refusals_are_german_on_the_german_page(page_of: Open, tmp_path: Path) -> None:
    seen = page_of(locale="de-DE")
    page = seen.page
    seen.give(KITTEN)
    seen.until("document.querySelector('.found p').textContent.startsWith('Wirkt')")
    error = page.locator("#control-scale .control-error")
    for value, words in (
        ("0", "Erlaubt sind Zahlen \u00fcber 0."),
        ("-2", "Erlaubt sind Zahlen \u00fcber 0."),
        ("1000", "Das Ergebnis w\u00fcrde zu gro\u00df f\u00fcr diesen Dienst; h\u00f6chstens geht hier 81,64."),
    ):
        page.fill("#control-scale input", value)
        seen.until(f"document.querySelector('#control-scale .control-error')?.textContent === {words!r}")
        page.fill("#control-scale input", "2")
        error.wait_for(state="detached")
    seen.open_settings("Format des Ergebnisses")
    page.fill("#control-quality input", "300")
    error = page.locator("#control-quality .control-error")
    error.wait_for()
    assert error.text_content() == "Erlaubt sind 1 bis 100."
    page.fill("#control-quality input", "")
    broken = tmp_path / "kaputt.jpg"
    broken.write_bytes(b"only words")
    seen.give(broken)
    page.locator(".broken").wait_for(state="visible")
    assert str(page.text_content(".broken")).startswith(
        "Diese Datei l\u00e4sst sich nicht restaurieren. Der Dienst sagt: "
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("window", WINDOWS, ids=[name for name, *_ in WINDOWS])
def test_every_window_is_whole_and_accessible(
    page_of: Open, window: tuple[str, int, int, bool], scheme: str, tmp_path: Path
) -> None:
    """Strip, messages and buttons need no scrolling, nothing sticks out, and axe has no serious finding."""
    _, width, height, is_phone = window
    seen = page_of(width, height, color_scheme=scheme, is_mobile=is_phone, has_touch=is_phone)
    page = seen.page
    require_accessible(page)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"only words")
    seen.give(*(photograph(tmp_path / f"{name}.jpg", (64, 48)) for name in ("one", "two", "three")), broken)
    seen.until("document.querySelector('.strip li:last-child .is-bad')")
    page.click(".strip .pick >> nth=3")
    assert (page.is_visible(".broken"), page.is_visible(".before")) == (True, False)
    page.click(".strip .pick >> nth=0")
    seen.restore()
    page.fill("#control-scale input", "2")
    page.wait_for_selector(".old", state="visible")
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    require_accessible(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for part in (".download", ".strip", ".old"):
        box = page.locator(part).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width + 6
        assert is_phone or box["y"] + box["height"] <= height, part
    if is_phone:
        rows = {
            round(each["y"])
            for each in page.locator(".strip li").evaluate_all(
                "all => all.map((each) => each.getBoundingClientRect().toJSON())"
            )
        }
        assert len(rows) == 2, "three columns"


def require_accessible(page: Any) -> None:
    found = axe.Axe().run(page).response["violations"]
    serious = [
        (each["id"], [node["html"][:160] for node in each["nodes"]])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
    assert serious == []
