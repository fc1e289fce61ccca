"""Training on a Ray cluster of this machine: the same bits as under torchrun, whatever happens on the way."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from test_distributed import OPTIONS, REPOSITORY, Started, checkpoints_written, digests, our_lines, pair, rows, wait

from detector.demo.scenes import make_dataset
from detector.errors import DetectorError
from detector.utils.ray_cluster import ray_cluster

pytest.importorskip("ray", reason="make test-extras installs ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_dataset(root, seed=1, train=9, val=5, test=3)
    return root


def on_ray(data: Path, out: Path, *more: str) -> Started:
    options = [*OPTIONS, f"--data={data}", f"--out={out}", "--engine=ray", "--ray.workers=2", "--device=cpu", *more]
    return Started(sys.executable, "-m", "detector", "train", *options)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes under torchrun."""
    out = tmp_path_factory.mktemp("torchrun") / "run"
    done = pair(
        str(REPOSITORY / "tools" / "train.py"), *OPTIONS, f"--data={data}", f"--out={out}", "--device=cpu"
    ).finish()
    assert done.returncode == 0, done.stderr
    return out


def test_ray_trains_as_torchrun_does(data: Path, whole: Path, tmp_path: Path) -> None:
    done = on_ray(data, tmp_path / "run").finish()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch   2/2") == 1
    assert "Average Precision" not in done.stdout
    assert digests(tmp_path / "run") == digests(whole)
    assert rows(tmp_path / "run") == rows(whole)
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {path.name for path in whole.iterdir()}
    assert not (tmp_path / "run" / ".ray").exists()


def train_processes() -> list[int]:
    """The processes of Ray that train."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            name = path.read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::") and b"TrainWorker" in name:
            found.append(int(path.parent.name))
    return found


def test_a_killed_process_is_started_again_and_the_run_goes_on(data: Path, whole: Path, tmp_path: Path) -> None:
    started = on_ray(data, tmp_path / "run")
    wait(checkpoints_written(tmp_path / "run", 3))
    os.kill(train_processes()[0], signal.SIGKILL)
    done = started.finish()
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "run") == digests(whole)
    assert rows(tmp_path / "run") == rows(whole)


def test_what_the_user_can_fix_is_one_line_and_is_not_tried_again(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    done = on_ray(data, tmp_path / "run").finish()
    assert done.returncode == 2
    (line,) = our_lines(done.stderr)  # Ray has things to say, too
    assert "Traceback" not in done.stderr
    assert line.startswith(f"error: --out: {tmp_path / 'run'} already holds a run")


def test_a_run_goes_on_from_its_copy_where_its_folder_is_gone(data: Path, whole: Path, tmp_path: Path) -> None:
    """Interrupted, and resumed as on another machine."""
    store, out = tmp_path / "store", tmp_path / "run"
    url = f"--train.checkpoint_url=dir://run::file://{store}"
    store.mkdir()
    started = on_ray(data, out, url)
    wait(checkpoints_written(store / "run", 3))
    started.process.send_signal(signal.SIGINT)
    done = started.finish()
    assert done.returncode == 2, done.stderr
    assert not (store / "run" / ".ray").exists()
    shutil.rmtree(out)
    resumed = Started(
        sys.executable, "-m", "detector", "train", f"--resume={out}", url, "--engine=ray", "--ray.workers=2"
    ).finish()
    assert resumed.returncode == 0, resumed.stderr
    assert f"the run is brought to {out} from " in resumed.stdout
    assert digests(out) == digests(whole)
    assert rows(out) == rows(whole)
    assert (store / "run" / "last.pt").read_bytes() == (out / "last.pt").read_bytes()


def test_a_cluster_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(
        DetectorError, match=r"^the Ray cluster at 127\.0\.0\.1:1 can't be reached \(.+; if it wants a token"
    ):
        ray_cluster().__enter__()
