"""Two processes on the CPU, started by torchrun: the same training as one process, and no hang when one of them fails."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lively_model import lively_model

from detector.cli import main
from detector.data.coco import CocoDataset
from detector.data.layouts import find_split
from detector.demo.scenes import make_dataset
from detector.evaluation.coco_metrics import METRICS
from detector.evaluation.evaluate import evaluate_model
from detector.inference.detector import Detector
from detector.weights.files import WeightsInfo, load_weights, save_weights

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[1]
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node=2"]
PATIENCE = 300  # s for what takes some 15 s on an idle machine: a hang fails
TRAIN = str(REPOSITORY / "tools" / "train.py")
OPTIONS = [
    *("--image_size=64", "--batch_size=4", "--train.nominal_batch_size=4", "--epochs=2"),
    *("--lr=0.00001", "--train.checkpoint_minutes=0", "--workers=1"),
]


class Started:
    """A command in a session of its own; `finish` ends it, whatever happens."""

    def __init__(self, *command: str, cwd: Path = REPOSITORY, **variables: str) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> "subprocess.CompletedProcess[str]":
        """What it left; a hang is a failure, and torchrun then ends its processes."""
        try:
            out, errors = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            out, errors = self.process.communicate(timeout=60)
            pytest.fail(f"still running after {PATIENCE} s: {out}\n{errors}")
        return subprocess.CompletedProcess(self.process.args, self.process.returncode, out, errors)

    def rank(self, number: int) -> int:
        """The id of torchrun's process of this rank."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        variable = f"RANK={number}".encode()
        (found,) = [c for c in children if variable in Path(f"/proc/{c}/environ").read_bytes().split(b"\0")]
        return int(found)


def pair(*arguments: str, torchrun: tuple[str, ...] = ()) -> Started:
    return Started(sys.executable, "-m", *TORCHRUN, *torchrun, *arguments)


def wait(until: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, f"waited {seconds} s"
        time.sleep(0.01)


def checkpoints_written(out: Path, count: int) -> Callable[[], bool]:
    """Whether last.pt has been seen `count` times, each time a new file."""
    seen: set[int] = set()

    def enough() -> bool:
        if (out / "last.pt").exists():
            seen.add((out / "last.pt").stat().st_mtime_ns)
        return len(seen) >= count

    return enough


def our_lines(errors: str) -> list[str]:
    """What the program itself has to say on stderr, among what torchrun says."""
    return [line for line in errors.splitlines() if line.startswith("error: ")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """9 images: in batches of 4 the last batch has fewer than there are processes.

    The objects to find in validation are what the weights in the folder find, so that the figures are not all 0.
    """
    root = tmp_path_factory.mktemp("data")
    make_dataset(root, seed=1, train=9, val=5, test=3)
    images = CocoDataset.load(find_split(root, "val"))
    model = lively_model(len(images.categories))
    info = WeightsInfo("yolo11n", images.categories, 64, {}, {}, "CC0-1.0")
    save_weights(root / "lively.safetensors", model, info)
    found = evaluate_model(Detector(model, images.categories, 64, device="cpu"), images, workers=0)
    results = [entry for i, each in found.detections.items() for entry in each.to_coco(images.image_id(i))]
    content = json.loads(images.annotations_path.read_text())
    content["annotations"] = [
        {**entry, "id": number, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
        for number, entry in enumerate(results[::3], start=1)
    ]
    images.annotations_path.write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def new_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments of a run, the last one its folder; all runs are in the same, as the weights files name it."""
    out = tmp_path_factory.mktemp("runs") / "run"
    return [TRAIN, f"--data={data}", f"--weights={data / 'lively.safetensors'}", *OPTIONS, f"--out={out}"]


@pytest.fixture(scope="module")
def place(new_run: list[str]) -> Path:
    return Path(new_run[-1].removeprefix("--out="))


@pytest.fixture
def out(place: Path) -> Iterator[Path]:
    """That folder, empty again after the test."""
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def whole(new_run: list[str], place: Path) -> Path:
    """A run of two processes that nothing happens to, put aside."""
    done = pair(*new_run).finish()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch   2/2") == 1  # one of them prints
    return place.rename(place.with_name("whole"))


class Killed:
    """A run whose process of rank 1 was killed, put aside, and what the other had to say."""

    def __init__(self, new_run: list[str], place: Path) -> None:
        started = pair(*new_run)
        wait(checkpoints_written(place, 3))
        other, victim = started.rank(0), started.rank(1)
        os.kill(victim, signal.SIGKILL)
        since = time.monotonic()
        wait(lambda: not Path(f"/proc/{other}").exists())
        self.seconds = time.monotonic() - since
        self.done = started.finish()
        self.folder = place.rename(place.with_name("killed"))


@pytest.fixture(scope="module")
def killed(whole: Path, new_run: list[str], place: Path) -> Killed:
    assert whole.exists()  # it is done, and out of the way
    return Killed(new_run, place)


def digests(folder: Path) -> dict[str, str]:
    names = ("best.safetensors", "last.safetensors")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: v for name, v in line.items() if name not in ("seconds", "images_per_second")} for line in lines]


# ---- the same training


class Stepping(Started):
    """step_losses.py in the folder `place`, which `result` waits for."""

    def __init__(self, place: Path, steps: int, prefix: list[str], *options: str) -> None:
        self.file = place / "losses.json"
        script = str(REPOSITORY / "tests" / "step_losses.py")
        settings = [
            *("--image_size=64", "--workers=0", "--epochs=15", "--train.optimizer=sgd"),
            *("--lr=0.001", f"--out={place / 'run'}", *options),
        ]
        if (place / "run" / "last.pt").exists():
            settings = [f"--resume={place / 'run'}", "--train.elastic=true"]
        super().__init__(sys.executable, *prefix, script, str(self.file), str(steps), *settings)

    def result(self) -> dict[str, Any]:
        done = self.finish()
        assert done.returncode == 0, done.stderr
        return dict(json.loads(self.file.read_text()))


@pytest.mark.parametrize(("model", "steps"), [("yolo11n", 20), ("yolov9t", 4)])
def test_two_processes_take_the_steps_of_one(model: str, steps: int, tmp_path: Path) -> None:
    """yolov9t with its auxiliary branch."""
    make_dataset(tmp_path / "data", seed=1, train=30, val=6, test=3)
    options = [f"--data={tmp_path / 'data'}", "--batch_size=8", "--train.nominal_batch_size=8"]
    options += ["--train.sync_batch_norm=true", f"--model={model}"]
    started = [
        Stepping(tmp_path / "one", steps, [], *options),
        Stepping(tmp_path / "two", steps, ["-m", *TORCHRUN], *options),
    ]
    one, two = [each.result() for each in started]
    assert len(one["losses"]) == len(two["losses"]) == steps
    for step, (alone, shared) in enumerate(zip(one["losses"], two["losses"], strict=True)):
        assert shared == pytest.approx(alone, rel=1e-4, abs=1e-9), f"step {step + 1}"
    assert one["losses"][0] != one["losses"][-1]
    assert len(two["weights"]) == 2
    assert two["weights"][0] == two["weights"][1]


def test_a_run_goes_on_with_other_numbers_of_processes(tmp_path: Path) -> None:
    """Two, then one in the middle of an epoch, then two: the losses of two all the time."""
    make_dataset(tmp_path / "data", seed=1, train=30, val=6, test=3)
    options = [f"--data={tmp_path / 'data'}", "--batch_size=8", "--train.nominal_batch_size=8"]
    options += ["--train.sync_batch_norm=true", "--model=yolo11n"]
    two = ["-m", *TORCHRUN]
    whole = Stepping(tmp_path / "whole", 20, two, *options)
    losses = []
    for steps, prefix in ((7, two), (6, []), (7, two)):
        losses += Stepping(tmp_path / "changing", steps, prefix, *options).result()["losses"]
    for step, (changing, same) in enumerate(zip(losses, whole.result()["losses"], strict=True)):
        assert changing == pytest.approx(same, rel=1e-4, abs=1e-9), f"step {step + 1}"


@pytest.mark.parametrize("model", ["yolo11n", "yolov9t"])
def test_processes_keep_the_same_weights_with_norms_of_their_own(model: str, data: Path, tmp_path: Path) -> None:
    """Those of the auxiliary branch, too."""
    options = (f"--data={data}", "--batch_size=4", "--train.nominal_batch_size=4", f"--model={model}")
    weights = Stepping(tmp_path, 4, ["-m", *TORCHRUN], *options).result()["weights"]
    assert len(weights) == 2
    assert weights[0] == weights[1]


def test_a_share_of_the_images_each_gives_the_figures_of_all(data: Path, whole: Path) -> None:
    model, info = load_weights(whole / "last.safetensors")
    detector = Detector(model, info.categories, info.image_size, conf=0.001, device="cpu")
    images = CocoDataset.load(find_split(data, "val"), info.categories)
    alone = evaluate_model(detector, images, workers=0).metrics
    last = rows(whole)[-1]
    assert [last[name] for name in METRICS] == [pytest.approx(alone[name], abs=1e-12) for name in METRICS]
    assert 0 < last["AP"] < 1


def test_a_last_batch_smaller_than_the_number_of_processes(whole: Path) -> None:
    content = torch.load(whole / "last.pt", weights_only=True)
    assert (content["epoch"], content["step"]) == (2, 6)
    assert [row["skipped_steps"] for row in rows(whole)] == [0, 0]
    assert all(tensor.isfinite().all() for tensor in content["ema"].values())


# ---- one process fails


def test_the_other_process_ends_soon_and_says_how_to_go_on(killed: Killed, out: Path) -> None:
    assert killed.seconds < 60
    assert killed.done.returncode != 0
    (line,) = our_lines(killed.done.stderr)
    assert line == (
        "error: another process of this run has ended or can't be reached; then continue with:"
        f" torchrun --nproc_per_node 2 -m detector train --resume {out}"
    )


def test_the_run_goes_on_with_two_processes_to_the_same_bits(killed: Killed, whole: Path, out: Path) -> None:
    shutil.copytree(killed.folder, out)
    done = pair(TRAIN, f"--resume={out}").finish()
    assert done.returncode == 0, done.stderr
    assert "bit for bit" not in done.stdout
    assert digests(out) == digests(whole)
    assert rows(out) == rows(whole)


def test_the_run_goes_on_with_one_process(killed: Killed, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(killed.folder, out)
    assert main(["train", f"--resume={out}"]) == 2
    assert capfd.readouterr().err == (
        f"error: --resume: the run in {out} was of 2 processes, this is one of 1: start as many as before, or allow another"
        " number with --train.elastic true, after which the bits differ\n"
    )
    assert main(["train", f"--resume={out}", "--train.elastic=true"]) == 0
    assert "not bit for bit as the uninterrupted run would go on: processes 2 before, 1 now" in capfd.readouterr().out
    assert [row["epoch"] for row in rows(out)] == [1, 2]


def test_torchrun_starts_a_run_again_where_it_was(whole: Path, new_run: list[str], out: Path) -> None:
    """The main process is killed, so the other one tells; the new processes resume without being asked to."""
    started = pair(*new_run, torchrun=("--max-restarts=1",))
    wait(checkpoints_written(out, 4))
    os.kill(started.rank(0), signal.SIGKILL)
    done = started.finish()
    assert done.returncode == 0, done.stderr
    assert len(our_lines(done.stderr)) == 1
    assert done.stdout.count("epoch   2/2") == 1
    assert digests(out) == digests(whole)
    assert rows(out) == rows(whole)


def test_ctrl_c_saves_the_step_under_way(whole: Path, new_run: list[str], out: Path) -> None:
    """Of torchrun; it passes it on to its processes and their workers."""
    assert whole.exists()
    started = pair(*new_run)
    wait(checkpoints_written(out, 2))
    started.process.send_signal(signal.SIGINT)
    done = started.finish()
    (line,) = our_lines(done.stderr)
    assert line.startswith("error: interrupted after 0 of 2 epochs and ")
    assert line.endswith(f"continue with: torchrun --nproc_per_node 2 -m detector train --resume {out}")
    batches = torch.load(out / "last.pt", weights_only=True)["epoch_stats"]["batches"]
    assert f"and {batches} of 3 batches" in line
    assert "Traceback" not in done.stderr.split("torch/distributed")[0]


def on_machines(folders: list[Path], *arguments: str) -> list[Started]:
    """A process in each of these folders, as torchrun starts them on as many machines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(len(folders)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    alone = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    return [
        Started(sys.executable, TRAIN, *arguments, cwd=folder, RANK=str(rank), **shared, **alone)
        for rank, folder in enumerate(folders)
    ]


def test_machines_share_no_folder_and_go_on_from_the_copy(whole: Path, new_run: list[str], tmp_path: Path) -> None:
    """The first machine is lost; the second one then has the main process, and its folder is new."""
    machines = [tmp_path / name for name in ("first", "second", "third", "store")]
    for folder in machines:
        folder.mkdir()
    copy = f"--train.checkpoint_url=dir://run::file://{machines[3]}"
    main_process, other = on_machines(machines[:2], *new_run[1:-1], "--out=run", copy)
    wait(checkpoints_written(machines[3] / "run", 3))
    main_process.process.send_signal(signal.SIGINT)
    assert [main_process.finish().returncode, other.finish().returncode] == [2, 2]
    assert not (machines[1] / "run").exists()
    shutil.rmtree(machines[0])
    resumed = [each.finish() for each in on_machines(machines[1:3], "--resume=run", copy)]
    assert [each.returncode for each in resumed] == [0, 0], resumed[0].stderr
    assert resumed[0].stdout.count("the run is brought to run from dir://run::file://") == 1
    assert digests(machines[1] / "run") == digests(whole)
    assert rows(machines[1] / "run") == rows(whole)
    assert (machines[3] / "run" / "last.pt").read_bytes() == (machines[1] / "run" / "last.pt").read_bytes()


def test_callbacks_are_called_in_the_main_process_alone(data: Path, tmp_path: Path) -> None:
    """One that fails there leaves no process waiting."""
    done = pair(str(REPOSITORY / "tests" / "callback_run.py"), str(data), str(tmp_path)).finish()
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.glob("rank*")] == ["rank0"]
    assert (tmp_path / "rank0").read_text().splitlines() == ["step 1", "step 2", "step 3", "epoch 1"]
    assert done.stdout.count("Notes is off for the rest of this run, which goes on: ValueError: enough") == 1


def test_refusals_are_one_line(data: Path, tmp_path: Path) -> None:
    """Of what both processes see, and of an image that only one of them reads."""
    shutil.copytree(data, tmp_path / "data")
    image = min((tmp_path / "data" / "train").glob("*.jpg"))
    image.write_bytes(image.read_bytes()[:300])
    alone = [*OPTIONS, "--augment.mosaic=0", f"--data={tmp_path / 'data'}", f"--out={tmp_path / 'other'}"]
    started = [pair(TRAIN, f"--data={tmp_path / 'nowhere'}", f"--out={tmp_path / 'run'}"), pair(TRAIN, *alone)]
    lines = []
    for each in started:
        done = each.finish()
        assert done.returncode != 0
        (line,) = our_lines(done.stderr)
        lines.append(line)
    assert f"{tmp_path / 'nowhere'}: this dataset folder does not exist" in lines[0]
    assert lines[1].startswith("error: 1 of 9 training images can't be read")
    assert str(image) in lines[1]


def test_processes_that_see_different_data_are_told_in_one_line(data: Path, tmp_path: Path) -> None:
    """Rank 1 has an image fewer: it would ask for a sum that rank 0 never comes to."""
    shutil.copytree(data, tmp_path / "0")
    make_dataset(tmp_path / "1", seed=1, train=4, val=5, test=3)
    script = tmp_path / "train.py"
    lines = ("import os, sys", "from detector.cli import main", "rank = os.environ['RANK']")
    script.write_text("\n".join([*lines, f"sys.exit(main(['train', f'--data={tmp_path}/{{rank}}', *sys.argv[1:]]))"]))
    done = pair(str(script), *OPTIONS, f"--out={tmp_path / 'run'}").finish()
    assert done.returncode != 0
    (line,) = our_lines(done.stderr)
    assert line.startswith("error: the train split that rank 1 sees is not that of rank 0")
