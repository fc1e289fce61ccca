"""ONNX files with any metadata, inputs and outputs: each detects or is refused in one line, none leaves a traceback or runs on.

The networks are constants: metadata, names and
shapes are what is changed.
"""

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, parser

from detector.errors import DetectorError
from detector.inference.detector import Detector
from detector.structures import Categories
from detector.weights.files import WeightsInfo
from fuzz.mutate import fuzz
from fuzz.values import VALUES

INFO = WeightsInfo("yolo11n", Categories((1, 5), ("cat", "dog")), 64, {"epoch": 1}, {"AP": 0.5}, "CC0-1.0", 72)
IMAGE = """<ir_version: 10, opset_import: ["" : 20]>
    image_file (uint8[H, W, 3] image, float conf, float iou, int64 max_detections)
        => (float[N, 4] boxes, float[N] scores, int64[N] labels, int64 count)
    <float conf = {0.25}, float iou = {0.7}, int64 max_detections = {300}> {
        boxes = Constant <value = float[1, 4] {1, 2, 3, 4}> ()
        scores = Constant <value = float[1] {0.5}> ()
        labels = Constant <value = int64[1] {1}> ()
        count = Constant <value = int64 {1}> ()
    }"""
BATCHED = """<ir_version: 10, opset_import: ["" : 20]>
    batched_file (uint8[B, 64, 64, 3] images_uint8, float conf, float iou, int64 max_detections)
        => (float[B, K, 4] batch_boxes, float[B, K] batch_scores, int64[B, K] batch_labels, int64[B] counts)
    <float conf = {0.25}, float iou = {0.7}, int64 max_detections = {300}> {
        batch_boxes = Constant <value = float[1, 1, 4] {1, 2, 3, 4}> ()
        batch_scores = Constant <value = float[1, 1] {0.5}> ()
        batch_labels = Constant <value = int64[1, 1] {1}> ()
        counts = Constant <value = int64[1] {1}> ()
    }"""
RAW = """<ir_version: 10, opset_import: ["" : 20]>
    raw_file (float[1, 3, 64, 64] images) => (float[1, 1, 4] boxes, float[1, 1, 2] scores) {
        boxes = Constant <value = float[1, 1, 4] {1, 2, 3, 4}> ()
        scores = Constant <value = float[1, 1, 2] {0.1, 0.9}> ()
    }"""
FILES = [parser.parse_model(text) for text in (IMAGE, BATCHED, RAW)]
SHAPES = [
    [],
    [1],
    [0],
    [1, 3],
    [1, 3, 64, 64],
    [1, 64, 64, 3],
    [2, 3, 64, 64],
    ["a", 3, "b", "c"],
    [1, 3, 33, 64],
    [1, 1, 2],
]
NAMES = ("image", "images_uint8", "images", "boxes", "scores", "labels", "count", "conf", "x", "", "\x1b[31m")


def metadata(rng: random.Random, file: onnx.ModelProto) -> None:
    """Another value for a key, a key less, or one twice."""
    entry = rng.choice(file.metadata_props)
    kind = rng.randrange(8)
    if kind == 0:
        file.metadata_props.remove(entry)
    elif kind == 1:
        file.metadata_props.add(key=entry.key, value=rng.choice(VALUES))
    elif kind == 2:
        entry.key = rng.choice(NAMES)
    else:
        entry.value = rng.choice([value for value in VALUES if "\ud800" not in value])


def interface(rng: random.Random, file: onnx.ModelProto) -> None:
    """Another name, type or shape of an input or output, or one less."""
    side = rng.choice((file.graph.input, file.graph.output))
    entry = rng.choice(side)
    kind = rng.randrange(4)
    if kind == 0:
        side.remove(entry)
    elif kind == 1:
        name = rng.choice(NAMES)
        for node in file.graph.node:
            node.output[:] = [name if output == entry.name else output for output in node.output]
        entry.name = name
    else:
        types = (onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8, onnx.TensorProto.INT64, onnx.TensorProto.DOUBLE)
        entry.CopyFrom(helper.make_tensor_value_info(entry.name, rng.choice(types), rng.choice(SHAPES)))


def labels(rng: random.Random, file: onnx.ModelProto) -> None:
    """Another class detected."""
    for node in file.graph.node:
        if "labels" in node.output[0]:
            array = onnx.numpy_helper.to_array(node.attribute[0].t)
            value = rng.choice((-1, 0, 2, 10**6, 2**62, -(2**62)))
            node.attribute[0].t.CopyFrom(onnx.numpy_helper.from_array(np.full(array.shape, value)))


@pytest.mark.slow
def test_any_onnx_file_detects_or_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file.onnx"
    image = np.zeros((48, 64, 3), np.uint8)
    rounds = refused = 0

    def check(rng: random.Random) -> None:
        nonlocal rounds, refused
        rounds += 1
        file = onnx.ModelProto()
        file.CopyFrom(rng.choice(FILES))
        helper.set_model_props(file, INFO.to_metadata())
        for _ in range(rng.choice((0, 1, 1, 2, 4))):
            change = rng.choice((metadata, metadata, interface, labels))
            change(rng, file)
            if not (file.metadata_props and file.graph.input and file.graph.output):
                break
        path.write_bytes(file.SerializeToString())
        try:
            found = Detector.load(path, device="cpu")(image)
            assert len(found.names) == len(found.to_coco(1)) == len(found)
        except DetectorError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017

    fuzz(check)
    assert rounds / 4 < refused < rounds
    with capsys.disabled():
        print(f"{rounds} files, {refused} refused", end=" ")
