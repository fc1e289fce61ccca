"""Labels that a trained network contradicts."""

from collections.abc import Iterator, Mapping, Sequence
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
    """A box of an image that network and labels disagree on.

    weight: how much, to sort by; xywh in pixels of the image; label: the class of the detection without a label, else that
    of the label in doubt; score: of the detection that contradicts, None where there is none.
    """

    image: int
    weight: float
    xywh: Float64[np.ndarray, "4"]
    text: str
    label: int
    score: float | None


def detect(
    detector: Detector, dataset: CocoDataset, indices: range | None = None, workers: int = -1
) -> dict[int, Detections]:
    """The detections in each image that can be read, by its index; indices: of which images, all if None; workers: see
    `worker_count`."""
    size = None if detector.runtime.letterboxes_inputs else InputSize.of(detector.image_size)
    indices = range(len(dataset)) if indices is None else indices
    return detect_all(detector, eval_loader(dataset, size, workers, indices)).detections


def find_doubts(images: Sequence[ImageBoxes], names: Sequence[str]) -> dict[str, list[Doubt]]:
    """What network and labels disagree on, by the code of the finding, the gravest first.

    images: with detections down to a score of `LOWEST_SCORE`; names: of the classes.
    """
    doubts: dict[str, list[Doubt]] = {"label-missing": [], "label-class": [], "label-not-found": []}
    for image in images:
        overlap = image.overlap()
        doubts["label-missing"] += _unlabeled(image, overlap, names)
        doubts["label-class"] += _swapped(image, overlap, names)
        doubts["label-not-found"] += _unfound(image, overlap, names)
    return {code: sorted(of_code, key=lambda doubt: -doubt.weight) for code, of_code in doubts.items()}


def check_labels(dataset: CocoDataset, detections: Mapping[int, Detections], split: Split) -> Iterator[Finding]:
    """Confident detections without a label, labels that are never found, classes that a confident detection contradicts.

    detections: by the index of the image, down to a score of `LOWEST_SCORE`, of the dataset's categories.
    """
    doubts = find_doubts(image_boxes(dataset, detections), dataset.categories.names)
    kinds = (
        (
            "label-missing",
            f"confident detections (score {CONFIDENT} or more) where nothing is labeled",
            "label the objects that are there; what has no label is learned as background",
        ),
        (
            "label-class",
            "labels of another class than a confident detection at the same place",
            "correct the class where the detection is right",
        ),
        (
            "label-not-found",
            f"labels without any detection near them (score {LOWEST_SCORE} or more, IoU {NEAR} or more), the largest first",
            "remove those without an object; the others are hard, or unlike what the weights have seen",
        ),
    )
    for code, what, remedy in kinds:
        if of_code := doubts[code]:
            examples = tuple(_example(dataset, doubt) for doubt in of_code[:EXAMPLES])
            severity = "note" if code == "label-not-found" else "warning"
            yield Finding(code, severity, what, {split: len(of_code)}, remedy, examples)  # type: ignore[arg-type]


def _unlabeled(image: ImageBoxes, overlap: Float64[np.ndarray, "d t"], names: Sequence[str]) -> Iterator[Doubt]:
    free = (image.scores >= CONFIDENT) & (overlap.max(axis=1, initial=0.0) < NEAR)
    for each in np.flatnonzero(free).tolist():
        score, label = float(image.scores[each]), int(image.labels[each])
        yield Doubt(image.index, score, image.boxes[each], f"{names[label]} {score:.2f}", label, score)


def _unfound(image: ImageBoxes, overlap: Float64[np.ndarray, "d t"], names: Sequence[str]) -> Iterator[Doubt]:
    near = (overlap * (image.scores >= LOWEST_SCORE)[:, None]).max(axis=0, initial=0.0)
    for each in np.flatnonzero((near < NEAR) & ~image.crowd).tolist():
        box, label = image.truth_boxes[each], int(image.truth_labels[each])
        yield Doubt(image.index, float(box[2:].prod()), box, f"labeled {names[label]}", label, None)


def _swapped(image: ImageBoxes, overlap: Float64[np.ndarray, "d t"], names: Sequence[str]) -> Iterator[Doubt]:
    """At most one for each label: a better detection of the label's own class there speaks for it."""
    labels: Int64[np.ndarray, "d 1"] = image.labels[:, None]
    own = labels == image.truth_labels
    there = overlap >= SAME_PLACE
    for_it = (image.scores[:, None] * (own & (overlap >= NEAR))).max(axis=0, initial=0.0)
    scores = image.scores[:, None] * (there & ~own)
    against = scores.max(axis=0, initial=0.0)
    for each in np.flatnonzero((against >= CONFIDENT) & (for_it < against / 2) & ~image.crowd).tolist():
        other = names[image.labels[scores[:, each].argmax()]]
        label, score = int(image.truth_labels[each]), float(against[each])
        text = f"labeled {names[label]}, found {other} {score:.2f}"
        yield Doubt(image.index, score, image.truth_boxes[each], text, label, score)


def _example(dataset: CocoDataset, doubt: Doubt) -> Example:
    x, y, width, height = doubt.xywh.tolist()
    view = View(dataset.image(doubt.image), [[x, y, x + width, y + height]], [doubt.text], dataset.size(doubt.image))
    return Example(f"{dataset.file_name(doubt.image)}: {doubt.text} at x {x:.0f}, y {y:.0f}", (view,))
