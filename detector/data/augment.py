"""What is done to a training image once it is placed: flips and colors."""

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float32, Float64

from detector.config import AugmentConfig
from detector.data.drawing import Composition

TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
"""RGB to luma and two axes of color, which are 0 for gray. Source: the NTSC color space (FCC, 1953)."""


def flip_and_adjust_colors(image: Composition, config: AugmentConfig, rng: np.random.Generator) -> Composition:
    """The image flipped and with other colors, as `config` says; all randomness comes from `rng`."""
    mirrored = bool(rng.random() < config.fliplr)
    turn = rng.uniform(-config.hue, config.hue)
    saturation = rng.uniform(1 - config.saturation, 1 + config.saturation)
    brightness = rng.uniform(1 - config.brightness, 1 + config.brightness)
    upside_down = bool(config.flipud > 0 and rng.random() < config.flipud)
    colors = color_matrix(turn, saturation, brightness)
    drawing = replace(image.drawing, colors=colors, mirrored=mirrored, upside_down=upside_down)
    boxes, crowd_boxes = image.boxes, image.crowd_boxes
    for flipped, axis, side in ((mirrored, 0, drawing.size.width), (upside_down, 1, drawing.size.height)):
        if flipped:
            boxes, crowd_boxes = (_flip_boxes(each, axis, side) for each in (boxes, crowd_boxes))
    return Composition(drawing, boxes, image.labels, crowd_boxes)


def color_matrix(turn: float, saturation: float, brightness: float) -> Float64[np.ndarray, "3 3"]:
    """RGB to RGB: colors turned by `turn` circles and multiplied by `saturation`, with luma unchanged; then all multiplied
    by `brightness`. One matrix and one rounding, where steps of their own would round and clip after each."""
    sine, cosine = saturation * math.sin(2 * math.pi * turn), saturation * math.cos(2 * math.pi * turn)
    colors = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    return np.asarray(brightness * np.linalg.inv(TO_YIQ) @ colors @ TO_YIQ)


def _flip_boxes(boxes: Float32[np.ndarray, "n 4"], axis: int, side: int) -> Float32[np.ndarray, "n 4"]:
    """Boxes of the flipped image; axis: 0 for x; side: that of the image, in pixels."""
    flipped = boxes.copy()
    flipped[:, [axis, axis + 2]] = side - boxes[:, [axis + 2, axis]]
    return flipped
