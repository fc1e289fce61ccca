"""The state of a run between two epochs, written atomically and read without running code."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detector.errors import WeightsError
from detector.fileio import atomic_write
from detector.models.base import DetectionModel
from detector.training.ema import ModelEma

START_ANEW = "start a new run in another folder; its --weights may be best.safetensors of this one"


@dataclass
class TrainState:
    """Everything that a run changes as it goes; `epoch` counts the finished epochs, `step` the optimiser steps."""

    model: DetectionModel
    ema: ModelEma
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    epoch: int = 0
    step: int = 0
    best_ap: float = -1.0
    best_epoch: int = 0


def save_checkpoint(path: Path, state: TrainState) -> None:
    """Write `state`; the file that was there before stays until the new one is complete."""
    content: dict[str, Any] = {
        "model": state.model.state_dict(),
        "ema": state.ema.model.state_dict(),
        "ema_steps": state.ema.steps,
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "epoch": state.epoch,
        "step": state.step,
        "best_ap": state.best_ap,
        "best_epoch": state.best_epoch,
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    atomic_write(path, lambda temporary: torch.save(content, temporary))


def restore_checkpoint(path: Path, state: TrainState, device: torch.device) -> None:
    """Bring `state` to what the file holds. Raises WeightsError if there is no such file or it can't be read."""
    if not path.exists():
        raise WeightsError(f"{path}: there is no checkpoint to resume from; --resume takes the folder of a run")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load raises many kinds; whichever it is, the file is not usable
        raise WeightsError(f"{path}: not a readable checkpoint ({type(error).__name__}); {START_ANEW}") from error
    try:
        _restore(content, state)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise WeightsError(f"{path}: not a checkpoint of this run's model and configuration; {START_ANEW}") from error


def _restore(content: dict[str, Any], state: TrainState) -> None:
    state.model.load_state_dict(content["model"])
    state.ema.model.load_state_dict(content["ema"])
    state.ema.steps = content["ema_steps"]
    state.optimizer.load_state_dict(content["optimizer"])
    state.scaler.load_state_dict(content["scaler"])
    state.epoch, state.step = content["epoch"], content["step"]
    state.best_ap, state.best_epoch = content["best_ap"], content["best_epoch"]
    torch.set_rng_state(content["rng"].cpu())
    if content["cuda_rng"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([rng.cpu() for rng in content["cuda_rng"]])
