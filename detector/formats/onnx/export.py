"""ONNX files: the network, and around it what makes an image its input and detections of its output."""

import logging
import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detector.config import DEFAULT_CONF, ExportConfig
from detector.errors import missing_package
from detector.formats.graphs import HalfGraph, HeadGraph, LogitsGraph, example_images
from detector.formats.int8 import CalibrationImages
from detector.images.input_size import STEP, InputSize
from detector.models.base import DetectionModel
from detector.nn.conv import pair_halves
from detector.weights.files import WeightsInfo

try:
    import onnx
    import onnxscript  # noqa: F401  torch exports with it
    from onnx import ModelProto
except ImportError as error:
    raise missing_package("--format onnx", error, "export") from error

from detector.formats.onnx.stages import (
    IR_VERSION,
    OPSET,
    detections_stage,
    image_stage,
    join,
    placing_stage,
    uint8_stage,
)

logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it tells on stderr which constants are outputs, too

CONF, IOU, MAX_DETECTIONS = DEFAULT_CONF, 0.7, 300
"""Defaults of the thresholds in a file, those of `Detector`."""
CONF_OF_CLASS = -1.0
"""In the place of `CONF` where the weights have a lowest score for each class."""
SCOPES = "pkg.torch.onnx.name_scopes"
"""Entry of a node's metadata: the modules that it lies in, from the outside in."""


def write_onnx(
    path: Path, model: DetectionModel, info: WeightsInfo, config: ExportConfig, calibration: CalibrationImages | None
) -> None:
    """Write the graph of `build_onnx`."""
    save_model(build_onnx(model, info, config, calibration), path)


def save_model(model: ModelProto, path: Path) -> None:
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def defaults(info: WeightsInfo) -> dict[str, Any]:
    """The thresholds that a file uses where it gets none."""
    conf = CONF if info.thresholds is None else CONF_OF_CLASS
    return {"conf": conf, "iou": IOU, "max_detections": MAX_DETECTIONS}


def wrong_defaults(path: Path, info: WeightsInfo) -> list[str]:
    """What is wrong with the thresholds that a file uses by default."""
    graph = onnx.load(path).graph
    values = {
        constant.name: onnx.numpy_helper.to_array(constant).item()
        for constant in graph.initializer
        if not constant.dims
    }
    return [
        f"its default {name} is {values.get(name)}, not {value}"
        for name, value in defaults(info).items()
        if not math.isclose(values.get(name, math.nan), value, rel_tol=1e-6)
    ]


def build_onnx(
    model: DetectionModel, info: WeightsInfo, config: ExportConfig, calibration: CalibrationImages | None = None
) -> ModelProto:
    """The graph that `config` asks for, for the size in `info`, which goes in as metadata; with images to calibrate on, its
    network is int8."""
    size = InputSize.of(info.image_size)
    if config.raw:
        open_axes = ("batch", "height", "width") if config.dynamic else ()
        graph = network(HeadGraph(model), size, ("boxes", "scores"), open_axes)
    else:
        graph = logits_network(model, size, config)
    if calibration is not None:
        from detector.formats.onnx.int8 import quantize_qdq

        graph = quantize_qdq(graph, calibration)
    if not config.raw:
        graph = wrap(graph, size, info, config)
    entries = info.to_metadata()
    if not config.raw:
        entries |= {name: str(value) for name, value in defaults(info).items()}
    for key, value in entries.items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, value
    return graph


def uint8_network(model: DetectionModel, info: WeightsInfo, half: bool = False, batch: int = 1) -> ModelProto:
    """From letterboxed images (batch, height, width, 3) uint8 RGB to the head's boxes and scores; `half`: layers compute in
    half precision."""
    size = InputSize.of(info.image_size)
    graph = HalfGraph(model) if half else HeadGraph(model)
    return join([uint8_stage(size, batch), network(graph, size, ("boxes", "scores"), (), batch)])


def logits_network(model: DetectionModel, size: InputSize, config: ExportConfig) -> ModelProto:
    """The network alone: images (batch, 3, height, width) to what `LogitsGraph` gives."""
    axes = ("batch", "height", "width") if config.dynamic else ("batch",) if config.batched else ()
    return network(LogitsGraph(model), size, ("box_logits", "class_logits", "points", "strides"), axes)


def wrap(network: ModelProto, size: InputSize, info: WeightsInfo, config: ExportConfig) -> ModelProto:
    """The network of `logits_network` from images, or letterboxed ones if `config.batched`, to detections."""
    detections = detections_stage(len(info.categories), **defaults(info), class_conf=info.class_conf)
    if config.batched:
        start = uint8_stage(None if config.dynamic else size)
        return join([start, network, detections])
    return join([image_stage(size), network, detections, placing_stage()])


def network(
    graph: nn.Module, size: InputSize, outputs: tuple[str, ...], open_axes: tuple[str, ...], batch: int = 1
) -> ModelProto:
    """`graph` for `batch` inputs of `size`, but for the axes that stay open: height and width for any multiples of 32.

    Names of nodes begin with their module in the model and a slash. `graph` is changed: its halves are computed apart, as
    runtimes keep whole maps in the layout that their convolutions read, but cut maps only after reordering them.
    """
    pair_halves(graph)
    shapes, example = None, example_images(size, batch)
    if open_axes:
        # as multiples, else torch can't tell that the maps to be concatenated have one size; 1 · 32 it would take for fixed
        sides = {2: STEP * torch.export.Dim("cells_high"), 3: STEP * torch.export.Dim("cells_wide")}
        shapes = ({0: torch.export.Dim("batch"), **(sides if "height" in open_axes else {})},)
        example = example_images(InputSize(2 * STEP, 3 * STEP) if "height" in open_axes else size, batch=2)
    program = torch.onnx.export(
        graph,
        (example,),
        input_names=["images"],
        output_names=list(outputs),
        opset_version=OPSET,
        dynamic_shapes=shapes,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    model.ir_version = IR_VERSION
    for node in model.graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "")
        modules = re.findall(r"'model\.([^']+)'", scopes)
        node.name = f"{modules[-1] if modules else ''}/{node.name}"
    return model
