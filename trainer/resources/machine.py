"""Resources of this machine: free memory within the limits of its cgroups, and the speed of a disk."""

import os
import re
import tempfile
import time

from configs.errors import UserError

PROBE_BYTES = 128_000_000
_CGROUPS = "/sys/fs/cgroup"


def free_memory() -> tuple[int, str]:
    """(bytes available to a new process, what limits them)."""
    import psutil

    free, limit = psutil.virtual_memory().available, "free memory"
    for room in _cgroup_rooms():
        if room < free:
            free, limit = room, "cgroup limit"
    return free, limit


def _cgroup_rooms() -> list[int]:
    """Bytes left under the memory limit of each cgroup (version 1 or 2) of this process."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return []
    rooms = []
    for _, controllers, path in lines:
        if controllers == "":
            root, names = _CGROUPS, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root, names = f"{_CGROUPS}/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):  # in a container the path may be the host's: then only / exists
            folder = "/".join([root, *parts[:depth]])
            limit, used = (_number(f"{folder}/{name}") for name in names)
            if limit is not None and used is not None:
                rooms.append(max(limit - used + _cached_files(folder), 0))
    return rooms


def _cached_files(folder: str) -> int:
    """Bytes of a cgroup's usage that are cached files, which the kernel drops when memory is needed."""
    try:
        with open(f"{folder}/memory.stat", encoding="utf-8") as file:
            stat = dict(line.split() for line in file)
    except (OSError, ValueError):
        return 0
    return int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))


def _number(path: str) -> int | None:
    try:
        with open(path, encoding="utf-8") as file:
            return int(file.read())
    except (OSError, ValueError):  # no such cgroup, or "max"
        return None


def existing_parent(path: str) -> str:
    """The nearest directory at or above `path` that exists."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def directory_bytes(path: str) -> int:
    """Bytes of all files in a directory; 0 if there is none."""
    return sum(
        os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names
    )


def disk_speed(directory: str) -> float:
    """Bytes per second at which PROBE_BYTES are written to a local directory and synced.

    Raises:
      UserError: it cannot be written.
    """
    block = os.urandom(4_000_000)
    try:
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".lazytower-plan-") as file:
            started = time.monotonic()
            for _ in range(PROBE_BYTES // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            return PROBE_BYTES / (time.monotonic() - started)
    except OSError as error:
        raise UserError(f"output.path: {directory} cannot be written ({error.strerror})") from None


def peak_resident() -> int:
    """Largest resident set of this process so far (unlike ru_maxrss, not that of its parent)."""
    with open("/proc/self/status", encoding="utf-8") as status:
        [kibibytes] = re.findall(r"VmHWM:\s*(\d+) kB", status.read())
    return 1024 * int(kibibytes)
