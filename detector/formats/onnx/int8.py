"""int8 quantization of a network for ONNX Runtime, except for the parts that suffer from it."""

from collections.abc import Collection
from copy import deepcopy

import numpy as np
import onnx
import torch
from jaxtyping import Float32, UInt8
from onnx import ModelProto, NodeProto

from detector.boxes import Anchors
from detector.errors import missing_package
from detector.formats.int8 import (
    MAX_ERROR,
    CalibrationImages,
    concat_predictions,
    print_int8_report,
    quantization_error,
    subsample,
)
from detector.nn.head import decode
from detector.structures import Predictions, RawPredictions
from detector.utils.fileio import temporary_dir

try:
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QDQQuantizer, QuantType, TensorsData, create_calibrator
except ImportError as error:
    raise missing_package("--precision int8", error, "export") from error

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
"""All that ONNX Runtime has in int8 of a network's: going to float and back between convolutions costs more than it gains."""


def quantize_qdq(network: ModelProto, images: CalibrationImages) -> ModelProto:
    """The network in int8, calibrated on `images`. If its predictions are more than `MAX_ERROR` from float's, the error of each
    part alone in int8 is measured, and the worst parts stay in float until the error is within it."""
    ranges = value_ranges(network, images)
    some = subsample(images)
    expected = predict_all(network, some)
    parts: dict[str, list[str]] = {}
    for node in network.graph.node:
        parts.setdefault(part_of(node), []).append(node.name)

    def attempt(floats: Collection[str]) -> tuple[ModelProto, float]:
        kept = [name for part in ("", *floats) for name in parts.get(part, [])]
        model = quantize_nodes(network, ranges, kept)
        return model, quantization_error(expected, predict_all(model, some))

    model, error = attempt([])
    names = parts.keys() - {""}
    alone = {name: attempt(names - {name})[1] for name in sorted(names)} if error > MAX_ERROR else {}
    worst = sorted(alone, key=alone.__getitem__, reverse=True)
    count = 0
    while error > MAX_ERROR and count < len(worst):
        count += 1
        model, error = attempt(worst[:count])
    print_int8_report(error, ", ".join(f"{name} (alone {alone[name]:.3f})" for name in worst[:count]))
    return model


def part_of(node: NodeProto) -> str:
    """The stage of the network that a node belongs to, in the head the layer of the branches; empty for what is decoding or
    puts the levels together, which stays in float."""
    names = node.name.partition("/")[0].split(".")
    if names[0] != "head":
        return names[0]
    return f"{names[0]}.{names[1]}.*.{names[3]}" if len(names) > 3 else ""


def value_ranges(network: ModelProto, images: CalibrationImages) -> TensorsData:
    """The least and the largest of every value in the network."""
    with temporary_dir() as folder:
        source = folder / "network.onnx"
        onnx.save(network, source)
        calibrator = create_calibrator(source, OPERATIONS, str(folder / "augmented.onnx"))
        calibrator.collect_data(_Reader(images))
        return calibrator.compute_data()


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """CalibrationImages as ONNX Runtime's calibration takes them."""

    def __init__(self, images: CalibrationImages) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, Float32[np.ndarray, "1 3 height width"]] | None:
        image = next(self._images, None)
        return None if image is None else as_input(image)


def quantize_nodes(network: ModelProto, ranges: TensorsData, kept: list[str]) -> ModelProto:
    """A copy in int8 but for the nodes `kept`: weights by channel, values by tensor as uint8, which processors multiply by
    int8 in one instruction."""
    quantizer = QDQQuantizer(
        deepcopy(network),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=kept,
        op_types_to_quantize=OPERATIONS,
        extra_options={},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    model: ModelProto = quantizer.model.model
    del model.metadata_props[:]  # the tool's own
    return model


def predict_all(network: ModelProto, images: CalibrationImages) -> Predictions:
    """Predictions of the network, with logits or decoded, for each image."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = []
    for image in images:
        outputs = [torch.from_numpy(output) for output in session.run(None, as_input(image))]
        if len(outputs) == 4:
            found.append(decode(RawPredictions(*outputs[:2]), Anchors(*outputs[2:])))
        else:
            found.append(Predictions(*outputs))
    return concat_predictions(found)


def as_input(image: UInt8[np.ndarray, "height width 3"]) -> dict[str, Float32[np.ndarray, "1 3 height width"]]:
    return {"images": image.transpose(2, 0, 1)[None].astype(np.float32) / 255}
