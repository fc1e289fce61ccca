"""Files of PyTorch's own: TorchScript and torch.export. They take any batch and any multiples of 32.

They are written without all that is not needed to run them, so that little has to be admitted when they are loaded (`safety`).
"""

import io
import json
import warnings
import zipfile
from pathlib import Path

import torch

from detector.config import ExportConfig
from detector.formats.graphs import Uint8Graph, example_uint8
from detector.formats.torch_native.runtime import METADATA
from detector.images.input_size import STEP, InputSize
from detector.models.base import DetectionModel
from detector.weights.files import WeightsInfo

PROGRAM = "models/model.json"
EXAMPLE_INPUTS = "data/sample_inputs/model.pt"
SERIALIZATION_ID = ".data/serialization_id"
VERSIONS = ("version", ".data/version")


def write_torchscript(
    path: Path, model: DetectionModel, info: WeightsInfo, _config: ExportConfig, _calibration: None = None
) -> None:
    """Trace the network from letterboxed images to the head's boxes and scores."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch advises torch.export, which is another format
        traced = torch.jit.trace(Uint8Graph(model), example_uint8(InputSize.of(info.image_size), batch=2))  # type: ignore[no-untyped-call]
        follow_the_input(traced.graph)
        frozen = torch.jit.freeze(traced, optimize_numerics=False)  # one class, with the weights as constants
        buffer = io.BytesIO()  # where the disk is full, torch's own writer ends the process
        torch.jit.save(frozen, buffer, _extra_files={METADATA: json.dumps(info.to_metadata())})
    entries = read_entries(buffer)
    write_entries(path, {name: content for name, content in entries.items() if not name.endswith(".debug_pkl")})


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
    entries = read_entries(buffer)
    write_entries(path, {**entries, PROGRAM: only_the_graph(entries[PROGRAM]), EXAMPLE_INPUTS: b""})


def only_the_graph(program: bytes) -> bytes:
    """Without code in texts: checks of sizes (the graph says the same in symbols), and where in the sources a node comes from."""
    parts = json.loads(program)
    parts["guards_code"] = []
    module = parts["graph_module"]
    module["module_call_graph"] = module["module_call_graph"][:1]  # the root
    for node in module["graph"]["nodes"]:
        node["metadata"] = {}
    return json.dumps(parts).encode()


def read_entries(buffer: io.BytesIO) -> dict[str, bytes]:
    """The entries of an archive of torch, named without its folder, but those that its writer adds of itself."""
    with zipfile.ZipFile(buffer) as archive:
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    return {name: content for name, content in entries.items() if name not in ("byteorder", SERIALIZATION_ID)}


def write_entries(path: Path, entries: dict[str, bytes]) -> None:
    """As torch writes them, aligned, but none compressed."""
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    for name, content in entries.items():
        if name in VERSIONS:
            writer.set_min_version(int(content))
        else:
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    path.write_bytes(buffer.getbuffer())
