"""OpenVINO files: the graph (.xml) and its numbers (.bin beside it)."""

from pathlib import Path

from detector.config import ExportConfig
from detector.errors import missing_package
from detector.formats.int8 import CalibrationImages
from detector.formats.onnx.export import save_model, uint8_network
from detector.formats.openvino.runtime import PRECISION, SECTION
from detector.models.base import DetectionModel
from detector.utils.fileio import temporary_dir
from detector.weights.files import WeightsInfo

try:
    import openvino
except ImportError as error:
    raise missing_package("--format openvino", error, "export") from error


def write_openvino(
    path: Path, model: DetectionModel, info: WeightsInfo, config: ExportConfig, calibration: CalibrationImages | None
) -> None:
    """From one letterboxed image (1, height, width, 3) uint8 RGB to the head's boxes and scores. Numbers of float16 and
    bfloat16 are stored in half precision, those of float16 computed with in float32; with images to calibrate on, they are
    int8."""
    with temporary_dir() as folder:
        source = folder / "network.onnx"
        save_model(uint8_network(model, info), source)
        network = openvino.convert_model(source)
    if calibration is not None:
        from detector.formats.openvino.int8 import quantize

        network = quantize(network, calibration)
    for key, value in info.to_metadata().items():
        network.set_rt_info(value, [SECTION, key])
    if config.precision == "bfloat16":
        network.set_rt_info("bf16", [PRECISION])
    openvino.save_model(network, path, compress_to_fp16=config.precision in ("float16", "bfloat16"))
