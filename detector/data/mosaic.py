"""Where images come to lie in a training image, each warped once, straight into the output (`data.drawing` draws it).

A mosaic joins four images at a random point of a canvas twice the output's size; the canvas is then scaled about its
center and shifted. Both steps are a scaling and a shift, so each source has one `Placement`, and no canvas is made. A homography
may follow, which turns all of them together.
Source: the mosaic of Bochkovskiy et al., YOLOv4, 2020, section 3.3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from detector.config import AugmentConfig
from detector.data.drawing import Composition, Drawing, Layer, Part
from detector.data.outlines import Outlines, joined
from detector.data.sample import Sample
from detector.data.warp import Homography, visible_boxes
from detector.images.input_size import InputSize

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

    @property
    def matrix(self) -> Homography:
        return np.array([[self.scale, 0, self.x], [0, self.scale, self.y], [0, 0, 1]])


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


def compose(
    samples: Sequence[Sample],
    placements: Sequence[Placement],
    input_size: InputSize,
    turn: Homography | None = None,
) -> Composition:
    """The training image, of the size of `input_size`, and what is visible in it; boxes in its pixels.

    turn: of the output, after the placements. Outlines are kept where all samples have them, also of parts out of view.
    """
    parts, boxes, labels, crowds, outlines = [], [], [], [], []
    for sample, placement in zip(samples, placements, strict=True):
        part = _part(sample.image, placement, input_size, turn)
        if part is not None:
            parts.append(part)
        visible, kept = _visible(sample.boxes, sample.outlines, placement, turn, input_size, MIN_VISIBLE_FRACTION)
        boxes.append(visible)
        labels.append(sample.labels[kept])
        crowds.append(_visible(sample.crowd_boxes, None, placement, turn, input_size, 0.0)[0])
        if sample.outlines is not None:
            matrix = placement.matrix if turn is None else turn @ placement.matrix
            outlines.append(sample.outlines.chosen(kept).mapped(matrix))
    together = joined(outlines, [len(each) for each in boxes]) if len(outlines) == len(samples) else None
    drawing = Drawing(input_size, (Layer(tuple(parts)),))
    return Composition(drawing, np.concatenate(boxes), np.concatenate(labels), np.concatenate(crowds), together)


def mix_up(first: Composition, second: Composition, rng: np.random.Generator) -> Composition:
    """Two images of one size blended, about half of each; the objects of both stay.

    Source: Zhang et al., mixup, 2018; objects kept at full weight as in Zhang et al., Bag of Freebies for Training
    Object Detection, 2019, section 3.1.
    """
    layers = first.drawing.under(second.drawing, rng.beta(MIXUP_BETA, MIXUP_BETA))
    boxes = np.concatenate((first.boxes, second.boxes))
    crowd_boxes = np.concatenate((first.crowd_boxes, second.crowd_boxes))
    labels = np.concatenate((first.labels, second.labels))
    return Composition(replace(first.drawing, layers=layers), boxes, labels, crowd_boxes)


def _part(
    image: UInt8[np.ndarray, "h w 3"], placement: Placement, input_size: InputSize, turn: Homography | None
) -> Part | None:
    """The image in its place; None where it is out of view."""
    height, width = image.shape[:2]
    if turn is not None:
        small = _shrunk(image, placement.scale)
        ratio = np.array([width, height]) / small.shape[1::-1]
        return Part(small, turn @ placement.matrix @ np.diag([*ratio, 1]), None)
    left, right = (round(placement.x + placement.scale * x) for x in (0, width))
    top, bottom = (round(placement.y + placement.scale * y) for y in (0, height))
    region = max(left, 0), max(top, 0), min(right, input_size.width), min(bottom, input_size.height)
    if region[0] >= region[2] or region[1] >= region[3]:
        return None
    small = _shrunk(image, placement.scale)
    scales = placement.scale * width / small.shape[1], placement.scale * height / small.shape[0]
    return Part(small, np.array([[scales[0], 0, placement.x], [0, scales[1], placement.y], [0, 0, 1]]), region)


def _shrunk(image: UInt8[np.ndarray, "h w 3"], scale: float) -> UInt8[np.ndarray, "new_h new_w 3"]:
    """The image by a whole factor smaller, if it is to be drawn by `scale` so small that bilinear sampling would skip pixels."""
    height, width = image.shape[:2]
    shrink = int(1 / scale)
    if shrink < 2:
        return image
    return cv2.resize(image, (max(width // shrink, 1), max(height // shrink, 1)), interpolation=cv2.INTER_AREA)


def _visible(
    boxes: Float32[np.ndarray, "n 4"],
    outlines: Outlines | None,
    placement: Placement,
    turn: Homography | None,
    input_size: InputSize,
    min_fraction: float,
) -> tuple[Float32[np.ndarray, "m 4"], np.ndarray]:
    """The boxes moved and clipped to the output, and the indices of those that are still worth learning."""
    if turn is None:
        return _visible_boxes(boxes, placement, input_size, min_fraction)
    around = Outlines.of_boxes(boxes) if outlines is None else outlines
    visible, fraction = visible_boxes(around, turn @ placement.matrix, input_size)
    large = (visible[:, 2:] - visible[:, :2] >= MIN_SIDE).all(axis=1)
    kept = np.flatnonzero((fraction >= min_fraction) & large)
    return visible[kept].astype(np.float32), kept


def _visible_boxes(
    boxes: Float32[np.ndarray, "n 4"], placement: Placement, input_size: InputSize, min_fraction: float
) -> tuple[Float32[np.ndarray, "m 4"], np.ndarray]:
    """`_visible` without a homography."""
    offset = np.array([placement.x, placement.y] * 2, dtype=np.float32)
    moved = boxes * np.float32(placement.scale) + offset
    clipped = moved.clip(0, np.array([input_size.width, input_size.height] * 2, dtype=np.float32))
    extent, visible = moved[:, 2:] - moved[:, :2], clipped[:, 2:] - clipped[:, :2]
    enough = visible.prod(axis=1) >= min_fraction * extent.prod(axis=1)
    kept = np.flatnonzero(enough & (visible >= MIN_SIDE).all(axis=1))
    return clipped[kept], kept
