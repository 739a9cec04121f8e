"""Run the tests in processes, say where test data lies, and define the fixtures that several files share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # imported inside fixtures: the process that only hands out tests needs no torch
    from command_runs import Command
    from page_server import KeptWindow
    from s3diff import Restorer
    from s3diff.serving.service import RestorationService
    from test_page_browser import Seen

# A shell's background job ignores Ctrl-C, and so would every command that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent
GOLDENS = Path(__file__).resolve().parent / "goldens"
#: What one process of the whole suite takes at its peak, with its share of what the tests start, and a margin.
PROCESS_BYTES = 2 * 2**30


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run a whole folder of tests in several processes; ``-n`` decides otherwise, and what is named runs right here.

    A process starts with some seconds of imports, too many for one file or a handful of tests.
    """
    option = config.option
    if hasattr(config, "workerinput"):  # one of those processes, which must start none of its own
        return
    if not hasattr(option, "numprocesses"):  # no pytest-xdist: one process, and every test passes there as well
        return
    if option.numprocesses is None:
        names_tests = option.keyword or not all(Path(argument).is_dir() for argument in config.args)
        alone = names_tests or option.usepdb or option.collectonly or option.capture == "no"
        option.numprocesses = 0 if alone else num_processes()
    if option.numprocesses and option.dist == "no":
        option.dist = "worksteal"  # neighbours stay together, with the fixtures that they share, until one runs dry
    if option.numprocesses:
        # Each process computes on one core; two threads each would only take turns. What they start inherits it.
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def num_processes() -> int:
    """As many processes as there are cores to use and memory to hold them; 0, no other process, when that is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory_bytes = free_memory_bytes()
    if memory_bytes is not None:
        cores = min(cores, memory_bytes // PROCESS_BYTES)
    return cores if cores > 1 else 0


def free_memory_bytes() -> int | None:
    """Memory that Linux would hand out, elsewhere all that the machine has; None where the system does not say."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def goldens_path(name: str) -> Path:
    """A golden file or folder inside the repository; its absence is a failure, never a skip."""
    path = GOLDENS / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing from the clone; goldens are committed files")
    return path


def shared_path(name: str) -> Path:
    """Data that lies beside the project (``../shared``); the test is skipped, with the reason, where it does not."""
    root = Path(os.environ.get("S3DIFF_SHARED", REPOSITORY.parent / "shared"))
    path = root / name
    if not path.exists():
        pytest.skip(f"needs {name} beside the project (../shared), which is not part of a clone")
    return path


@pytest.fixture(scope="session", autouse=True)
def _state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What runs note for later ones stays out of the user's folders, in processes that tests start as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S3DIFF_STATE", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the command in this process; an exception that it lets through fails the test."""
    from command_runs import Outcome
    from s3diff.apps import restore_display
    from s3diff.apps.cli import main
    from s3diff.folders import progress

    # On a slow machine a small picture may be a long run; what is printed must not depend on that.
    monkeypatch.setattr(restore_display, "_LINE_SECONDS", 3600.0)
    monkeypatch.setattr(progress, "_LONG_SECONDS", 3600.0)

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["s3diff", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ending:
            main()
        captured = capsys.readouterr()
        return Outcome(int(ending.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def tiny() -> Path:
    """The folder of the goldens' tiny model, a small SD-Turbo. Read only."""
    from golden_models import tiny_model_folder

    return tiny_model_folder()


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model of the ``compact`` kind. Read only."""
    from tiny_models import save_compact

    folder = tmp_path_factory.mktemp("models") / "small"
    save_compact(folder)
    return folder


@pytest.fixture(scope="session")
def few_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model with few layers, which other runtimes take in seconds. Read only."""
    from tiny_models import save_few_layers

    folder = tmp_path_factory.mktemp("models") / "few"
    save_few_layers(folder)
    return folder


@pytest.fixture(scope="session")
def restorer(small: Path) -> Restorer:
    """The tiny model of the ``compact`` kind at work, for tests that need a model, not the shipped one."""
    from s3diff import Restorer

    return Restorer.from_pretrained(small, device="cpu", precision="float32")


@pytest.fixture(scope="session")
def compact() -> Restorer:
    """The shipped model at work."""
    from s3diff import Restorer

    return Restorer.from_pretrained("compact", device="cpu", precision="float32")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small pictures to train with. Read only."""
    from training_runs import write_photos

    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, RestorationService]]:
    """The service with its page and the shipped model: its address, and the service itself."""
    from page_server import page_server

    with page_server() as (address, service):
        yield address, service


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; closed with the module, as tests with an event loop of their own cannot run meanwhile."""
    from page_server import chromium

    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def address(small: Path) -> Iterator[str]:
    """A page of a service of the module's own, or of S3DIFF_SERVICE."""
    from page_server import page_for_browsers

    with page_for_browsers(small) as (address, _):
        yield address


@pytest.fixture(scope="module")
def kept_windows(browser: Any) -> Callable[..., KeptWindow]:
    """A window of the browser for all tests that need none of their own; keywords make one of another kind."""
    from page_server import KeptWindow

    kept: dict[tuple[tuple[str, Any], ...], KeptWindow] = {}

    def window(**about: Any) -> KeptWindow:
        return kept.setdefault(tuple(sorted(about.items())), KeptWindow(browser, **about))

    return window


@pytest.fixture
def page_of(kept_windows: Callable[..., KeptWindow], address: str) -> Iterator[Callable[..., Seen]]:
    """Open the page, once for each kind of window; what it complained of fails the test."""
    from test_page_browser import Seen

    windows: list[KeptWindow] = []
    pages: list[Seen] = []

    def opened(width: int = 1366, height: int = 768, color_scheme: str = "light", **about: Any) -> Seen:
        window = kept_windows(**about)
        assert window not in windows, "the page that is open would be left"
        windows.append(window)
        pages.append(Seen(window.page(address, width, height, color_scheme), address))
        return pages[-1]

    yield opened
    for window in windows:
        window.leave()
    assert [each for page in pages for each in page.complaints] == []


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket of an S3 server on the loopback; the environment holds what its clients need."""
    pytest.importorskip("obstore", reason="needs the extra cluster")
    from object_store import CREDENTIALS, s3_server
    from s3diff.folders.stores import open_store

    with pytest.MonkeyPatch.context() as patch, s3_server(tmp_path_factory.mktemp("s3")) as address:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": address}.items():
            patch.setenv(name, value)
        open_store("s3://testing").write("made", b"", replace=True)
        yield "s3://testing"


@pytest.fixture(scope="session")
def gs(s3: str) -> Iterator[str]:
    """A bucket of Google's interface; the environment holds what its clients need."""
    from object_store import google_server
    from s3diff.folders.stores import open_store

    with pytest.MonkeyPatch.context() as patch, google_server(os.environ["AWS_ENDPOINT_URL"]) as environment:
        for name, value in environment.items():
            patch.setenv(name, value)
        open_store("s3://google").write("made", b"", replace=True)
        yield "gs://google"


@pytest.fixture(scope="session")
def az(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A container of an Azure server on the loopback; the environment holds what its clients need."""
    pytest.importorskip("obstore", reason="needs the extra cluster")
    from object_store import azure_server

    with pytest.MonkeyPatch.context() as patch, azure_server(tmp_path_factory.mktemp("azure")) as environment:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield "az://testing"


@pytest.fixture
def make(small: Path, tmp_path: Path) -> Iterator[Callable[..., RestorationService]]:
    """A service with a tiny model; keywords are limits. ``started=False`` leaves everything in the queue."""
    from s3diff.serving.limits import ServiceLimits, ServiceSettings
    from s3diff.serving.service import RestorationService

    made = []

    def new(
        *, started: bool = True, place: str | Path = small, job_store: str | None = None, **limits: Any
    ) -> RestorationService:
        service = RestorationService(ServiceSettings(
            models=[place], device="cpu", precision="float32", limits=ServiceLimits(**limits), folder=tmp_path,
            job_store=job_store,
        ))  # fmt: skip
        made.append(service)
        return service.start() if started else service

    yield new
    for service in made:
        service.close(0)
