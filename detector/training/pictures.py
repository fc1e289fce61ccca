"""The pictures that the network is shown in training, and in which order."""

from detector.config import TrainConfig
from detector.data.coco import CocoImages
from detector.data.loader import TrainingPictures, collate
from detector.data.sampler import EpochSampler, repeat_factors
from detector.geometry.frame_size import FrameSize
from detector.structures import Batch
from detector.training.distributed import World

MOST_PICTURES = 16


def training_pictures(
    config: TrainConfig,
    images: CocoImages,
    cache_gb: float = 0.0,
    world: World = World(),  # noqa: B008, it is frozen
) -> tuple[TrainingPictures, EpochSampler]:
    """As `config` says; cache_gb: GiB of memory for decoded pictures, shared out to the processes of this machine."""
    settings = config.train
    assert settings.batch_size != "auto"  # a run's configuration holds what was measured
    factors = None
    if settings.repeat_threshold > 0:
        factors = repeat_factors([images.labels(index) for index in range(len(images))], settings.repeat_threshold)
    augment = config.augment.for_model(config.model)
    pictures = TrainingPictures(
        images,
        settings.image_size,
        augment,
        settings.seed,
        factors,
        cache_gb / world.local_size,
        settings.multi_scale,
    )
    sampler = EpochSampler(
        len(images) if factors is None else factors,
        settings.batch_size,
        settings.seed,
        world.rank,
        world.size,
        scales=FrameSize.of(settings.image_size).scales(settings.multi_scale),
    )
    return pictures, sampler


def augmented_batch(config: TrainConfig, images: CocoImages, epoch: int) -> Batch:
    """The first pictures of the first batch of `epoch` (from 0), as the loader makes them; empty if none is readable."""
    pictures, sampler = training_pictures(config, images)
    sampler.epoch, sampler.closing = epoch, epoch >= config.full_epochs
    return collate([pictures[key] for key in next(iter(sampler))[:MOST_PICTURES]])
