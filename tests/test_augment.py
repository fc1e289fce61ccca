"""Boxes stay on what they frame, through placement, warp and pipeline."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from planned import planned
from small_run import small_config

from detector.config import AugmentConfig, TrainConfig
from detector.data.augment import TO_YIQ, color_matrix, flip_and_adjust_colors
from detector.data.mosaic import Placement, compose, mix_up, place_mosaic, place_single, random_placements
from detector.data.sample import Sample
from detector.data.transforms import Pipeline
from detector.demo.scenes import make_dataset
from detector.errors import ConfigError
from detector.images.input_size import InputSize
from detector.training.loop import train

SIDE = 128
FRAME = InputSize(SIDE, SIDE)


def sample_with_square(width: int, height: int, box: tuple[int, int, int, int], color: int = 255) -> Sample:
    """A black image with one bright rectangle, which is the object."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = color
    boxes = np.array([box], dtype=np.float32)
    return Sample(image, boxes, np.array([1], dtype=np.int64), np.zeros((0, 4), dtype=np.float32))


def bright_box(image: np.ndarray) -> np.ndarray:
    ys, xs = np.nonzero(image[..., 0] > 180)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], dtype=np.float32)


@pytest.mark.parametrize("seed", range(20))
def test_a_single_image_and_its_box_move_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    width, height = rng.integers(60, 400, size=2).tolist()
    box = (width // 3, height // 3, width // 3 + width // 4 + 2, height // 3 + height // 4 + 2)
    sample = sample_with_square(width, height, box)
    placements = random_placements([(width, height)], FRAME, AugmentConfig(scale=0.3, translate=0.1), rng)
    result = compose([sample], placements, FRAME).drawn()
    assert result.image.shape == (SIDE, SIDE, 3)
    assert len(result.boxes) == 1
    assert np.abs(bright_box(result.image) - result.boxes[0]).max() <= 1.5


def test_identity_placement_is_the_letterbox() -> None:
    placement = place_single((128, 64), FRAME, 1.0, (0.0, 0.0))
    assert placement == Placement(1.0, 0.0, 32.0)
    sample = sample_with_square(128, 64, (10, 10, 50, 40))
    result = compose([sample], [placement], FRAME).drawn()
    assert (result.image[32:96] == sample.image).all()
    assert (result.image[:32] == 114).all()
    assert (result.image[96:] == 114).all()


@pytest.mark.parametrize("joint", [(64.0, 64.0), (100.0, 150.0), (192.0, 64.0)])
def test_mosaic_tiles_meet_at_the_joint_and_cover_their_quadrants(joint: tuple[float, float]) -> None:
    shades = [200, 160, 120, 80]
    samples = [
        Sample(
            np.full((100, 100, 3), shade, dtype=np.uint8),
            np.array([[0, 0, 100, 100]], dtype=np.float32),
            np.array([i], dtype=np.int64),
            np.zeros((0, 4), dtype=np.float32),
        )
        for i, shade in enumerate(shades)
    ]
    placements = place_mosaic([(100, 100)] * 4, FRAME, joint, 1.0, (0.0, 0.0))
    result = compose(samples, placements, FRAME).drawn()
    x, y = round(joint[0] - SIDE / 2), round(joint[1] - SIDE / 2)
    for i, shade in enumerate(shades):
        columns = slice(max(x - SIDE, 0), x) if i % 2 == 0 else slice(x, SIDE)
        rows = slice(max(y - SIDE, 0), y) if i < 2 else slice(y, SIDE)
        assert (result.image[rows, columns] == shade).all()
    for box, label in zip(result.boxes, result.labels, strict=True):
        left, top, right, bottom = box.astype(int).tolist()
        assert (result.image[top:bottom, left:right] == shades[label]).all()


def square_placements(
    sizes: list[tuple[int, int]], side: int, config: AugmentConfig, rng: np.random.Generator
) -> list[Placement]:
    """The formulas for a square output, written with its one side."""
    factor = rng.uniform(1 - config.scale, 1 + config.scale)
    reach = config.translate * side
    shift = (rng.uniform(-reach, reach), rng.uniform(-reach, reach))
    if len(sizes) == 1:
        ((width, height),) = sizes
        scale = factor * side / max(width, height)
        return [Placement(scale, side / 2 + shift[0] - scale * width / 2, side / 2 + shift[1] - scale * height / 2)]
    joint = (rng.uniform(side / 2, 3 * side / 2), rng.uniform(side / 2, 3 * side / 2))
    placements = []
    for i, (width, height) in enumerate(sizes):
        scale = side / max(width, height)
        left = joint[0] - (scale * width if i % 2 == 0 else 0)
        top = joint[1] - (scale * height if i < 2 else 0)
        x, y = (factor * (corner - side) + side / 2 + move for corner, move in zip((left, top), shift, strict=True))
        placements.append(Placement(factor * scale, x, y))
    return placements


@pytest.mark.parametrize("count", [1, 4])
def test_a_square_output_follows_the_formulas_of_one_side_to_the_last_bit(count: int) -> None:
    for seed in range(200):
        draw = np.random.default_rng(seed)
        sizes = [tuple(size) for size in draw.integers(20, 2000, size=(count, 2)).tolist()]
        side = 32 * int(draw.integers(1, 40))
        placed, expected = (
            place(sizes, frame, AugmentConfig(), np.random.default_rng(seed))
            for place, frame in ((random_placements, InputSize(side, side)), (square_placements, side))
        )
        assert placed == expected


def test_mosaic_of_a_rectangle_fills_it() -> None:
    """Four images of the output's own shape, met in the canvas's center: each covers its quadrant."""
    frame = InputSize(64, 160)
    sizes = [(320, 128)] * 4
    samples = [sample_with_square(320, 128, (0, 0, 320, 128), color) for color in (50, 100, 150, 200)]
    placements = place_mosaic(sizes, frame, (160.0, 64.0), 1.0, (0.0, 0.0))
    result = compose(samples, placements, frame).drawn()
    assert result.image.shape == (64, 160, 3)
    for x in (slice(0, 80), slice(80, 160)):
        for y in (slice(0, 32), slice(32, 64)):
            assert (result.image[y, x] == 50 + 50 * (x.start > 0) + 100 * (y.start > 0)).all()
    assert result.boxes.tolist() == [[0, 0, 80, 32], [80, 0, 160, 32], [0, 32, 80, 64], [80, 32, 160, 64]]


@pytest.mark.parametrize("seed", range(10))
def test_in_a_rectangle_image_and_box_move_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    width, height = rng.integers(60, 400, size=2).tolist()
    frame = InputSize(96, 224)
    box = (width // 3, height // 3, width // 3 + width // 4 + 2, height // 3 + height // 4 + 2)
    placements = random_placements([(width, height)], frame, AugmentConfig(scale=0.3), rng)
    result = compose([sample_with_square(width, height, box)], placements, frame).drawn()
    assert result.image.shape == (96, 224, 3)
    assert np.abs(bright_box(result.image) - result.boxes[0]).max() <= 1.5


def test_mixup_blends_images_and_keeps_the_objects_of_both() -> None:
    first, second = sample_with_square(8, 8, (0, 0, 4, 4), 200), sample_with_square(8, 8, (2, 2, 8, 8), 100)
    crowd = np.array([[1, 1, 3, 3]], dtype=np.float32)
    second = Sample(second.image, second.boxes, second.labels + 1, crowd)
    blend = mix_up(planned(first), planned(second), np.random.default_rng(0)).drawn()
    ratio = np.random.default_rng(0).beta(32, 32)
    expected = [200 * ratio, 200 * ratio + 100 * (1 - ratio), 100 * (1 - ratio)]
    assert [blend.image[i, i, 0] for i in (0, 3, 5)] == pytest.approx(expected, abs=1)
    assert blend.boxes.tolist() == [[0, 0, 4, 4], [2, 2, 8, 8]]
    assert blend.labels.tolist() == [1, 2]
    assert blend.crowd_boxes.tolist() == crowd.tolist()


def test_hardly_visible_objects_are_dropped_and_crowds_move_along() -> None:
    image = np.zeros((128, 128, 3), dtype=np.uint8)
    boxes = np.array([[0, 0, 40, 40], [60, 60, 100, 100]], dtype=np.float32)
    crowd = np.array([[50, 50, 120, 120]], dtype=np.float32)
    sample = Sample(image, boxes, np.array([0, 1], dtype=np.int64), crowd)
    result = compose([sample], [Placement(1.0, -38.0, -38.0)], FRAME).drawn()
    assert result.labels.tolist() == [1]
    assert result.boxes.tolist() == [[22, 22, 62, 62]]
    assert result.crowd_boxes.tolist() == [[12, 12, 82, 82]]


def test_shrinking_averages_instead_of_skipping_pixels() -> None:
    stripes = np.zeros((512, 512, 3), dtype=np.uint8)
    stripes[:, ::2] = 200
    empty = np.zeros((0, 4), dtype=np.float32)
    sample = Sample(stripes, empty, np.zeros(0, dtype=np.int64), empty)
    result = compose([sample], [place_single((512, 512), FRAME, 1.0, (0.0, 0.0))], FRAME).drawn()
    assert np.abs(result.image.astype(int) - 100).max() <= 1


UNCHANGED = AugmentConfig(fliplr=0.0, hue=0.0, saturation=0.0, brightness=0.0)


def colored_sample(seed: int = 0) -> Sample:
    image = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    image[20:60, 10:40] = 255
    boxes = np.array([[10, 20, 40, 60]], dtype=np.float32)
    return Sample(image, boxes, np.array([1]), np.array([[0, 0, 32, 16]], dtype=np.float32))


def flipped_and_colored(sample: Sample, config: AugmentConfig, rng: np.random.Generator) -> Sample:
    return flip_and_adjust_colors(planned(sample), config, rng).drawn()


def test_mirror_moves_boxes_and_crowds_with_the_image() -> None:
    sample = colored_sample()
    always = replace(UNCHANGED, fliplr=1.0)
    result = flipped_and_colored(sample, always, np.random.default_rng(0))
    assert (result.image == sample.image[:, ::-1]).all()
    assert result.boxes.tolist() == [[88, 20, 118, 60]]
    assert result.crowd_boxes.tolist() == [[96, 0, 128, 16]]
    again = flipped_and_colored(result, always, np.random.default_rng(0))
    assert (again.image == sample.image).all()
    assert (again.boxes == sample.boxes).all()


def test_a_vertical_flip_turns_the_image_upside_down_also_beside_a_horizontal_one() -> None:
    sample = colored_sample()
    result = flipped_and_colored(sample, replace(UNCHANGED, flipud=1.0), np.random.default_rng(0))
    assert (result.image == sample.image[::-1]).all()
    assert result.boxes.tolist() == [[10, 68, 40, 108]]
    assert result.crowd_boxes.tolist() == [[0, 112, 32, 128]]
    both = flipped_and_colored(sample, replace(UNCHANGED, fliplr=1.0, flipud=1.0), np.random.default_rng(0))
    assert (both.image == sample.image[::-1, ::-1]).all()
    assert both.boxes.tolist() == [[88, 68, 118, 108]]
    flipped = [
        flipped_and_colored(sample, replace(UNCHANGED, flipud=0.5), np.random.default_rng(seed)).boxes[0, 1] == 68
        for seed in range(200)
    ]
    assert 75 < sum(flipped) < 125


def test_ranges_of_zero_change_nothing() -> None:
    sample = colored_sample()
    result = flipped_and_colored(sample, UNCHANGED, np.random.default_rng(0))
    assert (result.image == sample.image).all()
    assert (result.boxes == sample.boxes).all()


def test_half_of_the_images_are_mirrored() -> None:
    rng, sample = np.random.default_rng(0), colored_sample()
    config = replace(UNCHANGED, fliplr=0.5)
    mirrored = sum((flipped_and_colored(sample, config, rng).boxes != sample.boxes).any() for _ in range(200))
    assert 75 < mirrored < 125


@pytest.mark.parametrize("seed", range(10))
def test_colors_turn_and_scale_while_luma_stays(seed: int) -> None:
    rng = np.random.default_rng(seed)
    turn, saturation, brightness = rng.uniform(-0.5, 0.5), rng.uniform(0, 2), rng.uniform(0.5, 1.5)
    rgb = rng.uniform(size=3)
    before, after = TO_YIQ @ rgb, TO_YIQ @ color_matrix(turn, saturation, brightness) @ rgb
    assert after[0] == pytest.approx(brightness * before[0])
    one, two = complex(*before[1:]), complex(*after[1:])
    assert abs(two) == pytest.approx(brightness * saturation * abs(one))
    assert np.exp(1j * np.angle(two / one)) == pytest.approx(np.exp(2j * np.pi * turn))


def test_colors_stay_in_the_range_that_is_set() -> None:
    gray = colored_sample()
    gray.image[:] = 100
    config = replace(UNCHANGED, brightness=0.4, saturation=0.7, hue=0.015)
    values = [flipped_and_colored(gray, config, np.random.default_rng(seed)).image for seed in range(50)]
    assert all(np.ptp(image) <= 1 for image in values)  # gray stays gray
    assert 60 <= min(image.min() for image in values) < 70
    assert 130 < max(image.max() for image in values) <= 140


def test_pixels_are_the_matrix_rounded_and_clipped() -> None:
    sample = colored_sample()
    config = replace(UNCHANGED, brightness=0.4, saturation=0.7, hue=0.015)
    result = flipped_and_colored(sample, config, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    rng.random()
    drawn = [rng.uniform(-0.015, 0.015), rng.uniform(0.3, 1.7), rng.uniform(0.6, 1.4)]
    expected = (sample.image @ color_matrix(*drawn).T).clip(0, 255)
    assert np.abs(result.image - expected).max() < 1  # OpenCV multiplies in fixed point
    assert (result.image != sample.image).any()


def test_pipeline_moves_boxes_labels_and_crowds_with_the_image() -> None:
    sample = sample_with_square(SIDE, SIDE, (10, 20, 40, 60))
    sample = Sample(sample.image, sample.boxes, sample.labels, np.array([[0, 0, 32, 16]], dtype=np.float32))
    result = Pipeline([{"HorizontalFlip": {"p": 1.0}}])(sample, np.random.default_rng(0))
    assert np.abs(result.boxes - [[88, 20, 118, 60]]).max() < 1e-3
    assert np.abs(result.crowd_boxes - [[96, 0, 128, 16]]).max() < 1e-3
    assert result.labels.tolist() == [1]
    assert np.abs(bright_box(result.image) - result.boxes[0]).max() < 1e-3


def test_pipeline_draws_from_the_given_generator_only() -> None:
    pipeline = Pipeline([{"ColorJitter": {"brightness": [0.5, 1.5], "p": 1.0}}, {"HorizontalFlip": {"p": 0.5}}])
    image = cv2.resize(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8), (SIDE, SIDE))
    sample = Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros((0, 4), np.float32))
    first, again, other = (pipeline(sample, np.random.default_rng(s)).image for s in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([{"HorizontalFlop": {}}], "HorizontalFlip"),
        ([{"HorizontalFlip": {"probability": 1}}], "probability"),
        ([{"HorizontalFlip": {}, "VerticalFlip": {}}], "one transform an entry"),
    ],
)
def test_a_wrong_pipeline_is_refused(transforms: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Pipeline(transforms)


def test_albumentations_is_not_needed_without_transforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training with all other augmentations, and the preview; with transforms one line says what is missing."""
    make_dataset(tmp_path / "data", seed=1, train=4, val=3, test=3)
    monkeypatch.setitem(sys.modules, "albumentations", None)
    monkeypatch.delitem(sys.modules, "detector.data.transforms")
    everything = AugmentConfig(mixup=0.5, copy_paste=0.5, rotate=10, shear=5, perspective=0.1, flipud=0.5)
    config = replace(small_config(tmp_path / "data", tmp_path / "run"), augment=everything, epochs=1)
    assert "AP" in train(config)
    with pytest.raises(ConfigError, match=r"augment\.transforms: albumentations can't be imported .*pip install"):
        train(replace(config, out=str(tmp_path / "other"), augment=AugmentConfig(transforms=[{"ToGray": {}}])))


def test_the_modules_of_training_do_not_import_albumentations() -> None:
    code = "import sys, detector.training.loop, detector.reporting.report; print('albumentations' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_albumentations_does_not_ask_the_network_for_updates() -> None:
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"


def test_the_closing_epochs_have_no_mosaic_and_a_weaker_rest() -> None:
    config = AugmentConfig(mosaic=1.0, mixup=0.3, weak_aug_strength=0.5, scale=0.4, fliplr=0.6, hue=0.1, translate=0.2)
    config = replace(config, copy_paste=0.4, rotate=30, shear=8, perspective=0.2, flipud=0.5)
    weak_aug = config.weak()
    assert (weak_aug.mosaic, weak_aug.mixup, weak_aug.copy_paste) == (0, 0, 0)
    assert (weak_aug.rotate, weak_aug.shear, weak_aug.perspective, weak_aug.flipud) == (15, 4, 0.1, 0.25)
    assert (weak_aug.scale, weak_aug.fliplr, weak_aug.hue, weak_aug.translate) == (0.2, 0.3, 0.05, 0.1)
    assert (weak_aug.saturation, weak_aug.brightness) == (0.5 * config.saturation, 0.5 * config.brightness)
    assert TrainConfig(epochs=60, augment=config).full_aug_epochs == 40
    assert TrainConfig(epochs=10, augment=config).full_aug_epochs == 5  # at most half of the run
