"""Windows over an image, and boxes across their seams: with a detector that sees exactly what a window shows."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lively_model import lively_model
from PIL import Image

from detector.cli import main
from detector.errors import ConfigError
from detector.inference.detector import Detector
from detector.inference.tiles import TiledDetector, windows
from detector.structures import Categories, Detections
from detector.weights.files import WeightsInfo, save_weights

CATEGORIES = Categories((1, 2), ("square", "disc"))
SIDE = 100


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(32, 300), st.floats(0, 0.9))
def test_windows_cover_the_image_and_are_of_one_size(width: int, height: int, side: int, overlap: float) -> None:
    places = windows(width, height, side, overlap)
    seen = np.zeros((height, width), bool)
    for left, top, right, bottom in places:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert (right - left, bottom - top) == (min(side, width), min(side, height))
        seen[top:bottom, left:right] = True
    assert seen.all()
    assert len(set(places)) == len(places)
    columns = sorted({place.left for place in places})
    for first, second in pairwise(columns):
        assert first + side - second >= int(overlap * side)  # neighbors share at least the overlap


class Sighted(Detector):
    """In the place of a Detector: finds what is drawn, each object a rectangle of its own color whose red tells the class.

    An object that a window cuts is found by its visible part, up to a pixel beside, with less score.
    """

    def __init__(self) -> None:
        self.categories, self.image_size = CATEGORIES, SIDE
        self.conf, self.iou, self.max_detections = 0.25, 0.7, 300
        self.random = np.random.default_rng(0)

    def __call__(self, images: Any) -> Any:
        return [self.find(p) for p in images] if isinstance(images, list) else self.find(images)

    def find(self, image: np.ndarray) -> Detections:
        boxes, scores, labels = [], [], []
        for color in np.unique(image.reshape(-1, 3), axis=0):
            if not color.any():
                continue
            y, x = np.nonzero((image == color).all(axis=2))
            box = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], np.float64)
            height, width = image.shape[:2]
            cut = box[0] == 0 or box[1] == 0 or box[2] == width or box[3] == height
            boxes.append((box + self.random.uniform(-1, 1, 4)).clip(0, [width, height] * 2))
            scores.append(self.random.uniform(0.3, 0.7) if cut else self.random.uniform(0.6, 0.9))
            labels.append(int(color[0]) - 1)
        order = np.argsort(scores)[::-1].copy()
        return Detections(
            torch.tensor(np.array(boxes).reshape(-1, 4), dtype=torch.float32)[order],
            torch.tensor(scores, dtype=torch.float32)[order],
            torch.tensor(labels, dtype=torch.int64)[order],
            CATEGORIES,
        )


def scene(seed: int, smallest: int, largest: int, width: int = 420, height: int = 330) -> tuple[np.ndarray, list[Any]]:
    """An image with rectangles apart from each other, and their boxes with labels."""
    random = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.uint8)
    drawn: list[Any] = []
    for _ in range(200):
        w, h = random.integers(smallest, largest, 2)
        left, top = random.integers(0, width - w), random.integers(0, height - h)
        if image[max(top - 4, 0) : top + h + 4, max(left - 4, 0) : left + w + 4].any():
            continue
        label = int(random.integers(2))
        image[top : top + h, left : left + w] = (label + 1, len(drawn) % 250 + 1, 7)
        drawn.append((label, [left, top, left + w, top + h]))
    return image, drawn


def assert_each_once(found: Detections, drawn: list[Any], tolerance: float) -> None:
    assert len(found) == len(drawn) > 1
    for label, box in drawn:
        off = (found.boxes - torch.tensor(box, dtype=torch.float32)).abs().amax(dim=1)
        assert found.labels[off.argmin()] == label
        assert off.min() <= tolerance
    assert (found.scores.diff() <= 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [0.1, 0.2, 0.5])
@pytest.mark.parametrize(("smallest", "largest"), [(12, 20), (15, 60), (30, 95), (110, 200)])
def test_every_object_is_found_once_whatever_seams_cut_it(smallest: int, largest: int, overlap: float) -> None:
    """Smaller than the overlap, larger than it, and larger than a window."""
    for seed in range(3):
        image, drawn = scene(seed, smallest, largest)
        found = TiledDetector(Sighted(), SIDE, overlap)(image)
        assert_each_once(found, drawn, tolerance=4)


def test_neighbors_of_one_class_at_a_seam_stay_two() -> None:
    image = np.zeros((100, 180, 3), np.uint8)
    image[10:50, 60:95] = (1, 1, 1)
    image[10:50, 96:130] = (1, 2, 1)
    image[52:90, 70:120] = (1, 3, 1)
    found = TiledDetector(Sighted(), SIDE, 0.2)(image)
    assert_each_once(found, [(0, [60, 10, 95, 50]), (0, [96, 10, 130, 50]), (0, [70, 52, 120, 90])], tolerance=3)


def test_an_object_within_another_of_another_class_stays() -> None:
    image = np.zeros((100, 180, 3), np.uint8)
    image[10:90, 50:130] = (1, 1, 1)
    image[40:60, 85:99] = (2, 2, 1)
    found = TiledDetector(Sighted(), SIDE, 0.2)(image)
    assert sorted(found.names) == ["disc", "square"]


class OneLarge(Sighted):
    """Finds one object in the whole image, and nothing in windows."""

    def find(self, image: np.ndarray) -> Detections:
        found = torch.tensor([[10.0, 10.0, 280.0, 200.0]])[: int(image.shape[1] > SIDE)]
        return Detections(found, torch.full((len(found),), 0.9), torch.zeros(len(found), dtype=torch.int64), CATEGORIES)


def test_a_single_large_object_is_found() -> None:
    """A mask of one element is no index."""
    (found,) = TiledDetector(OneLarge(), SIDE, 0.2)(np.zeros((300, 300, 3), np.uint8))
    assert found.box == (10, 10, 280, 200)
    detections = OneLarge().find(np.zeros((300, 300, 3), np.uint8))
    assert [len(detections[torch.tensor([chosen])]) for chosen in (True, False)] == [1, 0]


def test_nothing_is_nothing() -> None:
    assert len(TiledDetector(Sighted(), SIDE, 0.2)(np.zeros((300, 300, 3), np.uint8))) == 0


def test_max_detections_counts_for_the_image() -> None:
    image, drawn = scene(0, 12, 20)
    few = Sighted()
    few.max_detections = 5
    assert len(drawn) > 5 == len(TiledDetector(few, SIDE, 0.2)(image))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(path, lively_model(2), WeightsInfo("yolo11n", CATEGORIES, 64, {}, {}, "CC0-1.0"))
    return path


def test_an_image_no_larger_than_a_window_is_as_without_tiles(weights: Path) -> None:
    detector = Detector.load(weights, device="cpu")
    image = np.random.default_rng(0).integers(0, 255, (90, 128, 3), np.uint8)
    tiled, plain = TiledDetector(detector, 128)(image), detector(image)
    assert torch.equal(tiled.boxes, plain.boxes)
    assert [torch.equal(a.boxes, plain.boxes) for a in TiledDetector(detector, 128)([image, image])] == [True] * 2


def test_infer_and_evaluate_find_the_same_through_tiles(weights: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "val").mkdir(parents=True)
    image = np.random.default_rng(0).integers(0, 255, (14, 20, 3), np.uint8)
    Image.fromarray(image).resize((200, 140)).save(data / "val" / "1.png")
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": 200, "height": 140}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 50, 50], "area": 2500, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "square"}, {"id": 2, "name": "disc"}],
    }
    (data / "annotations").mkdir()
    (data / "annotations" / "instances_val.json").write_text(json.dumps(content))
    shared = ["--weights", str(weights), "--device", "cpu", "--conf", "0.2", "--tiles", "96", "--overlap", "0.25"]
    assert main(["infer", str(data / "val"), "--out", str(tmp_path / "infer"), *shared]) == 0
    assert main(["evaluate", "--data", str(data), "--out", str(tmp_path / "evaluate"), *shared]) == 0
    infer, evaluate = (json.loads((tmp_path / name / "detections.json").read_text()) for name in ("infer", "evaluate"))
    assert len(infer) > 10
    for entry in infer:
        del entry["file_name"], entry["category_name"]
    assert infer == evaluate
    assert json.loads((tmp_path / "evaluate" / "metrics.json").read_text())["tiles"] == 96


@pytest.mark.parametrize("wrong", [["--tiles", "8"], ["--tiles", "64", "--overlap", "0.95"]])
def test_impossible_tiles_are_refused(weights: Path, tmp_path: Path, wrong: list[str]) -> None:
    assert main(["infer", "a.jpg", "--weights", str(weights), "--out", str(tmp_path), *wrong]) == 2
    detector = Detector.load(weights, device="cpu")
    with pytest.raises(
        ConfigError,
        match=r"^(tiles: invalid value 8|overlap: invalid value 0\.95): expected",
    ):
        TiledDetector(detector, *(float(value) if "." in value else int(value) for value in wrong[1::2]))
