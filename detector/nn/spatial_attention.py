"""Spatial self-attention: the pixels of a feature map are the sequence. C2PSA is made of it."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detector.nn.attention import attend, attention_weights, merge_heads, split_heads
from detector.nn.conv import Conv, HalvedConv, depthwise


def to_sequence(x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch pixels channels"]:
    """The pixels of a feature map, row by row.

    Not `x.flatten(2).mT`: for a batch of one, torch 2.15's batch norm before it reads the gradient's layout wrongly.
    """
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def to_map(
    x: Float[Tensor, "batch pixels channels"], like: Float[Tensor, "batch _c h w"]
) -> Float[Tensor, "batch channels h w"]:
    """The inverse of `to_sequence`, for a map of the height and width of `like`."""
    return torch.unflatten(x, 1, like.shape[2:]).permute(0, 3, 1, 2)


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
        query, key, value = self._split(x)
        mixed = to_map(merge_heads(attend(query, key, value)), like=x)
        y: Tensor = self.project(mixed + self.position(to_map(merge_heads(value), like=x)))
        return y

    def weights(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch heads pixels pixels"]:
        """Where each pixel (row) looks, pixels counted row by row; rows sum to 1."""
        query, key, _ = self._split(x)
        return attention_weights(query, key)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        per_head = split_heads(to_sequence(self.qkv(x)), self.heads)
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
        self.split = HalvedConv(channels, 2 * hidden)
        self.blocks = nn.Sequential(*(AttentionBlock(hidden) for _ in range(repeats)))
        self.merge = Conv(2 * hidden, channels)

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
        around, through = self.split(x)
        y: Tensor = self.merge(torch.cat((around, self.blocks(through)), dim=1))
        return y
