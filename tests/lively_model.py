"""A network with random weights that yet finds many boxes of all classes, different ones in every image."""

import torch
from torch import nn

from detector.exporting.verify import shipped_photos
from detector.images.read import read_image
from detector.models.base import DetectionModel, scale_pixels
from detector.models.catalog import create_model
from detector.nn.cross_scale import CrossScaleAttention


def lively_model(num_classes: int, name: str = "yolo11n", class_width: int | None = None) -> DetectionModel:
    """The model in evaluation mode, always the same one: strong last layers, and batch statistics of noise images."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = create_model(name, num_classes, class_width)
    for box, classes in zip(model.head.box_branches, model.head.class_branches, strict=True):
        nn.init.normal_(box[-1].weight, std=1.0, generator=generator)
        nn.init.normal_(classes[-1].weight, std=1.5, generator=generator)
        nn.init.constant_(classes[-1].bias, -2.0)
    for module in model.modules():
        if isinstance(module, CrossScaleAttention):
            nn.init.ones_(module.value.bn.weight)  # a new one adds nothing
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean over all batches
    coarse = torch.rand(4, 3, 12, 12, generator=generator)
    with torch.no_grad():
        model.train()(nn.functional.interpolate(coarse, size=(96, 96), mode="bilinear"))
    return model.eval()


def calmed(model: DetectionModel) -> DetectionModel:
    """A lively model with logits of the size that training gives: its own would magnify float32's rounding."""
    image = torch.from_numpy(read_image(shipped_photos()[0]))
    with torch.no_grad():
        levels = model.levels(scale_pixels(image.permute(2, 0, 1))[None])
        for box, classes, level in zip(model.head.box_branches, model.head.class_branches, levels, strict=True):
            box[-1].weight /= box(level).std()
            classes[-1].weight /= classes(level).std()
            classes[-1].bias[:] = -1.5 - (classes(level) - classes[-1].bias[:, None, None]).mean(dim=(0, 2, 3))
    return model
