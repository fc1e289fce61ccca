"""YOLOv9 c and e with an eighth of their widths: quick to compute, the same diagram."""

from dataclasses import fields, replace

import torch
from torch import nn

from detector.models.yolov9 import SCALES, YOLOv9, YOLOv9E, YOLOv9Scale


def narrow_scale(letter: str) -> YOLOv9Scale:
    def narrower(value: object) -> object:
        if isinstance(value, tuple):
            parts = [narrower(part) for part in value]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        return value // 8 if type(value) is int else value

    scale = SCALES[letter]
    widths = {field.name: narrower(getattr(scale, field.name)) for field in fields(scale) if field.name != "repeats"}
    return replace(scale, **widths)


def narrow_model(letter: str, num_classes: int) -> YOLOv9:
    """In training mode, with batch statistics of noise images."""
    torch.manual_seed(0)
    model = (YOLOv9E if letter == "e" else YOLOv9)(narrow_scale(letter), num_classes)
    return with_statistics(model)


def with_statistics(model: nn.Module) -> nn.Module:
    """Scales and shifts of the norms at random, and running statistics as after some steps."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.momentum = None  # the plain mean over all batches
    with torch.no_grad():
        model.train()(torch.rand(2, 3, 64, 64, dtype=next(model.parameters()).dtype))
    return model
