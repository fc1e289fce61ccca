"""Training batches: read, place, augment, collate. All randomness of an image follows from the seed and its key."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from detector.config import AugmentConfig
from detector.data.augment import flip_and_adjust_colors
from detector.data.cached_images import CachedImages
from detector.data.coco import CocoDataset
from detector.data.copy_paste import copy_paste
from detector.data.device_drawing import PackedDrawings
from detector.data.drawing import Composition
from detector.data.mosaic import compose, longest_source_side, mix_up, random_placements
from detector.data.sample import Sample
from detector.data.sampler import SampleKey
from detector.data.warp import random_homography
from detector.data.workers import start_worker, worker_count
from detector.images.input_size import InputSize
from detector.images.read import UnreadableImageError
from detector.structures import Batch, Targets


class TrainItem(NamedTuple):
    """One training image.

    sample: with augment.device cuda it is not drawn yet; None if no image of it was readable; unreadable: a line for each image
    that was not; sources: the indices of the images that the sample is made of.
    """

    sample: Sample | Composition | None
    unreadable: tuple[str, ...]
    sources: tuple[int, ...]


class TrainDataset(Dataset[TrainItem]):
    """Augmented training images; the same key gives the same image in any process.

    image_size: in pixels, the side of a square or (height, width); factors: see `repeat_factors`; an image joins the
    mosaics of others in proportion to its factor, too; cache_gb: memory for decoded images in GiB; multi_scale: how much
    larger or smaller than image_size a key may ask for; views: windows to show in the place of images, see `whole_images`: then
    keys and factors are theirs.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        image_size: int | tuple[int, int],
        config: AugmentConfig,
        seed: int,
        factors: Float64[np.ndarray, " images"] | None = None,
        cache_gb: float = 0.0,
        multi_scale: float = 0.0,
        views: Int64[np.ndarray, "views 5"] | None = None,
    ) -> None:
        self._odds = None if factors is None else np.cumsum(factors) / factors.sum()
        self._input_size = InputSize.of(image_size)
        largest = self._input_size.scaled(max(self._input_size.scales(multi_scale)))
        longest = longest_source_side(largest, config)
        self.images = CachedImages(dataset, longest, cache_gb, views, config.needs_outlines)
        self._config, self._weak_config = config, config.weak()
        self._seed = seed
        self._pipeline = None
        if config.transforms:
            from detector.data.transforms import Pipeline  # albumentations

            self._pipeline = Pipeline(config.transforms)

    def __getitem__(self, key: SampleKey) -> TrainItem:
        rng = np.random.default_rng((self._seed, key.epoch, key.image, key.repeat))
        config = self._weak_config if key.weak_aug else self._config
        size = self._input_size.scaled(key.scale)
        image, unreadable, sources = self._composed(key.image, size, config, rng)
        for chance, combine in ((config.copy_paste, copy_paste), (config.mixup, mix_up)):
            assert not isinstance(chance, dict), "AugmentConfig.for_model makes it a number"
            if chance > 0 and rng.random() < chance:
                other, more_unreadable, more_sources = self._composed(self._others(1, rng)[0], size, config, rng)
                unreadable, sources = unreadable + more_unreadable, sources + more_sources
                if image is not None and other is not None:
                    image = combine(image, other, rng)
        if image is None:
            return TrainItem(None, unreadable, sources)
        image = flip_and_adjust_colors(image, config, rng)
        if config.device == "cuda":
            return TrainItem(image, unreadable, sources)
        sample = image.drawn()
        transformed = not key.weak_aug or rng.random() < config.weak_aug_strength
        if self._pipeline is not None and transformed:
            sample = self._pipeline(sample, rng)
        return TrainItem(sample, unreadable, sources)

    def _composed(
        self, index: int, size: InputSize, config: AugmentConfig, rng: np.random.Generator
    ) -> tuple[Composition | None, tuple[str, ...], tuple[int, ...]]:
        """An image or its mosaic, placed at random in a network input of `size`; the rest as in `TrainItem`."""
        indices = [index]
        if config.mosaic > 0 and rng.random() < config.mosaic:
            indices += self._others(3, rng)
        samples, unreadable, sources = [], [], []
        for each in indices:
            try:
                samples.append(self.images.read(each))
                sources.append(self.images.view(each)[0])
            except UnreadableImageError as error:
                unreadable.append(str(error))
        if not samples:
            return None, tuple(unreadable), ()
        if len(samples) < len(indices):
            samples = samples[:1]
        sizes = [(sample.image.shape[1], sample.image.shape[0]) for sample in samples]
        placements, turn = random_placements(sizes, size, config, rng), random_homography(size, config, rng)
        return compose(samples, placements, size, turn), tuple(unreadable), tuple(sources)

    def _others(self, count: int, rng: np.random.Generator) -> list[int]:
        drawn: np.ndarray
        if self._odds is None:
            drawn = rng.integers(len(self.images), size=count)
        else:
            drawn = np.searchsorted(self._odds[:-1], rng.random(count), side="right")
        return [int(index) for index in drawn]


@dataclass(frozen=True)
class UndrawnBatch:
    """A `Batch` whose images are still to be drawn."""

    drawings: PackedDrawings
    targets: tuple[Targets, ...]
    unreadable: tuple[str, ...]
    image_indices: tuple[int, ...]

    def pin_memory(self) -> "UndrawnBatch":
        return replace(self, drawings=self.drawings.pin_memory())

    def draw(self, device: torch.device) -> Batch:
        """With images on the device."""
        return Batch(self.drawings.draw(device), self.targets, self.unreadable, self.image_indices)


def collate(items: list[TrainItem]) -> Batch | UndrawnBatch:
    """Stack what was readable; the images lie in memory with their channels last, as the networks take them."""
    samples = [item.sample for item in items if item.sample is not None]
    image_indices = tuple(index for item in items if item.sample is not None for index in item.sources)
    targets = tuple(
        Targets(torch.from_numpy(s.boxes), torch.from_numpy(s.labels), torch.from_numpy(s.crowd_boxes)) for s in samples
    )
    unreadable = tuple(line for item in items for line in item.unreadable)
    if not samples:
        return Batch(torch.empty(0, 3, 0, 0, dtype=torch.uint8), (), unreadable)
    drawings = [sample.drawing for sample in samples if isinstance(sample, Composition)]
    if drawings:
        return UndrawnBatch(PackedDrawings.of(drawings), targets, unreadable, image_indices)
    images: Tensor = default_collate(
        [torch.from_numpy(sample.image) for sample in samples if isinstance(sample, Sample)]
    )  # a worker's: shared memory
    return Batch(images.permute(0, 3, 1, 2), targets, unreadable, image_indices)


def drawn(batch: Batch | UndrawnBatch, device: torch.device) -> Batch:
    """The batch with its images, which are drawn on the device if they are not yet."""
    return batch.draw(device) if isinstance(batch, UndrawnBatch) else batch


def train_loader(
    dataset: TrainDataset, sampler: Sampler[list[SampleKey]], workers: int, pin_memory: bool
) -> "DataLoader[TrainItem]":
    """A loader of batches, see `collate`, whose workers live as long as it does."""
    workers = worker_count(workers)
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=start_worker,
    )
