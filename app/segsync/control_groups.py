"""The files that limit a process: a container's, a cluster job's, and of all control groups above it."""

from collections.abc import Iterator
from pathlib import Path

#: What the kernel says of this process's groups, and where their files lie.
CGROUP, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def files_of(controller: str, second: str, first: str) -> Iterator[Path]:
    """Where a limit of this process may stand.

    Args:
        controller: `memory` or `cpu`.
        second: Name of the file in version 2 of control groups.
        first: Its name in version 1.

    Yields:
        The file of the process's own group and of each above it, whether it is there or not.
    """
    groups = CGROUP.read_text().splitlines() if CGROUP.is_file() else []
    for line in (*groups, "0::/", f":{controller}:/"):  # inside a container its own group is the root
        _, controllers, place = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            root, name = (CGROUPS / controllers, first) if controllers else (CGROUPS, second)
            group = Path(place.lstrip("/"))
            yield from (root / above / name for above in (group, *group.parents))
