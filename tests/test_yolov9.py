"""The blocks of YOLOv9, each against an independent formulation, and its fusion for inference."""

import pytest
import torch
from narrow_yolov9 import with_statistics
from torch import Tensor, nn
from torch.nn import functional as F

from detector.models.catalog import create_model
from detector.nn.conv import Conv, RepConv, fuse_conv_bn
from detector.nn.gelan import ELAN1, SPPELAN, AConv, ADown, CBLinear, RepBottleneck, RepCSP, RepNCSPELAN, cb_fuse


def convolutions(model: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv2d) for module in model.modules())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_a_rep_conv_becomes_one_convolution_with_the_same_outputs(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    block = with_statistics(RepConv(3, 8).to(dtype))
    before = {name: value.clone() for name, value in block.state_dict().items()}
    fused = fuse_conv_bn(block)
    x = torch.randn(2, 3, 9, 7, dtype=dtype)
    assert (fused(x) - block.eval()(x)).abs().max() < tolerance
    assert (convolutions(block), convolutions(fused)) == (2, 1)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert all(torch.equal(block.state_dict()[name], value) for name, value in before.items())
    assert torch.equal(fuse_conv_bn(fused)(x), fused(x))  # what is fused stays so


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov9t", "yolov9s", "yolov9m", "yolov9c", "yolov9e"])
def test_a_fused_network_has_the_same_outputs(name: str) -> None:
    torch.manual_seed(0)
    model = with_statistics(create_model(name, 3)).double().eval()
    fused = fuse_conv_bn(model)
    images = torch.rand(1, 3, 64, 32, dtype=torch.float64)
    with torch.no_grad():
        expected, got = model(images), fused(images)
    assert expected.scores.std() > 1e-6
    assert (got.boxes - expected.boxes).abs().max() < 1e-10
    assert (got.scores - expected.scores).abs().max() < 1e-10
    rep_convs = sum(isinstance(module, RepConv) for module in model.modules())
    assert rep_convs > 0
    assert convolutions(model) - convolutions(fused) == rep_convs


def conv(block: Conv, x: Tensor) -> Tensor:
    """In evaluation mode, by the formula."""
    layer, norm = block.conv, block.bn
    y = F.conv2d(x, layer.weight, stride=layer.stride, padding=layer.padding)
    y = (y - norm.running_mean[:, None, None]) / (norm.running_var + 1e-3).sqrt()[:, None, None]
    y = y * norm.weight[:, None, None] + norm.bias[:, None, None]
    return y if isinstance(block.act, nn.Identity) else y * y.sigmoid()


def csp(block: RepCSP, x: Tensor) -> Tensor:
    deep = conv(block.deep, x)
    for bottleneck in block.blocks:
        assert isinstance(bottleneck, RepBottleneck)
        both = conv(bottleneck.conv1.wide, deep) + conv(bottleneck.conv1.pointwise, deep)
        deep = deep + conv(bottleneck.conv2, both * both.sigmoid())
    return conv(block.merge, torch.cat((deep, conv(block.bypass, x)), dim=1))


def evaluated(block: nn.Module, channels: int) -> nn.Module:
    """With statistics of noise of so many channels, in float64."""
    torch.manual_seed(0)
    return with_statistics(nn.Sequential(Conv(3, channels, 3), block).double())[1].eval()


def test_elan_with_plain_convolutions_is_its_diagram() -> None:
    block = evaluated(ELAN1(6, 10, split=8, inner=5), 6)
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    both = conv(block.split, x)
    first = conv(block.first, both[:, 4:])
    expected = conv(block.merge, torch.cat((both, first, conv(block.second, first)), dim=1))
    assert (block(x) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("repeats", [1, 3])
def test_elan_with_csp_blocks_is_its_diagram(repeats: int) -> None:
    block = evaluated(RepNCSPELAN(6, 10, split=8, inner=6, repeats=repeats), 6)
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    both = conv(block.split, x)
    first = conv(block.first[1], csp(block.first[0], both[:, 4:]))
    second = conv(block.second[1], csp(block.second[0], first))
    expected = conv(block.merge, torch.cat((both, first, second), dim=1))
    assert (block(x) - expected).abs().max() < 1e-12


def test_downsampling_halves_both_sides() -> None:
    x = torch.randn(2, 6, 8, 12, dtype=torch.float64)
    means = (x[:, :, 1:, 1:] + x[:, :, 1:, :-1] + x[:, :, :-1, 1:] + x[:, :, :-1, :-1]) / 4
    plain = evaluated(AConv(6, 10), 6)
    assert (plain(x) - conv(plain.conv, means)).abs().max() < 1e-12
    halves = evaluated(ADown(6, 10), 6)
    pooled = F.max_pool2d(means[:, 3:], 3, stride=2, padding=1)
    expected = torch.cat((conv(halves.conv, means[:, :3]), conv(halves.pooled, pooled)), dim=1)
    assert expected.shape == (2, 10, 4, 6)
    assert (halves(x) - expected).abs().max() < 1e-12


def test_pooling_sees_windows_of_5_9_and_13() -> None:
    block = evaluated(SPPELAN(6, 10, hidden=4), 6)
    x = torch.randn(2, 6, 15, 14, dtype=torch.float64)
    reduced = conv(block.reduce, x)
    windows = [reduced, *(F.max_pool2d(reduced, size, stride=1, padding=size // 2) for size in (5, 9, 13))]
    assert (block(x) - conv(block.merge, torch.cat(windows, dim=1))).abs().max() < 1e-12


def test_slices_are_repeated_to_the_finer_size_and_added() -> None:
    x = torch.randn(2, 4, 4, 6)
    near, far = CBLinear(8, (4, 2))(torch.randn(2, 8, 4, 6))[0], torch.randn(2, 4, 2, 3)
    repeated = far.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.allclose(cb_fuse(x, [near, far]), x + near + repeated, atol=1e-6)
    assert cb_fuse(x, []) is x
