"""What comes before the first epoch: data, model, optimiser, and the folder of the run."""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from torch.utils.data import DataLoader

from detector.config import PathsConfig, TrainConfig
from detector.data.coco import CocoImages
from detector.data.loader import TrainingItem, TrainingPictures, training_loader
from detector.data.sampler import EpochSampler, repeat_factors
from detector.data.splits import split_paths
from detector.errors import ConfigError, DataError
from detector.fileio import require_writable, write_json, write_text
from detector.geometry.boxes import Anchors, make_anchors
from detector.geometry.frame_size import FrameSize
from detector.inference.detector import resolve_device
from detector.models.catalog import create_model
from detector.training.checkpoint import TrainState, restore_checkpoint
from detector.training.ema import ModelEma
from detector.training.logs import drop_metrics_after, environment
from detector.training.optim import build_optimizer
from detector.weights.files import load_weights


@dataclass
class Run:
    """What stays the same during a run."""

    config: TrainConfig
    out: Path
    device: torch.device
    autocast: torch.autocast
    train_images: CocoImages
    val_images: CocoImages
    sampler: EpochSampler
    loader: DataLoader[TrainingItem]
    strides: tuple[int, ...]
    unreadable: set[str]
    _anchors: dict[FrameSize, Anchors] = field(default_factory=dict)

    def anchors(self, size: FrameSize) -> Anchors:
        """Those of a batch of that size, on the run's device; made once for each size."""
        if size not in self._anchors:
            levels = [(size.height // stride, size.width // stride) for stride in self.strides]
            self._anchors[size] = make_anchors(levels, self.strides, like=torch.zeros(1, device=self.device))
        return self._anchors[size]

    @property
    def accumulate(self) -> int:
        """Forward passes an optimiser step."""
        return max(round(self.config.train.nominal_batch_size / self.config.train.batch_size), 1)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.sampler) / self.accumulate)


def set_up(config: TrainConfig) -> tuple[Run, TrainState]:
    """Read the data, build the model, and open or reopen the folder of the run."""
    settings, out = config.train, Path(config.resume or config.out)
    device = resolve_device(settings.device)
    require_writable(out)
    if config.resume is None and holds_results(out):
        raise DataError(f"--out: {out} holds a run already; --resume {out} continues it, another folder starts anew")
    train_images = CocoImages.load(split_paths(config.data, config.paths, "train"))
    val_images = CocoImages.load(split_paths(config.data, config.paths, "val"), train_images.categories)
    for line in (*train_images.problems, *val_images.problems):
        print(line)

    torch.manual_seed(settings.seed)
    model = create_model(config.model, len(train_images.categories))
    if config.weights is not None and config.resume is None:
        start_from(config.weights, config.model, train_images, model)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    precision = choose_precision(settings.precision, device)
    state = TrainState(
        model,
        ModelEma(model, settings),
        build_optimizer(model, settings),
        torch.amp.GradScaler(device.type, enabled=precision == torch.float16),
    )
    factors = None
    if settings.repeat_threshold > 0:
        labels = [train_images.labels(index) for index in range(len(train_images))]
        factors = repeat_factors(labels, settings.repeat_threshold)
    pictures = TrainingPictures(
        train_images, settings.image_size, config.augment.for_model(config.model), settings.seed, factors
    )
    sampler = EpochSampler(
        len(train_images) if factors is None else factors,
        settings.batch_size,
        settings.seed,
        scales=FrameSize.of(settings.image_size).scales(settings.multi_scale),
    )
    run = Run(
        config=config,
        out=out,
        device=device,
        autocast=torch.autocast(device.type, precision, enabled=precision != torch.float32),
        train_images=train_images,
        val_images=val_images,
        sampler=sampler,
        loader=training_loader(pictures, sampler, config.loader, pin_memory=device.type == "cuda"),
        strides=model.head.strides,
        unreadable=set(),
    )
    if config.resume is not None:
        restore_checkpoint(out / "last.pt", state, device)
        drop_metrics_after(out / "metrics.jsonl", state.epoch)
    else:
        open_run_folder(run)
    return run, state


def holds_results(out: Path) -> bool:
    """Whether a run has finished an epoch there; one that failed earlier is in nobody's way."""
    return any((out / name).exists() for name in ("best.safetensors", "last.safetensors", "metrics.jsonl"))


def open_run_folder(run: Run) -> None:
    """Write down what the run is made of."""
    text = yaml.safe_dump(dataclasses.asdict(with_absolute_paths(run.config)), sort_keys=False, allow_unicode=True)
    write_text(run.out / "config.yaml", text)
    write_json(run.out / "environment.json", environment(run.device))


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """The same files and folders, so that a run can be resumed from any folder."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(path).absolute())

    paths = PathsConfig(**{name: absolute(path) for name, path in dataclasses.asdict(config.paths).items()})
    return dataclasses.replace(config, data=absolute(config.data), weights=absolute(config.weights), paths=paths)


def start_from(weights: str, model_name: str, images: CocoImages, model: torch.nn.Module) -> None:
    """Load a weights file into `model`; it must be of the same model and the same classes."""
    loaded, info = load_weights(Path(weights))
    if info.model != model_name:
        raise ConfigError(f"--weights: {weights} is for {info.model}, not {model_name}; add --model {info.model}")
    if info.categories.names != images.categories.names:
        raise ConfigError(
            f"--weights: {weights} has the classes {', '.join(info.categories.names)}, but {images.annotations_path} has"
            f" {', '.join(images.categories.names)}; give weights of these classes or leave --weights out"
        )
    model.load_state_dict(loaded.state_dict())


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The number format of the forward pass; a CPU has fp32 only."""
    if device.type != "cuda":
        if name in ("bf16", "fp16"):
            raise ConfigError(f"train.precision: {name} needs a CUDA card; use auto or fp32 on {device}")
        return torch.float32
    if name == "auto":
        with torch.cuda.device(device):
            name = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
