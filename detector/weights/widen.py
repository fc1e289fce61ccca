"""A network of twice the channels that computes what the narrower one computes, to start a larger size from its weights.

Source: Chen, Goodfellow and Shlens, Net2Net: accelerating learning via knowledge transfer, 2016, section 2.2.
"""

from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from detector.errors import ConfigError
from detector.models.base import DetectionModel
from detector.nn.spatial_attention import SpatialAttention

NARROWER = {"yolo11s": "yolo11n"}
"""Networks whose layers are those of another one, as many channels wide or twice as many."""


class Channels(NamedTuple):
    """For each output and each input channel of a wide convolution the narrow one's channel that it is a copy of."""

    outputs: Int64[Tensor, " outputs"]
    inputs: Int64[Tensor, " inputs"]


@torch.no_grad()
def widen(wide: DetectionModel, narrow: DetectionModel) -> None:
    """Make `wide` compute what `narrow` computes, for the same classes; `narrow` is what `NARROWER` names for it.

    Every channel becomes two, or stays one where the width is the same. What read a channel reads both copies, with
    weights that add up to the old one: a random part each, from 1/4 to 3/4, by which training makes the copies differ.
    The parts are the same in every call. Raises ConfigError where a width is neither the same nor twice.
    """
    generator = torch.Generator().manual_seed(0)
    by_head: dict[nn.Module, Channels] = {}
    for own, other in zip(wide.modules(), narrow.modules(), strict=True):
        if isinstance(own, SpatialAttention) and isinstance(other, SpatialAttention):
            by_head |= _channels_by_head(own, other)
    outputs = torch.zeros(0, dtype=torch.int64)
    for own, other in zip(wide.modules(), narrow.modules(), strict=True):
        if isinstance(own, nn.Conv2d) and isinstance(other, nn.Conv2d):
            channels = by_head.get(own) or _channels(own, other)
            outputs = channels.outputs
            _widen_convolution(own, other, channels, generator)
        elif isinstance(own, nn.BatchNorm2d):  # that of the convolution before it
            for name, values in other.state_dict().items():
                own.state_dict()[name].copy_(values[outputs] if values.ndim else values)


def _copies(width: int, of: int) -> Int64[Tensor, " width"]:
    """0, 0, 1, 1, … for twice the width, so that maps that are concatenated or cut in two stay in order; 0, 1, … for the same."""
    if width not in (of, 2 * of):
        raise ConfigError(f"a layer of {of} channels can't become one of {width}, only of as many or twice as many")
    return torch.arange(width) * of // width


def _channels(wide: nn.Conv2d, narrow: nn.Conv2d) -> Channels:
    return Channels(_copies(wide.out_channels, narrow.out_channels), _copies(wide.in_channels, narrow.in_channels))


def _channels_by_head(wide: SpatialAttention, narrow: SpatialAttention) -> dict[nn.Module, Channels]:
    """The convolutions of attention: heads, not channels, become two, as a product of doubled channels would be doubled."""
    heads = _copies(wide.heads, narrow.heads)[:, None]
    width = narrow.head_width + 2 * narrow.key_width
    query_key_value = (heads * width + torch.arange(width)).flatten()
    values = (heads * narrow.head_width + torch.arange(narrow.head_width)).flatten()
    mixed = _channels(wide.project.conv, narrow.project.conv)
    return {
        wide.qkv.conv: Channels(query_key_value, mixed.outputs),
        wide.position.conv: Channels(values, values),
        wide.project.conv: Channels(mixed.outputs, values),
    }


def _widen_convolution(wide: nn.Conv2d, narrow: nn.Conv2d, channels: Channels, generator: torch.Generator) -> None:
    outputs, inputs = channels
    weight = narrow.weight[outputs]
    if narrow.groups == 1:
        copies = torch.bincount(inputs, minlength=narrow.in_channels)
        if copies.max() == 2:
            part = 0.25 + 0.5 * torch.rand(
                len(outputs), narrow.in_channels, 1, 1, generator=generator, dtype=weight.dtype
            )
            first = torch.tensor([channel not in inputs[:n] for n, channel in enumerate(inputs.tolist())])
            weight = torch.where(first[:, None, None], (weight * part)[:, inputs], (weight * (1 - part))[:, inputs])
    wide.weight.copy_(weight)
    if narrow.bias is not None and wide.bias is not None:
        wide.bias.copy_(narrow.bias[outputs])
