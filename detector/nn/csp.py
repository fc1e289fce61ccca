"""Cross-stage-partial blocks (Wang et al., CSPNet, 2019, section 3): part of the channels bypasses the deep path."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detector.nn.conv import Conv, HalvedConv


class Bottleneck(nn.Module):
    """Two 3x3 Conv, the inner width `expansion · out_channels`; added to the input when `shortcut` and widths agree."""

    def __init__(self, in_channels: int, out_channels: int, shortcut: bool = True, expansion: float = 0.5) -> None:
        super().__init__()
        hidden = int(out_channels * expansion)
        self.conv1 = Conv(in_channels, hidden, 3)
        self.conv2 = Conv(hidden, out_channels, 3)
        self.shortcut = shortcut and in_channels == out_channels

    def forward(self, x: Float[Tensor, "batch in_channels h w"]) -> Float[Tensor, "batch out_channels h w"]:
        y: Tensor = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


class C3K(nn.Module):
    """Two parallel 1x1 Conv to half the width, one followed by two full-width Bottlenecks; concatenated and merged."""

    def __init__(self, in_channels: int, out_channels: int, shortcut: bool = True) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.deep = Conv(in_channels, hidden)
        self.bypass = Conv(in_channels, hidden)
        self.blocks = nn.Sequential(*(Bottleneck(hidden, hidden, shortcut, expansion=1.0) for _ in range(2)))
        self.merge = Conv(2 * hidden, out_channels)

    def forward(self, x: Float[Tensor, "batch in_channels h w"]) -> Float[Tensor, "batch out_channels h w"]:
        y: Tensor = self.merge(torch.cat((self.blocks(self.deep(x)), self.bypass(x)), dim=1))
        return y


class C3K2(nn.Module):
    """1x1 Conv to two halves a, b; `repeats` blocks chained from b; a, b and every block's output concatenated, merged.

    The blocks are C3K if `deep`, else Bottleneck; each half is `expansion · out_channels` wide.
    """

    def __init__(
        self, in_channels: int, out_channels: int, repeats: int, deep: bool = False, expansion: float = 0.5
    ) -> None:
        super().__init__()
        hidden = int(out_channels * expansion)
        self.split = HalvedConv(in_channels, 2 * hidden)
        self.blocks = nn.ModuleList(C3K(hidden, hidden) if deep else Bottleneck(hidden, hidden) for _ in range(repeats))
        self.merge = Conv((2 + repeats) * hidden, out_channels)

    def forward(self, x: Float[Tensor, "batch in_channels h w"]) -> Float[Tensor, "batch out_channels h w"]:
        parts = list(self.split(x))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        y: Tensor = self.merge(torch.cat(parts, dim=1))
        return y
