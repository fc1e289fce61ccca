"""Images of the training split on which int8 is calibrated."""

import numpy as np

from detector.data.coco import CocoDataset
from detector.data.load import load_split
from detector.errors import DataError
from detector.formats.int8 import CalibrationImages
from detector.images.input_size import InputSize
from detector.images.letterbox import Letterbox

MAX_IMAGES = 96
"""Maximum number of images, spread evenly over the split; enough for the ranges of the network's values."""


def calibration_images(data: str, size: InputSize, judged: CocoDataset) -> CalibrationImages:
    """Images of the training split, none of those that the file is judged on.

    Raises DataError if there is no such split, or nothing is left of it, or nothing can be read.
    """
    train = load_split(data, "train", judged.categories)
    taken = {judged.path(i).resolve() for i in range(len(judged))}
    free = [i for i in range(len(train)) if train.path(i).resolve() not in taken]
    if not free:
        raise DataError(
            f"{train.annotations_path}: every image is in {judged.annotations_path}, too; int8 needs others to calibrate on"
        )
    chosen = np.linspace(0, len(free) - 1, min(MAX_IMAGES, len(free))).round().astype(int)
    readable = (sample.image for _, sample in train.readable(free[i] for i in chosen))
    inputs = [Letterbox(p.shape[1], p.shape[0], size.width, size.height).apply(p) for p in readable]
    if not inputs:
        raise DataError(f"{train.annotations_path}: none of the {len(chosen)} images to calibrate on can be read")
    return inputs
