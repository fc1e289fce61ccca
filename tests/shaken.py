"""Detections near the truth: what a network might find that is neither perfect nor blind."""

import numpy as np
import torch

from detector.data.coco import CocoDataset
from detector.structures import Detections


def shaken(dataset: CocoDataset, noise: float, seed: int) -> dict[int, Detections]:
    """The objects, moved and some missed, with scores at random; by the index of the image."""
    rng, found = np.random.default_rng(seed), {}
    for index in range(len(dataset)):
        boxes, labels = dataset.boxes(index), dataset.labels(index)
        kept = rng.random(len(boxes)) > noise
        sides = boxes[:, 2:] - boxes[:, :2]
        moved = boxes + np.tile(sides, 2) * rng.normal(0, noise, boxes.shape)
        scores = np.sort(rng.random(kept.sum()))[::-1].astype(np.float32)
        found[index] = Detections(
            torch.from_numpy(moved[kept].astype(np.float32)),
            torch.from_numpy(scores.copy()),
            torch.from_numpy(labels[kept]),
            dataset.categories,
        )
    return found
