"""The images that the network sees in training, and in which order."""

from detector.config import TrainConfig
from detector.data.coco import CocoDataset
from detector.data.loader import TrainDataset, collate
from detector.data.sampler import EpochSampler, repeat_factors
from detector.images.input_size import InputSize
from detector.structures import Batch
from detector.training.distributed import World

MAX_IMAGES = 16
"""Maximum number of images that `augmented_batch` shows."""


def build_train_dataset(
    config: TrainConfig,
    dataset: CocoDataset,
    cache_gb: float = 0.0,
    world: World = World(),  # noqa: B008, it is frozen
) -> tuple[TrainDataset, EpochSampler]:
    """The augmented dataset and its sampler; cache_gb: GiB for decoded images, split among the processes of this machine."""
    assert config.batch_size != "auto"  # a run's configuration holds what was measured
    settings = config.train
    factors = None
    if settings.repeat_threshold > 0:
        factors = repeat_factors([dataset.labels(index) for index in range(len(dataset))], settings.repeat_threshold)
    augmented = TrainDataset(
        dataset,
        config.image_size,
        config.augment.for_model(config.model),
        config.seed,
        factors,
        cache_gb / world.local_size,
        settings.multi_scale,
    )
    sampler = EpochSampler(
        len(dataset) if factors is None else factors,
        config.batch_size,
        config.seed,
        world.rank,
        world.size,
        scales=InputSize.of(config.image_size).scales(settings.multi_scale),
    )
    return augmented, sampler


def augmented_batch(config: TrainConfig, dataset: CocoDataset, epoch: int) -> Batch:
    """The first images of the first batch of `epoch` (from 0), as the loader makes them; empty if none is readable."""
    augmented, sampler = build_train_dataset(config, dataset)
    sampler.set_epoch(epoch, weak_aug=epoch >= config.full_aug_epochs)
    return collate([augmented[key] for key in next(iter(sampler))[:MAX_IMAGES]])
