"""The images that a run hands to its callbacks: what the network sees, and what it detects."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice

import numpy as np
from jaxtyping import UInt8

from detector.data.coco import CocoDataset
from detector.images.draw import contact_sheet, draw_detections
from detector.images.grids import fitted, plot_batch
from detector.images.read import UnreadableImageError
from detector.inference.detector import Detector
from detector.inference.tiles import with_tiles
from detector.training.callbacks import Images
from detector.training.checkpoint import TrainState
from detector.training.dataset import augmented_batch
from detector.training.setup import Run

COLUMNS, ROWS, CELL = 2, 2, 320
"""Validation images on a plot, and the side of each in pixels."""


def first_batch(run: Run) -> Images:
    """A plot of the first images that the network will see."""
    batch = augmented_batch(run.config, run.train_dataset, epoch=0)
    return {"training batch": plot_batch(batch, run.train_dataset.categories)} if len(batch.images) > 0 else {}


def first_detections(run: Run, state: TrainState) -> Images:
    """A plot of the first validation images with what the EMA weights detect in them."""
    detector = Detector(state.ema.model, run.train_dataset.categories, run.config.image_size, device=str(run.device))
    used, plots = with_tiles(detector, run.config.train), []
    for original in islice(readable_images(run.val_dataset), COLUMNS * ROWS):
        image, factor = fitted(original, CELL)
        detections = used(original)
        plots.append(draw_detections(image, replace(detections, boxes=detections.boxes * factor)))
    return {"validation images": contact_sheet(plots, COLUMNS, (CELL, CELL))} if plots else {}


def readable_images(dataset: CocoDataset) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """The images of a split in order; validation has named the others."""
    for index in range(len(dataset)):
        with suppress(UnreadableImageError):
            yield dataset.read(index).image
