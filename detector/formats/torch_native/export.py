"""Files of PyTorch's own: TorchScript and torch.export. They take any batch and any multiples of 32."""

import io
import json
import warnings
from pathlib import Path

import torch

from detector.config import ExportConfig
from detector.formats.graphs import Uint8Graph, example_uint8
from detector.formats.torch_native.runtime import METADATA
from detector.images.input_size import STEP, InputSize
from detector.models.base import DetectionModel
from detector.weights.files import WeightsInfo


def write_torchscript(
    path: Path, model: DetectionModel, info: WeightsInfo, _config: ExportConfig, _calibration: None = None
) -> None:
    """Trace the network from letterboxed images to the head's boxes and scores."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch advises torch.export, which is another format
        traced = torch.jit.trace(Uint8Graph(model), example_uint8(InputSize.of(info.image_size), batch=2))  # type: ignore[no-untyped-call]
        follow_the_input(traced.graph)
        buffer = io.BytesIO()  # where the disk is full, torch's own writer ends the process
        torch.jit.save(traced, buffer, _extra_files={METADATA: json.dumps(info.to_metadata())})
    path.write_bytes(buffer.getbuffer())


def follow_the_input(graph: "torch._C.Graph") -> None:
    """Have the tensors that the graph makes itself (anchors) on the input's device, where tracing has written down its own."""
    torch._C._jit_pass_inline(graph)
    _, inputs = graph.inputs()
    device = graph.create("prim::device", [inputs], 1)
    device.insertBefore(next(graph.nodes()))
    device.output().setType(torch._C.DeviceObjType.get())
    for constant in graph.findAllNodes("prim::Constant"):  # type: ignore[attr-defined]
        if constant.output().type().kind() == "DeviceObjType":
            constant.output().replaceAllUsesWith(device.output())


def write_exported(
    path: Path, model: DetectionModel, info: WeightsInfo, _config: ExportConfig, _calibration: None = None
) -> None:
    """Export the same graph by torch.export."""
    sides = {1: STEP * torch.export.Dim("cells_high"), 2: STEP * torch.export.Dim("cells_wide")}
    with torch.no_grad():
        program = torch.export.export(
            Uint8Graph(model),
            (example_uint8(InputSize(2 * STEP, 3 * STEP), batch=2),),
            dynamic_shapes=({0: torch.export.Dim("batch"), **sides},),
        )
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA: json.dumps(info.to_metadata())})
    path.write_bytes(buffer.getbuffer())
