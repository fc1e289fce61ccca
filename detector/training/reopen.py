"""Before anything else: is this a new run or one that goes on, and where is what is there of it?"""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import torch

from detector.config import TrainConfig
from detector.errors import DataError, WeightsError
from detector.training.checkpoint import read_checkpoint
from detector.training.distributed import World, was_restarted
from detector.training.logs import launcher, read_environment
from detector.training.run_copy import RunCopy


def open_or_resume(config: TrainConfig, world: World, copy: RunCopy | None) -> tuple[TrainConfig, Path]:
    """The configuration, resuming if torchrun has started this run again, and the run's folder, which the main process fills
    from the copy where that is further."""
    out, main = Path(config.resume or config.out), world.is_main
    if was_restarted() and config.resume is None:
        own = main and (is_own_run(out) or (copy is not None and copy.is_own()))
        if world.from_main(own):
            config = dataclasses.replace(config, resume=config.out)
    if config.resume is not None:
        if copy is not None and main:
            copy.bring(out)
        if copy is None or world.from_main(main and (out / "last.pt").exists()):
            return config, out
        config = dataclasses.replace(config, resume=None, out=str(out))
        print(f"neither {out} nor {copy} holds a checkpoint: the run begins")
    remedy = f"--resume {shlex.quote(str(out))} continues it"
    if world.from_main(main and holds_results(out)):
        raise DataError(f"--out: {out} already holds a run; {remedy}, another folder starts a new one")
    if copy is not None and world.from_main(main and copy.has_checkpoint):
        raise DataError(
            f"--train.checkpoint_url: {copy} already holds a run; with this URL, {remedy}; another URL starts a new one"
        )
    return config, out


def resumed_content(config: TrainConfig, world: World) -> dict[str, Any] | None:
    """What the checkpoint of a run to resume holds, on the CPU; the main process reads it, since others may be on machines
    without it. None for a new run."""
    if config.resume is None:
        return None
    path = Path(config.resume) / "last.pt"
    content: dict[str, Any] = world.from_main(read_checkpoint(path, torch.device("cpu")) if world.is_main else None)
    return content


def is_own_run(out: Path) -> bool:
    """Whether the run in `out` was begun by the torchrun that has now started this process again."""
    return bool(read_environment(out).get("launcher") == launcher())


def holds_results(out: Path) -> bool:
    """Whether a run has finished an epoch there, or saved a step of its first; one that failed earlier may be replaced."""
    if any((out / name).exists() for name in ("best.safetensors", "last.safetensors", "metrics.jsonl")):
        return True
    try:
        return bool(read_checkpoint(out / "last.pt", torch.device("cpu")).get("step"))
    except WeightsError:  # none, or not a checkpoint
        return False
