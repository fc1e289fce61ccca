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
from detector.demo.scenes import make_dataset

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


def test_transfer_repeats_no_run_and_compares_equal_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_dataset(tmp_path / "drawn", seed=1, train=4, val=3, test=3)
    transfer = runpy.run_path(str(SCRIPTS[0].parent / "transfer.py"))["main"]
    results = tmp_path / "results.jsonl"
    arguments = [f"--data={tmp_path}", f"--results={results}", f"--out={tmp_path / 'runs'}", "--datasets=drawn"]
    arguments += ["--epochs=1", "--image-size=64", "--options=batch_size=4"]
    assert transfer(arguments) == 0
    (line,) = [json.loads(each) for each in results.read_text().splitlines()]
    assert (line["dataset"], line["start"], line["epochs"], line["seed"]) == ("drawn", "scratch", 1, 0)
    (run,) = (tmp_path / "runs").iterdir()
    metrics = json.loads((run / "metrics.jsonl").read_text())
    assert line["val"] == line["last"] == metrics["AP"]
    assert transfer([*arguments, "--test"]) == 0  # the same run, with one more figure
    lines = [json.loads(each) for each in results.read_text().splitlines()]
    assert lines[1] == lines[0] | {"test": lines[1]["test"]}
    start = run / "best.safetensors"
    capsys.readouterr()
    results.write_text(json.dumps(line | {"val": 0.25}) + "\n")
    assert transfer([*arguments, f"--starts={start}"]) == 0
    gained = json.loads(results.read_text().splitlines()[1])["val"] - 0.25
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("| best ")
    assert row.endswith(f"| {gained:+.3f} (1 runs) |")
