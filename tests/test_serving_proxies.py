"""The service with a token behind nginx and Caddy: prefix kept and taken off, port 443 and another one."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from filelock import FileLock

from page_server import chromium
from s3diff.client import Client
from s3diff.serving.http.api import create_app
from s3diff.serving.http.auth import Auth
from s3diff.serving.http.server import Server, listen
from s3diff.serving.limits import ServiceSettings
from s3diff.serving.service import RestorationService
from serving_pictures import photo

httpx = pytest.importorskip("httpx", reason="needs the extra web")
page = pytest.importorskip("s3diff.serving.page.mounting", reason="needs the extra web")

pytestmark = pytest.mark.slow

TOKEN = "a-token-for-tests-behind-a-proxy"
SECONDS = 120
NGINX = """
daemon off;
{user}
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 130m;
    proxy_request_buffering off;
    proxy_buffering off;
    {servers}
}}
"""
NGINX_SERVER = """
    server {{
        listen 127.0.0.1:{listen};
        {tls}
        proxy_set_header Host {host};
        proxy_set_header X-Forwarded-Proto $scheme;
        location /kept {{ proxy_pass http://127.0.0.1:{kept}; }}
        location /stripped/ {{ proxy_pass http://127.0.0.1:{stripped}/; }}
    }}
"""
CADDY = """
{{
    admin off
    auto_https off
}}
{sites}
"""
CADDY_SITE = """
{address} {{
    bind 127.0.0.1
    {tls}
    handle /kept* {{
        reverse_proxy 127.0.0.1:{kept}
    }}
    handle_path /stripped/* {{
        reverse_proxy 127.0.0.1:{stripped}
    }}
}}
"""


@dataclass(frozen=True)
class Backends:
    """Two applications of one service: one for the path /kept, one for /stripped."""

    kept: int
    stripped: int


@dataclass(frozen=True)
class Proxy:
    """A proxy that runs; ``without_port`` hands on Host without its port (nginx only)."""

    name: str
    https: int | None
    http: int
    without_port: int | None

    def origin(self, scheme: str) -> str:
        if scheme == "https" and self.https is None:
            pytest.skip("port 443 cannot be listened on here (not allowed, or taken)")
        return "https://127.0.0.1" if scheme == "https" else f"http://127.0.0.1:{self.http}"


@pytest.fixture(scope="module")
def backends(small: Path) -> Iterator[Backends]:
    ports, servers = {}, []
    with RestorationService(ServiceSettings(models=[small], device="cpu", precision="float32")) as service:
        for name in ("kept", "stripped"):
            app = create_app(
                service,
                auth=Auth([TOKEN]),
                allowed_hosts=["127.0.0.1"],
                closes_service=False,
                root_path=f"/{name}",
            )
            page.mount_page(app, service)
            listener = listen("127.0.0.1", 0)
            server = Server(app, service, grace_seconds=5)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            servers.append((server, thread, listener))
            ports[name] = listener.getsockname()[1]
        try:
            wait_until(lambda: all(server.started for server, *_ in servers))
            yield Backends(**ports)
        finally:
            for server, thread, listener in servers:
                server.should_exit = True
                thread.join(SECONDS)
                listener.close()


def wait_until(holds: Any) -> None:
    until = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def https_port() -> Iterator[int | None]:
    """443 where it can be listened on; the processes of one test run take turns."""
    with FileLock(Path(tempfile.gettempdir()) / "s3diff-tests-port-443.lock"):
        try:
            socket.create_server(("127.0.0.1", 443)).close()
        except OSError:
            yield None
        else:
            yield 443


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@contextmanager
def running(command: list[str], port: int, environment: dict[str, str]) -> Iterator[None]:
    with subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, **environment}, text=True) as process:
        try:
            wait_until(lambda: process.poll() is not None or answers(port))
            assert process.poll() is None, process.stderr and process.stderr.read()[-2000:]
            yield
        finally:
            process.terminate()
            process.communicate(timeout=SECONDS)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl for a certificate of its own")
    folder = tmp_path_factory.mktemp("certificate")
    made, key = folder / "cert.pem", folder / "key.pem"
    what = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    where = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(made)]
    subprocess.run(["openssl", "req", *what, *where], check=True, capture_output=True)
    return made, key


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def proxy(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    certificate: tuple[Path, Path],
    backends: Backends,
    https_port: int | None,
) -> Iterator[Proxy]:
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"needs {name} (on Debian: apt-get install {name})")
    folder, (made, key) = tmp_path_factory.mktemp(name), certificate
    places = {"kept": backends.kept, "stripped": backends.stripped}
    secure, plain, odd = https_port, free_port(), free_port()
    if name == "nginx":
        tls = f"ssl_certificate {made}; ssl_certificate_key {key};"
        servers = [NGINX_SERVER.format(listen=plain, tls="", host="$http_host", **places)]
        servers += [NGINX_SERVER.format(listen=odd, tls="", host="$host", **places)]
        if secure:
            servers += [NGINX_SERVER.format(listen=f"{secure} ssl", tls=tls, host="$http_host", **places)]
        user = "user root;" if hasattr(os, "geteuid") and os.geteuid() == 0 else ""
        settings = folder / "nginx.conf"
        settings.write_text(NGINX.format(folder=folder, user=user, servers="".join(servers)))
        command = ["nginx", "-p", str(folder), "-c", str(settings)]
    else:
        sites = [CADDY_SITE.format(address=f"http://127.0.0.1:{plain}", tls="", **places)]
        if secure:
            sites += [CADDY_SITE.format(address="https://127.0.0.1:443", tls=f"tls {made} {key}", **places)]
        settings = folder / "Caddyfile"
        settings.write_text(CADDY.format(sites="".join(sites)))
        command = ["caddy", "run", "--config", str(settings), "--adapter", "caddyfile"]
    homes = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with running(command, plain, homes):
        yield Proxy(name, secure, plain, odd if name == "nginx" else None)


@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize("prefix", ["kept", "stripped"])
def test_from_the_sign_in_to_the_result(proxy: Proxy, prefix: str, scheme: str) -> None:
    """The whole way of a browser: probes, sign-in, page, picture, sign-out."""
    origin = proxy.origin(scheme)
    address = f"{origin}/{prefix}/"
    seen_from_page = {"Origin": origin, "Accept": "text/html"}
    with httpx.Client(verify=False, headers=seen_from_page, timeout=SECONDS) as browser:
        for method in ("GET", "HEAD"):
            assert browser.request(method, f"{address}readyz").status_code == 200
            assert browser.request(method, f"{address}api/v1/models", headers={"Accept": "*/*"}).status_code == 401
        sent_away = browser.get(address)
        assert (sent_away.status_code, sent_away.headers["Location"]) == (303, f"/{prefix}/login")
        form = browser.get(urljoin(address, sent_away.headers["Location"]))
        assert (form.status_code, "Access token" in form.text) == (200, True)

        signed_in = browser.post(f"{address}login", data={"token": TOKEN})
        assert (signed_in.status_code, signed_in.headers["Location"]) == (303, f"/{prefix}/")
        cookie = signed_in.headers["Set-Cookie"]
        assert f"Path=/{prefix}/" in cookie
        assert ("; Secure" in cookie) == (scheme == "https")

        shown = browser.get(address)
        assert shown.status_code == 200
        parts = re.findall(r'(?:src|href)="(\./[^"]+)"', shown.text)
        assert len(parts) == 4, "the icon, the script and two styles"
        for part in parts:
            assert browser.get(urljoin(address, part)).status_code == 200, part

        job = browser.post(f"{address}api/v1/jobs", files={"picture": ("a.png", photo())}, data={"scale": "2"})
        assert job.status_code == 202, job.text
        assert job.headers["Location"] == f"/{prefix}/api/v1/jobs/{job.json()['id']}"
        place = urljoin(address, job.headers["Location"])
        assert browser.get(f"{place}?wait=30").json()["state"] == "done"
        assert browser.get(f"{place}/result").headers["Content-Type"] == "image/png"

        signed_out = browser.post(f"{address}logout")
        assert signed_out.headers["Location"] == f"/{prefix}/login"
        assert browser.get(address).status_code == 303


@pytest.mark.parametrize("prefix", ["kept", "stripped"])
def test_the_address_without_its_slash(proxy: Proxy, prefix: str) -> None:
    """Whoever types the address gets to the page, with the scheme and the port that were typed."""
    bearer = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/html"}
    with httpx.Client(verify=False, headers=bearer, timeout=SECONDS, follow_redirects=True) as browser:
        if prefix == "stripped" and proxy.name == "caddy":
            pytest.skip("Caddy's handle_path of /stripped/* does not take /stripped")
        origin = proxy.origin("http")
        answer = browser.get(f"{origin}/{prefix}")
        assert (answer.status_code, str(answer.url)) == (200, f"{origin}/{prefix}/")


@pytest.mark.parametrize("prefix", ["kept", "stripped"])
def test_the_client_library(proxy: Proxy, prefix: str) -> None:
    with Client(f"{proxy.origin('http')}/{prefix}", TOKEN) as client:
        assert client.restore(photo(), scale=2).facts["width"] == 64


def test_other_sites_are_refused_by_name(proxy: Proxy) -> None:
    address = f"{proxy.origin('http')}/kept/api/v1/estimate"
    bearer = {"Authorization": f"Bearer {TOKEN}", "Origin": "https://evil.example"}
    refused = httpx.post(address, headers=bearer, files={"picture": ("a.png", photo())})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "cross_site")
    assert "https://evil.example" in refused.json()["error"]["message"]
    assert f"127.0.0.1:{proxy.http}" in refused.json()["error"]["message"]


def test_a_proxy_that_drops_the_port(proxy: Proxy) -> None:
    """What the browser says of the request's site is believed; where it says nothing, the refusal says why."""
    if proxy.without_port is None:
        pytest.skip(f"{proxy.name} hands on Host as it came")
    origin = f"http://127.0.0.1:{proxy.without_port}"
    bearer = {"Authorization": f"Bearer {TOKEN}", "Origin": origin}

    def asked(headers: dict[str, str]) -> Any:
        picture = {"picture": ("a.png", photo())}
        return httpx.post(f"{origin}/kept/api/v1/estimate", headers=headers, files=picture, timeout=SECONDS)

    assert asked({**bearer, "Sec-Fetch-Site": "same-origin"}).status_code == 200
    message = asked(bearer).json()["error"]["message"]
    assert origin in message
    assert "asked as 127.0.0.1;" in message


def test_a_real_browser_through_the_proxy(proxy: Proxy) -> None:
    """Signs in and restores, through https with the prefix kept and through http with the prefix taken off."""
    from test_page_browser import PATIENCE_MS

    places = [f"{proxy.origin('http')}/stripped/"]
    if proxy.https:
        places.append("https://127.0.0.1/kept/")
    if proxy.without_port:
        places.append(f"http://127.0.0.1:{proxy.without_port}/kept/")
    with chromium() as browser:
        for address in places:
            context = browser.new_context(ignore_https_errors=True)
            seen = context.new_page()
            seen.goto(address, timeout=PATIENCE_MS)
            seen.fill("input[name=token]", TOKEN)
            seen.click("button[type=submit]")
            seen.wait_for_selector(".work[data-ready]", timeout=PATIENCE_MS)
            assert seen.url == address
            seen.set_input_files(".picker", {"name": "a.png", "mimeType": "image/png", "buffer": photo()})
            seen.wait_for_selector(".view", state="visible", timeout=PATIENCE_MS)
            seen.click("#run")
            seen.wait_for_selector(".download", state="visible", timeout=PATIENCE_MS)
            context.close()
