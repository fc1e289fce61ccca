"""The MLflow logger on a real server of this machine, with SQLite and a folder of artifacts."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from played_run import play, settings

from detector.training.loggers import known_run, make_loggers, scalars

mlflow = pytest.importorskip("mlflow", reason="make test-extras installs mlflow")

PATIENCE = 300  # s


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that has begun to answer."""
    root = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    stores = [f"--backend-store-uri=sqlite:///{root}/mlflow.db", f"--artifacts-destination={root}/artifacts"]
    variables = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    variables.pop("MLFLOW_TRACKING_URI", None)
    process = subprocess.Popen([*command, *stores], env=variables, cwd=root, start_new_session=True)
    try:
        wait_for_answer(process, f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_answer(process: "subprocess.Popen[bytes]", address: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None, "the server has ended"
        assert time.monotonic() < deadline, f"no answer for {PATIENCE} s"
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=10):
                return
        except OSError:
            time.sleep(0.2)


@pytest.fixture
def client(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator["mlflow.MlflowClient"]:
    """Of the server, which is that of the environment, too, for the time of a test."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    mlflow.set_tracking_uri(None)
    yield mlflow.MlflowClient()
    assert mlflow.active_run() is None


def test_a_run_is_there_with_all_that_it_has(client: "mlflow.MlflowClient", tmp_path: Path) -> None:
    out = tmp_path / "my run"
    (logger,) = make_loggers("mlflow")
    rows = play(logger, out, epochs=[1, 2])
    run = client.get_run(known_run(out, "mlflow") or "")
    assert (run.info.run_name, run.info.status) == ("my run", "FINISHED")
    assert run.data.params == {name: str(value) for name, value in settings(out).items()}
    assert len(run.data.params) > 60
    assert run.data.metrics == pytest.approx(scalars(rows[-1]))
    history = client.get_metric_history(run.info.run_id, "validation/AP")
    assert [(each.step, each.value) for each in history] == [(row["epoch"], row["AP"]) for row in rows if row["AP"]]
    kept = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
    assert (kept / "best.safetensors").read_bytes() == (out / "best.safetensors").read_bytes()
    shown = [path for path in (kept / "images").iterdir() if path.suffix == ".png"]
    assert sorted(path.name.split("%step%")[1].split("%")[0] for path in shown) == ["0", "2"]


@pytest.mark.parametrize(("status", "known_as"), [("interrupted", "KILLED"), ("failed", "FAILED")])
def test_a_resumed_run_goes_on_in_the_same_run(
    client: "mlflow.MlflowClient", tmp_path: Path, status: str, known_as: str
) -> None:
    out = tmp_path / "run"
    play(*make_loggers("mlflow"), out, epochs=[1], status=status)
    run_id = known_run(out, "mlflow") or ""
    assert client.get_run(run_id).info.status == known_as
    play(*make_loggers("mlflow"), out, epochs=[2, 3], workers=5)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert [each.step for each in client.get_metric_history(run_id, "loss/box_loss")] == [1, 2, 3]
    assert run.data.params["workers"] == "-1"
    names = [each.info.run_id for each in client.search_runs(["0"]) if each.data.params.get("out") == str(out)]
    assert names == [run_id]
