"""Spatial pyramid pooling: the same map pooled with windows of several sizes (He et al., 2014)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from detector.nn.conv import Conv


class SPFF(nn.Module):
    """1x1 Conv to half the width; it and its max-poolings (stride 1, same size) concatenated; 1x1 Conv.

    The literature also writes SPPF. For kernel sizes k, 2k-1, 3k-2 (5, 9, 13) pooling with k three times in a chain
    equals pooling in parallel, since the maximum over a window of maxima is the maximum over the wider window.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_sizes: tuple[int, ...] = (5, 9, 13)) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.kernel_sizes = kernel_sizes
        self.reduce = Conv(in_channels, hidden)
        self.merge = Conv(hidden * (1 + len(kernel_sizes)), out_channels)

    def forward(self, x: Float[Tensor, "batch in_channels h w"]) -> Float[Tensor, "batch out_channels h w"]:
        y: Tensor = self.merge(torch.cat(self.pyramid(self.reduce(x)), dim=1))
        return y

    def pyramid(self, x: Float[Tensor, "batch hidden h w"]) -> list[Float[Tensor, "batch hidden h w"]]:
        """The map itself, then its pooling with each kernel size."""
        if self.kernel_sizes == (5, 9, 13):
            levels = [x]
            for _ in range(3):
                levels.append(F.max_pool2d(levels[-1], 5, stride=1, padding=2))
            return levels
        return [x, *(F.max_pool2d(x, size, stride=1, padding=size // 2) for size in self.kernel_sizes)]
