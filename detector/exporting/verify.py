"""Whether an exported file says what the model says, on real pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from detector.errors import ExportMismatchError
from detector.geometry.frame_size import FrameSize
from detector.geometry.letterbox import Letterbox
from detector.inference.postprocess import select
from detector.models.base import DetectionModel, scale_pixels
from detector.structures import Predictions

LARGEST_BOX_DIFFERENCE = 0.5
"""Pixels of the network input, over all anchors."""
LARGEST_SCORE_DIFFERENCE = 1e-3

Runner = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Comparison:
    """Largest differences over all anchors, and how many detections (score from 0.25, after NMS) either side found."""

    pictures: int
    box_difference: float
    score_difference: float
    model_detections: int
    file_detections: int

    def passes(self) -> bool:
        # written so that NaN fails
        return (
            self.box_difference <= LARGEST_BOX_DIFFERENCE
            and self.score_difference <= LARGEST_SCORE_DIFFERENCE
            and self.pictures > 0
        )

    def __str__(self) -> str:
        return (
            f"on {self.pictures} pictures the boxes differ by up to {self.box_difference:.2g} px (allowed"
            f" {LARGEST_BOX_DIFFERENCE}) and the scores by up to {self.score_difference:.2g} (allowed"
            f" {LARGEST_SCORE_DIFFERENCE}); detections: model {self.model_detections}, file {self.file_detections}"
        )


@torch.no_grad()
def compare(
    model: DetectionModel,
    run: Runner,
    pictures: Sequence[UInt8[np.ndarray, "_h _w 3"]],
    sizes: Sequence[FrameSize],
) -> Comparison:
    """Run both on every picture, letterboxed to each of `sizes`."""
    box_difference = score_difference = 0.0
    counts = [0, 0]
    for picture in pictures:
        for size in sizes:
            frame = Letterbox(picture.shape[1], picture.shape[0], size.width, size.height).image(picture)
            images = scale_pixels(torch.from_numpy(frame).permute(2, 0, 1)[None]).contiguous()
            expected: Predictions = model(images)
            got = Predictions(*run(images))
            if got.boxes.shape != expected.boxes.shape or got.scores.shape != expected.scores.shape:
                raise ExportMismatchError(
                    f"the file's outputs have shapes {tuple(got.boxes.shape)}, {tuple(got.scores.shape)}, the model's"
                    f" {tuple(expected.boxes.shape)}, {tuple(expected.scores.shape)}"
                )
            box_difference = largest(box_difference, got.boxes - expected.boxes)
            score_difference = largest(score_difference, got.scores - expected.scores)
            for side, predictions in enumerate((expected, got)):
                counts[side] += sum(len(scores) for _, scores, _ in select(predictions, 0.25, 0.7, 300))
    return Comparison(len(pictures), box_difference, score_difference, counts[0], counts[1])


def shipped_pictures() -> list[Path]:
    """The photographs that come with the package."""
    return sorted((Path(__file__).parent / "pictures").glob("*.jpg"))


def largest(so_far: float, difference: Tensor) -> float:
    """The larger of two largest differences; NaN if there is one."""
    return torch.maximum(torch.tensor(so_far), difference.abs().max()).item()
