"""Every setting with its meaning and unit. Frozen, validated on construction; YAML files and the command line fill them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from detector.errors import ConfigError

SMALLEST_TILE = 32
"""Side of a window in pixels."""
MOST_OVERLAP = 0.9
"""Of neighbouring windows, in sides of one."""


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{name}: {value!r} is not possible; expected {expected}")


def _require_types(section: str, config: Any) -> None:
    """Each value has the type of its field; the command line has seen to that already, Python code may not have."""
    hints = get_type_hints(type(config))
    for name in (each.name for each in fields(config)):
        expected = str(hints[name]).removeprefix("typing.") if get_origin(hints[name]) else hints[name].__name__
        _require(_fits(getattr(config, name), hints[name]), f"{section}{name}", getattr(config, name), expected)


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, choice) for choice in get_args(hint))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else get_origin(hint) or hint)


def _require_range(section: str, config: object, bounds: Mapping[str, tuple[float, float]]) -> None:
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        limits = f"at least {low:g}" if math.isinf(high) else f"a number from {low:g} to {high:g}"
        _require(math.isfinite(value) and low <= value <= high, f"{section}.{name}", value, limits)


def require_image_size(name: str, size: int | tuple[int, int]) -> None:
    """Raise ConfigError for what is no size of a network input."""
    sides = (size,) * 2 if isinstance(size, int) else size
    possible = len(sides) == 2 and all(isinstance(side, int) and side >= 32 and side % 32 == 0 for side in sides)
    _require(possible, name, size, "a positive multiple of 32, or [height, width] of two such")


def require_threads(threads: int | None) -> None:
    """Raise ConfigError for what is no number of threads; None leaves it to the runtime."""
    _require(threads is None or threads >= 1, "threads", threads, "at least 1")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the three terms of the loss, and of the auxiliary branch's."""

    box: float = 7.5
    """Weight of 1 - CIoU."""
    classification: float = 0.5
    """Weight of the binary cross-entropy of the classes."""
    distribution: float = 1.5
    """Weight of the cross-entropy of the distance bins."""
    auxiliary: float = 0.25
    """Share of the same loss of YOLOv9's auxiliary branch (PGI), which is there in training only; 0 trains without it."""

    def __post_init__(self) -> None:
        _require_types("loss.", self)
        names = ("box", "classification", "distribution", "auxiliary")
        _require_range("loss", self, dict.fromkeys(names, (0, math.inf)))


@dataclass(frozen=True)
class TrainLoopConfig:
    """How long, how large and with which optimiser."""

    epochs: int = 100
    """Passes over the training split."""
    image_size: int | tuple[int, int] = 640
    """Side of the square network input in pixels, or [height, width]; multiples of 32."""
    multi_scale: float = 0.0
    """Each batch has a size drawn from image_size · (1 - multi_scale) to image_size · (1 + multi_scale), in steps of 32."""
    repeat_threshold: float = 0.0
    """A picture with a class that fewer than this share of the pictures hold comes more often, by the square root of what
    the class lacks (repeat factor sampling); 0 turns it off."""
    batch_size: int | Literal["auto"] = 16
    """Pictures a forward pass, over all processes; auto: as many as fit on the CUDA cards, measured, at most a step's."""
    nominal_batch_size: int = 16
    """Pictures an optimiser step: gradients are accumulated over nominal_batch_size / batch_size forward passes."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    """SGD with Nesterov momentum, or AdamW."""
    learning_rate: float = 0.002
    """Peak learning rate."""
    final_learning_rate: float = 0.01
    """Learning rate of the last step as a share of the peak."""
    schedule: Literal["linear", "cosine"] = "cosine"
    """Shape of the fall from the peak to the last step."""
    momentum: float = 0.9
    """SGD's momentum, AdamW's beta1."""
    weight_decay: float = 0.0005
    """Not applied to norms and biases."""
    warmup_epochs: float = 3.0
    """Epochs in which the rate rises linearly from 0 to the peak; at most a third of the run."""
    warmup_momentum: float | None = None
    """Momentum from which the warm-up moves linearly to `momentum`; no change if not given."""
    warmup_bias_rate: float = 0.0
    """Learning rate of the biases from which the warm-up moves linearly to the peak."""
    ema_decay: float = 0.998
    """Decay of the averaged weights, those that are validated and shipped."""
    ema_ramp_steps: int = 150
    """The decay rises as 1 - exp(-steps / ema_ramp_steps)."""
    clip_gradient_norm: float = 10.0
    """Longest gradient, by its 2-norm."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the forward pass on CUDA; auto takes bf16 where the card has it, else fp16. A CPU runs fp32."""
    stopping_metric: Literal["AP", "AP50", "AP75", "APsmall", "APmedium", "APlarge", "AR100"] = "AP"
    """The validation figure that tells the best epoch, whose weights are kept, and when to stop early."""
    patience: int = 50
    """Stop after this many epochs without a better stopping_metric; 0 never stops early."""
    max_skipped_steps: int = 10
    """A step whose gradient is not finite is skipped; this many in a row stop the run."""
    checkpoint_minutes: float = 10.0
    """last.pt is written after each epoch, and within an epoch whenever it is older than this."""
    compile: bool = False
    """Compile the network with torch.compile: minutes at the start, faster steps."""
    deterministic: bool = False
    """Refuse operations that may differ from run to run on CUDA; a CPU run can always be repeated bit for bit."""
    cache_gb: float = 2.0
    """Memory for decoded training pictures, shared by all workers, in GiB; at most half of what is free; 0 keeps none."""
    sync_batch_norm: bool = False
    """With several processes: the norms' statistics are those of the whole batch, not of each process's share."""
    freeze: list[str] = field(default_factory=list)
    """Modules that stay as they are, running statistics too, by name: [stem, stage2]; names as in model.named_modules()."""
    seed: int = 0
    """Of weights, shuffling and augmentation."""
    device: str = "auto"
    """cpu, cuda, cuda:1, …; auto takes CUDA where there is a card."""

    def __post_init__(self) -> None:
        _require_types("train.", self)
        require_image_size("train.image_size", self.image_size)
        whole = dict.fromkeys(("epochs", "nominal_batch_size", "ema_ramp_steps", "max_skipped_steps"), (1, math.inf))
        if self.batch_size != "auto":
            whole["batch_size"] = (1, math.inf)
        rates = {
            "multi_scale": (0, 1),
            "repeat_threshold": (0, 1),
            "learning_rate": (0, math.inf),
            "final_learning_rate": (0, 1),
            "momentum": (0, 1),
            "weight_decay": (0, math.inf),
            "warmup_epochs": (0, math.inf),
            "warmup_bias_rate": (0, math.inf),
            "ema_decay": (0, 1),
            "clip_gradient_norm": (0, math.inf),
            "patience": (0, math.inf),
            "checkpoint_minutes": (0, math.inf),
            "cache_gb": (0, math.inf),
            "seed": (0, 2**32 - 1),
        }
        if self.warmup_momentum is not None:
            rates["warmup_momentum"] = (0, 1)
        _require_range("train", self, {**whole, **rates})


@dataclass(frozen=True)
class AugmentConfig:
    """What happens to a training picture: one warp (mosaic, scale, translation), mirror, one colour matrix, albumentations.

    `scale` and `mixup` may be a number for each size of model, by its letter: {n: 0.5, s: 0.9, m: 0.9, l: 0.9, x: 0.9}.
    """

    mosaic: float = 1.0
    """Probability that four pictures are tiled into one."""
    closing_epochs: int = 20
    """Last epochs without mosaic and mixup and with a weaker rest, to learn pictures as they are; at most half of the run."""
    closing_strength: float = 0.5
    """In the closing epochs scale, translate, mirror, hue, saturation, brightness and the chance of transforms times this."""
    scale: float | dict[str, float] = 0.25
    """The picture is scaled by a factor from 1 - scale to 1 + scale; a number, or one for each size: {n: 0.5, s: 0.9}."""
    translate: float = 0.1
    """The picture is shifted by up to this share of its side."""
    mixup: float | dict[str, float] = 0.0
    """Probability, before the closing epochs, that another is blended in with its objects; a number or one for each size."""
    mirror: float = 0.5
    """Probability that the picture is mirrored left to right."""
    hue: float = 0.015
    """Hues are turned by up to this share of the colour circle, either way."""
    saturation: float = 0.3
    """Colourfulness is multiplied by a factor from 1 - saturation to 1 + saturation."""
    brightness: float = 0.2
    """Brightness is multiplied by a factor from 1 - brightness to 1 + brightness."""
    transforms: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    """albumentations transforms after all that, each entry one's name with its arguments: - ToGray: {p: 0.01}"""

    def __post_init__(self) -> None:
        _require_types("augment.", self)
        shares = dict.fromkeys(
            ("mosaic", "closing_strength", "translate", "mirror", "saturation", "brightness"), (0, 1)
        )
        bounds = {"closing_epochs": (0, math.inf), "hue": (0, 0.5)}
        _require_range("augment", self, {**shares, **bounds})
        for name, high in (("scale", 0.99), ("mixup", 1)):
            given = getattr(self, name)
            for letter, value in given.items() if isinstance(given, dict) else [("", given)]:
                possible = _fits(value, float) and 0 <= value <= high
                _require(possible, f"augment.{name}.{letter}".strip("."), value, f"a number from 0 to {high:g}")

    def for_model(self, name: str) -> "AugmentConfig":
        """The same with the numbers of this model, whose size is the letter at the end of its name or before its hyphen.

        Raises ConfigError if there are none.
        """
        size = name.partition("-")[0][-1]
        numbers = {}
        for field_name in ("scale", "mixup"):
            given = getattr(self, field_name)
            if isinstance(given, dict) and size not in given:
                raise ConfigError(f"augment.{field_name}: there is no number for {name}; add one for {size}")
            numbers[field_name] = given[size] if isinstance(given, dict) else given
        return replace(self, **numbers)

    def closing(self) -> "AugmentConfig":
        """What holds in the closing epochs; the loader sees to the transforms."""
        weaker = ("scale", "translate", "mirror", "hue", "saturation", "brightness")
        strengths = {name: self.closing_strength * getattr(self, name) for name in weaker}
        return replace(self, mosaic=0.0, mixup=0.0, **strengths)


@dataclass(frozen=True)
class PathsConfig:
    """Annotation files and picture folders of a data set that --data does not find by itself."""

    train_json: str | None = None
    """COCO annotation file of the training split."""
    train_images: str | None = None
    """Folder that the training file's file_name entries start from."""
    val_json: str | None = None
    """COCO annotation file of the validation split."""
    val_images: str | None = None
    """Folder that the validation file's file_name entries start from."""
    test_json: str | None = None
    """COCO annotation file of the test split."""
    test_images: str | None = None
    """Folder that the test file's file_name entries start from."""

    def __post_init__(self) -> None:
        _require_types("paths.", self)


@dataclass(frozen=True)
class LoaderConfig:
    """How pictures get from the disk to the network."""

    workers: int = -1
    """Processes that read and augment; 0 reads in the main process; -1 takes one a core, at most 8."""
    max_unreadable: float = 0.01
    """Share of pictures that may be unreadable; they are named, counted and left out. More stop the run."""

    def __post_init__(self) -> None:
        _require_types("loader.", self)
        bounds = {"workers": (-1, math.inf), "max_unreadable": (0, 1)}
        _require_range("loader", self, bounds)


@dataclass(frozen=True)
class TrainConfig:
    """Train a detector on COCO-format data."""

    data: str | None = None
    """Folder of the data set, in the COCO or the Roboflow layout."""
    out: str = "runs/train"
    """Folder for checkpoints, weights, logs and the resolved configuration."""
    model: str = "yolo11n"
    """Name of the network: yolo11 n, s, m, l or x, as in yolo11n; yolo11n-cross has cross-scale attention; yolov9 t, s, m, c, e."""
    weights: str | None = None
    """Weights file to start from, or the name of shipped weights; other classes are possible; random weights without."""
    licence: str = "not stated"
    """Licence of the resulting weights, written into their files."""
    resume: str | None = None
    """Folder of a run to continue from its last checkpoint, with the configuration it was started with."""
    train: TrainLoopConfig = field(default_factory=TrainLoopConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)

    def __post_init__(self) -> None:
        _require_types("", self)

    @property
    def full_epochs(self) -> int:
        """Epochs before the closing ones."""
        return self.train.epochs - min(self.augment.closing_epochs, self.train.epochs // 2)


@dataclass(frozen=True)
class EvaluateConfig:
    """Score weights on a split, as COCOeval does, in pixels of the original pictures."""

    weights: str
    """Weights file, exported file, or the name of shipped weights."""
    out: str
    """Folder for metrics.json and detections.json."""
    data: str | None = None
    """Folder of the data set, in the COCO or the Roboflow layout."""
    split: Literal["train", "val", "test"] = "val"
    """Split to score."""
    image_size: int | tuple[int, int] | None = None
    """Side of the network input in pixels, or [height, width]; multiples of 32; that of the training if not given."""
    conf: float = 0.001
    """Lowest score that counts."""
    iou: float = 0.7
    """Overlap over which the weaker of two boxes of one class is dropped."""
    max_detections: int = 300
    """Most detections a picture."""
    tiles: int | None = None
    """Side in pixels of overlapping windows to look through a large picture in, each as a network input; whole if not given."""
    overlap: float = 0.2
    """Share of a window's side that the next one shows again."""
    device: str = "auto"
    """cpu, cuda, cuda:1, …; auto takes CUDA where there is a card."""
    threads: int | None = None
    """Threads of the network on a CPU, and of OpenCV; as many as each likes if not given."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)

    def __post_init__(self) -> None:
        _require_types("", self)
        _require_prediction_settings(self)


OUTPUTS = ("pictures", "json", "csv", "crops")


@dataclass(frozen=True)
class InferConfig:
    """Detect objects in pictures and videos: an annotated one each and one detections.json."""

    sources: list[str]
    """Pictures, videos, folders, globs, camera:0, or URLs (http, https, rtsp)."""
    weights: str
    """Weights file, exported file, or the name of shipped weights."""
    out: str
    """Folder for what is written."""
    save: str = "pictures,json"
    """What to write, separated by commas: pictures (annotated; videos, too), json, csv, crops (each detection cut out)."""
    image_size: int | tuple[int, int] | None = None
    """Side of the network input in pixels, or [height, width]; multiples of 32; that of the training if not given."""
    conf: float = 0.25
    """Lowest score to show."""
    iou: float = 0.7
    """Overlap over which the weaker of two boxes of one class is dropped."""
    max_detections: int = 300
    """Most detections a picture."""
    classes: str | None = None
    """Names of the classes to show, separated by commas; all if not given."""
    tiles: int | None = None
    """Side in pixels of overlapping windows to look through a large picture in, each as a network input; whole if not given."""
    overlap: float = 0.2
    """Share of a window's side that the next one shows again."""
    device: str = "auto"
    """cpu, cuda, cuda:1, …; auto takes CUDA where there is a card."""
    threads: int | None = None
    """Threads of the network on a CPU, and of OpenCV; as many as each likes if not given."""
    attention: bool = False
    """Also write a sheet a picture that shows where the attention layers look, and what each detection's class rests on."""

    def __post_init__(self) -> None:
        _require_types("", self)
        _require_prediction_settings(self)
        for kind in self.kinds:
            _require(kind in OUTPUTS, "save", kind, f"some of {', '.join(OUTPUTS)}, separated by commas")
        _require(not self.attention or self.tiles is None, "attention", True, "no --tiles beside it")

    @property
    def kinds(self) -> list[str]:
        """What to write."""
        return list(dict.fromkeys(kind.strip() for kind in self.save.split(",")))


SUFFIXES = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "torchscript": ".torchscript",
    "torch_export": ".pt2",
    "tensorrt": ".engine",
    "safetensors": ".safetensors",
}
"""Of exported files; by them `Detector.load` knows what a file is."""

PRECISIONS = {
    "onnx": ("float32", "int8"),
    "openvino": ("float32", "float16", "bfloat16", "int8"),
    "torchscript": ("float32",),
    "torch_export": ("float32",),
    "tensorrt": ("float32", "float16"),
    "safetensors": ("float16",),
    "published": ("float32",),
}
"""The first is what a format has if it is not told otherwise."""


@dataclass(frozen=True)
class ExportConfig:
    """Write weights as a file for another runtime, and refuse to leave one that detects something else."""

    weights: str
    """Weights file, or the name of shipped weights."""
    out: str
    """File to write; its suffix is the format's: .onnx, .xml, .torchscript, .pt2, .engine or .safetensors."""
    format: Literal["onnx", "openvino", "torchscript", "torch_export", "tensorrt", "safetensors", "published"] = "onnx"
    """Format of the file; torch_export: of torch.export; safetensors: a weights file of half the size, in half precision;
    published: a state of torch.save with the names of the published checkpoints."""
    precision: Literal["float32", "float16", "bfloat16", "int8"] | None = None
    """Of the numbers in the file: float16 (openvino, tensorrt), int8 (onnx, openvino; needs data to calibrate on); bfloat16
    (openvino): of what a processor that can computes in, too (needs data to measure AP on)."""
    image_size: int | tuple[int, int] | None = None
    """Side of the network input in pixels, or [height, width]; multiples of 32; that of the training if not given."""
    batched: bool = False
    """An ONNX file that takes any number of letterboxed pictures rather than one picture of any size."""
    raw: bool = False
    """An ONNX file that begins with the network's input and ends at its head: no letterbox, no NMS."""
    dynamic: bool = False
    """Leave height and width of the input open (multiples of 32), with raw its batch, too; PyTorch's formats always do."""
    data: str | None = None
    """Folder of a data set whose validation pictures the comparison uses; photographs shipped with the package if not given."""
    force: bool = False
    """Leave the file even if the comparison fails."""

    def __post_init__(self) -> None:
        _require_types("", self)
        if self.image_size is not None:
            require_image_size("image_size", self.image_size)
        suffix = SUFFIXES.get(self.format)
        ending = f"a name that ends in {suffix}, as --format {self.format} has it"
        _require(suffix in (None, Path(self.out).suffix), "out", self.out, ending)
        allowed = PRECISIONS[self.format]
        _require(
            self.precision in (None, *allowed), "precision", self.precision, f"{' or '.join(allowed)} for {self.format}"
        )
        _require(
            self.precision not in ("bfloat16", "int8") or self.data is not None,
            "data",
            self.data,
            "a data set, to calibrate int8 on, or to judge bfloat16 by its AP",
        )
        for name in ("batched", "raw"):
            _require(not getattr(self, name) or self.format == "onnx", name, True, f"format onnx, not {self.format}")
        _require(not (self.batched and self.raw), "raw", True, "either batched or raw")
        open_sides = self.format in ("torchscript", "torch_export") or (
            self.format == "onnx" and (self.batched or self.raw)
        )
        _require(not self.dynamic or open_sides, "dynamic", True, "an ONNX file that is batched or raw")


@dataclass(frozen=True)
class BenchmarkConfig:
    """Measure weights in every runtime that is available here: AP, latency, images/s, memory, size, start-up time."""

    weights: str
    """Weights file, or the name of shipped weights."""
    data: str
    """Folder of the data set, in the COCO or the Roboflow layout."""
    out: str
    """Folder for benchmark.json and benchmark.png."""
    split: Literal["train", "val", "test"] = "val"
    """Split whose AP is measured, and whose first pictures are timed."""
    image_size: int | tuple[int, int] | None = None
    """Side of the network input in pixels, or [height, width]; multiples of 32; that of the training if not given."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, …; auto takes CUDA where there is a card."""
    threads: int | None = None
    """Threads of the network on a CPU, and of OpenCV; as many as each likes if not given."""
    pictures: int = 32
    """Pictures that are timed."""
    rounds: int = 3
    """Times that each of them is timed."""

    def __post_init__(self) -> None:
        _require_types("", self)
        if self.image_size is not None:
            require_image_size("image_size", self.image_size)
        for name in ("pictures", "rounds"):
            value = getattr(self, name)
            _require(value >= 1, name, value, "at least 1")
        require_threads(self.threads)


@dataclass(frozen=True)
class ImportConfig:
    """Turn a published YOLO11 or YOLOv9 checkpoint into a weights file, without running code from it."""

    checkpoint: str
    """Published checkpoint: a file of torch.save with modules or a state, or safetensors with the published names."""
    out: str
    """Weights file to write."""
    class_names: str | None = None
    """Names of the classes in label order, separated by commas; those in the checkpoint, else class0, class1, … if not given."""
    annotations: str | None = None
    """COCO annotation file with a category of each class's name, whose id it gets; ids 0, 1, … if not given."""

    def __post_init__(self) -> None:
        _require_types("", self)


def _require_prediction_settings(config: EvaluateConfig | InferConfig) -> None:
    if config.image_size is not None:
        require_image_size("image_size", config.image_size)
    _require(config.tiles is None or config.tiles >= SMALLEST_TILE, "tiles", config.tiles, f"at least {SMALLEST_TILE}")
    _require(0 <= config.overlap <= MOST_OVERLAP, "overlap", config.overlap, f"a number from 0 to {MOST_OVERLAP}")
    for name, low, high in (("conf", 0, 1), ("iou", 0, 1), ("max_detections", 1, math.inf)):
        value = getattr(config, name)
        _require(low <= value <= high, name, value, "a number from 0 to 1" if high == 1 else "at least 1")
    require_threads(config.threads)


@dataclass(frozen=True)
class ReportConfig:
    """Draw what a training run did into one page, report.html in its folder, and pictures beside it."""

    run: str
    """Folder of the run."""
    data: str | None = None
    """Folder of the run's data set, if it is no longer where it was in training."""
    device: str = "auto"
    """cpu, cuda, cuda:1, …; auto takes CUDA where there is a card."""

    def __post_init__(self) -> None:
        _require_types("", self)


@dataclass(frozen=True)
class DemoConfig:
    """Draw a small data set, train on it from scratch, evaluate, infer and export: the whole way in some minutes."""

    out: str = "runs/demo"
    """Folder for everything that the demo makes; an earlier demo there is replaced."""
    seed: int = 0
    """Of the drawn pictures and of the training."""

    def __post_init__(self) -> None:
        _require_types("", self)
