"""Sampling: which images come in which batch of an epoch, how often, and at what size. All of it follows from (seed, epoch)."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from torch.utils.data import Sampler


class SampleKey(NamedTuple):
    """Names one training image of a run.

    weak_aug: whether it is augmented as `AugmentConfig.weak` says; scale: of the image's size, as a fraction of the run's;
    repeat: 0 when the image comes first in an epoch, 1 the second time, and so on.
    """

    epoch: int
    image: int
    weak_aug: bool
    scale: float = 1.0
    repeat: int = 0


class EpochSampler(Sampler[list[SampleKey]]):
    """Batches of keys in an order that follows from (seed, epoch).

    images: how many there are, each once an epoch, or how often each comes in an epoch on average;
    batch_size: keys of a batch, of all ranks together; rank, world: number r of w processes takes the keys
    [r·b/w, (r+1)·b/w) of each batch of b; scales: what the size of a batch is drawn from.

    `set_epoch` before iterating. `len` counts the batches of a whole epoch, the same in every one.
    """

    def __init__(
        self,
        images: int | Float64[np.ndarray, " images"],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        scales: Sequence[float] = (1.0,),
    ) -> None:
        assert 0 <= rank < world <= batch_size
        self._factors = np.ones(images) if isinstance(images, int) else images
        self._batch_size = batch_size
        self._seed = seed
        self._rank, self._world = rank, world
        self._scales = scales
        self.set_epoch(0)

    def set_epoch(self, epoch: int, weak_aug: bool = False, start: int = 0) -> None:
        """What to iterate over next.

        weak_aug: whether the images get the weak augmentation of the last epochs; start: batches at the epoch's beginning
        to skip, as a resumed run does.
        """
        self._epoch, self._weak_aug, self._start = epoch, weak_aug, start

    def __len__(self) -> int:
        return -(-self._keys_per_epoch() // self._batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        rng = np.random.default_rng((self._seed, self._epoch))
        entries = self._entries(rng)
        scales = rng.choice(np.asarray(self._scales), size=len(self)).tolist()
        missing = self._world - (len(entries) - 1) % self._batch_size - 1
        if missing > 0:  # no rank may go without an image in the last batch: the first ones come again
            entries = np.resize(entries, (len(entries) + missing, 2))
        for batch in range(self._start, len(self)):
            shared = entries[batch * self._batch_size : (batch + 1) * self._batch_size]
            first, end = (len(shared) * rank // self._world for rank in (self._rank, self._rank + 1))
            yield [
                SampleKey(self._epoch, image, self._weak_aug, scales[batch], repeat)
                for image, repeat in shared[first:end].tolist()
            ]

    def _keys_per_epoch(self) -> int:
        whole = np.floor(self._factors)
        return int(whole.sum()) + round(float((self._factors - whole).sum()))

    def _entries(self, rng: np.random.Generator) -> Int64[np.ndarray, "keys 2"]:
        """Image and repeat of each key of the epoch, in its order.

        An image of factor 2.3 comes twice, and a third time in about 3 of 10 epochs. Which images get the third time is
        drawn by systematic sampling: the fractional parts are laid end to end, in random order, and points at equal
        distances from a random start hit them. So each is hit as often as its fraction says, and yet every epoch has
        the same length, which the schedule of the learning rate needs; that is the sum of the factors, rounded.
        """
        order = rng.permutation(len(self._factors))
        whole = np.floor(self._factors[order])
        counts, ends = whole.astype(np.int64), np.cumsum(self._factors[order] - whole)
        extra = self._keys_per_epoch() - counts.sum()
        if extra > 0:
            points = (np.arange(extra) + rng.random()) * (ends[-1] / extra)
            counts += np.bincount(np.searchsorted(ends[:-1], points, side="right"), minlength=len(order))
        starts = np.cumsum(counts) - counts
        repeats = np.arange(counts.sum()) - np.repeat(starts, counts)
        entries = np.stack((np.repeat(order, counts), repeats), axis=1)
        return entries if (counts == 1).all() else rng.permutation(entries)


def repeat_factors(
    labels: Sequence[Int64[np.ndarray, " _objects"]], threshold: float
) -> Float64[np.ndarray, " images"]:
    """How often each image comes in an epoch: the largest r(c) = max(1, sqrt(threshold / f(c))) of its classes c, where
    f(c) is the fraction of the images that hold c; 1 for an image without objects. `labels`: those of each image.

    Source: Gupta et al., LVIS, 2019, repeat factor sampling (after Mahajan et al., 2018).
    """
    held = [np.unique(each) for each in labels]
    fraction = np.bincount(np.concatenate(held)) / len(held)
    of_class = np.sqrt(threshold / fraction.clip(1 / len(held))).clip(1)
    return np.array([of_class[classes].max(initial=1.0) for classes in held])
