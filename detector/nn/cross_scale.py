"""Attention from the pixels of a finer feature map to a coarser one."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detector.nn.attention import attend, attention_weights, merge_heads, sinusoidal_encoding_2d, split_heads
from detector.nn.conv import Conv
from detector.nn.spatial_attention import to_map, to_sequence

CELLS = 8
"""Cells along either side of the grid that the coarser map is pooled to."""


class CrossScaleAttention(nn.Module):
    """Multi-head cross-attention in which every pixel of the finer map looks at all of the coarser, added to the finer map.

    The grounding transformer of Zhang et al., Feature Pyramid Transformer, 2020, section 3.3, with pooled keys as in Wang
    et al., PVT v2, 2021, section 3.2: queries are the finer map's pixels; keys and values the coarser map's, pooled to 8 x 8
    cells. Heads and key width are those of `SpatialAttention`. Queries and keys carry the encoding of where they are, in
    cells, so that from the start a pixel looks a little more at what is near, at whatever size. What the heads found is
    mixed by the convolution that reads the joined maps next.

    Cost: the pairs of pixels grow with the square of the area, those of pixels and cells with the area. Products of both
    joins of yolo11n, and its weights of attention in float32, to which SDPA's plain way holds on:

    | input | yolo11n | all pixels as keys | 64 cells as keys | weights, all pixels | weights, 64 cells |
    | --- | --- | --- | --- | --- | --- |
    | 640 px | 6.5 GFLOPs | 4.2 GFLOPs | 0.20 GFLOPs | 87 MB | 4 MB |
    | 1280 px | 26.9 GFLOPs | 66.8 GFLOPs | 0.79 GFLOPs | 1393 MB | 16 MB |

    Windows would bound it, too, but show a pixel no more than its surroundings, which the coarser map beside it brings
    already, and a map of 3 x 5 pixels (96 x 160 px) can't be cut into them.

    Start: the values' norm starts at zero (Goyal et al., 2017, section 5.1), so that a new module gives back the finer map
    to the bit, and all else learns first as it would without; the scale of the norm has a gradient from the first step.
    """

    def __init__(self, fine_channels: int, coarse_channels: int) -> None:
        super().__init__()
        self.heads = max(fine_channels // 64, 1)
        self.key_width = fine_channels // self.heads // 2
        self.query = Conv(fine_channels, self.heads * self.key_width, act=False)
        self.key = Conv(coarse_channels, self.heads * self.key_width, act=False)
        self.value = Conv(coarse_channels, fine_channels, act=False)
        assert isinstance(self.value.bn, nn.BatchNorm2d)
        nn.init.zeros_(self.value.bn.weight)

    def forward(
        self, fine: Float[Tensor, "batch fine_channels h w"], coarse: Float[Tensor, "batch coarse_channels _h _w"]
    ) -> Float[Tensor, "batch fine_channels h w"]:
        cells = pool(coarse)
        query, key = self._query_key(fine, cells)
        value = split_heads(to_sequence(self.value(cells)), self.heads)
        return fine + to_map(merge_heads(attend(query, key, value)), like=fine)

    def weights(
        self, fine: Float[Tensor, "batch fine_channels h w"], coarse: Float[Tensor, "batch coarse_channels _h _w"]
    ) -> Float[Tensor, "batch heads h*w cells"]:
        """Where each pixel of the finer map (row) looks, pixels and the 8 x 8 cells counted row by row; rows sum to 1."""
        return attention_weights(*self._query_key(fine, pool(coarse)))

    def _query_key(self, fine: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        query = split_heads(to_sequence(self.query(fine)), self.heads) + self._places(fine)
        key = split_heads(to_sequence(self.key(cells)), self.heads) + self._places(cells)
        return query, key

    def _places(self, x: Tensor) -> Tensor:
        """Encoding of the centers of the map's pixels, in cells: (pixels, key width)."""
        rows, columns = ((start + end - 1) / 2 for start, end in (_edges(n, x.device) for n in x.shape[2:]))
        return to_sequence(sinusoidal_encoding_2d(rows, columns, self.key_width)[None])[0].to(x.dtype)


def pool(x: Float[Tensor, "batch channels _h _w"]) -> Float[Tensor, "batch channels cells cells"]:
    """The mean over each of 8 x 8 equal cells, a pixel that lies in several counting by its fractions.

    Not `adaptive_avg_pool2d`, which differs where 8 does not divide the size: its ONNX file of open sizes is wrong.
    """
    rows, columns = (_coverage(n, x.device).to(x.dtype) for n in x.shape[2:])
    return rows @ x @ columns.transpose(0, 1)


def _coverage(pixels: int, device: torch.device) -> Float[Tensor, "cells pixels"]:
    """How much of each cell each pixel covers, along one side of the map; rows sum to 1."""
    cell = torch.arange(CELLS, device=device)[:, None]
    start, end = _edges(pixels, device)
    return (torch.minimum(cell + 1, end) - torch.maximum(cell, start)).clamp(min=0.0)


def _edges(pixels: int, device: torch.device) -> tuple[Float[Tensor, " pixels"], Float[Tensor, " pixels"]]:
    """Where each pixel starts and ends along one side of the map, in cells; by tensors alone, as ONNX needs it."""
    count = torch.arange(1, pixels + 1, device=device)
    return (count - 1) * CELLS / count[-1], count * CELLS / count[-1]
