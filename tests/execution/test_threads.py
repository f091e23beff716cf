"""Cores that may be used: counted in trees of files as machines and containers have them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from server.execution.threads import cpu_quota, physical_cores, usable_cores


def write(root: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


def siblings(*lists: str) -> dict[str, str]:
    folder = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    return {folder.format(number): text for number, text in enumerate(lists)}


@pytest.mark.parametrize(
    ("lists", "allowed", "cores"),
    [
        (("0-1", "0-1", "2-3", "2-3"), {0, 1, 2, 3}, 2),
        (("0,2", "1,3", "0,2", "1,3"), {0, 1, 2, 3}, 2),
        (("0,2", "1,3", "0,2", "1,3"), {0, 2}, 1),  # both threads of one core
        (("0,2", "1,3", "0,2", "1,3"), {0, 3}, 2),
        (("0", "1", "2", "3"), {1, 2, 3}, 3),
        ((), {0, 1, 2}, 3),  # nothing is said of them
    ],
)
def test_threads_of_a_core_count_once(
    tmp_path: Path, lists: tuple[str, ...], allowed: set[int], cores: int
) -> None:
    assert physical_cores(allowed, write(tmp_path, siblings(*lists))) == cores


V2 = {"proc/self/cgroup": "0::/pod/serve"}
V1 = {"proc/self/cgroup": "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/"}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        (V2, None),
        (V2 | {"sys/fs/cgroup/pod/serve/cpu.max": "max 100000"}, None),
        (V2 | {"sys/fs/cgroup/pod/serve/cpu.max": "150000 100000"}, 1.5),
        (
            V2
            | {"sys/fs/cgroup/pod/serve/cpu.max": "max 100000", "sys/fs/cgroup/pod/cpu.max": "50000 10000"},
            5.0,
        ),
        (V2 | {"sys/fs/cgroup/cpu.max": "200000 100000"}, 2.0),  # within the container, its group is the root
        (V1, None),
        (
            V1
            | {
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        (
            V1
            | {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            3.0,
        ),
    ],
)
def test_the_strictest_quota_of_all_groups_holds(
    tmp_path: Path, files: Mapping[str, str], quota: float | None
) -> None:
    assert cpu_quota(write(tmp_path, files)) == quota


def test_a_narrower_affinity_mask_is_fewer_cores() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert 1 <= usable_cores() <= len(before)


@pytest.mark.parametrize(("quota", "cores"), [(0.5, 1), (1.9, 1), (2.0, 2), (64.0, 8), (None, 8)])
def test_of_a_quota_the_whole_part_counts(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, cores: int
) -> None:
    monkeypatch.setattr("server.execution.threads.physical_cores", lambda _: 8)
    monkeypatch.setattr("server.execution.threads.cpu_quota", lambda: quota)
    assert usable_cores() == cores
