"""Batches on a Ray cluster of two nodes on this machine: what is in the folder at the end is what the local engine makes."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_runs import (
    CATEGORIES,
    PoisonTask,
    config_of,
    content,
    make_images,
    make_weights,
    parts_of,
    require_quarantined,
    task_like,
)

from detector.batch.plan import PARTS, list_images
from detector.batch.progress import BatchProgress
from detector.batch.run import batch
from detector.batch.work import Task
from detector.errors import DetectorError, WeightsError
from detector.weights.files import WeightsInfo

ray = pytest.importorskip("ray", reason="make test-extras installs ray")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp("weights") / "w.safetensors")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def undisturbed(images: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a batch on the local engine."""
    out = tmp_path_factory.mktemp("batch") / "out"
    batch(config_of(images, weights, out))
    return out


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without room for workers and two nodes with one CPU each."""
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # for the classes of this module
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = cluster.address
    yield cluster
    del os.environ["RAY_ADDRESS"], os.environ["PYTHONPATH"]
    cluster.shutdown()


def on_ray(images: Path, weights: Path, out: Path, **options: Any) -> Any:
    return config_of(images, weights, out, engine="ray", workers=options.pop("workers", 2), **options)


def run(task: Task, progress: BatchProgress) -> bool:
    from detector.batch.on_ray import run_ray

    return run_ray(task, parts_of(task), progress)


def test_two_nodes_make_what_one_machine_makes(
    images: Path, weights: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batch(on_ray(images, weights, tmp_path))
    assert content(tmp_path) == content(undisturbed)
    assert "written: 4 parts" in capsys.readouterr().out
    assert not ray.is_initialized()


def test_relative_paths_begin_where_the_command_is_given(
    images: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").symlink_to(images)
    (tmp_path / "w.safetensors").symlink_to(weights)
    monkeypatch.chdir(tmp_path)
    for engine in ("local", "ray"):
        batch(config_of(Path("there"), Path("w.safetensors"), Path(engine), engine=engine))
    assert content(Path("ray")) == content(Path("local"))


class MortalTask(Task):
    """Its workers are killed just before they publish, as often as there are files in `deaths`."""

    def publish(self, part: Any, rows: Any) -> None:
        for death in Path(self.config.out).with_name("deaths").iterdir():
            try:
                death.unlink()
            except FileNotFoundError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)
        super().publish(part, rows)


def test_killed_workers_leave_no_trace(images: Path, weights: Path, undisturbed: Path, tmp_path: Path) -> None:
    task = task_like(undisturbed, on_ray(images, weights, tmp_path / "out"), MortalTask)
    (tmp_path / "deaths").mkdir()
    for number in range(3):
        (tmp_path / "deaths" / str(number)).touch()
    with BatchProgress(11) as progress:
        assert run(task, progress)
    assert not list((tmp_path / "deaths").iterdir())
    assert (progress.images, progress.errors) == (11, 1)
    assert content(tmp_path / "out") == content(undisturbed)


def test_an_image_that_ends_the_process_is_found_and_quarantined(
    images: Path, weights: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = task_like(undisturbed, on_ray(images, weights, tmp_path / "out"), PoisonTask)
    poison = list_images(task.config.sources)[4]
    with BatchProgress(11) as progress:
        assert run(task, progress)
    assert (progress.images, progress.errors) == (11, 2)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "quarantined" in line]
    assert line.startswith(f"{poison}: quarantined: 2 worker processes ended on this image")
    require_quarantined(tmp_path / "out", undisturbed, poison, line)


class NodeKilling(BatchProgress):
    """Kills the node of the first worker that has done a part, and gives the cluster another one."""

    cluster: Any = None

    def done(self, worker: Any, images: int, errors: int) -> None:
        if self.cluster is not None:
            (node,) = [each for each in self.cluster.worker_nodes if each.node_id == worker.node]
            self.cluster.remove_node(node, allow_graceful=False)
            self.cluster.add_node(num_cpus=1)
            self.cluster = None
        super().done(worker, images, errors)


def test_a_node_that_is_lost_is_no_images_fault(
    cluster: Any, images: Path, weights: Path, undisturbed: Path, tmp_path: Path
) -> None:
    task = task_like(undisturbed, on_ray(images, weights, tmp_path / "out"))
    with NodeKilling(11) as progress:
        progress.cluster = cluster
        assert run(task, progress)
    assert progress.cluster is None
    assert (progress.images, progress.errors) == (11, 1)
    assert content(tmp_path / "out") == content(undisturbed)


class Stopping(BatchProgress):
    """Sends the driver a stop signal when the first part is done."""

    def done(self, worker: Any, images: int, errors: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        super().done(worker, images, errors)


def test_a_stop_signal_leaves_whole_parts_only(images: Path, weights: Path, undisturbed: Path, tmp_path: Path) -> None:
    task = task_like(undisturbed, on_ray(images, weights, tmp_path / "out", workers=1))
    with Stopping(11) as progress:
        assert not run(task, progress)
    done = content(tmp_path / "out" / PARTS)
    assert done.items() <= content(undisturbed / PARTS).items()
    assert len(done) < 4
    batch(on_ray(images, weights, tmp_path / "out"))
    assert content(tmp_path / "out") == content(undisturbed)


def test_other_weights_on_a_machine_are_refused(images: Path, undisturbed: Path, tmp_path: Path) -> None:
    from lively_model import lively_model

    from detector.weights.files import save_weights

    other = tmp_path / "w.safetensors"
    task = task_like(undisturbed, on_ray(images, other, tmp_path / "out"))
    save_weights(other, lively_model(3), WeightsInfo("yolo11n", CATEGORIES, 96, {"epochs": 2}, {}, "CC0-1.0"))
    with pytest.raises(WeightsError, match="this file differs from that of the start"):
        run(task, BatchProgress(11))


def test_a_cluster_without_room_is_an_error(images: Path, weights: Path, tmp_path: Path) -> None:
    # Ray may still count a node that another test has killed
    with pytest.raises(DetectorError, match=r"the Ray cluster has \d CPUs and 0 GPUs, a worker needs 1 and 2:"):
        batch(on_ray(images, weights, tmp_path, gpus_per_worker=2))
