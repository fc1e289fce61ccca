"""Training, in stages that read from top to bottom: `setup.set_up`, `fit`, and in it `train_epoch` and `validate`."""

import dataclasses
import math
import shlex
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from detector.config import TrainConfig
from detector.data.loader import TrainingItem
from detector.data.workers import batches_of
from detector.errors import DataError, DetectorError, WriteError
from detector.evaluation.coco_metrics import METRICS
from detector.evaluation.evaluate import evaluate_model
from detector.geometry.frame_size import FrameSize
from detector.inference.detector import Detector
from detector.models.base import scale_pixels
from detector.structures import Batch
from detector.training.checkpoint import TrainState, save_checkpoint
from detector.training.logs import RunProgress, append_metrics
from detector.training.loss import Losses, detection_loss
from detector.training.optim import set_rates
from detector.training.setup import Run, set_up
from detector.weights.files import WeightsInfo, load_weights, save_weights


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
    _, info = load_weights(run.out / "best.safetensors")
    return {"epoch": state.best_epoch, **info.metrics}


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
            require_finite(box + classification + distribution, state, settings.learning_rate)
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
        if state.epoch < settings.epochs:
            progress.console.print(f"stopped early: no better AP for {settings.patience} epochs (train.patience)")
        progress.console.print(
            f"best AP {state.best_ap:.4f} in epoch {state.best_epoch}: {run.out / 'best.safetensors'}"
        )


def require_finite(loss: float, state: TrainState, rate: float) -> None:
    """Raise DetectorError for a run that has diverged; its last checkpoint is from before."""
    if not math.isfinite(loss):
        raise DetectorError(
            f"the loss of epoch {state.epoch + 1} is not finite: training has diverged; start again with a"
            f" --train.learning_rate below {rate:g}; last.pt and the weights hold epoch {state.epoch}"
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
                losses = backward(run, state, batch.to(run.device))
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


def backward(run: Run, state: TrainState, batch: Batch) -> Losses:
    """Add the gradients of one forward pass; a step sums those of its passes."""
    images = scale_pixels(batch.images).contiguous(memory_format=torch.channels_last)
    with run.autocast:
        raw = state.model(images)
    losses = detection_loss(raw, run.anchors(FrameSize(*images.shape[2:])), batch, run.config.loss)
    state.scaler.scale(losses.total() * len(images)).backward()  # type: ignore[no-untyped-call]
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
    set_rates(state.optimizer, state.step, steps, warmup, settings)


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
        licence=run.config.licence,
    )
    if (row["AP"] or 0.0) > state.best_ap:
        state.best_ap, state.best_epoch = row["AP"] or 0.0, state.epoch
        save_weights(run.out / "best.safetensors", state.ema.model, info)
    save_weights(run.out / "last.safetensors", state.ema.model, info)
    append_metrics(run.out / "metrics.jsonl", row)
    save_checkpoint(run.out / "last.pt", state)
