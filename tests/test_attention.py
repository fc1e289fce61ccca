"""The attention library against `torch.nn.MultiheadAttention`, against the formula as the papers write it, and its edges."""

import math
from dataclasses import dataclass
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from detector.errors import ConfigError
from detector.nn.attention import (
    CrossAttentionLayer,
    CrossSelfLayer,
    MultiHeadCrossAttention,
    MultiHeadSelfAttention,
    SelfAttentionLayer,
    attend,
    attention_weights,
    causal_mask,
    sinusoidal_encoding,
    sinusoidal_encoding_2d,
)

quick = settings(max_examples=40, deadline=None)


@dataclass(frozen=True)
class Case:
    """Two random sequences, and a mask of the kind asked for: none, boolean, additive or padding of keys."""

    heads: int
    x: Tensor
    source: Tensor
    kind: str
    generator: torch.Generator

    @property
    def width(self) -> int:
        return self.x.shape[2]

    def mask(self, keys: int) -> Tensor | None:
        """Broadcasts to (batch, heads, queries, keys); each query may look at one key at least."""
        batch, queries = self.x.shape[:2]
        if self.kind == "none":
            return None
        if self.kind == "additive":
            numbers = torch.randn(queries, keys, generator=self.generator, dtype=torch.float64)
            return numbers.masked_fill(~self.allowed(queries, keys), -math.inf)
        if self.kind == "padding":
            return self.allowed(batch, keys)[:, None, None]
        leading = (batch, self.heads) if self.kind == "each head" else ()
        return self.allowed(*leading, queries, keys)

    def allowed(self, *shape: int) -> Tensor:
        chosen = torch.rand(shape, generator=self.generator) < 0.5
        chosen[..., 0] |= ~chosen.any(dim=-1)
        return chosen


@st.composite
def cases(draw: st.DrawFn) -> Case:
    heads, head_width = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    batch, length, source_length = draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    torch.manual_seed(draw(st.integers(0, 2**31)))  # of the modules' weights
    x = torch.randn(batch, length, heads * head_width, generator=generator, dtype=torch.float64)
    source = torch.randn(batch, source_length, draw(st.integers(1, 7)), generator=generator, dtype=torch.float64)
    kind = draw(st.sampled_from(["none", "boolean", "each head", "additive", "padding"]))
    return Case(heads, x, source, kind, generator)


def torch_arguments(mask: Tensor | None, case: Case, keys: int) -> dict[str, Tensor | None]:
    """The mask as MultiheadAttention takes it: True closes, one matrix a head and image, or one row of keys an image."""
    if case.kind == "padding":
        return {"key_padding_mask": ~mask[:, 0, 0]}
    if mask is not None and mask.dtype == torch.bool:
        mask = ~mask
    if case.kind == "each head":
        mask = mask.reshape(-1, case.x.shape[1], keys)
    return {"attn_mask": mask}


def torch_self(module: MultiHeadSelfAttention) -> nn.MultiheadAttention:
    """torch's own module with the weights of `module`."""
    width = module.project.in_features
    peer = nn.MultiheadAttention(width, module.heads, batch_first=True, dtype=torch.float64)
    peer.in_proj_weight.data = module.query_key_value.weight.data
    peer.in_proj_bias.data = module.query_key_value.bias.data
    peer.out_proj.load_state_dict(module.project.state_dict())
    return peer


def torch_cross(module: MultiHeadCrossAttention) -> nn.MultiheadAttention:
    width, source_width = module.project.in_features, module.key_value.in_features
    peer = nn.MultiheadAttention(
        width, module.heads, kdim=source_width, vdim=source_width, batch_first=True, dtype=torch.float64
    )
    key, value = module.key_value.weight.data.chunk(2)
    if peer.in_proj_weight is None:
        peer.q_proj_weight.data, peer.k_proj_weight.data, peer.v_proj_weight.data = module.query.weight.data, key, value
    else:  # where both widths are the same
        peer.in_proj_weight.data = torch.cat((module.query.weight.data, key, value))
    peer.in_proj_bias.data = torch.cat((module.query.bias.data, module.key_value.bias.data))
    peer.out_proj.load_state_dict(module.project.state_dict())
    return peer


@quick
@given(cases())
def test_self_attention_is_that_of_torch(case: Case) -> None:
    module = MultiHeadSelfAttention(case.width, case.heads).double()
    keys = case.x.shape[1]
    mask = case.mask(keys)
    given_mask = torch_arguments(mask, case, keys)
    expected, weights = torch_self(module)(case.x, case.x, case.x, **given_mask, average_attn_weights=False)
    assert torch.allclose(module(case.x, mask), expected, rtol=0, atol=1e-6)
    assert torch.allclose(module.weights(case.x, mask), weights, rtol=0, atol=1e-6)


@quick
@given(cases())
def test_cross_attention_is_that_of_torch(case: Case) -> None:
    module = MultiHeadCrossAttention(case.width, case.source.shape[2], case.heads).double()
    keys = case.source.shape[1]
    mask = case.mask(keys)
    given_mask = torch_arguments(mask, case, keys)
    expected, weights = torch_cross(module)(case.x, case.source, case.source, **given_mask, average_attn_weights=False)
    assert torch.allclose(module(case.x, case.source, mask), expected, rtol=0, atol=1e-6)
    assert torch.allclose(module.weights(case.x, case.source, mask), weights, rtol=0, atol=1e-6)


def formula(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Query by query: exp(q · k / sqrt(width) + mask) over its sum, times the values; also the weights."""
    batch, heads, queries, width = query.shape
    shape = (batch, heads, queries, key.shape[2])
    if mask is None:
        added = torch.zeros(shape)
    else:
        added = torch.zeros(mask.shape).masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else mask
        added = added.expand(shape)
    weights = torch.zeros(shape, dtype=query.dtype)
    for i, head, row in product(range(batch), range(heads), range(queries)):
        scores = [
            math.exp(float(query[i, head, row] @ k) / math.sqrt(width) + float(a))
            for k, a in zip(key[i, head], added[i, head, row], strict=True)
        ]
        if sum(scores) > 0:
            weights[i, head, row] = torch.tensor(scores, dtype=query.dtype) / sum(scores)
    return torch.einsum("bhqk,bhkc->bhqc", weights, value), weights


@quick
@given(cases(), st.integers(1, 5), st.booleans())
def test_the_core_is_the_formula(case: Case, value_width: int, close_a_row: bool) -> None:
    """Also with values of another width than the keys, and with a query that may look nowhere."""
    batch, queries, keys = *case.x.shape[:2], case.source.shape[1]

    def heads_of(length: int, width: int) -> Tensor:
        return torch.randn(batch, case.heads, length, width, generator=case.generator, dtype=torch.float64)

    query, key, value = heads_of(queries, 3), heads_of(keys, 3), heads_of(keys, value_width)
    mask = case.mask(keys)
    if mask is not None and close_a_row:
        mask[..., -1, :] = False if mask.dtype == torch.bool else -math.inf
    expected, weights = formula(query, key, value, mask)
    assert torch.allclose(attend(query, key, value, mask), expected, rtol=0, atol=1e-12)
    assert torch.allclose(attention_weights(query, key, mask), weights, rtol=0, atol=1e-12)


@quick
@given(cases())
def test_rows_of_weights_sum_to_one(case: Case) -> None:
    module = MultiHeadCrossAttention(case.width, case.source.shape[2], case.heads).double()
    mask = case.mask(case.source.shape[1])
    weights = module.weights(case.x, case.source, mask)
    assert weights.shape == (len(case.x), case.heads, case.x.shape[1], case.source.shape[1])
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum(dim=3), torch.ones(()).double())
    if mask is not None and mask.dtype == torch.bool:
        assert (weights[~mask.expand_as(weights)] == 0).all()


def documented(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor) -> Tensor:
    """What torch promises of `scaled_dot_product_attention`; that today's gives zeros for closed rows, it does not."""
    added = (
        torch.zeros(attn_mask.shape).masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else attn_mask
    )
    return (query @ key.mT / math.sqrt(query.shape[-1]) + added).softmax(dim=-1) @ value


@pytest.mark.parametrize("as_documented", [False, True])
@pytest.mark.parametrize("additive", [False, True])
def test_a_query_that_may_look_nowhere_gives_zeros_and_no_gradient(
    additive: bool, as_documented: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if as_documented:
        monkeypatch.setattr(F, "scaled_dot_product_attention", documented)
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 2, n, 4, dtype=torch.float64, requires_grad=True) for n in (3, 5, 5))
    allowed = torch.ones(3, 5, dtype=torch.bool)
    allowed[1] = False
    allowed[2, 0] = False
    mask = torch.zeros(3, 5, dtype=torch.float64).masked_fill(~allowed, -math.inf) if additive else allowed
    mixed = attend(query, key, value, mask)
    weights = attention_weights(query, key, mask)
    assert (mixed[:, :, 1] == 0).all()
    assert (weights[:, :, 1] == 0).all()
    assert torch.equal(weights.sum(dim=3).round(decimals=12)[0, 0], torch.tensor([1.0, 0.0, 1.0]).double())
    for gradient in torch.autograd.grad(mixed.sum() + weights.square().sum(), (query, key, value)):
        assert torch.isfinite(gradient).all()
    (of_query,) = torch.autograd.grad(attend(query, key, value, mask)[:, :, 1].sum(), query)
    assert (of_query == 0).all()
    # what the other queries say does not depend on the closed one
    assert torch.allclose(mixed[:, :, ::2], attend(query[:, :, ::2], key, value, mask[::2]), atol=1e-12)


def test_a_module_with_all_keys_padded_gives_its_bias() -> None:
    module = MultiHeadSelfAttention(8, 2)
    x = torch.randn(2, 3, 8)
    padded = torch.tensor([[True, True, False], [False, False, False]])[:, None, None]
    y = module(x, padded)
    assert torch.equal(y[1], module.project.bias.expand(3, -1))
    y.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in module.parameters())


def test_with_the_causal_mask_the_past_does_not_see_the_future() -> None:
    torch.manual_seed(0)
    module = MultiHeadSelfAttention(8, 2)
    x = torch.randn(1, 6, 8)
    changed = x.clone()
    changed[:, 4:] += 1.0
    before, after = module(x, causal_mask(6)), module(changed, causal_mask(6))
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.isclose(before[:, 4:], after[:, 4:]).all(dim=2).any()
    weights = module.weights(x, causal_mask(6))
    assert (weights.triu(diagonal=1) == 0).all()
    assert (weights[:, :, 0, 0] == 1).all()


def test_without_positions_the_order_of_the_source_does_not_matter_and_with_them_it_does() -> None:
    torch.manual_seed(0)
    module = MultiHeadCrossAttention(8, 8, 2).double()
    x, source = torch.randn(1, 3, 8).double(), torch.randn(1, 5, 8).double()
    assert torch.allclose(module(x, source), module(x, source.flip(1)), atol=1e-12)
    places = sinusoidal_encoding(torch.arange(5.0), 8)
    assert not torch.allclose(module(x, source + places), module(x, source.flip(1) + places), atol=1e-3)


def test_one_head_gives_one_pattern_and_several_heads_give_several_at_equal_size() -> None:
    torch.manual_seed(0)
    one, four = MultiHeadSelfAttention(16, 1), MultiHeadSelfAttention(16, 4)
    four.load_state_dict(one.state_dict())  # heads cut the width; they add no parameter
    x = torch.randn(1, 5, 16)
    assert one.weights(x).shape == (1, 1, 5, 5)
    weights = four.weights(x)[0]
    assert all(not torch.allclose(weights[i], weights[j], atol=1e-3) for i in range(4) for j in range(i))
    # the logits of one head are those of the four together: sum of theirs, scaled by the width
    of_heads = (weights.log() - weights.log().logsumexp(dim=2, keepdim=True)) * math.sqrt(4)
    assert torch.allclose((of_heads.sum(dim=0) / math.sqrt(16)).softmax(dim=1), one.weights(x)[0, 0], atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_those_of_differences(masked: bool) -> None:
    torch.manual_seed(0)
    x, source = torch.randn(2, 3, 4).double().requires_grad_(), torch.randn(2, 4, 3).double().requires_grad_()
    self_mask, cross_mask = None, None
    if masked:
        self_mask = causal_mask(3)
        cross_mask = torch.randn(3, 4).double().requires_grad_()  # an additive mask may be learnt
        closed = torch.tensor([False, True, False])[:, None]
    layer = CrossSelfLayer(4, 3, 2).double().eval()
    parameters = dict(layer.named_parameters())

    def run(x: Tensor, source: Tensor, *rest: Tensor) -> Tensor:
        added = rest[0].masked_fill(closed, -math.inf) if masked else None
        return torch.func.functional_call(
            layer, dict(zip(parameters, rest[masked:], strict=True)), (x, source, self_mask, added)
        )

    learnt = (cross_mask,) if masked else ()
    assert torch.autograd.gradcheck(run, (x, source, *learnt, *parameters.values()))


def test_layers_are_post_norm() -> None:
    torch.manual_seed(0)
    x, source = torch.randn(2, 5, 8), torch.randn(2, 3, 6)
    for layer, inputs in ((SelfAttentionLayer(8, 2, 1.0), (x,)), (CrossAttentionLayer(8, 6, 2, 1.0), (x, source))):
        nn.init.normal_(layer.norm.weight)
        assert torch.equal(layer(*inputs), layer.norm(x))  # training with a dropout of 1: the residual alone is left
        layer.eval()
        assert torch.equal(layer(*inputs), layer.norm(x + layer.attention(*inputs)))


def test_the_cross_self_layer_is_the_attention_of_torchs_decoder_layer() -> None:
    torch.manual_seed(0)
    own = CrossSelfLayer(8, 8, 2).double().eval()
    for norm in (own.self_layer.norm, own.cross_layer.norm):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    peer = nn.TransformerDecoderLayer(8, 2, batch_first=True, dtype=torch.float64).eval()
    peer.self_attn, peer.multihead_attn = torch_self(own.self_layer.attention), torch_cross(own.cross_layer.attention)
    peer.norm1, peer.norm2 = own.self_layer.norm, own.cross_layer.norm
    peer.norm3 = nn.Identity()
    nn.init.zeros_(peer.linear2.weight)  # torch's layer goes on with a feed-forward, ours ends here
    nn.init.zeros_(peer.linear2.bias)
    decoder, encoder = torch.randn(2, 5, 8).double(), torch.randn(2, 7, 8).double()
    cross_mask = torch.rand(5, 7) < 0.7
    cross_mask[:, 0] = True
    expected = peer(decoder, encoder, tgt_mask=~causal_mask(5), memory_mask=~cross_mask)
    assert torch.allclose(own(decoder, encoder, causal_mask(5), cross_mask), expected, rtol=0, atol=1e-6)


def test_sinusoidal_encoding_is_the_papers() -> None:
    positions = torch.tensor([0.0, 1.0, 2.5, 40.0])
    encoding = sinusoidal_encoding(positions, 6)
    for row, position in enumerate(positions.tolist()):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            assert encoding[row, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert encoding[row, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_products_of_encodings_tell_the_distance_alone() -> None:
    encoding = sinusoidal_encoding(torch.arange(50, dtype=torch.float64), 32)
    products = encoding @ encoding.T
    for distance in (0, 1, 7):
        assert torch.allclose(products.diagonal(distance), products[0, distance])
    assert (products[0, 0] > products[0, 1:]).all()


def test_the_2d_encoding_is_one_of_the_row_and_one_of_the_column() -> None:
    rows, columns = torch.arange(3.0), torch.arange(5.0) / 2
    encoding = sinusoidal_encoding_2d(rows, columns, 12)
    assert encoding.shape == (12, 3, 5)
    for i in range(3):
        for j in range(5):
            assert torch.equal(encoding[:6, i, j], sinusoidal_encoding(rows, 6)[i])
            assert torch.equal(encoding[6:, i, j], sinusoidal_encoding(columns, 6)[j])


def test_widths_that_do_not_divide_are_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="a width of 8 can't be cut into 3 equal parts; take a multiple of 3"):
        MultiHeadSelfAttention(8, 3)
    with pytest.raises(ConfigError, match="width of 8 can't be cut into 0"):
        MultiHeadCrossAttention(8, 5, 0)
    with pytest.raises(ConfigError, match="multiple of 4"):
        sinusoidal_encoding_2d(torch.arange(2.0), torch.arange(2.0), 6)


@pytest.mark.parametrize("dropout", [2.0, -0.1, math.nan])
def test_a_dropout_out_of_range_is_refused_in_one_line(dropout: float) -> None:
    for make in (
        lambda: SelfAttentionLayer(8, 2, dropout),
        lambda: CrossAttentionLayer(8, 6, 2, dropout),
        lambda: CrossSelfLayer(8, 6, 2, dropout),
    ):
        with pytest.raises(ConfigError, match=f"invalid dropout {dropout}: expected a number from 0 to 1"):
            make()
