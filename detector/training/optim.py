"""The optimizer, and its learning rate and momentum from step to step."""

import math

import torch
from torch import nn

from detector.config import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW in three groups: weights, scales of the batch norms, biases;
    only the first gets weight decay."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    biases = [p for name, p in named if name.endswith(".bias")]
    others = [p for name, p in named if not name.endswith(".bias")]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": config.train.weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
        {"params": biases, "weight_decay": 0.0},
    ]
    if config.train.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.train.momentum, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.train.momentum, 0.999), fused=True)


def learning_rate(step: int, steps: int, warmup_steps: int, config: TrainConfig) -> float:
    """Learning rate of optimizer step `step` (from 0) of `steps`: a linear rise, then the fall that the schedule names."""
    warmup_steps = min(warmup_steps, steps // 3)
    if step < warmup_steps:
        return config.lr * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(steps - 1 - warmup_steps, 1)
    decay = 1 - progress if config.train.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return config.lr * (config.train.final_lr_factor + (1 - config.train.final_lr_factor) * decay)


def set_lr(optimizer: torch.optim.Optimizer, step: int, steps: int, warmup_steps: int, config: TrainConfig) -> None:
    """Make an optimizer of `build_optimizer` ready for step `step` (from 0) of `steps`.

    In the warm-up the momentum moves linearly from `warmup_momentum` to `momentum`, and the learning rate of the biases from
    `warmup_bias_lr` to the peak; after it every group has the learning rate of the schedule.
    """
    lr = learning_rate(step, steps, warmup_steps, config)
    warmup_steps = min(warmup_steps, steps // 3)
    left = 1 - (step + 1) / warmup_steps if step < warmup_steps else 0.0
    weights, batch_norms, biases = optimizer.param_groups
    weights["lr"] = batch_norms["lr"] = lr
    biases["lr"] = lr + left * config.train.warmup_bias_lr
    if config.train.warmup_momentum is not None:
        momentum = config.train.momentum + left * (config.train.warmup_momentum - config.train.momentum)
        for group in optimizer.param_groups:
            group.update({"momentum": momentum} if config.train.optimizer == "sgd" else {"betas": (momentum, 0.999)})
