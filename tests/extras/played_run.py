"""The events of a run as a logger gets them, without the training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from detector.config import TrainConfig
from detector.training.callbacks import Callback, CheckpointWritten, EpochDone, RunEnded, RunStarted
from detector.training.resume import flat

COLOR = (200, 100, 50)


def settings(out: Path, **changed: Any) -> dict[str, Any]:
    return flat(TrainConfig(out=str(out), **changed))


def row(epoch: int) -> dict[str, Any]:
    """The first epoch finds nothing."""
    ap = None if epoch == 1 else 0.25 * epoch
    return {"epoch": epoch, "step": 3 * epoch, "box_loss": 1 / epoch, "learning_rate": 1e-3, "AP": ap, "seconds": 2.0}


def image() -> np.ndarray:
    return np.full((20, 30, 3), COLOR, np.uint8)


def play(
    logger: Callback,
    out: Path,
    epochs: Sequence[int],
    status: Literal["finished", "interrupted", "failed"] = "finished",
    **changed: Any,
) -> list[dict[str, Any]]:
    """An attempt at a run in `out` that does these epochs; returns their rows. Images come before the first epoch and after
    each even one; there are weights at a good end. changed: settings of `TrainConfig`."""
    out.mkdir(exist_ok=True)
    done = epochs[0] - 1
    logger.run_started(RunStarted(out, settings(out, **changed), done, {} if done else {"training batch": image()}))
    for epoch in epochs:
        logger.checkpoint_written(CheckpointWritten(out / "last.pt", epoch, 3 * epoch))
        images = {} if epoch % 2 else {"validation images": image()}
        logger.epoch_done(EpochDone(epoch, row(epoch), bool(images), images))
    weights = None
    if status == "finished":
        weights = out / "best.safetensors"
        weights.write_bytes(bytes(range(256)))
    logger.run_ended(RunEnded(status, epochs[-1], weights))
    return [row(epoch) for epoch in epochs]
