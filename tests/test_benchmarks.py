"""The benchmarks are no tests, but they must start with the code as it is."""

import json
import os
import runpy
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from detector.cli import COMMANDS, parse

pytestmark = pytest.mark.slow

SCRIPTS = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.name for script in SCRIPTS])
def test_a_benchmark_starts(script: Path) -> None:
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


PEER = """import json, sys
print(json.dumps({"boxes": 1, "threads": 1}), flush=True)
for line in sys.stdin:
    print(json.dumps({"ms": [4.0] * int(line)}), flush=True)
"""


def test_inference_is_measured_beside_a_peer(tmp_path: Path) -> None:
    (tmp_path / "peer.py").write_text(PEER)
    command = [sys.executable, SCRIPTS[0].parent / "inference.py", "--weights", "yolo11n-bccd", "--peer-torch", "none"]
    options = ["--only", "PyTorch", "--starts", "2", "--rounds", "1", "--calls", "3", "--out", tmp_path / "out.json"]
    peer = {"PEER_INFER": f"{sys.executable} {tmp_path / 'peer.py'}"}
    done = subprocess.run([*command, *options], env=os.environ | peer, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out.json").read_text())["runtimes"]["PyTorch"]
    assert figures["peer"]["ms"] == figures["peer"]["p95_ms"] == 4
    assert figures["peer"]["network_ms"] is None
    assert 1 < figures["project"]["network_ms"] < figures["project"]["ms"] <= figures["project"]["p95_ms"]
    assert len(figures["ratios"]) == 2
    assert min(figures["ratios"]) <= figures["ratio"] <= max(figures["ratios"])
    assert figures["ratio"] == pytest.approx(figures["project"]["ms"] / 4)


def test_trainings_are_started_with_options_that_exist(tmp_path: Path) -> None:
    folder = SCRIPTS[0].parent
    options = Namespace(data="data", epochs=2, compile=True, image_size=64, batch=4, workers=0, device="cpu")
    step = runpy.run_path(str(folder / "train_step.py"))["project_arguments"](options, tmp_path)
    gpu = runpy.run_path(str(folder / "train_gpu.py"))["training_arguments"](options, "data", "yolo11m", tmp_path)
    for arguments in (step, gpu):
        config = parse("train", COMMANDS["train"], arguments)
        assert config.out == str(tmp_path)
