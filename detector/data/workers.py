"""The processes that read pictures: how many, and how they keep out of the way of the processes that compute."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

from detector.config import LoaderConfig
from detector.errors import DetectorError


def worker_count(config: LoaderConfig) -> int:
    """The number of workers that `config` asks for."""
    if config.workers >= 0:
        return config.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # that torchrun started on this machine
    return min(max(cores // processes, 1), 8)


STOP = {signal.SIGINT, signal.SIGTERM}
"""A terminal, torchrun and schedulers send them to every process; the main process answers, the workers do not."""


def start_worker(_worker: int) -> None:
    """Run in each worker as it starts, with `STOP` blocked: one thread, and no request to stop ends it."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)


def batches_of(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches; Ctrl-C waits while workers start or end, where it would leave their tracebacks or get lost."""
    with interrupt_later():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP)  # the workers inherit it, until they know what to do
        try:
            batches = iter(loader)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield from batches
    except DetectorError as error:  # from a worker it comes with its traceback as text, the message last
        last_line = str(error).strip().splitlines()[-1]
        raise type(error)(last_line.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or not any(word in str(error) for word in ("killed", "exited")):
            raise
        raise DetectorError(
            f"a process that reads pictures was lost, most likely for want of memory ({str(error).splitlines()[0]});"
            " try fewer --loader.workers or a smaller --train.cache_gb"
        ) from error
    finally:
        with interrupt_later():
            del batches


@contextmanager
def interrupt_later() -> Iterator[None]:
    """Ctrl-C within the block takes effect at its end."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        signal.raise_signal(signal.SIGINT)
