"""Exported files say what the model says, in other runtimes, and a file that does not is not left."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import stand_in_tensorrt
import torch
from lively_model import calmed, lively_model
from narrow_yolov9 import narrow_model

import detector.formats.onnx.export as onnx_module
from detector.config import ExportConfig
from detector.data.coco import CocoDataset
from detector.data.layouts import find_split
from detector.demo.scenes import make_dataset
from detector.errors import ConfigError, DataError, ExportMismatchError, WeightsError
from detector.evaluation.evaluate import evaluate_model
from detector.exporting.export import export
from detector.exporting.verify import Comparison, differences, shipped_photos
from detector.formats.graphs import LogitsGraph
from detector.formats.onnx import stages as onnx_stages
from detector.formats.openvino.runtime import core
from detector.formats.table import FORMATS
from detector.formats.torch_native import runtime as torch_runtime
from detector.images.input_size import InputSize
from detector.images.letterbox import Letterbox
from detector.images.read import read_image
from detector.inference.attention.maps import attention_maps
from detector.inference.detector import Detector
from detector.models.base import DetectionModel
from detector.structures import Categories, Detections
from detector.weights.files import WeightsInfo, load_weights, save_weights

EXAMPLES = Path(__file__).parents[1] / "examples"
SIDE = 128
NAMES = ("a", "b", "c", "d", "ç")
CATEGORIES = Categories((3, 7, 20, 21, 90), NAMES)
KINDS: dict[str, dict[str, Any]] = {
    "onnx": {"format": "onnx"},
    "batched": {"format": "onnx", "batched": True},
    "dynamic": {"format": "onnx", "batched": True, "dynamic": True},
    "raw": {"format": "onnx", "raw": True},
    "raw-dynamic": {"format": "onnx", "raw": True, "dynamic": True},
    "openvino": {"format": "openvino"},
    "torchscript": {"format": "torchscript"},
    "torch_export": {"format": "torch_export"},
}


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_shape_checks_in_module")]


@pytest.fixture(scope="module")
def model() -> DetectionModel:
    return calmed(lively_model(5))


@pytest.fixture(scope="module")
def weights(model: DetectionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "lively.safetensors"
    info = WeightsInfo("yolo11n", CATEGORIES, SIDE, {}, {}, "CC0")
    save_weights(path, model, info)
    return path


class Files(dict[str, Path]):
    """A file of each kind that can be made here; made when first asked for, as each takes seconds."""

    def __init__(self, weights: Path, folder: Path) -> None:
        self.weights = weights
        self.folder = folder

    def __missing__(self, kind: str) -> Path:
        options = KINDS[kind]
        path = self.folder / f"{kind}{FORMATS[options['format']].suffix}"
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            comparison = export(ExportConfig(weights=str(self.weights), out=str(path), **options))
        assert comparison.passes()
        assert comparison.file_detections == comparison.model_detections > 20
        report = json.loads((self.folder / f"{path.name}.json").read_text())
        assert report["passes"]
        assert report["box_difference"] == comparison.box_difference <= 0.5
        self[kind] = path
        return path


@pytest.fixture(scope="module")
def files(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(weights, tmp_path_factory.mktemp("files"))


def photographs() -> list[np.ndarray]:
    """Three, one of them also gray, as a strip, tiny, and very tall."""
    images = [read_image(path) for path in shipped_photos()]
    first = images[0]
    return [*images, first[..., 0], first[100:103], first[:1, :1], np.repeat(first[:, 100:117], 10, axis=0)]


def require_same(got: Detections, expected: Detections) -> None:
    """Each detection has its partner of the same label, the box within 0.5 px and the score within 1e-3."""
    boxes, scores, alone = differences(expected, got, 0.0)
    assert len(got) == len(expected)
    assert alone == 0
    assert (boxes.abs() <= 0.5).all()
    assert (scores.abs() <= 1e-3).all()


@pytest.mark.parametrize("kind", [*KINDS, "published"])
def test_every_file_finds_what_the_model_finds(kind: str, files: Files, weights: Path, tmp_path: Path) -> None:
    if kind == "published":
        export(
            ExportConfig(weights=str(weights), out=str(tmp_path / "state.pt"), format="published")
        )  # compares it, too
        return
    for options in ({}, {"conf": 0.4, "iou": 0.5, "max_detections": 7}, {"classes": ["a", "ç"], "max_detections": 9}):
        model = Detector.load(weights, device="cpu", **options)
        file = Detector.load(files[kind], device="cpu", **options)
        assert file.categories == model.categories
        assert file.image_size == model.image_size == SIDE
        found = [(file(image), model(image)) for image in photographs()]
        assert sum(len(expected) for _, expected in found) > 20
        for got, expected in found:
            require_same(got, expected)


@pytest.mark.parametrize("kind", ["batched", "dynamic", "raw-dynamic", "torchscript", "torch_export"])
def test_files_that_take_batches_find_the_same_in_them(kind: str, files: Files, weights: Path) -> None:
    file, model = Detector.load(files[kind], device="cpu"), Detector.load(weights, device="cpu")
    file.batch = 4
    images = photographs()
    for got, image in zip(file(images), images, strict=True):
        require_same(got, model(image))


@pytest.mark.parametrize("kind", ["dynamic", "raw-dynamic", "torchscript", "torch_export"])
def test_files_of_open_sizes_find_the_same_at_others(kind: str, files: Files, weights: Path) -> None:
    for size in [(64, 160), 192]:
        file, model = (Detector.load(path, image_size=size, device="cpu") for path in (files[kind], weights))
        require_same(file(photographs()[1]), model(photographs()[1]))


@pytest.mark.parametrize("kind", ["onnx", "batched", "raw", "openvino"])
def test_files_of_one_size_say_so(kind: str, files: Files) -> None:
    with pytest.raises(ConfigError, match="leave image_size out"):
        Detector.load(files[kind], image_size=192, device="cpu")


def test_an_image_file_of_a_rectangle(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "wide.onnx"
    export(ExportConfig(weights=str(weights), out=str(path), image_size=(64, 160)))
    assert Detector.load(path).image_size == (64, 160)


def test_an_exported_file_has_no_inside_to_show(files: Files) -> None:
    with pytest.raises(ConfigError, match=r"give best\.safetensors"):
        attention_maps(Detector.load(files["onnx"]), photographs()[0])


def test_evaluate_takes_exported_files(files: Files, weights: Path, tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", seed=3, train=3, val=6, test=3)
    images = CocoDataset.load(find_split(tmp_path / "data", "val"))
    figures = []
    for path in (weights, files["onnx"], files["batched"], files["openvino"]):
        detector = Detector.load(path, conf=0.01, device="cpu")
        detector.categories = images.categories
        figures.append(evaluate_model(detector, images, workers=0))
    counts = [sum(len(each) for each in one.detections.values()) for one in figures]
    assert min(counts) == max(counts) > 50
    for one in figures[1:]:
        assert one.metrics["AP"] == pytest.approx(figures[0].metrics["AP"], abs=1e-3)


@pytest.mark.parametrize("kind", ["raw", "openvino", "torchscript", "torch_export"])
@pytest.mark.parametrize("names", [4, 6])
def test_names_of_another_number_than_the_network_scores_are_refused(
    kind: str, names: int, model: DetectionModel, tmp_path: Path
) -> None:
    path = tmp_path / f"file{FORMATS[KINDS[kind]['format']].suffix}"
    info = WeightsInfo("yolo11n", Categories(tuple(range(names)), tuple("abcdef"[:names])), SIDE, {}, {}, "CC0")
    config = ExportConfig(weights="", out=str(path), **KINDS[kind])
    FORMATS[config.format].write(path, model, info, config, None)
    with pytest.raises(
        WeightsError, match=rf"file\.\w+: its metadata name {names} classes, its network scores 5; export"
    ):
        Detector.load(path, device="cpu")


@pytest.mark.parametrize("kind", ["onnx", "batched"])
def test_classes_beyond_the_names_are_refused_where_nms_is_inside(kind: str, files: Files, tmp_path: Path) -> None:
    file = onnx.load(files[kind])
    for entry in file.metadata_props:
        if entry.key in ("class_names", "category_ids"):
            entry.value = json.dumps(json.loads(entry.value)[:2])
    onnx.save(file, tmp_path / "file.onnx")
    with pytest.raises(
        WeightsError, match=r"detects the class [234], but its metadata name 2 classes; export it again"
    ):
        Detector.load(tmp_path / "file.onnx", device="cpu")(photographs()[0])


@pytest.mark.parametrize("image", [path.name for path in shipped_photos()])
def test_the_python_example_finds_the_same(files: Files, weights: Path, image: str, tmp_path: Path) -> None:
    """And ONNX Runtime keeps no records of its use."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    home = kept | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    path = next(path for path in shipped_photos() if path.name == image)
    command = [sys.executable, "-I", str(EXAMPLES / "detect.py"), str(files["onnx"]), str(path), "0.4"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, env=home).stdout.splitlines()
    assert list(tmp_path.iterdir()) == []
    found = Detector.load(weights, conf=0.4, device="cpu")(path)
    assert len(lines) == len(found) > 0
    for line, name, box, score in zip(map(json.loads, lines), found.names, found.boxes, found.scores, strict=True):
        assert line["class"] == name
        assert line["score"] == pytest.approx(score.item(), abs=1e-3)
        assert line["box"] == pytest.approx(box.tolist(), abs=0.5)


@pytest.mark.skipif(
    shutil.which("node") is None or not (EXAMPLES / "node_modules/.package-lock.json").exists(),
    reason="needs node, and npm's packages",
)
def test_the_javascript_example_finds_the_same(files: Files, weights: Path) -> None:
    """In the pixels that its own JPEG decoder makes."""
    image = shipped_photos()[0]
    command = ["node", str(EXAMPLES / "detect.mjs"), str(files["onnx"]), str(image)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    rows = torch.tensor([json.loads(line) for line in lines])
    decode = (
        "const { data } = require('jpeg-js').decode(require('fs').readFileSync(process.argv[1]),"
        " { useTArray: true, formatAsRGBA: false }); process.stdout.write(data)"
    )
    pixels = subprocess.run(["node", "-e", decode, str(image)], check=True, capture_output=True, cwd=EXAMPLES).stdout
    decoded = np.frombuffer(pixels, np.uint8).reshape(read_image(image).shape)
    expected = Detector.load(weights, device="cpu")(decoded)
    require_same(Detections(rows[:, :4], rows[:, 4], rows[:, 5].long(), CATEGORIES), expected)
    assert len(expected) > 5


FORKED = """
import os, signal, sys
import numpy as np
from detector import Detector
from detector.errors import ConfigError
image = np.zeros((64, 64, 3), np.uint8)
made = Detector.load(sys.argv[1], device="cpu", threads=2)
made(image)
if os.fork() == 0:
    signal.alarm(60)
    try:
        made(image)
    except ConfigError as error:
        print(error)
    del made
    Detector.load(sys.argv[1], device="cpu", threads=2)(image)
    sys.exit()
sys.exit(os.wait()[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["onnx", "openvino", "torchscript", "torch_export"])
def test_a_forked_child_answers_or_is_told_to_load_itself(kind: str, files: Files) -> None:
    """And ends in a minute, though it holds what only its parent can end."""
    command = [sys.executable, "-W", "ignore", "-c", FORKED, str(files[kind])]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    expected = "loaded before the process was forked" if kind in ("onnx", "openvino") else ""
    assert expected in done.stdout
    assert bool(done.stdout) == bool(expected)


@pytest.mark.parametrize("kind", ["onnx", "batched", "torchscript"])
def test_files_use_the_confidences_of_the_weights(kind: str, model: DetectionModel, tmp_path: Path) -> None:
    """In `Detector`, and those with NMS inside also in other programs. Each lies far from the scores of its class."""
    image, weights = photographs()[0], tmp_path / "w.safetensors"
    every = Detector(model, CATEGORIES, SIDE, conf=0.02, max_detections=3000, device="cpu")(image)
    confidences: list[float | None] = [None]
    for label in range(1, len(CATEGORIES)):
        scores = every.scores[every.labels == label].sort().values.double()
        gap = int(scores.diff().argmax())
        confidences.append(round(float(scores[gap : gap + 2].mean()), 3))
    info = WeightsInfo("yolo11n", CATEGORIES, SIDE, {}, {}, "CC0", thresholds=tuple(confidences))
    save_weights(weights, model, info)
    path = tmp_path / f"file{FORMATS[KINDS[kind]['format']].suffix}"
    assert export(ExportConfig(weights=str(weights), out=str(path), **KINDS[kind])).passes()
    expected = {conf: Detector.load(weights, conf=conf, device="cpu")(image) for conf in (None, 0.25)}
    assert len(expected[None]) != len(expected[0.25]) > 3
    for conf, found in expected.items():
        require_same(Detector.load(path, conf=conf, device="cpu")(image), found)
        if kind == "onnx":
            feeds = {"image": image} | ({} if conf is None else {"conf": np.array(conf, np.float32)})
            boxes, scores, labels, _ = onnxruntime.InferenceSession(str(path)).run(None, feeds)
            require_same(Detections(*map(torch.from_numpy, (boxes, scores, labels)), CATEGORIES), found)
    if kind != "torchscript":
        metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        assert metadata["conf"] == "-1.0"
        assert json.loads(metadata["thresholds"]) == confidences


@pytest.mark.parametrize("format", ["onnx", "torchscript", "safetensors"])
def test_yolov9_is_exported_as_yolo11_is(format: str, tmp_path: Path) -> None:
    """The comparison that `export` makes itself."""
    weights = tmp_path / "yolov9t.safetensors"
    info = WeightsInfo("yolov9t", CATEGORIES, 64, {}, {}, "CC0")
    save_weights(weights, calmed(lively_model(5, "yolov9t")), info)
    out = tmp_path / f"file{FORMATS[format].suffix}"
    comparison = export(ExportConfig(weights=str(weights), out=str(out), format=format))
    assert comparison.file_detections == comparison.model_detections > 3


def test_composite_backbones_take_other_batches_and_sizes(tmp_path: Path) -> None:
    """yolov9e resizes slices to sizes that are known only when the file runs."""
    model = calmed(narrow_model("e", 5).eval())
    info = WeightsInfo("yolov9e", CATEGORIES, 64, {}, {}, "CC0")
    config = ExportConfig(weights="", out="file.onnx", dynamic=True, batched=True)
    FORMATS["onnx"].write(tmp_path / "file.onnx", model, info, config, None)
    for size in [64, (32, 96)]:
        file = Detector.load(tmp_path / "file.onnx", image_size=size, device="cpu")
        require_same(file(photographs()[0]), Detector(model, CATEGORIES, size, device="cpu")(photographs()[0]))


def change_a_weight(model: DetectionModel) -> None:
    with torch.no_grad():
        model.head.class_branches[0][-1].bias += 1.0


def spoil(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Have the exporter make a mistake."""
    if how == "a weight":
        original = LogitsGraph.__init__

        def spoiled(self: LogitsGraph, model: DetectionModel) -> None:
            original(self, model)
            change_a_weight(self.model)

        monkeypatch.setattr(LogitsGraph, "__init__", spoiled)
    elif how == "the IoU of NMS":  # fixed in the graph, whatever is asked for
        stage_of = onnx_stages.detections_stage

        def fixed(*arguments: Any, **defaults: Any) -> onnx.ModelProto:
            stage = stage_of(*arguments, **defaults)
            (node,) = (node for node in stage.graph.node if node.op_type == "NonMaxSuppression")
            stage.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.5, np.float32), "another_iou"))
            node.input[3] = "another_iou"
            return stage

        monkeypatch.setattr(onnx_module, "detections_stage", fixed)
    elif how == "a default":
        stage_of = onnx_stages.detections_stage
        monkeypatch.setattr(
            onnx_module, "detections_stage", lambda n, **defaults: stage_of(n, **defaults | {"iou": 0.1})
        )
    elif how == "the names":
        save = onnx_module.save_model

        def save_others(file: onnx.ModelProto, path: Path) -> None:
            (names,) = (entry for entry in file.metadata_props if entry.key == "class_names")
            names.value = json.dumps(NAMES[::-1])
            save(file, path)

        monkeypatch.setattr(onnx_module, "save_model", save_others)
    else:
        original_stage = onnx_stages.image_stage

        def blue_first(frame: InputSize) -> onnx.ModelProto:
            stage = original_stage(frame)
            nodes = list(stage.graph.node)
            position, last = next((i, node) for i, node in enumerate(nodes) if node.output[0] == "images")
            last.output[0] = "rgb"
            stage.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 1, 0]), "bgr"))
            nodes.insert(position + 1, onnx.helper.make_node("Gather", ["rgb", "bgr"], ["images"], axis=1))
            del stage.graph.node[:]
            stage.graph.node.extend(nodes)
            return stage

        monkeypatch.setattr(onnx_module, "image_stage", blue_first)


@pytest.mark.parametrize("how", ["a weight", "the IoU of NMS", "BGR", "a default", "the names"])
def test_a_spoiled_file_is_refused_and_not_left(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    spoil(monkeypatch, how)
    out = tmp_path / "file.onnx"
    out.write_text("an older export")
    with pytest.raises(ExportMismatchError, match="was not written: on 6 images"):
        export(ExportConfig(weights=str(weights), out=str(out)))
    assert out.read_text() == "an older export"
    assert list(tmp_path.iterdir()) == [out]
    assert ExportMismatchError.exit_code == 1


def test_by_force_a_spoiled_file_is_left_with_its_figures(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, "a weight")
    out = tmp_path / "file.onnx"
    comparison = export(ExportConfig(weights=str(weights), out=str(out), force=True))
    assert not comparison.passes()
    assert not json.loads((tmp_path / "file.onnx.json").read_text())["passes"]
    assert Detector.load(out).categories == CATEGORIES


def test_shipped_weights_find_enough_in_the_shipped_images_to_tell_a_spoiled_nms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They show no blood cells; at 0.25 no two boxes touch."""
    spoil(monkeypatch, "the IoU of NMS")
    with pytest.raises(ExportMismatchError, match="was not written: on 6 images"):
        export(ExportConfig(weights="yolo11n-bccd", out=str(tmp_path / "file.onnx")))


def test_what_counts_as_a_difference() -> None:
    def found(*rows: tuple[float, float, float, int]) -> Detections:
        boxes = torch.tensor([[x, x, x + side, x + side] for x, side, _, _ in rows]).reshape(-1, 4)
        scores, labels = torch.tensor([row[2] for row in rows]), torch.tensor([row[3] for row in rows]).long()
        return Detections(boxes, scores, labels, CATEGORIES)

    one = found((0, 10, 0.9, 0), (50, 10, 0.3, 1))
    boxes, scores, alone = differences(one, found((50, 10, 0.4, 1), (1, 10, 0.9, 0)), 0.0)
    assert boxes.abs().max() == 1
    assert scores.abs().max() == pytest.approx(0.1)
    assert alone == 0
    assert differences(one, found((0, 10, 0.9, 0)), 0.2)[2] == 1
    assert differences(one, found((0, 10, 0.9, 0)), 0.31)[2] == 0  # so near the threshold that it may be missed
    assert differences(one, found((0, 10, 0.9, 1), (50, 10, 0.3, 1)), 0.0)[2] == 2  # another label, on both sides
    assert differences(found(), one, 0.0)[2] == 2
    assert differences(one, found((0, 10, float("nan"), 0), (50, 10, 0.3, 1)), 0.0)[1].isnan().any()
    passing = Comparison(1, 0.25, 0.0, 0.0, 3, 3, 0)
    assert passing.passes()
    assert not replace(passing, model_detections=0).passes()
    assert not replace(passing, box_difference=float("nan")).passes()
    assert not replace(passing, unmatched=1).passes()
    assert not replace(passing, problems=("another default",)).passes()
    assert replace(passing, tolerance=None, ap=0.5, file_ap=0.491).passes()
    assert not replace(passing, tolerance=None, ap=0.5, file_ap=0.489).passes()
    for ap, file_ap in ((0.01, 0.01), (0.0, 0.0), (None, None)):  # a dead file would do as well
        blind = replace(passing, tolerance=None, ap=ap, file_ap=file_ap)
        assert not blind.passes()
        assert "give --data whose objects the model finds" in str(blind)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"out": "file"}, "ends in .onnx"),
        ({"out": "a.xml", "format": "openvino", "raw": True}, "format onnx"),
        ({"out": "a.onnx", "raw": True, "batched": True}, "either"),
        ({"out": "a.onnx", "dynamic": True}, "batched or raw"),
        ({"out": "a.onnx", "precision": "float16"}, "float32 or int8"),
        ({"out": "a.onnx", "precision": "int8"}, "calibrate"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        ExportConfig(weights="w", **options)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dynamic"])
def test_a_damaged_file_is_told(
    kind: str, files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / files[kind].name
    path.write_bytes(files[kind].read_bytes()[:1000])
    capfd.readouterr()
    caplog.clear()
    for _ in ("cut", "junk"):
        with pytest.raises(WeightsError, match=path.name):
            Detector.load(path)
        path.write_bytes(b"\x80hello\n" * 1000)
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []
    with pytest.raises(WeightsError, match="no such file"):
        Detector.load(tmp_path / f"none{path.suffix}")


@pytest.mark.parametrize("kind", ["openvino", "torchscript", "batched"])
def test_threads_may_share_a_detector(kind: str, files: Files) -> None:
    detector, images = Detector.load(files[kind], device="cpu"), photographs()
    alone = detector(images)
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(detector, images * 10))
    for one, other in zip(alone * 10, together, strict=True):
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.scores, other.scores)


def test_no_more_images_at_a_time_than_the_file_takes(files: Files) -> None:
    for kind, most in (("onnx", 1), ("raw", 1), ("openvino", 1), ("batched", None)):
        detector = Detector.load(files[kind], device="cpu")
        for wrong in (0, 4) if most else (0,):
            with pytest.raises(ConfigError, match=f"batch: invalid value {wrong}"):
                detector.batch = wrong
        detector.batch = most or 4
        assert len(detector(photographs())) == len(photographs())


def test_a_suffix_in_capitals_is_known(files: Files, tmp_path: Path) -> None:
    path = Path(shutil.copy(files["batched"], tmp_path / "A.ONNX"))
    assert len(Detector.load(path)(photographs()[0])) > 0


def test_an_image_that_cannot_be_written_to_is_taken_without_a_word(files: Files) -> None:
    image = photographs()[0]
    image.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(Detector.load(files["onnx"])(image)) > 0


def test_a_model_that_finds_nothing_is_told(tmp_path: Path) -> None:
    model, info = load_weights("yolo11n-bccd")
    with torch.no_grad():
        for branch in model.head.class_branches:
            branch[-1].bias -= 25
    path = tmp_path / "silent.safetensors"
    save_weights(path, model, info)
    with pytest.raises(ExportMismatchError, match="nothing to judge the file by: train longer, or give --data"):
        export(ExportConfig(weights=str(path), out=str(tmp_path / "a.torchscript"), format="torchscript"))


def test_images_that_cannot_be_read_are_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    make_dataset(data, train=3, val=3, test=3)
    categories = CocoDataset.load(find_split(data, "val")).categories
    path = tmp_path / "w.safetensors"
    model = calmed(lively_model(len(categories)))
    save_weights(path, model, WeightsInfo("yolo11n", categories, SIDE, {}, {}, "CC0"))
    settings = ExportConfig(
        weights=str(path), out=str(tmp_path / "a.torchscript"), format="torchscript", data=str(data)
    )
    first, *others = sorted((data / "val").glob("*.jpg"))
    first.write_bytes(first.read_bytes()[:500])
    assert export(settings).images == 2 + 3
    captured = capsys.readouterr()
    assert f"skipped: {first}: this image can't be read" in captured.err
    assert "skipped in the AP: 1 of 3 images" in captured.out
    for other in others:
        other.write_bytes(b"")
    with pytest.raises(DataError, match="none of its 3 images can be read"):
        export(settings)


@pytest.mark.parametrize("name", ["x", "images", "frames", "image"])
def test_a_file_of_another_program_is_told(name: str, tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", [name], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value], [other])
    onnx.save(onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 20)]), path)
    with pytest.raises(WeightsError, match="export the weights"):
        Detector.load(path)


def test_bfloat16_is_computed_in_where_the_processor_can(files: Files, tmp_path: Path) -> None:
    weights, path = tmp_path / "w.safetensors", tmp_path / "brief.xml"
    with pytest.raises(ConfigError, match=r"needs --data DIR"):
        ExportConfig(weights=str(weights), out=str(path), format="openvino", precision="bfloat16")
    make_dataset(tmp_path / "data", train=3, val=3, test=3)
    categories = CocoDataset.load(find_split(tmp_path / "data", "val")).categories
    model = calmed(lively_model(len(categories)))
    save_weights(weights, model, WeightsInfo("yolo11n", categories, SIDE, {}, {}, "CC0"))
    settings = {"format": "openvino", "precision": "bfloat16", "data": str(tmp_path / "data")}
    with pytest.raises(ExportMismatchError, match=r"AP 0\.0000 and 0\.0000; too little to judge the file by"):
        export(ExportConfig(weights=str(weights), out=str(path), **settings))
    comparison = export(ExportConfig(weights=str(weights), out=str(path), force=True, **settings))
    assert comparison.file_detections > 0
    used = [
        Detector.load(file).runtime.request.get_compiled_model().get_property("INFERENCE_PRECISION_HINT")
        for file in (files["openvino"], path)
    ]
    able = "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") and "ONEDNN_MAX_CPU_ISA" not in os.environ
    assert used[0] == openvino.Type.f32
    assert used[1] == openvino.Type.bf16 if able else used[1] in (openvino.Type.f32, openvino.Type.bf16)


def test_tensorrt_is_named_where_it_is_missing(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ConfigError, match="pip install tensorrt"):
        export(ExportConfig(weights=str(weights), out=str(tmp_path / "a.engine"), format="tensorrt"))
    (tmp_path / "b.engine").write_bytes(b"engine")
    with pytest.raises(ConfigError, match="pip install tensorrt"):
        Detector.load(tmp_path / "b.engine")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("detector.formats.tensorrt.export", "detector.formats.tensorrt.runtime"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt", types.ModuleType("tensorrt"))
    with pytest.raises(ConfigError, match="there is none here"):
        export(ExportConfig(weights=str(weights), out=str(tmp_path / "a.engine"), format="tensorrt"))
    with pytest.raises(ConfigError, match="there is none here"):
        Detector.load(tmp_path / "b.engine")
    for name in ("detector.formats.tensorrt.export", "detector.formats.tensorrt.runtime"):
        del sys.modules[name]
    assert [path.name for path in tmp_path.iterdir()] == ["b.engine"]


@pytest.fixture
def tensorrt_stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package's place taken by ONNX Runtime, the card's by the CPU."""
    names = ("detector.formats.tensorrt.export", "detector.formats.tensorrt.runtime")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in_tensorrt)
    exporting, runtime = map(importlib.import_module, names)
    torch_with_card = types.SimpleNamespace(cuda=types.SimpleNamespace(is_available=lambda: True))
    monkeypatch.setattr(exporting, "torch", torch_with_card)
    monkeypatch.setattr(runtime, "gpu_device", lambda *_: torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: types.SimpleNamespace(cuda_stream=0))
    yield
    for name in names:
        del sys.modules[name]


@pytest.mark.usefixtures("tensorrt_stand_in")
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_all_around_a_tensorrt_engine_works(tmp_path: Path, precision: str) -> None:
    """With a stand-in for the package: what TensorRT itself does with the network this can't tell."""
    path = tmp_path / "a.engine"
    settings = ExportConfig(weights="yolo11n-bccd", out=str(path), format="tensorrt", precision=precision)
    comparison = export(settings)
    assert comparison.passes()
    assert comparison.file_detections > 100
    assert comparison.box_difference < (0.01 if precision == "float32" else 0.3)
    eager, engine = Detector.load("yolo11n-bccd", device="cpu"), Detector.load(path)
    assert engine.categories == eager.categories
    assert [len(found) for found in engine(photographs())] == [len(found) for found in eager(photographs())]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match="no engine for this GPU"):
        Detector.load(path)


@pytest.mark.usefixtures("tensorrt_stand_in")
def test_a_tensorrt_engine_of_another_network_is_refused(
    weights: Path, model: DetectionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled = deepcopy(model)
    with torch.no_grad():
        spoiled.head.box_branches[0][-1].bias[0] += 2
    module = importlib.import_module("detector.formats.tensorrt.export")
    uint8_network = module.uint8_network
    monkeypatch.setattr(module, "uint8_network", lambda _, *rest: uint8_network(spoiled, *rest))
    with pytest.raises(ExportMismatchError, match="was not written"):
        export(ExportConfig(weights=str(weights), out=str(tmp_path / "a.engine"), format="tensorrt"))
    assert list(tmp_path.iterdir()) == []


def test_half_precision_for_gpus_has_layers_of_it_and_boxes_in_float(model: DetectionModel) -> None:
    """What TensorRT builds from; ONNX Runtime runs it, too."""
    info = WeightsInfo("yolo11n", CATEGORIES, SIDE, {}, {}, "CC0")
    frame = Letterbox(384, 384, SIDE, SIDE).apply(photographs()[0])[None]
    found = []
    for half in (False, True):
        graph = onnx_module.uint8_network(model, info, half)
        kinds = {weight.data_type for weight in graph.graph.initializer if len(weight.dims) == 4}
        assert kinds == {onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT}
        found.append(onnxruntime.InferenceSession(graph.SerializeToString()).run(None, {"images_uint8": frame}))
    (boxes, scores), (half_boxes, half_scores) = found
    assert half_boxes.dtype == half_scores.dtype == np.float32
    assert 0 < np.abs(boxes - half_boxes).max() < 2
    assert 0 < np.abs(scores - half_scores).max() < 0.05


def test_torch_files_go_to_another_device_with_all_that_is_in_them(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU: torch's meta device refuses tensors of the CPU as a GPU does; TorchScript files can't be loaded to it."""
    monkeypatch.setattr(torch_runtime, "resolve_device", torch.device)
    runtime, _ = torch_runtime.load_exported(files["torch_export"], "meta", None)
    boxes, scores = runtime.run(torch.zeros(2, 64, 96, 3, dtype=torch.uint8, device="meta"))
    assert boxes.is_meta
    assert scores.is_meta
    graph = str(torch.jit.load(files["torchscript"]).inlined_graph)
    devices = [line.split(" = ")[1] for line in graph.splitlines() if " : Device = " in line]
    assert len(devices) == 1
    assert devices[0].startswith("prim::device(%inputs")


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_files_for_the_cpu_take_it_where_there_is_a_card_too(
    kind: str, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = files[kind]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    detector = Detector.load(file)
    assert detector.device.type == "cpu"
    assert len(detector(photographs()[0])) > 0
    with pytest.raises(ConfigError, match="--device cpu"):
        Detector.load(file, device="cuda")


def test_threads_are_those_that_were_asked_for(files: Files) -> None:
    session = Detector.load(files["onnx"], threads=1, device="cpu").runtime.session
    assert session.get_session_options().intra_op_num_threads == 1
    request = Detector.load(files["openvino"], threads=1, device="cpu").runtime.request
    assert request.get_compiled_model().get_property("INFERENCE_NUM_THREADS") == 1


def test_threads_hold_for_the_time_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads(), cv2.getNumThreads()
    detector = Detector.load("yolo11n-bccd", threads=before[0] + 1, device="cpu")
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before
    within = []
    detect = detector.runtime.detect
    monkeypatch.setattr(
        detector.runtime,
        "detect",
        lambda *given: (within.append((torch.get_num_threads(), cv2.getNumThreads())), detect(*given))[1],
    )
    detector(photographs()[0])
    assert within == [(before[0] + 1, before[0] + 1)]
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before


def test_an_exported_file_is_no_start_of_another(files: Files, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"onnx\.onnx: an exported file only detects"):
        export(ExportConfig(weights=str(files["onnx"]), out=str(tmp_path / "a.onnx")))


@pytest.mark.parametrize(
    "size", [(48, 64), (37, 211), (211, 37), (1, 1), (2, 300), (500, 3), (64, 96), (32, 48), (128, 192)]
)
def test_the_letterbox_in_the_file_is_ours(size: tuple[int, int]) -> None:
    """But for two pixels in a million, by one level (a resize's float32 position on the border of two pixels)."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    stage = onnx_stages.image_stage(InputSize(64, 96))
    session = onnxruntime.InferenceSession(stage.SerializeToString())
    images, placing = session.run(None, {"image": image})
    letterbox = Letterbox(size[1], size[0], 96, 64)
    difference = np.abs(np.rint(images[0].transpose(1, 2, 0) * 255) - letterbox.apply(image))
    assert difference.max() <= 1
    assert difference.sum() <= 1
    assert placing[0].tolist() == [*letterbox.offset] * 2
    assert placing[1].tolist() == pytest.approx([*letterbox.scale] * 2)


def test_three_photographs_come_with_the_package() -> None:
    assert [read_image(path).shape for path in shipped_photos()] == [(384, 384, 3), (300, 451, 3), (400, 600, 3)]


def test_a_half_precision_file_is_half_as_large_and_finds_the_same(tmp_path: Path) -> None:
    """Of weights that have been trained; random ones magnify the rounding."""
    weights, path = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    shipped, shipped_info = load_weights("yolo11n-bccd")
    with torch.no_grad():
        for parameter in shipped.parameters():
            parameter *= 1.0001  # they are rounded already
    save_weights(weights, shipped, shipped_info)
    comparison = export(ExportConfig(weights=str(weights), out=str(path), format="safetensors", image_size=96))
    assert comparison.model_detections > 3
    assert comparison.box_difference > 0  # it is rounded indeed
    assert path.stat().st_size < 0.53 * weights.stat().st_size
    model, info = load_weights(path)
    original, original_info = load_weights(weights)
    assert info == replace(original_info, image_size=96)
    for name, tensor in original.state_dict().items():
        rounded = tensor.half().float() if tensor.ndim == 4 else tensor
        assert torch.equal(model.state_dict()[name], rounded), name


def test_a_half_precision_file_that_lost_too_much_is_refused(model: DetectionModel, tmp_path: Path) -> None:
    """Weights so small that float16 makes them zeros, and a norm that makes up for it."""
    small = deepcopy(model)
    conv, norm = small.stem[0].conv, small.stem[0].bn
    with torch.no_grad():
        conv.weight.mul_(1e-9)
        norm.weight.mul_(1e9 * (norm.eps / (norm.running_var + norm.eps)).sqrt())
        norm.running_mean.mul_(1e-9)
        norm.running_var.zero_()
    path = tmp_path / "small.safetensors"
    save_weights(path, small, WeightsInfo("yolo11n", CATEGORIES, SIDE, {}, {}, "CC0"))
    with pytest.raises(ExportMismatchError, match="was not written"):
        export(ExportConfig(weights=str(path), out=str(tmp_path / "half.safetensors"), format="safetensors"))
    assert list(tmp_path.iterdir()) == [path]
