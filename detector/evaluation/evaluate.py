"""Evaluation of a detector on a split of a dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from detector.config import DEFAULT_CONF, EvaluateConfig
from detector.data.coco import CocoDataset
from detector.data.load import load_split
from detector.data.workers import batches_of, start_worker, worker_count
from detector.errors import DataError, printable
from detector.evaluation.coco_metrics import category_names, coco_input, coco_metrics
from detector.evaluation.explain import best_confidences, explain
from detector.evaluation.reports import print_explanation, print_metrics
from detector.images.input_size import InputSize
from detector.images.letterbox import Letterbox
from detector.images.read import UnreadableImageError
from detector.inference.detector import Detector
from detector.inference.tiles import TiledDetector, with_tiles
from detector.structures import Categories, Detections
from detector.utils.fileio import require_apart, require_writable, write_json
from detector.weights.files import write_thresholds
from detector.weights.shipped import own_weights

EXPLANATION = ("explain.json", "errors.png", "reliability.png")
"""What `--explain` writes."""


@dataclass
class SplitDetections:
    """Detections by the index of their image in the dataset, and a line for each image that can't be read."""

    detections: dict[int, Detections] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation:
    """metrics: see `coco_metrics`, over the images that were read; detections: by the index of the image; unreadable: a
    line for each image that was skipped."""

    metrics: dict[str, Any]
    detections: dict[int, Detections]
    unreadable: tuple[str, ...]


class EvalItem(NamedTuple):
    """A letterboxed image, (3, height, width) uint8 RGB; `pixels` is None and `problem` says why if it was unreadable."""

    image_index: int
    letterbox: Letterbox
    pixels: UInt8[Tensor, "3 height width"] | None
    problem: str


class EvalDataset(Dataset[EvalItem]):
    """The images of a split, letterboxed to `size`, or as they are if that is None."""

    def __init__(self, dataset: CocoDataset, size: InputSize | None) -> None:
        self._dataset = dataset
        self._size = size

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> EvalItem:
        width, height = self._dataset.size(index)
        size = InputSize(height, width) if self._size is None else self._size
        letterbox = Letterbox(width, height, size.width, size.height)
        try:
            image = self._dataset.read(index).image
        except UnreadableImageError as error:
            return EvalItem(index, letterbox, None, str(error))
        return EvalItem(index, letterbox, torch.from_numpy(letterbox.apply(image)).permute(2, 0, 1), "")


def eval_loader(
    dataset: CocoDataset, size: InputSize | None, workers: int, indices: range, reuse: bool = False
) -> DataLoader[EvalItem]:
    """Lists of items, of the images of `dataset` with these indices; `reuse` keeps the workers for the next pass."""
    workers = worker_count(workers)
    return DataLoader(
        Subset(EvalDataset(dataset, size), indices),
        batch_size=Detector.BATCH,
        num_workers=workers,
        collate_fn=list,
        persistent_workers=reuse and workers > 0,
        worker_init_fn=start_worker,
    )


def detect_all(detector: Detector, items: DataLoader[EvalItem]) -> SplitDetections:
    """Detect on the items of `eval_loader`; the boxes are those that `detector` gives for the images' files."""
    found = SplitDetections()
    for batch in batches_of(items):
        found.unreadable += [item.problem for item in batch if item.pixels is None]
        readable = [(item, item.pixels) for item in batch if item.pixels is not None]
        detections = detector.detect_inputs([p for _, p in readable], [item.letterbox for item, _ in readable])
        found.detections |= {item.image_index: each for (item, _), each in zip(readable, detections, strict=True)}
    return found


def detect_tiled(detector: TiledDetector, dataset: CocoDataset, indices: range) -> SplitDetections:
    """Detect on the images with these indices by their tiles; as `detect_all`."""
    found = SplitDetections()
    for index in indices:
        try:
            found.detections[index] = detector(dataset.read(index).image)
        except UnreadableImageError as error:
            found.unreadable.append(str(error))
    return found


def score(
    shards: Sequence[SplitDetections],
    dataset: CocoDataset,
    max_unreadable: float,
    reference: bool = True,
    max_dets: int = 100,
) -> Evaluation:
    """Metrics of detections that may come from several processes, each with a shard of the images.

    Unreadable images are skipped, in the metrics too; raises DataError if their fraction is above `max_unreadable`.
    """
    detections = {index: each for shard in shards for index, each in shard.detections.items()}
    unreadable = [line for shard in shards for line in shard.unreadable]
    if len(unreadable) > max_unreadable * len(dataset):
        raise DataError(
            f"{len(unreadable)} of {len(dataset)} images of {dataset.annotations_path} can't be read, the first:"
            f" {unreadable[0]}; fix or remove them, or allow more with --max_unreadable (train and evaluate take it)"
        )
    truth, results, read = coco_input(dataset, detections)
    metrics = coco_metrics(truth, results, read, category_names(dataset.categories), reference, max_dets)
    return Evaluation(metrics, detections, tuple(unreadable))


def evaluate_model(
    detector: Detector | TiledDetector,
    dataset: CocoDataset,
    workers: int = -1,
    max_unreadable: float = 0.01,
    max_dets: int = 100,
) -> Evaluation:
    """Detect on every image of `dataset` and `score` that."""
    if isinstance(detector, TiledDetector):
        return score([detect_tiled(detector, dataset, range(len(dataset)))], dataset, max_unreadable, max_dets=max_dets)
    size = None if detector.runtime.letterboxes_inputs else InputSize.of(detector.image_size)
    items = eval_loader(dataset, size, workers, range(len(dataset)))
    return score([detect_all(detector, items)], dataset, max_unreadable, max_dets=max_dets)


def report_limits(dataset: CocoDataset, max_dets: int, max_detections: int) -> None:
    """Print a line if images hold more objects than there may be detections of."""
    labels = [dataset.labels(index) for index in range(len(dataset))]
    of_a_class = [int(np.bincount(each).max(initial=0)) for each in labels]
    crowded = [n for n, each in zip(of_a_class, labels, strict=True) if n > max_dets or len(each) > max_detections]
    if crowded:
        print(
            f"{len(crowded)} of {len(dataset)} images hold more objects (up to {max(map(len, labels))}, {max(of_a_class)} of"
            f" a class) than count with --max_dets {max_dets} and --max_detections {max_detections}: raise them"
        )


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate weights on a split; writes `metrics.json` and `detections.json` into `config.out` and prints the tables.

    Returns the content of metrics.json: `METRICS`, `per_category`, and what was evaluated. Raises DetectorError kinds.
    """
    out = Path(config.out)
    require_writable(out)
    changed = None if config.thresholds is None else own_weights(config.weights)
    detector = Detector.load(config.weights, config)
    dataset = load_split(config.data, config.split, detector.categories, paths=config.paths)
    names = ["metrics.json", "detections.json", *(EXPLANATION if config.explain else ())]
    require_apart([config.weights, dataset.annotations_path], [out / name for name in names])
    for line in dataset.problems:
        print(printable(line))
    used = with_tiles(detector, config)
    report_limits(dataset, config.max_dets, config.max_detections)
    evaluation = evaluate_model(used, dataset, config.workers, config.max_unreadable, config.max_dets)
    for line in evaluation.unreadable:
        print(f"skipped: {printable(line)}")
    if evaluation.unreadable:
        print(f"skipped: {len(evaluation.unreadable)} of {len(dataset)} images (see above)")
    report = {
        **evaluation.metrics,
        "weights": config.weights,
        "annotations": str(dataset.annotations_path),
        "split": config.split,
        "image_size": detector.image_size,
        "max_dets": config.max_dets,
        "tiles": config.tiles,
        "overlap": None if config.tiles is None else config.overlap,
        "images": len(evaluation.detections),
        "unreadable": list(evaluation.unreadable),
    }
    found = evaluation.detections.items()
    results = [entry for i, each in found for entry in each.to_coco(dataset.image_id(i), dataset.categories)]
    write_json(out / "detections.json", results)
    write_json(out / "metrics.json", report)
    if not results:
        print(
            f"no detection has a score of {config.conf:g} or more, so every metric is 0: train longer, or lower --conf"
        )
    metrics = {name: value for name, value in evaluation.metrics.items() if name != "per_category"}
    print_metrics(metrics, evaluation.metrics["per_category"])
    if config.explain:
        write_explanation(out, explain(dataset, evaluation.detections, config.max_dets))
    print(f"written: {', '.join(str(out / name) for name in names)}")
    if changed is not None:
        set_thresholds(changed, best_confidences(dataset, evaluation.detections, config.max_dets), dataset.categories)
    return report


def write_explanation(out: Path, explanation: Mapping[str, Any]) -> None:
    """Print what `explain` returns, and write it and its charts into `out`."""
    from detector.evaluation.plots import error_chart, reliability_chart  # matplotlib, which takes a second to load
    from detector.utils.charts import save_chart

    print_explanation(explanation)
    write_json(out / EXPLANATION[0], explanation)
    save_chart(error_chart(explanation["errors"]), out / EXPLANATION[1])
    save_chart(reliability_chart(explanation["calibration"]), out / EXPLANATION[2])


def set_thresholds(path: Path, confidences: Sequence[float | None], categories: Categories) -> None:
    """Write the confidences into the weights file, and say which they are."""
    if all(confidence is None for confidence in confidences):
        print(f"{path} keeps its confidences: nothing is found on this split")
        return
    write_thresholds(path, confidences)
    texts = [
        f"{name} {DEFAULT_CONF if confidence is None else confidence:g}"
        for name, confidence in zip(categories.names, confidences, strict=True)
    ]
    print(printable(f"written into {path}, the lowest score of a detection by default: {', '.join(texts)}"))
