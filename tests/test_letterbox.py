"""Anchors, decoding, overlaps and the letterbox, each against an explicit formulation."""

import math

import numpy as np
import pytest
import torch

from detector.boxes import complete_iou, decode_boxes, make_anchors
from detector.images.letterbox import Letterbox


def test_anchors_run_row_by_row_from_the_finest_level() -> None:
    anchors = make_anchors([(2, 3), (1, 1)], (8, 16), like=torch.zeros(1))
    assert anchors.points.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8]]
    assert anchors.strides.tolist() == [8] * 6 + [16]


def test_decoding_equals_an_explicit_loop_in_float64() -> None:
    torch.manual_seed(0)
    anchors = make_anchors([(2, 2), (1, 1)], (8, 16), like=torch.zeros(1))
    logits = torch.randn(2, 64, 5) * 3
    decoded = decode_boxes(logits, anchors)
    for image in range(2):
        for a in range(5):
            sides = []
            for side in range(4):
                values = [math.exp(v) for v in logits[image, 16 * side : 16 * side + 16, a].double().tolist()]
                sides.append(sum(i * v for i, v in enumerate(values)) / sum(values) * anchors.strides[a].item())
            x, y = anchors.points[a].tolist()
            expected = [x - sides[0], y - sides[1], x + sides[2], y + sides[3]]
            assert decoded[image, a].tolist() == pytest.approx(expected, abs=1e-3)


def explicit_ciou(a: list[float], b: list[float]) -> float:
    intersection = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    iou = intersection / (sum(areas) - intersection)
    diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    distance = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    angles = [math.atan((box[2] - box[0]) / (box[3] - box[1])) for box in (a, b)]
    v = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
    alpha = v / (1 - iou + v) if v else 0
    return iou - distance / diagonal - alpha * v


def test_complete_iou_equals_the_formula() -> None:
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 50, (40, 2, 2))
    boxes = np.concatenate((corners, corners + generator.uniform(2, 40, (40, 2, 2))), axis=2)
    found = complete_iou(torch.tensor(boxes[:, 0]), torch.tensor(boxes[:, 1]))
    expected = [explicit_ciou(a, b) for a, b in boxes.tolist()]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_complete_iou_of_equal_boxes_is_one_and_of_far_boxes_below_zero() -> None:
    box = torch.tensor([[10.0, 10.0, 30.0, 50.0]])
    assert complete_iou(box, box).item() == pytest.approx(1, abs=1e-5)
    assert complete_iou(box, box + 1000).item() < -0.5


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1, 1), (17, 4000), (123, 457), (64, 64)])
def test_a_drawn_rectangle_lands_where_to_frame_says(size: tuple[int, int]) -> None:
    width, height = size
    letterbox = Letterbox(width, height, 128, 128)
    image = np.zeros((height, width, 3), dtype=np.uint8)
    frame = letterbox.apply(image)
    inside = letterbox.to_input(torch.tensor([[0.0, 0.0, width, height]]))[0].tolist()
    left, top, right, bottom = (round(value) for value in inside)
    assert inside == pytest.approx([left, top, right, bottom], abs=1e-3)
    assert (frame[top:bottom, left:right] == 0).all()
    outside = np.ones((128, 128), dtype=bool)
    outside[top:bottom, left:right] = False
    assert (frame[outside] == 114).all()
    assert abs((left + right) - 128) <= 1
    assert abs((top + bottom) - 128) <= 1
