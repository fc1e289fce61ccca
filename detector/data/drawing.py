"""A training image as a plan: which sources lie where, what lies over them, its colors and flips. No pixel is computed yet.

`Composition.drawn` computes them with OpenCV, one image at a time; `data.device_drawing` with PyTorch, a batch at a time.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

from detector.data.outlines import Outlines
from detector.data.sample import Sample
from detector.data.warp import Homography, warp_into
from detector.images.input_size import InputSize
from detector.images.letterbox import PAD_VALUE


@dataclass(frozen=True)
class Part:
    """A source image and where it comes to lie.

    image: (h, w, 3) uint8 RGB; matrix: from its pixels to the output's; region: left, top, right, bottom of what it fills of the
    output, in whole pixels, where it is not turned; None: all that the turned image covers.
    """

    image: UInt8[np.ndarray, "h w 3"]
    matrix: Homography
    region: tuple[int, int, int, int] | None


@dataclass(frozen=True)
class Layer:
    """Parts on gray, the later ones over the earlier ones.

    transparency: how much of the layers below shows through: a fraction everywhere, or (height, width) where all of them does.
    """

    parts: tuple[Part, ...]
    transparency: float | Bool[np.ndarray, "height width"] = 0.0


@dataclass(frozen=True)
class Drawing:
    """The layers, from below, that make up an image of `size`; then its colors are multiplied by `colors`, RGB to RGB, and it is
    flipped."""

    size: InputSize
    layers: tuple[Layer, ...]
    colors: Float64[np.ndarray, "3 3"] | None = None
    mirrored: bool = False
    upside_down: bool = False

    def under(self, other: "Drawing", transparency: float | Bool[np.ndarray, "height width"]) -> tuple[Layer, ...]:
        """The layers with the only one of `other` on top."""
        (above,) = other.layers
        return (*self.layers, Layer(above.parts, transparency))

    def pixels(self) -> UInt8[np.ndarray, "height width 3"]:
        """The image, drawn with OpenCV."""
        image = self._drawn(self.layers[0])
        for layer in self.layers[1:]:
            above, through = self._drawn(layer), layer.transparency
            if isinstance(through, float):
                image = cv2.addWeighted(image, through, above, 1 - through, 0.0)
            else:
                np.copyto(image, above, where=~through[..., None])
        if self.colors is not None:
            image = cv2.transform(image, self.colors)
        for flipped, axis in ((self.mirrored, 1), (self.upside_down, 0)):
            if flipped:
                image = cv2.flip(image, axis)
        return image

    def _drawn(self, layer: Layer) -> UInt8[np.ndarray, "height width 3"]:
        canvas = np.full((*self.size, 3), PAD_VALUE, dtype=np.uint8)
        for part in layer.parts:
            if part.region is None:
                warp_into(canvas, part.image, part.matrix)
            else:
                _place_into(canvas, part.image, part.matrix, part.region)
        return canvas


@dataclass(frozen=True)
class Composition:
    """A training image that is still to be drawn, and its objects: those of a `Sample`, in pixels of the network input."""

    drawing: Drawing
    boxes: Float32[np.ndarray, "n 4"]
    labels: Int64[np.ndarray, " n"]
    crowd_boxes: Float32[np.ndarray, "m 4"]
    outlines: Outlines | None = None

    def drawn(self) -> Sample:
        return Sample(self.drawing.pixels(), self.boxes, self.labels, self.crowd_boxes, self.outlines)


def _place_into(
    canvas: UInt8[np.ndarray, "height width 3"],
    image: UInt8[np.ndarray, "h w 3"],
    matrix: Homography,
    region: tuple[int, int, int, int],
) -> None:
    """Fill the region of the canvas with the image, scaled and shifted by `matrix`."""
    left, top, right, bottom = region
    (scale_x, _, x), (_, scale_y, y) = matrix[:2].tolist()
    # output pixel u, with its center at u + 0.5, sees the source at (u + 0.5 - offset) / scale - 0.5
    back = np.array(
        [[1 / scale_x, 0, (left + 0.5 - x) / scale_x - 0.5], [0, 1 / scale_y, (top + 0.5 - y) / scale_y - 0.5]]
    )
    canvas[top:bottom, left:right] = cv2.warpAffine(
        image,
        back,
        (right - left, bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
