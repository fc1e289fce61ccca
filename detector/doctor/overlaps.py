"""Pairs of boxes of one image that nearly coincide."""

import numpy as np
from jaxtyping import Float64, Int64


def coinciding_pairs(
    images: Int64[np.ndarray, " boxes"], xywh: Float64[np.ndarray, "boxes 4"], min_iou: float
) -> Int64[np.ndarray, "pairs 2"]:
    """The pairs of boxes of one image with an IoU of `min_iou` or more, each as two indices, the smaller first.

    images: the image of each box. Boxes in the order of their left sides are compared with the ones that follow, until a
    left side is too far away for that IoU: with some dozen boxes an image this takes time linear in their number.
    """
    order = np.lexsort((xywh[:, 0], images))
    images, (x, y, w, h) = images[order], xywh[order].T
    reach = x + (1 - min_iou) * w
    active = np.arange(len(order))
    pairs = [np.zeros((0, 2), np.int64)]
    for distance in range(1, len(order)):
        active = active[active + distance < len(order)]
        other = active + distance
        active = active[(images[other] == images[active]) & (x[other] <= reach[active])]
        if not len(active):
            break
        other = active + distance
        wide = np.minimum(x[active] + w[active], x[other] + w[other]) - np.maximum(x[active], x[other])
        high = np.minimum(y[active] + h[active], y[other] + h[other]) - np.maximum(y[active], y[other])
        common = wide.clip(0) * high.clip(0)
        union = w[active] * h[active] + w[other] * h[other] - common
        close = common >= min_iou * union
        pairs.append(np.sort(order[np.column_stack((active[close], other[close]))], axis=1))
    found: Int64[np.ndarray, "pairs 2"] = np.concatenate(pairs)
    return found[np.lexsort((found[:, 1], found[:, 0]))]
