"""What a run says of itself while it trains: five events, and the callbacks that hear them.

The loop calls them in plain sight (`loop.py`); a callback watches, and changes nothing of what is trained.
"""

import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from detector.errors import printable, without_secrets

MAX_REASON = 300
"""Characters of the text of a foreign error that are shown."""
Images = dict[str, UInt8[np.ndarray, "height width 3"]]
"""RGB images by name."""


@dataclass(frozen=True)
class RunStarted:
    """A run begins or goes on.

    out: its folder; settings: values of `TrainConfig` by dotted name; done_epochs: those of the attempts before, 0 in a
    new run; images: the first training batch, of a new run.
    """

    out: Path
    settings: dict[str, Any]
    done_epochs: int
    images: Images


@dataclass(frozen=True)
class StepDone:
    """The optimizer has taken a step, or skipped it since the gradient was not finite.

    epoch, step: numbers from 1 on; losses: the box, class and distribution loss of each forward pass of the step, weighted by
    loss.*, over all processes and on their device: reading a value waits for the device.
    """

    epoch: int
    step: int
    learning_rate: float
    losses: Sequence[Float[Tensor, "3"]]

    def mean_losses(self) -> dict[str, float]:
        """Means over the forward passes, by the names of the epoch's metrics; empty if no image could be read. Waits for
        the device."""
        names = ("box_loss", "class_loss", "distribution_loss")
        return dict(zip(names, torch.stack(tuple(self.losses)).mean(0).tolist(), strict=True)) if self.losses else {}


@dataclass(frozen=True)
class EpochDone:
    """An epoch has been trained and validated, and its weights are written.

    epoch: its number, from 1 on; metrics: its row of metrics.jsonl, None where there was nothing to measure; is_best: whether
    best.safetensors is of this epoch; images: the first validation images with what is detected in them, of a best epoch.
    """

    epoch: int
    metrics: dict[str, Any]
    is_best: bool
    images: Images


@dataclass(frozen=True)
class CheckpointWritten:
    """last.pt, at `path`, has been written: after an epoch, every train.checkpoint_minutes, and before a stop.

    epoch: finished epochs; step: steps taken.
    """

    path: Path
    epoch: int
    step: int


@dataclass(frozen=True)
class RunEnded:
    """The run has ended: after its last epoch or out of patience (finished), by Ctrl-C or a signal, or by an error.

    best_epoch: 0 if there is none yet; weights: best.safetensors, if there is one.
    """

    status: Literal["finished", "interrupted", "failed"]
    best_epoch: int
    weights: Path | None


Event = TypeVar("Event", RunStarted, StepDone, EpochDone, CheckpointWritten, RunEnded)


class Callback:
    """To be derived from, with the methods for the events that are wanted.

    They are called in the main process only, and training waits for them. One that raises an Exception is off for the rest of
    the run, which goes on; KeyboardInterrupt ends the run as Ctrl-C does.
    """

    def run_started(self, event: RunStarted) -> None:
        """Before the first step of a new or resumed run."""

    def step_done(self, event: StepDone) -> None:
        """After each step."""

    def epoch_done(self, event: EpochDone) -> None:
        """After each epoch."""

    def checkpoint_written(self, event: CheckpointWritten) -> None:
        """After each checkpoint."""

    def run_ended(self, event: RunEnded) -> None:
        """At the end, however it came about."""


class Callbacks:
    """The callbacks of a run, without those that are off."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self._callbacks = list(callbacks)

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def notify(self, method: Callable[[Callback, Event], None], event: Event) -> None:
        """Call that method of each; a line names one that raises an Exception, and it is off from then on."""
        for callback in tuple(self._callbacks):
            try:
                getattr(callback, method.__name__)(event)
            except Exception as error:  # whatever it is, the training is worth more
                self._callbacks.remove(callback)
                print(f"{type(callback).__name__} is off for the rest of this run, which goes on: {reason(error)}")


def reason(error: Exception) -> str:
    """One short line on an error of foreign code: its type, its text without secrets, and where it was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = printable(without_secrets(str(error)))
    short = text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]} …"
    return f"{type(error).__name__}: {short} ({Path(frame.filename).name}:{frame.lineno})"
