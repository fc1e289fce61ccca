"""The engine `local`: worker processes on this machine, a part for each at a time.

A worker is a fresh process (spawn) with one thread. It obeys the driver alone (`utils/interrupts.py`): through its pipe, and it
ends at once when the driver is gone. A stop signal lets it finish the image that it is at.
"""

import multiprocessing
import os
import random
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from detector.batch.ledger import Ledger
from detector.batch.plan import Job, Part
from detector.batch.progress import BatchProgress
from detector.batch.table import Table
from detector.batch.work import LOOK_SECONDS, STARTS, StoppedError, Task, do_job
from detector.data.workers import UNCAUGHT
from detector.errors import DetectorError
from detector.inference.detector import Detector
from detector.utils.device import resolve_device
from detector.utils.interrupts import interrupt_later, obey_parent_only, stop_requested, stop_signals_blocked
from detector.utils.threads import available_cores

READY = "ready"
DONE = "done"
"""What a worker sends: READY once; then, for each job, the number of images done so far as it changes, at the end (DONE, rows
of a piece or None, number of errors). An error ends it."""


def _serve(pipe: Connection, task: Task) -> None:
    """A worker process."""
    obey_parent_only()
    threading.Thread(target=_end_with_driver, daemon=True).start()
    try:
        detector = task.load()
        pipe.send(READY)
        while (job := pipe.recv()) is not None:
            pipe.send(_do(detector, task, job, pipe))
    except (StoppedError, EOFError, BrokenPipeError):
        return
    except DetectorError as error:
        pipe.send(error)
    except Exception:  # a bug, whose traceback would else be lost
        pipe.send(RuntimeError(f"in a worker process:\n{traceback.format_exc()}"))


def _end_with_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(UNCAUGHT)


def _do(detector: Detector, task: Task, job: Job, pipe: Connection) -> tuple[str, Table | None, int]:
    def goes_on(done: int) -> bool:
        pipe.send(done)
        return not pipe.poll()  # while a worker is busy the driver sends nothing but the wish to stop

    return DONE, *do_job(detector, task, job, goes_on)


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    ready: bool = False
    job: Job | None = None


class _Pool:
    """The workers of a run and what each is at."""

    def __init__(self, task: Task, ledger: Ledger, progress: BatchProgress) -> None:
        self._task, self._ledger, self._progress = task, ledger, progress
        self._failed_starts = 0
        self.workers: list[_Worker] = []

    def start(self) -> None:
        """Start one more worker."""
        context = multiprocessing.get_context("spawn")
        if sys.platform != "win32":
            from multiprocessing.resource_tracker import ensure_running

            ensure_running()  # here, since it unblocks the signals when it starts
        pipe, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._task), daemon=True)
        with interrupt_later(), stop_signals_blocked():
            process.start()
            self.workers.append(_Worker(process, pipe))
        theirs.close()  # else its death would not be seen

    def hand_out(self) -> bool:
        """Give each idle worker a job; whether any is under way."""
        for worker in [each for each in self.workers if each.ready and each.job is None]:
            if (job := self._ledger.take()) is None:
                break
            try:
                worker.pipe.send(job)
                worker.job = job
            except OSError:  # it has died; `listen` will see it
                self._ledger.give_back(job)
        return any(worker.job is not None for worker in self.workers)

    def listen(self) -> None:
        """Take what workers have sent, for a moment."""
        by_pipe = {worker.pipe: worker for worker in self.workers}
        for pipe in wait(list(by_pipe), LOOK_SECONDS):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                self._lost(worker)
                continue
            self._answer(worker, message)

    def _answer(self, worker: _Worker, message: Any) -> None:
        if isinstance(message, Exception):
            raise message
        if message == READY:
            worker.ready, self._failed_starts = True, 0
            return
        job = worker.job
        assert job is not None
        if isinstance(message, int):
            self._progress.under_way(worker, message)
            return
        _, rows, errors = message
        if rows is not None:
            self._ledger.piece_done(job, rows)
        worker.job = None
        self._progress.done(worker, len(job.piece.paths), errors)

    def _lost(self, worker: _Worker) -> None:
        worker.process.join()
        worker.pipe.close()
        self.workers.remove(worker)
        self._progress.under_way(worker, 0)
        code = worker.process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts == STARTS:
                raise DetectorError(
                    f"{STARTS} worker processes ended before they could begin ({how}); try fewer --workers, for want of memory,"
                    ' and in a script put what it does under `if __name__ == "__main__":`'
                )
        elif worker.job is not None and (quarantined := self._ledger.died(worker.job, how)):
            self._progress.say(quarantined)
            self._progress.done(worker, 1, 1)
        self.start()

    def finish(self) -> None:
        """Let each worker end with the image that it is at."""
        for worker in self.workers:
            if worker.job is None:
                worker.process.kill()
            with suppress(OSError):
                worker.pipe.send(None)
        while alive := [each for each in self.workers if each.process.is_alive()]:
            for worker in alive:  # what it sends would else fill the pipe, and it would wait
                with suppress(EOFError, OSError):
                    while worker.pipe.poll():
                        worker.pipe.recv()
            wait([each.process.sentinel for each in alive], LOOK_SECONDS)


@contextmanager
def _pool(task: Task, ledger: Ledger, progress: BatchProgress) -> Iterator[_Pool]:
    pool = _Pool(task, ledger, progress)
    try:
        yield pool
    finally:
        with interrupt_later():
            for worker in pool.workers:
                worker.process.kill()
                worker.process.join()
                worker.pipe.close()


def run_local(task: Task, parts: Sequence[Part], progress: BatchProgress) -> bool:
    """Do the parts; false if a stop signal came first.

    Raises the DetectorError of a worker that can't load or write, and DetectorError if workers can't even begin.
    """
    shuffled = random.sample(parts, len(parts))  # so that two drivers seldom meet
    ledger = Ledger(task, shuffled)
    config = task.config
    workers = config.workers or (available_cores() if resolve_device(config.device).type == "cpu" else 1)
    with stop_requested() as stop, _pool(task, ledger, progress) as pool:
        for _ in range(min(workers, sum(len(part.paths) for part in parts))):
            pool.start()
        while True:
            busy = pool.hand_out()
            if not busy and ledger.empty:
                return True
            pool.listen()
            if stop.is_set():
                pool.finish()
                return False
