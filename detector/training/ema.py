"""The averaged weights: an exponential moving average of the trained ones, steadier, and those that are shipped."""

import math
from copy import deepcopy

import torch
from torch import Tensor

from detector.config import TrainLoopConfig
from detector.models.base import DetectionModel


class ModelEma:
    """Keeps `model`, a copy in evaluation mode whose weights and running statistics follow the trained model's.

    The decay rises as ema_decay · (1 - exp(-steps / ema_ramp_steps)), so that early steps are soon forgotten.
    """

    def __init__(self, model: DetectionModel, config: TrainLoopConfig) -> None:
        self.model = deepcopy(model).eval().requires_grad_(False)
        self.steps = 0
        self._decay = config.ema_decay
        self._ramp = config.ema_ramp_steps

    @torch.no_grad()
    def update(self, model: DetectionModel) -> None:
        """Move towards `model` after an optimiser step."""
        self.steps += 1
        decay = self._decay * (1 - math.exp(-self.steps / self._ramp))
        averaged, current = [], []
        for mine, theirs in zip(self._tensors(self.model), self._tensors(model), strict=True):
            if mine.is_floating_point():
                averaged.append(mine)
                current.append(theirs)
            else:  # the batch counters
                mine.copy_(theirs)
        torch._foreach_lerp_(averaged, current, 1 - decay)

    @staticmethod
    def _tensors(model: DetectionModel) -> list[Tensor]:
        return [*(p.detach() for p in model.parameters()), *model.buffers()]
