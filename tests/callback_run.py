"""A training with a callback that leaves a file of this process's rank: python callback_run.py DATA OUT, under torchrun."""

import os
import sys
from pathlib import Path

from small_run import small_config

from detector.training.callbacks import Callback, EpochDone, StepDone
from detector.training.loop import train


class Notes(Callback):
    def step_done(self, event: StepDone) -> None:
        note(f"step {event.step}")

    def epoch_done(self, event: EpochDone) -> None:
        note(f"epoch {event.epoch}")
        raise ValueError("enough")


def note(line: str) -> None:
    with Path(sys.argv[2], f"rank{os.environ['RANK']}").open("a") as file:
        file.write(f"{line}\n")


if __name__ == "__main__":
    train(small_config(Path(sys.argv[1]), Path(sys.argv[2]), loggers=[]), callbacks=[Notes()])
