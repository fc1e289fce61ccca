"""The EMA weights: an exponential moving average of the trained ones, steadier, and those that are shipped."""

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
        self._weights, self._counters = tensors(self.model)
        self._decay = config.ema_decay
        self._ramp = config.ema_ramp_steps

    @torch.no_grad()
    def update(self, model: DetectionModel) -> None:
        """Move towards `model` after an optimizer step."""
        self.steps += 1
        decay = self._decay * (1 - math.exp(-self.steps / self._ramp))
        weights, counters = tensors(model)
        torch._foreach_lerp_(self._weights, weights, 1 - decay)
        torch._foreach_copy_(self._counters, counters)


def tensors(model: DetectionModel) -> tuple[list[Tensor], list[Tensor]]:
    """Weights with running statistics, and the counters of batches."""
    everything = [*model.parameters(), *model.buffers()]
    floating = [tensor for tensor in everything if tensor.is_floating_point()]
    return floating, [tensor for tensor in everything if not tensor.is_floating_point()]
