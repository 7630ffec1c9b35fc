"""Cores: what the affinity shows, less what control groups take, read from a made-up machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.cores import core_count, core_limit

VISIBLE = 64
# Mounts: the unified hierarchy; the first version with its controllers; both at once.
V2 = "30 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "32 23 0:30 / /sys/fs/cgroup/memory rw shared:10 - cgroup cgroup rw,memory\n"
)
OTHERS = "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n22 21 0:4 / /proc rw - proc proc rw\n"

Machine = Callable[..., Path]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes a root folder with 64 cores in sight: its groups, its mounts, and files by name."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(VISIBLE)), raising=False)

    def make(groups: str, mounts: str, files: dict[str, str] | None = None) -> Path:
        own = tmp_path / "proc/self"
        own.mkdir(parents=True)
        (own / "cgroup").write_text(groups)
        (own / "mountinfo").write_text(OTHERS + mounts)
        for name, text in (files or {}).items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),  # a share and a half
        ("5000 100000\n", 1),
        ("50000 10000\n", 5),
        ("6400000 100000\n", VISIBLE),
        ("99000000 100000\n", VISIBLE),
        ("max 100000\n", VISIBLE),
    ],
)
def test_a_container_sees_its_own_limit(machine: Machine, text: str, cores: int) -> None:
    """Its own group is the root of what it sees."""
    root = machine("0::/\n", V2, {"cpu.max": text})
    assert core_count(root=root) == cores
    assert core_limit(root=root) == (None if cores == VISIBLE else cores)


def test_the_tightest_of_a_group_and_those_above_it_counts(machine: Machine) -> None:
    files = {
        "kube/cpu.max": "800000 100000",
        "kube/pod/cpu.max": "300000 100000",
        "kube/pod/one/cpu.max": "max 100000",
        "kube/pod/other/cpu.max": "100000 100000",  # somebody else's
    }
    assert core_count(root=machine("0::/kube/pod/one\n", V2, files)) == 3


def test_the_first_version_is_read_where_its_controller_is_mounted(machine: Machine) -> None:
    files = {
        "cpu,cpuacct/docker/ab/cpu.cfs_quota_us": "400000\n",
        "cpu,cpuacct/docker/ab/cpu.cfs_period_us": "100000\n",
        "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "memory/docker/ab/cpu.cfs_quota_us": "100000\n",
        "memory/docker/ab/cpu.cfs_period_us": "100000\n",
    }
    groups = "4:memory:/docker/ab\n3:cpuacct,cpu:/docker/ab\n1:name=systemd:/docker/ab\n0::/\n"
    unified = V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified ")
    assert core_count(root=machine(groups, V1 + unified, files)) == 4


def test_a_group_is_found_below_the_one_that_is_mounted(machine: Machine) -> None:
    """Containers without a name space of their own see the names that the host uses."""
    files = {"cpu.max": "700000 100000", "inner/cpu.max": "500000 100000"}
    mounts = V2.replace("0:28 / ", "0:28 /docker/ab ")
    assert core_count(root=machine("0::/docker/ab/inner\n", mounts, files)) == 5


def test_a_group_outside_what_is_mounted_has_the_limit_of_what_is(machine: Machine) -> None:
    mounts = V2.replace("0:28 / ", "0:28 /docker/ab ")
    root = machine("0::/../elsewhere\n", mounts, {"cpu.max": "700000 100000"})
    assert core_count(root=root) == 7


def test_blanks_in_the_name_of_a_folder_are_understood(machine: Machine) -> None:
    mounts = V2.replace("/sys/fs/cgroup ", r"/sys/fs/cgroup/a\040b ")
    assert core_count(root=machine("0::/\n", mounts, {"a b/cpu.max": "300000 100000"})) == 3


@pytest.mark.parametrize(
    ("groups", "mounts", "files"),
    [
        ("0::/\n", V2, {}),
        ("0::/\n", V2, {"cpu.max": ""}),
        ("0::/\n", V2, {"cpu.max": "many 100000"}),
        ("0::/\n", V2, {"cpu.max": "100000 0"}),
        ("0::/\n", V2, {"cpu.max": "0 100000"}),
        ("0::/gone\n", V2, {"away/cpu.max": "100000 100000"}),
        ("0::/\n", "", {"cpu.max": "100000 100000"}),
        ("", V2, {"cpu.max": "100000 100000"}),
        ("nonsense\n\n:::\n", "30 23 - cgroup2\n", {"cpu.max": "100000 100000"}),
        ("2:cpu:/\n", V1.replace(",cpuacct", ""), {"cpu/cpu.cfs_quota_us": "100000"}),
    ],
)
def test_what_cannot_be_read_is_no_limit(
    machine: Machine, groups: str, mounts: str, files: dict[str, str]
) -> None:
    root = machine(groups, mounts, files)
    assert (core_count(root=root), core_limit(root=root)) == (VISIBLE, None)


def test_a_machine_without_such_files_has_the_cores_that_are_in_sight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert core_count(root=tmp_path) == 6
