"""What other systems lack, taken away, and what programs leave in a home folder: in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detector.demo.scenes import make_dataset

pytestmark = pytest.mark.slow

WINDOWS = """
import fcntl, os, signal, sys
import cv2, platformdirs.unix, torch.multiprocessing, torch.utils.data  # they have ways of their own there
for name in ("pthread_sigmask", "pthread_kill", "sigwait", "sigwaitinfo", "SIGHUP", "SIG_BLOCK", "SIG_UNBLOCK",
             "SIG_SETMASK"):
    delattr(signal, name)
for name in ("register_at_fork", "sched_getaffinity", "uname", "killpg", "getuid", "geteuid", "pread", "pwrite", "statvfs"):
    delattr(os, name)
# the lock of Windows, made of that of this system
locks = __import__("types").ModuleType("msvcrt")
locks.LK_NBLCK = fcntl.LOCK_EX | fcntl.LOCK_NB
locks.locking = lambda descriptor, how, _bytes, flock=fcntl.flock: flock(descriptor, how)
sys.modules["msvcrt"], sys.modules["fcntl"] = locks, None
"""
NO_MEMFD = """
import os
del os.memfd_create, os.posix_fallocate
"""
MACOS = f"{NO_MEMFD}del os.sched_getaffinity"
COMMANDS = """
import sys
from pathlib import Path
from detector.cli import main
data, run, out = (Path(path) for path in sys.argv[1:])
weights = f"--weights={run / 'best.safetensors'}"
small = ["--image_size=64", "--batch_size=4", "--epochs=1", "--workers=2"]
assert main(["train", f"--data={data}", f"--out={run}", *small]) == 0
assert main(["evaluate", weights, f"--data={data}", f"--out={out}"]) == 0
assert main(["infer", str(data / "val"), weights, f"--out={out}"]) == 0
"""
ONNX = """
import sys
from pathlib import Path
from detector import Detector
from detector.cli import main
data, file = (Path(path) for path in sys.argv[1:])
assert main(["export", "--weights=yolo11n-bccd", f"--out={file}", "--image_size=64"]) == 0
assert Detector.load(file)([min((data / "val").iterdir())])
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_dataset(root, seed=1, train=4, val=3, test=3)
    return root


def run_code(code: str, *arguments: Path, **environment: str) -> str:
    """What a process with this code prints; a failure shows its traceback."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=kept | environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("missing", [WINDOWS + NO_MEMFD, MACOS], ids=["Windows", "macOS"])
def test_train_evaluate_and_infer_do_without_what_other_systems_lack(data: Path, tmp_path: Path, missing: str) -> None:
    printed = run_code(missing + COMMANDS, data, tmp_path / "run", tmp_path / "out")
    assert "image cache: none, because it takes Linux" in printed
    assert not list(tmp_path.rglob(".unfinished.*"))


def test_onnx_runtime_records_nothing_of_its_use(data: Path, tmp_path: Path) -> None:
    """In a home folder that was empty; on build machines (CI) it never does."""
    home = tmp_path / "home"
    home.mkdir()
    run_code(ONNX, data, tmp_path / "model.onnx", HOME=str(home), XDG_CACHE_HOME=str(home / ".cache"))
    assert not [path for path in home.rglob("*") if path.is_file()]
