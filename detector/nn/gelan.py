"""The blocks of GELAN, YOLOv9's network (Wang, Yeh and Liao, YOLOv9, 2024, section 4.2), and of its composite backbones."""

from collections.abc import Iterable, Sequence
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from detector.nn.conv import Conv, HalvedConv, RepConv


class RepBottleneck(nn.Module):
    """RepConv, then a 3x3 Conv, added to the input; one width throughout."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = RepConv(channels, channels)
        self.conv2 = Conv(channels, channels, 3)

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
        y: Tensor = x + self.conv2(self.conv1(x))
        return y


class RepCSP(nn.Module):
    """Two parallel 1x1 Conv to half the width, one followed by `repeats` RepBottlenecks; concatenated and merged."""

    def __init__(self, in_channels: int, out_channels: int, repeats: int) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.deep = Conv(in_channels, hidden)
        self.bypass = Conv(in_channels, hidden)
        self.merge = Conv(2 * hidden, out_channels)
        self.blocks = nn.Sequential(*(RepBottleneck(hidden) for _ in range(repeats)))

    def forward(self, x: Float[Tensor, "batch in_channels h w"]) -> Float[Tensor, "batch out_channels h w"]:
        y: Tensor = self.merge(torch.cat((self.blocks(self.deep(x)), self.bypass(x)), dim=1))
        return y


class ELAN(nn.Module):
    """1x1 Conv to two halves a, b; two blocks chained from b; a, b and both outputs concatenated, merged by a 1x1 Conv.

    `split` is the width of a and b together, `inner` that of each block's output. What the blocks are, subclasses say.
    """

    def __init__(
        self, in_channels: int, out_channels: int, split: int, inner: int, first: nn.Module, second: nn.Module
    ) -> None:
        super().__init__()
        self.split = HalvedConv(in_channels, split)
        self.first = first
        self.second = second
        self.merge = Conv(split + 2 * inner, out_channels)

    def forward(self, x: Float[Tensor, "batch in_channels h w"]) -> Float[Tensor, "batch out_channels h w"]:
        a, b = self.split(x)
        first = self.first(b)
        y: Tensor = self.merge(torch.cat((a, b, first, self.second(first)), dim=1))
        return y


class ELAN1(ELAN):
    """ELAN with plain 3x3 Conv."""

    def __init__(self, in_channels: int, out_channels: int, split: int, inner: int) -> None:
        first, second = Conv(split // 2, inner, 3), Conv(inner, inner, 3)
        super().__init__(in_channels, out_channels, split, inner, first, second)


class RepNCSPELAN(ELAN):
    """ELAN whose blocks are each a RepCSP with `repeats` RepBottlenecks, then a 3x3 Conv."""

    def __init__(self, in_channels: int, out_channels: int, split: int, inner: int, repeats: int) -> None:
        first = nn.Sequential(RepCSP(split // 2, inner, repeats), Conv(inner, inner, 3))
        second = nn.Sequential(RepCSP(inner, inner, repeats), Conv(inner, inner, 3))
        super().__init__(in_channels, out_channels, split, inner, first, second)


class AConv(nn.Module):
    """Half the height and width: the mean of each 2x2 window (stride 1), then a 3x3 Conv of stride 2."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = Conv(in_channels, out_channels, 3, 2)

    def forward(self, x: Float[Tensor, "batch in_channels h w"]) -> Float[Tensor, "batch out_channels h2 w2"]:
        y: Tensor = self.conv(F.avg_pool2d(x, 2, stride=1))
        return y


class ADown(nn.Module):
    """Half the height and width: the mean of each 2x2 window (stride 1), then half of the channels through a 3x3 Conv of
    stride 2, half through max-pooling (3x3, stride 2) and a 1x1 Conv; concatenated."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = Conv(in_channels // 2, out_channels // 2, 3, 2)
        self.pooled = Conv(in_channels // 2, out_channels // 2)

    def forward(self, x: Float[Tensor, "batch in_channels h w"]) -> Float[Tensor, "batch out_channels h2 w2"]:
        a, b = F.avg_pool2d(x, 2, stride=1).chunk(2, dim=1)
        return torch.cat((self.conv(a), self.pooled(F.max_pool2d(b, 3, stride=2, padding=1))), dim=1)


class SPPELAN(nn.Module):
    """1x1 Conv to `hidden`; it and three chained 5x5 max-poolings (stride 1, same size) concatenated; 1x1 Conv."""

    def __init__(self, in_channels: int, out_channels: int, hidden: int) -> None:
        super().__init__()
        self.reduce = Conv(in_channels, hidden)
        self.merge = Conv(4 * hidden, out_channels)

    def forward(self, x: Float[Tensor, "batch in_channels h w"]) -> Float[Tensor, "batch out_channels h w"]:
        levels = [self.reduce(x)]
        for _ in range(3):
            levels.append(F.max_pool2d(levels[-1], 5, stride=1, padding=2))
        y: Tensor = self.merge(torch.cat(levels, dim=1))
        return y


class CBLinear(nn.Module):
    """A 1x1 convolution with bias, its output split into slices of `widths`: what one backbone gives to another."""

    def __init__(self, in_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.conv = nn.Conv2d(in_channels, sum(widths), 1)

    def forward(self, x: Float[Tensor, "batch in_channels h w"]) -> tuple[Tensor, ...]:
        slices: tuple[Tensor, ...] = self.conv(x).split(self.widths, dim=1)
        return slices


def cb_fuse(
    x: Float[Tensor, "batch channels h w"], slices: Iterable[Float[Tensor, "batch channels _h _w"]]
) -> Float[Tensor, "batch channels h w"]:
    """CBFuse: `x` and slices of its width, resized (nearest) to its height and width, summed; in this order of sums, on
    which float32 outputs depend, `x` last.

    Source: Liang et al., CBNet: a composite backbone network for object detection, 2022; here with slices for sources.
    """
    resized = [F.interpolate(each, size=x.shape[2:], mode="nearest") for each in slices]
    return reduce(torch.add, (*resized, x))
