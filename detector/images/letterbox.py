"""The only resize-and-pad, and its exact inverse."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

PAD_VALUE = 114
"""Gray level of the padding, as in the published recipe."""


@dataclass(frozen=True)
class Letterbox:
    """Fits an image into the network input: aspect ratio kept, centered, the rest gray.

    `width`, `height`: the original image in pixels; `input_width`, `input_height`: the network input in pixels.
    A box goes original -> input by `to_input` and back by `to_original`; both use the scales that the resize really had
    (sides are rounded to whole pixels, so x and y may differ in the last digits), which makes the inverse exact.
    """

    width: int
    height: int
    input_width: int
    input_height: int

    @property
    def resized(self) -> tuple[int, int]:
        """Width and height of the image inside the input, whole pixels, at least 1."""
        if self.input_width * self.height <= self.input_height * self.width:
            side, of = self.input_width, self.width
        else:
            side, of = self.input_height, self.height
        # in integers, so that every runtime rounds the same way: half a pixel up
        width, height = ((2 * length * side + of) // (2 * of) for length in (self.width, self.height))
        return max(width, 1), max(height, 1)

    @property
    def scale(self) -> tuple[float, float]:
        """Input pixels per original pixel, in x and y."""
        resized_width, resized_height = self.resized
        return resized_width / self.width, resized_height / self.height

    @property
    def offset(self) -> tuple[int, int]:
        """Left and top padding in input pixels."""
        resized_width, resized_height = self.resized
        return (self.input_width - resized_width) // 2, (self.input_height - resized_height) // 2

    def apply(self, image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "input_height input_width 3"]:
        """The image on the network input, bilinear."""
        if (self.width, self.height) == (self.input_width, self.input_height):
            return image
        resized_width, resized_height = self.resized
        left, top = self.offset
        if (resized_width, resized_height) != (self.width, self.height):
            image = cv2.resize(image, (resized_width, resized_height), interpolation=cv2.INTER_LINEAR)
        canvas = np.full((self.input_height, self.input_width, 3), PAD_VALUE, dtype=np.uint8)
        canvas[top : top + resized_height, left : left + resized_width] = image
        return canvas

    def to_input(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        """Boxes xyxy from pixels of the original image to pixels of the input."""
        return boxes * boxes.new_tensor(self.scale * 2) + boxes.new_tensor(self.offset * 2)

    def to_original(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        """Boxes xyxy from pixels of the input to pixels of the original image, clipped to the image."""
        boxes = (boxes - boxes.new_tensor(self.offset * 2)) / boxes.new_tensor(self.scale * 2)
        return boxes.clamp_min(0).minimum(boxes.new_tensor((self.width, self.height) * 2))

    def cells_inside(self, rows: int, columns: int) -> tuple[slice, slice]:
        """Rows and columns, of a grid of equal cells over the input, whose centers lie in the image or on its border.

        In a direction in which the image lies between two centers, the one that holds its middle.
        """
        resized_width, resized_height = self.resized
        left, top = self.offset
        return (
            _cells_within(rows / self.input_height, top, top + resized_height),
            _cells_within(columns / self.input_width, left, left + resized_width),
        )

    def map_to_original(
        self, values: Float32[np.ndarray, "rows columns"]
    ) -> Float32[np.ndarray, "original_height original_width"]:
        """A map over the input, in equal cells of any size, as a value for each pixel of the original; bilinear.

        A cell's value is that of its center. Cells on the padding are not used: where an image's border lies farther out than the
        last center of `cells_inside`, that one's value goes on to the border.
        """
        inside = self.cells_inside(*values.shape)
        beyond = [(cells.start, size - cells.stop) for cells, size in zip(inside, values.shape, strict=True)]
        canvas = np.pad(values[inside], beyond, mode="edge")
        canvas = cv2.resize(canvas, (self.input_width, self.input_height), interpolation=cv2.INTER_LINEAR)
        resized_width, resized_height = self.resized
        left, top = self.offset
        image = canvas[top : top + resized_height, left : left + resized_width]
        return cv2.resize(image, (self.width, self.height), interpolation=cv2.INTER_LINEAR)


def _cells_within(cells_per_pixel: float, start: int, end: int) -> slice:
    """The cells of one direction whose centers lie from `start` to `end`, pixels of the input; see `cells_inside`."""
    first, last = math.ceil(start * cells_per_pixel - 0.5), math.floor(end * cells_per_pixel - 0.5)
    if first > last:
        first = last = int((start + end) / 2 * cells_per_pixel)
    return slice(first, last + 1)
