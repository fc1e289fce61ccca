"""Convolution, batch norm, activation: the block everything else is made of, and its fusion for inference."""

from copy import deepcopy
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class Conv(nn.Module):
    """Conv2d without bias, BatchNorm2d, SiLU; the output is the input's size divided by `stride`.

    `act=False` leaves the activation off; `groups=channels` makes it depthwise.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False
        )
        self.bn: nn.Module = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU(inplace=True) if act else nn.Identity()

    def forward(self, x: Float[Tensor, "batch in_channels height width"]) -> Float[Tensor, "batch out_channels h w"]:
        y: Tensor = self.act(self.bn(self.conv(x)))
        return y


def depthwise(channels: int, kernel_size: int, act: bool = True) -> Conv:
    """A Conv that filters each channel on its own."""
    return Conv(channels, channels, kernel_size, groups=channels, act=act)


@torch.no_grad()
def _fold_batch_norm(block: Conv) -> None:
    assert isinstance(block.bn, nn.BatchNorm2d)
    assert block.bn.running_mean is not None
    assert block.bn.running_var is not None
    scale = block.bn.weight / (block.bn.running_var + block.bn.eps).sqrt()
    block.conv.weight.mul_(scale[:, None, None, None])
    block.conv.bias = nn.Parameter(block.bn.bias - block.bn.running_mean * scale)
    block.bn = nn.Identity()


def fuse_conv_bn(model: Module) -> Module:
    """A copy of `model` for inference with every BatchNorm folded into its convolution: same outputs, fewer passes."""
    fused = deepcopy(model).eval()
    for block in fused.modules():
        if isinstance(block, Conv) and isinstance(block.bn, nn.BatchNorm2d):
            _fold_batch_norm(block)
    return fused
