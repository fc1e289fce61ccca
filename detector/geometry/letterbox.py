"""The only resize-and-pad, and its exact inverse."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

PAD_VALUE = 114
"""Grey level of the padding, as in the published recipe."""


@dataclass(frozen=True)
class Letterbox:
    """Fits a picture into a frame: aspect ratio kept, centred, the rest grey.

    `width`, `height`: the original picture in pixels; `frame_width`, `frame_height`: the network input in pixels.
    A box goes original -> frame by `to_frame` and back by `to_original`; both use the scales that the resize really had
    (sides are rounded to whole pixels, so x and y may differ in the last digits), which makes the inverse exact.
    """

    width: int
    height: int
    frame_width: int
    frame_height: int

    @property
    def resized(self) -> tuple[int, int]:
        """Width and height of the picture inside the frame, whole pixels, at least 1."""
        if self.frame_width * self.height <= self.frame_height * self.width:
            side, of = self.frame_width, self.width
        else:
            side, of = self.frame_height, self.height
        # in whole numbers, so that every runtime rounds the same way: half a pixel up
        width, height = ((2 * length * side + of) // (2 * of) for length in (self.width, self.height))
        return max(width, 1), max(height, 1)

    @property
    def scale(self) -> tuple[float, float]:
        """Frame pixels per original pixel, in x and y."""
        resized_width, resized_height = self.resized
        return resized_width / self.width, resized_height / self.height

    @property
    def offset(self) -> tuple[int, int]:
        """Left and top padding in frame pixels."""
        resized_width, resized_height = self.resized
        return (self.frame_width - resized_width) // 2, (self.frame_height - resized_height) // 2

    def image(self, picture: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "frame_height frame_width 3"]:
        """The picture in the frame, bilinear."""
        if (self.width, self.height) == (self.frame_width, self.frame_height):
            return picture
        resized_width, resized_height = self.resized
        left, top = self.offset
        if (resized_width, resized_height) != (self.width, self.height):
            picture = cv2.resize(picture, (resized_width, resized_height), interpolation=cv2.INTER_LINEAR)
        frame = np.full((self.frame_height, self.frame_width, 3), PAD_VALUE, dtype=np.uint8)
        frame[top : top + resized_height, left : left + resized_width] = picture
        return frame

    def to_frame(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        """Boxes xyxy from pixels of the original picture to pixels of the frame."""
        return boxes * boxes.new_tensor(self.scale * 2) + boxes.new_tensor(self.offset * 2)

    def to_original(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        """Boxes xyxy from pixels of the frame to pixels of the original picture, clipped to the picture."""
        boxes = (boxes - boxes.new_tensor(self.offset * 2)) / boxes.new_tensor(self.scale * 2)
        return boxes.clamp_min(0).minimum(boxes.new_tensor((self.width, self.height) * 2))

    def cells_inside(self, rows: int, columns: int) -> tuple[slice, slice]:
        """Of a grid of equal cells over the frame, the rows and columns whose centres lie in the picture or on its border.

        In a direction in which the picture lies between two centres, the one that holds its middle.
        """
        resized_width, resized_height = self.resized
        left, top = self.offset
        return (
            _cells_within(rows / self.frame_height, top, top + resized_height),
            _cells_within(columns / self.frame_width, left, left + resized_width),
        )

    def map_to_original(
        self, values: Float32[np.ndarray, "rows columns"]
    ) -> Float32[np.ndarray, "original_height original_width"]:
        """A map over the frame, in equal cells of any size, as a value for each pixel of the original; bilinear.

        A cell's value is that of its centre. Cells on the padding are left out: where a picture's border lies farther out than the
        last centre of `cells_inside`, that one's value goes on to the border.
        """
        inside = self.cells_inside(*values.shape)
        beyond = [(cells.start, size - cells.stop) for cells, size in zip(inside, values.shape, strict=True)]
        frame = np.pad(values[inside], beyond, mode="edge")
        frame = cv2.resize(frame, (self.frame_width, self.frame_height), interpolation=cv2.INTER_LINEAR)
        resized_width, resized_height = self.resized
        left, top = self.offset
        picture = frame[top : top + resized_height, left : left + resized_width]
        return cv2.resize(picture, (self.width, self.height), interpolation=cv2.INTER_LINEAR)


def _cells_within(cells_per_pixel: float, start: int, end: int) -> slice:
    """The cells of one direction whose centres lie from `start` to `end`, pixels of the frame; see `cells_inside`."""
    first, last = math.ceil(start * cells_per_pixel - 0.5), math.floor(end * cells_per_pixel - 0.5)
    if first > last:
        first = last = int((start + end) / 2 * cells_per_pixel)
    return slice(first, last + 1)
