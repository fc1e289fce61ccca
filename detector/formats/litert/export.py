"""LiteRT files (TensorFlow Lite), converted from torch.export."""

import json
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from detector.config import ExportConfig
from detector.errors import missing_package
from detector.formats.graphs import Uint8Graph, example_uint8
from detector.formats.litert.safety import add_metadata
from detector.images.input_size import InputSize
from detector.models.base import DetectionModel
from detector.weights.files import WeightsInfo

try:
    import litert_torch
except ImportError as error:
    raise missing_package("--format litert", error, "mobile") from error

litert_torch.config.show_progress = False


class NamedGraph(Uint8Graph):
    """`Uint8Graph` whose input and outputs have names in the file."""

    def forward(self, images_uint8: UInt8[Tensor, "batch height width 3"]) -> dict[str, Tensor]:  # type: ignore[override]
        boxes, scores = super().forward(images_uint8)
        return {"boxes": boxes, "scores": scores}


def write_litert(
    path: Path, model: DetectionModel, info: WeightsInfo, _config: ExportConfig, _calibration: None = None
) -> None:
    """From one letterboxed image (1, height, width, 3) uint8 RGB to the head's boxes and scores."""
    images = example_uint8(InputSize.of(info.image_size), batch=1)
    with torch.no_grad():
        litert_torch.convert(NamedGraph(model), sample_kwargs={"images_uint8": images}).export(str(path))
    add_metadata(path, json.dumps(info.to_metadata()))
