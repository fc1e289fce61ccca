#!/usr/bin/env python3
"""SIGKILL in the middle of writing checkpoints: last.pt must load afterwards and be of one complete state, each time.

A process does nothing but write the checkpoint of a real training state, over and over, each with another step; it is
killed at a random moment, the file is checked, and the next process goes on from the step it finds. Counted is also how
often the kill came while a file was being written, which the unfinished temporary file shows. Exit code 1 on failure.
"""

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import torch

from detector.config import TrainConfig
from detector.errors import DetectorError
from detector.models.catalog import create_model
from detector.training.checkpoint import TrainState, read_checkpoint, restore_checkpoint, save_checkpoint
from detector.training.ema import ModelEma
from detector.training.optim import build_optimizer
from detector.utils.fileio import UNFINISHED, remove_unfinished


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    options = parser.parse_args()
    processes = multiprocessing.get_context("fork")  # no seconds of imports in each
    during, failures, last = 0, 0, -1
    state = training_state()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.pt"
        for number in range(options.kills):
            begun = processes.Event()
            writer = processes.Process(target=write_for_ever, args=(Path(folder), begun))
            writer.start()
            begun.wait()
            time.sleep(random.uniform(0, 0.5))
            writer.kill()
            writer.join()
            during += any(Path(folder).glob(f"{UNFINISHED}*"))
            try:
                step = complete_step(path, state)
            except (DetectorError, AssertionError) as error:
                failures += 1
                print(f"kill {number + 1}: {error}")
                continue
            if step <= last:
                failures += 1
                print(f"kill {number + 1}: step {step} after step {last}")
            last = step
            remove_unfinished(Path(folder))
    print(
        f"{options.kills} kills, {during} of them while a checkpoint was being written, {last} written: {failures} failures"
    )
    return int(failures > 0)


def training_state() -> TrainState:
    """As of a run that has taken a step, so that the optimizer holds what it does then."""
    config = TrainConfig()
    model = create_model("yolo11n", 5)
    optimizer = build_optimizer(model, config)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return TrainState(model, ModelEma(model, config.train), optimizer, torch.amp.GradScaler("cpu", enabled=False))


def tensors(state: TrainState) -> list[torch.Tensor]:
    moments = [value for entry in state.optimizer.state.values() for value in entry.values()]
    return [*state.model.state_dict().values(), *state.ema.model.state_dict().values(), *moments]


def write_for_ever(folder: Path, begun: Event) -> None:
    """Every tensor of a checkpoint is filled with its step, from the one after the last."""
    state, path = training_state(), folder / "last.pt"
    if path.exists():
        restore_checkpoint(path, read_checkpoint(path, torch.device("cpu")), state)
    while True:
        state.step += 1
        with torch.no_grad():
            for tensor in tensors(state):
                tensor.fill_(state.step)
        save_checkpoint(path, state, {"settings": {}})
        begun.set()  # one is complete


def complete_step(path: Path, state: TrainState) -> int:
    """The step of the checkpoint, of which every tensor must be. Raises WeightsError if it can't be read."""
    restore_checkpoint(path, read_checkpoint(path, torch.device("cpu")), state)
    for tensor in tensors(state):
        assert bool((tensor == state.step).all()), f"a tensor is not of step {state.step}"
    return state.step


if __name__ == "__main__":
    sys.exit(main())
