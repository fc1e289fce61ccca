"""One image with what it holds, as it travels from the annotation file through augmentation to the letterbox."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from detector.data.outlines import Outlines


@dataclass(eq=False)
class Sample:
    """An image and its objects; boxes are in the frame of `image` as it is now (augmentation changes both together).

    image: (height, width, 3) uint8 RGB; boxes: (n, 4) float32 xyxy pixels; labels: (n,) int64 in 0..C-1;
    crowd_boxes: (m, 4) float32 xyxy pixels, `iscrowd` regions: neither objects nor background; outlines: of the objects, where
    they make a difference.
    """

    image: UInt8[np.ndarray, "height width 3"]
    boxes: Float32[np.ndarray, "n 4"]
    labels: Int64[np.ndarray, " n"]
    crowd_boxes: Float32[np.ndarray, "m 4"]
    outlines: Outlines | None = None
