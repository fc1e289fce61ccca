"""Samples as the compositions that augmentation works on."""

import numpy as np

from detector.data.drawing import Composition, Drawing, Layer, Part
from detector.data.sample import Sample
from detector.images.input_size import InputSize


def planned(sample: Sample) -> Composition:
    """Whose pixels are those of the sample."""
    size = InputSize(*sample.image.shape[:2])
    part = Part(sample.image, np.eye(3), (0, 0, size.width, size.height))
    objects = sample.boxes, sample.labels, sample.crowd_boxes, sample.outlines
    return Composition(Drawing(size, (Layer((part,)),)), *objects)
