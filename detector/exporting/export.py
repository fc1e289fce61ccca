"""Weights to a file for another runtime, or a smaller one for this, which stays only if it detects what the model detects."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from detector.config import PRECISIONS, ExportConfig, LoaderConfig, PathsConfig
from detector.data.coco import CocoImages
from detector.data.pictures import read_picture
from detector.data.splits import split_paths
from detector.errors import ConfigError, DataError, ExportMismatchError
from detector.evaluation.evaluate import evaluate_model
from detector.exporting.calibration import Frames, calibration_frames
from detector.exporting.published import write_published
from detector.exporting.torch_formats import write_exported, write_torchscript
from detector.exporting.verify import FLOAT32, HALF, Comparison, Tolerance, compare, shipped_pictures
from detector.fileio import require_writable, staged, write_json
from detector.geometry.frame_size import STEP, FrameSize
from detector.inference.detector import Detector
from detector.models.base import DetectionModel
from detector.models.catalog import create_model
from detector.runtimes.base import Runtime
from detector.runtimes.eager import EagerRuntime
from detector.runtimes.load import load_runtime
from detector.weights.files import WeightsInfo, load_weights, save_weights
from detector.weights.importers import from_published

MOST_PICTURES = 16
MOST_DETECTIONS = 3000
"""In comparisons: a lower limit would cut between scores that differ by a rounding only."""
CONFS = (0.25, 0.05, 0.01, 0.001)
IOUS = (0.7, 0.45)
"""Of NMS: with both, no other that a file might have instead goes unnoticed."""
AP_SELECTION = 0.001, 0.7, 300
"""As `evaluate` has it: conf, iou, detections."""
TOLERANCES: dict[str, Tolerance | None] = {"float32": FLOAT32, "float16": HALF, "bfloat16": None, "int8": None}


def export(config: ExportConfig) -> Comparison:
    """Write `config.out` and compare it with the model on real pictures; the figures go into a .json file beside it.

    Raises ExportMismatchError (exit code 1) with the figures, and leaves no file unless `config.force`, if they differ; other
    DetectorError kinds for what the user can mend.
    """
    out = Path(config.out)
    require_writable(out.parent)
    if out.is_dir():
        raise ConfigError(f"--out: {config.out} is a folder; name the file to write")
    model, info = load_weights(Path(config.weights))
    info = replace(info, image_size=config.image_size or info.image_size)
    images = None
    if config.data is not None:
        images = CocoImages.load(split_paths(config.data, PathsConfig(), "val"), info.categories)
    frames = None
    if config.precision == "int8":
        assert config.data is not None
        assert images is not None
        frames = calibration_frames(config.data, FrameSize.of(info.image_size), images)
    with staged(out) as folder:
        file = folder / out.name
        write(file, model, info, config, frames)
        comparison = compare_file(file, model, info, config, images)
        if not comparison.passes() and not config.force:
            raise ExportMismatchError(f"{config.out} was not written: {comparison}")
        given = {name: getattr(config, name) for name in ("weights", "format", "precision", "data")}
        report = {**given, "image_size": info.image_size, **comparison.to_json()}
        write_json(folder / f"{out.name}.json", report)
    print(f"written: {config.out}; {comparison}" + ("" if comparison.passes() else "; NOT the model, left by --force"))
    return comparison


def write(file: Path, model: DetectionModel, info: WeightsInfo, config: ExportConfig, frames: Frames | None) -> None:
    """Write the file, for OpenVINO two; with frames to calibrate on, in whole numbers (int8).

    A format's packages are imported only where it is asked for.
    """
    if config.format == "onnx":
        from detector.exporting.onnx import write_onnx

        write_onnx(file, model, info, config, frames)
    elif config.format == "openvino":
        from detector.exporting.openvino import write_openvino

        write_openvino(file, model, info, config.precision, frames)
    elif config.format == "tensorrt":
        from detector.exporting.tensorrt import write_engine

        write_engine(file, model, info, half=config.precision == "float16")
    elif config.format == "torchscript":
        write_torchscript(file, model, info)
    elif config.format == "torch_export":
        write_exported(file, model, info)
    elif config.format == "safetensors":
        save_weights(file, model, info, half=True)
    else:
        write_published(file, model, info.model)


def compare_file(
    file: Path, model: DetectionModel, info: WeightsInfo, config: ExportConfig, images: CocoImages | None
) -> Comparison:
    """Of the file as `Detector.load` reads it, at its size and, if it takes others, at a second one; AP where there are data."""
    pictures = comparison_pictures(images)
    runtime: Runtime
    problems: list[str] = []
    if config.format == "published":
        runtime = load_published(file, info)
    else:
        runtime, stated = load_runtime(file, "cuda" if config.format == "tensorrt" else "cpu", None)
        if stated.to_metadata() != info.to_metadata():
            problems.append("its metadata are not those of the weights")
    if config.format == "onnx" and not config.raw:
        from detector.exporting.onnx import wrong_defaults

        problems += wrong_defaults(file)
    sizes = [info.image_size]
    if runtime.frame is None and not runtime.places_pictures:
        height, width = FrameSize.of(info.image_size)
        sizes.append((height + 2 * STEP, width))

    def both(size: int | tuple[int, int], conf: float, iou: float, most: int) -> tuple[Detector, Detector]:
        return (
            Detector(model, info.categories, size, conf=conf, iou=iou, max_detections=most, device="cpu"),
            Detector(runtime, info.categories, size, conf=conf, iou=iou, max_detections=most),
        )

    conf = telling_conf([both(info.image_size, CONFS[-1], iou, MOST_DETECTIONS)[0] for iou in IOUS], pictures)
    precision = config.precision or PRECISIONS[config.format][0]
    ious = (1.0,) if precision == "float16" else IOUS  # of boxes alike NMS may choose another after the least rounding
    pairs = [both(size, conf, iou, MOST_DETECTIONS) for size in sizes for iou in ious]
    comparison = replace(compare(pairs, pictures, TOLERANCES[precision]), problems=tuple(problems))
    if images is None:
        return comparison
    scored, file_scored = (
        evaluate_model(detector, images, LoaderConfig(max_unreadable=1), reference=True)
        for detector in both(info.image_size, *AP_SELECTION)
    )
    if scored.unreadable:
        print(f"left out of the AP: {len(scored.unreadable)} of {len(images)} pictures, which can't be read")
    return replace(comparison, ap=scored.metrics["AP"], file_ap=file_scored.metrics["AP"])


def load_published(file: Path, info: WeightsInfo) -> EagerRuntime:
    """The network that a state of torch.save with published names holds."""
    model = create_model(info.model, len(info.categories)).eval()
    model.load_state_dict(from_published(torch.load(file, weights_only=True), info.model))
    return EagerRuntime(model, torch.device("cpu"))


def telling_conf(detectors: Sequence[Detector], pictures: Sequence[UInt8[np.ndarray, "_h _w 3"]]) -> float:
    """The highest of `CONFS` at which there is at least one detection a picture, and NMS finds others with each of the
    detectors' IoUs; else the lowest."""
    scores = [torch.cat([detector(picture).scores for picture in pictures]) for detector in detectors]
    counts = [[int((of_one >= conf).sum()) for of_one in scores] for conf in CONFS]
    enough = (len(set(count)) == len(count) and min(count) >= len(pictures) for count in counts)
    return next((conf for conf, telling in zip(CONFS, enough, strict=True) if telling), CONFS[-1])


def comparison_pictures(images: CocoImages | None) -> list[UInt8[np.ndarray, "_h _w 3"]]:
    """The first pictures of the data set, or the shipped photographs; one of them grey, and two of extreme shapes.

    Raises DataError if none of the data set can be read.
    """
    if images is None:
        pictures = [read_picture(path) for path in shipped_pictures()]
    else:
        pictures = [sample.image for _, sample in islice(images.readable(range(len(images))), MOST_PICTURES)]
        if not pictures:
            raise DataError(f"{images.annotations_path}: none of its {len(images)} pictures can be read")
    first = pictures[0]
    grey = np.repeat(first.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    return [*pictures, grey, np.ascontiguousarray(first[: max(len(first) // 20, 1)]), first[:1, :1].copy()]
