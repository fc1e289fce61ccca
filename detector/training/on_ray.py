"""Training on a Ray cluster: Ray Train starts the processes and starts them again; each runs the loop that torchrun runs."""

import contextlib
import dataclasses
import io
import os
import shlex
import shutil
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from detector.config import TrainConfig
from detector.errors import DetectorError, missing_package
from detector.training.distributed import RESTARTED, LostProcessError
from detector.training.logs import LAUNCHER
from detector.training.loop import train
from detector.training.setup import with_absolute_paths
from detector.utils.fileio import require_writable
from detector.utils.ray_cluster import ray_cluster
from detector.utils.stores import store_errors

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing phones home; read when Ray starts a cluster
try:
    import ray
    from pyarrow.fs import FSSpecHandler, PyFileSystem
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError
except ImportError as error:
    raise missing_package("--engine ray", error, "ray") from error


os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"  # it would show what processes are not to print
NAME = ".ray"
"""Folder in that of the run, for what Ray Train notes; it goes at the end."""


class _Mailbox:
    """What the processes tell the driver."""

    def __init__(self) -> None:
        self._error: DetectorError | None = None
        self._printed: list[str] = []

    def fail(self, error: DetectorError) -> None:
        """Keep the first error that the user can fix; for such ones no process is started again."""
        self._error = self._error or error

    def error(self) -> DetectorError | None:
        return self._error

    def write(self, text: str) -> None:
        self._printed.append(text)

    def take(self) -> str:
        """What was printed since the last time."""
        text, self._printed = "".join(self._printed), []
        return text


class _ToDriver(io.TextIOBase):
    """A standard stream of a process that is shown by the driver. (Ray's own way shows the logs of all its helpers, too.)"""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def write(self, text: str) -> int:
        self._mailbox.write.remote(text)
        return len(text)


def _train(settings: dict[str, Any]) -> None:
    """A process of the run, once it has its rank; started again, it resumes from last.pt, as under torchrun."""
    mailbox = settings["mailbox"]
    if ray.get(mailbox.error.remote()) is not None:  # of another process, which ended the connection with this one
        return
    os.environ[LAUNCHER], os.environ[RESTARTED] = settings["launcher"], "1"
    stream = _ToDriver(mailbox)
    try:
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            train(settings["config"])
    except LostProcessError:
        raise
    except DetectorError as error:
        ray.get(mailbox.fail.remote(error))


@contextlib.contextmanager
def _shown(mailbox: Any) -> Iterator[None]:
    """Print within the block what the processes print."""
    done = threading.Event()

    def show() -> None:
        while True:
            last = done.wait(0.5)
            print(ray.get(mailbox.take.remote()), end="", flush=True)
            if last:
                return

    thread = threading.Thread(target=show, name="shows what processes print", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def _notes(url: str | None, out: Path) -> Iterator[dict[str, Any]]:
    """Where Ray Train keeps its notes, which all machines must see, as `RunConfig` takes it; they go at the end of the block."""
    if url is None:
        try:
            yield {"storage_path": str(out)}
        finally:
            shutil.rmtree(out / NAME, ignore_errors=True)
        return
    with store_errors(url):
        system, path = url_to_fs(url)
    try:
        yield {"storage_path": path, "storage_filesystem": PyFileSystem(FSSpecHandler(system))}
    finally:
        with contextlib.suppress(Exception):  # they do no harm
            system.rm(f"{path}/{NAME}", recursive=True)


def _fit(trainer: Any) -> None:
    """Fit in a thread: in the main one Ray takes the stop signals for itself, and ends the process with exit code 1."""
    done: Future[None] = Future()

    def fit() -> None:
        try:
            trainer.fit()
            done.set_result(None)
        except BaseException as error:  # goes on in the thread that waits
            done.set_exception(error)

    threading.Thread(target=fit, name="waits for Ray Train", daemon=True).start()
    done.result()


def train_on_ray(config: TrainConfig) -> None:
    """Train as `config` says in `config.ray.workers` processes of the cluster that runs on this machine or that RAY_ADDRESS names,
    else of one started here. The data must be there, by the same paths, on all machines; `config.out`, too, or there must be a
    `config.train.checkpoint_url`.

    Raises DetectorError kinds for what the user can fix, and if processes were lost more than `config.ray.max_failures` times.
    """
    out = Path(config.resume or config.out).absolute()
    require_writable(out)
    settings = config.ray
    resume = None if config.resume is None else str(out)
    config = with_absolute_paths(dataclasses.replace(config, out=str(Path(config.out).absolute()), resume=resume))
    # who gives a resumed run another --ray.workers wants another number of processes
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, elastic=True))
    with _notes(config.train.checkpoint_url, out) as notes, ray_cluster():
        on_gpus = config.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
        cpus, needed = ray.cluster_resources().get("CPU", 0), settings.workers * settings.cpus_per_worker
        room = f"; waiting for more: it has {cpus:g} CPUs now" if cpus < needed else ""
        print(f"the Ray cluster starts {settings.workers} processes on {needed:g} CPUs{room}", flush=True)
        mailbox = ray.remote(num_cpus=0)(_Mailbox).remote()
        trainer = TorchTrainer(
            _train,
            train_loop_config={"config": config, "launcher": f"Ray {uuid.uuid4()}", "mailbox": mailbox},
            torch_config=TorchConfig(backend="nccl" if on_gpus else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=settings.workers, use_gpu=on_gpus, resources_per_worker={"CPU": settings.cpus_per_worker}
            ),
            run_config=RunConfig(name=NAME, **notes, failure_config=FailureConfig(max_failures=settings.max_failures)),
        )
        try:
            with _shown(mailbox):
                _fit(trainer)
        except (TrainingFailedError, KeyboardInterrupt) as error:
            cause = ray.get(mailbox.error.remote())
            if cause is None and isinstance(error, KeyboardInterrupt):
                cause = DetectorError(
                    f"interrupted; continue with: detector train --engine ray --resume {shlex.quote(str(out))}"
                )
            if cause is None:
                raise
            raise cause from error
        if (cause := ray.get(mailbox.error.remote())) is not None:
            raise cause
