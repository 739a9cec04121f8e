"""Fetching the authors' release, against a server on the loopback that speaks the hub's file protocol."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest
from PIL import Image

from golden_models import official_files
from s3diff.checkpoints import hub, registry
from s3diff.checkpoints.model_folder import load_model
from s3diff.checkpoints.release import RECORD_NAME, RELEASE, NeededFile, Release
from s3diff.errors import DownloadError
from tiny_models import edit_json, save_compact

METHOD, BASE = RELEASE.method.name, RELEASE.base.name
METHOD_COMMIT, BASE_COMMIT = RELEASE.method.revision, RELEASE.base.revision
UNET = "unet/diffusion_pytorch_model.fp16.safetensors"
LARGE_FILE_BYTES = 1000  # from here on the server keeps a file in "large-file storage", behind a redirect


@functools.cache
def content(name: str, size_bytes: int) -> bytes:
    """Bytes that no shift or repetition maps onto themselves."""
    block = hashlib.sha512(name.encode()).digest()
    return b"".join(hashlib.sha512(block + index.to_bytes(8, "big")).digest() for index in range(size_bytes // 64 + 1))[
        :size_bytes
    ]


METHOD_FILES = {"README.md": 300, "s3diff.pkl": 40_000, "de_net.pth": 9_000}
BASE_FILES = {
    "LICENSE.md": 700,
    "model_index.json": 500,
    "scheduler/scheduler_config.json": 400,
    "text_encoder/config.json": 500,
    "text_encoder/model.safetensors": 8_000,
    "text_encoder/model.fp16.safetensors": 4_000,
    "tokenizer/merges.txt": 5_000,
    "tokenizer/tokenizer_config.json": 300,
    "tokenizer/vocab.json": 6_000,
    "unet/config.json": 600,
    "unet/diffusion_pytorch_model.safetensors": 6_000_000,
    UNET: 3_000_000,
    "vae/config.json": 600,
    "vae/diffusion_pytorch_model.safetensors": 9_000,
    "vae/diffusion_pytorch_model.fp16.safetensors": 4_500,
    "sd_turbo.safetensors": 1_234_567,
}


def sized(release: Release, sizes: Mapping[str, int]) -> Release:
    """The release with the sizes of the server's small files; everything else as shipped."""
    files = tuple(NeededFile(path=file.path, size_bytes=sizes[file.path]) for file in release.method.files)
    return replace(release, method=replace(release.method, files=files))


SMALL = sized(RELEASE, METHOD_FILES)


class Request(NamedTuple):
    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class HubServer:
    """A hub of two repositories. Attributes steer what goes wrong; ``requests`` tells what was asked."""

    address: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=lambda: {METHOD: METHOD_COMMIT, BASE: BASE_COMMIT})
    requests: list[Request] = field(default_factory=list)
    cut_after_bytes: dict[str, list[int]] = field(default_factory=dict)  #: file -> one entry per transfer to cut
    listed_bytes: dict[str, int] = field(default_factory=dict)  #: file -> size claimed in the listing
    listed_digests: dict[str, str] = field(default_factory=dict)
    sent_instead: dict[str, bytes] = field(default_factory=dict)  #: file -> what is sent for it
    statuses: dict[str, int] = field(default_factory=dict)  #: part of a request's path -> status to answer
    answers_ranges: bool = True
    states_lengths: bool = True  #: else a file ends where the connection does, and a cut looks like an end
    api_answer: bytes | None = None

    def file_requests(self) -> list[Request]:
        return [request for request in self.requests if not request.path.startswith("/api/")]

    def siblings(self, name: str) -> list[dict[str, Any]]:
        listed = []
        for path, data in self.files[name].items():
            size = self.listed_bytes.get(path, len(data))
            entry: dict[str, Any] = {"rfilename": path, "size": size, "blobId": git_blob_hash(data)}
            if path in self.listed_digests:
                entry["blobId"] = self.listed_digests[path]
            elif len(data) >= LARGE_FILE_BYTES:
                entry["lfs"] = {"size": size, "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 134}
            listed.append(entry)
        return listed


def git_blob_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def handler_for(server: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            server.requests.append(
                Request(self.command, path, self.headers.get("Range"), self.headers.get("Authorization"))
            )
            status = next((status for part, status in server.statuses.items() if part in path), None)
            if status is not None:
                return self.answer(status, b'{"error": "no"}')
            if path.startswith("/api/models/"):
                return self.model_info(path.removeprefix("/api/models/"))
            if path.startswith("/storage/"):
                return self.send_file(*path.removeprefix("/storage/").split("::"))
            name, _, rest = path.lstrip("/").partition("/resolve/")
            commit, _, file = rest.partition("/")
            if name not in server.files or commit != server.commits[name] or file not in server.files[name]:
                return self.answer(404, b"Entry not found", {"X-Error-Code": "EntryNotFound"})
            if len(server.files[name][file]) >= LARGE_FILE_BYTES:
                # Another host, as the real hub's storage is: whatever is meant for the hub alone must not follow.
                location = f"{server.address.replace('127.0.0.1', 'localhost')}/storage/{name}::{file}"
                data = server.files[name][file]
                linked = {"X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Linked-Size": str(len(data))}
                return self.answer(302, b"", {"Location": location, "X-Repo-Commit": commit, **linked})
            return self.send_file(name, file)

        do_HEAD = do_GET

        def model_info(self, path: str) -> None:
            name, _, revision = path.partition("/revision/")
            if server.api_answer is not None:
                return self.answer(200, server.api_answer)
            if revision not in ("main", server.commits[name]):
                return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            info = {"id": name, "modelId": name, "sha": server.commits[name], "siblings": server.siblings(name)}
            return self.answer(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

        def send_file(self, name: str, file: str) -> None:
            data = server.sent_instead.get(file, server.files[name][file])
            start = 0
            headers = {"ETag": f'"{git_blob_hash(data)}"', "X-Repo-Commit": server.commits[name]}
            asked = self.headers.get("Range")
            if asked is not None and server.answers_ranges:
                start = int(asked.removeprefix("bytes=").partition("-")[0])
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            cuts = server.cut_after_bytes.get(file)
            self.answer(
                206 if "Content-Range" in headers else 200, data[start:], headers, cuts.pop(0) if cuts else None
            )

        def answer(
            self, status: int, body: bytes, headers: dict[str, str] | None = None, cut_after_bytes: int | None = None
        ) -> None:
            self.send_response(status)
            if server.states_lengths or not body:
                self.send_header("Content-Length", str(len(body)))
            else:
                self.send_header("Connection", "close")
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body if cut_after_bytes is None else body[:cut_after_bytes])
            if cut_after_bytes is not None:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

    return Handler


@pytest.fixture
def server() -> Iterator[HubServer]:
    served = HubServer()
    for name, sizes in ((METHOD, METHOD_FILES), (BASE, BASE_FILES)):
        served.files[name] = {path: content(path, size_bytes) for path, size_bytes in sizes.items()}
    http_server = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(served))
    http_server.daemon_threads = True
    served.address = f"http://127.0.0.1:{http_server.server_port}"
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield served
    http_server.shutdown()
    http_server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("S3DIFF_REVISION", "S3DIFF_BASE_REVISION", "HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@dataclass
class Caches:
    record: Path
    hub: Path

    def choices(self, server: HubServer, **others: Any) -> dict[str, Any]:
        return {"release": SMALL, "endpoint": server.address, "hub_cache": self.hub, **others}


@pytest.fixture
def caches(tmp_path: Path) -> Caches:
    return Caches(record=tmp_path / "s3diff", hub=tmp_path / "hub")


def assert_one_line(error: pytest.ExceptionInfo[DownloadError], *expected: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for part in (
        METHOD,
        BASE,
        "s3diff convert --base SD_TURBO_FOLDER --s3diff s3diff.pkl --estimator de_net.pth OUT",
        "s3diff restore --model OUT",
        *expected,
    ):
        assert part in message
    assert len(message) < 600


def snapshot_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_plan_states_sizes_and_licences_before_any_file_is_asked_for(server: HubServer, caches: Caches) -> None:
    plan = hub.plan_download(caches.record, **caches.choices(server))
    assert server.file_requests() == []
    assert {file.path for file in plan.method.files} == {"s3diff.pkl", "de_net.pth"}
    wanted = {path for path in BASE_FILES if "safetensors" not in path or "fp16" in path}
    assert {file.path for file in plan.base.files} == wanted
    assert plan.total_bytes == plan.missing_bytes == 49_000 + sum(BASE_FILES[path] for path in wanted)
    assert (plan.method.commit, plan.base.commit) == (METHOD_COMMIT, BASE_COMMIT)
    summary = plan.summary()
    assert "up to 3.1 MB more" in summary
    for part in (
        "Apache-2.0",
        "Stability AI",
        f"{BASE}/blob/{BASE_COMMIT}/LICENSE.md",
        "3.1 MB",
        str(caches.hub),
        str(caches.record),
    ):
        assert part in summary
    assert not caches.hub.exists()


def test_fetched_files_are_the_servers_and_huggingface_hub_finds_them(server: HubServer, caches: Caches) -> None:
    from huggingface_hub import hf_hub_download, scan_cache_dir

    announced, reports = [], []
    paths = hub.fetch_release(
        caches.record,
        announce=announced.append,
        progress=lambda done, total: reports.append((done, total)),
        **caches.choices(server),
    )
    assert paths.s3diff_pickle.read_bytes() == server.files[METHOD]["s3diff.pkl"]
    assert paths.estimator_file.read_bytes() == server.files[METHOD]["de_net.pth"]
    expected = {path: data for path, data in server.files[BASE].items() if "safetensors" not in path or "fp16" in path}
    assert snapshot_bytes(paths.base_folder) == expected

    (plan,) = announced
    done = [report[0] for report in reports]
    assert {report[1] for report in reports} == {plan.missing_bytes}
    assert done == sorted(done)
    assert done[-1] == plan.missing_bytes
    assert len(done) > 2 * len(plan.files)  # the large file is reported in pieces

    found = hf_hub_download(BASE, UNET, revision=BASE_COMMIT, cache_dir=caches.hub, local_files_only=True)
    assert Path(found).samefile(paths.base_folder / UNET)
    scanned = scan_cache_dir(caches.hub)
    assert not scanned.warnings
    assert {repository.repo_id for repository in scanned.repos} == {METHOD, BASE}
    assert not list(caches.hub.rglob("*.incomplete"))


def test_cache_is_laid_out_as_huggingface_hub_lays_it_out(server: HubServer, caches: Caches, tmp_path: Path) -> None:
    """Our transfer's plain twin is the library's own download: same names, same links, same bytes."""
    from huggingface_hub import hf_hub_download

    plan = hub.plan_download(caches.record, **caches.choices(server))
    hub.fetch(plan)
    twin = tmp_path / "twin"
    for part in (plan.method, plan.base):
        for file in part.files:
            hf_hub_download(
                part.repository.name, file.path, revision=part.commit, cache_dir=twin, endpoint=server.address
            )

    def layout(cache: Path) -> dict[str, str | bytes]:
        paths = [path for part in ("blobs", "snapshots") for path in cache.glob(f"models--*/{part}/**/*")]
        return {
            str(path.relative_to(cache)): os.readlink(path) if path.is_symlink() else path.read_bytes()
            for path in paths
            if not path.is_dir()
        }

    assert layout(caches.hub) == layout(twin)


def test_token_goes_to_the_hub_and_not_to_its_storage(
    server: HubServer, caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    hub.fetch_release(caches.record, **caches.choices(server))
    of_storage = {request.authorization for request in server.requests if request.path.startswith("/storage/")}
    of_hub = {request.authorization for request in server.requests if not request.path.startswith("/storage/")}
    assert of_storage == {None}
    assert of_hub == {"Bearer hf_of_the_test"}


def test_second_call_asks_the_network_nothing(server: HubServer, caches: Caches) -> None:
    first = hub.fetch_release(caches.record, **caches.choices(server))
    server.requests.clear()
    announced: list[Any] = []
    assert hub.fetch_release(caches.record, announce=announced.append, **caches.choices(server)) == first
    assert server.requests == []
    assert announced == []


@pytest.mark.parametrize("states_lengths", [True, False])
def test_transfer_cut_off_is_resumed_by_the_second_call(
    server: HubServer, caches: Caches, states_lengths: bool
) -> None:
    server.states_lengths = states_lengths
    server.cut_after_bytes[UNET] = [2_000_000]
    plan = hub.plan_download(caches.record, **caches.choices(server))
    with pytest.raises(DownloadError) as error:
        hub.fetch(plan, reconnections=0)
    assert_one_line(error)
    (partial,) = caches.hub.rglob("*.incomplete")
    held_bytes = partial.stat().st_size
    assert 0 < held_bytes <= 2_000_000
    assert partial.read_bytes() == server.files[BASE][UNET][:held_bytes]
    assert not (caches.record / RECORD_NAME).exists()

    server.requests.clear()
    reports: list[int] = []
    paths = hub.fetch_release(caches.record, progress=lambda done, _: reports.append(done), **caches.choices(server))
    asked = [request for request in server.file_requests() if UNET in request.path]
    assert {request.range for request in asked} == {f"bytes={held_bytes}-"}
    assert not any("s3diff.pkl" in request.path for request in server.requests)  # whole files are not asked for again
    assert reports[0] > held_bytes
    assert (paths.base_folder / UNET).read_bytes() == server.files[BASE][UNET]


def test_transfer_cut_off_goes_on_within_one_call(server: HubServer, caches: Caches) -> None:
    server.cut_after_bytes[UNET] = [1_500_000]
    paths = hub.fetch_release(caches.record, **caches.choices(server))
    ranges = [
        request.range
        for request in server.file_requests()
        if request.path.startswith("/storage/") and UNET in request.path
    ]
    assert len(ranges) == 2
    assert ranges[0] is None
    assert ranges[1] is not None
    assert (paths.base_folder / UNET).read_bytes() == server.files[BASE][UNET]


def test_transfer_interrupted_by_the_user_is_resumed(server: HubServer, caches: Caches) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.fetch_release(caches.record, progress=interrupt, **caches.choices(server))
    server.requests.clear()
    paths = hub.fetch_release(caches.record, **caches.choices(server))
    assert all(request.range for request in server.file_requests() if UNET in request.path)
    assert (paths.base_folder / UNET).read_bytes() == server.files[BASE][UNET]


def test_server_that_ignores_ranges_sends_the_file_anew(server: HubServer, caches: Caches) -> None:
    server.cut_after_bytes[UNET] = [1_500_000]
    server.answers_ranges = False
    paths = hub.fetch_release(caches.record, **caches.choices(server))
    assert (paths.base_folder / UNET).read_bytes() == server.files[BASE][UNET]


@pytest.mark.parametrize("path", ["s3diff.pkl", "unet/config.json"], ids=["SHA-256", "git blob hash"])
def test_damaged_file_is_refused_and_fetched_anew(server: HubServer, caches: Caches, path: str) -> None:
    sound = server.files[BASE if "/" in path else METHOD][path]
    server.sent_instead[path] = sound[:-1] + bytes([sound[-1] ^ 1])
    with pytest.raises(DownloadError) as error:
        hub.fetch_release(caches.record, **caches.choices(server))
    assert_one_line(error, path, "damaged")
    assert not list(caches.hub.rglob("*.incomplete"))
    server.sent_instead.clear()
    paths = hub.fetch_release(caches.record, **caches.choices(server))
    assert (paths.base_folder / path if "/" in path else paths.s3diff_pickle).read_bytes() == sound


def test_file_longer_than_listed_is_refused(server: HubServer, caches: Caches) -> None:
    server.sent_instead["s3diff.pkl"] = server.files[METHOD]["s3diff.pkl"] + b"more"
    with pytest.raises(DownloadError) as error:
        hub.fetch_release(caches.record, **caches.choices(server))
    assert_one_line(error, "s3diff.pkl", "40,000")
    assert len([request for request in server.requests if request.path.startswith("/storage/")]) == 1


def test_s3diff_pickle_of_another_size_is_refused_before_the_download(server: HubServer, caches: Caches) -> None:
    with pytest.raises(DownloadError) as error:
        hub.fetch_release(caches.record, **caches.choices(server, release=RELEASE))
    assert_one_line(error, "s3diff.pkl", "40,000", "138,101,243", "S3DIFF_REVISION")
    assert server.file_requests() == []


def test_needed_file_that_is_not_listed(server: HubServer, caches: Caches) -> None:
    del server.files[BASE]["vae/config.json"]
    with pytest.raises(DownloadError) as error:
        hub.plan_download(caches.record, **caches.choices(server))
    assert_one_line(error, "vae/config.json", "S3DIFF_BASE_REVISION")


@pytest.mark.parametrize("status", [401, 403, 404, 500])
@pytest.mark.parametrize("where", ["/api/models", "s3diff.pkl"])
def test_refusals_are_one_line(server: HubServer, caches: Caches, status: int, where: str) -> None:
    server.statuses[where] = status
    started = time.monotonic()
    with pytest.raises(DownloadError) as error:
        hub.fetch_release(caches.record, **caches.choices(server))
    assert_one_line(error, str(status))
    assert time.monotonic() - started < 3


def test_unknown_revision(server: HubServer, caches: Caches) -> None:
    with pytest.raises(DownloadError) as error:
        hub.plan_download(caches.record, **caches.choices(server, base_revision="f" * 40))
    assert_one_line(error, "404", "f" * 40)


def test_no_server_fails_within_seconds(server: HubServer, caches: Caches) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(DownloadError) as error:
            hub.fetch_release(caches.record, **caches.choices(server, endpoint=address))
    assert_one_line(error, "cannot be reached", address)
    assert time.monotonic() - started < 3


def test_silent_server_fails_within_the_timeout(
    server: HubServer, caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub.METADATA_TIMEOUT_SECONDS <= 10
    monkeypatch.setattr(hub, "METADATA_TIMEOUT_SECONDS", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(DownloadError) as error:
            hub.plan_download(
                caches.record, **caches.choices(server, endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
            )
    assert_one_line(error, "cannot be reached")
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    "answer", [b"<html>Please log in</html>", b"[]", b"{}", b'{"id": "a/b", "sha": "../../etc", "siblings": []}']
)
def test_answers_that_are_not_a_hubs(server: HubServer, caches: Caches, answer: bytes) -> None:
    server.api_answer = answer
    with pytest.raises(DownloadError) as error:
        hub.plan_download(caches.record, **caches.choices(server))
    assert_one_line(error, "not a hub's answer")


def test_digest_that_would_leave_the_cache(server: HubServer, caches: Caches) -> None:
    server.listed_digests["unet/config.json"] = "../../../escaped"
    with pytest.raises(DownloadError) as error:
        hub.fetch_release(caches.record, **caches.choices(server))
    assert_one_line(error, "escaped")


@pytest.mark.parametrize("address", ["ftp://hub", "hub.local", "http://[x", "http://a..b", "http://127.0.0.1:99999"])
def test_addresses_that_are_none(server: HubServer, caches: Caches, address: str) -> None:
    with pytest.raises(DownloadError) as error:
        hub.plan_download(caches.record, **caches.choices(server, endpoint=address))
    assert_one_line(error, address)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full (Linux)")
def test_full_disk(server: HubServer, caches: Caches) -> None:
    digest = hashlib.sha256(server.files[METHOD]["s3diff.pkl"]).hexdigest()
    partial = caches.hub / f"models--{METHOD.replace('/', '--')}" / "blobs" / f"{digest}.incomplete"
    partial.parent.mkdir(parents=True)
    partial.symlink_to("/dev/full")
    with pytest.raises(DownloadError) as error:
        hub.fetch_release(caches.record, **caches.choices(server))
    assert_one_line(error, "the disk is full")


def test_too_little_space_is_said_before_the_download(server: HubServer, caches: Caches) -> None:
    server.listed_bytes[UNET] = 10**18
    with pytest.raises(DownloadError) as error:
        hub.fetch_release(caches.record, **caches.choices(server))
    assert_one_line(error, "free")
    assert server.file_requests() == []


def test_the_converted_model_needs_space_as_well(server: HubServer, caches: Caches) -> None:
    """Enough for the download alone, not for the model that is made of it and stays beside it."""
    server.listed_bytes[UNET] = int(0.7 * shutil.disk_usage(caches.hub.parent).free)
    with pytest.raises(DownloadError) as error:
        hub.fetch_release(caches.record, **caches.choices(server))
    assert_one_line(error, "to download and", "for the converted model", "free", "S3DIFF_CACHE")
    assert server.file_requests() == []


def test_cache_that_cannot_be_written(server: HubServer, caches: Caches) -> None:
    caches.hub.write_text("a file where the folder should be")
    with pytest.raises(DownloadError) as error:
        hub.fetch_release(caches.record, **caches.choices(server))
    assert_one_line(error, "cannot be written")


def test_branch_is_pinned_on_first_use_until_another_revision_is_asked_for(
    server: HubServer, caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = hub.fetch_release(caches.record, **caches.choices(server, revision="main"))
    server.commits[METHOD] = "a" * 40
    server.files[METHOD]["de_net.pth"] = content("another", 9_000)
    assert hub.fetch_release(caches.record, **caches.choices(server, revision="main")) == first

    monkeypatch.setenv("S3DIFF_REVISION", "a" * 40)
    later = hub.fetch_release(caches.record, **caches.choices(server))
    assert later.estimator_file.read_bytes() == content("another", 9_000)
    assert later.base_folder == first.base_folder
    recorded = json.loads((caches.record / RECORD_NAME).read_text())["repositories"]
    assert recorded[METHOD]["commit"] == "a" * 40
    assert recorded[BASE]["commit"] == BASE_COMMIT


def test_record_brings_back_a_deleted_file_and_a_damaged_record_is_none(server: HubServer, caches: Caches) -> None:
    paths = hub.fetch_release(caches.record, **caches.choices(server))
    paths.s3diff_pickle.resolve().unlink()
    server.requests.clear()
    assert hub.fetch_release(caches.record, **caches.choices(server)) == paths
    assert paths.s3diff_pickle.read_bytes() == server.files[METHOD]["s3diff.pkl"]
    assert not any(request.path.startswith("/api/") for request in server.requests)

    record = caches.record / RECORD_NAME
    sound = record.read_text()
    for damaged in (
        "{",
        "[]",
        sound.replace(f'"commit": "{BASE_COMMIT}"', '"commit": "../.."'),
        sound[: len(sound) // 2],
    ):
        record.write_text(damaged)
        assert hub.fetch_release(caches.record, **caches.choices(server)) == paths
        assert record.read_text() == sound


def test_number_format_of_the_base_model(server: HubServer, caches: Caches) -> None:
    hub.fetch_release(caches.record, **caches.choices(server))
    plan = hub.plan_download(caches.record, **caches.choices(server, weights="float32"))
    names = {file.path for file in plan.base.files if file.path.endswith(".safetensors")}
    assert names == {path for path in BASE_FILES if "/" in path and "safetensors" in path and "fp16" not in path}
    assert plan.missing_bytes == 6_000_000 + 8_000 + 9_000

    del server.files[BASE][UNET]
    plan = hub.plan_download(caches.record / "elsewhere", **caches.choices(server))
    assert "unet/diffusion_pytorch_model.safetensors" in {file.path for file in plan.base.files}


def test_announcing_can_stop_the_download(server: HubServer, caches: Caches) -> None:
    def refuse(plan: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.fetch_release(caches.record, announce=refuse, **caches.choices(server))
    assert server.file_requests() == []


SCRIPT = """
import dataclasses, sys
from s3diff.checkpoints import hub
from s3diff.checkpoints.release import NeededFile, RELEASE
from s3diff.errors import DownloadError
sizes = {"s3diff.pkl": 40000, "de_net.pth": 9000}
files = tuple(NeededFile(path=path, size_bytes=size) for path, size in sizes.items())
try:
    method = dataclasses.replace(RELEASE.method, files=files)
    print(*hub.fetch_release(release=dataclasses.replace(RELEASE, method=method)))
except DownloadError as error:
    sys.exit(str(error))
"""


def run_script(tmp_path: Path, script: str = SCRIPT, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "S3DIFF_"))}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "S3DIFF_CACHE": str(tmp_path / "s3diff"), **variables}
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_environment_of_huggingface_hub_is_respected(server: HubServer, tmp_path: Path) -> None:
    offline = run_script(tmp_path, HF_ENDPOINT=server.address, HF_HUB_OFFLINE="1")
    assert offline.returncode == 1
    assert len(offline.stderr.splitlines()) == 1
    assert "HF_HUB_OFFLINE is set" in offline.stderr
    assert server.requests == []

    online = run_script(tmp_path, HF_ENDPOINT=server.address)
    assert online.returncode == 0, online.stderr
    base_folder, *files = map(Path, online.stdout.split())
    assert base_folder.is_relative_to(tmp_path / "hf" / "hub")
    assert (base_folder / UNET).read_bytes() == server.files[BASE][UNET]
    assert [file.name for file in files] == ["s3diff.pkl", "de_net.pth"]

    server.requests.clear()
    for with_record in (True, False):  # without it: files that another program put into the cache
        if not with_record:
            (tmp_path / "s3diff" / RECORD_NAME).unlink()
        again = run_script(tmp_path, HF_ENDPOINT=server.address, HF_HUB_OFFLINE="1")
        assert again.stdout == online.stdout
    assert server.requests == []
    assert not (tmp_path / "s3diff" / RECORD_NAME).exists()  # unknown digests are not recorded as if they were known


def test_importing_is_instant(tmp_path: Path) -> None:
    script = (
        "import sys, s3diff.checkpoints.hub\n"
        "print([name for name in ('huggingface_hub', 'torch', 'numpy', 'transformers') if name in sys.modules])"
    )
    assert run_script(tmp_path, script).stdout.strip() == "[]"


# ---------------------------------------------------------------------------------------------- the model by its name

COMMAND = """
import dataclasses, sys
from s3diff.checkpoints import hub
from s3diff.checkpoints.release import NeededFile, RELEASE
from s3diff.apps.__main__ import main
sizes = {sizes}
files = tuple(NeededFile(path=path, size_bytes=size) for path, size in sizes.items())
method = dataclasses.replace(RELEASE.method, files=files)
hub.plan_download.__kwdefaults__["release"] = dataclasses.replace(RELEASE, method=method)
sys.argv = ["s3diff", *{arguments}]
main()
"""


@pytest.fixture
def tiny_release(server: HubServer) -> Release:
    """The server holds the goldens' tiny models as the release; their sizes are what the release states."""
    files = official_files()
    server.files[METHOD] = {"s3diff.pkl": files.pickle.read_bytes(), "de_net.pth": files.estimator.read_bytes()}
    server.files[BASE] = snapshot_bytes(files.base)
    return sized(RELEASE, {path: len(data) for path, data in server.files[METHOD].items()})


@pytest.mark.slow
def test_the_command_fetches_converts_and_restores(server: HubServer, tiny_release: Release, tmp_path: Path) -> None:
    """From the name to a picture; the second run asks nobody, and gives the same bytes."""
    Image.effect_noise((6, 5), 90).convert("RGB").save(tmp_path / "a.png")
    sizes = {file.path: file.size_bytes for file in tiny_release.method.files}
    for name in ("first.png", "second.png"):
        arguments = ["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / name), "--model", "s3diff"]
        script = COMMAND.format(sizes=sizes, arguments=[*arguments, "--device", "cpu"])
        done = run_script(tmp_path, script, HF_ENDPOINT=server.address)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{tmp_path / name}  24x20  blur ")
        first = name == "first.png"
        assert ("to download: " in done.stderr) == ("Stability AI" in done.stderr) == first
        assert "model s3diff  device cpu  precision float32" in done.stderr
        assert bool(server.requests) == first
        server.requests.clear()
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
    (folder,) = (tmp_path / "s3diff" / "models").iterdir()
    assert folder.name == f"s3diff-{METHOD_COMMIT[:12]}-{BASE_COMMIT[:12]}"


@pytest.fixture
def by_name(
    server: HubServer, tiny_release: Release, caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """The registry with the tiny release, in this test's caches."""
    monkeypatch.setitem(hub.plan_download.__kwdefaults__, "release", tiny_release)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(caches.hub))
    monkeypatch.setenv("S3DIFF_CACHE", str(caches.record))
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    return registry.model_folder


def test_another_revision_is_another_model(
    server: HubServer, by_name: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = by_name("s3diff")
    server.commits[METHOD] = "a" * 40
    monkeypatch.setenv("S3DIFF_REVISION", "main")
    assert not registry.NAMED_MODELS["s3diff"].is_present
    newest = by_name("s3diff")
    assert newest.name == f"s3diff-{'a' * 12}-{BASE_COMMIT[:12]}"
    assert newest == registry.NAMED_MODELS["s3diff"].folder()
    assert load_model(newest).fingerprint == load_model(pinned).fingerprint

    server.requests.clear()
    server.commits[METHOD] = "b" * 40
    assert by_name("s3diff") == newest, "the branch was resolved once"
    monkeypatch.setenv("S3DIFF_REVISION", "a" * 40)
    assert by_name("s3diff") == newest
    monkeypatch.delenv("S3DIFF_REVISION")
    assert by_name("s3diff") == pinned
    assert server.requests == []
    monkeypatch.setenv("S3DIFF_REVISION", "b" * 40)
    assert by_name("s3diff").name.startswith(f"s3diff-{'b' * 12}-")


def test_a_conversion_in_an_older_format_is_made_again_without_a_download(
    server: HubServer, by_name: Callable[..., Path]
) -> None:
    folder = by_name("s3diff")
    before = load_model(folder).fingerprint
    edit_json(folder / "config.json", format_version=1)
    assert not registry.NAMED_MODELS["s3diff"].is_present
    server.requests.clear()
    assert by_name("s3diff") == folder
    assert load_model(folder).fingerprint == before
    assert server.requests == []


def test_a_model_folder_of_the_same_name_is_pointed_at(
    server: HubServer, by_name: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hint = "there is also the model folder ./s3diff: give ./s3diff to use it"
    server.statuses["/api/models"] = 500
    save_compact(tmp_path / "elsewhere")
    with pytest.raises(DownloadError) as error:
        by_name("s3diff")
    assert hint not in str(error.value), "there is none here"
    save_compact(tmp_path / "here" / "s3diff")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(DownloadError) as error:
        by_name("s3diff")
    assert str(error.value).endswith(hint)
    assert "\n" not in str(error.value)
    server.statuses.clear()
    summaries: list[str] = []
    folder = by_name("s3diff", announce=lambda plan: summaries.append(plan.summary()))
    assert summaries[0].splitlines()[-1] == hint
    assert folder.name.startswith("s3diff-"), "the name still means the release"
    assert by_name("./s3diff") == Path("s3diff")
