"""Where attention looks and what a class rests on: arrays with known answers, their frames, and `infer --attention`."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from lively_model import lively_model
from torch import Tensor, nn
from torch.nn import functional as F

from detector.cli import main
from detector.demo.scenes import make_dataset
from detector.images.letterbox import Letterbox
from detector.images.read import read_image
from detector.inference.attention.maps import AttentionLayer, AttentionMaps, attention_layers, attention_maps
from detector.inference.attention.plot import (
    SIDE,
    attention_panels,
    choose_shown,
    found_panel,
    overlay,
    plot_attention,
)
from detector.inference.detector import Detector
from detector.models.base import DetectionModel, scale_pixels
from detector.models.catalog import MODELS, create_model
from detector.nn.cross_scale import CrossScaleAttention
from detector.nn.head import DetectionHead
from detector.nn.spatial_attention import SpatialAttention
from detector.structures import Categories, Detections
from detector.weights.files import WeightsInfo, save_weights

COLORS = Categories((1, 2), ("red", "green"))


class Plain(DetectionModel):
    """Finds red and green cells of 8 px; a box reaches 16 px from the cell's center. No attention."""

    def __init__(self, num_classes: int = 2, class_width: int | None = None) -> None:
        super().__init__()
        self.head = DetectionHead((3, 3, 3), num_classes, class_width=class_width)
        for box, classes in zip(self.head.box_branches, self.head.class_branches, strict=True):
            nn.init.zeros_(box[-1].weight)
            with torch.no_grad():
                box[-1].bias.copy_(20.0 * (torch.arange(64) % 16 == 2))
            for depthwise, pointwise in classes[:2]:
                nn.init.dirac_(depthwise.conv.weight, groups=3)
                nn.init.dirac_(pointwise.conv.weight)
            nn.init.constant_(classes[-1].bias, -5.0)
            nn.init.dirac_(classes[-1].weight)
            classes[-1].weight.data *= 60

    def levels(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = F.avg_pool2d(images, 8)
        return fine, torch.zeros_like(F.avg_pool2d(images, 16)), torch.zeros_like(F.avg_pool2d(images, 32))


class Planted(Plain):
    """With attention over cells of 32 px: in head 1 green looks at red, all else is even; so is the whole of head 2."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__(num_classes)
        self.attention = SpatialAttention(128)
        weight = nn.init.zeros_(self.attention.qkv.conv.weight).data
        weight[0, 1] = 30  # head 1's first query channel reads green, its first key channel red
        weight[self.attention.key_width, 0] = 30

    def levels(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.attention(F.pad(F.avg_pool2d(images, 32), (0, 0, 0, 0, 0, 125)))
        return super().levels(images)


@pytest.fixture(scope="module")
def planted() -> Detector:
    return Detector(Planted(), COLORS, 128, device="cpu")


@pytest.fixture(scope="module")
def lively() -> Detector:
    return Detector(lively_model(2), COLORS, (96, 160), device="cpu")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """320 x 240 or so, never square to the network input of `lively`."""
    root = tmp_path_factory.mktemp("scenes")
    make_dataset(root, seed=3, train=3, val=3, test=3)
    return root / "val" / "000001.jpg"


def red_and_green() -> np.ndarray:
    """256 x 128 px, half of which become 128 x 64 in the frame, 32 below its top: red in cell (1, 3), green in (2, 0)."""
    image = np.zeros((128, 256, 3), np.uint8)
    image[:64, 192:, 0] = 255
    image[64:, :64, 1] = 255
    return image


# Attention weights


@pytest.mark.parametrize(("name", "heads", "layers"), [("yolo11n", 2, 1), ("yolo11l", 4, 2)])
def test_rows_of_every_layer_and_head_sum_to_one(name: str, heads: int, layers: int, scene: Path) -> None:
    torch.manual_seed(0)
    maps = attention_maps(Detector(create_model(name, 2), COLORS, (64, 160), device="cpu"), scene)
    assert len(maps.layers) == layers
    for layer in maps.layers:
        assert (layer.rows, layer.columns) == (2, 5)
        assert layer.weights.shape == (heads, 10, 10)
        assert layer.weights.dtype == np.float32
        assert (layer.weights >= 0).all()
        np.testing.assert_allclose(layer.weights.sum(axis=2), 1, atol=1e-6)


def test_the_weights_are_those_by_which_the_layer_mixes_its_values(lively: Detector) -> None:
    ((_, layer),) = attention_layers(lively.model)
    x = torch.randn(2, 128, 3, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        per_head = layer.qkv(x).flatten(2).unflatten(1, (layer.heads, -1))
        values = per_head[:, :, 2 * layer.key_width :]
        mixed = torch.einsum("bhqk,bhck->bhcq", layer.weights(x), values).reshape(x.shape)
        expected = layer.project(mixed + layer.position(values.reshape(x.shape)))
        torch.testing.assert_close(layer(x), expected)


def test_green_looks_at_red_and_head_two_at_nothing_special(planted: Detector) -> None:
    (layer,) = attention_maps(planted, red_and_green()).layers
    from_green = layer.looked_from(32, 96)
    assert np.unravel_index(from_green[0].argmax(), (4, 4)) == (1, 3)
    np.testing.assert_allclose(from_green[0].max(), 16, atol=1e-4)  # all of it: 16 times uniform
    np.testing.assert_allclose(from_green[1], 1, atol=1e-5)
    np.testing.assert_allclose(layer.looked_from(128, 32), 1, atol=1e-5)  # from black


def test_received_is_the_mean_over_the_cells_of_the_image_alone(planted: Detector) -> None:
    (layer,) = attention_maps(planted, red_and_green()).layers
    assert layer.in_image().tolist() == [[False] * 4, [True] * 4, [True] * 4, [False] * 4]
    expected = np.full((4, 4), 7 / 8)  # green's one of eight queries goes all to red, seven are even
    expected[1, 3] = (7 + 16) / 8
    np.testing.assert_allclose(layer.received()[0], expected, atol=1e-4)
    np.testing.assert_allclose(layer.received().mean(axis=(1, 2)), 1, atol=1e-5)


def test_cells_and_points_are_in_the_frame_of_the_original_image(planted: Detector) -> None:
    (layer,) = attention_maps(planted, red_and_green()).layers
    assert [layer.cell(*point) for point in ((0, 0), (63.9, 63.9), (64, 64), (255.9, 127.9), (256, 128))] == [
        (1, 0), (1, 0), (2, 1), (2, 3), (3, 3),
    ]  # fmt: skip
    assert layer.cell_box(1, 3).tolist() == [[192, 0, 256, 64]]
    assert layer.cell_box(0, 0).tolist() == [[0, 0, 64, 0]]  # padding has no place in the image


def test_cross_scale_attention_has_a_grid_that_looks_and_one_that_is_looked_at(scene: Path) -> None:
    """Without weights in its queries and keys a pixel looks at what is nearest to it, by the encoding of the places."""
    model = create_model("yolo11n-cross", 2)
    for module in model.modules():
        if isinstance(module, CrossScaleAttention):
            nn.init.zeros_(module.query.conv.weight)
            nn.init.zeros_(module.key.conv.weight)
    maps = attention_maps(Detector(model, COLORS, (96, 160), device="cpu"), scene)
    grids = [(layer.query_rows, layer.query_columns, layer.rows, layer.columns) for layer in maps.layers]
    assert grids == [(3, 5, 3, 5), (6, 10, 8, 8), (12, 20, 8, 8)]
    for layer in maps.layers[1:]:
        np.testing.assert_allclose(layer.weights.sum(axis=2), 1, atol=1e-6)
        row, column = layer.query_rows - 1, layer.query_columns // 2
        left, top, right, bottom = layer.cell_box(row, column)[0].tolist()
        seen = layer.looked_from((left + right) / 2, (top + bottom) / 2)
        nearest = int((row + 0.5) / layer.query_rows * 8), int((column + 0.5) / layer.query_columns * 8)
        assert all(np.unravel_index(head.argmax(), head.shape) == nearest for head in seen)
        assert layer.received().shape == (len(layer.weights), 8, 8)


def hot_spot(image: np.ndarray) -> tuple[float, float]:
    """Mean x and y of the pixels of an overlay that have color."""
    rows, columns = np.nonzero(np.ptp(image.astype(int), axis=2) > 100)
    return float(columns.mean()), float(rows.mean())


def test_the_hot_spot_moves_with_a_mirrored_image(planted: Detector) -> None:
    image = red_and_green()
    spots = []
    for each, x in ((image, 32), (image[:, ::-1].copy(), 224)):
        maps = attention_maps(planted, each)
        heat = maps.letterbox.map_to_original(maps.layers[0].looked_from(x, 96)[0])
        assert heat.shape == image.shape[:2]
        spots.append(hot_spot(overlay(each, heat, 1.0, float(heat.max()))))
    (x, y), (mirrored_x, mirrored_y) = spots
    assert 192 < x < 256
    assert 0 < y < 64
    assert mirrored_x == pytest.approx(255 - x, abs=0.5)
    assert mirrored_y == pytest.approx(y, abs=0.5)


# From cells to pixels


@pytest.mark.parametrize(("width", "height"), [(300, 200), (96, 400), (64, 64), (1000, 37)])
def test_a_map_comes_to_the_originals_pixels(width: int, height: int) -> None:
    letterbox = Letterbox(width, height, 160, 128)
    x_of_cells = np.tile((np.arange(5, dtype=np.float32) + 0.5) * 32, (4, 1))
    heat = letterbox.map_to_original(x_of_cells)
    assert heat.shape == (height, width)
    pixels = torch.arange(width, dtype=torch.float32)[:, None] + 0.5
    inside = x_of_cells[0, letterbox.cells_inside(4, 5)[1]]
    expected = letterbox.to_input(pixels.expand(-1, 4))[:, 0].clamp(*inside[[0, -1]].tolist()).numpy()
    np.testing.assert_allclose(heat, np.tile(expected, (height, 1)), atol=0.75)  # up to 3/4 px of the resizes


@pytest.mark.parametrize(
    ("width", "height", "rows", "columns"),
    [
        (320, 160, slice(1, 3), slice(0, 5)),  # whole cells of padding
        (320, 240, slice(0, 4), slice(0, 5)),  # 4 px of padding: the cells on the border have their centers inside
        (64, 64, slice(0, 4), slice(0, 5)),  # centers on the border, left and right alike
        (96, 400, slice(0, 4), slice(2, 3)),
        (1000, 37, slice(2, 3), slice(0, 5)),  # 6 px between two centers
    ],
)
def test_heat_on_the_padding_never_comes_into_the_image(width: int, height: int, rows: slice, columns: slice) -> None:
    letterbox = Letterbox(width, height, 160, 128)
    assert letterbox.cells_inside(4, 5) == (rows, columns)
    clean = np.random.default_rng(0).random((4, 5), np.float32)
    planted = np.full((4, 5), 1e6, np.float32)
    planted[rows, columns] = clean[rows, columns]
    np.testing.assert_array_equal(letterbox.map_to_original(planted), letterbox.map_to_original(clean))


def test_a_panel_states_and_shows_the_cells_of_the_image_alone() -> None:
    image = red_and_green()
    layer = AttentionLayer("attention", 4, 4, 4, 4, np.zeros((1, 16, 16), np.float32), Letterbox(256, 128, 128, 128))
    clean, planted = np.ones((2, 1, 4, 4), np.float32)
    clean[0, 1, 2] = planted[0, 1, 2] = 5
    planted[0, 0] = planted[0, 3] = 40
    for before, after in zip(*(attention_panels("", layer, each, image) for each in (clean, planted)), strict=True):
        assert before.caption.startswith("maximum: 5.0 × uniform; ")
        assert after.caption.startswith("maximum: 5.0 × uniform; ")
        assert hot_spot(before.image)[1] < 64
        np.testing.assert_array_equal(before.image, after.image)


# Class activation


def two_reds() -> np.ndarray:
    image = np.zeros((128, 128, 3), np.uint8)
    image[24:32, 24:32, 0] = 255
    image[96:104, 80:88, 0] = 250
    return image


def test_class_activation_is_in_the_box_of_its_detection_not_on_its_twin(planted: Detector) -> None:
    maps = attention_maps(planted, two_reds())
    assert maps.detections.names == ["red", "red"]
    for box, activation in zip(maps.detections.boxes.tolist(), maps.activations, strict=True):
        heat = maps.letterbox.map_to_original(activation)
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        assert box[0] <= x < box[2]
        assert box[1] <= y < box[3]
        inside = heat[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])]
        assert inside.sum() > 0.99 * heat.sum()


def test_grad_cam_could_not_tell_the_twins_apart(planted: Detector) -> None:
    """Why it is LayerCAM: with the gradient's mean over the map both reds light up, whichever is asked for."""
    images = scale_pixels(torch.from_numpy(two_reds()).permute(2, 0, 1)[None])
    levels = [level.requires_grad_() for level in planted.model.levels(images)]
    logit = planted.model.head(levels).scores[0, 0, 3 * 16 + 3]
    (gradient,) = torch.autograd.grad(logit, levels[0])
    grad_cam = (levels[0] * gradient.mean(dim=(2, 3), keepdim=True)).sum(dim=1)[0].clamp_min(0)
    assert grad_cam[12, 10] > 0.9 * grad_cam[3, 3] > 0


def test_class_activation_reaches_as_far_as_the_class_branch(lively: Detector, scene: Path) -> None:
    maps = attention_maps(lively, scene)
    assert len(maps.activations) == len(maps.detections) > 0
    sizes = {(12, 20), (6, 10), (3, 5)}  # strides 8, 16, 32
    for activation in maps.activations:
        assert activation.shape in sizes
        assert (activation >= 0).all()
        rows, columns = np.nonzero(activation)
        assert np.ptp(rows) <= 4  # two 3x3 convolutions
        assert np.ptp(columns) <= 4
    assert {activation.shape for activation in maps.activations} == sizes


# Beside ordinary inference


def same(first: Detections, second: Detections) -> bool:
    pairs = ((first.boxes, second.boxes), (first.scores, second.scores), (first.labels, second.labels))
    return all(torch.equal(a, b) for a, b in pairs)


def test_detections_are_the_ordinary_ones_and_no_hook_stays(lively: Detector, scene: Path) -> None:
    before = lively(scene)
    maps = attention_maps(lively, scene)
    assert same(maps.detections, before)
    assert same(lively(scene), before)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in lively.model.modules())
    assert all(parameter.grad is None for parameter in lively.model.parameters())


def test_settings_of_the_detector_hold(scene: Path) -> None:
    detector = Detector(lively_model(2), COLORS, 96, conf=0.5, max_detections=4, classes=["green"], device="cpu")
    maps = attention_maps(detector, scene)
    assert same(maps.detections, detector(scene))
    assert 0 < len(maps.activations) <= 4


def test_a_model_without_attention_has_class_activation_all_the_same() -> None:
    maps = attention_maps(Detector(Plain(), COLORS, 128, device="cpu"), two_reds())
    assert maps.layers == ()
    assert len(maps.activations) == 2


# The plot


def test_the_best_of_each_class_is_shown_first() -> None:
    labels = torch.tensor([1, 1, 1, 0, 1, 0])
    found = Detections(torch.zeros(6, 4), torch.linspace(0.9, 0.4, 6), labels, COLORS)
    assert choose_shown(found, 4) == [0, 3, 1, 5]
    assert choose_shown(found, 9) == [0, 3, 1, 5, 2, 4]


def test_the_sheet_says_so_when_detections_are_left_out() -> None:
    found = Detections(torch.zeros(6, 4), torch.linspace(0.9, 0.4, 6), torch.zeros(6, dtype=torch.long), COLORS)
    image = np.zeros((20, 30, 3), np.uint8)
    assert found_panel(image, 1.0, found, [0, 1]).caption == "2 of 6 detections shown"
    assert found_panel(image, 1.0, found, range(6)).caption == ""


def test_the_overlay_is_gray_where_there_is_no_heat() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    heat = np.ones((30, 40), np.float32)
    heat[10:20, 10:20] = 3
    drawn = overlay(image, heat, 1.0, 3.0)
    cold = heat == 1
    assert (np.ptp(drawn[cold].astype(int), axis=1) == 0).all()
    assert drawn[~cold].mean() > 1.5 * drawn[cold].mean()
    assert (np.ptp(drawn[~cold].astype(int), axis=1) > 50).all()


@pytest.mark.parametrize("shape", [(1, 1), (400, 3), (90, 160)])
def test_a_sheet_has_a_row_a_layer_and_a_row_a_detection(lively: Detector, shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 120, np.uint8)
    cv2.circle(image, (80, 40), 30, (200, 30, 30), -1)
    maps = attention_maps(lively, image)
    none = AttentionMaps(maps.letterbox, detections_of(maps.detections, 0), maps.layers, ())
    two = AttentionMaps(maps.letterbox, detections_of(maps.detections, 2), maps.layers, maps.activations[:2])
    heights = [plot_attention(image, each).shape[0] for each in (none, two)]
    row = max(round(shape[0] * SIDE / max(shape)), 1)
    assert heights[1] - heights[0] >= len(two.detections) * row
    assert len(two.detections) > 0


def detections_of(found: Detections, count: int) -> Detections:
    return Detections(found.boxes[:count], found.scores[:count], found.labels[:count], found.categories)


# infer --attention


@pytest.fixture
def plain_in_the_catalog(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(MODELS, "plain", Plain)
    return "plain"


def run(weights: Path, source: Path, out: Path, *options: str) -> int:
    return main(["infer", str(source), "--weights", str(weights), "--out", str(out), "--device", "cpu", *options])


@pytest.mark.slow
def test_the_option_adds_a_sheet_and_changes_nothing_else(scene: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_weights(weights, lively_model(2), WeightsInfo("yolo11n", COLORS, 96, {}, {}, "CC0-1.0"))
    for name in ("cell.jpg", "cell_attention.jpg", "cell.png"):  # the second's name is that of the first's plot
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "in" / name), read_image(scene)[..., ::-1])
    few = ("--max_detections", "5")
    assert run(weights, tmp_path / "in", tmp_path / "without", *few) == 0
    assert run(weights, tmp_path / "in", tmp_path / "with", *few, "--attention") == 0
    ordinary = {path.name: path.read_bytes() for path in (tmp_path / "without").iterdir()}
    written = {path.name: path.read_bytes() for path in (tmp_path / "with").iterdir()}
    assert len(json.loads(ordinary["detections.json"])) > 0
    assert written.keys() - ordinary.keys() == {
        "cell_attention_.jpg", "cell_attention_attention.jpg", "cell_attention.png",
    }  # fmt: skip
    assert {name: written[name] for name in ordinary} == ordinary
    height, width = read_image(tmp_path / "with" / "cell_attention_.jpg").shape[:2]
    assert width >= 5 * 200  # detection, mean, two heads, class activation
    assert height >= 3 * 200


def test_a_model_without_attention_gets_sheets_of_class_activation_and_one_line_says_so(
    plain_in_the_catalog: str, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "plain.safetensors"
    save_weights(weights, Plain(), WeightsInfo(plain_in_the_catalog, COLORS, 96, {}, {}, "CC0-1.0"))
    assert run(weights, scene, tmp_path / "out", "--attention", "--max_detections", "2") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "plain.safetensors" in line
    assert "no attention" in line
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    plot = read_image(tmp_path / "out" / f"{scene.stem}_attention.jpg")
    assert len(found) == 2
    assert plot.shape[0] >= (1 + len(found)) * 200


def test_an_exported_file_is_refused_in_one_line(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = tmp_path / "mine.onnx"
    exported.write_bytes(b"\x08\x08\x12\x07pytorch")
    assert run(exported, scene, tmp_path / "out", "--attention") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "mine.onnx" in line
