"""The real service with its page on a port of the loopback, for tests that speak HTTP or drive a browser."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from s3diff.serving.limits import ServiceLimits, ServiceSettings

#: A headless browser that asks nothing of the outside world.
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def page_server(
    tokens: Sequence[str] = (), limits: ServiceLimits | None = None, model: str | Path = "compact"
) -> Iterator[tuple[str, Any]]:
    """Serve until the block ends; gives the address and the :class:`RestorationService`."""
    import uvicorn

    from s3diff.serving.http.api import create_app
    from s3diff.serving.http.auth import Auth
    from s3diff.serving.page.mounting import mount_page
    from s3diff.serving.service import RestorationService

    auth = Auth(tokens)
    service = RestorationService(ServiceSettings(models=[model], limits=limits or ServiceLimits())).start()
    app = mount_page(create_app(service, auth=auth, allowed_hosts=["127.0.0.1"]), service)
    listener = socket.create_server(("127.0.0.1", 0))
    # Without uvicorn's own logging: it would close all handlers, and absl's closes the stderr that pytest reads.
    config = uvicorn.Config(app, log_config=None, log_level="warning", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        until = time.monotonic() + 120
        while not (server.started and service.is_ready):
            assert thread.is_alive(), "the server ended before it had started"
            assert time.monotonic() < until, "the server did not start within two minutes"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/", service
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


@contextmanager
def page_for_browsers(model: Path) -> Iterator[tuple[str, Any]]:
    """Serve a model's page, or take the service of it that runs at $S3DIFF_SERVICE, with None for its object."""
    if elsewhere := os.environ.get("S3DIFF_SERVICE"):
        yield f"{elsewhere.rstrip('/')}/", None
        return
    with page_server(model=model) as served:
        yield served


@contextmanager
def chromium() -> Iterator[Any]:
    """Run a headless Chromium: that of $S3DIFF_CHROMIUM, or the system's."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra test)")
    names = [os.environ.get("S3DIFF_CHROMIUM"), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    path = next((found for name in names if name and (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("needs Chromium (on Debian: apt-get install chromium), or its path in S3DIFF_CHROMIUM")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield opened
        opened.close()
