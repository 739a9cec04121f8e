"""Folders and object stores: list, read, write whole objects; plan a run over them, and go on after interruptions."""

from __future__ import annotations

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from command_runs import run_python
from s3diff.errors import OptionError, OutputError, PictureError, S3DiffError, StoreError
from s3diff.folders import store_worker, stores
from s3diff.folders.manifest import MANIFEST_FOLDER, Flight, Manifest, read_manifest, run_id
from s3diff.folders.store_plan import StoreJob, StorePlan, leave_out_done, plan_store_jobs
from s3diff.folders.store_worker import StoreWorker, WorkerOptions
from s3diff.folders.stores import (
    AlreadyThereError,
    FolderStore,
    Store,
    StoreRefusedError,
    fetch,
    is_address,
    open_store,
    split_address,
)
from s3diff.options import OutputOptions, RestoreOptions
from s3diff.restoration.result import Result

if TYPE_CHECKING:
    from command_runs import Command
    from s3diff import Restorer

RUN = {"model": "tiny", "options": {}}


@pytest.fixture(params=["folder", "s3", "gs", "az"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty folder, and an empty place in each kind of object store."""
    if request.param == "folder":
        return open_store(str(tmp_path / "output"))
    return open_store(f"{request.getfixturevalue(request.param)}/{tmp_path.name}/output")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of five pictures and what else lies in folders."""
    folder = tmp_path / "input"
    (folder / "deep").mkdir(parents=True)
    for index, name in enumerate(("a.png", "b.jpg", "b.png", "deep/ä b#1%20+.png", "deep/c.webp")):
        random = np.random.default_rng(index)
        Image.fromarray(random.integers(0, 255, (12, 16, 3), np.uint8)).save(folder / name)
    (folder / "bad.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("text")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def planned(pictures: Path | str, store: Store, *, run: Any = RUN, **given: Any) -> tuple[StorePlan, Manifest]:
    plan = plan_store_jobs([str(pictures)], store, recursive=True, **given)
    manifest = Manifest(store, run, run_id())
    leave_out_done(plan, store, manifest)
    return plan, manifest


def worker(store: Store, manifest: Manifest, restorer: Restorer, batch: int = 1) -> StoreWorker:
    return StoreWorker(WorkerOptions(output=store.name, run=RUN, run_id=manifest.run_id, batch=batch), restorer)


def keys(store: Store) -> list[str]:
    return sorted(entry.key for entry in store.entries() if not entry.key.startswith(MANIFEST_FOLDER))


def results(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not path.name.startswith(".")}


# Stores


def test_an_object_appears_once_and_is_replaced_only_on_purpose(store: Store, tmp_path: Path) -> None:
    assert (store.read("x/ä 1%.bin"), store.find("x/ä 1%.bin"), list(store.entries())) == (None, None, [])
    store.write("x/ä 1%.bin", b"first", replace=False)
    first = store.find("x/ä 1%.bin")
    with pytest.raises(AlreadyThereError, match="is there already"):
        store.write("x/ä 1%.bin", b"second", replace=False)
    assert store.read("x/ä 1%.bin") == b"first"
    (tmp_path / "large").write_bytes(os.urandom(6 * 2**20))  # in several parts where a store has them
    store.write("x/ä 1%.bin", tmp_path / "large", replace=True)
    assert store.read("x/ä 1%.bin") == (tmp_path / "large").read_bytes()
    assert first is not None
    assert first.stamp != store.find("x/ä 1%.bin").stamp  # type: ignore[union-attr]
    store.write("y.bin", b"", replace=False)
    assert [entry.key for entry in store.entries("x")] == ["x/ä 1%.bin"]
    store.remove("x/ä 1%.bin")
    store.remove("x/ä 1%.bin")
    assert [entry.key for entry in store.entries()] == ["y.bin"]


@pytest.mark.parametrize("name", ["ftp://host/x", "s3://", "s3:///key", "http://host/x"])
def test_an_address_of_no_store_is_one_line(name: str) -> None:
    assert is_address(name)
    with pytest.raises(OptionError, match="is no address of a store"):
        split_address(name)


class _Listing(BaseHTTPRequestHandler):
    """A bucket with one good key and one that object stores' clients do not read."""

    def do_GET(self) -> None:
        keys = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>1</ETag>"
            "<Size>1</Size></Contents>"
            for key in ("scans/a.png", "scans//b.png")
        )
        body = (
            f"<ListBucketResult><Name>archive</Name><IsTruncated>false</IsTruncated>{keys}</ListBucketResult>".encode()
        )
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing."""


def test_a_key_with_an_empty_part_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Listing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    stores._client.cache_clear()
    try:
        with pytest.raises(StoreError) as raised:
            plan_store_jobs(["s3://archive/scans"], open_store(str(tmp_path)), recursive=True)
    finally:
        stores._client.cache_clear()
        server.shutdown()
        server.server_close()
    line = str(raised.value)
    assert line.startswith("s3://archive/scans: names with an empty part, . or .. are not read (")
    assert '"scans//b.png"' in line
    assert "credentials" not in line


def test_names_of_files_are_no_addresses(tmp_path: Path) -> None:
    assert not is_address((tmp_path / "x").as_uri())
    (tmp_path / "ä b").mkdir()
    store = open_store((tmp_path / "ä b").as_uri())
    assert isinstance(store, FolderStore)
    assert store.root == tmp_path / "ä b"


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("s3", "s3://no-bucket", "no such bucket"),
        ("az", "az://no-bucket", "no such bucket"),
        ("gs", "gs://others", "permission denied"),
    ],
)
def test_a_bucket_that_is_missing_or_closed_is_one_line(
    kind: str, name: str, reason: str, request: pytest.FixtureRequest, pictures: Path, command: Command
) -> None:
    request.getfixturevalue(kind)
    store = open_store(f"{name}/x")
    with pytest.raises(StoreRefusedError, match=reason):
        list(store.entries())
    if kind != "s3":  # the S3 server makes a bucket where something is written
        for replace in (False, True):
            with pytest.raises(StoreRefusedError, match=reason):
                store.write("y", b"y", replace=replace)
    assert reason in command("cluster", "restore", pictures, "-o", store.name, "--dry-run").error
    assert reason in command("cluster", "restore", store.name, "-o", pictures.parent / "out", "--dry-run").error


def test_an_object_that_is_missing_costs_only_itself(s3: str, tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="no such object"):
        fetch(f"{s3}/missing.png", tmp_path, 100)


# Plans


def test_a_prefix_is_planned_as_the_same_folder(pictures: Path, s3: str, tmp_path: Path) -> None:
    source = open_store(f"{s3}/{tmp_path.name}/input")
    for path in pictures.rglob("*"):
        if path.is_file():
            source.write(path.relative_to(pictures).as_posix(), path, replace=False)
    output = open_store(f"{source.name}/restored")  # inside the input: results are no pictures of the next run
    output.write("a.png", b"", replace=False)
    for given in ({"recursive": True}, {}, {"recursive": True, "writing": OutputOptions(format="png")}):
        here = plan_store_jobs([str(pictures)], output, **given)  # type: ignore[arg-type]
        there = plan_store_jobs([source.name], output, **given)  # type: ignore[arg-type]
        assert sorted(job.target for job in here.jobs) == sorted(job.target for job in there.jobs)
        assert [Path(job.source).name for job in there.jobs] == [job.source.rpartition("/")[2] for job in there.jobs]
    assert "no pictures by name: .txt" in str(there.left_out.lines())
    one = plan_store_jobs([f"{source.name}/a.png"], output)
    assert [job.target for job in one.jobs] == ["a.png"]
    some = plan_store_jobs([f"{source.name}/**/[bc].*"], output)
    assert sorted(job.target for job in some.jobs) == ["b.jpg", "b.png", "deep/c.webp"]
    with pytest.raises(PictureError, match="holds no pictures"):
        plan_store_jobs([f"{source.name}/nothing/"], output)


def test_a_list_keeps_the_tree_below_its_common_folder(store: Store, tmp_path: Path) -> None:
    names = ["s3://one/x/a.png", "s3://one/x/y/b.png"]
    assert [job.target for job in plan_store_jobs([], store, listed=names).jobs] == ["a.png", "y/b.png"]
    with pytest.raises(OutputError, match=r"a\.png and .*a\.png would both be written to"):
        plan_store_jobs([], store, listed=["s3://one/x/a.png", "s3://one/x//a.png"])
    out = plan_store_jobs([], store, listed=["s3://one/x/a.png", "s3://one/x/../../../b.png"])
    assert [job.target for job in out.jobs] == ["a.png"]
    assert "would lead out of the output" in out.failed[0][1]


def test_results_never_replace_inputs(pictures: Path) -> None:
    with pytest.raises(OutputError, match="would overwrite the input"):
        plan_store_jobs([str(pictures)], open_store(str(pictures)))


# Runs and manifests


def test_a_worker_restores_as_the_command_does(
    pictures: Path, store: Store, restorer: Restorer, small: Path, command: Command, tmp_path: Path
) -> None:
    ran = command("restore", pictures, "-o", tmp_path / "plain", "-r", "-m", small, "--device", "cpu", "-q")
    assert ran.code == 1
    plan, manifest = planned(pictures, store)
    assert len(plan.jobs) == 6
    done = worker(store, manifest, restorer).restore(plan.jobs)
    assert done.error is None
    failed = [row for row in done.rows if row["state"] == "failed"]
    assert [row["source"] for row in failed] == [str(pictures / "bad.png")]
    assert failed[0]["reason"] in ran.err
    expected = results(tmp_path / "plain")
    assert {key: store.read(key) for key in keys(store)} == expected
    manifest.add(done.rows, done.flight)
    manifest.flush()
    if isinstance(store, FolderStore):  # of a worker that was killed while it wrote
        left = store.root / MANIFEST_FOLDER / ".s3diff-12345678-half.part"
        left.write_bytes(b"half")
        os.utime(left, (1e9, 1e9))
        planned(pictures, store)
        assert not left.exists()
    rows = {row["target"]: row for row in read_manifest(store)}
    assert rows["a.png"]["bytes"] == len(expected["a.png"])
    assert {"blur", "noise", "seconds", "sha256", "stamp"} < set(rows["a.png"])
    assert not [entry.key for entry in store.entries(MANIFEST_FOLDER) if "flight" in entry.key]


def test_batches_give_the_bytes_of_single_pictures(
    pictures: Path, store: Store, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the embedded model, on a CPU; a bad one, one of another size and an animation come in between."""
    from s3diff import Restorer

    embedded = Restorer.from_pretrained("compact", device="cpu")
    Image.new("RGB", (10, 10), "red").save(pictures / "bb.png")
    frames = [Image.new("RGB", (16, 12), color) for color in ("red", "blue")]
    frames[0].save(pictures / "b.gif", save_all=True, append_images=frames[1:])
    command("restore", pictures, "-o", tmp_path / "plain", "-r", "--device", "cpu", "-q")
    expected = results(tmp_path / "plain")
    sizes, whole = [], embedded.restore_batch
    monkeypatch.setattr(
        embedded, "restore_batch", lambda taken, *a, **k: sizes.append(len(taken)) or whole(taken, *a, **k)
    )
    plan, manifest = planned(pictures, store)
    done = worker(store, manifest, embedded, 4).restore(plan.jobs)
    assert [row["target"] for row in done.rows if row["state"] == "failed"] == ["bad.png"]
    assert {key: store.read(key) for key in keys(store)} == expected
    assert sum(sizes) == 5
    assert max(sizes) > 2

    plan = plan_store_jobs([str(pictures)], store, recursive=True)
    leave_out_done(plan, store, Manifest(store, {"other": 1}, run_id()), overwrite=True)
    sizes.clear()
    again = worker(store, manifest, embedded, 4)._restored(plan.jobs)
    assert sum(row["state"] == "done" for row in again) == 7
    assert sum(sizes) == 5, "what replaces an object runs in batches as well"
    assert {key: store.read(key) for key in keys(store)} == expected


def test_a_batch_that_fails_costs_one_picture(
    pictures: Path, store: Store, restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(restorer: Restorer, sources: list[Any], *_: Any, **__: Any) -> Any:
        raise RuntimeError("one of them is broken")

    def restore_one(restorer: Restorer, source: Any, *given: Any, **more: Any) -> Any:
        if source.picture.path is not None and Path(source.picture.path).name == "b.png":
            raise RuntimeError("broken")
        return whole(restorer, source, *given, **more)

    whole = type(restorer).restore
    monkeypatch.setattr(type(restorer), "restore_batch", fails)
    monkeypatch.setattr(type(restorer), "restore", restore_one)
    plan, manifest = planned(pictures, store)
    rows = {row["target"]: row for row in worker(store, manifest, restorer, 8).restore(plan.jobs).rows}
    assert sorted(target for target, row in rows.items() if row["state"] == "failed") == ["b.png", "bad.png"]
    assert "broken; please report this" in rows["b.png"]["reason"]
    assert keys(store) == ["a.png", "b.jpg", "deep/c.webp", "deep/ä b#1%20+.png"]


@pytest.mark.parametrize("batch", [1, 8])
def test_an_unexpected_error_of_writing_costs_one_picture(
    pictures: Path, store: Store, restorer: Restorer, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    def save(result: Any, path: Path, *given: Any, **more: Any) -> Any:
        if Path(path).name == "b.png":
            raise RuntimeError("broken")
        return whole(result, path, *given, **more)

    whole = Result.save
    monkeypatch.setattr(Result, "save", save)
    plan, manifest = planned(pictures, store)
    done = worker(store, manifest, restorer, batch).restore(plan.jobs)
    assert done.error is None
    failed = {row["target"]: row["reason"] for row in done.rows if row["state"] == "failed"}
    assert sorted(failed) == ["b.png", "bad.png"]
    assert "RuntimeError: broken; please report this" in failed["b.png"]
    assert len(keys(store)) == 4


def test_large_pictures_are_not_worker(pictures: Path, store: Store, restorer: Restorer) -> None:
    from s3diff.folders.picture_runners import LocalRunner
    from s3diff.restoration.frames_and_pages import open_source

    runner = LocalRunner(restorer, RestoreOptions(scale=2), OutputOptions(), batch=8)
    opened = {}
    for side in (350, 370):  # the networks work at four times the size
        Image.new("RGB", (side, side)).save(pictures / "a.png")
        opened[side] = open_source(pictures / "a.png", pictures / "z.png", RestoreOptions(scale=2))
    assert runner.batch_key(opened[350]) == (350, 350)
    assert runner.batch_key(opened[370]) is None
    assert [runner.is_enough([opened[350]] * num) for num in (1, 2, 3)] == [False, False, True]


#: Runs a task in a process that gets so many bytes more than it has once the model is loaded.
LITTLE_MEMORY = """
import json, resource, sys
from pathlib import Path
from s3diff.folders.store_plan import StoreJob
from s3diff.folders.store_worker import StoreWorker, WorkerOptions

output, model, more, *sources = sys.argv[1:]
worker = StoreWorker(WorkerOptions(output=output, run={}, run_id="1", model=model, device="cpu", threads=1))
jobs = [StoreJob(source, Path(source).name, "1") for source in sources]
worker.restore(jobs[:1])
has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (has + int(more), resource.RLIM_INFINITY))
print(json.dumps(worker.restore(jobs[1:]).rows))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process")
def test_a_picture_that_is_too_large_for_a_workers_memory_is_named(tmp_path: Path, small: Path) -> None:
    for name, side in (("first.png", 16), ("a.png", 16), ("large.png", 3000), ("b.png", 16)):
        Image.new("RGB", (side, side), "red").save(tmp_path / name)
    names = [str(tmp_path / name) for name in ("first.png", "a.png", "large.png", "b.png")]
    done = run_python("-c", LITTLE_MEMORY, str(tmp_path / "out"), str(small), str(300 * 2**20), *names)
    rows = {row["target"]: row for row in json.loads(done.stdout)}
    assert {target: row["state"] for target, row in rows.items()} == {
        "a.png": "done", "large.png": "failed", "b.png": "done",
    }  # fmt: skip
    assert rows["large.png"]["reason"].startswith(f"{tmp_path / 'large.png'}: not enough memory")
    assert keys(open_store(str(tmp_path / "out"))) == ["a.png", "b.png", "first.png"]


def test_a_file_that_is_too_large_is_named_before_it_is_read(
    pictures: Path, store: Store, restorer: Restorer, tmp_path: Path
) -> None:
    """Of an object store, before it is downloaded."""
    sizes = {name: (pictures / name).stat().st_size for name in ("a.png", "bad.png")}
    for name in sizes:
        store.write(f"in/{name}", pictures / name, replace=False)
    output = open_store(str(tmp_path / "results"))
    options = RestoreOptions(max_file_bytes=sizes["a.png"] - 1)
    given = WorkerOptions(output=output.name, run=RUN, run_id="1", options=options)
    jobs = [StoreJob(store.address(f"in/{name}"), name, "") for name in sizes]
    rows = StoreWorker(given, restorer).restore(jobs).rows
    assert f"has {sizes['a.png']} bytes, the limit is {sizes['a.png'] - 1}" in rows[0]["reason"]
    assert "has" not in rows[1]["reason"]
    if not isinstance(store, FolderStore):
        (tmp_path / "scratch").mkdir()
        with pytest.raises(PictureError, match="the limit is 9;"):
            fetch(jobs[0].source, tmp_path / "scratch", 9)
        assert not list((tmp_path / "scratch").iterdir())


def test_a_run_goes_on_wherever_it_was_interrupted(pictures: Path, store: Store, restorer: Restorer) -> None:
    plan, manifest = planned(pictures, store)
    jobs = {job.target: job for job in plan.jobs}
    first = worker(store, manifest, restorer).restore([jobs["a.png"], jobs["b.jpg"]])
    manifest.add(first.rows, first.flight)
    manifest.flush()  # these two are in a part, the next one is in a flight only
    worker(store, manifest, restorer).restore([jobs["b.png"]])
    # This one was put, and its worker died before it could write so.
    Flight(store, RUN, manifest.run_id, [("deep/c.webp", jobs["deep/c.webp"].stamp)], "task")
    store.write("deep/c.webp", b"whole", replace=False)

    again, manifest = planned(pictures, store)
    assert again.skipped == {"done by an earlier run": 4}
    assert [job.target for job in again.jobs] == ["bad.png", "deep/ä b#1%20+.png"]
    manifest.flush()
    assert not [entry.key for entry in store.entries(MANIFEST_FOLDER) if "flight" in entry.key]
    rows = [row for row in read_manifest(store) if row["state"] == "done"]
    assert sorted(row["target"] for row in rows) == ["a.png", "b.jpg", "b.png", "deep/c.webp"]
    assert [row["target"] for row in rows if row.get("recovered")] == ["deep/c.webp"]

    # A source that has changed is another picture, and its result is in the way.
    Image.new("RGB", (9, 9)).save(pictures / "a.png")
    with pytest.raises(OutputError, match=r"a\.png is there already"):
        planned(pictures, store)
    # So is everything that another model or other options made.
    with pytest.raises(OutputError, match="3 more outputs are there already"):
        planned(pictures, store, run={"model": "other"})


def test_a_run_over_other_pictures_keeps_what_an_interrupted_one_has_written_down(
    pictures: Path, store: Store, restorer: Restorer
) -> None:
    plan, manifest = planned(pictures / "a.png", store)
    worker(store, manifest, restorer).restore(plan.jobs)  # in a flight only
    (job,) = planned(pictures / "b.png", store)[0].jobs
    Flight(store, RUN, manifest.run_id, [(job.target, job.stamp)], "task")
    store.write(job.target, b"whole", replace=False)

    other, manifest = planned(pictures / "deep", store)
    done = worker(store, manifest, restorer).restore(other.jobs)
    manifest.add(done.rows, done.flight)
    manifest.flush()
    assert not [entry.key for entry in store.entries(MANIFEST_FOLDER) if "flight" in entry.key]
    for name in ("a.png", "b.png"):
        again, manifest = planned(pictures / name, store)
        assert again.skipped == {"done by an earlier run": 1}
        manifest.flush()
    rows = [row for row in read_manifest(store) if row["state"] == "done"]
    assert sorted(row["target"] for row in rows) == ["a.png", "b.png", *sorted(job.target for job in other.jobs)]
    assert [row["target"] for row in rows if row.get("recovered")] == ["b.png"]


def test_what_nobody_made_here_is_in_the_way(pictures: Path, store: Store) -> None:
    store.write("a.png", b"the user's", replace=False)
    with pytest.raises(OutputError, match="--overwrite to replace, --skip-existing"):
        planned(pictures, store)
    plan, manifest = plan_store_jobs([str(pictures)], store), Manifest(store, RUN, run_id())
    leave_out_done(plan, store, manifest, skip_existing=True)
    assert plan.skipped == {"its output is there": 1}
    plan = plan_store_jobs([str(pictures)], store)
    leave_out_done(plan, store, manifest, overwrite=True)
    assert [job.target for job in plan.jobs if job.replace] == ["a.png"]


def test_a_task_that_is_run_again_repeats_nothing(pictures: Path, store: Store, restorer: Restorer) -> None:
    plan, manifest = planned(pictures, store)
    first = worker(store, manifest, restorer).restore(plan.jobs)
    stamps = {entry.key: entry.stamp for entry in store.entries() if not entry.key.startswith(MANIFEST_FOLDER)}
    again = worker(store, manifest, restorer).restore(plan.jobs)
    assert sorted(map(json.dumps, again.rows)) == sorted(map(json.dumps, first.rows))
    assert stamps == {entry.key: entry.stamp for entry in store.entries() if not entry.key.startswith(MANIFEST_FOLDER)}


def test_another_try_that_nobody_has_heard_of_is_no_failure(
    pictures: Path, store: Store, tmp_path: Path, restorer: Restorer
) -> None:
    """A worker that is cut off puts its result after the plan was made: it is the same result."""
    plan, manifest = planned(pictures, store)
    jobs = [job for job in plan.jobs if job.target in ("a.png", "b.png")]
    other = open_store(str(tmp_path / "other"))
    worker(other, manifest, restorer).restore(jobs)
    store.write("a.png", other.read("a.png") or b"", replace=False)
    store.write("b.png", b"somebody else's", replace=False)
    rows = {row["target"]: row for row in worker(store, manifest, restorer).restore(jobs).rows}
    assert rows["a.png"]["state"] == "done"
    assert rows["b.png"]["state"] == "failed"
    assert "is another file" in rows["b.png"]["reason"]
    assert store.read("b.png") == b"somebody else's"


def test_a_source_that_is_away_ends_the_task_and_the_same_command_goes_on(
    pictures: Path, store: Store, restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures that were finished when the source went away are this run's own, told or not."""
    plan, manifest = planned(pictures, store)
    whole, fetched = store_worker.fetch, []

    def breaking(source: str, *given: Any) -> Path:
        fetched.append(source)
        if len(fetched) > 3:
            raise StoreError(f"{source} cannot be reached")
        return whole(source, *given)

    monkeypatch.setattr(store_worker, "fetch", breaking)
    done = worker(store, manifest, restorer).restore(plan.jobs)
    monkeypatch.undo()
    assert "cannot be reached" in (done.error or "")
    told = done.rows[:-1]  # the last outcome may come or not: it depends on the moment
    assert len(keys(store)) > len([row for row in told if row["state"] == "done"])
    manifest.add(told, done.flight)
    manifest.flush()
    again, manifest = planned(pictures, store)
    assert not {job.target for job in again.jobs} & set(keys(store))
    assert worker(store, manifest, restorer).restore(again.jobs).error is None
    assert len(keys(store)) == 5


def test_no_link_leads_a_result_out_of_a_folder(pictures: Path, tmp_path: Path, restorer: Restorer) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "output").mkdir()
    (tmp_path / "output/deep").symlink_to(tmp_path / "elsewhere")
    store = open_store(str(tmp_path / "output"))
    plan, manifest = planned(pictures, store)
    rows = {row["target"]: row for row in worker(store, manifest, restorer).restore(plan.jobs).rows}
    assert rows["a.png"]["state"] == "done"
    assert rows["deep/c.webp"]["state"] == "failed"
    assert "remove the symbolic link" in rows["deep/c.webp"]["reason"]
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_second_look_leaves_the_unfinished_files_of_live_workers(
    pictures: Path, tmp_path: Path, restorer: Restorer
) -> None:
    store = open_store(str(tmp_path / "output"))
    plan, manifest = planned(pictures, store)
    Flight(store, RUN, manifest.run_id, [(job.target, job.stamp) for job in plan.jobs], "a task")
    alive, dead = (tmp_path / "output" / f".s3diff-12345678-{name}.part" for name in ("alive", "dead"))
    for path in (alive, dead):
        path.write_bytes(b"half")
    os.utime(dead, (1e9, 1e9))
    planned(pictures, store)
    assert (alive.exists(), dead.exists()) == (True, False)


def test_a_picture_that_kills_its_workers_is_found_and_left_alone(
    pictures: Path, store: Store, restorer: Restorer
) -> None:
    plan, manifest = planned(pictures, store)
    jobs = [job for job in plan.jobs if job.target in ("a.png", "b.png")]
    task = "\n".join(job.target for job in jobs)
    for tries in range(5):  # its worker dies while it restores a.png, whoever is with it
        flight = Flight(store, RUN, manifest.run_id, [(job.target, job.stamp) for job in jobs], task)
        if flight.is_suspicious:
            flight.begin_alone("a.png")
        assert flight.num_tries == tries
    rows = worker(store, manifest, restorer).restore(jobs).rows
    assert [(row["target"], row["state"]) for row in rows] == [("a.png", "failed"), ("b.png", "done")]
    assert "its worker died 2 times" in rows[0]["reason"]


def test_a_manifest_of_nobody_is_refused(store: Store) -> None:
    store.write(f"{MANIFEST_FOLDER}/x.jsonl", b'{"a": 1}\n', replace=False)
    with pytest.raises(OutputError, match="is no manifest"):
        Manifest(store, RUN, run_id())


def test_a_store_that_is_away_ends_the_task_and_loses_nothing(
    pictures: Path, s3: str, tmp_path: Path, restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3diff.folders.stores._RETRY_SECONDS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    store = open_store(f"s3://away-{os.getpid()}/x")
    jobs = [StoreJob(str(pictures / "a.png"), "a.png", "")]
    done = StoreWorker(WorkerOptions(output=store.name, run=RUN, run_id="1"), restorer).restore(jobs)
    assert done.rows == []
    assert done.error is not None
    assert "cannot be reached" in done.error
    assert "\n" not in done.error
    with pytest.raises(S3DiffError, match="cannot be reached"):
        list(store.entries())


@pytest.mark.parametrize(
    "faults",
    [{"num_refused": 3}, {"num_cut": 3}, {"num_lost": 1}, {"bytes_per_second": 1e6}],
    ids=["refused", "cut", "lost", "slow"],
)
def test_a_connection_that_breaks_costs_nothing(
    faults: dict[str, Any], s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer that is lost is that of a conditional request: its second try finds its own result."""
    from object_store import BadConnection

    bucket = f"s3://{next(iter(faults)).replace('_', '-')}"
    way = BadConnection(os.environ["AWS_ENDPOINT_URL"], **faults)
    way.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", way.address)  # of a bucket's first use, and so of this one's
    store, data = open_store(f"{bucket}/{tmp_path.name}"), os.urandom(300_000)
    for key in ("one", "two"):
        try:
            store.write(key, data, replace=False)
        except AlreadyThereError:
            assert "num_lost" in faults
        assert store.read(key) == data
    with pytest.raises(AlreadyThereError):
        store.write("one", b"other", replace=False)
    assert way.num_broken == sum(num for name, num in faults.items() if name.startswith("num_"))
    way.close()
