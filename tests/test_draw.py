"""Annotated images and contact plots."""

import numpy as np
import pytest
import torch

from detector.images import draw
from detector.images.draw import contact_sheet, draw_detections, label_color
from detector.structures import Categories, Detections


def _detections(boxes: list[list[float]], names: tuple[str, ...] = ("cat", "dog")) -> Detections:
    count = len(boxes)
    labels = torch.arange(count) % len(names)
    scores = torch.linspace(0.9, 0.3, count)
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores,
        labels,
        Categories(tuple(range(len(names))), names),
    )


def test_only_pixels_near_the_box_change_and_the_input_stays() -> None:
    image = np.full((200, 300, 3), 128, np.uint8)
    drawn = draw_detections(image, _detections([[100.4, 80.6, 200.2, 150.0]]))
    assert (image == 128).all()
    rows, columns = np.nonzero((drawn != image).any(2))
    assert rows.min() >= 60
    assert rows.max() == 149
    assert columns.min() == 100
    assert columns.max() == 199
    assert (drawn[90:140, 110:190] == 128).all()


def test_fractional_edges_go_to_the_nearest_pixel_border() -> None:
    image = np.zeros((120, 120, 3), np.uint8)
    drawn = draw_detections(image, _detections([[20.6, 60.4, 99.4, 110.6]]))
    columns = np.flatnonzero(drawn[100].any(1))
    assert (columns.min(), columns.max()) == (21, 98)
    assert np.flatnonzero(drawn[:, 60].any(1)).max() == 110


def test_no_detections_leave_the_image_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    assert (draw_detections(image, _detections([])) == image).all()


@pytest.mark.parametrize("box", [[0.0, 0.0, 1.0, 1.0], [0.2, 0.2, 0.3, 0.3], [1.0, 1.0, 1.0, 1.0]])
def test_an_image_of_one_pixel(box: list[float]) -> None:
    assert draw_detections(np.zeros((1, 1, 3), np.uint8), _detections([box])).shape == (1, 1, 3)


@pytest.mark.parametrize("box", [[0, 0, 30, 20], [250, 0, 300, 200], [290, 190, 300, 200], [0, 0, 300, 200]])
def test_chips_stay_inside_the_image(box: list[int]) -> None:
    size = (90, 18)
    left, top, right, bottom = draw._chip_place((box[0], box[1], box[2] - 1, box[3] - 1), size, (300, 200), [])
    assert (right - left + 1, bottom - top + 1) == size
    assert left >= 0
    assert top >= 0
    assert right < 300
    assert bottom < 200


def test_chips_avoid_each_other() -> None:
    taken: list[draw.Box] = []
    for _ in range(4):
        taken.append(draw._chip_place((100, 60, 260, 150), (80, 18), (300, 200), taken))
    assert not any(draw._overlap(one, other) for i, one in enumerate(taken) for other in taken[:i])


def test_a_text_wider_than_the_image_is_written_smaller() -> None:
    _, _, size = draw.fit_text("a rather long class name 0.87", 12, 120)
    assert size[0] <= 120


def test_colors_are_stable_and_differ() -> None:
    colors = [label_color(label) for label in range(80)]
    assert colors == [label_color(label) for label in range(80)]
    assert len(set(colors)) == 80


def test_a_name_that_pillows_font_lacks_is_drawn_whole_or_without_accents(monkeypatch: pytest.MonkeyPatch) -> None:
    font, text = draw._choose_font("Fähre é")
    assert (text == "Fähre é") == (font != "")
    monkeypatch.setattr(draw, "FONTS", ("", "no-such-font.ttf"))
    assert draw._choose_font("Fähre é 犬") == ("", "Fahre e ?")
    image = np.zeros((80, 200, 3), np.uint8)
    drawn = [draw_detections(image, _detections([[5, 30, 190, 75]], (name,))) for name in ("Fähre", "Fahre", "Fohre")]
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()


def test_contact_sheet_keeps_shape_and_order() -> None:
    shapes = ((10, 40), (40, 10), (20, 20))
    images = [np.full((*shape, 3), 40 * index, np.uint8) for index, shape in enumerate(shapes)]
    plot = contact_sheet(images, columns=2, cell=(60, 50))
    gap = draw.GAP
    assert plot.shape == (2 * (50 + gap) + gap, 2 * (60 + gap) + gap, 3)
    centers = [(gap + 25, gap + 30), (gap + 25, 2 * gap + 90), (2 * gap + 75, gap + 30)]
    assert [int(plot[center][0]) for center in centers] == [0, 40, 80]
    assert tuple(plot[gap + 2, gap + 30]) == draw.GRID_COLOR  # above the wide image
