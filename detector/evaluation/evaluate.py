"""Scoring a detector on a split of a data set."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from detector.config import EvaluateConfig, LoaderConfig
from detector.data.coco import CocoImages
from detector.data.pictures import UnreadablePictureError
from detector.data.splits import split_paths
from detector.data.workers import batches_of, start_worker, worker_count
from detector.errors import DataError
from detector.evaluation.coco_metrics import METRICS, coco_metrics, ground_truth
from detector.evaluation.reports import print_metrics
from detector.fileio import require_writable, write_json
from detector.geometry.frame_size import FrameSize
from detector.geometry.letterbox import Letterbox
from detector.inference.detector import Detector
from detector.inference.tiles import TiledDetector


@dataclass(frozen=True)
class Evaluation:
    """metrics: see `coco_metrics`; results: the detections in the COCO results format, the data set's own ids;
    image_ids: the pictures that count; unreadable: a line for each that was left out, also of the figures."""

    metrics: dict[str, Any]
    results: list[dict[str, Any]]
    image_ids: tuple[int, ...]
    unreadable: tuple[str, ...]


class Frame(NamedTuple):
    """A letterboxed picture, (3, height, width) uint8 RGB; `pixels` is None and `problem` says why if it was unreadable."""

    image_id: int
    letterbox: Letterbox
    pixels: UInt8[Tensor, "3 height width"] | None
    problem: str


class Frames(Dataset[Frame]):
    """The pictures of a split, letterboxed to `size`, or as they are if that is None."""

    def __init__(self, images: CocoImages, size: FrameSize | None) -> None:
        self._images = images
        self._size = size

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Frame:
        width, height = self._images.size(index)
        size = FrameSize(height, width) if self._size is None else self._size
        letterbox = Letterbox(width, height, size.width, size.height)
        image_id = self._images.image_id(index)
        try:
            picture = self._images.read(index).image
        except UnreadablePictureError as error:
            return Frame(image_id, letterbox, None, str(error))
        return Frame(image_id, letterbox, torch.from_numpy(letterbox.image(picture)).permute(2, 0, 1), "")


@dataclass
class Found:
    """Detections in the COCO results format, the ids of the pictures that were read, and a line for each that was not."""

    results: list[dict[str, Any]] = field(default_factory=list)
    image_ids: list[int] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def frame_loader(
    images: CocoImages, size: FrameSize | None, config: LoaderConfig, indices: range, reuse: bool = False
) -> DataLoader[Frame]:
    """Lists of frames, those of the pictures of `images` with these indices; `reuse` keeps the workers for the next pass."""
    workers = worker_count(config)
    return DataLoader(
        Subset(Frames(images, size), indices),
        batch_size=Detector.BATCH,
        num_workers=workers,
        collate_fn=list,
        persistent_workers=reuse and workers > 0,
        worker_init_fn=start_worker,
    )


def detect_all(detector: Detector, frames: DataLoader[Frame]) -> Found:
    """Detect on the frames of `frame_loader`; the boxes are those that `detector` gives for the pictures' files."""
    found = Found()
    for batch in batches_of(frames):
        readable = [frame for frame in batch if frame.pixels is not None]
        found.unreadable += [frame.problem for frame in batch if frame.pixels is None]
        if not readable:
            continue
        found.image_ids += [frame.image_id for frame in readable]
        pixels = [frame.pixels for frame in readable if frame.pixels is not None]
        for frame, seen in zip(readable, detector.detect_frames(pixels, [f.letterbox for f in readable]), strict=True):
            found.results += seen.to_coco(frame.image_id)
    return found


def score(shares: Sequence[Found], images: CocoImages, max_unreadable: float, reference: bool) -> Evaluation:
    """The figures of detections that may come from several processes, each of its own share of the pictures.

    Pictures that can't be read are left out, of the figures too; raises DataError if their share is above `max_unreadable`.
    """
    results = [result for share in shares for result in share.results]
    image_ids = [image_id for share in shares for image_id in share.image_ids]
    unreadable = [line for share in shares for line in share.unreadable]
    if len(unreadable) > max_unreadable * len(images):
        raise DataError(
            f"{len(unreadable)} of {len(images)} pictures of {images.annotations_path} can't be read, the first:"
            f" {unreadable[0]}; mend or remove them, or allow more with --loader.max_unreadable (train and evaluate take it)"
        )
    metrics = coco_metrics(ground_truth(images.annotations_path), results, image_ids, reference)
    return Evaluation(metrics, results, tuple(image_ids), tuple(unreadable))


def detect_tiled(detector: TiledDetector, images: CocoImages) -> Found:
    """As `detect_all`, each picture through its windows."""
    found = Found()
    for index in range(len(images)):
        try:
            picture = images.read(index).image
        except UnreadablePictureError as error:
            found.unreadable.append(str(error))
            continue
        found.image_ids.append(images.image_id(index))
        found.results += detector(picture).to_coco(images.image_id(index))
    return found


def evaluate_model(
    detector: Detector | TiledDetector, images: CocoImages, loader: LoaderConfig, reference: bool
) -> Evaluation:
    """Detect on every picture of `images` and `score` that."""
    if isinstance(detector, TiledDetector):
        return score([detect_tiled(detector, images)], images, loader.max_unreadable, reference)
    size = None if detector.runtime.places_pictures else FrameSize.of(detector.image_size)
    frames = frame_loader(images, size, loader, range(len(images)))
    found = detect_all(detector, frames)
    return score([found], images, loader.max_unreadable, reference)


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Score weights on a split; writes `metrics.json` and `detections.json` into `config.out` and prints the tables.

    Returns the content of metrics.json: `METRICS`, `per_category`, and what was scored. Raises DetectorError kinds.
    """
    require_writable(Path(config.out))
    detector = Detector.load(
        config.weights,
        image_size=config.image_size,
        conf=config.conf,
        iou=config.iou,
        max_detections=config.max_detections,
        device=config.device,
        threads=config.threads,
    )
    images = CocoImages.load(split_paths(config.data, config.paths, config.split), detector.categories)
    for line in images.problems:
        print(line)
    looked = detector if config.tiles is None else TiledDetector(detector, config.tiles, config.overlap)
    scored = evaluate_model(looked, images, config.loader, reference=True)
    for line in scored.unreadable:
        print(f"left out: {line}")
    if scored.unreadable:
        print(f"left out: {len(scored.unreadable)} of {len(images)} pictures, named above")
    report = {
        **scored.metrics,
        "weights": config.weights,
        "annotations": str(images.annotations_path),
        "split": config.split,
        "image_size": detector.image_size,
        "tiles": config.tiles,
        "overlap": None if config.tiles is None else config.overlap,
        "images": len(images) - len(scored.unreadable),
        "unreadable": list(scored.unreadable),
    }
    out = Path(config.out)
    write_json(out / "detections.json", scored.results)
    write_json(out / "metrics.json", report)
    if not scored.results:
        print(
            f"no detection has a score of {config.conf:g} or more, so every figure is 0: train longer, or lower --conf"
        )
    print_metrics({name: report[name] for name in METRICS}, scored.metrics["per_category"])
    print(f"written: {out / 'metrics.json'}, {out / 'detections.json'}")
    return report
