"""Training batches: read, place, augment, collate. All randomness of a picture follows from the seed and its key."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from detector.config import AugmentConfig, LoaderConfig
from detector.data.augment import Pipeline, mirror_and_recolour
from detector.data.coco import CocoImages
from detector.data.mosaic import MIXUP_BETA, compose, longest_source_side, mix_up, random_placements
from detector.data.pictures import UnreadablePictureError
from detector.data.sample import Sample
from detector.data.sampler import SampleKey
from detector.data.sources import SourcePictures
from detector.data.workers import start_worker, worker_count
from detector.geometry.frame_size import FrameSize
from detector.structures import Batch, Targets


class TrainingItem(NamedTuple):
    """What a worker hands back: the sample, or None if no picture of it was readable; a line for each unreadable one; and
    the indices of the pictures that the sample is made of."""

    sample: Sample | None
    unreadable: tuple[str, ...]
    sources: tuple[int, ...]


class TrainingPictures(Dataset[TrainingItem]):
    """Augmented training pictures; the same key gives the same picture in any process.

    image_size: in pixels, the side of a square or (height, width); factors: see `repeat_factors`; a picture joins the
    mosaics of others in proportion to its factor, too; sources: the pictures before, kept in at most `cache_gb` GiB of
    memory; multi_scale: how much larger or smaller than image_size a key may ask for.
    """

    def __init__(
        self,
        images: CocoImages,
        image_size: int | tuple[int, int],
        config: AugmentConfig,
        seed: int,
        factors: Float64[np.ndarray, " pictures"] | None = None,
        cache_gb: float = 0.0,
        multi_scale: float = 0.0,
    ) -> None:
        self._odds = None if factors is None else np.cumsum(factors) / factors.sum()
        self._frame = FrameSize.of(image_size)
        largest = self._frame.scaled(max(self._frame.scales(multi_scale)))
        self.sources = SourcePictures(images, longest_source_side(largest, config), cache_gb)
        self._config, self._closing = config, config.closing()
        self._seed = seed
        self._pipeline = Pipeline(config.transforms) if config.transforms else None

    def __getitem__(self, key: SampleKey) -> TrainingItem:
        rng = np.random.default_rng((self._seed, key.epoch, key.picture, key.repeat))
        config = self._closing if key.closing else self._config
        assert not isinstance(config.mixup, dict), "AugmentConfig.for_model makes it a number"
        used: list[int] = []
        unreadable: list[str] = []
        frame = self._frame.scaled(key.scale)
        sample = self._composed(key.picture, frame, config, rng, used, unreadable)
        if config.mixup > 0 and rng.random() < config.mixup:
            other = self._composed(self._others(1, rng)[0], frame, config, rng, used, unreadable)
            if sample is not None and other is not None:
                sample = mix_up(sample, other, rng.beta(MIXUP_BETA, MIXUP_BETA))
        if sample is not None:
            sample = mirror_and_recolour(sample, config, rng)
        transformed = not key.closing or rng.random() < config.closing_strength
        if sample is not None and self._pipeline is not None and transformed:
            sample = self._pipeline(sample, rng)
        return TrainingItem(sample, tuple(unreadable), tuple(used))

    def _composed(
        self,
        picture: int,
        frame: FrameSize,
        config: AugmentConfig,
        rng: np.random.Generator,
        used: list[int],
        unreadable: list[str],
    ) -> Sample | None:
        """A picture or its mosaic, placed at random; adds to `used` each picture in it, to `unreadable` a line for each that
        can't be read."""
        indices = [picture]
        if config.mosaic > 0 and rng.random() < config.mosaic:
            indices += self._others(3, rng)
        samples = []
        for index in indices:
            try:
                samples.append(self.sources.read(index))
                used.append(index)
            except UnreadablePictureError as error:
                unreadable.append(str(error))
        if not samples:
            return None
        if len(samples) < len(indices):
            samples = samples[:1]
        sizes = [(sample.image.shape[1], sample.image.shape[0]) for sample in samples]
        placements = random_placements(sizes, frame, config, rng)
        return compose(samples, placements, frame)

    def _others(self, count: int, rng: np.random.Generator) -> list[int]:
        drawn: np.ndarray
        if self._odds is None:
            drawn = rng.integers(len(self.sources), size=count)
        else:
            drawn = np.searchsorted(self._odds[:-1], rng.random(count), side="right")
        return [int(index) for index in drawn]


def collate(items: list[TrainingItem]) -> Batch:
    """Stack what was readable; the images lie in memory with their channels last, as the networks take them."""
    samples = [item.sample for item in items if item.sample is not None]
    pictures = tuple(index for item in items if item.sample is not None for index in item.sources)
    targets = tuple(
        Targets(torch.from_numpy(s.boxes), torch.from_numpy(s.labels), torch.from_numpy(s.crowd_boxes)) for s in samples
    )
    unreadable = tuple(line for item in items for line in item.unreadable)
    if not samples:
        return Batch(torch.empty(0, 3, 0, 0, dtype=torch.uint8), (), unreadable)
    images: Tensor = default_collate(
        [torch.from_numpy(sample.image) for sample in samples]
    )  # a worker's: shared memory
    return Batch(images.permute(0, 3, 1, 2), targets, unreadable, pictures)


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
