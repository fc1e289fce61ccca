"""The example for Spark: its function over frames of pandas, and, where pyspark and Java are, on Spark itself."""

import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from batch_runs import make_images, make_weights

from detector.inference.detector import Detector

pd = pytest.importorskip("pandas")
pq = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "spark.py"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp("weights") / "w.safetensors")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Ten images and a damaged one."""
    return [str(path) for path in sorted(make_images(tmp_path_factory.mktemp("scenes")).glob("*.jpg"))]


def require_rows(found: list[dict[str, Any]], paths: list[str], weights: Path) -> None:
    detector = Detector.load(weights, device="cpu", threads=1)
    assert [row["path"] for row in found] == paths
    for row in found:
        if row["path"].endswith("damaged.jpg"):
            assert "this is not an image of a known format" in row["error"]
            assert not isinstance(row["boxes"], list)
            continue
        expected = detector(row["path"])
        assert [list(box) for box in row["boxes"]] == expected.boxes.tolist()
        assert list(row["scores"]) == expected.scores.tolist()
        assert list(row["names"]) == expected.names
        assert not isinstance(row["error"], str)  # NaN in a frame


def test_frames_of_paths_become_frames_of_rows(paths: list[str], weights: Path) -> None:
    rows = runpy.run_path(str(EXAMPLE))["rows"]
    frames = [pd.DataFrame({"path": part}) for part in (paths[:6], paths[6:])]
    results = list(rows(iter(frames), str(weights)))
    assert [len(frame) for frame in results] == [6, 5]
    require_rows(pd.concat(results).to_dict("records"), paths, weights)


@pytest.mark.skipif(
    importlib.util.find_spec("pyspark") is None or shutil.which("java") is None, reason="needs pyspark and Java"
)
def test_spark_writes_these_rows(paths: list[str], weights: Path, tmp_path: Path) -> None:
    pd.DataFrame({"path": paths}).to_parquet(tmp_path / "list.parquet")
    command = [sys.executable, str(EXAMPLE), str(tmp_path / "list.parquet"), str(tmp_path / "out"), str(weights)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path]), "SPARK_LOCAL_IP": "127.0.0.1"}
        | {"PYSPARK_SUBMIT_ARGS": "--master local[2] pyspark-shell", "PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = sorted(pq.read_table(tmp_path / "out").to_pylist(), key=lambda row: row["path"])
    require_rows(found, paths, weights)
