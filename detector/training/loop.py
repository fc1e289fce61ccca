"""Training, in stages that read from top to bottom: `setup.set_up`, `fit`, and in it `train_epoch` and `validate`."""

import gc
import math
import shlex
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from detector.config import TrainConfig
from detector.data.loader import drawn
from detector.data.workers import batches_of
from detector.errors import ConfigError, DataError, DetectorError, WriteError, printable, without_secrets
from detector.evaluation.coco_metrics import METRICS
from detector.evaluation.evaluate import detect_all, detect_tiled, score
from detector.inference.detector import Detector
from detector.inference.tiles import TiledDetector, with_tiles
from detector.structures import Batch
from detector.training.batch_size import largest_batch_size
from detector.training.callbacks import (
    Callback,
    Callbacks,
    CheckpointWritten,
    EpochDone,
    RunEnded,
    RunStarted,
    StepDone,
)
from detector.training.checkpoint import EpochStats, TrainState, save_checkpoint
from detector.training.distributed import LostProcessError, init_distributed
from detector.training.examples import first_batch, first_detections
from detector.training.freeze import train_mode
from detector.training.loggers import make_loggers
from detector.training.logs import append_metrics, on_ray
from detector.training.optim import set_lr
from detector.training.progress import RunProgress
from detector.training.resume import flat, may_change
from detector.training.setup import Beside, Run, set_up
from detector.training.step import take_step
from detector.utils.fileio import folder_lock, require_writable
from detector.utils.interrupts import stop_requested
from detector.utils.threads import patient_threads
from detector.weights.files import WeightsInfo, load_weights, save_weights


def train(config: TrainConfig, beside: Beside | None = None, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Train as `config` says; returns the metrics of the best epoch (`METRICS` and `epoch`). `beside`: see `set_up`;
    callbacks: called after those of config.loggers.

    Leaves in `config.out`: best.safetensors and last.safetensors (EMA weights), last.pt (to resume from),
    metrics.jsonl, config.yaml, environment.json. Started by torchrun, it is one of several processes that train together.
    Raises DetectorError kinds for what the user can fix.
    """
    if config.engine == "ray" and not on_ray():
        raise ConfigError("engine: with ray, call detector.training.on_ray.train_on_ray(config), or run detector train")
    out = Path(config.resume or config.out)
    require_writable(out)
    with init_distributed() as world, folder_lock(out, "training") if world.is_main else nullcontext():
        world.from_main(None)  # the others begin when the main process has the folder
        notified = Callbacks([*make_loggers(config.loggers), *callbacks] if world.is_main else [])
        run, state = set_up(config, world, beside)
        try:
            with world.translate_lost_process():
                fit(run, state, notified)
        except KeyboardInterrupt:
            raise DetectorError(f"interrupted {position(run, state)}; {remedy(run)}") from None
        except torch.OutOfMemoryError as error:
            traceback.clear_frames(error.__traceback__)  # they hold the tensors of the step that failed
            raise DetectorError(out_of_memory(run, state)) from error
        except (WriteError, LostProcessError) as error:
            if not (run.out / "last.pt").exists():
                raise
            raise type(error)(f"{error}; then {remedy(run)}") from error
        metrics = load_weights(run.out / "best.safetensors")[1].metrics if world.is_main else None
        return {"epoch": state.best_epoch, **world.from_main(metrics)}


def position(run: Run, state: TrainState) -> str:
    """How far a run is, in words."""
    within = f" and {state.stats.batches} of {len(run.sampler)} batches" if state.stats.batches else ""
    return f"after {state.epoch} of {run.config.epochs} epochs{within}"


def remedy(run: Run) -> str:
    start = f"torchrun --nproc_per_node {run.world.local_size} -m detector" if run.world.size > 1 else "detector"
    return f"continue with: {start} train --resume {shlex.quote(str(run.out))}"


def out_of_memory(run: Run, state: TrainState) -> str:
    """What to do about a GPU that is too small, with the batch size that fits, which is measured."""
    config = run.config
    size, side = config.batch_size, config.image_size
    assert size != "auto"
    if run.world.size > 1:  # the others don't take part in a trial
        return f"CUDA ran out of memory with --batch_size {size} at {side} px: start again with a smaller one"
    state.optimizer.zero_grad()
    fits = largest_batch_size(run.network, run.strides, config, run.autocast)
    if fits == 0:
        return f"CUDA ran out of memory: not even one image of {side} px fits; lower --image_size or take a smaller --model"
    nominal = max(size, config.train.nominal_batch_size)
    return (
        f"CUDA ran out of memory with --batch_size {size} at {side} px; {fits} fit: start again with --batch_size {fits}"
        f" (--train.nominal_batch_size {nominal} keeps the images per step)"
    )


class StoppedError(DetectorError):
    """The run was asked to stop, and its state is saved."""


def fit(run: Run, state: TrainState, callbacks: Callbacks) -> None:
    """Epoch after epoch: train, validate, keep the best, write the checkpoint."""
    config, world = run.config, run.world
    if world.is_main and state.step == 0:  # so that a run can be resumed from its first minute on
        save_checkpoint(run.out / "last.pt", state, run.provenance)
    done = state.epoch * len(run.sampler) + state.stats.batches
    with (
        start_and_end(run, state, callbacks),
        stop_requested() as stop,
        RunProgress(config.epochs, len(run.sampler), done) as progress,
    ):
        while state.epoch < config.epochs and not out_of_patience(run, state):
            train_epoch(run, state, progress, stop, callbacks)
            started = time.monotonic()
            metrics = validate(run, state)
            state.epoch += 1
            row = epoch_row(state, metrics, validation_seconds=time.monotonic() - started)
            state.stats = EpochStats(losses=torch.zeros_like(state.stats.losses))
            finish_epoch(run, state, row, callbacks)
            progress.epoch_done(row)
            gc.collect()  # it unshares memory with the workers that were forked: in the first epoch, not in a later one
        report_end(run, state, progress)


@contextmanager
def start_and_end(run: Run, state: TrainState, callbacks: Callbacks) -> Iterator[None]:
    """Notify the callbacks before the block, and after it, however it ends."""
    images = first_batch(run) if callbacks and state.step == 0 else {}
    settings = {
        name: without_secrets(value) if isinstance(value, str) else value for name, value in flat(run.config).items()
    }
    callbacks.notify(Callback.run_started, RunStarted(run.out, settings, state.epoch, images))
    status: Literal["finished", "interrupted", "failed"] = "failed"
    try:
        yield
        status = "finished"
    except (KeyboardInterrupt, StoppedError):
        status = "interrupted"
        raise
    finally:
        best = run.out / "best.safetensors"
        callbacks.notify(Callback.run_ended, RunEnded(status, state.best_epoch, best if best.exists() else None))


def epoch_row(state: TrainState, metrics: dict[str, Any], validation_seconds: float) -> dict[str, Any]:
    """What is logged of the epoch that has just ended; losses are weighted by loss.*, None where no batch was read."""
    stats = state.stats
    box, classification, distribution = stats.mean_losses() if stats.passes else (None, None, None)
    return {
        "epoch": state.epoch,
        "step": state.step,
        "box_loss": box,
        "class_loss": classification,
        "distribution_loss": distribution,
        "learning_rate": state.optimizer.param_groups[0]["lr"],
        **{name: value for name, value in metrics.items() if name != "per_category"},
        "skipped_steps": stats.skipped_steps,
        "images_per_second": stats.images_per_second(),
        "seconds": stats.seconds + validation_seconds,
    }


def report_end(run: Run, state: TrainState, progress: RunProgress) -> None:
    """Say what was skipped, why the run ended, and where the best weights are."""
    config, name = run.config, run.config.train.stopping_metric
    if state.unreadable:
        print(f"skipped: {len(state.unreadable)} of {len(run.train_dataset)} training images (see above)")
    if state.epoch < config.epochs:
        progress.say(f"stopped early: no better {name} for {config.train.patience} epochs (train.patience)")
        if state.epoch <= config.full_aug_epochs < config.epochs:
            progress.say(
                "the last epochs, with weak augmentation, often give the last gain and were not reached: fewer --epochs"
                " have them sooner"
            )
    figure = f"best {name} {state.best:.4f} in" if state.best >= 0 else f"no {name}, nothing to measure it on;"
    progress.say(f"{figure} epoch {state.best_epoch}: {run.out / 'best.safetensors'}")


def out_of_patience(run: Run, state: TrainState) -> bool:
    patience = run.config.train.patience
    return patience > 0 and state.epoch - state.best_epoch >= patience


def train_epoch(
    run: Run, state: TrainState, progress: RunProgress, stop: threading.Event, callbacks: Callbacks
) -> None:
    """What is left of one pass over the training split. Raises DetectorError, with the state saved, if asked to stop."""
    config, settings, stats = run.config, run.config.train, state.stats
    run.sampler.set_epoch(state.epoch, weak_aug=state.epoch >= config.full_aug_epochs, start=stats.batches)
    since, saved = time.monotonic() - stats.seconds, time.monotonic()
    train_mode(run.network)
    for batches in accumulation_groups(run):
        set_learning_rate(run, state)
        report_unreadable(run, state, batches)
        with patient_threads():
            losses = take_step(run, state, batches)
        stats.batches += len(batches)
        stats.seconds = time.monotonic() - since
        progress.step_done(state.epoch + 1, stats)
        lr = state.optimizer.param_groups[0]["lr"]
        callbacks.notify(Callback.step_done, StepDone(state.epoch + 1, state.step, lr, losses))
        stopping = run.world.sum(torch.tensor(int(stop.is_set()))) > 0
        too_old = time.monotonic() - saved > 60 * settings.checkpoint_minutes
        if run.world.is_main and (stopping or too_old):
            write_checkpoint(run, state, callbacks)
            saved = time.monotonic()
        if stopping:
            raise StoppedError(f"interrupted {position(run, state)}; {remedy(run)}")


def accumulation_groups(run: Run) -> Iterator[list[Batch]]:
    """The batches of an epoch in groups, each for one step, the last one smaller where they don't divide."""
    group: list[Batch] = []
    for batch in batches_of(run.loader):
        group.append(drawn(batch, run.device))
        if len(group) == run.accumulate:
            yield group
            group = []
    if group:
        yield group


def set_learning_rate(run: Run, state: TrainState) -> None:
    steps = run.config.epochs * run.steps_per_epoch
    warmup = round(run.config.train.warmup_epochs * run.steps_per_epoch)
    set_lr(state.optimizer, state.step, steps, warmup, run.config)


def report_unreadable(run: Run, state: TrainState, batches: list[Batch]) -> None:
    """Name each unreadable image once; too many of them stop the run."""
    lines = [line for batch in batches for line in batch.unreadable]
    if run.world.sum(torch.tensor(len(lines))) == 0:
        return
    everywhere = run.world.from_main([line for shard in run.world.gather(lines) for line in shard])
    for line in everywhere:
        if line not in state.unreadable:
            state.unreadable.add(line)
            print(f"skipped: {printable(line)}")
    count, total = len(state.unreadable), len(run.train_dataset)
    if count > run.config.max_unreadable * total:
        raise DataError(
            f"{count} of {total} training images can't be read, the last: {everywhere[-1]};"
            f" fix or remove them, or allow more with --max_unreadable {math.ceil(100 * count / total) / 100:g}"
        )


def validate(run: Run, state: TrainState) -> dict[str, Any]:
    """COCO metrics of the EMA weights on the validation split, each process detecting on a shard of the images."""
    categories, size, world = run.train_dataset.categories, run.config.image_size, run.world
    detector = Detector(state.ema.model, categories, size, conf=0.001, device=str(run.device))
    detector.batch = Detector.BATCH  # on a CPU, too: what that changes in the boxes is rounding
    used = with_tiles(detector, run.config.train)
    if isinstance(used, TiledDetector):
        found = detect_tiled(used, run.val_dataset, range(world.rank, len(run.val_dataset), world.size))
    else:
        found = detect_all(used, run.val_loader)
    shards = world.gather(found)
    if not world.is_main:
        return world.from_main(None)  # type: ignore[no-any-return]
    scored = score(shards, run.val_dataset, run.config.max_unreadable, reference=False)
    if state.epoch == 0:
        for line in scored.unreadable:
            print(f"skipped: {printable(line)}")
    return world.from_main(scored.metrics)  # type: ignore[no-any-return]


def finish_epoch(run: Run, state: TrainState, row: dict[str, Any], callbacks: Callbacks) -> None:
    """Keep the EMA weights as last, and as best if they are; then log and checkpoint, in the main process."""
    name = run.config.train.stopping_metric
    value = row[name]
    is_best = value is None or value > state.best  # without a figure the last epoch is the best, and patience waits
    if is_best:
        state.best, state.best_epoch = state.best if value is None else value, state.epoch
    if not run.world.is_main:
        return
    if value is None and state.epoch == 1:
        print(f"no {name}: the validation images hold nothing to measure it on; best.safetensors is the last epoch's")
    training = {
        "data": str(run.train_dataset.annotations_path.absolute()),
        "epoch": state.epoch,
        "settings": {name: value for name, value in run.provenance["settings"].items() if not may_change(name)},
    }
    info = WeightsInfo(
        model=run.config.model,
        categories=run.train_dataset.categories,
        image_size=run.config.image_size,
        training=training,
        metrics={name: row[name] for name in METRICS},
        license=run.config.license,
        class_width=state.model.head.class_width,
    )
    if is_best:
        save_weights(run.out / "best.safetensors", state.ema.model, info)
    save_weights(run.out / "last.safetensors", state.ema.model, info)
    append_metrics(run.out, row)
    write_checkpoint(run, state, callbacks)
    images = first_detections(run, state) if callbacks and is_best else {}
    callbacks.notify(Callback.epoch_done, EpochDone(state.epoch, dict(row), is_best, images))


def write_checkpoint(run: Run, state: TrainState, callbacks: Callbacks) -> None:
    path = run.out / "last.pt"
    save_checkpoint(path, state, run.provenance)
    if run.copy is not None:
        try:
            run.copy.update(run.out)
        except WriteError as error:  # the run itself has lost nothing
            print(f"{error}; the run goes on, and copies {path} again with its next checkpoint")
    callbacks.notify(Callback.checkpoint_written, CheckpointWritten(path, state.epoch, state.step))
