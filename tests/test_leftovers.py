"""What a process leaves that is stopped or killed, and who has a folder: others take neither too much nor too little."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import start

from detector.demo.scenes import make_dataset
from detector.errors import WriteError
from detector.utils.fileio import UNFINISHED, folder_lock, remove_unfinished

HOLD_TEMPORARY = "with fileio.temporary_dir(folder): print('begun', flush=True); time.sleep(600)"
HOLD_FOLDER = """
with fileio.folder_lock(folder, "training"):
    if not os.fork():
        time.sleep(600)  # as a worker that outlives the process
        os._exit(0)
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
