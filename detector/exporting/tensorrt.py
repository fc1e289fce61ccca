"""TensorRT engines, built through ONNX for the GPU at hand."""

import json
from pathlib import Path

from detector.errors import ConfigError
from detector.exporting.onnx import frames_network
from detector.models.base import DetectionModel
from detector.weights.files import WeightsInfo

try:
    import tensorrt
except ImportError as error:
    raise ConfigError("--format tensorrt needs the package tensorrt and an NVIDIA GPU: pip install tensorrt") from error


def write_engine(path: Path, model: DetectionModel, info: WeightsInfo, half: bool, batch: int = 1) -> None:
    """From letterboxed pictures (batch, height, width, 3) uint8 RGB to the head's boxes and scores."""
    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(frames_network(model, info, batch).SerializeToString()):
        raise ConfigError(
            f"--format tensorrt: TensorRT {tensorrt.__version__} can't read the network: {parser.get_error(0)}"
        )
    options = builder.create_builder_config()
    if half:
        options.set_flag(tensorrt.BuilderFlag.FP16)
    engine = builder.build_serialized_network(network, options)
    metadata = json.dumps(info.to_metadata()).encode()
    path.write_bytes(len(metadata).to_bytes(8, "little") + metadata + bytes(engine))
