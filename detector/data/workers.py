"""The processes that read images: how many, and how they keep out of the way of the processes that compute."""

import os
from collections.abc import Iterator
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

from detector.errors import DetectorError
from detector.utils.interrupts import ignore_stop_signals, interrupt_later, stop_signals_blocked


def worker_count(workers: int) -> int:
    """The number of workers to start: as given, or for -1 one per core, at most 8."""
    if workers >= 0:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # that torchrun started on this machine
    return min(max(cores // processes, 1), 8)


def start_worker(_worker: int) -> None:
    """Set up a worker as it starts: one thread, and no stop signal ends it."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    ignore_stop_signals()


def batches_of(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches; Ctrl-C waits while workers start or end, where it would leave their tracebacks or get lost."""
    with interrupt_later(), stop_signals_blocked():
        batches = iter(loader)
    try:
        yield from batches
    except DetectorError as error:  # from a worker it comes with its traceback as text, the message last
        last_line = error.args[0].strip().splitlines()[-1]
        raise type(error)(last_line.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or not any(word in str(error) for word in ("killed", "exited")):
            raise
        raise DetectorError(
            f"a process that reads images was lost, most likely for want of memory ({str(error).splitlines()[0]});"
            " try fewer --workers or a smaller --train.cache_gb"
        ) from error
    finally:
        with interrupt_later():
            del batches
