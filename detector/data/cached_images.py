"""Training images before they are placed: no larger than the mosaic can show, kept in memory where there is room."""

import os

import cv2
import numpy as np
from jaxtyping import Int64, UInt8

from detector.data.cache import ImageCache, starts
from detector.data.coco import CocoDataset
from detector.data.sample import Sample
from detector.images.read import read_image
from detector.utils.memory import free_memory

GIB = 2**30
MEMORY_FRACTION = 0.5
"""Largest part of the memory free at the start of the run that the cache may take."""


class CachedImages:
    """The images of a split with their longer side at most `longest` pixels, whether they come from memory or the disk.

    cache_gb: memory for them in GiB; 0 reads the file each time.
    """

    def __init__(self, dataset: CocoDataset, longest: int, cache_gb: float = 0.0) -> None:
        self._dataset = dataset
        self._longest = longest
        self._cache: ImageCache | None = None
        self.message = ""
        """One line on how many images the cache has room for; empty without one."""
        if cache_gb > 0:
            self._cache, self.message = _open_cache(np.array([self.size(i) for i in range(len(dataset))]), cache_gb)

    def __len__(self) -> int:
        return len(self._dataset)

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) in pixels, shrunk."""
        return shrunk_size(self._dataset.size(index), self._longest)

    def read(self, index: int) -> Sample:
        """The image, shrunk, and its objects in the same frame; the image may be read-only.

        Raises UnreadableImageError as `read_image` does.
        """
        dataset, path, original = self._dataset, self._dataset.image(index), self._dataset.size(index)
        size = self.size(index)

        def decode() -> UInt8[np.ndarray, "height width 3"]:
            image = read_image(path, original)
            return image if size == original else cv2.resize(image, size, interpolation=cv2.INTER_AREA)

        image = decode() if self._cache is None else self._cache.read(index, path, decode)
        ratio = np.array([size[0] / original[0], size[1] / original[1]] * 2, dtype=np.float32)
        return Sample(image, dataset.boxes(index) * ratio, dataset.labels(index), dataset.crowd_boxes(index) * ratio)


def shrunk_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """(width, height) with the longer side at most `longest`, whole pixels, at least 1."""
    ratio = min(longest / max(size), 1.0)
    return max(round(size[0] * ratio), 1), max(round(size[1] * ratio), 1)


def _open_cache(sizes: Int64[np.ndarray, "images 2"], cache_gb: float) -> tuple[ImageCache | None, str]:
    """A cache for images of `sizes`, (width, height) in pixels, and the line that says how many it has room for."""
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
        return cache, f"image cache: room for all {len(sizes)} training images ({needed / GIB:.2f} GiB)"
    limit = "" if allowed == int(cache_gb * GIB) else ", half of the memory that is free"
    return cache, (
        f"image cache: room for {cache.room} of {len(sizes)} training images"
        f" ({allowed / GIB:.2f} GiB{limit}); all need --train.cache_gb {needed / GIB + 0.01:.2f}"
    )
