"""Memory of the process that PyTorch computes in on a CPU."""

import ctypes
import sys


def tune_malloc() -> None:
    """Have glibc keep what a pass through the network frees for the next one, which would else get it from the system, page by
    page. Holds for the whole process."""
    trim_threshold, mmap_threshold = -1, -3  # names of mallopt(3)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 32 * 2**20)  # its maximum
