"""Where images come to lie in a training image, each warped once, straight into the output.

A mosaic joins four images at a random point of a canvas twice the output's size; the canvas is then scaled about its
center and shifted. Both steps are a scaling and a shift, so each source has one `Placement`, and no canvas is made.
Source: the mosaic of Bochkovskiy et al., YOLOv4, 2020, section 3.3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from detector.config import AugmentConfig
from detector.data.sample import Sample
from detector.images.input_size import InputSize
from detector.images.letterbox import PAD_VALUE

MIN_SIDE = 2.0
"""Pixels: an object with a shorter visible side is dropped."""
MIN_VISIBLE_FRACTION = 0.1
"""An object of which less than this fraction stays visible is dropped."""
MIXUP_BETA = 32.0
"""Both parameters of the Beta distribution of the blend's ratio, as in the published recipe: about 0.5 each."""


@dataclass(frozen=True)
class Placement:
    """Source pixels to output pixels: out = scale · source + (x, y), measured at pixel corners, not centers."""

    scale: float
    x: float
    y: float


def place_single(size: tuple[int, int], input_size: InputSize, factor: float, shift: tuple[float, float]) -> Placement:
    """One image of `size` (width, height): fitted into `input_size`, scaled by `factor`, center shifted by `shift` pixels."""
    width, height = size
    scale = min(factor * input_size.width / width, factor * input_size.height / height)
    x, y = input_size.width / 2 + shift[0] - scale * width / 2, input_size.height / 2 + shift[1] - scale * height / 2
    return Placement(scale, x, y)


def place_mosaic(
    sizes: Sequence[tuple[int, int]],
    input_size: InputSize,
    joint: tuple[float, float],
    factor: float,
    shift: tuple[float, float],
) -> list[Placement]:
    """Four images of `sizes` (width, height) that meet at `joint` on a canvas twice `input_size`, top left, top right, bottom
    left, bottom right; each is scaled to fit into `input_size`. The canvas is scaled by `factor` about its center, which comes
    to lie in the output's center plus `shift` pixels.
    """
    placements = []
    for i, (width, height) in enumerate(sizes):
        scale = min(input_size.width / width, input_size.height / height)
        left = joint[0] - (scale * width if i % 2 == 0 else 0)
        top = joint[1] - (scale * height if i < 2 else 0)
        x = factor * (left - input_size.width) + input_size.width / 2 + shift[0]
        y = factor * (top - input_size.height) + input_size.height / 2 + shift[1]
        placements.append(Placement(factor * scale, x, y))
    return placements


def random_placements(
    sizes: Sequence[tuple[int, int]], input_size: InputSize, config: AugmentConfig, rng: np.random.Generator
) -> list[Placement]:
    """Placements drawn as `config` says: a mosaic for four sizes, else the single image."""
    assert not isinstance(config.scale, dict), "AugmentConfig.for_model makes it a number"
    factor = rng.uniform(1 - config.scale, 1 + config.scale)
    reach_x, reach_y = config.translate * input_size.width, config.translate * input_size.height
    shift = (rng.uniform(-reach_x, reach_x), rng.uniform(-reach_y, reach_y))
    if len(sizes) == 1:
        return [place_single(sizes[0], input_size, factor, shift)]
    joint = (
        rng.uniform(input_size.width / 2, 3 * input_size.width / 2),
        rng.uniform(input_size.height / 2, 3 * input_size.height / 2),
    )
    return place_mosaic(sizes, input_size, joint, factor, shift)


def longest_source_side(input_size: InputSize, config: AugmentConfig) -> int:
    """Pixels: a source image whose longer side has more is shrunk by every placement."""
    assert not isinstance(config.scale, dict), "AugmentConfig.for_model makes it a number"
    return math.ceil(max(input_size) * (1 + config.scale))


def compose(samples: Sequence[Sample], placements: Sequence[Placement], input_size: InputSize) -> Sample:
    """The training image, of the size of `input_size`, and what is visible in it; boxes in its pixels."""
    canvas = np.full((*input_size, 3), PAD_VALUE, dtype=np.uint8)
    boxes, labels, crowds = [], [], []
    for sample, placement in zip(samples, placements, strict=True):
        _warp_into(canvas, sample.image, placement)
        visible, kept = _visible_boxes(sample.boxes, placement, input_size, MIN_VISIBLE_FRACTION)
        boxes.append(visible)
        labels.append(sample.labels[kept])
        crowds.append(_visible_boxes(sample.crowd_boxes, placement, input_size, 0.0)[0])
    return Sample(canvas, np.concatenate(boxes), np.concatenate(labels), np.concatenate(crowds))


def mix_up(first: Sample, second: Sample, ratio: float) -> Sample:
    """Two images of one size blended, `ratio` of the first and the rest of the second; the objects of both stay.

    Source: Zhang et al., mixup, 2018; objects kept at full weight as in Zhang et al., Bag of Freebies for Training
    Object Detection, 2019, section 3.1.
    """
    image = cv2.addWeighted(first.image, ratio, second.image, 1 - ratio, 0.0)
    pairs = ((getattr(first, name), getattr(second, name)) for name in ("boxes", "labels", "crowd_boxes"))
    return Sample(image, *(np.concatenate(pair) for pair in pairs))


def _warp_into(
    canvas: UInt8[np.ndarray, "height width 3"], image: UInt8[np.ndarray, "h w 3"], placement: Placement
) -> None:
    height, width = image.shape[:2]
    left, right = (round(placement.x + placement.scale * x) for x in (0, width))
    top, bottom = (round(placement.y + placement.scale * y) for y in (0, height))
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, canvas.shape[1]), min(bottom, canvas.shape[0])
    if left >= right or top >= bottom:
        return
    scale, shrink = placement.scale, int(1 / placement.scale)
    if shrink >= 2:  # bilinear sampling alone would skip pixels: average them first
        image = cv2.resize(image, (max(width // shrink, 1), max(height // shrink, 1)), interpolation=cv2.INTER_AREA)
    scale_x, scale_y = scale * width / image.shape[1], scale * height / image.shape[0]
    # output pixel u, with its center at u + 0.5, sees the source at (u + 0.5 - offset) / scale - 0.5
    matrix = np.array(
        [
            [1 / scale_x, 0, (left + 0.5 - placement.x) / scale_x - 0.5],
            [0, 1 / scale_y, (top + 0.5 - placement.y) / scale_y - 0.5],
        ]
    )
    canvas[top:bottom, left:right] = cv2.warpAffine(
        image,
        matrix,
        (right - left, bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _visible_boxes(
    boxes: Float32[np.ndarray, "n 4"], placement: Placement, input_size: InputSize, min_fraction: float
) -> tuple[Float32[np.ndarray, "m 4"], np.ndarray]:
    """The boxes moved and clipped to the output, and the indices of those that are still worth learning."""
    offset = np.array([placement.x, placement.y] * 2, dtype=np.float32)
    moved = boxes * np.float32(placement.scale) + offset
    clipped = moved.clip(0, np.array([input_size.width, input_size.height] * 2, dtype=np.float32))
    extent, visible = moved[:, 2:] - moved[:, :2], clipped[:, 2:] - clipped[:, :2]
    enough = visible.prod(axis=1) >= min_fraction * extent.prod(axis=1)
    kept = np.flatnonzero(enough & (visible >= MIN_SIDE).all(axis=1))
    return clipped[kept], kept
