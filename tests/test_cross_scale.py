"""Cross-scale attention: what it computes, that it starts as plain YOLO11, and that its models go where the others go."""

import math
import re
import warnings
from pathlib import Path

import pytest
import torch
from lively_model import calmed, lively_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from detector.config import ExportConfig
from detector.errors import WeightsError
from detector.exporting.export import export
from detector.formats.load import load_runtime
from detector.models.base import DetectionModel, scale_pixels
from detector.models.catalog import MODELS, create_model
from detector.nn.cross_scale import CELLS, CrossScaleAttention, pool
from detector.structures import Categories
from detector.weights.files import WeightsInfo, load_weights, save_weights
from detector.weights.published.names import from_published, to_published

CROSS = [name for name in MODELS if name.endswith("-cross")]


def lively_attention(fine: int, coarse: int) -> CrossScaleAttention:
    torch.manual_seed(0)
    module = CrossScaleAttention(fine, coarse).double().eval()
    nn.init.normal_(module.value.bn.weight)
    return module


def maps(fine: int, coarse: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """A finer map, and a coarser of half its height and width."""
    shapes = (2, fine, 2 * height, 2 * width), (2, coarse, height, width)
    return tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)


def place(row: float, column: float, width: int) -> list[float]:
    """Sines and cosines of the row in the first half, of the column in the second."""
    half = width // 2
    angles = [(at / 10000 ** (i // 2 * 2 / half), i % 2) for at in (row, column) for i in range(half)]
    return [math.cos(angle) if odd else math.sin(angle) for angle, odd in angles]


def places(height: int, width: int, channels: int) -> Tensor:
    rows = [(i + 0.5) * CELLS / height - 0.5 for i in range(height)]
    columns = [(j + 0.5) * CELLS / width - 0.5 for j in range(width)]
    return torch.tensor([place(row, column, channels) for row in rows for column in columns], dtype=torch.float64)


@pytest.mark.parametrize(("fine", "coarse", "size"), [(128, 64, (4, 4)), (64, 32, (3, 5)), (192, 40, (1, 1))])
def test_it_is_the_formula_with_the_finer_pixels_as_queries(fine: int, coarse: int, size: tuple[int, int]) -> None:
    module = lively_attention(fine, coarse)
    x, y = maps(fine, coarse, *size)
    pixels = x.shape[2] * x.shape[3]
    query = module.query(x).reshape(2, module.heads, -1, pixels) + places(*x.shape[2:], module.key_width).T
    cells = pool(y)
    key = module.key(cells).reshape(2, module.heads, -1, CELLS**2) + places(CELLS, CELLS, module.key_width).T
    value = module.value(cells).reshape(2, module.heads, -1, CELLS**2)
    weights = (torch.einsum("bhci,bhcj->bhij", query, key) / math.sqrt(module.key_width)).softmax(dim=3)
    expected = x + torch.einsum("bhij,bhcj->bhci", weights, value).reshape(x.shape)
    assert torch.allclose(module.weights(x, y), weights, rtol=0, atol=1e-5)  # its sines are float32's
    assert torch.allclose(module(x, y), expected, rtol=0, atol=1e-5)
    assert torch.allclose(module.weights(x, y).sum(dim=3), torch.ones(()).double())


@pytest.mark.parametrize("size", [(8, 8), (16, 40), (1, 1), (4, 2)])
def test_pooling_is_the_mean_over_the_cells_where_they_divide_the_pixels_or_the_pixels_them(
    size: tuple[int, int],
) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    assert torch.allclose(pool(x), F.adaptive_avg_pool2d(x, CELLS), atol=1e-6)


@pytest.mark.parametrize("size", [(3, 5), (20, 13), (9, 7)])
def test_pooling_to_cells_that_cut_pixels_counts_their_shares(size: tuple[int, int]) -> None:
    """Each pixel as 8 x 8 smaller ones: then the cells cut none."""
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    smaller = x.repeat_interleave(CELLS, dim=2).repeat_interleave(CELLS, dim=3)
    assert torch.allclose(pool(x), F.avg_pool2d(smaller, size), atol=1e-6)
    assert torch.allclose(pool(x).mean(dim=(2, 3)), x.mean(dim=(2, 3)), atol=1e-6)


def test_with_equal_contents_a_pixel_looks_most_at_its_own_cell() -> None:
    module = lively_attention(64, 64)
    x, y = torch.ones(1, 64, 16, 16).double(), torch.ones(1, 64, 8, 8).double()
    for conv in (module.query, module.key):
        nn.init.zeros_(conv.conv.weight)
    looked = module.weights(x, y)[0, 0].argmax(dim=1).reshape(16, 16)
    own = torch.arange(64).reshape(8, 8).repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)
    assert torch.equal(looked, own)


def test_gradients_are_those_of_differences() -> None:
    module = lively_attention(8, 4)
    x, y = maps(8, 4, 1, 3)
    assert torch.autograd.gradcheck(module, (x[:1].requires_grad_(), y[:1].requires_grad_()))


@pytest.mark.slow
@pytest.mark.parametrize("name", CROSS)
def test_a_new_model_computes_what_plain_yolo11_computes_and_costs_little_more(name: str) -> None:
    with torch.device("meta"):
        pair = [create_model(each, 80).eval() for each in (name.removesuffix("-cross"), name)]
    parameters = [sum(p.numel() for p in model.parameters()) for model in pair]
    assert parameters[0] < parameters[1] < 1.06 * parameters[0]
    extra = []
    for size in (320, 640, 1280):
        flops = []
        for model in pair:
            with FlopCounterMode(display=False) as counter:
                model(torch.zeros(1, 3, size, size, device="meta"))
            flops.append(counter.get_total_flops())
        extra.append(flops[1] - flops[0])
        assert 0 < extra[-1] < 0.06 * flops[0]
    # a part for each pixel, four times as much for twice the side, and the same few cells at any size
    assert extra[2] - extra[1] == pytest.approx(4 * (extra[1] - extra[0]), rel=0.01)


def test_a_new_model_says_bit_for_bit_what_plain_yolo11_says_and_then_learns() -> None:
    torch.manual_seed(0)
    plain = create_model("yolo11n", 3)
    torch.manual_seed(0)
    cross = create_model("yolo11n-cross", 3)
    shared = plain.state_dict()
    assert all(torch.equal(cross.state_dict()[key], tensor) for key, tensor in shared.items())  # from the same seed
    images = torch.rand(2, 3, 64, 96)
    raw, expected = cross(images), plain(images)
    assert torch.equal(raw.boxes, expected.boxes)
    assert torch.equal(raw.scores, expected.scores)

    attentions = [module for module in cross.modules() if isinstance(module, CrossScaleAttention)]
    assert len(attentions) == 2
    optimizer = torch.optim.SGD(cross.parameters(), lr=0.01)
    for step in range(2):
        optimizer.zero_grad()
        raw = cross(images)
        (raw.boxes.square().mean() + raw.scores.square().mean()).backward()
        for attention in attentions:
            assert attention.value.bn.weight.grad.abs().max() > 0
            assert (attention.query.conv.weight.grad.abs().max() > 0) == (step > 0)  # as soon as there are values
        optimizer.step()


def test_the_finer_map_is_changed_by_far_parts_of_the_coarser() -> None:
    """A pixel in one corner hears of the other: without attention the join would not bring it."""
    model = lively_model(3, "yolo11n-cross")
    coarse, fine = torch.randn(1, 128, 16, 16), torch.randn(1, 128, 32, 32)
    changed = coarse.clone()
    changed[:, :, 12:, 12:] += 3.0
    with torch.no_grad():
        before, after = model.join3(coarse, fine)[0, :, 0, 0], model.join3(changed, fine)[0, :, 0, 0]
    assert torch.equal(before[:128], after[:128])
    assert (before[128:] - after[128:]).abs().max() > 1e-3


@pytest.mark.parametrize("convert", [from_published, to_published])
def test_there_are_no_published_names(convert: object) -> None:
    for name in CROSS:
        with pytest.raises(WeightsError, match=re.escape(f"{name} has no published counterpart")) as error:
            convert(create_model("yolo11n-cross", 2).state_dict(), name)
        assert "\n" not in str(error.value)


def weights_of(model: DetectionModel, path: Path) -> Path:
    info = WeightsInfo("yolo11n-cross", Categories((1, 2, 3), ("a", "b", "c")), 96, {}, {}, "CC0")
    save_weights(path, model, info)
    return path


SIZES = [(1, 32, 32), (3, 64, 160), (2, 288, 96), (1, 256, 128)]


def same_outputs(file: Path, model: DetectionModel) -> None:
    """At sizes whose maps are smaller than the grid, of its size, and cut by it; of smooth noise, as it was normed on."""
    runtime, _ = load_runtime(file, torch.device("cpu"), None)
    for batch, height, width in SIZES:
        coarse = torch.rand(batch, 3, height // 8, width // 8)
        frames = (255 * F.interpolate(coarse, size=(height, width), mode="bilinear")).to(torch.uint8)
        with torch.no_grad():
            boxes, scores = runtime.predict(frames)
            expected = model(scale_pixels(frames))
        assert (boxes - expected.boxes).abs().max() < 0.5
        assert (scores - expected.scores).abs().max() < 1e-3


@pytest.mark.slow
@pytest.mark.usefixtures("no_shape_checks")
def test_an_onnx_file_of_open_sizes_says_the_same(tmp_path: Path) -> None:
    weights = weights_of(calmed(lively_model(3, "yolo11n-cross")), tmp_path / "cross.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        export(ExportConfig(weights=str(weights), out=str(tmp_path / "cross.onnx"), raw=True, dynamic=True))
    same_outputs(tmp_path / "cross.onnx", load_weights(weights)[0])


@pytest.mark.slow
@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.filterwarnings("ignore:.torch.jit.*:FutureWarning")
def test_a_torchscript_file_says_the_same_at_all_sizes(tmp_path: Path) -> None:
    weights = weights_of(calmed(lively_model(3, "yolo11n-cross")), tmp_path / "cross.safetensors")
    export(ExportConfig(weights=str(weights), out=str(tmp_path / "cross.torchscript"), format="torchscript"))
    same_outputs(tmp_path / "cross.torchscript", load_weights(weights)[0])
