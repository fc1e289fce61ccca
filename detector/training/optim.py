"""The optimiser, and its learning rate and momentum from step to step."""

import math

import torch
from torch import nn

from detector.config import TrainLoopConfig


def build_optimizer(model: nn.Module, config: TrainLoopConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW in three groups: weights, scales of the norms, biases (those of the norms, too);
    only the first gets weight decay."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    biases = [p for name, p in named if name.endswith(".bias")]
    others = [p for name, p in named if not name.endswith(".bias")]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
        {"params": biases, "weight_decay": 0.0},
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


def set_rates(
    optimizer: torch.optim.Optimizer, step: int, steps: int, warmup_steps: int, config: TrainLoopConfig
) -> None:
    """Make an optimiser of `build_optimizer` ready for step `step` (from 0) of `steps`.

    In the warm-up the momentum moves linearly from `warmup_momentum` to `momentum`, and the biases' rate from
    `warmup_bias_rate` to the peak; after it every group has the rate of the schedule.
    """
    rate = learning_rate(step, steps, warmup_steps, config)
    warmup_steps = min(warmup_steps, steps // 3)
    left = 1 - (step + 1) / warmup_steps if step < warmup_steps else 0.0
    weights, norms, biases = optimizer.param_groups
    weights["lr"] = norms["lr"] = rate
    biases["lr"] = rate + left * config.warmup_bias_rate
    if config.warmup_momentum is not None:
        momentum = config.momentum + left * (config.warmup_momentum - config.momentum)
        for group in optimizer.param_groups:
            group.update({"momentum": momentum} if config.optimizer == "sgd" else {"betas": (momentum, 0.999)})
