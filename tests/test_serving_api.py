"""The HTTP interface: every status, every guard, and that options are the same at every door."""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from s3diff.errors import OptionError, QuotaError
from s3diff.option_texts import (
    VIDEO_FIELDS,
    field_at_fault,
    form_options,
    option_fields,
    option_schemas,
    options_from_texts,
    texts_of_options,
)
from s3diff.options import LIMITS, OutputOptions, ReleasedTiles, RestoreOptions
from s3diff.serving.http.api import create_app
from s3diff.serving.http.auth import SESSION_COOKIE, Auth, read_clients
from s3diff.serving.http.job_responses import wants_json
from s3diff.serving.limits import Client, Quota, QuotaCounter, ServiceLimits, ServiceSettings
from s3diff.serving.logs import JsonFormatter, PlainFormatter
from s3diff.serving.service import RestorationService
from s3diff.video_options import VideoOptions
from serving_pictures import jpeg_with_metadata, photo, png_claiming
from tiny_models import one_line

TOKEN, OTHER_TOKEN = "first-token-of-the-tests", "other-token-of-the-tests"
RESTORE, JOBS = "/api/v1/restore", "/api/v1/jobs"
#: Method and path of every route; a test compares them with the application's.
ROUTES = {
    ("POST", RESTORE),
    ("POST", JOBS),
    ("GET", JOBS + "/{id}"),
    ("DELETE", JOBS + "/{id}"),
    ("GET", JOBS + "/{id}/result"),
    ("POST", "/api/v1/estimate"),
    ("POST", "/api/v1/inspect"),
    ("GET", "/api/v1/models"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/api/openapi.json"),
}


@pytest.fixture(scope="module")
def model(small: Path) -> Path:
    return small


def new_service(model: Path, **limits: object) -> RestorationService:
    return RestorationService(
        ServiceSettings(models=[model], device="cpu", precision="float32", limits=ServiceLimits(**limits))
    )


@pytest.fixture(scope="module")
def client(model: Path) -> Iterator[TestClient]:
    with new_service(model) as service, TestClient(create_app(service)) as client:
        yield client


@pytest.fixture
def still(model: Path) -> Iterator[TestClient]:
    """A service with tokens whose jobs stay in the queue, of two."""
    service = new_service(model, queue_length=2)
    with TestClient(create_app(service, auth=Auth([TOKEN, OTHER_TOKEN]))) as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        yield client
    service.close(0)


def sent(content: bytes | None = None, name: str = "a.png") -> dict[str, tuple[str, bytes]]:
    return {"picture": (name, photo() if content is None else content)}


# ------------------------------------------------------------------------------------------ answers


def test_a_picture_in_a_picture_out(client: TestClient) -> None:
    answer = client.post(RESTORE, files=sent(jpeg_with_metadata(), "Bild ü.jpg"), data={"scale": "2", "quality": "90"})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert "filename*=UTF-8''Bild%20%C3%BC.jpg" in answer.headers["Content-Disposition"]
    image = Image.open(io.BytesIO(answer.content))
    assert image.size == (64, 48)
    assert image.getexif()[0x0110] == "Camera"
    facts = json.loads(answer.headers["S3Diff-Result"])
    assert (facts["width"], facts["height"]) == (64, 48)


def test_a_job_from_its_beginning_to_its_end(client: TestClient) -> None:
    answer = client.post(JOBS, files=sent(), data={"scale": "2", "format": "png"})
    assert answer.status_code == 202
    job = answer.json()
    path = answer.headers["Location"]
    assert path == f"{JOBS}/{job['id']}"
    told = client.get(path, params={"wait": 30}).json()
    assert (told["state"], told["fraction"], told["error"]) == ("done", 1.0, None)
    assert told["result"]["name"] == "a.png"
    result = client.get(path + "/result")
    assert Image.open(io.BytesIO(result.content)).size == (64, 48)
    assert len(result.content) == told["result"]["size_bytes"]
    assert client.delete(path).status_code == 204
    for gone in (client.get(path), client.get(path + "/result"), client.delete(path)):
        assert gone.status_code == 404
        assert gone.json()["error"]["code"] == "no_such_job"


def test_restore_answers_with_a_job_when_asked(client: TestClient) -> None:
    answer = client.post(RESTORE, files=sent(), headers={"Accept": "application/json"})
    assert answer.status_code == 202
    assert client.get(answer.headers["Location"], params={"wait": 30}).json()["state"] == "done"


@pytest.mark.parametrize(
    ("accept", "is_json"),
    [
        ("application/json", True),
        ("application/json;charset=utf-8", True),
        ("application/json, */*;q=0.5", True),
        ("application/*", True),
        ("application/json, text/plain, */*", False),  # axios, where nothing is chosen
        ("application/json, image/png", False),
        ("application/json;q=0.5, image/*", False),
        ("application/json;q=none", False),
        ("image/avif,image/webp,*/*;q=0.8", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_a_job_or_the_picture(accept: str, is_json: bool) -> None:
    assert wants_json(accept) is is_json


def multipart(disposition: str, before: bytes = b"") -> dict[str, Any]:
    """A form as it is on the wire, with one part."""
    part = f"--limit\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode()
    headers = {"Content-Type": "multipart/form-data; boundary=limit", "Accept": "application/json"}
    return {"content": before + part + photo() + b"\r\n--limit--\r\n", "headers": headers}


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ("name=\"picture\"; filename*=UTF-8''b%C3%BCro.png", "büro.png"),
        ('name="picture"; filename="buero.png"; filename*=UTF-8\'\'b%C3%BCro.png', "büro.png"),
        ("filename*=utf-8'de'b%C3%BCro.png; name=picture", "büro.png"),
        ("name=\"picture\"; filename*=iso-8859-1''b%FCro.png", "büro.png"),
        ('name="picture"; filename="a.png"; filename*=no-charset\'\'b%FC.png', "a.png"),
        ("name=\"picture\"; filename*=UTF-8''a%22b%5Cc%3B.png", "c;.png"),
    ],
)
def test_a_name_as_rfc_5987_writes_it(client: TestClient, disposition: str, name: str) -> None:
    answer = client.post(JOBS, **multipart(disposition))
    assert (answer.status_code, answer.json().get("name")) == (202, name), answer.text


def test_text_before_the_first_boundary(client: TestClient) -> None:
    plain = 'name="picture"; filename="a.png"'
    for before in (b"\r\n", b"Made by a program.\r\n", b"--limi\r\n" * 100, b"-" * 30_000 + b"\r\n"):
        assert client.post(JOBS, **multipart(plain, before)).status_code == 202, before[:20]
    assert client.post(JOBS, **multipart(plain, b"no line of its own")).status_code == 422


def test_the_message_names_the_wrong_field(client: TestClient) -> None:
    def message(**form: Any) -> str:
        return str(client.post(JOBS, **form).json()["error"]["message"])

    assert message(files={"image": ("a.png", photo())}).startswith("picture is missing; image is no field")
    assert message(files={**sent(), "mask": ("a.png", photo())}).startswith("mask is no field of a file")
    assert message(files={"scale": (None, "2")}).startswith("picture is missing; send the file")
    assert message(files={"picture": (None, "photo.jpg")}).startswith("picture is a text; send it as a file")


@pytest.mark.parametrize("path", ["/healthz", "/api/openapi.json", "/api/v1/models", "/metrics", JOBS + "/x"])
def test_head_is_get_without_the_body(client: TestClient, path: str) -> None:
    asked, told = client.get(path), client.head(path)
    assert (told.status_code, told.content) == (asked.status_code, b"")
    assert told.headers["Content-Type"] == asked.headers["Content-Type"]


def test_a_wrong_method_is_told_of_head(client: TestClient) -> None:
    answer = client.post("/api/v1/models")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")
    answer = client.head(JOBS)
    assert (answer.status_code, answer.headers["Allow"], answer.content) == (405, "POST", b"")


def test_head_fetches_no_result(client: TestClient) -> None:
    path = client.post(JOBS, files=sent(), data={"scale": "1"}).headers["Location"]
    client.get(path, params={"wait": 30})
    job = client.app.state.service.job(path.rsplit("/", 1)[1])  # type: ignore[attr-defined]
    told = client.head(path + "/result")
    assert (told.status_code, told.content, job.is_fetched) == (200, b"", False)
    assert int(told.headers["Content-Length"]) == len(client.get(path + "/result").content)
    assert job.is_fetched


def test_the_same_picture_by_both_ways(client: TestClient) -> None:
    at_once = client.post(RESTORE, files=sent())
    job = client.post(JOBS, files=sent()).headers["Location"]
    client.get(job, params={"wait": 30})
    pixels = [np.asarray(Image.open(io.BytesIO(each.content))) for each in (at_once, client.get(job + "/result"))]
    assert np.array_equal(*pixels)


def test_a_model_that_cannot_be_loaded(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(model, damaged)
    next(damaged.glob("unet*")).write_bytes(b"cut off")
    service = RestorationService(ServiceSettings(models=[model, damaged], device="cpu", precision="float32"))
    with service, TestClient(create_app(service)) as client:
        asked = {"restore": {"Accept": "image/png"}, "estimate": {}}
        for what, headers in asked.items():
            answer = client.post(f"/api/v1/{what}", files=sent(), data={"model": "damaged"}, headers=headers)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["field"]) == (503, "model", "model"), answer.text
            assert answer.headers["Retry-After"] == "60"
            assert str(tmp_path) not in answer.text
            assert any("damaged" in record.getMessage() for record in caplog.records), "the log says why"
            caplog.clear()
        assert client.post("/api/v1/restore", files=sent()).status_code == 200, "the other model serves on"


def test_an_estimate(client: TestClient) -> None:
    answer = client.post("/api/v1/estimate", files=sent(photo(40, 20)))
    assert answer.status_code == 200
    told = answer.json()
    assert (told["width"], told["height"]) == (40, 20)
    assert 0 <= told["blur"] <= 1
    assert client.post("/api/v1/estimate", files=sent(), data={"scale": "2"}).status_code == 422


def test_models_health_and_figures(client: TestClient) -> None:
    assert [each["name"] for each in client.get("/api/v1/models").json()["models"]] == ["small"]
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok"}
    for path in ("/healthz", "/readyz"):  # some balancers ask so
        answer = client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
    client.post(RESTORE, files=sent())
    figures = client.get("/metrics").text
    assert 's3diff_jobs_total{state="done"}' in figures
    assert 's3diff_http_requests_total{method="POST",route="/api/v1/restore",status="200"}' in figures
    assert "s3diff_queue_limit 32.0" in figures


@pytest.mark.parametrize(
    ("status", "code", "arguments"),
    [
        (422, "picture", {"files": sent(b"no picture")}),
        (422, "picture", {"files": sent(photo()[:-30])}),
        (422, "option", {"files": sent(), "data": {"scale": "0"}}),
        (422, "option", {"files": sent(), "data": {"scale": "much"}}),
        (422, "option", {"files": sent(), "data": {"scal": "2"}}),
        (422, "option", {"files": sent(), "data": {"overwrite": "true"}}),
        (422, "option", {"files": sent(), "data": {"model": "../../etc"}}),
        (422, "option", {"files": sent(), "data": {"scale": ["2", "3"]}}),
        (422, "option", {"data": {"scale": "2"}, "files": {"image": ("a.png", b"x")}}),
        (422, "option", {"files": {**sent(), "image": ("a.png", b"x")}}),
        (422, "option", {"data": {"picture": "text"}, "files": {"x": ("a.png", b"x")}}),
        (422, "output", {"files": sent(), "data": {"format": "jpg", "size": "65600x10"}}),
        (413, "too_large", {"files": sent(png_claiming(60000, 60000))}),
        (413, "too_large", {"files": sent(), "data": {"scale": "900"}}),
        (413, "too_large", {"files": sent(), "data": {"scale": "999999999"}}),
        (415, "media_type", {"content": photo(), "headers": {"Content-Type": "image/png"}}),
        (415, "media_type", {"json": {"picture": "x"}}),
        (415, "media_type", {}),
        (400, "malformed", {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}),
        (400, "malformed", {"content": b"no parts", "headers": {"Content-Type": "multipart/form-data; boundary=a"}}),
        (
            422,
            "option",
            {
                "content": b'--a\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\n\r\n' + photo(),
                "headers": {"Content-Type": "multipart/form-data; boundary=a"},
            },
        ),
        (422, "option", {"files": [("picture", ("a.png", photo())), ("picture", ("b.png", photo()))]}),
        (400, "malformed", {"files": sent(), "data": {f"field{index}": "x" for index in range(60)}}),
        (400, "malformed", {"files": sent(), "data": {"name": "x" * 200_000}}),
    ],
)
@pytest.mark.parametrize("path", [RESTORE, JOBS])
def test_what_cannot_be_used_is_said(client: TestClient, path: str, status: int, code: str, arguments: dict) -> None:
    answer = client.post(path, **arguments)
    if path == JOBS and answer.status_code == 202:  # what only decoding or writing shows
        told = client.get(answer.headers["Location"], params={"wait": 30}).json()
        assert (told["state"], told["cause"]) == ("failed", code)
        return
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert "\n" not in answer.json()["error"]["message"]


def test_the_option_at_fault_is_named(client: TestClient) -> None:
    error = client.post(JOBS, files=sent(), data={"strength": "2"}).json()["error"]
    assert (error["field"], error["code"]) == ("strength", "option")
    assert error["message"].startswith("strength is 2.0; give a number from 0")
    assert client.get(f"{JOBS}/x", params={"wait": "soon"}).json()["error"]["field"] == "wait"


def test_a_form_that_ends_in_its_middle_is_no_server_error(client: TestClient) -> None:
    whole = client.build_request("POST", RESTORE, files=sent()).read()
    kind = "multipart/form-data; boundary=" + whole[2 : whole.index(b"\r\n")].decode()
    for length in range(0, len(whole) - 1, max(1, len(whole) // 40)):
        answer = client.post(RESTORE, content=whole[:length], headers={"Content-Type": kind})
        assert answer.status_code in (400, 422), (length, answer.text)


@pytest.mark.parametrize(
    "id", ["..", "../..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%00", "a/b", "x" * 5000, "ü", "\N{PILE OF POO}"]
)
def test_ids_are_names_and_never_paths(client: TestClient, id: str) -> None:
    for path in (f"{JOBS}/{id}", f"{JOBS}/{id}/result"):
        assert client.get(path).status_code in (404, 405, 414)


def test_a_result_is_an_attachment_that_runs_nothing(client: TestClient) -> None:
    answer = client.post(RESTORE, files=sent(name='x"><script>.png'))
    assert answer.headers["Content-Disposition"].startswith("attachment; filename*=UTF-8''")
    assert "<" not in answer.headers["Content-Disposition"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cache-Control"] == "private, no-store"


# ------------------------------------------------------------------------------------------ the queue


def test_beyond_the_queue(still: TestClient) -> None:
    for _ in range(2):
        assert still.post(JOBS, files=sent()).status_code == 202
    for path in (JOBS, RESTORE):
        answer = still.post(path, files=sent())
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_full")
        assert int(answer.headers["Retry-After"]) >= 1


def test_a_result_that_is_not_there_yet(still: TestClient) -> None:
    path = still.post(JOBS, files=sent()).headers["Location"]
    answer = still.get(path + "/result")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "no_result")
    assert still.get(path, params={"wait": 0.2}).json()["position"] == 0
    assert still.delete(path).status_code == 204


def test_an_ending_service(still: TestClient) -> None:
    still.app.state.service.drain()  # type: ignore[attr-defined]
    answer = still.post(JOBS, files=sent())
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ending")
    assert "Retry-After" in answer.headers
    ready = still.get("/readyz")
    assert still.head("/readyz").status_code == ready.status_code
    assert (ready.status_code, ready.json()) == (503, {"status": "ending"})
    assert still.get("/healthz").status_code == 200


def test_a_body_that_is_too_large(model: Path) -> None:
    service = new_service(model, upload_bytes=5000)
    with TestClient(create_app(service)) as client:
        large = b"x" * (2**20 + 10_000)
        declared = client.post(RESTORE, files=sent(large))
        kind = {"Content-Type": "multipart/form-data; boundary=a"}
        start = b'--a\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\n\r\n'
        streamed = client.post(RESTORE, content=iter([start, large]), headers=kind)
        barely = client.post(RESTORE, files=sent(photo(100, 100)))
        for answer in (declared, streamed, barely):
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    service.close(0)


# ------------------------------------------------------------------------------------------ who may ask


def test_every_route_is_known(client: TestClient) -> None:
    found = {
        (method, route.path)
        for route in client.app.routes  # type: ignore[attr-defined]
        for method in (getattr(route, "methods", None) or ())
        if method != "HEAD"
    }
    assert found == ROUTES


@pytest.mark.parametrize(("method", "path"), sorted(ROUTES))
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong-token-of-the-tests"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer \xff\xfe"},
        {"Cookie": f"{SESSION_COOKIE}={TOKEN}"},
        {"Cookie": f"{SESSION_COOKIE}="},
    ],
)
def test_a_token_is_needed_everywhere_but_for_health(
    still: TestClient, method: str, path: str, headers: dict[str, str]
) -> None:
    del still.headers["Authorization"]
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = still.request(method, path.format(id="x"), headers=raw)
    if path in ("/healthz", "/readyz"):
        assert answer.status_code in (200, 503)
        assert "error" not in answer.json()
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "token_needed")
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_paths_that_do_not_exist_need_a_token_as_well(still: TestClient) -> None:
    del still.headers["Authorization"]
    for path in ("/", "/nothing", "/healthz/", "/healthz/../metrics", "//healthz", "/docs"):
        assert still.get(path).status_code == 401


def test_other_peoples_jobs_are_not_found(still: TestClient) -> None:
    path = still.post(JOBS, files=sent()).headers["Location"]
    assert still.get(path).status_code == 200
    other = {"Authorization": f"Bearer {OTHER_TOKEN}"}
    for answer in (
        still.get(path, headers=other),
        still.get(path + "/result", headers=other),
        still.delete(path, headers=other),
    ):
        assert answer.status_code == 404
    assert still.get(path).json()["state"] == "queued"


# ------------------------------------------------------------------------------------------ behind a proxy


@pytest.fixture(scope="module", params=["kept", "taken off"])
def below(request: pytest.FixtureRequest, model: Path) -> Iterator[tuple[TestClient, str]]:
    """A client that asks as a proxy does which shows the service under /s3diff, and what it puts before a path."""
    service = new_service(model, queue_length=50)
    app = create_app(service, auth=Auth([TOKEN]), root_path="/s3diff")
    with TestClient(app, follow_redirects=False) as client:
        yield client, "/s3diff" if request.param == "kept" else ""
    service.close(0)


def test_a_prefix_is_taken_as_it_comes(below: tuple[TestClient, str]) -> None:
    client, prefix = below
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    for path in ("/healthz", "/readyz"):
        assert client.get(prefix + path).status_code in (200, 503)
    for path in ("/api/v1/models", "/healthz/", "/healthz/../metrics", "//healthz", "/s3diffhealthz"):
        assert client.get(prefix + path).status_code == 401, path
    answer = client.post(prefix + JOBS, files=sent(), headers=bearer)
    assert answer.headers["Location"] == f"/s3diff{JOBS}/{answer.json()['id']}"
    assert client.get(answer.headers["Location"], headers=bearer).status_code == 200
    assert client.get(prefix + "/api/openapi.json", headers=bearer).json()["servers"] == [{"url": "/s3diff"}]


def test_redirects_name_no_host(below: tuple[TestClient, str]) -> None:
    """Scheme, name and port are the proxy's; a path that begins with two slashes would be another host's."""
    client, prefix = below
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    answer = client.get(prefix + "/api/v1/models/", headers=bearer)
    assert (answer.status_code, answer.headers["Location"]) == (307, "/s3diff/api/v1/models")
    for path in ("//evil.example/api/v1/models/", "/%2Fevil.example/", "//evil.example/.."):
        target = client.get(path, headers=bearer).headers.get("Location", "/")
        assert urljoin("http://testserver/", target).startswith("http://testserver/")


# ------------------------------------------------------------------------------------------ tokens and quotas


def test_clients_are_read_from_a_file(tmp_path: Path) -> None:
    place = tmp_path / "tokens"
    place.write_text(f"# who may ask\n\nanna {TOKEN}\n  printer\t{OTHER_TOKEN}  waiting=2 hourly=30\n")
    anna, printer = read_clients(place)
    assert (anna.name, anna.token, anna.quota) == ("anna", TOKEN, Quota())
    assert (printer.name, printer.quota) == ("printer", Quota(waiting=2, hourly=30))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("anna", "line 1 has no name and token"),
        (f"waiting=3 {TOKEN}", "line 1 has no name and token"),
        ("\nanna short", "line 2: a token has 5 characters"),
        (f"anna {TOKEN} waiting=0", "line 1: waiting is 0"),
        (f"anna {TOKEN} waiting=much", "line 1: after the token may stand"),
        (f"anna {TOKEN} waiting=2 waiting=3", "line 1: after the token may stand"),
        (f"anna {TOKEN} daily=3", "line 1: after the token may stand"),
        (f"anna {TOKEN}\nanna {OTHER_TOKEN}", "line 2: the name anna is there already"),
        (f"anna {TOKEN}\nben {TOKEN}", "line 2: two clients have the same token"),
        ("# nobody", "names no client"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_file_of_tokens_is_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    place = tmp_path / "tokens"
    if text is not None:
        place.write_text(text)
    with pytest.raises(OptionError) as refused:
        read_clients(place)
    assert message in one_line(refused)
    assert TOKEN not in str(refused.value)


def test_each_client_has_its_own_quota(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clients = [Client(TOKEN, "anna", Quota(waiting=2)), Client(OTHER_TOKEN, "ben", Quota(hourly=1))]
    service = new_service(model)
    with TestClient(create_app(service, auth=Auth(clients))) as client:

        def asked(token: str, **form: Any) -> Any:
            return client.post(JOBS, headers={"Authorization": f"Bearer {token}"}, **{"files": sent(), **form})

        assert asked(TOKEN, files=sent(b"no picture")).status_code == 422, "it counts for nothing"
        accepted = [asked(TOKEN) for _ in range(3)]
        assert [answer.status_code for answer in accepted] == [202, 202, 429]
        error = accepted[2].json()["error"]
        assert (error["code"], error["message"]) == (
            "quota",
            "2 of your pictures are waiting, which is your limit; come back later",
        )
        assert int(accepted[2].headers["Retry-After"]) >= 1
        assert [asked(OTHER_TOKEN).status_code for _ in range(2)] == [202, 429], "each has its own"
        client.delete(accepted[0].headers["Location"], headers={"Authorization": f"Bearer {TOKEN}"})
        assert asked(TOKEN).status_code == 202, "one has ended"
    service.close(0)
    lines = [JsonFormatter().format(record) for record in caplog.records if record.name == "s3diff.serving.access"]
    assert {json.loads(line).get("client") for line in lines} == {"anna", "ben"}
    assert not any(TOKEN in line or OTHER_TOKEN in line for line in lines)


def test_an_hour_passes() -> None:
    now = [0.0]
    counter = QuotaCounter(lambda _: 0, clock=lambda: now[0])
    quota = Quota(hourly=2)
    for now[0] in (0.0, 600.0):
        with counter.taking("anna", quota):
            pass
    with pytest.raises(QuotaError) as full:
        counter.check("anna", quota)
    assert full.value.retry_after_seconds == 3000
    now[0] = 3600.0
    counter.check("anna", quota)
    with counter.taking("anna", quota), pytest.raises(QuotaError):
        counter.check("anna", quota)  # what is still arriving counts


def test_a_session_stands_for_its_token(still: TestClient) -> None:
    auth = still.app.state.auth  # type: ignore[attr-defined]
    session = auth.session_of_token(TOKEN)
    assert TOKEN not in session
    assert auth.session_of_token("wrong-token-of-the-tests") is None
    path = still.post(JOBS, files=sent()).headers["Location"]
    del still.headers["Authorization"]
    assert still.get(path, headers={"Cookie": f"{SESSION_COOKIE}={session}"}).status_code == 200
    other = auth.session_of_token(OTHER_TOKEN)
    assert still.get(path, headers={"Cookie": f"{SESSION_COOKIE}={other}"}).status_code == 404


@pytest.mark.parametrize("token", ["short", "with spaces in it it is no token", "ümläuts-are-no-tokens-either"])
def test_tokens_are_checked(token: str) -> None:
    with pytest.raises(OptionError, match="visible ASCII"):
        Auth([token])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://testserver"}, 202),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://testserver"}, 202),
        ({"Sec-Fetch-Site": "none"}, 202),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://testserver:8443"}, 202),
        ({"Origin": "http://testserver:80"}, 202),
        ({"Origin": "https://testserver"}, 202),
        ({"Origin": "https://testserver:443", "Host": "testserver"}, 202),
        ({"Origin": "https://testserver", "Host": "testserver:443"}, 202),
        ({"Origin": "https://testserver:8443", "Host": "testserver:8443"}, 202),
        ({"Origin": "https://testserver", "Host": "testserver:80"}, 403),
        ({"Origin": "http://testserver:443", "Host": "testserver"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://testserver:81"}, 403),
        ({"Origin": "http://testserver.evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[broken"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://testserver"}, 403),
    ],
)
def test_other_sites_pages_are_refused(client: TestClient, headers: dict[str, str], status: int) -> None:
    assert client.post(JOBS, files=sent(), headers=headers).status_code == status
    path = client.post(JOBS, files=sent()).headers["Location"]
    assert client.delete(path, headers=headers).status_code == (204 if status == 202 else 403)


def test_other_host_names_are_refused_on_the_loopback(model: Path) -> None:
    service = new_service(model)
    app = create_app(service, allowed_hosts={"localhost", "127.0.0.1", "::1"})
    with TestClient(app, base_url="http://localhost:8000") as client:
        for host in ("localhost", "LOCALHOST:9", "127.0.0.1:8000", "[::1]:8000"):
            assert client.get("/healthz", headers={"Host": host}).status_code == 200
        for host in ("evil.example", "localhost.evil.example:8000", "", "127.0.0.1.evil.example", "[::1"):
            answer = client.get("/healthz", headers={"Host": host})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (421, "wrong_host")
            assert (host or "no name") in error["message"]
    service.close(0)


# ------------------------------------------------------------------------------------------ logs


def test_logs_tell_what_happened_and_nothing_of_the_picture(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    given = {"X-Request-ID": "proxy-7"}
    answer = client.post(RESTORE, files=sent(name="my secret holiday.png"), headers=given)
    job = client.post(JOBS, files=sent(photo()[:-30], "my secret holiday.png"), headers=given)
    path = job.headers["Location"]
    client.get(path, params={"wait": 30})
    assert answer.headers["X-Request-ID"] == "proxy-7"
    assert client.get("/healthz", headers={"X-Request-ID": "two\tlines"}).headers["X-Request-ID"].isalnum()
    records = [record for record in caplog.records if record.name.startswith("s3diff.serving")]
    lines = [JsonFormatter().format(record) for record in records]
    watched = [PlainFormatter().format(record) for record in records]
    assert any(re.fullmatch(r"\d\d:\d\d:\d\d  POST  /api/v1/restore  200  \d+\.\d\d s", line) for line in watched)
    assert any("job ended" in line and "failed" in line for line in watched)
    assert not any("holiday" in line or path.rsplit("/", 1)[1] in line for line in watched)
    text = "\n".join(lines)
    assert "secret" not in text
    assert job.json()["id"] not in text, "a whole id opens the result"
    told = [json.loads(line) for line in lines]
    assert any(line.get("request") == "proxy-7" and line.get("route") == RESTORE for line in told)
    assert any(line.get("state") == "failed" and line.get("request") == "proxy-7" for line in told)


# ------------------------------------------------------------------------------------------ options


def test_the_forms_fields_are_the_commands_options() -> None:
    """The dataclasses, the command's flags and the API's form: one set of names."""
    import typer.main

    from s3diff.apps.cli import app

    offered = set(option_fields())
    every = {field.name for options in (RestoreOptions, OutputOptions) for field in fields(options)}
    assert offered == every - {*LIMITS, "overwrite"}
    command = typer.main.get_command(app).commands["restore"]  # type: ignore[attr-defined]
    flags = {parameter.name for parameter in command.params}
    renamed = {"prompt": "positive_prompt", "format_": "format"}
    assert offered | {*VIDEO_FIELDS} <= {renamed.get(flag, flag) for flag in flags}
    assert {*VIDEO_FIELDS} == {field.name for field in fields(VideoOptions)} - {*every, "batch"}


def test_the_document_shows_every_option(client: TestClient) -> None:
    document = client.get("/api/openapi.json").json()
    for path in (RESTORE, JOBS):
        form = document["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]
        assert set(form["schema"]["properties"]) == {*option_fields(), *VIDEO_FIELDS, "picture", "model"}
        assert all("value" in example for example in form["examples"].values())
        assert all(schema.get("description") for schema in form["schema"]["properties"].values())


def test_the_schemas_ranges_are_the_dataclasses() -> None:
    """Whatever a schema allows at its ends the dataclasses take, and beyond them they do not."""
    checked = 0
    for name, schema in option_schemas().items():
        for word, beyond in (("minimum", -1), ("maximum", 1), ("exclusiveMinimum", -1)):
            if word not in schema:
                continue
            end = schema[word]
            step = beyond * max(1, abs(end) // 10)
            inside = end if word != "exclusiveMinimum" else 1e-9
            form_options({name: str(inside)})
            with pytest.raises(OptionError):
                form_options({name: str(end if word == "exclusiveMinimum" else end + step)})
            checked += 1
        for choice in schema.get("enum", ()):
            form_options({name: choice})
        if "enum" in schema:
            with pytest.raises(OptionError):
                form_options({name: "something else"})
    assert checked >= 10


@pytest.mark.parametrize(
    ("options", "writing"),
    [
        (RestoreOptions(), OutputOptions()),
        (
            RestoreOptions(
                size=(300, 200), size_mode="fill", blur="+0.2", noise=0.25, tile=512, seed=2**60, guidance=-1
            ),
            OutputOptions(format="webp", quality=80, name="{stem}-{model}"),
        ),
        (RestoreOptions(tile="off", released_tiles=ReleasedTiles(), negative_prompt="", upsampling="bicubic"), None),
        (RestoreOptions(scale=1 / 3, megapixels=None, long_side=77, grey="keep", latent="sample"), None),
        (RestoreOptions(positive_prompt="version 2.0", scale=2.0), OutputOptions(name="{stem}-1.0")),
    ],
)
def test_options_survive_as_texts(options: RestoreOptions, writing: OutputOptions | None) -> None:
    assert options_from_texts(texts_of_options(options, writing)) == (options, writing or OutputOptions())


def test_limits_do_not_travel() -> None:
    assert texts_of_options(RestoreOptions(max_output_pixels=5)) == {}
    with pytest.raises(OptionError, match="other sizes"):
        texts_of_options(RestoreOptions(released_tiles=ReleasedTiles(latent=64)))


def test_the_field_at_fault() -> None:
    with pytest.raises(OptionError) as wrong:
        options_from_texts({"tile": "7"})
    assert field_at_fault(wrong.value) == "tile"
    assert field_at_fault("size, long_side and megapixels each set the output's size") is None
