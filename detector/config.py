"""Every setting with its meaning and unit. Frozen, validated on construction; YAML files and the command line fill them.

The docstring below a field is its text in `--help`.
"""

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from detector.errors import ConfigError
from detector.formats.table import FORMATS, NEED_DATA, Precision

SCRATCH = "scratch"
"""In place of weights to start from: random ones."""
RESUME_MAY_CHANGE = {"resume": "may change"}
"""Metadata of the fields that say where things are or how they are fetched: a resumed run may have other values."""

ImageSize = int | tuple[int, int]
AnnotationFormat = Literal["coco", "yolo", "voc"]
DEFAULT_CONF = 0.25
"""Lowest score of a detection where neither the user nor the weights say another."""


_TYPES = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a string",
    list: "a list",
    dict: "a mapping",
}


def type_in_words(hint: Any) -> str:
    """What a field of this type takes."""
    return " or ".join(dict.fromkeys(_alternatives(hint)))


def _alternatives(hint: Any) -> Iterator[str]:
    """The alternatives of a type, in words."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        for choice in get_args(hint):
            yield from _alternatives(choice)
    elif origin is Literal:
        values = [str(value) for value in get_args(hint)]
        yield values[0] if len(values) == 1 else f"one of {', '.join(values)}"
    elif origin is tuple:
        yield "a pair in brackets"
    elif is_dataclass(hint):
        yield "keys with values"
    elif hint is not type(None):
        yield _TYPES.get(origin or hint, str(hint))


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{name}: invalid value {value!r}: expected {expected}")


def _require_types(section: str, config: Any) -> None:
    """Check each value against the type of its field: values from Python have not been checked by the command line."""
    hints = get_type_hints(type(config))
    for name in (each.name for each in fields(config)):
        value = getattr(config, name)
        _require(_fits(value, hints[name]), f"{section}{name}", value, type_in_words(hints[name]))


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, choice) for choice in get_args(hint))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else get_origin(hint) or hint)


Ranges = dict[str, tuple[float, float]]
"""Smallest and largest value of the fields that take numbers; `--help` states them."""
MANY = 100_000
"""Upper bound of counts without one of their own: more is a slip of the keyboard, or of another program."""
MAX_SIDE = 8192
"""Largest side of a network input or a tile in pixels."""


def range_in_words(low: float, high: float) -> str:
    return f"from {low:,} to {high:,}"


def _require_range(section: str, config: Any) -> None:
    for name, (low, high) in config.RANGES.items():
        value = getattr(config, name)
        possible = not isinstance(value, int | float) or low <= value <= high  # None and auto have no range
        _require(possible, f"{section}{name}", value, f"a number {range_in_words(low, high)}")


def is_image_size(size: object) -> bool:
    """Whether this is a size of a network input."""
    sides = size if isinstance(size, tuple) else (size,) * 2
    return len(sides) == 2 and all(isinstance(side, int) and side in range(32, MAX_SIDE + 1, 32) for side in sides)


def require_image_size(name: str, size: ImageSize | None) -> None:
    """Raise ConfigError for what is no size of a network input; None is allowed."""
    expected = f"a multiple of 32 {range_in_words(32, MAX_SIDE)}, or [height, width] of two such"
    _require(size is None or is_image_size(size), name, size, expected)


def names_in(value: Sequence[str] | str) -> list[str]:
    """Names from an option: a list as it is, a string split at its commas."""
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value)


def list_hint(value: Sequence[str] | str, known: Iterable[str]) -> str:
    """For the end of an error: how names that hold commas are written, if there are such and a string was split at them."""
    if isinstance(value, str) and any("," in name for name in known):
        return "; names that hold commas are given as a list: '[\"red, ripe\", green]'"
    return ""


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms of the loss."""

    RANGES: ClassVar[Ranges] = dict.fromkeys(("box", "classification", "distribution", "auxiliary"), (0, 1000))

    box: float = 7.5
    """Weight of the box loss, 1 - CIoU."""
    classification: float = 0.5
    """Weight of the class loss, binary cross-entropy."""
    distribution: float = 1.5
    """Weight of the distribution focal loss of the box sides."""
    auxiliary: float = 0.25
    """Weight of the loss of YOLOv9's auxiliary branch (PGI), which exists in training only; 0 trains without it."""

    def __post_init__(self) -> None:
        _require_types("loss.", self)
        _require_range("loss.", self)


@dataclass(frozen=True, kw_only=True)
class TileConfig:
    """Settings of tiles of large images: shared by training, `evaluate` and `infer`."""

    RANGES: ClassVar[Ranges] = {"tiles": (32, MAX_SIDE), "overlap": (0, 0.9)}

    tiles: int | None = None
    """Side of overlapping tiles in pixels, each a network input of its own; the whole image at once if not given."""
    overlap: float = 0.2
    """Overlap of neighboring tiles as a fraction of a tile's side."""

    def __post_init__(self) -> None:
        _require_types("", self)
        _require_range("", self)


@dataclass(frozen=True)
class TrainLoopConfig(TileConfig):
    """Optimizer, schedule and what else drives the training loop."""

    RANGES: ClassVar[Ranges] = {
        **TileConfig.RANGES,
        "multi_scale": (0, 1),
        "repeat_threshold": (0, 1),
        "nominal_batch_size": (1, MANY),
        "final_lr_factor": (0, 1),
        "momentum": (0, 0.9999),
        "weight_decay": (0, 1),
        "warmup_epochs": (0, MANY),
        "warmup_momentum": (0, 0.9999),
        "warmup_bias_lr": (0, 10),
        "ema_decay": (0, 1),
        "ema_ramp_steps": (1, 10**9),
        "clip_gradient_norm": (0, 10**9),
        "patience": (0, MANY),
        "max_skipped_steps": (1, MANY),
        "checkpoint_minutes": (0, MANY),
        "cache_gb": (0, MANY),
    }

    multi_scale: float = 0.0
    """Range of input sizes: each batch has a size from image_size · (1 - multi_scale) to image_size · (1 + multi_scale)."""
    repeat_threshold: float = 0.0
    """Repeat factor sampling: images with a class that fewer than this fraction of the images hold come more often; 0: off."""
    nominal_batch_size: int = 16
    """Images per optimizer step: gradients are accumulated over nominal_batch_size / batch_size forward passes."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    """Optimizer: SGD with Nesterov momentum, or AdamW."""
    final_lr_factor: float = 0.01
    """Learning rate of the last step as a fraction of the peak, lr."""
    schedule: Literal["linear", "cosine"] = "cosine"
    """Shape of the decay from the peak to the last step."""
    momentum: float = 0.9
    """Momentum of SGD, beta1 of AdamW."""
    weight_decay: float = 0.0005
    """Weight decay; batch norms and biases get none."""
    warmup_epochs: float = 3.0
    """Epochs in which the learning rate rises linearly from 0 to the peak; at most a third of the run."""
    warmup_momentum: float | None = None
    """Momentum at the start of the warm-up, from which it moves linearly to `momentum`; no change if not given."""
    warmup_bias_lr: float = 0.0
    """Learning rate of the biases at the start of the warm-up, from which it moves linearly to the peak."""
    ema_decay: float = 0.998
    """Decay of the EMA weights, which are validated and saved."""
    ema_ramp_steps: int = 150
    """Steps of the ramp of the EMA decay, 1 - exp(-steps / ema_ramp_steps)."""
    clip_gradient_norm: float = 10.0
    """Largest 2-norm of the gradient; longer ones are scaled down."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the forward pass; auto: on CUDA bf16 where the GPU has it, else fp16, on a CPU fp32.

    bf16 on a CPU is faster where it has instructions for it (avx512_bf16, amx_bf16 in lscpu), else slower."""
    stopping_metric: Literal["AP", "AP50", "AP75", "APsmall", "APmedium", "APlarge", "AR100"] = "AP"
    """Validation metric that picks the best epoch and stops early."""
    patience: int = 50
    """Epochs without a better stopping_metric after which the run stops; 0: never."""
    max_skipped_steps: int = 10
    """Consecutive steps with a non-finite gradient (skipped) that end the run."""
    checkpoint_minutes: float = field(default=10.0, metadata=RESUME_MAY_CHANGE)
    """Minutes between checkpoints within an epoch; last.pt is also written after each epoch."""
    checkpoint_url: str | None = field(default=None, metadata=RESUME_MAY_CHANGE)
    """URL (s3://bucket/run, gs://…) to which the run is copied with each checkpoint; with it, --resume goes on where the
    folder is gone."""
    elastic: bool = field(default=False, metadata=RESUME_MAY_CHANGE)
    """Let a resumed run go on with another number of processes: the same images in each step, but not the same bits."""
    compile: bool = False
    """Compile the network with torch.compile: minutes at the start, faster steps."""
    deterministic: bool = False
    """Refuse operations that may differ from run to run on CUDA; a CPU run always repeats bit for bit."""
    cache_gb: float = field(default=2.0, metadata=RESUME_MAY_CHANGE)
    """Memory for decoded training images in GiB, shared by all workers; at most half of what is free; 0: none."""
    sync_batch_norm: bool = False
    """Compute batch norm statistics over the batch of all processes instead of each process's part."""
    freeze: list[str] = field(default_factory=list)
    """Modules that are not trained, by name as in model.named_modules(): [stem, stage2]; their statistics stay, too."""

    def __post_init__(self) -> None:
        _require_types("train.", self)
        _require_range("train.", self)


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation: one warp (mosaic, scale, translation, rotation, shear, perspective), copy-paste, mixup, flips, one color
    matrix, albumentations.

    `scale`, `mixup` and `copy_paste` may be a number for each size of model, by its letter: {n: 0.5, s: 0.9, m: 0.9, l: 0.9}.
    """

    RANGES: ClassVar[Ranges] = {
        **dict.fromkeys(("mosaic", "weak_aug_strength", "translate", "mixup", "copy_paste"), (0, 1)),
        **dict.fromkeys(("fliplr", "flipud", "saturation", "brightness"), (0, 1)),
        "weak_aug_epochs": (0, MANY),
        "scale": (0, 0.99),
        "rotate": (0, 180),
        "shear": (0, 45),
        "perspective": (0, 0.4),
        "hue": (0, 0.5),
    }
    BY_MODEL_SIZE: ClassVar[tuple[str, ...]] = ("scale", "mixup", "copy_paste")

    device: Literal["cpu", "cuda"] = field(default="cpu", metadata=RESUME_MAY_CHANGE)
    """Where images are warped, blended, colored: cpu: in the workers; cuda: on the GPU that trains, for machines of few cores."""
    mosaic: float = 1.0
    """Probability that four images are tiled into one."""
    weak_aug_epochs: int = 20
    """Last epochs, without mosaic, mixup and copy-paste, the rest weakened by weak_aug_strength; at most half of the run."""
    weak_aug_strength: float = 0.5
    """Factor, in the last weak_aug_epochs, of all ranges, of fliplr and flipud, and of the chance that transforms apply."""
    scale: float | dict[str, float] = 0.25
    """Range of the scale factor, from 1 - scale to 1 + scale; a number, or one for each model size: {n: 0.5, s: 0.9}."""
    translate: float = 0.1
    """Largest shift as a fraction of the image's side."""
    rotate: float = 0.0
    """Largest rotation either way in degrees."""
    shear: float = 0.0
    """Largest shear either way in degrees, along x and along y."""
    perspective: float = 0.0
    """Largest perspective: how much larger what is at one side gets, and smaller at the other, as a fraction; x and y."""
    mixup: float | dict[str, float] = 0.0
    """Probability, before the last weak_aug_epochs, that a second image is blended in; a number or one for each model size."""
    copy_paste: float | dict[str, float] = 0.0
    """Probability, before the last weak_aug_epochs, that half of another image's objects are pasted in; as mixup."""
    fliplr: float = 0.5
    """Probability of a horizontal flip."""
    flipud: float = 0.0
    """Probability of a vertical flip."""
    hue: float = 0.015
    """Largest turn of the hue, either way, as a fraction of the color circle."""
    saturation: float = 0.3
    """Range of the saturation factor, from 1 - saturation to 1 + saturation."""
    brightness: float = 0.2
    """Range of the brightness factor, from 1 - brightness to 1 + brightness."""
    transforms: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    """Further albumentations transforms, each a name with its arguments: - ToGray: {p: 0.01}"""

    def __post_init__(self) -> None:
        _require_types("augment.", self)
        _require_range("augment.", self)
        if self.device == "cuda" and self.transforms:
            raise ConfigError(
                "augment.device: cuda can't apply augment.transforms, which run on the CPU; leave one of the two out"
            )
        for name in self.BY_MODEL_SIZE:
            given, (low, high) = getattr(self, name), self.RANGES[name]
            for letter, value in given.items() if isinstance(given, dict) else []:
                possible = _fits(value, float) and low <= value <= high
                _require(possible, f"augment.{name}.{letter}", value, f"a number {range_in_words(low, high)}")

    def for_model(self, name: str) -> "AugmentConfig":
        """Resolve the numbers for each size for a model; its size is the letter at the end of its name or before its hyphen.

        Raises ConfigError if there is no number for that size.
        """
        size = name.partition("-")[0][-1]
        numbers = {}
        for field_name in self.BY_MODEL_SIZE:
            given = getattr(self, field_name)
            if isinstance(given, dict) and size not in given:
                raise ConfigError(f"augment.{field_name}: there is no number for {name}; add one for {size}")
            numbers[field_name] = given[size] if isinstance(given, dict) else given
        return replace(self, **numbers)

    def weak(self) -> "AugmentConfig":
        """Augmentation of the last weak_aug_epochs, without the chance of `transforms`, which the dataset applies."""
        ranges = ("scale", "translate", "rotate", "shear", "perspective", "hue", "saturation", "brightness")
        strengths = {name: self.weak_aug_strength * getattr(self, name) for name in (*ranges, "fliplr", "flipud")}
        return replace(self, mosaic=0.0, mixup=0.0, copy_paste=0.0, **strengths)

    @property
    def needs_outlines(self) -> bool:
        """Whether polygons of objects make a difference."""
        return any(self.copy_paste.values() if isinstance(self.copy_paste, dict) else [self.copy_paste]) or self.turns

    @property
    def turns(self) -> bool:
        """Whether the warp does more than scale and shift."""
        return max(self.rotate, self.shear, self.perspective) > 0


@dataclass(frozen=True)
class PathsConfig:
    """Annotation files and image folders of a dataset that --data does not find by itself, and images elsewhere."""

    RANGES: ClassVar[Ranges] = {"cache_gb": (0, MANY)}

    train_json: str | None = None
    """COCO annotation file of the training split."""
    train_images: str | None = None
    """Folder that the training file's file_name entries start from: on this machine or at a URL (https, s3, …); or tar files."""
    val_json: str | None = None
    """COCO annotation file of the validation split."""
    val_images: str | None = None
    """The same for the validation split."""
    test_json: str | None = None
    """COCO annotation file of the test split."""
    test_images: str | None = None
    """The same for the test split."""
    cache: str | None = None
    """Folder for copies of images that are elsewhere; if not given, images in the cache folder that DETECTOR_HOME names, else in
    the system's."""
    cache_gb: float = 20.0
    """Largest size of these copies in GiB; the least recently used go first; 0: no copies."""

    def __post_init__(self) -> None:
        _require_types("paths.", self)
        _require_range("paths.", self)

    def names(self, split: str) -> bool:
        """Whether an option says where the split is."""
        return (getattr(self, f"{split}_json"), getattr(self, f"{split}_images")) != (None, None)


@dataclass(frozen=True)
class RayConfig:
    """Processes of a training on a Ray cluster."""

    RANGES: ClassVar[Ranges] = {"workers": (1, 4096), "cpus_per_worker": (1, 1024), "max_failures": (0, MANY)}

    workers: int = 1
    """Processes that train together."""
    cpus_per_worker: int = 1
    """CPUs that Ray keeps free for each process; the loader's processes run on them, too."""
    max_failures: int = 3
    """How often the run goes on from its last checkpoint after processes or machines were lost."""

    def __post_init__(self) -> None:
        _require_types("ray.", self)
        _require_range("ray.", self)


@dataclass(frozen=True)
class TrainConfig:
    """Train a detector on COCO annotations, YOLO labels or Pascal VOC XML."""

    RANGES: ClassVar[Ranges] = {
        "epochs": (1, MANY),
        "batch_size": (1, MANY),
        "lr": (0, 10),
        "workers": (-1, 256),
        "seed": (0, 2**32 - 1),
        "max_unreadable": (0, 1),
    }

    data: str | None = field(default=None, metadata=RESUME_MAY_CHANGE)
    """Folder of the dataset, with COCO, YOLO or Pascal VOC annotations."""
    out: str = field(default="runs/train", metadata=RESUME_MAY_CHANGE)
    """Folder for checkpoints, weights, logs and the resolved configuration."""
    model: str = "yolo11n"
    """Network: yolo11 n, s, m, l or x, as in yolo11n; yolo11n-cross has cross-scale attention; yolov9 t, s, m, c, e."""
    weights: str | None = field(default=None, metadata=RESUME_MAY_CHANGE)
    """Weights file to start from, or name (detector weights lists them), whose classes may differ; scratch: random weights; if not
    given, the network's pretrained weights MODEL-base where there are some, else random weights."""
    teacher: str | None = None
    """Weights of a larger network, trained on the same classes, whose answers the network learns, too; none if not given."""
    epochs: int = 100
    """Passes over the training split."""
    image_size: int | tuple[int, int] = 640
    """Side of the square network input in pixels, or [height, width]; multiples of 32."""
    batch_size: int | Literal["auto"] = 16
    """Images per forward pass, over all processes; auto: as many as fit on the GPUs, measured, at most a step's."""
    lr: float = 0.002
    """Peak learning rate."""
    device: str = field(default="auto", metadata=RESUME_MAY_CHANGE)
    """Device: cpu, cuda, cuda:1, …; auto: CUDA where there is a GPU."""
    workers: int = field(default=-1, metadata=RESUME_MAY_CHANGE)
    """Processes that read and augment images; 0: the main process; -1: one per core, at most 8."""
    seed: int = 0
    """Seed of weights, shuffling and augmentation."""
    license: str = "not stated"
    """License of the resulting weights, written into their files."""
    resume: str | None = field(default=None, metadata=RESUME_MAY_CHANGE)
    """Folder of a run to continue from its last checkpoint, with the configuration it was started with."""
    max_unreadable: float = field(default=0.01, metadata=RESUME_MAY_CHANGE)
    """Largest fraction of unreadable images; these are named, counted and skipped, more of them stop the run."""
    engine: Literal["local", "ray"] = field(default="local", metadata=RESUME_MAY_CHANGE)
    """What starts the processes; local: you, or torchrun; ray: a Ray cluster."""
    ray: RayConfig = field(default_factory=RayConfig, metadata=RESUME_MAY_CHANGE)
    loggers: list[str] | str = field(default="tensorboard", metadata=RESUME_MAY_CHANGE)
    """Loggers beside metrics.jsonl and metrics.csv: tensorboard, mlflow, wandb, several with commas; '[]': none."""
    train: TrainLoopConfig = field(default_factory=TrainLoopConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    paths: PathsConfig = field(default_factory=PathsConfig, metadata=RESUME_MAY_CHANGE)

    def __post_init__(self) -> None:
        _require_types("", self)
        require_image_size("image_size", self.image_size)
        _require_range("", self)

    @property
    def full_aug_epochs(self) -> int:
        """Epochs before the last ones with weak augmentation."""
        return self.epochs - min(self.augment.weak_aug_epochs, self.epochs // 2)


@dataclass(frozen=True)
class PreviewConfig(TrainConfig):
    """Draw 32 training images with their boxes as a configuration of `detector train` augments them."""

    out: str = "runs/preview"
    """Folder for augmentation-full.png and augmentation-weak.png."""


@dataclass(frozen=True, kw_only=True)
class PredictionConfig:
    """Settings of detection: shared by `evaluate`, `infer` and `Detector.load`."""

    RANGES: ClassVar[Ranges] = {"conf": (0, 1), "iou": (0, 1), "max_detections": (1, MANY), "threads": (1, 1024)}

    image_size: int | tuple[int, int] | None = None
    """Side of the network input in pixels, or [height, width]; multiples of 32; that of the training if not given."""
    conf: float | None = None
    """Lowest score of a detection; if not given that of its class in the weights (evaluate --thresholds best), or 0.25."""
    iou: float = 0.7
    """IoU above which NMS drops the weaker of two boxes of one class."""
    max_detections: int = 300
    """Maximum number of detections per image."""
    classes: list[str] | str | None = None
    """Classes to detect: names separated by commas, or a list: '["red, ripe", green]'; all if not given."""
    device: str = "auto"
    """Device: cpu, cuda, cuda:1, …; auto: CUDA where there is a GPU."""
    threads: int | None = None
    """Threads of the network on a CPU, and of OpenCV; the libraries' own choice if not given."""

    def __post_init__(self) -> None:
        _require_types("", self)
        require_image_size("image_size", self.image_size)
        _require_range("", self)

    def changed(self, options: Mapping[str, Any]) -> "PredictionConfig":
        """Return a copy with other values. Raises ConfigError for an unknown name, with the nearest one."""
        known = [each.name for each in fields(PredictionConfig)]
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"the options are {', '.join(known)}"
                raise ConfigError(f"there is no option {name}; {hint}")
        return replace(self, **options)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(PredictionConfig, TileConfig):
    """Evaluate weights on a split with pycocotools, in pixels of the original images."""

    RANGES: ClassVar[Ranges] = {
        **PredictionConfig.RANGES,
        **TileConfig.RANGES,
        "workers": (-1, 256),
        "max_unreadable": (0, 1),
        "max_dets": (10, MANY),
    }

    weights: str
    """Weights file, exported file or name (detector weights lists them)."""
    out: str
    """Folder for metrics.json and detections.json."""
    data: str | None = None
    """Folder of the dataset, with COCO, YOLO or Pascal VOC annotations."""
    split: Literal["train", "val", "test"] = "val"
    """Split to evaluate on."""
    conf: float = 0.001
    """Lowest score of a detection."""
    max_dets: int = 100
    """Detections of a class in an image that count, the best by score; max_detections limits those of an image."""
    workers: int = -1
    """Processes that read images; 0: the main process; -1: one per core, at most 8."""
    max_unreadable: float = 0.01
    """Largest fraction of unreadable images; these are named, counted and skipped, more of them are an error."""
    explain: bool = False
    """Also explain the metrics, in explain.json and two charts: errors by kind, calibration, intervals, best confidences."""
    thresholds: Literal["best"] | None = None
    """best: write the confidence of each class's largest F1 into the weights file, as its default for infer and exports."""
    paths: PathsConfig = field(default_factory=PathsConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        possible = self.thresholds is None or self.classes is None
        _require(possible, "thresholds", self.thresholds, "no --classes beside it: every class gets its confidence")


@dataclass(frozen=True, kw_only=True)
class CompareConfig(PredictionConfig):
    """Compare two weights on a split: the difference of their AP with its interval, and the images where they differ most."""

    RANGES: ClassVar[Ranges] = {**PredictionConfig.RANGES, "workers": (-1, 256), "max_unreadable": (0, 1)}

    first: str
    """Weights file, exported file or name (detector weights lists them)."""
    second: str
    """The other one, with the same classes; differences are those of the second to the first."""
    data: str
    """Folder of the dataset, as train takes it."""
    out: str = "runs/compare"
    """Folder for compare.json and compare.html."""
    split: Literal["train", "val", "test"] = "val"
    """Split to compare on."""
    conf: float = 0.001
    """Lowest score of a detection."""
    workers: int = -1
    """Processes that read images; 0: the main process; -1: one per core, at most 8."""
    max_unreadable: float = 0.01
    """Largest fraction of unreadable images; these are named, counted and skipped, more of them are an error."""


OUTPUTS = ("images", "json", "csv", "crops", "mot")


@dataclass(frozen=True, kw_only=True)
class InferConfig(PredictionConfig, TileConfig):
    """Detect objects in images and videos; write annotated copies and detections.json."""

    RANGES: ClassVar[Ranges] = {**PredictionConfig.RANGES, **TileConfig.RANGES, "reconnect": (0, 86_400)}

    sources: list[str]
    """Images, videos, folders, globs, camera:0, or URLs (http, https, rtsp)."""
    weights: str
    """Weights file, exported file or name (detector weights lists them)."""
    out: str
    """Folder for the results."""
    save: str = "images,json"
    """Results to write, separated by commas: images (annotated; videos, too), json, csv, crops (each detection cut out),
    mot (tracks in the MOTChallenge format)."""
    annotations: str | None = None
    """COCO annotation file of the images, whose image and category ids the results get; else images are numbered from 1."""
    reconnect: float = 60.0
    """Seconds for which a live stream by URL that drops is opened again, after growing pauses; 0: not at all."""
    attention: bool = False
    """Also plot, per image, where the attention layers look and what each detection's class rests on."""
    track: bool = False
    """Follow objects through videos: each gets a track id, the same from frame to frame."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in self.kinds:
            _require(kind in OUTPUTS, "save", kind, f"some of {', '.join(OUTPUTS)}, separated by commas")
        _require("mot" not in self.kinds or self.track, "save", "mot", "--track beside it")
        _require(not self.attention or self.tiles is None, "attention", True, "no --tiles beside it")

    @property
    def kinds(self) -> list[str]:
        """The results to write."""
        return list(dict.fromkeys(kind.strip() for kind in self.save.split(",")))


@dataclass(frozen=True, kw_only=True)
class BatchConfig(PredictionConfig):
    """Detect objects in millions of images, in parts that survive crashes; write Parquet files."""

    RANGES: ClassVar[Ranges] = {
        **PredictionConfig.RANGES,
        "workers": (1, 1024),
        "gpus_per_worker": (0, 64),
        "part_size": (1, MANY),
    }

    sources: list[str]
    """Images, folders, globs, text files (.txt) with a path in each line, Parquet files with a column path."""
    weights: str
    """Weights file, exported file or name (detector weights lists them)."""
    out: str
    """Folder for the results; those of other images, weights or settings are refused there."""
    engine: Literal["local", "ray"] = "local"
    """What runs the workers; local: processes of this machine; ray: a Ray cluster."""
    workers: int | None = None
    """Worker processes, each with a network of its own in one thread (or in threads); one per core or GPU."""
    gpus_per_worker: float | None = None
    """GPUs for each worker of a Ray cluster, 0.5 for two on one; 1 if not given and there are any."""
    part: str = "1/1"
    """Share of the parts to do here, as in 3/100: the third of a hundred jobs, such as those of a Slurm array."""
    part_size: int = 200
    """Images per part: what is lost when a worker is killed."""
    retry_errors: bool = False
    """Do parts again in which images have an error in their row, such as one of the network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            self.gpus_per_worker is None or self.engine == "ray",
            "gpus_per_worker",
            self.gpus_per_worker,
            "--engine ray",
        )
        numbers = self.part.split("/")
        valid = len(numbers) == 2 and all(each.isascii() and each.isdigit() and len(each) < 8 for each in numbers)
        _require(
            valid and 1 <= self.share[0] <= self.share[1], "part", self.part, "K/N with K from 1 to N, as in 3/100"
        )

    @property
    def share(self) -> tuple[int, int]:
        """Number of the share, from 1, and how many there are."""
        number, _, shares = self.part.partition("/")
        return int(number), int(shares)


@dataclass(frozen=True, kw_only=True)
class ServeConfig(PredictionConfig):
    """Serve detection over HTTP."""

    RANGES: ClassVar[Ranges] = {
        **PredictionConfig.RANGES,
        "port": (0, 65_535),
        "max_batch_size": (1, 1024),
        "max_wait_ms": (0, 10_000),
        "max_queue": (1, MANY),
        "timeout": (0.1, 3600),
        "max_mb": (0.001, 1000),
        "max_megapixels": (0.001, 178),
    }

    weights: str
    """Weights file, exported file or name (detector weights lists them)."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0: all of this machine's."""
    port: int = 8000
    """Port to listen on; 0: any that is free."""
    max_batch_size: int | None = None
    """Maximum number of waiting images that the network sees at a time; if not given, 1 on a CPU, else 16."""
    max_wait_ms: float = 0.0
    """Milliseconds that the first image of a batch waits for more; batches also form while the network is busy."""
    max_queue: int = 64
    """Maximum number of requests in work; further ones are answered with status 429."""
    timeout: float = 30.0
    """Seconds in which an image must be there, and from then on its detections."""
    max_mb: float = 20.0
    """Largest request in megabytes."""
    max_megapixels: float = 50.0
    """Largest image in millions of pixels."""
    allow_urls: bool = False
    """Also fetch images by URL for clients, from every address that this machine reaches."""
    token_file: str | None = None
    """File with the token that clients must send; if not given, the environment variable DETECTOR_TOKEN, if there is one."""


@dataclass(frozen=True, kw_only=True)
class UiConfig(PredictionConfig):
    """Try a network on a page in the browser."""

    RANGES: ClassVar[Ranges] = {
        **PredictionConfig.RANGES,
        "port": (0, 65_535),
        "max_mb": (0.001, 1000),
        "max_megapixels": (0.001, 178),
        "max_frames": (1, MANY),
    }

    weights: str
    """Weights file, exported file or name (detector weights lists them)."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0: all of this machine's."""
    port: int = 7860
    """Port to listen on; 0: any that is free."""
    compare: str | None = None
    """Further weights, whose detections the page shows beside those of `weights`."""
    data: str | None = None
    """Folder of the dataset whose images the page shows with truth and prediction, as evaluate takes it."""
    split: Literal["train", "val", "test"] = "val"
    """Split of the dataset."""
    max_mb: float = 20.0
    """Largest file that is taken, in megabytes."""
    max_megapixels: float = 50.0
    """Largest image in millions of pixels."""
    max_frames: int = 1800
    """Frames of a video that are looked at, the first ones; with tiles, tiles of them."""


@dataclass(frozen=True)
class JoinBatchConfig:
    """Write the results of a finished batch as one detections.json."""

    folder: str
    """Folder that detector batch has filled (its --out)."""

    def __post_init__(self) -> None:
        _require_types("", self)


@dataclass(frozen=True)
class ExportConfig:
    """Export weights for another runtime; the file is kept only if it detects what the model detects."""

    weights: str
    """Weights file or name (detector weights lists them)."""
    out: str
    """File to write; its suffix is the format's."""
    format: str = "onnx"
    """Format of the file."""
    precision: Precision | None = None
    """Precision of the file; the format's first if not given. int8 is calibrated on --data, bfloat16 is judged by its AP there."""
    image_size: int | tuple[int, int] | None = None
    """Side of the network input in pixels, or [height, width]; multiples of 32; that of the training if not given."""
    batched: bool = False
    """Write an ONNX file that takes any number of letterboxed images instead of one image of any size."""
    raw: bool = False
    """Write an ONNX file that starts at the network's input and ends at its head: no letterbox, no NMS."""
    dynamic: bool = False
    """Leave height and width of the input open (multiples of 32), with raw its batch, too; PyTorch's formats always do."""
    data: str | None = None
    """Folder of a dataset on whose validation images file and model are compared; photographs in the package if not given."""
    force: bool = False
    """Keep the file even if the comparison fails."""

    def __post_init__(self) -> None:
        _require_types("", self)
        require_image_size("image_size", self.image_size)
        _require(self.format in FORMATS, "format", self.format, f"one of {', '.join(FORMATS)}")
        chosen = FORMATS[self.format]
        ending = f"a name that ends in {chosen.suffix}, the suffix of --format {self.format}"
        _require(chosen.suffix in (None, Path(self.out).suffix), "out", self.out, ending)
        expected = f"{' or '.join(chosen.precisions)} for {self.format}"
        _require(self.precision in (None, *chosen.precisions), "precision", self.precision, expected)
        has_data = self.data is not None or self.precision not in NEED_DATA
        if not has_data:
            raise ConfigError(
                f"--precision {self.precision} needs --data DIR: the file is judged by its AP there, int8 is calibrated"
            )
        compared = chosen.verified_on is not None or (self.data is None and not self.force)
        _require(compared, "format", self.format, "one that can be run here, as data and force are for the comparison")
        for name in ("batched", "raw", "dynamic"):
            possible = [key for key, each in FORMATS.items() if name in each.options]
            allowed = not getattr(self, name) or self.format in possible
            _require(allowed, name, True, f"format {' or '.join(possible)}, not {self.format}")
        _require(not (self.batched and self.raw), "raw", True, "either batched or raw")
        fixed = self.format == "onnx" and not (self.batched or self.raw)
        _require(not (self.dynamic and fixed), "dynamic", True, "an ONNX file that is batched or raw")

    @property
    def effective_precision(self) -> Precision:
        """The precision of the file: the format's first if none is given."""
        return self.precision or FORMATS[self.format].precisions[0]


@dataclass(frozen=True)
class BenchmarkConfig:
    """Measure weights in every runtime installed here: AP, latency, images/s, memory, file size, start-up time."""

    RANGES: ClassVar[Ranges] = {"threads": (1, 1024), "images": (1, MANY), "rounds": (1, MANY)}

    weights: str
    """Weights file, exported file or name (detector weights lists them)."""
    data: str
    """Folder of the dataset, with COCO, YOLO or Pascal VOC annotations."""
    out: str
    """Folder for benchmark.json and benchmark.png."""
    split: Literal["train", "val", "test"] = "val"
    """Split whose AP is measured, and whose first images are timed."""
    image_size: int | tuple[int, int] | None = None
    """Side of the network input in pixels, or [height, width]; multiples of 32; that of the training if not given."""
    device: str = "auto"
    """Device: cpu, cuda, cuda:1, …; auto: CUDA where there is a GPU and the runtime can use it."""
    threads: int | None = None
    """Threads of the network on a CPU, and of OpenCV; the libraries' own choice if not given."""
    images: int = 32
    """Number of images that are timed."""
    rounds: int = 3
    """Number of times that each of them is timed."""

    def __post_init__(self) -> None:
        _require_types("", self)
        require_image_size("image_size", self.image_size)
        _require_range("", self)


@dataclass(frozen=True)
class ImportConfig:
    """Convert a published YOLO11 or YOLOv9 checkpoint to a weights file, without running code from it."""

    checkpoint: str
    """Published checkpoint: a file of torch.save with modules or a state dict, or safetensors with published names."""
    out: str
    """Weights file to write."""
    class_names: list[str] | str | None = None
    """Class names in label order, separated by commas or as a list. If not given: those in the checkpoint; else COCO's, where it
    is one of MultimediaTechLab/YOLO with 80 classes; else class0, …"""
    annotations: str | None = None
    """COCO annotation file with a category of each class's name, whose id it gets. If not given: COCO's ids with COCO's names,
    else 0, 1, …"""

    def __post_init__(self) -> None:
        _require_types("", self)


@dataclass(frozen=True)
class WeightsConfig:
    """List the weights that have names, or download published ones: detector weights get yolov9s-coco."""

    action: Literal["list", "get"] = "list"
    """list, the default: print the names; get: download and import the weights of one."""
    name: str | None = None
    """Name of the published weights to get."""
    source: str | None = None
    """Where to get them from: URL of a mirror, or a file that is here already; the publisher's URL if not given."""

    def __post_init__(self) -> None:
        _require_types("", self)
        if self.action == "get" and self.name is None:
            raise ConfigError("name: missing after get; detector weights lists the names")
        given = "name" if self.name is not None else "source" if self.source is not None else None
        if self.action == "list" and given is not None:
            raise ConfigError(f"{given}: belongs to detector weights get; leave it out of the list")


@dataclass(frozen=True)
class ConvertConfig:
    """Convert datasets between COCO, YOLO and Pascal VOC; also merge, divide and pick classes."""

    RANGES: ClassVar[Ranges] = {"seed": (0, 2**32 - 1)}

    sources: list[str]
    """Datasets to read: folders as for --data, also ones that are not divided, or COCO annotation files; several are merged."""
    out: str
    """Folder to write, which must not exist yet."""
    format: AnnotationFormat
    """Annotations to write: coco (JSON), yolo (text labels) or voc (Pascal VOC XML)."""
    images: Literal["copy", "link"] = "copy"
    """Copy the images, or hard-link them: no space, but a file changed in one dataset is changed in both; copied where the file
    system has no links."""
    split: list[float] | str | None = None
    """Fractions of the images for train, val and test, as 0.8,0.1,0.1 or 0.8,0.2; stratified by class. If not given, the
    splits stay."""
    group: str | None = None
    """Regular expression for file names, such as ^clip\\d+: images with the same match (the groups in parentheses, if any)
    get into the same split."""
    seed: int = 0
    """Seed of the split: the same images with the same seed are divided alike."""
    classes: list[str] | str | None = None
    """Classes to keep: names separated by commas, or a list; images that have objects of other classes only are skipped."""
    class_map: dict[str, str] = field(default_factory=dict)
    """New names of classes: {car: vehicle, truck: vehicle}; those of one name become one class."""

    def __post_init__(self) -> None:
        _require_types("", self)
        _require_range("", self)
        fractions = self.fractions
        sound = 2 <= len(fractions) <= 3 and all(0 < each < 1 for each in fractions) and abs(sum(fractions) - 1) < 1e-6
        expected = "two or three fractions, for train, val and test, with the sum 1: 0.8,0.1,0.1"
        _require(self.split is None or sound, "split", self.split, expected)
        if self.group is not None:
            _require(self.split is not None, "group", self.group, "--split beside it")
            _require(_is_pattern(self.group), "group", self.group, "a regular expression")

    @property
    def fractions(self) -> list[float]:
        """The values of `split`, NaN for what is no number; empty if not given."""
        parts = self.split.split(",") if isinstance(self.split, str) else self.split or []
        return [_float_or_nan(part) for part in parts]


def _float_or_nan(value: float | str) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


@dataclass(frozen=True)
class ReportConfig:
    """Draw a training run as one page, report.html in its folder, with its charts and images beside it."""

    run: str
    """Folder of the run."""
    data: str | None = None
    """Folder of the run's dataset, if it has moved since the training."""
    paths: PathsConfig = field(default_factory=PathsConfig)
    """Where its files are now, and URLs with their secrets, which no run keeps; what is not given is as in the training."""
    device: str = "auto"
    """Device: cpu, cuda, cuda:1, …; auto: CUDA where there is a GPU."""

    def __post_init__(self) -> None:
        _require_types("", self)


@dataclass(frozen=True)
class DoctorConfig:
    """Find what spoils a training in a dataset: faults of annotations, images, splits and, with weights, labels.

    Exit code: 0 nothing or notes, 1 warnings, 3 errors, 2 bad input.
    """

    data: str | None = None
    """Folder of the dataset, with COCO annotations, YOLO labels or Pascal VOC, or a COCO file."""
    image_size: int | tuple[int, int] | None = None
    """Side of the network input in pixels, or [height, width], for the sizes of objects; that of the weights, else 640."""
    weights: str | None = None
    """Weights file, exported file or name (detector weights lists them) of the same classes, which is held against the labels."""
    out: str | None = None
    """Folder for doctor.json and doctor.html, a page with images; only a table is printed if not given."""
    fix: str | None = None
    """New folder for a mended copy, images too, in which what has one plain remedy is done."""
    against: str | None = None
    """Folder of other images, that of a pretraining or a test: which images of the dataset are in it, too?"""
    annotations_only: bool = False
    """Open no image: seconds also for large datasets, without the checks of images and of splits that share some."""
    device: str = "auto"
    """Device of the weights: cpu, cuda, cuda:1, …; auto: CUDA where there is a GPU."""
    paths: PathsConfig = field(default_factory=PathsConfig)

    def __post_init__(self) -> None:
        _require_types("", self)
        require_image_size("image_size", self.image_size)
        possible = (self.against is None and self.weights is None) or not self.annotations_only
        _require(possible, "annotations_only", True, "no --against or --weights beside it, which open images")


@dataclass(frozen=True)
class DemoConfig:
    """Draw a small dataset, train on it, evaluate, infer and export: everything in a few minutes."""

    RANGES: ClassVar[Ranges] = {"seed": (0, 2**32 - 1)}

    out: str = "runs/demo"
    """Folder for everything that the demo makes; an earlier demo there is replaced."""
    seed: int = 0
    """Seed of the drawn images and of the training."""

    def __post_init__(self) -> None:
        _require_types("", self)
        _require_range("", self)
