"""Export weights to a file for another runtime, or a smaller one for this; it is kept only if it detects what the model does."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8

from detector.config import ExportConfig, ImageSize
from detector.data.coco import CocoDataset
from detector.data.load import load_split
from detector.errors import ConfigError, DataError, ExportMismatchError
from detector.evaluation.evaluate import evaluate_model
from detector.exporting.calibration import calibration_images
from detector.exporting.verify import FLOAT32, HALF, Comparison, Tolerance, compare, shipped_photos
from detector.formats.load import load_runtime
from detector.formats.pytorch import EagerRuntime
from detector.formats.runtime import Runtime
from detector.formats.table import FORMATS
from detector.images.input_size import STEP, InputSize
from detector.images.read import read_image
from detector.inference.detector import Detector
from detector.models.base import DetectionModel
from detector.models.catalog import create_model
from detector.utils.fileio import require_apart, require_writable, staging_dir, write_json, writing
from detector.weights.files import WeightsInfo, load_weights
from detector.weights.published.names import from_published
from detector.weights.shipped import find_weights

MAX_IMAGES = 16
"""Maximum number of images of the dataset that are compared."""
COMPARED_DETECTIONS = 3000
"""Per image, in comparisons: a lower limit would cut between scores that differ by rounding only."""
CONFS = (0.25, 0.05, 0.01, 0.001)
IOUS = (0.7, 0.45)
"""IoUs of NMS in comparisons: with both, no other that a file might have instead goes unnoticed."""
DIFFERS = "; it DIFFERS, kept by --force"
TOLERANCES: dict[str, Tolerance] = {"float32": FLOAT32, "float16": HALF}
"""Of precisions whose boxes are compared; the others are judged by their AP."""


def export(config: ExportConfig) -> Comparison | None:
    """Write `config.out` and compare it with the model on real images, None for a format that can't be run here; the result
    goes into a .json file beside it.

    Raises ExportMismatchError (exit code 1) with the differences if there are any, and keeps no file unless
    `config.force`; other DetectorError kinds for what the user can fix.
    """
    out = Path(config.out)
    require_writable(out.parent)
    if out.is_dir():
        raise ConfigError(f"--out: {config.out} is a folder; name a file, or remove it first")
    weights = find_weights(config.weights)
    require_apart([weights], [out, out.with_name(f"{out.name}.json"), out.with_suffix(".bin")])
    model, info = load_weights(weights)
    info = replace(info, image_size=config.image_size or info.image_size)
    dataset = calibration = None
    if config.data is not None:
        dataset = load_split(config.data, "val", info.categories)
        if config.precision == "int8":
            calibration = calibration_images(config.data, InputSize.of(info.image_size), dataset)
    with staging_dir(out) as folder, writing(out):
        file = folder / out.name
        FORMATS[config.format].write(file, model, info, config, calibration)
        compared = FORMATS[config.format].verified_on is not None
        comparison = compare_file(file, model, info, config, dataset) if compared else None
        if comparison is not None and not comparison.passes() and not config.force:
            raise ExportMismatchError(f"{config.out} was not written: {comparison}")
        precision = config.effective_precision
        given = {"weights": config.weights, "format": config.format, "precision": precision, "data": config.data}
        result = {"passes": None} if comparison is None else comparison.to_json()
        write_json(folder / f"{out.name}.json", {**given, "image_size": info.image_size, **result})
    said = comparison or f"NOT compared with the model: {config.format} files can't be run here"
    print(f"written: {config.out}; {said}" + ("" if comparison is None or comparison.passes() else DIFFERS))
    return comparison


class Case(NamedTuple):
    """Settings in which the file and the model are compared."""

    image_size: ImageSize
    conf: float
    iou: float
    max_detections: int = COMPARED_DETECTIONS

    def detector(self, network: DetectionModel | Runtime, info: WeightsInfo) -> Detector:
        return Detector(
            network,
            info.categories,
            self.image_size,
            conf=self.conf,
            iou=self.iou,
            max_detections=self.max_detections,
            device="cpu",
        )


def compare_file(
    file: Path, model: DetectionModel, info: WeightsInfo, config: ExportConfig, dataset: CocoDataset | None
) -> Comparison:
    """Compare the exported file with the model at the export size, and at a second size if the file takes others; also by
    AP if a dataset is given."""
    images = comparison_images(dataset)
    runtime, problems = open_file(file, info, config)
    sizes: list[ImageSize] = [info.image_size]
    if runtime.input_size is None and not runtime.letterboxes_inputs:
        height, width = InputSize.of(info.image_size)
        sizes.append((height + 2 * STEP, width))
    lowest = [Case(info.image_size, CONFS[-1], iou).detector(model, info) for iou in IOUS]
    conf = pick_conf(lowest, images)
    precision = config.effective_precision
    ious = (1.0,) if precision == "float16" else IOUS  # of boxes alike NMS may keep another after the least rounding
    cases = [Case(size, conf, iou) for size in sizes for iou in ious]
    pairs = [(case.detector(model, info), case.detector(runtime, info)) for case in cases]
    comparison = replace(compare(pairs, images, TOLERANCES.get(precision)), problems=tuple(problems))
    if dataset is None:
        return comparison
    evaluated = Case(info.image_size, conf=0.001, iou=0.7, max_detections=300)  # as `evaluate` does
    of_model, of_file = (
        evaluate_model(evaluated.detector(network, info), dataset, max_unreadable=1) for network in (model, runtime)
    )
    if of_model.unreadable:
        print(f"skipped in the AP: {len(of_model.unreadable)} of {len(dataset)} images, which can't be read")
    return replace(comparison, ap=of_model.metrics["AP"], file_ap=of_file.metrics["AP"])


def open_file(file: Path, info: WeightsInfo, config: ExportConfig) -> tuple[Runtime, list[str]]:
    """What runs the file, and what is wrong in what the file says of itself."""
    if config.format == "published":
        model = create_model(info.model, len(info.categories)).eval()
        model.load_state_dict(from_published(torch.load(file, weights_only=True), info.model))
        return EagerRuntime(model, torch.device("cpu")), []
    device = FORMATS[config.format].verified_on
    assert device is not None
    runtime, stated = load_runtime(file, device, None)
    problems = [] if stated.to_metadata() == info.to_metadata() else ["its metadata are not those of the weights"]
    if config.format == "onnx" and not config.raw:
        from detector.formats.onnx.export import wrong_defaults

        problems += wrong_defaults(file, info)
    return runtime, problems


def pick_conf(detectors: Sequence[Detector], images: Sequence[UInt8[np.ndarray, "_h _w 3"]]) -> float:
    """The highest of `CONFS` at which there is at least one detection per image, and NMS finds others with each of the
    detectors' IoUs; else the lowest."""
    scores = [torch.cat([detector(image).scores for image in images]) for detector in detectors]
    counts = [[int((of_one >= conf).sum()) for of_one in scores] for conf in CONFS]
    enough = (len(set(count)) == len(count) and min(count) >= len(images) for count in counts)
    return next((conf for conf, telling in zip(CONFS, enough, strict=True) if telling), CONFS[-1])


def comparison_images(dataset: CocoDataset | None) -> list[UInt8[np.ndarray, "_h _w 3"]]:
    """The first images of the dataset, or the shipped photographs; one of them gray, and two of extreme shapes.

    Raises DataError if none of the dataset can be read.
    """
    if dataset is None:
        images = [read_image(path) for path in shipped_photos()]
    else:
        images = [sample.image for _, sample in islice(dataset.readable(range(len(dataset))), MAX_IMAGES)]
        if not images:
            raise DataError(
                f"{dataset.annotations_path}: none of its {len(dataset)} images can be read; check the files or take another --data"
            )
    first = images[0]
    gray = np.repeat(first.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    return [*images, gray, np.ascontiguousarray(first[: max(len(first) // 20, 1)]), first[:1, :1].copy()]
