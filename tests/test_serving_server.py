"""The server on a real socket: slow and many clients, the client library, the commands, the end."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import Request
from PIL import Image
from typer.testing import CliRunner

from conftest import REPOSITORY
from s3diff import RestoreOptions, Restorer
from s3diff.apps import serve_command
from s3diff.apps.cli import app as command_line
from s3diff.client import Client, Progress
from s3diff.errors import (
    JobCancelledError,
    JobNotFoundError,
    ModelError,
    OptionError,
    OutputError,
    PictureError,
    PictureTooLargeError,
    QueueFullError,
    ServiceError,
)
from s3diff.images.files.reading import read_picture
from s3diff.options import OutputOptions
from s3diff.serving.http import server as http_server
from s3diff.serving.http.api import create_app
from s3diff.serving.http.auth import Auth
from s3diff.serving.http.server import Server, addresses_of, listen
from s3diff.serving.limits import ServiceLimits, ServiceSettings
from s3diff.serving.service import RestorationService
from s3diff.serving.signals import signals_as_exceptions
from serving_pictures import jpeg_with_metadata, photo, transparent
from tiny_models import one_line

TOKEN = "first-token-of-the-tests"
SECONDS = 120


@pytest.fixture(scope="module")
def model(small: Path) -> Path:
    return small


@contextmanager
def running(server: Server) -> Iterator[str]:
    """A server in a thread, at an address of its own."""
    listener = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield addresses_of(listener)[0]
    finally:
        server.should_exit = True
        thread.join(SECONDS)
        listener.close()


@contextmanager
def served(model: Path, *, tokens: tuple[str, ...] = (), working: bool = True, **limits: Any) -> Iterator[Any]:
    """A server in a thread; its ``url`` and ``service`` are attributes."""
    service = RestorationService(
        ServiceSettings(models=[model], device="cpu", precision="float32", limits=ServiceLimits(**limits))
    )
    if working:
        service.start()
    server = Server(create_app(service, auth=Auth(tokens), closes_service=False), service, grace_seconds=SECONDS)
    try:
        with running(server) as url:
            server.url, server.service = url, service  # type: ignore[attr-defined]
            yield server
    finally:
        service.close(0)


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Any]:
    with served(model) as server:
        yield server


@pytest.fixture
def client(server: Any) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


def connected(server: Any) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.settimeout(SECONDS)
    return connection


def everything(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


# ------------------------------------------------------------------------------------------ the client


def test_the_client_gets_what_the_library_makes(client: Client, model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(photo(40, 30))
    seen: list[Progress] = []
    result = client.restore(tmp_path / "a.png", scale=2, noise="+0.1", progress=seen.append)
    result.save(tmp_path / "b.png")
    options = RestoreOptions(scale=2, noise="+0.1")
    expected = Restorer.from_pretrained(model, device="cpu", precision="float32").restore(tmp_path / "a.png", options)
    assert np.array_equal(read_picture(tmp_path / "b.png").pixels, expected.array)
    assert (result.name, result.media_type) == ("a.png", "image/png")
    assert result.facts["noise"] == round(expected.degrees.noise, 4)
    assert all(0 <= each.fraction <= 1 for each in seen)
    with pytest.raises(OutputError):
        result.save(tmp_path / "b.png", overwrite=False)


def test_the_client_leaves_nothing_behind(client: Client, server: Any) -> None:
    client.restore(photo(), scale=2)
    assert server.service.store.num_jobs == 0
    assert list(server.service.store.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "arguments", "error"),
    [
        (b"no picture", {}, PictureError),
        (photo()[:-30], {}, PictureError),
        (photo(), {"model": "other"}, OptionError),
        (photo(), {"scale": 900}, PictureTooLargeError),
        (transparent(), {"writing": OutputOptions(format="jpg")}, OutputError),
    ],
)
def test_the_services_errors_are_the_librarys(
    client: Client, content: bytes, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error) as refused:
        client.restore(content, name="a.png", **arguments)
    one_line(refused)


def test_a_job_by_hand(client: Client) -> None:
    job = client.submit(photo(), scale=2)
    assert job.look(30).state == "done"
    assert job.result().facts["width"] == 64
    job.end()
    with pytest.raises(JobNotFoundError):
        job.look()
    job.end()  # twice is no mistake
    assert client.estimate(photo(30, 20))["width"] == 30
    assert client.models()[0]["name"] == "small"


def test_what_progress_raises_ends_the_work(client: Client, server: Any) -> None:
    def stop(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.restore(photo(700, 700), progress=stop)
    until = time.monotonic() + SECONDS
    while server.service.num_running:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_service_that_is_not_there() -> None:
    with closing(listen("127.0.0.1", 0)) as listener:
        url = addresses_of(listener)[0]
    with Client(url) as client, pytest.raises(ServiceError, match="cannot be reached") as absent:
        client.models()
    one_line(absent)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://a", "http://", "", "http://a:b", "http://a?x=1"])
def test_addresses_are_checked(url: str) -> None:
    with pytest.raises(OptionError, match="give an address such as"):
        Client(url)


def test_the_client_waits_for_a_full_queue(model: Path) -> None:
    with served(model, working=False, queue_length=1) as server:
        with Client(server.url, patience_seconds=0) as client:
            client.submit(photo())
            with pytest.raises(QueueFullError):
                client.submit(photo())
        with Client(server.url) as client:
            threading.Timer(1.0, server.service.start).start()
            assert client.restore(photo(), scale=2).facts["width"] == 64


def test_a_cancelled_job_is_said_to_be(model: Path) -> None:
    with served(model, working=False) as server, Client(server.url) as client:
        job = client.submit(photo())
        server.service.cancel(job.id)
        with pytest.raises(JobCancelledError):
            job.result()


# ------------------------------------------------------------------------------------------ bad clients


def test_headers_that_never_end(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "_HEADER_SECONDS", 0.3)
    with served(model) as server:
        loris = [connected(server) for _ in range(20)]
        for connection in loris[1:]:  # the first one says nothing at all
            connection.sendall(b"POST /api/v1/restore HTTP/1.1\r\nHost: x\r\nX-")
        started = time.monotonic()
        for connection in loris:
            assert everything(connection) == b""
            connection.close()
        assert time.monotonic() - started < 20
        # One that is in use stays open, however long its answers take.
        with Client(server.url) as client:
            for _ in range(3):
                client.models()
                time.sleep(0.2)


def _seconds_until_closed(connection: socket.socket, piece: bytes) -> float:
    """How long a server takes one that sends a piece now and then."""
    started = time.monotonic()
    while time.monotonic() - started < 30:
        try:
            connection.sendall(piece)
        except OSError:  # a reset or a broken pipe, as the system likes
            break
        time.sleep(0.2)
    connection.close()
    return time.monotonic() - started


def test_a_body_that_never_ends(model: Path) -> None:
    with served(model, idle_seconds=0.5, upload_seconds=2) as server:
        head = b"POST /api/v1/restore HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=a\r\n"
        still = connected(server)
        still.sendall(head + b"Content-Length: 1000\r\n\r\n--a\r\n")
        assert b" 408 " in everything(still).split(b"\r\n")[0]
        drop_by_drop = connected(server)
        drop_by_drop.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        assert _seconds_until_closed(drop_by_drop, b"5\r\n--a\r\n\r\n") < 12
        wrong = connected(server)
        wrong.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        assert _seconds_until_closed(wrong, b"1\r\nx\r\n") < 12, "answered with 400, and still sending"
        assert server.service.is_ready


def test_a_body_that_is_too_large_gets_its_answer(model: Path) -> None:
    with served(model, upload_bytes=10_000) as server, Client(server.url) as client:
        with pytest.raises(PictureTooLargeError, match="10000 bytes"):
            client.restore(b"x" * 20_000_000, name="a.png")
        assert client.restore(photo(), scale=2).facts["width"] == 64


def test_nonsense_on_the_socket(server: Any, client: Client) -> None:
    for nonsense in (
        b"\x16\x03\x01\x02\x00",
        b"GET\r\n\r\n",
        b"\0" * 100_000,
        b"A" * 200_000,
    ):
        with closing(connected(server)) as connection:
            try:
                connection.sendall(nonsense)
                connection.shutdown(socket.SHUT_WR)
                answer = everything(connection)
            except OSError:
                answer = b""
            assert answer == b"" or b" 400 " in answer.split(b"\r\n")[0]
    assert client.models()


def test_a_later_version_is_answered_in_ours(server: Any) -> None:
    """RFC 9110, section 2.5: in the highest version that the server has."""
    with closing(connected(server)) as connection:
        connection.sendall(b"GET /api/v1/models HTTP/9.9\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert everything(connection).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_goes_away_ends_its_work(model: Path) -> None:
    with served(model) as server:
        body = (
            b'--a\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\n\r\n'
            + photo(700, 700)
            + b"\r\n--a--\r\n"
        )
        with closing(connected(server)) as connection:
            connection.sendall(
                b"POST /api/v1/restore HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=a\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body
            )
            until = time.monotonic() + SECONDS
            while server.service.num_running == 0:
                assert time.monotonic() < until
                time.sleep(0.02)
        while server.service.counts["cancelled"] == 0:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_many_at_once_against_a_short_queue(model: Path) -> None:
    outcomes: list[str] = []

    def one(url: str) -> None:
        with Client(url, patience_seconds=0) as client:
            try:
                outcomes.append(str(client.restore(photo(16, 16), scale=1).facts["width"]))
            except QueueFullError as error:
                outcomes.append(f"later {error.retry_after_seconds >= 1}")

    with served(model, queue_length=4) as server:
        threads = [threading.Thread(target=one, args=(server.url,)) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert len(outcomes) == 40, "every client got an answer"
        assert set(outcomes) <= {"16", "later True"}
        assert outcomes.count("16") >= 4
        with Client(server.url) as client:
            assert client.restore(photo(), scale=1).facts["width"] == 32


def test_a_client_that_leaves_during_its_upload(server: Any, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """499, one line, nothing on the server's account; on every route that reads a body."""
    caplog.set_level(logging.INFO)
    paths = ("/api/v1/restore", "/api/v1/jobs", "/api/v1/estimate")
    body = b'--X\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\n\r\n' + b"x" * 1000
    for path in paths:
        caplog.clear()
        with closing(connected(server)) as connection:
            connection.sendall(
                f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=X\r\n"
                "Content-Length: 90000\r\n\r\n".encode()
                + body
            )
        until = time.monotonic() + SECONDS
        while not any(getattr(record, "status", None) == 499 for record in caplog.records):
            assert time.monotonic() < until
            time.sleep(0.02)
        client.models()  # whose own line may come late
        ours = [record for record in caplog.records if record.name.startswith("s3diff.") or record.levelname == "ERROR"]
        told = [(record.levelname, getattr(record, "status", None)) for record in ours]
        assert [line for line in told if line != ("INFO", 200)] == [("INFO", 499)], path


@pytest.mark.parametrize(
    ("proxies", "scheme"), [(("127.0.0.1",), "https"), (("127.0.0.0/8",), "https"), (("10.0.0.1", "::1"), "http")]
)
def test_only_a_trusted_proxy_names_the_scheme(model: Path, proxies: tuple[str, ...], scheme: str) -> None:
    service = RestorationService(ServiceSettings(models=[model], device="cpu", precision="float32"))
    app = create_app(service, closes_service=False)

    @app.get("/scheme")
    def asked(request: Request) -> str:
        return request.url.scheme

    with running(Server(app, service, grace_seconds=1, trusted_proxies=proxies)) as url:
        seen = httpx.get(f"{url}/scheme", headers={"X-Forwarded-Proto": "https"}).json()
    assert seen == scheme
    service.close(0)


# ------------------------------------------------------------------------------------------ the end


@contextmanager
def serving_process(folder: Path, number: int, *options: str, stderr: int) -> Iterator[subprocess.Popen[str]]:
    """``s3diff serve`` in a process of its own that is gone afterwards; its private folder lies in ``folder``.

    A signal that is ignored where the tests run, as below ``nohup``, would be ignored there too: it gets its default.
    """
    told = {**os.environ, "TMPDIR": str(folder), "S3DIFF_TOKEN": ""}
    command = [sys.executable, "-m", "s3diff.apps", "serve", "--port", "0", *options]
    with subprocess.Popen(
        command,
        env=told,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_while_the_service_starts_leaves_nothing(tmp_path: Path, name: str) -> None:
    """As soon as the private folder is there, long before a picture could be taken."""
    number = getattr(signal, name)
    with serving_process(tmp_path, number, "--no-page", stderr=subprocess.PIPE) as process:
        until = time.monotonic() + SECONDS
        while not list(tmp_path.glob("s3diff-serve-*")):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.005)
        process.send_signal(number)
        printed, said = process.communicate(timeout=SECONDS)
    assert (process.returncode, printed, said) == (128 + number, "", "")
    assert list(tmp_path.glob("s3diff-serve-*")) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
def test_an_error_that_a_library_makes_of_the_signal_is_not_told() -> None:
    """safetensors, met by the signal while it opens a file, calls the file damaged."""

    def open_file(number: int | None) -> None:
        try:
            if number is not None:
                signal.raise_signal(number)
        finally:
            raise ModelError("the file is damaged")

    with pytest.raises(SystemExit) as ended, signals_as_exceptions():
        open_file(signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM
    with pytest.raises(ModelError), signals_as_exceptions():
        open_file(None)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="only terminals of Unix hang up")
def test_a_terminal_that_is_closed_leaves_nothing(model: Path, tmp_path: Path) -> None:
    options = ("--no-page", "--model", str(model))
    with serving_process(tmp_path, signal.SIGHUP, *options, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert "serves at" in process.stdout.readline()
        assert list(tmp_path.glob("s3diff-serve-*"))
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + signal.SIGHUP
    assert list(tmp_path.glob("s3diff-serve-*")) == []


def test_a_model_that_cannot_be_loaded_leaves_no_folder(model: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(model, damaged)
    next(damaged.glob("unet*")).write_bytes(b"cut off")
    place = tmp_path / "folder"
    place.mkdir()
    with pytest.raises(ModelError), RestorationService(ServiceSettings(models=[damaged], device="cpu", folder=place)):
        pass
    assert list(place.iterdir()) == []


def test_the_first_signal_finishes_what_was_taken(model: Path) -> None:
    with served(model) as server, Client(server.url) as client:
        jobs = [client.submit(photo(64, 64, seed), scale=4) for seed in range(3)]
        server.handle_exit(signal.SIGTERM, None)
        with pytest.raises(ServiceError, match="ending"):
            client.submit(photo())
        assert [job.result().facts["width"] for job in jobs] == [256] * 3
        assert server.should_exit is False


def test_the_second_signal_ends_now(model: Path) -> None:
    with served(model) as server, Client(server.url) as client:
        client.submit(photo(700, 700))
        server.handle_exit(signal.SIGINT, None)
        server.handle_exit(signal.SIGINT, None)
        assert server.should_exit
        assert server.force_exit


def test_a_port_that_is_taken() -> None:
    with closing(listen("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(OptionError, match=f"port {port} cannot be used") as taken:
            listen("127.0.0.1", port)
    one_line(taken)
    for host, number in (("127.0.0.1", 70000), ("203.0.113.7", 0), ("no such host", 0)):
        with pytest.raises(OptionError, match="cannot be used"):
            listen(host, number)


# ------------------------------------------------------------------------------------------ the commands


def run(*arguments: str | Path, **options: Any) -> Any:
    return CliRunner().invoke(command_line, [str(each) for each in arguments], **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "give --token"),
        (["--host", "::"], "give --token"),
        (["--host", "example.org"], "give --token"),
        (["--token", "short"], "a token has 5 characters"),
        (["--token", TOKEN, "--no-auth"], "exclude each other"),
        (["--queue", "0"], "queue is 0; give a whole number above 0"),
        (["--keep-mib", "-1"], "keep-mib is -1"),
        (["--keep-seconds", "nan"], "keep-seconds is nan"),
        (["--grace", "-1"], "grace is -1.0; give a number of at least 0"),
        (["--grace", "nan"], "grace is nan"),
        (["--max-megapixels", "0"], "max-megapixels is 0"),
        (["--root-path", "s3diff/"], "root-path is"),
        (["--folder", "/nowhere"], "give another --folder"),
        (["--tokens", "/nowhere"], "/nowhere cannot be read (no such file"),
        (["--trust-proxy", "nginx"], "trust-proxy is 'nginx'; give an address"),
        (["--trust-proxy", "10.0.0.1/8"], "trust-proxy is '10.0.0.1/8'"),
        (["--open", "--no-page"], "exclude each other"),
        (["--port", "70000"], "cannot be used"),
    ],
)
def test_serve_says_what_is_wrong(arguments: list[str], message: str) -> None:
    outcome = run("serve", *arguments, env={"S3DIFF_TOKEN": ""})
    assert outcome.exit_code in (1, 2)
    assert message in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1


def test_serve_without_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    outcome = run("serve")
    assert (outcome.exit_code, len(outcome.stderr.strip().splitlines())) == (1, 1)
    assert "the service and its page need the extra web" in outcome.stderr


def test_a_client_without_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(photo())
    monkeypatch.setitem(sys.modules, "httpx", None)
    outcome = run("restore", tmp_path / "a.png", "-o", tmp_path / "b.png", "--server", "http://127.0.0.1:9")
    assert (outcome.exit_code, len(outcome.stderr.strip().splitlines())) == (1, 1)
    assert "needs the extra client" in outcome.stderr


def test_restoring_at_a_server_does_without_torch(server: Any, tmp_path: Path) -> None:
    """A small machine sends its pictures elsewhere: it needs no networks, and starts at once."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(photo())
    arguments = ["restore", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--scale", "2", "--server", server.url]
    program = (
        "import sys\n"
        f"sys.argv = ['s3diff', *{arguments!r}]\n"
        "from s3diff.apps.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print('LOADED', *sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=SECONDS)
    loaded = told.stdout.partition("LOADED")[2].split()
    assert read_picture(tmp_path / "out" / "a.png").pixels.shape == (48, 64, 3)
    assert "s3diff.client" in loaded
    assert {"torch", "transformers", "safetensors", "s3diff.restoration.restorer"}.isdisjoint(loaded)


def test_restore_at_a_server(server: Any, model: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a.png").write_bytes(photo(20, 30))
    (tmp_path / "in" / "deep" / "b.jpg").write_bytes(jpeg_with_metadata())
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    common = ["-r", "--scale", "2", "--report", tmp_path / "report.jsonl"]
    outcome = run("restore", tmp_path / "in", "-o", tmp_path / "out", *common, "--server", server.url)
    assert outcome.exit_code == 1, "one of them failed"
    assert f"{tmp_path / 'in' / 'bad.png'} is not a" in outcome.stderr
    report = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    assert sorted(line["state"] for line in report) == ["done", "done", "failed"]
    assert Image.open(tmp_path / "out" / "deep" / "b.jpg").getexif()[0x0110] == "Camera"
    as_there = ["--model", model, "--precision", "float32", "--device", "cpu"]
    here = run("restore", tmp_path / "in" / "a.png", "-o", tmp_path / "here.png", *common, *as_there)
    assert here.exit_code == 0, here.stderr
    ours, theirs = (read_picture(path).pixels for path in (tmp_path / "here.png", tmp_path / "out" / "a.png"))
    assert np.array_equal(ours, theirs)
    again = run("restore", tmp_path / "in", "-o", tmp_path / "out", *common, "--server", server.url)
    assert "done by an earlier run" in again.stderr
    until = time.monotonic() + SECONDS
    while server.service.store.num_jobs:
        assert time.monotonic() < until, "what was fetched is forgotten"
        time.sleep(0.05)


def test_restore_at_a_server_with_a_token(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(photo())
    with served(model, tokens=(TOKEN,)) as server:
        line = ["restore", tmp_path / "a.png", "--scale", "1", "--server", server.url, "-o"]
        refused = run(*line, tmp_path / "b.png", env={"S3DIFF_TOKEN": ""})
        assert (refused.exit_code, "a token is needed" in refused.stderr) == (1, True)
        assert len(refused.stderr.strip().splitlines()) == 1
        assert run(*line, tmp_path / "b.png", "--token", TOKEN).exit_code == 0
        assert run(*line, tmp_path / "c.png", env={"S3DIFF_TOKEN": TOKEN}).exit_code == 0
        assert not (tmp_path / "d.png").exists()


def test_restore_at_no_server(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(photo())
    with closing(listen("127.0.0.1", 0)) as listener:
        url = addresses_of(listener)[0]
    outcome = run("restore", tmp_path / "a.png", "-o", tmp_path / "b.png", "--server", url)
    assert (outcome.exit_code, len(outcome.stderr.strip().splitlines())) == (1, 1)
    assert "cannot be reached" in outcome.stderr
    for given in (["--stream"], ["--device", "cpu"], ["--precision", "float32"], ["--fast"]):
        wrong = run("restore", tmp_path / "a.png", "-o", tmp_path / "b.tif", "--server", url, *given)
        assert (wrong.exit_code, len(wrong.stderr.strip().splitlines())) == (2, 1)
        assert f"--server and {given[0]} exclude each other" in wrong.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals of this kind are POSIX's")
@pytest.mark.slow
def test_the_whole_command_from_start_to_end(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    line = [sys.executable, "-m", "s3diff", "serve", "--port", "0", "--model", str(model), "--folder", str(folder)]
    process = subprocess.Popen(
        [*line, "--no-page", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert process.stdout is not None
    try:
        told = process.stdout.readline()
        assert told.startswith("s3diff serves at http://127.0.0.1:"), told + process.stderr.read()  # type: ignore[union-attr]
        with Client(told.split()[-1]) as client:
            job = client.submit(photo(200, 200), scale=4)
            while job.look().state == "queued":
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            assert job.result().facts["width"] == 800
        _, errors = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0
    assert list(folder.iterdir()) == [], "no picture stays"
    lines = [line for line in errors.splitlines() if not line.startswith("s3diff: ")]
    assert all(isinstance(json.loads(line), dict) for line in lines)


def test_the_commands_default_model_is_the_registrys() -> None:
    from s3diff.apps.restore_command import DEFAULT_NAME
    from s3diff.checkpoints.registry import DEFAULT_MODEL

    assert DEFAULT_NAME == DEFAULT_MODEL


# ------------------------------------------------------------------------------------------ what a terminal shows


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_address_is_shown_and_opened(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(serve_command.webbrowser, "open", lambda address: opened.append(address) or True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    serve_command.tell_address(["http://127.0.0.1:8000", "http://192.168.1.20:8000"], "/s3diff", open_page=True)
    printed = capsys.readouterr()
    assert printed.out == "s3diff serves at http://127.0.0.1:8000/s3diff/\n"
    assert ("in your network: http://192.168.1.20:8000/s3diff/" in printed.err) is is_terminal
    assert ("│" in printed.err) is is_terminal
    until = time.monotonic() + SECONDS
    while not opened:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert opened == ["http://127.0.0.1:8000/s3diff/"]


def test_a_machine_without_a_browser(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(serve_command.webbrowser, "open", lambda _: False)
    serve_command._open("http://127.0.0.1:8000")
    assert "open http://127.0.0.1:8000 yourself" in capsys.readouterr().err


def test_every_address_has_one_for_this_machine() -> None:
    with closing(listen("0.0.0.0", 0)) as everywhere, closing(listen("127.0.0.1", 0)) as here:
        port = everywhere.getsockname()[1]
        addresses = addresses_of(everywhere)
        assert addresses[0] == f"http://127.0.0.1:{port}"
        assert all(address.endswith(f":{port}") and "0.0.0.0" not in address for address in addresses)
        assert addresses_of(here) == [f"http://127.0.0.1:{here.getsockname()[1]}"]


def test_the_page_of_the_command_app_is_this_machines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setenv("S3DIFF_TOKEN", TOKEN)
    monkeypatch.setattr(serve_command, "serve", lambda **options: asked.update(options))
    assert run("app", "--device", "cpu").exit_code == 0
    assert (asked["open_page"], asked["token"], asked["port"], "host" in asked) == (True, [], 0, False)
