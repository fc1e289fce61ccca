"""The processes that read pictures: how many, and how they keep out of the way of the processes that compute."""

import os
import signal

import cv2
import torch

from detector.config import LoaderConfig


def worker_count(config: LoaderConfig) -> int:
    """The number of workers that `config` asks for."""
    return config.workers if config.workers >= 0 else min(os.cpu_count() or 1, 8)


def start_worker(_worker: int) -> None:
    """Run in each worker as it starts: one thread each, and Ctrl-C is the main process's to answer."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
