"""The metrics of a run: JSON lines, CSV and TensorBoard say the same, also after a resume."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from detector.errors import WriteError
from detector.training.loggers import open_log
from detector.training.logs import drop_metrics_after, read_metrics


def row(epoch: int, ap: float | None = 0.5) -> dict[str, Any]:
    return {"epoch": epoch, "box_loss": 1.0 / epoch, "learning_rate": 1e-3, "AP": ap, "seconds": 2.0}


def table(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def events(out: Path) -> EventAccumulator:
    loaded = EventAccumulator(str(out / "tensorboard"))
    loaded.Reload()
    return loaded


def test_three_ways_to_say_the_same(tmp_path: Path) -> None:
    with open_log(["tensorboard"], tmp_path, 0) as log:
        for epoch in (1, 2, 3):
            log.log_metrics(row(epoch, ap=None if epoch == 1 else 0.1 * epoch))
            written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
            assert len(written) == len(table(tmp_path)) == epoch
    for entry, line in zip(read_metrics(tmp_path), table(tmp_path), strict=True):
        assert {name: "" if value is None else str(value) for name, value in entry.items()} == line
    scalars = events(tmp_path)
    assert {e.step: e.value for e in scalars.Scalars("validation/AP")} == pytest.approx({2: 0.2, 3: 0.3})
    assert [e.step for e in scalars.Scalars("loss/box_loss")] == [1, 2, 3]
    assert set(scalars.Tags()["scalars"]) == {"loss/box_loss", "run/learning_rate", "validation/AP", "run/seconds"}


def test_a_resumed_run_forgets_the_epochs_it_does_again(tmp_path: Path) -> None:
    with open_log(["tensorboard"], tmp_path, 0) as log:
        for epoch in (1, 2, 3):
            log.log_metrics(row(epoch))
    drop_metrics_after(tmp_path, 1)
    assert [entry["epoch"] for entry in read_metrics(tmp_path)] == [1]
    assert [line["epoch"] for line in table(tmp_path)] == ["1"]
    with open_log(["tensorboard"], tmp_path, 1) as log:
        log.log_metrics({**row(2, ap=0.9), "a_new_loss": 7.0})
    assert [line["a_new_loss"] for line in table(tmp_path)] == ["", "7.0"]
    scalars = events(tmp_path)
    assert [e.step for e in scalars.Scalars("validation/AP")] == [1, 2]
    assert [e.value for e in scalars.Scalars("validation/AP")] == pytest.approx([0.5, 0.9])


def test_images(tmp_path: Path) -> None:
    with open_log(["tensorboard"], tmp_path, 0) as log:
        log.log_image("training batch", np.full((20, 30, 3), 99, np.uint8), epoch=0)
    loaded = events(tmp_path)
    (name,) = loaded.Tags()["images"]
    (image,) = loaded.Images(name)
    assert name == "training batch"
    assert (image.width, image.height, image.step) == (30, 20, 0)


def test_a_folder_that_cant_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file")
    with pytest.raises(WriteError, match=r"tensorboard: can't be written"), open_log(["tensorboard"], tmp_path, 0):
        pass
