"""The service under load, on a real socket of this machine, with the embedded model.

    python benchmarks/serving.py benchmarks/results/serving.json

1. *batches*: 64 small requests at once, against a service that batches and one that does not, in turn; the pictures are
   compared bit by bit.
2. *crowd*: 200 clients at once against a queue of 32: who gets a picture, who is told to come back, and whether those
   that come back get theirs.
3. *slow*: clients that never finish their headers, never finish their body, or never read; pictures meanwhile.
4. *large*: a body of 500 MB.
5. The memory of the server's process before and after, and whether it still answers.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from hardware import machine
from PIL import Image

from s3diff.client import Client
from s3diff.errors import QueueFullError

REPOSITORY = Path(__file__).resolve().parent.parent
PHOTO = REPOSITORY / "assets" / "photos" / "budgerigar.jpg"


@contextmanager
def served(*options: str) -> Iterator[tuple[str, int]]:
    """A service in a process of its own: its address and its process id."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "s3diff", "serve", "--port", "0", "--no-page", *options],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("s3diff serves at"):
            log.seek(0)
            raise SystemExit(log.read().decode())
        try:
            yield line.split()[-1], process.pid
        finally:
            process.terminate()
            process.wait(60)


def small_pictures(count: int, side: int) -> list[bytes]:
    """Crops of a photograph, all different."""
    pixels, contents = np.asarray(Image.open(PHOTO).convert("RGB")), []
    for index in range(count):
        top, left = 3 * (index // 8), 20 * (index % 8)
        data = io.BytesIO()
        Image.fromarray(pixels[top : top + side, left : left + side]).save(data, "PNG")
        contents.append(data.getvalue())
    return contents


def all_at_once(url: str, contents: list[bytes]) -> tuple[float, list[str]]:
    """Seconds until all are restored, and a digest of every result's file."""

    def one(content: bytes) -> str:
        with httpx.Client(base_url=url, timeout=600, trust_env=False) as client:
            answer = client.post("/api/v1/restore", files={"picture": ("a.png", content)})
            answer.raise_for_status()
            return hashlib.sha256(answer.content).hexdigest()

    started = time.monotonic()
    with ThreadPoolExecutor(len(contents)) as pool:
        digests = list(pool.map(one, contents))
    return time.monotonic() - started, digests


def measure_batches(count: int, side: int, rounds: int) -> dict[str, Any]:
    """The same requests to both services by turns, so that other work on the machine meets both."""
    contents, seconds, digests = small_pictures(count, side), {"batched": [], "unbatched": []}, {}
    with (
        served("--queue", str(count), "--batch", "8") as (batched, _),
        served("--queue", str(count), "--batch", "1") as (unbatched, _),
    ):
        urls = {"batched": batched, "unbatched": unbatched}
        for url in urls.values():
            all_at_once(url, contents[:8])
        for index in range(rounds):
            for name in sorted(urls, reverse=bool(index % 2)):
                taken, digests[name] = all_at_once(urls[name], contents)
                seconds[name].append(round(taken, 3))
    best = {name: min(each) for name, each in seconds.items()}
    return {
        "requests": count,
        "side_px": side,
        "seconds": seconds,
        "pictures_per_second": {name: round(count / each, 2) for name, each in best.items()},
        "batched_over_unbatched": round(best["unbatched"] / best["batched"], 3),
        "identical_pictures": digests["batched"] == digests["unbatched"],
    }


def measure_crowd(url: str, num_clients: int) -> dict[str, Any]:
    """All at once; first every client that is refused gives up, then every one comes back when it is told to."""
    content = small_pictures(1, 48)[0]
    barrier = threading.Barrier(num_clients)
    answers: Counter[str] = Counter()
    retry_after: list[float] = []

    def impatient(_: int) -> None:
        with Client(url, patience_seconds=0) as client:
            barrier.wait()
            try:
                answers[f"{client.restore(content, scale=4).facts['width']} px wide"] += 1
            except QueueFullError as error:
                answers["503"] += 1
                retry_after.append(error.retry_after_seconds)

    def patient(_: int) -> None:
        with Client(url, patience_seconds=600) as client:
            client.restore(content, scale=4)

    with ThreadPoolExecutor(num_clients) as pool:
        started = time.monotonic()
        list(pool.map(impatient, range(num_clients)))
        first = time.monotonic() - started
        started = time.monotonic()
        list(pool.map(patient, range(num_clients)))
        second = time.monotonic() - started
    return {
        "clients": num_clients,
        "answers": dict(answers),
        "unanswered": num_clients - sum(answers.values()),
        "retry_after_seconds": [min(retry_after, default=0), max(retry_after, default=0)],
        "seconds": round(first, 2),
        "all_served_when_they_come_back_seconds": round(second, 2),
    }


def measure_slow(url: str, num_each: int) -> dict[str, Any]:
    """Slow clients of three kinds, and how long pictures take meanwhile."""
    host, port = url.removeprefix("http://").split(":")
    content = small_pictures(1, 48)[0]
    form = b"Content-Type: multipart/form-data; boundary=a\r\n"
    starts = {
        "headers": b"POST /api/v1/restore HTTP/1.1\r\nHost: 127.0.0.1\r\nX-",
        "body": b"POST /api/v1/restore HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        + form
        + b"Content-Length: 100000\r\n\r\n--a\r\n",
        "silent": b"",
    }

    def held(start: bytes) -> float:
        """Seconds until the server ends it; a byte every second keeps it looking alive."""
        with socket.create_connection((host, int(port))) as connection:
            connection.settimeout(1)
            began = time.monotonic()
            connection.sendall(start)
            while time.monotonic() - began < 150:
                try:
                    if not connection.recv(65536):
                        break
                except TimeoutError:
                    with suppress(OSError):
                        if start:
                            connection.sendall(b"a")
                except OSError:
                    break
            return time.monotonic() - began

    alone, meanwhile = [], []
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:

        def one() -> float:
            started = time.monotonic()
            client.post("/api/v1/restore", files={"picture": ("a.png", content)}).raise_for_status()
            return time.monotonic() - started

        alone = [one() for _ in range(10)]
        with ThreadPoolExecutor(3 * num_each) as pool:
            slow = {name: [pool.submit(held, start) for _ in range(num_each)] for name, start in starts.items()}
            time.sleep(1)
            meanwhile = [one() for _ in range(10)]
            ended = {name: [each.result() for each in all_] for name, all_ in slow.items()}
    return {
        "clients_of_each_kind": num_each,
        "ended_after_seconds": {name: [round(min(each), 1), round(max(each), 1)] for name, each in ended.items()},
        "median_seconds_of_a_picture": {
            "alone": round(statistics.median(alone), 3),
            "meanwhile": round(statistics.median(meanwhile), 3),
        },
    }


def measure_large(url: str, num_bytes: int) -> dict[str, Any]:
    """A body far beyond the limit, with its length declared and without."""
    answers = {}
    block, start = bytes(1 << 20), b'--a\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\n\r\n'
    num_blocks = num_bytes // len(block)
    total = len(start) + num_blocks * len(block)

    def body() -> Iterator[bytes]:
        yield start
        for _ in range(num_blocks):
            yield block

    kind = {"Content-Type": "multipart/form-data; boundary=a"}
    for name, headers in (("declared", {**kind, "Content-Length": str(total)}), ("chunked", kind)):
        started = time.monotonic()
        try:
            answer: Any = httpx.post(f"{url}/api/v1/restore", content=body(), headers=headers, timeout=120).status_code
        except httpx.HTTPError as error:
            answer = type(error).__name__
        answers[name] = {"answer": answer, "seconds": round(time.monotonic() - started, 2)}
    return {"bytes": total, **answers}


def resident_mb(pid: int) -> float | None:
    """Of a process; None where the system does not say so in /proc."""
    with suppress(OSError):
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return round(int(found[1]) / 1024, 1) if found else None
    return None


def main() -> None:
    """Measure everything and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON file to write")
    parser.add_argument("--side", type=int, default=32, help="of the small pictures, in pixels")
    parser.add_argument("--rounds", type=int, default=3, help="of batched against unbatched")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--slow", type=int, default=50, help="slow clients of each kind")
    parser.add_argument("--bytes", type=int, default=500_000_000, help="of the large body")
    chosen = parser.parse_args()
    figures: dict[str, Any] = {"hardware": machine(torch.device("cpu"))}
    figures["batches"] = measure_batches(64, chosen.side, chosen.rounds)
    print(json.dumps(figures["batches"]), flush=True)
    with served("--queue", "32") as (url, pid):
        with Client(url) as client:
            for _ in range(10):
                client.restore(PHOTO, scale=2)
        memory = {"before": resident_mb(pid)}
        for name, measured in (
            ("crowd", lambda: measure_crowd(url, chosen.clients)),
            ("slow", lambda: measure_slow(url, chosen.slow)),
            ("large", lambda: measure_large(url, chosen.bytes)),
        ):
            figures[name] = measured()
            memory[f"after {name}"] = resident_mb(pid)
            print(name, json.dumps(figures[name]), flush=True)
        with Client(url) as client:
            alive = client.restore(PHOTO, scale=2).facts["width"] == 480
            kept = httpx.get(f"{url}/metrics", trust_env=False).text
        figures["resident_mb"] = memory
        figures["alive_afterwards"] = alive
        figures["jobs_left"] = int(float(re.search(r"^s3diff_jobs_kept (\S+)", kept, re.MULTILINE)[1]))  # type: ignore[index]
    print(json.dumps({name: figures[name] for name in ("resident_mb", "alive_afterwards", "jobs_left")}))
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
