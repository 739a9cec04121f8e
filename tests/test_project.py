"""The project around the code: what is installed, imported, shipped, written down and run by the checks."""

from __future__ import annotations

import ast
import importlib
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import conftest
import s3diff
from command_runs import run_python
from conftest import GOLDENS, REPOSITORY
from s3diff.errors import MissingExtraError
from s3diff.messages import needing
from s3diff.version import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it along there
    import tomli as tomllib

SUPPORTED_PYTHONS = ("3.10", "3.11", "3.12", "3.13")
INSTALL_AND_RESTORE = "pip install -c constraints.txt . && s3diff restore assets/photos/budgerigar.jpg -o restored.png"
INSTALL_AND_TEST = 'pip install -c constraints.txt -e ".[test]" && pytest'
MAX_FILE_BYTES = 20_000_000
MAX_GOLDENS_BYTES = 15_000_000
#: Joined here, so that this file does not name them either.
REGISTRY_HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("pytorch", "org/whl"),
        ("anaconda", "org"),
        ("anaconda", "com"),
        ("pypi", "python", "org"),
    )
)


def project_table() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def direct_requirements() -> list[Requirement]:
    """Of the library and of every extra, without the project's own extras."""
    project = project_table()
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [requirement for requirement in map(Requirement, lines) if requirement.name != project["name"]]


def constraint_lines() -> list[str]:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def output_of(*arguments: str) -> str:
    done = run_python(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tracked_files() -> list[Path]:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("looks at what git tracks; this folder is no git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout
    files = [REPOSITORY / os.fsdecode(name) for name in listed.split(b"\0") if name]
    assert files
    return [path for path in files if path.is_file()]


# Version and imports


def test_the_version_is_one() -> None:
    assert s3diff.__version__ == __version__
    assert "version" in project_table()["dynamic"]
    assert f"\n## [{__version__}]" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert output_of("-m", "s3diff.apps.cli", "--version").strip() == f"s3diff {__version__}"


def test_the_installed_version_is_the_sources() -> None:
    try:
        installed = metadata.version("s3diff")
    except metadata.PackageNotFoundError:
        pytest.skip("s3diff is not installed here, only on the path")
    assert installed == __version__


def test_the_package_is_typed() -> None:
    assert (Path(s3diff.__file__).parent / "py.typed").is_file()


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = output_of("-c", "import sys, s3diff; print(*sys.modules)").split()
    assert "s3diff.options" in loaded
    assert {"torch", "numpy", "PIL", "typer", "rich"}.isdisjoint(loaded)


def test_the_client_imports_nothing_heavy() -> None:
    loaded = output_of("-c", "import sys, s3diff.client; print(*sys.modules)").split()
    assert "s3diff.client" in loaded
    assert {"torch", "numpy", "PIL", "httpx", "transformers", "huggingface_hub"}.isdisjoint(loaded)


def test_every_public_name_exists() -> None:
    for name in s3diff.__all__:
        assert getattr(s3diff, name) is not None


# The processes of the tests


@pytest.mark.parametrize("in_worker", [False, True])
def test_only_the_first_process_of_the_tests_starts_others(in_worker: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest-xdist calls the hook in its workers as well, with ``-n`` not given: they would start workers for ever."""
    monkeypatch.setattr(conftest, "num_processes", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    option = SimpleNamespace(numprocesses=None, dist="no", keyword="", usepdb=False, collectonly=False, capture="fd")
    config = SimpleNamespace(option=option, args=[str(REPOSITORY / "tests")])
    if in_worker:
        config.workerinput = {}
    conftest.pytest_cmdline_main(config)
    assert (option.numprocesses, option.dist) == ((None, "no") if in_worker else (2, "worksteal"))


# The two commands


@pytest.mark.parametrize("command", [INSTALL_AND_RESTORE, INSTALL_AND_TEST])
def test_a_command_of_the_readme_is_what_the_checks_run(command: str) -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert command in re.findall(r"^```bash\n(.*)\n```$", readme, flags=re.MULTILINE), "not a code block of its own"
    checks = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(rf"^run '{re.escape(command)}'", checks, flags=re.MULTILINE)


def test_the_photograph_of_the_first_command_is_there() -> None:
    assert (REPOSITORY / "assets" / "photos" / "budgerigar.jpg").is_file()


def test_every_relative_link_of_the_documents_leads_somewhere() -> None:
    for document in REPOSITORY.glob("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", target):
                assert (REPOSITORY / target).exists(), f"{document.name} links to {target}"


def test_package_indexes_get_no_relative_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """hatchling, which makes the package, is not installed here; its base class holds nothing that this needs."""
    interface = SimpleNamespace(MetadataHookInterface=object)
    monkeypatch.setitem(sys.modules, "hatchling.metadata.plugin.interface", interface)
    hook = runpy.run_path(str(REPOSITORY / "hatch_build.py"))["readme_for_index"]
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    relative = [target for target in re.findall(r"\]\(([^)\s]+)", readme) if not target.startswith("http")]
    assert len(relative) > 15
    repository = "https://example.org/owner/name"
    shown = hook(readme, repository, "1.2")
    for target in relative:
        kind = "raw" if target.endswith((".jpg", ".webp")) else "blob"
        assert f"]({repository}/{kind}/v1.2/{target})" in shown
    for text in (shown, hook(readme, None, "1.2")):
        assert all(re.match("https?:", target) for target in re.findall(r"\]\(([^)\s]+)", text))
        assert "<!--" not in text
        assert 0 < text.index("`pip install s3diff`") < text.index("constraints.txt"), "an index has no such file"


def test_the_installed_description_has_no_relative_link() -> None:
    try:
        description = metadata.metadata("s3diff")["Description"] or ""
    except metadata.PackageNotFoundError:
        pytest.skip("s3diff is not installed here, only on the path")
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    if readme[: readme.index("!")] not in description:
        pytest.skip("the installed s3diff was made from another README")
    assert all(re.match("https?:", target) for target in re.findall(r"\]\(([^)\s]+)", description))


# Constraints


def test_constraints_hold_versions_only() -> None:
    for line in constraint_lines():
        requirement = Requirement(line)
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(requirement.specifier)), line
        assert requirement.url is None
        assert not requirement.extras
    text = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    assert not [sign for sign in ("//", "--", "@", "+") if any(sign in line for line in constraint_lines())], text


@pytest.mark.parametrize("python", SUPPORTED_PYTHONS)
def test_constraints_cover_every_direct_dependency(python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    pinned: dict[str, str] = {}
    for constraint in map(Requirement, constraint_lines()):
        if constraint.marker is None or constraint.marker.evaluate(environment):
            name = canonicalize_name(constraint.name)
            assert name not in pinned, f"{name} is pinned twice for Python {python}"
            pinned[name] = next(iter(constraint.specifier)).version
    for requirement in direct_requirements():
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), str(requirement)
    assert pinned["torch"] == "2.13.0"


def test_the_supported_pythons_are_the_declared_ones() -> None:
    project = project_table()
    declared = [name.rsplit(" ", 1)[1] for name in project["classifiers"] if "Python :: 3." in name]
    assert tuple(declared) == SUPPORTED_PYTHONS
    assert project["requires-python"] == f">={SUPPORTED_PYTHONS[0]}"
    workflow = (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert {f'"{python}"' for python in SUPPORTED_PYTHONS} == set(re.findall(r'python: ("[0-9.]+")', workflow))


def test_conda_uses_the_constraints() -> None:
    lines = (REPOSITORY / "environment.yml").read_text(encoding="utf-8").splitlines()
    assert [line.strip() for line in lines][-2:] == ["- --constraint constraints.txt", "- ."]


# What is shipped


def test_no_tracked_file_names_a_registry(tracked_files: list[Path]) -> None:
    for path in tracked_files:
        content = path.read_bytes().lower()
        for host in REGISTRY_HOSTS:
            assert host.encode() not in content, f"{path.relative_to(REPOSITORY)} names {host}"


def test_no_tracked_file_is_large(tracked_files: list[Path]) -> None:
    assert not {path: size for path in tracked_files if (size := path.stat().st_size) > MAX_FILE_BYTES}


def test_the_goldens_are_small() -> None:
    assert 0 < sum(path.stat().st_size for path in GOLDENS.rglob("*") if path.is_file()) <= MAX_GOLDENS_BYTES


def test_every_photograph_is_credited() -> None:
    notice = (REPOSITORY / "NOTICE").read_text(encoding="utf-8")
    photographs = sorted((REPOSITORY / "assets" / "photos").iterdir())
    assert photographs
    for path in photographs:
        assert f"assets/photos/{path.name}" in notice


def test_the_licence_is_apache() -> None:
    text = (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    assert text.lstrip().startswith("Apache License\n")
    assert "END OF TERMS AND CONDITIONS" in text
    assert project_table()["license"] == "Apache-2.0"


# The import rules


def test_the_import_rules_are_kept() -> None:
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip('lint-imports is not installed (pip install -e ".[dev]")')
    source = Path(s3diff.__file__).parent.parent
    checked = subprocess.run(
        [command, "--no-cache"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(source), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


# Docstrings


#: First words of the summaries of modules and functions; extend the list with a new verb, not with a noun.
VERBS = re.findall(
    r"\w+",
    """
    accept access accumulate adapt add allow announce answer append apply assemble attend augment average begin
    blur bring build call cancel change check choose clip close collect combine compare compress compute connect convert
    copy correlate count cover create cut decide declare decode define degrade deliver describe discriminate
    divide do download draw drop embed encode end enlarge escape estimate evaluate explain export extend extract
    fetch fill filter find finish fit flush fold follow free give go group halve handle hash have hold import
    index join judge keep lay learn leave let limit link list load look make map match measure merge mirror move
    multiply name normalise note number offer open optimise pack pad pair parse pass place plan pool predict
    prepare print process put queue raise read rebuild receive recognise record reduce refuse release remember
    remove render repeat replace report request require resample reshape resize resolve restore return round run
    sample save say scale score search see select send separate serve set share shorten show sign silence skip
    smooth split stack start state step stop store subtract sum take talk tell time trace train transfer translate
    turn undo unpack update upload use validate view wait walk watch work wrap write yield
    """,
)


def test_summaries_of_modules_and_functions_begin_with_a_verb() -> None:
    """Classes and properties name a thing, ``forward`` states shapes, and a recipe's summary is its line in a list."""
    others = []
    for path in sorted(Path(s3diff.__file__).parent.rglob("*.py")):
        if path.name == "recipes.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            name = getattr(node, "name", "the module")
            is_property = any("property" in ast.unparse(each) for each in getattr(node, "decorator_list", ()))
            summary = ast.get_docstring(node)
            if summary is None or is_property or name == "forward":
                continue
            if (first := summary.split()[0].rstrip(",.:;")).lower() not in VERBS:
                others.append(f"{path.name}: {name} begins with {first!r}")
    assert not others


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports inside functions count as well: they only hide a circle. Those for type checkers do not."""
    sources = REPOSITORY / "src"
    paths = {path.relative_to(sources).with_suffix("").parts: path for path in (sources / "s3diff").rglob("*.py")}
    modules = {".".join(parts).removesuffix(".__init__"): path for parts, path in paths.items()}

    def imported(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.ImportFrom) and child.module is not None:
                names = [f"{child.module}.{alias.name}" for alias in child.names]
                yield from (name if name in modules else child.module for name in names)
            yield from imported(child)

    graph = {name: set(imported(ast.parse(path.read_text("utf-8")))) & set(modules) for name, path in modules.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError with the modules of a circle


def test_only_a_package_that_is_missing_asks_for_an_extra() -> None:
    with (
        pytest.raises(MissingExtraError, match=r"^training needs torch: pip install .*train"),
        needing("train", "training needs torch"),
    ):
        importlib.import_module("a_package_that_nobody_has")
    with (
        pytest.raises(ModuleNotFoundError, match=r"s3diff\.a_module_that_is_gone"),
        needing("train", "training needs it"),
    ):
        importlib.import_module("s3diff.a_module_that_is_gone")
