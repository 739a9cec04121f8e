"""The page without a browser: its controls, what of Gradio is reachable, signing in, previews, archives."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import REPOSITORY
from page_server import page_server
from s3diff.option_texts import option_fields, options_from_texts
from s3diff.serving.page.controls import WITHOUT_CONTROL, page_controls

httpx = pytest.importorskip("httpx", reason="needs the extra web")
pytest.importorskip("gradio", reason="needs the extra web")

TOKEN = "a-token-for-tests-of-the-page"
KITTEN = REPOSITORY / "assets" / "photos" / "kitten.jpg"
#: Of Gradio's routes those that would serve files, run code, take uploads or tell of the application.
GRADIO_ROUTES = [
    ("GET", "config"),
    ("GET", "gradio_api/info"),
    ("GET", "gradio_api/openapi.json"),
    ("GET", "gradio_api/file=/etc/passwd"),
    ("GET", "gradio_api/file=src/s3diff/options.py"),
    ("GET", "gradio_api/file/etc/passwd"),
    ("GET", "gradio_api/proxy=http://127.0.0.1:1/"),
    ("GET", "gradio_api/heartbeat/x"),
    ("GET", "gradio_api/queue/data?session_hash=x"),
    ("GET", "gradio_api/startup-events"),
    ("GET", "gradio_api/runs"),
    ("GET", "monitoring"),
    ("GET", "robots.txt"),
    ("GET", "manifest.json"),
    ("GET", "svelte/../../../etc/passwd"),
    ("GET", "svelte/submodule.js"),
    ("POST", "gradio_api/upload"),
    ("POST", "gradio_api/queue/join"),
    ("POST", "gradio_api/run/predict"),
    ("POST", "gradio_api/call/predict"),
    ("POST", "gradio_api/component_server"),
    ("POST", "gradio_api/cancel"),
    ("POST", "gradio_api/reset"),
    ("POST", "gradio_api/vibe-edit"),
    ("POST", "login"),
]
TRAVERSALS = [
    "static/../routes.py",
    "static/..%2froutes.py",
    "static/%2e%2e/%2e%2e/routes.py",
    "assets/..%2f..%2f..%2froutes.py",
    "assets/%2fetc%2fpasswd",
    "page/static/x/..%2fmounting.py",
    "page/static/x/%2e%2e/%2e%2e/mounting.py",
    "page/static/x/work.html",
    "page/examples/..%2f__init__.py",
    "page/examples/%2fetc%2fpasswd",
    "page/jobs/..%2f..%2fetc/preview",
]


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[str, Any]]:
    with page_server(tokens=[TOKEN]) as (address, service):
        yield address, service


def restored(address: str, path: Path, client: Any = httpx, **fields: str) -> dict[str, Any]:
    """A job of the service that has ended."""
    with path.open("rb") as file:
        answer = client.post(f"{address}api/v1/jobs", files={"picture": (path.name, file)}, data=fields)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = client.get(f"{address}api/v1/jobs/{answer.json()['id']}?wait=30", timeout=60).json()
    assert job["state"] == "done", job
    return job


def told_controls(address: str) -> list[dict[str, Any]]:
    """What the page's script is told, as it stands in the page."""
    page = httpx.get(address).text
    config = re.search(r"window\.gradio_config = (\{.*?\});\s*</script>", page, re.DOTALL)
    assert config, page[:2000]
    template = next(
        each["props"]["html_template"]
        for each in json.loads(config[1])["components"]
        if each["props"].get("elem_id") == "work"
    )
    told = re.search(r'data-told="([^"]*)"', template)
    assert told
    controls: list[dict[str, Any]] = json.loads(unescape(told[1]))["controls"]
    return controls


def test_every_option_of_the_service_has_a_control() -> None:
    fields = {control.field for control in page_controls(["compact"], "compact")}
    assert fields - {"model", "size_by"} == set(option_fields()) - WITHOUT_CONTROL - {"name"}


def test_every_choice_and_every_start_is_allowed() -> None:
    for control in page_controls(["compact"], "compact"):
        if control.field in ("model", "size_by"):
            continue
        values = [value for _, value in control.choices] or [control.start]
        if control.kind == "slider":
            values += [control.low, control.high]
        assert control.start in values
        for value in values:
            options_from_texts({control.field: "" if value in (None, "", False) else str(value)})


def test_the_page_tells_its_script_the_controls_in_the_order_of_their_values(server: tuple[str, Any]) -> None:
    address, service = server
    controls = page_controls([each.name for each in service.models], "compact")
    assert [each["field"] for each in told_controls(address)] == [each.field for each in controls]


@pytest.mark.parametrize(("method", "path"), GRADIO_ROUTES)
def test_gradio_serves_nothing_but_its_page(server: tuple[str, Any], method: str, path: str) -> None:
    answer = httpx.request(method, server[0] + path, headers={"Accept": "*/*"})
    assert answer.status_code == 404, answer.text[:300]
    assert answer.json()["error"]["code"] == "not_found"


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
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert not re.search(r"https?:", policy)
    loaded = re.findall(r"""(?:src|href)=["'](https?:[^"']+)""", answer.text)
    assert [each for each in loaded if not each.startswith(server[0])] == []


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
    told = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "True", "PYTHONPATH": str(REPOSITORY / "tests")}
    run = subprocess.run(
        [sys.executable, "-c", _QUIET], cwd=tmp_path, env=told, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout.strip()) == (0, "[]"), run.stderr[-2000:]


def test_a_token_is_asked_for_everywhere(guarded: tuple[str, Any]) -> None:
    address, _ = guarded
    paths = ["", "theme.css", "favicon.ico", "static/img/undo-solid.svg", "page/static/x/page.js"]
    paths += ["page/examples/kitten.jpg", "page/results.zip?job=x", "page/jobs/x/preview", "logout", "config"]
    for path in paths:
        assert httpx.get(address + path).status_code == 401, path
    for path in ("page/command", "page/preview", "logout", "gradio_api/upload"):
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
        assert client.post("page/command", content=b"{}", headers=elsewhere).status_code == 403
        assert client.post("logout").headers["location"] == "/login"
        assert client.get("page/examples/kitten.jpg").status_code in (303, 401)


def test_other_peoples_results_are_not_found() -> None:
    second = "another-token-of-the-same-service"
    with page_server(tokens=[TOKEN, second]) as (address, _):
        first = httpx.Client(headers={"Authorization": f"Bearer {TOKEN}"})
        other = httpx.Client(headers={"Authorization": f"Bearer {second}"})
        job = restored(address, KITTEN, first, scale="1")["id"]
        for path in (f"page/jobs/{job}/preview", f"page/results.zip?job={job}", f"api/v1/jobs/{job}/result"):
            assert first.get(address + path).status_code == 200, path
            assert other.get(address + path).status_code == 404, path
        first.close()
        other.close()


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
    from s3diff.serving.page.previews import preview

    place = tmp_path / "wide.png"
    pixels = np.zeros((500, 2000, 4), np.uint8)
    pixels[:, 1000:] = (255, 64, 0, 255)
    Image.fromarray(pixels, "RGBA").save(place)
    with Image.open(io.BytesIO(preview(place, 10**7, 10**7, largest_px=300))) as seen:
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

    def told(options: dict[str, str], **rest: Any) -> Any:
        return httpx.post(f"{address}page/command", json={"options": options, **rest})

    line = told({"scale": "2.5", "noise": "+0.2", "name": "{stem}-restored"}, names=["../../a b.jpg"]).json()["command"]
    assert line == "s3diff restore 'a b.jpg' -o 'a b-restored.jpg' --scale 2.5 --noise +0.2"
    refused = told({"size": "12xx"})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "size")
    assert told({}, model="elsewhere/model").json()["error"]["field"] == "model"
    for body in (b"", b"[]", b"{", b'{"options": 3}', b"\xff"):
        assert httpx.post(f"{address}page/command", content=body).status_code == 422, body
    assert httpx.post(f"{address}page/command", content=b" " * (1 << 21)).status_code == 413


def test_the_shipped_examples_are_the_projects_own(server: tuple[str, Any]) -> None:
    for name in ("kitten.jpg", "budgerigar.jpg"):
        shipped = httpx.get(f"{server[0]}page/examples/{name}").content
        assert shipped == (REPOSITORY / "assets" / "photos" / name).read_bytes()
