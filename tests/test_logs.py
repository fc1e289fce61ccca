"""The metrics of a run: JSON lines, CSV and TensorBoard say the same, also after a resume."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from detector.cli import COMMANDS, main, parse
from detector.errors import ConfigError
from detector.training.callbacks import EpochDone, RunEnded, RunStarted
from detector.training.loggers import TensorBoardLogger, known_run, make_loggers, remember_run, scalars
from detector.training.logs import append_metrics, drop_metrics_after, read_metrics


def row(epoch: int, ap: float | None = 0.5) -> dict[str, Any]:
    return {"epoch": epoch, "box_loss": 1.0 / epoch, "learning_rate": 1e-3, "AP": ap, "seconds": 2.0}


def table(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def log(out: Path, rows: list[dict[str, Any]], done_epochs: int = 0) -> EventAccumulator:
    """Log the rows of an attempt at a run into TensorBoard; returns what is there then."""
    logger = TensorBoardLogger()
    images = {"training batch": np.full((20, 30, 3), 99, np.uint8)} if done_epochs == 0 else {}
    logger.run_started(RunStarted(out, {}, done_epochs, images))
    for each in rows:
        logger.epoch_done(EpochDone(each["epoch"], each, False, {}))
    logger.run_ended(RunEnded("finished", 1, None))
    loaded = EventAccumulator(str(out / "tensorboard"))
    loaded.Reload()
    return loaded


def test_three_ways_to_say_the_same(tmp_path: Path) -> None:
    rows = [row(epoch, ap=None if epoch == 1 else 0.1 * epoch) for epoch in (1, 2, 3)]
    for epoch, each in enumerate(rows, start=1):
        append_metrics(tmp_path, each)
        written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert len(written) == len(table(tmp_path)) == epoch
    for entry, line in zip(read_metrics(tmp_path), table(tmp_path), strict=True):
        assert {name: "" if value is None else str(value) for name, value in entry.items()} == line
    events = log(tmp_path, rows)
    assert {e.step: e.value for e in events.Scalars("validation/AP")} == pytest.approx({2: 0.2, 3: 0.3})
    assert [e.step for e in events.Scalars("loss/box_loss")] == [1, 2, 3]
    assert set(events.Tags()["scalars"]) == {"loss/box_loss", "run/learning_rate", "validation/AP", "run/seconds"}
    assert scalars(rows[0]) == {"loss/box_loss": 1.0, "run/learning_rate": 1e-3, "run/seconds": 2.0}


def test_a_resumed_run_forgets_the_epochs_it_does_again(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        append_metrics(tmp_path, row(epoch))
    log(tmp_path, read_metrics(tmp_path))
    drop_metrics_after(tmp_path, 1)
    assert [entry["epoch"] for entry in read_metrics(tmp_path)] == [1]
    assert [line["epoch"] for line in table(tmp_path)] == ["1"]
    again = {**row(2, ap=0.9), "a_new_loss": 7.0}
    append_metrics(tmp_path, again)
    assert [line["a_new_loss"] for line in table(tmp_path)] == ["", "7.0"]
    events = log(tmp_path, [again], done_epochs=1)
    assert [e.step for e in events.Scalars("validation/AP")] == [1, 2]
    assert [e.value for e in events.Scalars("validation/AP")] == pytest.approx([0.5, 0.9])


def test_images(tmp_path: Path) -> None:
    loaded = log(tmp_path, [])
    (name,) = loaded.Tags()["images"]
    (image,) = loaded.Images(name)
    assert name == "training batch"
    assert (image.width, image.height, image.step) == (30, 20, 0)


@pytest.mark.parametrize(
    ("given", "loggers"),
    [(None, 1), ("tensorboard", 1), ("tensorboard,tensorboard", 1), ("[tensorboard]", 1), ("[]", 0)],
)
def test_loggers_by_name(given: str | None, loggers: int) -> None:
    config = parse("train", COMMANDS["train"], [] if given is None else [f"--loggers={given}"])
    assert len(make_loggers(config.loggers)) == loggers


def test_an_unknown_logger_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"--loggers: there is no logger 'tensorbord'; the loggers are tensorboard, mlf"
    ):
        make_loggers("mlflow,tensorbord")


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_is_one_line_before_anything_is_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    assert main(["train", "--data=nowhere", f"--out={tmp_path / 'run'}", f"--loggers=tensorboard,{name}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: --loggers {name}: needs the package {name}: pip install 'attention-detector[{name}]'"
    assert not (tmp_path / "run").exists()


def test_ids_of_a_run_are_kept_beside_its_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert known_run(tmp_path, "mlflow") is None
    (tmp_path / "environment.json").write_text('{"python": "3.11"}')
    remember_run(tmp_path, "mlflow", "abc")
    remember_run(tmp_path, "wandb", "xyz")
    assert (known_run(tmp_path, "mlflow"), known_run(tmp_path, "wandb")) == ("abc", "xyz")
    assert json.loads((tmp_path / "environment.json").read_text())["python"] == "3.11"
    for damaged in ('{"logged_as": ["abc"]}', '{"logged_as": {"mlflow": 3}}', "{"):
        (tmp_path / "environment.json").write_text(damaged)
        assert known_run(tmp_path, "mlflow") is None
    assert "environment.json: damaged; going on without it" in capsys.readouterr().out
