"""Number of CPU threads for the time of a call."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import torch

_process = os.getpid()
_lock = threading.Lock()
_blocks = 0
"""Number of blocks of `limited_threads` that some thread is in."""
_before = 0, 0
"""Threads of PyTorch and OpenCV before the first of them."""


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


def was_forked() -> bool:
    """Whether this process was forked from the one that imported this module."""
    return os.getpid() != _process
