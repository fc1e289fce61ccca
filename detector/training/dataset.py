"""The images that the network sees in training, and in which order."""

from dataclasses import replace

from detector.config import TrainConfig
from detector.data.coco import CocoDataset
from detector.data.loader import TrainDataset, collate
from detector.data.sampler import EpochSampler, repeat_factors
from detector.data.tiles import labels_in, training_views, view_factors, whole_images
from detector.images.input_size import InputSize
from detector.structures import Batch
from detector.training.distributed import World

MAX_IMAGES = 16
"""Maximum number of images that `augmented_batch` shows by default."""


def build_train_dataset(
    config: TrainConfig,
    dataset: CocoDataset,
    cache_gb: float = 0.0,
    world: World = World(),  # noqa: B008, it is frozen
) -> tuple[TrainDataset, EpochSampler]:
    """The augmented dataset and its sampler; cache_gb: GiB for decoded images, split among the processes of this machine."""
    assert config.batch_size != "auto"  # a run's configuration holds what was measured
    settings = config.train
    views, factors = whole_images(dataset), None
    if settings.tiles is not None:
        views = training_views(dataset, settings.tiles, settings.overlap)
        factors = view_factors(views, labels_in(dataset, views))
    if settings.repeat_threshold > 0:
        repeats = repeat_factors(labels_in(dataset, views), settings.repeat_threshold)
        factors = repeats if factors is None else factors * repeats
    augmented = TrainDataset(
        dataset,
        config.image_size,
        config.augment.for_model(config.model),
        config.seed,
        factors,
        cache_gb / world.local_size,
        settings.multi_scale,
        views,
    )
    sampler = EpochSampler(
        len(views) if factors is None else factors,
        config.batch_size,
        config.seed,
        world.rank,
        world.size,
        scales=InputSize.of(config.image_size).scales(settings.multi_scale),
    )
    return augmented, sampler


def augmented_batch(config: TrainConfig, dataset: CocoDataset, epoch: int, limit: int = MAX_IMAGES) -> Batch:
    """The first images of the first batch of `epoch` (from 0), as the loader makes them; empty if none is readable. They are
    drawn on the CPU."""
    augmented, sampler = build_train_dataset(replace(config, augment=replace(config.augment, device="cpu")), dataset)
    sampler.set_epoch(epoch, weak_aug=epoch >= config.full_aug_epochs)
    batch = collate([augmented[key] for key in next(iter(sampler))[:limit]])
    assert isinstance(batch, Batch)
    return batch
