"""The state under the names of the published checkpoints, for programs that load those."""

import io
from pathlib import Path

import torch

from detector.models.base import DetectionModel
from detector.weights.importers import to_published


def write_published(path: Path, model: DetectionModel, model_name: str) -> None:
    """Write the state as torch.save does, plain tensors by name."""
    state = {name: tensor.contiguous() for name, tensor in to_published(model.state_dict(), model_name).items()}
    buffer = io.BytesIO()  # where the disk is full, torch's own writer may end the process
    torch.save(state, buffer)
    path.write_bytes(buffer.getbuffer())
