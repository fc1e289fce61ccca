"""What the network is shown in training, as pictures for people."""

from detector.config import TrainConfig
from detector.data.coco import CocoImages
from detector.data.loader import TrainingPictures, collate
from detector.data.sampler import EpochSampler, SampleKey
from detector.structures import Batch

MOST_PICTURES = 16


def augmented_batch(config: TrainConfig, images: CocoImages, epoch: int) -> Batch:
    """The first pictures of the first batch of `epoch` (from 0), as the loader makes them; empty if none is readable."""
    settings = config.train
    assert settings.batch_size != "auto"  # a run's configuration holds what was measured
    pictures = TrainingPictures(images, settings.image_size, config.augment.for_model(config.model), settings.seed)
    sampler = EpochSampler(len(images), settings.batch_size, settings.seed)
    sampler.epoch, sampler.mosaic = epoch, epoch < config.mosaic_epochs
    keys: list[SampleKey] = next(iter(sampler))
    return collate([pictures[key] for key in keys[:MOST_PICTURES]])
