"""Spatial self-attention over the pixels of a feature map (Vaswani et al., 2017, section 3.2, on a 2-D sequence)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from detector.nn.conv import Conv, depthwise


class SpatialAttention(nn.Module):
    """Multi-head self-attention in which every pixel looks at every other.

    One 1x1 Conv gives query, key (half a head wide) and value per head; softmax(qᵀk / sqrt(key width)) weighs the
    values; a depthwise 3x3 Conv of the values is added as position encoding; a 1x1 Conv mixes the heads.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(channels // 64, 1)
        self.head_width = channels // self.heads
        self.key_width = self.head_width // 2
        self.qkv = Conv(channels, self.heads * (2 * self.key_width + self.head_width), act=False)
        self.position = depthwise(channels, 3, act=False)
        self.project = Conv(channels, channels, act=False)

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
        query, key, value = self._per_head(x)
        mixed = F.scaled_dot_product_attention(query, key, value)
        mixed, value = (torch.unflatten(t.transpose(2, 3).flatten(1, 2), 2, x.shape[2:]) for t in (mixed, value))
        y: Tensor = self.project(mixed + self.position(value))
        return y

    def weights(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch heads pixels pixels"]:
        """How much each pixel (a row; pixels run row by row over the map) looks at each other; rows sum to 1."""
        query, key, _ = self._per_head(x)
        return torch.softmax(query @ key.mT / math.sqrt(self.key_width), dim=3)

    def _per_head(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        per_head: Tensor = self.qkv(x).flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3)
        query, key, value = torch.split(per_head, [self.key_width, self.key_width, self.head_width], dim=3)
        return query, key, value


class AttentionBlock(nn.Module):
    """Attention, then a feed-forward of two 1x1 Conv, each added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = SpatialAttention(channels)
        self.feed_forward = nn.Sequential(Conv(channels, 2 * channels), Conv(2 * channels, channels, act=False))

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
        x = x + self.attention(x)
        y: Tensor = x + self.feed_forward(x)
        return y


class C2PSA(nn.Module):
    """Half of the channels goes through `repeats` attention blocks, the other half around them; merged by a 1x1 Conv."""

    def __init__(self, channels: int, repeats: int, expansion: float = 0.5) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.split = Conv(channels, 2 * hidden)
        self.blocks = nn.Sequential(*(AttentionBlock(hidden) for _ in range(repeats)))
        self.merge = Conv(2 * hidden, channels)

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
        around, through = self.split(x).chunk(2, dim=1)
        y: Tensor = self.merge(torch.cat((around, self.blocks(through)), dim=1))
        return y
