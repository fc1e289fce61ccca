"""Training images before they are placed: no larger than the mosaic can show, kept in memory where there is room."""

import os
from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Float32, Int64, UInt8

from detector.data.cache import ImageCache, starts
from detector.data.coco import CocoDataset
from detector.data.outlines import Outlines
from detector.data.sample import Sample
from detector.data.shared import share
from detector.data.tiles import Window, shows, whole_images, within
from detector.images.read import read_image
from detector.utils.memory import free_memory

GIB = 2**30
MEMORY_FRACTION = 0.5
"""Largest part of the memory free at the start of the run that the cache may take."""

Pixels = UInt8[np.ndarray, "height width 3"]
"""Made once: the functions inside `CachedImages.read` are defined anew, and their annotations looked at, with every image."""


class CachedImages:
    """The images of a split, or windows of them, with their longer side at most `longest` pixels, from memory or the disk.

    cache_gb: memory for them in GiB; 0 reads the file each time; views: see `whole_images`, which is the default; outlines:
    whether samples have them.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        longest: int,
        cache_gb: float = 0.0,
        views: Int64[np.ndarray, "views 5"] | None = None,
        outlines: bool = False,
    ) -> None:
        self._dataset = dataset
        self._longest = longest
        self._outlines = outlines
        views = whole_images(dataset) if views is None else views
        what = "training images" if len(views) == len(dataset) else "windows of the training images"
        self._views = share(views)
        self._first = share(np.searchsorted(views[:, 0], np.arange(len(dataset) + 1)))
        self._cache: ImageCache | None = None
        self.message = ""
        """One line on how many images the cache has room for; empty without one."""
        if cache_gb > 0:
            sizes = np.array([self.size(i) for i in range(len(views))])
            self._cache, self.message = _open_cache(sizes, cache_gb, what)

    def __len__(self) -> int:
        return len(self._views)

    def view(self, index: int) -> tuple[int, Window]:
        """The index of the image in the split, and the part of it."""
        image, *window = self._views[index].tolist()
        return image, Window(*window)

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) in pixels, shrunk."""
        return shrunk_size(self.view(index)[1].size, self._longest)

    def read(self, index: int) -> Sample:
        """The image, shrunk, and its objects in the same frame; the image may be read-only.

        Raises UnreadableImageError as `read_image` does.
        """
        dataset, (image, place) = self._dataset, self.view(index)
        path, whole = dataset.image(image), np.zeros((0, 0, 3), np.uint8)

        def decode() -> Pixels:
            nonlocal whole
            whole = read_image(path, dataset.size(image))
            return self._cut(whole, index)

        def beside() -> Iterator[tuple[int, Pixels]]:
            first, end = self._first[image : image + 2].tolist()
            return ((each, self._cut(whole, each)) for each in range(first, end) if each != index)

        pixels = decode() if self._cache is None else self._cache.read(index, path, decode, beside)
        size = self.size(index)
        ratio = np.array([size[0] / place.size[0], size[1] / place.size[1]] * 2, dtype=np.float32)
        boxes, kept = within(dataset.boxes(image), place)
        crowd_boxes, _ = within(dataset.crowd_boxes(image), place, 0)
        sample = Sample(pixels, boxes * ratio, dataset.labels(image)[kept], crowd_boxes * ratio)
        if self._outlines:
            sample.outlines = self._outlines_in(image, place, kept, boxes).mapped(np.diag([*ratio[:2], 1.0]))
        return sample

    def _outlines_in(
        self, image: int, place: Window, kept: Int64[np.ndarray, " m"], boxes: Float32[np.ndarray, "m 4"]
    ) -> Outlines:
        """In a window those of objects that it shows whole, and of parts that it shows the boxes."""
        to_window = np.array([[1.0, 0, -place.left], [0, 1, -place.top], [0, 0, 1]])
        outlines = self._dataset.outlines(image).chosen(kept).mapped(to_window)
        cut = np.flatnonzero(~shows(place, self._dataset.boxes(image)[kept]))
        return outlines.without(cut).with_boxes(cut, boxes[cut])

    def _cut(self, whole: UInt8[np.ndarray, "h w 3"], index: int) -> UInt8[np.ndarray, "height width 3"]:
        """A view of a decoded image."""
        (left, top, right, bottom), size = self.view(index)[1], self.size(index)
        part = whole[top:bottom, left:right]
        return part if size == part.shape[1::-1] else cv2.resize(part, size, interpolation=cv2.INTER_AREA)


def shrunk_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """(width, height) with the longer side at most `longest`, whole pixels, at least 1."""
    ratio = min(longest / max(size), 1.0)
    return max(round(size[0] * ratio), 1), max(round(size[1] * ratio), 1)


def _open_cache(sizes: Int64[np.ndarray, "images 2"], cache_gb: float, what: str) -> tuple[ImageCache | None, str]:
    """A cache for images of `sizes`, (width, height) in pixels, and the line that says how many it has room for; what: their
    name there."""
    if not hasattr(os, "memfd_create"):
        return None, "image cache: none, because it takes Linux; images are read from the disk each time"
    first, *_, needed = starts(sizes).tolist()
    allowed = min(int(cache_gb * GIB), int(MEMORY_FRACTION * free_memory()))
    try:
        cache = ImageCache(sizes, allowed) if allowed > first else None
    except OSError:
        cache = None
    if cache is None:
        return None, "image cache: none, too little memory is free; images are read from the disk each time"
    if allowed >= needed:
        return cache, f"image cache: room for all {len(sizes)} {what} ({needed / GIB:.2f} GiB)"
    limit = "" if allowed == int(cache_gb * GIB) else ", half of the memory that is free"
    return cache, (
        f"image cache: room for {cache.room} of {len(sizes)} {what}"
        f" ({allowed / GIB:.2f} GiB{limit}); all need --train.cache_gb {needed / GIB + 0.01:.2f}"
    )
