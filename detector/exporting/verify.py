"""Whether an exported file detects what the model detects, on real images."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from detector.boxes import box_area, intersection_area
from detector.formats.pytorch import EagerRuntime
from detector.inference.detector import Detector
from detector.structures import Detections

MAX_AP_LOSS = 0.01
"""Largest loss of AP of a file that computes in bfloat16 or int8, whose boxes can't be exactly the model's."""


@dataclass(frozen=True)
class Tolerance:
    """What may differ between matched detections: box sides in pixels of the original image, scores. A detection needs a match if
    its score is more than `score` above the threshold, since below that either side may have just missed it."""

    box: float
    score: float


FLOAT32 = Tolerance(box=0.5, score=1e-3)
HALF = Tolerance(box=1.0, score=0.05)
"""Rounding the weights of a trained yolo11n moved boxes by up to 0.25 px and scores by up to 0.02; its AP on 87 images went
from 0.5799 to 0.5792."""


@dataclass(frozen=True)
class Comparison:
    """Largest differences of matches (score from `conf`, after NMS), and how many either side found.

    ap, file_ap: AP of the model and of the file, where there is a dataset; problems: what the file says of itself that is
    not so.
    """

    images: int
    conf: float
    box_difference: float
    score_difference: float
    model_detections: int
    file_detections: int
    unmatched: int
    tolerance: Tolerance | None = FLOAT32
    ap: float | None = None
    file_ap: float | None = None
    problems: tuple[str, ...] = ()

    def passes(self) -> bool:
        """Whether all is within the tolerance; without one the loss of AP must be within `MAX_AP_LOSS`."""
        if self.problems:
            return False
        # written so that NaN fails
        if self.tolerance is None:
            return self.ap_tells and (self.file_ap or 0.0) >= (self.ap or 0.0) - MAX_AP_LOSS
        return (
            self.box_difference <= self.tolerance.box
            and self.score_difference <= self.tolerance.score
            and self.unmatched == 0
            and self.model_detections > 0
        )

    @property
    def ap_tells(self) -> bool:
        """Whether a file that finds nothing would lose more than `MAX_AP_LOSS`."""
        return (self.ap or 0.0) > MAX_AP_LOSS

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "passes": self.passes()}

    def __str__(self) -> str:
        found = (
            f"on {self.images} images the model has {self.model_detections} detections of score {self.conf:g} or more,"
            f" the file {self.file_detections}"
        )
        rest = "" if self.ap is None else f"; AP {self.ap:.4f} and {self.file_ap:.4f}"
        if self.tolerance is None and not self.ap_tells:
            rest += "; too little to judge the file by: give --data whose objects the model finds"
        if self.tolerance is not None and self.model_detections == 0:
            rest += "; nothing to judge the file by: train longer, or give --data whose objects the model finds"
        rest += "".join(f"; {problem}" for problem in self.problems)
        if self.tolerance is None:
            return f"{found}{rest} (a loss of {MAX_AP_LOSS} is allowed)"
        return (
            f"{found}, {self.unmatched} without a match; boxes differ by up to {self.box_difference:.2g} px (allowed"
            f" {self.tolerance.box}), scores by up to {self.score_difference:.2g} (allowed {self.tolerance.score}){rest}"
        )


def compare(
    pairs: Sequence[tuple[Detector, Detector]],
    images: Sequence[UInt8[np.ndarray, "_h _w 3"]],
    tolerance: Tolerance | None,
) -> Comparison:
    """Run pairs of the model and the file, all of one `conf`, on every image; files that take several images also get all
    at once."""
    box_difference = score_difference = 0.0
    model_detections = file_detections = unmatched = 0
    for model, file in pairs:
        expected = [model(image) for image in images]
        rounds = [[file(image) for image in images]]
        if file.runtime.max_batch_size is None and not isinstance(file.runtime, EagerRuntime):
            file.batch = len(images)
            rounds.append(file(list(images)))
        model_detections += sum(len(found) for found in expected)
        file_detections += sum(len(found) for found in rounds[0])
        for one, other in ((one, other) for found in rounds for one, other in zip(expected, found, strict=True)):
            boxes, scores, alone = differences(one, other, model.conf + (tolerance or HALF).score)
            box_difference, score_difference = largest(box_difference, boxes), largest(score_difference, scores)
            unmatched += alone
    return Comparison(
        len(images),
        pairs[0][0].conf,
        box_difference,
        score_difference,
        model_detections,
        file_detections,
        unmatched,
        tolerance,
    )


def differences(one: Detections, other: Detections, certain: float) -> tuple[Tensor, Tensor, int]:
    """Differences of matches (same label, largest overlap, each taken once, best score first) in the boxes' sides and
    of the scores; and how many detections of a score of at least `certain` have no match with an IoU of 0.5."""
    shared = intersection_area(one.boxes[:, None], other.boxes[None])
    areas = box_area(one.boxes)[:, None] + box_area(other.boxes)[None]
    ious = torch.where(shared > 0, shared / (areas - shared), 0.0)
    same_box = (one.boxes[:, None] - other.boxes[None]).abs().amax(-1) < 1e-3  # of no area, too
    ious = torch.where(same_box, 1.0, ious)
    ious = torch.where(one.labels[:, None] == other.labels[None], ious, -1.0)
    first, second = [], []
    for i in range(len(one)):
        if len(other) == 0:
            break
        j = int(ious[i].argmax())
        if ious[i, j] >= 0.5:
            first.append(i)
            second.append(j)
            ious[:, j] = -1.0
    alone = [np.setdiff1d(np.arange(len(side)), taken) for side, taken in ((one, first), (other, second))]
    unmatched = sum(
        int((~(side.scores[torch.as_tensor(rest)] < certain)).sum())
        for side, rest in zip((one, other), alone, strict=True)
    )
    return one.boxes[first] - other.boxes[second], one.scores[first] - other.scores[second], unmatched


def shipped_photos() -> list[Path]:
    """The photographs that come with the package."""
    return sorted((Path(__file__).parent / "photos").glob("*.jpg"))


def largest(so_far: float, difference: Tensor) -> float:
    """The larger of two largest differences; NaN if there is one."""
    return torch.cat((torch.tensor([so_far]), difference.abs().flatten())).max().item()
