"""Epochs: every image in its turn, the same ones whoever asks, rare classes more often, sizes that vary."""

from itertools import chain

import numpy as np
import pytest

from detector.config import AugmentConfig
from detector.data.coco import CocoDataset
from detector.data.layouts import find_split
from detector.data.loader import TrainDataset, collate
from detector.data.sample import Sample
from detector.data.sampler import EpochSampler, SampleKey, repeat_factors
from detector.demo.scenes import make_dataset
from detector.images.input_size import InputSize

FACTORS = np.array([1.0, 2.5, 1.3, 1.0, 1.7, 3.0, 1.05])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    root = tmp_path_factory.mktemp("scenes")
    make_dataset(root, seed=1, train=12, val=3, test=3)
    return CocoDataset.load(find_split(root, "train"))


def epoch(sampler: EpochSampler, number: int) -> list[list[SampleKey]]:
    sampler.set_epoch(number)
    return list(sampler)


def test_without_repeats_the_order_is_one_permutation() -> None:
    keys = list(chain(*epoch(EpochSampler(23, 5, seed=3), 2)))
    assert [key.image for key in keys] == np.random.default_rng((3, 2)).permutation(23).tolist()
    assert {key[2:] for key in keys} == {(False, 1.0, 0)}
    assert epoch(EpochSampler(np.ones(23), 5, seed=3), 2) == epoch(EpochSampler(23, 5, seed=3), 2)


def test_a_start_leaves_out_the_batches_before_it() -> None:
    sampler = EpochSampler(FACTORS, 3, seed=1, scales=(0.5, 1.0, 1.5))
    whole = epoch(sampler, 4)
    sampler.set_epoch(4, start=2)
    assert list(sampler) == whole[2:]
    assert len(sampler) == len(whole) == 4


@pytest.mark.parametrize(("count", "batch", "world"), [(23, 8, 2), (23, 7, 3), (17, 8, 4), (3, 8, 8), (16, 8, 1)])
def test_the_ranks_share_each_batch(count: int, batch: int, world: int) -> None:
    scales = (0.5, 1.0)
    whole = epoch(EpochSampler(count, batch, seed=0, scales=scales), 1)
    shares = [epoch(EpochSampler(count, batch, 0, rank, world, scales), 1) for rank in range(world)]
    for number, alone in enumerate(whole):
        parts = [share[number] for share in shares]
        assert min(len(part) for part in parts) >= 1
        assert max(len(part) for part in parts) - min(len(part) for part in parts) <= 1
        together = list(chain(*parts))
        assert together[: len(alone)] == alone
        assert len(together) == max(len(alone), world)  # a few come again where there are fewer keys than ranks
        assert len({key.scale for key in together}) == 1
    assert {len(share) for share in shares} == {len(whole)}


def test_images_come_as_often_as_their_factors_say_and_every_epoch_is_as_long() -> None:
    sampler, epochs = EpochSampler(FACTORS, 4, seed=0), 2000
    counts = np.zeros(len(FACTORS))
    orders = set()
    for number in range(epochs):
        keys = list(chain(*epoch(sampler, number)))
        assert len(keys) == 12  # the sum of the factors, 11.55, rounded
        assert len(set(keys)) == len(keys)
        repeats = [sorted(key.repeat for key in keys if key.image == image) for image in range(len(FACTORS))]
        assert repeats == [list(range(len(found))) for found in repeats]
        each = np.array([len(found) for found in repeats])
        assert (each >= np.floor(FACTORS)).all()
        assert (each <= np.floor(FACTORS) + 2).all()
        counts += each
        orders.add(tuple(key.image for key in keys))
    fractions = FACTORS - np.floor(FACTORS)
    expected = np.floor(FACTORS) + fractions * 2 / fractions.sum()  # 2 places for fractions of 1.55
    assert np.abs(counts / epochs - expected).max() < 0.05
    assert len(orders) > 0.99 * epochs


def test_factors_follow_the_formula() -> None:
    labels = [np.array(each, dtype=np.int64) for each in ([0, 0], [0, 1, 1], [0], [])]
    assert repeat_factors(labels, 0.6).tolist() == pytest.approx([1, (0.6 / 0.25) ** 0.5, 1, 1])
    assert repeat_factors(labels, 1.0).tolist() == pytest.approx([(1 / 0.75) ** 0.5, 2, (1 / 0.75) ** 0.5, 1])


def test_an_image_that_comes_again_is_augmented_anew(dataset: CocoDataset) -> None:
    images = TrainDataset(dataset, 64, AugmentConfig(), seed=3)
    first, again, second = (images[SampleKey(1, 5, True, 1.0, repeat)].sample for repeat in (0, 0, 1))
    assert first is not None
    assert (first.image == again.image).all()
    assert (first.image != second.image).any()
    # the first time it is what it would be without repeats
    short, long = (np.random.default_rng(key).random(4) for key in ((3, 1, 5), (3, 1, 5, 0)))
    assert (short == long).all()


def test_mosaics_take_rare_images_more_often(dataset: CocoDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    factors = np.ones(len(dataset))
    factors[4] = 1e9
    images = TrainDataset(dataset, 64, AugmentConfig(mosaic=1.0), seed=0, factors=factors)
    read = []
    original = images.images.read
    monkeypatch.setattr(images.images, "read", lambda index: (read.append(index), original(index))[1])
    images[SampleKey(0, 2, False)]
    assert read == [2, 4, 4, 4]


def test_mixup_happens_as_often_as_asked_and_not_in_the_closing_epochs(dataset: CocoDataset) -> None:
    def samples(mixup: float, weak_aug: bool) -> list[Sample]:
        config = AugmentConfig(
            mosaic=0.0, scale=0.0, translate=0.0, mixup=mixup, fliplr=0.0, hue=0.0, saturation=0.0, brightness=0.0
        )
        augmented = TrainDataset(dataset, 64, config, seed=0)
        return [augmented[SampleKey(number, 3, weak_aug)].sample for number in range(30)]

    plain = samples(0.0, weak_aug=False)
    for mixup, weak_aug, least, most in ((1.0, False, 26, 30), (0.5, False, 5, 25), (1.0, True, 0, 0)):
        found = samples(mixup, weak_aug)
        blended = [(one.image != two.image).any() for one, two in zip(plain, found, strict=True)]
        assert least <= sum(blended) <= most  # the other image may be the same one
        assert all((two.boxes[: len(one.boxes)] == one.boxes).all() for one, two in zip(plain, found, strict=True))


@pytest.mark.parametrize(
    ("size", "spread", "sides"),
    [
        ((640, 640), 0.0, [640]),
        ((320, 320), 0.2, [256, 288, 320, 352, 384]),
        ((64, 64), 1.0, [32, 64, 96, 128]),
        ((640, 640), 0.7, list(range(192, 1089, 32))),
    ],
)
def test_scales_are_all_multiples_of_32_in_the_range(size: tuple[int, int], spread: float, sides: list[int]) -> None:
    frame = InputSize(*size)
    assert [frame.scaled(scale) for scale in frame.scales(spread)] == [(side, side) for side in sides]
    assert 1.0 in frame.scales(spread)


def test_a_rectangle_keeps_its_shape_as_far_as_multiples_of_32_allow() -> None:
    frame = InputSize(192, 384)
    sizes = [frame.scaled(scale) for scale in frame.scales(0.5)]
    assert [size.width for size in sizes] == list(range(192, 577, 32))
    assert all(abs(size.height - size.width / 2) <= 16 and size.height % 32 == 0 for size in sizes)


def test_every_batch_has_a_size_of_its_own_that_its_number_decides(dataset: CocoDataset) -> None:
    frame = InputSize(64, 96)
    sampler = EpochSampler(12, 2, seed=0, scales=frame.scales(0.5))
    images = TrainDataset(dataset, (64, 96), AugmentConfig(), seed=0)
    shapes = [collate([images[key] for key in batch]).images.shape[2:] for batch in epoch(sampler, 0)]
    assert len(set(shapes)) >= 3
    assert [batch[0].scale for batch in epoch(sampler, 0)] != [batch[0].scale for batch in epoch(sampler, 1)]
    assert shapes == [tuple(frame.scaled(batch[0].scale)) for batch in epoch(sampler, 0)]
