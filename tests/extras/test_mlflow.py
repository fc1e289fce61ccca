"""The MLflow logger on a real server of this machine, with SQLite and a folder of artifacts."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from played_run import play, settings
from small_run import small_config

from detector.demo.scenes import make_dataset
from detector.errors import DetectorError
from detector.training.callbacks import Callback, StepDone
from detector.training.loggers import known_run, make_loggers, scalars
from detector.training.logs import read_metrics
from detector.training.loop import train
from detector.weights.files import load_weights

mlflow = pytest.importorskip("mlflow", reason="make test-extras installs mlflow")

pytestmark = pytest.mark.slow
PATIENCE = 300  # s


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server for all tests."""
    with started(tmp_path_factory.mktemp("server")) as (address, _):
        yield address


@contextmanager
def started(root: Path) -> "Iterator[tuple[str, subprocess.Popen[bytes]]]":
    """The address of a server that has begun to answer, and its process, which is killed at the end of the block."""
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
        yield f"http://127.0.0.1:{port}", process
    finally:
        with suppress(ProcessLookupError):
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
    assert run.data.metrics == pytest.approx(scalars(rows[-1]))
    history = client.get_metric_history(run.info.run_id, "validation/AP")
    assert [(each.step, each.value) for each in history] == [(row["epoch"], row["AP"]) for row in rows if row["AP"]]
    kept = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
    assert (kept / "best.safetensors").read_bytes() == (out / "best.safetensors").read_bytes()
    shown = [path for path in (kept / "images").iterdir() if path.suffix == ".png"]
    assert sorted(path.name.split("+step+")[1].split("+")[0] for path in shown) == ["0", "2"]


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


class Stop(Callback):
    """Asks the run to stop after the first step of its second epoch."""

    def step_done(self, event: StepDone) -> None:
        if event.epoch == 2:
            signal.raise_signal(signal.SIGTERM)


def test_a_training_and_its_resume_are_one_run(
    client: "mlflow.MlflowClient", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of MLflow and, where it is installed, of Weights & Biases."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "scenes")
    make_dataset(tmp_path / "data", seed=1, train=8, val=4, test=3)
    out, offline = tmp_path / "run", find_spec("wandb") is not None
    config = small_config(tmp_path / "data", out, loggers="mlflow,wandb" if offline else "mlflow")
    with pytest.raises(DetectorError, match="interrupted after 1 of 2 epochs"):
        train(config, callbacks=[Stop()])
    train(replace(config, resume=str(out)))

    (run,) = client.search_runs([client.get_experiment_by_name("scenes").experiment_id])
    assert (run.info.run_id, run.info.status) == (known_run(out, "mlflow"), "FINISHED")
    assert (run.data.params["epochs"], run.data.params["train.nominal_batch_size"]) == ("2", "4")
    for row in read_metrics(out):
        for name, value in scalars(row).items():
            history = {each.step: each.value for each in client.get_metric_history(run.info.run_id, name)}
            assert history[row["epoch"]] == value
    kept = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
    assert load_weights(kept / "best.safetensors")[1].metrics == load_weights(out / "best.safetensors")[1].metrics
    assert any(path.name.startswith("training batch+step+0") for path in (kept / "images").iterdir())
    assert len(list((out / "wandb").glob(f"offline-run-*-{known_run(out, 'wandb')}"))) == (2 if offline else 0)
    assert " is off " not in capsys.readouterr().out


def test_a_server_that_dies_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    make_dataset(tmp_path / "data", seed=1, train=8, val=4, test=3)
    with started(tmp_path) as (address, process):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("http://", "http://somebody:word@"))

        class Kill(Callback):
            def step_done(self, event: StepDone) -> None:
                if event.step == 3:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

        config = small_config(tmp_path / "data", tmp_path / "run", loggers="mlflow")
        train(config, callbacks=[Kill()])
    mlflow.tracking.fluent._active_run_stack.get().clear()
    assert len(read_metrics(tmp_path / "run")) == 2
    (line,) = [line for line in capsys.readouterr().out.splitlines() if " is off " in line]
    assert line.startswith("MLflowLogger is off for the rest of this run, which goes on: MlflowException: ")
    assert "somebody" not in line


def test_the_makers_hear_nothing() -> None:
    """MLflow sends nothing from tests and CI either, so this is asked outside of them, and what turns it off is the logger."""
    code = (
        "import os\n"
        "from detector.training.loggers import make_loggers\n"
        "make_loggers('mlflow')\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "print(is_telemetry_disabled())\n"
        "del os.environ['MLFLOW_DISABLE_TELEMETRY']\n"
        "print(is_telemetry_disabled())\n"
    )
    variables = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
