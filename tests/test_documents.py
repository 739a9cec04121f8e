"""The documents: what they tell people to type is run here, or says why not; the site of them is built and searched."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import documents
from command_runs import Command, environment
from conftest import REPOSITORY
from documents import Block
from page_server import chromium

pytestmark = pytest.mark.skipif(not (REPOSITORY / "docs").is_dir(), reason="needs the documents of the repository")

BLOCKS = documents.blocks()
RUN = [block for block in BLOCKS if block.reason is None and block.language != "powershell"]
CHECKS = (REPOSITORY / ".ci/run").read_text("utf-8") if (REPOSITORY / ".ci/run").exists() else ""
ADDRESS = "http://127.0.0.1:8000"
#: The same commands for pictures of some pixels.
SMALLER = (("3840x2160", "96x54"), ("--long-side 4096", "--long-side 96"), ("--megapixels 24", "--megapixels 0.01"))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a reader: every file that the documents' commands name, small."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)

    def picture(name: str, width: int = 20, height: int = 12) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = [Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)) for _ in range(2)]
        several = name in ("dancing.gif", "scan.tif")
        frames[0].save(path, **({"save_all": True, "append_images": frames[1:]} if several else {}))

    for name in (
        *(
            "photo.jpg",
            "assets/photos/kitten.jpg",
            "assets/photos/budgerigar.jpg",
            "dancing.gif",
            "scan.tif",
            "huge.tif",
        ),
        *("holiday/beach.jpg", "holiday/boat.png", "archive/2024/pier.png"),
        *("results/one.png", "truth/one.png", "pairs/lr/one.png"),
    ):
        picture(name)
    for name in ("pairs/hr/one.png", "photos/sea/wave.jpg", "photos/hill.jpg"):
        picture(name, 80, 48)
    for index in range(3):
        picture(f"my_photos/{index}.png", 200, 200)
    return tmp_path


def runs_in_the_checks(command: str) -> bool:
    return command in CHECKS


@pytest.mark.parametrize("block", RUN, ids=lambda b: b.place)
def test_a_block_runs(block: Block, desk: Path, command: Command, request: pytest.FixtureRequest) -> None:
    text = block.text
    if ADDRESS in text:
        pytest.importorskip("fastapi")
        text = text.replace(ADDRESS, request.getfixturevalue("server")[0].rstrip("/"))
    if block.language == "python":
        exec(compile(text, block.place, "exec"), {"__name__": "document"})
        return
    for line in block._replace(text=text).commands:
        for large, small in SMALLER:
            line = line.replace(large, small)
        if runs_in_the_checks(line):
            continue
        words = documents.shell_words(line)
        if words[0] == "s3diff":
            outcome = command(*words[1:])
            assert outcome.code == 0, f"{block.place}: {line}\n{outcome.err}"
        elif words[0] == "curl":
            if shutil.which("curl") is None:
                pytest.skip("needs curl")
            subprocess.run([*words, "--fail", "--silent", "--show-error"], check=True)
            assert Path(words[words.index("-o") + 1]).stat().st_size > 0
        else:
            pytest.fail(f"{block.place}: no test runs {line!r}; write <!-- not run: why --> above the block")


@pytest.mark.parametrize("block", [block for block in BLOCKS if block not in RUN], ids=lambda b: b.place)
def test_a_command_that_is_not_run_is_understood(block: Block) -> None:
    for line in block.commands:
        words = documents.shell_words(line)
        if words[:1] == ["s3diff"] and "..." not in words:
            documents.require_understood(words[1:])


def test_no_command_hides_outside_of_the_blocks() -> None:
    assert not documents.hidden_commands()


def test_commands_in_prose_are_understood() -> None:
    found = documents.commands_in_prose()
    assert len(found) > 20
    for document, code in found:
        words = shlex.split(code)
        if not {"COMMAND", "..."} & set(words):
            try:
                documents.require_understood(words[1:], in_part=True)
            except AssertionError as error:
                raise AssertionError(f"{document}: {error}") from None


def test_the_flags_beside_the_authors_exist() -> None:
    known = documents.flags_of_the_command()
    text = (REPOSITORY / "docs/authors_code.md").read_text("utf-8")
    ours = [row.split("|")[2] for row in text.splitlines() if row.startswith("| ") and row.count("|") == 3]
    flags = [flag for cell in ours for flag in re.findall(r"(?<![\w-])--?[a-z][\w-]*", cell)]
    assert len(flags) > 30
    assert not set(flags) - known


def test_the_scripts_and_tests_that_documents_name_exist() -> None:
    missing = [(document, path.name) for document, path in documents.mentioned_files() if not path.exists()]
    assert not missing


def test_every_link_of_the_site_stays_in_its_folder() -> None:
    """The site is the folder docs: a link out of it works in the repository alone."""
    for document in (REPOSITORY / "docs").glob("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)|src=\"([^\"]+)\"", document.read_text("utf-8")):
            place = (document.parent / (target[0] or target[1])).resolve()
            if not re.match(r"[a-z]+:", target[0]):
                assert place.exists(), f"{document.name} links to {target}"
                assert place.is_relative_to(document.parent), f"{document.name} links to {target}, outside of docs"


# The site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly in a folder of its own."""
    if find_spec("zensical") is None:
        pytest.skip('needs the extra docs (pip install -c constraints.txt -e ".[docs]", Python 3.11 or newer)')
    folder = tmp_path_factory.mktemp("site")
    for name in ("zensical.toml", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(REPOSITORY / name, folder)
    for name in ("docs", "src"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    build = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    built = subprocess.run(
        build, cwd=folder, env=environment(NO_COLOR="1"), capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "site"


@pytest.mark.slow
def test_the_site_has_every_page_and_its_reference(site: Path) -> None:
    for document in (REPOSITORY / "docs").glob("*.md"):
        page = (site / f"{document.stem}.html").read_text("utf-8")
        assert "Traceback" not in page, document.name
    assert "--max-megapixels" in (site / "reference_command.html").read_text("utf-8")
    assert "max_output_pixels" in (site / "reference_options.html").read_text("utf-8")
    python = (site / "reference_python.html").read_text("utf-8")
    assert "restore_folder" in python
    assert "from_pretrained" in python
    assert "one_step_generator" in (site / "tree.html").read_text("utf-8")


@pytest.mark.slow
def test_the_site_leads_to_every_page(site: Path) -> None:
    home = (site / "index.html").read_text("utf-8")
    for document in (REPOSITORY / "docs").glob("*.md"):
        assert re.search(rf'href="(\./)?{document.stem}\.html"', home), f"zensical.toml's nav lacks {document.name}"


@pytest.mark.slow
def test_the_site_asks_no_other_host(site: Path) -> None:
    for page in site.glob("*.html"):
        text = page.read_text("utf-8")
        loaded = [*re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]+)"', text)]
        loaded += re.findall(r'<link[^>]* href="([^"]+)"', text)
        assert not [address for address in loaded if re.match("(https?:)?//", address)], page.name


@pytest.mark.slow
def test_the_site_searches_from_the_disk(site: Path) -> None:
    with chromium() as browser:
        page = browser.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((site / "index.html").as_uri())
        page.locator(".md-search__button").first.click()
        field = page.get_by_placeholder("Search").first
        field.fill("megapixels")
        page.get_by_text("Larger than memory").first.wait_for(timeout=60_000)
        assert field.input_value() == "megapixels"
    assert not [address for address in asked if address.startswith("http")]
