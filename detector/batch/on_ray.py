"""The engine `ray`: workers are actors of a Ray cluster, wherever it places them, a part for each at a time.

The driver hands out paths and keeps the ledger; images are read where they are detected in, and parts are written there. So
nothing large goes through Ray's object store, and no work is done twice because of what Ray remembers: a part is done when its
file is there. Ray Data is not used: its checkpoints are at-least-once (ray#55008, #60983), and it can't bisect a part.
"""

import os
import random
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.batch.ledger import Ledger
from detector.batch.plan import Job, Part
from detector.batch.progress import BatchProgress
from detector.batch.table import Table
from detector.batch.work import LOOK_SECONDS, STARTS, Task, do_job
from detector.errors import DetectorError, missing_package
from detector.utils.interrupts import stop_requested
from detector.utils.ray_cluster import ray_cluster

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing phones home; read when Ray starts a cluster
try:
    import ray
    from ray.exceptions import OutOfMemoryError, RayActorError
except ImportError as error:
    raise missing_package("--engine ray", error, "ray") from error

PATIENCE_SECONDS = 30.0
"""After which it is said that no worker is ready."""


class _Actor:
    """A worker process on some node; a DetectorError is returned, since Ray adds a traceback to what is raised."""

    def __init__(self, task: Task, folder: str) -> None:
        self._task, self._folder = task, folder

    def load(self) -> str | DetectorError:
        """The id of the node, once the network has run there."""
        try:
            os.chdir(self._folder)  # paths may be relative; Ray begins where the node was started
        except OSError:
            return DetectorError(
                f"{socket.gethostname()}: has no folder {self._folder}, where the command was given; give it in one that all"
                " machines have, such as /"
            )
        try:
            self._detector = self._task.load()
        except DetectorError as error:
            return error
        node: str = ray.get_runtime_context().get_node_id()
        return node

    def do(self, job: Job) -> tuple[Table | None, int] | DetectorError:
        try:
            return do_job(self._detector, self._task, job, lambda _done: True)
        except DetectorError as error:
            return error


@dataclass(eq=False)
class _Worker:
    actor: Any
    answer: Any
    """What it is at: a reference to the result of `load` or `do`; None while it has nothing to do."""
    node: str = ""
    """The node that it lives on; empty until it is ready."""
    job: Job | None = None


class _Pool:
    """The workers of a run and what each is at."""

    def __init__(self, task: Task, ledger: Ledger, gpus: float, progress: BatchProgress) -> None:
        self._ledger, self._progress = ledger, progress
        self._task = ray.put(task)
        self._actor = ray.remote(num_cpus=task.config.threads or 1, num_gpus=gpus, max_restarts=0)(_Actor)
        self._failed_starts = 0
        self._since = time.monotonic()
        self.workers: list[_Worker] = []

    def start(self) -> None:
        """Ask the cluster for one more worker."""
        actor = self._actor.remote(self._task, str(Path.cwd()))
        self.workers.append(_Worker(actor, actor.load.remote()))

    def hand_out(self) -> bool:
        """Give each idle worker a job; whether any is under way."""
        for worker in [each for each in self.workers if each.answer is None]:
            if (job := self._ledger.take()) is None:
                break
            worker.job, worker.answer = job, worker.actor.do.remote(job)
        return any(worker.job is not None for worker in self.workers)

    def listen(self) -> None:
        """Take what workers have returned, for a moment."""
        by_answer = {worker.answer: worker for worker in self.workers if worker.answer is not None}
        for answer in ray.wait(list(by_answer), timeout=LOOK_SECONDS)[0]:
            worker = by_answer[answer]
            try:
                result = ray.get(answer)
            except (RayActorError, OutOfMemoryError) as error:
                self._lost(worker, error)
                continue
            if isinstance(result, DetectorError):
                raise result
            self._answer(worker, result)
        if time.monotonic() > self._since + PATIENCE_SECONDS and not any(worker.node for worker in self.workers):
            self._progress.say(
                "waiting: no worker is ready; they may be starting, or the cluster has no room (see ray status)"
            )
            self._since = float("inf")

    def _answer(self, worker: _Worker, result: Any) -> None:
        worker.answer = None
        if not worker.node:
            worker.node, self._failed_starts = result, 0
            return
        job, (rows, errors) = worker.job, result
        assert job is not None
        worker.job = None
        if rows is not None:
            self._ledger.piece_done(job, rows)
        self._progress.done(worker, len(job.piece.paths), errors)

    def _lost(self, worker: _Worker, error: Exception) -> None:
        self.workers.remove(worker)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        if not worker.node:
            self._failed_starts += 1
            if self._failed_starts == STARTS:
                raise DetectorError(f"{STARTS} workers ended before they could begin ({lines[-1]})")
        elif worker.job is not None and worker.node not in _living_nodes():
            self._ledger.give_back(worker.job)  # of a node that is gone, no image is guilty
        elif worker.job is not None and (quarantined := self._ledger.died(worker.job, lines[0])):
            self._progress.say(quarantined)
            self._progress.done(worker, 1, 1)
        self.start()

    def close(self) -> None:
        for worker in self.workers:
            ray.kill(worker.actor)


def _living_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def run_ray(task: Task, parts: Sequence[Part], progress: BatchProgress) -> bool:
    """Do the parts; false if a stop signal came first, which ends the workers at once: their parts are not done.

    Raises the DetectorError of a worker that can't load or write, and DetectorError if the cluster has no such resources.
    """
    config, threads = task.config, task.config.threads or 1
    with ray_cluster(), stop_requested() as stop:
        resources = ray.cluster_resources()
        cpus, cluster_gpus = resources.get("CPU", 0), resources.get("GPU", 0)
        wanted = float(cluster_gpus > 0 and config.device != "cpu")
        gpus = wanted if config.gpus_per_worker is None else config.gpus_per_worker
        room = int(min(cpus / threads, cluster_gpus / gpus if gpus else cpus))
        if not room:
            raise DetectorError(
                f"the Ray cluster has {cpus:g} CPUs and {cluster_gpus:g} GPUs, a worker needs {threads} and {gpus:g}:"
                " set --threads and --gpus_per_worker so that one fits"
            )
        ledger = Ledger(task, random.sample(parts, len(parts)))  # so that two drivers seldom meet
        pool = _Pool(task, ledger, gpus, progress)
        try:
            for _ in range(min(config.workers or room, len(parts))):
                pool.start()
            while True:
                if not pool.hand_out() and ledger.empty:
                    return True
                pool.listen()
                if stop.is_set():
                    return False
        finally:
            pool.close()
