"""From images to boxes: postprocessing against brute force, one path for every kind of input, and `infer` on files."""

import io
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from lively_model import lively_model
from PIL import Image
from torch import Tensor

from detector.boxes import make_anchors
from detector.config import InferConfig
from detector.demo.scenes import make_dataset
from detector.errors import ConfigError, DataError, DetectorError
from detector.images.letterbox import PAD_VALUE, Letterbox
from detector.images.read import read_image
from detector.inference.detector import Detector, as_array
from detector.inference.infer import infer
from detector.inference.output_names import output_names
from detector.inference.sources import Source
from detector.inference.tiles import TiledDetector
from detector.models import postprocess
from detector.models.base import DetectionModel
from detector.models.postprocess import select, select_logits
from detector.nn.conv import fuse_conv_bn
from detector.nn.head import decode
from detector.structures import Categories, Detections, Predictions, RawPredictions
from detector.utils import threads as thread_settings
from detector.utils.device import resolve_device
from detector.utils.threads import limited_threads, patient_threads
from detector.weights.files import WeightsInfo, save_weights

SIDE = 96
CATEGORIES = Categories((3, 7, 90), ("cat", "dog", "cow"))


@pytest.fixture(scope="module")
def model() -> DetectionModel:
    return lively_model(len(CATEGORIES))


@pytest.fixture(scope="module")
def detector(model: DetectionModel) -> Detector:
    return Detector(model, CATEGORIES, SIDE, device="cpu")


@pytest.fixture(scope="module")
def weights(model: DetectionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(path, model, WeightsInfo("yolo11n", CATEGORIES, SIDE, {}, {}, "CC0-1.0"))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of different sizes."""
    root = tmp_path_factory.mktemp("scenes")
    make_dataset(root, seed=1, train=3, val=5, test=3)
    return sorted((root / "val").glob("*.jpg"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_an_image_costs_no_new_memory(weights: Path) -> None:
    """Pages that the process gets from the system; 4000 an image if what a pass freed had gone back."""
    script = (
        "import sys, resource, numpy, detector\n"
        "from detector.utils.memory import tune_malloc; tune_malloc()\n"
        "found = detector.Detector.load(sys.argv[1], image_size=640, device='cpu')\n"
        "pages = []\n"
        "for _ in range(8):\n"
        "    found(numpy.zeros((480, 640, 3), dtype=numpy.uint8))\n"
        "    pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)\n"
        "print(pages[-1] - pages[3])\n"
    )
    printed = subprocess.run([sys.executable, "-c", script, weights], check=True, capture_output=True, text=True).stdout
    assert int(printed) < 4 * 1000


def same(first: Detections, second: Detections) -> bool:
    return (
        torch.equal(first.boxes, second.boxes)
        and torch.equal(first.scores, second.scores)
        and torch.equal(first.labels, second.labels)
    )


# Postprocessing


def overlap(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def brute_force(
    boxes: Tensor, scores: Tensor, conf: float, iou: float, limit: int, wanted: list[int] | None = None
) -> list[tuple[int, int]]:
    """The (anchor, label) pairs that stay, by the definition of the procedure."""
    best = [(float(row.max()), int(row.argmax()), anchor) for anchor, row in enumerate(scores)]
    best = [entry for entry in best if entry[0] >= conf and (wanted is None or entry[1] in wanted)]
    kept: list[tuple[int, int]] = []
    corners = boxes.double().tolist()
    for _, label, anchor in sorted(best, key=lambda entry: -entry[0]):
        if all(label != other or overlap(corners[anchor], corners[rival]) <= iou for rival, other in kept):
            kept.append((anchor, label))
    return kept[:limit]


def random_predictions(seed: int, anchors: int, classes: int, levels: int = 0) -> Predictions:
    """Boxes in heaps, some reaching far out of the frame; with `levels`, scores of only so many values."""
    generator = torch.Generator().manual_seed(seed)
    heaps = torch.rand(12, 2, generator=generator) * 600
    center = heaps[torch.randint(12, (anchors,), generator=generator)] + 12 * torch.randn(
        anchors, 2, generator=generator
    )
    half = 20 + 60 * torch.rand(anchors, 2, generator=generator)
    scores = torch.rand(anchors, classes, generator=generator)
    if levels:
        scores = (scores * levels).floor() / levels
    return Predictions(torch.cat((center - half, center + half), dim=1)[None], scores[None])


@pytest.mark.parametrize(
    ("anchors", "classes", "levels"), [(1, 1, 0), (60, 2, 0), (60, 2, 4), (300, 80, 0), (1500, 4, 0), (1500, 4, 20)]
)
def test_select_is_what_brute_force_says(anchors: int, classes: int, levels: int) -> None:
    predictions = random_predictions(anchors + levels, anchors, classes, levels)
    for conf, iou, limit in ((0.001, 0.7, 300), (0.5, 0.3, 20)):
        expected = brute_force(predictions.boxes[0], predictions.scores[0], conf, iou, limit)
        ((boxes, scores, labels, _),) = select(predictions, conf, iou, limit)
        anchors_kept = torch.tensor([anchor for anchor, _ in expected], dtype=torch.int64)
        assert labels.tolist() == [label for _, label in expected]
        assert torch.equal(boxes, predictions.boxes[0, anchors_kept])
        assert torch.equal(scores, predictions.scores[0, anchors_kept].amax(dim=1))
        assert (scores.diff() <= 0).all()


def test_logits_give_what_their_predictions_give() -> None:
    generator = torch.Generator().manual_seed(0)
    raw = RawPredictions(torch.randn(2, 64, 84, generator=generator), torch.randn(2, 3, 84, generator=generator) - 1)
    anchors = make_anchors([(8, 8), (4, 4), (2, 2)], (8, 16, 32), like=raw.boxes)
    for settings in ((0.25, 0.7, 300), (0.5, 0.3, 5, torch.tensor([0, 2])), (0.99, 0.7, 300)):
        for ours, theirs in zip(
            select_logits((raw, anchors), *settings), select(decode(raw, anchors), *settings), strict=True
        ):
            assert torch.equal(ours.anchors, theirs.anchors)
            assert torch.allclose(ours.boxes, theirs.boxes, atol=1e-4)
            assert torch.allclose(ours.scores, theirs.scores)
            assert torch.equal(ours.labels, theirs.labels)


def test_select_treats_every_image_of_a_batch_alone() -> None:
    first, second = random_predictions(1, 200, 3), random_predictions(2, 200, 3)
    both = Predictions(torch.cat((first.boxes, second.boxes)), torch.cat((first.scores, second.scores)))
    alone = select(first, 0.3, 0.5, 50) + select(second, 0.3, 0.5, 50)
    for ours, theirs in zip(select(both, 0.3, 0.5, 50), alone, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_boxes_far_outside_do_not_meet_another_class() -> None:
    boxes = torch.tensor([[-480.0, -480, 24, 24], [620.0, 620, 1120, 1120]])
    scores = torch.tensor([[0.1, 0.8], [0.9, 0.1]])
    ((_, _, labels, _),) = select(Predictions(boxes[None], scores[None]), 0.5, 0.7, 300)
    assert labels.tolist() == [0, 1]


def test_the_threshold_itself_counts() -> None:
    boxes, scores = torch.tensor([[0.0, 0, 9, 9], [20.0, 20, 29, 29]]), torch.tensor([[0.5], [0.49]])
    ((_, kept, _, _),) = select(Predictions(boxes[None], scores[None]), 0.5, 0.7, 300)
    assert kept.tolist() == [0.5]


def test_nothing_found_is_empty_not_an_error() -> None:
    ((boxes, scores, labels, _),) = select(Predictions(torch.rand(1, 9, 4), torch.zeros(1, 9, 3)), 0.5, 0.7, 300)
    assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))
    assert labels.dtype == torch.int64


def test_only_the_best_candidates_enter_nms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postprocess, "MAX_CANDIDATES", 40)
    predictions = random_predictions(3, 500, 3)
    ((_, scores, _, _),) = select(predictions, 0.001, 1.0, 300)
    assert torch.equal(scores, predictions.scores[0].amax(dim=1).sort(descending=True).values[:40])


def test_wanted_classes_are_not_crowded_out_by_others() -> None:
    predictions = random_predictions(4, 400, 3)
    wanted = torch.tensor([2])
    ((_, _, labels, _),) = select(predictions, 0.2, 0.7, 5, wanted)
    expected = brute_force(predictions.boxes[0], predictions.scores[0], 0.2, 0.7, 5, wanted=[2])
    assert labels.tolist() == [2] * len(expected) == [2] * 5


# Letterbox


@pytest.mark.parametrize("size", [(640, 480), (333, 500), (1, 1), (5000, 3), (96, 96)])
def test_letterbox_and_back_is_the_same_box(size: tuple[int, int]) -> None:
    letterbox = Letterbox(*size, 96, 96)
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(50, 2, 2, generator=generator).sort(dim=1).values.flatten(1)
    boxes = corners * torch.tensor(size * 2)
    there = letterbox.to_input(boxes)
    assert ((there >= 0) & (there <= 96)).all()
    assert torch.allclose(letterbox.to_original(there), boxes, atol=1e-4 * max(size))
    frame = letterbox.apply(np.zeros((size[1], size[0], 3), dtype=np.uint8))
    assert frame.shape == (96, 96, 3)
    assert {0} <= set(np.unique(frame).tolist()) <= {0, PAD_VALUE}


# Detector


def test_detections_are_sorted_and_inside_the_image(detector: Detector, files: list[Path]) -> None:
    for path in files:
        found = detector(path)
        height, width = read_image(path).shape[:2]
        assert len(found) > 10
        assert (found.scores.diff() <= 0).all()
        assert (found.scores >= 0.25).all()
        assert (found.boxes >= 0).all()
        assert (found.boxes <= torch.tensor([width, height] * 2)).all()
        assert (found.boxes[:, 2:] >= found.boxes[:, :2]).all()
        assert found.boxes.device.type == "cpu"


def test_one_image_and_a_list_give_the_same_bits(detector: Detector, files: list[Path]) -> None:
    alone = [detector(path) for path in files]
    together = detector(files)
    shuffled = detector(files[::-1])[::-1]
    assert all(same(a, b) and same(a, c) for a, b, c in zip(alone, together, shuffled, strict=True))
    assert not same(alone[0], alone[1])
    assert detector([]) == []


def test_frames_in_one_batch_give_the_same_bits(detector: Detector, files: list[Path]) -> None:
    images = [read_image(path) for path in files]
    boxes = [Letterbox(p.shape[1], p.shape[0], SIDE, SIDE) for p in images]
    inputs = torch.stack([torch.from_numpy(b.apply(p)) for b, p in zip(boxes, images, strict=True)])
    for order in (inputs.permute(0, 3, 1, 2), inputs.permute(0, 3, 1, 2).contiguous()):
        batch = detector.detect_inputs(list(order), boxes)
        assert all(same(a, detector(path)) for a, path in zip(batch, files, strict=True))


def test_every_kind_of_input_gives_the_same_boxes(detector: Detector, files: list[Path]) -> None:
    path = files[0]
    image = read_image(path)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    expected = detector(path)
    with Image.open(path) as opened:
        assert same(detector(opened), expected)
    for other in (str(path), image, tensor, tensor.float() / 255, tensor.double() / 255):
        assert same(detector(other), expected)
    reverse = np.ascontiguousarray(image[..., ::-1])
    assert not same(detector(reverse), expected)  # BGR is another image
    assert same(detector(reverse[..., ::-1]), expected)  # a view with negative strides


def test_files_in_memory_and_arrays_of_every_plain_shape(detector: Detector, files: list[Path]) -> None:
    content, rgb = files[0].read_bytes(), read_image(files[0])
    gray = rgb[..., :1]
    alike: list[tuple[Any, Any]] = [
        (io.BytesIO(content), rgb),
        (bytearray(content), rgb),
        (memoryview(content), rgb),
        (np.dstack([rgb, gray]), rgb),
        (rgb / 255, rgb),
        (gray, gray.repeat(3, axis=2)),
        (torch.from_numpy(gray).permute(2, 0, 1), gray.repeat(3, axis=2)),
        (
            torch.from_numpy(rgb / 255).permute(2, 0, 1).bfloat16(),
            (torch.from_numpy(rgb / 255).bfloat16().float() * 255),
        ),
    ]
    for image, expected in alike:
        assert np.array_equal(as_array(image), np.asarray(expected).round())
    with files[0].open("rb") as file:
        assert same(detector(file), detector(files[0]))
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.seek(0)
        assert same(detector(file), detector(files[0]))
    for batch in (rgb[None], torch.from_numpy(rgb).permute(2, 0, 1)[None], [bytearray(content)]):
        (found,) = detector(batch)
        assert same(found, detector(rgb))
        (found,) = TiledDetector(detector, 640, 0.2)(batch)
        assert same(found, detector(rgb))


def test_detections_are_a_sequence(detector: Detector, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    found = detector(files[0])
    assert len(found) > 3
    assert found[0].name == found.names[0]
    assert [one.score for one in found] == found.scores.tolist()
    assert found[-1].box == tuple(found.boxes[-1].tolist())
    with pytest.raises(IndexError):
        found[len(found)]
    mask = torch.arange(len(found)) < 2
    for first in (found[:2], found[[0, 1]], found[mask], found[mask.numpy()]):
        assert torch.equal(first.boxes, found.boxes[:2])
        assert first.names == found.names[:2]
        assert repr(first).splitlines()[0] == "2 detections:"
        assert f"{found[0].name} {found[0].score:.3f} (" in repr(first)
    one = found[:1]
    for same_one in (one[one.scores > 0], one[torch.tensor([0])], one[(one.scores > 0).numpy()]):
        assert torch.equal(same_one.boxes, one.boxes)
    assert len(one[one.scores < 0]) == 0
    assert repr(found[:0]) == "0 detections"
    assert found[found.scores.argmax()] == found[np.int64(0)] == found[0]
    assert found[::-1].names == found.names[::-1]
    assert "\x1b" not in repr(replace(found, categories=Categories((3, 7, 90), ("a\x1b[31m", "b\x1b", "c\u2028\x1b"))))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="pip install pandas"):
        found.to_pandas()
    stand_in: Any = ModuleType("pandas")
    stand_in.DataFrame = lambda rows, columns: [dict(zip(columns, row, strict=True)) for row in rows]
    monkeypatch.setitem(sys.modules, "pandas", stand_in)
    row: Any = found.to_pandas()[0]
    assert (row["name"], row["score"], row["y2"]) == (found[0].name, found[0].score, found[0].box[3])


def test_gray_images_are_the_same_as_file_and_array(detector: Detector, files: list[Path], tmp_path: Path) -> None:
    gray = cv2.cvtColor(read_image(files[0]), cv2.COLOR_RGB2GRAY)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    expected = detector(np.stack([gray] * 3, axis=2))
    assert same(detector(gray), expected)
    assert same(detector(tmp_path / "gray.png"), expected)
    assert same(detector(Image.fromarray(gray)), expected)


def test_exif_turns_a_file_and_a_pil_image(detector: Detector, files: list[Path], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(read_image(files[0]))
    stored.save(tmp_path / "turned.png", exif=exif)
    expected = detector(np.rot90(np.asarray(stored), k=-1))
    assert same(detector(tmp_path / "turned.png"), expected)
    with Image.open(tmp_path / "turned.png") as image:
        assert same(detector(image), expected)


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (np.full((8, 8, 3), 255.0), "outside 0..1"),
        (np.zeros((8, 8, 3), dtype=np.uint16), "type uint16"),
        (
            np.zeros((8, 8, 5), dtype=np.uint8),
            "shape (8, 8, 5); expected (height, width) or (height, width, bands) of 1, 3 or 4",
        ),
        (np.zeros((2, 8, 8), dtype=np.uint8), "shape (2, 8, 8)"),
        (np.zeros((3, 8, 8), dtype=np.uint8), "shape (3, 8, 8)"),
        (np.zeros((1, 1, 8, 8, 3), dtype=np.uint8), "shape (1, 1, 8, 8, 3)"),
        (np.zeros((0, 8, 3), dtype=np.uint8), "shape (0, 8, 3)"),
        (np.zeros((0, 8), dtype=np.uint8), "shape (0, 8, 1)"),
        (torch.zeros(8, 8, 3), "shape (8, 8, 3); expected (bands, height, width) of 1, 3 or 4 bands"),
        (torch.zeros(3, 0, 8), "shape (0, 8, 3)"),
        (torch.full((3, 8, 8), 255.0), "outside 0..1"),
        (torch.full((3, 8, 8), -0.1), "outside 0..1"),
        (torch.full((3, 8, 8), float("nan")), "outside 0..1"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "type int64"),
        (Image.new("RGB", (8, 0)), "shape (0, 8, 3)"),
        (Image.new("F", (8, 8)), "floating-point"),
        (str(Path(__file__).parent), "use detector.stream"),
        ("*.jpg", "use detector.stream"),
        ("camera:0", "use detector.stream"),
        ("film.mp4", "use detector.stream"),
        ("http://me:hush@127.0.0.1/a.jpg", "http://***@127.0.0.1/a.jpg: a Detector takes image files"),
        ("missing.jpg", "missing.jpg: this image does not exist"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(detector: Detector, image: Any, complaint: str) -> None:
    with pytest.raises(DetectorError) as caught:
        detector(image)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_with_too_many_pixels_is_refused_with_a_remedy(
    detector: Detector, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for image in (files[0], files[0].read_bytes()):
        with pytest.raises(DataError, match=r"more than 178 million pixels.*cut it into parts"):
            detector(image)


def test_a_pil_image_whose_file_is_cut_off_is_refused(detector: Detector, files: list[Path], tmp_path: Path) -> None:
    """Pillow opens it without complaint and reads it only when its pixels are asked for."""
    cut = tmp_path / "cut.jpg"
    Image.open(files[0]).convert("RGB").save(cut)
    cut.write_bytes(cut.read_bytes()[:-400])
    with Image.open(cut) as image, pytest.raises(DetectorError, match="a PIL image can't be used"):
        detector(image)


def test_detections_are_the_callers_to_change(detector: Detector, files: list[Path]) -> None:
    found = detector(files[0])
    found.boxes[:, 2:] -= found.boxes[:, :2]
    found.scores.mul_(2)


def test_the_fused_network_says_what_the_network_says(detector: Detector, model: DetectionModel) -> None:
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)).double()
    with torch.inference_mode():  # in float64, because these weights blow up rounding
        plain, fused = deepcopy(model).double()(images), fuse_conv_bn(deepcopy(model).double())(images)
        ours = deepcopy(detector.model).double()(images)
    assert torch.allclose(fused.boxes, plain.boxes, atol=1e-6)
    assert torch.allclose(fused.scores, plain.scores, atol=1e-6)
    assert torch.allclose(ours.scores, plain.scores, atol=1e-3)


def test_in_a_frame_of_the_image_s_own_size_boxes_are_the_network_s(model: DetectionModel) -> None:
    """Height and width are not mixed up: without letterbox the detections are what the network says of the pixels."""
    image = np.random.default_rng(0).integers(0, 255, (64, 160, 3), dtype=np.uint8)
    with torch.no_grad():
        raw = model.logits(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
    ((boxes, scores, _, _),) = select_logits(raw, 0.25, 0.7, 300)
    found = Detector(model, CATEGORIES, (64, 160), device="cpu")(image)
    assert len(found) == len(scores) > 3
    assert torch.allclose(found.scores, scores, atol=1e-4)
    limits = torch.tensor([160.0, 64.0, 160.0, 64.0])
    assert torch.allclose(found.boxes, boxes.clamp_min(0).minimum(limits), atol=1e-2)


def test_the_detector_takes_a_copy(model: DetectionModel) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    Detector(model, CATEGORIES, SIDE, device="cpu")(np.zeros((9, 9, 3), dtype=np.uint8))
    assert model.training
    model.eval()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_only_the_classes_asked_for(weights: Path, detector: Detector, files: list[Path]) -> None:
    some = Detector.load(weights, classes=["cow", "cat"], device="cpu")
    assert some.image_size == SIDE
    found, everything = some(files[0]), detector(files[0])
    assert {*found.names} == {"cow", "cat"}
    assert len(everything) < 300  # so none was crowded out
    assert found.scores.tolist() == [
        score for score, name in zip(everything.scores.tolist(), everything.names, strict=True) if name != "dog"
    ]
    with pytest.raises(ConfigError, match="no class 'horse'; the weights know cat, dog, cow"):
        Detector.load(weights, classes=["cat", "horse"])


@pytest.mark.parametrize(
    "setting",
    [
        {"image_size": 0},
        {"image_size": 100},
        {"image_size": (64, 100)},
        {"conf": 25.0},
        {"iou": -0.1},
        {"max_detections": 0},
        {"threads": 0},
    ],
)
def test_impossible_settings_are_refused(weights: Path, setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        Detector.load(weights, **setting)


def test_threads_of_overlapping_calls_end_as_they_began() -> None:
    before = torch.get_num_threads(), cv2.getNumThreads()
    first, second = limited_threads(before[1] + 1), limited_threads(before[1] + 2)
    with first:
        assert cv2.getNumThreads() == before[1] + 1
        second.__enter__()
        assert torch.get_num_threads() == cv2.getNumThreads() == before[1] + 2
    second.__exit__(None, None, None)  # after the first, as calls in two Python threads may end
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP")
def test_beside_other_programs_threads_wait_asleep_for_the_time_of_a_call(
    detector: Detector, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def tasks() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    cpus = os.cpu_count() or 1
    with limited_threads(
        cpus + 1
    ):  # at least 2, and more than there is room for: without effect on a quiet machine, too
        monkeypatch.setattr(thread_settings, "_threads_of_others", lambda: -cpus)
        alone = detector(files[0])
        before = tasks()
        with patient_threads():
            assert tasks() <= before
        monkeypatch.setattr(thread_settings, "_threads_of_others", lambda: cpus)
        with patient_threads():
            assert tasks() > before
            assert torch.get_num_threads() == cpus + 1
        beside = detector(files[0])
        deadline = time.monotonic() + 60  # OpenMP's threads end by themselves, soon after the thread that started them
        while tasks() > before:
            assert time.monotonic() < deadline
        assert torch.get_num_threads() == cpus + 1
    assert torch.equal(alone.boxes, beside.boxes)
    assert torch.equal(alone.scores, beside.scores)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_busy_process_is_noticed() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        deadline = time.monotonic() + 60
        while thread_settings._threads_of_others() < 1:
            assert time.monotonic() < deadline
    finally:
        busy.kill()
        busy.wait()


@pytest.mark.parametrize("value", [5, None, iter([]), io.StringIO("")], ids=["integer", "nothing", "iterator", "text"])
def test_what_is_no_image_is_refused(value: Any) -> None:
    with pytest.raises(
        DataError, match=r"unsupported image type .*; pass a path, bytes, a file open for reading bytes"
    ):
        as_array(value)


def test_a_file_open_for_text_is_refused(files: list[Path]) -> None:
    with (
        files[0].open() as file,
        pytest.raises(DataError, match=r"'TextIOWrapper'; pass .* a file open for reading bytes"),
    ):
        as_array(file)


def test_devices_by_name() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name, complaint in (("cuda:99", "is not there"), ("gpu", "is no device"), ("meta", "is not supported")):
        with pytest.raises(ConfigError, match=f"{name}.*{complaint}.*use auto"):
            resolve_device(name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_finds_what_the_cpu_finds(model: DetectionModel, detector: Detector, files: list[Path]) -> None:
    found, expected = Detector(model, CATEGORIES, SIDE, device="cuda")(files), detector(files)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours.scores[:5], theirs.scores[:5], atol=2e-2)


# infer


def test_coco_entries_are_rounded_as_decimal_numbers() -> None:
    """Drawn numbers, and sixteenths, which lie in the middle between two of three digits."""
    draws = np.random.default_rng(0)
    corners = np.concatenate([draws.uniform(-9, 9000, (2000, 4)), draws.integers(-99, 90_000, (2000, 4)) / 16])
    boxes = torch.from_numpy(corners.astype(np.float32))
    scores = torch.from_numpy(draws.uniform(0, 1, len(boxes)).astype(np.float32))
    found = Detections(boxes, scores, torch.zeros(len(boxes), dtype=torch.int64), CATEGORIES).to_coco(1)
    sides = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
    assert [each["bbox"] for each in found] == [[round(side, 3) for side in box] for box in sides]
    assert [each["score"] for each in found] == [round(score, 6) for score in scores.tolist()]


def run_infer(sources: list[str], weights: Path, out: Path, **settings: Any) -> tuple[int, list[dict[str, Any]]]:
    code = infer(InferConfig(sources=sources, weights=str(weights), out=str(out), device="cpu", **settings))
    return code, json.loads((out / "detections.json").read_text())


@pytest.mark.slow
def test_infer_writes_what_the_detector_finds(
    weights: Path, detector: Detector, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, entries = run_infer([str(files[0].parent)], weights, tmp_path / "out")
    assert code == 0
    expected = [
        {**entry, "file_name": str(path), "category_name": name}
        for image_id, path in enumerate(files, start=1)
        for found in [detector(path)]
        for entry, name in zip(found.to_coco(image_id), found.names, strict=True)
    ]
    assert entries == expected
    assert {entry["category_id"] for entry in entries} == set(CATEGORIES.ids)
    for path in files:
        assert read_image(tmp_path / "out" / path.name).shape == read_image(path).shape
    assert f"{len(files)} images: " in capsys.readouterr().out


def test_an_unreadable_image_is_named_and_left_out(
    weights: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.jpg").write_bytes(files[0].read_bytes()[:500])
    code, entries = run_infer([str(tmp_path / "broken.jpg"), str(files[0])], weights, tmp_path / "out")
    assert code == 1
    assert {(entry["image_id"], entry["file_name"]) for entry in entries} == {(2, str(files[0]))}
    assert "broken.jpg" in capsys.readouterr().err
    with pytest.raises(DataError, match="none of the 1 images"):
        run_infer([str(tmp_path / "broken.jpg")], weights, tmp_path / "out")


def test_infer_shows_only_the_classes_asked_for(weights: Path, files: list[Path], tmp_path: Path) -> None:
    _, entries = run_infer([str(files[0])], weights, tmp_path, classes="dog, cow", conf=0.5)
    assert {entry["category_name"] for entry in entries} == {"dog", "cow"}
    assert min(entry["score"] for entry in entries) >= 0.5
    with pytest.raises(ConfigError, match="no class 'sheep'"):
        run_infer([str(files[0])], weights, tmp_path, classes="sheep")


def test_infer_takes_the_ids_of_an_annotation_file(weights: Path, files: list[Path], tmp_path: Path) -> None:
    """The classes of the weights have other ids there; `same/x.jpg` and `x.jpg` are told apart by the end of the path."""
    (tmp_path / "same").mkdir()
    paths = [tmp_path / "same" / "x.jpg", tmp_path / "x.jpg", tmp_path / "y.jpg"]
    for path, file in zip(paths, files, strict=False):
        path.write_bytes(file.read_bytes())
    size = {"width": 9, "height": 9}
    content = {
        "images": [
            {"id": i, "file_name": name, **size} for i, name in ((70, "x.jpg"), (7, "./same/x.jpg"), (9, "z.jpg"))
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CATEGORIES.names)],
        "annotations": [],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    found = []
    for annotations in (None, str(tmp_path / "a.json")):
        sources = [str(path) for path in paths[:2]]
        config = InferConfig(sources=sources, weights=str(weights), out=str(tmp_path / "out"), annotations=annotations)
        assert infer(config) == 0
        found.append(json.loads((tmp_path / "out" / "detections.json").read_text()))
    ids, own = {1: 7, 2: 70}, dict(zip(CATEGORIES.ids, range(3), strict=True))
    assert {entry["image_id"] for entry in found[1]} == {7, 70}
    changed = [{**e, "image_id": ids[e["image_id"]], "category_id": own[e["category_id"]]} for e in found[0]]
    assert found[1] == changed
    for sources in ([paths[2]], [paths[1], files[0].parent / ".." / "val" / "x.jpg"], [tmp_path / "v.mp4"]):
        for source in sources:
            if not source.exists():
                source.write_bytes(files[0].read_bytes())
        with pytest.raises(DataError, match=r"--annotations: .* is no image of .*a\.json"):
            infer(replace(config, sources=[str(source) for source in sources]))


def test_infer_does_not_overwrite_the_images(weights: Path, files: list[Path], tmp_path: Path) -> None:
    image = tmp_path / "a.jpg"
    image.write_bytes(files[0].read_bytes())
    with pytest.raises(ConfigError, match=r"a\.jpg would take the place of .*a\.jpg, which is read"):
        run_infer([str(image)], weights, tmp_path)
    assert image.read_bytes() == files[0].read_bytes()


def test_equal_names_do_not_meet(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a/1.jpg", "b/1.jpg", "b/2.JPEG", "c.webp", "c.webp.png", "c.png")]
    names = output_names([Source(str(file), "image") for file in files])
    assert [str(name) for name in names[:3]] == ["a/1.jpg", "b/1.jpg", "b/2.JPEG"]
    assert [str(name) for name in names[3:]] == ["c.webp.png", "c.webp_.png", "c.png"]


def test_infer_keeps_apart_images_of_one_name(weights: Path, files: list[Path], tmp_path: Path) -> None:
    for folder, source in zip(("a", "b"), files, strict=False):
        (tmp_path / "in" / folder).mkdir(parents=True)
        Image.fromarray(read_image(source)).save(tmp_path / "in" / folder / "1.webp")
    run_infer([str(tmp_path / "in")], weights, tmp_path / "out")
    written = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert written == ["a/1.webp.png", "b/1.webp.png", "detections.json"]


@pytest.mark.parametrize("made_by", ["parent", "child"])
def test_a_forked_child_answers(made_by: str, model: DetectionModel, weights: Path) -> None:
    """Though the threads that its parent has computed with are not there."""
    detector = Detector(model, CATEGORIES, SIDE, device="cpu", threads=2)
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    detector(image)

    def answer() -> None:
        own = detector if made_by == "parent" else Detector.load(weights, device="cpu", threads=2)
        own(image)
        tasks = len(list(Path("/proc/self/task").iterdir())) if sys.platform == "linux" else 0
        torch.set_num_threads((os.cpu_count() or 1) + 1)  # no room for them: without a fork, threads would be added
        with patient_threads():
            assert sys.platform != "linux" or len(list(Path("/proc/self/task").iterdir())) == tasks

    with limited_threads(2):
        torch.zeros(2**20).add_(1)  # by two threads
        process = multiprocessing.get_context("fork").Process(target=answer)
        process.start()
    process.join(60)
    ended = process.exitcode
    process.kill()
    assert ended == 0
