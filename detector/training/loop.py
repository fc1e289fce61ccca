"""Training, in stages that read from top to bottom: `setup.set_up`, `fit`, and in it `train_epoch` and `validate`."""

import gc
import math
import shlex
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.utils.data import DataLoader

from detector.config import TrainConfig
from detector.data.loader import TrainingItem
from detector.data.workers import batches_of
from detector.errors import DataError, DetectorError, WriteError
from detector.evaluation.coco_metrics import METRICS
from detector.evaluation.evaluate import detect_all, score
from detector.inference.detector import Detector
from detector.inference.sheets import batch_sheet
from detector.structures import Batch
from detector.training.batch_size import batch_that_fits
from detector.training.checkpoint import EpochTally, TrainState, save_checkpoint
from detector.training.distributed import LostProcessError, joined
from detector.training.freeze import train_mode
from detector.training.logs import RunLog, RunProgress
from detector.training.optim import set_rates
from detector.training.pictures import augmented_batch
from detector.training.resume import may_change
from detector.training.setup import Run, set_up
from detector.training.step import take_step
from detector.weights.files import WeightsInfo, load_weights, save_weights


def train(config: TrainConfig) -> dict[str, Any]:
    """Train as `config` says; returns the metrics of the best epoch (`METRICS` and `epoch`).

    Leaves in `config.out`: best.safetensors and last.safetensors (averaged weights), last.pt (to resume from),
    metrics.jsonl, config.yaml, environment.json. Started by torchrun, it is one of several processes that train together.
    Raises DetectorError kinds for what the user can mend.
    """
    with joined() as world:
        run, state = set_up(config, world)
        try:
            with world.loss_noticed():
                fit(run, state)
        except KeyboardInterrupt:
            raise DetectorError(f"interrupted {position(run, state)}; {remedy(run)}") from None
        except torch.OutOfMemoryError as error:
            traceback.clear_frames(error.__traceback__)  # they hold the tensors of the step that failed
            raise DetectorError(out_of_memory(run, state)) from error
        except (WriteError, LostProcessError) as error:
            if not (run.out / "last.pt").exists():
                raise
            raise type(error)(f"{error}; then {remedy(run)}") from error
        _, info = load_weights(run.out / "best.safetensors")
        return {"epoch": state.best_epoch, **info.metrics}


def position(run: Run, state: TrainState) -> str:
    """How far a run is, in words."""
    within = f" and {state.tally.batches} of {len(run.sampler)} batches" if state.tally.batches else ""
    return f"after {state.epoch} of {run.config.train.epochs} epochs{within}"


def remedy(run: Run) -> str:
    start = f"torchrun --nproc_per_node {run.world.local_size} " if run.world.size > 1 else ""
    return f"continue with: {start}tools/train.py --resume {shlex.quote(str(run.out))}"


def out_of_memory(run: Run, state: TrainState) -> str:
    """What to do about a card that is too small, with the batch that fits, which is measured."""
    settings = run.config.train
    size, side = settings.batch_size, settings.image_size
    if run.world.size > 1:  # the others don't take part in a trial
        return f"CUDA ran out of memory with --train.batch_size {size} at {side} px: start again with a smaller one"
    state.optimizer.zero_grad()
    fits = batch_that_fits(run.network, run.strides, settings, run.autocast)
    if fits == 0:
        return f"CUDA ran out of memory: not even one picture of {side} px fits; lower --train.image_size or take a smaller --model"
    return (
        f"CUDA ran out of memory with --train.batch_size {size} at {side} px; {fits} fit: start again with"
        f" --train.batch_size {fits} (--train.nominal_batch_size {max(size, settings.nominal_batch_size)} keeps the step's size)"
    )


def fit(run: Run, state: TrainState) -> None:
    """Epoch after epoch: train, validate, keep what is best, write the checkpoint."""
    settings, world = run.config.train, run.world
    if world.is_main and state.step == 0:
        save_checkpoint(run.out / "last.pt", state, run.origin)  # so that a run can be resumed from its first minute on
    done = state.epoch * len(run.sampler) + state.tally.batches
    with (
        stop_requests() as stop,
        RunLog(run.out, state.epoch) if world.is_main else nullcontext() as log,
        RunProgress(settings.epochs, len(run.sampler), done) as progress,
    ):
        if log is not None and state.step == 0:
            log_batch(log, run)
        while state.epoch < settings.epochs and not out_of_patience(run, state):
            train_epoch(run, state, progress, stop)
            started = time.monotonic()
            metrics = validate(run, state)
            box, classification, distribution = state.tally.mean_losses() if state.tally.passes else (None, None, None)
            state.epoch += 1
            row = {
                "epoch": state.epoch,
                "step": state.step,
                "box_loss": box,
                "class_loss": classification,
                "distribution_loss": distribution,
                "learning_rate": state.optimizer.param_groups[0]["lr"],
                **{name: metrics[name] for name in METRICS},
                "skipped_steps": state.tally.skipped_steps,
                "images_per_second": state.tally.images_per_second(),
                "seconds": state.tally.seconds + time.monotonic() - started,
            }
            state.tally = EpochTally(losses=torch.zeros_like(state.tally.losses))
            finish_epoch(run, state, row, log)
            progress.epoch_done(row)
            gc.collect()  # it unshares memory with the workers that were forked: in the first epoch, not in a later one
        if state.unreadable:
            print(f"left out: {len(state.unreadable)} of {len(run.train_images)} training pictures, named above")
        name = settings.stopping_metric
        if state.epoch < settings.epochs:
            progress.console.print(f"stopped early: no better {name} for {settings.patience} epochs (train.patience)")
            if state.epoch <= run.config.full_epochs < settings.epochs:
                progress.console.print(
                    "the closing epochs, which often give the last gain, were not reached: fewer --train.epochs have them sooner"
                )
        progress.console.print(
            f"best {name} {state.best:.4f} in epoch {state.best_epoch}: {run.out / 'best.safetensors'}"
        )


def out_of_patience(run: Run, state: TrainState) -> bool:
    patience = run.config.train.patience
    return patience > 0 and state.epoch - state.best_epoch >= patience


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that the step under way is finished; a second Ctrl-C does not wait."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield stop
        return

    def request(number: int, _frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train_epoch(run: Run, state: TrainState, progress: RunProgress, stop: threading.Event) -> None:
    """What is left of one pass over the training split. Raises DetectorError, with the state saved, if asked to stop."""
    config, settings, tally = run.config, run.config.train, state.tally
    run.sampler.epoch = state.epoch
    run.sampler.start = tally.batches
    run.sampler.closing = state.epoch >= config.full_epochs
    since, saved = time.monotonic() - tally.seconds, time.monotonic()
    train_mode(run.network)
    for batches in grouped(run.loader, run.accumulate):
        set_learning_rate(run, state)
        report_unreadable(run, state, batches)
        take_step(run, state, batches)
        tally.batches += len(batches)
        tally.seconds = time.monotonic() - since
        progress.step_done(state.epoch + 1, tally)
        stopping = run.world.sum(torch.tensor(int(stop.is_set()))) > 0
        too_old = time.monotonic() - saved > 60 * settings.checkpoint_minutes
        if run.world.is_main and (stopping or too_old):
            save_checkpoint(run.out / "last.pt", state, run.origin)
            saved = time.monotonic()
        if stopping:
            raise DetectorError(f"interrupted {position(run, state)}; {remedy(run)}")


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


def set_learning_rate(run: Run, state: TrainState) -> None:
    settings = run.config.train
    steps = settings.epochs * run.steps_per_epoch
    warmup = round(settings.warmup_epochs * run.steps_per_epoch)
    set_rates(state.optimizer, state.step, steps, warmup, settings)


def report_unreadable(run: Run, state: TrainState, batches: list[Batch]) -> None:
    """Name each unreadable picture once; too many of them stop the run."""
    lines = [line for batch in batches for line in batch.unreadable]
    if run.world.sum(torch.tensor(len(lines))) == 0:
        return
    everywhere = run.world.from_main([line for share in run.world.gather(lines) for line in share])
    for line in everywhere:
        if line not in state.unreadable:
            state.unreadable.add(line)
            print(f"left out: {line}")
    count, total = len(state.unreadable), len(run.train_images)
    if count > run.config.loader.max_unreadable * total:
        raise DataError(
            f"{count} of {total} training pictures can't be read, the last: {everywhere[-1]};"
            f" mend or remove them, or allow more with --loader.max_unreadable {math.ceil(100 * count / total) / 100:g}"
        )


def validate(run: Run, state: TrainState) -> dict[str, Any]:
    """COCO metrics of the averaged weights on the validation split, each process detecting on its share of the pictures."""
    categories, size, world = run.train_images.categories, run.config.train.image_size, run.world
    detector = Detector(state.ema.model, categories, size, conf=0.001, device=run.device)
    detector.batch = Detector.BATCH  # on a CPU, too: what that changes in the boxes is rounding
    shares = world.gather(detect_all(detector, run.val_loader))
    if not world.is_main:
        return world.from_main(None)  # type: ignore[no-any-return]
    scored = score(shares, run.val_images, run.config.loader.max_unreadable, reference=False)
    if state.epoch == 0:
        for line in scored.unreadable:
            print(f"left out: {line}")
    return world.from_main(scored.metrics)  # type: ignore[no-any-return]


def log_batch(log: RunLog, run: Run) -> None:
    """Show the first pictures that the network will see."""
    batch = augmented_batch(run.config, run.train_images, epoch=0)
    if len(batch.images) > 0:
        log.picture("training batch", batch_sheet(batch, run.train_images.categories), epoch=0)


def finish_epoch(run: Run, state: TrainState, row: dict[str, Any], log: RunLog | None) -> None:
    """Keep the averaged weights as last, and as best if they are; then log and checkpoint. Only the main process has a log."""
    value = row[run.config.train.stopping_metric] or 0.0
    is_best = value > state.best
    if is_best:
        state.best, state.best_epoch = value, state.epoch
    if log is None:
        return
    training = {
        "data": str(run.train_images.annotations_path.absolute()),
        "epoch": state.epoch,
        "settings": {name: value for name, value in run.origin["settings"].items() if not may_change(name)},
    }
    info = WeightsInfo(
        model=run.config.model,
        categories=run.train_images.categories,
        image_size=run.config.train.image_size,
        training=training,
        metrics={name: row[name] for name in METRICS},
        licence=run.config.licence,
    )
    if is_best:
        save_weights(run.out / "best.safetensors", state.ema.model, info)
    save_weights(run.out / "last.safetensors", state.ema.model, info)
    log.epoch(row)
    save_checkpoint(run.out / "last.pt", state, run.origin)
