"""Large images as overlapping windows: those that `--tiles` looks through, and those that training is shown."""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from detector.data.coco import CocoDataset
from detector.data.mosaic import MIN_VISIBLE_FRACTION


class Window(NamedTuple):
    """Part of an image in its pixels, xyxy."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.right - self.left, self.bottom - self.top


def windows(width: int, height: int, side: int, overlap: float) -> list[Window]:
    """Windows that cover an image, row by row; all of one size: `side`, or less where the image is smaller.

    The next one begins `side` · (1 - `overlap`) pixels on, the last one of a row or column ends with the image.
    """
    step = max(round(side * (1 - overlap)), 1)
    wide, high = min(side, width), min(side, height)
    lefts = [min(i * step, width - wide) for i in range(ceil((width - wide) / step) + 1)]
    tops = [min(i * step, height - high) for i in range(ceil((height - high) / step) + 1)]
    return [Window(left, top, left + wide, top + high) for top in tops for left in lefts]


def whole_images(dataset: CocoDataset) -> Int64[np.ndarray, "images 5"]:
    """A view for each image, of all of it: its index, and left, top, right, bottom of the window in pixels."""
    return np.array([(index, 0, 0, *dataset.size(index)) for index in range(len(dataset))], np.int64)


def training_views(dataset: CocoDataset, side: int, overlap: float) -> Int64[np.ndarray, "views 5"]:
    """What training is shown of a split in the place of its images, image by image, as in `whole_images`."""
    return np.array(
        [
            (index, *window)
            for index in range(len(dataset))
            for window in training_windows(dataset.size(index), dataset.boxes(index), side, overlap)
        ],
        np.int64,
    )


def training_windows(
    size: tuple[int, int], boxes: Float32[np.ndarray, "n 4"], side: int, overlap: float
) -> list[Window]:
    """The windows of an image in which each object is seen whole at least once, as a network that looks by `windows` meets them.

    1. Those of `windows`, through which each object no longer than the overlap is seen whole.
    2. For each object that none of them shows whole, though it fits: one with the object in its middle.
    3. The whole image, if an object is longer than the overlap: there detection takes such objects from, too.

    An image no larger than a window is one window. size: (width, height); boxes: xyxy pixels.
    """
    places = windows(*size, side, overlap)
    if len(places) == 1:
        return places
    outer = np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], axis=1).astype(np.int64)
    lacking = ((outer[:, 2:] - outer[:, :2]) <= places[0].size).all(axis=1)
    lacking &= ~np.any([shows(place, boxes) for place in places], axis=0)
    while lacking.any():
        box = outer[lacking.argmax()].tolist()
        (wide, high), middle = places[0].size, ((box[0] + box[2]) // 2, (box[1] + box[3]) // 2)
        left, top = (
            min(max(at - length // 2, end - length, 0), start, limit - length)
            for at, length, start, end, limit in zip(middle, (wide, high), box[:2], box[2:], size, strict=True)
        )
        places.append(Window(left, top, left + wide, top + high))
        lacking &= ~shows(places[-1], boxes)
    if (boxes[:, 2:] - boxes[:, :2]).max(initial=0) > side * overlap:
        places.append(Window(0, 0, *size))
    return places


def shows(place: Window, boxes: Float32[np.ndarray, "n 4"]) -> Bool[np.ndarray, " n"]:
    """Which boxes, xyxy, lie in the window."""
    return np.asarray((boxes[:, :2] >= place[:2]).all(axis=1) & (boxes[:, 2:] <= place[2:]).all(axis=1))


def within(
    boxes: Float32[np.ndarray, "n 4"], place: Window, min_fraction: float = MIN_VISIBLE_FRACTION
) -> tuple[Float32[np.ndarray, "m 4"], Int64[np.ndarray, " m"]]:
    """The parts of the boxes, xyxy, that the window shows, in its pixels, and whose parts they are: of those of which it shows
    `min_fraction` at least."""
    corner, end = (np.array(each * 2, np.float32) for each in (place[:2], place[2:]))
    parts = boxes.clip(corner, end)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (parts, boxes)]
    kept = np.flatnonzero((areas[0] > 0) & (areas[0] >= min_fraction * areas[1]))
    return parts[kept] - corner, kept


def labels_in(dataset: CocoDataset, views: Int64[np.ndarray, "views 5"]) -> list[Int64[np.ndarray, " n"]]:
    """The labels of what each view shows."""
    found = []
    for image, *window in views.tolist():
        _, kept = within(dataset.boxes(image), Window(*window))
        found.append(dataset.labels(image)[kept])
    return found


def view_factors(
    views: Int64[np.ndarray, "views 5"], labels: Sequence[Int64[np.ndarray, " _n"]]
) -> Float64[np.ndarray, " views"] | None:
    """How often each view comes in an epoch on average: once, but of the windows of larger images that show no object only as
    many as of those that do. None if all come once. labels: those of each view."""
    divided = np.bincount(views[:, 0])[views[:, 0]] > 1
    bare = np.array([len(each) == 0 for each in labels])
    full, empty = (int(np.count_nonzero(divided & each)) for each in (~bare, bare))
    if empty <= max(full, 1):
        return None
    factors = np.ones(len(views))
    factors[divided & bare] = max(full, 1) / empty
    return factors
