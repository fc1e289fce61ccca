"""CPU threads for the time of a call: how many, and how they wait for each other."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import torch

_process = os.getpid()
_lock = threading.Lock()
_blocks = 0
"""Number of blocks of `limited_threads` that some thread is in."""
_before = 0, 0
"""Threads of PyTorch and OpenCV before the first of them."""


def available_cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def limited_threads(threads: int | None) -> Iterator[None]:
    """Let PyTorch and OpenCV compute with that many threads within the block; None leaves them as they are.

    A process forked from the one that imported this computes in one thread: OpenMP would wait for the others, which are in the
    parent only.

    Both libraries know one number for the whole process: of blocks in several Python threads the last one to begin counts,
    and when the last of them ends, the numbers are what they were before the first.
    """
    global _blocks, _before
    if was_forked():
        threads = 1
    if threads is None:
        yield
        return
    with _lock:
        if _blocks == 0:
            _before = torch.get_num_threads(), cv2.getNumThreads()
        _blocks += 1
        before = _before
        torch.set_num_threads(threads)
        cv2.setNumThreads(0 if was_forked() else threads)  # 0 leaves OpenCV's own threads alone, too
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if _blocks == 0:
                cv2.setNumThreads(before[1])
            torch.set_num_threads(before[0])  # OpenMP's number is each thread's own


@contextmanager
def patient_threads() -> Iterator[None]:
    """Let PyTorch's threads sleep within the block while they wait for each other, if other programs want their CPUs.

    OpenMP's threads spin while they wait. Alone on a machine that is fastest; beside other programs they burn the time that
    the thread they wait for needs, and a pass takes ten times as long. GNU's OpenMP gives up spinning at once where a
    process has more OpenMP threads than CPUs (its manual, GOMP_SPINCOUNT), so some threads of no work are added for the
    time of the block. Number of threads and results stay as they are. Without effect in a
    forked process and elsewhere than on Linux.
    """
    threads = torch.get_num_threads()
    everywhere = os.cpu_count() or 1
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else everywhere
    may_spin = sys.platform == "linux" and threads > 1 and not was_forked()
    if not may_spin or round(_threads_of_others() * cpus / everywhere) + threads <= cpus:
        yield
        return
    team = max(2, cpus - threads + 2)  # the thread that starts them is one of them, but none of OpenMP's count
    ready, done = threading.Event(), threading.Event()

    def idle() -> None:
        torch.set_num_threads(team)
        torch.empty(team * 2**15).zero_()  # its least part for each thread
        torch.set_num_threads(threads)
        ready.set()
        done.wait()

    thread = threading.Thread(target=idle, daemon=True)
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _threads_of_others() -> int:
    """Number of other processes' threads that compute or wait for a CPU, at this moment (proc(5))."""
    try:
        own = sum(
            path.read_bytes().rpartition(b")")[2].split()[0] == b"R" for path in Path("/proc/self/task").glob("*/stat")
        )
        # after them: a thread of this process that falls asleep in between must not look like one of another
        running = int(Path("/proc/loadavg").read_text().split()[3].split("/")[0])
    except OSError:  # not every sandbox has it
        return 0
    return running - own


def was_forked() -> bool:
    """Whether this process was forked from the one that imported this module."""
    return os.getpid() != _process
