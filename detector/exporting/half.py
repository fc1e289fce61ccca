"""Weights files in half precision: half the size, for sharing; computed with in float32 as any other."""

from pathlib import Path

import torch
from torch import Tensor

from detector.exporting.verify import Runner
from detector.models.base import DetectionModel
from detector.weights.files import WeightsInfo, load_weights, save_weights


def write_half(path: Path, model: DetectionModel, info: WeightsInfo) -> Runner:
    """Write the weights file; returns what runs the network in it."""
    save_weights(path, model, info, half=True)
    loaded, _ = load_weights(path)

    @torch.no_grad()
    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = loaded(images)
        return boxes, scores

    return run
