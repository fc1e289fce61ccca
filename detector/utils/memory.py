"""Memory of the process that PyTorch computes in on a CPU, and what is left of the machine's."""

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def tune_malloc() -> None:
    """Have glibc keep what a pass through the network frees for the next one, which would else get it from the system, page by
    page. Holds for the whole process."""
    trim_threshold, mmap_threshold = -1, -3  # names of mallopt(3)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 32 * 2**20)  # its maximum


def free_memory() -> int:
    """Bytes that processes of this machine, or of this container if that is less, can take; no bound where that isn't known."""
    if sys.platform != "linux":
        return sys.maxsize
    free = [sys.maxsize]
    with suppress(OSError):  # a sandbox without /proc
        lines = Path("/proc/meminfo").read_text().splitlines()
        free += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    for limit, usage in CGROUP_FILES:
        try:
            free.append(int(Path(limit).read_text()) - int(Path(usage).read_text()))
        except (OSError, ValueError):  # another version of cgroups, or "max", no limit
            continue
    return min(free)
