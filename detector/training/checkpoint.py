"""The state of a run between two steps, written atomically and read without running code."""

import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detector.errors import WeightsError
from detector.models.base import DetectionModel
from detector.training.ema import ModelEma
from detector.utils.fileio import atomic_write

START_AGAIN = "start a new run in another folder; its --weights may be best.safetensors of this one"


@dataclass
class EpochStats:
    """How far the running epoch is.

    batches: batches of the sampler that are done; losses: (3,) sums of the box, class and distribution loss over the
    `passes` forward passes that counted; images: images in them; skipped_steps: steps skipped since their gradient
    was not finite; seconds: time spent.
    """

    batches: int = 0
    passes: int = 0
    images: int = 0
    losses: Tensor = field(default_factory=lambda: torch.zeros(3))
    skipped_steps: int = 0
    seconds: float = 0.0

    def images_per_second(self) -> float:
        return self.images / max(self.seconds, 1e-9)

    def mean_losses(self) -> tuple[float, float, float]:
        """Means of the box, class and distribution loss; NaN where nothing counted."""
        box, classification, distribution = (self.losses / self.passes).tolist()
        return box, classification, distribution


@dataclass
class TrainState:
    """Everything that a run changes as it goes.

    epoch: finished epochs; step: optimizer steps, the skipped ones too; skipped_in_row: steps skipped since the last one
    that counted; best: the best value of the stopping metric, reached in best_epoch; unreadable: a line for each image
    skipped so far; auxiliary: what is trained beside the model and then dropped, an empty module if there is nothing.
    """

    model: DetectionModel
    ema: ModelEma
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    epoch: int = 0
    step: int = 0
    skipped_in_row: int = 0
    best: float = -1.0
    best_epoch: int = 0
    unreadable: set[str] = field(default_factory=set)
    stats: EpochStats = field(default_factory=EpochStats)
    auxiliary: nn.Module = field(default_factory=nn.Module)


COUNTERS = ("epoch", "step", "skipped_in_row", "best", "best_epoch")


def save_checkpoint(path: Path, state: TrainState, provenance: dict[str, Any]) -> None:
    """Write `state` and `provenance`, what the run is made of; the file from before stays until the new one is complete."""
    content: dict[str, Any] = {
        "provenance": provenance,
        "class_width": state.model.head.class_width,
        "model": state.model.state_dict(),
        "auxiliary": state.auxiliary.state_dict(),
        "ema": state.ema.model.state_dict(),
        "ema_steps": state.ema.steps,
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        **{name: getattr(state, name) for name in COUNTERS},
        "unreadable": sorted(state.unreadable),
        "epoch_stats": asdict(state.stats),
        "rng": rng_states(),
    }
    atomic_write(path, lambda temporary: torch.save(content, temporary))


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """The content of the file. Raises WeightsError if there is no such file or it can't be read."""
    if not path.exists():
        raise WeightsError(f"{path}: there is no checkpoint to resume from; --resume takes the folder of a run")
    try:
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load raises many kinds; whichever it is, the file is not usable
        raise WeightsError(f"{path}: not a readable checkpoint ({type(error).__name__}); {START_AGAIN}") from error
    known = isinstance(content, dict) and isinstance(content.get("provenance"), dict)
    if not known or not isinstance(content.get("class_width"), int | None):
        raise WeightsError(f"{path}: not a checkpoint of this version of the program; {START_AGAIN}")
    return content


def restore_checkpoint(path: Path, content: dict[str, Any], state: TrainState) -> None:
    """Bring `state` to what `read_checkpoint` found at `path`. Raises WeightsError if that is of another model."""
    try:
        state.model.load_state_dict(content["model"])
        state.auxiliary.load_state_dict(content["auxiliary"])
        state.ema.model.load_state_dict(content["ema"])
        state.ema.steps = content["ema_steps"]
        state.optimizer.load_state_dict(content["optimizer"])
        state.scaler.load_state_dict(content["scaler"])
        for name in COUNTERS:
            setattr(state, name, content[name])
        state.unreadable = set(content["unreadable"])
        device = state.stats.losses.device
        state.stats = EpochStats(**content["epoch_stats"])
        state.stats.losses = state.stats.losses.to(device)
        restore_rng_states(content["rng"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise WeightsError(f"{path}: not a checkpoint of this run's model and configuration; {START_AGAIN}") from error


def rng_states() -> dict[str, Any]:
    """The state of every random number generator a transform or module might draw from, as tensors and numbers.

    The program's own draws don't need it: they follow from the seed, the epoch and the image.
    """
    version, internal, gauss = random.getstate()
    _, key, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(internal), gauss],
        "numpy": [torch.from_numpy(np.array(key, dtype=np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_rng_states(states: dict[str, Any]) -> None:
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    key, position, has_gauss, cached = states["numpy"]
    np.random.set_state(("MT19937", key.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
