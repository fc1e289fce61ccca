"""What the int8 writers share: calibration images, and how far quantized predictions are from the model's."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8

from detector.boxes import box_area, intersection_area
from detector.structures import Predictions

MAX_ERROR = 0.03
"""Largest `quantization_error` aimed at: layers stay in float to keep within it."""
MAX_MEASURED = 16
"""Maximum number of images on which the error is measured."""

CalibrationImages = Sequence[UInt8[np.ndarray, "height width 3"]]
"""Letterboxed images, RGB."""


def quantization_error(expected: Predictions, got: Predictions) -> float:
    """How far predictions for the same images are apart, 0 if not at all: 1 - IoU of an anchor's two boxes and the difference
    of its scores, in the mean over anchors, weighed by the better of the two scores."""
    shared = intersection_area(expected.boxes, got.boxes)
    ious = shared / (box_area(expected.boxes) + box_area(got.boxes) - shared).clamp_min(1e-6)
    best, got_best = expected.scores.amax(2), got.scores.amax(2)
    weights = best.maximum(got_best)
    apart = (1 - ious) + (expected.scores - got.scores).abs().amax(2)
    return float((weights * apart).sum() / weights.sum())


def subsample(images: CalibrationImages) -> CalibrationImages:
    """Pick at most `MAX_MEASURED` images, evenly spread."""
    return images[:: -(-len(images) // MAX_MEASURED)]


def concat_predictions(found: Sequence[Predictions]) -> Predictions:
    """Predictions of several images as one batch."""
    return Predictions(torch.cat([some.boxes for some in found]), torch.cat([some.scores for some in found]))


def print_int8_report(error: float, floats: str) -> None:
    """Print the error and which layers stay in float."""
    print(f"int8: predictions are {error:.3f} apart from float's (aim {MAX_ERROR}); in float: {floats or 'no layer'}")
