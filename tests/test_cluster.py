"""``s3diff cluster``: a Ray of two CPUs, from an object store into it. Skipped where Ray is missing."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image

from command_runs import run_python
from object_store import free_ports
from s3diff.errors import OptionError, ServiceError
from s3diff.folders.inputs import HIDDEN
from s3diff.folders.store_estimate import describe_estimate
from s3diff.folders.store_plan import StorePlan
from s3diff.folders.store_worker import WorkerOptions
from s3diff.serving.limits import ServiceSettings
from serving_pictures import photo

if TYPE_CHECKING:
    from command_runs import Command


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures and a bad one."""
    folder = tmp_path_factory.mktemp("cluster") / "input"
    (folder / "deep").mkdir(parents=True)
    for index, name in enumerate(("a.png", "b.jpg", "c.webp", "deep/d.tif", "deep/e.png")):
        random = np.random.default_rng(index)
        Image.fromarray(random.integers(0, 255, (12, 16, 3), np.uint8)).save(folder / name)
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


def results(folder: Path) -> dict[str, bytes]:
    """The pictures of a folder, without what is hidden."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.startswith(".")}


# Without Ray


def test_without_the_extra_one_line_says_how_to_install_it(
    pictures: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    ran = command("cluster", "restore", pictures, "-o", tmp_path / "out")
    assert '".[cluster]"' in ran.error
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    ran = command("cluster", "restore", "s3://no-such-bucket/x", "-o", tmp_path / "out", "--dry-run")
    assert '".[cluster]"' in ran.error


def test_serving_replicas_names_all_extras_at_once(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("ray", "obstore", "fastapi"):
        monkeypatch.setitem(sys.modules, package, None)
    ran = command("cluster", "serve", "--job-store", "jobs")
    assert ran.code == 1
    assert ran.error == (
        "s3diff: replicas of the service need the extras cluster and web: "
        'pip install -c constraints.txt ".[cluster,web]"'
    )


def test_the_help_imports_neither_torch_nor_ray() -> None:
    code = "import sys; from s3diff.apps.cli import main; sys.argv = ['s3diff', 'cluster', 'restore', '--help']\n"
    code += "try: main()\nexcept SystemExit: print(*{'torch', 'ray', 'obstore', 'pyarrow'} & set(sys.modules))"
    done = run_python("-c", code)
    assert "--cpus-per-worker" in done.stdout
    assert "--guidance" in done.stdout  # the options are those of restore
    assert done.stdout.splitlines()[-1] == ""


def test_a_dry_run_says_what_would_be_done(pictures: Path, tmp_path: Path, command: Command) -> None:
    given = ["cluster", "restore", pictures, "-r", "-o", tmp_path / "out", "--dry-run", "--workers", 2]
    ran = command(*given, "--seconds-per-megapixel", 7200, "--price", 3)
    assert ran.code == 0
    lines = {line.split()[0]: line.split()[1] for line in ran.out.splitlines()}
    megapixels = 12 * 16 * 16 * 6 / 1e6  # the bad one counts as the others do
    assert lines["pictures"] == "6"
    assert float(lines["megapixels"]) == pytest.approx(megapixels, abs=0.05)
    assert float(lines["hours"]) == pytest.approx(megapixels, abs=0.01)
    assert float(lines["cost"]) == pytest.approx(megapixels * 2 * 3, abs=0.01)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_names_what_cannot_be_restored() -> None:
    plan = StorePlan([], failed=[("s3://in/../x.png", "s3://in/../x.png would lead out of\nthe output")])
    plan.left_out.add(HIDDEN, ".y.png")
    lines = list(describe_estimate(plan, WorkerOptions(output="o", run={}, run_id="1"), 1, 1.0, None))
    assert lines[0] == "failed      s3://in/../x.png  s3://in/../x.png would lead out of the output"
    assert lines[1].startswith("left out    1  ")
    assert ".y.png" in lines[1]


def test_prices_are_for_a_dry_run(command: Command, here: Path) -> None:
    ran = command("cluster", "restore", ".", "-o", "out", "--price", 3)
    assert (ran.code, "are for --dry-run" in ran.error) == (2, True)


def test_a_dry_run_measures_the_speed(pictures: Path, tmp_path: Path, command: Command, small: Path) -> None:
    ran = command("cluster", "restore", pictures, "-o", tmp_path / "out", "--dry-run", "-m", small, "--device", "cpu")
    assert ran.code == 0
    assert "seconds per megapixel" in ran.out


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (["ftp://host/x"], "is no address of a store"),
        (["--skip-existing", "--overwrite", "."], "exclude each other"),
        ([], "no picture is given"),
    ],
)
def test_a_mistake_is_one_line(given: list[str], text: str, command: Command, here: Path) -> None:
    assert text in command("cluster", "restore", *given, "-o", "out", "--dry-run").error


@pytest.mark.parametrize(
    ("address", "reasons", "num_starts", "told"),
    [
        (None, ["The current node timed out during startup."] * 2, 3, None),
        (None, ["The current node timed out during startup."] * 9, 4, "timed out during startup.); try again"),
        (None, ["no such thing"], 1, "no such thing"),
        ("10.0.0.1:6379", ["timed out"], 1, "start one, or leave out --address"),
    ],
)
def test_a_ray_that_was_slow_to_start_is_started_again(
    address: str | None, reasons: list[str], num_starts: int, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray waits for itself for 30 s, whatever else the machine does."""
    from s3diff.integrations.ray.cluster import connected

    events: list[str] = []
    started: list[subprocess.Popen[bytes]] = []

    def init(**_: Any) -> None:
        events.append("init")
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        if reasons:
            raise Exception(reasons.pop(0))

    def shutdown() -> None:
        events.append("shutdown")

    ray = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=shutdown)
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ServiceError, match=re.escape(told)) if told else nullcontext(), connected(address):
        events.append("connected")
    assert events.count("init") == num_starts
    assert events.count("shutdown") == num_starts, "none is left behind"
    if told is None:
        assert started[-1].poll() is None, "the one that has started is the caller's"
        started[-1].kill()
    for process in started:
        assert process.wait(60) != 0, "what did not come up is killed"
    assert ("connected" in events) is (told is None)


@pytest.mark.parametrize(
    ("has", "given", "chosen"),
    [
        ({"CPU": 8.0}, (None, None, None), (8, 1, 0.0)),
        ({"CPU": 8.0}, (None, 3, None), (2, 3, 0.0)),
        ({"CPU": 8.0}, (20, None, None), (20, 1, 0.0)),  # a cluster may grow
        ({"CPU": 16.0, "GPU": 2.0}, (None, None, None), (2, 4, 1.0)),
        ({"CPU": 16.0, "GPU": 2.0}, (None, None, 0.25), (8, 2, 0.25)),  # four share a GPU, and its CPUs
        ({"CPU": 16.0, "GPU": 2.0}, (None, None, 0.0), (16, 1, 0.0)),
        ({"CPU": 8.0}, (None, 16, None), None),
        ({"CPU": 8.0}, (None, None, 1.0), None),
    ],
)
def test_workers_are_as_many_and_as_large_as_the_cluster_holds(
    has: dict[str, float], given: tuple[Any, ...], chosen: tuple[Any, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3diff.integrations.ray.cluster import Workers, choose_workers

    assert str(Workers(1, 2, 0.0)) == "1 worker of 2 CPU"
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(cluster_resources=lambda: has))  # type: ignore[arg-type]
    if chosen is None:
        with pytest.raises(OptionError, match="fits nowhere"):
            choose_workers(*given)
    else:
        assert choose_workers(*given) == Workers(*chosen)
        assert str(Workers(*chosen)).startswith(f"{chosen[0]} workers of ")


@pytest.mark.parametrize(
    ("status", "kind", "body", "is_lost"),
    [
        (None, b"", b"", True),  # so does Ray Serve 2.60 where a replica dies under a request
        (503, b"text/plain", b"Deployment is unavailable", True),
        (503, b"application/json", b'{"error": {"code": "ending"}}', False),
        (500, b"application/json", b'{"error": {"code": "service"}}', False),
        (200, b"text/plain", b"well", False),
    ],
)
def test_who_has_lost_a_replica_is_told_to_ask_again(
    status: int | None, kind: bytes, body: bytes, is_lost: bool
) -> None:
    from s3diff.integrations.ray.proxy import AskAgain

    async def rays(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", kind)]
        if status is None:
            return
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(AskAgain(rays)), base_url="http://here") as client:
            return await client.get("/")

    answer = asyncio.run(ask())
    assert answer.status_code == (503 if is_lost else status)
    assert ("retry-after" in answer.headers) is is_lost
    assert (answer.json()["error"]["code"] == "replica_lost") if is_lost else answer.content == body


# With Ray


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[None]:
    """A Ray of two CPUs that takes every run of this file, so that it starts once. Its GPU is only a number."""
    ray = pytest.importorskip("ray", reason="needs the extra cluster")
    for kind in ("s3", "gs", "az"):  # before Ray, whose workers need their environment
        with suppress(pytest.skip.Exception):
            request.getfixturevalue(kind)
    from s3diff.integrations.ray.cluster import initialise
    from s3diff.integrations.ray.serving import prepare

    prepare()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)  # of the workers
    settings = {"object_store_memory": 100 * 2**20, "include_dashboard": False, "log_to_driver": False}
    initialise({"address": "local", "num_cpus": 2, "num_gpus": 1, **settings})
    yield
    ray.shutdown()


def on_a_cluster(command: Command, *given: object) -> Any:
    return command("cluster", "restore", *given, "--device", "cpu", "--workers", 2, "--gpus-per-worker", 0.5)


@pytest.mark.slow
def test_a_worker_has_its_cpu_and_its_share_of_a_gpu(cluster: None) -> None:
    from s3diff.folders.store_plan import StoreJob
    from s3diff.folders.store_worker import TaskResult, WorkerOptions
    from s3diff.integrations.ray.cluster import Workers
    from s3diff.integrations.ray.run import run_tasks

    def load(_: WorkerOptions) -> Any:
        def has(jobs: Any) -> TaskResult:
            import ray

            return TaskResult([dict(ray.get_runtime_context().get_assigned_resources())] * len(jobs), None)

        return has

    jobs = [StoreJob(f"{index}.png", f"{index}.png", "") for index in range(5)]
    options = WorkerOptions(output="out", run={}, run_id="1")
    results = list(run_tasks(jobs, options, Workers(2, 1, 0.5), rows_per_task=2, load=load))
    assert sorted(len(result.rows) for result in results) == [1, 2, 2]
    for result in results:
        for row in result.rows:
            assert (row["CPU"], row["GPU"]) == (1, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("come_from", "go_to"), [("s3", "s3"), ("gs", "az"), ("az", "gs")])
def test_a_cluster_restores_as_the_command_does(
    come_from: str,
    go_to: str,
    pictures: Path,
    tmp_path: Path,
    command: Command,
    small: Path,
    cluster: None,
    request: pytest.FixtureRequest,
) -> None:
    inputs, outputs = request.getfixturevalue(come_from), request.getfixturevalue(go_to)
    plain = command("restore", pictures, "-r", "-o", tmp_path / "plain", "-m", small, "--device", "cpu")
    assert plain.code == 1
    expected = results(tmp_path / "plain")
    assert len(expected) == 5

    from s3diff.folders.manifest import read_manifest
    from s3diff.folders.stores import open_store

    source, output = open_store(f"{inputs}/cluster/input"), open_store(f"{outputs}/cluster/output")
    for path in pictures.rglob("*"):
        if path.is_file():
            source.write(path.relative_to(pictures).as_posix(), path, replace=False)
    ran = on_a_cluster(command, source.name, "-r", "-o", output.name, "-m", small)
    assert ran.code == 1
    assert f"s3diff: {source.name}/bad.png is not a PNG" in ran.err
    found = {entry.key: output.read(entry.key) for entry in output.entries() if not entry.key.startswith(".")}
    assert found == expected
    rows = {row["target"]: row["state"] for row in read_manifest(output)}
    assert rows == {**dict.fromkeys(expected, "done"), "bad.png": "failed"}

    again = on_a_cluster(command, source.name, "-r", "-o", output.name, "-m", small)
    assert again.code == 1
    assert "done by an earlier run" in again.err
    assert "1 picture " in again.err
    other = on_a_cluster(command, source.name, "-r", "-o", output.name, "-m", small, "--guidance", 1)
    assert "are there already" in other.error


@pytest.mark.slow
def test_a_picture_that_kills_every_worker_is_named_and_costs_no_other(
    pictures: Path, tmp_path: Path, small: Path, cluster: None
) -> None:
    """The system ends a worker that takes too much memory; Ray starts another one, which takes the task again."""
    from s3diff.folders.store_plan import StoreJob
    from s3diff.folders.store_worker import StoreWorker, WorkerOptions
    from s3diff.integrations.ray.cluster import Workers
    from s3diff.integrations.ray.run import run_tasks

    def load(options: WorkerOptions) -> Any:
        worker = StoreWorker(options)
        whole = worker._restorer.restore

        def restore(opened: Any, *given: Any, **more: Any) -> Any:
            if opened.sizes.input[0] > 100:
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(opened, *given, **more)

        worker._restorer.restore = restore  # type: ignore[method-assign]
        return worker.restore

    Image.new("RGB", (200, 20)).save(tmp_path / "large.png")
    sources = [pictures / "a.png", tmp_path / "large.png", pictures / "b.jpg"]
    jobs = [StoreJob(str(source), source.name, "1") for source in sources]
    options = WorkerOptions(output=str(tmp_path / "out"), run={}, run_id="1", model=str(small), device="cpu", threads=1)
    (done,) = run_tasks(jobs, options, Workers(1, 1, 0.0), rows_per_task=3, load=load)
    rows = {row["target"]: row for row in done.rows}
    assert {target: row["state"] for target, row in rows.items()} == {
        "a.png": "done", "large.png": "failed", "b.jpg": "done",
    }  # fmt: skip
    assert rows["large.png"]["reason"].startswith(f"{tmp_path / 'large.png'}: its worker died 2 times")
    assert sorted(results(tmp_path / "out")) == ["a.png", "b.jpg"]


@pytest.mark.slow
def test_a_model_that_no_worker_can_load_is_one_line(
    pictures: Path, tmp_path: Path, command: Command, small: Path, cluster: None
) -> None:
    ran = on_a_cluster(command, pictures, "-o", tmp_path / "out", "-m", small, "--prompt", "sharp", "-q")
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert "prompt" in ran.err
    assert not results(tmp_path / "out") if (tmp_path / "out").exists() else True


@pytest.mark.slow
def test_restore_in_a_pipeline_of_ones_own(pictures: Path, small: Path, restorer: Any, tmp_path: Path) -> None:
    from s3diff.integrations.ray import Restore
    from s3diff.options import RestoreOptions

    names = ("a.png", "bad.png", "c.webp")
    restore = Restore(model=str(small), device="cpu", options=RestoreOptions(scale=2))
    files = np.empty(3, object)
    files[:] = [(pictures / name).read_bytes() for name in names]
    made = restore({"bytes": files, "name": np.array(names)})
    assert list(made["name"]) == list(names)
    assert [error is None for error in made["error"]] == [True, False, True]
    assert made["restored"][1] is None
    assert made["error"][1].startswith("picture is not a PNG"), "without the scratch folder"
    for index in (0, 2):
        target = tmp_path / names[index]
        restorer.restore(pictures / names[index], RestoreOptions(scale=2)).save(target)
        assert made["restored"][index] == target.read_bytes()

    arrays = np.stack([np.asarray(Image.open(pictures / "a.png"))] * 2)
    restore = Restore("image", model=str(small), device="cpu")
    made = restore({"image": arrays})
    assert made["restored"][0].shape == (48, 64, 3)
    assert list(made["error"]) == [None, None]

    def broken(picture: Any) -> Any:
        raise RuntimeError("a decoder's own")

    restore._array = broken  # type: ignore[method-assign]
    assert list(restore({"image": arrays})["error"]) == ["RuntimeError: a decoder's own; please report this"] * 2


def replica_processes() -> list[int]:
    """Processes of Ray Serve's replicas, on Linux."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if (entry / "cmdline").read_bytes().startswith(b"ray::ServeReplica"):
                    found.append(int(entry.name))
    return found


@contextmanager
def replicas_of(model: Path, jobs: Path) -> Iterator[str]:
    """Two replicas on the cluster that is there."""
    from s3diff.integrations.ray.serving import Replicas, serve_until

    settings = ServiceSettings(models=[str(model)], device="cpu", job_store=str(jobs), folder=str(jobs.parent))
    port, started, is_over = free_ports(1)[0], threading.Event(), threading.Event()
    given = {"port": port, "is_over": is_over, "on_start": started.set}
    thread = threading.Thread(
        target=serve_until, args=(settings, Replicas(num=2, cpus=0.5, gpus=0.5, grace_seconds=5)), kwargs=given
    )
    thread.start()
    try:
        while not started.wait(1):
            assert thread.is_alive(), "no replica has started"
        yield f"http://127.0.0.1:{port}"
    finally:
        is_over.set()
        thread.join(120)


def restored_at(url: str, content: bytes) -> bytes:
    """What a plain program gets that asks again when it is told to."""
    while True:
        files, fields = {"picture": ("a.png", content)}, {"scale": "2"}
        answer = httpx.post(f"{url}/api/v1/restore", files=files, data=fields, timeout=300)
        if answer.status_code == 200:
            return answer.content
        assert answer.status_code == 503, answer.text
        time.sleep(float(answer.headers["Retry-After"]))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the replicas' processes in /proc")
def test_every_client_gets_its_picture_when_a_replica_dies(
    small: Path, restorer: Any, tmp_path: Path, cluster: None
) -> None:
    import ray

    from s3diff.client import Client
    from s3diff.options import RestoreOptions

    (tmp_path / "a.png").write_bytes(photo(24, 20))
    restorer.restore(tmp_path / "a.png", RestoreOptions(scale=2)).save(tmp_path / "b.png")
    content, expected = (tmp_path / "a.png").read_bytes(), (tmp_path / "b.png").read_bytes()
    with replicas_of(small, tmp_path / "jobs") as url, Client(url) as client, ThreadPoolExecutor(8) as pool:
        assert httpx.get(url).status_code == 200
        assert httpx.get(f"{url}/readyz").json() == {"status": "ok"}
        assert not ray.available_resources().get("GPU"), "two replicas have half of the GPU each"
        assert restored_at(url, content) == expected
        jobs = [client.submit(content, name="a.png", scale=2) for _ in range(24)]
        waiting = [pool.submit(job.result) for job in jobs[:4]]
        plain = [pool.submit(restored_at, url, content) for _ in range(4)]
        before = replica_processes()
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        assert [each.result(300) for each in plain] == [expected] * 4
        assert [each.result(300).content for each in waiting] == [expected] * 4
        assert [job.result().content for job in jobs] == [expected] * 24
        for job in jobs:
            job.end()
    assert not replica_processes()
    left = [path.name for kind in ("kept", "live") for path in (tmp_path / "jobs" / kind).iterdir()]
    unfinished = [name for name in left if name.startswith(".s3diff-")]  # of the one that was killed
    assert sorted(left) == sorted(unfinished), "nothing is left of jobs that were removed"
    assert len(unfinished) <= 2
