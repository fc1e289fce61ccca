"""The optimiser and its learning rate from step to step."""

import math

import torch
from torch import nn

from detector.config import TrainLoopConfig


def build_optimizer(model: nn.Module, config: TrainLoopConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW; norms and biases (tensors of one dimension) get no weight decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.momentum, 0.999), fused=True)


def learning_rate(step: int, steps: int, warmup_steps: int, config: TrainLoopConfig) -> float:
    """Rate of optimiser step `step` (from 0) of `steps`: a linear rise, then the fall that the schedule names."""
    warmup_steps = min(warmup_steps, steps // 3)
    if step < warmup_steps:
        return config.learning_rate * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(steps - 1 - warmup_steps, 1)
    share = 1 - progress if config.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * (config.final_learning_rate + (1 - config.final_learning_rate) * share)
