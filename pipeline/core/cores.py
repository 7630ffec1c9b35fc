"""How many processor cores this process may use: its affinity, and the limits of its container.

``docker run --cpus 2``, a limit of Kubernetes or ``CPUQuota`` of systemd leave all cores of the
machine in sight and stop the process for the rest of each tenth of a second once it has used its
share. 64 threads on a share of two cores then mostly wait for each other.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def core_count(*, root: Path = ROOT) -> int:
    """Cores that this process may use.

    Args:
        root: Folder that holds ``proc`` and ``sys``.
    """
    return core_limit(root=root) or _visible_cores()


def core_limit(*, root: Path = ROOT) -> int | None:
    """Cores that control groups leave of those in sight; None where they leave all.

    A share of one and a half cores counts as two.

    Args:
        root: Folder that holds ``proc`` and ``sys``.
    """
    share = min(_shares(root), default=math.inf)
    return None if share >= _visible_cores() else max(1, math.ceil(share))


def _visible_cores() -> int:
    """Cores on which the system may run this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class _Mount:
    """Where a hierarchy of control groups can be seen.

    Attributes:
        kind: ``cgroup2``, or ``cgroup`` for the first version.
        options: Of its file system; in the first version its controllers are among them.
        top: The group that is seen at its root: in a container, often the container's.
        point: The folder.
    """

    kind: str
    options: frozenset[str]
    top: PurePosixPath
    point: Path


def _shares(root: Path) -> Iterator[float]:
    """Cores' worth of time of this process's groups and of all above them, as far as they say.

    A line of /proc/self/cgroup is ``number:controllers:path``, in the second version ``0::path``
    (cgroups(7)).
    """
    mounts = list(_mounts(root))
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in mounts:
            if controllers and "cpu" in mount.options and mount.kind == "cgroup":
                read = _quota
            elif not controllers and mount.kind == "cgroup2":
                read = _maximum
            else:
                continue
            for folder in _folders(mount, PurePosixPath(path)):
                try:
                    share = read(folder)
                except (OSError, ValueError):
                    continue
                yield share


def _folders(mount: _Mount, group: PurePosixPath) -> Iterator[Path]:
    """Folder of a group and of those above it, as far as they can be seen."""
    inside = group.is_relative_to(mount.top) and ".." not in group.parts
    folder = mount.point
    yield folder
    for part in group.relative_to(mount.top).parts if inside else ():
        folder /= part
        yield folder


def _maximum(folder: Path) -> float:
    """Cores' worth of time by ``cpu.max``: ``max 100000`` or ``200000 100000``, in microseconds."""
    quota, period = (folder / "cpu.max").read_text().split()
    return _share(quota, period)


def _quota(folder: Path) -> float:
    """The same in the first version, where a quota of -1 is none."""
    quota = (folder / "cpu.cfs_quota_us").read_text()
    return _share(quota, (folder / "cpu.cfs_period_us").read_text())


def _share(quota: str, period: str) -> float:
    time, each = int(quota) if quota != "max" else 0, int(period)
    return time / each if time > 0 and each > 0 else math.inf


def _mounts(root: Path) -> Iterator[_Mount]:
    """Lines of /proc/self/mountinfo (proc_pid_mountinfo(5)) that mount control groups."""
    for line in _lines(root / "proc/self/mountinfo"):
        head, _, tail = line.partition(" - ")
        fields, others = head.split(), tail.split()
        if len(fields) < 6 or len(others) < 3 or others[0] not in ("cgroup", "cgroup2"):
            continue
        top, point = (PurePosixPath(_unescaped(field)) for field in fields[3:5])
        options = frozenset(others[2].split(","))
        yield _Mount(others[0], options, top, root.joinpath(*point.parts[1:]))


def _unescaped(field: str) -> str:
    r"""Blanks in names are written as ``\040``."""
    return field.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
