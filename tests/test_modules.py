"""The blocks, each against an independent formulation."""

import math

import pytest
import torch
from narrow_yolov9 import with_statistics
from torch import Tensor
from torch.nn import functional as F

from detector.models.catalog import MODELS, create_model
from detector.nn.conv import Conv, HalvedConv, fuse_conv_bn, pair_halves
from detector.nn.spatial_attention import SpatialAttention
from detector.nn.spff import SPFF
from detector.structures import Predictions, RawPredictions


@pytest.mark.parametrize("size", [(1, 1), (4, 7), (20, 20)])
def test_chained_pooling_equals_parallel_pooling_exactly(size: tuple[int, int]) -> None:
    x = torch.randn(2, 8, *size)
    chained = SPFF(8, 8).pyramid(x)
    parallel = [x, *(F.max_pool2d(x, k, stride=1, padding=k // 2) for k in (5, 9, 13))]
    assert all(torch.equal(a, b) for a, b in zip(chained, parallel, strict=True))


def test_other_kernel_sizes_are_pooled_in_parallel() -> None:
    x = torch.randn(2, 8, 10, 10)
    levels = SPFF(8, 8, kernel_sizes=(3, 7)).pyramid(x)
    expected = [x, F.max_pool2d(x, 3, stride=1, padding=1), F.max_pool2d(x, 7, stride=1, padding=3)]
    assert all(torch.equal(a, b) for a, b in zip(levels, expected, strict=True))
    assert SPFF(8, 6, kernel_sizes=(3, 7))(x).shape == (2, 6, 10, 10)


def explicit_attention(module: SpatialAttention, x: Tensor) -> Tensor:
    """Pixel by pixel and head by head, softmax(qᵀk / sqrt(key width)), as the papers write it."""
    batch, channels, height, width = x.shape
    qkv = module.qkv(x).reshape(batch, module.heads, -1, height * width)
    outputs, values = [], []
    for head in range(module.heads):
        q = qkv[:, head, : module.key_width]
        k = qkv[:, head, module.key_width : 2 * module.key_width]
        v = qkv[:, head, 2 * module.key_width :]
        logits = torch.einsum("bci,bcj->bij", q, k) / math.sqrt(module.key_width)
        weights = logits.exp() / logits.exp().sum(dim=2, keepdim=True)
        outputs.append(torch.einsum("bij,bcj->bci", weights, v))
        values.append(v)
    mixed = torch.cat(outputs, dim=1).reshape(batch, channels, height, width)
    value = torch.cat(values, dim=1).reshape(batch, channels, height, width)
    return module.project(mixed + module.position(value))


@pytest.mark.parametrize(("channels", "size"), [(64, (4, 6)), (128, (5, 3)), (192, (1, 1))])
def test_attention_equals_the_explicit_formula_in_float64(channels: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module = SpatialAttention(channels).double().eval()
    x = torch.randn(2, channels, *size, dtype=torch.float64)
    expected = explicit_attention(module, x)
    assert (module(x) - expected).norm() / expected.norm() < 1e-12
    single = module.float()(x.float())
    assert (single.double() - expected).norm() / expected.norm() < 1e-6


@pytest.mark.parametrize(("channels", "size"), [(64, (4, 6)), (192, (3, 5)), (128, (1, 1))])
def test_weights_of_attention_are_those_it_mixes_by(channels: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module = SpatialAttention(channels).double().eval()
    x = torch.randn(2, channels, *size, dtype=torch.float64)
    weights = module.weights(x)
    pixels = size[0] * size[1]
    assert weights.shape == (2, module.heads, pixels, pixels)
    assert torch.allclose(weights.sum(dim=3), torch.ones(()).double())
    value = module.qkv(x).reshape(2, module.heads, -1, pixels)[:, :, 2 * module.key_width :]
    mixed = (value @ weights.mT).reshape(x.shape)
    expected = module.project(mixed + module.position(value.reshape(x.shape)))
    assert torch.allclose(module(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_of_attention_are_those_of_differences(batch: int, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    module = SpatialAttention(4).double().eval()
    x = torch.randn(batch, 4, 2, 3, dtype=torch.float64).contiguous(memory_format=memory_format)
    assert torch.autograd.gradcheck(module, x.requires_grad_())


@pytest.mark.parametrize("act", [True, False])
def test_fusing_keeps_the_outputs_and_the_original(act: bool) -> None:
    torch.manual_seed(0)
    block = Conv(3, 8, 3, act=act)
    block(torch.randn(4, 3, 9, 9))  # moves the running statistics
    before = {name: value.clone() for name, value in block.state_dict().items()}
    x = torch.randn(2, 3, 9, 9)
    fused = fuse_conv_bn(block)
    assert torch.allclose(fused(x), block.eval()(x), atol=1e-5)
    assert all(torch.equal(block.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("name", ["yolo11n", "yolo11n-cross", "yolov9t"])
def test_halves_computed_apart_are_the_same(name: str) -> None:
    torch.manual_seed(0)
    model = with_statistics(create_model(name, 3)).double()
    fused = fuse_conv_bn(model)
    images = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        expected = fused(images)
        pair_halves(fused)
        got = fused(images)
    assert not any(isinstance(module, HalvedConv) for module in fused.modules())
    assert expected.scores.std() > 1e-6
    assert (got.boxes - expected.boxes).abs().max() < 1e-9
    assert (got.scores - expected.scores).abs().max() < 1e-12


def test_outputs_have_the_shapes_that_the_contract_states() -> None:
    model = create_model("yolo11n", 3)
    images = torch.rand(2, 3, 64, 96)
    anchors = 8 * 12 + 4 * 6 + 2 * 3
    raw = model(images)
    assert isinstance(raw, RawPredictions)
    assert raw.boxes.shape == (2, 64, anchors)
    assert raw.scores.shape == (2, 3, anchors)
    predictions = model.eval()(images)
    assert isinstance(predictions, Predictions)
    assert predictions.boxes.shape == (2, anchors, 4)
    assert predictions.scores.shape == (2, anchors, 3)
    assert (predictions.scores >= 0).all()
    assert (predictions.scores <= 1).all()


def test_a_batch_gives_what_single_images_give() -> None:
    torch.manual_seed(0)
    model = create_model("yolo11n", 3).eval()
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        together = model(images)
        alone = model(images[1:2])
    assert torch.allclose(together.boxes[1], alone.boxes[0], atol=1e-4)
    assert torch.allclose(together.scores[1], alone.scores[0], atol=1e-6)


def test_an_unknown_model_is_refused_with_the_known_names() -> None:
    with pytest.raises(Exception, match="yolo11n, yolo11s, yolo11m, yolo11l, yolo11x"):
        create_model("yolo12n")
    plain = ["yolo11n", "yolo11s", "yolo11m", "yolo11l", "yolo11x"]
    assert list(MODELS) == [*plain, *(f"yolov9{letter}" for letter in "tsmce"), *(f"{name}-cross" for name in plain)]
