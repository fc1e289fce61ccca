"""Run by torchrun from test_distributed: takes some steps and writes the losses of each, from the main process."""

import dataclasses
import json
import sys
from pathlib import Path

import torch

from detector.cli import COMMANDS, parse
from detector.training import step
from detector.training.distributed import joined
from detector.training.loop import set_learning_rate
from detector.training.setup import set_up
from detector.training.step import take_step

STEPS = 20


def main(out: Path, arguments: list[str]) -> None:
    torch.set_default_dtype(torch.float64)  # else rounding, amplified from step to step, hides what is compared
    step.scale_pixels = lambda images: images.double() / 255
    config = parse("train", COMMANDS["train"], arguments)
    with joined() as world:
        run, state = set_up(config, world)
        losses = []
        state.model.train()
        while len(losses) < STEPS:
            run.sampler.epoch = state.epoch
            for batch in run.loader:
                before = state.tally.losses.clone()
                set_learning_rate(run, state)
                take_step(run, state, [batch])
                losses.append((state.tally.losses - before).tolist())
            state.epoch += 1
        sums = {name: tensor.double().sum().item() for name, tensor in state.ema.model.state_dict().items()}
        shares = world.gather(sums)
        if world.is_main:
            same = all(share == shares[0] for share in shares)
            out.write_text(json.dumps({"losses": losses[:STEPS], "same": same, "config": dataclasses.asdict(config)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
