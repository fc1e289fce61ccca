"""Run from test_distributed, also by torchrun: takes some steps, and the main process writes the losses of each, and last.pt.

Arguments: the file to write, the number of steps, those of `detector train`.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from sync_batch_norm import convert_sync_batch_norm

from detector.cli import COMMANDS, parse
from detector.training import setup, step
from detector.training.checkpoint import save_checkpoint
from detector.training.distributed import init_distributed
from detector.training.loop import set_learning_rate
from detector.training.setup import set_up
from detector.training.step import take_step


def main(out: Path, steps: int, arguments: list[str]) -> None:
    torch.set_default_dtype(torch.float64)  # else rounding, amplified from step to step, hides what is compared
    step.scale_pixels = lambda images: images.double() / 255
    setup.convert_sync_batch_norm = convert_sync_batch_norm
    config = parse("train", COMMANDS["train"], arguments)
    with init_distributed() as world:
        run, state = set_up(config, world)
        losses = []
        run.network.train()
        while len(losses) < steps:
            run.sampler.set_epoch(state.epoch, start=state.stats.batches)
            for batch in run.loader:
                before = state.stats.losses.clone()
                set_learning_rate(run, state)
                take_step(run, state, [batch])
                losses.append((state.stats.losses - before).tolist())
                state.stats.batches += 1
                if len(losses) == steps:
                    break
            else:
                state.epoch, state.stats.batches = state.epoch + 1, 0
        models = (state.model, state.auxiliary, state.ema.model)
        tensors = [tensor.numpy().tobytes() for model in models for tensor in model.state_dict().values()]
        shards = world.gather(hashlib.sha256(b"".join(tensors)).hexdigest())
        if world.is_main:
            out.parent.mkdir(exist_ok=True)
            out.write_text(json.dumps({"losses": losses, "weights": shards}))
            save_checkpoint(run.out / "last.pt", state, run.provenance)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
