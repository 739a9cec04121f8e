"""Threads: what a container or a scheduler grants, not what the machine has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from command_runs import Command
from s3diff.restoration import process_limits
from s3diff.restoration.process_limits import (
    cpu_quotas,
    granted_cpus,
    let_threads_sleep,
    processor,
    set_threads,
)


def groups(tmp_path: Path, own: str, **files: str) -> tuple[Path, Path]:
    """A tree of control groups, as it is mounted, and the file that names the process's own."""
    mounted, named = tmp_path / "cgroup", tmp_path / "self"
    mounted.mkdir()
    named.write_text(own)
    for name, content in files.items():
        path = mounted / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return mounted, named


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, [1.5]),  # docker run --cpus 1.5
        ("0::/\n", {"cpu.max": "max 100000\n"}, []),
        # A Kubernetes pod below a limit of its own.
        ("0::/pod/one\n", {"pod/one/cpu.max": "max 100000\n", "pod/cpu.max": "400000 100000\n"}, [4.0]),
        # Version 1: the group's name is the host's, what is mounted is the container's.
        (
            "4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "200000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            [2.0],
        ),
        ("1:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, []),
        ("0::/\n", {"cpu.max": "nonsense"}, []),
        ("", {}, []),
    ],
)
def test_quotas(tmp_path: Path, own: str, files: dict[str, str], expected: list[float]) -> None:
    assert cpu_quotas(*groups(tmp_path, own, **files)) == expected


def test_the_least_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(process_limits, "_usable_cpus", lambda: 8)
    monkeypatch.setattr(process_limits, "cpu_quotas", lambda: [3.7, 12.0])
    assert granted_cpus() == 3
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    assert granted_cpus() == 2
    monkeypatch.setattr(process_limits, "cpu_quotas", lambda: [0.5])
    assert granted_cpus() == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_limits, "cpu_quotas", list)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert granted_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_what_torch_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        set_threads(3)
        assert torch.get_num_threads() == 3
        monkeypatch.setattr(process_limits, "granted_cpus", lambda: 2)
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        set_threads(None)
        assert torch.get_num_threads() == 3  # the user's own word
        monkeypatch.delenv("OMP_NUM_THREADS")
        set_threads(None)
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(process_limits, "granted_cpus", lambda: 64)
        set_threads(None)
        assert torch.get_num_threads() == 2  # never more than torch itself takes
    finally:
        torch.set_num_threads(before)


def test_the_flag(command: Command, small: Path, here: Path) -> None:
    before = torch.get_num_threads()
    Image.new("RGB", (8, 6)).save(source := here / "a.jpg")
    try:
        assert command("restore", source, "-o", "a.png", "-m", small, "--threads", "2", "--scale", "1").code == 0
        assert torch.get_num_threads() == 2
        assert "threads" in command("restore", source, "-o", "b.png", "--threads", "0").error
        assert "--server and --threads exclude each other" in (
            command("restore", source, "-o", "b.png", "--threads", "1", "--server", "http://127.0.0.1:9").error
        )
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_wait_asleep_unless_the_environment_says_how(
    given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    let_threads_sleep()
    assert os.environ.get("GOMP_SPINCOUNT") == expected
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)


def test_the_processor_is_named(tmp_path: Path) -> None:
    """Python's platform.processor() is empty, or the family, on Linux."""
    described = tmp_path / "cpuinfo"
    one = "processor\t: {0}\nmodel name\t: AMD EPYC 9B14\nflags\t\t: fpu avx2 avx512f\n\n"
    described.write_text(one.format(0) + one.format(1))
    assert processor(described) == ("AMD EPYC 9B14", ("avx2", "avx512f", "fpu"))
    described.write_text("processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n")
    name, instructions = processor(described)
    assert name.endswith(" 0x41 0xd40")
    assert instructions == ("asimd", "fp")
    assert processor(tmp_path / "none").name
    assert processor().name
