"""A state dict under the names of the published checkpoints, for programs that load those."""

import io
from pathlib import Path

import torch

from detector.config import ExportConfig
from detector.models.base import DetectionModel
from detector.weights.files import WeightsInfo
from detector.weights.published.names import to_published


def write_published(
    path: Path, model: DetectionModel, info: WeightsInfo, _config: ExportConfig, _calibration: None = None
) -> None:
    """Write the state as torch.save does, plain tensors by name."""
    state = {name: tensor.contiguous() for name, tensor in to_published(model.state_dict(), info.model).items()}
    buffer = io.BytesIO()  # where the disk is full, torch's own writer may end the process
    torch.save(state, buffer)
    path.write_bytes(buffer.getbuffer())
