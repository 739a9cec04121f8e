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


class KeptWindow:
    """One window for test after test: a new one would parse the page and compile its scripts again.

    Each test finds the page as in a new window: what the last one stored, listens to, intercepts and set is gone.
    """

    def __init__(self, browser: Any, **about: Any) -> None:
        self._browser, self._about = browser, about
        self._page: Any = None
        self._heard: list[tuple[str, Any]] = []

    def page(self, address: str, width: int, height: int, color_scheme: str = "light") -> Any:
        if self._page is None:
            self._page = self._browser.new_context(**self._about).new_page()
            self._on, self._page.on = self._page.on, self._listen
        # No script of the page runs at this path, which would store something again. And the browser's process stays,
        # with all that it has compiled, which it does not on the way over about:blank.
        self._quiet = f"{address}healthz"
        self.leave()
        page = self._page
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=color_scheme)
        page.evaluate("sessionStorage.clear(), localStorage.clear()")
        page.context.clear_cookies()
        page.mouse.move(0, 0)
        return page

    def _listen(self, event: str, listener: Any) -> None:
        self._heard.append((event, listener))
        self._on(event, listener)

    def leave(self) -> None:
        """The end of a test, as when its window is closed."""
        if self._page.url != self._quiet:
            self._page.goto(self._quiet)
        for event, listener in self._heard:
            self._page.remove_listener(event, listener)
        self._heard.clear()
        self._page.unroute_all()
