"""Rotation, shear and perspective: boxes stay on what they frame, held against masks and against clipped polygons."""

import numpy as np
import pytest

from detector.config import AugmentConfig
from detector.data.mosaic import Placement, compose, place_mosaic, random_placements
from detector.data.outlines import Outlines, joined, project
from detector.data.sample import Sample
from detector.data.warp import homography, random_homography, visible_boxes
from detector.images.input_size import InputSize

FRAME = InputSize(64, 96)
SEEDS = range(60)
NONE = np.zeros((0, 4), np.float32)


def random_matrix(rng: np.random.Generator) -> np.ndarray:
    """A placement and what follows it, such that about half of the objects below are cut by the frame."""
    angle, shear, nearer = rng.uniform(-np.pi, np.pi), rng.uniform(-0.4, 0.4, 2), rng.uniform(-0.35, 0.35, 2)
    placement = Placement(rng.uniform(0.5, 1.5), *rng.uniform(-30, 30, 2))
    return homography(FRAME, angle, tuple(shear), tuple(nearer)) @ placement.matrix


def star(rng: np.random.Generator, corners: int) -> np.ndarray:
    """A polygon with a point in each direction from its center, so it may be concave; without very sharp corners."""
    angles = 2 * np.pi * (np.arange(corners) + rng.uniform(0.2, 0.8, corners)) / corners
    radii = rng.uniform(14, 25, corners)
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
    return (around + rng.uniform(15, 70, 2)).astype(np.float32)


def inside(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether points lie in a polygon, by the sum of the angles that its sides are seen under."""
    turned = np.zeros(len(points))
    for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        a, b = start - points, end - points
        turned += np.arctan2(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0], (a * b).sum(axis=1))
    return np.abs(turned) > np.pi


def mask_points(polygon: np.ndarray, matrix: np.ndarray, steps: int = 4) -> np.ndarray:
    """Points of the output, `steps` by `steps` for a pixel, that show the inside of the polygon."""
    places = [(np.arange(side * steps) + 0.5) / steps for side in (FRAME.width, FRAME.height)]
    points = np.stack(np.meshgrid(*places), axis=-1).reshape(-1, 2)
    back = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ np.linalg.inv(matrix).T
    return points[inside(polygon.astype(np.float64), back[:, :2] / back[:, 2:])]


@pytest.mark.parametrize("kind", ["box", "polygon"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_box_is_that_of_the_warped_mask(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = random_matrix(rng)
    if kind == "box":
        corner = rng.uniform(0, 60, 2)
        outlines = Outlines.of_boxes(np.array([[*corner, *corner + rng.uniform(5, 40, 2)]], np.float32))
    else:
        points = star(rng, 9)
        outlines = Outlines.of_rings(points, np.array([[0, len(points)]]))
    (box,), (fraction,) = visible_boxes(outlines, matrix, FRAME)
    shown = mask_points(outlines.points, matrix)
    if len(shown) == 0:
        sides = np.maximum(box[2:] - box[:2], 0)
        assert fraction == 0 or sides.min() < 1
        return
    assert fraction > 0
    low, high = shown.min(axis=0), shown.max(axis=0)
    assert (box[:2] <= low).all()
    assert (high <= box[2:]).all()
    if (high - low).min() > 4:  # what is left of a smaller part may be a tip too thin for the points
        assert np.abs(np.concatenate([low, high]) - box).max() <= 1


def clipped(polygon: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """A convex polygon cut by one half-plane after another (Sutherland and Hodgman, 1974), in homogeneous coordinates."""
    for plane in planes:
        kept: list[np.ndarray] = []
        for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            a, b = plane @ start, plane @ end
            if a >= 0:
                kept.append(start)
            if (a >= 0) != (b >= 0):
                kept.append(start + a / (a - b) * (end - start))
        if not kept:
            return np.zeros((0, 3))
        polygon = np.array(kept)
    return polygon


@pytest.mark.parametrize("seed", SEEDS)
def test_boxes_are_those_of_polygons_clipped_one_side_at_a_time(seed: int) -> None:
    """Also of those that reach behind the camera."""
    rng = np.random.default_rng(seed)
    matrix = random_matrix(rng)
    corners = rng.uniform(-100, 60, (20, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 200, (20, 2))], axis=1).astype(np.float32)
    found, fractions = visible_boxes(Outlines.of_boxes(boxes), matrix, FRAME)
    planes = np.array([[1, 0, 0], [-1, 0, FRAME.width], [0, 1, 0], [0, -1, FRAME.height]], np.float64)
    for box, expected_box, fraction in zip(boxes, found, fractions, strict=True):
        left, top, right, bottom = box.astype(np.float64)
        rim = np.array([[left, top, 1], [right, top, 1], [right, bottom, 1], [left, bottom, 1]]) @ matrix.T
        part = clipped(rim, planes)
        if len(part) == 0:
            assert fraction == 0
            continue
        points = part[:, :2] / part[:, 2:]
        assert np.concatenate([points.min(axis=0), points.max(axis=0)]) == pytest.approx(expected_box, abs=1e-6)
        before = part @ np.linalg.inv(matrix).T
        extent = np.ptp(before[:, :2] / before[:, 2:], axis=0)
        assert fraction == pytest.approx(extent.prod() / ((right - left) * (bottom - top)), abs=1e-6)


def test_objects_are_looked_at_each_for_itself() -> None:
    rng = np.random.default_rng(0)
    matrix = random_matrix(rng)
    parts = [Outlines.of_rings(star(rng, n), np.array([[0, n]])) for n in (3, 8, 5)]
    parts.append(Outlines.of_rings(np.concatenate([star(rng, 4), star(rng, 6)]), np.array([[0, 4], [0, 6]])))
    together, fractions = visible_boxes(joined(parts, [1, 1, 1, 1]), matrix, FRAME)
    for place, part in enumerate(parts):
        (box,), (fraction,) = visible_boxes(part, matrix, FRAME)
        assert box.tolist() == together[place].tolist()
        assert fraction == fractions[place]


def test_a_polygon_gives_a_tighter_box_than_its_box() -> None:
    """A diamond turned by 45 degrees is a square with the sides of the diamond."""
    diamond = np.array([[48, 12], [68, 32], [48, 52], [28, 32]], np.float32)
    matrix = homography(FRAME, np.pi / 4, (0.0, 0.0), (0.0, 0.0))
    (tight,), _ = visible_boxes(Outlines.of_rings(diamond, np.array([[0, 4]])), matrix, FRAME)
    half = 20 / np.sqrt(2)
    assert tight == pytest.approx([48 - half, 32 - half, 48 + half, 32 + half])
    (loose,), _ = visible_boxes(Outlines.of_boxes(np.array([[28, 12, 68, 52]], np.float32)), matrix, FRAME)
    half = 20 * np.sqrt(2)
    assert loose == pytest.approx([48 - half, 32 - half, 48 + half, 32 + half])


def bright_sample(rng: np.random.Generator) -> Sample:
    width, height = rng.integers(60, 300, size=2).tolist()
    image = np.zeros((height, width, 3), np.uint8)
    left, top, right, bottom = box = (width // 3, height // 3, width // 3 + width // 4, height // 3 + height // 4)
    image[top:bottom, left:right] = 255
    return Sample(image, np.array([box], np.float32), np.array([1]), NONE)


@pytest.mark.parametrize("seed", range(20))
def test_image_and_box_move_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    config = AugmentConfig(rotate=40, shear=15, perspective=0.2, translate=0.0, scale=0.2)
    frame, sample = InputSize(160, 192), bright_sample(rng)
    placements = random_placements([sample.image.shape[1::-1]], frame, config, rng)
    result = compose([sample], placements, frame, random_homography(frame, config, rng)).drawn()
    ys, xs = np.nonzero(result.image[..., 0] > 180)
    seen = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    assert result.labels.tolist() == [1]
    assert np.abs(seen - result.boxes[0]).max() <= 2


def test_nothing_but_scale_and_shift_is_as_without_a_homography() -> None:
    """To the pixel where the placement is, so that the way of computing makes no difference."""
    rng = np.random.default_rng(0)
    sample = Sample(
        rng.integers(0, 255, (80, 120, 3), np.uint8),
        np.array([[5, 6, 40, 50], [100, 60, 120, 80]], np.float32),
        np.array([0, 1]),
        np.array([[0, 0, 30, 30]], np.float32),
    )
    still = homography(FRAME, 0.0, (0.0, 0.0), (0.0, 0.0))
    assert still.tolist() == np.eye(3).tolist()
    one, two = (compose([sample], [Placement(1.0, -20.0, 3.0)], FRAME, turn).drawn() for turn in (None, still))
    assert (one.image == two.image).all()
    for name in ("boxes", "labels", "crowd_boxes"):
        assert getattr(one, name).tolist() == getattr(two, name).tolist()


def test_turned_tiles_of_a_mosaic_meet_without_a_gap() -> None:
    """Each pixel shows the tile in which its center lies, but for centers on a seam."""
    shades, size = [200, 160, 120, 80], (64, 96)
    samples = [Sample(np.full((*size, 3), shade, np.uint8), NONE, np.zeros(0, np.int64), NONE) for shade in shades]
    placements = place_mosaic([size[::-1]] * 4, FRAME, (96.0, 64.0), 1.0, (0.0, 0.0))
    turn = homography(FRAME, 0.5, (0.2, -0.1), (0.1, 0.05))
    image = compose(samples, placements, FRAME, turn).drawn().image
    places = np.stack(np.meshgrid(np.arange(FRAME.width) + 0.5, np.arange(FRAME.height) + 0.5), axis=-1)
    back = project(places.reshape(-1, 2), np.linalg.inv(turn)).reshape(places.shape) - (48, 32)
    tile = (back[..., 0] > 0).astype(int) + 2 * (back[..., 1] > 0)
    off_seam = (np.abs(back) > 0.1).all(axis=-1) & (np.abs(back) < (95.9, 63.9)).all(axis=-1)
    assert off_seam.mean() > 0.95
    assert (image[off_seam] == np.array(shades)[tile][off_seam][:, None]).all()


def test_ranges_are_kept_and_nothing_is_drawn_without_them() -> None:
    rng, untouched = np.random.default_rng(0), np.random.default_rng(0)
    assert random_homography(FRAME, AugmentConfig(), rng) is None
    assert rng.bit_generator.state == untouched.bit_generator.state
    square, angles = InputSize(64, 64), []
    for _ in range(200):
        matrix = random_homography(square, AugmentConfig(rotate=30), rng)
        assert matrix[:2, :2] @ matrix[:2, :2].T == pytest.approx(np.eye(2))
        assert project(np.array([[32.0, 32.0]]), matrix)[0] == pytest.approx([32, 32])
        angles.append(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0])))
    assert -30 <= min(angles) < -25
    assert 25 < max(angles) <= 30


def test_perspective_enlarges_one_side_and_shrinks_the_other() -> None:
    matrix = homography(FRAME, 0.0, (0.0, 0.0), (0.25, 0.0))
    heights = []
    for x in (0.0, FRAME.width / 2, FRAME.width):  # of what comes to lie there
        seen = project(np.array([[x, 31.0], [x, 33.0]]), np.linalg.inv(matrix))
        heights.append(2 / (seen[1, 1] - seen[0, 1]))
    assert heights == pytest.approx([0.75, 1, 1.25])


def test_hardly_visible_objects_are_dropped_after_a_turn_too() -> None:
    boxes = np.array([[40, 24, 56, 40], [94, 20, 126, 40], [10, 10, 11, 60]], np.float32)
    sample = Sample(np.zeros((64, 128, 3), np.uint8), boxes, np.array([0, 1, 2]), boxes[1:2])
    half_turn = homography(FRAME, np.pi, (0.0, 0.0), (0.0, 0.0))
    result = compose([sample], [Placement(1.0, 0.0, 0.0)], FRAME, half_turn)
    assert result.labels.tolist() == [0]  # of the second a sixteenth is visible, the third is a pixel wide
    assert np.round(result.boxes, 3).tolist() == [[40, 24, 56, 40]]
    assert np.round(result.crowd_boxes, 3).tolist() == [[0, 24, 2, 44]]
