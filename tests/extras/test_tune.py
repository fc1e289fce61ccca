"""The example of a search for hyperparameters, on data that take seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from detector.demo.scenes import make_dataset

pytest.importorskip("ray.tune", reason="make test-extras installs ray")
pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]


def test_the_best_trial_is_found(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", seed=1, train=8, val=4, test=3)
    options = ["--trials=3", "--epochs=2", "--image_size=64"]
    done = subprocess.run(
        [sys.executable, "examples/tune.py", str(tmp_path / "data"), str(tmp_path / "out"), *options],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    best = json.loads(done.stdout.strip().splitlines()[-1])
    runs = [path.parent for path in (tmp_path / "out").glob("trial_*/best.safetensors")]
    assert len(runs) == 3
    rows = [json.loads(line) for run in runs for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert best["AP"] == max(row["AP"] for row in rows)
    assert 3e-4 <= best["lr"] <= 1e-2
    assert 0.1 <= best["scale"] <= 0.9
