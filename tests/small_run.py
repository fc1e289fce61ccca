"""A training that takes seconds."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from detector.config import TrainConfig, TrainLoopConfig


def small_config(data: Path, out: Path, **settings: Any) -> TrainConfig:
    """Two epochs from scratch, 64 px, in the main process; settings: other values of `TrainConfig` or of its section `train`."""
    top = {each.name for each in fields(TrainConfig)}
    loop = {name: value for name, value in settings.items() if name not in top}
    given = {"epochs": 2, "image_size": 64, "batch_size": 4, "workers": 0, "weights": "scratch"}
    given |= {name: value for name, value in settings.items() if name in top}
    loop = {"nominal_batch_size": 4, "warmup_epochs": 0.5} | loop
    return TrainConfig(data=str(data), out=str(out), train=TrainLoopConfig(**loop), **given)
