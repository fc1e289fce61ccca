"""Copy-paste: whole objects come with their pixels and labels, nothing is hidden or brought along unlabeled."""

import numpy as np
import pytest
from planned import planned

from detector.data.copy_paste import copy_paste, filled, shared
from detector.data.drawing import Composition
from detector.data.outlines import Outlines, joined
from detector.data.sample import Sample

SIDE = 64
NONE = np.zeros((0, 4), np.float32)


def sample(
    shade: int, boxes: list[list[float]], outlines: Outlines | None = None, crowds: np.ndarray = NONE
) -> Composition:
    array = np.array(boxes, np.float32).reshape(-1, 4)
    image = np.full((SIDE, SIDE, 3), shade, np.uint8)
    return planned(Sample(image, array, np.arange(len(boxes)), crowds, outlines or Outlines.of_boxes(array)))


def always(count: int) -> np.random.Generator:
    """A generator that picks every object."""
    return next(
        np.random.default_rng(seed) for seed in range(10_000) if (np.random.default_rng(seed).random(count) < 0.5).all()
    )


def test_a_box_comes_with_its_pixels_and_label() -> None:
    here, other = sample(10, [[0, 0, 8, 8]]), sample(200, [[20, 30, 40, 50]])
    other.labels[:] = 7
    result = copy_paste(here, other, always(1)).drawn()
    expected = np.full((SIDE, SIDE, 3), 10, np.uint8)
    expected[30:50, 20:40] = 200
    assert (result.image == expected).all()
    assert result.boxes.tolist() == [[0, 0, 8, 8], [20, 30, 40, 50]]
    assert result.labels.tolist() == [0, 7]
    assert (here.drawn().image == 10).all()  # which may lie in the cache


def test_a_polygon_comes_without_what_is_around_it() -> None:
    triangle = Outlines.of_rings(np.array([[10, 10], [50, 10], [10, 50]], np.float32), np.array([[0, 3]]))
    result = copy_paste(sample(10, []), sample(200, [[10, 10, 50, 50]], triangle), always(1)).drawn()
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    distance = 60 - x - y  # from the long side, times the square root of 2
    inside = (x > 10) & (y > 10) & (distance > 0)
    clear = (np.abs(distance) > 2) & (np.abs(x - 10) > 1) & (np.abs(y - 10) > 1)
    assert (result.image[..., 0] == np.where(inside, 200, 10))[clear].all()
    assert result.boxes.tolist() == [[10, 10, 50, 50]]


def test_an_object_of_several_polygons_comes_whole() -> None:
    squares = Outlines.of_boxes(np.array([[4, 4, 12, 12], [30, 4, 38, 12], [8, 6, 10, 8]], np.float32))
    squares = Outlines(squares.points, np.zeros_like(squares.owners), squares.polygons)
    mask = filled(squares, (0, 0), (SIDE, 16))
    assert mask[4:12, 4:12].all()  # where two overlap, too
    assert mask[4:12, 30:38].all()
    assert not mask[:, 14:30].any()


@pytest.mark.parametrize(
    ("box", "pasted"),
    [
        ([20, 20, 40, 40], True),
        ([0, 0, 4, 10], False),  # would hide 40 % of what is here
        ([0, 0, 2, 10], True),
        ([45, 45, 60, 60], False),  # would bring another object along
        ([52, 52, 64, 64], False),  # would bring what a crowd region holds along
    ],
)
def test_nothing_is_hidden_or_brought_along(box: list[float], pasted: bool) -> None:
    here = sample(10, [[0, 0, 10, 10]])
    beside = [48.0, 48.0, 52.0, 52.0]
    crowd = np.array([[54, 54, 60, 60]], np.float32)
    other = sample(200, [box, beside], crowds=crowd)
    rng = next(
        np.random.default_rng(seed)
        for seed in range(10_000)
        if ((np.random.default_rng(seed).random(2) < 0.5) == [True, False]).all()
    )
    result = copy_paste(here, other, rng).drawn()
    assert result.boxes.tolist() == ([[0, 0, 10, 10], box] if pasted else [[0, 0, 10, 10]])
    assert (result.image == 200).any() == pasted
    assert len(result.crowd_boxes) == 0


def test_what_was_pasted_is_not_hidden_by_what_comes_after_it() -> None:
    boxes = [[0, 0, 20, 20], [4, 4, 40, 40]]
    result = copy_paste(sample(10, []), sample(200, boxes), always(2)).drawn()
    assert (
        result.boxes.tolist() == boxes[:1]
    )  # a fifth of the second comes along, but the second would hide most of the first
    boxes = [[0, 0, 20, 20], [16, 16, 40, 40]]
    result = copy_paste(sample(10, []), sample(200, boxes), always(2)).drawn()
    assert result.boxes.tolist() == boxes


def test_about_half_of_the_objects_come() -> None:
    boxes = [[x, y, x + 6, y + 6] for x in range(0, 64, 8) for y in range(0, 64, 8)]
    counts = [len(copy_paste(sample(0, []), sample(9, boxes), np.random.default_rng(seed)).boxes) for seed in range(20)]
    assert 0.4 < np.mean(counts) / len(boxes) < 0.6


def test_an_outline_that_reaches_behind_the_camera_stays() -> None:
    far = Outlines.of_boxes(np.array([[10, 10, 1e9, 30]], np.float32))
    assert len(copy_paste(sample(0, []), sample(9, [[10, 10, 64, 30]], far), always(1)).boxes) == 0


def test_shared_is_the_fraction_of_each_box_in_the_mask() -> None:
    mask = np.ones((10, 20), np.uint8)
    boxes = np.array([[5, 5, 15, 15], [0, 0, 5, 5], [10, 6, 12, 8], [20, 10, 60, 64]], np.float32)
    assert list(shared(mask, (8, 6), boxes)) == [7 * 9 / 100, 0, 1, 8 * 6 / (40 * 54)]


def test_joined_outlines_keep_their_owners() -> None:
    parts = [Outlines.of_boxes(np.zeros((count, 4), np.float32)) for count in (2, 0, 3)]
    together = joined(parts, [2, 0, 3])
    assert together.owners.tolist() == [each for each in range(5) for _ in range(4)]
    assert together.polygons.tolist() == together.owners.tolist()
    chosen = together.chosen(np.array([4, 1]))
    assert chosen.owners.tolist() == [1] * 4 + [0] * 4
    assert chosen.followers().tolist() == [1, 2, 3, 0, 5, 6, 7, 4]
