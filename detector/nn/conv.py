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


class HalvedConv(Conv):
    """A 1x1 Conv whose output comes as two halves of its channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "batch in_channels height width"]
    ) -> tuple[Float[Tensor, "batch half height width"], Float[Tensor, "batch half height width"]]:
        first, second = super().forward(x).chunk(2, dim=1)
        return first, second


class ConvPair(nn.Module):
    """What a fused HalvedConv computes, each half by a convolution of its own."""

    def __init__(self, whole: HalvedConv) -> None:
        super().__init__()
        assert whole.conv.bias is not None
        halves = zip(whole.conv.weight.chunk(2), whole.conv.bias.chunk(2), strict=True)
        self.first, self.second = (nn.Sequential(_pointwise(weight, bias), whole.act) for weight, bias in halves)

    def forward(
        self, x: Float[Tensor, "batch in_channels height width"]
    ) -> tuple[Float[Tensor, "batch half height width"], Float[Tensor, "batch half height width"]]:
        return self.first(x), self.second(x)


class RepConv(nn.Module):
    """A 3x3 and a 1x1 Conv in parallel, summed, then SiLU. For inference the two are one 3x3 convolution.

    Source: Ding et al., RepVGG: making VGG-style ConvNets great again, 2021, section 3.3.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.wide = Conv(in_channels, out_channels, 3, act=False)
        self.pointwise: Conv | None = Conv(in_channels, out_channels, act=False)  # None when fused
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Float[Tensor, "batch in_channels h w"]) -> Float[Tensor, "batch out_channels h w"]:
        both = self.wide(x) if self.pointwise is None else self.wide(x) + self.pointwise(x)
        y: Tensor = self.act(both)
        return y


def depthwise(channels: int, kernel_size: int, act: bool = True) -> Conv:
    """A Conv that filters each channel on its own."""
    return Conv(channels, channels, kernel_size, groups=channels, act=act)


def _pointwise(
    weight: Float[Tensor, "out_channels in_channels 1 1"], bias: Float[Tensor, " out_channels"]
) -> nn.Conv2d:
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
    conv.weight, conv.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return conv


@torch.no_grad()
def _fold_batch_norm(block: Conv) -> None:
    assert isinstance(block.bn, nn.BatchNorm2d)
    assert block.bn.running_mean is not None
    assert block.bn.running_var is not None
    scale = block.bn.weight / (block.bn.running_var + block.bn.eps).sqrt()
    block.conv.weight.mul_(scale[:, None, None, None])
    block.conv.bias = nn.Parameter(block.bn.bias - block.bn.running_mean * scale)
    block.bn = nn.Identity()


@torch.no_grad()
def _merge_pointwise(block: RepConv) -> None:
    """The 1x1 convolution is the middle of a 3x3 one that is 0 elsewhere. Goes after `_fold_batch_norm` of both."""
    wide, pointwise = block.wide.conv, block.pointwise
    assert pointwise is not None
    assert wide.bias is not None
    assert pointwise.conv.bias is not None
    wide.weight[:, :, 1:2, 1:2] += pointwise.conv.weight
    wide.bias += pointwise.conv.bias
    block.pointwise = None


def fuse_conv_bn(model: Module) -> Module:
    """A copy of `model` for inference with every BatchNorm folded into its convolution and every RepConv made one
    convolution: same outputs, fewer passes."""
    fused = deepcopy(model).eval()
    for block in fused.modules():
        if isinstance(block, Conv) and isinstance(block.bn, nn.BatchNorm2d):
            _fold_batch_norm(block)
    for block in fused.modules():
        if isinstance(block, RepConv) and block.pointwise is not None:
            _merge_pointwise(block)
    return fused


def pair_halves(model: nn.Module) -> None:
    """Replace every HalvedConv of a fused model by a ConvPair: same outputs, and no map that is cut in two."""
    for block in list(model.modules()):
        for name, child in block.named_children():
            if isinstance(child, HalvedConv):
                setattr(block, name, ConvPair(child))
