"""Exported files say what the model says, in other runtimes, and a file that does not is not left."""

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import jaxtyping
import numpy as np
import onnxruntime
import pytest
import torch
from lively_model import calmed, lively_model
from narrow_yolov9 import narrow_model
from torch import Tensor

import detector.exporting.export as export_module
from detector.config import ExportConfig
from detector.data.pictures import read_picture
from detector.errors import ExportMismatchError
from detector.exporting.export import export
from detector.exporting.graph import ExportGraph
from detector.exporting.verify import Comparison, compare, shipped_pictures
from detector.geometry.frame_size import FrameSize
from detector.inference.detector import Detector
from detector.models.base import DetectionModel
from detector.structures import Categories
from detector.weights.files import WeightsInfo, load_weights, save_weights

BCCD = Path(__file__).parents[2] / "shared" / "data" / "bccd"
SIDE = 128
NAMES = ("a", "b", "c", "d", "ç")


@pytest.fixture(scope="module", autouse=True)
def no_shape_checks() -> Iterator[None]:
    """A tracer can't look into the values that the run-time checks of shapes ask for."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def model() -> DetectionModel:
    return calmed(lively_model(5))


@pytest.fixture(scope="module")
def weights(model: DetectionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "lively.safetensors"
    info = WeightsInfo("yolo11n", Categories((3, 7, 20, 21, 90), NAMES), SIDE, {}, {}, "CC0")
    save_weights(path, model, info)
    return path


@pytest.fixture(scope="module")
def onnx_file(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        comparison = export(ExportConfig(weights=str(weights), out=str(path)))
    assert comparison.model_detections == comparison.file_detections
    return path


def same_detections(got: list[list[float]], expected: list[list[float]]) -> None:
    """Each detection has its partner of the same label, the box within 0.5 px and the score within 1e-3."""
    assert len(got) == len(expected) > 3
    rest = np.array(expected)
    for box in np.array(got):
        near = (np.abs(rest[:, :4] - box[:4]) <= 0.5).all(axis=1) & (np.abs(rest[:, 4] - box[4]) <= 1e-3)
        partners = np.flatnonzero(near & (rest[:, 5] == box[5]))
        assert len(partners) > 0, box
        rest = np.delete(rest, partners[0], axis=0)


@pytest.mark.skipif(not BCCD.exists(), reason="the photographs lie outside the repository")
@pytest.mark.parametrize("number", [0, 40, 80])
def test_onnxruntime_alone_finds_what_the_detector_finds(weights: Path, onnx_file: Path, number: int) -> None:
    picture = sorted((BCCD / "val").glob("*.jpg"))[number]
    script = Path(__file__).parent / "onnx_alone.py"
    command = [sys.executable, "-I", str(script), str(onnx_file), str(picture), "0.25"]
    printed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    metadata = {key: json.loads(value) for key, value in printed["metadata"].items() if key != "format"}
    assert metadata["class_names"] == list(NAMES)
    assert metadata["category_ids"] == [3, 7, 20, 21, 90]
    assert metadata["image_size"] == SIDE
    found = Detector.load(weights, conf=0.25)(picture)
    expected = torch.cat((found.boxes, found.scores[:, None], found.labels[:, None].float()), dim=1).tolist()
    same_detections(printed["detections"], expected)


def test_a_dynamic_onnx_file_takes_other_batches_and_sizes(
    model: DetectionModel, weights: Path, tmp_path: Path
) -> None:
    path = tmp_path / "dynamic.onnx"
    export(ExportConfig(weights=str(weights), out=str(path), dynamic=True))
    assert [file.name for file in tmp_path.iterdir()] == ["dynamic.onnx"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for shape in [(1, 3, 32, 32), (3, 3, 64, 160), (2, 3, 256, 96)]:
        images = torch.rand(shape)
        boxes, scores = session.run(["boxes", "scores"], {"images": images.numpy()})
        with torch.no_grad():
            expected = model(images)
        assert np.abs(boxes - expected.boxes.numpy()).max() < 0.5
        assert np.abs(scores - expected.scores.numpy()).max() < 1e-3


def test_an_onnx_file_of_a_rectangle_takes_height_by_width(
    model: DetectionModel, weights: Path, tmp_path: Path
) -> None:
    path = tmp_path / "wide.onnx"
    comparison = export(ExportConfig(weights=str(weights), out=str(path), image_size=(64, 160)))
    assert comparison.model_detections == comparison.file_detections > 0
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [1, 3, 64, 160]
    assert json.loads(session.get_modelmeta().custom_metadata_map["image_size"]) == [64, 160]
    images = torch.rand(1, 3, 64, 160)
    with torch.no_grad():
        expected = model(images)
    assert np.abs(session.run(["boxes"], {"images": images.numpy()})[0] - expected.boxes.numpy()).max() < 0.5


@pytest.mark.filterwarnings("ignore:.torch.jit.*:FutureWarning")
def test_torchscript_takes_other_batches_and_sizes_and_carries_its_metadata(
    model: DetectionModel, weights: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    export(ExportConfig(weights=str(weights), out=str(path), format="torchscript"))
    extra = {"class_names": ""}
    module = torch.jit.load(str(path), _extra_files=extra)
    assert json.loads(extra["class_names"]) == list(NAMES)
    for shape in [(1, 3, SIDE, SIDE), (3, 3, 64, 160)]:
        images = torch.rand(shape)
        with torch.no_grad():
            boxes, scores = module(images)
            expected = model(images)
        assert (boxes - expected.boxes).abs().max() < 0.5
        assert (scores - expected.scores).abs().max() < 1e-3


@pytest.mark.parametrize("format", ["onnx", "torchscript", "safetensors"])
def test_yolov9_is_exported_as_yolo11_is(format: str, tmp_path: Path) -> None:
    """The comparison that `export` makes itself, at two sizes."""
    weights = tmp_path / "yolov9t.safetensors"
    info = WeightsInfo("yolov9t", Categories((3, 7, 20, 21, 90), NAMES), 64, {}, {}, "CC0")
    save_weights(weights, calmed(lively_model(5, "yolov9t")), info)
    out, dynamic = tmp_path / "file", format == "onnx"
    comparison = export(ExportConfig(weights=str(weights), out=str(out), format=format, dynamic=dynamic))
    assert comparison.model_detections > 3
    assert comparison.file_detections > 3


@pytest.mark.parametrize("format", ["onnx", "torchscript"])
def test_composite_backbones_take_other_batches_and_sizes(format: str, tmp_path: Path) -> None:
    """yolov9e resizes slices to sizes that are known only when the file runs."""
    model = calmed(narrow_model("e", 5).eval())
    config = ExportConfig(weights="", out="", format=format, dynamic=True)
    run = export_module.write(tmp_path / "file", ExportGraph(model), FrameSize(64, 64), config, {})
    for shape in [(1, 3, 64, 64), (3, 3, 32, 96)]:
        images = torch.rand(shape)
        with torch.no_grad():
            expected, (boxes, scores) = model(images), run(images)
        assert (boxes - expected.boxes).abs().max() < 0.5
        assert (scores - expected.scores).abs().max() < 1e-3


@pytest.mark.parametrize("format", ["onnx", "torchscript"])
def test_a_spoiled_file_is_refused_and_not_left(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """One weight of the graph is changed before it is written, as a faulty exporter might."""

    def spoiled(model: torch.nn.Module) -> ExportGraph:
        graph = ExportGraph(model)
        with torch.no_grad():
            graph.model.head.class_branches[0][-1].bias += 1.0
        return graph

    monkeypatch.setattr(export_module, "ExportGraph", spoiled)
    out = tmp_path / "file"
    out.write_text("an older export")
    with pytest.raises(ExportMismatchError, match=r"scores by up to 0\.[0-9]"):
        export(ExportConfig(weights=str(weights), out=str(out), format=format))
    assert out.read_text() == "an older export"
    assert list(tmp_path.iterdir()) == [out]
    assert ExportMismatchError.exit_code == 1


def test_nan_and_other_shapes_are_refused(model: DetectionModel) -> None:
    picture = read_picture(shipped_pictures()[0])

    def nan(images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            boxes, scores = model(images)
        boxes[0, 0, 0] = float("nan")
        return boxes, scores

    assert not compare(model, nan, [picture], [FrameSize(64, 64)]).passes()
    with pytest.raises(ExportMismatchError, match="shapes"):
        compare(model, lambda _: (torch.zeros(1, 1, 4), torch.zeros(1, 1, 5)), [picture], [FrameSize(64, 64)])
    assert not Comparison(0, 0.0, 0.0, 0, 0).passes()


def test_three_photographs_come_with_the_package() -> None:
    assert [read_picture(path).shape for path in shipped_pictures()] == [(384, 384, 3), (300, 451, 3), (400, 600, 3)]


def test_a_half_precision_file_is_half_as_large_and_finds_the_same(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
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
    save_weights(path, small, WeightsInfo("yolo11n", Categories((3, 7, 20, 21, 90), NAMES), SIDE, {}, {}, "CC0"))
    with pytest.raises(ExportMismatchError, match="was not written"):
        export(ExportConfig(weights=str(path), out=str(tmp_path / "half.safetensors"), format="safetensors"))
    assert list(tmp_path.iterdir()) == [path]
