"""The largest batch that fits on a CUDA GPU, found by trying."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from detector.boxes import make_anchors
from detector.config import LossConfig, TrainConfig
from detector.images.input_size import InputSize
from detector.images.letterbox import PAD_VALUE
from detector.models.base import scale_pixels
from detector.structures import Batch, Targets
from detector.training.loss import training_loss

FREE_FRACTION = 0.1
"""Fraction of the GPU's memory that the batch leaves free, for images with more objects than in the trial."""
TRIAL_OBJECTS = 100


def largest_batch(fits: Callable[[int], bool], limit: int) -> int:
    """The largest batch up to `limit` for which `fits` holds, exact to an eighth; 0 if not even 1 does.

    `fits` is taken to hold for every smaller batch too.
    """
    if not fits(1):
        return 0
    low, high = 1, 2
    while high <= limit and fits(high):
        low, high = high, 2 * high
    high = min(high, limit + 1)
    while high - low > max(low // 8, 1):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def largest_batch_size(
    network: nn.Module, strides: Sequence[int], config: TrainConfig, autocast: torch.autocast
) -> int:
    """Largest batch size whose training step fits into free GPU memory, at the largest training resolution.

    network: the model as training calls it, on its CUDA GPU; strides: of the head. 0 if not even one image fits."""
    device = next(network.parameters()).device
    statistics = [buffer.clone() for buffer in network.buffers()]

    def fits(size: int) -> bool:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            try_step(network, strides, config, autocast, size)
        except torch.OutOfMemoryError:
            return False
        finally:
            network.zero_grad()
        _, total = torch.cuda.mem_get_info(device)
        return torch.cuda.max_memory_reserved(device) <= (1 - FREE_FRACTION) * total

    size = largest_batch(fits, config.train.nominal_batch_size)
    with torch.no_grad():  # the trials have changed the batch norm statistics
        for buffer, before in zip(network.buffers(), statistics, strict=True):
            buffer.copy_(before)
    torch.cuda.empty_cache()
    return size


def try_step(
    network: nn.Module, strides: Sequence[int], config: TrainConfig, autocast: torch.autocast, size: int
) -> None:
    """Forward, loss and backward of `size` gray images with 100 objects each."""
    height, width = InputSize.of(config.image_size).scaled(1 + config.train.multi_scale)
    device = next(network.parameters()).device
    corners = torch.rand(TRIAL_OBJECTS, 2, device=device) * min(height, width) / 2
    boxes = torch.cat((corners, corners + min(height, width) / 4), dim=1)
    labels = torch.zeros(TRIAL_OBJECTS, dtype=torch.int64, device=device)
    targets = Targets(boxes, labels, boxes[:0])
    images = torch.full((size, 3, height, width), PAD_VALUE, dtype=torch.uint8, device=device)
    anchors = make_anchors([(height // s, width // s) for s in strides], strides, torch.zeros(1, device=device))
    with autocast:
        raw = network(scale_pixels(images).contiguous(memory_format=torch.channels_last))
    _, total = training_loss(raw, anchors, Batch(images, (targets,) * size), LossConfig())
    total.backward()  # type: ignore[no-untyped-call]
