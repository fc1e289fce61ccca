"""The default augmentation gives the samples it gave before rotation, copy-paste and tiles existed: same draws, same bits."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from detector.config import AugmentConfig
from detector.data.augment import color_matrix
from detector.data.coco import CocoDataset
from detector.data.layouts import find_split
from detector.data.loader import TrainDataset
from detector.data.sampler import SampleKey
from detector.demo.scenes import make_dataset
from detector.images.read import read_image

SIDE, SEED = 96, 5


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    root = tmp_path_factory.mktemp("scenes")
    make_dataset(root, seed=1, train=9, val=3, test=3)
    return CocoDataset.load(find_split(root, "train"))


def source(dataset: CocoDataset, index: int, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The image, shrunk to what a placement can show, its boxes and its crowd boxes."""
    width, height = dataset.size(index)
    ratio = min(np.ceil(SIDE * (1 + scale)) / max(width, height), 1.0)
    size = max(round(width * ratio), 1), max(round(height * ratio), 1)
    image = read_image(dataset.path(index), (width, height))
    if size != (width, height):
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    factors = np.array([size[0] / width, size[1] / height] * 2, np.float32)
    return image, dataset.boxes(index) * factors, dataset.crowd_boxes(index) * factors


def draw(canvas: np.ndarray, image: np.ndarray, scale: float, x: float, y: float) -> None:
    height, width = image.shape[:2]
    left, right = max(round(x), 0), min(round(x + scale * width), SIDE)
    top, bottom = max(round(y), 0), min(round(y + scale * height), SIDE)
    if left >= right or top >= bottom:
        return
    shrink = int(1 / scale)
    if shrink >= 2:
        image = cv2.resize(image, (max(width // shrink, 1), max(height // shrink, 1)), interpolation=cv2.INTER_AREA)
    scale_x, scale_y = scale * width / image.shape[1], scale * height / image.shape[0]
    matrix = np.array(
        [[1 / scale_x, 0, (left + 0.5 - x) / scale_x - 0.5], [0, 1 / scale_y, (top + 0.5 - y) / scale_y - 0.5]]
    )
    canvas[top:bottom, left:right] = cv2.warpAffine(
        image,
        matrix,
        (right - left, bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def visible(boxes: np.ndarray, scale: float, x: float, y: float, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    moved = boxes * np.float32(scale) + np.array([x, y, x, y], np.float32)
    cut = moved.clip(0, np.float32(SIDE))
    sides, whole = cut[:, 2:] - cut[:, :2], moved[:, 2:] - moved[:, :2]
    kept = np.flatnonzero((sides.prod(axis=1) >= fraction * whole.prod(axis=1)) & (sides >= 2).all(axis=1))
    return cut[kept], kept


def composed(
    dataset: CocoDataset, index: int, config: AugmentConfig, largest_scale: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """Image, boxes, labels and crowd boxes of an image or its mosaic."""
    indices = [index]
    if config.mosaic > 0 and rng.random() < config.mosaic:
        indices += rng.integers(len(dataset), size=3).tolist()
    factor = rng.uniform(1 - config.scale, 1 + config.scale)
    reach = config.translate * SIDE
    shift = rng.uniform(-reach, reach), rng.uniform(-reach, reach)
    joint = (rng.uniform(SIDE / 2, 3 * SIDE / 2), rng.uniform(SIDE / 2, 3 * SIDE / 2)) if len(indices) > 1 else None
    canvas = np.full((SIDE, SIDE, 3), 114, np.uint8)
    parts: list[list[np.ndarray]] = [[], [], []]
    for place, each in enumerate(indices):
        image, boxes, crowds = source(dataset, each, largest_scale)
        height, width = image.shape[:2]
        if joint is None:
            scale = min(factor * SIDE / width, factor * SIDE / height)
            x, y = (SIDE / 2 + move - scale * length / 2 for move, length in zip(shift, (width, height), strict=True))
        else:
            fit = min(SIDE / width, SIDE / height)
            corner = joint[0] - (fit * width if place % 2 == 0 else 0), joint[1] - (fit * height if place < 2 else 0)
            x, y = (factor * (at - SIDE) + SIDE / 2 + move for at, move in zip(corner, shift, strict=True))
            scale = factor * fit
        draw(canvas, image, scale, x, y)
        seen, kept = visible(boxes, scale, x, y, 0.1)
        for values, part in zip(
            parts, (seen, dataset.labels(each)[kept], visible(crowds, scale, x, y, 0)[0]), strict=True
        ):
            values.append(part)
    return [canvas, *(np.concatenate(each) for each in parts)]


def sample_of(dataset: CocoDataset, key: SampleKey, config: AugmentConfig) -> list[np.ndarray]:
    """What the loader gave for a key: the drawing order is that of the runs that are to be resumed."""
    rng, largest = np.random.default_rng((SEED, key.epoch, key.image, key.repeat)), config.scale
    if key.weak_aug:
        names = ("scale", "translate", "fliplr", "hue", "saturation", "brightness")
        halves = {name: config.weak_aug_strength * getattr(config, name) for name in names}
        config = replace(config, mosaic=0.0, mixup=0.0, **halves)
    result = composed(dataset, key.image, config, largest, rng)
    if config.mixup > 0 and rng.random() < config.mixup:
        other = composed(dataset, int(rng.integers(len(dataset), size=1)[0]), config, largest, rng)
        ratio = rng.beta(32, 32)
        image = cv2.addWeighted(result[0], ratio, other[0], 1 - ratio, 0.0)
        result = [image, *(np.concatenate(pair) for pair in zip(result[1:], other[1:], strict=True))]
    mirrored = rng.random() < config.fliplr
    turn = rng.uniform(-config.hue, config.hue)
    saturation = rng.uniform(1 - config.saturation, 1 + config.saturation)
    brightness = rng.uniform(1 - config.brightness, 1 + config.brightness)
    result[0] = cv2.transform(result[0], color_matrix(turn, saturation, brightness))
    if mirrored:
        result[0] = np.ascontiguousarray(result[0][:, ::-1])
        for place in (1, 3):
            boxes = result[place].copy()
            boxes[:, 0], boxes[:, 2] = SIDE - result[place][:, 2], SIDE - result[place][:, 0]
            result[place] = boxes
    return result


@pytest.mark.parametrize("cache_gb", [0.0, 0.1])
@pytest.mark.parametrize("config", [AugmentConfig(), AugmentConfig(mosaic=0.5, mixup=0.5, scale=0.6, brightness=0.5)])
def test_samples_are_those_of_the_formulas_as_they_were(
    scenes: CocoDataset, config: AugmentConfig, cache_gb: float
) -> None:
    images = TrainDataset(scenes, SIDE, config, SEED, cache_gb=cache_gb)
    for epoch, weak_aug in ((0, False), (1, True)):
        for index in range(len(scenes)):
            key = SampleKey(epoch, index, weak_aug)
            found, expected = images[key].sample, sample_of(scenes, key, config)
            for name, values in zip(("image", "boxes", "labels", "crowd_boxes"), expected, strict=True):
                array = getattr(found, name)
                assert array.dtype == values.dtype
                assert (array == values).all(), (key, name)


def test_recipes_without_the_new_options_have_them_off() -> None:
    config = AugmentConfig()
    assert not config.needs_outlines
    assert (config.rotate, config.shear, config.perspective, config.flipud, config.copy_paste) == (0, 0, 0, 0, 0)
