"""A split of a dataset with what a network finds in it: its images, the worst first, and its suspicious labels."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from detector.config import PredictionConfig
from detector.data.coco import CocoDataset
from detector.doctor.labels import LOWEST_SCORE, Doubt, detect, find_doubts
from detector.errors import DetectorError
from detector.evaluation.matching import ImageMatch, image_boxes, match_image
from detector.evaluation.tide import FOREGROUND
from detector.inference.detector import Detector
from detector.structures import BOX_DIGITS, SCORE_DIGITS, Detections
from detector.ui.network import SharedNetwork, TurnTakingRuntime

CHUNK = 16
"""Images from one report of the progress to the next."""


@dataclass(frozen=True)
class Findings:
    """matches: the readable images of a split, the worst first; doubts: its suspicious labels by the doctor's codes."""

    matches: Sequence[ImageMatch]
    doubts: Mapping[str, Sequence[Doubt]]

    @cached_property
    def suspicious(self) -> list[tuple[str, Doubt]]:
        """Code and doubt of each suspicious label, the gravest of each code first."""
        return [(code, doubt) for code, of_code in self.doubts.items() for doubt in of_code]

    @cached_property
    def by_image(self) -> dict[int, list[Doubt]]:
        """The suspicious labels of the images that have any, by the index of the image."""
        by_image: dict[int, list[Doubt]] = {}
        for _, doubt in self.suspicious:
            by_image.setdefault(doubt.image, []).append(doubt)
        return by_image


class Review:
    """Looks at a split once, in a thread of its own, however many pages are open.

    done: how many images it has looked at; findings: None until it has looked at all; problem: why it can't.
    """

    def __init__(self, network: SharedNetwork, dataset: CocoDataset, conf: float) -> None:
        """conf: lowest score of the detections that are shown."""
        loaded = network.detector
        config = PredictionConfig(
            conf=LOWEST_SCORE, iou=loaded.iou, max_detections=loaded.max_detections, threads=loaded.threads
        )
        self.detector = Detector(TurnTakingRuntime(network), loaded.categories, loaded.image_size, config)
        self.dataset = dataset
        self.conf = conf
        self.done = 0
        self.findings: Findings | None = None
        self.problem: str | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look at the images within the block, which may end before all are looked at."""
        stop = threading.Event()
        thread = threading.Thread(target=self._look, args=[stop], name="looks at the dataset", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _look(self, stop: threading.Event) -> None:
        try:
            detections: dict[int, Detections] = {}
            while self.done < len(self.dataset):
                if stop.is_set():
                    return
                chunk = range(self.done, min(self.done + CHUNK, len(self.dataset)))
                detections |= detect(self.detector, self.dataset, chunk, workers=0)
                self.done = chunk.stop
            self.findings = self.find(detections)
        except DetectorError as error:
            self.problem = str(error)
        except BaseException:
            self.problem = "a fault in the program; the terminal shows it"
            raise

    def find(self, detections: Mapping[int, Detections]) -> Findings:
        """What there is to say of detections by the index of their image."""
        images = image_boxes(self.dataset, detections)
        matches = [match_image(image, self.conf, FOREGROUND) for image in images]
        return Findings(
            sorted(matches, key=lambda match: match.quality()), find_doubts(images, self.dataset.categories.names)
        )


def as_coco(dataset: CocoDataset, findings: Findings) -> dict[str, Any]:
    """The suspicious labels as COCO annotations with the dataset's own ids, of the images that have any.

    Each has `attributes`, which CVAT shows: `suspicious`, the code of the doctor's finding, and `what`, in words; and
    `score`, of the detection that contradicts, if there is one.
    """
    annotations = []
    for number, (code, doubt) in enumerate(findings.suspicious, start=1):
        bbox = doubt.xywh.round(BOX_DIGITS).tolist()
        entry = {
            "id": number,
            "image_id": dataset.image_id(doubt.image),
            "category_id": dataset.categories.ids[doubt.label],
            "bbox": bbox,
            "area": round(bbox[2] * bbox[3], BOX_DIGITS),
            "segmentation": [],
            "iscrowd": 0,
            "attributes": {"suspicious": code, "what": doubt.text},
        }
        annotations.append(entry if doubt.score is None else {**entry, "score": round(doubt.score, SCORE_DIGITS)})
    images = []
    for index in sorted(findings.by_image):
        width, height = dataset.size(index)
        images.append(
            {"id": dataset.image_id(index), "file_name": dataset.file_name(index), "width": width, "height": height}
        )
    pairs = zip(dataset.categories.ids, dataset.categories.names, strict=True)
    return {
        "info": {"description": f"suspicious labels of {dataset.annotations_path.name}"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": category_id, "name": name} for category_id, name in pairs],
    }
