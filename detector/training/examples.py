"""The images that a run hands to its callbacks: what the network sees, and what it detects."""

from itertools import islice

from detector.images.draw import contact_sheet, draw_detections
from detector.images.grids import fitted, plot_batch
from detector.inference.detector import Detector
from detector.training.callbacks import Images
from detector.training.checkpoint import TrainState
from detector.training.dataset import augmented_batch
from detector.training.setup import Run

COLUMNS, ROWS, CELL = 2, 2, 480
"""Validation images on a plot, and the side of each in pixels."""


def first_batch(run: Run) -> Images:
    """A plot of the first images that the network will see."""
    batch = augmented_batch(run.config, run.train_dataset, epoch=0)
    return {"training batch": plot_batch(batch, run.train_dataset.categories)} if len(batch.images) > 0 else {}


def first_detections(run: Run, state: TrainState) -> Images:
    """A plot of the first validation images with what the EMA weights detect in them."""
    dataset, size = run.val_dataset, run.config.image_size
    detector = Detector(state.ema.model, run.train_dataset.categories, size, device=str(run.device))
    samples = islice(dataset.readable(range(len(dataset))), COLUMNS * ROWS)
    images = [fitted(sample.image, CELL)[0] for _, sample in samples]
    plots = [draw_detections(image, detections) for image, detections in zip(images, detector(images), strict=True)]
    return {"validation images": contact_sheet(plots, COLUMNS, (CELL, CELL))} if plots else {}
