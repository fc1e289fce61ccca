"""OpenVINO files: the graph (.xml) and its numbers (.bin beside it)."""

import tempfile
from pathlib import Path

from detector.errors import ConfigError
from detector.exporting.calibration import Frames
from detector.exporting.onnx import frames_network, save_model
from detector.models.base import DetectionModel
from detector.runtimes.openvino_file import PRECISION, SECTION
from detector.weights.files import WeightsInfo

try:
    import openvino
except ImportError as error:
    raise ConfigError(f"--format openvino needs the package {error.name}: pip install 'detector[export]'") from error


def write_openvino(
    path: Path, model: DetectionModel, info: WeightsInfo, precision: str | None, frames: Frames | None
) -> None:
    """From one letterboxed picture (1, height, width, 3) uint8 RGB to the head's boxes and scores. Numbers of float16 and
    bfloat16 are stored in half precision, those of float16 computed with in float32; with frames to calibrate on, they are
    whole ones (int8)."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "network.onnx"
        save_model(frames_network(model, info), source)
        network = openvino.convert_model(source)
    if frames is not None:
        from detector.exporting.int8_openvino import quantized

        network = quantized(network, frames)
    for key, value in info.to_metadata().items():
        network.set_rt_info(value, [SECTION, key])
    if precision == "bfloat16":
        network.set_rt_info("bf16", [PRECISION])
    openvino.save_model(network, path, compress_to_fp16=precision in ("float16", "bfloat16"))
