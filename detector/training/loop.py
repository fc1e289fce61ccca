"""Training, in three stages that read from top to bottom: `set_up`, `fit`, and in it `train_epoch` and `validate`."""

import dataclasses
import math
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.data import DataLoader

from detector.config import TrainConfig
from detector.data.coco import CocoImages
from detector.data.loader import EpochSampler, TrainingItem, TrainingPictures, training_loader
from detector.data.splits import split_paths
from detector.data.workers import batches_of
from detector.errors import ConfigError, DataError, DetectorError, WriteError
from detector.evaluation.coco_metrics import METRICS
from detector.evaluation.evaluate import evaluate_model
from detector.fileio import require_writable, write_json, write_text
from detector.geometry.boxes import Anchors, make_anchors
from detector.inference.detector import Detector, resolve_device
from detector.models.base import scale_pixels
from detector.models.catalog import create_model
from detector.structures import Batch
from detector.training.checkpoint import TrainState, restore_checkpoint, save_checkpoint
from detector.training.ema import ModelEma
from detector.training.logs import RunProgress, append_metrics, drop_metrics_after, environment
from detector.training.loss import Losses, detection_loss
from detector.training.optim import build_optimizer, learning_rate
from detector.weights.files import WeightsInfo, load_weights, save_weights


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
    anchors: Anchors
    unreadable: set[str]

    @property
    def accumulate(self) -> int:
        """Forward passes an optimiser step."""
        return max(round(self.config.train.nominal_batch_size / self.config.train.batch_size), 1)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.sampler) / self.accumulate)


def train(config: TrainConfig) -> dict[str, Any]:
    """Train as `config` says; returns the metrics of the best epoch (`METRICS` and `epoch`).

    Leaves in `config.out`: best.safetensors and last.safetensors (averaged weights), last.pt (to resume from),
    metrics.jsonl, config.yaml, environment.json. Raises DetectorError kinds for what the user can mend.
    """
    run, state = set_up(config)
    command = f"tools/train.py --resume {shlex.quote(str(run.out))}"
    try:
        fit(run, state)
    except KeyboardInterrupt:
        raise DetectorError(
            f"interrupted after {state.epoch} of {config.train.epochs} epochs; continue with: {command}"
        ) from None
    except WriteError as error:
        if not (run.out / "last.pt").exists():
            raise
        raise WriteError(f"{error}; then continue with: {command}") from error
    rows = (run.out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    best = next(row for row in map(yaml.safe_load, rows) if row["epoch"] == state.best_epoch)
    return {"epoch": best["epoch"], **{name: best[name] for name in METRICS}}


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
    side = settings.image_size
    pictures = TrainingPictures(train_images, side, config.augment, settings.seed)
    sampler = EpochSampler(len(train_images), settings.batch_size, settings.seed)
    run = Run(
        config=config,
        out=out,
        device=device,
        autocast=torch.autocast(device.type, precision, enabled=precision != torch.float32),
        train_images=train_images,
        val_images=val_images,
        sampler=sampler,
        loader=training_loader(pictures, sampler, config.loader, pin_memory=device.type == "cuda"),
        anchors=make_anchors(
            [(side // s, side // s) for s in model.head.strides], model.head.strides, torch.zeros(1, device=device)
        ),
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
    text = yaml.safe_dump(dataclasses.asdict(run.config), sort_keys=False, allow_unicode=True)
    write_text(run.out / "config.yaml", text)
    write_json(run.out / "environment.json", environment(run.device))


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
        name = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def fit(run: Run, state: TrainState) -> None:
    """Epoch after epoch: train, validate, keep what is best, write the checkpoint."""
    settings = run.config.train
    if state.epoch == 0:
        save_checkpoint(run.out / "last.pt", state)  # so that a run can be resumed from its first minute on
    with RunProgress(settings.epochs, len(run.sampler), state.epoch) as progress:
        while state.epoch < settings.epochs and not out_of_patience(run, state):
            started = time.monotonic()
            train_epoch(run, state, progress)
            box, classification, distribution = progress.mean_losses()
            images_per_second = progress.images_per_second()
            metrics = validate(run, state)
            state.epoch += 1
            row = {
                "epoch": state.epoch,
                "step": state.step,
                "box_loss": box,
                "class_loss": classification,
                "distribution_loss": distribution,
                "learning_rate": state.optimizer.param_groups[0]["lr"],
                **{name: metrics[name] for name in METRICS},
                "images_per_second": images_per_second,
                "seconds": time.monotonic() - started,
            }
            finish_epoch(run, state, row)
            progress.epoch_done(row)
        if run.unreadable:
            print(f"left out: {len(run.unreadable)} of {len(run.train_images)} training pictures, named above")
        progress.console.print(
            f"best AP {state.best_ap:.4f} in epoch {state.best_epoch}: {run.out / 'best.safetensors'}"
        )


def out_of_patience(run: Run, state: TrainState) -> bool:
    patience = run.config.train.patience
    return patience > 0 and state.epoch - state.best_epoch >= patience


def train_epoch(run: Run, state: TrainState, progress: RunProgress) -> None:
    """One pass over the training split."""
    config, settings = run.config, run.config.train
    closing = min(config.augment.close_mosaic_epochs, settings.epochs // 2)
    run.sampler.epoch = state.epoch
    run.sampler.mosaic = state.epoch < settings.epochs - closing
    state.model.train()
    progress.start_epoch()
    for batches in grouped(run.loader, run.accumulate):
        set_learning_rate(run, state)
        for batch in batches:
            report_unreadable(run, batch)
            if len(batch.images) > 0:
                losses = backward(run, state, batch.to(run.device), len(batches))
                progress.batch(state.epoch + 1, len(batch.images), losses)
        step(state, settings.clip_gradient_norm)


def grouped(loader: DataLoader[TrainingItem], size: int) -> Iterator[list[Batch]]:
    """The loader's batches in groups of `size`, the last one smaller where they don't divide."""
    group: list[Batch] = []
    for batch in batches_of(loader):
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def backward(run: Run, state: TrainState, batch: Batch, group: int) -> Losses:
    """Add the gradients of one forward pass, one of `group` that make up a step."""
    images = scale_pixels(batch.images).contiguous(memory_format=torch.channels_last)
    with run.autocast:
        raw = state.model(images)
    losses = detection_loss(raw, run.anchors, batch, run.config.loss)
    state.scaler.scale(losses.total() * len(images) / group).backward()  # type: ignore[no-untyped-call]
    return losses


def step(state: TrainState, longest_gradient: float) -> None:
    """One step of the optimiser and of the averaged weights."""
    state.scaler.unscale_(state.optimizer)
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), longest_gradient)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad()
    state.ema.update(state.model)
    state.step += 1


def set_learning_rate(run: Run, state: TrainState) -> None:
    settings = run.config.train
    steps = settings.epochs * run.steps_per_epoch
    warmup = round(settings.warmup_epochs * run.steps_per_epoch)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(state.step, steps, warmup, settings)


def report_unreadable(run: Run, batch: Batch) -> None:
    """Name each unreadable picture once; too many of them stop the run."""
    for line in batch.unreadable:
        if line not in run.unreadable:
            run.unreadable.add(line)
            print(f"left out: {line}")
    count, total = len(run.unreadable), len(run.train_images)
    if count > run.config.loader.max_unreadable * total:
        raise DataError(
            f"{count} of {total} training pictures can't be read, the last: {batch.unreadable[-1]};"
            f" mend or remove them, or allow more with --loader.max_unreadable {math.ceil(100 * count / total) / 100:g}"
        )


def validate(run: Run, state: TrainState) -> dict[str, Any]:
    """COCO metrics of the averaged weights on the validation split."""
    categories, size = run.train_images.categories, run.config.train.image_size
    detector = Detector(state.ema.model, categories, size, conf=0.001, device=run.device)
    scored = evaluate_model(detector, run.val_images, run.config.loader, reference=False)
    if state.epoch == 0:
        for line in scored.unreadable:
            print(f"left out: {line}")
    return scored.metrics


def finish_epoch(run: Run, state: TrainState, row: dict[str, Any]) -> None:
    """Keep the averaged weights as last, and as best if they are; then the checkpoint and the log."""
    figures = {name: row[name] for name in METRICS}
    training = {
        "data": str(run.train_images.annotations_path),
        "epoch": state.epoch,
        "config": dataclasses.asdict(run.config),
    }
    info = WeightsInfo(
        model=run.config.model,
        categories=run.train_images.categories,
        image_size=run.config.train.image_size,
        training=training,
        metrics=figures,
        licence="that of whoever trained it",
    )
    if (row["AP"] or 0.0) > state.best_ap:
        state.best_ap, state.best_epoch = row["AP"] or 0.0, state.epoch
        save_weights(run.out / "best.safetensors", state.ema.model, info)
    save_weights(run.out / "last.safetensors", state.ema.model, info)
    append_metrics(run.out / "metrics.jsonl", row)
    save_checkpoint(run.out / "last.pt", state)
