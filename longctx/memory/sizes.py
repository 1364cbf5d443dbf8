"""Counts of bytes for people to read, and the memory of this machine and process. Free of jax."""

import pathlib
import resource
import sys

_CGROUP = pathlib.Path("/sys/fs/cgroup")


def readable(count: int) -> str:
    """A count of bytes with a unit: "2.81 GB", "3.1 MB"."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def free_memory() -> int | None:
    """Bytes that a process can still take without swapping; None where the system (not Linux) does not say.

    The smaller of MemAvailable in /proc/meminfo and what the limit of this process's container leaves.
    """
    lines = _read(pathlib.Path("/proc/meminfo")).splitlines()
    limits = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    limit, used = _read(_CGROUP / "memory.max"), _read(_CGROUP / "memory.current")
    if limit.strip().isdecimal() and used.strip().isdecimal():
        files = [
            line.split()[1]
            for line in _read(_CGROUP / "memory.stat").splitlines()
            if line.startswith(("active_file ", "inactive_file "))
        ]  # read, and dropped when memory is short
        limits.append(max(int(limit) - int(used) + sum(map(int, files)), 0))
    return min(limits, default=None)


def peak_resident() -> int:
    """The most bytes of memory that this process has taken since it started, or since the system was told to reset."""
    for line in _read(pathlib.Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM:"):  # unlike ru_maxrss, not inherited from the parent
            return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
