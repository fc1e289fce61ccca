"""ExecuTorch files: from torch.export, with all that XNNPACK can compute handed to it."""

import json
import logging
from pathlib import Path

import torch

from detector.config import ExportConfig
from detector.errors import missing_package
from detector.formats.executorch.safety import METADATA
from detector.formats.graphs import HeadGraph, example_images
from detector.images.input_size import InputSize
from detector.models.base import DetectionModel
from detector.weights.files import WeightsInfo

logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # warns of a package that comes with ExecuTorch
try:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
except ImportError as error:
    raise missing_package("--format executorch", error, "mobile") from error


def write_executorch(
    path: Path, model: DetectionModel, info: WeightsInfo, _config: ExportConfig, _calibration: None = None
) -> None:
    """From one letterboxed image (1, 3, height, width) float32 RGB in 0..1, as phones' libraries for images give it, to
    the head's boxes and scores."""
    images = example_images(InputSize.of(info.image_size), batch=1)
    with torch.no_grad():
        program = torch.export.export(HeadGraph(model), (images,))
        lowered = to_edge_transform_and_lower(
            program,
            partitioner=[XnnpackPartitioner()],
            constant_methods={METADATA: json.dumps(info.to_metadata())},
        )
    path.write_bytes(lowered.to_executorch().buffer)
