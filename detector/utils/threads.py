"""Number of CPU threads for the time of a call."""

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import torch


@contextmanager
def limited_threads(threads: int | None) -> Iterator[None]:
    """Let PyTorch and OpenCV compute with that many threads within the block; None leaves them as they are."""
    if threads is None:
        yield
        return
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
