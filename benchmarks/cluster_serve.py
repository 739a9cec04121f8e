"""Many clients against replicas of ``s3diff cluster serve``, one of which is killed in the middle.

    python benchmarks/cluster_serve.py --output benchmarks/results/cluster_serve.json
    python benchmarks/cluster_serve.py --clients 20        # a busy machine

Needs the extras cluster and web, and Linux. Half of the clients send a picture and wait for the answer, half hand in a
job and ask for it. Each has to get what ``s3diff restore`` makes, and until then nothing but 503 with ``Retry-After``.
A batch of the tiny model's may round a picture otherwise, by one grey level; one by one (``--batch 1``) all are equal
to the byte.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from figures import show_and_keep
from PIL import Image
from ray_environment import set_up_ray

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from tiny_models import save_compact  # noqa: E402

SIDE_PX, SCALE = 24, "2"
COMMAND = [sys.executable, "-m", "s3diff.apps"]
#: A client gives up after so long.
PATIENCE_SECONDS = 1200.0


class Crowd:
    """Clients in threads, and what they were answered."""

    def __init__(self, url: str, contents: list[bytes]) -> None:
        self.url, self.contents = url, contents
        self.answers: Counter[str] = Counter()
        self.results: list[bytes | None] = [None] * len(contents)
        self.seconds: list[float] = [0.0] * len(contents)
        self._lock = threading.Lock()

    def ask(self, client: httpx.Client, method: str, path: str, **given: Any) -> httpx.Response:
        """Ask until the answer is no 503 with ``Retry-After``; count every answer."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            answer = client.request(method, self.url + path, **given)
            told = str(answer.status_code)
            with suppress(ValueError, KeyError, TypeError):
                told += " " + answer.json()["error"]["code"]
            with self._lock:
                self.answers[told] += 1
            if answer.status_code != 503 or "Retry-After" not in answer.headers or time.monotonic() > until:
                return answer
            # Whole crowds that come back at the same moment would be refused at the same moment.
            time.sleep(float(answer.headers["Retry-After"]) * random.uniform(1, 1.5))

    def run(self, index: int) -> None:
        """Get one picture restored: by the answer itself, or as a job."""
        started, form = time.monotonic(), {"files": {"picture": ("a.png", self.contents[index])}}
        form["data"] = {"scale": SCALE}  # type: ignore[assignment]
        with httpx.Client(timeout=600, trust_env=False) as client:
            if index % 2:
                answer = self.ask(client, "POST", "/api/v1/restore", **form)
            else:
                answer = self.ask(client, "POST", "/api/v1/jobs", **form)
                path = f"/api/v1/jobs/{answer.json()['id']}"
                while self.ask(client, "GET", path, params={"wait": 20}).json()["state"] in ("queued", "running"):
                    pass
                answer = self.ask(client, "GET", f"{path}/result")
        self.results[index] = answer.content if answer.status_code == 200 else None
        self.seconds[index] = time.monotonic() - started


def replica_processes() -> list[int]:
    """Processes of Ray Serve's replicas."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if (entry / "cmdline").read_bytes().startswith(b"ray::ServeReplica:s3diff"):
                    found.append(int(entry.name))
    return found


def largest_difference(result: bytes, place: Path) -> int:
    """In grey levels."""
    with Image.open(io.BytesIO(result)) as made, Image.open(place) as wanted:
        if made.size != wanted.size:
            return 255
        return int(np.abs(np.asarray(made, int) - np.asarray(wanted, int)).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--kill-after", type=float, default=0.3, help="share of the pictures that are done")
    parser.add_argument("--model", help="a model folder or name; a tiny one by default, as pictures are not the matter")
    parser.add_argument("--batch", type=int, default=8, help="of each replica")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    set_up_ray()
    with tempfile.TemporaryDirectory(prefix="s3diff-crowd-") as scratch:
        here = Path(scratch)
        model = given.model or str(here / "tiny")
        if given.model is None:
            save_compact(here / "tiny")
        contents, places = [], []
        (here / "in").mkdir()
        for index in range(given.clients):
            pixels = np.random.default_rng(index).integers(0, 255, (SIDE_PX, SIDE_PX, 3), np.uint8)
            place = here / "in" / f"{index:04}.png"
            Image.fromarray(pixels).save(place)
            contents.append(place.read_bytes())
            places.append(here / "out" / place.name)
        options = ["-m", model, "--device", "cpu"]
        subprocess.run(
            [*COMMAND, "restore", here / "in", "-o", here / "out", "--scale", SCALE, "-q", *options], check=True
        )
        command = [
            *COMMAND, "cluster", "serve", *options, "--port", given.port, "--replicas", given.replicas,
            "--cpus-per-replica", 0.5, "--job-store", here / "jobs", "--folder", here, "--batch", given.batch,
        ]  # fmt: skip
        with (here / "log").open("w+") as log:
            server = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=log, text=True)
            try:
                assert server.stdout is not None
                url = server.stdout.readline().strip().rpartition(" ")[2]
                if not url:
                    raise SystemExit((here / "log").read_text())
                crowd, started = Crowd(url, contents), time.monotonic()
                threads = [threading.Thread(target=crowd.run, args=(index,)) for index in range(given.clients)]
                for thread in threads:
                    thread.start()
                while sum(result is not None for result in crowd.results) < given.kill_after * given.clients:
                    time.sleep(0.05)
                killed = random.choice(replica_processes())
                os.kill(killed, signal.SIGKILL)
                for thread in threads:
                    thread.join()
                seconds = time.monotonic() - started
            finally:
                server.terminate()
                server.wait(300)
        equal = sum(result == place.read_bytes() for result, place in zip(crowd.results, places, strict=True))
        near = sum(
            result is not None and largest_difference(result, place) <= 1
            for result, place in zip(crowd.results, places, strict=True)
        )
        report = {
            "command": " ".join(["python", "benchmarks/cluster_serve.py", *sys.argv[1:]]),
            "clients": given.clients,
            "replicas": given.replicas,
            "replicas_killed": 1,
            "equal_to_the_byte": equal,
            "within_one_level": near,
            "answers": dict(sorted(crowd.answers.items())),
            "seconds": round(seconds, 1),
            "seconds_of_a_client": {
                "median": round(float(np.median(crowd.seconds)), 1),
                "longest": round(max(crowd.seconds), 1),
            },
            "load": os.getloadavg(),
        }
    show_and_keep(report, given.output)


if __name__ == "__main__":
    main()
