"""Dockerfile and compose file: nobody here can build them, so what can be checked without an engine is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from s3diff.apps.cli import app as command_line

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
UNIT = (ROOT / "docs" / "s3diff.service").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())


def test_the_image_installs_extras_that_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.search(r'pip install -c constraints.txt "\.\[(.+?)\]"', DOCKERFILE)
    assert named is not None
    assert set(named[1].split(",")) <= set(extras)


def test_what_is_copied_exists_and_reaches_the_builder() -> None:
    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sources
    for source in sources:
        assert (ROOT / source).exists()
        assert source in kept


def test_nobody_runs_as_root_and_no_secret_is_baked_in() -> None:
    users = re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE)
    assert users
    assert all(re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) for user in users)
    assert not re.search(r"^(ENV|ARG) .*TOKEN", DOCKERFILE, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(COMPOSE["services"]))
def test_a_service_of_the_compose_file_is_shut_in(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert f"AS {service['build']['target']}\n" in DOCKERFILE
    assert ":?" in service["environment"]["S3DIFF_TOKEN"]


def test_the_unit_names_options_that_exist() -> None:
    command = re.search(r"^ExecStart=(.+)$", UNIT, re.MULTILINE)
    assert command is not None
    program, subcommand, *words = command[1].split()
    assert (program, subcommand) == ("/opt/s3diff/bin/s3diff", "serve")
    options = {option for parameter in get_command(command_line).commands["serve"].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    place = tmp_path / "s3diff.service"
    place.write_text(UNIT.replace("/opt/s3diff/bin/s3diff", sys.executable))  # which has to exist
    checked = subprocess.run(["systemd-analyze", "verify", place], capture_output=True, text=True, check=False)
    assert [line for line in checked.stderr.splitlines() if place.name in line] == []
