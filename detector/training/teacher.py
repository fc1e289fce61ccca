"""Distillation: a larger network of the same classes shows a smaller one what it makes of every image.

Sources: Hinton, Vinyals and Dean, Distilling the knowledge in a neural network, 2015; for boxes Zheng et al., Localization
distillation for dense object detection, 2022, section 3.2: the distribution over a side's distance is the soft label.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from detector.config import LossConfig
from detector.errors import ConfigError, printable
from detector.nn.conv import fuse_conv_bn
from detector.nn.head import BINS
from detector.structures import Categories, RawPredictions
from detector.weights.files import load_weights


class Teacher(nn.Module):
    """A trained network, which stays as it is. Raises ConfigError unless its classes are the student's, in any order."""

    def __init__(self, weights: str, categories: Categories) -> None:
        super().__init__()
        network, info = load_weights(weights)
        if sorted(info.categories.names) != sorted(categories.names) or len(set(categories.names)) < len(categories):
            theirs, ours = (", ".join(each) for each in (info.categories.names, categories.names))
            raise ConfigError(
                printable(
                    f"--teacher: {weights} knows the classes {theirs}; these data have {ours}; give weights that were trained on"
                    " these data"
                )
            )
        self.network = fuse_conv_bn(network).requires_grad_(False).to(memory_format=torch.channels_last)
        self.rows = [info.categories.names.index(name) for name in categories.names]

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> RawPredictions:
        """What the teacher says of images as the student sees them, classes in the student's order."""
        raw, _ = self.network.logits(images)
        return RawPredictions(raw.boxes, raw.scores[:, self.rows])


def distillation_loss(
    student: RawPredictions,
    teacher: RawPredictions,
    config: LossConfig,
    over_processes: Callable[[Tensor], Tensor] = lambda own: own,
) -> Float[Tensor, ""]:
    """How far the student is from the teacher; a step minimizes it beside `detection_loss`, and in the same way.

    Classes: the binary cross-entropy to the teacher's probabilities, less its lowest value. Sides: the divergence from the
    teacher's distribution, mean of the four, weighted by the anchor's largest probability. Both divided by the sum of these
    weights (at least 1), and weighted by `classification` and `distribution`. In float32, whatever the networks ran in.
    """
    wide = torch.promote_types(student.scores.dtype, torch.float32)
    said, shown = student.scores.to(wide), teacher.scores.to(wide)
    probability = shown.sigmoid()
    weight = probability.amax(1)
    classes = (F.softplus(said) - F.softplus(shown) - probability * (said - shown)).sum()

    student_sides, teacher_sides = (
        torch.unflatten(each.boxes.to(wide), 1, (4, BINS)).log_softmax(2) for each in (student, teacher)
    )
    divergence = (teacher_sides.exp() * (teacher_sides - student_sides)).sum(2).mean(1)
    sides = (divergence * weight).sum()
    return (config.classification * classes + config.distribution * sides) / over_processes(weight.sum()).clamp_min(1)
