"""TensorRT engines, built through ONNX for the GPU at hand."""

import json
from pathlib import Path

import torch

from detector.config import ExportConfig
from detector.errors import ConfigError
from detector.formats.onnx.export import uint8_network
from detector.models.base import DetectionModel
from detector.weights.files import WeightsInfo

try:
    import tensorrt
except ImportError as error:
    raise ConfigError("--format tensorrt needs the package tensorrt and an NVIDIA GPU: pip install tensorrt") from error


def write_engine(
    path: Path,
    model: DetectionModel,
    info: WeightsInfo,
    config: ExportConfig,
    _calibration: None = None,
    batch: int = 1,
) -> None:
    """From letterboxed images (batch, height, width, 3) uint8 RGB to the head's boxes and scores; with float16 the layers
    compute in half precision, boxes are decoded in float32."""
    if not torch.cuda.is_available():
        raise ConfigError(
            "--format tensorrt: an engine is built on the NVIDIA GPU that it is to run on; there is none here"
        )
    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(logger)
    # strongly typed: each layer in the precision that it has in the graph
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(uint8_network(model, info, config.precision == "float16", batch).SerializeToString()):
        raise ConfigError(
            f"--format tensorrt: TensorRT {tensorrt.__version__} can't read the network: {parser.get_error(0)}"
        )
    options = builder.create_builder_config()
    options.clear_flag(tensorrt.BuilderFlag.TF32)  # its 10 bits are too few for the comparison
    engine = builder.build_serialized_network(network, options)
    if engine is None:
        raise ConfigError(
            f"--format tensorrt: TensorRT {tensorrt.__version__} can't build the engine; see its lines above"
        )
    metadata = json.dumps(info.to_metadata()).encode()
    path.write_bytes(len(metadata).to_bytes(8, "little") + metadata + bytes(engine))
