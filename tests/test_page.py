"""The page without a browser: its controls, texts, headers, signing in, plans, previews, archives."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import REPOSITORY
from page_server import page_server
from s3diff.errors import OptionError
from s3diff.images.files import coordinate_fields, dropped_contents, exif_block, geotiff, pillow_metadata
from s3diff.option_texts import VIDEO_FIELDS, describe_option, form_options, option_fields
from s3diff.options import LIMITS, RANGES
from s3diff.presets import PRESETS
from s3diff.service_errors import SERVICE_ERRORS
from s3diff.serving.page.controls import page_controls
from s3diff.serving.page.mounting import STATIC

httpx = pytest.importorskip("httpx", reason="needs the extra web")
pytest.importorskip("fastapi", reason="needs the extra web")

TOKEN = "a-token-for-tests-of-the-page"
SECOND_TOKEN = "another-token-of-the-same-service"
KITTEN = REPOSITORY / "assets" / "photos" / "kitten.jpg"
TRAVERSALS = [
    "page/static/x/..%2fmounting.py",
    "page/static/x/%2e%2e/%2e%2e/mounting.py",
    "page/static/x/page.html",
    "page/static/x/login.html",
    "static/../mounting.py",
    "page/examples/..%2f__init__.py",
    "page/examples/%2fetc%2fpasswd",
    "page/jobs/..%2f..%2fetc/preview",
]


@pytest.fixture(scope="module")
def server(small: Path) -> Iterator[tuple[str, Any]]:
    with page_server(model=small) as (address, service):
        yield address, service


@pytest.fixture(scope="module")
def guarded(small: Path) -> Iterator[tuple[str, Any]]:
    with page_server(tokens=[TOKEN, SECOND_TOKEN], model=small) as (address, service):
        yield address, service


def restored(address: str, path: Path, client: Any = httpx, **fields: str) -> dict[str, Any]:
    """A job of the service that has ended."""
    with path.open("rb") as file:
        answer = client.post(f"{address}api/v1/jobs", files={"picture": (path.name, file)}, data=fields)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    until = time.monotonic() + 300  # on a machine that has other work
    while job["state"] not in ("done", "failed", "cancelled") and time.monotonic() < until:
        job = client.get(f"{address}api/v1/jobs/{job['id']}?wait=30", timeout=60).json()
    assert job["state"] == "done", job
    return job


def told(address: str) -> dict[str, Any]:
    """What the page's scripts are told."""
    found = re.search(r'<script type="application/json" id="told">(.*?)</script>', httpx.get(address).text, re.DOTALL)
    assert found
    facts: dict[str, Any] = json.loads(found[1])
    return facts


def texts() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((STATIC / "texts.json").read_text(encoding="utf-8"))
    return found


def test_every_option_of_the_service_has_a_control() -> None:
    fields = {control.field for control in page_controls(["compact"], "compact")}
    assert fields - {"model", "size_by"} == {*option_fields(), *VIDEO_FIELDS} - {*LIMITS, "name"}


def test_every_choice_and_every_start_is_allowed() -> None:
    for control in page_controls(["compact"], "compact"):
        if control.field in ("model", "size_by"):
            continue
        values = list(control.choices) or [control.start]
        if control.kind == "slider":
            values += [control.low, control.high]
        assert control.start in values
        for value in values:
            form_options({control.field: "" if value in (None, "", False) else str(value)})


def test_what_a_control_does_not_send_is_the_default() -> None:
    """A control with this value is left out, so it has to be what the option has without being given."""
    for control in page_controls(["compact"], "compact"):
        if control.default and control.field != "size_by":
            assert form_options({control.field: str(control.default)}) == form_options({}), control.field


def test_the_page_tells_its_scripts_the_controls_and_models(server: tuple[str, Any]) -> None:
    address, service = server
    facts = told(address)
    controls = page_controls([each.name for each in service.models], "small")
    assert [each["field"] for each in facts["controls"]] == [each.field for each in controls]
    assert facts["withoutPrompts"] == ["small"]
    assert facts["withoutTinyDecoder"] == ["small"]


def test_every_text_stands_in_every_language() -> None:
    english, *others = texts().values()
    refusals = {f"service.{code}" for code in SERVICE_ERRORS}
    refusals |= {f"service.option.{kind}" for kind in ("between", "above", "largest", "largest.size")}
    presets = {f"preset.{name}{ending}" for name in PRESETS for ending in ("", ".info")}
    assert others
    for each in others:
        # English is what the service, its presets and its remarks say themselves.
        remarks = {name for name in each if name.startswith(("note.", "part."))}
        assert remarks
        assert each.keys() == english.keys() | refusals | presets | remarks
        for name in english:
            assert sorted(re.findall(r"{\w+}", each[name])) == sorted(re.findall(r"{\w+}", english[name])), name
        for name in (f"service.{code}" for code in SERVICE_ERRORS):
            assert set(re.findall(r"{\w+}", each[name])) <= {"{words}"}, name


def test_remarks_are_translated_by_words_that_the_code_says() -> None:
    """A remark whose English words change would silently stay English."""
    folder = REPOSITORY / "src" / "s3diff"
    sources = [
        path.read_text(encoding="utf-8")
        for name in ("images", "restoration", "serving")
        for path in (folder / name).rglob("*.py")
    ]
    # A text that goes on in the next line is one text.
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))
    for language in texts().values():
        for name, text in language.items():
            kind, _, pattern = name.partition(".")
            if kind not in ("note", "part"):
                continue
            assert set(re.findall(r"{(\w+)}", text)) <= set(re.findall(r"{(\w+)}", pattern)), name
            said = pattern.replace("RGB through", "RGB {how}through").replace("RGB without", "RGB {how}without")
            said = re.sub(r"(picture's) (turn|cut|new size) is", r"\1 {change} is", said)
            said = re.sub(r"^(\w{4}): ", r'\1": "', said)  # a chunk of PNG, in the table of their titles
            for piece in re.split(r"{\w+}", said):
                assert piece.strip() in code, (name, piece)


def test_every_part_that_is_left_out_has_a_text_in_every_language() -> None:
    """A part without one keeps the whole remark English; tests/test_page_features.py translates them all."""
    titles = {field.title for field in coordinate_fields.FIELDS} | {claim.kind for claim in dropped_contents._CLAIMS}
    titles |= {
        *dropped_contents._SEMANTICS.values(),
        *dropped_contents._APPLE_TAGS.values(),
        *pillow_metadata._NAMED_TAGS.values(),
    }
    titles |= {f"{kind}: {title}" for kind, title in dropped_contents._CHUNK_TITLES.items()}
    titles |= {exif_block.MAKER_NOTE_TITLE, geotiff.POSITION, dropped_contents.SOUND, dropped_contents._SEQUENCE}
    for title in titles:
        assert len(re.split(r", (?![^(]*\))", title)) == 1, f"{title}: the page splits a remark at commas"
    _, *others = texts().values()
    for each in others:
        assert {f"part.{title}" for title in titles if " " in title} <= each.keys()


def test_what_a_control_says_is_what_the_option_says(server: tuple[str, Any]) -> None:
    """The page's short words repeat no fact of an option that could change without them."""
    values = told(server[0])["values"]
    asked: set[str] = set()
    for language in texts().values():
        for name, text in language.items():
            kind, field, *_ = name.split(".")
            if kind not in ("control", "choice") or field not in {*option_fields(), *VIDEO_FIELDS}:
                continue
            described = describe_option(field)
            left_open = set(re.findall(r"{(\w+)}", text))
            asked |= left_open
            assert left_open <= values.keys(), name
            stated, known = (set(re.findall(r"(?<!\w)\d+", each)) for each in (text, described))
            assert stated <= known, (name, text, described)
            # Words that are typed are those that the option takes.
            if name.endswith(".info") and field in ("tile", "pages"):
                assert set(re.findall(r"`(\w+)`", described)) == set(re.findall(r"\b(?:auto|off|all)\b", text)), name
    assert asked == values.keys()


def test_numbers_that_a_control_allows_are_the_options(server: tuple[str, Any]) -> None:
    for control in told(server[0])["controls"]:
        allowed = control["allowed"]
        assert (allowed is not None) == (control["field"] in RANGES), control["field"]
        if allowed is None:
            continue
        for value, is_allowed in ((allowed["low"], not allowed["isOpen"]), (allowed["low"] - 1, False)):
            try:
                form_options({control["field"]: f"{value:g}" if abs(value) < 1e9 else str(value)})
            except OptionError:
                assert not is_allowed, control["field"]
            else:
                assert is_allowed or control["field"] in ("blur", "noise"), control[
                    "field"
                ]  # a sign moves the estimate


def test_every_preset_is_named_in_every_language_and_sets_what_has_a_control(server: tuple[str, Any]) -> None:
    facts = told(server[0])
    fields = {each["field"] for each in facts["controls"]}
    assert [each["name"] for each in facts["presets"]][: len(PRESETS)] == [*PRESETS]
    for each in facts["presets"]:
        assert each["options"].keys() <= fields
        assert len(each["title"]) <= 24, "a button's"


def test_every_text_that_is_asked_for_is_there_and_none_is_left_over() -> None:
    names = set(next(iter(texts().values())))
    controls = page_controls(["compact"], "compact")
    asked = {f"control.{each.field}" for each in controls if not each.label}
    asked |= {
        f"choice.{each.field}.{value or 'none'}"
        for each in controls
        if not each.label and each.field != "model"
        for value in each.choices
        if not (each.titles or {}).get(value)
    }
    asked |= {f"example.{path.stem}" for path in STATIC.with_name("examples").iterdir()}
    sources = {path: path.read_text(encoding="utf-8") for path in STATIC.iterdir() if path.suffix in (".js", ".html")}
    written = "\n".join(sources.values())
    asked |= set(re.findall(r'data-t(?:-label|-title)?="([^"]+)"', written))
    asked |= set(re.findall(r'\bt\("([^"]+)"', written))
    groups = {name.split(".")[0] for name in names}
    written_out = re.findall(r'"([a-z]+(?:\.[A-Za-z0-9]+)+)"', written)
    asked |= {name for name in written_out if name.split(".")[0] in groups}
    asked |= set(re.findall(r"{{([a-z]+\.[a-z]+)}}", written))
    assert asked - names == set()
    # Names that are put together: `state.${...}`.
    openings = tuple(
        set(re.findall(r"`([a-z]+(?:\.[a-z]+)*\.)\${", written)) | {"keys.", "login.", "control.", "dial."}
    )
    assert {name for name in names - asked if not name.startswith(openings)} == {"app.languageName"} - asked


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "api/v1/restore", "POST"),
        ("PUT", "api/v1/jobs/none", "DELETE, GET, HEAD"),
        ("POST", "page/results.zip", "GET, HEAD"),
        ("DELETE", "healthz", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(server: tuple[str, Any], method: str, path: str, allowed: str) -> None:
    answer = httpx.request(method, server[0] + path)
    assert answer.status_code == 405, answer.text[:300]
    assert answer.headers["allow"] == allowed
    assert answer.json()["error"]["code"] == "method_not_allowed"
    assert allowed in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_name_leads_out_of_its_folder(server: tuple[str, Any], path: str) -> None:
    answer = httpx.get(server[0] + path)
    assert answer.status_code in (403, 404), answer.text[:300]
    assert "root:" not in answer.text
    assert "import" not in answer.text


def test_the_page_asks_nothing_of_other_hosts(server: tuple[str, Any]) -> None:
    answer = httpx.get(server[0])
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert not re.search(r"https?:", policy)
    loaded = re.findall(r"""(?:src|href)=["']([^"']+)""", answer.text)
    assert [each for each in loaded if not each.startswith("./")] == []
    assert re.findall(r"<style|style=|<script(?! type=)| on\w+=", answer.text) == []
    for each in loaded:
        assert httpx.get(server[0] + each).headers["content-security-policy"] == policy


def test_scripts_keep_their_place_for_ever_and_the_page_does_not(server: tuple[str, Any]) -> None:
    answer = httpx.get(server[0])
    script = re.search(r"page/static/(\w+)/page.js", answer.text)
    assert script
    assert answer.headers["cache-control"] == "no-store"
    assert "immutable" in httpx.get(server[0] + script[0]).headers["cache-control"]
    assert httpx.get(f"{server[0]}page/static/older/page.js").headers["cache-control"] == "no-store"


_QUIET = """
import sys
outside = []
def watch(event, arguments):
    if event == "socket.getaddrinfo" and arguments[0] not in (None, "127.0.0.1", "localhost", "::1"):
        outside.append(str(arguments[0]))
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] not in ("127.0.0.1", "::1"):
        outside.append(str(arguments[1]))
sys.addaudithook(watch)
import httpx
from page_server import page_server
with page_server() as (address, service):
    page = httpx.get(address)
    assert page.status_code == 200
import time
time.sleep(1)  # telemetry has threads of its own
print(sorted(set(outside)))
"""


@pytest.mark.slow
def test_the_server_asks_nothing_of_other_hosts(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "tests")}
    run = subprocess.run(
        [sys.executable, "-c", _QUIET], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout.strip()) == (0, "[]"), run.stderr[-2000:]


def test_a_token_is_asked_for_everywhere(guarded: tuple[str, Any]) -> None:
    address, _ = guarded
    paths = ["", "page/static/x/page.js", "page/static/x/texts.json", "none"]
    paths += ["page/examples/kitten.jpg", "page/results.zip?job=x", "page/jobs/x/preview", "logout"]
    for path in paths:
        assert httpx.get(address + path).status_code == 401, path
    for path in ("page/plan", "page/preview", "logout"):
        assert httpx.post(address + path, content=b"{}").status_code == 401, path
    seen = httpx.get(address, headers={"Accept": "text/html"})
    assert (seen.status_code, seen.headers["location"]) == (303, "/login")


def test_signing_in_and_out(guarded: tuple[str, Any]) -> None:
    address, _ = guarded
    with httpx.Client(base_url=address, follow_redirects=False, headers={"Accept": "text/html"}) as client:
        assert "Access token" in client.get("login").text
        wrong = client.post("login", data={"token": "not-the-token-of-this"})
        assert wrong.status_code == 403
        assert "not the token" in wrong.text
        assert "set-cookie" not in wrong.headers
        right = client.post("login", data={"token": f" {TOKEN} "})
        assert right.status_code == 303
        cookie = right.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert TOKEN not in cookie
        assert client.get("").status_code == 200
        assert client.get("page/examples/kitten.jpg").status_code == 200
        assert client.get("api/v1/models").status_code == 200
        elsewhere = {"Origin": "http://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
        assert client.post("page/plan", content=b"{}", headers=elsewhere).status_code == 403
        assert client.post("logout").headers["location"] == "/login"
        assert client.get("page/examples/kitten.jpg").status_code in (303, 401)


def test_other_peoples_results_are_not_found(guarded: tuple[str, Any]) -> None:
    address, _ = guarded
    with (
        httpx.Client(headers={"Authorization": f"Bearer {TOKEN}"}) as first,
        httpx.Client(headers={"Authorization": f"Bearer {SECOND_TOKEN}"}) as other,
    ):
        job = restored(address, KITTEN, first, scale="1")["id"]
        for path in (f"page/jobs/{job}/preview", f"page/results.zip?job={job}", f"api/v1/jobs/{job}/result"):
            assert first.get(address + path).status_code == 200, path
            assert other.get(address + path).status_code == 404, path


def test_a_preview_shows_what_browsers_cannot(server: tuple[str, Any], tmp_path: Path) -> None:
    address, _ = server
    place = tmp_path / "deep.tif"
    ramp = np.linspace(0, 65535, 90 * 60).reshape(60, 90).astype(np.uint16)
    Image.fromarray(ramp).save(place)
    answer = httpx.post(f"{address}page/preview", files={"picture": (place.name, place.read_bytes())})
    assert answer.headers["content-type"] == "image/webp"
    with Image.open(io.BytesIO(answer.content)) as seen:
        assert seen.size == (90, 60)
        assert np.abs(np.asarray(seen.convert("L"), float) - ramp / 257).max() < 6
    bad = httpx.post(f"{address}page/preview", files={"picture": ("../../bad.tif", b"II*\0nothing")})
    assert bad.status_code == 422
    assert "/tmp" not in bad.text
    assert "bad.tif" in bad.json()["error"]["message"]


def test_a_preview_of_a_large_picture_is_small(tmp_path: Path) -> None:
    from s3diff.images.files.reading import read_picture
    from s3diff.serving.page.previews import preview

    place = tmp_path / "wide.png"
    pixels = np.zeros((500, 2000, 4), np.uint8)
    pixels[:, 1000:] = (255, 64, 0, 255)
    Image.fromarray(pixels, "RGBA").save(place)
    with Image.open(io.BytesIO(preview(read_picture(place, 10**7, 10**7), largest_px=300))) as seen:
        assert seen.size == (300, 75)
        assert seen.mode == "RGBA"
        assert seen.getpixel((10, 40))[3] == 0
        assert np.abs(np.asarray(seen.getpixel((290, 40)), float) - (255, 64, 0, 255)).max() < 12


def test_several_results_come_as_one_archive(server: tuple[str, Any]) -> None:
    address, _ = server
    jobs = [restored(address, KITTEN, scale=scale, name="{stem}-restored") for scale in ("1", "0.5")]
    query = "&".join(f"job={job['id']}" for job in [*jobs, jobs[0]])
    answer = httpx.get(f"{address}page/results.zip?{query}")
    assert answer.headers["content-disposition"] == 'attachment; filename="restored.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["kitten-restored.jpg", "kitten-restored (2).jpg"]
        for job, name in zip(jobs, archive.namelist(), strict=True):
            assert archive.read(name) == httpx.get(f"{address}api/v1/jobs/{job['id']}/result").content
    assert httpx.get(f"{address}page/results.zip?job={jobs[0]['id']}&job=unknown").status_code == 404


def test_settings_are_told_as_a_command(server: tuple[str, Any]) -> None:
    address, _ = server

    def planned(options: dict[str, str], **rest: Any) -> Any:
        return httpx.post(f"{address}page/plan", json={"options": options, **rest})

    options = {"scale": "2.5", "noise": "+0.2", "name": "{stem}-restored"}
    line = planned(options, pictures=[{"name": "../../a b.jpg"}]).json()["command"]
    assert line == "s3diff restore 'a b.jpg' -o 'a b-restored.jpg' --model small --scale 2.5 --noise +0.2"
    refused = planned({"size": "12xx"})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "size")
    assert planned({}, model="elsewhere/model").json()["error"]["field"] == "model"
    for body in (
        b"",
        b"[]",
        b"{",
        b'{"options": 3}',
        b"\xff",
        b'{"options": {}, "pictures": [{"name": "a", "size": [0, 1]}]}',
    ):
        assert httpx.post(f"{address}page/plan", content=body).status_code == 422, body
    assert httpx.post(f"{address}page/plan", content=b" " * (1 << 21)).status_code == 413


def test_sizes_and_times_are_told_before_the_work(server: tuple[str, Any]) -> None:
    address, service = server
    service.times.add("small", 10**6, 2.0)

    def planned(*sizes: tuple[int, int] | None, **options: str) -> Any:
        pictures = [{"name": f"{number}.jpg", "size": size} for number, size in enumerate(sizes)]
        return httpx.post(f"{address}page/plan", json={"options": options, "pictures": pictures}).json()

    small, unknown, large = planned((100, 50), None, (1000, 500), scale="2")["results"]
    assert unknown is None
    assert (small["width"], small["height"], large["width"], large["height"]) == (200, 100, 2000, 1000)
    # Below a scale of 4 the networks work at 4.
    expected = service.times.expected("small", 4000 * 2000)
    assert large["seconds"] == pytest.approx(expected, abs=0.1)
    fit = planned((100, 50), size="640x640", size_mode="fit")["results"][0]
    assert (fit["width"], fit["height"]) == (640, 320)


@pytest.mark.parametrize(
    ("options", "largest"),
    [
        ({"scale": "100"}, "8.16"),
        ({"long_side": "99999"}, "16329"),
        ({"megapixels": "999"}, "200"),
        ({"size": "30000x30000"}, "200 megapixels"),
    ],
)
def test_a_result_too_large_is_refused_with_the_largest_that_works(
    server: tuple[str, Any], options: dict[str, str], largest: str
) -> None:
    address, _ = server
    pictures = [{"name": "a.jpg", "size": [2000, 1500]}]
    refused = httpx.post(f"{address}page/plan", json={"options": options, "pictures": pictures})
    error = refused.json()["error"]
    assert (refused.status_code, error["field"]) == (422, next(iter(options)))
    assert error["message"].endswith(f"the largest here is {largest}")
    assert error["largest"] == float(largest.split()[0])
    if options.keys() != {"size"}:
        works = {next(iter(options)): largest}
        answer = httpx.post(f"{address}page/plan", json={"options": works, "pictures": pictures})
        assert answer.status_code == 200, answer.text


def test_a_piece_has_the_pictures_own_pixels(server: tuple[str, Any], tmp_path: Path) -> None:
    address, _ = server
    place = tmp_path / "scan.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(place)

    def cut(box: str) -> Any:
        files = {"picture": (place.name, place.read_bytes())}
        return httpx.post(f"{address}page/preview", files=files, data={"box": box})

    with Image.open(io.BytesIO(cut("70,10,90,30").content)) as piece:
        assert np.array_equal(np.asarray(piece.convert("RGB")), pixels[10:30, 70:80])
    for box in ("80,0,90,10", "5,5,5,9", "1,2,3", "a,b,c,d", "-1,0,5,5"):
        assert cut(box).status_code == 422, box


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("fr,de;q=0.5", "de"),
        ("fr", "en"),
        ("", "en"),
        ("en-GB,de", "en"),
        (";,;", "en"),
    ],
)
def test_signing_in_is_told_in_the_browsers_language(guarded: tuple[str, Any], accepted: str, language: str) -> None:
    answer = httpx.get(f"{guarded[0]}login", headers={"Accept-Language": accepted})
    assert f'<html lang="{language}">' in answer.text
    assert texts()[language]["login.enter"] in answer.text
    assert "{{" not in answer.text
    assert httpx.get(f"{guarded[0]}login.css").headers["content-type"].startswith("text/css")


def test_the_shipped_examples_are_the_projects_own(server: tuple[str, Any]) -> None:
    for name in ("kitten.jpg", "budgerigar.jpg"):
        shipped = httpx.get(f"{server[0]}page/examples/{name}").content
        assert shipped == (REPOSITORY / "assets" / "photos" / name).read_bytes()
