"""What the network would be shown by a configuration, without a training."""

import dataclasses
from pathlib import Path

from PIL import Image

from detector.config import PreviewConfig
from detector.data.load import load_split
from detector.errors import DataError, printable
from detector.images.grids import plot_batch
from detector.training.dataset import augmented_batch
from detector.utils.fileio import atomic_write, require_writable

IMAGES, COLUMNS, CELL = 32, 8, 320
"""Images on a plot, those in a row, and the side of each in pixels."""


def preview_augment(config: PreviewConfig) -> list[Path]:
    """Draw training images as the loader makes them in the first epoch, and in the last if it has weak augmentation.

    Returns the files. Raises DetectorError kinds for what the user can fix.
    """
    require_writable(Path(config.out))
    dataset = load_split(config.data, "train", paths=config.paths, polygons=config.augment.needs_outlines)
    for line in dataset.problems:
        print(printable(line))
    shown = dataclasses.replace(config, batch_size=IMAGES)
    epochs = {"full": 0}
    if 0 < config.full_aug_epochs < config.epochs:
        epochs["weak"] = config.epochs - 1
    written = []
    for name, epoch in epochs.items():
        batch = augmented_batch(shown, dataset, epoch, IMAGES)
        if len(batch.images) == 0:
            raise DataError(f"no image can be read, the first: {batch.unreadable[0]}; correct --data")
        plot = Image.fromarray(plot_batch(batch, dataset.categories, COLUMNS, CELL))
        path = Path(config.out) / f"augmentation-{name}.png"
        atomic_write(path, lambda temporary, plot=plot: plot.save(temporary, format="PNG"))  # type: ignore[misc]
        written.append(path)
    return written
