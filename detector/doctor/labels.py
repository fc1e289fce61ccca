"""Labels that a trained network contradicts."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from detector.data.coco import CocoDataset
from detector.data.layouts import Split
from detector.doctor.findings import EXAMPLES, Example, Finding, View
from detector.evaluation.evaluate import detect_all, eval_loader
from detector.evaluation.matching import ImageBoxes, image_boxes
from detector.images.input_size import InputSize
from detector.inference.detector import Detector
from detector.structures import Detections

LOWEST_SCORE = 0.05
"""Score from which on a detection counts as having found something."""
CONFIDENT = 0.6
"""Score from which on a detection contradicts the labels."""
NEAR = 0.3
"""IoU below which a detection and an object are two things."""
SAME_PLACE = 0.7
"""IoU from which on a detection contradicts the class of a label."""


class Doubt(NamedTuple):
    """A box of an image that network and labels disagree on; weight: how much, to sort by; xywh in pixels of the image."""

    image: int
    weight: float
    xywh: Float64[np.ndarray, "4"]
    text: str


def detect(detector: Detector, dataset: CocoDataset) -> dict[int, Detections]:
    """The detections in each image that can be read, by its index."""
    size = None if detector.runtime.letterboxes_inputs else InputSize.of(detector.image_size)
    return detect_all(detector, eval_loader(dataset, size, -1, range(len(dataset)))).detections


def check_labels(dataset: CocoDataset, detections: Mapping[int, Detections], split: Split) -> Iterator[Finding]:
    """Confident detections without a label, labels that are never found, classes that a confident detection contradicts.

    detections: by the index of the image, down to a score of `LOWEST_SCORE`, of the dataset's categories.
    """
    names = dataset.categories.names
    unlabeled: list[Doubt] = []
    unfound: list[Doubt] = []
    swapped: list[Doubt] = []
    for image in image_boxes(dataset, detections):
        overlap = image.overlap()
        unlabeled += _unlabeled(image, overlap, names)
        unfound += _unfound(image, overlap, names)
        swapped += _swapped(image, overlap, names)
    kinds = (
        (
            "label-missing",
            f"confident detections (score {CONFIDENT} or more) where nothing is labeled",
            "label the objects that are there; what has no label is learned as background",
            unlabeled,
        ),
        (
            "label-class",
            "labels of another class than a confident detection at the same place",
            "correct the class where the detection is right",
            swapped,
        ),
        (
            "label-not-found",
            f"labels without any detection near them (score {LOWEST_SCORE} or more, IoU {NEAR} or more), the largest first",
            "remove those without an object; the others are hard, or unlike what the weights have seen",
            unfound,
        ),
    )
    for code, what, remedy, doubts in kinds:
        if doubts:
            doubts.sort(key=lambda doubt: -doubt.weight)
            examples = tuple(_example(dataset, doubt) for doubt in doubts[:EXAMPLES])
            severity = "note" if code == "label-not-found" else "warning"
            yield Finding(code, severity, what, {split: len(doubts)}, remedy, examples)  # type: ignore[arg-type]


def _unlabeled(image: ImageBoxes, overlap: Float64[np.ndarray, "d t"], names: tuple[str, ...]) -> Iterator[Doubt]:
    free = (image.scores >= CONFIDENT) & (overlap.max(axis=1, initial=0.0) < NEAR)
    for each in np.flatnonzero(free).tolist():
        score, name = float(image.scores[each]), names[image.labels[each]]
        yield Doubt(image.index, score, image.boxes[each], f"{name} {score:.2f}")


def _unfound(image: ImageBoxes, overlap: Float64[np.ndarray, "d t"], names: tuple[str, ...]) -> Iterator[Doubt]:
    near = (overlap * (image.scores >= LOWEST_SCORE)[:, None]).max(axis=0, initial=0.0)
    for each in np.flatnonzero((near < NEAR) & ~image.crowd).tolist():
        box = image.truth_boxes[each]
        yield Doubt(image.index, float(box[2:].prod()), box, f"labeled {names[image.truth_labels[each]]}")


def _swapped(image: ImageBoxes, overlap: Float64[np.ndarray, "d t"], names: tuple[str, ...]) -> Iterator[Doubt]:
    """At most one for each label: a better detection of the label's own class there speaks for it."""
    labels: Int64[np.ndarray, "d 1"] = image.labels[:, None]
    own = labels == image.truth_labels
    there = overlap >= SAME_PLACE
    for_it = (image.scores[:, None] * (own & (overlap >= NEAR))).max(axis=0, initial=0.0)
    scores = image.scores[:, None] * (there & ~own)
    against = scores.max(axis=0, initial=0.0)
    for each in np.flatnonzero((against >= CONFIDENT) & (for_it < against / 2) & ~image.crowd).tolist():
        other = names[image.labels[scores[:, each].argmax()]]
        text = f"labeled {names[image.truth_labels[each]]}, found {other} {against[each]:.2f}"
        yield Doubt(image.index, float(against[each]), image.truth_boxes[each], text)


def _example(dataset: CocoDataset, doubt: Doubt) -> Example:
    x, y, width, height = doubt.xywh.tolist()
    view = View(dataset.image(doubt.image), [[x, y, x + width, y + height]], [doubt.text], dataset.size(doubt.image))
    return Example(f"{dataset.file_name(doubt.image)}: {doubt.text} at x {x:.0f}, y {y:.0f}", (view,))
