"""Attention over sequences: one core, and the multi-head modules that stand on it (Vaswani et al., 2017, section 3.2).

A sequence is (batch, length, width); its elements may be words, objects or, row by row, the pixels of a feature map.
The two multi-head modules' `weights` gives what their queries look at, for those who want to see it; `forward` never builds
them. A layer's are those of the module in it: `layer.attention.weights`, or `layer.cross_layer.attention.weights`.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from detector.errors import ConfigError

Mask = Bool[Tensor, "... _queries _keys"] | Float[Tensor, "... _queries _keys"]
"""Mask of the keys that a query may look at, of a shape that broadcasts to (batch, heads, queries, keys).

Boolean: True where it may, as in `scaled_dot_product_attention` (`torch.nn.MultiheadAttention` has it the other way round).
Additive: of the query's dtype, added to the logits before the softmax; minus infinity where it may not.
A mask per image is (batch, 1, queries, keys), one for padded keys (batch, 1, 1, keys).
"""


def attend(
    query: Float[Tensor, "*leading queries width"],
    key: Float[Tensor, "*leading keys width"],
    value: Float[Tensor, "*leading keys value_width"],
    mask: Mask | None = None,
) -> Float[Tensor, "*leading queries value_width"]:
    """softmax(query · keyᵀ / sqrt(width) + mask) · value: for each query the mean of the values, weighed by its keys.

    A query that may look at no key gets zeros, and zeros as its gradient.
    """
    if mask is None:
        return F.scaled_dot_product_attention(query, key, value)
    opened, closed = _opened(mask)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=opened).masked_fill(closed, 0.0)


def attention_weights(
    query: Float[Tensor, "*leading queries width"],
    key: Float[Tensor, "*leading keys width"],
    mask: Mask | None = None,
) -> Float[Tensor, "*leading queries keys"]:
    """The weights by which `attend` takes the mean: rows sum to 1, or are zero for a query that may look at no key."""
    logits = query @ key.mT / math.sqrt(query.shape[-1])
    if mask is None:
        return logits.softmax(dim=-1)
    opened, closed = _opened(mask)
    logits = logits.masked_fill(~opened, -math.inf) if opened.dtype == torch.bool else logits + opened
    return logits.softmax(dim=-1).masked_fill(closed, 0.0)


def _opened(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The mask without its closed rows, those that let nothing through, and where those were: (…, queries, 1).

    A softmax over such a row is 0/0, whose NaN reaches every gradient, also through a zero that is put in its place.
    """
    if mask.dtype == torch.bool:
        closed = ~mask.any(dim=-1, keepdim=True)
        return mask | closed, closed
    closed = (mask == -math.inf).all(dim=-1, keepdim=True)
    return mask.masked_fill(closed, 0.0), closed


def causal_mask(length: int) -> Bool[Tensor, "length length"]:
    """Each element may look at itself and at those before it."""
    return torch.ones(length, length, dtype=torch.bool).tril()


def split_heads(x: Float[Tensor, "batch length width"], heads: int) -> Float[Tensor, "batch heads length head_width"]:
    """Cut each element into `heads` consecutive parts."""
    return torch.unflatten(x, 2, (heads, -1)).transpose(1, 2)


def merge_heads(x: Float[Tensor, "batch heads length head_width"]) -> Float[Tensor, "batch length width"]:
    """The inverse of `split_heads`."""
    return x.transpose(1, 2).flatten(2)


class MultiHeadSelfAttention(nn.Module):
    """Every element of a sequence looks at all of it, in each head in another way.

    One linear map gives query, key and value, each cut into `heads` heads; another, `project`, mixes what the heads found: an
    element that may look nowhere found zeros, and gets `project.bias`.
    Raises ConfigError if `heads` does not divide `width`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        _require_division(width, heads)
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "batch length width"], mask: Mask | None = None
    ) -> Float[Tensor, "batch length width"]:
        y: Tensor = self.project(merge_heads(attend(*self._split(x), mask)))
        return y

    def weights(
        self, x: Float[Tensor, "batch length width"], mask: Mask | None = None
    ) -> Float[Tensor, "batch heads length length"]:
        """Where each element (row) looks; rows sum to 1, or are zero for an element that may look nowhere."""
        query, key, _ = self._split(x)
        return attention_weights(query, key, mask)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self.query_key_value(x).chunk(3, dim=2)
        return split_heads(query, self.heads), split_heads(key, self.heads), split_heads(value, self.heads)


class MultiHeadCrossAttention(nn.Module):
    """Every element of a sequence looks at all of another, the source, which may be of other length and width.

    Queries come from the one, keys and values from the other; the rest is as in `MultiHeadSelfAttention`.
    Raises ConfigError if `heads` does not divide `width`.
    """

    def __init__(self, width: int, source_width: int, heads: int) -> None:
        super().__init__()
        _require_division(width, heads)
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(source_width, 2 * width)
        self.project = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "batch length width"],
        source: Float[Tensor, "batch source_length source_width"],
        mask: Mask | None = None,
    ) -> Float[Tensor, "batch length width"]:
        y: Tensor = self.project(merge_heads(attend(*self._split(x, source), mask)))
        return y

    def weights(
        self,
        x: Float[Tensor, "batch length width"],
        source: Float[Tensor, "batch source_length source_width"],
        mask: Mask | None = None,
    ) -> Float[Tensor, "batch heads length source_length"]:
        """Where in the source each element (row) looks; rows sum to 1, or are zero for an element that may look nowhere."""
        query, key, _ = self._split(x, source)
        return attention_weights(query, key, mask)

    def _split(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        key, value = self.key_value(source).chunk(2, dim=2)
        return split_heads(self.query(x), self.heads), split_heads(key, self.heads), split_heads(value, self.heads)


class SelfAttentionLayer(nn.Module):
    """Post-norm: LayerNorm(x + Dropout(self-attention of x)), as in section 3.1 and 5.4 of the paper."""

    def __init__(self, width: int, heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.attention = MultiHeadSelfAttention(width, heads)
        self.dropout = _dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, x: Float[Tensor, "batch length width"], mask: Mask | None = None
    ) -> Float[Tensor, "batch length width"]:
        y: Tensor = self.norm(x + self.dropout(self.attention(x, mask)))
        return y


class CrossAttentionLayer(nn.Module):
    """Post-norm: LayerNorm(x + Dropout(cross-attention of x to the source))."""

    def __init__(self, width: int, source_width: int, heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.attention = MultiHeadCrossAttention(width, source_width, heads)
        self.dropout = _dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        x: Float[Tensor, "batch length width"],
        source: Float[Tensor, "batch source_length source_width"],
        mask: Mask | None = None,
    ) -> Float[Tensor, "batch length width"]:
        y: Tensor = self.norm(x + self.dropout(self.attention(x, source, mask)))
        return y


class CrossSelfLayer(nn.Module):
    """A decoder's attention: its sequence looks at itself, then, so updated, at the encoder's; both post-norm."""

    def __init__(self, width: int, encoder_width: int, heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.self_layer = SelfAttentionLayer(width, heads, dropout)
        self.cross_layer = CrossAttentionLayer(width, encoder_width, heads, dropout)

    def forward(
        self,
        decoder: Float[Tensor, "batch length width"],
        encoder: Float[Tensor, "batch source_length source_width"],
        self_mask: Mask | None = None,
        cross_mask: Mask | None = None,
    ) -> Float[Tensor, "batch length width"]:
        """`self_mask` says where the decoder's elements may look in their own sequence, `cross_mask` in the encoder's."""
        y: Tensor = self.cross_layer(self.self_layer(decoder, self_mask), encoder, cross_mask)
        return y


def sinusoidal_encoding(positions: Float[Tensor, " length"], width: int) -> Float[Tensor, "length width"]:
    """Sine (even channels) and cosine (odd) of each position, at wavelengths from 2π to 10000 · 2π (section 3.5).

    The positions of a sequence are `torch.arange(length, dtype=torch.float32)`; fractions are possible.
    Raises ConfigError if `width` is odd.
    """
    _require_division(width, 2)
    exponents = torch.arange(0, width, 2, dtype=positions.dtype, device=positions.device) / width
    angles = positions[:, None] * 10000.0**-exponents
    return torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1)


def sinusoidal_encoding_2d(
    rows: Float[Tensor, " height"], columns: Float[Tensor, " width"], channels: int
) -> Float[Tensor, "channels height width"]:
    """The first half of the channels encodes the row, the second the column (Carion et al., DETR, 2020, appendix A.4).

    Raises ConfigError if `channels` is no multiple of 4.
    """
    _require_division(channels, 4)
    height, width = rows.shape[0], columns.shape[0]
    of_rows = sinusoidal_encoding(rows, channels // 2)[:, None].expand(-1, width, -1)
    of_columns = sinusoidal_encoding(columns, channels // 2)[None].expand(height, -1, -1)
    return torch.cat((of_rows, of_columns), dim=2).permute(2, 0, 1)


def _dropout(fraction: float) -> nn.Dropout:
    if not 0 <= fraction <= 1:
        raise ConfigError(f"attention: invalid dropout {fraction}: expected a number from 0 to 1")
    return nn.Dropout(fraction)


def _require_division(width: int, parts: int) -> None:
    if parts < 1 or width % parts:
        raise ConfigError(
            f"attention: a width of {width} can't be cut into {parts} equal parts; take a multiple of {parts}"
        )
