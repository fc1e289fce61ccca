"""The processes that read images."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from multiprocessing import active_children
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from command_line import FORKS, REPOSITORY
from torch.utils.data import DataLoader

from detector.cli import main
from detector.data.coco import CocoDataset
from detector.data.layouts import find_split
from detector.data.workers import batches_of, start_worker
from detector.demo.scenes import make_dataset
from detector.errors import DetectorError
from detector.models.catalog import create_model
from detector.utils.interrupts import STOP, handler_kept
from detector.weights.files import WeightsInfo, save_weights


def loader_of(items: list[Any], workers: int = 1, **options: Any) -> "DataLoader[Any]":
    return DataLoader(items, batch_size=None, num_workers=workers, worker_init_fn=start_worker, **options)  # type: ignore[arg-type]


def test_a_worker_told_to_stop_as_it_starts_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal to all processes may come before the worker has said that it wants none."""
    fork = os.fork

    def fork_and_stop() -> int:
        child = fork()
        if child == 0:
            for number in STOP:
                os.kill(os.getpid(), number)
        return child

    monkeypatch.setattr(os, "fork", fork_and_stop)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert list(batches_of(loader_of([1, 2, 3, 4], workers=2))) == [1, 2, 3, 4]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask


def train_with_a_bug(where: str, data: Path, out: Path) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError

    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # a server would stay in the session for a moment
    mock.patch(where, bug).start()
    main(["train", f"--data={data}", f"--out={out}", "--epochs=1", "--image_size=32", "--batch_size=2", "--workers=2"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "where",
    [
        "detector.training.loop.take_step",
        "detector.data.loader.TrainDataset.__getitem__",
        "detector.training.loop.score",
    ],
)
def test_an_unexpected_error_ends_the_workers_too(where: str, tmp_path: Path) -> None:
    """In the step, in the dataset, and in validation; the traceback keeps the loaders alive."""
    make_dataset(tmp_path / "data", seed=1, train=9, val=4, test=3)
    process = FORKS.Process(target=train_with_a_bug, args=(where, tmp_path / "data", tmp_path / "run"))
    process.start()
    process.join(60)
    ended = process.exitcode
    if ended is None:
        os.killpg(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
    assert ended == 1
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # type: ignore[arg-type]


def test_a_batch_that_cannot_be_sent_is_an_error_and_no_silence() -> None:
    with pytest.raises(DetectorError, match=r"a process that reads images was lost.*--shm-size"):
        list(batches_of(loader_of([lambda: None])))


def test_a_worker_that_is_lost_in_the_step_is_told_where_the_next_batch_is_asked_for() -> None:
    batches = batches_of(loader_of([1] * 9))
    with handler_kept(
        "SIGCHLD"
    ):  # a loader that another test ran without batches_of leaves PyTorch's, which raises here
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        next(batches)
        for process in active_children():
            process.kill()
            process.join(60)
    with pytest.raises(DetectorError, match="a process that reads images was lost"):
        list(batches)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torch's, of a loader half made
def test_workers_that_cannot_be_started_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    fork, left = os.fork, [1]

    def fork_once() -> int:
        if not left:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        left.pop()
        return fork()

    monkeypatch.setattr(os, "fork", fork_once)
    with pytest.raises(DetectorError, match=r"2 processes .* can't be started \(Resource .*try fewer --workers"):
        list(batches_of(loader_of([1, 2], workers=2)))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_script_that_guards_nothing_is_told_so(method: str, tmp_path: Path) -> None:
    lines = (
        "import multiprocessing",
        "from torch.utils.data import DataLoader",
        "from detector.data.workers import batches_of, start_worker",
        f"multiprocessing.set_start_method({method!r}, force=True)",
        "list(batches_of(DataLoader([1], batch_size=None, num_workers=1, worker_init_fn=start_worker)))",
    )
    (tmp_path / "script.py").write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert 'put what it does under `if __name__ == "__main__":`' in done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_full_dev_shm_is_one_line(command: str, tmp_path: Path) -> None:
    """As Docker's 64 MB at 640 px: here 1 MB, in a name space of its own."""
    alone = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-ec",
        'mount -t tmpfs -o size=1m tmpfs /dev/shm; exec "$@"',
        "sh",
    ]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount")
    make_dataset(tmp_path / "data", seed=1, train=9, val=8, test=3)
    categories = CocoDataset.load(find_split(tmp_path / "data", "val")).categories
    info = WeightsInfo("yolo11n", categories, 320, {}, {}, "CC0-1.0")
    save_weights(tmp_path / "w.safetensors", create_model("yolo11n", len(categories)), info)
    options = [f"--data={tmp_path / 'data'}", f"--weights={tmp_path / 'w.safetensors'}", f"--out={tmp_path / 'out'}"]
    options += ["--image_size=320", "--workers=1", "--device=cpu"] + ["--epochs=1"] * (command == "train")
    done = subprocess.run(
        [*alone, sys.executable, f"tools/{command}.py", *options],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: a process that reads images was lost")
    assert "docker run --shm-size" in line
