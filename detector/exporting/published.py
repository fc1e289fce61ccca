"""The state under the names of the published checkpoints, for programs that load those."""

import io
from pathlib import Path

import torch
from torch import Tensor

from detector.exporting.verify import Runner
from detector.models.base import DetectionModel
from detector.models.catalog import create_model
from detector.weights.importers import from_published, to_published


def write_published(path: Path, model: DetectionModel, model_name: str) -> Runner:
    """Write the state as torch.save does, plain tensors by name; returns what runs the network that the file holds."""
    state = {name: tensor.contiguous() for name, tensor in to_published(model.state_dict(), model_name).items()}
    buffer = io.BytesIO()  # where the disk is full, torch's own writer may end the process
    torch.save(state, buffer)
    path.write_bytes(buffer.getbuffer())
    loaded = create_model(model_name, model.head.num_classes).eval()
    loaded.load_state_dict(from_published(torch.load(path, weights_only=True), model_name))

    @torch.no_grad()
    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = loaded(images)
        return boxes, scores

    return run
