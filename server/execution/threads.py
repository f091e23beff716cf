"""How many cores this process may compute on: what the machine has is not what a container is given."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def usable_cores() -> int:
    """Physical cores in the affinity mask, or as many as the cgroups' CPU quotas pay for; 1 at least.

    Two hardware threads of a core share the units that multiply, so the second one adds only waiting. Of a
    quota the whole part counts: threads beyond it would be stopped in the middle of a step, and the others
    would wait for them.
    """
    cores = physical_cores(_allowed())
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def physical_cores(processors: Collection[int], root: Path = _ROOT) -> int:
    """Cores behind these logical processors; each is one where the system does not say."""
    cpus = root / "sys/devices/system/cpu"
    siblings = (_read(cpus / f"cpu{one}/topology/thread_siblings_list") or str(one) for one in processors)
    return max(1, len(set(siblings)))


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Processors' worth of time that the strictest of our cgroups (1 and 2) grants; None: no limit."""
    return min(_quotas(root), default=None)


def _allowed() -> set[int]:
    """Logical processors that the scheduler may run us on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _quotas(root: Path) -> Iterator[float]:
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        for folder in _folders(root, controllers.split(","), PurePosixPath(path)):
            quota = _quota(folder)
            if quota is not None:
                yield quota


def _folders(root: Path, controllers: Collection[str], path: PurePosixPath) -> Iterator[Path]:
    """The group's and those above it, as a limit on any of them holds; what is not mounted here has none."""
    mounts = [""] if controllers == [""] else ["cpu", "cpu,cpuacct"] if "cpu" in controllers else []
    for mount in mounts:
        for group in (path, *path.parents):
            yield root / "sys/fs/cgroup" / mount / group.relative_to("/")


def _quota(folder: Path) -> float | None:
    """`cpu.max` is version 2's: a quota, or "max", and its period, in microseconds."""
    stated = _read(folder / "cpu.max")
    if stated is None:
        stated = f"{_read(folder / 'cpu.cfs_quota_us') or -1} {_read(folder / 'cpu.cfs_period_us') or 1}"
    quota, _, period = stated.partition(" ")
    return int(quota) / int(period) if quota.isdigit() else None


def _read(path: Path) -> str | None:
    """Without the newline at its end; None where it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return None
