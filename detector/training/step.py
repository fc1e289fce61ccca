"""One optimizer step: forward and backward passes, the check that the gradient is finite, the optimizer, the EMA."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from detector.errors import DetectorError, printable
from detector.images.input_size import InputSize
from detector.images.letterbox import PAD_VALUE
from detector.models.base import scale_pixels
from detector.structures import Batch, RawPredictions, Targets
from detector.training.checkpoint import TrainState
from detector.training.logs import append_line
from detector.training.loss import Losses, training_loss
from detector.training.setup import Run
from detector.training.teacher import distillation_loss


def take_step(run: Run, state: TrainState, batches: Sequence[Batch]) -> list[Float[Tensor, "3"]]:
    """One step of the optimizer on the gradients of `batches`, summed; skipped if they are not finite.

    Returns the box, class and distribution loss of each forward pass, over all processes, on the device.
    Raises DetectorError when too many steps in a row had to be skipped.
    """
    statistics = [buffer.clone() for buffer in run.network.buffers()]
    passes = [backward(run, state, batch, last=batch is batches[-1]) for batch in batches]
    if not any(images for _, images in passes):  # not one of the images could be read
        state.optimizer.zero_grad()
        state.step += 1
        return []
    state.scaler.unscale_(state.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(
        [p for p in run.network.parameters() if p.requires_grad], run.config.train.clip_gradient_norm
    )
    if bool(norm.isfinite()):
        state.scaler.step(state.optimizer)
        if not run.config.train.sync_batch_norm:
            run.world.average_statistics(run.network)
        state.ema.update(state.model)
        state.skipped_in_row = 0
        for losses, images in passes:
            state.stats.losses += losses
            state.stats.images += images
            state.stats.passes += images > 0
    else:
        with torch.no_grad():  # a forward pass that was not finite has changed them
            for buffer, before in zip(run.network.buffers(), statistics, strict=True):
                buffer.copy_(before)
        report_skipped(run, state, batches)
    state.scaler.update()
    state.optimizer.zero_grad()
    state.step += 1
    return [losses for losses, images in passes if images]


def backward(run: Run, state: TrainState, batch: Batch, last: bool) -> tuple[Tensor, int]:
    """Add the gradients of one forward pass; returns its three losses and its number of images, over all processes.

    `last`: whether it is the last pass before a step, at whose end the processes exchange gradients.
    """
    world, own = run.world, len(batch.images)
    images = int(world.sum(torch.tensor(own)))
    if images == 0 and not (last and world.size > 1):
        return state.stats.losses.new_zeros(3), 0
    batch = with_variance(run, batch if own else dummy_batch(run)).to(run.device)
    pixels = scale_pixels(batch.images).contiguous(memory_format=torch.channels_last)
    with nullcontext() if last or world.size == 1 else exchange_later(run):
        with run.autocast, as_compiled(run, len(pixels)):
            raw = run.network(pixels)
        with run.autocast:
            taught = None if run.teacher is None else run.teacher(pixels)
        anchors = run.anchors(InputSize(*pixels.shape[2:]))
        losses, total = training_loss(raw, anchors, batch, run.config.loss, world.sum)
        if taught is not None:
            student = raw if isinstance(raw, RawPredictions) else raw.main
            total = total + distillation_loss(student, taught, run.config.loss, world.sum)
        # `total` is this process's part of a mean over the images of all. A step minimizes the sum over these images,
        # hence `images`; DistributedDataParallel divides the sum of the gradients by the number of processes, hence
        # `world.size`. A process without an image of its own adds nothing.
        loss_scale = images * world.size if own else 0
        state.scaler.scale(total * loss_scale).backward()  # type: ignore[no-untyped-call]
    return world.sum(stack_losses(losses) * (own > 0)), images


def with_variance(run: Run, batch: Batch) -> Batch:
    """The batch, twice if it is one image of one cell at the largest stride: batch norm needs two values a channel. The loss is
    a mean over the images, so it and its gradients are weighted as before."""
    if len(batch.images) > 1 or max(batch.images.shape[2:]) > max(run.strides):
        return batch
    return replace(batch, images=batch.images.repeat(2, 1, 1, 1), targets=batch.targets * 2)


def as_compiled(run: Run, images: int) -> AbstractContextManager[Any]:
    """A compiled network knows one number of images; the smaller batch at the end of an epoch runs without compilation."""
    size, world = run.config.batch_size, run.world
    assert size != "auto"
    whole = size * (world.rank + 1) // world.size - size * world.rank // world.size
    if images == whole or not run.config.train.compile:
        return nullcontext()
    eager: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return eager


def exchange_later(run: Run) -> AbstractContextManager[None]:
    assert isinstance(run.network, DistributedDataParallel)
    return run.network.no_sync()


def stack_losses(losses: Losses) -> Tensor:
    return torch.stack([loss.detach() for loss in losses])


def dummy_batch(run: Run) -> Batch:
    """A gray image for a process without an image of its own, which must take part in the exchange all the same."""
    height, width = InputSize.of(run.config.image_size)
    none = torch.zeros(0, 4)
    targets = Targets(none, torch.zeros(0, dtype=torch.int64), none)
    return Batch(torch.full((1, 3, height, width), PAD_VALUE, dtype=torch.uint8), (targets,))


def report_skipped(run: Run, state: TrainState, batches: Sequence[Batch]) -> None:
    """Print and log the images of a skipped step. Raises DetectorError at the last one allowed in a row."""
    state.skipped_in_row += 1
    state.stats.skipped_steps += 1
    own = [run.train_dataset.file_name(index) for batch in batches for index in batch.image_indices]
    names = list(dict.fromkeys(name for shard in run.world.gather(own) for name in shard))
    if run.world.is_main:
        print(f"step {state.step + 1} skipped: its gradient is not finite; its images: {printable(', '.join(names))}")
        entry = {"epoch": state.epoch + 1, "step": state.step + 1, "images": names}
        append_line(run.out / "skipped_steps.jsonl", entry)
    if state.skipped_in_row >= run.config.train.max_skipped_steps:
        half = " or --train.precision fp32" if state.scaler.is_enabled() else ""
        raise DetectorError(
            f"{state.skipped_in_row} steps in a row had a gradient that is not finite, up to step {state.step + 1} in epoch"
            f" {state.epoch + 1}: training has diverged; start again with a --lr below"
            f" {run.config.lr:g}{half}, and look at the images in {run.out / 'skipped_steps.jsonl'};"
            " last.pt and the weights are from before"
        )
