"""A state dict under the names of the published checkpoints, for programs that load those."""

import io
from pathlib import Path

import torch

from detector.config import ExportConfig
from detector.errors import WeightsError
from detector.models.base import DetectionModel
from detector.weights.files import WeightsInfo
from detector.weights.published.names import to_published


def write_published(
    path: Path, model: DetectionModel, info: WeightsInfo, config: ExportConfig, _calibration: None = None
) -> None:
    """Write the state as torch.save does, plain tensors by name. Raises WeightsError for a network that was never published."""
    if info.class_width is not None:
        raise WeightsError(
            f"{config.weights}: its class branches are {info.class_width} wide, which they are in no published {info.model};"
            " choose another --format"
        )
    state = {name: tensor.contiguous() for name, tensor in to_published(model.state_dict(), info.model).items()}
    buffer = io.BytesIO()  # where the disk is full, torch's own writer may end the process
    torch.save(state, buffer)
    path.write_bytes(buffer.getbuffer())
