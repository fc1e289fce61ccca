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


@dataclass(frozen=True)
class Tolerance:
    """What may differ: scores of all anchors by up to `score`, and boxes by up to `box` pixels of the network input, of
    those anchors whose best score with the model is at least `box_from_score`."""

    box: float
    score: float
    box_from_score: float


FLOAT32 = Tolerance(box=0.5, score=1e-3, box_from_score=0.0)
HALF = Tolerance(box=1.0, score=0.05, box_from_score=0.25)
"""Rounding the weights of a trained yolo11n moved the boxes of such anchors by up to 0.25 px, those of empty background by
4 px, and scores by up to 0.02; its AP on 87 pictures went from 0.5799 to 0.5792."""

Runner = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Comparison:
    """Largest differences, and how many detections (score from 0.25, after NMS) either side found."""

    pictures: int
    box_difference: float
    score_difference: float
    model_detections: int
    file_detections: int
    tolerance: Tolerance = FLOAT32

    def passes(self) -> bool:
        # written so that NaN fails
        return (
            self.box_difference <= self.tolerance.box
            and self.score_difference <= self.tolerance.score
            and self.pictures > 0
        )

    def __str__(self) -> str:
        allowed = self.tolerance
        return (
            f"on {self.pictures} pictures the boxes of score {allowed.box_from_score:g} or more differ by up to"
            f" {self.box_difference:.2g} px (allowed {allowed.box}) and the scores by up to {self.score_difference:.2g}"
            f" (allowed {allowed.score}); detections: model {self.model_detections}, file {self.file_detections}"
        )


@torch.no_grad()
def compare(
    model: DetectionModel,
    run: Runner,
    pictures: Sequence[UInt8[np.ndarray, "_h _w 3"]],
    sizes: Sequence[FrameSize],
    tolerance: Tolerance = FLOAT32,
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
            counted = expected.scores.amax(dim=2) >= tolerance.box_from_score
            box_difference = largest(box_difference, (got.boxes - expected.boxes)[counted])
            score_difference = largest(score_difference, got.scores - expected.scores)
            for side, predictions in enumerate((expected, got)):
                counts[side] += sum(len(scores) for _, scores, _ in select(predictions, 0.25, 0.7, 300))
    return Comparison(len(pictures), box_difference, score_difference, counts[0], counts[1], tolerance)


def shipped_pictures() -> list[Path]:
    """The photographs that come with the package."""
    return sorted((Path(__file__).parent / "pictures").glob("*.jpg"))


def largest(so_far: float, difference: Tensor) -> float:
    """The larger of two largest differences; NaN if there is one."""
    return torch.cat((torch.tensor([so_far]), difference.abs().flatten())).max().item()
