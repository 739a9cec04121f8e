"""The real service with its page on a port of the loopback, for tests that speak HTTP or drive a browser."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from s3diff.serving.limits import ServiceLimits


@contextmanager
def page_server(
    tokens: Sequence[str] = (), limits: ServiceLimits | None = None, model: str | Path = "compact"
) -> Iterator[tuple[str, Any]]:
    """Serve until the block ends; gives the address and the :class:`RestorationService`."""
    import uvicorn

    from s3diff.serving.http.api import create_app
    from s3diff.serving.http.auth import Auth
    from s3diff.serving.page import mount_page
    from s3diff.serving.service import RestorationService

    auth = Auth(tokens)
    service = RestorationService(models=[model], limits=limits).start()
    app = mount_page(create_app(service, auth=auth, allowed_hosts=["127.0.0.1"]), service)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
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
