"""Files in whole numbers (int8): calibrated on other images than those they are judged on, and in float where they suffer."""

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from lively_model import calmed, lively_model
from torch import Tensor, nn

from detector.cli import main
from detector.config import ExportConfig
from detector.data.coco import CocoDataset
from detector.data.layouts import SplitPaths, find_split
from detector.demo.scenes import make_dataset
from detector.errors import ConfigError, DataError, ExportMismatchError
from detector.exporting.calibration import calibration_images
from detector.exporting.export import export
from detector.exporting.verify import Comparison, differences
from detector.formats.int8 import CalibrationImages, quantization_error
from detector.formats.onnx import int8 as int8_onnx
from detector.formats.onnx.export import network, save_model
from detector.formats.onnx.stages import join, uint8_stage
from detector.formats.openvino import int8 as int8_openvino
from detector.formats.table import Format
from detector.images.input_size import InputSize
from detector.images.letterbox import Letterbox
from detector.inference.detector import Detector
from detector.structures import Predictions
from detector.weights.files import WeightsInfo, save_weights

SIDE = 64
FORMATS = {"onnx": "whole.onnx", "openvino": "file.xml"}


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_shape_checks_in_module")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_dataset(folder, seed=5, train=12, val=5, test=3)
    return folder


@pytest.fixture(scope="module")
def weights(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the dataset's classes; and what they find in its validation images becomes the truth about these."""
    path = tmp_path_factory.mktemp("weights") / "lively.safetensors"
    categories = CocoDataset.load(find_split(data, "val")).categories
    save_weights(path, calmed(lively_model(len(categories))), WeightsInfo("yolo11n", categories, SIDE, {}, {}, "CC0"))
    annotations = find_split(data, "val").annotations
    content = json.loads(annotations.read_text())
    detector = Detector.load(path, device="cpu")
    content["annotations"] = []
    for image in content["images"]:
        found = detector(data / "val" / image["file_name"])
        for (x0, y0, x1, y1), label in zip(found.boxes.tolist(), found.labels.tolist(), strict=True):
            entry = {"id": len(content["annotations"]) + 1, "image_id": image["id"], "iscrowd": 0}
            where = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
            content["annotations"].append({**entry, **where, "category_id": categories.ids[label]})
    annotations.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def made(data: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Comparison]]:
    """A forced file of each runtime, all of it in int8."""
    folder = tmp_path_factory.mktemp("int8")
    files = {}
    with pytest.MonkeyPatch.context() as patch:
        for module in (int8_onnx, int8_openvino):
            patch.setattr(module, "MAX_ERROR", 1.0)
        for format, name in FORMATS.items():
            out = folder / name
            config = ExportConfig(str(weights), str(out), format, "int8", data=str(data), force=True)  # type: ignore[arg-type]
            files[format] = out, export(config)
    return files


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_in_int8_is_smaller_and_finds_about_the_same(
    format: str, made: dict[str, tuple[Path, Comparison]], data: Path, weights: Path
) -> None:
    file, comparison = made[format]
    size = sum(path.stat().st_size for path in (file, file.with_suffix(".bin")) if path.exists())
    assert size < 0.45 * weights.stat().st_size
    assert comparison.box_difference > 0.01  # it is rounded indeed
    model, other = Detector.load(weights, device="cpu"), Detector.load(file, device="cpu")
    assert other.categories == model.categories
    found = [(model(path), other(path)) for path in sorted((data / "val").iterdir())]
    compared = [differences(one, two, 0.35) for one, two in found]
    assert sum(len(one) for one, _ in found) > 50
    assert sum(alone for *_, alone in compared) <= 0.1 * sum(len(one) for one, _ in found)
    assert torch.cat([scores for _, scores, _ in compared]).abs().mean() < 0.05


def test_a_file_that_loses_too_much_is_not_left_but_by_force(
    made: dict[str, tuple[Path, Comparison]], data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The truth is what the model finds, so that its AP is nearly 1 and a little rounding is a great loss."""
    forced, _ = made["onnx"]
    assert not json.loads(Path(f"{forced}.json").read_text())["passes"]
    monkeypatch.setattr(Format, "write", lambda _format, file, *_: shutil.copy(forced, file))
    config = ExportConfig(str(weights), str(tmp_path / "file.onnx"), precision="int8", data=str(data))
    with pytest.raises(
        ExportMismatchError, match=r"was not written.*AP [01]\.\d+ and 0\.\d+ \(a loss of 0\.01 is allowed\)"
    ):
        export(config)
    assert list(tmp_path.iterdir()) == []


class Planted(nn.Module):
    """A small network. Between two of its layers one channel is a thousand times the others, which whole numbers for the lot
    then can't tell apart; the second layer makes up for it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Conv2d(3, 8, 3, 4, 1)
        self.narrow = nn.Conv2d(8, 8, 1)
        self.wide = nn.Conv2d(8, 8, 1)
        self.middle = nn.Conv2d(8, 8, 3, 1, 1)
        self.last = nn.Conv2d(8, 7, 1)
        with torch.no_grad():
            self.last.weight *= 100  # so that predictions differ from place to place
            self.narrow.weight[0] *= 1000
            self.narrow.bias[0] *= 1000
            self.wide.weight[:, 0] /= 1000

    def forward(self, images: Tensor) -> Tensor:
        x = nn.functional.silu(self.stem(images))
        x = nn.functional.silu(self.wide(nn.functional.silu(self.narrow(x))))
        return self.last(nn.functional.silu(self.middle(x)))


class Decoded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = Planted()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = self.model(images).flatten(2).transpose(1, 2).split([4, 3], 2)
        half = 6 + 4 * boxes.sigmoid()
        return torch.cat((32 - half[..., :2], 32 + half[..., 2:]), 2), scores.sigmoid()


def quantize_onnx(graph: onnx.ModelProto, frames: CalibrationImages, _: Path) -> set[str]:
    model = int8_onnx.quantize_qdq(graph, frames)
    weights = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    return {int8_onnx.part_of(node) for node in model.graph.node if node.op_type == "Conv" and node.input[1] in weights}


def quantize_openvino(graph: onnx.ModelProto, frames: CalibrationImages, folder: Path) -> set[str]:
    save_model(join([uint8_stage(InputSize(64, 64), batch=1), graph]), folder / "network.onnx")
    model = int8_openvino.quantize(int8_openvino.openvino.convert_model(folder / "network.onnx"), frames)
    return set(int8_openvino.layers_in_float(model))


@pytest.mark.parametrize("quantize", [quantize_onnx, quantize_openvino])
def test_the_layers_that_suffer_are_left_in_float_and_named(
    quantize: Callable[[onnx.ModelProto, CalibrationImages, Path], set[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(8)]
    graph = network(Decoded().eval(), InputSize(64, 64), ("boxes", "scores"), ())
    floats = quantize(graph, frames, tmp_path)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("int8: "))
    assert float(line.split()[3]) <= 0.03
    assert floats & {"narrow", "wide"}
    assert not floats & {"stem", "middle", "last"}
    assert all(name in line for name in floats)


def test_how_far_apart_predictions_are() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 10]]])
    one = Predictions(boxes, torch.tensor([[[0.9, 0.1], [0.0, 0.0]]]))
    assert quantization_error(one, one) == pytest.approx(0, abs=1e-6)
    moved = boxes.clone()
    moved[0, 0, 2] = 5  # half of the box
    assert quantization_error(one, Predictions(moved, one.scores)) == pytest.approx(0.5)
    moved = boxes.clone()
    moved[0, 1] += 100  # of a box without score nothing depends
    assert quantization_error(one, Predictions(moved, one.scores)) == pytest.approx(0, abs=1e-6)
    assert quantization_error(one, Predictions(boxes, one.scores + torch.tensor([0.0, 0.2]))) > 0.1


def test_images_that_judge_do_not_calibrate(data: Path, tmp_path: Path) -> None:
    train = find_split(data, "train")
    content = json.loads(train.annotations.read_text())
    content["images"] = content["images"][2:5]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in kept]
    some = tmp_path / "some.json"
    some.write_text(json.dumps(content))
    size = InputSize(64, 96)
    images = CocoDataset.load(train)

    def framed(index: int) -> bytes:
        image = images.read(index).image
        return bytes(Letterbox(image.shape[1], image.shape[0], size.width, size.height).apply(image))

    frames = calibration_images(str(data), size, CocoDataset.load(SplitPaths(some, train.images)))
    assert [bytes(frame) for frame in frames] == [framed(index) for index in (0, 1, *range(5, 12))]
    with pytest.raises(DataError, match="needs others to calibrate on"):
        calibration_images(str(data), size, images)


def test_int8_without_data_is_refused_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--weights=yolo11n-bccd", "--precision=int8", f"--out={tmp_path / 'a.onnx'}"]
    assert main(["export", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "data" in line
    assert "int8 needs --data DIR" in line


def test_openvino_neither_phones_home_nor_breaks_signals(made: dict[str, tuple[Path, Comparison]]) -> None:
    """What openvino and nncf report their use with is never loaded; a child's end is survived after files have come and gone."""
    script = (
        "import signal, subprocess, sys, detector.formats.openvino.int8, nncf, openvino.tools.ovc\n"
        "from detector.inference.detector import Detector\n"
        "first, second = (Detector.load(sys.argv[1], device='cpu') for _ in range(2))\n"
        "del first\n"
        "del second\n"
        "signal.signal(signal.SIGCHLD, lambda *_: None)\n"
        "subprocess.run([sys.executable, '-c', ''])\n"
        "print([name for name, module in sys.modules.items() if name.startswith('openvino_telemetry') and module])"
    )
    command = [sys.executable, "-c", script, str(made["openvino"][0])]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(("module", "package"), [("openvino", "nncf"), ("onnx", "onnxruntime")])
def test_a_missing_package_is_named(module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"detector.formats.{module}.int8")
    with pytest.raises(ConfigError, match=f"int8: needs the package {package}: pip install"):
        importlib.import_module(f"detector.formats.{module}.int8")
