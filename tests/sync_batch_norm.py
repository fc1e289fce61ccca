"""Batch norm over processes on a CPU, where torch has none: with it two processes can be held to one in float64."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose statistics are those of the images of all processes; torch's own runs on CUDA only.

    Source: Ioffe and Szegedy, Batch Normalization, 2015, with sums over processes (Peng et al., MegDet, 2018, section 3.3).
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        sums = _SumOverProcesses.apply(torch.cat((x.sum((0, 2, 3)), x.new_tensor([x.numel() / x.shape[1]]))))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        variance = _SumOverProcesses.apply((x - mean[:, None, None]).square().sum((0, 2, 3))) / count
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1).clamp_min(1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        y: Tensor = x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]
        return y


class _SumOverProcesses(torch.autograd.Function):
    """A sum over processes whose gradient is the sum of their gradients."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient)
        return gradient


def convert_sync_batch_norm(model: nn.Module, _device: torch.device) -> nn.Module:
    """The model with `SyncBatchNorm` in the place of each batch norm; changed in place, same tensors."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                synchronized = SyncBatchNorm(child.num_features, child.eps, child.momentum)
                for kept in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                    setattr(synchronized, kept, getattr(child, kept))  # the optimizer knows these tensors
                setattr(module, name, synchronized)
    return model
