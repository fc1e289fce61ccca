"""What a process leaves that is stopped or killed, and who has a folder: others take neither too much nor too little."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import start

from detector.cli import main
from detector.demo.scenes import make_dataset
from detector.errors import WriteError
from detector.utils.fileio import UNFINISHED, folder_lock, remove_unfinished
from detector.utils.interrupts import STOP, stop_signals_interrupt
from detector.weights.shipped import find_weights

HOLD_TEMPORARY = "with fileio.temporary_dir(folder): print('begun', flush=True); time.sleep(600)"
HOLD_FOLDER = """
with fileio.folder_lock(folder, "training"):
    if not os.fork():  # as a worker that outlives the process
        print("begun", flush=True)
    time.sleep(600)
"""


@contextmanager
def holder(code: str, folder: Path) -> "Iterator[subprocess.Popen[str]]":
    """A process that runs the code, from where it has begun; it and its children are killed at the end of the block."""
    head = (
        "import os, sys, time; from pathlib import Path; from detector.utils import fileio; folder = Path(sys.argv[1])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", f"{head}\n{code}", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "begun\n"
        yield process
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(condition: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_a_killed_process_leaves_is_removed_but_nothing_of_a_live_one(tmp_path: Path) -> None:
    (tmp_path / f"{UNFINISHED}old").write_bytes(b"a file of version 0.2")
    (tmp_path / f"{UNFINISHED}new").mkdir()  # killed before it could lock it
    with holder(HOLD_TEMPORARY, tmp_path):
        remove_unfinished(tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
    remove_unfinished(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_free_as_soon_as_its_process_is_killed(tmp_path: Path) -> None:
    """The one that holds it is named, from other processes and from its own."""
    out = tmp_path / "run"
    with holder(HOLD_FOLDER, out) as process:
        with pytest.raises(
            WriteError, match=rf"another training writes there \(process {process.pid} on {os.uname()[1]}"
        ):
            folder_lock(out, "training").__enter__()
        process.kill()
        process.wait()
        with folder_lock(out, "training"), pytest.raises(WriteError, match=f"process {os.getpid()} on"):
            folder_lock(out, "training").__enter__()
    assert not list(out.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_infer_that_is_stopped_leaves_nothing_half_done(tmp_path: Path, number: signal.Signals) -> None:
    make_dataset(tmp_path / "data", seed=1, train=60, val=3, test=3)
    out = tmp_path / "out"
    process = start(
        ["infer", str(tmp_path / "data" / "train"), "--weights=yolo11n-bccd", f"--out={out}", "--image_size=640"]
    )
    wait_for(lambda: list(out.glob("*.jpg")), process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (2, "error: interrupted\n")
    assert {path.suffix for path in out.iterdir()} == {".jpg"}


@pytest.fixture(scope="module")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_dataset(root, seed=1, train=3, val=3, test=3)
    return root


WEIGHTS = "--weights=yolo11n-bccd"
READS = {
    "export": ("weights.safetensors", ["--weights={input}", "--format=safetensors", "--out={out}/x.safetensors"]),
    "import_weights": ("weights.safetensors", ["{input}", "{out}/x.safetensors"]),
    "evaluate": ("annotations/instances_val.json", [WEIGHTS, "--data={data}", "--out={out}"]),
    "infer": ("val/photo.jpg", ["{input}", WEIGHTS, "--out={out}"]),
    "infer --annotations": (
        "annotations/instances_val.json",
        ["{data}/val/photo.jpg", WEIGHTS, "--annotations={input}", "--out={out}"],
    ),
    "benchmark": ("annotations/instances_val.json", [WEIGHTS, "--data={data}", "--out={out}"]),
    "doctor": ("annotations/instances_val.json", ["{data}", "--annotations_only", "--out={out}"]),
    "train": ("config.yaml", ["--config={input}", "--data={data}", "--out={out}"]),
}
WRITES = {
    **dict.fromkeys(("export", "import_weights"), "x.safetensors"),
    **{
        "evaluate": "metrics.json",
        "infer": "photo.jpg",
        "infer --annotations": "detections.json",
        "benchmark": "benchmark.json",
        "doctor": "doctor.json",
        "train": "config.yaml",
    },
}


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("command", list(READS))
def test_no_command_writes_over_what_it_reads(
    command: str,
    link: Callable[[Path, Path], None],
    small_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, out = Path(shutil.copytree(small_data, tmp_path / "data")), tmp_path / "out"
    shutil.copy(find_weights("yolo11n-bccd"), data / "weights.safetensors")
    shutil.copy(min((data / "val").iterdir()), data / "val" / "photo.jpg")
    annotations = data / "annotations" / "instances_val.json"
    content = json.loads(annotations.read_bytes())
    content["categories"] = [{"id": i, "name": name} for i, name in enumerate(("RBC", "WBC", "Platelets"), start=1)]
    content["annotations"] = []
    content["images"].append({**content["images"][0], "id": 10**6, "file_name": "photo.jpg"})
    annotations.write_text(json.dumps(content))
    (data / "config.yaml").write_text("epochs: 1  # as long as it takes\n")
    name, arguments = READS[command]
    read, written = data / name, out / WRITES[command]
    out.mkdir()
    link(read, written)
    before = read.read_bytes()
    assert main([command.split()[0], *(each.format(input=read, data=data, out=out) for each in arguments)]) == 2
    assert f"error: --out: {written} would take the place of " in capsys.readouterr().err
    assert read.read_bytes() == before
    assert written.samefile(read)


@pytest.mark.parametrize("number", sorted(STOP))
def test_an_interrupt_that_python_ignores_comes_again(number: signal.Signals) -> None:
    """Raised in the callback of a weak reference it is dropped, as happened in one export of several."""

    class Referenced:
        pass

    thing = Referenced()
    reference = weakref.ref(thing, lambda _: signal.raise_signal(number))  # noqa: F841, alive until its callback
    states, waiting = [], threading.Event()
    with pytest.raises(KeyboardInterrupt), stop_signals_interrupt():  # noqa: PT012, the first must not end the block
        del thing
        states.append("ignored")
        waiting.wait(60)
    assert states == ["ignored"]


def test_other_exceptions_that_python_ignores_are_still_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: reported.append(unraisable.exc_type))

    class Failing:
        def __del__(self) -> None:
            raise ValueError

    with stop_signals_interrupt():
        Failing()
    assert reported == [ValueError]
    Failing()
    assert reported == [ValueError, ValueError]
