"""What whole numbers (int8) are fitted to: pictures of the training split, and how far a file's detections are from the model's."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8

from detector.config import PathsConfig
from detector.data.coco import CocoImages
from detector.data.splits import split_paths
from detector.errors import DataError
from detector.geometry.boxes import box_area, intersection_area
from detector.geometry.frame_size import FrameSize
from detector.geometry.letterbox import Letterbox
from detector.structures import Predictions

PICTURES = 96
"""Enough for the ranges of the network's values; so many of the split, evenly spread."""
LIMIT = 0.03
"""Of `disturbance`: parts are left in float to stay within it."""
MEASURED = 16
"""Pictures that it is measured on."""

Frames = Sequence[UInt8[np.ndarray, "height width 3"]]
"""Letterboxed pictures, RGB."""


def calibration_frames(data: str, size: FrameSize, judged: CocoImages) -> Frames:
    """Pictures of the training split, none of those that the file is judged on.

    Raises DataError if there is no such split, or nothing is left of it, or nothing can be read.
    """
    train = CocoImages.load(split_paths(data, PathsConfig(), "train"), judged.categories)
    taken = {judged.path(i).resolve() for i in range(len(judged))}
    free = [i for i in range(len(train)) if train.path(i).resolve() not in taken]
    if not free:
        raise DataError(
            f"{train.annotations_path}: every picture is in {judged.annotations_path}, too; int8 needs others to calibrate on"
        )
    chosen = np.linspace(0, len(free) - 1, min(PICTURES, len(free))).round().astype(int)
    pictures = (sample.image for _, sample in train.readable(free[i] for i in chosen))
    frames = [Letterbox(p.shape[1], p.shape[0], size.width, size.height).image(p) for p in pictures]
    if not frames:
        raise DataError(f"{train.annotations_path}: none of the {len(chosen)} pictures to calibrate on can be read")
    return frames


def disturbance(expected: Predictions, got: Predictions) -> float:
    """How far predictions for the same pictures are apart, 0 if not at all: 1 - IoU of an anchor's two boxes and the difference
    of its scores, in the mean over anchors, weighed by the better of the two scores."""
    shared = intersection_area(expected.boxes, got.boxes)
    ious = shared / (box_area(expected.boxes) + box_area(got.boxes) - shared).clamp_min(1e-6)
    best, got_best = expected.scores.amax(2), got.scores.amax(2)
    weights = best.maximum(got_best)
    apart = (1 - ious) + (expected.scores - got.scores).abs().amax(2)
    return float((weights * apart).sum() / weights.sum())


def a_few(frames: Frames) -> Frames:
    """At most `MEASURED` of them, evenly spread."""
    return frames[:: -(-len(frames) // MEASURED)]


def joined(found: Sequence[Predictions]) -> Predictions:
    """Of several pictures, in one."""
    return Predictions(torch.cat([some.boxes for some in found]), torch.cat([some.scores for some in found]))


def note(error: float, floats: str) -> None:
    """Says what was left in float and why."""
    print(f"int8: predictions are {error:.3f} apart from float's (aim {LIMIT}); left in float: {floats or 'no layer'}")
