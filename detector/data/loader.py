"""Training batches: read, place, augment, collate. All randomness of a picture follows from (seed, epoch, picture)."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from detector.config import AugmentConfig, LoaderConfig
from detector.data.augment import Pipeline, mirror_and_recolour
from detector.data.coco import CocoImages
from detector.data.mosaic import compose, longest_source_side, random_placements
from detector.data.pictures import UnreadablePictureError
from detector.data.sample import Sample
from detector.data.sources import SourcePictures
from detector.data.workers import start_worker, worker_count
from detector.structures import Batch, Targets


class SampleKey(NamedTuple):
    """Names one training picture of a run."""

    epoch: int
    picture: int
    mosaic: bool


class TrainingItem(NamedTuple):
    """What a worker hands back: the sample, or None if no picture of it was readable, and a line for each unreadable one."""

    sample: Sample | None
    unreadable: tuple[str, ...]


class TrainingPictures(Dataset[TrainingItem]):
    """Augmented training pictures of side x side pixels; the same key gives the same picture in any process.

    sources: the pictures before, kept in at most `cache_gb` GiB of memory.
    """

    def __init__(self, images: CocoImages, side: int, config: AugmentConfig, seed: int, cache_gb: float = 0.0) -> None:
        self.sources = SourcePictures(images, longest_source_side(side, config), cache_gb)
        self._side = side
        self._config = config
        self._seed = seed
        self._pipeline = Pipeline(config.transforms) if config.transforms else None

    def __getitem__(self, key: SampleKey) -> TrainingItem:
        rng = np.random.default_rng((self._seed, key.epoch, key.picture))
        indices = [key.picture]
        if key.mosaic and rng.random() < self._config.mosaic:
            indices += rng.integers(len(self.sources), size=3).tolist()
        samples, unreadable = [], []
        for index in indices:
            try:
                samples.append(self.sources.read(index))
            except UnreadablePictureError as error:
                unreadable.append(str(error))
        if not samples:
            return TrainingItem(None, tuple(unreadable))
        if len(samples) < 4:
            samples = samples[:1]
        sizes = [(sample.image.shape[1], sample.image.shape[0]) for sample in samples]
        placements = random_placements(sizes, self._side, self._config, rng)
        sample = compose(samples, placements, self._side)
        sample = mirror_and_recolour(sample, self._config, rng)
        if self._pipeline is not None:
            sample = self._pipeline(sample, rng)
        return TrainingItem(sample, tuple(unreadable))


class EpochSampler(Sampler[list[SampleKey]]):
    """Batches of keys in an order that follows from (seed, epoch); set `epoch` and `mosaic` before iterating."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.epoch = 0
        self.mosaic = True
        self._count = count
        self._batch_size = batch_size
        self._seed = seed

    def __len__(self) -> int:
        return -(-self._count // self._batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order = np.random.default_rng((self._seed, self.epoch)).permutation(self._count)
        for start in range(0, self._count, self._batch_size):
            indices = order[start : start + self._batch_size].tolist()
            yield [SampleKey(self.epoch, picture, self.mosaic) for picture in indices]


def collate(items: list[TrainingItem]) -> Batch:
    """Stack what was readable; the images lie in memory with their channels last, as the networks take them."""
    samples = [item.sample for item in items if item.sample is not None]
    targets = tuple(
        Targets(torch.from_numpy(s.boxes), torch.from_numpy(s.labels), torch.from_numpy(s.crowd_boxes)) for s in samples
    )
    unreadable = tuple(line for item in items for line in item.unreadable)
    if not samples:
        return Batch(torch.empty(0, 3, 0, 0, dtype=torch.uint8), (), unreadable)
    images: Tensor = default_collate(
        [torch.from_numpy(sample.image) for sample in samples]
    )  # a worker's: shared memory
    return Batch(images.permute(0, 3, 1, 2), targets, unreadable)


def training_loader(
    dataset: TrainingPictures, sampler: Sampler[list[SampleKey]], config: LoaderConfig, pin_memory: bool
) -> "DataLoader[TrainingItem]":
    """A loader of `Batch`es whose workers live as long as it does."""
    workers = worker_count(config)
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=start_worker,
    )
