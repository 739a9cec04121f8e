"""What docs/cluster.md gives to Kubernetes and SLURM: fields that exist, of the right type, and names of ours."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from importlib import import_module
from typing import Any

import jsonschema_rs
import pytest
import yaml

from conftest import REPOSITORY
from s3diff.errors import OptionError

TEXT = (REPOSITORY / "docs" / "cluster.md").read_text(encoding="utf-8")
MANIFESTS = {each["kind"]: each for each in map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", TEXT, re.S))}
SCRIPTS = [block for block in re.findall(r"```bash\n(.*?)```", TEXT, re.S) if "#SBATCH" in block]


@pytest.fixture(scope="module")
def schema() -> Any:
    """What KubeRay's operator takes."""
    text = (REPOSITORY / "tests" / "data" / "kuberay.json").read_text(encoding="utf-8")
    return jsonschema_rs.validator_for(json.loads(text))


@pytest.mark.parametrize("kind", ["RayJob", "RayService"])
def test_kuberay_takes_the_manifest(kind: str, schema: Any) -> None:
    schema.validate(MANIFESTS[kind])


def _misspell(job: Any) -> None:
    job["spec"]["shutdownAfterJobFinish"] = job["spec"].pop("shutdownAfterJobFinishes")


def _number(job: Any) -> None:
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0  # "0" without its quotes


def _unlimited(job: Any) -> None:
    del job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"]


def _amount(job: Any) -> None:
    (container,) = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    container["resources"]["limits"]["memory"] = "8 GB"


@pytest.mark.parametrize("spoil", [_misspell, _number, _unlimited, _amount])
def test_the_schema_refuses_what_kubernetes_would(spoil: Callable[[Any], None], schema: Any) -> None:
    job = copy.deepcopy(MANIFESTS["RayJob"])
    spoil(job)
    assert not schema.is_valid(job)


def test_the_entrypoint_of_the_job_is_a_command_with_its_options(command: Any) -> None:
    words = MANIFESTS["RayJob"]["spec"]["entrypoint"].split()
    assert words[:3] == ["s3diff", "cluster", "restore"]
    told = command("cluster", "restore", "--help").out
    assert all(word in told for word in words if word.startswith("-"))


def test_ray_serve_takes_the_configuration() -> None:
    schema = pytest.importorskip("ray.serve.schema", reason="needs the extra cluster")
    told = yaml.safe_load(MANIFESTS["RayService"]["spec"]["serveConfigV2"])
    assert schema.ServeDeploySchema(**told).applications[0].import_path == told["applications"][0]["import_path"]


def test_the_manifest_of_the_service_names_what_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    from s3diff.integrations.ray import proxy
    from s3diff.integrations.ray.serving import read_arguments

    spec = MANIFESTS["RayService"]["spec"]
    (told,) = yaml.safe_load(spec["serveConfigV2"])["applications"]
    for path in (told["import_path"], proxy.IMPORT_PATH):
        module, _, name = path.partition(":")
        assert callable(getattr(import_module(module), name))
    with pytest.raises(OptionError, match="no_auth"):
        read_arguments(told["args"])
    monkeypatch.setenv("S3DIFF_TOKEN", "a-token-of-the-secret")
    settings, replicas = read_arguments(told["args"])
    assert (settings.job_store, settings.clients, replicas.most) == (
        "s3://archive/jobs",
        ("a-token-of-the-secret",),
        16,
    )
    with pytest.raises(OptionError, match="replica_count"):
        read_arguments({**told["args"], "replica_count": 2})
    groups = [spec["rayClusterConfig"]["headGroupSpec"], *spec["rayClusterConfig"]["workerGroupSpecs"]]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        assert container["env"] == [{"name": proxy.VARIABLE, "value": proxy.IMPORT_PATH}]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_script_for_slurm_is_bash(script: str) -> None:
    assert script.startswith("#!/bin/bash\n#SBATCH "), "sbatch takes no script without its first line"
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_there_are_scripts_for_slurm() -> None:
    assert len(SCRIPTS) == 2


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_shellcheck_finds_nothing_in_a_script_for_slurm(script: str) -> None:
    done = subprocess.run(
        ["shellcheck", "--shell=bash", "-"], input=script, text=True, capture_output=True, check=False
    )
    assert done.stdout == ""
