"""The processes that read images: how many, and how they keep out of the way of the processes that compute."""

import os
from collections.abc import Iterator
from multiprocessing import active_children
from multiprocessing.queues import Queue
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

from detector.errors import DetectorError
from detector.utils.interrupts import handler_kept, interrupt_later, obey_parent_only, stop_signals_blocked
from detector.utils.threads import available_cores

UNCAUGHT = 1
"""Exit code of a worker that could not run the script it belongs to: an error in the loader itself comes as an error."""
UNSENT = 74
"""Exit code of a worker whose batch could not be sent (EX_IOERR of sysexits.h)."""
UNGUARDED = (
    "the processes that read images begin by running the script again: put what it does under"
    ' `if __name__ == "__main__":`, or give workers=0'
)


def worker_count(workers: int) -> int:
    """The number of workers to start: as given, or for -1 one per core, at most 8."""
    if workers >= 0:
        return workers
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # that torchrun started on this machine
    return min(max(available_cores() // processes, 1), 8)


def start_worker(_worker: int) -> None:
    """Set up a worker as it starts: one thread, ended by nothing but its main process or a batch that can't be sent.

    A batch is sent by a thread, whose errors multiprocessing prints and forgets; the main process would wait for ever.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    obey_parent_only()
    Queue._on_queue_feeder_error = staticmethod(lambda _error, _batch: os._exit(UNSENT))  # type: ignore[attr-defined]


def batches_of(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches; Ctrl-C waits while workers start or end, where it would leave their tracebacks or get lost.

    Raises DetectorError where workers can't be started or one is lost.
    """
    others = active_children()
    with interrupt_later(), stop_signals_blocked(), handler_kept("SIGCHLD"):  # torch's would raise it anywhere
        batches = _start(loader)
    started = [process for process in active_children() if process not in others]
    try:
        yield from batches
    except DetectorError as error:  # from a worker it comes with its traceback as text, the message last
        last_line = error.args[0].strip().splitlines()[-1]
        raise type(error)(last_line.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")) from None
    except RuntimeError as error:
        lines = str(error).splitlines()
        if not (short_of_memory := "unable to allocate shared memory" in lines[-1]) and not (
            "DataLoader worker" in lines[0] and any(word in lines[0] for word in ("killed", "exited"))
        ):
            raise
        if any(process.exitcode == UNCAUGHT for process in started):
            raise DetectorError(UNGUARDED) from error
        raise DetectorError(
            "a process that reads images was lost, most likely for want of memory or of room in /dev/shm"
            f" ({lines[-1 if short_of_memory else 0]}); try fewer --workers (0 needs no /dev/shm), a smaller --train.cache_gb"
            " or, in a container, more room: docker run --shm-size 1g"
        ) from error
    finally:
        with interrupt_later():
            del batches


def _start(loader: DataLoader[Any]) -> Iterator[Any]:
    try:
        return iter(loader)
    except OSError as error:
        raise DetectorError(
            f"{loader.num_workers} processes that read images can't be started ({error.strerror}); try fewer --workers"
        ) from error
    except RuntimeError as error:
        if "bootstrapping phase" not in str(error):  # how multiprocessing says that this is a worker under way
            raise
        raise DetectorError(UNGUARDED) from None
