"""Whole numbers (int8) in place of floats in a network for ONNX Runtime, but for the parts that suffer from it."""

import re
import tempfile
from collections.abc import Collection
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from jaxtyping import UInt8
from onnx import ModelProto, NodeProto
from onnxruntime.quantization import (
    CalibrationDataReader,
    QDQQuantizer,
    QuantType,
    TensorsData,
    create_calibrator,
)

from detector.exporting.calibration import Frames, disturbance
from detector.geometry.boxes import Anchors
from detector.nn.head import decode
from detector.structures import Predictions, RawPredictions

OPERATIONS = [
    "Add",
    "Concat",
    "Conv",
    "MatMul",
    "MaxPool",
    "Mul",
    "Reshape",
    "Resize",
    "Sigmoid",
    "Slice",
    "Split",
    "Transpose",
]
MEASURED = 16
LIMIT = 0.04


def quantized(network: ModelProto, frames: Frames) -> ModelProto:
    """The network in int8, calibrated on `frames`; what disturbs its predictions most stays in float, part by part, until they
    are within `LIMIT`."""
    ranges = value_ranges(network, frames)
    parts: dict[str, list[str]] = {}
    for node in network.graph.node:
        parts.setdefault(part(node), []).append(node.name)
    outside = parts.pop("", [])
    some = frames[:: -(-len(frames) // MEASURED)]
    expected = predictions(network, some)

    def built(floats: Collection[str]) -> tuple[ModelProto, float]:
        kept = outside + [name for part in floats for name in parts[part]]
        model = in_whole_numbers(network, ranges, kept)
        return model, disturbance(expected, predictions(model, some))

    model, error = built(())
    alone = {name: built(parts.keys() - {name})[1] for name in parts} if error > LIMIT else {}
    worst = sorted(alone, key=alone.__getitem__, reverse=True)
    floats: list[str] = []
    while error > LIMIT and len(floats) < len(worst):
        floats.append(worst[len(floats)])
        model, error = built(floats)
    reasons = ", ".join(f"{name} ({alone[name]:.3f})" for name in floats)
    print(
        f"int8: predictions are {error:.3f} from float's (aim {LIMIT}); left in float for what they alone do: {reasons or 'nothing'}"
    )
    return model


def part(node: NodeProto) -> str:
    """The part of the network that a node belongs to."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "")
    modules = re.findall(r"'model\.([^']+)'", scopes)
    if not modules:
        return ""
    names = modules[-1].split(".")
    if names[0] == "head":
        return f"{names[0]}.{names[1]}.{names[3]}" if len(names) > 3 else ""
    return names[0]


class Reader(CalibrationDataReader):
    def __init__(self, frames: Frames) -> None:
        self.frames = iter(frames)

    def get_next(self) -> dict[str, np.ndarray] | None:
        frame = next(self.frames, None)
        return None if frame is None else as_input(frame)


def as_input(frame: UInt8[np.ndarray, "height width 3"]) -> dict[str, np.ndarray]:
    return {"images": frame.transpose(2, 0, 1)[None].astype(np.float32) / 255}


def value_ranges(network: ModelProto, frames: Frames) -> TensorsData:
    """Of every value in the network."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "network.onnx"
        onnx.save(network, source)
        calibrator = create_calibrator(source, OPERATIONS, str(Path(folder) / "augmented.onnx"))
        calibrator.collect_data(Reader(frames))
        return calibrator.compute_data()


def in_whole_numbers(network: ModelProto, ranges: TensorsData, kept: list[str]) -> ModelProto:
    quantizer = QDQQuantizer(
        deepcopy(network), True, False, QuantType.QInt8, QuantType.QUInt8, ranges, [], kept, OPERATIONS, {}
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    model = quantizer.model.model
    del model.metadata_props[:]
    return model


def predictions(network: ModelProto, frames: Frames) -> Predictions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs = [[torch.from_numpy(values) for values in session.run(None, as_input(frame))] for frame in frames]
    found = [
        Predictions(*values) if len(values) == 2 else decode(RawPredictions(*values[:2]), Anchors(*values[2:]))
        for values in outputs
    ]
    return Predictions(torch.cat([f.boxes for f in found]), torch.cat([f.scores for f in found]))
