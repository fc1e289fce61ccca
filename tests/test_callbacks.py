"""What callbacks hear of a run, that they can't harm it, and that they cost a run without them nothing."""

import json
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lively_model import lively_model
from safetensors.torch import load_file
from small_run import small_config
from torch.utils._python_dispatch import TorchDispatchMode

import detector.training.loop as loop
from detector.config import TrainConfig
from detector.demo.scenes import make_dataset
from detector.errors import DetectorError
from detector.images.draw import GAP
from detector.training.callbacks import (
    Callback,
    Callbacks,
    CheckpointWritten,
    EpochDone,
    RunEnded,
    RunStarted,
    StepDone,
)
from detector.training.examples import CELL, first_detections
from detector.training.loop import train
from detector.training.setup import set_up

EVENTS = ["run_started", "step_done", "epoch_done", "checkpoint_written", "run_ended"]


class Recorder(Callback):
    """Keeps the events; does something at those of one kind."""

    def __init__(self, at: str = "", do: Callable[[], None] = lambda: None) -> None:
        self.events: list[Any] = []

        def method(name: str) -> Callable[[Any], None]:
            def heard(event: Any) -> None:
                self.events.append(event)
                if name == at:
                    do()

            return heard

        for name in EVENTS:
            setattr(self, name, method(name))

    def kinds(self) -> list[type]:
        return [type(event) for event in self.events]

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def fail() -> None:
    raise ValueError("no\nroom \x1b[31m at https://somebody:word@host/?token=abc&then=" + "x" * 1000)


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    make_dataset(root, seed=1, train=12, val=5, test=3)
    return root


@pytest.fixture(scope="module")
def quiet(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody listens to."""
    out = tmp_path_factory.mktemp("quiet") / "run"
    train(config_of(scenes, out))
    return out


def config_of(scenes: Path, out: Path, **settings: Any) -> TrainConfig:
    return small_config(scenes, out, loggers=[], **settings)


def same_weights(first: Path, second: Path) -> bool:
    one, two = load_file(first / "last.safetensors"), load_file(second / "last.safetensors")
    return all(torch.equal(one[name], two[name]) for name in one)


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_events_of_a_run(scenes: Path, quiet: Path, tmp_path: Path) -> None:
    out, recorder = tmp_path / "run", Recorder()
    train(config_of(scenes, out), callbacks=[recorder])
    epoch = [StepDone, StepDone, StepDone, CheckpointWritten, EpochDone]
    assert recorder.kinds() == [RunStarted, *epoch, *epoch, RunEnded]

    (started,) = recorder.of(RunStarted)
    assert (started.out, started.done_epochs, started.settings["epochs"]) == (out, 0, 2)
    assert started.settings["train.nominal_batch_size"] == 4
    (batch,) = started.images.values()
    assert batch.std() > 0

    steps = recorder.of(StepDone)
    assert [(each.epoch, each.step) for each in steps] == [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (2, 6)]
    for number, each in enumerate(recorder.of(EpochDone), start=1):
        assert each.epoch == number
        assert each.metrics == rows(out)[number - 1]
        assert each.is_best == bool(each.images)
        of_steps = [step.mean_losses() for step in steps if step.epoch == number]
        for name in ("box_loss", "class_loss", "distribution_loss"):
            mean = sum(step[name] for step in of_steps) / len(of_steps)
            assert each.metrics[name] == pytest.approx(mean, rel=1e-5)
        assert each.metrics["learning_rate"] == steps[3 * number - 1].learning_rate
    assert recorder.of(EpochDone)[0].images["validation images"].std() > 0
    written = [CheckpointWritten(out / "last.pt", epoch, 3 * epoch) for epoch in (1, 2)]
    assert recorder.of(CheckpointWritten) == written
    best = torch.load(out / "last.pt", weights_only=True)["best_epoch"]
    assert recorder.of(RunEnded) == [RunEnded("finished", best, out / "best.safetensors")]
    assert same_weights(quiet, out)


@pytest.mark.slow
def test_callbacks_that_fail_are_off_and_the_run_goes_on(
    scenes: Path, quiet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing, whole = {name: Recorder(name, fail) for name in EVENTS}, Recorder()
    train(config_of(scenes, tmp_path / "run"), callbacks=[*failing.values(), whole])
    lines = [line for line in capsys.readouterr().out.splitlines() if " is off " in line]
    assert len(lines) == len(EVENTS)
    for line in lines:
        start = "Recorder is off for the rest of this run, which goes on: ValueError: no room \\x1b[31m at"
        assert line.startswith(f"{start} https://***@host/?token=***&then=xxx")
        assert re.search(r" … \(test_callbacks.py:\d+\)$", line)
        assert len(line) < 500
    kinds = whole.kinds()
    assert len(kinds) == 12
    assert failing["run_started"].kinds() == kinds[:1]
    assert failing["step_done"].kinds() == kinds[:2]
    assert failing["checkpoint_written"].kinds() == kinds[:5]
    assert failing["epoch_done"].kinds() == kinds[:6]
    assert failing["run_ended"].kinds() == kinds
    assert same_weights(quiet, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("event", "statuses"), [("step_done", ["interrupted"]), ("run_ended", ["finished"])])
def test_ctrl_c_in_a_callback_ends_the_run(event: str, statuses: list[str], scenes: Path, tmp_path: Path) -> None:
    out, first = tmp_path / "run", Recorder()
    with pytest.raises(DetectorError, match=f"interrupted after .*--resume {out}"):
        train(config_of(scenes, out, epochs=1), callbacks=[first, Recorder(event, interrupt)])
    assert [each.status for each in first.of(RunEnded)] == statuses


@pytest.mark.slow
def test_a_signal_during_a_callback_saves_the_step(scenes: Path, quiet: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recorder = Recorder("step_done", lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(DetectorError, match="interrupted after 0 of 2 epochs and 1 of 3 batches"):
        train(config_of(scenes, out), callbacks=[recorder])
    assert recorder.kinds() == [RunStarted, StepDone, CheckpointWritten, RunEnded]
    assert recorder.events[-1] == RunEnded("interrupted", 0, None)
    again = Recorder()
    train(replace(config_of(scenes, out), resume=str(out)), callbacks=[again])
    assert again.of(RunStarted)[0].images == {}  # it has been shown
    assert [each.step for each in again.of(StepDone)] == [2, 3, 4, 5, 6]
    assert same_weights(quiet, out)


def test_a_run_that_breaks_is_reported_as_failed(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(loop, "take_step", broken)
    recorder = Recorder()
    with pytest.raises(ZeroDivisionError):
        train(config_of(scenes, tmp_path / "run"), callbacks=[recorder])
    assert recorder.events[1:] == [RunEnded("failed", 0, None)]


class Operations(TorchDispatchMode):
    """Counts what runs on the device, by name; `_local_scalar_dense` is what waits for a value from there."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] = self.counts.get(str(func), 0) + 1
        return func(*args, **(kwargs or {}))


def test_a_step_event_touches_no_tensor_until_a_callback_does() -> None:
    """So it neither costs work on the device nor waits for it."""

    class Reader(Callback):
        def step_done(self, event: StepDone) -> None:
            assert list(event.mean_losses().values()) == [2.0, 3.0, 4.0]

    losses = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 4.0, 5.0])]
    counts = []
    for callback in (Callback(), Reader()):
        callbacks = Callbacks([callback])
        with Operations() as operations:
            callbacks.notify(Callback.step_done, StepDone(1, 1, 0.1, losses))
        assert callbacks
        counts.append(operations.counts)
    assert counts[0] == {}
    assert counts[1]
    assert StepDone(1, 1, 0.1, []).mean_losses() == {}


@pytest.mark.slow
def test_a_listener_adds_no_operation_to_the_steps(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    for name, callbacks in (("alone", []), ("watched", [Callback()])):
        original, counts = loop.train_epoch, []

        def counting(*arguments: Any, original: Any = original, counts: Any = counts) -> None:
            with Operations() as operations:
                original(*arguments)
            counts.append(operations.counts)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "train_epoch", counting)
            train(config_of(scenes, tmp_path / name, epochs=1), callbacks=callbacks)
        counted.append(counts)
    assert counted[0] == counted[1]
    assert counted[0][0]["aten._local_scalar_dense.default"] > 0


def test_validation_images_show_what_is_detected_in_them(scenes: Path, tmp_path: Path) -> None:
    run, state = set_up(config_of(scenes, tmp_path / "run"))
    (nothing,) = first_detections(run, state).values()
    state.ema.model = lively_model(len(run.train_dataset.categories))
    (plot,) = first_detections(run, state).values()
    assert plot.shape == nothing.shape
    changed = (plot != nothing).any(axis=2)
    images = [run.val_dataset.read(index).image for index in range(4)]
    assert 0 < changed.sum() < changed.size
    for index, image in enumerate(images):
        top, left = GAP + index // 2 * (CELL + GAP), GAP + index % 2 * (CELL + GAP)
        height, width = (round(side * CELL / max(image.shape[:2])) for side in image.shape[:2])
        cell = changed[top : top + CELL, left : left + CELL].copy()
        y, x = (CELL - height) // 2, (CELL - width) // 2
        assert cell.any()
        cell[max(y - 1, 0) : y + height + 1, max(x - 1, 0) : x + width + 1] = False
        assert not cell.any()  # nothing beside the image


@pytest.mark.slow
def test_the_example_in_the_documentation(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "train.md").read_text(encoding="utf-8")
    call = 'TrainConfig(data="DIR", out="runs/mine", epochs=60)'
    (example,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if call in block]
    given = config_of(scenes, tmp_path / "run", epochs=1)
    exec(example.replace(call, "given").replace("% 100", "% 3"), {"given": given})
    lines = capsys.readouterr().out.splitlines()
    (row,) = rows(tmp_path / "run")
    assert any(re.match(r"3 [\d.e-]+ \{'box_loss': ", line) for line in lines)
    assert f"1 {row['AP']} best so far" in lines
    assert lines[-1] == f"finished {tmp_path / 'run' / 'best.safetensors'}"
